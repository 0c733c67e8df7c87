"""The processes that ``torchrun`` starts for one training: the first one writes files, the others take part."""

from __future__ import annotations

import os


def several() -> bool:
    """True if this process is one of several."""
    return count() > 1


def count() -> int:
    """Number of the processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_follower() -> bool:
    """True if another process writes the files."""
    return several() and os.environ.get("RANK", "0") != "0"

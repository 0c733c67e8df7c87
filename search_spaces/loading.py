"""Search spaces by name: each is a YAML of ``search_spaces/space``, or one of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search_spaces.base.building import build, named
from search_spaces.space import SearchSpace

FOLDER = Path(__file__).parent / "space"


def known_spaces() -> list[str]:
    """Names that `load_space` knows."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_space(name_or_path: str | Path, /, **changes: Any) -> SearchSpace:
    """The search space of a name, or of a YAML file with ``_target_`` and its arguments.

    Args:
        name_or_path: such as ``ofa_mobilenet_v3`` or ``mine.yaml``.
        changes: arguments in place of those of the YAML, such as ``resolutions=[12]``.

    Raises:
        UnknownNameError: there is no such space.
        InvalidValueError: the file or what it names is wrong.
        StorageError: it cannot be read.
    """
    space: SearchSpace = build(str(name_or_path), named("space", name_or_path, FOLDER, changes), SearchSpace)
    return space

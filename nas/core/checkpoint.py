"""Files of tensors and plain data that belong to one space; reading them runs no code."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from search_spaces.base.errors import DamagedFileError, MismatchError
from search_spaces.base.storage import read_bytes, write_bytes
from search_spaces.space import SearchSpace


def write_checkpoint(path: Path, space: SearchSpace, content: Mapping[str, Any]) -> None:
    """Write tensors and plain data atomically, with the identity of the space."""
    write_bytes(path, checkpoint_bytes(space, content))


def checkpoint_bytes(space: SearchSpace, content: Mapping[str, Any]) -> bytes:
    """Content of a file that `write_checkpoint` writes."""
    buffer = io.BytesIO()
    torch.save({"space": space.name, "fingerprint": space.fingerprint, **content}, buffer)
    return buffer.getvalue()


def read_checkpoint(path: Path, space: SearchSpace) -> dict[str, Any]:
    """Read back `write_checkpoint`; pickled code is refused.

    Raises:
        StorageError: the file cannot be opened.
        DamagedFileError: it cannot be understood.
        MismatchError: it was written for another space.
    """
    content = checkpoint_content(path)
    there = (content["space"], content["fingerprint"])
    if there != (space.name, space.fingerprint):
        raise MismatchError(
            f"{path} belongs to space {there[0]!r} ({there[1]}), but the space here is {space.name!r} "
            f"({space.fingerprint}). Choose that space with `space=`, or another folder."
        )
    return content


def checkpoint_content(path: Path) -> dict[str, Any]:
    """Content of a file that `write_checkpoint` has written, of whatever space.

    Raises:
        StorageError: the file cannot be opened.
        DamagedFileError: it cannot be understood.
    """
    raw = read_bytes(path)
    try:
        content = dict(torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True))
        content["space"], content["fingerprint"]
    except Exception as error:  # torch, zipfile and pickle each raise their own kinds on a damaged file
        raise DamagedFileError(
            f"{path} is no file of weights, or is damaged ({str(error)[:200]}). Give another one; if hwnas has "
            "written it, move it away to have it made again."
        ) from error
    return content

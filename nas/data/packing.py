"""Npz files whose inputs lie one behind the other in one array, which is mapped rather than read."""

from __future__ import annotations

import functools
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.data.manifest import Stamp, stamp_of
from search_spaces.base.errors import DamagedFileError, InvalidValueError
from search_spaces.base.storage import LARGEST_RATIO, LARGEST_UNPACKED, check_regular, reading_errors

LOCAL_HEADER = 30
"""Bytes of a zip member's header before its name (APPNOTE.TXT of PKWARE, 4.3.7)."""
KNOWN = ("labels", "names", "split", "header", "rate")
"""Arrays of a packed file beside its inputs and their offsets."""


def members(path: Path) -> list[str]:
    """Names of the arrays of an npz file.

    Raises:
        StorageError: it cannot be opened.
        DamagedFileError: it is no npz file.
    """
    check_regular(path)
    try:
        with reading_errors(path), open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise DamagedFileError(f"{path} is no npz file ({error}). Give one.") from error


def member(path: Path, name: str) -> NDArray[Any]:
    """One array of an npz file: a view of the file where it is not compressed, else in memory; needs no pickle.

    Raises:
        StorageError: it cannot be opened.
        DamagedFileError: it is damaged, or would need pickle.
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            about = archive.getinfo(f"{name}.npy")
            if about.compress_type != zipfile.ZIP_STORED:
                if about.file_size > max(LARGEST_UNPACKED, LARGEST_RATIO * about.compress_size):
                    raise ValueError(f"it would unpack from {about.compress_size:,} to {about.file_size:,} bytes")
                with archive.open(about) as content:
                    return np.asarray(np.lib.format.read_array(content, allow_pickle=False))
            file.seek(about.header_offset)
            name_bytes, extra_bytes = struct.unpack("<HH", file.read(LOCAL_HEADER)[-4:])
            file.seek(about.header_offset + LOCAL_HEADER + name_bytes + extra_bytes)
            version = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, columns_first, dtype = reader(file)
            if dtype.hasobject:
                raise ValueError("it needs pickle")
            if not np.prod(shape):
                return np.empty(shape, dtype)
            return np.memmap(path, dtype, "r", file.tell(), shape, "F" if columns_first else "C")
    except Exception as error:  # numpy, zipfile and zlib each raise their own kinds on a damaged archive
        raise DamagedFileError(f"`{name}` of {path} is damaged ({error}). Give another file.") from error


@dataclass(frozen=True)
class Pieces:
    """Pieces of a one-dimensional array of an npz file: number i is ``array[offsets[i]:offsets[i + 1]]``.

    Args:
        path: of the file.
        name: of the array.
        offsets: (N + 1,).
    """

    path: Path
    name: str
    offsets: NDArray[np.int64]

    @functools.cached_property
    def _array(self) -> NDArray[Any]:
        return member(self.path, self.name)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._array.dtype

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> NDArray[Any]:
        return self._array[self.offsets[number] : self.offsets[number + 1]]

    def __getstate__(self) -> dict[str, Any]:
        """Attributes for another process, which maps the file itself."""
        return {name: value for name, value in vars(self).items() if name != "_array"}


def packed_file(
    path: Path, body: str, kinds: str, wanted: Sequence[str] = ("labels",)
) -> tuple[Pieces, dict[str, NDArray[Any]]]:
    """Pieces of a packed file, and those of the arrays of ``KNOWN`` that it has.

    Args:
        path: of the npz file.
        body: name of the array that holds the pieces.
        kinds: letters of numpy's kinds that it may be of.
        wanted: names of arrays that it must have besides.

    Raises:
        StorageError: the file cannot be read.
        DamagedFileError: it is no npz file.
        InvalidValueError: an array is missing, or the offsets do not cut the body.
    """
    names = members(path)
    missing = [name for name in (body, "offsets", *wanted) if name not in names]
    if missing:
        needed = ", ".join(f"`{name}`" for name in (body, "offsets", *wanted))
        raise InvalidValueError(f"{path} must hold {' and '.join(needed.rsplit(', ', 1))}, but got {sorted(names)}.")
    others = {name: np.array(member(path, name)) for name in dict.fromkeys([*KNOWN, *wanted]) if name in names}
    offsets, whole = np.array(member(path, "offsets")), member(path, body)
    if whole.ndim != 1 or whole.dtype.kind not in kinds or offsets.ndim != 1 or offsets.dtype.kind not in "ui":
        raise InvalidValueError(
            f"`{body}` and `offsets` of {path} must be numbers in one dimension, but got {whole.dtype} {whole.shape} "
            f"and {offsets.dtype} {offsets.shape}."
        )
    offsets = offsets.astype(np.int64)
    if len(offsets) < 2 or offsets[0] < 0 or offsets[-1] > len(whole) or (np.diff(offsets) <= 0).any():
        raise InvalidValueError(
            f"`offsets` of {path} must rise within 0..{len(whole)}, the length of `{body}`, one more of them than "
            "there are inputs."
        )
    return Pieces(path, body, offsets), others


@dataclass(frozen=True)
class OfPieces:
    """Source of inputs that are the pieces of one file.

    Args:
        pieces: of the file.
    """

    pieces: Pieces
    kind = "image"
    parallel = True

    @property
    def place(self) -> str:
        return str(self.pieces.path.resolve())

    def __len__(self) -> int:
        return len(self.pieces)

    def name(self, number: int) -> str:
        return f"{self.kind} {number} of {self.pieces.path.name}"

    @functools.cached_property
    def _stamp(self) -> Stamp | None:
        with reading_errors(self.pieces.path):
            return stamp_of(self.pieces.path)

    def stamp(self, number: int) -> Stamp | None:
        return self._stamp

    def content(self, number: int) -> bytes:
        return self.pieces[number].tobytes()

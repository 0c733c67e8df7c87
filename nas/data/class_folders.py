"""Files in folders that are named for their classes, ``<class>/<file>`` or ``<part>/<class>/<file>``."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nas.data.base import Preparation
from nas.data.manifest import Stamp, stamp_of
from nas.data.splits import WORDS
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.storage import read_bytes, reading_errors

NAMED = 3
"""Files that a note names."""


@dataclass(frozen=True)
class ClassFolders:
    """Files of class folders.

    Args:
        files: their paths in the folder, sorted.
        labels: of each file, (N,).
        split: part of each file, 0 train, 1 validation and 2 test, (N,); None: the folders do not tell.
        names: of the classes.
        notes: on what was left out.
    """

    files: tuple[str, ...]
    labels: NDArray[np.int64]
    split: NDArray[np.int64] | None
    names: tuple[str, ...]
    notes: tuple[str, ...]


def class_folders(root: Path, endings: Collection[str], kind: str, *, links: bool) -> ClassFolders:
    """Look for the files of a folder.

    The folders ``train``, ``validation`` (or ``val``) and ``test`` are parts where all folders are named so. Classes
    are numbered in the order of their names, as numbers where all names are numbers. What begins with a dot is passed
    over.

    Args:
        root: the folder.
        endings: of the names of files that count, in lower case, with their dots.
        kind: word for one file, for messages.
        links: whether symbolic links may lead out of the folder.

    Raises:
        StorageError: the folder cannot be read.
        InvalidValueError: there are no class folders, one of them is empty, or a link leads out.
    """
    with reading_errors(root):
        real = root.resolve(strict=True)
    if not real.is_dir():
        raise InvalidValueError(f"{root} must be a folder of class folders, but is a file.")
    top, left = _folders(real)
    parts = {name: WORDS[name.lower()] for name in top if name.lower() in WORDS}
    if len(parts) == len(top) > 0 and 0 not in parts.values():
        raise InvalidValueError(
            f"{root} holds folders of parts ({', '.join(parts)}) but none of train: put it beside them, or call them "
            "something else if they are classes."
        )
    if 0 not in parts.values() or (len(parts) == 1 and len(top) > 1):
        parts = {}  # a class may be called train
    if parts and len(parts) < len(top):
        others = ", ".join(name for name in top if name not in parts)
        raise InvalidValueError(
            f"{root} holds folders of parts ({', '.join(parts)}) beside others ({others}): move the others away, or "
            "the parts into a folder of their own."
        )
    found: list[tuple[str, str, int]] = []  # file, class, part
    counts: dict[str, int] = {}  # files of each class
    for part, number in parts.items() or [("", -1)]:
        _check_link(real, real / part, links)
        classes, loose = _folders(real / part) if part else (top, [])
        left += [os.path.join(part, file) for file in loose]
        for name in classes:
            files = list(_files(real, os.path.join(part, name), links))
            right = [file for file in files if os.path.splitext(file)[1].lower() in endings]
            left += [file for file in files if os.path.splitext(file)[1].lower() not in endings]
            found += [(file, name, number) for file in right]
            counts[name] = counts.get(name, 0) + len(right)
    if not counts:
        raise InvalidValueError(
            f"{root} holds no class folders: put the {kind}s of each class into a folder that is named for it."
        )
    if empty := sorted(name for name, count in counts.items() if not count):
        raise InvalidValueError(
            f"{root} holds no {kind} ({', '.join(sorted(endings))}) in the class folder{'s' * (len(empty) > 1)} "
            f"{', '.join(map(readable, empty[:NAMED]))}: fill or delete {'them' if len(empty) > 1 else 'it'}."
        )
    found.sort()
    names = sorted(counts, key=int) if all(map(str.isdecimal, counts)) else sorted(counts)
    label = {name: number for number, name in enumerate(names)}
    return ClassFolders(
        files=tuple(file for file, _, _ in found),
        labels=np.array([label[name] for _, name, _ in found], np.int64),
        split=np.array([part for _, _, part in found], np.int64) if parts else None,
        names=tuple(map(readable, names)),
        notes=tuple(_left_out(root, left, kind)),
    )


def readable(name: str) -> str:
    """A file's name as text that can be written; bytes that are no UTF-8 are escaped."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _left_out(root: Path, files: Sequence[str], kind: str) -> Iterator[str]:
    if files:
        named = ", ".join(map(readable, files[:NAMED]))
        more = ", ..." if len(files) > NAMED else ""
        which = "is" if len(files) == 1 else "are"
        count = f"{len(files)} file{'s' * (len(files) > 1)}"
        yield f"{count} of {root} {which} no {kind} of a class, and left out: {named}{more}"


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with reading_errors(folder), os.scandir(folder) as entries:
        return sorted((one for one in entries if not one.name.startswith(".")), key=lambda one: one.name)


def _folders(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files that lie directly in a folder."""
    entries = _entries(folder)
    return [one.name for one in entries if one.is_dir()], [one.name for one in entries if not one.is_dir()]


def _files(root: Path, folder: str, links: bool) -> Iterator[str]:
    """Paths in the root of all files below one of its folders, in order. They may be millions, hence no `Path`."""
    _check_link(root, root / folder, links)
    for entry in _entries(root / folder):
        path = os.path.join(folder, entry.name)
        if entry.is_dir():
            yield from _files(root, path, links)
        else:
            if entry.is_symlink():
                _check_link(root, Path(entry.path), links)
            yield path


def _check_link(root: Path, path: Path, links: bool) -> None:
    if not path.is_symlink():
        return
    target = path.resolve()
    if path.is_dir() and path.parent.resolve().is_relative_to(target):
        raise InvalidValueError(f"{path} is a symbolic link to a folder that it lies in itself. Delete it.")
    if not links and not target.is_relative_to(root):
        raise InvalidValueError(
            f"{path} is a symbolic link that leads out of {root}, to {target}. If that is meant, set `data.links=true`."
        )


class Decoder(Preparation, Protocol):
    """Preparation that does the steps, too."""

    def __call__(self, content: bytes) -> NDArray[Any]:
        """Raw input (C, H, W) of a file's content.

        Raises:
            InvalidValueError: it is damaged; says why.
        """


@dataclass(frozen=True)
class Files:
    """Source whose inputs are files of a folder.

    Args:
        root: the folder.
        files: their paths in it.
        preparation: decodes them.
        kind: word for one file.
        scale: number that raw inputs are divided by.
    """

    root: Path
    files: tuple[str, ...]
    preparation: Decoder
    kind: str
    scale: float
    parallel = True

    @functools.cached_property
    def place(self) -> str:
        return str(self.root.resolve())

    def __len__(self) -> int:
        return len(self.files)

    def name(self, number: int) -> str:
        return readable(self.files[number])

    def stamp(self, number: int) -> Stamp | None:
        path = self.root / self.files[number]
        with reading_errors(path):
            return stamp_of(path)

    def content(self, number: int) -> bytes:
        return read_bytes(self.root / self.files[number])

    def decode(self, content: bytes) -> NDArray[Any]:
        return self.preparation(content)

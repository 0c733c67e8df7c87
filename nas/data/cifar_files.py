"""CIFAR-10 and CIFAR-100 in their own binary files.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. A record is a byte for the class, in
CIFAR-100 one for the coarse class and one for the fine one, then 3 x 32 x 32 bytes: red, green, blue, row by row.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nas.data.base import Data
from nas.data.manifest import Stamp, stamp_of
from nas.data.splits import FRACTIONS, checked_labels, checked_names, parts_of
from nas.data.stored import stored_data
from nas.tasks import Classification
from search_spaces.base.errors import DamagedFileError, InvalidValueError
from search_spaces.base.storage import read_bytes, reading_errors

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


def cifar(
    path: str,
    *,
    labels: Literal["fine", "coarse"] = "fine",
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
    keep: bool = False,
    cache: str | None = None,
    name: str | None = None,
) -> Data:
    """CIFAR-10 or CIFAR-100, from the folder that their binary archives unpack to.

    Args:
        path: of the folder, with ``data_batch_1.bin`` and so on and ``test_batch.bin``, or ``train.bin`` and
            ``test.bin``.
        labels: of CIFAR-100, its 100 fine or its 20 coarse classes.
        seed: of the parts that are drawn.
        fractions: of train, validation and test, per class; validation is drawn from train, and test where its file is
            not there.
        keep: whether images stay in memory.
        cache: folder for what a look at all images has shown; null: a folder of the run, or from Python none.
        name: what the data is called; ``cifar10`` or ``cifar100`` by default.

    Raises:
        StorageError: a file cannot be read.
        DamagedFileError: a file is cut short.
        InvalidValueError: the folder holds other files.
    """
    if labels not in ("fine", "coarse"):
        raise InvalidValueError(f"`labels` must be fine or coarse, but got {labels!r}.")
    folder = Path(path)
    with reading_errors(folder):
        there = sorted(file.name for file in folder.iterdir())
    fine = "train.bin" in there
    train = ["train.bin"] if fine else [name for name in there if fnmatch.fnmatchcase(name, "data_batch_*.bin")]
    test = [name for name in ("test.bin" if fine else "test_batch.bin",) if name in there]
    if not train:
        pickled = any(name in there for name in ("data_batch_1", "train"))
        raise InvalidValueError(
            f"{path} must hold data_batch_1.bin and so on (CIFAR-10) or train.bin (CIFAR-100), but holds "
            f"{', '.join(there[:5]) or 'nothing'}. Unpack the binary version"
            f"{', not the one for Python, which is pickled' if pickled else ''}."
        )
    if labels == "coarse" and not fine:
        raise InvalidValueError("`labels=coarse` are of CIFAR-100, but this is CIFAR-10: leave it out.")
    title = name or ("cifar100" if fine else "cifar10")
    source = Records(tuple(folder / file for file in (*train, *test)), 2 if fine else 1)
    classes = (20 if labels == "coarse" else 100) if fine else 10
    numbers = checked_labels(source.labels(-1 if labels == "fine" else 0), len(source), classes, f"Labels of {path}")
    given = np.repeat([0] * len(train) + [2] * len(test), source.counts)
    words = f"{labels}_label_names.txt" if fine else "batches.meta.txt"
    names: tuple[str, ...] = ()
    if words in there:
        lines = read_bytes(folder / words).decode(errors="replace").split("\n")
        names = checked_names([line.strip() for line in lines if line.strip()], words)
    return stored_data(
        title,
        source,
        numbers,
        parts_of(numbers, given, fractions, seed, title),
        Classification(classes, names),
        cache=cache,
        keep=keep,
    )


@dataclass(frozen=True)
class Records:
    """Source of the records of CIFAR's binary files, which are mapped.

    Args:
        paths: of the files.
        head: bytes of a record before its pixels.
    """

    paths: tuple[Path, ...]
    head: int
    kind = "image"
    scale = 255.0
    parallel = True
    preparation = None

    @functools.cached_property
    def _files(self) -> list[NDArray[np.uint8]]:
        """Records (N, bytes) of each file."""
        files, length = list[NDArray[np.uint8]](), self.head + PIXELS
        for path in self.paths:
            with reading_errors(path):
                size = path.stat().st_size
            if not size or size % length:
                raise DamagedFileError(
                    f"{path} has {size:,} bytes, which must be a multiple of {length:,}, those of a record. Unpack it "
                    "again."
                )
            files.append(np.memmap(path, np.uint8, "r", shape=(size // length, length)))
        return files

    @functools.cached_property
    def counts(self) -> list[int]:
        """Records of each file."""
        return [len(file) for file in self._files]

    @functools.cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum(self.counts)

    @functools.cached_property
    def _stamps(self) -> list[Stamp | None]:
        return [stamp_of(path) for path in self.paths]

    def labels(self, byte: int) -> NDArray[np.uint8]:
        """One byte of the head of each record, (N,)."""
        return np.concatenate([file[:, self.head + byte if byte < 0 else byte] for file in self._files])

    @property
    def place(self) -> str:
        return " ".join(str(path.resolve()) for path in self.paths)

    def __len__(self) -> int:
        return sum(self.counts)

    def _found(self, number: int) -> tuple[int, int]:
        """File and row of a record."""
        file = int(np.searchsorted(self._ends, number, "right"))
        return file, number - (int(self._ends[file - 1]) if file else 0)

    def name(self, number: int) -> str:
        file, row = self._found(number)
        return f"image {row} of {self.paths[file].name}"

    def stamp(self, number: int) -> Stamp | None:
        return self._stamps[self._found(number)[0]]

    def content(self, number: int) -> bytes:
        file, row = self._found(number)
        return self._files[file][row, self.head :].tobytes()

    def decode(self, content: bytes) -> NDArray[Any]:
        return np.frombuffer(content, np.uint8).reshape(SHAPE)

    def __getstate__(self) -> dict[str, Any]:
        """Attributes for another process, which maps the files itself."""
        return {name: value for name, value in vars(self).items() if name != "_files"}

"""Images packed into one npz file, each as it was in its own file, such as a JPEG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nas.data.base import Data
from nas.data.packing import OfPieces, packed_file
from nas.data.pictures import Picture
from nas.data.splits import FRACTIONS, checked_labels, checked_names, numbered, parts_of
from nas.data.stored import stored_data
from nas.tasks import Classification
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import size_of


def packed_images(
    path: str,
    *,
    size: int | str | None = None,
    fit: Literal["crop", "stretch"] = "crop",
    channels: int = 3,
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
    classes: int | None = None,
    keep: bool = False,
    cache: str | None = None,
    name: str | None = None,
) -> Data:
    """Image files packed into an npz file, decoded as they are used.

    Image i is ``header`` and ``body[offsets[i]:offsets[i + 1]]``, bytes of a JPEG, say; ``header`` may be left out.
    ``labels``, shape (N,), count the classes from 0, which may have ``names``. ``split``, shape (N,), gives the parts
    in words or numbers: 0 train, 1 validation and 2 test, or 0 train and 1 test.

    Args:
        path: the file.
        size: that all images are brought to: a number for squares, or height x width such as 96x128; null: they have
            one size.
        fit: ``crop`` takes the largest part in the middle that has the shape of ``size``, ``stretch`` the whole image.
        channels: 3 for colours, 1 for grey.
        seed: of the parts that are drawn.
        fractions: of train, validation and test, per class; parts that the file does not give are drawn from train.
        classes: how many there are, where some have no image and none has a name.
        keep: whether decoded images stay in memory, which suits small data.
        cache: folder for what a look at all images has shown, so that the next start decodes none; null: a folder of
            the run, or from Python none.
        name: what the data is called; the file's name by default.

    Raises:
        StorageError: the file cannot be read.
        DamagedFileError: it is no npz file.
        InvalidValueError: it breaks the rules above, or images are damaged.
    """
    file = Path(path)
    pieces, arrays = packed_file(file, "body", "u")
    title = name or file.stem
    labels, parts, task = labelled(file, arrays, len(pieces), classes, fractions, seed, title)
    how = Picture(channels, None if size is None else size_of(size), fit)
    source = PackedImages(pieces, header_of(file, arrays), how)
    return stored_data(title, source, labels, parts, task, cache=cache, keep=keep)


def header_of(path: Path, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Bytes that each image of a packed file begins with.

    Raises:
        InvalidValueError: the file has something else for them.
    """
    header = arrays.get("header", np.zeros(0, np.uint8))
    if header.ndim != 1 or header.dtype != np.uint8:
        raise InvalidValueError(
            f"`header` of {path} must be bytes in one dimension, but got {header.dtype} {header.shape}."
        )
    return header.tobytes()


def labelled(
    path: Path,
    arrays: dict[str, NDArray[Any]],
    count: int,
    classes: int | None,
    fractions: Sequence[float],
    seed: int,
    name: str,
) -> tuple[NDArray[np.int64], list[NDArray[np.intp]], Classification]:
    """Labels, parts and task that the arrays of a packed file give.

    Args:
        path: of the file, for messages.
        arrays: ``labels`` and, where they are, ``names`` and ``split``.
        count: inputs of the file.
        classes: how many there are, where there are no names; None: each of 0 to the largest label has an input.
        fractions: of the parts that are drawn, see `parts_of`.
        seed: of the draw.
        name: of the data.
    """
    names = checked_names(arrays["names"], f"`names` of {path}") if "names" in arrays else ()
    labels = checked_labels(arrays["labels"], count, len(names) or classes, f"`labels` of {path}")
    split = numbered(arrays["split"], count, f"`split` of {path}") if "split" in arrays else None
    task = Classification(len(names) or classes or int(labels.max()) + 1, names)
    return labels, parts_of(labels, split, fractions, seed, name), task


@dataclass(frozen=True)
class PackedImages(OfPieces):
    """Source of image files in an npz file.

    Args:
        pieces: of the file.
        header: bytes that each of them begins with.
        preparation: decodes them.
    """

    header: bytes
    preparation: Picture
    scale = 255.0

    def content(self, number: int) -> bytes:
        return self.header + super().content(number)

    def decode(self, content: bytes) -> NDArray[Any]:
        return self.preparation(content)

    def first(self) -> NDArray[Any]:
        """The first image, (C, H, W).

        Raises:
            InvalidValueError: it is damaged.
        """
        try:
            return self.decode(self.content(0))
        except InvalidValueError as error:
            raise InvalidValueError(f"{self.name(0)} is damaged ({error}). Replace it.") from error

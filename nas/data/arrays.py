"""Images that fit into memory as one array: the embedded digits, which come with scikit-learn, and npz files.

Nothing is downloaded. Your own data is a function that gives a `Data`, named by ``_target_`` in a YAML of
``conf/data``; for images that fit into memory that function is `npz`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from nas.data.base import Data
from nas.data.images import image_data, looks_channels_last, raw_images
from nas.data.splits import checked_labels, checked_names, numbered, parts_of
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.storage import read_arrays


def digits(*, seed: int = 0, fractions: Sequence[float] = (0.5, 0.3, 0.2)) -> Data:
    """The 1797 hand-written digits of 8x8 pixels that come with scikit-learn.

    Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.

    Args:
        seed: of the split.
        fractions: of train, validation and test, per class.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.asarray(bunch.images / 16, np.float32)[:, None]  # (N, 1, 8, 8) in [0, 1]
    labels = np.asarray(bunch.target, np.int64)
    return image_data("digits", images, labels, parts_of(labels, None, fractions, seed, "digits"), 16)


def npz(
    path: str,
    *,
    layout: Literal["auto", "channels_first", "channels_last"] = "auto",
    seed: int = 0,
    fractions: Sequence[float] = (0.5, 0.3, 0.2),
    name: str | None = None,
    classes: int | None = None,
) -> Data:
    """Images of one's own, from an npz file.

    It holds ``images``, shape (N, H, W), (N, C, H, W) or (N, H, W, C), numbers of which 0 is black (bytes are divided
    by 255); ``labels``, shape (N,), integers from 0; if the parts are given, ``split``, shape (N,), with "train",
    "validation" or "test", or 0, 1 or 2, for each image (where there is no 2, 1 is test); and, if the classes have
    names, ``names``, shape (classes,).

    Args:
        path: the file.
        layout: of the images; ``auto``: channels are last where 1, 3 or 4 of them stand last and more than 4 rows of
            more than 4 pixels before them, else first.
        seed: of the split, where the file gives none.
        fractions: of train, validation and test, per class, where the file gives no split; a part that the split lacks
            is drawn from train.
        name: what the data is called; the file's name by default.
        classes: how many there are, where some have no image; None: as many as names, or each of 0 to the largest label
            has an image.

    Raises:
        StorageError: the file cannot be read.
        DamagedFileError: it is no npz file, or needs pickle.
        InvalidValueError: an array is missing or breaks the rules above.
    """
    if layout not in ("auto", "channels_first", "channels_last"):
        raise InvalidValueError(f"`layout` must be auto, channels_first or channels_last, but got {layout!r}.")
    arrays = read_arrays(Path(path))
    missing = [key for key in ("images", "labels") if key not in arrays]
    if missing:
        raise InvalidValueError(f"{path} must hold `images` and `labels`, but got {sorted(arrays)}.")
    images = arrays["images"]
    if images.ndim == 3:
        images = images[:, None]  # (N, 1, H, W)
    if images.ndim != 4 or images.dtype.kind not in "uif":
        raise InvalidValueError(
            f"`images` of {path} must be numbers, shape (N, H, W), (N, C, H, W) or (N, H, W, C), but got "
            f"{images.dtype} {images.shape}."
        )
    notes = []
    if layout == "auto" and looks_channels_last(images.shape):
        notes = [
            f"`images` of {path}, shape {images.shape}, are read as channels last; if they are that narrow, "
            "images.transpose(0, 1, 3, 2) lays them on their side"
        ]
    if notes or layout == "channels_last":
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))  # (N, C, H, W)
    names = checked_names(arrays["names"], f"`names` of {path}") if "names" in arrays else ()
    classes = len(names) or classes
    labels = checked_labels(arrays["labels"], len(images), classes, f"`labels` of {path}")
    raw, scale = raw_images(images, f"`images` of {path}")
    split = numbered(arrays["split"], len(images), f"`split` of {path}") if "split" in arrays else None
    title = name or Path(path).stem
    parts = parts_of(labels, split, fractions, seed, title)
    return image_data(title, raw, labels, parts, scale, classes, names, notes)

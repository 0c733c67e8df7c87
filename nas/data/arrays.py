"""Images that fit into memory as one array: the embedded digits, which come with scikit-learn, and npz files.

Nothing is downloaded. Your own data is a function that gives an `Data`, named by ``_target_`` in a YAML of
``conf/data``; for images that fit into memory that function is `npz`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data.base import PARTS, Data
from nas.data.images import check_shape, image_data
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
    return image_data("digits", images, labels, _stratified(labels, fractions, seed), 16)


def npz(
    path: str,
    *,
    seed: int = 0,
    fractions: Sequence[float] = (0.5, 0.3, 0.2),
    name: str | None = None,
    classes: int | None = None,
) -> Data:
    """Images of one's own, from an npz file.

    It holds ``images``, shape (N, H, W) or (N, C, H, W), numbers of which 0 is black (bytes are divided by 255);
    ``labels``, shape (N,), integers from 0; and, if the parts are given, ``split``, shape (N,), with "train",
    "validation" or "test" for each image.

    Args:
        path: the file.
        seed: of the split, where the file gives none.
        fractions: of train, validation and test, per class, where the file gives no split.
        name: what the data is called; the file's name by default.
        classes: how many there are, where some have no image; None: each of 0 to the largest label has one.

    Raises:
        StorageError: the file cannot be read.
        DamagedFileError: it is no npz file, or needs pickle.
        InvalidValueError: an array is missing or breaks the rules above.
    """
    arrays = read_arrays(Path(path))
    missing = [key for key in ("images", "labels") if key not in arrays]
    if missing:
        raise InvalidValueError(f"{path} must hold `images` and `labels`, but got {sorted(arrays)}.")
    images, labels = arrays["images"], arrays["labels"]
    if images.ndim == 3:
        images = images[:, None]  # (N, 1, H, W)
    if images.ndim != 4 or images.dtype.kind not in "uif":
        raise InvalidValueError(
            f"`images` of {path} must be numbers, shape (N, H, W) or (N, C, H, W), but got {images.dtype} "
            f"{images.shape}."
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "ui":
        raise InvalidValueError(
            f"`labels` of {path} must be integers, shape ({len(images)},), but got {labels.dtype} {labels.shape}."
        )
    scale = 255 if images.dtype == np.uint8 else 1
    images = (images / scale).astype(np.float32)
    labels = labels.astype(np.int64)
    check_shape(f"`images` of {path}", images.shape)
    _check_labels(labels, path, classes)
    if "split" not in arrays:
        return image_data(name or Path(path).stem, images, labels, _stratified(labels, fractions, seed), scale, classes)
    split = arrays["split"]
    words = set(np.unique(split).tolist())
    if split.shape != labels.shape or words != set(PARTS):
        wrong = sorted(words - set(PARTS), key=str)[:3] or sorted(words)
        got = f"{', '.join(map(repr, wrong))} in shape {split.shape}"
        raise InvalidValueError(
            f"`split` of {path} must give each of {len(labels)} images one of the words {', '.join(PARTS)}, and each "
            f"part an image, but got {got}."
        )
    parts = [np.flatnonzero(split == part) for part in PARTS]
    return image_data(name or Path(path).stem, images, labels, parts, scale, classes)


def _check_labels(labels: NDArray[np.int64], path: str, classes: int | None) -> None:
    """Refuse labels that do not count from 0 without a gap, unless the number of classes is given."""
    if not len(labels):
        raise InvalidValueError(f"{path} holds no image.")
    found, low, high = np.unique(labels), int(labels.min()), int(labels.max())
    if classes is None and (low != 0 or len(found) != high + 1):
        raise InvalidValueError(
            f"`labels` of {path} must count classes from 0 without a gap, but got {len(found)} different ones in "
            f"{low}..{high}. Renumber them, numpy.unique(labels, return_inverse=True)[1], or say how many classes "
            f"there are, `+data.classes={high + 1}`, if some have no image on purpose."
        )
    if classes is not None and not 0 <= low <= high < classes:
        raise InvalidValueError(
            f"`labels` of {path} must be in 0..{classes - 1}, as `data.classes={classes}`, but got {low}..{high}."
        )


def _stratified(labels: NDArray[np.int64], fractions: Sequence[float], seed: int) -> list[NDArray[np.intp]]:
    """Indices of each part, in random order; every class is cut at the same fractions."""
    if len(fractions) != len(PARTS) or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InvalidValueError(f"`fractions` are three positive numbers that add up to 1, but got {list(fractions)}.")
    order = np.random.default_rng(seed).permutation(len(labels))
    part_of = np.empty(len(labels), int)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        cuts = np.round(np.cumsum(fractions)[:-1] * len(members)).astype(int)
        for number, chunk in enumerate(np.split(members, cuts)):
            part_of[chunk] = number
    return [order[part_of[order] == number] for number in range(len(PARTS))]

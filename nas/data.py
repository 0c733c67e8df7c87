"""Labelled images in three parts, and their resizing. The digits come with scikit-learn: nothing is downloaded.

Your own data is a function that gives an `ImageData`, named by ``_target_`` in a YAML of ``conf/data``; for images that
fit into memory that function is `npz`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from search_spaces.errors import InvalidValueError
from search_spaces.storage import read_arrays

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Part:
    """Some images with their labels.

    Args:
        images: float32, shape (N, C, H, H), normalised.
        labels: int64, shape (N,).
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.shape[2] != images.shape[3] or 0 in images.shape:
            shape = tuple(images.shape)
            raise InvalidValueError(f"Images are square, shape (N, C, H, H), but got {shape}.{_cure(shape)}")
        if images.dtype != torch.float32:
            raise InvalidValueError(f"Images are float32, but got {images.dtype}.")
        if not bool(images.isfinite().all()):
            raise InvalidValueError("Images must be finite, but some pixels are NaN or infinite.")
        if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
            raise InvalidValueError(
                f"Labels are int64, shape ({len(images)},), one per image, "
                f"but got {labels.dtype} {tuple(labels.shape)}."
            )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class ImageData:
    """A classification task: a part to train on, one to choose by, and one that is looked at once.

    The test part is no attribute: only verification calls `test_part`, so that nothing can be trained on it, chosen by
    it or tuned to it by accident.

    Args:
        name: what users call it.
        train: what weights and BatchNorm statistics come from.
        validation: what architectures and settings are chosen by.
        test: what the chosen networks are reported on.
        classes: number of classes; labels are 0 to classes - 1.
        mean: per channel, of the raw training pixels (0 is black); subtracted from all images.
        std: per channel; what all images were divided by.
        scale: what raw pixels were divided by before that, such as 255 for bytes; mean and std are of the quotients.
    """

    name: str
    train: Part
    validation: Part
    test: InitVar[Part]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1.0

    def __post_init__(self, test: Part) -> None:
        object.__setattr__(self, "_test", test)
        shape = self.train.images.shape[1:]
        for name, part in zip(PARTS, (self.train, self.validation, test), strict=True):
            if part.images.shape[1:] != shape:
                raise InvalidValueError(
                    f"All parts of {self.name!r} have images of one shape, but {name} has "
                    f"{tuple(part.images.shape[1:])} and train has {tuple(shape)}."
                )
            low, high = int(part.labels.min()), int(part.labels.max())
            if low < 0 or high >= self.classes:
                raise InvalidValueError(
                    f"Labels of {self.name!r} must be in 0..{self.classes - 1}, but {name} holds {low}..{high}."
                )
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0:
            raise InvalidValueError(
                f"`mean` and `std` hold one number per channel and std > 0, but got {self.mean=} and {self.std=}."
            )

    def __repr__(self) -> str:
        """Equal for equal images, so that what a search with them has left is known by it."""
        return f"ImageData({self.name!r}, {self.fingerprint})"

    def test_part(self) -> Part:
        """The test part. For verification alone: whoever chooses anything by it has no test part any more."""
        part: Part = vars(self)["_test"]
        return part

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return int(self.train.images.shape[1])

    @property
    def resolution(self) -> int:
        """Native height and width of the images."""
        return int(self.train.images.shape[2])

    @property
    def black(self) -> Tensor:
        """Normalised value of a raw 0, shape (1, C, 1, 1)."""
        return -(torch.tensor(self.mean) / torch.tensor(self.std)).reshape(1, -1, 1, 1)

    @functools.cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of the training and validation parts, equal in every process."""
        return self._digest(self.train, self.validation)

    @functools.cached_property
    def test_fingerprint(self) -> str:
        """`fingerprint` of the test part, which is not looked at otherwise."""
        return self._digest(self.test_part())

    def _digest(self, *parts: Part) -> str:
        digest = hashlib.sha256(f"{self.name} {self.classes}".encode())
        for part in parts:
            digest.update(np.ascontiguousarray(part.images.numpy()).data)
            digest.update(np.ascontiguousarray(part.labels.numpy()).data)
        return digest.hexdigest()[:16]


def _cure(shape: tuple[int, ...]) -> str:
    """What makes images of a wrong shape right, as far as that can be guessed."""
    if 0 in shape:
        return " There is no image in them."
    if len(shape) == 3:
        return " A channel is missing: images[:, None] has one."
    if len(shape) == 4 and shape[1] == shape[2] and shape[3] in (1, 3, 4):
        return " They look like channels last: images.transpose(0, 3, 1, 2) puts channels first."
    if len(shape) == 4:
        side = min(shape[2:])
        return f" Crop them, images[:, :, :{side}, :{side}], or pad or resize them to squares."
    return ""


def resize(images: Tensor, resolution: int) -> Tensor:
    """Bilinear resizing, antialiased where it shrinks: (N, C, H, H) -> (N, C, resolution, resolution)."""
    if images.shape[-1] == resolution:
        return images
    return functional.interpolate(images, (resolution, resolution), mode="bilinear", antialias=True)


def digits(*, seed: int = 0, fractions: Sequence[float] = (0.5, 0.3, 0.2)) -> ImageData:
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
    return _image_data("digits", images, labels, _stratified(labels, fractions, seed), 16)


def npz(
    path: str,
    *,
    seed: int = 0,
    fractions: Sequence[float] = (0.5, 0.3, 0.2),
    name: str | None = None,
    classes: int | None = None,
) -> ImageData:
    """Your own images, from an npz file.

    It holds ``images``, shape (N, H, H) or (N, C, H, H), numbers of which 0 is black (bytes are divided by 255);
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
        images = images[:, None]  # (N, 1, H, H)
    if images.ndim != 4 or images.dtype.kind not in "uif":
        raise InvalidValueError(
            f"`images` of {path} must be numbers, shape (N, H, H) or (N, C, H, H), but got {images.dtype} "
            f"{images.shape}."
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "ui":
        raise InvalidValueError(
            f"`labels` of {path} must be integers, shape ({len(images)},), but got {labels.dtype} {labels.shape}."
        )
    scale = 255 if images.dtype == np.uint8 else 1
    images = (images / scale).astype(np.float32)
    labels = labels.astype(np.int64)
    if images.shape[2] != images.shape[3]:
        raise InvalidValueError(
            f"`images` of {path} must be square, shape (N, C, H, H), but got {images.shape}.{_cure(images.shape)}"
        )
    _check_labels(labels, path, classes)
    if "split" not in arrays:
        return _image_data(
            name or Path(path).stem, images, labels, _stratified(labels, fractions, seed), scale, classes
        )
    split = arrays["split"]
    if split.shape != labels.shape or not set(np.unique(split).tolist()) == set(PARTS):
        raise InvalidValueError(f"`split` of {path} gives each image one of {PARTS}, and each part has images.")
    parts = [np.flatnonzero(split == part) for part in PARTS]
    return _image_data(name or Path(path).stem, images, labels, parts, scale, classes)


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


def _image_data(
    name: str,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    parts: Sequence[NDArray[Any]],
    scale: float,
    classes: int | None = None,
) -> ImageData:
    """Normalise with the statistics of the training part and cut; ``scale`` is what raw pixels were divided by."""
    if any(len(indices) == 0 for indices in parts):
        raise InvalidValueError(f"Each of {PARTS} needs an image, but {name!r} gives {[len(i) for i in parts]}.")
    train = images[parts[0]]
    mean, std = train.mean((0, 2, 3), dtype=np.float64), train.std((0, 2, 3), dtype=np.float64)  # (C,)
    std = np.where(std > 0, std, 1)  # a constant channel stays 0
    normalised = ((images - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)).astype(np.float32)
    train_part, validation, test = (
        Part(torch.from_numpy(normalised[indices]), torch.from_numpy(labels[indices])) for indices in parts
    )
    return ImageData(
        name=name,
        train=train_part,
        validation=validation,
        test=test,
        classes=int(labels.max()) + 1 if classes is None else classes,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        scale=scale,
    )

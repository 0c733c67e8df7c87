"""Labelled images in three parts, normalised, and their resizing."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Size, image_size, size_text

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Part:
    """Some images with their labels.

    Args:
        images: float32, shape (N, C, H, W), normalised.
        labels: int64, shape (N,).
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        check_shape("Images", tuple(images.shape))
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

    ``definition``: settings that make the data again, where it was made by name.
    """

    name: str
    train: Part
    validation: Part
    test: InitVar[Part]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1.0
    definition: Mapping[str, Any] | None = field(default=None, init=False)

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
    def resolution(self) -> Size:
        """Native height and width of the images; one number for squares."""
        return image_size(tuple(self.train.images.shape[1:]))

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
        of_shape = "" if isinstance(self.resolution, int) else f" {size_text(self.resolution)}"
        digest = hashlib.sha256(f"{self.name} {self.classes}{of_shape}".encode())
        for part in parts:
            digest.update(np.ascontiguousarray(part.images.numpy()).data)
            digest.update(np.ascontiguousarray(part.labels.numpy()).data)
        return digest.hexdigest()[:16]


def check_shape(what: str, shape: tuple[int, ...]) -> None:
    """Check that there are images of channels first, (N, C, H, W).

    Args:
        what: names them in the message.
        shape: of their array.

    Raises:
        InvalidValueError: there are none, or they look like channels last.
    """
    if 0 in shape:
        advice = "There is no image in them."
    elif len(shape) == 3:
        advice = "A channel is missing: images[:, None] has one."
    elif len(shape) == 4 and shape[3] in (1, 3, 4) and min(shape[1:3]) > 4:
        advice = (
            "They look like channels last: images.transpose(0, 3, 1, 2) puts channels first. If they are that narrow, "
            "images.transpose(0, 1, 3, 2) lays them on their side."
        )
    elif len(shape) != 4:
        advice = "Each image is channels of rows of pixels."
    else:
        return
    raise InvalidValueError(f"{what} must have shape (N, C, H, W), channels first, but got {shape}. {advice}")


def resize(images: Tensor, resolution: Size) -> Tensor:
    """Bilinear resizing, antialiased where it shrinks: (N, C, H, W) -> (N, C, *resolution), one number for squares."""
    size = (resolution, resolution) if isinstance(resolution, int) else resolution
    if images.shape[-2:] == size:
        return images
    return functional.interpolate(images, size, mode="bilinear", antialias=True)


def image_data(
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

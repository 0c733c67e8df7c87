"""Labelled images in memory, normalised, and the resizing of images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nas.data.base import Batch, Data, Digest
from nas.tasks import Classification, Task
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Size
from search_spaces.program import Shape

AT_ONCE = 256
"""Images that are normalised at once, in double precision."""
ROUNDING = 1e-12
"""Standard deviation, relative to the mean, below which values are equal but for rounding."""


@dataclass(frozen=True, eq=False)
class Part:
    """Some images with their targets, in memory.

    Args:
        images: float32, shape (N, C, H, W), normalised.
        labels: targets of the task, shape (N, ...); of classes int64, shape (N,).
    """

    images: Tensor
    labels: Tensor
    in_memory = True

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        check_shape("Images", tuple(images.shape))
        if images.dtype != torch.float32:
            raise InvalidValueError(f"Images are float32, but got {images.dtype}.")
        if not bool(images.isfinite().all()):
            raise InvalidValueError("Images must be finite, but some pixels are NaN or infinite.")
        if labels.shape[:1] != images.shape[:1]:
            raise InvalidValueError(
                f"Labels are {len(images)}, one per image, but got {labels.dtype} {tuple(labels.shape)}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> Shape:
        return tuple(self.images.shape[1:])

    def take(self, rows: Tensor) -> Batch:
        return self.images[rows], self.labels[rows]

    @property
    def digests(self) -> NDArray[np.uint8]:
        """SHA-256 of each image, bytes, (N, 32)."""
        whole = [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in self.images.numpy()]
        return np.frombuffer(b"".join(whole), np.uint8).reshape(len(whole), -1)

    def update(self, digest: Digest) -> None:
        digest.update(np.ascontiguousarray(self.images.numpy()).data)
        digest.update(np.ascontiguousarray(self.labels.numpy()).data)


def looks_channels_last(shape: tuple[int, ...]) -> bool:
    """True if an array of images (N, C, H, W) is more likely one of (N, H, W, C)."""
    return len(shape) == 4 and shape[3] in (1, 3, 4) and min(shape[1:3]) > 4


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
    elif looks_channels_last(shape):
        advice = (
            "They look like channels last: images.transpose(0, 3, 1, 2) puts channels first. If they are that narrow, "
            "images.transpose(0, 1, 3, 2) lays them on their side."
        )
    elif len(shape) != 4:
        advice = "Each image is channels of rows of pixels."
    else:
        return
    raise InvalidValueError(f"{what} must have shape (N, C, H, W), channels first, but got {shape}. {advice}")


def raw_images(images: NDArray[Any], what: str) -> tuple[NDArray[np.float32], float]:
    """Images of a file as numbers of which 0 is black and 1, of bytes, white; and what they were divided by.

    Args:
        images: (N, C, H, W).
        what: names them in messages.

    Raises:
        InvalidValueError: they are no finite numbers, or not of that shape.
    """
    if images.dtype.kind not in "uif":
        raise InvalidValueError(f"{what} must be numbers, but got {images.dtype}.")
    check_shape(what, images.shape)
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        raw = images.astype(np.float32)
    if scale != 1:
        raw /= np.float32(scale)
    if not np.isfinite(raw).all():
        raise InvalidValueError(f"{what} must be finite, but some pixels are NaN or infinite.")
    return raw, scale


def constant_notes(name: str, channels: Sequence[int]) -> list[str]:
    """Note on channels that are the same in the whole training part."""
    which = ", ".join(map(str, channels))
    said = f"channel {which} of {name!r} is" if len(channels) == 1 else f"channels {which} of {name!r} are"
    return [f"{said} the same everywhere in train: nothing can be learned from it"] if channels else []


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
    names: tuple[str, ...] = (),
    notes: Sequence[str] = (),
) -> Data:
    """Images with classes: normalised with the statistics of the training part and cut; ``scale`` is what raw pixels
    were divided by."""
    task = Classification(int(labels.max()) + 1 if classes is None else classes, names)
    return in_memory(name, images, labels, parts, task, scale, notes)


def in_memory(
    name: str,
    images: NDArray[np.float32],
    targets: NDArray[Any],
    parts: Sequence[NDArray[Any]],
    task: Task,
    scale: float,
    notes: Sequence[str] = (),
) -> Data:
    """Images with targets of any task, normalised with the statistics of the training part and cut.

    Args:
        name: of the data.
        images: (N, C, H, W).
        targets: (N, ...).
        parts: rows of train, validation and test.
        task: what the targets are for.
        scale: what raw pixels were divided by.
        notes: on what is unusual.
    """
    train = images[parts[0]]
    mean, std = train.mean((0, 2, 3), dtype=np.float64), train.std((0, 2, 3), dtype=np.float64)  # (C,)
    constant = np.flatnonzero(std <= ROUNDING * np.abs(mean)).tolist()
    std[constant] = 1  # a constant channel stays 0

    def part(rows: NDArray[Any]) -> Part:
        normalised = np.empty((len(rows), *images.shape[1:]), np.float32)
        for start in range(0, len(rows), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            normalised[some] = (images[rows[some]] - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)
        return Part(torch.from_numpy(normalised), torch.from_numpy(targets[rows]))

    return Data(
        name=name,
        train=part(parts[0]),
        validation=part(parts[1]),
        test=part(parts[2]),
        task=task,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        scale=scale,
        notes=(*notes, *constant_notes(name, constant)),
    )

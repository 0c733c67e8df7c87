"""RandAugment's operations on pixels: of each image some, drawn anew, all of one magnitude.

Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space", CVPR workshops 2020,
arXiv:1909.13719. Its operations that move pixels are `Affine`'s, which costs no second resampling.

The operations are kornia's (Riba et al., "Kornia: an Open Source Differentiable Computer Vision Library for PyTorch",
WACV 2020), which take a strength per image; what is drawn comes from the generator of the training rather than from
torch's global one, which kornia's own RandAugment draws from. torchvision's transforms do the same to all images of a
batch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nas.supernet.augmentation.base import Changes, as_pixels
from nas.tasks import SuperResolution
from search_spaces.base.errors import InvalidValueError

if TYPE_CHECKING:
    from nas.data import Data

LOOKED_AT = 16
"""Images that show whether data is of pixels."""


@dataclass(frozen=True)
class RandAugment:
    """Random changes of brightness, contrast, colour, sharpness and of the histogram of every image.

    Args:
        operations: how many of them are made of each image, one after the other.
        magnitude: of all of them, in [0, 1]; 0.3 is 9 of the paper's 30.
    """

    operations: int = 2
    magnitude: float = 0.3

    def __post_init__(self) -> None:
        if self.operations < 1:
            raise InvalidValueError(f"`operations` must be at least 1, but got {self.operations}.")
        if not 0 <= self.magnitude <= 1:
            raise InvalidValueError(f"`magnitude` must be in [0, 1], but got {self.magnitude}.")

    def check(self, data: Data) -> None:
        if importlib.util.find_spec("kornia") is None:
            raise InvalidValueError(
                "`RandAugment` needs kornia, which is not installed: `pip install kornia`, or leave it out of "
                "`training.augment`."
            )
        if isinstance(data.task, SuperResolution):
            raise InvalidValueError(
                f"`RandAugment` changes pixels of the inputs alone, but the targets of data {data.name!r} are "
                "images of the same pixels. Leave it out of `training.augment`."
            )
        images, _ = data.train.take(torch.arange(min(LOOKED_AT, len(data.train))))
        pixels = as_pixels(images, data.black, torch.tensor(data.std).reshape(1, -1, 1, 1))
        least, most = (float(bound) for bound in torch.aminmax(pixels))
        if data.channels not in (1, 3) or least < -1e-3 or most > 1 + 1e-3:
            raise InvalidValueError(
                f"`RandAugment` changes grey and colour images with pixels in [0, 1], but data {data.name!r} has "
                f"{data.channels} channels with values in [{least:.3g}, {most:.3g}]. Leave it out of "
                "`training.augment`."
            )

    def draw(self, changes: Changes, generator: torch.Generator) -> Changes:
        shape = (self.operations, changes.count)
        numbers = torch.randint(len(OPERATIONS), shape, generator=generator)
        signs = 2 * torch.randint(2, shape, generator=generator) - 1
        return changes.recoloured(Drawn(numbers, signs * self.magnitude))


@dataclass(frozen=True)
class Drawn:
    """Operations that were drawn for a batch.

    Args:
        numbers: in `OPERATIONS`, (operations, B), on the CPU.
        magnitudes: of each, with its sign, (operations, B), on the CPU.
    """

    numbers: Tensor
    magnitudes: Tensor

    def of(self, rows: Tensor) -> Drawn:
        return Drawn(self.numbers[:, rows], self.magnitudes[:, rows])

    def __call__(self, images: Tensor) -> Tensor:
        images = images.clone()
        for numbers, magnitudes in zip(self.numbers, self.magnitudes, strict=True):
            for number, operation in enumerate(OPERATIONS):
                chosen = (numbers == number).nonzero()[:, 0]
                if operation is not None and len(chosen):
                    rows, strength = (
                        tensor.to(images.device, non_blocking=True) for tensor in (chosen, magnitudes[chosen])
                    )
                    images[rows] = operation(images[rows], strength)
        return images


Operation = Callable[[Tensor, Tensor], Tensor]
"""Images in [0, 1] and their magnitudes (B,) in [-1, 1] -> images in [0, 1]."""


def _enhance() -> Any:
    import kornia.enhance

    return kornia.enhance


def _factor(magnitudes: Tensor) -> Tensor:
    """Factors around 1."""
    return 1 + 0.9 * magnitudes


OPERATIONS: tuple[Operation | None, ...] = (
    None,
    lambda images, magnitudes: _enhance().normalize_min_max(images),
    lambda images, magnitudes: _enhance().equalize(images),
    lambda images, magnitudes: _enhance().solarize(images, 1 - magnitudes.abs()),
    lambda images, magnitudes: _enhance().posterize(images, (8 - 4 * magnitudes.abs()).round().int()),
    lambda images, magnitudes: _enhance().adjust_saturation_with_gray_subtraction(images, _factor(magnitudes)),
    lambda images, magnitudes: _enhance().adjust_contrast_with_mean_subtraction(images, _factor(magnitudes)),
    lambda images, magnitudes: _enhance().adjust_brightness_accumulative(images, _factor(magnitudes)),
    lambda images, magnitudes: _enhance().sharpness(images, _factor(magnitudes)),
)
"""Operations of RandAugment that keep pixels where they are: none, auto-contrast, equalise, solarise, posterise,
colour, contrast, brightness, sharpness."""

"""Mixing of the images of a batch with each other, and of targets that lie in their plane.

Every image takes something of another one of the batch: a box of it, or a share of every pixel. Targets that stand for
the whole image become shares; those that lie in its plane are mixed as its pixels are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces.base.errors import InvalidValueError


@dataclass(frozen=True)
class Mixing:
    """Mixing of each image of a batch with another one.

    Args:
        partner: number of the other image, (B,), int64.
        box: where it comes in: left, top, right and bottom as shares of width and height, (B, 4).
        strength: share of it in each pixel of the box, (B,), in [0, 1]; 0: the image stays as it is.
        blends: whether any strength may lie between 0 and 1.
    """

    partner: Tensor
    box: Tensor
    strength: Tensor
    blends: bool

    @property
    def share(self) -> Tensor:
        """Share of the other image in the whole, (B,)."""
        left, top, right, bottom = self.box.unbind(1)
        return self.strength * (right - left) * (bottom - top)

    def weights(self, height: int, width: int) -> Tensor:
        """Share of the other image in each pixel, (B, 1, H, W). A pixel that the box covers in part gets a part of it,
        so that the mean is `share` at any resolution."""
        rows = _covered(self.box[:, 1], self.box[:, 3], height)  # (B, H)
        columns = _covered(self.box[:, 0], self.box[:, 2], width)  # (B, W)
        return (self.strength[:, None, None] * rows[:, :, None] * columns[:, None, :])[:, None]

    def of(self, rows: Tensor, partner: Tensor) -> Mixing:
        """The mixing of some images of the batch, with other numbers of their partners."""
        return Mixing(partner, self.box[rows], self.strength[rows], self.blends)

    def to(self, device: torch.device) -> Mixing:
        """The same on a device."""
        partner, box, strength = (
            tensor.to(device, non_blocking=True) for tensor in (self.partner, self.box, self.strength)
        )
        return Mixing(partner, box, strength, self.blends)


def mixed_values(values: Tensor, others: Tensor, mixing: Mixing) -> Tensor:
    """Dense values (B, C, H, W), such as images, mixed with those of the others; they may be NaN, and are so where what
    they are of is NaN."""
    weights = mixing.weights(*values.shape[-2:]).to(values.dtype)
    mixed = torch.lerp(values, others, weights)
    return torch.where(weights == 0, values, torch.where(weights == 1, others, mixed))


def mixed_classes(masks: Tensor, others: Tensor, mixing: Mixing) -> Tensor:
    """Masks of classes (B, H, W), integers: each pixel is of one of both.

    Raises:
        InvalidValueError: images are blended, so that a pixel is of two classes.
    """
    if mixing.blends:
        raise InvalidValueError(
            "A pixel of two blended images is of two classes, which masks cannot say. Leave Mixup out of "
            "`training.augment`; CutMix pastes a box."
        )
    return torch.where(mixing.weights(*masks.shape[-2:])[:, 0] > 0.5, others, masks)


def _covered(first: Tensor, last: Tensor, count: int) -> Tensor:
    """Share of each of ``count`` pixels of a line that lies between two of its shares (B,): (B, count)."""
    edges = torch.arange(count, device=first.device, dtype=first.dtype)
    return (last[:, None] * count - edges).clamp(0, 1) - (first[:, None] * count - edges).clamp(0, 1)

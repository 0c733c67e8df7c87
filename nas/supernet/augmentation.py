"""Random movements of images, as one affine map per image, so that one resampling does them all at any resolution."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from search_spaces.layers import Size

if TYPE_CHECKING:
    from nas.supernet.training import TrainingSettings


def movements(settings: TrainingSettings, count: int, size: Size, generator: torch.Generator) -> Tensor | None:
    """Random affine maps from output to input coordinates, shape (count, 2, 3); None: nothing moves.

    Coordinates span -1 to 1 whatever ``size`` is, that of the images, so a turn has to know how wide they are.
    """
    if not (settings.shift or settings.rotate or settings.scale):
        return None
    angle, zoom, right, down = (2 * torch.rand(4, count, generator=generator) - 1).unbind()
    angle, zoom = angle * math.radians(settings.rotate), 1 + zoom * settings.scale
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    shift = 2 * settings.shift  # the image spans -1 to 1
    tall = 1.0 if isinstance(size, int) else size[0] / size[1]
    rows = [torch.stack([cos, -tall * sin, right * shift], 1), torch.stack([sin / tall, cos, down * shift], 1)]
    return torch.stack(rows, 1)


def move(images: Tensor, movement: Tensor | None, black: Tensor) -> Tensor:
    """Apply affine maps (B, 2, 3) to images (B, C, H, W); what comes in from outside is black."""
    if movement is None:
        return images
    grid = functional.affine_grid(movement, list(images.shape), align_corners=False)  # (B, H, W, 2)
    moved: Tensor = functional.grid_sample(images - black, grid, align_corners=False) + black
    return moved

"""Random shift, rotation and change of size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from nas.supernet.augmentation.base import Changes, ForAll
from search_spaces.base.errors import InvalidValueError


@dataclass(frozen=True)
class Affine(ForAll):
    """Random shift, rotation and change of size of every image; what comes in from outside is black.

    Args:
        shift: largest shift, as a fraction of the image.
        rotate: largest rotation, in degrees.
        scale: largest change of size, as a fraction.
    """

    shift: float = 0.1
    rotate: float = 10.0
    scale: float = 0.1

    def __post_init__(self) -> None:
        for name in ("shift", "rotate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidValueError(f"`{name}` must be at least 0, but got {getattr(self, name)}.")
        if not 0 <= self.scale < 1:
            raise InvalidValueError(f"`scale` must be in [0, 1), but got {self.scale}.")

    def draw(self, changes: Changes, generator: torch.Generator) -> Changes:
        angle, zoom, right, down = (2 * torch.rand(4, changes.count, generator=generator) - 1).unbind()
        angle, zoom = angle * math.radians(self.rotate), 1 + zoom * self.scale
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        shift, tall = 2 * self.shift, changes.aspect  # the image spans -1 to 1
        rows = [torch.stack([cos, -tall * sin, right * shift], 1), torch.stack([sin / tall, cos, down * shift], 1)]
        return changes.moved(torch.stack(rows, 1))

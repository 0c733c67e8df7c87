"""Random shift, rotation and change of size."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import get_args

import torch

from nas.supernet.augmentation.base import Changes, ForAll, Outside
from search_spaces.base.errors import InvalidValueError


@dataclass(frozen=True)
class Affine(ForAll):
    """Random shift, rotation and change of size of every image.

    Args:
        shift: largest shift, as a fraction of the image.
        rotate: largest rotation, in degrees.
        scale: largest change of size, as a fraction.
        outside: what comes in: ``black``, which suits a black background; or ``edge``, the edge of the image again and
            again, for images that are bright there: BatchNorm statistics are taken anew on images that are not moved,
            and black would make those of the training others.
    """

    shift: float = 0.1
    rotate: float = 10.0
    scale: float = 0.1
    outside: Outside = "black"

    def __post_init__(self) -> None:
        for name in ("shift", "rotate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidValueError(f"`{name}` must be at least 0, but got {getattr(self, name)}.")
        if not 0 <= self.scale < 1:
            raise InvalidValueError(f"`scale` must be in [0, 1), but got {self.scale}.")
        if self.outside not in get_args(Outside):
            raise InvalidValueError(f"`outside` must be {' or '.join(get_args(Outside))}, but got {self.outside!r}.")

    def draw(self, changes: Changes, generator: torch.Generator) -> Changes:
        angle, zoom, right, down = (2 * torch.rand(4, changes.count, generator=generator) - 1).unbind()
        angle, zoom = angle * math.radians(self.rotate), 1 + zoom * self.scale
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        shift, tall = 2 * self.shift, changes.aspect  # the image spans -1 to 1
        rows = [torch.stack([cos, -tall * sin, right * shift], 1), torch.stack([sin / tall, cos, down * shift], 1)]
        return dataclasses.replace(changes.moved(torch.stack(rows, 1)), outside=self.outside)

"""Random crops, enlarged to the whole image.

Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, arXiv:1409.4842, section 6: a patch of 8 to 100 % of the
area, its aspect ratio between 3/4 and 4/3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from nas.supernet.augmentation.base import Changes, ForAll, scaled
from search_spaces.base.errors import InvalidValueError


@dataclass(frozen=True)
class Crop(ForAll):
    """A random part of every image, enlarged to the whole. It is cut from the image at the resolution of the network.

    Args:
        area: least and largest area, as shares of the image's.
        aspect: least and largest width over height; a part that would be wider or taller than the image is as wide or
            tall as it.
    """

    area: tuple[float, float] = (0.35, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise InvalidValueError(f"`area` must be two shares in (0, 1], the least first, but got {self.area}.")
        if not 0 < self.aspect[0] <= self.aspect[1] < math.inf:
            raise InvalidValueError(f"`aspect` must be two positive numbers, the least first, but got {self.aspect}.")

    def draw(self, changes: Changes, generator: torch.Generator) -> Changes:
        area, aspect, right, below = torch.rand(4, changes.count, generator=generator).unbind()
        area = self.area[0] + area * (self.area[1] - self.area[0])
        low, high = (math.log(bound) for bound in self.aspect)
        aspect = (low + aspect * (high - low)).exp() * changes.aspect  # of shares of width and height
        across, down = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
        return changes.moved(scaled(across, down, (2 * right - 1) * (1 - across), (2 * below - 1) * (1 - down)))

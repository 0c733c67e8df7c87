"""Mixup: images and their targets are blended.

Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv:1710.09412, equation 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nas.supernet.augmentation.base import Changes, ForAll
from nas.supernet.augmentation.pairs import check_pairs, drawn_pairs
from nas.tasks.mixing import Mixing


@dataclass(frozen=True)
class Mixup(ForAll):
    """Some images blended with another one of their batch each, pixel by pixel.

    Args:
        alpha: the share of the other image follows Beta(alpha, alpha): small ones keep to one image.
        chance: share of the images. The others are mixed as what comes before in the list says, if at all: with
            ``CutMix`` of chance 0.5 behind it, half of the images are blended.
    """

    alpha: float = 0.2
    chance: float = 1.0

    def __post_init__(self) -> None:
        check_pairs(self.alpha, self.chance)

    def draw(self, changes: Changes, generator: torch.Generator) -> Changes:
        partner, share, chosen = drawn_pairs(changes.count, self.alpha, self.chance, generator)
        whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(changes.count, 4)
        return changes.mixed(Mixing(partner, whole, share, blends=True), chosen)

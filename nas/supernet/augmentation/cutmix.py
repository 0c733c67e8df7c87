"""CutMix: a box of another image is pasted in, and the targets are mixed by its area.

Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019,
arXiv:1905.04899, equations 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nas.supernet.augmentation.base import Changes, ForAll
from nas.supernet.augmentation.pairs import check_pairs, drawn_pairs
from nas.tasks.mixing import Mixing


@dataclass(frozen=True)
class CutMix(ForAll):
    """Some images with a box of another one of their batch each; it has the shape of the image, and what would lie
    outside is cut off.

    Args:
        alpha: the area of the box, as a share of the image's, follows Beta(alpha, alpha): of 1, any is as likely.
        chance: share of the images. The others are mixed as what comes before in the list says, if at all.
    """

    alpha: float = 1.0
    chance: float = 1.0

    def __post_init__(self) -> None:
        check_pairs(self.alpha, self.chance)

    def draw(self, changes: Changes, generator: torch.Generator) -> Changes:
        partner, area, chosen = drawn_pairs(changes.count, self.alpha, self.chance, generator)
        centre = torch.rand(changes.count, 2, generator=generator)
        half = area.sqrt()[:, None] / 2
        box = torch.cat([centre - half, centre + half], 1).clamp(0, 1)
        return changes.mixed(Mixing(partner, box, torch.ones(changes.count), blends=False), chosen)

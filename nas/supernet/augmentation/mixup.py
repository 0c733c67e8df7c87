"""Mixup: images and their targets are blended.

Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv:1710.09412, equation 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nas.supernet.augmentation.base import Changes, ForAll
from nas.supernet.augmentation.flip import check_chance
from nas.tasks.mixing import Mixing
from search_spaces.base.errors import InvalidValueError


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
        check_chance(self.chance)
        check_alpha(self.alpha)

    def draw(self, changes: Changes, generator: torch.Generator) -> Changes:
        partner, share, chosen = drawn_pairs(changes.count, self.alpha, self.chance, generator)
        whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(changes.count, 4)
        return changes.mixed(Mixing(partner, whole, share, blends=True), chosen)


def check_alpha(alpha: float) -> None:
    """Refuse what no Beta distribution has.

    Raises:
        InvalidValueError: it is not positive.
    """
    if not 0 < alpha < math.inf:
        raise InvalidValueError(f"`alpha` must be a positive number, but got {alpha}.")


def drawn_pairs(count: int, alpha: float, chance: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Partner of each image of a batch, a permutation (count,); its share, from Beta(alpha, alpha), (count,); and which
    images are chosen, (count,)."""
    partner = torch.randperm(count, generator=generator)
    chosen = torch.rand(count, generator=generator) < chance
    seed = int(torch.randint(2**62, (), generator=generator))  # torch draws no Beta from a generator of its own
    share = np.random.default_rng(seed).beta(alpha, alpha, count)
    return partner, torch.from_numpy(share).float(), chosen

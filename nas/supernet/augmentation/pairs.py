"""Pairs of images of a batch, which are mixed: what mixup and CutMix have in common."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nas.supernet.augmentation.base import check_chance
from search_spaces.base.errors import InvalidValueError


def check_pairs(alpha: float, chance: float) -> None:
    """Refuse pairs that cannot be drawn, see `drawn_pairs`.

    Raises:
        InvalidValueError: ``alpha`` is not positive, or ``chance`` is no share.
    """
    check_chance(chance)
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

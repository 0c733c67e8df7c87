"""Random horizontal flips."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nas.supernet.augmentation.base import Changes, ForAll, scaled
from search_spaces.base.errors import InvalidValueError


@dataclass(frozen=True)
class Flip(ForAll):
    """Left and right of some images swapped.

    Args:
        chance: share of the images.
    """

    chance: float = 0.5

    def __post_init__(self) -> None:
        check_chance(self.chance)

    def draw(self, changes: Changes, generator: torch.Generator) -> Changes:
        flipped = torch.rand(changes.count, generator=generator) < self.chance
        one, none = torch.ones(changes.count), torch.zeros(changes.count)
        return changes.moved(scaled(torch.where(flipped, -one, one), one, none, none))


def check_chance(chance: float) -> None:
    """Refuse what is no share.

    Raises:
        InvalidValueError: it is not in (0, 1].
    """
    if not 0 < chance <= 1:
        raise InvalidValueError(f"`chance` must be in (0, 1], but got {chance}.")

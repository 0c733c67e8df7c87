"""Random horizontal flips."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nas.supernet.augmentation.base import Changes, ForAll, check_chance, scaled


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

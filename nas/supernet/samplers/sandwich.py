"""The sandwich rule: the biggest network, the smallest, and random ones between them.

Yu and Huang, "Universally Slimmable Networks", ICCV 2019, arXiv:1903.05134; Yu et al., "BigNAS: Scaling Up Neural
Architecture Search with Big Single-Stage Models", ECCV 2020, arXiv:2003.11142.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nas.supernet.samplers.base import Memoryless, Probe, State
from search_spaces.base.errors import InvalidValueError

if TYPE_CHECKING:
    from nas.supernet.region import Region
    from search_spaces.architecture import Architecture


@dataclass(frozen=True)
class Sandwich(Memoryless):
    """The biggest and the smallest network of every step, with random ones beside them.

    Args:
        random: how many random ones.
    """

    random: int = 2

    def __post_init__(self) -> None:
        if self.random < 0:
            raise InvalidValueError(f"`random` of the sandwich rule must be at least 0, but got {self.random}.")

    @property
    def per_step(self) -> float:
        return 2 + self.random

    def draw(self, region: Region, state: State, rng: np.random.Generator, probe: Probe) -> list[Architecture]:
        return [region.biggest, region.smallest, *region.draw(self.random, rng)]

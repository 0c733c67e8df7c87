"""Uniform sampling of single paths.

Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020, arXiv:1904.00420.
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
class SinglePath(Memoryless):
    """Random networks, each choice uniform over its values.

    Args:
        networks: how many share a step; the paper takes one.
    """

    networks: int = 1

    def __post_init__(self) -> None:
        if self.networks < 1:
            raise InvalidValueError(f"`networks` of single paths must be at least 1, but got {self.networks}.")

    @property
    def per_step(self) -> float:
        return self.networks

    def draw(self, region: Region, state: State, rng: np.random.Generator, probe: Probe) -> list[Architecture]:
        return region.draw(self.networks, rng)

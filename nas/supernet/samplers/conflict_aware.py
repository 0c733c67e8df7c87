"""Complexity-aware sampling: networks of adjacent complexity in adjacent steps, as the gradients of networks of very
different complexity disagree.

Tang et al., "ElasticViT: Conflict-aware Supernet Training for Deploying Fast Vision Transformer on Diverse Mobile
Devices", ICCV 2023, arXiv:2303.09730. As there, each level of complexity has a smallest network of its own in place of
the one smallest network of all, and the biggest network is not trained at every step. Levels are taken one after the
other, up and down again, both ends twice in a row, so that each is trained as often. Their random walk, which stays at
an end two times out of three, does so on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nas.supernet.samplers.base import Memoryless, Probe, State
from nas.supernet.samplers.complexity import Levels
from search_spaces.architecture import Architecture
from search_spaces.base.errors import InvalidValueError

if TYPE_CHECKING:
    from nas.supernet.region import Region


@dataclass(frozen=True)
class ConflictAware(Memoryless):
    """Random networks of one level of complexity, the next level in the next step.

    Multiply-accumulates of networks of adjacent steps differ by at most 2 / levels of their range, where no level in
    between is empty.

    Args:
        networks: per step; from two on, the last is the smallest of the level.
        levels: that the range of multiply-accumulates is cut into.
    """

    networks: int = 2
    levels: int = 20

    def __post_init__(self) -> None:
        if self.networks < 1:
            raise InvalidValueError(f"`networks` of a step must be at least 1, but got {self.networks}.")
        if self.levels < 1:
            raise InvalidValueError(f"`levels` of complexity must be at least 1, but got {self.levels}.")

    @property
    def per_step(self) -> float:
        return self.networks

    def init(self, region: Region) -> State:
        return {**Levels.of(region, self.levels).to_state(), "step": np.array(0)}

    def draw(self, region: Region, state: State, rng: np.random.Generator, probe: Probe) -> list[Architecture]:
        levels = Levels.from_state(state)
        level = there_and_back(int(state["step"]), len(levels))
        smallest = levels.cheapest[level][None][: self.networks - 1]
        genes = np.concatenate([levels.draw(region, level, self.networks - len(smallest), rng), smallest])
        return [Architecture(region.space, row) for row in genes]

    def tell(self, region: Region, state: State, drawn: Sequence[Architecture], losses: Sequence[float]) -> State:
        return {**state, "step": np.array(int(state["step"]) + 1)}


def there_and_back(step: int, count: int) -> int:
    """Number that a walk from 0 to count - 1 and back, a step longer at each end, has at a step."""
    at = step % (2 * count)
    return min(at, 2 * count - 1 - at)

"""Learning rates and momenta that suit the network of a step.

Jeon et al., "Subnet-Aware Dynamic Supernet Training for Neural Architecture Search", CVPR 2025, arXiv:2503.10740. Two
ideas:

* Complexity-aware learning rate: small networks converge sooner than large ones, and are rated too high for it. With
  the share s of the learning rate that the schedule leaves, a network is trained at s ** gamma. As in the authors'
  code, gamma falls with the logarithm of the number of parameters, along a straight line, from ``steepest`` for the
  smallest to 1 / ``steepest`` for the largest. Their schedule is ``power`` with exponent 1.
* Momentum separation: gradients of networks of different structure disagree, and make momentum noisy. Networks that
  take the same value of one choice have a state of the optimiser of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nas.supernet.samplers.base import Memoryless, Probe, State
from nas.supernet.samplers.complexity import LOOKED_AT, candidates
from search_spaces.architecture import Architecture
from search_spaces.base.errors import InvalidValueError
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from nas.supernet.region import Region


@dataclass(frozen=True)
class SubnetAware(Memoryless):
    """One random network per step, with a learning rate and a momentum of its kind.

    Args:
        steepest: gamma of the smallest network, the paper's 4; 1: all follow the schedule.
        separate: whether momenta are separate.
        choice: that says which networks share a momentum; null: of those that always matter, the first with the most
            values. The paper takes one at random.
    """

    steepest: float = 4.0
    separate: bool = True
    choice: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.steepest < math.inf:
            raise InvalidValueError(f"`steepest` must be a number of at least 1, but got {self.steepest}.")

    @property
    def per_step(self) -> float:
        return 1

    def init(self, region: Region) -> State:
        """Logarithms of the fewest and the most parameters, and the column of the separating choice."""
        genes = candidates(region, LOOKED_AT, np.random.default_rng(0))
        found = region.params(genes)
        ends = np.log([max(found.min(), 1.0), max(found.max(), 1.0)])
        return {"ends": ends, "column": np.array(separating(region.space, self.choice))}

    def draw(self, region: Region, state: State, rng: np.random.Generator, probe: Probe) -> list[Architecture]:
        return region.draw(1, rng)

    def groups(self, region: Region, state: State) -> int:
        return int(region.space.cardinalities[int(state["column"])]) if self.separate else 1

    def group(self, region: Region, state: State, drawn: Sequence[Architecture]) -> int:
        return int(drawn[0].genes[int(state["column"])]) if self.separate else 0

    def decay(self, region: Region, state: State, drawn: Sequence[Architecture]) -> float:
        low, high = map(float, state["ends"].astype(np.float64))
        if low == high:
            return 1.0
        count = float(region.params(drawn[0].genes[None])[0])
        share = min(max((math.log(max(count, 1.0)) - low) / (high - low), 0.0), 1.0)
        return self.steepest + (1 / self.steepest - self.steepest) * share


def separating(space: SearchSpace, name: str | None) -> int:
    """Column of the choice whose values separate momenta.

    Raises:
        InvalidValueError: the space has no choice of that name.
    """
    if name is not None:
        if name not in space.index:
            raise InvalidValueError(f"`choice` must be one of {', '.join(space.index)}, but got {name!r}.")
        return space.index[name]
    counts = [len(choice.values) if choice.active_when is None else 0 for choice in space.choices]
    return int(np.argmax(counts))

"""Strict fairness: every value of every choice is trained equally often.

Chu et al., "FairNAS: Rethinking Evaluation Fairness of Weight Sharing Neural Architecture Search", ICCV 2021,
arXiv:1907.01845, section 3.2: a step trains as many networks as a choice has values, each value once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nas.supernet.samplers.base import Memoryless, Probe, State
from search_spaces.architecture import Architecture
from search_spaces.base.errors import InvalidValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nas.supernet.region import Region


@dataclass(frozen=True)
class Fair(Memoryless):
    """Networks whose choices take all their values in turn, in random order.

    The counts of a choice's values never differ by more than one. They are equal after every step where the number of
    values divides the number of networks, and otherwise whenever all values had their turn. A choice that only some
    networks have, such as the kernel of a block that shallower networks lack, takes its turns in those alone.

    Args:
        networks: how many share a step; the paper's is the number of values, 6.
    """

    networks: int = 6

    def __post_init__(self) -> None:
        if self.networks < 1:
            raise InvalidValueError(f"`networks` of the fair sampler must be at least 1, but got {self.networks}.")

    @property
    def per_step(self) -> float:
        return self.networks

    def init(self, region: Region) -> State:
        """Counts (choices, values) of how often each value was drawn."""
        cardinalities = region.space.cardinalities
        return {"counts": np.zeros((len(cardinalities), int(cardinalities.max())), np.int64)}

    def draw(self, region: Region, state: State, rng: np.random.Generator, probe: Probe) -> list[Architecture]:
        space, counts = region.space, state["counts"]
        genes = np.zeros((self.networks, len(space.choices)), np.int16)
        for column in range(len(space.choices)):
            rows = np.flatnonzero(space.active(genes)[:, column])  # its conditions are on choices before it
            values = region.values(column)
            genes[rows, column] = _dealt(values, counts[column, values], len(rows), rng)
        return [Architecture(space, row) for row in space.canonical(genes)]

    def tell(self, region: Region, state: State, drawn: Sequence[Architecture], losses: Sequence[float]) -> State:
        genes = np.stack([architecture.genes for architecture in drawn])
        rows, columns = np.nonzero(region.space.active(genes))
        counts = state["counts"].copy()
        np.add.at(counts, (columns, genes[rows, columns]), 1)
        return {"counts": counts}


def _dealt(
    values: NDArray[np.int16], counts: NDArray[np.generic], n: int, rng: np.random.Generator
) -> NDArray[np.int16]:
    """n values in random order, those first that were drawn least."""
    level = np.asarray(counts, np.int64)
    rounds: list[NDArray[np.int16]] = []
    while sum(len(one) for one in rounds) < n:
        rounds.append(rng.permutation(values[level == level.min()]))
        level = level + (level == level.min())
    return np.concatenate([*rounds, values[:0]])[:n]

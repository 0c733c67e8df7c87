"""Levels of complexity: the networks of a region by their multiply-accumulates, in intervals of equal width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nas.supernet.region import Region
    from nas.supernet.samplers.base import State
    from search_spaces.architecture import Genes

LOOKED_AT = 4096
"""Networks by which the range of complexities is found, and the levels that hold any."""

CANDIDATES = 256
"""Networks that are drawn at once, to find some of a level."""

ROUNDS = 4
"""Times that candidates are drawn before the known network of a level is taken."""


@dataclass(frozen=True)
class Levels:
    """Intervals of complexity that hold networks.

    Args:
        floor: least multiply-accumulates of each, ascending, (levels,).
        width: of every interval.
        cheapest: the cheapest network known of each, (levels, choices).
    """

    floor: NDArray[np.float64]
    width: float
    cheapest: Genes

    @staticmethod
    def of(region: Region, count: int) -> Levels:
        """Levels of a region.

        Args:
            region: of the networks.
            count: intervals that the whole range is cut into; those without a network are left out.
        """
        genes = candidates(region, LOOKED_AT, np.random.default_rng(0))
        costs = region.macs(genes)
        order = np.argsort(costs, kind="stable")
        genes, costs = genes[order], costs[order]
        low, width = costs[0], max((costs[-1] - costs[0]) / count, 1.0)
        numbers, first = np.unique(np.minimum((costs - low) // width, count - 1), return_index=True)
        return Levels(low + numbers * width, float(width), genes[first])

    @staticmethod
    def from_state(state: State) -> Levels:
        """Levels that `to_state` gave."""
        return Levels(state["floor"].astype(np.float64), float(state["width"]), state["cheapest"].astype(np.int16))

    def to_state(self) -> dict[str, NDArray[np.generic]]:
        """Part of a sampler's memory."""
        return {"floor": self.floor, "width": np.array(self.width), "cheapest": self.cheapest}

    def __len__(self) -> int:
        return len(self.floor)

    def numbers(self, region: Region, genes: Genes) -> NDArray[np.intp]:
        """Level of each network (n, choices): the last whose interval begins at or below it, (n,)."""
        return self._of_costs(region.macs(genes))

    def _of_costs(self, costs: NDArray[np.float64]) -> NDArray[np.intp]:
        return np.maximum(np.searchsorted(self.floor, costs, side="right") - 1, 0)

    def draw(self, region: Region, level: int, n: int, rng: np.random.Generator) -> Genes:
        """n networks of a level, drawn at random, (n, choices); the known one where others are too rare."""
        found = region.space.validate(np.zeros((0, len(region.space.choices)), np.int16))
        for _ in range(ROUNDS):
            genes = candidates(region, CANDIDATES, rng)
            costs = region.macs(genes)
            within = (self._of_costs(costs) == level) & (costs <= self.floor[level] + self.width)
            found = np.concatenate([found, genes[within]])[:n]
            if len(found) == n:
                return found
        return np.concatenate([found, np.repeat(self.cheapest[level][None], n - len(found), 0)])


def candidates(region: Region, n: int, rng: np.random.Generator) -> Genes:
    """n networks spread over all complexities: uniform ones, of which a random share of the choices takes the value of
    the smallest network, or of the biggest, so that the ends of the range are not left out. (n, choices)"""
    genes = region.rows(n, rng)
    lean = rng.uniform(-1, 1, (n, 1))
    moved = rng.random(genes.shape) < np.abs(lean)
    ends = np.where(lean < 0, region.smallest.genes, region.biggest.genes)
    return region.space.canonical(np.where(moved, ends, genes).astype(np.int16))

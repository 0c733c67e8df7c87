"""Pareto tools on costs, all to be minimised; ranking and hypervolume are moocore's exact C code.

moocore: Lopez-Ibanez et al., https://multi-objective.github.io/moocore.
"""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]


def front(costs: Costs) -> NDArray[np.intp]:
    """Rows that no other row dominates, sorted by the last cost; of equal rows the first. Rows with NaN never count.

    Args:
        costs: shape (n, goals), minimised.
    """
    usable = np.flatnonzero(~np.isnan(costs).any(1))
    if not len(usable):
        return usable
    kept: NDArray[np.intp] = usable[moocore.is_nondominated(np.ascontiguousarray(costs[usable]), keep_weakly=False)]
    return kept[np.lexsort(costs[kept].T)]


def ranks(costs: Costs) -> NDArray[np.int64]:
    """Non-domination rank of each row, 0 for the front (Deb et al. 2002, fast-non-dominated-sort), shape (n,).

    Finite costs: moocore ranks rows with inf wrongly.
    """
    if not len(costs):
        return np.zeros(0, np.int64)
    return np.asarray(moocore.pareto_rank(np.ascontiguousarray(costs)), np.int64)


def crowding(costs: Costs) -> Costs:
    """Crowding distance of the rows of one rank (Deb et al. 2002, crowding-distance-assignment), shape (n,).

    Finite costs.
    """
    distance = np.zeros(len(costs))
    for column in costs.T if len(costs) else ():
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = np.inf
        if span > 0:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return distance


def hypervolume(costs: Costs, reference: Sequence[float] | Costs) -> float:
    """Volume dominated by the rows and bounded by the reference point; rows beyond it add nothing."""
    reference = np.asarray(reference, np.float64)
    inside = costs[(costs < reference).all(1)]
    return float(moocore.hypervolume(np.ascontiguousarray(inside), ref=reference)) if len(inside) else 0.0


def knee(costs: Costs) -> int:
    """Row of a front farthest below the line (plane) through its extremes, after scaling each cost to 0..1.

    Das, "On characterizing the 'knee' of the Pareto curve", 1999. Costs must not be empty.
    """
    low, high = costs.min(0), costs.max(0)
    scaled = (costs - low) / np.where(high > low, high - low, 1)
    return int(np.argmin(scaled.sum(1)))

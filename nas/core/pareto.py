"""Pareto tools on costs, all to be minimised; ranking and hypervolume are moocore's exact C code.

moocore: Lopez-Ibanez et al., https://multi-objective.github.io/moocore.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from search_spaces.base.errors import InvalidValueError
from search_spaces.metric import Direction, as_cost

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


def crowding(costs: Costs, rank: NDArray[np.int64] | None = None) -> Costs:
    """Crowding distance (Deb et al. 2002, crowding-distance-assignment), shape (n,).

    Finite costs.

    Args:
        costs: shape (n, goals).
        rank: of each row, shape (n,); distances are those within each rank. None: all rows are of one.
    """
    distance = np.zeros(len(costs))
    if not len(costs):
        return distance
    rank = np.zeros(len(costs), np.int64) if rank is None else rank
    small = rank.astype(np.int16) if rank.max() < 2**15 else rank  # numpy sorts these by radix
    for column in costs.T:
        order = column.argsort(kind="stable")
        order = order[small[order].argsort(kind="stable")]
        values, group = column[order], rank[order]
        first = np.concatenate(([True], group[1:] != group[:-1]))
        last = np.concatenate((first[1:], [True]))
        starts, ends = np.flatnonzero(first), np.flatnonzero(last)
        span = np.repeat(values[ends] - values[starts], ends - starts + 1)
        gap = np.zeros(len(costs))
        gap[1:-1] = values[2:] - values[:-2]
        distance[order] += np.where(first | last, np.inf, gap / np.where(span > 0, span, np.inf))
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


def costs_of(values: Costs, goals: Sequence[Direction | None]) -> Costs:
    """The columns of values (n, columns) that have a goal, all to be minimised, shape (n, goals).

    Args:
        values: in natural units.
        goals: the direction of each column; None: it is no goal.
    """
    signs = [as_cost(1.0, goal) for goal in goals if goal]
    return np.asarray(values[:, [bool(goal) for goal in goals]] * signs)


def attainment(fronts: Sequence[Costs], level: float) -> Costs:
    """The surface that at least a share of the fronts attains, such as those of several seeds.

    Fonseca and Fleming, "On the performance assessment and comparison of stochastic multiobjective optimizers", PPSN
    1996: a point is attained by a front that has a row which is nowhere worse.

    Args:
        fronts: of one run each, shape (n_i, goals), one to three goals; an empty one attains nothing, nor do rows with
            NaN.
        level: share of the fronts: 1 gives the worst surface, 0.5 the median, 1 / len(fronts) or less the best.

    Returns:
        The best points that so many fronts attain, shape (m, goals), sorted by the last cost.

    Raises:
        InvalidValueError: no front, more than three goals, or a level out of (0, 1].
    """
    if not 0 < level <= 1:
        raise InvalidValueError(f"`level` must be in (0, 1], but got {level}.")
    goals = {costs.shape[1] for costs in fronts}
    if len(goals) != 1 or not 1 <= (width := goals.pop()) <= 3:
        raise InvalidValueError(
            f"Attainment needs fronts of the same one to three goals, but got shapes {[c.shape for c in fronts]}."
        )
    found = [known for costs in fronts if len(known := costs[~np.isnan(costs).any(1)])]
    attaining = math.ceil(level * len(fronts) * (1 - 1e-12))  # 0.28 * 25 is a little more than 7
    if attaining > len(found):
        return np.zeros((0, width))
    points = np.concatenate(found)
    if width == 1:  # moocore takes two or three
        points = np.concatenate([points, np.zeros_like(points)], axis=1)
    of_front = np.repeat(np.arange(len(found)), [len(costs) for costs in found])
    surface = moocore.eaf(points, of_front, percentiles=[100 * attaining / len(found)])[:, :width]
    return np.asarray(surface[front(surface)])

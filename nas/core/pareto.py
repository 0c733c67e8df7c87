"""Pareto tools on costs, all to be minimised; ranking and hypervolume are moocore's exact C code.

What evolution ranks by takes tensors too, see `nas.core.arrays`.

moocore: Lopez-Ibanez et al., https://multi-objective.github.io/moocore.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from nas.core.arrays import CELLS, Array, beside, lexsort, namespace, on_host
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


SWEPT_GOALS = 3
"""Number of goals up to which moocore sorts faster than a GPU compares all pairs: 1e5 rows in 0.02 to 0.1 s."""
BLOCK = 1024
"""Most rows whose ranks are found together, by a comparison of each with each for every rank among them."""


def ranks(costs: Array) -> Array:
    """Non-domination rank of each row, 0 for the front (Deb et al. 2002, fast-non-dominated-sort), shape (n,).

    Finite costs: moocore ranks rows with inf wrongly.

    Args:
        costs: shape (n, goals), minimised; an array or a tensor.
    """
    if not isinstance(costs, np.ndarray) and costs.shape[1] > SWEPT_GOALS:
        return _ranks_of_pairs(costs)
    if not len(costs):
        return beside(costs, np.zeros(0, np.int64))
    rank = moocore.pareto_rank(np.ascontiguousarray(on_host(costs)))
    return beside(costs, np.asarray(rank, np.int64))


def _ranks_of_pairs(costs: Array) -> Array:
    """`ranks` as lengths of chains: 1 more than the largest rank that dominates a row.

    In lexicographic order rows are dominated by earlier ones only, so blocks of rows are ranked one after the other,
    and `CELLS` pairs are in memory at a time.
    """
    xp, n = namespace(costs), len(costs)
    rank = xp.zeros(n, dtype=xp.int64, device=costs.device)
    if not n:
        return rank
    order = lexsort([costs[:, goal] for goal in reversed(range(costs.shape[1]))])
    rows = costs[order]
    first = xp.concat([xp.ones_like(rank[:1], dtype=xp.bool), xp.any(rows[1:] != rows[:-1], axis=1)])
    rows = rows[first]  # each once, so that "nowhere worse" is "dominates"
    found = xp.zeros(len(rows), dtype=xp.int32, device=costs.device)
    step = max(1, min(BLOCK, CELLS // len(rows)))
    for start in range(0, len(rows), step):
        block = slice(start, min(start + step, len(rows)))
        least = _above(found[:start], nowhere_worse(rows[:start], rows[block]))
        within = xp.tril(nowhere_worse(rows[block], rows[block]), k=-1)
        longer = least
        while True:
            now, longer = longer, xp.maximum(least, _above(longer, within))
            if bool(xp.all(now == longer)):
                break
        found[block] = longer
    rank[order] = xp.astype(found[xp.cumulative_sum(xp.astype(first, xp.int64)) - 1], xp.int64)
    return rank


def nowhere_worse(rows: Array, than: Array) -> Array:
    """Mask (m, n): row j of (n, goals) is nowhere worse than row i of (m, goals)."""
    mask = rows[None, :, 0] <= than[:, None, 0]
    for goal in range(1, rows.shape[1]):
        mask &= rows[None, :, goal] <= than[:, None, goal]
    return mask


def _above(rank: Array, dominated: Array) -> Array:
    """One more than the largest of the ranks (n,) by which each row of the mask (m, n) is dominated, 0 if none."""
    xp = namespace(rank)
    if not len(rank):
        return xp.zeros(len(dominated), dtype=rank.dtype, device=rank.device)
    return xp.max(xp.where(dominated, rank + 1, 0), axis=1)


def crowding(costs: Array, rank: Array | None = None) -> Array:
    """Crowding distance (Deb et al. 2002, crowding-distance-assignment), shape (n,).

    Finite costs.

    Args:
        costs: shape (n, goals), minimised; an array or a tensor.
        rank: of each row, shape (n,); distances are those within each rank. None: all rows are of one.
    """
    xp, n = namespace(costs), len(costs)
    distance = xp.zeros(n, dtype=xp.float64, device=costs.device)
    if not n:
        return distance
    rank = xp.zeros(n, dtype=xp.int64, device=costs.device) if rank is None else rank
    small = xp.astype(rank, xp.int16) if xp.max(rank) < 2**15 else rank  # sorted by radix
    end = xp.ones_like(rank[:1], dtype=xp.bool)
    for goal in range(costs.shape[1]):
        column = costs[:, goal]
        order = xp.argsort(column, stable=True)
        order = order[xp.argsort(small[order], stable=True)]
        values, group = column[order], rank[order]
        first = xp.concat([end, group[1:] != group[:-1]])
        last = xp.concat([first[1:], end])
        starts, ends = xp.nonzero(first)[0], xp.nonzero(last)[0]
        span = xp.repeat(values[ends] - values[starts], ends - starts + 1)
        gap = xp.zeros_like(values)
        gap[1:-1] = values[2:] - values[:-2]
        distance[order] += xp.where(first | last, xp.inf, gap / xp.where(span > 0, span, xp.inf))
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

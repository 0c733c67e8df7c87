"""Several goals as one number, and directions in the space of goals: what decomposing searchers share."""

from __future__ import annotations

import functools
from math import comb

import numpy as np
from numpy.typing import NDArray

from nas.core import pareto
from nas.core.arrays import Array, namespace, sum_of_columns
from nas.core.pareto import Costs
from nas.core.seen import ROWS

FAR = 1e9
"""Scaled cost of what a device cannot run."""


def lattice(goals: int, divisions: int) -> Costs:
    """All weights (n, goals) that are multiples of 1 / divisions and add up to 1.

    Das & Dennis, "Normal-Boundary Intersection", SIAM J. Optim. 8(3), 1998.
    """
    parts = np.zeros((1, 0), np.int64)
    for _ in range(goals - 1):
        sizes = divisions - parts.sum(1) + 1
        starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
        parts = np.column_stack([np.repeat(parts, sizes, axis=0), np.arange(sizes.sum()) - starts])
    return np.column_stack([parts, divisions - parts.sum(1)]) / divisions


@functools.lru_cache(maxsize=16)
def directions(goals: int, most: int) -> Costs:
    """The finest lattice of at most ``most`` weights, at least one per goal, shape (n, goals); not to be written to.

    Where the lattice has no point within (divisions < goals), a second, half as large, lies around the centre
    (Deb & Jain 2014, section V).
    """

    def finest(most: int) -> int:
        divisions = 1
        while goals > 1 and comb(divisions + goals, goals - 1) <= most:
            divisions += 1
        return divisions

    divisions = finest(most)
    found = lattice(goals, divisions)
    if 1 < goals and divisions < goals and 2 * goals <= most:
        outer = lattice(goals, finest(most // 2))
        found = np.concatenate([outer, (outer + 1 / goals) / 2])
    found.flags.writeable = False
    return found


def bounds(costs: Costs) -> tuple[Costs, Costs]:
    """Ideal and nadir point of the rows' front, each (goals,); finite costs, at least one row."""
    best = costs[pareto.front(costs)]
    return best.min(0), best.max(0)


def scaled(costs: Costs, ideal: Costs, nadir: Costs) -> Costs:
    """Costs (n, goals) from 0 at the ideal to 1 at the nadir point; never below 0, and finite."""
    span = np.where(nadir > ideal, nadir - ideal, 1.0)
    return np.asarray(np.clip((costs - ideal) / span, 0.0, FAR))


def scaled_by_front(costs: Costs, violations: NDArray[np.float64]) -> Costs:
    """Costs (n, goals) scaled by the front of the feasible rows; by that of all finite rows, where none is feasible."""
    usable = np.isfinite(costs).all(1)
    if not usable.any():
        return np.full(costs.shape, FAR)
    feasible = usable & (violations == 0)
    ideal, nadir = bounds(costs[feasible if feasible.any() else usable])
    return scaled(costs, ideal, nadir)


def tchebycheff(costs: Costs, weights: Costs) -> NDArray[np.float64]:
    """Largest weighted cost, and a little of their sum, which breaks ties; of scaled costs (..., goals), shape (...).

    The augmented Tchebycheff function; Steuer & Choo, Math. Programming 26, 1983.
    """
    weighted = costs * weights
    return np.asarray(weighted.max(-1) + 0.05 * weighted.sum(-1))


def nearest_mates(costs: Array, first: Array, candidates: Array) -> Array:
    """Nearest of each row's candidates (n, k) to the first parent (n,) in scaled costs; itself only if alone.

    Arrays or tensors. Ishibuchi & Shibata, "An Empirical Study on the Effect of Mating Restriction on the Search
    Ability of EMO Algorithms", EMO 2003.
    """
    xp, mates = namespace(costs), namespace(costs).zeros_like(first)
    for start in range(0, len(first), ROWS):
        rows = slice(start, start + ROWS)
        offsets = costs[candidates[rows]] - costs[first[rows]][:, None]
        alone = candidates[rows] == first[rows][:, None]
        distance = xp.where(alone, xp.inf, sum_of_columns(offsets * offsets))
        mates[rows] = xp.take_along_axis(candidates[rows], xp.argmin(distance, axis=1)[:, None], axis=1)[:, 0]
    return mates

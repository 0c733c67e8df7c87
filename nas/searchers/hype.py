"""HypE: elitist evolution by non-domination rank and by what a network adds to the hypervolume, estimated.

Bader & Zitzler, "HypE: An Algorithm for Fast Hypervolume-Based Many-Objective Optimization", Evolutionary Computation
19(1), 2011.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.core import pareto
from nas.core.arrays import CELLS, Array, beside, namespace, on_host, placed
from nas.core.problem import Problem, Values
from nas.core.searcher import State
from nas.searchers.nsga2 import NSGA2
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError

EXACT_GOALS = 3
"""Number of goals up to which the hypervolume is not sampled (the paper's)."""
EXACT_CELLS = 2**22
"""Most cells of the grid through all costs that an exact hypervolume is summed over: a tenth of a second."""
MARGIN = 0.2
"""Distance of the reference point from the worst costs, as a share of the costs' range."""
UNIT = 2.0**62
"""Whole box in integers: sums of parts of it do not depend on their order."""


@dataclass(frozen=True)
class HypE(NSGA2):
    """Binary tournaments by hypervolume, uniform crossover, mutation by redrawing; limits by constrained domination.

    The fitness of a network is the hypervolume that is lost, in expectation, with it and k - 1 others that are drawn by
    lot, I_h^k. Of the last rank that survives in part the networks with the least are removed, in `rounds` rounds; the
    paper removes one at a time.

    Args:
        population, crossover, mutations, mates, initial, device: as of `NSGA2`.
        samples: points at which the hypervolume is estimated, where it is not worked out: of more than `EXACT_GOALS`
            goals, or of more networks than `EXACT_CELLS` allow.
        rounds: how often the fitness is worked out anew while networks are removed; the population or more: after each.
    """

    samples: int = 10_000
    rounds: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1 or self.rounds < 1:
            raise InvalidValueError(f"HypE needs samples >= 1 and rounds >= 1, but got {self}.")

    def init(self, problem: Problem) -> State:
        """``generation``: how often it was told, so that each generation has samples of its own."""
        return {**super().init(problem), "generation": np.array(0)}

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        pool = np.concatenate([state["genes"], genes])
        pool_values = np.concatenate([state["values"], values])
        costs, violations = placed(self.device, problem.costs(pool_values), problem.violations(pool_values))
        generation = int(state["generation"])
        kept = on_host(self._survivors(costs, violations, generation))
        return {"genes": pool[kept], "values": pool_values[kept], "generation": np.array(generation + 1)}

    def _survivors(self, costs: Array, violations: Array, generation: int) -> Array:
        """Rows that survive, at most ``population``, best first."""
        xp = namespace(costs)
        feasible = xp.nonzero(violations == 0)[0]
        rank = pareto.ranks(costs[feasible])
        if len(feasible) > self.population:
            last = xp.sort(rank)[self.population - 1]
            sure, candidates = feasible[rank < last], feasible[rank == last]
            left = self._reduced(costs[candidates], self.population - len(sure), generation)
            feasible = xp.concat([sure, candidates[left]])
        others = xp.nonzero(violations > 0)[0]
        others = others[xp.argsort(violations[others], stable=True)][: self.population - len(feasible)]
        fitness = shared_hypervolume(costs[feasible], len(feasible), self.samples, generation)
        return xp.concat([feasible[xp.argsort(-fitness, stable=True)], others])

    def _reduced(self, costs: Array, n: int, generation: int) -> Array:
        """n of the rows (m, goals), ascending: round by round those of the least fitness are removed."""
        xp = namespace(costs)
        left = xp.arange(len(costs), device=costs.device)
        for rounds_left in range(min(self.rounds, len(costs) - n), 0, -1):
            excess = len(left) - n
            fitness = shared_hypervolume(costs[left], excess, self.samples, generation)
            removed = -(-excess // rounds_left)
            left = xp.sort(left[xp.argsort(fitness, stable=True)[removed:]])
        return left


def shared_hypervolume(costs: Array, k: int, samples: int, generation: int = 0) -> Array:
    """Expected loss of hypervolume I_h^k of each row, as a share of the box that bounds it, shape (n,).

    The box reaches from the best costs of all rows to a little beyond the worst. Up to `EXACT_GOALS` goals the loss is
    worked out, where the grid is small enough, and otherwise estimated.

    Args:
        costs: finite, shape (n, goals), minimised; an array or a tensor.
        k: rows that are removed, 1 to n.
        samples: points of an estimate.
        generation: which samples to take.
    """
    xp, (n, goals) = namespace(costs), costs.shape
    if not n:
        return costs[:, 0]
    low, high = xp.min(costs, axis=0), xp.max(costs, axis=0)
    span = xp.where(high > low, high - low, 1.0)
    costs = (costs - low) / span / (1 + MARGIN)  # the reference point at 1
    shares = beside(costs, loss_shares(n, k))
    if goals <= EXACT_GOALS and n**goals <= EXACT_CELLS:
        return _exact(costs, shares)
    return _sampled(costs, shares, samples, generation)


def loss_shares(n: int, k: int) -> NDArray[np.float64]:
    """Share that a row has, by I_h^k, in a part of the volume that i of n rows dominate: alpha_i / i, for 0 <= i <= n.

    Alpha_i, the product of (k - j) / (n - j) over 0 < j < i, is the probability that the i - 1 other rows are among the
    k - 1 that are removed with the first.
    """
    i = np.arange(1, n)
    alpha = np.cumprod(np.concatenate([[1.0], np.maximum(k - i, 0) / (n - i)]))
    return np.concatenate([[0.0], alpha / np.arange(1, n + 1)])


def _exact(costs: Array, shares: Array) -> Array:
    """Sum over the cells of the grid through all costs, those of the last goal slab by slab."""
    xp, (n, goals) = namespace(costs), costs.shape
    axes = [xp.unique_inverse(costs[:, goal]) for goal in range(goals)]
    while len(axes) < EXACT_GOALS:
        axes.append(xp.unique_inverse(xp.zeros_like(costs[:, 0])))
    widths = [xp.concat([axis.values[1:], xp.ones_like(axis.values[:1])]) - axis.values for axis in axes]
    x, y, z = (axis.inverse_indices for axis in axes)
    area = widths[0][:, None] * widths[1][None, :]
    loss = xp.zeros(n, dtype=xp.int64, device=costs.device)
    for slab in range(len(widths[2])):
        below = xp.nonzero(z <= slab)[0]
        places = xp.unique_counts(x[below] * len(widths[1]) + y[below])
        count = xp.zeros(area.shape[0] * area.shape[1], dtype=xp.int64, device=costs.device)
        count[places.values] = xp.astype(places.counts, xp.int64)
        count = xp.cumulative_sum(xp.cumulative_sum(xp.reshape(count, area.shape), axis=0), axis=1)
        part = xp.astype(xp.round(shares[count] * (area * widths[2][slab]) * UNIT), xp.int64)
        beyond = xp.flip(xp.cumulative_sum(xp.cumulative_sum(xp.flip(part), axis=0), axis=1))
        loss[below] += beyond[x[below], y[below]]
    return xp.astype(loss, xp.float64) / UNIT


def _sampled(costs: Array, shares: Array, samples: int, generation: int) -> Array:
    """Mean over points of the box: each gives its share to the rows that dominate it.

    The points are a Kronecker sequence that goes on from generation to generation, more even than random ones, so that
    no generator is needed: multiples of the powers of 1 / r, modulo 1, where r^(goals + 1) = r + 1.
    """
    xp, (n, goals) = namespace(costs), costs.shape
    ratio = 2.0
    for _ in range(64):
        ratio = (1 + ratio) ** (1 / (goals + 1))
    numbers = np.arange(generation * samples, (generation + 1) * samples)[:, None]
    points = beside(costs, (0.5 + numbers * ratio ** -np.arange(1.0, goals + 1)) % 1)
    unit = 2.0 ** np.floor(52 - np.log2(samples))  # sums of integers below 2^53 are exact in any order
    whole = xp.round(shares * unit)
    total = xp.zeros(n, dtype=xp.float64, device=costs.device)
    step = max(1, CELLS // (4 * n))
    for start in range(0, samples, step):
        block = points[start : start + step]
        dominated = xp.astype(pareto.nowhere_worse(costs, block), xp.float64)  # (points, n)
        count = xp.astype(xp.sum(dominated, axis=1), xp.int64)
        total = total + whole[count] @ dominated
    return total / (unit * samples)

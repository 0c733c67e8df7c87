"""MOEA/D: one scalar subproblem per direction; neighbouring subproblems breed with each other and share what they find.

Zhang & Li, "MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition", IEEE Trans. Evol. Comput. 11(6),
2007. How many neighbours a child may replace, and parents from outside: Li & Zhang, "Multiobjective Optimization
Problems With Complicated Pareto Sets, MOEA/D and NSGA-II", ibid. 13(2), 2009. A whole generation is told at once, so a
child goes to the subproblem that it fits best, and to its neighbours: Wang et al., "Adaptive Replacement Strategies for
MOEA/D", IEEE Trans. Cybern. 46(2), 2016.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from nas.core.arrays import Array, Device, check_device, lexsort, namespace, on_host, placed
from nas.core.pareto import Costs
from nas.core.problem import Problem, Values
from nas.core.searcher import State, no_networks
from nas.searchers._scalar import directions, scaled_by_front
from nas.searchers._variation import Initial, breed, check_initial, first_generation
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError

LEAST_WEIGHT = 1e-6


@dataclass(frozen=True)
class MOEAD:
    """Tchebycheff subproblems max((f - ideal) / weight), one member each; fewer violated limits beat a better value.

    Goals are scaled by the ideal and nadir point of the members' front. With one goal there is one subproblem, and this
    is a (1 + population) evolution.

    Args:
        population: children of each generation; also the most subproblems.
        neighbours: subproblems that parents come from, and that a child is offered to.
        replaced: members that a child replaces at most.
        outside: probability that the parents come from all subproblems.
        crossover: probability that a child has two parents.
        mutations: genes redrawn per child, on average; a child that equals a member or another child has one change
            more.
        initial: how the first generation is drawn, see `first_generation`.
        device: where members are compared with children, for the largest populations ``cuda``; results are the same.
    """

    population: int = 100
    neighbours: int = 20
    replaced: int = 2
    outside: float = 0.1
    crossover: float = 0.9
    mutations: float = 0.5
    initial: Initial = "spread"
    device: Device = field(default="cpu", repr=False)  # no part of what a search is known by

    def __post_init__(self) -> None:
        if not 1 <= self.replaced <= self.neighbours <= self.population:
            raise InvalidValueError(f"MOEAD needs 1 <= replaced <= neighbours <= population, but got {self}.")
        if not 0 <= self.outside <= 1 or not 0 <= self.crossover <= 1 or self.mutations < 0:
            raise InvalidValueError(f"MOEAD needs outside and crossover in 0..1 and mutations >= 0, but got {self}.")
        check_initial("MOEAD", self.initial)
        check_device("MOEAD", self.device)

    @property
    def batch(self) -> int:
        return self.population

    def init(self, problem: Problem) -> State:
        """``genes``, ``values``: the members, row i that of subproblem i."""
        return no_networks(problem)

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        genes = state["genes"]
        if not len(genes):
            return first_generation(problem, self.initial, n, rng)
        _, near = _subproblems(_goals(problem), self.population, self.neighbours)
        own = np.resize(rng.permutation(len(genes)), n)  # each subproblem in turn
        columns = rng.integers(0, near.shape[1], (2, n))
        drawn = np.where(rng.random(n) < self.outside, rng.integers(0, len(genes), (2, n)), near[own, columns])
        first, second = genes[drawn]
        return breed(problem.space, first, second, genes, rng, crossover=self.crossover, mutations=self.mutations)

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        weights, near = _subproblems(_goals(problem), self.population, self.neighbours)
        members = state["genes"], state["values"]
        if not len(members[0]):  # members are random at first
            turns = np.arange(len(weights)) % len(genes)
            members = genes[turns], values[turns]
        pool = np.concatenate([members[0], genes])
        pool_values = np.concatenate([members[1], values])
        violations = problem.violations(pool_values)
        costs = scaled_by_front(problem.costs(pool_values), violations)
        offers = near[_nearest(costs[len(weights) :], weights)]  # (children, neighbours)
        costs, violations, weights, offers = placed(self.device, costs, violations, weights, offers)
        kept = on_host(_kept(costs, violations, weights, offers, self.replaced))
        return {"genes": pool[kept], "values": pool_values[kept]}


def _kept(costs: Array, violations: Array, weights: Array, offers: Array, replaced: int) -> Array:
    """Row of the pool (subproblems,) that each subproblem has from now on.

    Args:
        costs: scaled, of the members and then of the children, shape (subproblems + children, goals).
        violations: of the same rows, shape (subproblems + children,).
        weights: of the subproblems, shape (subproblems, goals).
        offers: subproblems that each child is offered to: the one that it fits best and its neighbours, nearest first,
            shape (children, neighbours).
        replaced: members that a child replaces at most.
    """
    xp, n = namespace(costs), len(weights)
    old = xp.arange(n, device=costs.device)
    value = xp.max(costs[n:][:, None] / weights[offers], axis=2)
    current = xp.max(costs[:n] / weights, axis=1)
    exceeded, by = violations[n:][:, None], violations[:n][offers]
    accepted = (exceeded < by) | ((exceeded == by) & (value < current[offers]))
    accepted &= xp.cumulative_sum(xp.astype(accepted, xp.int64), axis=1) <= replaced

    # Each subproblem keeps the best of its member and of what it accepted.
    child, offer = xp.nonzero(accepted)
    rows = xp.concat([old, n + child])
    subproblems = xp.concat([old, offers[child, offer]])
    order = lexsort([xp.concat([current, value[child, offer]]), violations[rows], subproblems])
    best = xp.searchsorted(subproblems[order], old)  # the first of each
    return rows[order[best]]


def _goals(problem: Problem) -> int:
    return sum(1 for objective in problem.objectives if objective.goal)


@functools.lru_cache(maxsize=4)
def _subproblems(goals: int, most: int, neighbours: int) -> tuple[Costs, NDArray[np.intp]]:
    """Weights (n, goals) of the subproblems, and of each one the nearest, itself first, shape (n, neighbours)."""
    weights = np.maximum(directions(goals, most), LEAST_WEIGHT)
    near = cKDTree(weights).query(weights, min(neighbours, len(weights)))[1]
    return weights, np.asarray(near, np.intp).reshape(len(weights), -1)


def _nearest(costs: Costs, weights: Costs) -> NDArray[np.intp]:
    """The subproblem (n,) whose optimum lies where each of the scaled costs (n, goals) does."""
    total = costs.sum(1, keepdims=True)
    towards = np.where(total > 0, costs / np.where(total > 0, total, 1), 1 / costs.shape[1])
    return np.asarray(cKDTree(weights).query(towards)[1], np.intp)

"""NSGA-III: elitist evolution that spreads over reference directions, made for three goals and more.

Deb & Jain, "An Evolutionary Many-Objective Optimization Algorithm Using Reference-Point-Based Nondominated Sorting
Approach, Part I", and Jain & Deb, Part II (limits), IEEE Trans. Evol. Comput. 18(4), 2014.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import cKDTree

from nas.core import pareto
from nas.core.arrays import Array, Device, beside, check_device, lexsort, namespace, on_host, placed
from nas.core.pareto import Costs
from nas.core.problem import Problem, Values
from nas.core.searcher import State, no_networks
from nas.searchers._scalar import directions, nearest_mates, scaled, scaled_by_front
from nas.searchers._variation import Initial, breed, check_initial, first_generation
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError

SMALL = 1e-6
"""Weight of the other goals in the search for extreme points (Part I, equation 4)."""


@dataclass(frozen=True)
class NSGA3:
    """Random parents (of an infeasible one and a better one the better), survival by rank and niche.

    The paper draws lots where several directions, or several networks of a direction, are equally in need; here the
    network nearest to its direction comes first, so that survival needs no randomness.

    Args:
        population: survivors of each generation; also the most reference directions.
        crossover: probability that a child has two parents.
        mutations: genes redrawn per child, on average; a child that equals a survivor or another child has one change
            more.
        mates: candidates for the second parent, of which the one nearest to the first in scaled goals is taken (mating
            restriction, Ishibuchi & Shibata 2003); 1: the paper's.
        initial: how the first generation is drawn, see `first_generation`.
        device: where survivors and mates are worked out, for the largest populations ``cuda``; results are the same.
    """

    population: int = 100
    crossover: float = 0.9
    mutations: float = 0.5
    mates: int = 5
    initial: Initial = "spread"
    device: Device = field(default="cpu", repr=False)  # no part of what a search is known by

    def __post_init__(self) -> None:
        if self.population < 4 or not 0 <= self.crossover <= 1 or self.mutations < 0 or self.mates < 1:
            raise InvalidValueError(
                f"NSGA3 needs population >= 4, 0 <= crossover <= 1, mutations >= 0 and mates >= 1, but got {self}."
            )
        check_initial("NSGA3", self.initial)
        check_device("NSGA3", self.device)

    @property
    def batch(self) -> int:
        return self.population

    def init(self, problem: Problem) -> State:
        """``ideal`` (goals,): least costs so far; ``extremes`` (goals, goals): costs of the front's ends so far."""
        goals = sum(1 for objective in problem.objectives if objective.goal)
        return {
            **no_networks(problem),
            "ideal": np.full(goals, np.inf),
            "extremes": np.full((goals, goals), np.inf),
        }

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        genes = state["genes"]
        if len(genes) < self.population:
            return first_generation(problem, self.initial, n, rng)
        violations = problem.violations(state["values"])
        drawn = rng.integers(0, len(genes), (1 + self.mates, n, 2))
        better = violations[drawn[..., 1]] < violations[drawn[..., 0]]
        winners = np.where(better, drawn[..., 1], drawn[..., 0])  # (1 + mates, n)
        first, second = winners[0], winners[1]
        if self.mates > 1:
            costs = scaled_by_front(problem.costs(state["values"]), violations)
            second = on_host(nearest_mates(*placed(self.device, costs, first, winners[1:].T)))
        return breed(
            problem.space,
            genes[first],
            genes[second],
            genes,
            rng,
            crossover=self.crossover,
            mutations=self.mutations,
        )

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        pool = np.concatenate([state["genes"], genes])
        pool_values = np.concatenate([state["values"], values])
        costs, violations = problem.costs(pool_values), problem.violations(pool_values)
        feasible = np.flatnonzero(violations == 0)
        ideal, extremes = state["ideal"], state["extremes"]
        if len(feasible):
            rank = pareto.ranks(*placed(self.device, costs[feasible]))
            best = costs[feasible[on_host(rank == 0)]]
            ideal = np.minimum(ideal, best.min(0))
            extremes = _extremes(np.concatenate([extremes[np.isfinite(extremes).all(1)], best]), ideal)
        if len(feasible) <= self.population:
            kept = np.argsort(violations, kind="stable")[: self.population]
        else:
            (scaled_costs,) = placed(self.device, scaled(costs[feasible], ideal, _nadir(extremes, best, ideal)))
            kept = feasible[on_host(_survivors(scaled_costs, rank, self.population))]
        return {"genes": pool[kept], "values": pool_values[kept], "ideal": ideal, "extremes": extremes}


def _extremes(costs: Costs, ideal: Costs) -> Costs:
    """Row nearest to the axis of each goal, by the achievement scalarising function (equation 4); (goals, goals)."""
    weights = np.where(np.eye(len(ideal), dtype=bool), 1.0, 1 / SMALL)
    return np.stack([costs[((costs - ideal) * axis).max(1).argmin()] for axis in weights])


def _nadir(extremes: Costs, front: Costs, ideal: Costs) -> Costs:
    """Points where the plane through the extremes meets the axes; the front's worst, where there is no such plane."""
    worst: Costs = front.max(0)
    try:
        plane = np.linalg.solve(extremes - ideal, np.ones(len(ideal)))
    except np.linalg.LinAlgError:
        return worst
    if not (plane > 0).all():
        return worst
    return np.minimum(ideal + 1 / plane, worst)


def _survivors(costs: Array, rank: Array, n: int) -> Array:
    """n rows of scaled costs (m, goals): whole ranks, and of the last one those whose directions need them most.

    Algorithm 4 takes a row of the least crowded direction, again and again. A direction with c survivors gets its
    candidates when all have c, c + 1, ...; so one sort by that count gives the same rows.
    """
    xp = namespace(costs)
    last = xp.sort(rank)[n - 1]
    sure, candidates = xp.nonzero(rank < last)[0], xp.nonzero(rank == last)[0]
    needed = n - len(sure)
    if needed == len(candidates):
        return xp.concat([sure, candidates])
    considered = xp.concat([sure, candidates])
    nearest, distance = associate(costs[considered], directions(costs.shape[1], n))
    taken, niche, distance = xp.sort(nearest[: len(sure)]), nearest[len(sure) :], distance[len(sure) :]
    by_niche = lexsort([distance, niche])
    sorted_niche = niche[by_niche]
    place = xp.arange(len(niche), device=costs.device) - xp.searchsorted(sorted_niche, sorted_niche)
    survivors = xp.searchsorted(taken, sorted_niche, side="right") - xp.searchsorted(taken, sorted_niche)
    turn = xp.zeros_like(niche)
    turn[by_niche] = survivors + place
    return xp.concat([sure, candidates[lexsort([distance, turn])[:needed]]])


def associate(costs: Array, weights: Costs) -> tuple[Array, Array]:
    """Nearest, for scaled costs (n, goals), of the directions (w, goals), and the distance to its line; both (n,).

    A tree of directions on the host finds them faster than a GPU compares all with all.
    """
    rows = on_host(costs)
    units = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    towards = np.where(length > 0, rows / np.where(length > 0, length, 1), units[0])
    nearest = np.asarray(cKDTree(units).query(towards)[1], np.intp)
    along = (rows * units[nearest]).sum(1, keepdims=True)
    return beside(costs, nearest), beside(costs, np.linalg.norm(rows - along * units[nearest], axis=1))

"""NSGA-II: elitist evolution by non-domination rank and crowding distance.

Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE Trans. Evol. Comput. 6(2), 2002.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nas.core import pareto
from nas.core.arrays import Device, check_device, lexsort, namespace, on_host, placed
from nas.core.problem import Problem, Values
from nas.core.searcher import State, no_networks
from nas.searchers._scalar import nearest_mates, scaled_by_front
from nas.searchers._variation import Initial, breed, check_initial, first_generation
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError


@dataclass(frozen=True)
class NSGA2:
    """Binary tournaments, uniform crossover, mutation by redrawing; limits by constrained domination (section VI).

    Args:
        population: survivors of each generation.
        crossover: probability that a child has two parents.
        mutations: genes redrawn per child, on average; a child that equals a survivor or another child has one change
            more.
        mates: tournament winners, of which the one nearest to the first parent in scaled goals is the second (mating
            restriction, Ishibuchi & Shibata 2003); 1: the paper's.
        initial: how the first generation is drawn: ``random``, ``spread`` (networks of all sizes) or ``exits`` (those
            that break a limit are rejected early, EEEA-Net's), see `first_generation`.
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
                f"{type(self).__name__} needs population >= 4, 0 <= crossover <= 1, mutations >= 0 and mates >= 1, but "
                f"got {self}."
            )
        check_initial(type(self).__name__, self.initial)
        check_device(type(self).__name__, self.device)

    @property
    def batch(self) -> int:
        return self.population

    def init(self, problem: Problem) -> State:
        return no_networks(problem)

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        genes = state["genes"]  # best first, so the smaller place wins a tournament
        if len(genes) < self.population:
            return first_generation(problem, self.initial, n, rng)
        winners = rng.integers(0, len(genes), (1 + self.mates, n, 2)).min(2)  # (1 + mates, n)
        first, second = winners[0], winners[1]
        if self.mates > 1:
            costs = scaled_by_front(problem.costs(state["values"]), problem.violations(state["values"]))
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
        kept = order(problem, pool_values, self.device)[: self.population]
        return {"genes": pool[kept], "values": pool_values[kept]}


def order(problem: Problem, values: Values, device: Device = "cpu") -> NDArray[np.intp]:
    """Rows from best to worst: feasible before infeasible, then by rank, then by crowding (constrained domination)."""
    costs, violations = placed(device, problem.costs(values), problem.violations(values))
    xp = namespace(costs)
    feasible = xp.nonzero(violations == 0)[0]
    rank, distance = xp.zeros_like(violations, dtype=xp.int64), xp.zeros_like(violations)
    rank[feasible] = pareto.ranks(costs[feasible])
    distance[feasible] = pareto.crowding(costs[feasible], rank[feasible])
    return on_host(lexsort([-distance, rank, violations]))

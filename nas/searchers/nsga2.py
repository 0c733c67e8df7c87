"""NSGA-II: elitist evolution by non-domination rank and crowding distance.

Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE Trans. Evol. Comput. 6(2), 2002.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas import pareto
from nas.problem import Problem, Values
from nas.searcher import State
from search_spaces.architecture import Genes
from search_spaces.errors import InvalidValueError


@dataclass(frozen=True)
class NSGA2:
    """Binary tournaments, uniform crossover, mutation by redrawing; limits by constrained domination (section VI).

    Args:
        population: survivors of each generation.
        crossover: probability that a child has two parents.
        mutations: genes redrawn per child, on average.
    """

    population: int = 100
    crossover: float = 0.9
    mutations: float = 1.5

    def __post_init__(self) -> None:
        if self.population < 4 or not 0 <= self.crossover <= 1 or self.mutations < 0:
            raise InvalidValueError(
                f"NSGA2 needs population >= 4, 0 <= crossover <= 1 and mutations >= 0, but got {self}."
            )

    @property
    def batch(self) -> int:
        return self.population

    def init(self, problem: Problem) -> State:
        return {
            "genes": np.zeros((0, len(problem.space.choices)), np.int16),
            "values": np.zeros((0, len(problem.objectives))),
        }

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        genes = state["genes"]
        if len(genes) < self.population:
            return problem.space.sample(n, rng)
        order = _order(problem, state["values"])  # best first, so the smaller place wins a tournament
        parents = genes[order[rng.integers(0, len(order), (2, n, 2)).min(2)]]  # (2, n, choices)
        mixed = problem.space.cross(parents[0], parents[1], rng)
        children = np.where(rng.random((n, 1)) < self.crossover, mixed, parents[0])
        return problem.space.mutate(children, rng, min(1.0, self.mutations / genes.shape[1]))

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        pool = np.concatenate([state["genes"], genes])
        pool_values = np.concatenate([state["values"], values])
        kept = _order(problem, pool_values)[: self.population]
        return {"genes": pool[kept], "values": pool_values[kept]}


def _order(problem: Problem, values: Values) -> NDArray[np.intp]:
    """Rows from best to worst: feasible before infeasible, then by rank, then by crowding (constrained domination)."""
    costs, violations = problem.costs(values), problem.violations(values)
    feasible = np.flatnonzero(violations == 0)
    rank = np.full(len(values), np.iinfo(np.int64).max)
    distance = np.zeros(len(values))
    rank[feasible] = pareto.ranks(costs[feasible])
    for r in np.unique(rank[feasible]):
        members = feasible[rank[feasible] == r]
        distance[members] = pareto.crowding(costs[members])
    return np.lexsort((-distance, rank, violations))

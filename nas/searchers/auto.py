"""The default: what suits the problem is chosen by what its predictors are.

- An evaluation is costly: models of it say what to evaluate next (`nas.searchers.smbo`).
- All goals, up to three, and all limits are sums or maxima over positions, or the space is small enough to be listed:
  the exact front (`nas.searchers.exact`); nothing is left to search.
- Otherwise evolution (`nas.searchers.nsga2`) that begins with the exact front of the sums nearest to the predictors,
  and whose population grows with the evaluations made: a small population converges early, a large one late but better,
  and a searcher is not told how long the search goes on.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field, replace

import numpy as np

from nas.core.exact_front import LISTED
from nas.core.problem import Problem, Values
from nas.core.searcher import Searcher, State
from nas.searchers.exact import Exact, seeds
from nas.searchers.nsga2 import NSGA2
from nas.searchers.smbo import SMBO
from predictors.additive_model import table_of
from search_spaces.architecture import Genes
from search_spaces.base.errors import InfeasibleError, InvalidValueError

GRID = 1_000
"""Rows of the exact front of fitted sums, which need not be finer than their fit."""
MOST_GOALS = 3
"""Number of goals above which an exact front can take minutes, be it of a thousand rows."""


@dataclass(frozen=True)
class Auto:
    """Chooses by the problem; then it is the searcher that it has chosen.

    Args:
        costly: where an evaluation takes long.
        exact: where the exact front can be found; null: evolution does it.
        evolution: for all else. Its population is the first one.
        growth: the population doubles whenever this times the root of the evaluations made has doubled.
        largest: population at most.
        seeds: networks of the first generation that are of the exact front of fitted sums, at most.
        rows: random architectures that these sums are fitted to.
    """

    costly: Searcher = field(default_factory=SMBO)
    exact: Exact | None = field(default_factory=lambda: Exact(points=2000))
    evolution: NSGA2 = field(default_factory=lambda: NSGA2(crossover=0.5))
    growth: float = 4.0
    largest: int = 1600
    seeds: int = 100
    rows: int = 1000

    def __post_init__(self) -> None:
        if not (self.growth >= 0 and self.largest >= self.evolution.population):
            raise InvalidValueError(
                f"Auto needs growth >= 0 and largest >= the evolution's population, but got {self}."
            )
        if self.seeds < 0 or self.rows < 20:
            raise InvalidValueError(f"Auto needs seeds >= 0 and rows >= 20, but got {self}.")

    @property
    def batch(self) -> int:
        """The largest population; where fewer rows are wanted at a time, `ask` gives fewer."""
        return self.largest

    def init(self, problem: Problem) -> State:
        if problem.costly:
            return self.costly.init(problem)
        if self.exact is not None and has_exact_front(problem):
            with contextlib.suppress(InvalidValueError):  # its grid is too coarse for these limits
                return self.exact.init(problem)
        return {**self.evolution.init(problem), "evaluations": np.array(0)}

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        if problem.costly:
            return self.costly.ask(problem, state, min(n, self.costly.batch), rng)
        if self.exact is not None and "evaluations" not in state:
            return self.exact.ask(problem, state, n, rng)
        known = len(state["genes"])
        if known < self.evolution.population:
            best = self._first(problem, n, rng) if not known else state["genes"][:0]
            drawn = self.evolution.ask(problem, state, min(n, self.evolution.population), rng)
            return np.concatenate([best, drawn])[:n]
        return replace(self.evolution, population=known).ask(problem, state, min(n, known), rng)

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        if problem.costly:
            return self.costly.tell(problem, state, genes, values)
        if self.exact is not None and "evaluations" not in state:
            return self.exact.tell(problem, state, genes, values)
        evaluations = int(state["evaluations"]) + len(genes)
        grown = replace(self.evolution, population=self._population(evaluations))
        return {**grown.tell(problem, state, genes, values), "evaluations": np.array(evaluations)}

    def _population(self, evaluations: int) -> int:
        first = self.evolution.population
        doublings = math.floor(math.log2(max(1.0, self.growth * math.sqrt(evaluations) / first)))
        return int(min(first * 2**doublings, self.largest))

    def _first(self, problem: Problem, n: int, rng: np.random.Generator) -> Genes:
        """Networks of the first generation that are nearly the best already, as far as sums can tell."""
        if self.seeds and _goals(problem) <= MOST_GOALS:
            with contextlib.suppress(InfeasibleError, InvalidValueError):
                return seeds(problem, min(n, self.seeds), rng, grid=GRID, rows=self.rows)
        return np.zeros((0, len(problem.space.choices)), np.int16)


def has_exact_front(problem: Problem) -> bool:
    """True if the exact front can be found in seconds: nothing is costly, and the space is small enough to be listed,
    or there are up to `MOST_GOALS` goals and each goal and limit is a sum over positions or a maximum to be kept small.
    """
    if problem.costly:
        return False
    if math.prod(int(count) for count in problem.space.cardinalities) <= LISTED:
        return True
    if _goals(problem) > MOST_GOALS:
        return False
    counted = [o for o in problem.objectives if o.goal or o.limit is not None]
    tables = [(o, table_of(o.predictor)) for o in counted]
    return all(table is not None and (table.combine == "sum" or o.metric.direction == "min") for o, table in tables)


def _goals(problem: Problem) -> int:
    return sum(1 for objective in problem.objectives if objective.goal)

"""The exact front of sums over positions as a searcher, and as what other searchers begin with.

`nas.core.exact_front` finds it. A predictor that is no sum over positions, such as a perceptron, is replaced by the
sum nearest to it, so that the front is nearly the best; its networks are then evaluated as they are.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from nas.core import pareto
from nas.core.exact_front import additive_problem, exact_front, spread
from nas.core.problem import Objective, Problem, Values
from nas.core.searcher import State
from search_spaces.architecture import Genes
from search_spaces.base.errors import InfeasibleError, InvalidValueError

log = logging.getLogger(__name__)

MUTANTS, MUTATED = 2, 0.1
"""Neighbours of each network of a front: how many, and the share of their genes that is drawn anew."""


@dataclass(frozen=True)
class Exact:
    """Asks for the exact front once, from its ends to what lies between, and is done.

    Args:
        points: networks of the front that are asked for, evenly spread, if it has more.
        grid: of `nas.core.exact_front.exact_front`: sets of more rows are thinned; None: all rows are kept.
        rows: random architectures that a sum is fitted to, where a predictor is none.
        seed: of these architectures.
    """

    points: int = 500
    grid: int | None = 100_000
    rows: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.points < 1 or (self.grid is not None and self.grid < 2) or self.rows < 20:
            raise InvalidValueError(f"Exact needs points >= 1, grid >= 2 or null and rows >= 20, but got {self}.")

    @property
    def batch(self) -> int:
        return self.points

    def init(self, problem: Problem) -> State:
        """The front itself: what is left to ask for.

        Raises:
            InfeasibleError: no network keeps all limits.
            InvalidValueError: all goals are costly.
        """
        costly = ", ".join(o.name for o in problem.objectives if o.costly and o.goal)
        if costly and len(problem.objectives) > 1:
            log.warning("Exact: the front is that of the other goals, as the %s is costly to evaluate", costly)
        rng = np.random.default_rng(self.seed)
        return {"front": seeds(problem, self.points, rng, grid=self.grid, rows=self.rows)}

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        return state["front"][:n].copy()

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        told = {row.tobytes() for row in genes.astype(np.int16)}
        left = [row.tobytes() not in told for row in state["front"]]
        return {"front": state["front"][np.array(left, bool)]}


def seeds(
    problem: Problem,
    n: int,
    rng: np.random.Generator,
    *,
    grid: int | None = 10_000,
    rows: int = 2000,
    refits: int = 1,
) -> Genes:
    """Rows, canonical and up to n, evenly spread along the exact front of a problem, or of the sums nearest to it.

    Sums are good where they were fitted, and random networks are far from a front. So they are fitted again to the
    networks of the front that they gave and to mutants of these; the best of all are the result.

    Args:
        problem: what is searched for; costly objectives are left out.
        n: rows at most; the first ones are the ends of the front.
        rng: draws what sums are fitted to, where predictors are none.
        grid: of `exact_front`.
        rows: of `additive_problem`.
        refits: how often sums are fitted again.

    Raises:
        InfeasibleError: no network keeps all limits.
        InvalidValueError: all goals are costly.
    """
    space, found = problem.space, list[Genes]()
    also: Genes | None = None
    for _ in range(1 + refits):
        relaxed = additive_problem(problem, rng, rows=rows, also=also)
        pairs = list(zip(relaxed.problem.objectives, relaxed.replaced, strict=True))
        wanted = Problem(space, [_goal(*pair, limited=True) for pair in pairs])
        try:
            front = exact_front(wanted, grid=grid)
        except InfeasibleError:
            if relaxed.exact:
                raise
            wanted = Problem(space, [_goal(*pair, limited=False) for pair in pairs])
            front = exact_front(wanted, grid=grid)
        found.append(front.genes[spread(wanted.costs(front.values), max(n, rows // 4))])
        if relaxed.exact:
            break
        parents = np.concatenate(found)
        mutants = space.mutate(np.repeat(parents, MUTANTS, 0), rng, MUTATED)
        also = np.concatenate([parents, mutants])
    genes = np.unique(np.concatenate(found), axis=0)
    cheap = Problem(space, relaxed.replaced)
    values = cheap.evaluate(genes)
    violations = cheap.violations(values)
    best = np.flatnonzero(violations == violations.min())  # none may be feasible where a limit is on a fitted sum
    best = best[pareto.front(cheap.costs(values[best]))]
    return genes[best[spread(cheap.costs(values[best]), n)]]


def _goal(fitted: Objective, own: Objective, *, limited: bool) -> Objective:
    """A limit on a fitted sum becomes a goal: the sum does not know which of the networks near the limit keep it, nor
    for certain that there are any."""
    if fitted.predictor is own.predictor:
        return fitted
    return replace(fitted, goal=True, limit=fitted.limit if limited else None)

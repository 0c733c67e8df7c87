"""Once-for-all's evolution: the most accurate network under a latency limit, children that break it drawn again.

Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020, arXiv:1908.09791,
section 3.4; its settings are those of the published code. That one draws until the limit is met, for ever if it cannot
be; here the draws are bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.core import pareto
from nas.core.problem import Problem, Values
from nas.core.searcher import State, no_networks
from nas.searchers._scalar import scaled_by_front, tchebycheff
from nas.searchers._variation import redraw, sample_within, screen
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError


@dataclass(frozen=True)
class OFAEvolution:
    """The best parents have children, mutated or crossed, under a target for the first goal that is to be minimised.

    The target changes every ``generations``, so that one run gives a front: first it is the most of what was found (or
    the limit), then a half, a quarter, three quarters of the way from the least to the most, and so on (van der
    Corput's sequence), ever finer. Parents come from the last generation's parents and from the front of all that was
    found. With a single goal there is no target, and this is once-for-all's search under the problem's limits. Several
    goals besides the target's are judged by their largest excess over the front's best (Tchebycheff, equal weights).

    Args:
        population: children of each generation.
        parent_ratio: parents, as a share of the population.
        mutation_ratio: share of children that are mutated parents; the others have two parents.
        mutation_prob: probability that a mutated child's gene is redrawn.
        generations: of each target.
    """

    population: int = 100
    parent_ratio: float = 0.25
    mutation_ratio: float = 0.5
    mutation_prob: float = 0.1
    generations: int = 2

    def __post_init__(self) -> None:
        shares = (self.mutation_ratio, self.mutation_prob, self.parent_ratio)
        if self.population < 1 or self.generations < 1 or not all(0 <= share <= 1 for share in shares):
            raise InvalidValueError(
                "OFAEvolution needs population >= 1, generations >= 1, and parent_ratio, mutation_ratio and "
                f"mutation_prob in 0..1, but got {self}."
            )

    @property
    def batch(self) -> int:
        return self.population

    def init(self, problem: Problem) -> State:
        """``genes``, ``values``: parents and front; ``told``: generations; ``range``: of the swept goal."""
        return {
            **no_networks(problem),
            "told": np.zeros(1, np.int64),
            "range": np.array([np.inf, -np.inf]),
        }

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        space = problem.space
        if not len(state["genes"]):
            rows = sample_within(problem, n, rng)
            if _swept(problem) is not None:  # the ends of what the target can be
                rows[:2] = np.stack([space.smallest.genes, space.biggest.genes])[:n]
            return rows
        target = self._target(problem, state)
        parents = state["genes"][self._best(problem, state["values"], target)]
        mutated = round(self.mutation_ratio * n)

        def draw(rows: NDArray[np.intp]) -> Genes:
            first, second = parents[rng.integers(0, len(parents), (2, len(rows)))]
            crossed = space.cross(first, second, rng)
            return np.where(rows[:, None] < mutated, space.mutate(first, rng, self.mutation_prob), crossed)

        def excess(genes: Genes) -> Values:
            values, violations = screen(problem, genes)
            return violations + _over(problem, values, target)

        return redraw(draw, excess, n)

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        pool = np.concatenate([state["genes"], genes])
        pool_values = np.concatenate([state["values"], values])
        span, column = state["range"], _swept(problem)
        if column is not None:
            found = pool_values[np.isfinite(pool_values[:, column]), column]
            span = np.array([found.min(initial=span[0]), found.max(initial=span[1])])
        parents = self._best(problem, pool_values, self._target(problem, state))
        feasible = np.flatnonzero(problem.violations(pool_values) == 0)
        front = feasible[pareto.front(problem.costs(pool_values[feasible]))]
        kept = np.union1d(parents, front)
        return {"genes": pool[kept], "values": pool_values[kept], "told": state["told"] + 1, "range": span}

    def _target(self, problem: Problem, state: State) -> float:
        """Bound of the swept goal in this generation; inf: whatever the limits allow."""
        column, (least, most) = _swept(problem), state["range"]
        if column is None or not least < most:
            return np.inf
        limit = problem.objectives[column].bound
        most = most if limit is None else min(most, limit)
        return float(least + (most - least) * van_der_corput(int(state["told"][0]) // self.generations))

    def _best(self, problem: Problem, values: Values, target: float) -> NDArray[np.intp]:
        """Rows of the parents: first those that exceed limits and target least, then by the other goals."""
        excess = problem.violations(values) + _over(problem, values, target)
        costs, column = problem.costs(values), _swept(problem)
        if column is not None:
            goals = [i for i, objective in enumerate(problem.objectives) if objective.goal]
            costs = np.delete(costs, goals.index(column), axis=1)
        value = tchebycheff(scaled_by_front(costs, excess), np.ones(costs.shape[1]))
        return np.lexsort((value, excess))[: max(1, round(self.parent_ratio * self.population))]


def van_der_corput(k: int) -> float:
    """1, 1/2, 1/4, 3/4, 1/8, 5/8, ...: the bits of k mirrored at the point; 1 in place of 0."""
    return sum(int(bit) / 2**place for place, bit in enumerate(f"{k:b}"[::-1], 1)) if k else 1.0


def _swept(problem: Problem) -> int | None:
    """The objective whose target changes: of several goals the first to be minimised, a cheap one if there is one."""
    goals = [objective for objective in problem.objectives if objective.goal]
    rows = [i for i, objective in enumerate(problem.objectives) if objective.direction == "min"]
    return min(rows, key=lambda i: (problem.objectives[i].costly, i)) if rows and len(goals) > 1 else None


def _over(problem: Problem, values: Values, target: float) -> Values:
    """Excess over the target, relative to it, shape (n,); 0 where the value is not known."""
    column = _swept(problem)
    if column is None or not np.isfinite(target):
        return np.zeros(len(values))
    excess = np.maximum(values[:, column] - target, 0) / max(abs(target), 1e-12)
    return np.where(np.isnan(excess), 0.0, excess)

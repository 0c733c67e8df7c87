"""Local search: all neighbours of the best network, then of the best of those, until none is better; then from anew.

White et al., "Local Search is State of the Art for Neural Architecture Search Benchmarks", UAI 2021, arXiv:2005.02960.
Several goals: Paquete et al., "Pareto Local Optimum Sets in the Biobjective Traveling Salesman Problem: An Experimental
Study", LNEMS 535, 2004 (Pareto local search).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.core import pareto
from nas.core.problem import Problem, Values
from nas.core.searcher import State, no_networks
from nas.core.seen import among, row_keys
from nas.searchers._variation import neighbours
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError


@dataclass(frozen=True)
class LocalSearch:
    """Neighbours differ in one choice. A descent ends when no member of its front has neighbours left to evaluate.

    With one goal the front is the best network. With several, the next to be expanded is the member with the largest
    crowding distance, so the front grows evenly; the paper takes any. While no network keeps the limits, the one that
    exceeds them least stands for the front. A network is evaluated once in a run, so a later descent does not cross
    what an earlier one has seen.

    Args:
        starts: random networks that each descent starts from.
        batch: neighbours to ask for at a time.
    """

    starts: int = 10
    batch: int = 100

    def __post_init__(self) -> None:
        if self.starts < 1 or self.batch < 1:
            raise InvalidValueError(f"LocalSearch needs starts >= 1 and batch >= 1, but got {self}.")

    def init(self, problem: Problem) -> State:
        """``genes``, ``values``: this descent's front; ``expanded``: whose neighbours were all asked for, or are in
        ``queue``; ``told``: keys of all that was evaluated, ascending.
        """
        return {
            **no_networks(problem),
            "expanded": np.zeros(0, bool),
            "queue": np.zeros((0, len(problem.space.choices)), np.int16),
            "told": np.zeros(0, np.uint64),
        }

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        """Rows to evaluate; some more than once, where there are fewer than n."""
        queue = state["queue"]
        rows = queue[:n] if len(queue) else problem.space.sample(min(self.starts, n), rng)
        return np.resize(rows, (n, rows.shape[1]))

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        pool, pool_values, expanded = genes, values, np.zeros(len(genes), bool)
        if len(state["queue"]):  # else a descent begins
            pool = np.concatenate([state["genes"], pool])
            pool_values = np.concatenate([state["values"], pool_values])
            expanded = np.concatenate([state["expanded"], expanded])
        kept = _front(problem, pool_values)
        pool, pool_values, expanded = pool[kept], pool_values[kept], expanded[kept]

        keys = np.unique(row_keys(genes))
        told = np.insert(state["told"], np.searchsorted(state["told"], keys), keys)
        queue = state["queue"][self.batch :]  # what was asked for and not told is known already, or failed
        queue = queue[~among(row_keys(queue), told)]
        crowding = pareto.crowding(np.nan_to_num(problem.costs(pool_values)))
        while len(queue) < self.batch and not expanded.all():
            waiting = np.flatnonzero(~expanded)
            member = waiting[crowding[waiting].argmax()]
            expanded[member] = True
            found = neighbours(problem.space, pool[member : member + 1])
            new = ~among(row_keys(found), told) & ~np.isin(row_keys(found), row_keys(queue))
            queue = np.concatenate([queue, found[new]])
        return {"genes": pool, "values": pool_values, "expanded": expanded, "queue": queue, "told": told}


def _front(problem: Problem, values: Values) -> NDArray[np.intp]:
    """Rows of the feasible front, or the one that exceeds the limits least."""
    violations = problem.violations(values)
    feasible = np.flatnonzero(violations == 0)
    if not len(feasible):
        return np.array([violations.argmin()])
    return feasible[pareto.front(problem.costs(values[feasible]))]

"""Aging (regularised) evolution: the best of a random sample has a child, and the oldest dies.

Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019, arXiv:1802.01548.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas.core.problem import Problem, Values
from nas.core.searcher import State, no_networks
from nas.searchers._scalar import scaled_by_front, tchebycheff
from nas.searchers._variation import Initial, change_one, check_initial, first_generation
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError


@dataclass(frozen=True)
class AgingEvolution:
    """A queue by age; each child is the best of a sample with one choice changed.

    With several goals one run fills a front: each child's sample is judged by weights of its own, drawn uniformly from
    all that add up to 1, as the weighted Tchebycheff distance from the ideal point, goals scaled by the queue's front.
    Exceeded limits come before it. With one goal this is the paper's algorithm, but for ``batch``.

    Args:
        population: length of the queue.
        sample: how many a parent is the best of, drawn with replacement.
        batch: children that are born before as many of the oldest die; 1 in the paper.
        initial: how the first queue is drawn, see `first_generation`.
    """

    population: int = 100
    sample: int = 25
    batch: int = 10
    initial: Initial = "random"

    def __post_init__(self) -> None:
        if not 1 <= self.sample <= self.population or not 1 <= self.batch <= self.population:
            raise InvalidValueError(f"AgingEvolution needs sample and batch in 1..population, but got {self}.")
        check_initial("AgingEvolution", self.initial)

    def init(self, problem: Problem) -> State:
        """``genes``, ``values``: the queue, the oldest first."""
        return no_networks(problem)

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        genes, values = state["genes"], state["values"]
        if len(genes) < self.population:
            return first_generation(problem, self.initial, n, rng)
        violations = problem.violations(values)
        costs = scaled_by_front(problem.costs(values), violations)
        drawn = rng.integers(0, len(genes), (n, self.sample))
        weights = rng.dirichlet(np.ones(costs.shape[1]), n)[:, None]  # (n, 1, goals)
        excess = violations[drawn]
        value = np.where(excess == excess.min(1, keepdims=True), tchebycheff(costs[drawn], weights), np.inf)
        parents = genes[drawn[np.arange(n), value.argmin(1)]]
        return change_one(problem.space, parents, rng)

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        queue, queue_values = np.concatenate([state["genes"], genes]), np.concatenate([state["values"], values])
        return {"genes": queue[-self.population :], "values": queue_values[-self.population :]}

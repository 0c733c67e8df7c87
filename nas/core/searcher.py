"""Searchers: ask for genes, tell their values; its state is plain arrays, so a checkpoint is a file.

A searcher may call `Problem.evaluate_cheap`, but not `Problem.evaluate`: evaluations are what is counted.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nas.core.problem import Problem, Values
from search_spaces.architecture import Genes

State = dict[str, NDArray[Any]]


def no_networks(problem: Problem) -> State:
    """``genes`` (0, choices) and ``values`` (0, objectives): what a state begins with that keeps networks."""
    return {
        "genes": np.zeros((0, len(problem.space.choices)), np.int16),
        "values": np.zeros((0, len(problem.objectives))),
    }


class Searcher(Protocol):
    """A frozen dataclass of settings. Nothing is kept between calls but the state that is passed and returned."""

    @property
    def batch(self) -> int:
        """Number of architectures that it wants to ask for at a time."""

    def init(self, problem: Problem) -> State:
        """State before the first evaluation."""

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        """Canonical rows to evaluate, n or fewer; the loop drops those that it has seen. No row at all: it is done."""

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        """The state after evaluating genes (n, choices) to values (n, objectives)."""

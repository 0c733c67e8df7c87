"""Random search: the baseline that every searcher is compared with.

Li & Talwalkar, "Random Search and Reproducibility for Neural Architecture Search", UAI 2019, arXiv:1902.07638.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas.core.problem import Problem, Values
from nas.core.searcher import State
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError


@dataclass(frozen=True)
class RandomSearch:
    """Each choice uniform over its values.

    Args:
        batch: architectures per round.
    """

    batch: int = 100

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InvalidValueError(f"RandomSearch needs batch >= 1, but got {self}.")

    def init(self, problem: Problem) -> State:
        return {}

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        return problem.space.sample(n, rng)

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        return state

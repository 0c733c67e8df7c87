import numpy as np
import pytest

from nas.core.problem import Problem
from nas.searchers.random import RandomSearch
from search_spaces.base.errors import InvalidValueError


def test_it_samples_the_space(digits_problem: Problem) -> None:
    searcher = RandomSearch()
    rows = searcher.ask(digits_problem, searcher.init(digits_problem), 30, np.random.default_rng(1))
    assert np.array_equal(rows, digits_problem.space.sample(30, np.random.default_rng(1)))


def test_it_has_nothing_to_remember(digits_problem: Problem, rng: np.random.Generator) -> None:
    searcher = RandomSearch()
    rows = searcher.ask(digits_problem, {}, 5, rng)
    assert searcher.init(digits_problem) == searcher.tell(digits_problem, {}, rows, digits_problem.evaluate(rows)) == {}


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_nothing_is_refused(batch: int) -> None:
    with pytest.raises(InvalidValueError, match="RandomSearch needs batch >= 1"):
        RandomSearch(batch)

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from nas.core import pareto
from nas.core.problem import Problem, Values
from nas.core.searcher import State
from nas.searchers import nsga2
from nas.searchers._scalar import scaled_by_front
from nas.searchers._variation import breed, sample_within, spread
from nas.searchers.nsga2 import NSGA2, order
from search_spaces import Genes, SearchSpace
from search_spaces.base.errors import InvalidValueError


def comes_before(problem: Problem, a: Values, b: Values) -> bool | None:
    """Constrained domination, section VI: which of two is better, None: neither."""
    (va, vb), (ca, cb) = problem.violations(np.stack([a, b])), problem.costs(np.stack([a, b]))
    if va != vb:
        return bool(va < vb)
    if va > 0:
        return None
    if (ca <= cb).all() and (ca < cb).any():
        return True
    return False if (cb <= ca).all() and (cb < ca).any() else None


def test_theorder_obeys_constrained_domination(digits_problem: Problem, rng: np.random.Generator) -> None:
    values = digits_problem.evaluate(digits_problem.space.sample(60, rng))
    values[7], values[8, 1] = values[9], np.inf
    violations = digits_problem.violations(values)
    assert (violations == 0).any() and (violations > 0).any()
    place = np.argsort(order(digits_problem, values))
    for i, j in itertools.permutations(range(60), 2):
        if comes_before(digits_problem, values[i], values[j]):
            assert place[i] < place[j]


def test_within_a_rank_the_less_crowded_come_first(small_problem: Problem, rng: np.random.Generator) -> None:
    values = small_problem.evaluate(small_problem.space.sample(100, rng))
    costs = small_problem.costs(values)
    places, rank = order(small_problem, values), pareto.ranks(costs)
    assert (np.diff(rank[places]) >= 0).all()
    for r in range(rank.max() + 1):
        members = [i for i in places if rank[i] == r]
        distance = dict(zip(np.flatnonzero(rank == r), pareto.crowding(costs[rank == r]), strict=True))
        ordered = [distance[i] for i in members]
        assert ordered == sorted(ordered, reverse=True)


def test_the_best_survive_and_none_is_worse_than_one_that_left(
    digits_problem: Problem, rng: np.random.Generator
) -> None:
    searcher = NSGA2(population=20)
    state = searcher.init(digits_problem)
    told = np.zeros((0, len(digits_problem.objectives)))
    for _ in range(5):
        genes = searcher.ask(digits_problem, state, 20, rng)
        values = digits_problem.evaluate(genes)
        told = np.concatenate([told, values])
        state = searcher.tell(digits_problem, state, genes, values)
    assert len(state["genes"]) == len(state["values"]) == 20
    assert np.array_equal(digits_problem.evaluate(state["genes"]), state["values"])
    best = told[order(digits_problem, told)[:1]]
    assert (state["values"] == best).all(1).any()


def test_the_first_generation(digits_problem: Problem) -> None:
    space = digits_problem.space
    draws = {"random": space.sample, "spread": lambda n, rng: spread(space, n, rng)}
    draws["exits"] = lambda n, rng: sample_within(digits_problem, n, rng)
    for initial, draw in draws.items():
        searcher = NSGA2(population=20, initial=initial)  # type: ignore[arg-type]
        state = searcher.init(digits_problem)
        rows = searcher.ask(digits_problem, state, 13, np.random.default_rng(3))
        assert np.array_equal(rows, draw(13, np.random.default_rng(3)))
        state = searcher.tell(digits_problem, state, rows, digits_problem.evaluate(rows))
        again = searcher.ask(digits_problem, state, 20, np.random.default_rng(4))  # not enough parents yet
        assert np.array_equal(again, draw(20, np.random.default_rng(4)))


def told(searcher: NSGA2, problem: Problem, genes: Genes) -> State:
    return searcher.tell(problem, searcher.init(problem), genes, problem.evaluate(genes))


def test_survivors_stand_best_first(digits_problem: Problem, rng: np.random.Generator) -> None:
    genes = digits_problem.space.sample(60, rng)
    state, values = told(NSGA2(population=20), digits_problem, genes), digits_problem.evaluate(genes)
    assert np.array_equal(state["genes"], genes[order(digits_problem, values)[:20]])


@pytest.fixture
def bred(monkeypatch: pytest.MonkeyPatch) -> list[Genes]:
    """First and second parents of what is bred."""
    seen: list[Genes] = []

    def spy(space: SearchSpace, first: Genes, second: Genes, *others: Any, **settings: Any) -> Genes:
        seen.extend((first, second))
        return breed(space, first, second, *others, **settings)

    monkeypatch.setattr(nsga2, "breed", spy)
    return seen


def rows_of(genes: Genes, rows: Genes) -> np.ndarray:
    return (rows[:, None] == genes).all(2).argmax(1)


@pytest.mark.parametrize("mates", [1, 5])
def test_tournaments_prefer_the_better(
    digits_problem: Problem, rng: np.random.Generator, bred: list[Genes], mates: int
) -> None:
    searcher = NSGA2(population=20, mates=mates)
    state = told(searcher, digits_problem, np.unique(digits_problem.space.sample(60, rng), axis=0))
    searcher.ask(digits_problem, state, 20_000, rng)
    shares = np.bincount(rows_of(state["genes"], bred[0]), minlength=20) / 20_000
    assert shares == pytest.approx((39 - 2 * np.arange(20)) / 400, abs=0.01)  # of two uniform places the smaller


def test_mates_are_near(small_problem: Problem, everything: Genes, rng: np.random.Generator, bred: list[Genes]) -> None:
    costs = small_problem.costs(small_problem.evaluate(everything))
    best = everything[pareto.front(costs)]
    distances = {}
    for mates in (1, 5):
        searcher = NSGA2(population=len(best), mates=mates)
        state = told(searcher, small_problem, best)
        scale = scaled_by_front(small_problem.costs(state["values"]), np.zeros(len(best)))
        bred.clear()
        searcher.ask(small_problem, state, 2000, rng)
        first, second = (scale[rows_of(state["genes"], rows)] for rows in bred)
        distances[mates] = float(np.linalg.norm(first - second, axis=1).mean())
    assert distances[5] < 0.5 * distances[1]


@pytest.mark.parametrize(
    "settings", [{"population": 3}, {"crossover": 1.1}, {"crossover": -0.1}, {"mutations": -1.0}, {"mates": 0}]
)
def test_wrong_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match="NSGA2 needs population >= 4"):
        NSGA2(**settings)  # type: ignore[arg-type]


def test_an_unknown_first_generation_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="`initial` of NSGA2 must be one of random, spread, exits"):
        NSGA2(initial="best")  # type: ignore[arg-type]


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        NSGA2().population = 5  # type: ignore[misc]

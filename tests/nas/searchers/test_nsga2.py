import dataclasses
import itertools

import numpy as np
import pytest

from nas import pareto
from nas.problem import Problem, Values
from nas.searchers.nsga2 import NSGA2, _order
from search_spaces.errors import InvalidValueError


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


def test_the_order_obeys_constrained_domination(digits_problem: Problem, rng: np.random.Generator) -> None:
    values = digits_problem.evaluate(digits_problem.space.sample(60, rng))
    values[7], values[8, 1] = values[9], np.inf
    violations = digits_problem.violations(values)
    assert (violations == 0).any() and (violations > 0).any()
    place = np.argsort(_order(digits_problem, values))
    for i, j in itertools.permutations(range(60), 2):
        if comes_before(digits_problem, values[i], values[j]):
            assert place[i] < place[j]


def test_within_a_rank_the_less_crowded_come_first(small_problem: Problem, rng: np.random.Generator) -> None:
    values = small_problem.evaluate(small_problem.space.sample(100, rng))
    costs = small_problem.costs(values)
    order, rank = _order(small_problem, values), pareto.ranks(costs)
    assert (np.diff(rank[order]) >= 0).all()
    for r in range(rank.max() + 1):
        members = [i for i in order if rank[i] == r]
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
    best = told[_order(digits_problem, told)[:1]]
    assert (state["values"] == best).all(1).any()


def test_the_first_generation_is_random(digits_problem: Problem) -> None:
    searcher = NSGA2(population=20)
    state = searcher.init(digits_problem)
    rows = searcher.ask(digits_problem, state, 13, np.random.default_rng(3))
    assert np.array_equal(rows, digits_problem.space.sample(13, np.random.default_rng(3)))
    state = searcher.tell(digits_problem, state, rows, digits_problem.evaluate(rows))
    again = searcher.ask(digits_problem, state, 20, np.random.default_rng(4))  # not enough parents yet
    assert np.array_equal(again, digits_problem.space.sample(20, np.random.default_rng(4)))


def test_without_variation_children_are_parents(digits_problem: Problem, rng: np.random.Generator) -> None:
    searcher = NSGA2(population=20, crossover=0.0, mutations=0.0)
    genes = digits_problem.space.sample(20, rng)
    state = searcher.tell(digits_problem, searcher.init(digits_problem), genes, digits_problem.evaluate(genes))
    children = searcher.ask(digits_problem, state, 200, rng)
    parents = {row.tobytes() for row in state["genes"]}
    assert {row.tobytes() for row in children} <= parents
    best = state["genes"][_order(digits_problem, state["values"])[0]]
    worst = state["genes"][_order(digits_problem, state["values"])[-1]]
    counts = [(children == row).all(1).sum() for row in (best, worst)]
    assert counts[0] > counts[1]  # tournaments prefer the better


def test_mutations_is_their_mean_number(digits_problem: Problem, rng: np.random.Generator) -> None:
    genes = np.repeat(digits_problem.space.biggest.genes[None], 20, 0)
    for mutations in (0.5, 3.0):
        searcher = NSGA2(population=20, mutations=mutations)
        state = searcher.tell(digits_problem, searcher.init(digits_problem), genes, digits_problem.evaluate(genes))
        children = searcher.ask(digits_problem, state, 4000, rng)
        always = [i for i, c in enumerate(digits_problem.space.choices) if c.active_when is None]
        cards = digits_problem.space.cardinalities[always]
        expected = (mutations / genes.shape[1] * (1 - 1 / cards)).sum()  # a redraw can give the same value
        changed = (children != genes[0])[:, always].sum(1).mean()
        assert changed == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("settings", [{"population": 3}, {"crossover": 1.1}, {"crossover": -0.1}, {"mutations": -1.0}])
def test_wrong_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match="NSGA2 needs population >= 4"):
        NSGA2(**settings)  # type: ignore[arg-type]


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        NSGA2().population = 5  # type: ignore[misc]

from typing import Any

import numpy as np
import pytest

from nas.core import pareto
from nas.core.problem import Objective, Problem
from nas.searchers import moead
from nas.searchers._scalar import scaled_by_front
from nas.searchers._variation import breed
from nas.searchers.moead import LEAST_WEIGHT, MOEAD, _nearest, _subproblems
from search_spaces import Genes, SearchSpace
from search_spaces.base.errors import InvalidValueError


def test_neighbours_are_the_nearest_subproblems_itself_first() -> None:
    for goals in (2, 3):
        weights, near = _subproblems(goals, 50, 7)
        assert (near[:, 0] == np.arange(len(weights))).all() and near.shape[1] == 7 and weights.min() == LEAST_WEIGHT
        for i, row in enumerate(near):
            away = np.linalg.norm(weights - weights[i], axis=1)
            assert away[row].tolist() == pytest.approx(np.sort(away)[:7])


def test_one_goal_is_one_subproblem(small_problem: Problem, everything: Genes, rng: np.random.Generator) -> None:
    problem = Problem(small_problem.space, small_problem.objectives[:1])
    searcher = MOEAD()
    state = searcher.init(problem)
    best = -np.inf
    for _ in range(4):
        genes = searcher.ask(problem, state, 20, rng)
        values = problem.evaluate(genes)
        best = max(best, values.max())
        state = searcher.tell(problem, state, genes, values)
        assert state["values"].tolist() == [[best]]


def test_a_row_fits_the_subproblem_whose_line_it_lies_on() -> None:
    weights, _ = _subproblems(3, 91, 5)
    inner = weights.min(1) > LEAST_WEIGHT
    lengths = np.linspace(0.1, 5, inner.sum())[:, None]
    assert np.array_equal(_nearest(weights[inner] * lengths, weights), np.flatnonzero(inner))


def member_value(problem: Problem, values: np.ndarray, scale: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Violation and Tchebycheff value of each subproblem's member."""
    return np.stack([problem.violations(values), (scale / weights).max(1)], axis=1)


def test_members_only_get_better_and_no_row_takes_more_than_its_share(
    digits_problem: Problem, rng: np.random.Generator
) -> None:
    searcher = MOEAD(population=30, neighbours=8, replaced=2)
    weights, near = _subproblems(2, 30, 8)
    state, taken = searcher.init(digits_problem), []
    for _ in range(12):
        genes = searcher.ask(digits_problem, state, 30, rng)
        values = digits_problem.evaluate(genes)
        following = searcher.tell(digits_problem, state, genes, values)
        assert len(following["genes"]) == 30
        assert np.array_equal(digits_problem.evaluate(following["genes"]), following["values"])
        if len(state["genes"]):
            pool = np.concatenate([state["values"], values])
            violations = digits_problem.violations(pool)
            scale = scaled_by_front(digits_problem.costs(pool), violations)
            old = member_value(digits_problem, state["values"], scale[:30], weights)
            place = [(pool == row).all(1).argmax() for row in following["values"]]
            new = member_value(digits_problem, following["values"], scale[place], weights)
            changed = (following["values"] != state["values"]).any(1)
            assert all(tuple(a) < tuple(b) for a, b in zip(new[changed], old[changed], strict=True))
            fits = _nearest(scale, weights)
            for i in np.flatnonzero(changed):
                assert i in near[fits[place[i]]]
            taken += np.unique(following["genes"][changed], axis=0, return_counts=True)[1].tolist()
        state = following
    assert max(taken) == 2  # `replaced`, and it is used


def test_a_row_that_fits_best_is_taken(small_problem: Problem, everything: Genes) -> None:
    searcher = MOEAD(population=20, neighbours=5)
    values = small_problem.evaluate(everything)
    state = searcher.tell(small_problem, searcher.init(small_problem), everything, values)
    scale = scaled_by_front(small_problem.costs(values), np.zeros(len(values)))
    weights, _ = _subproblems(2, 20, 5)
    fits = _nearest(scale, weights)
    for i, member in enumerate(state["values"]):
        own = (scale[fits == i] / weights[i]).max(1)
        reached = (scale[(values == member).all(1).argmax()] / weights[i]).max()
        assert not len(own) or reached <= own.min()
    front = values[pareto.front(small_problem.costs(values))]
    on_front = [(row == front).all(1).any() for row in state["values"]]
    assert np.mean(on_front) > 0.5


@pytest.mark.parametrize("outside", [0.0, 0.3, 1.0])
def test_parents_are_neighbours(
    small_problem: Problem, everything: Genes, outside: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    parents: list[Genes] = []

    def spy(space: SearchSpace, first: Genes, second: Genes, *others: Any, **settings: Any) -> Genes:
        parents.extend((first, second))
        return breed(space, first, second, *others, **settings)

    monkeypatch.setattr(moead, "breed", spy)
    members = everything[:100]
    state = {"genes": members, "values": small_problem.evaluate(members)}
    MOEAD(neighbours=5, outside=outside).ask(small_problem, state, 5000, np.random.default_rng(0))
    first, second = ((rows[:, None] == members).all(2).argmax(1) for rows in parents)
    assert (np.bincount(first, minlength=100) > 10).all()  # every subproblem has its turn
    near = np.abs(first - second) <= 4  # of two goals the subproblems stand in line
    assert near.mean() == pytest.approx(1 - outside + outside * 0.09, abs=0.02)
    assert (first != second).mean() > 0.7


def test_infeasible_rows_leave(digits_problem: Problem, rng: np.random.Generator) -> None:
    accuracy, latency, _ = digits_problem.objectives
    problem = Problem(digits_problem.space, [accuracy, latency.limited(2.0)])
    searcher = MOEAD(population=20)
    state = searcher.init(problem)
    shares = []
    for _ in range(15):
        genes = searcher.ask(problem, state, 20, rng)
        state = searcher.tell(problem, state, genes, problem.evaluate(genes))
        shares.append(float((problem.violations(state["values"]) == 0).mean()))
    assert shares == sorted(shares) and shares[0] < 0.9 and shares[-1] > 0.9


def test_a_feasible_row_replaces_better_ones_that_are_not(digits_problem: Problem, rng: np.random.Generator) -> None:
    accuracy, latency, _ = digits_problem.objectives
    within = Objective.of(latency.predictor, None, 2.0)
    problem = Problem(digits_problem.space, [accuracy, within, Objective.of(accuracy.predictor, "max")])
    rows = problem.space.sample(200, rng)
    values = problem.evaluate(rows)
    feasible = np.flatnonzero(problem.violations(values) == 0)
    better = np.flatnonzero((problem.violations(values) > 0) & (values[:, 0] > values[feasible[0], 0]))
    assert len(better) > 20
    searcher = MOEAD(population=20, neighbours=5, replaced=3)
    state = searcher.tell(problem, searcher.init(problem), rows[better], values[better])
    state = searcher.tell(problem, state, rows[feasible[:1]], values[feasible[:1]])
    assert (problem.violations(state["values"]) == 0).sum() == 3


@pytest.mark.parametrize("settings", [{"replaced": 0}, {"replaced": 30}, {"neighbours": 101}])
def test_wrong_sizes_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InvalidValueError, match="MOEAD needs 1 <= replaced <= neighbours <= population"):
        MOEAD(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"outside": 1.1}, {"crossover": -0.1}, {"mutations": -1.0}])
def test_wrong_shares_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match="MOEAD needs outside and crossover in 0..1 and mutations >= 0"):
        MOEAD(**settings)  # type: ignore[arg-type]

import dataclasses
from collections.abc import Iterator

import numpy as np
import optuna
import pytest

from nas.problem import Objective, Problem
from nas.searchers.tpe import TPE
from predictors import PositionTable
from search_spaces.errors import InvalidValueError


@pytest.fixture(autouse=True)
def verbosity() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    yield
    optuna.logging.set_verbosity(before)


def test_it_starts_at_random(digits_problem: Problem) -> None:
    searcher = TPE(startup=10)
    rows = searcher.ask(digits_problem, searcher.init(digits_problem), 7, np.random.default_rng(1))
    assert np.array_equal(rows, digits_problem.space.sample(7, np.random.default_rng(1)))


def test_the_model_moves_towards_the_goal(digits_problem: Problem, rng: np.random.Generator) -> None:
    latency = digits_problem.objectives[1].predictor
    for goal, sign in (("min", 1), ("max", -1)):
        problem = Problem(digits_problem.space, [Objective(latency, goal)])  # type: ignore[arg-type]
        searcher = TPE(startup=40)
        genes = problem.space.sample(60, rng)
        state = searcher.tell(problem, searcher.init(problem), genes, problem.evaluate(genes))
        asked = problem.evaluate(searcher.ask(problem, state, 30, rng))
        assert sign * asked.mean() < sign * problem.evaluate(genes).mean()


def test_the_model_keeps_away_from_what_breaks_a_limit(digits_problem: Problem, rng: np.random.Generator) -> None:
    accuracy, latency, _ = digits_problem.objectives
    genes = digits_problem.space.sample(120, rng)
    limit = float(np.quantile(latency.predictor.predict(genes), 0.3))
    problem = Problem(digits_problem.space, [accuracy, Objective(latency.predictor, None, limit)])
    searcher = TPE(startup=50)
    state = searcher.tell(problem, searcher.init(problem), genes, problem.evaluate(genes))
    asked = searcher.ask(problem, state, 40, rng)  # the more accurate, the slower: a model without the limit breaks it
    assert (latency.predictor.predict(asked) <= limit).mean() > 0.5


def test_the_state_holds_only_the_latest(digits_problem: Problem, rng: np.random.Generator) -> None:
    searcher = TPE(batch=10, startup=10, recent=25)
    state, told = searcher.init(digits_problem), []
    for _ in range(4):
        told.append(digits_problem.space.sample(10, rng))
        state = searcher.tell(digits_problem, state, told[-1], digits_problem.evaluate(told[-1]))
    assert np.array_equal(state["genes"], np.concatenate(told)[-25:])
    assert np.array_equal(state["values"], digits_problem.evaluate(state["genes"]))


def test_networks_that_cannot_run_are_no_obstacle(digits_problem: Problem, rng: np.random.Generator) -> None:
    accuracy, latency, memory = digits_problem.objectives
    nothing = PositionTable.of_layers(digits_problem.space, "latency", "ms", lambda layer: np.inf)
    searcher = TPE(startup=10)
    genes = digits_problem.space.sample(20, rng)
    for worse in (
        Problem(digits_problem.space, [accuracy, dataclasses.replace(latency, predictor=nothing)]),
        Problem(digits_problem.space, [accuracy, Objective(nothing, None, 5.0)]),
    ):
        state = searcher.tell(worse, searcher.init(worse), genes, worse.evaluate(genes))
        rows = searcher.ask(worse, state, 5, rng)
        assert np.array_equal(worse.space.canonical(worse.space.validate(rows)), rows)
    assert memory.limit is not None


@pytest.mark.parametrize("settings", [{"batch": 0}, {"startup": 0}, {"recent": 0}, {"startup": 20, "recent": 10}])
def test_wrong_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InvalidValueError, match="TPE needs batch >= 1, startup >= 1 and recent >= startup"):
        TPE(**settings)

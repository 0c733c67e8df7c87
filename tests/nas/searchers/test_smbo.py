from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import norm

from nas.core import pareto
from nas.core.problem import Objective, Problem, Values
from nas.core.search_loop import reference_point, search
from nas.core.searcher import State
from nas.searchers import smbo
from nas.searchers.random import RandomSearch
from nas.searchers.smbo import SMBO, _boxes, _Candidates, _expected_shortfall, _Model, _Surrogate
from predictors import PositionTable
from predictors.base import Predictor
from predictors.kriging import Kriging
from predictors.regression import Matrix
from search_spaces import Genes
from search_spaces.base.errors import InvalidValueError


@dataclass
class Counted:
    """A predictor that counts what it was asked for."""

    inner: Predictor
    asked: int = 0

    @property
    def metric(self) -> str:
        return self.inner.metric

    @property
    def unit(self) -> str:
        return self.inner.unit

    def predict(self, genes: Genes) -> Values:
        self.asked += len(genes)
        return self.inner.predict(genes)


@dataclass(frozen=True)
class Memory:
    """A regressor that says of the rows that it was fitted to what it was told, with a spread of 0.1."""

    fits: list[tuple[Matrix, Matrix]] = field(default_factory=list)

    def fit(self, features: Matrix, targets: Matrix) -> "Memory":
        self.fits.append((features, targets))
        return self

    def predict(self, features: Matrix) -> Matrix:
        rows, targets = self.fits[-1]
        return np.array([targets[(rows == row).all(1).argmax()] for row in features])

    def spread(self, features: Matrix) -> Matrix:
        return np.full(len(features), 0.1)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        raise NotImplementedError

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        raise NotImplementedError


def costly(problem: Problem) -> Problem:
    """Its accuracy is costly, all else is known."""
    accuracy, *others = problem.objectives
    return Problem(problem.space, [replace(accuracy, costly=True, worst=0.0), *others])


def told(problem: Problem, searcher: SMBO, genes: Genes) -> State:
    return searcher.tell(problem, searcher.init(problem), genes, problem.evaluate(genes))


# -- expected improvement ----------------------------------------------------------------------------------------------


def test_the_shortfall_is_its_integral() -> None:
    edges, mean, std = np.array([-np.inf, -1.0, 0.3, 50.0]), np.array([0.0, 2.0, 0.5]), np.array([1.0, 0.3, 0.0])
    found = _expected_shortfall(edges, mean, std)
    for row, column in ((0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)):
        below = norm(mean[row], std[row]).cdf  # E[max(edge - Y, 0)] is the integral of P(Y < y) up to the edge
        low = mean[row] - 10 * std[row]
        expected = quad(below, low, edges[column], points=[mean[row]])[0] if edges[column] > low else 0.0
        assert found[row, column] == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert np.array_equal(found[2], [0.0, 0.0, 0.0, 49.5])
    assert (found[:, 0] < 1e-300).all()
    assert np.array_equal(_expected_shortfall(np.array([1.0]), np.array([np.inf]), np.array([0.0])), [[0.0]])


@pytest.mark.parametrize("goals", [1, 2, 3, 4])
def test_boxes_fill_exactly_what_is_not_dominated(goals: int, rng: np.random.Generator) -> None:
    reference, floor = np.full(goals, 10.0), np.full(goals, -1.0)
    front = rng.integers(0, 12, (9, goals)).astype(float)  # ties, dominated rows, rows beyond the reference
    for points in (front, np.repeat(front, 2, 0), front[:0], np.full((1, goals), 11.0)):
        lower, upper = _boxes(points, reference)
        volume = np.prod(upper - np.maximum(lower, floor), 1).sum()
        assert volume == pytest.approx(11.0**goals - pareto.hypervolume(points, reference))
        probes = rng.uniform(-2, 12, (500, goals))
        inside = ((probes[:, None] >= lower) & (probes[:, None] < upper)).all(2).sum(1)
        dominated = (points[None] <= probes[:, None]).all(2).any(1)
        assert np.array_equal(inside, (probes < reference).all(1) & ~dominated)


@pytest.mark.parametrize("goals", [1, 2, 3])
def test_the_promise_is_the_mean_gain_of_hypervolume(
    goals: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, front = np.full(goals, 4.0), rng.uniform(2, 4, (6, goals))
    mean, std = rng.uniform(1, 3, (5, goals)), rng.uniform(0.1, 0.6, (5, goals))
    std[:2, -1], std[0] = 0.0, 0.0  # one goal, or all goals, known for certain
    feasible = np.array([1.0, 1.0, 0.5, 0.0, 1.0])
    candidates = _Candidates(np.zeros((5, 1), np.int16), mean, std, feasible, np.zeros(5))
    promise = candidates.promise(_boxes(front, reference))
    before = pareto.hypervolume(front, reference)
    for row in range(5):
        draws = mean[row] + std[row] * rng.standard_normal((3000, goals))
        gains = [pareto.hypervolume(np.vstack([front, draw]), reference) - before for draw in draws]
        error = float(np.std(gains)) / np.sqrt(len(gains))
        assert promise[row] == pytest.approx(feasible[row] * np.mean(gains), abs=5 * error + 1e-9)
    monkeypatch.setattr(smbo, "PRODUCTS", 1)  # candidate by candidate
    assert np.allclose(candidates.promise(_boxes(front, reference)), promise, rtol=1e-12)


# -- beliefs -----------------------------------------------------------------------------------------------------------


def test_a_surrogate_says_costs_in_their_own_units(rng: np.random.Generator) -> None:
    features = np.arange(8.0)[:, None]
    costs = np.array([-0.9, -0.8, -0.5, 3.0, np.inf, -0.85, 0.0, -0.9])
    surrogate = _Surrogate.fit(Memory(), features, costs, limit=np.inf)
    mean, std = surrogate.believe(features)
    runs = np.isfinite(costs)
    assert np.allclose(mean[runs], costs[runs], atol=1e-12)
    assert mean[4] == pytest.approx(3.0 + 3.9)  # cannot run: worse than all that can, by their range
    assert _Surrogate.fit(Memory(), features, costs, limit=9.0).believe(features)[0][4] == pytest.approx(9 + 9.9)
    step = 1e-6  # the deviation is the slope of the cost by the target, times 0.1
    moved = replace(surrogate, centre=surrogate.centre + step).believe(features)[0]
    assert np.allclose(std, 0.1 * surrogate.deviation * (moved - mean) / step, rtol=1e-4)
    assert std.argmin() in (0, 7) and std.argmax() == 4  # precise near the best


@pytest.mark.parametrize("costs", [np.full(8, 5.0), np.full(8, np.inf), np.array([1.0] * 7 + [2.0])])
def test_costs_that_hardly_differ_are_no_obstacle(costs: Values) -> None:
    mean, std = _Surrogate.fit(Kriging(), np.arange(8.0)[:, None], costs, np.inf).believe(np.array([[3.0], [100.0]]))
    assert np.isfinite(mean).all() and (std > 0).all() and np.isfinite(std).all()


def test_what_is_not_costly_is_known(digits_problem: Problem, rng: np.random.Generator) -> None:
    problem = costly(digits_problem)
    genes = problem.space.sample(40, rng)
    model = _Model.fit(problem, Kriging(), genes, problem.evaluate(genes), 300)
    assert list(model.surrogates) == [0]
    others = problem.space.sample(50, rng)
    candidates = _Candidates.of(model, others)
    latency = problem.objectives[1].predictor.predict(others)
    assert np.array_equal(candidates.mean[:, 1], latency) and not candidates.std[:, 1].any()
    assert (candidates.std[:, 0] > 0).all()
    violations = problem.violations(problem.evaluate(others))  # those of latency and memory: all known
    assert 0 < (violations == 0).sum() < 50
    assert np.allclose(candidates.excess, violations)
    assert np.array_equal(candidates.feasible, violations == 0)


@pytest.mark.parametrize(
    ("goal", "direction", "sign"), [(True, "max", 1), (True, "min", -1), (False, "min", -1), (False, "max", 1)]
)
def test_a_modelled_limit_is_kept_with_a_probability(
    digits_problem: Problem, goal: bool, direction: Any, sign: int, rng: np.random.Generator
) -> None:
    accuracy, latency, _ = digits_problem.objectives
    genes = digits_problem.space.sample(12, rng)
    middle = float(np.median(latency.predictor.predict(genes)))
    limit = replace(Objective.of(latency.predictor, direction, middle, worst=100.0, costly=True), goal=goal)
    problem = Problem(digits_problem.space, [accuracy, limit])
    values = problem.evaluate(genes)
    model = _Model.fit(problem, Memory(), genes, values, 300)
    candidates = _Candidates.of(model, genes)
    std = model.surrogates[1].believe(model.surrogates[1].model.fits[0][0])[1]  # type: ignore[attr-defined]
    assert np.allclose(candidates.feasible, norm.cdf(sign * (values[:, 1] - middle) / std))
    assert ((candidates.feasible > 0.01) & (candidates.feasible < 0.99)).any()
    assert np.allclose(candidates.excess, problem.violations(values))
    assert candidates.mean.shape == (12, 2 if goal else 1)


def test_networks_that_cannot_run_promise_nothing(digits_problem: Problem, rng: np.random.Generator) -> None:
    accuracy, latency, _ = costly(digits_problem).objectives
    nowhere = PositionTable.of_layers(digits_problem.space, "latency", "ms", lambda layer: np.inf)
    genes = digits_problem.space.sample(30, rng)
    for objective in (
        replace(latency, predictor=nowhere),
        Objective.of(nowhere, None),
        Objective.of(nowhere, None, 5.0),
    ):
        problem = Problem(digits_problem.space, [accuracy, objective])
        candidates = _Candidates.of(_Model(problem, {}), genes)
        assert not candidates.feasible.any() and np.isinf(candidates.excess).all()
        searcher = SMBO(start=10, pool=200)
        rows = searcher.ask(problem, told(problem, searcher, genes), 5, rng)
        assert np.array_equal(problem.space.canonical(problem.space.validate(rows)), rows) and len(rows) == 5


def test_half_of_what_is_fitted_is_the_best_and_half_the_latest(
    small_problem: Problem, everything: Genes, rng: np.random.Generator
) -> None:
    problem = Problem(small_problem.space, small_problem.objectives[:1])
    genes = rng.permutation(everything)[:60]
    accuracy = problem.evaluate(genes)[:, 0]
    memory = Memory()
    _Model.fit(problem, memory, genes, problem.evaluate(genes), 20)
    best = np.argsort(-accuracy, kind="stable")[:10]
    latest = [row for row in range(60) if row not in best][-10:]
    expected = genes[[*best, *latest]]
    assert {row.tobytes() for row in memory.fits[0][0]} == {
        row.tobytes() for row in smbo._features(problem.space, expected)
    }
    assert len(memory.fits[0][0]) == 20


# -- the searcher ------------------------------------------------------------------------------------------------------


def test_it_evaluates_nothing_by_itself(digits_problem: Problem, rng: np.random.Generator) -> None:
    accuracy, *others = costly(digits_problem).objectives
    counted = Counted(accuracy.predictor)
    problem = Problem(digits_problem.space, [replace(accuracy, predictor=counted), *others])
    assert search(problem, SMBO(batch=5, start=10, pool=300), evaluations=25, seed=1).evaluations == 25
    assert counted.asked == 25


def test_no_evaluation_is_spent_on_what_breaks_a_known_limit(digits_problem: Problem, rng: np.random.Generator) -> None:
    accuracy, latency, memory = costly(digits_problem).objectives
    limit = float(np.quantile(latency.predictor.predict(digits_problem.space.sample(500, rng)), 0.3))
    problem = Problem(digits_problem.space, [accuracy, latency.limited(limit), memory])
    searcher = SMBO(start=10, pool=500)
    state = searcher.init(problem)
    for _ in range(3):
        rows = searcher.ask(problem, state, 10, rng)
        assert (problem.violations(problem.evaluate(rows)) == 0).all()
        state = searcher.tell(problem, state, rows, problem.evaluate(rows))


def test_the_front_of_a_small_space_is_found_with_few_evaluations(small_problem: Problem, everything: Genes) -> None:
    problem = costly(small_problem)
    true = pareto.hypervolume(problem.costs(problem.evaluate(everything)), reference_point(problem))
    for seed in range(3):
        found = search(problem, SMBO(), evaluations=80, seed=seed)  # of 800 networks
        random = search(problem, RandomSearch(), evaluations=80, seed=seed)
        assert found.hypervolume > 0.9995 * true
        assert random.hypervolume < found.hypervolume


@pytest.mark.parametrize("goals", [1, 3])
def test_any_number_of_goals(small_problem: Problem, everything: Genes, goals: int) -> None:
    space = small_problem.space
    memory = PositionTable.of_layers(space, "memory", "bytes", lambda layer: layer.peak_elements, combine="max")
    problem = Problem(space, [*costly(small_problem).objectives, Objective.of(memory, "min")][:goals])
    true = pareto.hypervolume(problem.costs(problem.evaluate(everything)), reference_point(problem))
    assert search(problem, SMBO(), evaluations=80, seed=0).hypervolume > 0.999 * true


def test_a_batch_is_spread_over_the_front(small_problem: Problem, everything: Genes, rng: np.random.Generator) -> None:
    """Twins promise the same, but once one is believed the other promises nothing more."""
    mean = np.array([[1.0, 3.0], [1.0, 3.0], [2.9, 1.9], [9.0, 9.0]])
    candidates = _Candidates(np.zeros((4, 1), np.int16), mean, np.zeros((4, 2)), np.ones(4), np.zeros(4))
    batch = smbo._best_batch(candidates, np.array([[3.0, 2.0]]), np.array([4.0, 4.0]), 2)
    assert batch.tolist() == [0, 2]
    assert set(smbo._best_batch(candidates, np.zeros((0, 2)), np.array([4.0, 4.0]), 9).tolist()) == {0, 1, 2, 3}


def test_when_no_limit_can_be_kept_the_nearest_are_asked_for() -> None:
    excess = np.array([0.5, 0.1, np.inf, 0.3])
    candidates = _Candidates(np.zeros((4, 1), np.int16), np.ones((4, 2)), np.zeros((4, 2)), np.zeros(4), excess)
    batch = smbo._best_batch(candidates, np.zeros((0, 2)), np.array([4.0, 4.0]), 3)
    assert batch.tolist() == [1, 3, 0]
    hopeful = replace(
        candidates, mean=np.array([[1.0, 1.0], [2.0, 2.0], [1.0, 1.0], [3.0, 3.0]]), feasible=np.full(4, 0.4)
    )
    batch = smbo._best_batch(hopeful, np.array([[3.5, 3.5]]), np.array([4.0, 4.0]), 4)
    assert batch[0] in (0, 2) and batch[-1] == 3  # not believed to keep the limit, but it may


def test_it_is_done_when_everything_is_known(
    small_problem: Problem, everything: Genes, rng: np.random.Generator
) -> None:
    searcher = SMBO()
    left = rng.permutation(everything)[:7]
    rows = {row.tobytes() for row in left}
    state = told(small_problem, searcher, np.array([row for row in everything if row.tobytes() not in rows]))
    asked = searcher.ask(small_problem, state, 10, rng)
    assert len(asked) == 7 and {row.tobytes() for row in asked} == rows
    state = searcher.tell(small_problem, state, asked, small_problem.evaluate(asked))
    assert len(searcher.ask(small_problem, state, 10, rng)) == 0


def test_evolution_finds_more_promise_than_as_many_random_candidates(digits_problem: Problem) -> None:
    problem, searcher = costly(digits_problem), SMBO(pool=600)
    gains = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        state = told(problem, searcher, problem.space.sample(60, rng))
        model = _Model.fit(problem, searcher.surrogate, state["genes"], state["values"], searcher.fitted)
        best = smbo._feasible_front(problem, state["values"])
        boxes = _boxes(problem.costs(state["values"][best]), reference_point(problem))
        asked = searcher.ask(problem, state, 10, rng)
        assert len({row.tobytes() for row in np.concatenate([asked, state["genes"]])}) == 70
        random = _Candidates.of(model, problem.space.sample(600, rng)).promise(boxes)
        gains.append(_Candidates.of(model, asked).promise(boxes)[0] / random.max())
    assert np.mean(gains) > 1.55  # 1.3 with parents taken at random


@pytest.mark.parametrize(
    "settings", [{"batch": 0}, {"start": 4}, {"start": 30, "fitted": 20}, {"pool": 99}, {"generations": 0}]
)
def test_wrong_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InvalidValueError, match="SMBO needs batch >= 1, start >= 5, fitted >= start"):
        SMBO(**settings)  # type: ignore[arg-type]


def test_what_is_costly_needs_a_worst_value(digits_problem: Problem, rng: np.random.Generator) -> None:
    accuracy, *others = costly(digits_problem).objectives
    problem = Problem(digits_problem.space, [replace(accuracy, worst=None), *others])
    searcher = SMBO()
    with pytest.raises(InvalidValueError, match="its `worst` must be given"):
        searcher.ask(problem, told(problem, searcher, problem.space.sample(20, rng)), 5, rng)

import dataclasses
import itertools

import numpy as np
import pytest

from nas.core import pareto
from nas.core.problem import Objective, Problem, Values
from nas.core.search_loop import reference_point, search
from nas.core.searcher_contract import check_searcher
from nas.searchers.auto import MOST_GOALS, Auto, has_exact_front
from nas.searchers.exact import Exact, seeds
from nas.searchers.nsga2 import NSGA2
from nas.searchers.smbo import SMBO
from predictors import PositionTable
from search_spaces import Genes, MobileNetV3
from search_spaces.base.errors import InfeasibleError, InvalidValueError

EVOLUTION = Auto(exact=None, rows=300)


@dataclasses.dataclass(frozen=True)
class Bent:
    """A table's values bent such that they are no sum any more, in the same order."""

    straight: PositionTable
    metric: str = "accuracy"
    unit: str = "1"

    def predict(self, genes: Genes) -> Values:
        return -np.exp(-self.straight.predict(genes) / 20)


@pytest.fixture(scope="module")
def use(digits_space: MobileNetV3) -> PositionTable:
    return PositionTable.of_layers(digits_space, "accuracy", "1", lambda layer: float(np.log1p(layer.params)) / 3)


@pytest.fixture(scope="module")
def cost(digits_space: MobileNetV3) -> PositionTable:
    return PositionTable.of_layers(digits_space, "latency", "ms", lambda layer: 1e-5 * layer.macs + 0.01)


@pytest.fixture(scope="module")
def bent(digits_space: MobileNetV3, use: PositionTable, cost: PositionTable) -> Problem:
    return Problem(digits_space, [Objective.of(Bent(use), "max"), Objective.of(cost, "min")])


def test_sums_are_solved_exactly_and_then_it_is_done(
    digits_space: MobileNetV3, use: PositionTable, cost: PositionTable
) -> None:
    problem = Problem(digits_space, [Objective.of(use, "max"), Objective.of(cost, "min")])
    found = search(problem, Auto(), evaluations=10_000, seed=0)
    expected = search(problem, Exact(points=2000), evaluations=10_000, seed=5)
    assert found.stopped == "searcher"
    assert np.array_equal(found.values, expected.values)
    drawn = problem.evaluate(digits_space.sample(5000, np.random.default_rng(0)))
    both = problem.costs(np.concatenate([found.values, drawn]))
    assert pareto.front(both).max() < len(found.values)  # none of the drawn ones is better


def test_a_small_space_is_listed_whatever_predicts(small_problem: Problem) -> None:
    bent = [
        dataclasses.replace(o, predictor=Bent(o.predictor)) if o.direction == "max" else o  # type: ignore[arg-type]
        for o in small_problem.objectives
    ]
    problem = Problem(small_problem.space, bent)
    found = search(problem, Auto(), evaluations=800, seed=0)
    rows = np.array(list(itertools.product(*map(range, problem.space.cardinalities))), np.int16)
    everything = np.unique(problem.space.canonical(rows), axis=0)
    values = problem.evaluate(everything)
    feasible = values[problem.violations(values) == 0]
    best = feasible[pareto.front(problem.costs(feasible))]
    assert found.stopped == "searcher" and found.evaluations < len(everything) / 2
    assert np.array_equal(found.values, best)


def test_costly_objectives_are_modelled(small_problem: Problem) -> None:
    first, *others = small_problem.objectives
    problem = Problem(small_problem.space, [dataclasses.replace(first, costly=True, worst=0.0), *others])
    smbo = SMBO(batch=4, start=8, pool=1000)
    auto, states = Auto(costly=smbo), []
    for searcher in (auto, smbo):
        state = searcher.init(problem)
        for r in range(4):
            genes = searcher.ask(problem, state, 4, np.random.default_rng(r))
            state = searcher.tell(problem, state, genes, problem.evaluate(genes))
        states.append(state)
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[1])
    assert len(auto.ask(problem, auto.init(problem), auto.batch, np.random.default_rng(0))) == smbo.batch


def test_what_has_an_exact_front(digits_space: MobileNetV3, use: PositionTable, cost: PositionTable) -> None:
    largest = dataclasses.replace(cost, combine="max")
    sums = [Objective.of(use, "max"), Objective.of(cost, "min")]
    for objectives, expected in (
        (sums, True),
        ([*sums, Objective.of(largest, None, 9.0)], True),
        ([*sums, Objective.of(Bent(use), None)], True),  # counts nothing
        ([*sums, Objective.of(Bent(use), None, 9.0)], False),
        ([*sums, Objective.of(largest, "max")], False),
        ([Objective.of(Bent(use), "max"), sums[1]], False),
        ([dataclasses.replace(sums[0], costly=True), sums[1]], False),
        ([*sums, *[Objective.of(cost, "min") for _ in range(MOST_GOALS - 1)]], False),
    ):
        assert has_exact_front(Problem(digits_space, objectives)) == expected


def test_evolution_begins_with_the_front_of_sums(bent: Problem) -> None:
    first = EVOLUTION.ask(bent, EVOLUTION.init(bent), EVOLUTION.batch, np.random.default_rng(3))
    expected = seeds(bent, EVOLUTION.seeds, np.random.default_rng(3), grid=1000, rows=300)
    assert np.array_equal(first[: len(expected)], expected)
    assert len(first) == len(expected) + EVOLUTION.evolution.population
    few = EVOLUTION.ask(bent, EVOLUTION.init(bent), 7, np.random.default_rng(3))
    assert len(few) == 7


def test_the_first_networks_are_better_than_those_of_plain_evolution(bent: Problem) -> None:
    reached = [
        np.median([search(bent, searcher, evaluations=200, seed=seed).hypervolume for seed in range(3)])
        for searcher in (EVOLUTION, NSGA2())
    ]
    point = reference_point(bent)
    best = search(bent, EVOLUTION, evaluations=8000, seed=0)
    most = pareto.hypervolume(bent.costs(best.values), point)
    assert most - reached[0] < 0.4 * (most - reached[1])


def test_the_population_grows_with_the_evaluations(bent: Problem) -> None:
    searcher = dataclasses.replace(EVOLUTION, evolution=NSGA2(population=10), growth=1.0, largest=50, seeds=0)
    state = searcher.init(bent)
    rng = np.random.default_rng(0)
    for evaluations, population in ((399, 10), (430, 20), (1599, 20), (1650, 40), (7000, 50)):
        genes = bent.space.sample(evaluations - int(state["evaluations"]), rng)
        state = searcher.tell(bent, state, genes, bent.evaluate(genes))
        assert int(state["evaluations"]) == evaluations
        assert len(state["genes"]) == population
        assert len(searcher.ask(bent, state, searcher.batch, rng)) == population


def test_a_limit_that_fitted_sums_cannot_keep_does_not_end_the_search(
    digits_space: MobileNetV3, use: PositionTable, cost: PositionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(digits_space, [Objective.of(Bent(use), "max"), Objective.of(cost, "min")])

    def none(*_: object, **__: object) -> Genes:
        raise InfeasibleError("none")

    monkeypatch.setattr("nas.searchers.auto.seeds", none)
    assert search(problem, EVOLUTION, evaluations=150, seed=0).evaluations == 150


@pytest.mark.parametrize("exact", [False, True])
def test_the_contract_holds_for_either(exact: bool, rng: np.random.Generator) -> None:
    searcher = Auto(largest=100) if exact else dataclasses.replace(EVOLUTION, largest=100)
    check_searcher(searcher, rng, ends=exact)


@pytest.mark.parametrize("wrong", [{"growth": -1.0}, {"largest": 99}, {"seeds": -1}, {"rows": 19}])
def test_bad_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match=next(iter(wrong))):
        Auto(**wrong)  # type: ignore[arg-type]

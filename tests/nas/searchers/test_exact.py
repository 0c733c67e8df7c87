import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.core import pareto
from nas.core.exact_front import exact_front
from nas.core.problem import Objective, Problem, Values
from nas.core.search_loop import reference_point, search
from nas.searchers.exact import Exact, seeds
from predictors import PositionTable, macs, params
from search_spaces import Genes, MobileNetV3
from search_spaces.base.errors import InfeasibleError, InvalidValueError


class Curved:
    """No sum over positions: what more parameters bring falls off."""

    metric, unit = "accuracy", "1"

    def __init__(self, space: MobileNetV3) -> None:
        self.hidden = params(space)

    def predict(self, genes: Genes) -> Values:
        return np.asarray(np.log(self.hidden.predict(genes)) ** 3)


def curved_problem(space: MobileNetV3, **latency: Any) -> Problem:
    work = PositionTable.of_layers(space, "latency", "ms", lambda layer: 0.01 + 1e-5 * layer.macs)
    return Problem(space, [Objective.of(Curved(space), "max"), Objective.of(work, "min", **latency)])


def rows_of(genes: Genes) -> set[bytes]:
    return {row.tobytes() for row in genes}


def test_a_search_gives_the_exact_front_and_ends(digits_problem: Problem) -> None:
    front = exact_front(digits_problem)
    found = search(digits_problem, Exact(), evaluations=10_000, seed=0)
    assert np.array_equal(found.values, front.values) and found.stopped == "searcher"
    assert found.evaluations == len(front.genes) < 500


def test_a_longer_front_is_thinned_and_keeps_its_ends(digits_problem: Problem) -> None:
    front = exact_front(digits_problem)
    found = search(digits_problem, Exact(points=20), evaluations=10_000, seed=0)
    assert found.evaluations == 20 < len(front.genes)
    assert np.array_equal(found.values[[0, -1]], front.values[[0, -1]])
    reference = reference_point(digits_problem)
    assert found.hypervolume > 0.95 * front.hypervolume_bound(reference)


def test_a_smaller_budget_gives_a_front_from_end_to_end(digits_problem: Problem) -> None:
    front = exact_front(digits_problem)
    found = search(digits_problem, Exact(), evaluations=7, seed=0)
    assert found.evaluations == 7 and np.array_equal(found.values[[0, -1]], front.values[[0, -1]])


def test_nothing_is_asked_for_twice(digits_problem: Problem, rng: np.random.Generator) -> None:
    searcher = Exact(points=30)
    state = searcher.init(digits_problem)
    whole, asked = rows_of(state["front"]), []
    assert len(whole) == 30
    ends = exact_front(digits_problem).genes[[0, -1]]
    assert rows_of(searcher.ask(digits_problem, state, 2, rng)) == rows_of(ends)
    while len(genes := searcher.ask(digits_problem, state, 8, rng)):
        assert len(genes) <= 8 and np.array_equal(digits_problem.space.canonical(genes), genes)
        asked.append(genes)
        state = searcher.tell(digits_problem, state, genes[::-1], digits_problem.evaluate(genes[::-1]))
    assert len(np.concatenate(asked)) == 30 and rows_of(np.concatenate(asked)) == whole


def test_networks_that_a_search_starts_with_count(digits_problem: Problem, rng: np.random.Generator) -> None:
    front = exact_front(digits_problem)
    start = np.concatenate([front.genes[:5], digits_problem.space.sample(5, rng)])
    found = search(digits_problem, Exact(), evaluations=10_000, seed=0, start=start)
    assert np.array_equal(found.values, front.values) and found.evaluations == len(front.genes) + 5


def test_a_broken_search_goes_on(digits_problem: Problem, tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    whole = search(digits_problem, Exact(points=40), evaluations=100, seed=0)

    class Stop(Exception):
        pass

    def stop(evaluations: int, hypervolume: float) -> None:
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.core.search_loop.SAVE_EVERY_SECONDS", -1.0)
        with pytest.raises(Stop):
            search(digits_problem, Exact(points=40), evaluations=100, seed=0, checkpoint=path, on_round=stop)
    resumed = search(digits_problem, Exact(points=40), evaluations=100, seed=0, checkpoint=path)
    assert np.array_equal(resumed.genes, whole.genes) and resumed.evaluations == 40


def test_limits_that_no_network_keeps_are_told_before_the_search(digits_space: MobileNetV3) -> None:
    work, size = macs(digits_space), params(digits_space)
    least = work.minimum()[1]
    problem = Problem(digits_space, [Objective.of(size, "max", 4e4), Objective.of(work, "min", 1.1 * least)])
    with pytest.raises(InfeasibleError, match="cannot be met together"):
        Exact().init(problem)


# -- what is no sum ----------------------------------------------------------------------------------------------------


def test_where_predictors_are_no_sums_the_front_is_nearly_the_best(digits_space: MobileNetV3) -> None:
    problem = curved_problem(digits_space)
    known = Problem(  # the cube of a logarithm keeps the order, so the true front is that of the parameters
        digits_space, [Objective.of(params(digits_space), "max"), problem.objectives[1]]
    )
    best = problem.costs(problem.evaluate(exact_front(known).genes))
    reference = reference_point(problem)
    volume = pareto.hypervolume(best, reference)

    def share(refits: int) -> float:
        genes = seeds(problem, 1000, np.random.default_rng(0), refits=refits)
        costs = problem.costs(problem.evaluate(genes))
        assert np.array_equal(digits_space.canonical(genes), genes) and len(rows_of(genes)) == len(genes)
        assert len(pareto.front(costs)) == len(costs)
        return pareto.hypervolume(costs, reference) / volume

    once, twice = share(0), share(1)
    assert 0.93 < once < 0.99 * twice < 0.99 + 1e-12
    assert search(problem, Exact(), evaluations=500, seed=0).hypervolume > 0.95 * volume


def test_seeds_are_few_if_few_are_wanted(digits_space: MobileNetV3, digits_problem: Problem) -> None:
    for problem in (digits_problem, curved_problem(digits_space)):
        assert len(seeds(problem, 3, np.random.default_rng(0))) == 3
    front = exact_front(digits_problem)
    assert rows_of(seeds(digits_problem, 10_000, np.random.default_rng(0))) == rows_of(front.genes)


def test_same_seed_same_seeds(digits_space: MobileNetV3) -> None:
    problem = curved_problem(digits_space)
    first, again, other = (seeds(problem, 50, np.random.default_rng(s), rows=200) for s in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_seeds_keep_limits(digits_space: MobileNetV3) -> None:
    latency = curved_problem(digits_space).objectives[1].predictor
    limit = float(np.quantile(latency.predict(digits_space.sample(500, np.random.default_rng(0))), 0.05))
    problem = curved_problem(digits_space, limit=limit)
    genes = seeds(problem, 200, np.random.default_rng(0))
    assert len(genes) > 20 and not problem.violations(problem.evaluate(genes)).any()


def test_seeds_of_a_limit_that_no_sum_keeps_are_the_nearest(digits_space: MobileNetV3) -> None:
    accuracy, latency = curved_problem(digits_space).objectives
    most = float(accuracy.predictor.predict(digits_space.biggest.genes[None])[0])
    problem = Problem(digits_space, [latency, dataclasses.replace(accuracy.limited(most), goal=False)])
    genes = seeds(problem, 50, np.random.default_rng(0))
    some = digits_space.sample(1000, np.random.default_rng(1))
    nearest, random = (problem.violations(problem.evaluate(rows)).min() for rows in (genes, some))
    assert 0 <= nearest < 0.5 * random


def test_only_true_sums_prove_that_a_limit_cannot_be_kept(digits_space: MobileNetV3) -> None:
    accuracy, latency = curved_problem(digits_space).objectives
    beyond = Problem(digits_space, [latency, accuracy.limited(1e9)])
    genes = seeds(beyond, 20, np.random.default_rng(0))
    most = accuracy.predictor.predict(digits_space.biggest.genes[None])[0]  # nothing comes nearer
    assert len(genes) and accuracy.predictor.predict(genes).max() > 0.97 * most
    with pytest.raises(InfeasibleError):
        seeds(Problem(digits_space, [accuracy, latency.limited(1e-6)]), 20, np.random.default_rng(0))


def test_costly_objectives_are_left_out(digits_space: MobileNetV3, caplog: pytest.LogCaptureFixture) -> None:
    class Costly(Curved):
        def predict(self, genes: Genes) -> Values:
            raise AssertionError("evaluated")

    accuracy, latency = Costly(digits_space), curved_problem(digits_space).objectives[1]
    expected = exact_front(Problem(digits_space, [latency])).genes
    both = Problem(digits_space, [Objective.of(accuracy, "max", costly=True, worst=0.0), latency])
    assert np.array_equal(seeds(both, 10, np.random.default_rng(0)), expected)
    assert np.array_equal(Exact().init(both)["front"], expected)
    assert "the front is that of the other goals, as the accuracy is costly" in caplog.text
    with pytest.raises(InvalidValueError, match="all goals are costly"):
        seeds(Problem(digits_space, both.objectives[:1]), 10, np.random.default_rng(0))


@pytest.mark.parametrize("settings", [{"points": 0}, {"grid": 1}, {"rows": 19}])
def test_wrong_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InvalidValueError, match="Exact needs points >= 1"):
        Exact(**settings)


def test_it_is_frozen_and_asks_for_all_at_once() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Exact().points = 5  # type: ignore[misc]
    assert Exact(points=12).batch == 12

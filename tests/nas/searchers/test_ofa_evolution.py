import dataclasses

import numpy as np
import pytest

from nas.core import pareto
from nas.core.problem import Objective, Problem
from nas.core.search_loop import search
from nas.core.searcher import State
from nas.searchers import _variation as variation
from nas.searchers.ofa_evolution import OFAEvolution, van_der_corput
from search_spaces import Genes
from search_spaces.base.errors import InvalidValueError


def told(searcher: OFAEvolution, problem: Problem, genes: Genes) -> State:
    return searcher.tell(problem, searcher.init(problem), genes, problem.evaluate(genes))


def test_targets_get_ever_finer() -> None:
    assert [van_der_corput(k) for k in range(8)] == [1, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]


def test_under_a_limit_every_child_keeps_it(digits_problem: Problem, rng: np.random.Generator) -> None:
    accuracy, latency, memory = digits_problem.objectives
    limit = float(np.quantile(latency.predictor.predict(digits_problem.space.sample(1000, rng)), 0.1))
    problem = Problem(digits_problem.space, [accuracy, Objective.of(latency.predictor, None, limit), memory])
    searcher = OFAEvolution(population=40)
    state, best = searcher.init(problem), []
    for _ in range(12):
        rows = searcher.ask(problem, state, 40, rng)
        values = problem.evaluate(rows)
        assert (problem.violations(values) == 0).all()
        best.append(values[:, 0].max())
        state = searcher.tell(problem, state, rows, values)
    assert max(best[6:]) > best[0]


def test_a_limit_that_cannot_be_met_does_not_stop_it(digits_problem: Problem, rng: np.random.Generator) -> None:
    accuracy, latency, _ = digits_problem.objectives
    least = latency.predictor.predict(digits_problem.space.smallest.genes[None])[0]
    problem = Problem(digits_problem.space, [accuracy, Objective.of(latency.predictor, None, float(least / 2))])
    searcher = OFAEvolution(population=10)
    state = searcher.init(problem)
    for _ in range(3):
        rows = searcher.ask(problem, state, 10, rng)
        state = searcher.tell(problem, state, rows, problem.evaluate(rows))
    assert len(rows) == 10
    assert latency.predictor.predict(rows).mean() < 1.5 * least  # the nearest that it finds


def test_each_target_is_swept(small_problem: Problem, everything: Genes, rng: np.random.Generator) -> None:
    searcher = OFAEvolution(population=40, generations=2)
    state = searcher.init(small_problem)
    latency = small_problem.objectives[1].predictor
    least, most = latency.predict(np.stack([small_problem.space.smallest.genes, small_problem.space.biggest.genes]))
    for r in range(9):
        rows = searcher.ask(small_problem, state, 40, rng)
        target = least + (most - least) * van_der_corput(r // 2)
        if r == 0:
            ends = np.stack([small_problem.space.smallest.genes, small_problem.space.biggest.genes])
            assert np.array_equal(rows[:2], ends)
        else:
            assert state["range"].tolist() == pytest.approx([least, most])
            assert (latency.predict(rows) <= target + 1e-9).all()
        state = searcher.tell(small_problem, state, rows, small_problem.evaluate(rows))
        assert state["told"].tolist() == [r + 1]


def test_a_limited_goal_is_swept_up_to_its_limit(digits_problem: Problem, rng: np.random.Generator) -> None:
    accuracy, latency, _ = digits_problem.objectives
    problem = Problem(digits_problem.space, [accuracy, latency.limited(5.0)])
    searcher = OFAEvolution(population=20, generations=1)
    state = told(searcher, problem, problem.space.sample(200, rng))
    assert state["range"][1] > 5.0
    assert searcher._target(problem, {**state, "told": np.array([0])}) == 5.0
    half = (state["range"][0] + 5.0) / 2
    assert searcher._target(problem, {**state, "told": np.array([1])}) == pytest.approx(half)


def test_parents_are_the_most_accurate_under_the_target(small_problem: Problem, everything: Genes) -> None:
    searcher = OFAEvolution(population=40, parent_ratio=0.25)
    values = small_problem.evaluate(everything)
    target = float(np.median(values[:, 1]))
    parents = searcher._best(small_problem, values, target)
    under = np.sort(values[values[:, 1] <= target, 0])[::-1]
    assert len(parents) == 10 and (values[parents, 1] <= target).all()
    assert values[parents, 0].tolist() == pytest.approx(under[:10].tolist())
    unreachable = searcher._best(small_problem, values, float(values[:, 1].min() / 2))
    assert sorted(values[unreachable, 1].tolist()) == pytest.approx(np.sort(values[:, 1])[:10].tolist())


def test_front_and_parents_are_kept(small_problem: Problem, everything: Genes) -> None:
    searcher = OFAEvolution(population=40)
    state, values = told(searcher, small_problem, everything), small_problem.evaluate(everything)
    front = pareto.front(small_problem.costs(values))
    kept = {tuple(row) for row in state["genes"].tolist()}
    assert {tuple(row) for row in everything[front].tolist()} <= kept
    assert len(front) <= len(kept) <= len(front) + 10
    accurate = Problem(small_problem.space, small_problem.objectives[:1])  # whose front is one network
    assert np.array_equal(np.sort(told(searcher, accurate, everything)["values"][:, 0]), np.sort(values[:, 0])[-10:])


def test_mutation_and_crossover_have_their_shares(digits_problem: Problem, rng: np.random.Generator) -> None:
    problem = Problem(digits_problem.space, digits_problem.objectives[:1])
    row = digits_problem.space.biggest.genes[None]
    searcher = OFAEvolution(population=100, mutation_ratio=0.3, mutation_prob=0.5)
    rows = searcher.ask(problem, told(searcher, problem, row), 100, rng)
    changed = (rows != row).any(1)
    assert changed[:30].mean() > 0.9 and not changed[30:].any()  # equal parents have equal children


def test_a_costly_goal_is_not_asked_for(
    digits_problem: Problem, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracy, latency, _ = digits_problem.objectives
    costly = dataclasses.replace(latency, costly=True, worst=100.0)
    problem = Problem(digits_problem.space, [dataclasses.replace(accuracy, costly=True, worst=0.0), costly])
    searcher = OFAEvolution(population=20)
    state = told(searcher, problem, digits_problem.space.sample(50, rng))

    def forbidden(*arguments: object) -> None:
        raise AssertionError("evaluated")

    monkeypatch.setattr(type(latency.predictor), "predict", forbidden)
    assert len(searcher.ask(problem, state, 20, rng)) == 20


def test_one_run_finds_nearly_the_whole_front(small_problem: Problem, everything: Genes) -> None:
    found = search(small_problem, OFAEvolution(population=20), evaluations=400, seed=0)
    true = pareto.hypervolume(small_problem.costs(small_problem.evaluate(everything)), found.reference)
    assert found.hypervolume > 0.98 * true


def test_tries_are_bounded() -> None:
    assert 10 <= variation.TRIES <= 1000


@pytest.mark.parametrize(
    "settings", [{"population": 0}, {"generations": 0}, {"parent_ratio": 1.1}, {"mutation_ratio": -1.0}]
)
def test_wrong_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match="OFAEvolution needs population >= 1, generations >= 1"):
        OFAEvolution(**settings)  # type: ignore[arg-type]

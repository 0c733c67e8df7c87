import dataclasses

import numpy as np
import pytest

from nas.core.problem import Objective, Problem
from nas.core.search_loop import search
from nas.core.searcher import State
from nas.searchers._variation import neighbours
from nas.searchers.netadapt import NetAdapt
from predictors import PositionTable
from search_spaces import Genes
from search_spaces.base.errors import InvalidValueError


def walk(searcher: NetAdapt, problem: Problem, rounds: int) -> list[State]:
    """States round by round; what was told once is not told again."""
    state, states, seen = searcher.init(problem), [], set()
    for r in range(rounds):
        rows = searcher.ask(problem, state, searcher.batch, np.random.default_rng(r))
        new = np.array(list(dict.fromkeys(row for row in map(tuple, rows.tolist()) if row not in seen)), np.int16)
        seen |= set(map(tuple, new.tolist()))
        state = searcher.tell(problem, state, new, problem.evaluate(new))
        states.append(state)
    return states


def greedy(problem: Problem, step: float) -> list[tuple[int, ...]]:
    """Algorithm 1, from the biggest network to the last reduction; objective 0 is the accuracy, 1 the latency."""
    current, path = problem.space.biggest.genes, []
    while True:
        path.append(tuple(current.tolist()))
        rows = neighbours(problem.space, current[None])
        values, now = problem.evaluate(rows), problem.evaluate(current[None])[0, 1]
        less = values[:, 1] < now
        if not less.any():
            return path
        enough = values[:, 1] <= now * (1 - step)
        if not enough.any():
            enough = values[:, 1] == values[:, 1].min()
        current = rows[np.flatnonzero(enough)[values[enough, 0].argmax()]]


def without_ties(problem: Problem) -> Problem:
    """Accuracy against latency, every entry of the tables a little different."""
    rng, tables = np.random.default_rng(0), [objective.predictor for objective in problem.objectives[:2]]
    noisy = [
        dataclasses.replace(table, values=table.values * rng.uniform(0.98, 1.02, table.values.shape))
        for table in tables
        if isinstance(table, PositionTable)
    ]
    return Problem(problem.space, [Objective.of(noisy[0], "max"), Objective.of(noisy[1], "min")])


@pytest.mark.parametrize("step", [0.25, 0.1, 0.02])
@pytest.mark.parametrize("batch", [7, 100])
def test_the_first_walk_is_the_greedy_one(digits_problem: Problem, step: float, batch: int) -> None:
    problem = without_ties(digits_problem)
    path = greedy(problem, step)
    assert len(path) > 3
    states = walk(NetAdapt(step=step, batch=batch), problem, 700 // batch + 60)
    assert states[-1]["step"][0] < step  # the walk has ended
    walked = [state for state in states if state["step"][0] == step]
    visited = list(dict.fromkeys(tuple(row) for state in walked for row in state["current"].tolist()))
    places = [path.index(row) for row in visited]  # where nothing is to be asked for, it takes several steps at once
    assert places == sorted(places) and len(places) > 0.6 * len(path)
    assert set(path) <= set(map(tuple, states[-1]["genes"].tolist()))


def test_of_equally_accurate_reductions_the_faster_is_taken(digits_problem: Problem) -> None:
    accuracy, latency, _ = digits_problem.objectives  # the accuracy does not depend on the resolution
    problem = Problem(digits_problem.space, [accuracy, Objective.of(latency.predictor, "min")])
    states = walk(NetAdapt(step=0.02, batch=200), problem, 2)
    expected = problem.space.biggest.genes.copy()
    expected[problem.space.index["resolution"]] = 0
    assert np.array_equal(states[-1]["current"], expected[None])


def test_each_walk_halves_the_step_from_the_biggest_on(digits_problem: Problem) -> None:
    problem = without_ties(digits_problem)
    states = walk(NetAdapt(step=0.2, finest=0.04, batch=100), problem, 120)
    steps = [float(state["step"][0]) for state in states]
    assert list(dict.fromkeys(steps)) == [0.2, 0.1, 0.05, 0.0]
    biggest = problem.space.biggest.genes
    assert all(np.array_equal(state["start"], biggest[None]) for state in states)
    least, most = problem.objectives[1].predictor.predict(np.stack([problem.space.smallest.genes, biggest]))
    for step in (0.2, 0.1, 0.05):
        walked = np.concatenate([state["current"] for state in states if state["step"][0] == step])
        used = problem.objectives[1].predictor.predict(walked)
        assert used.max() > 0.15 * most and used.min() < 2 * least


def test_with_a_limit_and_no_goal_it_stops_there(digits_problem: Problem) -> None:
    accuracy, latency, _ = digits_problem.objectives
    problem = Problem(digits_problem.space, [accuracy, Objective.of(latency.predictor, None, 3.5)])
    states = walk(NetAdapt(step=0.1, batch=200), problem, 40)
    used = [float(latency.predictor.predict(state["current"])[0]) for state in states]
    assert used[0] > 3.5 and {u <= 3.5 for u in used} == {False}  # below it a walk is over
    first = [state for state in states if state["step"][0] == 0.1]
    assert 2.5 < latency.predictor.predict(first[-1]["genes"]).min() <= 3.5
    found = search(problem, NetAdapt(), evaluations=600, seed=0)
    assert (found.values[:, 1] <= 3.5).all()


def test_the_device_cannot_run_the_biggest(digits_problem: Problem) -> None:
    space = digits_problem.space
    most = float(digits_problem.objectives[1].predictor.predict(space.biggest.genes[None])[0])

    class Limited:
        metric, unit = "latency", "ms"

        def predict(self, genes: Genes) -> np.ndarray:
            taken = digits_problem.objectives[1].predictor.predict(genes)
            return np.where(taken < 0.7 * most, taken, np.inf)

    problem = Problem(space, [digits_problem.objectives[0], Objective.of(Limited(), "min")])
    states = walk(NetAdapt(batch=30), problem, 8)
    used = [problem.objectives[1].predictor.predict(state["current"])[0] for state in states]
    assert np.isfinite(used).all() and min(used) < used[0]
    broken = PositionTable.of_layers(space, "latency", "ms", lambda layer: np.inf)
    nothing = Problem(space, [digits_problem.objectives[0], Objective.of(broken, "min")])
    rows = NetAdapt().ask(nothing, walk(NetAdapt(batch=10), nothing, 5)[-1], 10, np.random.default_rng(0))
    assert rows.shape == (10, len(space.choices))


def test_failed_evaluations_do_not_stop_it(small_problem: Problem) -> None:
    searcher = NetAdapt(batch=100)
    state = searcher.init(small_problem)
    rows = np.unique(searcher.ask(small_problem, state, 100, np.random.default_rng(0)), axis=0)
    state = searcher.tell(small_problem, state, rows, small_problem.evaluate(rows))
    start = state["current"]
    asked = np.unique(searcher.ask(small_problem, state, 100, np.random.default_rng(0)), axis=0)
    assert len(asked) > 1
    state = searcher.tell(small_problem, state, asked[:1], small_problem.evaluate(asked[:1]))  # the others failed
    assert np.array_equal(state["current"], asked[:1]) and not np.array_equal(start, asked[:1])


def test_a_costly_resource_is_refused(small_problem: Problem) -> None:
    accuracy, latency = small_problem.objectives
    costly = dataclasses.replace(latency, costly=True, worst=100.0)
    with pytest.raises(InvalidValueError, match="NetAdapt needs an objective to shrink .* but latency_ms is costly"):
        NetAdapt().init(Problem(small_problem.space, [accuracy, costly]))
    memory = Objective.of(
        PositionTable.of_layers(small_problem.space, "memory", "bytes", lambda layer: layer.params), "min"
    )
    assert NetAdapt().init(Problem(small_problem.space, [accuracy, costly, memory]))


def test_without_anything_to_save_the_biggest_is_all(small_problem: Problem) -> None:
    problem = Problem(small_problem.space, small_problem.objectives[:1])
    states = walk(NetAdapt(), problem, 1)
    assert np.array_equal(states[0]["genes"], small_problem.space.biggest.genes[None]) and states[0]["step"][0] == 0


@pytest.mark.parametrize("settings", [{"step": 0.0}, {"step": 1.0}, {"finest": 0.5}, {"finest": 0.0}, {"batch": 0}])
def test_wrong_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match="NetAdapt needs 0 < finest <= step < 1 and batch >= 1"):
        NetAdapt(**settings)  # type: ignore[arg-type]

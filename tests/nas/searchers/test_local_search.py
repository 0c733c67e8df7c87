import numpy as np
import pytest

from nas.core import pareto
from nas.core.problem import Objective, Problem
from nas.core.searcher import State
from nas.searchers._variation import neighbours
from nas.searchers.local_search import LocalSearch
from search_spaces import Genes, MobileNetV3
from search_spaces.base.errors import InvalidValueError


def descents(searcher: LocalSearch, problem: Problem, rounds: int) -> tuple[list[State], list[Genes]]:
    """The last state of each descent that ended, and what was asked for, round by round; each row is told once."""
    state, ends, asked, seen = searcher.init(problem), [], [], set()
    for r in range(rounds):
        rows = searcher.ask(problem, state, searcher.batch, np.random.default_rng([0, r]))
        new = list(dict.fromkeys(row for row in map(tuple, rows.tolist()) if row not in seen))
        if not new:
            break
        seen |= set(new)
        asked.append(np.array(new, np.int16))
        before, state = state, searcher.tell(problem, state, asked[-1], problem.evaluate(asked[-1]))
        if len(before["queue"]) and not len(state["queue"]):
            ends.append(state)
    return ends, asked


def rows_of(genes: Genes) -> set[tuple[int, ...]]:
    return set(map(tuple, genes.tolist()))


@pytest.fixture(scope="module")
def rugged(small_problem: Problem, everything: Genes) -> Problem:
    """Numbers drawn for each network, so local optima abound."""

    class Drawn:
        metric, unit = "drawn", "1"

        def predict(self, genes: Genes) -> np.ndarray:
            return np.array([np.random.default_rng(row.astype(np.uint16)).random() for row in genes])

    return Problem(small_problem.space, [Objective.of(Drawn(), "max")])


@pytest.mark.parametrize("batch", [5, 100])
def test_a_descent_ends_in_a_local_optimum_and_another_begins(rugged: Problem, batch: int) -> None:
    ends, _ = descents(LocalSearch(starts=1, batch=batch), rugged, 60 if batch == 5 else 15)
    assert len(ends) >= 2
    first = ends[0]
    assert len(first["genes"]) == 1
    around = neighbours(rugged.space, first["genes"])
    assert (rugged.evaluate(around) <= first["values"][0]).all()
    assert rows_of(ends[1]["genes"]) != rows_of(first["genes"])


def test_what_is_asked_for_is_next_to_the_best(rugged: Problem) -> None:
    searcher = LocalSearch(starts=4, batch=200)
    state = searcher.init(rugged)
    starts = searcher.ask(rugged, state, 200, np.random.default_rng(0))
    assert len(rows_of(starts)) <= 4 and len(starts) == 200
    rows = np.unique(starts, axis=0)
    state = searcher.tell(rugged, state, rows, rugged.evaluate(rows))
    best = rows[rugged.evaluate(rows)[:, 0].argmax()]
    asked = searcher.ask(rugged, state, 200, np.random.default_rng(1))
    assert rows_of(asked) == rows_of(neighbours(rugged.space, best[None])) - rows_of(rows)


def test_with_two_goals_it_ends_in_a_pareto_local_optimum(small_problem: Problem, everything: Genes) -> None:
    ends, asked = descents(LocalSearch(starts=2, batch=20), small_problem, 200)
    assert ends
    end = ends[0]
    values = small_problem.evaluate(np.concatenate([end["genes"], neighbours(small_problem.space, end["genes"])]))
    best = pareto.front(small_problem.costs(values))
    assert sorted(map(tuple, values[best].tolist())) == sorted(map(tuple, end["values"].tolist()))
    assert len(end["genes"]) > 5 and end["expanded"].all()


def test_no_network_is_asked_for_twice(small_problem: Problem, small_space: MobileNetV3) -> None:
    searcher = LocalSearch(starts=1, batch=30)
    state, seen = searcher.init(small_problem), set()
    for r in range(12):
        rows = rows_of(searcher.ask(small_problem, state, 30, np.random.default_rng([1, r])))
        if len(state["queue"]):
            assert not rows & seen
        new = np.array(sorted(rows - seen), np.int16)
        if not len(new):
            break
        seen |= rows
        state = searcher.tell(small_problem, state, new, small_problem.evaluate(new))
        assert state["told"].tolist() == sorted(state["told"].tolist()) and len(state["told"]) == len(seen)
    assert len(seen) > 100


def test_what_was_told_meanwhile_is_not_asked_for(small_problem: Problem) -> None:
    searcher = LocalSearch(starts=1, batch=4)
    state = searcher.init(small_problem)
    start = small_problem.space.smallest.genes[None]
    state = searcher.tell(small_problem, state, start, small_problem.evaluate(start))
    waiting = state["queue"][-3:]
    state = searcher.tell(small_problem, state, waiting, small_problem.evaluate(waiting))
    assert not rows_of(waiting) & rows_of(state["queue"]) and len(state["queue"])


def test_what_is_never_told_is_not_asked_for_again(small_problem: Problem) -> None:
    """Networks whose evaluation failed, or that the loop has seen: the search goes on without them."""
    searcher = LocalSearch(starts=1, batch=10)
    state = searcher.init(small_problem)
    start = small_problem.space.biggest.genes[None]
    state = searcher.tell(small_problem, state, start, small_problem.evaluate(start))
    asked: list[tuple[int, ...]] = []
    while len(state["queue"]):
        rows = searcher.ask(small_problem, state, 10, np.random.default_rng(0))
        asked += sorted(rows_of(rows))
        told = rows[:1]
        state = searcher.tell(small_problem, state, told, small_problem.evaluate(told))
    assert len(asked) - len(set(asked)) <= 0.3 * len(asked) and len(asked) > 20


def test_while_no_network_keeps_the_limits_it_follows_the_nearest(digits_problem: Problem) -> None:
    accuracy, latency, _ = digits_problem.objectives
    least = latency.predictor.predict(digits_problem.space.smallest.genes[None])[0]
    problem = Problem(digits_problem.space, [accuracy, Objective.of(latency.predictor, None, float(least * 1.05))])
    searcher = LocalSearch(starts=1, batch=200)
    state = searcher.init(problem)
    start = digits_problem.space.biggest.genes[None]
    excess = [float(problem.violations(problem.evaluate(start))[0])]
    state = searcher.tell(problem, state, start, problem.evaluate(start))
    for r in range(40):
        rows = np.unique(searcher.ask(problem, state, 200, np.random.default_rng(r)), axis=0)
        state = searcher.tell(problem, state, rows, problem.evaluate(rows))
        excess.append(float(problem.violations(state["values"]).min()))
        if excess[-1] == 0:
            break
    assert excess == sorted(excess, reverse=True) and excess[-1] == 0


@pytest.mark.parametrize("settings", [{"starts": 0}, {"batch": 0}])
def test_wrong_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InvalidValueError, match="LocalSearch needs starts >= 1 and batch >= 1"):
        LocalSearch(**settings)

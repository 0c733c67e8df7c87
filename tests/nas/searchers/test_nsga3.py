import dataclasses

import numpy as np
import pytest

from nas.core import pareto
from nas.core.pareto import Costs
from nas.core.problem import Objective, Problem
from nas.core.search_loop import search
from nas.searchers._scalar import directions
from nas.searchers.nsga3 import NSGA3, _extremes, _nadir, _survivors, associate
from nas.searchers.random import RandomSearch
from predictors import PositionTable
from predictors.peak_memory import peak_memory
from search_spaces import Genes
from search_spaces.base.errors import InvalidValueError


@pytest.fixture
def three_goals(digits_problem: Problem) -> Problem:
    """Accuracy up, latency and memory down, latency under a limit that few keep."""
    accuracy, latency, memory = digits_problem.objectives
    return Problem(
        digits_problem.space,
        [accuracy, latency.limited(2.0), dataclasses.replace(memory, goal=True, limit=None)],
    )


def naive_survivors(costs: Costs, rank: np.ndarray, n: int) -> list[int]:
    """Part I, algorithms 1, 3 and 4, one row after the other; lots fall on the row nearest to its line."""
    lines = directions(costs.shape[1], n)
    units = lines / np.linalg.norm(lines, axis=1, keepdims=True)
    across = np.linalg.norm(costs[:, None] - (costs @ units.T)[..., None] * units, axis=2)  # (rows, lines)
    niche, distance = across.argmin(1), across.min(1)
    chosen: list[int] = []
    for r in range(rank.max() + 1):
        members = [int(i) for i in np.flatnonzero(rank == r)]
        if len(chosen) + len(members) <= n:
            chosen += members
            continue
        counts = [sum(niche[i] == j for i in chosen) for j in range(len(lines))]
        while len(chosen) < n:
            least = min(counts[niche[i]] for i in members)
            row = min((i for i in members if counts[niche[i]] == least), key=lambda i: distance[i])
            counts[niche[row]] += 1
            members.remove(row)
            chosen.append(row)
        break
    return chosen


@pytest.mark.parametrize("goals", [1, 2, 3, 4])
def test_survivors_are_those_of_the_paper(goals: int, rng: np.random.Generator) -> None:
    for n in (4, 10, 25, 40):
        costs = rng.random((60, goals))
        rank = pareto.ranks(costs)
        kept = _survivors(costs, rank, n)
        assert len(kept) == len(set(kept.tolist())) == n
        assert set(kept.tolist()) == set(naive_survivors(costs, rank, n))


def test_whole_ranks_need_no_niches() -> None:
    costs = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert _survivors(costs, pareto.ranks(costs), 2).tolist() == [0, 1]


def test_rows_belong_to_the_nearest_line(rng: np.random.Generator) -> None:
    costs, weights = rng.random((50, 3)), directions(3, 15)
    nearest, distance = associate(costs, weights)
    for row, line, found in zip(costs, nearest, distance, strict=True):
        away = [np.linalg.norm(row - w * (row @ w) / (w @ w)) for w in weights]
        assert int(np.argmin(away)) == line and found == pytest.approx(min(away))
    assert associate(np.zeros((1, 3)), weights)[1].tolist() == [0]


def test_the_nadir_is_where_the_plane_through_the_extremes_meets_the_axes() -> None:
    ideal = np.array([1.0, 1.0, 1.0])
    extremes = np.array([[3.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 9.0]])
    assert _nadir(extremes, extremes, ideal).tolist() == pytest.approx([3, 5, 9])
    tilted = np.array([[3.0, 2.0], [2.0, 3.0]])
    assert _nadir(tilted, np.array([[6.0, 6.0]]), np.array([1.0, 1.0])).tolist() == pytest.approx([4, 4])  # x + y = 5
    assert _nadir(tilted, tilted, np.array([1.0, 1.0])).tolist() == [3, 3]  # never beyond the front
    assert _nadir(np.ones((3, 3)), extremes, ideal).tolist() == [3, 5, 9]  # no plane
    falling = np.array([[2.0, 3.0], [1.5, 1.8]])
    assert _nadir(falling, np.array([[7.0, 8.0]]), np.array([1.0, 1.0])).tolist() == [7, 8]  # meets an axis below 0


def test_extremes_lie_nearest_to_the_axes() -> None:
    costs = np.array([[5.0, 0.1], [9.0, 0.0], [1.0, 1.0], [0.0, 7.0], [0.0, 8.0]])
    assert _extremes(costs, np.zeros(2)).tolist() == [[9, 0], [0, 7]]


def test_feasible_ones_survive_and_the_ideal_is_kept(three_goals: Problem, rng: np.random.Generator) -> None:
    searcher = NSGA3(population=20)
    state, least = searcher.init(three_goals), np.full(3, np.inf)
    for r in range(6):
        genes = searcher.ask(three_goals, state, 20, rng)
        values = three_goals.evaluate(genes)
        feasible = three_goals.violations(values) == 0
        least = np.minimum(least, three_goals.costs(values[feasible]).min(0, initial=np.inf))
        before = three_goals.violations(state["values"])
        state = searcher.tell(three_goals, state, genes, values)
        left = np.sort(np.concatenate([before, three_goals.violations(values)]))[: len(state["genes"])]
        assert np.allclose(np.sort(three_goals.violations(state["values"])), left)
        assert np.array_equal(state["ideal"], least) and np.isfinite(state["extremes"]).all() == bool(
            r or feasible.any()
        )
        assert np.array_equal(three_goals.evaluate(state["genes"]), state["values"]) and len(state["genes"]) == 20


def test_the_ideal_outlives_the_network_that_had_it(three_goals: Problem, rng: np.random.Generator) -> None:
    searcher, genes = NSGA3(population=20), three_goals.space.sample(30, rng)
    state = {**searcher.init(three_goals), "ideal": np.full(3, -1e9)}
    assert searcher.tell(three_goals, state, genes, three_goals.evaluate(genes))["ideal"].tolist() == [-1e9] * 3


def test_with_three_goals_it_beats_random_search(three_goals: Problem) -> None:
    accuracy, latency, memory = three_goals.objectives
    free = Problem(three_goals.space, [accuracy, latency.limited(None), memory])
    ours, random = (search(free, searcher, evaluations=2000, seed=0) for searcher in (NSGA3(), RandomSearch()))
    assert ours.hypervolume > 1.05 * random.hypervolume


def test_networks_that_cannot_run_are_no_obstacle(digits_problem: Problem, rng: np.random.Generator) -> None:
    nothing = PositionTable.of_layers(digits_problem.space, "latency", "ms", lambda layer: np.inf)
    problem = Problem(
        digits_problem.space, [Objective.of(nothing, "min"), Objective.of(peak_memory(digits_problem.space), "min")]
    )
    searcher, genes = NSGA3(population=10), digits_problem.space.sample(20, rng)
    state = searcher.tell(problem, searcher.init(problem), genes, problem.evaluate(genes))
    rows: Genes = searcher.ask(problem, state, 5, rng)
    assert len(state["genes"]) == 10 and len(rows) == 5 and np.isinf(state["ideal"]).all()


@pytest.mark.parametrize("settings", [{"population": 3}, {"crossover": 1.1}, {"mutations": -1.0}, {"mates": 0}])
def test_wrong_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match="NSGA3 needs population >= 4"):
        NSGA3(**settings)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="`initial` of NSGA3"):
        NSGA3(initial="best")  # type: ignore[arg-type]

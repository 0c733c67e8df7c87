import numpy as np
import pytest

from nas.core.problem import Objective, Problem
from nas.searchers._variation import neighbours
from nas.searchers.aging_evolution import AgingEvolution
from search_spaces import Genes
from search_spaces.base.errors import InvalidValueError


def told(searcher: AgingEvolution, problem: Problem, genes: Genes) -> dict[str, np.ndarray]:
    return searcher.tell(problem, searcher.init(problem), genes, problem.evaluate(genes))


def among(rows: Genes, others: Genes) -> np.ndarray:
    return (rows[:, None] == others).all(2).any(1)


def test_the_oldest_die(digits_problem: Problem, rng: np.random.Generator) -> None:
    searcher = AgingEvolution(population=30, sample=5)
    state, all_told = searcher.init(digits_problem), []
    for _ in range(8):
        all_told.append(searcher.ask(digits_problem, state, 10, rng))
        state = searcher.tell(digits_problem, state, all_told[-1], digits_problem.evaluate(all_told[-1]))
        assert np.array_equal(state["genes"], np.concatenate(all_told)[-30:])
        assert np.array_equal(state["values"], digits_problem.evaluate(state["genes"]))


def test_the_first_queue_is_random(digits_problem: Problem) -> None:
    searcher = AgingEvolution(population=30, sample=5)
    rows = searcher.ask(digits_problem, searcher.init(digits_problem), 10, np.random.default_rng(1))
    assert np.array_equal(rows, digits_problem.space.sample(10, np.random.default_rng(1)))


@pytest.mark.parametrize(("goal", "sign"), [("max", -1), ("min", 1)])
def test_with_one_goal_the_best_of_the_sample_has_children_with_one_change(
    small_problem: Problem, everything: Genes, goal: str, sign: int
) -> None:
    problem = Problem(small_problem.space, [Objective.of(small_problem.objectives[0].predictor, goal)])  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    queue = everything[rng.permutation(len(everything))[:50]]
    ranked = queue[np.argsort(sign * problem.evaluate(queue)[:, 0], kind="stable")]
    searcher = AgingEvolution(population=50, sample=10)
    children = searcher.ask(problem, told(searcher, problem, queue), 4000, rng)
    for places in (slice(0, 1), slice(0, 10)):
        share = 1 - (1 - places.stop / 50) ** 10  # that the best of ten is one of these
        family = neighbours(problem.space, ranked[places])
        assert among(children, np.concatenate([family, ranked[places]])).mean() > share - 0.03
    assert not among(children, neighbours(problem.space, ranked[-1:])).all()
    assert among(children, np.concatenate([neighbours(problem.space, row[None]) for row in queue])).all()


def test_a_large_sample_leaves_the_best_alone(small_problem: Problem, everything: Genes) -> None:
    problem = Problem(small_problem.space, small_problem.objectives[:1])
    queue = everything[np.random.default_rng(0).permutation(len(everything))[:20]]
    best = queue[problem.evaluate(queue)[:, 0].argmax()]
    searcher = AgingEvolution(population=20, sample=20)
    children = searcher.ask(problem, told(searcher, problem, queue), 2000, np.random.default_rng(1))
    share = among(children, neighbours(problem.space, best[None])).mean()
    assert share > 1 - (1 - 1 / 20) ** 20 - 0.04


def test_the_weights_reach_both_ends_of_the_front(small_problem: Problem, everything: Genes) -> None:
    values = small_problem.evaluate(everything)
    accurate, fast = everything[values[:, 0].argmax()], everything[values[:, 1].argmin()]
    poor = everything[np.argsort(values[:, 0] - values[:, 1] / 100)[:48]]
    queue = np.concatenate([poor, accurate[None], fast[None]])
    searcher = AgingEvolution(population=50, sample=50)
    children = searcher.ask(small_problem, told(searcher, small_problem, queue), 2000, np.random.default_rng(2))
    for end in (accurate, fast):
        assert among(children, neighbours(small_problem.space, end[None])).mean() > 0.15


def test_limits_come_before_goals(digits_problem: Problem, rng: np.random.Generator) -> None:
    accuracy, latency, _ = digits_problem.objectives
    problem = Problem(digits_problem.space, [accuracy, Objective.of(latency.predictor, None, 4.0)])
    rows = problem.space.sample(400, rng)
    values = problem.evaluate(rows)
    over = np.flatnonzero(values[:, 1] > 4.0)
    within = np.flatnonzero(values[:, 1] <= 4.0)
    accurate = over[np.argsort(-values[over, 0])[:10]]
    queue = rows[np.concatenate([accurate, within[:10]])]
    best = within[values[within[:10], 0].argmax()]
    assert values[accurate, 0].min() > values[best, 0]
    searcher = AgingEvolution(population=20, sample=20)
    children = searcher.ask(problem, told(searcher, problem, queue), 2000, rng)
    share = among(children, neighbours(problem.space, rows[[best]])).mean()
    assert share > 1 - (1 - 1 / 20) ** 20 - 0.04


@pytest.mark.parametrize("settings", [{"sample": 0}, {"sample": 101}, {"batch": 0}, {"batch": 101}])
def test_wrong_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InvalidValueError, match="AgingEvolution needs sample and batch in 1..population"):
        AgingEvolution(**settings)  # type: ignore[arg-type]

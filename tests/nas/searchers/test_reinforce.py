import dataclasses
from typing import Any

import numpy as np
import pytest

from nas.core.problem import Objective, Problem
from nas.core.search_loop import search
from nas.searchers.random import RandomSearch
from nas.searchers.reinforce import Reinforce
from predictors import PositionTable
from search_spaces import Genes, MobileNetV3
from search_spaces.base.errors import InvalidValueError


class Values:
    """A predictor that knows each network's value."""

    unit = "1"

    def __init__(self, metric: str, genes: Genes, values: Any) -> None:
        self.metric = metric
        self.known = {row.tobytes(): float(value) for row, value in zip(genes, values, strict=True)}

    def predict(self, genes: Genes) -> Any:
        return np.array([self.known[row.tobytes()] for row in genes])


@pytest.fixture(scope="session")
def all_tiny(tiny_space: MobileNetV3) -> Genes:
    genes = np.unique(tiny_space.sample(2000, np.random.default_rng(0)), axis=0)
    assert len(genes) == tiny_space.size
    return genes


def rewards(searcher: Reinforce, problem: Problem, values: Any) -> Any:
    return searcher._reward(problem, np.array(values, np.float64), searcher.init(problem)["targets"])


@pytest.mark.parametrize(
    ("alpha", "beta", "expected"),
    [
        (0.0, -1.0, [0.8, 0.8, 0.4]),  # the hard form: nothing is gained below the target
        (-0.07, -0.07, [0.8 * 0.5**-0.07, 0.8, 0.8 * 2**-0.07]),
        (-0.1, -0.5, [0.8 * 0.5**-0.1, 0.8, 0.8 * 2**-0.5]),
    ],
)
def test_the_reward_is_equation_2_of_mnasnet(
    small_problem: Problem, alpha: float, beta: float, expected: list[float]
) -> None:
    searcher = Reinforce(target=20.0, alpha=alpha, beta=beta)
    found = rewards(searcher, small_problem, [[0.8, 10.0], [0.8, 20.0], [0.8, 40.0]])
    assert np.allclose(found, [expected], rtol=1e-12)


def test_the_soft_form_without_a_target_has_an_exponent_per_policy(small_problem: Problem) -> None:
    found = rewards(Reinforce(policies=3, alpha=-0.07, beta=-0.07), small_problem, [[0.8, 10.0], [0.8, 20.0]])
    assert np.allclose(np.log2(found[:, 1] / found[:, 0]), [-0.007, -0.07, -0.7])


def test_limits_and_what_cannot_run_take_from_the_reward(digits_problem: Problem) -> None:
    searcher = Reinforce(target=20.0)
    values = [
        [0.8, 20.0, 1e4],
        [0.8, 22.0, 3e4],
        [0.8, np.inf, 1e4],
        [0.8, 20.0, np.inf],
    ]  # limits: 22 ms and 2e4 bytes
    assert np.allclose(rewards(searcher, digits_problem, values), [[0.8, 0.8 / 1.1 / 1.5, 0.0, 0.0]])


def test_a_single_goal_is_the_reward(small_space: MobileNetV3, small_problem: Problem) -> None:
    accuracy, latency = small_problem.objectives
    up, down = Problem(small_space, [accuracy]), Problem(small_space, [latency])
    assert rewards(Reinforce(), up, [[0.2], [0.8]]).tolist() == [[0.2, 0.8]]
    assert rewards(Reinforce(), down, [[2.0], [8.0]]).tolist() == [[0.5, 0.125]]


def test_more_goals_have_targets_of_their_own(digits_problem: Problem) -> None:
    accuracy, latency, memory = digits_problem.objectives
    second = dataclasses.replace(accuracy, metric=dataclasses.replace(accuracy.metric, name="second"))
    problem = Problem(digits_problem.space, [latency, accuracy, dataclasses.replace(memory, goal=True), second])
    searcher = Reinforce(policies=5)
    targets = searcher.init(problem)["targets"]
    assert targets.shape == (5, 3) and len({tuple(row) for row in targets}) == 5
    one = np.array([[10.0, 5000.0, 0.5]])  # latency, memory, second accuracy: the first one is the quality
    values = np.array([[20.0, 0.8, 5000.0, 0.5], [10.0, 0.8, 10_000.0, 0.5], [10.0, 0.8, 5000.0, 0.1]])
    assert np.allclose(searcher._reward(problem, values, one), [[0.4, 0.4, 0.16]])


def test_targets_go_from_the_least_to_the_limit(small_problem: Problem, everything: Genes) -> None:
    accuracy, latency = small_problem.objectives
    every = latency.predictor.predict(everything)
    targets = Reinforce(policies=4).init(small_problem)["targets"][:, 0]
    assert np.allclose(targets[[0, -1]], [every.min(), every.max()])  # of the smallest and the biggest network
    assert np.allclose(np.diff(np.log(targets)), np.log(every.max() / every.min()) / 3)
    limited = Problem(small_problem.space, [accuracy, latency.limited(1.0)])
    assert Reinforce(policies=4).init(limited)["targets"].max() == 1.0


def test_one_target_is_one_policy(small_problem: Problem) -> None:
    assert Reinforce(target=1.0).init(small_problem)["targets"].tolist() == [[1.0]]


def test_targets_of_a_costly_goal_come_with_its_first_values(small_problem: Problem, everything: Genes) -> None:
    accuracy, latency = small_problem.objectives
    costly = dataclasses.replace(latency, costly=True, worst=2.0)
    problem = Problem(small_problem.space, [accuracy, costly])
    searcher = Reinforce(policies=3)
    state = searcher.init(problem)
    assert np.isnan(state["targets"]).all()
    values = problem.evaluate(everything[100:140])
    state = searcher.tell(problem, state, everything[100:140], values)
    assert np.allclose(state["targets"][[0, -1], 0], [values[:, 1].min(), values[:, 1].max()])
    later = searcher.tell(problem, state, everything, problem.evaluate(everything))
    assert np.array_equal(later["targets"], state["targets"])


def probability(searcher: Reinforce, problem: Problem, state: Any, row: Genes) -> Any:
    """Of a network under each policy, written a second time: the product over the choices that matter."""
    result, start = np.ones(len(state["logits"])), 0
    for choice, gene, active in zip(problem.space.choices, row, problem.space.active(row[None])[0], strict=True):
        logits = state["logits"][:, start : start + len(choice.values)]
        start += len(choice.values)
        if active:
            result *= np.exp(logits[:, gene]) / np.exp(logits).sum(1)
    return result


def test_networks_are_drawn_as_the_policies_say(tiny_space: MobileNetV3, all_tiny: Genes) -> None:
    problem = Problem(tiny_space, [Objective.of(Values("accuracy", all_tiny, np.ones(28)), "max")])
    searcher = Reinforce(policies=1)
    state = searcher.init(problem)
    state["logits"] = np.random.default_rng(0).normal(size=state["logits"].shape)
    rows = searcher.ask(problem, state, 40_000, np.random.default_rng(1))
    expected = np.array([probability(searcher, problem, state, row)[0] for row in all_tiny])
    found = np.array([(rows == row).all(1).mean() for row in all_tiny])
    assert np.isclose(expected.sum(), 1)
    assert (abs(found - expected) < 5 * np.sqrt(expected / 40_000)).all() and expected.max() > 3 * expected.min()


@pytest.mark.parametrize("entropy", [0.0, 0.3])
def test_the_step_follows_the_gradient_of_reward_and_entropy(
    tiny_space: MobileNetV3, all_tiny: Genes, entropy: float
) -> None:
    """With every network told as often as its policy draws it, the gradient is that of the expectation itself."""
    reward = np.random.default_rng(3).random(28) + 0.1
    problem = Problem(tiny_space, [Objective.of(Values("accuracy", all_tiny, reward), "max")])
    searcher = Reinforce(policies=1, entropy=entropy, learning_rate=1e-3)
    state = searcher.init(problem)
    state["logits"] = np.random.default_rng(4).normal(size=state["logits"].shape)
    policy = np.array([probability(searcher, problem, state, row)[0] for row in all_tiny])
    genes = np.repeat(all_tiny, np.round(policy * 200_000).astype(int), axis=0)
    following = searcher.tell(problem, state, genes, problem.evaluate(genes))
    scale = np.sqrt((policy * (reward - policy @ reward) ** 2).sum())

    def aim(logits: Any) -> float:
        at = {"logits": logits}
        drawn = np.array([probability(searcher, problem, at, row)[0] for row in all_tiny])
        total, start = float(drawn @ reward) / scale, 0
        for choice in tiny_space.choices:
            part = np.exp(logits[0, start : start + len(choice.values)])
            start += len(choice.values)
            total -= entropy * float((part / part.sum() * np.log(part / part.sum())).sum())
        return total

    gradient = np.zeros_like(state["logits"])
    for i in range(gradient.shape[1]):
        step = np.zeros_like(gradient)
        step[0, i] = 1e-5
        gradient[0, i] = (aim(state["logits"] + step) - aim(state["logits"] - step)) / 2e-5
    assert np.allclose(following["gradient"] / 0.1, gradient, atol=1e-4) and abs(gradient).max() > 0.01
    moved = following["logits"] - state["logits"]  # Adam's first step is the sign
    assert np.allclose(moved[abs(gradient) > 1e-3], 1e-3 * np.sign(gradient[abs(gradient) > 1e-3]), rtol=1e-3)


def test_a_policy_learns_from_the_networks_of_others_by_how_likely_they_are_its_own(
    tiny_space: MobileNetV3, all_tiny: Genes
) -> None:
    """Every network as often as the mixture draws it: each policy's mean reward is its expectation."""
    accuracy, latency = np.linspace(0.1, 0.9, 28), np.linspace(9.0, 1.0, 28)
    problem = Problem(
        tiny_space,
        [
            Objective.of(Values("accuracy", all_tiny, accuracy), "max"),
            Objective.of(Values("latency", all_tiny, latency), "min"),
        ],
    )
    searcher = Reinforce(policies=2, decay=0.0)
    state = searcher.init(problem)
    state["logits"] = np.random.default_rng(5).normal(size=state["logits"].shape)
    drawn = np.array([probability(searcher, problem, state, row) for row in all_tiny]).T  # (policies, networks)
    counts = np.round(drawn.mean(0) * 200_000).astype(int)
    genes = np.repeat(all_tiny, counts, axis=0)
    following = searcher.tell(problem, state, genes, problem.evaluate(genes))
    expected = (drawn * searcher._reward(problem, problem.evaluate(all_tiny), state["targets"])).sum(1)
    assert np.allclose(following["baseline"], expected, rtol=1e-3)
    assert abs(expected[0] - expected[1]) > 0.01


def test_the_baseline_and_deviation_are_moving_averages(small_problem: Problem, everything: Genes) -> None:
    problem = Problem(small_problem.space, small_problem.objectives[:1])
    searcher = Reinforce(decay=0.75)
    first = searcher.tell(problem, searcher.init(problem), everything[:1], np.array([[0.4]]))
    assert first["baseline"].tolist() == [0.4] and first["deviation"].tolist() == [0.0]
    second = searcher.tell(problem, first, everything[:1], np.array([[0.8]]))
    assert np.allclose(second["baseline"], 0.5) and np.allclose(second["deviation"], 0.25 * 0.4)
    assert int(second["steps"]) == 2


def test_one_policy_converges_to_the_best(small_problem: Problem, everything: Genes, rng: np.random.Generator) -> None:
    accuracy, latency = small_problem.objectives
    every = small_problem.evaluate(everything)
    target = float(np.quantile(every[:, 1], 0.4))
    searcher = Reinforce(batch=20, target=target, entropy=0.0)
    state = searcher.init(small_problem)
    for _ in range(60):
        rows = searcher.ask(small_problem, state, 20, rng)
        state = searcher.tell(small_problem, state, rows, small_problem.evaluate(rows))
    rows = searcher.ask(small_problem, state, 20, rng)
    best = rewards(searcher, small_problem, every)[0]
    found = rewards(searcher, small_problem, small_problem.evaluate(rows))[0]
    assert (found > np.quantile(best, 0.9)).mean() >= 0.9


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, -1.0), (-0.07, -0.07)])
def test_many_policies_fill_a_front(digits_problem: Problem, alpha: float, beta: float) -> None:
    problem = Problem(digits_problem.space, digits_problem.objectives[:2])
    searchers = (Reinforce(alpha=alpha, beta=beta), Reinforce(alpha=alpha, beta=beta, policies=1), RandomSearch(40))
    many, one, drawn = (
        np.median([search(problem, searcher, evaluations=800, seed=seed).hypervolume for seed in range(3)])
        for searcher in searchers
    )
    assert many > drawn and many > one


def test_what_is_never_positive_is_refused(small_problem: Problem, everything: Genes) -> None:
    accuracy, latency = small_problem.objectives
    values = small_problem.evaluate(everything[:5])
    searcher = Reinforce()
    state = searcher.init(small_problem)
    with pytest.raises(InvalidValueError, match="values must be > 0, but accuracy is -0.3 at most"):
        searcher.tell(small_problem, state, everything[:5], values * 0 + [-0.3, 1.0])
    mixed = values.copy()
    mixed[2, 0] = -0.01  # a predictor may dip below 0
    assert np.isfinite(searcher.tell(small_problem, state, everything[:5], mixed)["logits"]).all()


def test_networks_that_cannot_run_are_learned_to_avoid(small_problem: Problem, rng: np.random.Generator) -> None:
    space, accuracy = small_problem.space, small_problem.objectives[0]
    some = PositionTable.of_layers(space, "latency", "ms", lambda layer: np.inf if layer.macs > 30_000 else 1.0)
    problem = Problem(space, [accuracy, Objective.of(some, "min")])
    searcher = Reinforce()
    state = searcher.init(problem)
    first = searcher.ask(problem, state, 200, rng)
    for _ in range(15):
        rows = searcher.ask(problem, state, 40, rng)
        state = searcher.tell(problem, state, rows, problem.evaluate(rows))
    last = searcher.ask(problem, state, 200, rng)
    shares = [np.isinf(some.predict(rows)).mean() for rows in (first, last)]
    assert shares[0] > 0.3 and shares[1] < 0.05
    nothing = PositionTable.of_layers(space, "latency", "ms", lambda layer: np.inf)
    problem = Problem(space, [accuracy, Objective.of(nothing, "min")])
    state = searcher.tell(problem, searcher.init(problem), rows, problem.evaluate(rows))
    assert np.isfinite(state["logits"]).all() and len(searcher.ask(problem, state, 5, rng)) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "`batch` and `policies` must be >= 1, but got batch=0"),
        ({"policies": 0}, "policies=0"),
        ({"target": 0.0}, "`target` must be > 0, or null for several, but got 0.0"),
        ({"alpha": 0.1}, "beta <= alpha <= 0 and beta < 0 .* alpha=0.1"),
        ({"alpha": -1.0, "beta": -0.5}, "beta <= alpha"),
        ({"beta": 0.0}, "beta=0.0"),
        ({"learning_rate": 0.0}, "learning_rate > 0"),
        ({"entropy": -1.0}, "entropy >= 0"),
        ({"decay": 1.0}, "decay < 1"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        Reinforce(**settings)

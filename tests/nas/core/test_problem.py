import re
import sys
from typing import Any

import numpy as np
import pytest

from nas.core.problem import Objective, Problem
from predictors import PositionTable, macs
from search_spaces import Genes, MobileNetV3
from search_spaces.base.errors import InfeasibleError, InvalidValueError
from search_spaces.metric import LATENCY, Limit


class Fixed:
    """Predicts given values in turn."""

    unit = "1"

    def __init__(self, values: list[float], metric: str = "accuracy") -> None:
        self.values, self.metric = np.array(values), metric

    def predict(self, genes: Genes) -> np.ndarray:
        return self.values[: len(genes)]


def problem_of(space: MobileNetV3, *objectives: Objective) -> Problem:
    return Problem(space, list(objectives))


def test_values_are_in_natural_units_and_costs_are_minimised(small_space: MobileNetV3) -> None:
    problem = problem_of(
        small_space,
        Objective.of(Fixed([0.9, 0.8]), "max"),
        Objective.of(Fixed([100.0, 50.0], "memory"), None, 80),
        Objective.of(Fixed([2.0, 3.0], "latency"), "min"),
    )
    values = problem.evaluate(small_space.sample(2, np.random.default_rng(0)))
    assert values.tolist() == [[0.9, 100, 2], [0.8, 50, 3]]
    assert problem.costs(values).tolist() == [[-0.9, 2], [-0.8, 3]]
    assert problem.violations(values).tolist() == [0.25, 0]


@pytest.mark.parametrize(
    ("goal", "limit", "values", "violations"),
    [
        ("min", 2.0, [1.0, 2.0, 3.0], [0, 0, 0.5]),
        (None, 2.0, [1.0, 2.0, 3.0], [0, 0, 0.5]),
        ("max", 2.0, [1.0, 2.0, 3.0], [0.5, 0, 0]),
        ("max", -2.0, [-1.0, -2.0, -3.0], [0, 0, 0.5]),
        ("min", None, [1.0, np.inf, 3.0], [0, np.inf, 0]),
        ("min", 2.0, [1.0, np.inf, 3.0], [0, np.inf, 0.5]),
        ("max", 0.0, [1.0, 0.0], [0, 0]),
    ],
)
def test_violations(
    small_space: MobileNetV3, goal: Any, limit: float | None, values: list[float], violations: list[float]
) -> None:
    first = Objective.of(Fixed([0.0] * 3), "max")
    problem = problem_of(small_space, first, Objective.of(Fixed(values, "latency"), goal, limit))
    rows = np.stack([np.zeros(len(values)), values], axis=1)
    assert problem.violations(rows).tolist() == violations


def test_nan_is_refused_with_the_metric_and_the_network(small_space: MobileNetV3) -> None:
    problem = problem_of(small_space, Objective.of(Fixed([0.5, np.nan]), "max"))
    genes = np.stack([small_space.smallest.genes, small_space.biggest.genes])
    with pytest.raises(InvalidValueError, match=r"The accuracy predictor gives NaN for .*'resolution': 12"):
        problem.evaluate(genes)


@pytest.mark.parametrize(("goal", "limit"), [("min", np.nan), ("max", np.inf), (None, -np.inf)])
def test_wrong_limits_are_refused(small_space: MobileNetV3, goal: Any, limit: float) -> None:
    with pytest.raises(InvalidValueError, match=r"`limit\.latency_ms` must be"):
        Objective.of(macs(small_space), goal, limit, "limit.latency_ms")


def test_a_problem_needs_a_goal(small_space: MobileNetV3) -> None:
    with pytest.raises(InvalidValueError, match="at least one objective with a goal"):
        problem_of(small_space, Objective.of(macs(small_space), None, 5.0))


def table(space: MobileNetV3, value: float, *, scale: float = 1.0) -> PositionTable:
    """Latency whose minimum over the space is `value`."""
    counted = PositionTable.of_layers(space, "latency", "ms", lambda layer: layer.macs + 1.0)
    return PositionTable(space, "latency", "ms", counted.values * value / counted.minimum()[1])


NEAREST = re.compile(r"Set `limit\.latency_ms` to (\S+) or more")


@pytest.mark.parametrize(
    "least", [0.30000000000000004, 0.1, 1.0, 999.5, 0.0999999, 1234567.0, 3.3e-9, 0.123, 0.12300000000000001, 7.0, 1e12]
)
@pytest.mark.parametrize("scale", [1.0, 0.0371, 813.3])
def test_the_nearest_limit_in_the_message_is_accepted_and_near(
    small_space: MobileNetV3, least: float, scale: float
) -> None:
    latency = table(small_space, least)
    _, exact = latency.minimum()

    def with_limit(limit: float) -> Problem:
        bound = Limit(LATENCY, limit * scale, "limit.latency_ms", scale=scale)
        return problem_of(small_space, Objective(latency, LATENCY, limit=bound))

    with pytest.raises(InfeasibleError) as caught:
        with_limit(0.5 * exact / scale).check_feasible()
    found = NEAREST.search(str(caught.value))
    assert found, str(caught.value)
    nearest = float(found[1])
    with_limit(nearest).check_feasible()
    assert exact <= nearest * scale <= 1.011 * exact
    assert "cannot be met by any of the 800 networks. The nearest has latency" in str(caught.value)


def test_the_message_states_the_limit_as_the_user_set_it(small_space: MobileNetV3) -> None:
    latency = table(small_space, 2.0)
    with pytest.raises(
        InfeasibleError,
        match=r"`limit\.latency_share`=0\.1 \(at most 0\.8 ms predicted\) cannot be met.*share` to 0\.25 or",
    ):
        share = Limit(LATENCY, 0.8, "limit.latency_share", scale=8.0)
        problem_of(small_space, Objective(latency, LATENCY, limit=share)).check_feasible()
    with pytest.raises(InfeasibleError, match=r"`limit\.latency_ms`=0\.8 cannot be met by .* 2 ms.*_ms` to 2 or more"):
        problem_of(small_space, Objective.of(latency, "min", 0.8, "limit.latency_ms")).check_feasible()


def test_a_limit_without_a_goal_is_checked_too(small_space: MobileNetV3) -> None:
    accuracy, memory = Objective.of(Fixed([1.0]), "max"), table(small_space, 100.0)
    with pytest.raises(InfeasibleError, match="cannot be met"):
        problem_of(small_space, accuracy, Objective.of(memory, None, 99.0)).check_feasible()
    problem_of(small_space, accuracy, Objective.of(memory, None, 100.001)).check_feasible()


def test_what_has_no_known_minimum_or_is_a_lower_limit_passes(small_space: MobileNetV3) -> None:
    problem_of(
        small_space, Objective.of(Fixed([1.0]), "max", 0.99), Objective.of(Fixed([1.0]), "min", 1e-9)
    ).check_feasible()
    problem_of(small_space, Objective.of(table(small_space, 5.0), "max", 1.0)).check_feasible()


@pytest.mark.parametrize("limit", [None, 1.0])
def test_a_device_that_can_run_nothing_is_told(small_space: MobileNetV3, limit: float | None) -> None:
    latency = PositionTable.of_layers(small_space, "latency", "ms", lambda layer: np.inf)
    with pytest.raises(InfeasibleError, match=r"can run none of the 800 networks.*Choose another device") as caught:
        problem_of(small_space, Objective.of(latency, "min", limit)).check_feasible()
    assert "nan" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predict": lambda self, genes: np.zeros((len(genes), 2))}, r"numbers of shape \(3,\), but gave \(3, 2\)"),
        ({"predict": lambda self, genes: ["a"] * len(genes)}, "Values of the size predictor must be numbers"),
        ({"predict": lambda self, genes: 1 / 0}, "The size predictor Own fails for 3 networks: ZeroDivisionError"),
        ({"predict": lambda self, genes: sys.exit(0)}, "fails for 3 networks: SystemExit"),
        ({"metric": 3}, "`metric` of the predictor Own must be text, but is 3"),
    ],
)
def test_what_a_predictor_of_the_users_does_wrong_is_told(
    small_space: MobileNetV3, changes: dict[str, Any], message: str
) -> None:
    own = type("Own", (), {"metric": "size", "unit": "1", "predict": lambda self, genes: genes[:, 0], **changes})()
    with pytest.raises(InvalidValueError, match=message):
        Problem(small_space, [Objective.of(own, "min")]).evaluate(small_space.sample(3, np.random.default_rng(0)))

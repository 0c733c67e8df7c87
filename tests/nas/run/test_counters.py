"""Counted metrics as objectives and limits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nas
from hardware_profiles import load_device
from nas.core.exact_front import exact_front
from nas.core.problem import Objective, Problem, identity_of
from nas.run.objectives import counters, exact_predictors, problem_of
from nas.run.run_folder import Run
from nas.run.settings import SearchSettings, Settings
from predictors import PositionTable, intensity, macs, save, traffic
from search_spaces import MobileNetV3
from search_spaces.base.errors import InvalidValueError, NasError
from search_spaces.loading import load_space
from search_spaces.metric import COUNTED, INTENSITY


@pytest.fixture
def run(tmp_path: Path, small_space: MobileNetV3) -> Run:
    settings = Settings("a", "a", 0, ["host_ort", "ethos_u55_128"], search=SearchSettings(objectives=["latency_ms"]))
    run = Run(settings, tmp_path, "nas run")
    run.__dict__["space"] = small_space
    run.__dict__["devices"] = [load_device(name) for name in settings.devices]
    for device in run.devices:
        latency = PositionTable(small_space, "latency", "ms", macs(small_space).values / 1e4)
        save(latency, small_space, tmp_path / "fit" / f"{device.name}_latency.npz")
    return run


def test_all_counted_metrics_have_a_maker(small_space: MobileNetV3) -> None:
    assert list(counters(small_space)) == list(COUNTED)
    assert [made().metric for made in counters(small_space).values()] == list(COUNTED)


def test_counted_metrics_are_objectives_and_limits(run: Run) -> None:
    run.settings.search = SearchSettings(objectives=["latency_ms", "activations", "intensity"])
    run.settings.limit = {"traffic": {"host_ort": 9000}, "intensity": 0.01}
    problem = problem_of(run, run.devices[0])
    assert [(o.name, o.direction, o.bound) for o in problem.objectives] == [
        ("latency_ms", "min", None),
        ("activations", "min", None),
        ("intensity", "max", 0.01),
        ("traffic", None, 9000),
    ]
    assert list(exact_predictors(run, run.devices[0])) == ["activations", "traffic", "intensity"]
    assert list(exact_predictors(run, run.devices[1])) == ["activations", "intensity"], "no limit of traffic there"


def test_bytes_and_the_buffer_are_of_the_number_format_of_the_device(run: Run) -> None:
    run.settings.search, run.settings.buffer_kib = SearchSettings(objectives=["traffic", "intensity"]), 2.0
    genes = run.space.sample(5, np.random.default_rng(0))
    for device, width in zip(run.devices, (4, 1), strict=True):
        words = 2048 // width
        expected = [traffic(run.space, words).predict(genes), intensity(run.space, width, words).predict(genes)]
        np.testing.assert_array_equal(problem_of(run, device).evaluate(genes)[:, :2].T, expected)
    both = counters(run.space, run.devices, 2.0)["traffic"]().predict(genes)
    np.testing.assert_array_equal(both, traffic(run.space, 512).predict(genes)), "the widest of their formats"


def test_a_buffer_is_no_less_than_nothing() -> None:
    with pytest.raises(InvalidValueError, match="`buffer_kib` must be >= 0, but got -1"):
        Settings("a", "a", 0, "host_ort", buffer_kib=-1.0)


def test_python_searches_for_counted_metrics_by_name_and_by_predictor(small_space: MobileNetV3) -> None:
    front = nas.search(small_space, ["macs", "traffic"], limits={"activations": 3000}, evaluations=300)
    assert {"macs", "traffic", "activations", "params"} <= {column.name for column in front.columns}
    values = {column.name: front.values[:, i] for i, column in enumerate(front.columns)}
    assert len(front) and (values["activations"] <= 3000).all()
    buffered = nas.search(small_space, [traffic(small_space, 500), "intensity"], evaluations=300)
    assert [goal.name for goal in buffered.goals] == ["traffic", "intensity"]
    assert buffered.values[:, 1].max() == pytest.approx(
        intensity(small_space).predict(buffered.genes(small_space)).max()
    )


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"traffic": 10}, "`traffic`=10 cannot be met by any .* Set `traffic` to"),
        ({"intensity": 1e6}, "`intensity`=1000000 cannot be met by any .* Set `intensity` to .* or less"),
        ({"activations": -1}, "must be a number > 0"),
    ],
)
def test_limits_that_no_network_keeps_are_refused(
    small_space: MobileNetV3, limits: dict[str, Any], message: str
) -> None:
    with pytest.raises(NasError, match=message):
        nas.search(small_space, ["macs"], limits=limits, evaluations=50)


def test_ratios_of_other_sums_are_told_apart(small_space: MobileNetV3) -> None:
    def identity(word_bytes: int, buffer: int) -> str:
        return str(identity_of(Objective(intensity(small_space, word_bytes, buffer), INTENSITY)))

    assert identity(4, 0) == identity(4, 0)
    assert len({identity(4, 0), identity(1, 0), identity(4, 1000)}) == 3


def test_an_exact_front_takes_counts_and_refuses_a_ratio_unless_all_networks_are_listed() -> None:
    space = load_space("mobilenet_v3_digits", resolutions=[12])
    sums = [Objective.of(macs(space), "max"), Objective.of(traffic(space), "min")]
    found = exact_front(Problem(space, sums), grid=1000)
    assert len(found.genes) > 1 and (found.values[:, 0] > 0).all()
    ratio = Objective(intensity(space), INTENSITY)
    with pytest.raises(InvalidValueError, match="needs sums over positions .* but the intensity predictor is none"):
        exact_front(Problem(space, [ratio, sums[1]]))


def test_of_a_listed_space_the_exact_front_takes_a_ratio(small_space: MobileNetV3) -> None:
    ratio = intensity(small_space)
    front = exact_front(Problem(small_space, [Objective(ratio, INTENSITY)]), listed=10**9)
    best = ratio.predict(small_space.sample(2000, np.random.default_rng(0))).max()
    assert front.values.max() >= best and isinstance(ratio.numerator, PositionTable)


def test_a_limit_on_a_ratio_is_compared_with_its_exact_extreme() -> None:
    space = load_space("mobilenet_v3_digits", resolutions=[12])
    ratio = intensity(space)
    _, most = ratio.maximum()
    assert most >= ratio.predict(space.sample(2000, np.random.default_rng(0))).max()
    objective = Objective(ratio, INTENSITY)
    Problem(space, [objective.limited(most)]).check_feasible()
    with pytest.raises(NasError, match=r"cannot be met by any .* has arithmetic intensity .* MAC/byte.*Set `limit`"):
        Problem(space, [objective.limited(most * 1.001)]).check_feasible()

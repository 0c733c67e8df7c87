import dataclasses
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles import DeviceProfile, LatencyTable, availability, load_device
from hardware_profiles.backends.base import Capabilities
from hardware_profiles.check import LAYERS, DeviceCheck, LayerCheck, check_measuring
from hardware_profiles.measure import Measurement
from search_spaces.base.errors import MeasurementError
from search_spaces.layers import Conv

PROFILE = DeviceProfile(name="mine", title="Mine", backend="onnxruntime")
HERE, ESTIMATES = Capabilities(here=True), Capabilities(estimates=True)
FAILED = MeasurementError("no such operator.")


def measurement(latency_ms: float, agreed: bool = True, spread: float = 1.1) -> Measurement:
    return Measurement(latency_ms, latency_ms, latency_ms, latency_ms * spread, 8, 4, 1.0, agreed)


def found(
    first: Measurement | MeasurementError,
    again: Measurement | MeasurementError | None = None,
    *,
    capabilities: Capabilities = HERE,
    reference_ms: tuple[float, float] | None = (1.0, 1.0),
    clock_ms: float | None = 1e-6,
    **changes: Any,
) -> list[str]:
    """Findings on a device whose stem took as given and whose other layer was fine."""
    stem = LayerCheck(LAYERS["stem"], first, first if again is None else again)
    other = LayerCheck(LAYERS["block"], measurement(1), measurement(1))
    profile = dataclasses.replace(PROFILE, **changes)
    layers = {"stem": stem, "block": other}
    return DeviceCheck(profile, capabilities, layers, 1, reference_ms, clock_ms, sample_ms=0.5).findings()


def test_a_calm_device_has_no_findings() -> None:
    assert found(measurement(1.0), measurement(1.04)) == []
    assert found(measurement(1.0), reference_ms=(1.0, 1.09), clock_ms=0.005) == []
    assert found(measurement(1.0), reference_ms=None) == []


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (measurement(1.0), measurement(1.06)),
        (measurement(1.06), measurement(1.0)),
        (measurement(1, agreed=False), None),
    ],
)
def test_noise_names_the_layer_and_what_to_do(first: Measurement, again: Measurement | None) -> None:
    (finding,) = found(first, again)
    assert "of stem." in finding and "block" not in finding
    assert all(word in finding for word in ("close other programs", "`isolated: true`", "`cpus: [", "`passes` (now 4)"))
    (pinned,) = found(first, again, isolated=True, cpus=[0])
    (elsewhere,) = found(first, again, capabilities=Capabilities())
    assert "`cpus" not in pinned + elsewhere


def test_widely_spread_samples_are_told_apart_from_results_that_differ() -> None:
    (finding,) = found(measurement(1.0, spread=7))
    assert "factor of 7.0, though the results repeat" in finding


@pytest.mark.parametrize(("end", "how"), [(1.25, "1.25 times slower"), (0.8, "1.25 times faster")])
def test_drift_of_the_clock(end: float, how: str) -> None:
    (finding,) = found(measurement(1.0), reference_ms=(1.0, end))
    assert how in finding and "governor" in finding


def test_a_coarse_clock() -> None:
    (finding,) = found(measurement(1.0), clock_ms=0.1)
    assert "steps by 0.1 ms, 20% of a sample" in finding and "`sample_ms: 10`" in finding
    (finding,) = found(measurement(1.0), clock_ms=0.0)
    assert "all samples" in finding.lower() and "`sample_ms`" in finding


def test_a_layer_that_fails_is_named_with_the_reason() -> None:
    for first, again in ((FAILED, FAILED), (measurement(1), FAILED), (FAILED, measurement(1))):
        (finding,) = found(first, again)
        assert finding.startswith("stem cannot be measured: no such operator.")


def test_estimates_have_no_noise_but_must_repeat() -> None:
    assert found(measurement(1, agreed=False, spread=9), capabilities=ESTIMATES) == []
    (finding,) = found(measurement(1.0), measurement(1.001), capabilities=ESTIMATES)
    assert "estimate of stem is another one each time" in finding


def test_broken_is_a_device_that_runs_none() -> None:
    failed, fine = (
        LayerCheck(LAYERS["stem"], FAILED, FAILED),
        LayerCheck(LAYERS["stem"], measurement(1), measurement(1)),
    )
    assert DeviceCheck(PROFILE, HERE, {"a": failed, "b": failed}, 1, None, None, None).is_broken
    assert not DeviceCheck(PROFILE, HERE, {"a": failed, "b": fine}, 1, None, None, None).is_broken


# -- devices -----------------------------------------------------------------------------------------------------------


def test_the_layers_make_a_network() -> None:
    shapes = [(layer.input_shape, layer.output_shape) for layer in LAYERS.values()]
    assert all(before[1] == after[0] for before, after in zip(shapes, shapes[1:], strict=False))


def test_this_computer() -> None:
    profile = dataclasses.replace(load_device("host_ort"), pass_seconds=0.0)
    check = check_measuring(profile, profile.open(), pause_seconds=0.0)
    assert list(check.layers) == list(LAYERS) and not check.is_broken and check.boards == 1
    for layer in check.layers.values():
        assert layer.measurements is not None and layer.ratio >= 1
    assert check.reference_ms is not None and min(check.reference_ms) > 0
    assert check.clock_ms is not None and 0 < check.clock_ms < 0.01
    assert check.sample_ms is not None and check.sample_ms >= profile.sample_ms


def test_an_estimate() -> None:
    profile = load_device("ethos_u55_128")
    if reason := availability(profile):
        pytest.skip(reason)
    check = check_measuring(profile, profile.open())
    assert check.findings() == [] and check.reference_ms is None and check.clock_ms is None
    assert all(layer.ratio == 1 for layer in check.layers.values())


def test_somebody_elses_numbers_are_checked_with_rows_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    table = LatencyTable(path, "mine", {"dtype": "float32", "batch": 1, "threads": 1})
    for size in (8, 12, 16, 20):
        table.add(Conv(3, 8, 3, 2, "relu", size), measurement(size / 10))
    profile = dataclasses.replace(PROFILE, backend="table", options={"path": str(path)})
    check = check_measuring(profile, profile.open())
    assert [layer.layer.input_shape[1] for layer in check.layers.values()] == [8, 16, 20]
    assert check.findings() == [] and not check.is_broken

"""Metrics beside latency, reported by a backend of one's own: measured, fitted, judged and saved."""

import dataclasses
import functools
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware_profiles import DeviceProfile, LatencyTable
from hardware_profiles.backend_contract import check_device
from hardware_profiles.worker import WorkerBackend
from nas.commands.quality import read_truth
from nas.run.fitting import change_quality, fit_measured
from nas.run.fronts import Front
from nas.run.network_log import NetworkLog
from nas.run.profiling import measure
from nas.run.records import Fits
from nas.run.settings import ProfileSettings
from predictors import CorrectedLookup, load
from search_spaces import Architecture, Genes, MobileNetV3
from search_spaces.base.errors import MismatchError
from tests.hardware_profiles.metered import CALL_MJ, ENERGY, POWER, layer_mj

LOOKUP = functools.partial(CorrectedLookup)
METERED = DeviceProfile(
    name="metered",
    title="",
    backend="tests.hardware_profiles.metered",
    **{"warm_up": 0, "runs": 2, "sample_ms": 0, "passes": 2, "max_passes": 2, "loads": 1, "pass_seconds": 0},
)


def energies(space: MobileNetV3, genes: Genes) -> list[float]:
    """What the meter says of networks."""
    return [CALL_MJ + sum(map(layer_mj, space.lower(Architecture(space, row)).values())) for row in genes]


def test_the_backend_is_sound() -> None:
    check_device(METERED)


def test_values_come_out_of_a_process_of_its_own(small_space: MobileNetV3) -> None:
    from hardware_profiles import Model

    model = Model(small_space.lower(small_space.biggest))
    backend = dataclasses.replace(METERED, isolated=True).open()
    try:
        assert isinstance(backend, WorkerBackend) and backend.capabilities.metrics[1:] == (ENERGY, POWER)
        assert backend.load(model).values(3) == METERED.open().load(model).values(3)
    finally:
        backend.close()


@pytest.mark.parametrize("method", ["isolated", "in_context"])
def test_reported_metrics_are_fitted_and_judged(
    small_space: MobileNetV3, everything: Genes, tmp_path: Path, method: str
) -> None:
    place = tmp_path / "profile" / "metered"
    measure(small_space, METERED, ProfileSettings(16, 8, method=method), place, 0, lambda said: None)
    table, networks = LatencyTable.read(place / "table.jsonl"), NetworkLog.read(place / "networks.jsonl", small_space)
    assert table.metrics[1:] == (ENERGY, POWER)
    assert table.values_of("energy_mj") == {layer: CALL_MJ + layer_mj(layer) for layer in small_space.distinct_layers}
    assert all(set(m.values) == {"memory_bytes", "energy_mj", "peak_w"} for m in networks.rows("check").values())

    fitted = fit_measured(small_space, METERED, tmp_path, LOOKUP, 0)
    change_quality(tmp_path, lambda fits: fits.with_device("metered", {name: q for name, (_, q) in fitted.items()}))
    fits = Fits.read(tmp_path / "fit" / "quality.json")
    assert set(fits.metrics["metered"]) == {"energy_mj", "peak_w"} and set(fits.memory) == {"metered"}
    energy, power = fits.metrics["metered"]["energy_mj"], fits.metrics["metered"]["peak_w"]
    assert energy.unit == "mJ" and energy.predictor.startswith("Sum of layers, whole-network correction")
    assert energy.metrics.mape < 0.01 < energy.baselines["plain sum of layers"].mape
    assert energy.noise_floor is not None and energy.noise_floor.mape == 0 and len(energy.held_out.truth) == 8
    assert power.predictor == "Ridge, whole networks" and power.unit == "W" and power.metrics.mape < 0.05

    for metric, predictor in (("energy_mj", fitted["energy_mj"][0]), ("peak_w", fitted["peak_w"][0])):
        truth = read_truth(place / "networks.jsonl", small_space, predictor, "check")
        assert truth.values.tolist() == [m.values[metric] for m in networks.rows("check").values()]

    again = load(tmp_path / "fit" / "metered_energy_mj.npz", small_space)
    assert isinstance(again, CorrectedLookup) and (again.metric, again.unit) == ("energy", "mJ")
    np.testing.assert_allclose(again.predict(everything), energies(small_space, everything), rtol=0.02)


def test_energy_is_searched_for_and_limited(nas_command: Callable[..., Any], tmp_path: Path) -> None:
    fields = [f"{name}: {value}" for name, value in vars(METERED).items() if value not in (None, {}, "")]
    (tmp_path / "meter.yaml").write_text("\n".join([*fields, "title: a meter"]).replace("name: metered\n", ""))
    wanted = (f"device={tmp_path / 'meter.yaml'}", "search.objectives=[energy_mj,macs]", "limit.peak_w=6.5")
    plan = nas_command("run", "--plan", f"out={tmp_path / 'run'}", *wanted)
    assert "meter   peak power ≤ 6.5 W; whether networks keep it shows after `profile`" in plan.out
    outcome = nas_command("run", f"out={tmp_path / 'run'}", *wanted)
    assert outcome.code == 0, outcome.err
    front = Front.read(tmp_path / "run" / "search" / "meter.json")
    assert front.names[:2] == ("energy_mj", "macs") and {"peak_w", "memory_bytes"} <= {*front.names}
    assert all(front.known(row)["peak_w"] <= 6.5 for row in range(len(front.values)))
    refused = nas_command("search", f"out={tmp_path / 'run'}", *wanted, "limit.energy_mj=1e-6")
    assert refused.code == 2 and "energy_mj" in refused.err and "Traceback" not in refused.err


def test_predictors_of_metrics_that_are_not_reported_any_more_are_removed(
    nas_command: Callable[..., Any], finished: Path
) -> None:
    """The folder's device had a meter once."""
    (device,) = (path.name for path in (finished / "profile").iterdir())
    latency, quality = finished / "fit" / f"{device}_latency.npz", finished / "fit" / "quality.json"
    stale, other = (latency.with_name(f"{device}_{name}.npz") for name in ("energy_mj", "mine"))
    for path in (stale, other):
        path.write_bytes(latency.read_bytes())
    fits = Fits.read(quality)
    replace(fits, metrics={device: {"energy_mj": fits.latency[device]}}).write(quality)
    (finished / "stages" / "fit.json").unlink()
    assert nas_command("fit", f"out={finished}").code == 0
    assert not stale.exists() and other.exists() and latency.exists()
    assert Fits.read(quality) == fits


def test_a_table_that_lacks_a_stated_metric_of_networks_is_refused(small_space: MobileNetV3, tmp_path: Path) -> None:
    place = tmp_path / "profile" / "metered"
    measure(small_space, METERED, ProfileSettings(8, 2, method="isolated"), place, 0, lambda said: None)
    path = place / "networks.jsonl"
    path.write_text(path.read_text().replace('"energy_mj"', '"heat_mj"', 40))
    with pytest.raises(MismatchError, match="No energy_mj was reported with this measurement. Measure again"):
        fit_measured(small_space, METERED, tmp_path, LOOKUP, 0)


def test_layers_that_were_not_measured_are_filled_in_or_said(
    small_space: MobileNetV3, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "profile" / "metered"
    measure(small_space, METERED, ProfileSettings(16, 8, method="isolated"), place, 0, lambda said: None)
    path = place / "table.jsonl"
    header, *rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, *rows[:-2]]))
    with caplog.at_level(logging.WARNING):
        fitted = fit_measured(small_space, METERED, tmp_path, LOOKUP, 0)
    assert "memory_bytes is not known of all layers" in caplog.text and "memory" not in fitted
    assert fitted["energy_mj"][1].metrics.mape < 0.2

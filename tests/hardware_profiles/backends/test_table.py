import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from hardware_profiles.backends import table as table_backend
from hardware_profiles.device import DeviceProfile, load_device
from hardware_profiles.formats.tables import import_table
from hardware_profiles.latency_table import LatencyTable
from hardware_profiles.measure import Measurement, measure
from hardware_profiles.model import Model
from search_spaces.base.errors import DeviceUnavailableError, InvalidValueError, MeasurementError, MismatchError
from search_spaces.layers import Classifier, Conv
from search_spaces.mobilenet_v3 import MobileNetV3
from search_spaces.published import published_architecture

STEM, LAST = Conv(3, 8, 3, 2, "relu", 8), Classifier(8, 16, 10, "relu", 4)
PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "ofa_mbv3"
SPACES = Path(__file__).parents[3] / "search_spaces" / "space"


def profile_of(path: Path | str) -> DeviceProfile:
    return dataclasses.replace(load_device("note10"), name="phone", options={"path": str(path)})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "phone.jsonl"
    table = LatencyTable(path, "phone", {"format": "csv", "dtype": "float32"})
    table.add(STEM, Measurement(1.5, 1.5, 1.5, 1.5, 1, 1, 1.0, True))
    table.add(LAST, Measurement(0.25, 0.25, 0.25, 0.25, 1, 1, 1.0, True))
    table.add_failure(Conv(3, 9, 3, 2, "relu", 8), "out of memory")
    return path


def test_a_network_is_the_sum_of_its_rows(path: Path) -> None:
    backend = profile_of(path).open()
    assert backend.estimates
    assert backend.load(Model.of_layer(STEM)).sample_ms(1) == 1.5
    whole = backend.load(Model({"a": STEM, "b": LAST}))
    assert whole.sample_ms(3) == 1.75
    assert whole.values(1) == {} and whole.run(np.zeros((1, 3, 8, 8), np.float32)) is None


def test_a_table_reports_the_metrics_that_every_row_has(tmp_path: Path) -> None:
    """Energy adds up over layers, memory is that of the largest; the waste is not known of one layer."""
    source, out = tmp_path / "phone.csv", tmp_path / "phone.jsonl"
    rows = [(STEM, 1.5, 4096, 2.5, 0.5), (LAST, 0.25, 1024, 0.5, "")]
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["layer", "latency_ms", "memory_bytes", "energy_mj", "waste_mj"])
        writer.writerows((json.dumps(layer.to_json()), *cells) for layer, *cells in rows)
    import_table("csv", source, out, unit="ms")
    profile = profile_of(out)
    assert [metric.name for metric in profile.capabilities.metrics] == ["memory_bytes", "energy_mj"]
    backend = profile.open()
    assert backend.capabilities == profile.capabilities
    assert backend.load(Model({"a": STEM, "b": LAST})).values(1) == {"memory_bytes": 4096, "energy_mj": 3.0}
    (_, measured), *_ = measure([("stem", Model.of_layer(STEM))], backend, profile, np.random.default_rng(0))
    assert isinstance(measured, Measurement) and measured.values == {"memory_bytes": 4096, "energy_mj": 2.5}


def test_a_layer_without_a_row_is_an_error(path: Path) -> None:
    backend = profile_of(path).open()
    absent = Conv(3, 10, 3, 2, "relu", 8)
    with pytest.raises(MeasurementError, match=r"no row for 'b', Conv\(in_channels=3, out_channels=10"):
        backend.load(Model({"a": STEM, "b": absent}))
    with pytest.raises(MeasurementError, match="out_channels=9.* It failed there: out of memory"):
        backend.load(Model.of_layer(Conv(3, 9, 3, 2, "relu", 8)))


def test_measuring_takes_what_the_rows_say(path: Path) -> None:
    profile = profile_of(path)
    items = [("stem", Model.of_layer(STEM)), ("absent", Model.of_layer(Conv(1, 1, 1, 1, "none", 1)))]
    results = dict(measure(items, profile.open(), profile, np.random.default_rng(0)))
    assert isinstance(results["stem"], Measurement) and results["stem"].latency_ms == 1.5
    assert isinstance(results["absent"], MeasurementError)


def test_environment_changes_with_the_rows(path: Path) -> None:
    before = profile_of(path).open().environment
    assert before["conditions"] == {"device": "phone", "format": "csv", "dtype": "float32"}
    assert before["layers"] == 2 and "somebody else" in before["latency"]
    assert profile_of(path).open().environment == before
    LatencyTable.read(path).add(STEM, Measurement(1.6, 1.6, 1.6, 1.6, 1, 1, 1.0, True))
    after = profile_of(path).open().environment
    assert after["fingerprint"] != before["fingerprint"]


@pytest.mark.parametrize("conditions", [{"batch": 8}, {"dtype": "int8"}, {"profile": {"threads": 4}}])
def test_a_table_of_other_conditions_than_the_profile_is_refused(tmp_path: Path, conditions: dict[str, object]) -> None:
    path = tmp_path / "phone.jsonl"
    LatencyTable(path, "phone", conditions).add(STEM, Measurement(1.5, 1.5, 1.5, 1.5, 1, 1, 1.0, True))
    with pytest.raises(MismatchError, match="the profile says .* but its latency table .* is of"):
        profile_of(path).open()


def test_no_table_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "none.jsonl"
    with pytest.raises(DeviceUnavailableError, match=f"nas table import ofa <file or csv> {missing}"):
        profile_of(missing).open()
    assert not missing.exists()
    empty = tmp_path / "empty.jsonl"
    LatencyTable(empty, "phone", {})
    with pytest.raises(DeviceUnavailableError, match="has no rows"):
        profile_of(empty).open()
    monkeypatch.setattr(table_backend, "FOLDER", tmp_path / "tables")
    with pytest.raises(DeviceUnavailableError, match=str(tmp_path / "tables" / "note10.jsonl")):
        load_device("note10").open()


def test_a_bare_name_is_in_the_shipped_folder_and_others_start_here(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_backend, "FOLDER", path.parent)
    assert profile_of("phone.jsonl").open().load(Model.of_layer(STEM)).sample_ms(1) == 1.5
    monkeypatch.chdir(path.parent.parent)
    relative = Path(path.parent.name) / path.name
    assert profile_of(relative).open().load(Model.of_layer(STEM)).sample_ms(1) == 1.5


@pytest.mark.parametrize("value", [3, "", None])
def test_a_path_that_is_none_is_refused(value: object) -> None:
    profile = dataclasses.replace(load_device("note10"), options={"path": value})
    with pytest.raises(InvalidValueError, match="option `path` must be text"):
        profile.open()
    with pytest.raises(InvalidValueError, match="needs the option `path`"):
        dataclasses.replace(load_device("note10"), options={}).open()


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"needs once-for-all's published tables in {PUBLISHED}")
def test_the_published_note10_network_has_its_published_latency(tmp_path: Path) -> None:
    settings = yaml.safe_load((SPACES / "ofa_mobilenet_v3_w1.2.yaml").read_text())
    del settings["_target_"]
    space = MobileNetV3(**settings)
    networks = json.loads((PUBLISHED / "published_nets.json").read_text())
    (network,) = (n for n in networks if n["name"].startswith("note10_lat-30ms"))
    model = Model(space.lower(published_architecture(space, network)))

    source = PUBLISHED / "operator_latency.csv"
    import_table("ofa", source, tmp_path / "all.jsonl", device="note10")
    # Resolutions 208 and 224 share layers of size 7; the table holds their mean.
    assert profile_of(tmp_path / "all.jsonl").open().load(model).sample_ms(1) == pytest.approx(29.97, abs=0.02)

    with source.open() as file:
        rows = [row for row in csv.DictReader(file) if row["device"] == "note10" and row["input_res"] == "224"]
    published = {row["op_key"]: {"mean": float(row["mean_ms"]), "count": int(row["count"])} for row in rows}
    (tmp_path / "224.yaml").write_text(yaml.safe_dump(published))
    import_table("ofa", tmp_path / "224.yaml", tmp_path / "224.jsonl")
    assert profile_of(tmp_path / "224.jsonl").open().load(model).sample_ms(1) == pytest.approx(29.9653, abs=1e-4)
    with pytest.raises(MeasurementError, match="no row for 'stem'"):
        profile_of(tmp_path / "224.jsonl").open().load(Model(space.lower(space.smallest)))

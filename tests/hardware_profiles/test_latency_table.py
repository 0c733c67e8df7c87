import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles import LatencyTable, Measurement
from search_spaces import Conv
from search_spaces.base.errors import MismatchError, MissingLayerError, StorageError

A, B = Conv(3, 8, 3, 1, "relu", 8), Conv(3, 8, 5, 1, "relu", 8)


def measurement(ms: float = 1.0) -> Measurement:
    return Measurement(latency_ms=ms, median_ms=ms, p10_ms=ms, p90_ms=ms, runs=8, passes=2, noise=1.01, agreed=True)


def table(tmp_path: Path) -> LatencyTable:
    return LatencyTable(tmp_path / "table.jsonl", "mine", {"threads": 1})


def test_rows_are_kept(tmp_path: Path) -> None:
    one = table(tmp_path)
    one.add(A, measurement(1.0))
    one.add(B, measurement(2.0))
    one.add(A, measurement(3.0))  # the later one counts
    for again in (one, table(tmp_path), LatencyTable.read(tmp_path / "table.jsonl")):
        assert dict(again) == {A: measurement(3.0), B: measurement(2.0)} and len(again) == 2
        assert again.device == "mine" and again.conditions == {"device": "mine", "threads": 1}


def test_values_noted_apart_do_not_hide_the_latency(tmp_path: Path) -> None:
    one = table(tmp_path)
    one.add(A, measurement(1.0))
    one.add_values(A, {"memory_bytes": 64.0})
    for again in (one, table(tmp_path)):
        assert again.values_of("latency_ms") == {A: 1.0} and again.values_of("memory_bytes") == {A: 64.0}


def test_an_absent_layer_raises_and_is_never_0(tmp_path: Path) -> None:
    with pytest.raises(MissingLayerError, match="'mine' has no Conv.*nas profile"):
        table(tmp_path)[A]
    assert A not in table(tmp_path) and table(tmp_path).get(A) is None
    with pytest.raises(KeyError):
        table(tmp_path)[A]


def test_a_failed_layer_says_why(tmp_path: Path) -> None:
    one = table(tmp_path)
    one.add_failure(A, "out of memory")
    for again in (one, table(tmp_path)):
        assert again.failed == {A: "out of memory"} and A not in again
        with pytest.raises(MissingLayerError, match="It failed there: out of memory"):
            again[A]
    one.add(A, measurement())
    assert one.failed == table(tmp_path).failed == {} and one[A] == measurement()
    one.add_failure(A, "no longer")
    for again in (one, table(tmp_path)):
        assert A not in again and again.failed == {A: "no longer"}


def test_other_conditions_are_refused(tmp_path: Path) -> None:
    table(tmp_path).add(A, measurement())
    with pytest.raises(MismatchError, match="threads: 1 there, 4 now"):
        LatencyTable(tmp_path / "table.jsonl", "mine", {"threads": 4})
    with pytest.raises(MismatchError, match="device: 'mine' there, 'other' now"):
        LatencyTable(tmp_path / "table.jsonl", "other", {"threads": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"layer": None},
        {"layer": {"kind": "Conv3D"}},
        {"layer": {"kind": "Conv", "size": "8"}},
        {"measurement": None},
        {"measurement": {}},
        {"measurement": {**measurement().to_json(), "latency_ms": 0}},
        {"measurement": {**measurement().to_json(), "latency_ms": -1.0}},
        {"measurement": {**measurement().to_json(), "latency_ms": "fast"}},
        {"measurement": {**measurement().to_json(), "p10_ms": None}},
        {"measurement": {**measurement().to_json(), "energy_mj": -1.0}},
    ],
)
def test_a_row_that_makes_no_sense_is_named_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    table(tmp_path).add(A, measurement())
    row = {"layer": B.to_json(), "measurement": measurement().to_json(), **change}
    if change == {"layer": None}:
        del row["layer"]
    with open(tmp_path / "table.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    table(tmp_path).add(A, measurement(2.0))
    with caplog.at_level(logging.WARNING):
        again = table(tmp_path)
    assert dict(again) == {A: measurement(2.0)} and again.failed == {}
    assert "table.jsonl" in caplog.text and "cannot be read" in caplog.text


def test_reading_needs_the_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        LatencyTable.read(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def test_values_that_are_noted_apart_stand_beside_the_latency(tmp_path: Path) -> None:
    written = table(tmp_path)
    written.add(A, dataclasses.replace(measurement(2.0), values={"energy_mj": 3.0}))
    written.add_values(A, {"memory_bytes": 64})
    written.add_values(B, {"memory_bytes": 32, "energy_mj": 1.5})
    for one in (written, table(tmp_path)):
        assert one.values_of("latency_ms") == {A: 2.0} and one.values_of("energy_mj") == {A: 3.0, B: 1.5}
        assert one.values_of("memory_bytes") == {A: 64, B: 32} and type(one.value(B, "memory_bytes")) is int
        assert one.value(A, "latency_ms") == 2.0 and one.value(A, "energy_mj") == 3.0
        assert one.has_values("energy_mj", [A, B]) and not one.has_values("latency_ms", [A, B])
        with pytest.raises(MissingLayerError, match="has no heat_mj of"):
            one.value(A, "heat_mj")
        with pytest.raises(MissingLayerError):
            one.value(B, "latency_ms")

import json
import logging
import re
from pathlib import Path

import pytest

from hardware_profiles.formats.tables import (
    import_table,
    macs_per_second,
    merge_tables,
)
from hardware_profiles.latency_table import LatencyTable
from hardware_profiles.measure import Measurement
from search_spaces.base.errors import InvalidValueError, MismatchError, StorageError
from search_spaces.layers import Conv
from search_spaces.loading import load_space
from tests.hardware_profiles.formats.table_files import (
    LAYERS,
    TABLE,
    write_csv,
    write_yaml,
)

PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "ofa_mbv3"


def test_import_writes_a_table_and_says_what_was_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write_yaml(tmp_path / "160.yaml", {**TABLE, "Softmax-input:1x1x10-output:10": 1.0})
    out = tmp_path / "tables" / "phone.jsonl"
    with caplog.at_level(logging.WARNING):
        imported = import_table("ofa", source, out, conditions={"dtype": "float32", "batch": 1})
    assert len(imported.refused) == 1 and "160.yaml line 16: Operator 'Softmax'" in caplog.text
    table = LatencyTable.read(out)
    assert {layer: table[layer].latency_ms for layer in table} == pytest.approx(LAYERS)
    assert table.conditions == {"device": "phone", "format": "ofa", "dtype": "float32", "batch": 1}
    assert {measurement.runs for measurement in table.values()} == {100}
    assert [path.name for path in out.parent.iterdir()] == ["phone.jsonl"]
    before = out.read_bytes()
    with pytest.raises(InvalidValueError, match="phone.jsonl exists"):
        import_table("ofa", source, out)
    assert out.read_bytes() == before


def times_of(folder: Path, factor: float) -> Path:
    """A CSV of a layer of 7.2 million multiply-accumulates that takes 1 ms, in another unit."""
    layer = json.dumps(Conv(8, 8, 3, 1, "relu", 112).to_json())
    return write_csv(folder / "a.csv", "layer,latency_ms,p90_ms", (layer, factor, 1.5 * factor))


@pytest.mark.parametrize(
    ("unit", "factor", "speed"), [("s", 1e-3, "7.2e+12"), ("us", 1e3, "7.2e+06"), ("ns", 1e6, "7.2e+03")]
)
def test_latencies_in_another_unit_are_refused_and_read_once_it_is_said(
    tmp_path: Path, unit: str, factor: float, speed: str
) -> None:
    source, out = times_of(tmp_path, factor), tmp_path / "out.jsonl"
    with pytest.raises(InvalidValueError, match=rf"a\.csv would mean {re.escape(speed)} .* 7.2e\+09 in {unit}[,.]"):
        import_table("csv", source, out)
    assert not out.exists()
    import_table("csv", source, out, unit=unit)
    (row,) = LatencyTable.read(out).values()
    assert (row.latency_ms, row.p90_ms) == pytest.approx((1, 1.5))
    with pytest.raises(InvalidValueError, match="`unit` must be one of s, ms, us, ns, but got 'min'"):
        import_table("csv", source, tmp_path / "other.jsonl", unit="min")


def test_latencies_of_a_batch_are_judged_by_its_multiply_accumulates(tmp_path: Path) -> None:
    source = times_of(tmp_path, 100)
    with pytest.raises(InvalidValueError, match="7.2e\\+07 multiply-accumulates"):
        import_table("csv", source, tmp_path / "one.jsonl")
    import_table("csv", source, tmp_path / "out.jsonl", conditions={"batch": 64})
    assert macs_per_second([(Conv(8, 8, 3, 1, "relu", 112), 100)], 64) == 1e3 * 64 * 112**2 * 8 * 8 * 9 / 100


def test_import_keeps_quantiles_and_memory(tmp_path: Path) -> None:
    layer = Conv(3, 8, 3, 1, "relu", 24)
    source = write_csv(
        tmp_path / "a.csv", "layer,latency_ms,p10_ms,p90_ms,memory_bytes", (json.dumps(layer.to_json()), 2, 1, 4, 77)
    )
    import_table("csv", source, tmp_path / "a.jsonl", device="board", unit="ms")
    row = LatencyTable.read(tmp_path / "a.jsonl")[layer]
    assert (row.latency_ms, row.p10_ms, row.p90_ms, row.values) == (2, 1, 4, {"memory_bytes": 77})


def test_import_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    source = write_yaml(tmp_path / "a.yaml", {"Softmax-input:1x1x10-output:10": 1.0})
    with pytest.raises(InvalidValueError, match="format is one of ofa, fbnet, csv, but got 'nn-meter'"):
        import_table("nn-meter", source, out)
    with pytest.raises(InvalidValueError, match="no row that can be used as format 'ofa': a.yaml line 1: Operator"):
        import_table("ofa", source, out)
    with pytest.raises(InvalidValueError, match="name the space with `space=fbnet`"):
        import_table("fbnet", source, out)
    with pytest.raises(StorageError):
        import_table("csv", tmp_path / "none.csv", out)
    assert not out.exists()


def measurement(ms: float) -> Measurement:
    return Measurement(ms, ms, ms, ms, 1, 1, 1.0, True)


def test_merged_tables_hold_all_rows(tmp_path: Path) -> None:
    one, two, three = (Conv(3, channels, 3, 1, "relu", 24) for channels in (8, 16, 24))
    conditions = {"dtype": "int8", "nested": {"a": [1]}}
    first = LatencyTable(tmp_path / "first.jsonl", "board", conditions)
    first.add(one, measurement(1.0))
    first.add(two, measurement(2.0))
    second = LatencyTable(tmp_path / "second.jsonl", "board", conditions)
    second.add(two, measurement(2.5))
    second.add_failure(one, "out of memory")
    second.add_failure(three, "no such operator")
    network = Measurement(3.0, 3.0, 3.0, 3.0, 1, 1, 1.0, True, positions_ms={"a": 0.5})
    second.add_network({"a": Conv(1, 1, 1, 1, "none", 4)}, network)
    paths = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    merged = merge_tables([*paths, paths[1]], tmp_path / "merged.jsonl")
    assert merged.conditions == first.conditions and merged.device == "board"
    assert {layer: merged[layer].latency_ms for layer in merged} == {
        one: 1.0,
        two: 2.5,
        Conv(1, 1, 1, 1, "none", 4): 0.5,
    }
    assert merged.within(Conv(1, 1, 1, 1, "none", 4)) == (0.5,)
    assert merged.failed == {three: "no such operator"}
    with pytest.raises(InvalidValueError, match="merged.jsonl exists"):
        merge_tables(paths, tmp_path / "merged.jsonl")
    with pytest.raises(InvalidValueError, match="one or more"):
        merge_tables([], tmp_path / "none.jsonl")


def test_tables_of_different_conditions_are_not_merged(tmp_path: Path) -> None:
    layer = Conv(3, 8, 3, 1, "relu", 24)
    for name, device, dtype in (("a", "board", "int8"), ("b", "board", "float32"), ("c", "phone", "int8")):
        LatencyTable(tmp_path / f"{name}.jsonl", device, {"dtype": dtype}).add(layer, measurement(1.0))
    for other, difference in (("b", "dtype: 'int8' and 'float32'"), ("c", "device: 'board' and 'phone'")):
        with pytest.raises(MismatchError, match=difference):
            merge_tables([tmp_path / "a.jsonl", tmp_path / f"{other}.jsonl"], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"needs once-for-all's published tables in {PUBLISHED}")
def test_note10_table_covers_its_resolutions(tmp_path: Path) -> None:
    imported = import_table("ofa", PUBLISHED / "operator_latency.csv", tmp_path / "note10.jsonl")
    assert imported.refused == [] and len(imported.rows) == 448
    space = load_space("ofa_mobilenet_v3_w1.2", resolutions=[160, 176, 192, 208, 224])
    assert set(space.distinct_layers) == {row.layer for row in imported.rows}

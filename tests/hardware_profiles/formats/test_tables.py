import csv
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from hardware_profiles.formats.tables import (
    Imported,
    import_table,
    macs_per_second,
    merge_tables,
    read_csv,
    read_fbnet,
    read_ofa,
)
from hardware_profiles.latency_table import LatencyTable
from hardware_profiles.measure import Measurement
from search_spaces.base.errors import InvalidValueError, MismatchError, StorageError
from search_spaces.fbnet import BENCHMARK_ORDER, FBNet
from search_spaces.layers import Cell201, Classifier, Conv, FBNetBlock, Layer, LinearClassifier, MBConv
from search_spaces.mobilenet_v3 import MobileNetV3

SPACES = Path(__file__).parents[2] / "search_spaces" / "space"
PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "ofa_mbv3"

STEM, BLOCK, SQUEEZED, FIRST = (
    "Conv-input:160x160x3-output:80x80x24",
    "expanded_conv-input:80x80x24-output:40x40x32-expand:72-kernel:5-stride:2-idskip:0-se:0-hs:0",
    "expanded_conv-input:20x20x48-output:20x20x48-expand:144-kernel:3-stride:1-idskip:1-se:1-hs:1",
    "expanded_conv-input:80x80x24-output:80x80x24-expand:24-kernel:3-stride:1-idskip:1-se:0-hs:0",
)
LAST, POOL, MIX, LOGITS = (
    "Conv_1-input:5x5x192-output:5x5x1152",
    "AvgPool2D-input:5x5x1152-output:1x1x1152",
    "Conv_2-input:1x1x1152-output:1x1x1536",
    "Logits-input:1x1x1536-output:1000",
)
TABLE = {STEM: 0.5, FIRST: 0.8, BLOCK: 1.5, SQUEEZED: 0.6, LAST: 0.4, POOL: 0.01, MIX: 0.75, LOGITS: 0.65}
LAYERS: dict[Layer, float] = {
    Conv(3, 24, 3, 2, "h_swish", 160): 0.5,
    MBConv(24, 24, 24, False, 3, 1, 0, "relu", 80): 0.8,
    MBConv(24, 32, 72, True, 5, 2, 0, "relu", 80): 1.5,
    MBConv(48, 48, 144, True, 3, 1, 40, "h_swish", 20): 0.6,
    Conv(192, 1152, 1, 1, "h_swish", 5): 0.4,
    Classifier(1152, 1536, 1000, "h_swish", 5, mix_bias=False): 1.41,
}


def space_of(name: str) -> Any:
    settings = yaml.safe_load((SPACES / f"{name}.yaml").read_text())
    kind = {"FBNet": FBNet, "MobileNetV3": MobileNetV3}[settings.pop("_target_").rsplit(".", 1)[-1]]
    return kind(**settings)


def latencies(imported: Imported) -> dict[Layer, float]:
    return {row.layer: row.latency_ms for row in imported.rows}


def write_yaml(path: Path, table: Mapping[str, float], count: int = 100) -> Path:
    path.write_text(yaml.safe_dump({key: {"mean": ms, "count": count} for key, ms in table.items()}))
    return path


def write_csv(path: Path, columns: str, *rows: Sequence[Any]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns.split(","))
        writer.writerows(rows)
    return path


# -- once-for-all ------------------------------------------------------------------------------------------------------


def test_ofa_yaml(tmp_path: Path) -> None:
    imported = read_ofa(write_yaml(tmp_path / "160_lookup_table.yaml", TABLE), "any")
    assert latencies(imported) == pytest.approx(LAYERS) and imported.refused == []
    assert {row.runs for row in imported.rows} == {100}


def test_ofa_csv_of_several_devices_and_resolutions(tmp_path: Path) -> None:
    columns = "device,input_res,op_key,count,mean_ms,std_ms"
    rows = [("phone", 160, key, 10, ms, 0.1) for key, ms in TABLE.items()]
    rows += [("phone", 176, key, 30, 2 * ms, 0.1) for key, ms in TABLE.items()]
    rows += [("other", 160, key, 10, 9.0, "") for key in TABLE]
    path = write_csv(tmp_path / "operators.csv", columns, *rows)
    imported = read_ofa(path, "phone")
    assert imported.refused == []
    assert latencies(imported) == pytest.approx({layer: (ms + 3 * 2 * ms) / 4 for layer, ms in LAYERS.items()})
    with pytest.raises(InvalidValueError, match="no rows of device 'tablet'; there are phone, other"):
        read_ofa(path, "tablet")


def test_a_folder_of_ofa_yamls_keeps_each_resolutions_classifier(tmp_path: Path) -> None:
    write_yaml(tmp_path / "160.yaml", TABLE)
    larger = {key.replace("5x5x1152", "6x6x1152"): 2 * ms for key, ms in TABLE.items() if key in (POOL, MIX, LOGITS)}
    write_yaml(tmp_path / "192.yaml", larger)
    found = latencies(read_ofa(tmp_path, "any"))
    assert found[Classifier(1152, 1536, 1000, "h_swish", 5, mix_bias=False)] == pytest.approx(1.41)
    assert found[Classifier(1152, 1536, 1000, "h_swish", 6, mix_bias=False)] == pytest.approx(2.82)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidValueError, match="must hold once-for-all's YAML files"):
        read_ofa(tmp_path / "empty", "any")


def test_ofa_proxylessnas(tmp_path: Path) -> None:
    table = {
        "Conv-input:224x224x3-output:112x112x32": 4.0,
        "expanded_conv-input:112x112x32-output:112x112x16-expand:1-kernel:3-stride:1-idskip:0": 3.9,
        "expanded_conv-input:14x14x80-output:14x14x80-expand:6-kernel:7-stride:1-idskip:1": 4.9,
        "Conv_1-input:7x7x320-output:7x7x1280": 3.1,
        "Logits-input:7x7x1280-output:1000": 0.3,
    }
    imported = read_ofa(write_yaml(tmp_path / "mobile_trim.yaml", table), "any")
    assert latencies(imported) == {
        Conv(3, 32, 3, 2, "relu6", 224): 4.0,
        MBConv(32, 16, 32, False, 3, 1, 0, "relu6", 112): 3.9,
        MBConv(80, 80, 480, True, 7, 1, 0, "relu6", 14): 4.9,
        Conv(320, 1280, 1, 1, "relu6", 7): 3.1,
        LinearClassifier(1280, 1000, 7): 0.3,
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"{STEM}: {{mean: 0.7}}", "is at table.yaml line 1 already"),
        (f"{FIRST}: {{mean: -1}}", "`mean` must be a positive number, but got -1"),
        (f"{FIRST}: {{mean: .nan}}", "`mean` must be a number, but got '.nan'"),
        (f"{FIRST}: {{mean: nan}}", "`mean` must be a positive number, but got nan"),
        (f"{FIRST}: {{mean: 0}}", "`mean` must be a positive number"),
        (f"{FIRST}: {{mean: fast}}", "`mean` must be a number, but got 'fast'"),
        (f"{FIRST}: {{mean: 1, count: 0}}", "`count` must be a positive number"),
        (f"{FIRST}: {{mean: 1, count: 1.5}}", "`count` must be a whole number"),
        (f"{FIRST}: {{median: 1}}", "`mean` must be a number, but got ''"),
        (f"{FIRST}: 1.0", "`mean` must be a number, but got ''"),
        (f"{FIRST}: !!python/object/apply:os.getcwd []", "`mean` must be a number, but got ''"),
        ("Softmax-input:1x1x10-output:10: {mean: 1}", "Operator 'Softmax' is not known"),
        ("hello: {mean: 1}", "'hello' is none of operators such as"),
        ("Conv-input:160x120x3-output:80x60x24: {mean: 1}", "must have square inputs"),
        ("Conv-input:160x160x3-output:40x40x24: {mean: 1}", "gives .24, 80, 80., but the operator 24 of size 40"),
        ("Conv-input:160x160x0-output:80x80x24: {mean: 1}", "in_channels must be positive"),
        (f"{STEM}-kernel:3: {{mean: 1}}", "'Conv' has no kernel"),
        (
            FIRST.replace("idskip:1", "idskip:0") + ": {mean: 1}",
            "adds its input always, but the operator says idskip:0",
        ),
        (FIRST.replace("-stride:1", "") + ": {mean: 1}", "A block has expand, kernel, stride, idskip, se, hs, but"),
        (FIRST.replace("kernel:3", "kernel:4") + ": {mean: 1}", "kernel must be odd, but got 4"),
        (f"{POOL}: {{mean: 1}}", "no AvgPool2D and Conv_2 and Logits beside it"),
    ],
)
def test_ofa_rows_that_cannot_be_used_are_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(f"{STEM}: {{mean: 0.5, count: 3}}\n{line}\n")
    imported = read_ofa(path, "any")
    assert [row.latency_ms for row in imported.rows] == [0.5]
    (refused,) = imported.refused
    assert refused.startswith("table.yaml line 2: ")
    assert re.search(reason, refused)


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("table.yaml", "- 1\n- 2", "must map operators such as"),
        ("table.yaml", "", "must map operators such as"),
        ("table.yaml", "a: [", "is malformed YAML"),
        ("table.yaml", b"\xff\xfe\x00", "is malformed YAML"),
        ("table.csv", "operator,ms\nConv,1", "must have the columns `op_key`.*but has operator, ms"),
        ("table.csv", "", "must have the columns `op_key`.*but has none"),
        ("table.csv", b"\xff\xfe\x00", "cannot be read as CSV"),
        ("table.csv", 'op_key,mean_ms\n"a,1', "cannot be read as CSV"),
    ],
)
def test_another_format_than_ofas_is_refused(tmp_path: Path, name: str, content: str | bytes, rule: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidValueError, match=rule) as raised:
        read_ofa(path, "any")
    assert str(path) in str(raised.value)


# -- FBNet -------------------------------------------------------------------------------------------------------------


def fbnet_entries(space: FBNet) -> list[dict[str, float]]:
    count = sum(choice.name.startswith("op.") for choice in space.choices)
    return [{f"ir_{o}": 1000.0 * (n + 1) + i for i, o in enumerate(BENCHMARK_ORDER[:-1])} for n in range(count)]


def test_fbnet_by_name(tmp_path: Path) -> None:
    space = space_of("fbnet")
    entries = fbnet_entries(space)
    for entry in entries:
        entry["ir_k3_s2"] = entry.pop("ir_k3_e1_g2")
        entry["skip"] = 500.0
    path = tmp_path / "lookup_table.json"
    path.write_text(json.dumps(entries))
    imported = read_fbnet(path, space)
    found = latencies(imported)
    assert imported.refused == []
    assert found[FBNetBlock(16, 24, 16, 3, 2, 1, "relu", 112)] == pytest.approx(2.0)
    assert found[FBNetBlock(16, 24, 16, 3, 2, 2, "relu", 112)] == pytest.approx(2.001)
    # Three layers of the stage are equal: 3, 4 and 5 ms.
    assert found[FBNetBlock(24, 24, 72, 3, 1, 1, "relu", 56)] == pytest.approx(4.002)
    assert found[Conv(16, 24, 1, 2, "relu", 112)] == 0.5  # "skip" that changes the shape
    fixed = {Conv(3, 16, 3, 2, "relu", 224), Conv(352, 1984, 1, 1, "relu", 7), LinearClassifier(1984, 1000, 7)}
    assert set(space.distinct_layers) - set(found) == fixed
    assert set(found) <= set(space.distinct_layers)


def test_fbnet_by_order(tmp_path: Path) -> None:
    space = space_of("fbnet_cifar100")
    entries = fbnet_entries(space)
    names, lists = tmp_path / "names.json", tmp_path / "lists.json"
    names.write_text(json.dumps(entries))
    lists.write_text(json.dumps([None, None, *(list(entry.values()) for entry in entries), None]))
    assert read_fbnet(lists, space) == read_fbnet(names, space)


@pytest.mark.parametrize("value", [0, -1.0, None, "1", True, 1e999])
def test_fbnet_latencies_that_cannot_be_used_are_named(tmp_path: Path, value: Any) -> None:
    space = space_of("fbnet")
    entries: list[dict[str, Any]] = [dict(entry) for entry in fbnet_entries(space)]
    entries[0]["ir_k3_e1"] = value
    entries[3]["ir_k9_e9"] = 1.0
    path = tmp_path / "table.json"
    path.write_text(json.dumps(entries))
    imported = read_fbnet(path, space)
    assert [reason.split(":")[0] for reason in imported.refused] == ["layer 1, ir_k3_e1", "layer 4, ir_k9_e9"]
    assert FBNetBlock(16, 16, 16, 3, 1, 1, "relu", 112) not in latencies(imported)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("{}", "must be a JSON list of 22 .* but is a dict"),
        ("[{}]", "must be a JSON list of 22 .* but has 1 entries"),
        ("[" + "1," * 21 + "1]", "must be a JSON list of 22 mappings or lists"),
        ("ir_k3_e1 skip\n1 2", "is not valid JSON"),
    ],
)
def test_another_format_than_fbnets_is_refused(tmp_path: Path, content: str, rule: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(InvalidValueError, match=rule):
        read_fbnet(path, space_of("fbnet"))


# -- plain CSV ---------------------------------------------------------------------------------------------------------


def test_csv_by_json_and_by_fields(tmp_path: Path) -> None:
    cell = Cell201(16, 32, ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "none"))
    block = MBConv(8, 8, 16, True, 3, 1, 0, "relu6", 12)
    columns = "layer,latency_ms,p10_ms,p90_ms,memory_bytes"
    by_json = write_csv(
        tmp_path / "json.csv",
        columns,
        (json.dumps(cell.to_json()), 1.5, 1.25, 2, 4096),
        (json.dumps(block.to_json()), "2e-1", "", "", ""),
    )
    one, two = read_csv(by_json).rows
    assert (one.layer, one.latency_ms, one.p10_ms, one.p90_ms, one.memory_bytes) == (cell, 1.5, 1.25, 2.0, 4096)
    assert (two.layer, two.latency_ms, two.p10_ms, two.memory_bytes) == (block, 0.2, None, None)
    columns = "kind,in_channels,out_channels,hidden,expands,kernel,stride,squeeze,activation,size,latency_ms"
    by_fields = write_csv(
        tmp_path / "fields.csv",
        columns,
        ("MBConv", 8, 8, 16, "TRUE", 3, 1, 0, "relu6", 12, 0.2),
        ("Conv", 3, 8, "", "", 3, 2, "", "relu", 24, 0.1),
    )
    assert latencies(read_csv(by_fields)) == {block: 0.2, Conv(3, 8, 3, 2, "relu", 24): 0.1}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("Conv", 3, 8, 3, 1, "relu", 24, 0.1), "is there already"),
        (("Conv", 3, 9, 3, 1, "relu", 24, "nan"), "`latency_ms` must be a positive number, but got nan"),
        (("Conv", 3, 9, 3, 1, "relu", 24, -2), "`latency_ms` must be a positive number, but got -2"),
        (("Conv", 3, 9, 3, 1, "relu", 24, "inf"), "`latency_ms` must be a positive number, but got inf"),
        (("Conv", 3, 9, 3, 1, "relu", 24, "quick"), "`latency_ms` must be a number, but got 'quick'"),
        (("Conv", 3, 9, 3, 1, "relu", 24, ""), "`latency_ms` is empty"),
        (("Dense", 3, 9, 3, 1, "relu", 24, 1), "Layer kind 'Dense' is not known"),
        (("Conv", 3, 9, 3, "", "relu", 24, 1), "Layer Conv does not have these fields"),
        (("Conv", 3, 9, "3.5", 1, "relu", 24, 1), "Conv.kernel must be int, but got '3.5'"),
        (("Conv", 3, 9, 3, 1, "gelu", 24, 1), "Conv.activation can be"),
        (("Conv", 3, 9, 3, 1, "relu", 24, 1, 5), "more cells than there are columns"),
    ],
)
def test_csv_rows_that_cannot_be_used_are_named(tmp_path: Path, row: Sequence[Any], reason: str) -> None:
    columns = "kind,in_channels,out_channels,kernel,stride,activation,size,latency_ms"
    path = write_csv(tmp_path / "table.csv", columns, ("Conv", 3, 8, 3, 1, "relu", 24, 0.5), row)
    imported = read_csv(path)
    assert latencies(imported) == {Conv(3, 8, 3, 1, "relu", 24): 0.5}
    (refused,) = imported.refused
    assert refused.startswith("line 3: ") and reason in refused


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("{", 1, "", ""), "`layer` is not JSON"),
        (("[1]", 1, "", ""), "A layer is a mapping"),
        (("", 1, "", ""), "Layer kind None is not known"),
        (("LAYER", 1, -1, ""), "`p10_ms` must be a positive number"),
        (("LAYER", 1, "", -1), "`memory_bytes` must be >= 0"),
        (("LAYER", 1, "", 1.5), "`memory_bytes` must be a whole number"),
    ],
)
def test_csv_cells_that_cannot_be_used_are_named(tmp_path: Path, row: Sequence[Any], reason: str) -> None:
    cells = [json.dumps(Conv(3, 8, 3, 1, "relu", 24).to_json()) if cell == "LAYER" else cell for cell in row]
    imported = read_csv(write_csv(tmp_path / "table.csv", "layer,latency_ms,p10_ms,memory_bytes", cells))
    assert imported.rows == [] and reason in imported.refused[0]


@pytest.mark.parametrize("columns", ["layer,ms", "in_channels,latency_ms", ""])
def test_another_format_than_a_csv_of_layers_is_refused(tmp_path: Path, columns: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"{columns}\n1,2\n" if columns else "")
    with pytest.raises(InvalidValueError, match="must have the columns `latency_ms` and `layer`"):
        read_csv(path)


# -- import and merge --------------------------------------------------------------------------------------------------


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
    assert (row.latency_ms, row.p10_ms, row.p90_ms, row.memory_bytes) == (2, 1, 4, 77)


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


# -- the published tables ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"needs once-for-all's published tables in {PUBLISHED}")
def test_note10_table_covers_its_resolutions(tmp_path: Path) -> None:
    imported = import_table("ofa", PUBLISHED / "operator_latency.csv", tmp_path / "note10.jsonl")
    assert imported.refused == [] and len(imported.rows) == 448
    settings = yaml.safe_load((SPACES / "ofa_mobilenet_v3_w1.2.yaml").read_text())
    del settings["_target_"]
    space = MobileNetV3(**{**settings, "resolutions": [160, 176, 192, 208, 224]})
    assert set(space.distinct_layers) == {row.layer for row in imported.rows}

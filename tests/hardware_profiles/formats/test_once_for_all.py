import re
from pathlib import Path

import pytest

from hardware_profiles.formats.once_for_all import read_ofa
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Classifier, Conv, LinearClassifier, MBConv
from tests.hardware_profiles.formats.table_files import (
    FIRST,
    LAYERS,
    LOGITS,
    MIX,
    POOL,
    STEM,
    TABLE,
    latencies,
    write_csv,
    write_yaml,
)


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
        ("Conv-input:160x160x0-output:80x80x24: {mean: 1}", "in_channels must be int from 1 to .*, but got 0"),
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

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.formats.plain_csv import read_csv
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Conv, MBConv
from search_spaces.nasbench201 import Cell201
from tests.hardware_profiles.formats.table_files import (
    latencies,
    write_csv,
)


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
    assert (one.layer, one.latency_ms, one.p10_ms, one.p90_ms, one.values) == (
        cell,
        1.5,
        1.25,
        2.0,
        {"memory_bytes": 4096},
    )
    assert (two.layer, two.latency_ms, two.p10_ms, two.values) == (block, 0.2, None, {})
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
        (("Dense", 3, 9, 3, 1, "relu", 24, 1), "A layer is of kind 'Dense', which is unknown"),
        (("Conv", 3, 9, 3, "", "relu", 24, 1), "Layer Conv does not have these fields"),
        (("Conv", 3, 9, "3.5", 1, "relu", 24, 1), "Conv.kernel must be int from 1 to 4,096, but got '3.5'"),
        (("Conv", 3, 9, 3, 1, "swish", 24, 1), "Conv.activation must be none or relu or"),
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
        (("", 1, "", ""), "A layer is of kind None, which is unknown"),
        (("LAYER", 1, -1, ""), "`p10_ms` must be a positive number"),
        (("LAYER", 1, "", -1), "`memory_bytes` must be >= 0"),
        (("LAYER", 1, "", "nan"), "`memory_bytes` must be a whole number"),
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

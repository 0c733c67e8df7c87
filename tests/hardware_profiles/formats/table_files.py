"""Tables of others as the tests write them."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hardware_profiles.formats.rows import ImportedTable
from search_spaces.layers import Classifier, Conv, Layer, MBConv

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


def latencies(imported: ImportedTable) -> dict[Layer, float]:
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

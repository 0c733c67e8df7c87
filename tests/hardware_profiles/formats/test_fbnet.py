import json
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.formats.fbnet import read_fbnet
from search_spaces.base.errors import InvalidValueError
from search_spaces.fbnet import BENCHMARK_ORDER, FBNet
from search_spaces.layers import Conv, FBNetBlock, LinearClassifier
from search_spaces.loading import load_space
from tests.hardware_profiles.formats.table_files import latencies


def fbnet_entries(space: FBNet) -> list[dict[str, float]]:
    count = sum(choice.name.startswith("op.") for choice in space.choices)
    return [{f"ir_{o}": 1000.0 * (n + 1) + i for i, o in enumerate(BENCHMARK_ORDER[:-1])} for n in range(count)]


def test_fbnet_by_name(tmp_path: Path) -> None:
    space = load_space("fbnet")
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
    space = load_space("fbnet_cifar100")
    entries = fbnet_entries(space)
    names, lists = tmp_path / "names.json", tmp_path / "lists.json"
    names.write_text(json.dumps(entries))
    lists.write_text(json.dumps([None, None, *(list(entry.values()) for entry in entries), None]))
    assert read_fbnet(lists, space) == read_fbnet(names, space)


@pytest.mark.parametrize("value", [0, -1.0, None, "1", True, 1e999])
def test_fbnet_latencies_that_cannot_be_used_are_named(tmp_path: Path, value: Any) -> None:
    space = load_space("fbnet")
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
        read_fbnet(path, load_space("fbnet"))

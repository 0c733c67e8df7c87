"""Every YAML that ships: it parses, says how it is used, and what it names exists."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_object, instantiate

from hardware_profiles import load_device

ROOT = Path(__file__).parents[1]
CONFIGS = sorted([*(ROOT / "nas" / "conf").rglob("*.yaml"), *(ROOT / "search_spaces" / "space").glob("*.yaml")])
DEVICES = sorted((ROOT / "hardware_profiles" / "device").glob("*.yaml"))


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def opening_comment(path: Path) -> str:
    lines = path.read_text().splitlines()
    comment = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(lines[:comment])


def targets(node: Any) -> list[dict[str, Any]]:
    """All mappings with a ``_target_``, outermost first."""
    if isinstance(node, dict):
        inner = [found for value in node.values() for found in targets(value)]
        return [node, *inner] if "_target_" in node else inner
    return [found for value in node for found in targets(value)] if isinstance(node, list) else []


@pytest.mark.parametrize("path", CONFIGS, ids=ids)
def test_config(path: Path) -> None:
    assert "nas " in opening_comment(path), "a config opens with a comment that gives the command that uses it"
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    for node in targets(content):
        assert callable(get_object(node["_target_"]))
    if "_target_" in content and "???" not in path.read_text() and "${" not in path.read_text():
        assert instantiate(content, _convert_="all") is not None


@pytest.mark.parametrize("path", DEVICES, ids=ids)
def test_device(path: Path) -> None:
    comment = opening_comment(path)
    assert "nas " in comment and path.stem in comment, (
        "a device opens with a comment that gives a command with its name"
    )
    profile = load_device(path.stem)
    assert profile == load_device(str(path)) and profile.name == path.stem and profile.title


def test_there_are_configs() -> None:
    assert {path.parent.name for path in CONFIGS} >= {"space"} and DEVICES

"""Whole runs over spaces of a user's own whose networks have several inputs and outputs, or take words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.nas.conftest import QUICK_DEVICE


@pytest.mark.parametrize("kind", ["TwoByTwo", "Texts"])
def test_a_space_by_import_path_goes_through_a_whole_run(
    kind: str, nas_command: Callable[..., Any], tmp_path: Path
) -> None:
    device = tmp_path / "quick.yaml"
    device.write_text(QUICK_DEVICE)
    settings = [
        f"space=tests.search_spaces.graph_spaces.{kind}",
        f"device={device}",
        f"out={tmp_path / 'run'}",
        "profile.networks=8",
        "profile.check_networks=2",
        "profile.accept_disturbed=true",
        "search.objectives=[latency_ms,intensity]",
        "search.evaluations=100",
        "export.weights=random",
        "export.networks=2",
    ]
    outcome = nas_command("run", "--trust", "tests", *settings, own=False)
    assert outcome.code == 0, outcome
    verified = json.loads((tmp_path / "run" / "verify" / "quick.json").read_text())
    assert len(verified["networks"]) >= 1
    assert all(network["measured"]["latency_ms"] > 0 for network in verified["networks"])
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert "logits" in page or verified["device"] in page

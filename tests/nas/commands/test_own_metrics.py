"""Metrics of the user's own from the command line: plain functions, from a setting to the verification."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from search_spaces.base import trust
from search_spaces.base.storage import read_json

CODE = """
def energy(architecture):
    return sum(layer.macs for layer in architecture.space.lower(architecture).values()) / 1e3


def parameters(layer):
    return layer.params


def nothing(architecture):
    return None
"""
ENERGY = "metrics.energy_mj={function: owncode.energy, unit: mJ}"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the module ``owncode``."""
    (tmp_path / "owncode.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(trust, "_modules", set())
    yield tmp_path
    sys.modules.pop("owncode", None)


def test_a_function_from_the_setting_to_the_verification(nas_command: Callable, own: Path) -> None:  # type: ignore[type-arg]
    out, settings = own / "run", ["--trust", "owncode", ENERGY]
    assert "add `--trust owncode`" in nas_command("run", ENERGY, f"out={out}").err and not out.exists()
    size = "metrics.size={function: owncode.parameters, unit: '1', layers: true}"
    refused = nas_command("run", *settings, size, "limit.size=10", f"out={out}")  # its minimum is known at once
    assert refused.code == 2 and "`limit.size`=10 cannot be met" in refused.err and not out.exists()
    wrong = nas_command("run", *settings, "metrics.no={function: owncode.nothing, unit: J}", f"out={out}")
    assert "The function nothing of the metric no must give a finite number" in wrong.err and not out.exists()

    plan = nas_command("run", "--plan", *settings, "limit.energy_mj=40", f"out={out}")
    assert re.search(r"\n  all +energy, mJ( +[\d.]+){3}  ≤ 40, kept by ", plan.out)
    done = nas_command("run", *settings, "limit.energy_mj=40", f"out={out}")
    assert done.code == 0, done.err
    device = next((out / "search").glob("*.json"))
    front = read_json(device)
    assert all(0 < point["values"]["energy_mj"] <= 40 for point in next(iter(front["searchers"].values()))["front"])
    for network in read_json(out / "verify" / device.name)["networks"]:
        assert network["predicted"]["values"]["energy_mj"] == pytest.approx(network["macs"] / 1e3)
        assert network["violations"] == []

    same = nas_command("search", *settings, "limit.energy_mj=40", f"out={out}")
    assert same.code == 0, same.err
    (own / "owncode.py").write_text(CODE.replace("/ 1e3", "/ 2e3"))
    sys.modules.pop("owncode")
    stale = nas_command("run", "--plan", *settings, "limit.energy_mj=40", f"out={out}")
    assert "search   to do" in stale.out and "fit      done" in stale.out

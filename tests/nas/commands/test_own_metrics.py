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


def test_mappings_of_own_keys_are_taken_as_the_help_writes_them(nas_command: Callable, own: Path) -> None:  # type: ignore[type-arg]
    metrics = "metrics={energy_mj: {function: owncode.energy, unit: mJ}}"
    limits, fixed = "limit={energy_mj: 40, params: 1e9}", "search.fixed={resolution: 8}"
    plan = nas_command("run", "--plan", "--trust", "owncode", metrics, limits, fixed, f"out={own / 'run'}")
    assert plan.code == 0 and re.search(r"\n  all +energy, mJ( +[\d.]+){3}  ≤ 40, kept by ", plan.out), plan.err
    wrong = nas_command("run", "limit={latncy_ms: 3}", f"out={own / 'run'}")
    assert wrong.code == 2 and "Did you mean `limit.latency_ms`?" in wrong.err


SEARCHER = """
from dataclasses import dataclass

from nas.core.searcher import no_networks


@dataclass(frozen=True)
class Greedy:
    rate: float = 0.1

    def init(self, problem):
        return no_networks(problem)

    def ask(self, problem, state, n, rng):
        return problem.space.sample(n, rng)

    def tell(self, problem, state, genes, values):
        return state
"""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["searcher=owncode.Greedy"], ""),
        (["searcher=owncode.Greedy", "searcher.rate=0.2"], ""),
        (["searcher=owncode.Greedy", "searcher.rte=0.2"], "owncode.Greedy has no setting 'rte'. Did you mean `rate`?"),
        (["searcher=owncode.Greedy", "searcher.rate=fast"], "`searcher.rate` must be a number, but got 'fast'"),
        (
            ["searcher=nsga2", "searcher.populaton=5"],
            "nsga2.NSGA2 has no setting 'populaton'. Did you mean `population`?",
        ),
        (["searcher.grwth=5"], "auto.Auto has no setting 'grwth'. Did you mean `growth`?"),
        (["searcher=owncode.Gready"], "names owncode.Gready, which does not exist"),
    ],
)
def test_arguments_are_those_of_the_chosen_target(
    nas_command: Callable,  # type: ignore[type-arg]
    own: Path,
    settings: list[str],
    message: str,
) -> None:
    (own / "owncode.py").write_text(SEARCHER)
    plan = nas_command("run", "--plan", "--trust", "owncode", *settings, f"out={own / 'run'}")
    assert plan.code == (2 if message else 0) and message in plan.err, plan.err


@pytest.mark.slow
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

"""The package of ``docs/plugins.md``, written into an empty folder: its contracts, and a whole run with it."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware_profiles import load_device
from hardware_profiles.backend_contract import check_device
from nas.core.searcher_contract import check_searcher
from predictors.predictor_contract import check_predictor
from search_spaces.base import trust
from search_spaces.base.storage import read_arrays, read_json
from search_spaces.layers import Layer
from search_spaces.loading import load_space
from search_spaces.space_contract import check_space

ROOT = Path(__file__).parents[1]


def blocks() -> Iterator[tuple[str, str]]:
    """(file, content) of each block of the page: it is named in a block's first line, or else by the language."""
    page = (ROOT / "docs" / "plugins.md").read_text()
    for language, content in re.findall(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        named = re.match(r"(?:# @package _global_\n)?# (\S+)\n", content)
        yield named[1] if named else f"unnamed.{language}", content


def write_package(folder: Path, name: str = "mine") -> None:
    for file, content in [*blocks(), ("mine/__init__.py", "")]:
        path = folder / re.sub(r"\bmine\b", name, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(re.sub(r"\bmine\b", name, content))


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_page_has_an_example_of_each_kind() -> None:
    files = [file for file, _ in blocks()]
    assert len(files) == len(set(files))
    kinds = ("layers", "operators", "space", "backend", "data", "training", "predictor", "searcher", "metric")
    assert {f"mine/{kind}.py" for kind in kinds} <= set(files)


def test_its_contracts_hold(tmp_path: Path) -> None:
    write_package(tmp_path)
    done = python(tmp_path, "unnamed.python")
    assert done.returncode == 0, done.stderr


def test_a_whole_run_in_two_processes_and_none_without_a_word(tmp_path: Path) -> None:
    write_package(tmp_path)
    _, *command = shlex.split((tmp_path / "unnamed.sh").read_text().replace("\\\n", ""))
    trusted = command.index("--trust")
    refused = python(tmp_path, "-m", "nas", *command[:trusted], *command[trusted + 2 :])
    assert refused.returncode == 2 and "add `--trust mine`" in refused.stderr and "Traceback" not in refused.stderr
    assert not (tmp_path / "run").exists() and not (tmp_path / "mine" / "__pycache__").exists()

    first = python(tmp_path, "-m", "nas", *command)
    assert first.returncode == 0, first.stderr
    run = tmp_path / "run"
    rows = [json.loads(line) for line in (run / "profile" / "formula" / "table.jsonl").read_text().splitlines()]
    assert {row["layer"]["kind"] for row in rows if "layer" in row} >= {"mine.layers.Gated", "Conv"}
    assert str(read_arrays(run / "fit" / "accuracy.npz")["kind"]) == "mine.predictor.Linear"
    front = read_json(run / "search" / "formula" / "mutated.json")["searchers"]["mutated"]["front"]
    assert front and all(0 < point["values"]["energy_mj"] <= 0.5 for point in front)
    assert (run / "report" / "report.html").exists()
    assert len(list((run / "export" / "formula").glob("*/network.onnx"))) == 2
    profile: Any = read_json(run / "stages" / "profile.json")
    assert profile["complete"]

    again = python(tmp_path, "-m", "nas", *command)
    assert again.returncode == 0 and len(re.findall(r"^\w+ +unchanged$", again.stderr + again.stdout, re.M)) == 8


@pytest.fixture
def planted(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of the package with a fault in it, importable from here."""
    file, right, wrong = request.param
    name = f"planted_{file}"
    write_package(tmp_path, name)
    path = tmp_path / name / f"{file}.py"
    content = path.read_text()
    assert right in content
    path.write_text(content.replace(right, wrong))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PLANTED", str(os.getpid()))
    monkeypatch.setattr(trust, "_modules", set())
    monkeypatch.setattr(Layer, "kinds", dict(Layer.kinds))
    trust.trust(name)
    return name


def check(name: str, rng: np.random.Generator) -> None:
    """The contract of the part that has the fault."""
    file = name.removeprefix("planted_")
    space = load_space("conf/space/gates.yaml")
    if file in ("space", "layers"):
        check_space(space, rng, file="conf/space/gates.yaml")
    if file == "backend":
        check_device(load_device("formula.yaml"))
    if file == "predictor":
        predictor = importlib.import_module(f"{name}.predictor").Linear(space)
        genes = space.sample(40, rng)
        predictor.fit(genes, rng.random(40))
        check_predictor(predictor, space, rng)
    if file == "searcher":
        check_searcher(importlib.import_module(f"{name}.searcher").Mutated(), rng)


HERE = "(__import__('os').getpid() == int(__import__('os').environ['PLANTED']))"
"""What a plug-in must not depend on: true in this process alone."""


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        (("space", "settings = {", f"settings = {{'here': {HERE}, "), "The fingerprint of .*gates.yaml is another one"),
        (
            ("layers", "self.channels, self.kernel)", f"self.channels, self.kernel if {HERE} else 1)"),
            "in another process",
        ),
        (("backend", "return Formula(profile)", f"return Formula(profile) if {HERE} else None"), "process of its own"),
        (
            ("predictor", 'arrays["weights"]', f'arrays["weights"] * (1 if {HERE} else 2)'),
            "in another process predicts",
        ),
        (("searcher", "sample(n, rng)", f"sample(n, rng)[::1 if {HERE} else -1]"), "another front in another process"),
    ],
    indirect=["planted"],
    ids=["space", "layers", "backend", "predictor", "searcher"],
)
def test_what_holds_in_one_process_alone_is_caught(planted: str, message: str, rng: np.random.Generator) -> None:
    with pytest.raises(AssertionError, match=message):
        check(planted, rng)

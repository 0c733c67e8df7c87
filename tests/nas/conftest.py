"""Small problems to search in, and a tiny run of the command line."""

import fcntl
import itertools
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware_profiles import availability, load_device
from nas.commands.cli import run_command
from nas.core.problem import Objective, Problem
from nas.data import Data, Part, digits
from nas.tasks import Classification
from predictors import PositionTable
from search_spaces import Genes, MobileNetV3, SearchSpace


@pytest.fixture(scope="session")
def small_space() -> MobileNetV3:
    """2 * (4 + 16)**2 = 800 networks."""
    return MobileNetV3(
        name="small",
        resolutions=[8, 12],
        in_channels=1,
        classes=10,
        stem=8,
        stem_stride=1,
        stages=[
            {"channels": 8, "stride": 2, "squeeze": True, "activation": "relu"},
            {"channels": 16, "stride": 1, "squeeze": False, "activation": "h_swish"},
        ],
        depths=[1, 2],
        kernels=[3, 5],
        expands=[1, 2],
        last_channels=8,
        features=8,
    )


def first_digits(train: int, validation: int, test: int) -> Data:
    """As many of the first digits of each part."""
    whole = digits()
    parts = zip((whole.train, whole.validation, whole.test_part()), (train, validation, test), strict=True)
    few = [Part(part.images[:n], part.labels[:n]) for part, n in parts]
    return Data("few_digits", *few, task=Classification(10), mean=whole.mean, std=whole.std)


@pytest.fixture(scope="session")
def few_digits() -> Data:
    """Digits that networks are trained on in a moment."""
    return first_digits(96, 60, 60)


@pytest.fixture(scope="session")
def everything(small_space: MobileNetV3) -> Genes:
    """All networks of `small_space`."""
    grid = itertools.product(*(range(int(c)) for c in small_space.cardinalities))
    rows = np.unique(small_space.canonical(np.array(list(grid), np.int16)), axis=0)
    assert len(rows) == small_space.size
    return rows


def accuracy_of(space: SearchSpace) -> PositionTable:
    return PositionTable.of_layers(space, "accuracy", "1", lambda layer: np.log1p(layer.params) / 100)


def latency_of(space: SearchSpace) -> PositionTable:
    return PositionTable.of_layers(space, "latency", "ms", lambda layer: 0.01 + 1e-5 * layer.macs)


def memory_of(space: SearchSpace) -> PositionTable:
    return PositionTable.of_layers(space, "memory", "bytes", lambda layer: layer.peak_elements, combine="max")


@pytest.fixture(scope="session")
def small_problem(small_space: MobileNetV3) -> Problem:
    """Accuracy up, latency down, no limit."""
    return Problem(
        small_space, [Objective.of(accuracy_of(small_space), "max"), Objective.of(latency_of(small_space), "min")]
    )


@pytest.fixture(scope="session")
def digits_problem(digits_space: MobileNetV3) -> Problem:
    """Accuracy up, latency down under a limit that half of all networks keep, memory under a limit."""
    return Problem(
        digits_space,
        [
            Objective.of(accuracy_of(digits_space), "max"),
            Objective.of(latency_of(digits_space), "min", 22.0),
            Objective.of(memory_of(digits_space), None, 20_000.0),
        ],
    )


# -- the command line --------------------------------------------------------------------------------------------------

SPACE = """\
_target_: search_spaces.mobilenet_v3.MobileNetV3
name: tiny
resolutions: [8, 12]
in_channels: 1
classes: 10
stem: 8
stem_stride: 1
stages:
  - {channels: 8, stride: 2, squeeze: false, activation: relu}
  - {channels: 16, stride: 2, squeeze: true, activation: relu}
depths: [1, 2]
kernels: [3, 5]
expands: [2, 3]
last_channels: 16
features: 16
"""
TRAINING = """\
_target_: nas.supernet.TrainingSettings
epochs: 2
batch_size: 128
sampler: {_target_: nas.supernet.samplers.Sandwich, random: 1}
evaluate_every: 0
seed: 0
threads: 1
"""
RECIPE = """\
# @package _global_
defaults:
  - override /space: tiny
  - override /training: tiny
  - override /accuracy: gaussian_process
device: {device}
profile: {{networks: 8, check_networks: 2, accept_disturbed: true}}
label: {{subnets: 14, held_out: 3, recalibration_images: 64}}
search: {{evaluations: 200, baseline: true}}
export: {{networks: 3}}
"""
QUICK_DEVICE = """\
title: This computer, one run of each, for tests that do not look at the numbers
backend: onnxruntime
warm_up: 0
runs: 1
sample_ms: 0
passes: 1
max_passes: 1
"""


def has_vela() -> bool:
    return availability(load_device("ethos_u55_128")) is None


@pytest.fixture(scope="session")
def conf_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own configuration: ``recipe=tiny``, on a device that gives the same every time."""
    return made_once(tmp_path_factory, "conf", write_configuration)


def write_configuration(folder: Path) -> None:
    folder.mkdir()
    (folder / "quick.yaml").write_text(QUICK_DEVICE)
    device = "ethos_u55_128" if has_vela() else str(folder / "quick.yaml")
    for name, text in (("space", SPACE), ("training", TRAINING), ("recipe", RECIPE.format(device=device))):
        (folder / name).mkdir()
        (folder / name / "tiny.yaml").write_text(text)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that all processes of pytest-xdist use: the first one makes it, and others wait."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_suffix(".made").open("a+") as made:
        fcntl.flock(made, fcntl.LOCK_EX)
        if not os.fstat(made.fileno()).st_size:
            shutil.rmtree(folder, ignore_errors=True)  # of one that failed
            make(folder)
            made.write("made")
    return folder


@pytest.fixture(scope="session")
def nas_process(conf_dir: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``nas STAGE recipe=tiny out=...`` as a process of its own."""

    def run(
        stage: str,
        out: Path,
        *arguments: str,
        driver: Sequence[str] = ("-m", "nas"),
        cwd: Path | None = None,
        **more: str,
    ) -> Any:
        command = [
            sys.executable,
            *driver,
            stage,
            "--config-dir",
            str(conf_dir),
            "recipe=tiny",
            f"out={out}",
            *arguments,
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)

    return run


@pytest.fixture(scope="session")
def unbroken(nas_process: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; not to be written to."""

    def run(out: Path) -> None:
        done = nas_process("run", out, PYTHONHASHSEED="1")
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "unbroken", run)


@pytest.fixture
def finished(unbroken: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(unbroken, tmp_path / "run"))


@dataclass
class Outcome:
    """What a command gave."""

    code: int
    out: str
    err: str


@pytest.fixture
def nas_command(
    conf_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Outcome]]:
    """Runs ``nas ...`` in this process, and leaves no trace in it."""
    import torch

    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    root, threads = logging.getLogger(), torch.get_num_threads()
    handlers, level = root.handlers[:], root.level
    torch.set_num_threads(1)

    def run(*arguments: str, own: bool = True) -> Outcome:
        capsys.readouterr()
        extra = ["--config-dir", str(conf_dir), "recipe=tiny"] if own else []
        code = run_command([*arguments[:1], *extra, *arguments[1:]])
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    yield run
    torch.set_num_threads(threads)
    root.handlers[:], root.level = handlers, level

"""What is refused before anything is measured or trained, and the plan."""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from nas.data import Data, Part, data_of_run
from nas.pipeline.checks import movement_notes, resolution_notes
from nas.supernet import TrainingSettings
from nas.supernet.augmentation import Affine, Flip, Mixup
from nas.tasks import Classification
from search_spaces.base.storage import read_json, write_arrays, write_text
from search_spaces.loading import load_space

Command = Callable[..., Any]
NPZ = ("data._target_=nas.data.npz",)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with images of other channels and classes, and devices that are none."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 12
    write_arrays(tmp_path / "colour.npz", {"images": rng.random((60, 3, 8, 8)), "labels": labels % 10})
    write_arrays(tmp_path / "twelve.npz", {"images": rng.random((60, 8, 8)), "labels": labels})
    absent = {"title": "a", "backend": "onnxruntime", "options": {"provider": "QNNExecutionProvider"}}
    for name, about in (("absent", absent), ("same", {"title": "a", "backend": "onnxruntime", "name": "host_ort"})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(about))
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([*NPZ, "+data.path=FILES/nowhere.npz"], ["nowhere.npz"]),
        ([*NPZ, "+data.path=FILES/colour.npz"], ["Set `space.in_channels`"]),
        ([*NPZ, "+data.path=FILES/twelve.npz"], ["10 classes", "12", "`space.classes`"]),
        (
            ["device=host_ort", "limit.memory_bytes=100"],
            ["`limit.memory_bytes`=100", "computed peak of activations", "Set"],
        ),
        (["limit.latency_ms={nobody: 3}"], ["`limit.latency_ms` names nobody"]),
        (["limit.macs=10"], ["`limit.macs`=10 cannot be met", "Set `limit."]),
        (["device=[host_ort,ethos_u55_128]", "limit.macs={host_ort: 10}"], ["nas: host_ort: `limit.macs`=10 cannot"]),
        (["limit.params=10"], ["`limit.params`=10 cannot be met", "Set `limit."]),
        (["limit.intensity=3000"], ["`limit.intensity`=3000 cannot be met", "MAC/byte", "or less"]),
        (["limit.accuracy=95"], ["a fraction", "Did you mean 0.95?"]),
        (["searcher=nsga2", "searcher.population=-1"], ["population >= 4"]),
        (["search.objectives=[accuracy,speed]"], ["may name accuracy", "'speed'"]),
        (["device=FILES/absent.yaml"], ["QNNExecutionProvider"]),
        (["device=[host_ort,FILES/same.yaml]"], ["has the name of hwnas's own", "give it another `name`"]),
        (["+metrics.energy={file: FILES/none.npz}"], ["`metrics.energy.file`", "none.npz"]),
        (["+training.device=cuda:77"], ["`training.device=cuda:77` cannot be used here"]),
        (["training.epochs=0"], ["`epochs` must be at least 1"]),
        (["training=subnet_aware", "training.sampler.choice=colour"], ["`choice` must be one of", "'colour'"]),
        (["+accuracy.nope=1"], ["`accuracy.nope`"]),
        (["search.start=FILES/none.json"], ["none.json"]),
        (["search.joint=weighted", "search.weights={nobody: 1}"], ["`search.weights`", "nobody"]),
    ],
)
def test_what_is_wrong_is_found_before_work(
    nas_command: Command, files: Path, tmp_path: Path, settings: list[str], words: list[str]
) -> None:
    out = tmp_path / "run"
    outcome = nas_command("run", *(setting.replace("FILES", str(files)) for setting in settings), f"out={out}")
    assert outcome.code == 2 and outcome.err.count("nas: ") == 1 and "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err, outcome.err
    assert not out.exists()  # so the right command can have the folder


@pytest.mark.parametrize(
    "searcher",
    ["aging_evolution", "auto", "hype", "moead", "nsga2", "nsga3", "ofa_evolution"],
)
def test_no_searcher_takes_a_negative_population(nas_command: Command, tmp_path: Path, searcher: str) -> None:
    setting = f"searcher.{'evolution.' if searcher == 'auto' else ''}population=-1"
    outcome = nas_command("run", f"searcher={searcher}", setting, f"out={tmp_path / 'run'}")
    assert outcome.code == 2 and "population" in outcome.err and "-1" in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("tpu", "`searcher.device` must be cpu or cuda, but got 'tpu'."),
        ("cuda", "`device` of NSGA2 is cuda, but torch sees no GPU here; set it to cpu."),
    ],
)
def test_a_searcher_computes_on_a_device_that_there_is(
    nas_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, message: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    outcome = nas_command("run", "searcher=nsga2", f"searcher.device={device}", f"out={tmp_path / 'run'}")
    assert outcome.code == 2 and message in outcome.err and outcome.err.count("nas: ") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("settings", [["label.workers=2"], ["search.workers=2", "search.accuracy=supernet"]])
def test_workers_that_cannot_be_had_are_refused_before_work(
    nas_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = nas_command("run", *settings, f"out={tmp_path / 'run'}")
    assert outcome.code == 2 and "needs Ray" in outcome.err and not (tmp_path / "run").exists()


def test_a_stage_checks_what_concerns_it(nas_command: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    outcome = nas_command("profile", "training.epochs=0", "search.objectives=[speed]", "--plan", f"out={out}")
    assert outcome.code == 2  # `--plan` is of `nas run`
    outcome = nas_command("train", "search.objectives=[speed]", "training.epochs=0", f"out={out}")
    assert "`epochs` must be at least 1" in outcome.err and not out.exists()


def test_a_latency_limit_below_the_fastest_is_refused_after_profiling(nas_command: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    outcome = nas_command("run", "limit.latency_ms=1e-7", f"out={out}")
    assert outcome.code == 2
    nearest = re.search(r"`limit\.latency_ms`=1e-07 .*cannot be met.*to ([\d.e-]+) or more", outcome.err)
    assert nearest, outcome.err
    assert not (out / "train").exists() and read_json(out / "stages" / "profile.json")["complete"]
    again = nas_command("run", "--plan", "limit.latency_ms=1e-7", f"out={out}")  # the profile is there: at once
    assert again.code == 2 and nearest[1] in again.err
    met = nas_command("run", "--plan", f"limit.latency_ms={float(nearest[1]) * 1.0001}", f"out={out}")
    assert met.code == 0, met.err
    assert re.search(r"^  profile  done$", met.out, re.MULTILINE) and re.search(
        r"^  train    to do", met.out, re.MULTILINE
    )
    assert re.search(
        r" latency, ms .* ≤ [\d.e-]+ \([\d.e-]+ less a margin of 0.05\), kept by \d+% of random networks$",
        met.out,
        re.MULTILINE,
    )


def test_the_plan_says_units_and_limits(nas_command: Command, tmp_path: Path) -> None:
    limits = ("limit.latency_ms={host_ort: 0.5}", "limit.memory_bytes=65536", "limit.params=60000")
    outcome = nas_command("run", "--plan", "device=host_ort", *limits, f"out={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    lines = [line.split() for line in outcome.out.splitlines()]
    assert ["device", "least", "median", "largest", "limit"] in lines
    (peak,) = [line for line in lines if "peak" in line]
    assert peak[4] == "KiB" and peak[8:11] == ["≤", "64,", "kept"]
    (parameters,) = [line for line in lines if "parameters," in line]
    assert parameters[2] == "thousands" and parameters[6:9] == ["≤", "60,", "kept"]
    assert "host_ort  latency ≤ 0.5 ms; whether networks keep it shows after `profile`" in outcome.out
    assert re.search(
        r"\n  profile  to do\n    host_ort: \d+ layers, \d+ whole networks to fit on and \d+ networks, twice, to judge",
        outcome.out,
    )
    assert not (tmp_path / "run").exists()


def test_the_largest_network_of_the_plan_is_large_where_kinds_are_chosen(
    nas_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain convolution, the last kind, has fewer MACs than a fused block"""
    monkeypatch.chdir(tmp_path)
    write_text(
        tmp_path / "conf" / "space" / "kinds.yaml",
        "{_target_: search_spaces.staged.Staged, name: kinds, resolutions: [8], in_channels: 1, classes: 10, "
        "stem: [{kind: Conv, channels: 8, kernel: 3}], stages: [{channels: 8}], head: [{kind: LinearClassifier}], "
        "blocks: [{kind: FusedMBConv, kernel: 3, expand: 2}, {kind: Conv, kernel: 1}]}",
    )
    outcome = nas_command(
        "run", "--plan", "--config-dir", "conf", "space=kinds", "device=host_ort", "out=run", own=False
    )
    (macs,) = [line.split() for line in outcome.out.splitlines() if "MACs, millions" in line]
    stem, fused, plain, head = 9 * 8 * 64, 9 * 8 * 16 * 64 + 16 * 8 * 64, 8 * 8 * 64, 8 * 10
    assert [float(macs[3]), float(macs[5])] == pytest.approx(
        [(stem + plain + head) / 1e6, (stem + fused + head) / 1e6], rel=1e-3
    )


def test_the_plan_says_where_a_limit_of_memory_comes_from(nas_command: Command, tmp_path: Path) -> None:
    outcome = nas_command("run", "--plan", "device=ethos_u55_128", f"out={tmp_path / 'run'}")
    assert outcome.code == 0 and "random networks (the memory that ethos_u55_128 has)" in outcome.out, outcome.err


def test_the_plan_of_a_finished_run(nas_command: Command, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    outcome = nas_command("run", "--plan", f"out={finished}")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count(" done\n") == 8 and " to do" not in outcome.out
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    assert "least" not in nas_command("run", f"out={finished}").out  # no plan where there is nothing to do


def test_a_plan_leaves_nothing(nas_command: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / "photos" / name / f"{number}.png")
    settings = ["device=host_ort", "data=folder", f"data.path={tmp_path / 'photos'}", "data.channels=1"]
    settings += ["space.classes=2", f"out={tmp_path / 'run'}"]
    outcome = nas_command("run", "--plan", *settings)
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "run").exists()
    node = {"_target_": "nas.data.folder", "path": str(tmp_path / "photos"), "channels": 1, "cache": None}
    data_of_run(node, tmp_path / "run")
    (manifest,) = (tmp_path / "run" / "data").iterdir()
    before = manifest.read_bytes(), manifest.stat().st_mtime_ns
    Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / "photos" / "cat" / "10.png")
    assert nas_command("run", "--plan", *settings).code == 0
    assert nas_command("run", "--plan", *settings, f"data.cache={manifest.parent}").code == 0
    assert list(manifest.parent.iterdir()) == [manifest]
    assert (manifest.read_bytes(), manifest.stat().st_mtime_ns) == before
    (tmp_path / "mine.yaml").write_text(f"_target_: nas.data.folder\npath: {tmp_path / 'photos'}\nchannels: 1\n")
    settings = ["device=host_ort", "data=imbalanced", f"data.of={tmp_path / 'mine.yaml'}", "space.classes=2"]
    outcome = nas_command("run", "--plan", *settings, f"out={tmp_path / 'of_it'}")
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "of_it").exists()


# -- images ------------------------------------------------------------------------------------------------------------


def test_images_that_are_enlarged_or_stretched_are_told() -> None:
    def notes(height: int, width: int, *resolutions: int | str) -> list[str]:
        labels = torch.tensor([0, 1])
        one, two, three = (Part(torch.zeros(2, 1, height, width), labels) for _ in range(3))
        data = Data("mine", one, two, three, Classification(2), (0.0,), (1.0,))
        return resolution_notes(load_space("mobilenet_v3_digits", resolutions=resolutions), data)

    assert notes(12, 12, 12, 24) == notes(8, 6, "8x6", "16x12") == notes(16, 20, 16) == []
    (stretched,) = notes(8, 6, 12, "24x18")
    assert "images of 8x6 pixels are stretched to 12x12: a resolution of height x width, such as 8x6" in stretched
    (square,) = notes(8, 8, "8x12")
    assert "images of 8x8 pixels are stretched to 8x12" in square
    (enlarged,) = notes(8, 6, "36x27")
    assert "images of 8x6 pixels are enlarged to 36x27" in enlarged


def test_features_of_sound_are_not_to_be_turned() -> None:
    labels = torch.tensor([0, 1])
    one, two, three = (Part(torch.zeros(2, 1, 8, 8), labels) for _ in range(3))
    data = Data("mine", one, two, three, Classification(2), (0.0,), (1.0,))
    sounds = replace(data, kind="recording", test=three)
    assert movement_notes(data, TrainingSettings()) == []
    for augment in ((), (Affine(rotate=0, scale=0), Mixup())):
        assert movement_notes(sounds, TrainingSettings(augment=augment)) == []
    (note,) = movement_notes(sounds, TrainingSettings(augment=(Affine(), Mixup(), Flip())))
    assert note.startswith(
        "`training.augment.0` (Affine) and `training.augment.2` (Flip) would turn, mirror or stretch"
    )


# -- tiny spaces -------------------------------------------------------------------------------------------------------


def test_a_space_of_two_networks_can_be_run(nas_command: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ends = ["space.depths=[1]", "space.kernels=[3]", "space.expands=[2]"]
    outcome = nas_command("run", *ends, f"out={out}")
    assert outcome.code == 0, outcome.err
    assert "the space has 2 networks: 2 are fitted on and 2 of them judge as well" in outcome.out
    fitted = read_json(out / "fit" / "quality.json")
    assert "none is unseen" in fitted["accuracy"]["predictor"]
    (front,) = (read_json(path) for path in (out / "search").glob("*.json"))
    assert 1 <= len(next(iter(front["searchers"].values()))["front"]) <= 2
    outcome = nas_command("run", *ends, "space.resolutions=[8]", f"out={tmp_path / 'one'}")
    assert outcome.code == 2 and "a single network" in outcome.err and not (tmp_path / "one").exists()

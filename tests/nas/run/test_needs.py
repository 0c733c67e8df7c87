"""What a run needs: stages that its objectives do without are left out, predictors from files are taken as they are."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.run.fronts import Front
from nas.run.records import Verification
from predictors import PositionTable, save
from search_spaces.base.storage import read_json, write_arrays
from search_spaces.loading import load_space

Command = Callable[..., Any]
LEFT_OUT = ("train", "label", "export", "verify", "report")


def published(path: Path) -> None:
    """Writes a network in the form of once-for-all's file, with random weights."""
    torch.manual_seed(0)
    sizes = (128, 400, 400, 400, 1)
    layers = {2 * i: torch.nn.Linear(a, b) for i, (a, b) in enumerate(zip(sizes[:-1], sizes[1:], strict=True))}
    state = {f"{i}.{name}": tensor for i, layer in layers.items() for name, tensor in layer.state_dict().items()}
    write_arrays(path, {name: tensor.numpy() for name, tensor in state.items()})


def test_objectives_without_accuracy_need_no_training(
    nas_command: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "a"
    settings = (f"out={out}", "search.objectives=[latency_ms,macs]")
    planned = nas_command("run", *settings, "--plan")
    done = nas_command("run", *settings)
    assert done.code == 0, done.err
    for outcome in (planned, done):
        assert all(f"{stage:8} not needed" in outcome.out for stage in LEFT_OUT) and "images" not in outcome.out
    assert "Nothing is exported, as no weights are trained" in done.out
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["fit", "profile", "search", "stages"]
    (path,) = (out / "search").glob("*.json")
    assert set(Front.read(path).names) >= {"latency_ms", "macs"} and "accuracy" not in Front.read(path).names
    again = nas_command("run", *settings)
    assert again.out.count("unchanged") == 3
    untrained = nas_command("run", *settings, "export.weights=random")
    assert untrained.code == 0 and untrained.out.count("unchanged") == 3, untrained.err
    verification = Verification.read(out / "verify" / path.name)
    assert not verification.is_trained and verification.test_images == 0
    for network in verification.networks:
        assert network.measured.latency_ms > 0 and network.measured.test_accuracy is None and network.parity is None
        assert (out / network.folder / "network.onnx").stat().st_size > 1000
    assert "not trained" in (out / "report" / "report.html").read_text()
    missing = nas_command("fit", f"out={out}")  # accuracy is an objective now
    assert missing.code == 0 and "accuracy is not fitted. `nas train` and `nas label` make" in caplog.text
    quality = read_json(out / "fit" / "quality.json")
    assert quality["accuracy"] is None and list(quality["latency"]) == [path.stem]
    refused = nas_command("search", f"out={out}")
    assert refused.code == 2 and "fit/accuracy.npz, which is not there" in refused.err


def test_a_supernet_tells_what_the_search_did_not_predict(nas_command: Command, unbroken: Path, tmp_path: Path) -> None:
    taken = (f"profile.from={unbroken}", f"train.from={unbroken}", f"out={tmp_path / 'a'}")
    outcome = nas_command("run", *taken, "search.objectives=[latency_ms,params]")
    assert outcome.code == 0 and "label    not needed" in outcome.out, outcome.err
    (path,) = (tmp_path / "a" / "verify").glob("*.json")
    for network in Verification.read(path).networks:
        assert network.predicted.accuracy is None and network.evaluated_accuracy is not None
        assert network.measured.test_accuracy is not None and network.parity is not None


def test_labels_without_a_profile_are_fitted(
    nas_command: Command, finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = (finished / "fit" / "accuracy.npz").read_bytes()
    (device,) = (path.name for path in (finished / "profile").iterdir())
    shutil.rmtree(finished / "profile")
    outcome = nas_command("fit", f"out={finished}")
    assert outcome.code == 0 and f"{device} has no profile, so its latency is not fitted" in caplog.text, outcome.err
    quality = read_json(finished / "fit" / "quality.json")
    assert quality["latency"] == {} and quality["accuracy"]["trained_on"] == 11
    assert (finished / "fit" / "accuracy.npz").read_bytes() == before
    assert not (finished / "fit" / f"{device}_latency.npz").exists()


def test_saved_predictors_find_the_front_of_the_run_that_fitted_them(
    nas_command: Command, unbroken: Path, tmp_path: Path
) -> None:
    given = ("accuracy=saved", f"accuracy.file={unbroken}/fit/accuracy.npz")
    given += ("latency=saved", f"latency.file={unbroken}/fit/{{device}}_latency.npz")
    outcome = nas_command("run", *given, f"out={tmp_path / 'a'}")
    assert outcome.code == 0, outcome.err
    assert all(f"{stage:8} not needed" in outcome.out for stage in ("profile", *LEFT_OUT))
    (path,) = (unbroken / "search").glob("*.json")
    ours, theirs = (Front.read(folder / "search" / path.name) for folder in (tmp_path / "a", unbroken))
    assert ours.networks == theirs.networks
    for name in ("accuracy", "latency_ms"):
        assert ours.column(name)[1].tolist() == theirs.column(name)[1].tolist()


@pytest.mark.slow
def test_the_published_predictor_searches_without_labels(nas_command: Command, tmp_path: Path) -> None:
    space = load_space("ofa_mobilenet_v3")
    published(tmp_path / "accuracy.npz")
    latency = PositionTable.of_layers(space, "latency", "ms", lambda layer: 1e-6 * layer.macs)
    save(latency, space, tmp_path / "note10.npz")
    given = ["space=ofa_mobilenet_v3", "device=note10", "search.evaluations=100", "search.baseline=false"]
    given += ["accuracy=published", f"accuracy.file={tmp_path / 'accuracy.npz'}"]
    given += ["latency=saved", f"latency.file={tmp_path}/{{device}}.npz", f"out={tmp_path / 'run'}"]
    outcome = nas_command("run", *given, own=False)
    assert outcome.code == 0, outcome.err
    front = Front.read(tmp_path / "run" / "search" / "note10.json")
    assert len(front) > 1 and front.space == "ofa_mobilenet_v3"
    before = (tmp_path / "run" / "stages" / "fit.json").read_text()
    save(PositionTable.of_layers(space, "latency", "ms", lambda layer: 1.0), space, tmp_path / "note10.npz")
    assert nas_command("run", *given, own=False).out.count("unchanged") == 0  # the file has changed
    assert (tmp_path / "run" / "stages" / "fit.json").read_text() != before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["accuracy=published"], "`accuracy.file` has no value and needs one: add accuracy.file=... to the command."),
        (["accuracy=published", "accuracy.file={here}"], "is of space 'ofa_mobilenet_v3', but this run's space is"),
        (["accuracy=saved", "accuracy.file=nowhere.npz"], "`accuracy.file` must be the npz of a fitted predictor, but"),
        (
            ["latency=saved", "latency.file=no/{{device}}.npz"],
            "`latency.file` must be the npz of a fitted predictor, but",
        ),
    ],
)
def test_files_that_do_not_do_are_refused(
    nas_command: Command, tmp_path: Path, settings: list[str], message: str
) -> None:
    published(tmp_path / "accuracy.npz")
    given = [setting.format(here=tmp_path / "accuracy.npz") for setting in settings]
    outcome = nas_command("run", *given, f"out={tmp_path / 'a'}")
    assert outcome.code == 2 and message in outcome.err and not (tmp_path / "a" / "fit").exists(), outcome.err

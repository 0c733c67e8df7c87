"""Measurements and a supernet taken from another run's folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import nas
from nas.data import Data
from nas.run.reuse import start_of
from nas.supernet import Supernet
from search_spaces import MobileNetV3, SearchSpace
from search_spaces.base.building import build
from search_spaces.base.errors import MismatchError
from search_spaces.base.storage import read_json, write_json

Command = Callable[..., Any]


@pytest.mark.slow
def test_a_sweep_profiles_and_trains_nothing(nas_command: Command, unbroken: Path, tmp_path: Path) -> None:
    reused = (f"profile.from={unbroken}", f"train.from={unbroken}", "search.baseline=false")
    out = tmp_path / "seeds"
    outcome = nas_command("run", *reused, "-m", "seed=0,1", f"out={out}")
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["seed=0", "seed=1"]
    for folder in (out / "seed=0", out / "seed=1"):
        for pattern in ("profile/*/table.jsonl", "profile/*/networks.jsonl", "train/supernet.pt", "train/history.json"):
            (source,) = unbroken.glob(pattern)
            assert (folder / source.relative_to(unbroken)).read_bytes() == source.read_bytes()
        assert read_json(folder / "train" / "imported.json")["file"] == str(unbroken / "train" / "supernet.pt")
    again = nas_command("run", *reused, "-m", "seed=0,1", f"out={out}")
    assert again.out.count("unchanged") == 16


def test_the_plan_says_what_is_taken_from_where(nas_command: Command, unbroken: Path, tmp_path: Path) -> None:
    taken = (f"profile.from={unbroken}", f"train.from={unbroken}")
    outcome = nas_command("run", "--plan", f"out={tmp_path / 'run'}", *taken)
    assert outcome.code == 0, outcome.err
    assert f"  profile  to do       from {unbroken}\n" in outcome.out
    assert f"  train    to do       from {unbroken}\n" in outcome.out


def test_other_training_settings_do_not_matter(nas_command: Command, unbroken: Path, tmp_path: Path) -> None:
    outcome = nas_command("train", f"train.from={unbroken}", "training.epochs=3", f"out={tmp_path / 'a'}")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "a" / "train" / "supernet.pt").read_bytes() == (unbroken / "train" / "supernet.pt").read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("profile.from={there}", "device=host_tvm"),
            "profile/host_tvm/networks.jsonl is not there. Run",
        ),
        (("train.from={there}", "space.stem=12"), "is a run of space 'tiny'"),
        (("train.from={there}", "data.seed=1"), "was trained on other images"),
        (("train.from={nowhere}",), "must name the folder of a run"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(
    nas_command: Command, unbroken: Path, tmp_path: Path, settings: tuple[str, ...], message: str
) -> None:
    out = tmp_path / "a"
    given = [setting.format(there=unbroken, nowhere=tmp_path) for setting in settings]
    outcome = nas_command("run", *given, f"out={out}")
    assert outcome.code == 2 and message in outcome.err and not out.exists(), outcome.err


def test_a_device_that_was_changed_is_refused(nas_command: Command, finished: Path, tmp_path: Path) -> None:
    (table,) = finished.glob("profile/*/table.jsonl")
    table.write_text(table.read_text().replace('"warm_up": 0', '"warm_up": 1', 1))
    outcome = nas_command("run", f"profile.from={finished}", f"out={tmp_path / 'a'}")
    assert outcome.code == 2 and "was measured there with other settings of the device" in outcome.err


def test_own_results_are_not_replaced(nas_command: Command, finished: Path, unbroken: Path) -> None:
    write_json(finished / "stages" / "train.json", {})
    outcome = nas_command("train", f"train.from={unbroken}", f"out={finished}")
    assert outcome.code == 2 and "was trained here and is not overwritten" in outcome.err


@pytest.mark.slow
def test_results_of_another_run_than_before_are_refused(
    nas_command: Command, unbroken: Path, finished: Path, tmp_path: Path
) -> None:
    out = f"out={tmp_path / 'a'}"
    outcome = nas_command("run", out, f"profile.from={unbroken}", f"train.from={unbroken}")
    assert outcome.code == 0, outcome.err
    copy = nas_command("run", out, f"profile.from={finished}", f"train.from={finished}")
    assert copy.code == 0 and copy.out.count("unchanged") == 8, copy.err
    (table,) = finished.glob("profile/*/table.jsonl")
    for changed, setting in ((table, "profile"), (finished / "train" / "supernet.pt", "train")):
        changed.write_bytes(changed.read_bytes() + b"\n")
        refused = nas_command("run", out, f"{setting}.from={finished}")
        message = f"{changed.relative_to(finished)} was taken from {unbroken} and is not overwritten"
        assert refused.code == 2 and message in refused.err, refused.err
    own = nas_command("run", f"out={unbroken}", f"profile.from={unbroken}", f"train.from={unbroken}", "--plan")
    assert own.code == 0, own.err
    for setting, origin in (("profile", "measured here"), ("train", "trained here")):
        refused = nas_command("run", f"out={unbroken}", f"{setting}.from={finished}")
        assert refused.code == 2 and f"was {origin} and is not overwritten" in refused.err, refused.err


def test_folders_of_a_sweep_are_named_by_what_differs(nas_command: Command, tmp_path: Path) -> None:
    outcome = nas_command("run", "-m", f"name={'a' * 190},b", "seed=0,1", f"out={tmp_path / 'a'}")
    assert outcome.code == 2 and "at most 200 bytes" in outcome.err


# -- weights to begin with -------------------------------------------------------------------------------------------


def test_a_training_begins_with_the_weights_of_another(
    small_space: MobileNetV3, few_digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: dict[str, Any] = {"batch_size": 32, "evaluate_every": 0}
    said: list[str] = []
    monkeypatch.setattr("nas.run.api.say", said.append)
    first = nas.train(small_space, few_digits, out=tmp_path / "first", epochs=1, **words)
    same = nas.train(small_space, few_digits, out=tmp_path / "same", epochs=0, start=tmp_path / "first", **words)
    of_file = tmp_path / "first" / "train" / "supernet.pt"
    again = nas.train(small_space, few_digits, out=tmp_path / "again", epochs=0, start=of_file, **words)
    assert same.digest == again.digest == first.digest
    further = nas.train(small_space, few_digits, out=tmp_path / "further", epochs=1, start=first, **words)
    assert further.digest != first.digest
    assert f"begins with {len(first.state_dict())} tensors of {of_file}" in said[1]
    with pytest.raises(nas.NasError, match="`epochs` must be at least 1"):
        nas.train(small_space, few_digits, out=tmp_path / "none", epochs=0, **words)
    with pytest.raises(nas.NasError, match=r"other settings \(start\)"):
        nas.train(small_space, few_digits, out=tmp_path / "further", epochs=1, **words)


def test_a_head_of_other_classes_is_made_anew(
    small_space: MobileNetV3, tmp_path: Path, few_digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("nas.run.api.say", said.append)
    wider = build("space", {**small_space.definition, "classes": 12}, SearchSpace)
    source = Supernet(small_space, seed=3)
    found = nas.train(wider, few_digits, out=tmp_path, epochs=0, start=source, seed=5).state_dict()
    fresh, head = Supernet(wider, seed=5).state_dict(), "positions.classifier.body.classify."
    for name, value in source.state_dict().items():
        assert torch.equal(found[name], fresh[name] if name.startswith(head) else value)
    assert f"differs: {head}weight, {head}bias" in said[0]


@pytest.mark.parametrize("change", [{"features": 16}, {"stem": 16}, {"kernels": [3]}, {"depths": [1, 2, 3]}])
def test_anything_else_must_fit(change: dict[str, Any], small_space: MobileNetV3) -> None:
    other = build("space", {**small_space.definition, **change}, SearchSpace)
    with pytest.raises(MismatchError, match="other `classes`"):
        start_of(other, Supernet(small_space))


def test_the_command_begins_with_them_and_says_so(
    nas_command: Command, finished: Path, tmp_path: Path, conf_dir: Path
) -> None:
    out, source = tmp_path / "second", finished / "train" / "supernet.pt"
    outcome = nas_command("train", f"train.start={finished}", "training.epochs=0", f"out={out}")
    assert outcome.code == 0, outcome.err
    assert f"tensors of {source}\n" in outcome.out
    assert (out / "train" / "supernet.pt").read_bytes() == source.read_bytes()
    outcome = nas_command("train", f"train.start={finished}", f"train.from={finished}", f"out={out}")
    assert outcome.code == 2 and "give one of them" in outcome.err
    outcome = nas_command("train", f"train.start={tmp_path / 'nowhere'}", f"out={tmp_path / 'third'}")
    assert outcome.code == 2 and not (tmp_path / "third").exists()

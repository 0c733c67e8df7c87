"""A whole run on a tiny space, and runs that are killed on the way and end the same."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from sklearn.datasets import load_digits

from hardware_profiles import availability, load_device
from nas.data import digits, resize
from nas.pipeline import stages as pipeline_stages
from search_spaces.base.folders import locked_folder
from search_spaces.base.storage import read_json, write_arrays

Command = Callable[..., Any]
Process = Callable[..., subprocess.CompletedProcess[str]]

STAGES = [name for name, stage in pipeline_stages.STAGES.items() if not stage.asked]
"""Stages that `nas run` runs by itself."""


def device_of(folder: Path) -> str:
    (path,) = (folder / "profile").iterdir()
    return path.name


def without_times(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: without_times(value) for key, value in data.items() if key not in ("seconds", "created")}
    return [without_times(value) for value in data] if isinstance(data, list) else data


def rows(path: Path) -> list[str]:
    """Records of a log, sorted: the order in which layers are measured may differ."""
    lines = path.read_text().splitlines()
    return sorted(line for line in lines if "conditions" not in line)


def content(folder: Path) -> dict[str, Any]:
    """All that a run found out."""
    device = device_of(folder)
    found: dict[str, Any] = {
        name: without_times(read_json(folder / name))
        for name in (f"search/{device}.json", "fit/quality.json", f"export/{device}/networks.json")
    }
    found["verify"] = without_times(read_json(folder / "verify" / f"{device}.json"))
    found["table"] = rows(folder / "profile" / device / "table.jsonl")
    found["networks"] = rows(folder / "profile" / device / "networks.jsonl")
    found["pairs"] = (folder / "label" / "accuracy.jsonl").read_text().splitlines()
    found["losses"] = [epoch["loss"] for epoch in read_json(folder / "train" / "history.json")]
    for path in sorted([*folder.glob("fit/*.npz"), *folder.glob("export/*/*/*")]):
        found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def expect_equal(folder: Path, other: Path) -> None:
    first, second = content(folder), content(other)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name] == second[name], name


@pytest.fixture
def same_every_time(unbroken: Path) -> None:
    if device_of(unbroken) != "ethos_u55_128":
        pytest.skip("needs a device whose latencies are the same every time: pip install hwnas[ethos-u]")


# -- a whole run -------------------------------------------------------------------------------------------------------


def test_a_run_leaves_all_that_it_promises(unbroken: Path) -> None:
    device = device_of(unbroken)
    page = (unbroken / "report" / "report.html").read_text()
    assert page.rstrip().endswith("</html>") and device in page
    assert {path.stem for path in (unbroken / "stages").iterdir()} == set(STAGES)
    assert not list(unbroken.rglob("*.tmp")) and not list(unbroken.rglob("*.partial"))

    front = read_json(unbroken / "search" / f"{device}.json")["searchers"]["auto"]["front"]
    latencies, accuracies = ([point[key] for point in front] for key in ("latency_ms", "accuracy"))
    assert latencies == sorted(latencies) and accuracies == sorted(accuracies)

    exported = read_json(unbroken / "export" / device / "networks.json")["networks"]
    assert 1 <= len(exported) <= 3
    for entry in exported:
        folder = unbroken / "export" / device / entry["folder"]
        onnx.checker.check_model(onnx.load(folder / "network.onnx"))
        ort.InferenceSession(str(folder / "network.onnx"), providers=["CPUExecutionProvider"])
        assert set(entry["parity"]) == {"extracted", "onnx"} and max(entry["parity"].values()) < 1e-4
        assert read_json(folder / "architecture.json") in [point["architecture"] for point in front]
    verified = read_json(unbroken / "verify" / f"{device}.json")["networks"]
    assert [network["exported_as"] for network in verified] == [entry["label"] for entry in exported]


def test_a_systolic_array_goes_through_a_run(nas_command: Command, tmp_path: Path) -> None:
    """SCALE-Sim's cycles add up over layers, so that what is predicted is what the whole network takes."""
    device = load_device("systolic_eyeriss")
    if (reason := availability(device)) is not None:
        pytest.skip(reason)
    outcome = nas_command("run", f"out={tmp_path}", f"device={device.name}")
    assert outcome.code == 0, outcome.err
    assert {path.stem for path in (tmp_path / "stages").iterdir()} == set(STAGES)

    judged = read_json(tmp_path / "fit" / "quality.json")["latency"][device.name]
    assert judged["metrics"]["mape"] == pytest.approx(0, abs=1e-6)
    front = read_json(tmp_path / "search" / f"{device.name}.json")["searchers"]["auto"]["front"]
    assert len(front) > 1 and all(point["latency_ms"] > 0 for point in front)
    verified = read_json(tmp_path / "verify" / f"{device.name}.json")
    assert (verified["estimates"], verified["drift"]) == (True, 1.0)
    for network in verified["networks"]:
        assert network["predicted"]["latency_ms"] == pytest.approx(network["measured"]["latency_ms"], rel=1e-6)
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.rstrip().endswith("</html>") and device.title in page


def test_the_same_command_again_skips_everything(nas_command: Command, finished: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in finished.rglob("*") if path.is_file()}
    assert nas_command("run", f"out={finished}").code == 0
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in finished.rglob("*") if path.is_file()}
    assert before == after


def ran(folder: Path, command: Callable[[], Any]) -> list[str]:
    """The stages that a command did not skip."""
    before = {name: (folder / "stages" / f"{name}.json").stat().st_mtime_ns for name in STAGES}
    outcome = command()
    assert outcome.code == 0, outcome.err
    return [name for name in STAGES if (folder / "stages" / f"{name}.json").stat().st_mtime_ns != before[name]]


@pytest.mark.parametrize(
    ("setting", "first"),
    [
        ("export.networks=2", "export"),
        ("search.evaluations=190", "search"),
        pytest.param("limit.latency_share=0.9", "search", marks=pytest.mark.slow),
    ],
)
def test_a_changed_setting_runs_only_what_depends_on_it(
    nas_command: Command, finished: Path, setting: str, first: str
) -> None:
    names = list(STAGES)
    stages = ran(finished, lambda: nas_command("run", f"out={finished}", setting))
    assert stages[0] == first and set(stages) <= set(names[names.index(first) :])


@pytest.mark.slow
def test_threads_hash_seed_and_folder_change_nothing(
    nas_process: Process, unbroken: Path, same_every_time: None, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "a folder"
    elsewhere.mkdir()
    done = nas_process("run", Path("run"), cwd=elsewhere, OMP_NUM_THREADS="2", PYTHONHASHSEED="2")
    assert done.returncode == 0, done.stderr
    expect_equal(elsewhere / "run", unbroken)


# -- the exported networks, trained alone ------------------------------------------------------------------------------


def test_networks_trained_alone_are_exported_verified_and_reported(nas_command: Command, finished: Path) -> None:
    device, epochs = device_of(finished), ("finetune.epochs=0", "train_alone.epochs=1")
    told: dict[str, str] = {}

    def alone(stage: str) -> Any:
        outcome = nas_command(stage, f"out={finished}", *epochs)
        told[stage] = outcome.out
        return outcome

    assert ran(finished, lambda: alone("finetune")) == []
    assert ran(finished, lambda: alone("train-alone")) == []
    exported = read_json(finished / "export" / device / "networks.json")["networks"]
    for stage in ("finetune", "train-alone"):
        trained = read_json(finished / stage / device / "networks.json")["networks"]
        assert [one["folder"] for one in trained] == [one["folder"] for one in exported]
        for one in trained:
            here, there = finished / stage / device / one["folder"], finished / "export" / device / one["folder"]
            assert {path.name for path in here.iterdir()} == {path.name for path in there.iterdir()}
            assert (here / "architecture.json").read_bytes() == (there / "architecture.json").read_bytes()
            assert max(one["parity"].values()) < 1e-4
            assert (one["inherited_accuracy"] is None) == (stage == "train-alone")
            before = "" if stage == "train-alone" else f"{100 * one['inherited_accuracy']:.1f} % -> "
            line = (
                f"{device} {one['folder']}: accuracy {before}{100 * one['validation_accuracy']:.1f} %, training memory"
            )
            assert line in told[stage]
            if stage == "finetune":  # of no epoch
                assert one["validation_accuracy"] == one["inherited_accuracy"]
                assert (here / "network.onnx").read_bytes() == (there / "network.onnx").read_bytes()
    assert ran(finished, lambda: nas_command("run", f"out={finished}", *epochs)) == ["verify", "report"]
    for network in read_json(finished / "verify" / f"{device}.json")["networks"]:
        measured, tuned = network["measured"], network["retrained"]["finetune"]
        assert (tuned["validation"], tuned["test"]) == (measured["validation_accuracy"], measured["test_accuracy"])
        assert tuned["training_bytes"] > 4 * 4 * network["params"]  # weights, gradients, two states of the optimiser
        assert set(network["retrained"]) == {"finetune", "train-alone"}
    page = (finished / "report" / "report.html").read_text()
    assert "in points:\nfine-tuned +0.0, " in page and "trained from nothing" in page
    assert nas_command("run", f"out={finished}", *epochs).out.count("unchanged") == len(pipeline_stages.STAGES)


# -- damage after the fact ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [3, 200])
@pytest.mark.parametrize("pattern", ["profile/*/table.jsonl", "profile/*/networks.jsonl", "label/accuracy.jsonl"])
def test_a_log_with_a_damaged_tail_is_healed(
    nas_command: Command,
    finished: Path,
    unbroken: Path,
    same_every_time: None,
    pattern: str,
    cut: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (path,) = finished.glob(pattern)
    path.write_bytes(path.read_bytes()[:-cut])
    stages = ran(finished, lambda: nas_command("run", f"out={finished}"))
    maker = path.relative_to(finished).parts[0]
    assert stages[0] == maker and re.search(rf"{path.name} line \d+ is damaged and was skipped", caplog.text)
    whole = (unbroken / path.relative_to(finished)).read_text()
    mended = [line for line in path.read_text().splitlines() if _is_json(line)]
    assert sorted(mended) == sorted(whole.splitlines())
    device = device_of(finished)
    for name in (f"search/{device}.json", "fit/quality.json"):
        assert without_times(read_json(finished / name)) == without_times(read_json(unbroken / name))


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def made_files(folder: Path) -> list[str]:
    """All that stages have made, by their own manifests."""
    return [file for path in sorted(folder.glob("stages/*.json")) for file in read_json(path)["made"]]


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [Path.unlink, halve], ids=["lost", "halved"])
def test_results_that_are_lost_or_damaged_are_made_again(
    nas_command: Command, finished: Path, unbroken: Path, same_every_time: None, damage: Callable[[Path], Any]
) -> None:
    logs = {f"{name}.jsonl" for name in ("table", "networks", "accuracy")}
    files = [file for file in made_files(finished) if Path(file).name not in logs]
    assert {Path(file).parts[0] for file in files} == {"train", "fit", "search", "export", "verify", "report"}
    for file in files:
        damage(finished / file)
    assert nas_command("run", f"out={finished}").code == 0
    expect_equal(finished, unbroken)
    assert set(made_files(finished)) == set(made_files(unbroken))


def test_a_lost_description_of_the_run_is_made_again(nas_command: Command, finished: Path, unbroken: Path) -> None:
    (finished / "run.json").unlink()
    assert nas_command("run", f"out={finished}").out.count("unchanged") == len(STAGES)
    assert read_json(finished / "run.json")["fingerprint"] == read_json(unbroken / "run.json")["fingerprint"]


@pytest.mark.parametrize("name", ["table.jsonl", "networks.jsonl"])
def test_a_lost_log_of_measurements_is_made_again(
    nas_command: Command, finished: Path, unbroken: Path, same_every_time: None, name: str
) -> None:
    (path,) = finished.glob(f"profile/*/{name}")
    path.unlink()
    assert nas_command("run", f"out={finished}").code == 0
    device = device_of(finished)
    assert rows(path) == rows(unbroken / "profile" / device / name)
    for file in (f"search/{device}.json", "fit/quality.json"):
        assert without_times(read_json(finished / file)) == without_times(read_json(unbroken / file))


def test_labels_of_other_settings_are_kept(nas_command: Command, finished: Path) -> None:
    path = finished / "label" / "accuracy.jsonl"
    before = path.read_bytes()
    assert nas_command("label", f"out={finished}", "label.recalibration_images=50").code == 0
    assert path.read_bytes() != before
    assert nas_command("label", f"out={finished}").code == 0
    assert path.read_bytes() == before


def test_a_folder_in_use_is_refused(nas_command: Command, finished: Path) -> None:
    with locked_folder(finished, "nas run out=there"):
        outcome = nas_command("search", f"out={finished}")
    assert outcome.code == 2 and "is in use by process" in outcome.err and "`nas run out=there`" in outcome.err


def test_a_device_that_is_no_longer_asked_for_does_not_break_the_report(nas_command: Command, finished: Path) -> None:
    device = device_of(finished)
    for name in (f"search/{device}.json", "search/older.json"):
        (finished / "search" / "older.json").write_bytes((finished / name).read_bytes())
    assert nas_command("report", f"out={finished}").code == 0
    assert "older" not in (finished / "report" / "report.html").read_text()


def test_memory_of_a_device_as_it_was_is_not_used(nas_command: Command, finished: Path) -> None:
    device = device_of(finished)
    path, memory = finished / "profile" / device / "table.jsonl", finished / "fit" / f"{device}_memory.npz"
    memory.write_bytes((finished / "fit" / "accuracy.npz").read_bytes())
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if "memory_bytes" not in row))
    outcome = nas_command("fit", f"out={finished}")
    assert outcome.code == 0, outcome.err
    assert not memory.exists() and read_json(finished / "fit" / "quality.json")["memory"] == {}


def test_files_of_the_user_among_the_exports_survive_a_kill(nas_command: Command, finished: Path) -> None:
    folder = finished / "export" / device_of(finished)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.copytree(folder, partial)  # as a kill leaves it between the last two steps: a whole export
    (partial / "mine").mkdir()
    (partial / "mine" / "notes.txt").write_text("mine")
    shutil.rmtree(folder)
    outcome = nas_command("export", f"out={finished}")
    assert outcome.code == 0, outcome.err
    assert (folder / "mine" / "notes.txt").read_text() == "mine" and not partial.exists()
    assert (folder / "networks.json").exists()


# -- other data --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_supernet_is_not_used_with_other_images(
    nas_command: Command, finished: Path, tmp_path: Path, unbroken: Path
) -> None:
    images = digits()
    parts = {"train": images.train, "validation": images.validation, "test": images.test_part()}
    arrays = {
        "images": np.concatenate([part.images.numpy() for part in parts.values()]),
        "labels": np.concatenate([part.labels.numpy() for part in parts.values()]),
        "split": np.concatenate([[name] * len(part) for name, part in parts.items()]),
    }
    write_arrays(tmp_path / "a.npz", arrays)
    data = ("data._target_=nas.data.npz", f"+data.path={tmp_path / 'a.npz'}")
    for stage in ("label", "export", "verify", "train", "label", "run", "export"):  # a refused training changes nothing
        outcome = nas_command(stage, f"out={finished}", *data)
        assert outcome.code == 2, (stage, outcome.err)
        assert "trained on other images" in outcome.err or "other settings (data)" in outcome.err

    out = tmp_path / "own"
    assert nas_command("run", f"out={out}", *data).code == 0
    arrays["labels"][-100:] = (arrays["labels"][-100:] + 1) % 10  # in the test part, with the same path
    write_arrays(tmp_path / "a.npz", arrays)
    assert ran(out, lambda: nas_command("run", f"out={out}", *data)) == ["verify", "report"]
    arrays["labels"][0] = (arrays["labels"][0] + 1) % 10
    write_arrays(tmp_path / "a.npz", arrays)
    assert "other settings (data)" in nas_command("run", f"out={out}", *data).err


STAGED = """\
_target_: search_spaces.staged.Staged
name: tall
resolutions: [8x6, 12x9]
in_channels: 1
classes: 10
blocks: [{kind: MBConv, kernel: [3, 5], expand: [2, 3]}]
depths: [1, 2]
stem: [{kind: Conv, channels: 8, kernel: 3}]
stages: [{channels: 8, stride: 2}, {channels: 16, stride: 2}]
head: [{kind: Conv, channels: 16, kernel: 1}, {kind: LinearClassifier}]
"""


@pytest.mark.slow
@pytest.mark.parametrize("space", ["tiny", "tall"])
def test_a_whole_run_on_images_that_are_not_square(
    nas_command: Command, conf_dir: Path, tmp_path: Path, space: str
) -> None:
    bunch = load_digits()
    pixels = np.round(bunch.images[:, :, 1:7] * (255 / 16)).astype(np.uint8)  # (N, 8, 6)
    write_arrays(tmp_path / "tall.npz", {"images": pixels, "labels": bunch.target})
    conf = Path(shutil.copytree(conf_dir, tmp_path / "conf"))
    (conf / "space" / "tall.yaml").write_text(STAGED)
    ethos = ["ethos_u55_128"] * (availability(load_device("ethos_u55_128")) is None)
    out = tmp_path / "run"
    outcome = nas_command(
        "run",
        *("--config-dir", str(conf), "recipe=tiny", f"space={space}", "space.resolutions=[8x6,12x9]", f"out={out}"),
        *("data._target_=nas.data.npz", f"+data.path={tmp_path / 'tall.npz'}"),
        f"device=[{','.join([*ethos, str(conf_dir / 'quick.yaml')])}]",
        *("limit.latency_share=1", "training.epochs=1", "export.networks=1", "search.baseline=false"),
        own=False,
    )
    assert outcome.code == 0, outcome.err
    raw = torch.from_numpy(pixels[:64, None] / np.float32(255))
    folders = sorted((out / "export").glob("*/*/"))
    assert len({folder.parent for folder in folders}) == len(ethos) + 1
    for entry in (entry for path in (out / "export").glob("*/networks.json") for entry in read_json(path)["networks"]):
        assert max(entry["parity"].values()) < 1e-4
    for folder in folders:
        how = read_json(folder / "preprocessing.json")
        assert (how["divide_by"], how["height"] * 3) == (255, how["width"] * 4)
        images = resize((raw - how["mean"][0]) / how["std"][0], (how["height"], how["width"])).numpy()
        session = ort.InferenceSession(str(folder / "network.onnx"), providers=["CPUExecutionProvider"])
        assert session.get_inputs()[0].shape[1:] == [1, how["height"], how["width"]]
        scores = np.concatenate([session.run(None, {how["input"]["name"]: image[None]})[0] for image in images])
        assert scores.shape == (64, 10) and np.isfinite(scores).all()
    verified = [read_json(path)["networks"] for path in (out / "verify").glob("*.json")]
    assert len(verified) == len(ethos) + 1 and all(verified)


# -- kills -------------------------------------------------------------------------------------------------------------

DRIVER = """
import json, os, signal, sys
from pathlib import Path

import torch._dynamo  # as making an optimiser does
from nas.commands import command_line
from nas.commands.cli import main
from nas.pipeline import running
from search_spaces.base import storage

replace, write = os.replace, storage.RecordLog._write

def run_until(name, count):
    left = [count]

    def reached(path):
        left[0] -= Path(path).name == name
        return left[0] == 0 and Path(path).name == name

    def replace_or_die(source, target):
        if reached(target):
            os.kill(os.getpid(), signal.SIGKILL)  # the temporary file is written, the real one not
        replace(source, target)

    def write_or_die(log, line, durable=True):
        if line and reached(log.path):
            write(log, line[: len(line) // 2])  # half a line is on the disk
            os.kill(os.getpid(), signal.SIGKILL)
        write(log, line, durable)

    os.replace, storage.RecordLog._write = replace_or_die, write_or_die
    main()

kills = json.loads(sys.argv[1])
sys.argv = ["nas", *sys.argv[2:]]
for name, count in kills:  # each in a process of its own, but all that is imported is imported once
    pid = os.fork()
    if pid == 0:
        run_until(name, count)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == -signal.SIGKILL, f"{code} instead of a kill at {name} {count}"
main()
"""


KILLS = [
    ("networks.jsonl", 6),
    ("checkpoint.pt", 2),
    ("network.onnx", 2),
]
MORE_KILLS = [
    ("run.json", 1),
    ("profile.json", 1),
    ("networks.jsonl", 1),
    ("table.jsonl", 1),
    ("table.jsonl", 9),
    ("networks.jsonl", 4),
    ("profile.json", 2),
    ("checkpoint.pt", 1),
    ("supernet.pt", 1),
    ("history.json", 1),
    ("accuracy.jsonl", 1),
    ("accuracy.jsonl", 5),
    ("accuracy.npz", 1),
    ("ethos_u55_128_latency.npz", 1),
    ("quality.json", 1),
    ("auto.npz", 1),
    ("random.npz", 1),
    ("ethos_u55_128.json", 1),
    ("network.tflite", 1),
    ("networks.json", 1),
    ("export.json", 3),
    ("ethos_u55_128.json", 1),
    ("report.html", 1),
    ("report.json", 3),
]


def expect_the_same_end(done: "subprocess.CompletedProcess[str]", out: Path, unbroken: Path) -> None:
    assert done.returncode == 0, done.stderr
    assert (out / "report" / "report.html").stat().st_size > 0.9 * (unbroken / "report" / "report.html").stat().st_size
    # What was cut by a kill stays in its log as one damaged line.
    for path in (out / "label" / "accuracy.jsonl", *out.glob("profile/*/*.jsonl")):
        path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines() if _is_json(line)))
    expect_equal(out, unbroken)


def test_a_run_killed_at_every_stage_ends_the_same(
    nas_process: Process, unbroken: Path, same_every_time: None, tmp_path: Path
) -> None:
    done = nas_process("run", tmp_path / "run", driver=["-c", DRIVER, json.dumps(KILLS)])
    expect_the_same_end(done, tmp_path / "run", unbroken)


@pytest.mark.slow
def test_a_run_killed_at_many_more_moments_ends_the_same(
    nas_process: Process, unbroken: Path, same_every_time: None, tmp_path: Path
) -> None:
    done = nas_process("run", tmp_path / "run", driver=["-c", DRIVER, json.dumps(MORE_KILLS)])
    expect_the_same_end(done, tmp_path / "run", unbroken)


def is_over(process: "subprocess.Popen[Any]", file: Path) -> bool:
    return process.poll() is not None or file.exists()


@pytest.mark.slow
def test_a_run_killed_from_outside_whenever_a_file_appears_ends_the_same(
    nas_process: Process,
    conf_dir: Path,
    unbroken: Path,
    same_every_time: None,
    tmp_path: Path,
    start_process: "Callable[..., subprocess.Popen[Any]]",
    wait_until: Callable[[Callable[[], object]], None],
) -> None:
    out, device = tmp_path / "run", device_of(unbroken)
    command = [sys.executable, "-m", "nas", "run", "--config-dir", str(conf_dir), "recipe=tiny", f"out={out}"]
    waited = (
        f"profile/{device}/table.jsonl",
        "train/checkpoint.pt",
        "label/accuracy.jsonl",
        f"search/{device}/auto.npz",
        f"export/.{device}.partial",
    )
    for name in waited:
        process = start_process(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        wait_until(functools.partial(is_over, process, out / name))
        process.kill()
        process.wait()
        assert (out / name).exists() or (out / "report").exists(), name
    expect_the_same_end(nas_process("run", out), out, unbroken)

"""Fronts of tasks other than image classification: how good their networks are, and whether their ranking holds.

    OMP_NUM_THREADS=1 python experiments/benchmarks/task_fronts.py bccd --data ../shared/data --out /tmp/bccd

runs ``nas run`` on real data, with ONNX Runtime here and an Ethos-U as devices, and reads the figures off its folder.
Some networks of the first device's front, from the fastest to the slowest, are then fine-tuned and trained alone, from
nothing, with the epochs of the supernet; their metrics are of the test part, beside what they inherit.

Per device there are the number of networks of the front, and of those exported and verified; Kendall's tau between
predicted and verified metric; tau between predicted and measured latency; and the test metric of the network that is
best on the validation part. Networks are exported as predictions choose them (``export.evaluate=0``): the predictor has
not seen them, and none is left out for what the validation part says, which would make tau 1 there. Tau of the
metric is on the validation part, on the test part, and of the mean of both. Sizes of int8 files are in kB of 1,000
bytes. A run that is started again goes on: give the same --out.

Goals: at least 8 networks per front, tau of the metric >= 0.7; spoken digits: 95 % with an int8 file of at most 100 kB.
"""

from __future__ import annotations

import argparse
import functools
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
import numpy as np
import yaml
from scipy.stats import kendalltau

import nas
from nas.data import Data
from nas.run.opened import OpenedRun
from nas.run.verify import file_score

NPU = "ethos_u55_256"
INT8_FILES = ("network.tflite", "network_int8.onnx")
SMALL_KB = 100


@dataclass(frozen=True)
class Job:
    """Run of a task: recipe, data, settings, devices.

    Args:
        recipe: of the command line.
        file: of the data, in the folder that is given.
        settings: of the command line, beside those of the training.
        training: settings of the training.
        devices: of the run, the one first whose networks are trained alone too.
    """

    recipe: str
    file: str
    settings: Sequence[str]
    training: Mapping[str, Any]
    devices: Sequence[str] = ("host_ort", NPU)
    key: str = field(default="data.path")


SMALL = ("space.depths=[1,2]", "label.subnets=60", "label.held_out=12", "budget=2min")
"""Settings so that a task takes less than half an hour of two cores."""
JOBS = {
    "spoken_digits": Job(
        "recordings",
        "spoken_digits/spoken_digits.npz",
        ["data.rate=8000", "label.subnets=160", "label.held_out=32"],
        {"epochs": 40},
        ("host_ort", "host_ort_int8", NPU),
    ),
    "bccd": Job(
        "detection",
        "bccd/bccd_detection.npz",
        [*SMALL, "space.resolutions=[96x128,120x160]", "space.head.reads=[1,2]", "space.head.extras=1"],
        {"epochs": 20, "batch_size": 8},
    ),
    "camvid": Job(
        "segmentation",
        "camvid/camvid_segmentation.npz",
        [*SMALL, "data.classes=11", "data.keep=true", "space.resolutions=[64x80,96x128]"],
        {"epochs": 20, "workers": 0},
    ),
}


def given_settings(job: Job, data: Path, out: Path, networks: int) -> list[str]:
    """Settings of ``nas run``."""
    return [
        f"recipe={job.recipe}",
        f"{job.key}={data / job.file}",
        f"device=[{','.join(job.devices)}]",
        f"out={out}",
        f"export.networks={networks}",
        "export.evaluate=0",
        *job.settings,
        *(f"training.{name}={value}" for name, value in job.training.items()),
    ]


def training_of(job: Job) -> dict[str, Any]:
    """Settings of the training, those of the recipe included."""
    recipe = yaml.safe_load((common.CONF / "recipe" / f"{job.recipe}.yaml").read_text())
    return {**recipe.get("training", {}), **job.training}


def tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b; None where one side is constant."""
    found = float(kendalltau(first, second).statistic) if len(first) > 1 else float("nan")
    return None if np.isnan(found) else round(found, 3)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def of_device(folder: Path, device: str, sign: int) -> dict[str, Any]:
    """Figures of a device.

    Args:
        folder: of the run.
        device: its name.
        sign: 1 if large values of the metric are good, else -1.
    """
    verified = read_json(folder / "verify" / f"{device}.json")
    front = next(iter(read_json(folder / "search" / f"{device}.json")["searchers"].values()))["front"]
    rows = []
    for one in verified["networks"]:
        measured = one["measured"]
        sizes = [(folder / one["folder"] / name) for name in INT8_FILES]
        size = next((path.stat().st_size / 1000 for path in sizes if path.exists()), None)
        rows.append(
            {
                "label": one["label"],
                "predicted": one["predicted"]["accuracy"],
                "inherited": one["evaluated_accuracy"],
                "validation": measured["validation_accuracy"],
                "test": measured["test_accuracy"],
                "test_error": measured.get("test_error"),
                "predicted_ms": one["predicted"]["latency_ms"],
                "measured_ms": measured["latency_ms"],
                "int8_kb": size,
                "macs": one["macs"],
                "params": one["params"],
                "choices": one["architecture"]["choices"],
            }
        )
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    images = verified["validation_images"], verified["test_images"]
    both = [float(np.average([row["validation"], row["test"]], weights=images)) for row in rows]
    best = max(rows, key=lambda row: sign * row["validation"])
    small = [row for row in rows if row["int8_kb"] is not None and row["int8_kb"] <= SMALL_KB]
    return {
        "front": len(front),
        "front_after_evaluation": verified["front"]["left"],
        "verified": len(rows),
        "tau_metric": tau(columns["predicted"], columns["validation"]),
        "tau_metric_test": tau(columns["predicted"], columns["test"]),
        "tau_metric_both": tau(columns["predicted"], both),
        "tau_latency": tau(columns["predicted_ms"], columns["measured_ms"]),
        "drift": verified["drift"],
        "metric_of": verified["accuracy_of"],
        "best": {name: best[name] for name in ("test", "test_error", "measured_ms", "int8_kb", "params", "macs")},
        "best_small": max(small, key=lambda row: sign * row["validation"], default=None),
        "networks": rows,
    }


def spread(run: OpenedRun, device: str, count: int) -> list[Any]:
    """Verified networks of a device from the fastest to the slowest, so many, with their files."""
    networks = sorted(run.networks[device], key=lambda one: one.measured.latency_ms)
    return [networks[i] for i in np.unique(np.linspace(0, len(networks) - 1, count).round().astype(int))]


def test_score(folder: Path, data: Data) -> float:
    """Score of an exported file on the test part."""
    return file_score(folder / "network.onnx", data.task, data.test_part())


def beside(job: Job, out: Path, count: int, known: dict[str, Any], write: Callable[[], None]) -> None:
    """Fine-tune some networks and train them alone; what is known is not done again."""
    if not count:
        return
    run, training = nas.open(out), training_of(job)
    tuning = {name: value for name, value in training.items() if name != "epochs"}
    for one in spread(run, job.devices[0], count):
        row = known.setdefault(one.folder.name, {"inherited": test_score(one.folder, run.data)})
        places = {name: out.with_name(f"{out.name}_{name}") for name in ("finetuned", "alone")}
        trainings = {
            "finetuned": functools.partial(nas.finetune, one, out, run.data, out=places["finetuned"], **tuning),
            "alone": functools.partial(nas.train_alone, one, run.data, out=places["alone"], **training),
        }
        for name in [name for name in trainings if name not in row]:
            (found,) = trainings[name]()
            found.export(places[name] / one.folder.name)
            row |= {name: test_score(places[name] / one.folder.name, run.data), f"{name}_seconds": round(found.seconds)}
            write()


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=JOBS)
    parser.add_argument("settings", nargs="*", help="further ones of nas run, such as profile.repeats=1")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data, see the README there")
    parser.add_argument("--out", type=Path, required=True, help="run folder; started again, it goes on there")
    parser.add_argument("--networks", type=int, default=10, help="that are exported per device (default 10)")
    parser.add_argument("--alone", type=int, default=3, help="networks that are trained alone too (default 3)")
    parser.add_argument("--output", type=Path, help="of the results (default experiments/results)")
    arguments = parser.parse_intermixed_args()
    job, out = JOBS[arguments.task], arguments.out
    if not (arguments.data / job.file).exists():
        raise SystemExit(f"There is no {arguments.data / job.file}; give the folder of the data with --data.")
    settings = [*given_settings(job, arguments.data, out, arguments.networks), *arguments.settings]
    subprocess.run([sys.executable, "-m", "nas", "run", *settings], check=True)

    path = arguments.output or common.RESULTS / f"task_fronts_{arguments.task}.json"
    data = nas.open(out).data
    metric = data.task.metric
    sign = 1 if metric.direction == "max" else -1
    shown = [s for s in settings if not s.startswith(("out=", job.key))]
    content: dict[str, Any] = {
        "conditions": common.conditions("torch", "onnxruntime", "numpy", settings=shlex.join(shown)),
        "metric": metric.name,
        "images": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test_part())},
        "minutes": {s["stage"]: round(s["seconds"] / 60, 2) for s in read_json(out / "stages.json")},
        "predictor": read_json(out / "fit" / "quality.json")["accuracy"]["metrics"],
        "devices": {device: of_device(out, device, sign) for device in job.devices},
        "beside": {},
    }
    before = read_json(path) if path.exists() else {}
    if before.get("devices") == json.loads(json.dumps(content["devices"])):  # the same run
        content["beside"] = before["beside"]
    common.write(path, content)
    beside(job, out, arguments.alone, content["beside"], lambda: common.write(path, content))
    common.write(path, content)
    print_figures(content)


def print_figures(content: Mapping[str, Any]) -> None:
    """Figures of each device, then all of them in one line."""
    figures: dict[str, float | None] = {"minutes": round(sum(content["minutes"].values()), 1)}
    for device, of in content["devices"].items():
        print(f"{device}: {of['front']} on the front, {of['verified']} verified, metric of the {of['metric_of']}")
        for row in of["networks"]:
            size = "" if row["int8_kb"] is None else f"  {row['int8_kb']:.0f} kB"
            print(
                f"  {row['measured_ms']:.3f} ms ({row['predicted_ms']:.3f})  {content['metric']} validation "
                f"{row['validation']:.4f} ({row['predicted']:.4f})  test {row['test']:.4f}{size}"
            )
        for name in ("front", "verified", "tau_metric", "tau_metric_test", "tau_metric_both", "tau_latency"):
            figures[f"{name}@{device}"] = of[name]
        figures[f"test@{device}"] = round(of["best"]["test"], 4)
        figures[f"int8_kb@{device}"] = of["best"]["int8_kb"]
        if of["best_small"] is not None:
            figures[f"test_within_{SMALL_KB}_kb@{device}"] = round(of["best_small"]["test"], 4)
    for name, row in content["beside"].items():
        print(f"{name}: " + " ".join(f"{key}={value:.4f}" for key, value in row.items() if "seconds" not in key))
    for key in ("inherited", "finetuned", "alone"):
        known = [row[key] for row in content["beside"].values() if key in row]
        figures[f"mean_{key}"] = round(float(np.mean(known)), 4) if known else None
    print(" ".join(f"{name}={value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()

"""Profiling: is a measurement repeatable, how fast are tables made, and what does a kill cost?

    python experiments/benchmarks/profiling.py [--minutes 3] [--layers 60] [--skip-imagenet]

Repeatability: layers of once-for-all's MobileNetV3 space at 224 pixels, on ONNX Runtime and TVM with one thread, are
measured twice with the stated minutes between; beside it, in the same minutes, what a plain loop gives (one load, three
warm-up runs, the median of ten runs). Rows per second, and the seconds of whole profiles, are those of the command
``nas profile`` in processes of their own. Cost of resume: a profile killed by SIGKILL half way and started again, over
one that was not, in seconds and in rows that were measured twice.

Goals: median difference <= 2 %, 95th percentile <= 8 %; the digits space <= 60 s per host backend, the ImageNet space
at five resolutions <= 20 minutes on ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np

from hardware_profiles import LatencyTable, Measurement, Model, load_device
from hardware_profiles.measure import Measurer
from search_spaces import MobileNetV3
from search_spaces.layers import Layer

RESULTS = common.RESULTS / "profiling.json"
HOSTS = ("host_ort", "host_tvm")
FIVE = "[128,160,176,192,224]"


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3, help="between the two measurements of a layer")
    parser.add_argument("--layers", type=int, default=60, help="layers that are measured twice")
    parser.add_argument("--skip-imagenet", action="store_true", help="leave out the profiles of the ImageNet space")
    arguments = parser.parse_args()

    figures: dict[str, float] = {}
    rows: dict[str, Any] = {}
    for device in HOSTS:
        rows[device] = repeatability(device, arguments.layers, arguments.minutes)
        figures |= {f"{device}_{name}": rows[device][name] for name in ("median", "p95", "raw_median", "raw_p95")}
        show(device, rows[device])
    with tempfile.TemporaryDirectory(prefix="hwnas-profiling-") as name:
        folder = Path(name)
        for device in HOSTS:
            for method in ("isolated", "in_context"):
                key = f"digits_{device}_{method}"
                rows[key] = profile(folder / key, "mobilenet_v3_digits", device, f"profile.method={method}")
                show(key, rows[key])
            figures[f"digits_{device}_s"] = min(
                rows[f"digits_{device}_{m}"]["seconds"] for m in ("isolated", "in_context")
            )
        if not arguments.skip_imagenet:
            for method in ("isolated", "in_context"):
                key = f"imagenet_host_ort_{method}"
                settings = (f"space.resolutions={FIVE}", f"profile.method={method}")
                rows[key] = profile(folder / key, "ofa_mobilenet_v3", "host_ort", *settings)
                figures[f"{key}_min"] = rows[key]["seconds"] / 60
                show(key, rows[key])
        rows["resume"] = resume(folder / "resume")
        figures["resume_extra_s"] = rows["resume"]["extra_seconds"]
        figures["resume_rows_measured_twice"] = rows["resume"]["rows_measured_twice"]
        show("resume", rows["resume"])

    conditions = common.conditions("onnxruntime", "apache-tvm", "numpy")
    common.write(RESULTS, {"conditions": conditions, "figures": figures, "rows": rows})
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))


def show(name: str, row: dict[str, Any]) -> None:
    """One line."""
    print(name, " ".join(f"{k}={v:.4g}" for k, v in row.items() if isinstance(v, int | float)), flush=True)


def repeatability(device_name: str, n: int, minutes: float) -> dict[str, Any]:
    """Relative differences between two measurements of the same layers, by the protocol and by a plain loop."""
    settings = common.space_settings("ofa_mobilenet_v3")
    space = MobileNetV3(**{**settings, "resolutions": [224]})
    chosen = np.random.default_rng(0).permutation(len(space.distinct_layers))[:n]
    layers = [space.distinct_layers[i] for i in chosen]
    device = load_device(device_name)
    backend = device.open()
    protocol: list[dict[Layer, float]] = []
    raw: list[dict[Layer, float]] = []
    seconds = 0.0
    agreed = 0
    try:
        measurer = Measurer(backend, device, np.random.default_rng(0))
        for turn in range(2):
            started = time.perf_counter()
            raw.append({layer: plainly(backend.load(Model.of_layer(layer))) for layer in layers})
            begun = time.perf_counter()
            found = {}
            for layer, result in measurer.measure([(layer, Model.of_layer(layer)) for layer in layers]):
                if not isinstance(result, Measurement):
                    raise result
                found[layer] = result.latency_ms
                agreed += result.agreed
            protocol.append(found)
            seconds += time.perf_counter() - begun
            if turn == 0:
                time.sleep(max(0.0, minutes * 60 - (time.perf_counter() - started)))
    finally:
        backend.close()

    def differences(two: list[dict[Layer, float]]) -> np.ndarray[Any, Any]:
        first, second = (np.array([ms[layer] for layer in layers]) for ms in two)
        return np.asarray(np.abs(second / first - 1))

    ours, plain = differences(protocol), differences(raw)
    return {
        "layers": len(layers),
        "minutes_between": minutes,
        "median": float(np.median(ours)),
        "p95": float(np.quantile(ours, 0.95)),
        "raw_median": float(np.median(plain)),
        "raw_p95": float(np.quantile(plain, 0.95)),
        "agreed": agreed / (2 * len(layers)),
        "rows_per_second": 2 * len(layers) / seconds,
        "latency_ms": [min(protocol[0].values()), max(protocol[0].values())],
    }


def plainly(loaded: Any) -> float:
    """What a plain timing loop gives."""
    for _ in range(3):
        loaded.sample_ms(1)
    return float(np.median([loaded.sample_ms(1) for _ in range(10)]))


def command(folder: Path, space: str, device: str, *settings: str) -> list[str]:
    """The command that profiles."""
    return [sys.executable, "-m", "nas", "profile", f"space={space}", f"device={device}", f"out={folder}", *settings]


def profile(folder: Path, space: str, device: str, *settings: str) -> dict[str, Any]:
    """Seconds and rows of one profile in a process of its own."""
    started = time.perf_counter()
    done = subprocess.run(command(folder, space, device, *settings), check=True, text=True, capture_output=True)
    seconds = time.perf_counter() - started
    table = LatencyTable.read(folder / "profile" / device / "table.jsonl")
    networks = sum(1 for _ in open(folder / "profile" / device / "networks.jsonl")) - 1
    announced = re.search(r": (about .*)", done.stdout)
    return {
        "seconds": seconds,
        "layers": len(table),
        "networks": networks,
        "rows_per_second": (len(table) + networks) / seconds,
        "announced": announced.group(1) if announced else None,
    }


def resume(folder: Path) -> dict[str, Any]:
    """What a kill in the middle of a profile costs."""
    whole = profile(folder / "whole", "mobilenet_v3_digits", "host_ort", "profile.method=isolated")
    target = folder / "killed"
    table = target / "profile" / "host_ort" / "table.jsonl"
    unfinished = table.with_name("unfinished.jsonl")
    started = time.perf_counter()
    process = subprocess.Popen(
        command(target, "mobilenet_v3_digits", "host_ort", "profile.method=isolated"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and time.perf_counter() - started < whole["seconds"] / 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    spent = time.perf_counter() - started
    kept = sum(1 for _ in open(table)) - 1
    passes = sum(1 for _ in open(unfinished)) - 1
    rest = profile(target, "mobilenet_v3_digits", "host_ort", "profile.method=isolated")
    names = [json.dumps(json.loads(line)["layer"]) for line in table.read_text().splitlines()[1:]]
    shutil.rmtree(folder)
    return {
        "uninterrupted_seconds": whole["seconds"],
        "seconds_before_kill": spent,
        "seconds_after": rest["seconds"],
        "extra_seconds": spent + rest["seconds"] - whole["seconds"],
        "rows_kept": kept,
        "passes_kept": passes,
        "rows_measured_twice": len(names[:kept]) - len(set(names[:kept]) - set(names[kept:])),
    }


if __name__ == "__main__":
    main()

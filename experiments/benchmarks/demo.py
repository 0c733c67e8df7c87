"""The main job end to end: how long it takes, and whether its numbers hold.

    python experiments/benchmarks/demo.py --seeds 3

runs ``nas run recipe=digits`` once per seed in fresh folders, one after the other, and prints for each: minutes; the
share of networks exported for the two host targets whose measured latency is within 15 % of the predicted; the share
that keeps all limits when measured; the test accuracy of the network with the best validation accuracy; by how much the
fronts of the three targets differ (share of one front's networks that are not on another's, mean over pairs). The last
line has the medians. Conditions and rows go to ``experiments/results/demo.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

RESULTS = common.RESULTS / "demo.json"


def one_run(seed: int, folder: Path) -> dict[str, Any]:
    """Run the recipe with one seed and read its figures off the run folder."""
    command = [sys.executable, "-m", "nas", "run", "recipe=digits", f"seed={seed}", f"out={folder}"]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    minutes = (time.perf_counter() - started) / 60
    verified = {path.stem: json.loads(path.read_text()) for path in sorted((folder / "verify").glob("*.json"))}
    networks = [n for device in verified.values() for n in device["networks"]]
    ratios = {
        name: [n["measured"]["latency_ms"] / n["predicted"]["latency_ms"] for n in device["networks"]]
        for name, device in verified.items()
    }
    host = [ratio for name, device in verified.items() if not device["estimates"] for ratio in ratios[name]]
    best = max(networks, key=lambda n: n["measured"]["validation_accuracy"])
    quality = json.loads((folder / "fit" / "quality.json").read_text())
    return {
        "seed": seed,
        "minutes": minutes,
        "within_15": statistics.mean(abs(ratio - 1) <= 0.15 for ratio in host),
        "limits_kept": statistics.mean(not n["violations"] for n in networks),
        "best_test_accuracy": best["measured"]["test_accuracy"],
        "fronts_differ": _difference(folder / "search"),
        "ratios": ratios,
        "drift": {name: device["drift"] for name, device in verified.items()},
        "mape": {name: q["metrics"]["mape"] for name, q in quality["latency"].items()},
        "accuracy_kendall_tau": quality["accuracy"]["metrics"]["kendall_tau"],
        "seconds": {s["stage"]: s["seconds"] for s in json.loads((folder / "stages.json").read_text())},
    }


def _difference(folder: Path) -> float:
    """Mean over ordered pairs of devices: share of the first's front that is not on the second's."""
    fronts = []
    for path in sorted(folder.glob("*.json")):
        first = next(iter(json.loads(path.read_text())["searchers"].values()))
        fronts.append({json.dumps(point["architecture"]["choices"]) for point in first["front"]})
    return statistics.mean(len(a - b) / len(a) for a, b in itertools.permutations(fronts, 2))


def main() -> None:
    """Parse arguments, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of runs (default 3)")
    seeds = parser.parse_args().seeds
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(seeds):
            folder = Path(temporary) / f"seed{seed}"
            rows.append(one_run(seed, folder))
            print(json.dumps({k: v for k, v in rows[-1].items() if k not in ("ratios", "seconds")}), flush=True)
        about = json.loads((folder / "run.json").read_text())
        environment = json.loads((folder / "verify" / "host_ort.json").read_text())["environment"]
    conditions = {
        "command": f"python experiments/benchmarks/demo.py --seeds {seeds}",
        "commit": about["commit"],
        "versions": about["versions"],
        "device": environment,
    }
    common.write(RESULTS, {"conditions": conditions, "rows": rows})
    figures = ("minutes", "within_15", "limits_kept", "best_test_accuracy", "fronts_differ", "accuracy_kendall_tau")
    print(" ".join(f"{name}={statistics.median(row[name] for row in rows):.3f}" for name in figures))


if __name__ == "__main__":
    main()

"""How far from the best that a space holds does each searcher end? Additive problem, so the exact front is known.

    OMP_NUM_THREADS=1 python experiments/benchmarks/exact_gap.py --data DATA [--seeds 10] [--evaluations 10000]

Space: once-for-all's MobileNetV3 at width 1.2 and five resolutions, 1.1e20 networks. Latency: the sum over the
published operator table of a Samsung Note10. Accuracy: the sum over positions nearest to once-for-all's published
accuracy predictor. The exact front comes from `nas.core.exact_front`; the gap of a search is the share of its
hypervolume that is missing, from the reference point that every search of the problem has.

Every searcher of nas/conf/searcher is run, with its shipped settings, side by side; medians over seeds. A search ends
at `--evaluations` or after `--seconds`, so that slow searchers see fewer networks: the evaluations that they came to
are stated. `exact` is one of them: its gap is that of thinning the front to the points that it asks for. A searcher
that fails is reported with its message.

With `--grid` the front is also computed with thinned sets: the gap that is proven for it, beside the true one.
Goal: the default searcher's gap <= 0.1 %; the exact front in a few seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import yaml
from hydra.utils import instantiate

from hardware_profiles import LatencyTable
from hardware_profiles.formats.tables import import_table
from nas.core import pareto
from nas.core.exact_front import exact_front
from nas.core.problem import Objective, Problem
from nas.core.search_loop import Budget, reference_point, search
from predictors import once_for_all_accuracy, plain_sum
from predictors.additive_model import AdditiveModel, additive
from search_spaces import MobileNetV3

CONF = common.CONF
RESULTS = common.RESULTS / "exact_gap.json"
RESOLUTIONS = [160, 176, 192, 208, 224]
"""Of the published latency table."""
REPETITIONS = 5


@dataclass(frozen=True)
class Run:
    """One search: what it lacks of the exact front's hypervolume, in percent."""

    gap_percent: float
    evaluations: int
    seconds: float
    points: int
    stopped: str


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with ofa_mbv3/")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="longest search")
    parser.add_argument("--searchers", default="", help="names, separated by commas; default all")
    parser.add_argument("--grid", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    files = (CONF / "searcher").glob("*.yaml")
    names = sorted(path.stem for path in files if "_partial_" not in path.read_text())  # those train on images
    chosen = [name for name in arguments.searchers.split(",") if name] or names
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"there are no searchers {unknown}, but {names}.")
    problem, model = additive_problem(arguments.data)
    reference = reference_point(problem)
    seconds, processor = [], []
    for _ in range(REPETITIONS):
        wall, cpu = time.perf_counter(), time.process_time()
        front = exact_front(problem)
        seconds.append(time.perf_counter() - wall)
        processor.append(time.process_time() - cpu)
    volume = front.hypervolume_bound(reference)
    coarse = exact_front(problem, grid=arguments.grid)
    found, bound = (pareto.hypervolume(c, reference) for c in (problem.costs(coarse.values), coarse.outer))
    exact = {
        "networks": float(problem.space.size),
        "points": len(front.genes),
        "seconds": statistics.median(seconds),
        "processor_seconds": statistics.median(processor),
        "grid": arguments.grid,
        "grid_points": len(coarse.genes),
        "grid_gap_percent": 100 * (1 - found / volume),
        "grid_proven_gap_percent": 100 * (1 - found / bound),
        "fit_r2": model.r2,
        "fit_largest_error": model.largest_error,
    }
    print("exact front", json.dumps(exact), flush=True)

    runs: dict[str, list[Run]] = {}
    failed: dict[str, str] = {}
    for seed in range(arguments.seeds):  # side by side: a busy machine slows all of them
        for name in chosen:
            if name in failed:
                continue
            budget = Budget(arguments.evaluations, seconds=arguments.seconds)
            try:
                run = one(problem, name, budget, seed, volume)
            except Exception as error:  # one searcher must not end the others' runs
                failed[name] = f"{type(error).__name__}: {error}"
                print(name, "FAILED", failed[name], flush=True)
                continue
            runs.setdefault(name, []).append(run)
            print(name, seed, json.dumps(vars(run)), flush=True)
    table = {name: summary(rows) for name, rows in runs.items() if name not in failed}
    for name, row in sorted(table.items(), key=lambda item: item[1]["gap_percent"]):
        print(
            f"{name:18} gap {row['gap_percent']:.4f} % ({row['least']:.4f} to {row['most']:.4f}), "
            f"{row['evaluations']:.0f} evaluations, {row['seconds']:.2f} s"
        )

    default = default_searcher()
    figures = {
        "exact_seconds": exact["seconds"],
        "exact_points": exact["points"],
        "grid_proven_gap_percent": exact["grid_proven_gap_percent"],
        **({"default_gap_percent": table[default]["gap_percent"]} if default in table else {}),
        **{f"{name}_gap_percent": row["gap_percent"] for name, row in table.items()},
    }
    conditions = common.conditions(
        "numpy",
        "scipy",
        "moocore",
        "optuna",
        seeds=arguments.seeds,
        evaluations=arguments.evaluations,
        longest_search_seconds=arguments.seconds,
        default_searcher=default,
        reference=reference.tolist(),
    )
    content = {"conditions": conditions, "figures": figures, "exact": exact, "searchers": table, "failed": failed}
    common.write(arguments.output, content)
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))


def additive_problem(data: Path) -> tuple[Problem, AdditiveModel]:
    """Accuracy up, latency down, both sums over positions; and how near the sum is to the accuracy predictor."""
    folder = data / "ofa_mbv3"
    if not folder.is_dir():
        raise SystemExit(f"{folder} does not exist: --data names the folder with ofa_mbv3/.")
    settings = common.space_settings("ofa_mobilenet_v3_w1.2")
    space = MobileNetV3(**{**settings, "resolutions": RESOLUTIONS})
    accuracy = once_for_all_accuracy(space, file=folder / "accuracy_predictor.npz")
    model = additive(accuracy, space, np.random.default_rng(0), rows=4000, held_out=1000)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "note10.jsonl"
        import_table("ofa", folder / "operator_latency.csv", path)
        latency = plain_sum(space, LatencyTable.read(path))
    return Problem(space, [Objective.of(model.table, "max"), Objective.of(latency, "min")]), model


def one(problem: Problem, name: str, budget: Budget, seed: int, volume: float) -> Run:
    """One search with a searcher's shipped settings."""
    searcher = instantiate(yaml.safe_load((CONF / "searcher" / f"{name}.yaml").read_text()))
    started = time.perf_counter()
    found = search(problem, searcher, budget=budget, seed=seed)
    seconds = time.perf_counter() - started
    return Run(100 * (1 - found.hypervolume / volume), found.evaluations, seconds, len(found.genes), found.stopped)


def summary(runs: list[Run]) -> dict[str, Any]:
    """Medians, the range of gaps, and each seed's gap."""
    gaps = [run.gap_percent for run in runs]
    return {
        "gap_percent": statistics.median(gaps),
        "least": min(gaps),
        "most": max(gaps),
        **{key: statistics.median(getattr(run, key) for run in runs) for key in ("evaluations", "seconds", "points")},
        "stopped": sorted({run.stopped for run in runs}),
        "gaps_percent": gaps,
    }


def default_searcher() -> str:
    """What a run takes if it is not told."""
    for entry in yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]:
        if isinstance(entry, dict) and "searcher" in entry:
            return str(entry["searcher"])
    return ""


if __name__ == "__main__":
    main()

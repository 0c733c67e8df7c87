"""The default searcher beside once-for-all's own finder, on its published accuracy predictor and latency table.

    OMP_NUM_THREADS=1 python experiments/benchmarks/search_ofa.py --data DATA [--once-for-all PATH] [--seeds 10]

Problem: maximise the accuracy that the published predictor (a perceptron of 128-400-400-400-1) tells and minimise the
sum of the Note10's operator latencies; once-for-all's MobileNetV3 space of width 1.2, five resolutions. One core.

Ours gives the whole front by one search of 100,000 evaluations; the accuracies at four latency limits are read off it.
Medians over seeds. Theirs (`EvolutionFinder` of the folder `ofa/tutorial` of https://github.com/mit-han-lab/once-for-all,
a checkout of which `--once-for-all` names) searches for one limit at a time, 50,000 evaluations each, with its own
latency and accuracy classes over the same numbers; the time is that of all four limits. With it at hand, limits are
judged by its own latencies for both: a few layers are in several of its tables, of one resolution each, with numbers
that differ in the noise, and of these our table takes the first (`latency_difference_ms` is the largest in 1,000 random
networks). Seconds are wall clock, and beside them processor time, since other jobs may share the machine.

Rates are evaluations per second of processor time, through the whole loop of a search: `mlp_search_per_cpu_s` with the
perceptron (NSGA-II, population 1,600), `tables_search_per_cpu_s` where accuracy is a sum over positions fitted to the
perceptron, so that there are tables only (population 10,000), `tables_random_per_cpu_s` the same with random search,
which costs least besides the loop itself; `tables_per_cpu_s` without a searcher, objectives alone.

The settings of the default searcher were chosen on this very problem with seeds 0 to 12; here seeds begin at 100.

Goals: front in 10 s; accuracies at least theirs, all four in a tenth of their time; 5e4 and 1e6 evaluations/s.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import importlib.util
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import common
import numpy as np
from numpy.typing import NDArray

from hardware_profiles import LatencyTable
from hardware_profiles.formats.tables import import_table
from nas.core.problem import Objective, Problem
from nas.core.search_loop import search
from nas.core.searcher import Searcher
from nas.searchers.auto import Auto
from nas.searchers.nsga2 import NSGA2
from nas.searchers.random import RandomSearch
from predictors import plain_sum
from predictors.additive_model import additive
from predictors.mlp import once_for_all_accuracy
from search_spaces import Architecture, MobileNetV3

RESULTS = common.RESULTS / "search_ofa.json"
DEVICE, RESOLUTIONS = "note10", (160, 176, 192, 208, 224)
LIMITS_MS = (20, 25, 30, 40)
FIRST_SEED = 100
"""Nothing was chosen on this one and those after it."""
FILES = ("latency_table", "accuracy_predictor", "evolution_finder")
REPETITIONS = 5


@dataclass(frozen=True)
class Seconds:
    """Of wall clock and of this process."""

    wall: float
    cpu: float


def timed(operation: Callable[[], Any]) -> tuple[Any, Seconds]:
    """What an operation gives, and how long it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = operation()
    return result, Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with ofa_mbv3/")
    parser.add_argument("--once-for-all", type=Path, help="checkout of once-for-all; without it there is no comparison")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--their-seeds", type=int, default=1)
    parser.add_argument("--evaluations", type=int, default=100_000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    folder = arguments.data / "ofa_mbv3"
    if not folder.is_dir():
        parser.error(f"{folder} does not exist: --data names the folder with ofa_mbv3/.")
    if arguments.once_for_all and not tutorial(arguments.once_for_all).is_dir():
        parser.error(f"{tutorial(arguments.once_for_all)} does not exist: --once-for-all names a checkout of it.")

    problem = published_problem(folder)
    theirs = Theirs(arguments.once_for_all, folder) if arguments.once_for_all else None
    figures: dict[str, float] = {}
    rows: dict[str, Any] = {"ours": [], "theirs": []}
    started = time.perf_counter()
    for seed in range(FIRST_SEED, FIRST_SEED + arguments.seeds):
        rows["ours"].append(ours(problem, arguments.evaluations, seed, theirs))
        print("ours", json.dumps(rows["ours"][-1]), flush=True)
    for seed in range(FIRST_SEED, FIRST_SEED + arguments.their_seeds if theirs else FIRST_SEED):
        rows["theirs"].append(theirs.find(seed))  # type: ignore[union-attr]
        print("theirs", json.dumps(rows["theirs"][-1]), flush=True)
    for who, found in rows.items():
        figures |= {f"{who}_{name}": median(found, name) for name in (found[0] if found else ()) if name != "seed"}
    if theirs:
        figures["latency_difference_ms"] = theirs.difference_ms(problem)
        for clock in ("s", "cpu_s"):
            figures[f"times_as_fast_{clock}"] = figures[f"theirs_{clock}"] / figures[f"ours_{clock}"]
        figures["least_gain_over_theirs"] = min(
            figures[f"ours_{name}"] - figures[f"theirs_{name}"] for name in map(at_limit, LIMITS_MS)
        )
    figures |= rates(problem)

    conditions = common.conditions(
        "numpy",
        "moocore",
        "torch",
        seeds=arguments.seeds,
        their_seeds=arguments.their_seeds if theirs else 0,
        evaluations=arguments.evaluations,
        searcher=repr(Auto()),
        seconds=round(time.perf_counter() - started),
    )
    common.write(arguments.output, {"conditions": conditions, "figures": figures, "rows": rows})
    print(" ".join(f"{name}={value:.5g}" for name, value in figures.items()))


def published_problem(folder: Path) -> Problem:
    """Accuracy against latency, both as published."""
    settings = common.space_settings("ofa_mobilenet_v3_w1.2")
    space = MobileNetV3(**{**settings, "resolutions": list(RESOLUTIONS)})
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"{DEVICE}.jsonl"
        import_table("ofa", folder / "operator_latency.csv", path)
        latency = plain_sum(space, LatencyTable.read(path))
    accuracy = once_for_all_accuracy(space, file=folder / "accuracy_predictor.npz")
    return Problem(space, [Objective.of(accuracy, "max"), Objective.of(latency, "min")])


def at_limit(limit_ms: int) -> str:
    """Name of the accuracy at a limit."""
    return f"accuracy_at_{limit_ms}_ms"


def ours(problem: Problem, evaluations: int, seed: int, theirs: Theirs | None) -> dict[str, float]:
    """One search for the whole front."""
    found, seconds = timed(lambda: search(problem, Auto(), evaluations=evaluations, seed=seed))
    accuracy, latency_ms = found.values.T
    if theirs:
        latency_ms = theirs.latency_ms([Architecture(problem.space, row) for row in found.genes])
    return {
        "seed": seed,
        "s": seconds.wall,
        "cpu_s": seconds.cpu,
        "evaluations_per_cpu_s": found.evaluations / seconds.cpu,
        "hypervolume": found.hypervolume,
        "points": len(found.genes),
        **{at_limit(limit): float(accuracy[latency_ms <= limit].max()) for limit in LIMITS_MS},
    }


def rates(problem: Problem) -> dict[str, float]:
    """Evaluations per second of processor time."""
    space, (accuracy, latency) = problem.space, problem.objectives
    table = additive(accuracy.predictor, space, np.random.default_rng(0)).table
    tables = Problem(space, [Objective.of(table, "max"), latency])
    genes = space.sample(10_000, np.random.default_rng(0))

    def rate(operation: Callable[[], int]) -> float:
        operation()
        done = [timed(operation) for _ in range(REPETITIONS)]
        return statistics.median(n / seconds.cpu for n, seconds in done)

    def loop(problem: Problem, searcher: Searcher, evaluations: int) -> Callable[[], int]:
        return lambda: search(problem, searcher, evaluations=evaluations, seed=0).evaluations

    return {
        "mlp_per_cpu_s": rate(lambda: len(problem.evaluate(genes))),
        "mlp_search_per_cpu_s": rate(loop(problem, NSGA2(population=1600), 80_000)),
        "tables_per_cpu_s": rate(lambda: sum(len(tables.evaluate(genes)) for _ in range(20))),
        "tables_search_per_cpu_s": rate(loop(tables, NSGA2(population=10_000), 400_000)),
        "tables_random_per_cpu_s": rate(loop(tables, RandomSearch(batch=10_000), 1_000_000)),
    }


# -- theirs ------------------------------------------------------------------------------------------------------------


def tutorial(checkout: Path) -> Path:
    """Folder of the finder."""
    return checkout / "ofa" / "tutorial"


class Theirs:
    """Once-for-all's classes with published numbers; nothing is downloaded."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        import torch

        for name in (
            "ofa",
            "ofa.utils",
        ):  # what the files import to download with, and much else that needs torchvision
            sys.modules[name] = ModuleType(name)
        vars(sys.modules["ofa.utils"])["download_url"] = None
        latencies, accuracies, self._finders = (load_file(tutorial(checkout) / f"{name}.py") for name in FILES)
        vars(self._finders)["tqdm"] = lambda rounds, **_: rounds  # no progress bars
        self._accuracy = accuracies.AccuracyPredictor(pretrained=False, device="cpu")
        with np.load(folder / "accuracy_predictor.npz") as archive:
            self._accuracy.model.load_state_dict({name: torch.from_numpy(archive[name]) for name in archive.files})
        self._table = object.__new__(latencies.LatencyTable)  # whose constructor downloads
        self._table.latency_tables = {}
        with (folder / "operator_latency.csv").open() as file:
            for row in csv.DictReader(file):
                if row["device"] == DEVICE:
                    estimator = self._table.latency_tables.setdefault(
                        int(row["input_res"]), object.__new__(latencies.LatencyEstimator)
                    )
                    vars(estimator).setdefault("lut", {})[row["op_key"]] = {"mean": float(row["mean_ms"])}

    def latency_ms(self, architectures: list[Architecture]) -> NDArray[np.float64]:
        """Of each architecture, (n,)."""
        return np.array([self._table.predict_efficiency(sample_of(one)) for one in architectures])

    def difference_ms(self, problem: Problem) -> float:
        """Largest difference to our latencies; our accuracies must be theirs."""
        genes = problem.space.sample(1000, np.random.default_rng(0))
        accuracy, latency_ms = problem.evaluate(genes).T
        architectures = [Architecture(problem.space, row) for row in genes]
        told = self._accuracy.predict_accuracy([sample_of(one) for one in architectures])[:, 0].numpy()
        if not np.allclose(told, accuracy, atol=1e-5):
            raise AssertionError("Their accuracy predictor and ours tell other accuracies.")
        return float(np.abs(self.latency_ms(architectures) - latency_ms).max())

    def find(self, seed: int) -> dict[str, float]:
        """One search per limit."""
        row: dict[str, float] = {"seed": seed, "s": 0.0, "cpu_s": 0.0}
        for limit in LIMITS_MS:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002 - theirs draws from the global state
            finder = self._finders.EvolutionFinder(DEVICE, limit, self._table, self._accuracy)
            (_, best), seconds = timed(finder.run_evolution_search)
            row["s"] += seconds.wall
            row["cpu_s"] += seconds.cpu
            row[at_limit(limit)] = float(best[0])
        return row


def load_file(path: Path) -> Any:
    """A Python file as a module, without the package around it."""
    spec = importlib.util.spec_from_file_location(f"once_for_all_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sample_of(architecture: Architecture) -> dict[str, list[int]]:
    """In the form of once-for-all's code."""
    values = architecture.values
    blocks = [f"{s}.{b}" for s in range(1, 6) for b in range(1, 5)]
    return {
        "ks": [int(values.get(f"kernel.{block}", 3)) for block in blocks],
        "e": [int(values.get(f"expand.{block}", 3)) for block in blocks],
        "d": [int(values[f"depth.{s}"]) for s in range(1, 6)],
        "r": [int(values["resolution"])],
    }


def median(rows: list[dict[str, float]], name: str) -> float:
    """Over seeds."""
    return statistics.median(row[name] for row in rows)


if __name__ == "__main__":
    main()

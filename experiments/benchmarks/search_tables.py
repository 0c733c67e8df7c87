"""Accuracy against latency on NAS-Bench-201, where accuracy is what a query buys: how much of the true front is found?

    OMP_NUM_THREADS=1 python experiments/benchmarks/search_tables.py --data DATA [--devices pixel3,...]

Every device setting of the table is a problem of its own, whose front is known: maximise the accuracy of a network
trained for 200 epochs, which costs a query, and minimise its latency, which is known beforehand. Reported is the share
of the true front's hypervolume after 100, 300 and 1,000 queries, counted query by query. Reference point: chance (10 %;
1 % on CIFAR-100) and the slowest connected network's latency.

The table has 15,625 cells, the space 6,245 distinct networks: of the cells that are the same network, the one that the
space takes for canonical lends the network its accuracy and latency, as measured, so they keep their noise. The 43
networks that do not connect input and output (341 cells) cannot run: latency inf, which is known beforehand too.

All searchers that have a YAML, as it sets them, on all 19 settings with 10 seeds; slower ones have fewer seeds, devices
and queries, see `SLOW`, and "runs" says how many are behind each number. Medians over devices and seeds; seconds are of
one processor core. Searchers that train a supernet are left out, and `auto`, which is `smbo` here; one that refuses the
problem says why.

Goals for `smbo`, the default where evaluations are costly: 0.992 after 100 and 0.996 after 300 queries, on no device
below random search (`smbo_below_random` counts pairs of device and queries whose median over seeds is). Its settings
were chosen on CIFAR-10, on titanx_256, silver_4114, pixel3 and 2080ti_1 with seeds 0 to 2; here seeds begin at 100.

A searcher whose results are in the output file already, made with the same settings, is not run again without --again.
A full run takes some 10 minutes on an idle core.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
import numpy as np
import yaml
from hydra.utils import instantiate
from numpy.typing import NDArray

from nas.core import pareto
from nas.core.problem import Objective, Problem
from nas.core.search_loop import search
from nas.core.searcher import Searcher
from search_spaces import Genes
from search_spaces.base.errors import NasError
from search_spaces.nasbench201 import CELLS, STEPS, NasBench201, genes_of_string

ROOT = common.ROOT
RESULTS = common.RESULTS / "search_tables.json"
SEARCHERS = ROOT / "nas" / "conf" / "searcher"
QUERIES = (100, 300, 1000)
CHANCE = {"cifar10": 10.0, "cifar100": 1.0}
JUDGED = "smbo"
FIRST_SEED = 100
"""Nothing was chosen on this one and those after it."""

Plan = tuple[tuple[int, int, int], ...]
"""Queries, number of seeds, every how-manieth device: all that is to be run."""

SLOW: dict[str, Plan] = {
    "smbo": ((300, 3, 1), (1000, 1, 5)),
    "tpe": ((300, 1, 3), (1000, 1, 10)),
    "optuna_gp": ((100, 1, 19),),
    "optuna_nsga2": ((1000, 2, 1),),
    "optuna_nsga3": ((1000, 2, 1),),
}

Column = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Table:
    """A column of the benchmark as a predictor, by number of the cell (15625,); it notes which cells are asked for."""

    metric: str
    unit: str
    values: Column
    asked: list[int] = field(default_factory=list)
    asked_at: list[float] = field(default_factory=list)

    def predict(self, genes: Genes) -> Column:
        numbers = genes.astype(np.int64) @ np.array(STEPS)
        self.asked.extend(numbers.tolist())
        self.asked_at.extend([time.process_time()] * len(numbers))
        return np.asarray(self.values[numbers])


@dataclass(frozen=True, eq=False)
class Bench:
    """All networks: accuracy in % (15625,), latency in ms by device setting (15625,), both NaN for cells that are not
    canonical; which of the networks connect input and output."""

    space: NasBench201
    accuracy: Column
    chance: float
    latency_ms: dict[str, Column]
    connected: NDArray[np.bool_]

    def problem(self, device: str) -> Problem:
        """Of one device."""
        latency = self.latency_ms[device]
        slowest = float(latency[self.connected].max())
        runs = np.where(self.connected, latency, np.inf)
        return Problem(
            self.space,
            [
                Objective.of(Table("accuracy", "%", self.accuracy), "max", costly=True, worst=self.chance),
                Objective.of(Table("latency", "ms", runs), "min", worst=slowest),
            ],
        )

    def hypervolume(self, device: str, cells: NDArray[np.int64]) -> float:
        """Of connected cells, given by number."""
        latency = self.latency_ms[device]
        cells = cells[self.connected[cells]]
        costs = np.column_stack([-self.accuracy[cells], latency[cells]])
        return pareto.hypervolume(costs, np.array([-self.chance, latency[self.connected].max()]))


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with nasbench201/")
    parser.add_argument("--devices", default="", help="device settings, separated by commas; default all")
    parser.add_argument("--accuracy", default="cifar10_test_200ep", help="column of accuracy.csv")
    parser.add_argument("--seeds", type=int, default=10, help="of searchers that are not slow")
    parser.add_argument("--searchers", default="", help="names of YAMLs, separated by commas; default all")
    parser.add_argument("--full", action="store_true", help="all seeds, devices and queries also for slow searchers")
    parser.add_argument("--again", action="store_true", help="run also what the output file has")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    bench = load(arguments.data / "nasbench201", arguments.accuracy)
    devices = [name for name in arguments.devices.split(",") if name] or list(bench.latency_ms)
    present = {p.stem: p for p in sorted(SEARCHERS.glob("*.yaml")) if "_partial_" not in p.read_text()}
    names = [name for name in arguments.searchers.split(",") if name] or [name for name in present if name != "auto"]
    for what, unknown in (("devices", set(devices) - set(bench.latency_ms)), ("searchers", set(names) - set(present))):
        if unknown:
            parser.error(f"There are no {what} {sorted(unknown)}.")
    results: dict[str, Any] = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    mine = results.setdefault(arguments.accuracy, {})
    for name in names:
        searcher = instantiate(yaml.safe_load(present[name].read_text()), _convert_="all")
        plan = ((max(QUERIES), arguments.seeds, 1),) if arguments.full or name not in SLOW else SLOW[name]
        settings = {"searcher": repr(searcher), "devices": devices, "plan": [list(part) for part in plan]}
        if arguments.again or mine.get(name, {}).get("settings") != settings:
            started = time.perf_counter()
            outcome = run_all(bench, searcher, devices, plan)
            seconds = round(time.perf_counter() - started)
            told = common.conditions("numpy", "scipy", "moocore", "optuna", wall_seconds=seconds)
            mine[name] = {"settings": settings, "conditions": told, **outcome}
            common.write(arguments.output, results)
        print(f"{name:18}", mine[name].get("refused") or json.dumps(mine[name]["summary"]), flush=True)
    print(" ".join(f"{name}={value:.4f}" for name, value in figures(mine).items()))


def run_all(bench: Bench, searcher: Searcher, devices: list[str], plan: Plan) -> dict[str, Any]:
    """All runs of a searcher: by device and queries the shares of each seed, and medians; or why it refused."""
    lengths: dict[tuple[int, str], int] = {}
    for queries, seeds, step in plan:
        for seed in range(seeds):
            for device in devices[::step]:
                lengths[seed, device] = max(queries, lengths.get((seed, device), 0))
    shares: dict[str, dict[str, list[float]]] = {}
    seconds: dict[str, list[float]] = {}
    for (seed, device), queries in lengths.items():
        try:
            found = run(bench, searcher, device, FIRST_SEED + seed, queries)
        except NasError as error:
            return {"refused": str(error)}
        for count, (share, took) in found.items():
            shares.setdefault(device, {}).setdefault(str(count), []).append(round(share, 5))
            seconds.setdefault(str(count), []).append(took)
    summary = {}
    for after, took_by_run in seconds.items():
        everything = np.concatenate([rows[after] for rows in shares.values() if after in rows])
        summary[after] = {
            "share": round(float(np.median(everything)), 5),
            "least": round(float(everything.min()), 5),
            "seconds": round(float(np.median(took_by_run)), 2),
            "runs": len(everything),
        }
    return {"summary": summary, "shares": shares}


def run(bench: Bench, searcher: Searcher, device: str, seed: int, queries: int) -> dict[int, tuple[float, float]]:
    """Share of the true hypervolume, and processor seconds, after as many queries as in `QUERIES`.

    A searcher that ends by itself keeps what it has.
    """
    problem = bench.problem(device)
    table = problem.objectives[0].predictor
    if not isinstance(table, Table):
        raise AssertionError("The accuracy is not a table.")
    started = time.process_time()
    search(problem, searcher, evaluations=queries, seed=seed)
    ended = time.process_time()
    asked = np.array(table.asked)
    if len(np.unique(asked)) != len(asked) or len(asked) > queries:
        raise AssertionError("A network was paid for twice, or too many were.")
    true = bench.hypervolume(device, np.flatnonzero(bench.connected))
    found = {}
    for count in (count for count in QUERIES if count <= queries):
        at = table.asked_at[count - 1] if count <= len(asked) else ended
        found[count] = (bench.hypervolume(device, asked[:count]) / true, at - started)
    return found


def figures(results: dict[str, Any]) -> dict[str, float]:
    """For the last line: medians of every searcher, seconds of the judged one, and on how many devices the median over
    its seeds is below that of random search."""
    made = {name: result for name, result in results.items() if "summary" in result}
    line = {
        f"{name}_{count}": row["share"] for name, result in made.items() for count, row in result["summary"].items()
    }
    if JUDGED in made:
        line[f"{JUDGED}_seconds_300"] = made[JUDGED]["summary"]["300"]["seconds"]
    if JUDGED in made and "random" in made:
        judged, random = made[JUDGED]["shares"], made["random"]["shares"]
        line[f"{JUDGED}_below_random"] = sum(
            float(np.median(shares) < np.median(random[device][count]))
            for device in judged
            if device in random
            for count, shares in judged[device].items()
        )
    return line


def load(folder: Path, accuracy: str) -> Bench:
    """The tables.

    Args:
        folder: with accuracy.csv and latency_ms.csv.
        accuracy: column of the former.
    """
    settings = common.space_settings("nasbench201")
    space = NasBench201(**settings)
    cells, latency = read(folder / "accuracy.csv"), read(folder / "latency_ms.csv")
    if accuracy not in cells[0] or accuracy.split("_")[0] not in CHANCE:
        raise SystemExit(f"accuracy.csv has no accuracy {accuracy!r}, but {list(cells[0])}.")
    if [row["index"] for row in cells] != [row["index"] for row in latency]:
        raise SystemExit("accuracy.csv and latency_ms.csv do not hold the same cells in the same order.")
    numbers = np.array([genes_of_string(row["arch_str"]) for row in cells], np.int64) @ np.array(STEPS)
    canonical = np.zeros(len(CELLS), bool)
    canonical[space.canonical(CELLS).astype(np.int64) @ np.array(STEPS)] = True

    def column(rows: list[dict[str, str]], name: str) -> Column:
        values = np.zeros(len(CELLS))
        values[numbers] = [float(row[name]) for row in rows]
        return np.where(canonical, values, np.nan)

    return Bench(
        space,
        column(cells, accuracy),
        CHANCE[accuracy.split("_")[0]],
        {name: column(latency, name) for name in latency[0] if name != "index"},
        canonical & (column(cells, "cifar10_test_200ep") > 10.01),
    )


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a csv."""
    if not path.exists():
        raise SystemExit(f"{path} does not exist: --data names the folder with nasbench201/.")
    with path.open() as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()

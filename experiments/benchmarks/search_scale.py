"""Memory and time of evolution as the population grows from 1e2 to 1e6, and pymoo's operators beside ours.

    OMP_NUM_THREADS=1 python experiments/benchmarks/search_scale.py [--pymoo FOLDER] [--largest 1000000] [--seeds 5]

once-for-all's MobileNetV3 space (45 choices), accuracy against latency, both sums over positions: a multiple of the
logarithm of each layer's MACs and a multiple of the MACs, times a random factor of the layer's kind. So the evaluation
is a table look-up, and what is timed is the searcher.

    nsga2 nsga3 moead hype  ours: one generation is ask, evaluate, tell (hype up to 1e4: `population_arrays.py`)
    loop                    `nas.core.search_loop.search` with our NSGA-II: duplicates, front and hypervolume
                            included; mean over all generations
    pymoo_nsga2 ...         pymoo's algorithms of the same name with integer sampling, uniform crossover and polynomial
                            mutation with rounding, evaluation by the same look-up; up to a population of 1e4. Its
                            duplicate elimination compares all pairs (1.6 GB for 1e4 networks): it is on where quality
                            is judged and off where time is taken

pymoo is no dependency of this project and is compared only if it can be imported from FOLDER, which needs nothing but
`pip install --target FOLDER --no-deps pymoo autograd alive_progress grapheme about_time Deprecated cma dill wrapt`.

Each row is a process of its own. Memory is what its peak resident set grows by over that of an idle process with the
problem built; seconds are the median generation, by the clock and, since other jobs may share the machine, of
processor time (`cpu`). Quality: at `--budget` evaluations and populations of 100, the share of the hypervolume that
the exact front has (`nas.core.exact_front`) which is missing, medians over seeds; pymoo's networks are
counted as often as they are evaluated. `plain_nsga2` has no mating restriction, one mutation and a random first
generation, as published.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np

from nas.core import pareto
from nas.core.exact_front import exact_front
from nas.core.problem import Objective, Problem
from nas.core.search_loop import reference_point, search
from nas.core.searcher import Searcher
from nas.searchers.hype import HypE
from nas.searchers.moead import MOEAD
from nas.searchers.nsga2 import NSGA2
from nas.searchers.nsga3 import NSGA3
from predictors import PositionTable
from search_spaces import Layer, MobileNetV3

RESULTS = common.RESULTS / "search_scale.json"
OURS: dict[str, Callable[[int], Searcher]] = {
    "nsga2": lambda population: NSGA2(population),
    "nsga3": lambda population: NSGA3(population),
    "moead": lambda population: MOEAD(population),
    "hype": lambda population: HypE(population),
}
PYMOO = ("pymoo_nsga2", "pymoo_nsga3", "pymoo_moead")
LARGEST = {"nsga2": 10**6, "nsga3": 10**6, "moead": 10**6, "loop": 10**6, "hype": 10**4} | dict.fromkeys(PYMOO, 10**4)
ROWS_TIMED = 200_000
"""Evaluations per row, but at least 3 generations and at most 20."""
SECONDS_TIMED = 20.0
"""After which no more than those 3 generations are timed."""
PLAIN = NSGA2(crossover=0.9, mutations=1.0, mates=1, initial="random")


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pymoo", type=Path, help="folder that pymoo was installed to")
    parser.add_argument("--largest", type=int, default=10**6)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=20_000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=3, metavar=("WHAT", "METHOD", "NUMBER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.pymoo:
        sys.path.append(str(arguments.pymoo))  # behind: the numpy of this environment
    if arguments.one:
        what, method, number = arguments.one
        found = scale(method, int(number)) if what == "scale" else quality(method, int(number), arguments.budget)
        print(json.dumps(found))
        return

    methods = [*OURS, "loop", *(PYMOO if arguments.pymoo else ())]
    start = time.perf_counter()
    idle = child(arguments, "scale", "idle", 0)["peak_mb"]
    rows: dict[str, dict[str, float]] = {}
    for population in (10**power for power in range(2, 7)):
        for method in methods:
            if population > min(arguments.largest, LARGEST[method]):
                continue
            row = child(arguments, "scale", method, population)
            row["memory_mb"] = row.pop("peak_mb") - idle
            rows[f"{method}_{population}"] = row
            print(f"{method:12} {population:8} {json.dumps({k: round(v, 5) for k, v in row.items()})}", flush=True)
    gaps: dict[str, list[float]] = {}
    for seed in range(arguments.seeds):
        for method in (*OURS, "plain_nsga2", *(PYMOO if arguments.pymoo else ())):
            gaps.setdefault(method, []).append(child(arguments, "quality", method, seed)["gap_percent"])
    for method, values in gaps.items():
        print(f"{method:12} gap {statistics.median(values):.3f} % ({min(values):.3f} to {max(values):.3f})", flush=True)

    figures = {
        **{f"{name}_s": row["seconds"] for name, row in rows.items()},
        **{f"{name}_cpu_s": row["cpu_seconds"] for name, row in rows.items()},
        **{f"{name}_mb": row["memory_mb"] for name, row in rows.items() if name.startswith(("loop", "nsga2"))},
        **{f"{name}_gap_percent": statistics.median(values) for name, values in gaps.items()},
    }
    packages = ["numpy", "scipy", "moocore", *(["pymoo"] if arguments.pymoo else [])]
    conditions = common.conditions(*packages, seconds=round(time.perf_counter() - start), idle_mb=idle)
    common.write(arguments.output, {"conditions": conditions, "figures": figures, "rows": rows, "gaps_percent": gaps})
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))


def child(arguments: argparse.Namespace, what: str, method: str, number: int) -> dict[str, float]:
    """Runs one row in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, __file__, "--one", what, method, str(number), "--budget", str(arguments.budget)]
    command += ["--pymoo", str(arguments.pymoo)] if arguments.pymoo else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{method} {number} failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# -- in the child ------------------------------------------------------------------------------------------------------


def additive_problem() -> Problem:
    """See the top of the file."""
    settings = common.space_settings("ofa_mobilenet_v3")
    space, rng = MobileNetV3(**settings), np.random.default_rng(7)
    factors: dict[Layer, tuple[float, float]] = {}

    def factor(layer: Layer) -> tuple[float, float]:
        kind = dataclasses.replace(layer, size=32)  # type: ignore[call-arg]  # all layers of the space have a size
        return factors.setdefault(kind, (1 + 0.1 * rng.normal(), float(np.exp(0.2 * rng.normal()))))

    accuracy = PositionTable.of_layers(
        space, "accuracy", "1", lambda layer: 0.002 * np.log1p(layer.macs) * factor(layer)[0]
    )
    latency = PositionTable.of_layers(space, "latency", "ms", lambda layer: 0.05 + 1e-7 * layer.macs * factor(layer)[1])
    return Problem(space, [Objective.of(accuracy, "max"), Objective.of(latency, "min")])


def scale(method: str, population: int) -> dict[str, float]:
    """Seconds of a generation, by the clock and of the processor, and the peak memory of this process."""
    problem = additive_problem()
    problem.evaluate(problem.space.sample(1000, np.random.default_rng(0)))
    count = max(3, min(20, ROWS_TIMED // max(population, 1)))
    wall: list[float] = []
    cpu: list[float] = []
    if method == "loop":
        started = time.perf_counter(), time.process_time()
        found = search(problem, NSGA2(population), evaluations=(1 + count) * population, seed=0)
        wall = [(time.perf_counter() - started[0]) / len(found.history)]
        cpu = [(time.process_time() - started[1]) / len(found.history)]
    elif method != "idle":
        generations = ours(problem, OURS[method](population)) if method in OURS else pymoo(problem, method, population)
        next(generations)  # the first one is random
        while len(wall) < count and (len(wall) < 3 or sum(wall) < SECONDS_TIMED):
            started = time.perf_counter(), time.process_time()
            next(generations)
            wall.append(time.perf_counter() - started[0])
            cpu.append(time.process_time() - started[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    return {
        "seconds": statistics.median(wall) if wall else 0.0,
        "cpu_seconds": statistics.median(cpu) if cpu else 0.0,
        "peak_mb": peak,
    }


def quality(method: str, seed: int, budget: int) -> dict[str, float]:
    """What a search lacks of the exact front's hypervolume."""
    problem = additive_problem()
    reference = reference_point(problem)
    volume = exact_front(problem).hypervolume_bound(reference)
    if method in PYMOO:
        generations = pymoo(problem, method, 100, seed=seed, unique=True)
        values = np.concatenate([next(generations) for _ in range(budget // 100)])
    else:
        searcher = PLAIN if method == "plain_nsga2" else OURS[method](100)
        values = search(problem, searcher, evaluations=budget, seed=seed).values
    return {"gap_percent": 100 * (1 - pareto.hypervolume(problem.costs(values), reference) / volume)}


def ours(problem: Problem, searcher: Searcher) -> Iterator[None]:
    """Generation after generation, without the loop's bookkeeping."""
    state, rng = searcher.init(problem), np.random.default_rng(0)
    while True:
        genes = searcher.ask(problem, state, searcher.batch, rng)
        state = searcher.tell(problem, state, genes, problem.evaluate(genes))
        yield


def pymoo(problem: Problem, method: str, population: int, *, seed: int = 0, unique: bool = False) -> Iterator[Any]:
    """Generation after generation; gives the values of what was evaluated."""
    from pymoo.algorithms.moo.moead import MOEAD as PymooMOEAD
    from pymoo.algorithms.moo.nsga2 import NSGA2 as PymooNSGA2
    from pymoo.algorithms.moo.nsga3 import NSGA3 as PymooNSGA3
    from pymoo.core.problem import Problem as PymooProblem
    from pymoo.operators.crossover.ux import UX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.util.ref_dirs import get_reference_directions

    space, told = problem.space, []

    class Same(PymooProblem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n_var=len(space.choices), n_obj=2, xl=0, xu=space.cardinalities.astype(int) - 1, vtype=int)

        def _evaluate(self, x: Any, out: dict[str, Any], *arguments: Any, **keywords: Any) -> None:
            values = problem.evaluate(space.canonical(np.atleast_2d(x).astype(np.int16)))
            told.append(values)
            out["F"] = problem.costs(values)

    operators: dict[str, Any] = {
        "sampling": IntegerRandomSampling(),
        "crossover": UX(prob=0.9),
        "mutation": PM(prob=1.0, prob_var=1 / len(space.choices), eta=3, vtype=float, repair=RoundingRepair()),
    }
    if method == "pymoo_nsga2":
        algorithm: Any = PymooNSGA2(pop_size=population, eliminate_duplicates=unique, **operators)
    else:
        lines = get_reference_directions("das-dennis", 2, n_partitions=population - 1)
        if method == "pymoo_nsga3":
            algorithm = PymooNSGA3(lines, pop_size=population, eliminate_duplicates=unique, **operators)
        else:
            algorithm = PymooMOEAD(lines, n_neighbors=20, prob_neighbor_mating=0.9, **operators)
    algorithm.setup(Same(), termination=("n_gen", 10**9), seed=seed, verbose=False)
    while True:
        told.clear()
        while sum(map(len, told)) < population:  # its MOEA/D makes one child at a time
            algorithm.next()
        yield np.concatenate(told)


if __name__ == "__main__":
    main()

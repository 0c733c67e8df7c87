"""Populations as arrays: NumPy beside torch, and the searchers that rank by hypervolume or by a tree beside NSGA-II.

    OMP_NUM_THREADS=1 python experiments/benchmarks/population_arrays.py [--parts quality,arrays] [--largest 100000]

once-for-all's MobileNetV3 space with sums over positions as in search_scale.py, so that an evaluation is a table
look-up: accuracy up and latency down, with 3 goals the peak memory down too, with 5 the parameters and the latency of
a second device.

quality     hypervolume after `--evaluations`, medians over `--seeds`, of searchers as their YAMLs set them, as a share
            of what the union of all fronts of all runs has; seconds of processor time.
arrays      milliseconds of a generation's `ask` and `tell` (medians of `--generations`, the first two not counted), at
            populations of 1e3 to `--largest`, by NumPy, by torch on the processor, and by torch on a GPU where there is
            one. Children and evaluations are NumPy's in all three and are not counted in `tell`. Survivors have to be
            equal in all three, to the last bit, else it fails. HypE estimates from 1,000 points in one round here.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
import yaml
from hydra.utils import instantiate
from search_scale import additive_problem

from nas.core import pareto
from nas.core.arrays import Device, placed
from nas.core.problem import Objective, Problem
from nas.core.search_loop import reference_point, search
from nas.core.searcher import Searcher
from nas.searchers import hype, moead, nsga2, nsga3
from predictors import PositionTable
from search_spaces import Layer

RESULTS = common.RESULTS / "population_arrays.json"
COMPARED = ("nsga2", "hype", "mcts", "nsga3", "random")
GOALS = (2, 3, 5)
SEARCHERS: dict[str, Callable[[int, Device], Searcher]] = {
    "nsga2": lambda population, device: nsga2.NSGA2(population, device=device),
    "nsga3": lambda population, device: nsga3.NSGA3(population, device=device),
    "moead": lambda population, device: moead.MOEAD(population, device=device),
    "hype": lambda population, device: hype.HypE(population, samples=1000, rounds=1, device=device),
}
MODULES = (nsga2, nsga3, moead, hype)


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="quality,arrays", help="which to run, separated by commas")
    parser.add_argument("--largest", type=int, default=10**5)
    parser.add_argument("--generations", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := set(parts) - {"quality", "arrays"}:
        parser.error(f"There are no parts {sorted(unknown)}.")
    started = time.perf_counter()
    rows: dict[str, Any] = {}
    if "quality" in parts:
        rows["quality"] = quality(arguments.evaluations, arguments.seeds)
    if "arrays" in parts:
        rows["arrays"] = arrays(arguments.largest, arguments.generations)
    told = common.conditions(
        "numpy", "torch", "moocore", "array-api-compat", seconds=round(time.perf_counter() - started)
    )
    if torch.cuda.is_available():
        told["gpu"] = torch.cuda.get_device_name()
    common.write(arguments.output, {"conditions": told, **rows})


def problem_of(goals: int) -> Problem:
    """See the top of the file."""
    problem = additive_problem()
    space, rng = problem.space, np.random.default_rng(8)
    factors: dict[Layer, float] = {}

    def second(layer: Layer) -> float:
        return 0.05 + 1e-7 * layer.macs * factors.setdefault(layer, float(np.exp(0.5 * rng.normal())))

    more = [
        PositionTable.of_layers(space, "memory", "1", lambda layer: layer.peak_elements, combine="max"),
        PositionTable.of_layers(space, "params", "1", lambda layer: layer.params),
        PositionTable.of_layers(space, "second_latency", "ms", second),
    ]
    return Problem(space, [*problem.objectives, *(Objective.of(table, "min") for table in more)][:goals])


# -- quality at equal evaluations --------------------------------------------------------------------------------------


def quality(evaluations: int, seeds: int) -> dict[str, dict[str, float]]:
    """Share of the hypervolume of all fronts together, median and least over seeds, by searcher and number of goals."""
    found: dict[str, dict[str, float]] = {}
    for goals in GOALS:
        problem = problem_of(goals)
        fronts: dict[str, list[np.ndarray]] = {}
        seconds: dict[str, list[float]] = {}
        for name in COMPARED:
            searcher = instantiate(yaml.safe_load((common.CONF / "searcher" / f"{name}.yaml").read_text()))
            for seed in range(seeds):
                begun = time.process_time()
                result = search(problem, searcher, evaluations=evaluations, seed=seed)
                seconds.setdefault(name, []).append(time.process_time() - begun)
                fronts.setdefault(name, []).append(problem.costs(result.values))
        reference = reference_point(problem)
        union = np.concatenate([front for several in fronts.values() for front in several])
        whole = pareto.hypervolume(union[pareto.front(union)], reference)
        for name, several in fronts.items():
            shares = [pareto.hypervolume(front, reference) / whole for front in several]
            found[f"{name}_{goals}"] = {
                "share": round(statistics.median(shares), 4),
                "least": round(min(shares), 4),
                "seconds": round(statistics.median(seconds[name]), 2),
            }
            print(f"quality {name:8} {goals} goals", found[f"{name}_{goals}"], flush=True)
    return found


# -- NumPy and torch ---------------------------------------------------------------------------------------------------


def arrays(largest: int, generations: int) -> dict[str, dict[str, float]]:
    """Milliseconds of `ask` and `tell`, by searcher, number of goals, population and kind of array."""
    kinds = ["numpy", "torch_cpu", *(["torch_cuda"] if torch.cuda.is_available() else [])]
    found: dict[str, dict[str, float]] = {}
    for goals in GOALS:
        problem = problem_of(goals)
        for population in (10**power for power in range(3, 7) if 10**power <= largest):
            for name in SEARCHERS:
                survivors = []
                for kind in kinds:
                    if kind == "torch_cpu" and goals > 3 and population > 10**4:
                        continue  # minutes: a processor has better ways than to compare all pairs
                    row, kept = generation(problem, name, population, kind, generations)
                    survivors.append(kept)
                    found[f"{name}_{goals}_{population}_{kind}"] = row
                    print(f"arrays {name:6} {goals} goals {population:7} {kind:10}", row, flush=True)
                if any(not np.array_equal(survivors[0], other) for other in survivors):
                    raise AssertionError(f"{name} keeps other networks with another kind of array.")
    return found


def generation(
    problem: Problem, name: str, population: int, kind: str, generations: int
) -> tuple[dict[str, float], np.ndarray]:
    """Medians of a generation, and the last survivors."""
    searcher = SEARCHERS[name](population, "cuda" if kind == "torch_cuda" else "cpu")
    for module in MODULES:
        module.placed = _tensors if kind == "torch_cpu" else placed  # type: ignore[attr-defined]
    state, rng = searcher.init(problem), np.random.default_rng(0)
    took: dict[str, list[float]] = {"ask_ms": [], "tell_ms": []}
    for number in range(2 + generations):
        begun = time.perf_counter()
        genes = searcher.ask(problem, state, population, rng)
        asked = time.perf_counter()
        values = problem.evaluate(genes)
        evaluated = time.perf_counter()
        state = searcher.tell(problem, state, genes, values)
        if number >= 2:
            took["ask_ms"].append(1000 * (asked - begun))
            took["tell_ms"].append(1000 * (time.perf_counter() - evaluated))
    return {name: round(statistics.median(values), 2) for name, values in took.items()}, state["genes"]


def _tensors(device: Device, *given: np.ndarray) -> list[torch.Tensor]:
    """Tensors on the processor, which no setting asks for: what a GPU would compute, without one."""
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in given]


if __name__ == "__main__":
    main()

"""How many predictions a second: lookup table, a walk over a dictionary as once-for-all's tables are read, and an MLP.

    OMP_NUM_THREADS=1 python experiments/benchmarks/predictor_speed.py

once-for-all's MobileNetV3 space, one core, from genes to values; median of nine repetitions. Rates are per second of
wall clock and, since other jobs may share the machine, of processor time. The last line has, for populations of 10,000
and 100,000, the slower one (goals: lookup >= 2e6, MLP of 128-400-400-400-1 >= 1e5 architectures/s).

The MLP's weights are random: its speed does not depend on them.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np

from predictors import PositionTable
from predictors.features import encode
from predictors.mlp import once_for_all_accuracy
from predictors.regression import Regression
from search_spaces import Architecture, Genes, Layer, MobileNetV3
from search_spaces.base.storage import write_arrays

RESULTS = common.RESULTS / "predictor_speed.json"
REPETITIONS = 9
POPULATIONS = (10_000, 100_000)
WALKED = 2_000
"""Architectures that the walk is timed on: at its speed more would take minutes."""
PUBLISHED_WALK = 1_500
"""Architectures per second that once-for-all's own code walks."""
SHAPE = (128, 400, 400, 400, 1)
"""Of once-for-all's accuracy predictor."""


def rates(operation: Callable[[], object], n: int) -> dict[str, float]:
    """Median rows per second, of wall clock and of processor time, of an operation on n rows."""
    operation()
    wall, cpu = [], []
    for _ in range(REPETITIONS):
        started = time.perf_counter(), time.process_time()
        operation()
        wall.append(n / (time.perf_counter() - started[0]))
        cpu.append(n / (time.process_time() - started[1]))
    return {"wall": statistics.median(wall), "cpu": statistics.median(cpu)}


def walk(space: MobileNetV3, table: dict[Layer, float], genes: Genes) -> list[float]:
    """One architecture after the other, checked and lowered, then one dictionary look-up per layer."""
    found = []
    for row in genes:
        latency = 0.0
        for layer in space.lower(Architecture(space, row)).values():
            latency += table[layer]
        found.append(latency)
    return found


def random_accuracy(space: MobileNetV3, rng: np.random.Generator) -> Regression:
    """A predictor of once-for-all's form."""
    arrays = {}
    for layer, (a, b) in enumerate(itertools.pairwise(SHAPE)):
        arrays[f"{2 * layer}.weight"] = (rng.normal(size=(b, a)) * np.sqrt(2 / a)).astype(np.float32)
        arrays[f"{2 * layer}.bias"] = rng.normal(size=b).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        write_arrays(Path(folder) / "accuracy.npz", arrays)
        return once_for_all_accuracy(space, file=Path(folder) / "accuracy.npz")


def main() -> None:
    """Run, print, write."""
    settings = common.space_settings("ofa_mobilenet_v3")
    space, rng = MobileNetV3(**settings), np.random.default_rng(0)
    table = {layer: 0.01 + 1e-7 * layer.macs for layer in space.distinct_layers}
    lookup = PositionTable.of_layers(space, "latency", "ms", table.__getitem__)
    mlp = random_accuracy(space, rng)

    genes = space.sample(WALKED, rng)
    if not np.allclose(walk(space, table, genes), lookup.predict(genes), rtol=1e-12):
        raise AssertionError("The walk and the lookup predict other latencies.")
    rows = {f"walk {WALKED}": rates(lambda: walk(space, table, genes), WALKED)}
    for n in POPULATIONS:
        population = space.sample(n, rng)
        features = encode(space, population, ("once_for_all",))
        operations: dict[str, Callable[[], object]] = {
            "lookup": functools.partial(lookup.predict, population),
            "mlp": functools.partial(mlp.predict, population),
            "mlp from features": functools.partial(mlp.model.fitted.predict, features),
        }
        rows |= {f"{name} {n}": rates(operation, n) for name, operation in operations.items()}
    for name, row in rows.items():
        print(f"{name:26} {row['wall']:.3g}/s, {row['cpu']:.3g} per second of processor time", flush=True)

    figures = {
        f"{name}_per_{clock}_s": min(row[clock] for key, row in rows.items() if key.rpartition(" ")[0] == name)
        for name in ("lookup", "mlp", "walk")
        for clock in ("wall", "cpu")
    }
    figures["lookup_over_walk"] = figures["lookup_per_cpu_s"] / figures["walk_per_cpu_s"]
    figures["published_walk_per_s"] = PUBLISHED_WALK
    conditions = common.conditions("numpy")
    common.write(RESULTS, {"conditions": conditions, "figures": figures, "rows": rows})
    print(" ".join(f"{name}={value:.3g}" for name, value in figures.items()))


if __name__ == "__main__":
    main()

"""Does memory traffic tell more about latency than multiply-accumulates alone? Networks of all spaces, measured.

    python experiments/benchmarks/efficiency.py [--networks 120] [--device host_ort] [--spaces NAME,...] [--splits 20]

As many random networks of each shipped space that the device can run, none above `--most-gmacs`, are measured
`--rounds` times in shuffled order; their means are the truth. Counts are exact: MACs, words of memory traffic at an
on-chip buffer of `--buffer-kib` (0: every operator's inputs, weights and output) and activations (what convolutions
and linear layers write).

Each set of counts is fitted by non-negative linear least squares of relative errors,

    ms = a + sum of b_i * count_i,  each network weighted by 1 / ms,

so that a is the time of a call, and 1 / b_i are rates of work and of memory. On held-out networks R2 is that of log ms,
as latencies of all spaces span three decades, and the error is the median relative one; both are means over `--splits`
random splits in two halves. Harder: each space is held out as a whole, and predicted from the others
(`_unseen_space`). Beside it a power law, log ms = a + sum of b_i * log count_i (`_power_law`).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import common
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from tqdm import tqdm

from hardware_profiles import DeviceProfile, Measurement, Model, load_device
from hardware_profiles.backends.base import Backend
from hardware_profiles.measure import Measurer
from predictors import activations, macs, traffic
from search_spaces import Architecture
from search_spaces.base.errors import MeasurementError, NasError
from search_spaces.loading import known_spaces, load_space
from search_spaces.space import SearchSpace

RESULTS = common.RESULTS / "efficiency.json"
SEED = 2026
SETS = {
    "macs": ("macs",),
    "traffic": ("traffic",),
    "macs_traffic": ("macs", "traffic"),
    "macs_traffic_activations": ("macs", "traffic", "activations"),
}
"""Sets of counts that are compared."""

Matrix = NDArray[np.float64]


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=120, help="of all spaces together")
    parser.add_argument("--device", default="host_ort")
    parser.add_argument("--spaces", default=",".join(known_spaces()))
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each network")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--buffer-kib", type=float, default=0.0)
    parser.add_argument("--most-gmacs", type=float, default=4.0, help="larger networks are not drawn")
    arguments = parser.parse_args()
    device = load_device(arguments.device)
    conditions = common.conditions("onnxruntime", "numpy")

    names = arguments.spaces.split(",")
    each, rng, rows = -(-arguments.networks // len(names)), np.random.default_rng(SEED), []
    backend = device.open()
    try:
        models: dict[tuple[str, Architecture], Model] = {}
        for name in names:
            space = load_space(name)
            try:
                drawn = draw(space, each, 1e9 * arguments.most_gmacs, rng)
                models |= runnable(backend, name, drawn)
                print(f"{name}: {len(drawn)} networks", flush=True)
            except NasError as error:
                print(f"{name}: left out: {error}", flush=True)
        taken = [measured(backend, device, models, f"round {r + 1}") for r in range(arguments.rounds)]
    finally:
        backend.close()
    truth = np.mean(taken, 0)
    for (name, network), ms, first, last in zip(models, truth, taken[0], taken[-1], strict=True):
        rows.append({"space": name, "choices": network.values, "ms": ms, "noise": max(first, last) / min(first, last)})
    counts = counts_of(list(models), int(arguments.buffer_kib * 1024 // 4))
    for row, *values in zip(rows, *counts.values(), strict=True):
        row |= dict(zip(counts, values, strict=True))
    groups = np.array([row["space"] for row in rows])
    found = figures(counts, truth, groups, arguments.splits)
    common.write(RESULTS, {"conditions": conditions, "figures": found, "networks": rows})
    print(
        f"{len(rows)} networks of {len(set(groups.tolist()))} spaces, {truth.min():.3g} to {truth.max():.3g} ms, "
        f"median noise ×{np.median([row['noise'] for row in rows]):.3f}"
    )
    print(" ".join(f"{name}={value:.4g}" for name, value in found.items()))


def draw(space: SearchSpace, n: int, most_macs: float, rng: np.random.Generator) -> list[Architecture]:
    """Random networks of a space, distinct, none with more MACs; fewer where there are not so many."""
    genes = np.unique(space.sample(50 * n, rng), axis=0)
    genes = rng.permutation(genes[macs(space).predict(genes) <= most_macs])[:n]
    return [Architecture(space, row) for row in genes]


def runnable(backend: Backend, name: str, networks: Sequence[Architecture]) -> dict[tuple[str, Architecture], Model]:
    """Models of networks.

    Raises:
        NasError: the device cannot run the first, or lacks an operator of it.
    """
    models = {(name, network): Model(network.layers) for network in networks}
    for model in list(models.values())[:1]:
        backend.load(model)
    return models


def measured(
    backend: Backend, device: DeviceProfile, models: Mapping[tuple[str, Architecture], Model], title: str
) -> Matrix:
    """Milliseconds of models, in their order."""
    found: dict[Any, float] = {}
    measurer = Measurer(backend, device, np.random.default_rng(SEED))
    with tqdm(total=len(models), desc=f"{device.name}: {title}", disable=None, leave=False) as progress:
        for item, result in measurer.measure(list(models.items())):
            if isinstance(result, MeasurementError):
                raise result
            assert isinstance(result, Measurement)
            found[item] = result.latency_ms
            progress.update()
    return np.array([found[item] for item in models])


def counts_of(networks: Sequence[tuple[str, Architecture]], buffer_words: int) -> dict[str, Matrix]:
    """Counts of networks by name, each (n,)."""
    found: dict[str, list[float]] = {"macs": [], "traffic": [], "activations": []}
    tables: dict[str, dict[str, Any]] = {}
    for name, network in networks:
        if name not in tables:
            space = network.space
            tables[name] = {
                "macs": macs(space),
                "traffic": traffic(space, buffer_words),
                "activations": activations(space),
            }
        for metric, table in tables[name].items():
            found[metric].append(float(table.predict(network.genes[None])[0]))
    return {metric: np.array(values) for metric, values in found.items()}


def figures(counts: Mapping[str, Matrix], ms: Matrix, groups: NDArray[np.str_], splits: int) -> dict[str, float]:
    """Held-out figures of each set of counts.

    Args:
        counts: by name, each (n,).
        ms: latencies (n,).
        groups: space of each network, (n,).
        splits: random ones.
    """
    found: dict[str, float] = {"networks": float(len(ms)), "spaces": float(len(set(groups.tolist())))}
    halves = [np.random.default_rng(seed).permutation(len(ms)) < len(ms) // 2 for seed in range(splits)]
    spaces = [groups != group for group in sorted(set(groups.tolist()))]
    for title, names in SETS.items():
        some = np.column_stack([counts[name] for name in names])
        predicted = [additive(some, ms, half)[~half] for half in halves]
        pairs = [(ms[~half], values) for half, values in zip(halves, predicted, strict=True)]
        scores = [r2(np.log(truth), np.log(values)) for truth, values in pairs]
        found[f"r2_{title}"], found[f"r2_{title}_std"] = float(np.mean(scores)), float(np.std(scores))
        found[f"error_{title}"] = float(np.mean([np.median(np.abs(values / truth - 1)) for truth, values in pairs]))
        powers = [r2(np.log(ms[~half]), np.log(power_law(some, ms, half)[~half])) for half in halves]
        found[f"r2_{title}_power_law"] = float(np.mean(powers))
        unseen = np.zeros(len(ms))
        for seen in spaces:
            unseen[~seen] = additive(some, ms, seen)[~seen]
        found[f"r2_{title}_unseen_space"] = r2(np.log(ms), np.log(unseen))
    return found


def additive(counts: Matrix, ms: Matrix, rows: NDArray[np.bool_]) -> Matrix:
    """Milliseconds (n,) that rates not below 0 predict from counts (n, c), fitted on some of the rows."""
    scales = counts.max(0)
    columns = np.column_stack([np.ones(len(ms)), counts / scales])
    return np.asarray(columns @ nnls(columns[rows] / ms[rows, None], np.ones(int(rows.sum())))[0])


def power_law(counts: Matrix, ms: Matrix, rows: NDArray[np.bool_]) -> Matrix:
    """Milliseconds (n,) that a product of powers predicts from counts (n, c), fitted on some of the rows."""
    columns = np.column_stack([np.ones(len(ms)), np.log(counts)])
    return np.asarray(np.exp(columns @ np.linalg.lstsq(columns[rows], np.log(ms[rows]), rcond=None)[0]))


def r2(truth: Matrix, predicted: Matrix) -> float:
    """Coefficient of determination."""
    return 1 - float(((truth - predicted) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())


if __name__ == "__main__":
    main()

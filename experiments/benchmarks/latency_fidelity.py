"""Do predicted latencies hold? Random whole networks that no fit has seen, measured, beside what is predicted for them.

    python experiments/benchmarks/latency_fidelity.py [--devices NAME,...] [--networks 200] [--rounds 4]

Space: once-for-all's MobileNetV3 at 224 pixels. Per device the space is profiled in context and layer by layer (both
with the shipped settings, at most 20 minutes each). The networks are measured `--rounds` times, half of them before
and half after, and their means are the truth: single measurements are noisier than the differences between networks. On
a device of estimates the compiler's figure of the whole network is the truth. Predictors: the lookup table in
context and of layers alone, each with its whole-network correction; beside them the plain sum of blocks (layers
alone), the plain sum of operators alone, and a line in MACs. The noise floor is the last
measurement against the first. Devices that are not asked for keep their rows of an earlier run in the results.

Goals on host_ort: within 10 % >= 99 %, within 5 % >= 90 %, Kendall tau >= 0.95.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hardware_profiles import LatencyTable, Measurement, Model, load_device
from hardware_profiles.backends.base import Backend
from hardware_profiles.device import DeviceProfile
from hardware_profiles.measure import Measurer
from nas.run.network_log import NetworkLog
from nas.run.networks import distinct_networks
from nas.run.profiling import DeviceProfiling
from nas.run.settings import ProfileSettings
from predictors import CorrectedLookup, plain_sum, quality, sums_left_out
from predictors.position_table import macs
from search_spaces import Architecture, Layer, MobileNetV3
from search_spaces.base.errors import MeasurementError
from search_spaces.counting import operators
from search_spaces.ops.pooling import GlobalPool
from search_spaces.program import Op, Shape, Traced

RESULTS = common.RESULTS / "latency_fidelity.json"
BUDGET = "20min"
SEED = 2026


@dataclasses.dataclass(frozen=True)
class Alone(Layer):
    """One operator of a layer as a layer of its own."""

    op: Op
    shapes: tuple[Shape, ...]

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return self.shapes[:1]

    def define(self, x: Traced) -> Traced:
        if len(self.shapes) > 1 and self.shapes[1] != self.shapes[0]:  # the factor of a product
            return self.op(x, GlobalPool()(x))
        return self.op(*[x] * len(self.shapes))


def operators_of(layer: Layer) -> list[Alone]:
    """The operators that a layer is made of."""
    found = []
    for op, inputs, _ in operators(layer.program):
        named = dataclasses.replace(op, name="op") if hasattr(op, "name") else op
        found.append(Alone(named, inputs))
    return found


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="host_ort,host_tvm,ethos_u65_512")
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=4, help="measurements of each network, 2 or more")
    arguments = parser.parse_args()
    settings = common.space_settings("ofa_mobilenet_v3")
    space = MobileNetV3(**{**settings, "resolutions": [224]})

    conditions = common.conditions("onnxruntime", "apache-tvm", "ethos-u-vela", "numpy")
    rows: dict[str, Any] = {}
    for name in arguments.devices.split(","):
        with tempfile.TemporaryDirectory(prefix="hwnas-fidelity-") as folder:
            rows[name] = fidelity(space, load_device(name), Path(folder), arguments.networks, arguments.rounds)
        for predictor, found in rows[name]["quality"].items():
            print(f"{name} {predictor:34} " + " ".join(f"{k}={found[k]:.4f}" for k in FIGURES), flush=True)
        print(f"{name} seconds {rows[name]['seconds']}", flush=True)

        rows[name]["conditions"] = conditions

    all_rows = (json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}) | rows
    common.write(RESULTS, {"figures": figures(all_rows), "rows": all_rows})
    print(" ".join(f"{name}={value:.4g}" for name, value in figures(rows).items()))


FIGURES = ("within_10", "within_5", "kendall_tau", "mape")


def figures(rows: Mapping[str, Any]) -> dict[str, float]:
    """The figures of each device."""
    return {
        f"{name}_{key}": row["quality"]["in context, corrected"][key] for name, row in rows.items() for key in FIGURES
    }


def fidelity(space: MobileNetV3, device: DeviceProfile, folder: Path, n: int, rounds: int) -> dict[str, Any]:
    """Quality of every predictor on unseen networks of one device."""
    unseen = distinct_networks(space, n + 2, np.random.default_rng(SEED))[2:]
    genes = np.stack([architecture.genes for architecture in unseen])
    seconds: dict[str, float] = {}
    backend = device.open()
    try:
        models = {a: Model(space.lower(a)) for a in unseen}
        taken = [measured(backend, device, models, f"networks, round {r + 1}", seconds) for r in range(rounds // 2)]
        predicted: dict[str, NDArray[np.float64]] = {}
        terms: dict[str, Any] = {}
        for method in ("in_context", "isolated"):
            table, networks = profiled(space, device, backend, folder / method, method, seconds)
            layers = plain_sum(space, table)
            fit = {a: m for a, m in networks.rows("fit").items() if a not in unseen}
            fit_genes = np.stack([a.genes for a in fit])
            fit_ms = np.array([m.latency_ms for m in fit.values()])
            lookup = CorrectedLookup(layers)
            lookup.fit(fit_genes, fit_ms, sums=sums_left_out(space, table, fit_genes))
            name = method.replace("_", " ")
            predicted[f"{name}, corrected"] = lookup.predict(genes)
            predicted["plain sum of blocks" if method == "isolated" else "plain sum in context"] = layers.predict(genes)
            terms[name] = {"fitted_on": len(fit), **lookup.terms}
            work = macs(space)
            line = np.polyfit(work.predict(fit_genes), fit_ms, 1, w=1 / fit_ms)
            predicted["linear in MACs"] = np.asarray(np.polyval(line, work.predict(genes)))
        try:
            predicted["plain sum of operators"] = sum_of_operators(space, device, backend, unseen, seconds)
        except MeasurementError as error:
            print(f"{device.name}: no sum of operators: {error}", flush=True)
        for r in range(rounds // 2, rounds):
            taken.append(measured(backend, device, models, f"networks, round {r + 1}", seconds))
    finally:
        backend.close()
    truth = np.mean(taken, 0)
    found = {name: quality(truth, values).to_json() for name, values in predicted.items()}
    found["noise floor"] = quality(taken[0], taken[-1]).to_json()
    about = {"networks": n, "rounds": rounds, "ms": [float(truth.min()), float(truth.max())]}
    return {**about, "quality": found, "terms": terms, "seconds": seconds}


def measured(
    backend: Backend,
    device: DeviceProfile,
    models: Mapping[Any, Model],
    title: str,
    seconds: dict[str, float],
) -> NDArray[np.float64]:
    """Milliseconds of models, in their order."""
    started = time.perf_counter()
    measurer = Measurer(backend, device, np.random.default_rng(0))
    found: dict[Any, Measurement] = {}
    with tqdm(total=len(models), desc=f"{device.name}: {title}", disable=None, leave=False) as progress:
        for item, result in measurer.measure(list(models.items())):
            if not isinstance(result, Measurement):
                raise result
            found[item] = result
            progress.update()
    slow = [item for item, m in found.items() if measurer.was_slow(m)]
    found |= {i: m for i, m in measurer.measure([(i, models[i]) for i in slow]) if isinstance(m, Measurement)}
    seconds[title] = round(time.perf_counter() - started, 1)
    return np.array([found[item].latency_ms for item in models])


def profiled(
    space: MobileNetV3,
    device: DeviceProfile,
    backend: Backend,
    folder: Path,
    method: str,
    seconds: dict[str, float],
) -> tuple[LatencyTable, NetworkLog]:
    """A profile as `nas profile` makes it."""
    started = time.perf_counter()
    settings = ProfileSettings(20, 10, method=method, budget=BUDGET)

    def rng_of(*purpose: int | str) -> np.random.Generator:
        return np.random.default_rng([SEED, len(str(purpose))])

    DeviceProfiling(space, device, backend, settings, folder, rng_of, lambda text: print(text, flush=True)).run()
    seconds[f"profile {method}"] = round(time.perf_counter() - started, 1)
    return LatencyTable.read(folder / "table.jsonl"), NetworkLog.read(folder / "networks.jsonl", space)


def sum_of_operators(
    space: MobileNetV3,
    device: DeviceProfile,
    backend: Backend,
    networks: Sequence[Architecture],
    seconds: dict[str, float],
) -> NDArray[np.float64]:
    """Sums of what every operator takes alone."""
    parts = {layer: operators_of(layer) for layer in space.distinct_layers}
    distinct = list(dict.fromkeys(operator for found in parts.values() for operator in found))
    ms = measured(backend, device, {o: Model.of_layer(o) for o in distinct}, "operators", seconds)
    cost = dict(zip(distinct, ms, strict=True))
    return np.array([sum(cost[o] for layer in space.lower(a).values() for o in parts[layer]) for a in networks])


if __name__ == "__main__":
    main()

"""Differentiable searchers side by side: what they find at a latency limit, and what a search costs.

    OMP_NUM_THREADS=1 python experiments/benchmarks/differentiable.py --data DATA [--methods darts,fbnet] [--seeds 3]

All methods that have a YAML, with its settings but for epochs, images and the learning rate of the weights, which so
few steps need higher, on small parts of CIFAR-10 (the packed JPEGs of quality 75, scaled down to 16 pixels), on one
thread of the CPU. Seconds are of the processor.

Cells: NAS-Bench-201's space with 8 channels and one cell per stage; the latency is the published one of whole cells on
`--device`, its limit a quantile over all cells, and the mean over probabilities is exact. Figures per method: the true
accuracy (CIFAR-10 test, 200 epochs) and the true latency, as a share of the limit, of the cell that is found, median
over seeds; seconds per epoch; memory that a step holds for the backward pass, as a multiple of one network's. Beside it
`random`: as many random cells within the limit as can be trained alone, on the same images for as many epochs, in the
median time of a search (validation accuracy chooses), and the mean and the best of all cells within the limit.
Published figures, of searches on all of CIFAR-10 without a limit, are in the results.

Mobile: a MobileNetV3 space for these images, latency of layers measured on this computer by ONNX Runtime, limit: half
way from the fastest to the slowest network. Each method's network is trained alone; figure: its test accuracy. Beside
it NSGA-II on a once-for-all supernet, which trains and evaluates as long as the median method searches.

A part that is not asked for keeps what an earlier run has found.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import math
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
import yaml
from hydra.utils import instantiate
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from hardware_profiles import LatencyTable, load_device
from nas.core.problem import Objective, Problem
from nas.core.search_loop import search
from nas.data import Batch, Data, Part, Samples
from nas.run.profiling import DeviceProfiling
from nas.run.settings import ProfileSettings
from nas.searchers.differentiable.base import GradientRun, GradientSearch
from nas.searchers.nsga2 import NSGA2
from nas.supernet import Supernet, SupernetAccuracy, TrainingSettings, train
from nas.supernet.evaluation import score_of
from nas.tasks import Classification
from predictors import PositionTable, plain_sum
from search_spaces import Architecture, Genes, MobileNetV3, NasBench201, SearchSpace
from search_spaces.nasbench201 import CELLS, STEPS, genes_of_string

ROOT = common.ROOT
RESULTS = common.RESULTS / "differentiable.json"
SEARCHERS = ROOT / "nas" / "conf" / "searcher"
SIZE = 16
PUBLISHED = {"random": 93.70, "darts": 54.30, "gdas": 93.51, "optimum": 94.37}
"""CIFAR-10 test accuracy in percent, Dong and Yang, "NAS-Bench-201", ICLR 2020, arXiv:2001.00326, table 5."""

Values = NDArray[np.float64]
Make = Callable[..., GradientSearch]


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with nasbench201/ and cifar10/")
    parser.add_argument("--methods", default="", help="YAMLs, separated by commas; default all")
    parser.add_argument("--parts", default="cells,mobile")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--mobile-seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--images", type=int, default=1024, help="to search with; half for weights, half for logits")
    parser.add_argument("--device", default="gold_6240", help="column of nasbench201/latency_ms.csv")
    parser.add_argument("--quantile", type=float, default=0.5, help="of all cells' latencies: the limit")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    methods = known_methods()
    wanted = [name for name in arguments.methods.split(",") if name] or list(methods)
    if unknown := sorted(set(wanted) - set(methods)):
        parser.error(f"There are no methods {unknown}, but {sorted(methods)}.")
    chosen: dict[str, Make] = {name: instantiate(methods[name], _convert_="all") for name in wanted}
    started = time.perf_counter()
    data = cifar10(arguments.data / "cifar10" / "cifar10_jpeg.npz", arguments.images)
    settings = {"data": data, "epochs": arguments.epochs, "warm_up": arguments.warm_up, "threads": 1}
    settings["learning_rate"] = arguments.learning_rate
    results: dict[str, Any] = {}
    if "cells" in arguments.parts:
        problem, truth = cells(arguments.data / "nasbench201", arguments.device, arguments.quantile)
        results["cells"] = of_cells(chosen, problem, truth, settings, arguments.seeds)
    if "mobile" in arguments.parts:
        results["mobile"] = of_mobile(chosen, settings, arguments.mobile_seeds)
    conditions = common.conditions(
        "numpy",
        "torch",
        "onnxruntime",
        images=f"CIFAR-10, JPEG quality 75, {SIZE} pixels, {arguments.images} to search with",
        epochs=arguments.epochs,
        warm_up=arguments.warm_up,
        learning_rate=arguments.learning_rate,
        seconds=round(time.perf_counter() - started),
    )
    parts = json.loads(arguments.output.read_text())["parts"] if arguments.output.exists() else {}
    for part, rows in results.items():
        parts[part] = {"conditions": conditions, "figures": summary(part, rows), "rows": rows}
    common.write(arguments.output, {"published": PUBLISHED, "parts": parts})
    figures = {name: value for part in parts.values() for name, value in part["figures"].items()}
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))


def known_methods() -> dict[str, Any]:
    """The YAMLs of searchers that train on images, by their names."""
    texts = {path.stem: path.read_text() for path in sorted(SEARCHERS.glob("*.yaml"))}
    return {name: yaml.safe_load(text) for name, text in texts.items() if "_partial_: true" in text}


def summary(part: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over seeds of every number of every method."""
    figures = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        for key in own[0]:
            if key not in ("method", "seed", "network"):
                figures[f"{part}_{method}_{key}"] = float(np.median([row[key] for row in own]))
    return figures


def show(row: Mapping[str, Any]) -> None:
    """One line of progress."""
    print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True)


# -- NAS-Bench-201 -----------------------------------------------------------------------------------------------------


class CellLatency:
    """Latency of whole cells: a table of all, which is no sum over edges, but whose mean is exact.

    Args:
        values: ms of each row of `CELLS`, those of equal cells equal.
    """

    metric, unit = "latency", "ms"

    def __init__(self, values: Values) -> None:
        self.values = values
        self._table = torch.from_numpy(values.astype(np.float32)).reshape((5,) * 6)

    def predict(self, genes: Genes) -> Values:
        return np.asarray(self.values[genes.astype(np.int64) @ np.array(STEPS)])

    def minimum(self) -> tuple[Genes, float]:
        """The fastest cell."""
        row = int(self.values.argmin())
        return CELLS[row], float(self.values[row])

    def relaxed(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """Mean over independent edges."""
        mean = self._table
        for values in probabilities.values():  # the first edge is the first axis
            mean = torch.tensordot(values, mean, 1)
        return mean


def cells(folder: Path, device: str, quantile: float) -> tuple[Problem, Values]:
    """The problem, and the true accuracy of each row of `CELLS` as a fraction."""
    space = NasBench201(name="cells", in_channels=3, classes=10, resolution=SIZE, channels=8, cells=1)
    table = np.genfromtxt(folder / "accuracy.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    latencies = np.genfromtxt(folder / "latency_ms.csv", delimiter=",", names=True)
    if device not in (latencies.dtype.names or ()):
        raise SystemExit(f"{folder / 'latency_ms.csv'} has no device {device!r}, but {latencies.dtype.names}.")
    rows = np.stack([genes_of_string(text) for text in table["arch_str"]]).astype(np.int64) @ np.array(STEPS)
    accuracy, latency = np.empty(len(CELLS)), np.empty(len(CELLS))
    accuracy[rows], latency[rows] = table["cifar10_test_200ep"] / 100, latencies[device]
    canonical = space.canonical(CELLS).astype(np.int64) @ np.array(STEPS)
    limit = float(np.quantile(latency, quantile))
    objective = Objective.of(CellLatency(latency[canonical]), "min", limit, "limit.latency_ms")
    return Problem(space, [objective]), accuracy


def of_cells(
    methods: Mapping[str, Make], problem: Problem, truth: Values, settings: Mapping[str, Any], seeds: int
) -> list[dict[str, Any]]:
    """Rows of all methods and seeds."""
    space, limit = problem.space, problem.objectives[0].bound
    latency = problem.objectives[0].predictor
    assert isinstance(space, NasBench201) and limit is not None

    def true(genes: Genes) -> dict[str, float]:
        row = int(genes.astype(np.int64) @ np.array(STEPS))
        return {"accuracy": float(truth[row]), "latency_share": float(latency.predict(genes[None])[0]) / limit}

    rows = []
    for name, make in methods.items():
        for seed in range(seeds):
            run, cost = searched(problem, make, settings, seed)
            genes = run.candidates()[0]
            text = space.to_string(Architecture(space, genes))
            rows.append({"method": name, "seed": seed, **true(genes), **cost, "network": text})
            show(rows[-1])
    budget = float(np.median([row["search_s"] for row in rows]))
    allowed = np.flatnonzero(latency.predict(CELLS) <= limit)
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(allowed)
        begun, found = time.process_time(), []
        while not found or (time.process_time() - begun) * (len(found) + 1) / len(found) <= budget:
            genes = space.canonical(CELLS[order[len(found)]][None])[0]
            network = trained_alone(space, genes, settings["data"], settings["epochs"], seed)
            found.append((validation_accuracy(network, settings["data"]), genes))
        best = max(found, key=lambda one: one[0])[1]
        text = space.to_string(Architecture(space, best))
        seconds = time.process_time() - begun
        row = {"method": "random", "seed": seed, **true(best), "trained": len(found), "search_s": seconds}
        rows.append({**row, "network": text})
        show(rows[-1])
    rows.append({"method": "mean_within_limit", "seed": 0, "accuracy": float(truth[allowed].mean())})
    rows.append({"method": "best_within_limit", "seed": 0, "accuracy": float(truth[allowed].max())})
    return rows


# -- MobileNetV3 -------------------------------------------------------------------------------------------------------


def of_mobile(methods: Mapping[str, Make], settings: Mapping[str, Any], seeds: int) -> list[dict[str, Any]]:
    """Rows of all methods and seeds, and of NSGA-II."""
    data: Data = settings["data"]
    space = MobileNetV3(
        name="cifar_mobile",
        resolutions=[SIZE],
        in_channels=3,
        classes=10,
        stem=8,
        stem_stride=1,
        stages=[
            {"channels": 16, "stride": 2, "squeeze": False, "activation": "relu"},
            {"channels": 24, "stride": 2, "squeeze": True, "activation": "relu"},
            {"channels": 32, "stride": 1, "squeeze": True, "activation": "h_swish"},
        ],
        depths=[1, 2],
        kernels=[3, 5],
        expands=[2, 4],
        last_channels=64,
        features=64,
    )
    latency = host_latency(space)
    limit = 0.5 * (latency.minimum()[1] + float(latency.predict(space.biggest.genes[None])[0]))
    problem = Problem(space, [Objective.of(latency, "min", limit, "limit.latency_ms")])

    def final(genes: Genes, seed: int) -> dict[str, float]:
        network = trained_alone(space, genes, data, settings["epochs"], seed)
        test = data.test_part()
        share = float(latency.predict(genes[None])[0]) / limit
        return {
            "test_accuracy": score_of(network, data.task, [test.take(torch.arange(len(test)))]),
            "latency_share": share,
        }

    rows = []
    for name, make in methods.items():
        for seed in range(seeds):
            run, cost = searched(problem, make, settings, seed)
            genes = run.candidates()[0]
            rows.append({"method": name, "seed": seed, **final(genes, seed), **cost, "network": genes.tolist()})
            show(rows[-1])
    budget = float(np.median([row["search_s"] for row in rows]))
    for seed in range(seeds):
        genes, cost = once_for_all(problem, data, budget, seed)
        rows.append({"method": "nsga2", "seed": seed, **final(genes, seed), **cost, "network": genes.tolist()})
        show(rows[-1])
    return rows


def host_latency(space: SearchSpace) -> PositionTable:
    """Sum of layers, each measured alone on this computer."""
    device = load_device("host_ort")
    backend = device.open()
    try:
        with tempfile.TemporaryDirectory() as folder:
            profile = ProfileSettings(8, 2, method="isolated")
            rng = np.random.default_rng(0)
            DeviceProfiling(space, device, backend, profile, Path(folder), lambda *purpose: rng, print).run()
            return plain_sum(space, LatencyTable.read(Path(folder) / "table.jsonl"))
    finally:
        backend.close()


def once_for_all(problem: Problem, data: Data, budget: float, seed: int) -> tuple[Genes, dict[str, float]]:
    """The most accurate network within the limit by NSGA-II; two thirds of the time trains the supernet."""
    begun = time.process_time()

    def supernet_after(epochs: int) -> Supernet:
        settings = TrainingSettings(epochs=epochs, seed=seed, threads=1, evaluate_every=0, augment=())
        with tempfile.TemporaryDirectory() as folder:
            return train(problem.space, data, settings, Path(folder)).supernet

    supernet_after(1)
    epoch_s = time.process_time() - begun
    epochs = max(1, round(budget * 2 / 3 / epoch_s))
    begun = time.process_time()  # the first epoch was only to time it
    evaluator = SupernetAccuracy(problem.space, supernet_after(epochs), data, recalibration_images=256)
    one = time.process_time()
    evaluator.predict(problem.space.sample(2, np.random.default_rng(0)))
    evaluation_s = (time.process_time() - one) / 2
    evaluations = max(8, int((budget - (time.process_time() - begun)) / evaluation_s))
    costly = Objective.of(evaluator, "max", costly=True, worst=0.0)
    whole = Problem(problem.space, [costly, *problem.objectives])
    result = search(whole, NSGA2(population=max(4, evaluations // 4)), evaluations=evaluations, seed=seed)
    best = int(result.values[:, 0].argmax())
    seconds = time.process_time() - begun
    return result.genes[best], {"search_s": seconds, "epochs": float(epochs), "evaluations": float(result.evaluations)}


# -- what both share ---------------------------------------------------------------------------------------------------


def searched(
    problem: Problem, make: Make, settings: Mapping[str, Any], seed: int
) -> tuple[GradientRun, dict[str, float]]:
    """A finished search, and what it cost."""
    method = make(**settings, seed=seed)
    run = GradientRun(problem, method)
    begun = time.process_time()
    run.train()
    seconds = time.process_time() - begun
    probe = GradientRun(problem, method)
    probe.generator.manual_seed(0)
    images, rng, path, step = (
        probe.prepared(*method.data.train.take(torch.arange(method.batch_size))),
        np.random.default_rng(0),
        [],
        [],
    )
    for _ in range(5):
        one = {name: torch.eye(len(values))[rng.integers(len(values))] for name, values in probe.logits.items()}
        path.append(held_bytes(lambda one=one: probe.descend_weights(probe.task_loss(images, one))))
        step.append(held_bytes(lambda: method.step(probe, images, images, 0.5, True)))
    memory = float(np.median(step) / np.median(path))
    return run, {"search_s": seconds, "epoch_s": seconds / method.epochs, "memory_of_one_path": memory}


def held_bytes(work: Callable[[], Any]) -> int:
    """Most bytes that are held at once for backward passes."""
    held: dict[int, int] = {}
    users: dict[int, int] = {}
    most = 0

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal most
            self.tensor = tensor
            storage = tensor.untyped_storage()
            key = storage.data_ptr()
            held[key], users[key] = storage.nbytes(), users.get(key, 0) + 1
            most = max(most, sum(held.values()))
            weakref.finalize(self, release, key)

    def release(key: int) -> None:
        users[key] -= 1
        if not users[key]:
            del held[key], users[key]

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        work()
    return most


def trained_alone(space: SearchSpace, genes: Genes, data: Data, epochs: int, seed: int) -> torch.nn.Module:
    """A network of its own, trained on all training images, in eval mode."""
    network = Supernet(space, seed=seed).extract(Architecture(space, genes)).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=3e-4, nesterov=True)
    generator = torch.Generator().manual_seed(seed)
    steps = len(data.train) // 64
    for epoch in range(epochs):
        for step, rows in enumerate(torch.randperm(len(data.train), generator=generator).tensor_split(steps)):
            for group in optimiser.param_groups:
                group["lr"] = 0.025 * (1 + math.cos(math.pi * (epoch + step / steps) / epochs))
            optimiser.zero_grad()
            images, labels = data.train.take(rows)
            loss = functional.cross_entropy(network(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return network.eval()


def validation_accuracy(network: torch.nn.Module, data: Data) -> float:
    """Fraction in [0, 1]."""
    return score_of(network, data.task, [whole(data.validation)])


def whole(samples: Samples) -> Batch:
    """All inputs of a part and their targets."""
    return samples.take(torch.arange(len(samples)))


@functools.cache
def cifar10(path: Path, images: int, size: int = SIZE) -> Data:
    """Random images of some pixels: as many to train on, half as many to choose by, 2,000 to test on."""
    if not path.exists():
        raise SystemExit(f"{path} does not exist: --data names the folder with nasbench201/ and cifar10/.")
    stored = np.load(path)
    header, body, offsets = stored["header"].tobytes(), stored["body"], stored["offsets"]

    def picture(i: int) -> NDArray[np.uint8]:
        image = Image.open(io.BytesIO(header + body[offsets[i] : offsets[i + 1]].tobytes())).convert("RGB")
        return np.asarray(image.resize((size, size), Image.Resampling.BOX))

    rng = np.random.default_rng(0)
    train_rows = rng.permutation(np.flatnonzero(stored["split"] == 0))
    test_rows = rng.permutation(np.flatnonzero(stored["split"] == 1))
    rows = [train_rows[:images], train_rows[images : images + images // 2], test_rows[:2000]]
    raw = [np.stack([picture(i) for i in part]).transpose(0, 3, 1, 2).astype(np.float32) / 255 for part in rows]
    mean, std = raw[0].mean((0, 2, 3)), raw[0].std((0, 2, 3))
    parts = [
        Part(
            torch.from_numpy((pixels - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)),
            torch.from_numpy(stored["labels"][part].astype(np.int64)),
        )
        for pixels, part in zip(raw, rows, strict=True)
    ]
    return Data("cifar10", *parts, task=Classification(10), mean=tuple(mean.tolist()), std=tuple(std.tolist()))


if __name__ == "__main__":
    main()

"""One search command, ten devices: a front for each, and one front of networks that are good on all of them.

    OMP_NUM_THREADS=1 python experiments/benchmarks/search_devices.py --data DATA [--seeds 3] [--tables FOLDER]

Space: once-for-all's MobileNetV3 (width 1.2, 224 pixels); accuracy: the published once-for-all predictor
(DATA/ofa_mbv3); devices: eight Arm Ethos-U configurations, profiled in context by Arm's compiler (about a minute each),
this computer's ONNX Runtime (measured, a minute), and the published table of a Galaxy Note10. With ``--tables`` the
tables stay there and are used again. Per device the default searcher, 20,000 evaluations. Figures,
medians over seeds: seconds and memory of all ten searches, the share of each device's own hypervolume that the other
devices' fronts reach there (how much a search for the device is worth), and the share that the joint front reaches on
the device where it is worst.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np

from hardware_profiles import LatencyTable, load_device
from hardware_profiles.formats.tables import import_table
from nas.core import pareto
from nas.core.problem import Objective, Problem
from nas.core.search_loop import reference_point, search
from nas.run.profiling import DeviceProfiling
from nas.run.settings import ProfileSettings
from nas.searchers.auto import Auto
from predictors import Combined, PositionTable, once_for_all_accuracy, plain_sum
from predictors.base import Predictor
from search_spaces import Genes, MobileNetV3

RESULTS = common.RESULTS / "search_devices.json"
DEVICES = [
    *("ethos_u55_32", "ethos_u55_128", "ethos_u55_256", "ethos_u65_256", "ethos_u65_512"),
    *("ethos_u85_256", "ethos_u85_1024", "ethos_u85_2048", "host_ort", "note10"),
]
EVALUATIONS = 20_000


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with ofa_mbv3/")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tables", type=Path, help="folder that keeps the latency tables")
    arguments = parser.parse_args()
    settings = common.space_settings("ofa_mobilenet_v3_w1.2")
    space = MobileNetV3(**{**settings, "resolutions": [224]})
    accuracy = once_for_all_accuracy(space, file=arguments.data / "ofa_mbv3" / "accuracy_predictor.npz")
    with tempfile.TemporaryDirectory(prefix="hwnas-devices-") as temporary:
        folder = arguments.tables or Path(temporary)
        published = arguments.data / "ofa_mbv3" / "operator_latency.csv"
        latencies = {name: table_of(space, name, folder / name, published) for name in DEVICES}

    rows = []
    for seed in range(arguments.seeds):
        row, started = {}, time.perf_counter()
        fronts = {name: found(space, accuracy, latency, seed) for name, latency in latencies.items()}
        row["seconds"] = time.perf_counter() - started
        biggest = [1 / float(part.predict(space.biggest.genes[None])[0]) for part in latencies.values()]
        started = time.perf_counter()
        joint = found(space, accuracy, Combined(list(latencies.values()), biggest, "worst"), seed)
        row["joint_seconds"] = time.perf_counter() - started
        own, others, shared = [], [], []
        for name, latency in latencies.items():
            problem = problem_of(space, accuracy, latency)
            reference = reference_point(problem)

            def volume(genes: Genes, problem: Problem = problem, reference: Any = reference) -> float:
                return pareto.hypervolume(problem.costs(problem.evaluate(genes)), reference)

            own.append(volume(fronts[name]))
            others += [volume(front) / own[-1] for other, front in fronts.items() if other != name]
            shared.append(volume(joint) / own[-1])
        row |= {"other_device": float(np.median(others)), "other_device_worst": min(others), "joint_worst": min(shared)}
        rows.append(row)
        print(" ".join(f"{name}={value:.4g}" for name, value in row.items()), flush=True)
    figures = {name: float(np.median([row[name] for row in rows])) for name in rows[0]}
    figures["memory_MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    conditions = common.conditions("ethos-u-vela", "numpy", devices=DEVICES, evaluations=EVALUATIONS)
    common.write(RESULTS, {"conditions": conditions, "figures": figures, "rows": rows})
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))


def table_of(space: MobileNetV3, name: str, folder: Path, published: Path) -> PositionTable:
    """The latency of a device as a table, imported or profiled unless it is there."""
    if not (folder / "table.jsonl").exists() and name == "note10":
        folder.mkdir(parents=True, exist_ok=True)
        import_table("ofa", published, folder / "table.jsonl", device=name)
    elif not (folder / "table.jsonl").exists():
        device = load_device(name)
        backend = device.open()
        try:
            settings = ProfileSettings(8, 2, method="in_context")
            DeviceProfiling(
                space, device, backend, settings, folder, lambda *purpose: np.random.default_rng(0), print
            ).run()
        finally:
            backend.close()
    return plain_sum(space, LatencyTable.read(folder / "table.jsonl"))


def problem_of(space: MobileNetV3, accuracy: Predictor, latency: Predictor) -> Problem:
    """Accuracy up, latency down."""
    return Problem(space, [Objective.of(accuracy, "max"), Objective.of(latency, "min")])


def found(space: MobileNetV3, accuracy: Predictor, latency: Predictor, seed: int) -> Genes:
    """The front that the default searcher finds."""
    return search(problem_of(space, accuracy, latency), Auto(), evaluations=EVALUATIONS, seed=seed).genes


if __name__ == "__main__":
    main()

"""Exact fronts of the MobileDets-like space for an NPU and a CPU: which operator each device wants where.

    OMP_NUM_THREADS=1 python experiments/benchmarks/operator_fronts.py [--networks 300] [--budget 4min]

Space: `mobiledets` at one resolution, an inverted, a fused, a Tucker or a plain convolution at every position. Goals:
latency, from a table that is profiled here, and capacity. No network of the space is trained: capacity is a proxy that
needs no training (`predictors.zero_cost`), scored on random networks and replaced by the nearest sum over positions,
whose R2 is stated. So the fronts compare devices, not networks: both devices get the same capacity.

For each device: the share of fused and plain convolutions among the layers of the early stages (1 to 3) of the exact
front's networks, and of the late ones. Goal: the NPU's share in the early stages is the larger one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from typing import Any

import common
import numpy as np

import nas
from nas.core.exact_front import exact_front
from nas.core.problem import Objective, Problem
from predictors.additive_model import additive
from predictors.zero_cost import ZeroCost
from search_spaces import Architecture, SearchSpace
from search_spaces.staged import Staged

RESULTS = common.RESULTS / "operator_fronts.json"
DENSE = ("FusedMBConv", "Conv")
EARLY = ("1", "2", "3")
GRID = 4000
RESOLUTION = 192


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="ethos_u65_256,host_ort")
    parser.add_argument("--networks", type=int, default=300, help="random networks that are scored (default 300)")
    parser.add_argument("--proxies", default="zen_score,naswot")
    parser.add_argument("--budget", default="4min", help="of profiling each device (default 4min)")
    parser.add_argument("--space", default="mobiledets")
    arguments = parser.parse_args()
    space = Staged(**{**common.space_settings(arguments.space), "resolutions": [RESOLUTION]})
    rows: dict[str, Any] = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    capacity = {name: scored(space, name, arguments.networks) for name in arguments.proxies.split(",")}
    for device in arguments.devices.split(","):
        with tempfile.TemporaryDirectory(prefix="hwnas-operators-") as folder:
            latency = nas.profile(space, device, out=folder, budget=arguments.budget)
        for name, (predictor, r2) in capacity.items():
            started = time.perf_counter()
            problem = Problem(space, (Objective.of(predictor, "max"), Objective.of(latency.predictor, "min")))
            front = exact_front(problem, grid=GRID)
            shares = operators(space, front.genes)
            rows[f"{device}_{name}"] = {
                "networks": len(front.genes),
                "seconds": round(time.perf_counter() - started, 1),
                "capacity_r2": r2,
                **shares,
                "conditions": common.conditions("onnxruntime", "numpy"),
            }
            figures = {f"{key}_early_dense": row["early_dense"] for key, row in rows.items()}
            common.write(RESULTS, {"figures": figures, "rows": rows})
            shown = {key: value for key, value in rows[f"{device}_{name}"].items() if key != "conditions"}
            print(device, name, shown, flush=True)
    print(" ".join(f"{key}={value:.3f}" for key, value in figures.items()))


def scored(space: SearchSpace, proxy: str, networks: int) -> tuple[Any, float]:
    """Capacity as a sum over positions, and its R2 on a fifth of the networks, which are held out."""
    images = np.random.default_rng(0).standard_normal((4, 3, RESOLUTION, RESOLUTION), np.float32)
    fitted = additive(
        ZeroCost(space, proxy, images), space, np.random.default_rng(1), rows=networks * 4 // 5, held_out=networks // 5
    )
    return fitted.table, fitted.r2


def operators(space: SearchSpace, genes: Any) -> dict[str, Any]:
    """Share of dense convolutions in the early and in the late stages, and how often each kind is there."""
    found: dict[str, Counter[str]] = {"early": Counter(), "late": Counter()}
    for row in genes:
        for position, layer in space.lower(Architecture(space, row)).items():
            if position.startswith("stage"):
                part = "early" if position.removeprefix("stage").split("_")[0] in EARLY else "late"
                found[part][type(layer).__name__] += 1
    shares = {
        f"{part}_dense": sum(counts[kind] for kind in DENSE) / max(sum(counts.values()), 1)
        for part, counts in found.items()
    }
    return {**shares, **{part: dict(counts) for part, counts in found.items()}}


if __name__ == "__main__":
    main()

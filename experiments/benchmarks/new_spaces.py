"""Latency of 100 unseen networks in spaces beyond once-for-all's, predicted from a profile and measured.

    OMP_NUM_THREADS=1 python experiments/benchmarks/new_spaces.py [--spaces mnasnet,repvgg,fasternet] [--networks 100]

For each space, at one resolution, and each device: a profile as `nas profile` makes it, the fitted predictor of
`nas fit`, and networks that neither has seen, measured before and after the profile (noise floor: the two beside each
other). The last line has the shares within 10 % over all networks of a device. Goal: >= 99 % on
`host_ort`, >= 95 % on `host_tvm`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
from latency_fidelity import measured

import nas
from hardware_profiles import Model, load_device
from nas.run.networks import distinct_networks
from predictors import quality
from search_spaces import SearchSpace
from search_spaces.base.building import build

RESULTS = common.RESULTS / "new_spaces.json"
SEED = 2026


def space_at(name: str, resolution: int) -> SearchSpace:
    """A shipped space at one resolution."""
    settings = common.space_definition(name)
    space: SearchSpace = build(f"space {name}", {**settings, "resolutions": [resolution]}, SearchSpace)
    return space


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", default="mnasnet,repvgg,fasternet")
    parser.add_argument("--devices", default="host_ort,host_tvm")
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--budget", default="5min", help="of each profile (default 5min)")
    arguments = parser.parse_args()
    rows: dict[str, Any] = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    for name in arguments.spaces.split(","):
        space = space_at(name, arguments.resolution)
        for device in arguments.devices.split(","):
            key = f"{name}_{device}"
            rows[key] = row(space, device, arguments.networks, arguments.budget)
            rows[key]["conditions"] = common.conditions("onnxruntime", "apache-tvm", "numpy")
            common.write(RESULTS, {"figures": figures(rows), "rows": rows})
            print(
                f"{key:24} " + " ".join(f"{k}={v:.4g}" for k, v in rows[key].items() if isinstance(v, float)),
                flush=True,
            )
    print(" ".join(f"{name}={value:.4g}" for name, value in figures(rows).items()))


def figures(rows: dict[str, Any]) -> dict[str, float]:
    """Share of all networks of a device within 10 %."""
    found: dict[str, list[float]] = {}
    for key, one in rows.items():
        found.setdefault(f"host_{key.rpartition('host_')[2]}_within_10", []).append(one["within_10"])
    return {name: float(np.mean(values)) for name, values in found.items()}


def row(space: SearchSpace, device_name: str, n: int, budget: str) -> dict[str, Any]:
    """Errors on networks of one space on one device."""
    device, started = load_device(device_name), time.perf_counter()
    unseen = distinct_networks(space, n + 2, np.random.default_rng(SEED))[2:]
    genes = np.stack([architecture.genes for architecture in unseen])
    models = {architecture: Model(space.lower(architecture)) for architecture in unseen}
    seconds: dict[str, float] = {}

    def measure(title: str) -> np.ndarray:
        backend = device.open()
        try:
            return measured(backend, device, models, title, seconds)
        finally:
            backend.close()

    before = measure("networks, before")
    with tempfile.TemporaryDirectory(prefix="hwnas-new-spaces-") as folder:
        latency = nas.profile(space, device, out=Path(folder) / "run", budget=budget)
    after = measure("networks, after")
    truth = (before + after) / 2
    found = quality(truth, latency.predict(genes)).to_json()
    floor = quality(before, after).to_json()
    return {
        **{key: found[key] for key in ("within_10", "within_5", "kendall_tau", "mape")},
        "noise_mape": floor["mape"],
        "noise_within_10": floor["within_10"],
        "networks": len(unseen),
        "ms": [float(truth.min()), float(truth.max())],
        "seconds": {**seconds, "all": round(time.perf_counter() - started, 1)},
    }


if __name__ == "__main__":
    main()

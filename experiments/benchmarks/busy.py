"""Measuring on a busy computer: is a measurement right, or does it say that it is not?

    python experiments/benchmarks/busy.py [--networks 40] [--processes 15]

Random whole networks of once-for-all's MobileNetV3 space at 224 pixels, on ONNX Runtime with one thread, are measured
on the quiet computer and again beside processes that do nothing but compute. Beside it, what a plain loop gives there
(the median of three runs by the clock). A measurement is flagged when it does not count as agreed. A silent error is
one that is more than 10 % off and not flagged. Then latency tables are corrected with the busy measurements, and with
those of the plain loop; negative counts the tables whose least over the whole space is 0 ms or less, and measurements
that are.

Goals: every network within 10 % or flagged; no silent error; nothing negative.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import common
import numpy as np

from hardware_profiles import Measurement, Model, load_device
from hardware_profiles.backends.base import Backend
from hardware_profiles.measure import Measurer
from nas.run.networks import distinct_networks
from predictors import CorrectedLookup, PositionTable
from predictors.position_table import macs
from search_spaces import Architecture, MobileNetV3

RESULTS = common.RESULTS / "busy.json"
DEVICE = "host_ort"
NEAR = 0.10


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=40, help="measured twice; 8 or more")
    parser.add_argument("--processes", type=int, default=15, help="that compute beside the second measurement")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")

    space = MobileNetV3(**{**common.space_settings("ofa_mobilenet_v3"), "resolutions": [224]})
    networks = distinct_networks(space, arguments.networks, np.random.default_rng(0))
    backend = load_device(DEVICE).open()
    load_before = os.getloadavg()[0]
    quiet, quiet_s = timed(backend, networks)
    with busy(arguments.processes):
        loop = [plain_loop_ms(backend, network) for network in networks]
        beside, busy_s = timed(backend, networks)

    ratio = latencies(beside) / latencies(quiet)
    near = np.abs(ratio - 1) <= NEAR
    flagged = np.array([not measurement.agreed for measurement in beside])
    looped = np.array(loop) / latencies(quiet)
    negative = int((latencies(beside) <= 0).sum())
    for values in (latencies(beside), np.array(loop)):
        negative += int(fitted_minimum(space, networks, values) <= 0)
    figures = {
        "within_10_or_flagged": float((near | flagged).mean()),
        "silent_errors": int((~near & ~flagged).sum()),
        "negative": negative,
        "within_10": float(near.mean()),
        "flagged": float(flagged.mean()),
        "median_ratio": float(np.median(ratio)),
        "worst_ratio": float(max(ratio.max(), 1 / ratio.min())),
        "plain_loop_within_10": float((np.abs(looped - 1) <= NEAR).mean()),
        "plain_loop_median_ratio": float(np.median(looped)),
        "quiet_agreed": float(np.mean([measurement.agreed for measurement in quiet])),
        "seconds_quiet": quiet_s,
        "seconds_busy": busy_s,
    }
    about = common.conditions("onnxruntime", device=DEVICE, processes=arguments.processes, load_before=load_before)
    rows = [
        {"quiet": one.to_json(), "busy": other.to_json(), "loop_ms": ms}
        for one, other, ms in zip(quiet, beside, loop, strict=True)
    ]
    common.write(RESULTS, {"conditions": about, "figures": figures, "networks": rows})
    print(" ".join(f"{name}={round(value, 4)}" for name, value in figures.items()))


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes compute within; they end with it, and with this process however that ends."""
    spin = f"import os\nwhile os.getppid() == {os.getpid()}:\n    for _ in range(100000): pass"
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(processes):
            started.append(subprocess.Popen([sys.executable, "-c", spin]))
        time.sleep(2)  # until all compute
        yield
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


def timed(backend: Backend, networks: Sequence[Architecture]) -> tuple[list[Measurement], float]:
    """Each network by the protocol, and the seconds for all."""
    started = time.perf_counter()
    measurer = Measurer(backend, load_device(DEVICE), np.random.default_rng(0))
    items = [(i, Model(network.space.lower(network))) for i, network in enumerate(networks)]
    found: dict[int, Any] = dict(measurer.measure(items))
    for result in found.values():
        if not isinstance(result, Measurement):
            raise result
    return [found[i] for i in range(len(networks))], time.perf_counter() - started


def plain_loop_ms(backend: Backend, network: Architecture) -> float:
    """Latency in ms by a plain loop around a run and the clock on the wall."""
    loaded = backend.load(Model(network.space.lower(network)))
    return float(np.median([loaded.sample_ms(1) for _ in range(3)]))


def latencies(measurements: Sequence[Measurement]) -> np.ndarray:
    """Milliseconds of each, (n,)."""
    return np.array([measurement.latency_ms for measurement in measurements])


def fitted_minimum(space: MobileNetV3, networks: Sequence[Architecture], ms: np.ndarray) -> float:
    """The least that a corrected table predicts over the whole space; its layers are in proportion to their MACs."""
    genes = np.stack([network.genes for network in networks])
    work = macs(space)
    per_mac = float(np.median(ms) / np.median(work.predict(genes)))
    lookup = CorrectedLookup(PositionTable(space, "latency", "ms", work.values * per_mac))
    lookup.fit(genes, ms)
    return lookup.minimum()[1]


if __name__ == "__main__":
    main()

"""How fast populations are handled: architectures per second of every operation on gene arrays, one core.

    OMP_NUM_THREADS=1 python experiments/benchmarks/encoding.py

once-for-all's MobileNetV3 space, populations of 1,000 and 10,000; median of nine repetitions. The last line has, per
operation, the slower of the two populations (goal >= 1e6 each).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import common
import numpy as np

from search_spaces import MobileNetV3

RESULTS = common.RESULTS / "encoding.json"
REPETITIONS, ROWS = 9, 50_000


def rate(operation: Callable[[], object], n: int) -> float:
    """Median rows per second of an operation on n rows."""
    rates = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        for _ in range(ROWS // n):
            operation()
        rates.append(ROWS // n * n / (time.perf_counter() - start))
    return statistics.median(rates)


def main() -> None:
    """Run, print, write."""
    settings = common.space_settings("ofa_mobilenet_v3")
    space, rng = MobileNetV3(**settings), np.random.default_rng(0)
    rows = {}
    for n in (1_000, 10_000):
        first, second = space.sample(n, rng), space.sample(n, rng)
        operations: dict[str, Callable[[], object]] = {
            "sample": lambda n=n: space.sample(n, rng),
            "canonical": lambda first=first: space.canonical(first),
            "mutate": lambda first=first: space.mutate(first, rng, 0.1),
            "cross": lambda first=first, second=second: space.cross(first, second, rng),
            "encode": lambda first=first: space.encode(first),
        }
        rows[n] = {name: rate(operation, n) for name, operation in operations.items()}
        print(n, " ".join(f"{name}={value:.3g}/s" for name, value in rows[n].items()), flush=True)
    figures = {name: min(row[name] for row in rows.values()) for name in rows[1_000]}
    conditions = common.conditions("numpy")
    common.write(RESULTS, {"conditions": conditions, "figures": figures, "rows": rows})
    print(" ".join(f"{name}={value:.3g}" for name, value in figures.items()))


if __name__ == "__main__":
    main()

"""Standard errors of scores by the bootstrap: the spread of a score over samples that are drawn with replacement.

Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7(1), 1979.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

DRAWS = 200
"""Draws of a bootstrap: the error is known to about 5 % of itself."""

Counts = NDArray[np.int64]


def bootstrap_error(statistic: Callable[[Counts], float], samples: int, *, draws: int = DRAWS) -> float | None:
    """Standard error of a statistic of independent samples; None of a single one. Equal in every process.

    Args:
        statistic: value where each sample counts so many times, (samples,).
        samples: how many there are.
        draws: how often they are drawn anew.
    """
    if samples < 2:
        return None
    rng = np.random.default_rng(0)
    values = [statistic(np.bincount(rng.integers(0, samples, samples), minlength=samples)) for _ in range(draws)]
    return float(np.nanstd(values, ddof=1))


def mean_error(values: NDArray[np.float64]) -> float | None:
    """Standard error of the mean of independent values (n,); None of a single one."""
    return None if len(values) < 2 else float(values.std(ddof=1) / np.sqrt(len(values)))

"""Learning curve of a predictor: its ranking by the number of networks that it is fitted to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import linregress

SHARES, REPEATS = (0.25, 0.5, 0.75), 2
"""Shares of the pairs that predictors are fitted to beside all of them, and how often, each time to other pairs."""
LEAST_GAIN = 0.005
"""Kendall tau that more labels must be expected to add before they are said to help."""
MOST_IDLE = 0.02
"""Kendall tau, one standard error above what is expected, below which more labels are said not to help."""
LEAST_MISS = 1e-3
"""Distance of Kendall tau from 1 below which it counts as this: a logarithm is taken of it."""


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Kendall tau on held-out networks, of fits to fewer and fewer pairs.

    The distance 1 - tau is taken as a power law of the number of pairs, a n^-b (Hestness et al., "Deep Learning Scaling
    Is Predictable, Empirically", 2017), fitted to the logarithms by least squares. The standard error is that of b, by
    the scatter of the fits about the line; all fits are judged by the same networks, which it does not cover.

    Args:
        networks: that each fit had, in rising order; the last fit had all.
        kendall_tau: of each fit.
    """

    networks: Sequence[int]
    kendall_tau: Sequence[float]

    @property
    def means(self) -> dict[int, float]:
        """Mean tau by the number of networks."""
        taus = np.array(self.kendall_tau)
        return {n: float(taus[np.array(self.networks) == n].mean()) for n in sorted({*self.networks})}

    @property
    def exponent(self) -> tuple[float, float]:
        """Exponent b and its standard error."""
        miss = np.maximum(1 - np.array(self.kendall_tau), LEAST_MISS)
        line = linregress(np.log(self.networks), np.log(miss))
        return -float(line.slope), float(np.nan_to_num(line.stderr))

    @property
    def doubled(self) -> tuple[float, float]:
        """Tau that twice as many networks would give, and its standard error."""
        b, error = self.exponent
        miss = (1 - self.kendall_tau[-1]) * 2**-b
        return 1 - miss, miss * math.log(2) * error

    @property
    def helps(self) -> bool | None:
        """True if twice as many networks would add to tau; None: the fits scatter too much to tell."""
        tau, error = self.doubled
        gain = tau - self.kendall_tau[-1]
        if gain > max(LEAST_GAIN, error):
            return True
        return False if gain + error < MOST_IDLE else None

    @property
    def sentence(self) -> str:
        """Sentence that says what the curve shows."""
        n, means = self.networks[-1], self.means
        half = min(means, key=lambda one: abs(one - n / 2))
        more = "twice as many would give about {:.2f} ± {:.2f}".format(*self.doubled)
        if not self.helps:
            more = f"{more}, so it is open whether more labels would help"
        if self.helps is False:
            more = "more labels would not help"
        return f"with half of the labels the held-out tau was {means[half]:.2f}, with all {means[n]:.2f}: {more}"


def learning_curve(
    judge: Callable[[NDArray[np.intp]], float], n: int, fewest: int, rng: np.random.Generator, *, all_of_them: float
) -> LearningCurve | None:
    """The curve of a predictor; None where half of the pairs are too few for a fit.

    Args:
        judge: Kendall tau of a fit to the pairs of some numbers.
        n: pairs.
        fewest: pairs that a fit needs.
        rng: draws the pairs.
        all_of_them: Kendall tau of the fit to all pairs.
    """
    if n // 2 < fewest:
        return None
    sizes = [size for share in SHARES if (size := int(n * share)) >= fewest for _ in range(REPEATS)]
    taus = [judge(np.sort(rng.permutation(n)[:size])) for size in sizes]
    return LearningCurve(networks=[*sizes, n], kendall_tau=[*taus, all_of_them])

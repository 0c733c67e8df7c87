"""Gaussian process on rows of features with one length scale per feature: what does not matter is found out.

Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006: algorithm 2.1, equations 4.17 and 5.9. The
lengths are a maximum a posteriori estimate, with the prior of Hvarfner et al., "Vanilla Bayesian optimization performs
great in high dimensions", ICML 2024, arXiv:2402.02229, without which a hundred lengths overfit a hundred rows.

The gradient of a stationary kernel needs no (n, n, f) array: sum_ab M_ab (x_aj - x_bj)^2 is two matrix products, so 200
rows of 10 features take a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from predictors.regression import Arrays, Matrix, centre_and_spread
from search_spaces.base.errors import InvalidValueError

SMALLEST_NOISE = 1e-6
"""Variance relative to the targets': keeps the covariance well conditioned."""

BLOCK = 2048
"""Rows whose covariances are held at once."""


@dataclass(frozen=True, eq=False)
class FittedKriging:
    """A posterior: ``inverse`` is that of the Cholesky factor of the rows' covariance."""

    centre: Matrix  # (f,)
    width: Matrix  # (f,): spread times length scale
    rows: Matrix  # (n, f), scaled
    weights: Matrix  # (n,)
    inverse: Matrix  # (n, n)
    variance: float
    noise: float
    mean: float

    def _covariance(self, features: Matrix) -> Matrix:
        return _matern((features - self.centre) / self.width, self.rows, self.variance)

    def predict(self, features: Matrix) -> Matrix:
        """Posterior mean (n,). Each row is summed by itself, so that it does not depend on the others."""
        blocks = [features[start : start + BLOCK] for start in range(0, len(features), BLOCK)]
        means = [np.einsum("nr,r->n", self._covariance(block), self.weights) for block in blocks]
        return np.concatenate([np.zeros(0), *means]) + self.mean

    def spread(self, features: Matrix) -> Matrix:
        """Posterior deviation of a measurement (n,)."""
        result = np.zeros(len(features))
        for start in range(0, len(features), BLOCK):
            part = slice(start, start + BLOCK)
            explained = ((self._covariance(features[part]) @ self.inverse.T) ** 2).sum(1)
            result[part] = np.sqrt(np.maximum(self.variance - explained, 0) + self.noise)
        return result

    def to_arrays(self) -> Arrays:
        return {name: np.array(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        fields = {name: arrays[name] for name in cls.__dataclass_fields__}
        numbers = {name: float(fields.pop(name)) for name in ("variance", "noise", "mean")}
        return cls(**fields, **numbers)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Kriging:
    """Matern-5/2 kernel, plus noise.

    Args:
        per_feature: one length scale per feature, not one for all.
        prior: weight of the prior: 1 as published, for dozens of features or more; 0 is maximum likelihood, which a few
            features with ten or more rows each can do with.
        starts: first guesses of the relative noise, from which the hyper-parameters are searched. A small one often
            finds a likelier optimum that explains noise, with a larger cross-validated error.
    """

    per_feature: bool = True
    prior: float = 1.0
    starts: tuple[float, ...] = (1e-1,)

    def __post_init__(self) -> None:
        if not self.prior >= 0:
            raise InvalidValueError(f"`prior` must be >= 0, but got {self.prior}.")
        if not self.starts or min(self.starts) <= SMALLEST_NOISE:
            raise InvalidValueError(f"`starts` must be above {SMALLEST_NOISE}, but got {self.starts}.")

    def fit(self, features: Matrix, targets: Matrix) -> FittedKriging:
        centre, spread = centre_and_spread(features)
        varied = np.ptp(features, axis=0) > 0
        x, mean = (features - centre) / spread, float(targets.mean())
        y = targets - mean
        lengths = int(varied.sum()) if self.per_feature else 1
        typical = 0.5 * np.log(max(int(varied.sum()), 1))  # distances grow with the root of the number of features
        bounds = [(np.log(1e-2), np.log(1e3)), (np.log(SMALLEST_NOISE), np.log(1e1))]
        bounds += [(np.log(5e-2), np.log(1e4))] * lengths
        guesses = [np.array([0.0, np.log(noise), *np.full(lengths, typical + 0.7)]) for noise in self.starts]
        found = [
            minimize(
                _loss, guess, args=(x[:, varied], y, typical, self.prior), jac=True, method="L-BFGS-B", bounds=bounds
            )
            for guess in guesses
        ]
        best = np.exp(min(found, key=lambda result: float(result.fun)).x)
        width = spread.copy()
        width[varied] *= best[2:]
        rows, variance, noise = (features - centre) / width, float(best[0]), float(best[1])
        factor = cholesky(_matern(rows, rows, variance) + noise * np.eye(len(rows)), lower=True)
        inverse = solve_triangular(factor, np.eye(len(rows)), lower=True)
        return FittedKriging(centre, width, rows, inverse.T @ (inverse @ y), inverse, variance, noise, mean)


def _loss(logs: Matrix, x: Matrix, y: Matrix, typical: float, prior: float) -> tuple[float, Matrix]:
    """Negative logarithm of the posterior density of (variance, noise, lengths), and its gradient by the logarithms."""
    variance, noise = np.exp(logs[:2])
    scaled = x / np.exp(logs[2:])  # (n, f)
    r = np.sqrt(5 * _squared(scaled, scaled))
    decay = variance * np.exp(-r)
    signal = (1 + r + r**2 / 3) * decay
    try:
        factor = cholesky(signal + noise * np.eye(len(y)), lower=True)
    except LinAlgError:
        return 1e25, np.zeros(len(logs))
    alpha = cho_solve((factor, True), y)
    inverse = cho_solve((factor, True), np.eye(len(y)))
    slope = 0.5 * (inverse - np.outer(alpha, alpha))  # d loss / d covariance, eq. 5.9
    by_distance = slope * (5 / 3) * (1 + r) * decay  # times (x_aj - x_bj)^2: by the logarithm of length j
    by_length = 2 * (by_distance.sum(1) @ scaled**2 - np.einsum("nf,nf->f", scaled, by_distance @ scaled))
    if len(logs) == 3:
        by_length = by_length.sum(keepdims=True)
    away = logs[2:] - (np.sqrt(2) + typical)  # the prior: log-normal, with a deviation of sqrt(3)
    quietness = logs[1] + 4  # and one of the noise, log-normal around e^-4, which a few rows leave undecided
    loss = 0.5 * y @ alpha + np.log(np.diag(factor)).sum() + prior * ((away**2).sum() / 6 + quietness**2 / 2)
    by_noise = noise * np.trace(slope) + prior * quietness
    gradient = np.array([(slope * signal).sum(), by_noise, *(by_length + prior * away / 3)])
    return float(loss), gradient


def _squared(a: Matrix, b: Matrix) -> Matrix:
    return np.asarray(cdist(a, b, "sqeuclidean"))


def _matern(a: Matrix, b: Matrix, variance: float) -> Matrix:
    r = np.sqrt(5 * _squared(a, b))
    return np.asarray(variance * (1 + r + r**2 / 3) * np.exp(-r))

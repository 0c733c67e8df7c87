"""Gaussian process on one-hot genes: good from tens of pairs, and it knows how sure it is.

Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006, algorithm 2.1. scikit-learn finds the
hyper-parameters; what is stored and used for prediction are plain arrays.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.base import Values
from predictors.validation import checked_pairs
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError
from search_spaces.space import SearchSpace

DIGITS = 1e-3
"""Accuracies are fitted as log error rates, kept this far from an error of 0."""

FITTED = ("features", "weights", "inverse_cholesky", "variance", "length", "noise", "mean", "scale")
"""The arrays of a fitted process."""


class GaussianProcess:
    """Matern-5/2 kernel on one-hot genes, plus noise.

    Accuracies saturate near 1, so with ``log_error`` the process models ``log(1 - accuracy + 0.001)``, on which
    architectures act more evenly; predictions come back as accuracies.

    Args:
        space: whose architectures it predicts.
        metric: what is predicted.
        unit: of the values.
        log_error: model the logarithm of the error rate; values must then be at most 1.
        seed: of the restarts of the hyper-parameter search.
        minimum_pairs: fewest pairs that a fit takes.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        metric: str = "accuracy",
        unit: str = "1",
        log_error: bool = True,
        seed: int = 0,
        minimum_pairs: int = 10,
    ) -> None:
        self.space = space
        self.metric = metric
        self.unit = unit
        self.log_error = log_error
        self.seed = seed
        self.minimum_pairs = minimum_pairs
        self._fitted: dict[str, NDArray[np.float64]] | None = None

    def fit(self, genes: Genes, values: Values) -> None:
        """Fit hyper-parameters and posterior to values (n,).

        Raises:
            InvalidValueError: too few pairs, wrong shapes, or values that are not finite.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        genes, values = checked_pairs(self.space, genes, values, minimum=self.minimum_pairs)
        features = self.space.encode(genes).astype(np.float64)
        targets = self._to_target(values)
        mean, scale = targets.mean(), targets.std() or 1.0
        kernel = ConstantKernel(1.0, (1e-2, 1e3)) * Matern(3.0, (0.3, 1e2), nu=2.5) + WhiteKernel(0.1, (1e-5, 1e1))
        regressor = GaussianProcessRegressor(kernel, alpha=1e-9, n_restarts_optimizer=2, random_state=self.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound is an answer, not a fault
            regressor.fit(features, (targets - mean) / scale)
        fitted = regressor.kernel_
        self._fitted = {
            "features": features,
            "weights": regressor.alpha_,
            "inverse_cholesky": np.linalg.inv(regressor.L_),
            "variance": np.array(fitted.k1.k1.constant_value),
            "length": np.array(fitted.k1.k2.length_scale),
            "noise": np.array(fitted.k2.noise_level),
            "mean": np.array(mean),
            "scale": np.array(scale),
        }

    def predict(self, genes: Genes) -> Values:
        """Posterior mean (median, with ``log_error``), shape (n,)."""
        posterior = self._posterior
        return self._from_target(
            self._covariance(genes) @ posterior["weights"] * posterior["scale"] + posterior["mean"]
        )

    def uncertainty(self, genes: Genes) -> Values:
        """Standard deviation of the prediction without measuring noise, in the metric's unit, shape (n,)."""
        posterior = self._posterior
        covariance = self._covariance(genes)
        explained = ((covariance @ posterior["inverse_cholesky"].T) ** 2).sum(1)
        deviation = np.sqrt(np.maximum(posterior["variance"] - explained, 0)) * posterior["scale"]
        if not self.log_error:
            return np.asarray(deviation)
        return np.asarray((1 + DIGITS - self.predict(genes)) * deviation)  # d exp(t) = exp(t) dt

    def fitted_on(self, genes: Genes) -> NDArray[np.bool_]:
        """Mask (n,) of networks that were among the fitted pairs: they are no test of it."""
        known = {row.tobytes() for row in self._posterior["features"].astype(np.float32)}
        return np.array([row.tobytes() in known for row in self.space.encode(genes)], bool)

    def predict_with_std(self, genes: Genes) -> tuple[Values, Values]:
        """Prediction, and the standard deviation of a measurement around it, noise included, both (n,)."""
        posterior, values = self._posterior, self.predict(genes)
        noise = np.sqrt(posterior["noise"]) * posterior["scale"]
        slope = 1 + DIGITS - values if self.log_error else np.ones(len(values))
        return values, np.hypot(self.uncertainty(genes), np.maximum(slope * noise, np.finfo(np.float64).tiny))

    def extrapolates(self, genes: Genes) -> NDArray[np.bool_]:
        """Mask (n,) of networks that have a value of a choice that no fitted one has."""
        seen = self._posterior["features"].any(0)
        return np.asarray((self.space.encode(genes).astype(bool) & ~seen).any(1))

    @property
    def _posterior(self) -> dict[str, NDArray[np.float64]]:
        if self._fitted is None:
            raise InvalidValueError(f"The {self.metric} predictor is not fitted; call `fit` first.")
        return self._fitted

    def _covariance(self, genes: Genes) -> NDArray[np.float64]:
        posterior = self._posterior
        a, b = self.space.encode(genes).astype(np.float64), posterior["features"]
        squared = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)  # (n, pairs)
        r = np.sqrt(5 * squared) / posterior["length"]
        return np.asarray(posterior["variance"] * (1 + r + r**2 / 3) * np.exp(-r))  # Rasmussen & Williams eq. 4.17

    def _to_target(self, values: Values) -> Values:
        if not self.log_error:
            return values
        if (values > 1).any():
            raise InvalidValueError(f"Accuracies are fractions up to 1, but got {values.max()}.")
        return np.asarray(np.log(1 - values + DIGITS))

    def _from_target(self, targets: Values) -> Values:
        return np.asarray(1 + DIGITS - np.exp(targets)) if self.log_error else targets

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All that `from_arrays` needs."""
        settings = {
            "metric": np.array(self.metric),
            "unit": np.array(self.unit),
            "log_error": np.array(self.log_error),
        }
        return {**settings, **{f"fitted_{name}": array for name, array in self._posterior.items()}}

    @classmethod
    def from_arrays(cls, space: SearchSpace, arrays: dict[str, NDArray[Any]]) -> GaussianProcess:
        """Read back `to_arrays`."""
        process = cls(
            space, metric=str(arrays["metric"]), unit=str(arrays["unit"]), log_error=bool(arrays["log_error"])
        )
        process._fitted = {name: arrays[f"fitted_{name}"] for name in FITTED}
        return process

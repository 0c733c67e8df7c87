"""Ridge regression in closed form; its strength is chosen by leaving one row out, which costs nothing extra.

Hoerl & Kennard, "Ridge regression", Technometrics 1970; Golub, Heath & Wahba, "Generalized cross-validation",
Technometrics 1979, equation 1.5 for the errors of leaving one row out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from predictors.regression import Arrays, Matrix, centre_and_spread
from search_spaces.base.errors import InvalidValueError

STRENGTHS = np.logspace(-6, 3, 37)
"""Candidates, relative to the number of rows."""


@dataclass(frozen=True, eq=False)
class FittedRidge:
    """A linear function of standardised features, or of these and their products."""

    degree: int
    centre: Matrix  # (f,)
    width: Matrix  # (f,)
    mean: Matrix  # (columns,)
    weights: Matrix  # (columns,)
    intercept: float
    noise: float
    directions: Matrix  # (columns, k): of the posterior covariance
    shrinkage: Matrix  # (k,)
    prior: float

    def _columns(self, features: Matrix) -> Matrix:
        return np.asarray(_columns((features - self.centre) / self.width, self.degree) - self.mean)

    def predict(self, features: Matrix) -> Matrix:
        """Targets (n,). Each row is summed by itself, so that it does not depend on the others."""
        return np.asarray(np.einsum("nc,c->n", self._columns(features), self.weights) + self.intercept)

    def spread(self, features: Matrix) -> Matrix:
        """Deviation of the Bayesian posterior (Bishop, "Pattern Recognition and Machine Learning", 2006, 3.59)."""
        columns = self._columns(features)
        along = (columns @ self.directions) ** 2
        # Directions that no row has keep the prior's variance.
        unseen = np.maximum((columns**2).sum(1) - along.sum(1), 0)
        return np.asarray(self.noise * np.sqrt(1 + along @ self.shrinkage + unseen * self.prior))

    def to_arrays(self) -> Arrays:
        return {name: np.array(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        fields = {name: arrays[name] for name in cls.__dataclass_fields__}
        numbers = {name: float(fields.pop(name)) for name in ("intercept", "noise", "prior")}
        return cls(degree=int(fields.pop("degree")), **fields, **numbers)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Ridge:
    """Args:
    degree: 1: linear in the features; 2: also in their squares and products, for up to some dozens of features.
    """

    degree: int = 1

    def __post_init__(self) -> None:
        if self.degree not in (1, 2):
            raise InvalidValueError(f"`degree` must be 1 or 2, but got {self.degree}.")

    def fit(self, features: Matrix, targets: Matrix) -> FittedRidge:
        centre, width = centre_and_spread(features)
        columns = _columns((features - centre) / width, self.degree)
        mean, intercept = columns.mean(0), float(targets.mean())
        u, s, vt = np.linalg.svd(columns - mean, full_matrices=False)
        kept = s > 1e-9 * max(s.max(initial=0.0), 1e-9)
        u, s, vt = u[:, kept], s[kept], vt[kept]
        n, projected = len(targets), u.T @ (targets - intercept)

        def left_out(strength: float) -> Matrix:
            shrunk = s**2 / (s**2 + strength * n)
            leverage = np.minimum((u**2) @ shrunk + 1 / n, 1 - 1e-6)
            return np.asarray((targets - intercept - u @ (shrunk * projected)) / (1 - leverage))

        strength = min(STRENGTHS, key=lambda strength: float((left_out(strength) ** 2).mean()))
        noise = max(float(np.sqrt((left_out(strength) ** 2).mean())), 1e-9)
        penalty = strength * n
        weights = vt.T @ (s / (s**2 + penalty) * projected)
        shrinkage = 1 / (s**2 + penalty)
        return FittedRidge(
            self.degree, centre, width, mean, weights, intercept, noise, vt.T.copy(), shrinkage, 1 / penalty
        )


def _columns(features: Matrix, degree: int) -> Matrix:
    if degree == 1:
        return features
    first, second = np.triu_indices(features.shape[1])
    return np.hstack([features, features[:, first] * features[:, second]])

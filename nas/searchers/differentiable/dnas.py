"""Latency-aware DNAS: a learned regressor of latency in the loss, for latencies that are no sum over positions.

Xu et al., "Latency-Aware Differentiable Neural Architecture Search", 2020, arXiv:2001.06392: a perceptron is fitted to
the latencies of random architectures and then reads the relaxed one, whose one-hot encoding holds probabilities. Here
it learns from the latency predictor of the device, which can be of any kind: trees, a Gaussian process, or a network
fitted to measured ones. It predicts what a linear model leaves over, so that the mean of a sum over positions comes out
nearly right, and its error on networks that were held out is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.core.problem import Objective, Problem
from nas.searchers.differentiable.base import GradientSearch, Relaxed
from predictors.mlp import FittedMlp, Mlp
from search_spaces.base.errors import InvalidValueError
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DNAS(GradientSearch):
    """DARTS whose latency is learned.

    Args:
        networks: random networks that the regressor learns from.
        held_out: further ones that judge it.
        hidden: widths of its hidden layers.
        fit_steps: of its fit.
    """

    networks: int = 2000
    held_out: int = 500
    hidden: tuple[int, ...] = (64, 64)
    fit_steps: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if self.networks < 10 or self.held_out < 1:
            raise InvalidValueError(
                f"`networks` must be >= 10 and `held_out` >= 1, but got {self.networks} and {self.held_out}."
            )
        Mlp(hidden=self.hidden, steps=self.fit_steps)  # which checks them

    def latency_model(self, problem: Problem, objective: Objective) -> Relaxed:
        space = problem.space
        genes = space.sample(self.networks + self.held_out, np.random.default_rng(self.seed))
        for name, value in self.fixed.items():
            genes[:, space.index[name]] = space.choices[space.index[name]].values.index(value)
        genes = space.canonical(genes)
        values = objective.predictor.predict(genes)
        runs = np.isfinite(values)
        seen = runs & (np.arange(len(genes)) < self.networks)
        unseen = runs & ~seen
        if seen.sum() < 10 or not unseen.any():
            raise InvalidValueError(
                f"The device can run only {runs.sum()} of {len(genes)} random networks, too few to learn its latency."
            )
        mlp = Mlp(hidden=self.hidden, steps=self.fit_steps, members=1, seed=self.seed)
        regressor = LatencyRegressor.fit(space, mlp, space.encode(genes[seen]), values[seen])
        predicted = regressor.of_features(space.encode(genes[unseen]))
        error = float(np.median(np.abs(predicted / values[unseen] - 1)))
        log.info(
            "%s: median error of the learned %s on %d other networks: %.2f %%",
            *(type(self).__name__, objective.name, int(unseen.sum()), 100 * error),
        )
        return regressor


class LatencyRegressor:
    """Latency as a function of one-hot features that may hold probabilities: a linear model and a perceptron.

    Args:
        space: of the architectures.
        coefficients: of the linear model, (features + 1,), the last one constant.
        residual: predicts what the linear model leaves over, in units of ``deviation``.
        deviation: standard deviation of what it leaves over.
    """

    def __init__(
        self, space: SearchSpace, coefficients: NDArray[np.float64], residual: FittedMlp, deviation: float
    ) -> None:
        import torch

        self.space = space
        self.deviation = deviation
        self._coefficients = torch.from_numpy(coefficients.astype(np.float32))
        self._centre = torch.from_numpy(residual.centre.astype(np.float32))
        self._width = torch.from_numpy(residual.width.astype(np.float32))
        self._layers = [
            (torch.from_numpy(weights[0].copy()), torch.from_numpy(biases[0, 0].copy()))
            for weights, biases in zip(residual.weights, residual.biases, strict=True)
        ]

    @classmethod
    def fit(
        cls, space: SearchSpace, mlp: Mlp, features: NDArray[np.float32], values: NDArray[np.float64]
    ) -> LatencyRegressor:
        """Fit to values (n,) of features (n, f)."""
        rows = np.column_stack([features, np.ones(len(features))]).astype(np.float64)
        coefficients, *_ = np.linalg.lstsq(rows, values, rcond=None)  # of all that fit, the smallest
        left = values - rows @ coefficients
        deviation = float(left.std()) or 1.0
        return cls(space, np.asarray(coefficients, np.float64), mlp.fit(features, left / deviation), deviation)

    def of_features(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Latencies (n,) of features (n, f)."""
        import torch

        return np.asarray(self._forward(torch.from_numpy(features)).double().numpy())

    def __call__(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """Latency of the relaxed architecture, a scalar."""
        return self._forward(encoded(self.space, probabilities)[None])[0]

    def _forward(self, features: Tensor) -> Tensor:
        x = (features - self._centre) / self._width
        for layer, (weights, biases) in enumerate(self._layers):
            x = x @ weights + biases
            x = x.relu() if layer < len(self._layers) - 1 else x
        return features @ self._coefficients[:-1] + self._coefficients[-1] + self.deviation * x[:, 0]


def encoded(space: SearchSpace, probabilities: Mapping[str, Tensor]) -> Tensor:
    """Mean of `SearchSpace.encode` over the networks that independent choices give, (features,), exact: the probability
    of each value of a choice, times that of the choice mattering."""
    import torch

    active: dict[str, Tensor] = {}
    for choice in space.choices:
        condition = choice.active_when
        active[choice.name] = probabilities[choice.name].new_ones(())
        if condition is not None:
            parent = space.choices[space.index[condition.choice]]
            allowed = torch.tensor([value in condition.values for value in parent.values])
            active[choice.name] = active[parent.name] * probabilities[parent.name][allowed].sum()
    return torch.cat([active[choice.name] * probabilities[choice.name] for choice in space.choices])

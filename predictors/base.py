"""Predictors: a predictor is a cheap stand-in for measuring or training, with a metric and a unit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError, TooCostlyError
from search_spaces.metric import Direction, Metric, known_metric
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from torch import Tensor

Values = NDArray[np.float64]


class Predictor(Protocol):
    """Maps architectures to numbers. Measuring on the device and evaluating through the supernet have this form too."""

    @property
    def metric(self) -> str:
        """Metric that is predicted: accuracy or another one of a task, latency, memory, macs, params."""

    @property
    def unit(self) -> str:
        """ms, bytes, 1 (a fraction)..."""

    def predict(self, genes: Genes) -> Values:
        """Values of canonical genes (n, choices), shape (n,)."""


class Trainable(Predictor, Protocol):
    """A predictor that is fitted to measured pairs."""

    def fit(self, genes: Genes, values: Values) -> None:
        """Fit to values (n,) of genes (n, choices).

        Raises:
            InvalidValueError: too few pairs, wrong shapes, NaN or infinite values.
        """


@runtime_checkable
class Bounded(Predictor, Protocol):
    """A predictor that knows its exact minimum over the whole space, however large."""

    def minimum(self) -> tuple[Genes, float]:
        """The architecture (choices,) of the smallest value, and that value."""


def exact_minimum(predictor: Predictor) -> tuple[Genes, float] | None:
    """The architecture (choices,) of a predictor's smallest value over the whole space, and that value; None where it
    does not know them, or not without too much work."""
    if not isinstance(predictor, Bounded):
        return None
    try:
        return predictor.minimum()
    except TooCostlyError:
        return None


def exact_maximum(predictor: Predictor) -> tuple[Genes, float] | None:
    """The architecture (choices,) of a predictor's largest value over the whole space, and that value, where it has
    ``maximum``; see `exact_minimum`."""
    maximum = getattr(predictor, "maximum", None)
    try:
        return maximum() if callable(maximum) else None
    except TooCostlyError:
        return None


@runtime_checkable
class Differentiable(Predictor, Protocol):
    """A predictor that also takes choices that are still probabilities."""

    def relaxed(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """Mean prediction over the networks that choices taken independently give, differentiable in `probabilities`.

        Args:
            probabilities: choice -> probability of each of its values, shape (values,), adding up to 1; all of one
                dtype, on one device. Choices that matter only sometimes have them too.

        Returns:
            A scalar of their dtype. It is inf if a layer that the device cannot run has a probability above 0: give the
            values that lead to it the probability 0 (a logit of -inf).

        Raises:
            InvalidValueError: a choice is missing or unknown, or its numbers are no probabilities.
        """


@runtime_checkable
class Uncertain(Predictor, Protocol):
    """A predictor that knows how far it may be off."""

    def predict_with_std(self, genes: Genes) -> tuple[Values, Values]:
        """Prediction, and the standard deviation of the error to expect of a measurement, both (n,).

        The deviation is positive and finite, in the metric's unit, and grows with the distance from fitted networks.
        """

    def extrapolates(self, genes: Genes) -> NDArray[np.bool_]:
        """Mask (n,) of networks outside of what was fitted: predicted, but a guess."""


class Saved(Protocol):
    """A predictor that is a file: plain arrays, no pickle."""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All that `from_arrays` needs."""

    @classmethod
    def from_arrays(cls, space: SearchSpace, arrays: dict[str, NDArray[Any]]) -> Saved:
        """Read back `to_arrays`."""


def metric_of(predictor: Predictor, direction: Direction | None = None) -> Metric:
    """The metric that a predictor names: one that every run or a task has, or one of its own.

    Args:
        predictor: such as one of latency in ms.
        direction: whether less or more is better; None: as the predictor's ``direction`` has it, where it states one,
            then as the built-in metric has it, then less.

    Raises:
        InvalidValueError: its metric or unit is no text, or makes no name.
    """
    for name in ("metric", "unit"):
        if not isinstance(getattr(predictor, name), str):
            raise InvalidValueError(
                f"`{name}` of the predictor {type(predictor).__name__} must be text, but is "
                f"{getattr(predictor, name)!r}."
            )
    words = [re.sub(r"[^a-z0-9]+", "_", word.lower()).strip("_") for word in (predictor.metric, predictor.unit)]
    found = known_metric("_".join(words)) or known_metric(words[0]) or Metric(words[0], predictor.unit)
    stated = direction or getattr(predictor, "direction", None) or found.direction
    return replace(found, unit=predictor.unit, direction=stated)

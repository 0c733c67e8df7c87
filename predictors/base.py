"""What a predictor is: a cheap stand-in for measuring or training, with a metric and a unit."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Genes
from search_spaces.space import SearchSpace

Values = NDArray[np.float64]


class Predictor(Protocol):
    """Maps architectures to numbers. Measuring on the device and evaluating through the supernet have this form too."""

    @property
    def metric(self) -> str:
        """What is predicted: accuracy, latency, memory, macs, params."""

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


class Saved(Protocol):
    """A predictor that is a file: plain arrays, no pickle."""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All that `from_arrays` needs."""

    @classmethod
    def from_arrays(cls, space: SearchSpace, arrays: dict[str, NDArray[Any]]) -> Saved:
        """Read back `to_arrays`."""

"""Quantities that are a sum or a maximum over positions: for a whole population a gather and one reduction.

Latency tables, MACs and parameters are of this form, and the peak memory of chains (`predictors.peak_memory`). Their
exact extremes over a whole space, however large, come from eliminating one choice after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from predictors.elimination import Factor
from predictors.factor_table import Factored
from predictors.relaxed import Expectation
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Layer
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class PositionTable(Factored):
    """A predictor whose value is ``constant`` plus the sum, or the maximum, of one table entry per position.

    Args:
        space: whose architectures it predicts.
        metric: what is predicted.
        unit: of the values.
        values: one per index of `SearchSpace.position_index`, shape (space.table_size,); 0 where there is no layer; inf
            for a layer that the device cannot run.
        combine: sum or max over positions.
        constant: added to the result.
    """

    space: SearchSpace
    metric: str
    unit: str
    values: NDArray[np.float64]
    combine: Literal["sum", "max"] = "sum"
    constant: float = 0.0

    def __post_init__(self) -> None:
        if self.values.shape != (self.space.table_size,):
            raise InvalidValueError(
                f"A table over space {self.space.name!r} has {self.space.table_size} values, "
                f"but got {self.values.shape}."
            )
        if np.isnan(self.values).any() or not np.isfinite(self.constant):
            raise InvalidValueError("A position table must not hold NaN.")

    @staticmethod
    def of_layers(
        space: SearchSpace,
        metric: str,
        unit: str,
        value: Callable[[Layer], float],
        combine: Literal["sum", "max"] = "sum",
    ) -> PositionTable:
        """Table of a function of the layer; it is called once per distinct layer."""
        known = {layer: float(value(layer)) for layer in space.distinct_layers}
        values = [
            0.0 if layer is None else known[layer] for p in range(len(space.positions)) for layer in space.layers_at(p)
        ]
        return PositionTable(space, metric, unit, np.array(values), combine)

    def index(self, genes: Genes) -> NDArray[np.int64]:
        return self.space.position_index(genes)

    @property
    def factors(self) -> list[Factor]:
        space, found = self.space, []
        for p, position in enumerate(space.positions):
            columns = tuple(space.index[name] for name in position.depends_on)
            block = self.values[space.offsets[p] : space.offsets[p + 1]]
            found.append((columns, block.reshape([int(space.cardinalities[c]) for c in columns])))
        return found

    @functools.cached_property
    def _expectation(self) -> Expectation:
        return Expectation(self.space, self.values)

    def relaxed(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """Mean over the networks that independent choices give, exact; see `Differentiable.relaxed`.

        Raises:
            InvalidValueError: no probabilities, or a maximum over positions: its mean is no sum of means.
        """
        if self.combine != "sum":
            raise InvalidValueError(
                f"The {self.metric} predictor is a maximum over positions; only a sum can be relaxed."
            )
        return self._expectation(probabilities) + self.constant

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All that `from_arrays` needs."""
        return {
            "values": self.values,
            "constant": np.array(self.constant),
            "combine": np.array(self.combine),
            "metric": np.array(self.metric),
            "unit": np.array(self.unit),
        }

    @classmethod
    def from_arrays(cls, space: SearchSpace, arrays: dict[str, NDArray[Any]]) -> PositionTable:
        """Read back `to_arrays`."""
        combine: Literal["sum", "max"] = "max" if str(arrays["combine"]) == "max" else "sum"
        return cls(
            space, str(arrays["metric"]), str(arrays["unit"]), arrays["values"], combine, float(arrays["constant"])
        )


def macs(space: SearchSpace) -> PositionTable:
    """Exact multiply-accumulates at batch 1."""
    return PositionTable.of_layers(space, "macs", "1", lambda layer: layer.macs)


def params(space: SearchSpace) -> PositionTable:
    """Exact number of trainable parameters."""
    return PositionTable.of_layers(space, "params", "1", lambda layer: layer.params)


def activations(space: SearchSpace) -> PositionTable:
    """Exact number of elements that convolutions and linear layers write, batch 1; see `counting.activations`."""
    return PositionTable.of_layers(space, "activations", "1", lambda layer: layer.activations)


def traffic(space: SearchSpace, buffer_words: int = 0) -> PositionTable:
    """Exact words between the memory and a chip whose buffer holds so many, batch 1; see `counting.traffic`."""
    return PositionTable.of_layers(space, "traffic", "1", lambda layer: layer.traffic(buffer_words))

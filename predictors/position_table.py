"""Quantities that are a sum or a maximum over positions: for a whole population a gather and one reduction.

Latency tables, MACs, parameters and peak memory are of this form. Their exact extremes over a whole space, however
large, come from eliminating one choice after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from predictors.base import Values
from predictors.relaxed import Expectation
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Layer
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1024
"""Architectures looked up at a time: what they need stays in the processor's cache."""


@dataclass(frozen=True, eq=False)
class PositionTable:
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

    def predict(self, genes: Genes) -> Values:
        """Values of canonical genes (n, choices), shape (n,)."""
        reduced = np.empty(len(genes))
        for start in range(0, len(genes), CHUNK):
            rows = slice(start, start + CHUNK)
            entries = self.values[self.space.position_index(genes[rows])]  # (rows, positions)
            reduced[rows] = entries.sum(1) if self.combine == "sum" else entries.max(1, initial=0.0)
        return reduced + self.constant

    def minimum(self) -> tuple[Genes, float]:
        """The architecture of the smallest value and that value, exact over the whole space.

        Variable elimination (Dechter, "Bucket elimination", 1999) in the semiring (min, combine): choices are
        eliminated one by one, each time merging the tables that depend on it. Its cost grows with how many choices
        meet in one table, not with the size of the space.
        """
        combine = np.add if self.combine == "sum" else np.maximum
        space = self.space
        factors: list[tuple[tuple[int, ...], NDArray[np.float64]]] = []
        for p, position in enumerate(space.positions):
            columns = tuple(space.index[name] for name in position.depends_on)
            block = self.values[space.offsets[p] : space.offsets[p + 1]]
            factors.append((columns, block.reshape([int(space.cardinalities[c]) for c in columns])))
        decisions: list[tuple[int, tuple[int, ...], NDArray[np.intp]]] = []
        remaining = set(range(len(space.choices)))
        while remaining:
            scopes = {
                c: sorted({d for columns, _ in factors if c in columns for d in columns} - {c}) for c in remaining
            }
            column = min(remaining, key=lambda c: (np.prod([float(space.cardinalities[d]) for d in scopes[c]]), c))
            scope = scopes[column]
            touching = [factor for factor in factors if column in factor[0]]
            factors = [factor for factor in factors if column not in factor[0]]
            axes = [*scope, column]
            merged = np.zeros([int(space.cardinalities[d]) for d in axes])
            for columns, table in touching:
                order = sorted(range(len(columns)), key=lambda i: axes.index(columns[i]))
                shape = [int(space.cardinalities[d]) if d in columns else 1 for d in axes]
                merged = combine(merged, table.transpose(order).reshape(shape))
            decisions.append((column, tuple(scope), merged.argmin(-1)))
            factors.append((tuple(scope), merged.min(-1)))
            remaining.remove(column)
        total = 0.0
        for _, table in factors:
            total = float(combine(total, table))
        genes = np.zeros(len(space.choices), np.int16)
        for column, columns, best in reversed(decisions):
            genes[column] = best[tuple(genes[c] for c in columns)]
        return space.canonical(genes[None])[0], total + self.constant

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


def peak_memory(space: SearchSpace, bytes_per_element: int = 4) -> PositionTable:
    """Exact peak of activation bytes alive at once, batch 1, one operator after the other."""
    return PositionTable.of_layers(
        space, "memory", "bytes", lambda layer: layer.peak_elements * bytes_per_element, combine="max"
    )


def activations(space: SearchSpace) -> PositionTable:
    """Exact number of elements that convolutions and linear layers write, batch 1; see `counting.activations`."""
    return PositionTable.of_layers(space, "activations", "1", lambda layer: layer.activations)


def traffic(space: SearchSpace, buffer_words: int = 0) -> PositionTable:
    """Exact words between the memory and a chip whose buffer holds so many, batch 1; see `counting.traffic`."""
    return PositionTable.of_layers(space, "traffic", "1", lambda layer: layer.traffic(buffer_words))

"""Quantities that are a sum or a maximum of small tables over choices: for a whole population a gather and one
reduction, and with exact extremes over a whole space, however large."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from predictors.base import Values
from predictors.elimination import Factor, Scope, minimum
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError
from search_spaces.space import SearchSpace

CHUNK = 1024
"""Architectures looked up at a time: what they need stays in the processor's cache."""


class Factored(ABC):
    """A predictor whose value is ``constant`` plus the sum, or the maximum, of one entry of each of its tables.

    ``values`` holds the entries of all tables, one table after the other.
    """

    space: SearchSpace
    metric: str
    unit: str
    values: NDArray[np.float64]
    combine: Literal["sum", "max"]
    constant: float

    @abstractmethod
    def index(self, genes: Genes) -> NDArray[np.int64]:
        """Index into ``values`` of the entry that each network (n, choices) takes of each table, (n, tables)."""

    @property
    @abstractmethod
    def factors(self) -> list[Factor]:
        """Scopes and entries of the tables."""

    def predict(self, genes: Genes) -> Values:
        """Values of canonical genes (n, choices), shape (n,)."""
        reduced = np.empty(len(genes))
        for start in range(0, len(genes), CHUNK):
            rows = slice(start, start + CHUNK)
            entries = self.values[self.index(genes[rows])]  # (rows, tables)
            reduced[rows] = entries.sum(1) if self.combine == "sum" else entries.max(1, initial=0.0)
        return reduced + self.constant

    def minimum(self) -> tuple[Genes, float]:
        """The architecture of the smallest value and that value, exact over the whole space; see `elimination`.

        Raises:
            TooCostlyError: too many choices meet.
        """
        combine = np.add if self.combine == "sum" else np.maximum
        genes, total = minimum(self.space, self.factors, combine, f"The exact minimum of the {self.metric}")
        return genes, total + self.constant


@dataclass(frozen=True, eq=False)
class FactorTable(Factored):
    """Tables over any choices, such as those of all positions whose tensors are alive at once.

    Args:
        space: whose architectures it predicts.
        metric: what is predicted.
        unit: of the values.
        scopes: columns of the choices that each table depends on.
        values: entries of all tables, the last choice of a scope fastest.
        combine: sum or max over tables.
        constant: added to the result.
    """

    space: SearchSpace
    metric: str
    unit: str
    scopes: tuple[Scope, ...]
    values: NDArray[np.float64]
    combine: Literal["sum", "max"] = "sum"
    constant: float = 0.0

    def __post_init__(self) -> None:
        if self.values.shape != (int(self._offsets[-1]),):
            raise InvalidValueError(
                f"Tables over these choices of space {self.space.name!r} have {self._offsets[-1]} values, but got "
                f"{self.values.shape}."
            )
        if np.isnan(self.values).any() or not np.isfinite(self.constant):
            raise InvalidValueError("A table must not hold NaN.")

    @staticmethod
    def of(
        space: SearchSpace, metric: str, unit: str, factors: Sequence[Factor], combine: Literal["sum", "max"]
    ) -> FactorTable:
        """The table of some factors."""
        values = np.concatenate([np.zeros(0), *(table.ravel() for _, table in factors)])
        return FactorTable(space, metric, unit, tuple(scope for scope, _ in factors), values, combine)

    def index(self, genes: Genes) -> NDArray[np.int64]:
        within = genes.astype(self._steps.dtype) @ self._steps  # BLAS, which has no integers
        return np.asarray(within.astype(np.int64) + self._offsets[:-1])

    @property
    def factors(self) -> list[Factor]:
        blocks = np.split(self.values, self._offsets[1:-1])
        return [(scope, block.reshape(self._cards(scope))) for scope, block in zip(self.scopes, blocks, strict=True)]

    @functools.cached_property
    def _offsets(self) -> NDArray[np.int64]:
        sizes = [math.prod(self._cards(scope)) for scope in self.scopes]
        return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)

    @functools.cached_property
    def _steps(self) -> NDArray[np.floating]:
        steps = np.zeros((len(self.space.choices), len(self.scopes)))
        for f, scope in enumerate(self.scopes):
            cards = self._cards(scope)
            for i, column in enumerate(scope):
                steps[column, f] = math.prod(cards[i + 1 :])
        return steps.astype(np.float32 if self._offsets[-1] < 2**24 else np.float64)

    def _cards(self, scope: Scope) -> list[int]:
        return [int(self.space.cardinalities[column]) for column in scope]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All that `from_arrays` needs."""
        return {
            "values": self.values,
            "scopes": np.array([column for scope in self.scopes for column in scope], np.int64),
            "lengths": np.array([len(scope) for scope in self.scopes], np.int64),
            "constant": np.array(self.constant),
            "combine": np.array(self.combine),
            "metric": np.array(self.metric),
            "unit": np.array(self.unit),
        }

    @classmethod
    def from_arrays(cls, space: SearchSpace, arrays: dict[str, NDArray[Any]]) -> FactorTable:
        """Read back `to_arrays`."""
        parts = np.split(arrays["scopes"], np.cumsum(arrays["lengths"])[:-1]) if len(arrays["lengths"]) else []
        scopes = tuple(tuple(int(column) for column in part) for part in parts)
        combine: Literal["sum", "max"] = "max" if str(arrays["combine"]) == "max" else "sum"
        metric, unit = str(arrays["metric"]), str(arrays["unit"])
        return cls(space, metric, unit, scopes, arrays["values"], combine, float(arrays["constant"]))

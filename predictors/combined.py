"""Several predictions as one number, for a network that has to be good on several devices at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from predictors.base import Predictor, Values
from predictors.position_table import PositionTable
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError


class Combined:
    """The worst, or the sum, of several predictions, each times a factor: shares of limits, say, so that they compare.

    Args:
        parts: of one metric.
        factors: one per part, > 0.
        how: the largest of the products, or their sum.
        unit: of the result.
    """

    def __init__(
        self, parts: Sequence[Predictor], factors: Sequence[float], how: Literal["worst", "weighted"], unit: str = "1"
    ) -> None:
        if not parts or len(parts) != len(factors):
            raise InvalidValueError(f"There must be one factor per part, but got {len(factors)} for {len(parts)}.")
        if not all(np.isfinite(factor) and factor > 0 for factor in factors):
            raise InvalidValueError(f"Factors must be > 0, but got {list(factors)}.")
        if how not in ("worst", "weighted"):
            raise InvalidValueError(f"`how` must be 'worst' or 'weighted', but got {how!r}.")
        self.parts = tuple(parts)
        self.factors = tuple(factors)
        self.how = how
        self.metric = parts[0].metric
        self.unit = unit

    def predict(self, genes: Genes) -> Values:
        """Values of canonical genes (n, choices), shape (n,)."""
        each = [factor * part.predict(genes) for part, factor in zip(self.parts, self.factors, strict=True)]
        return np.asarray(np.max(each, 0) if self.how == "worst" else np.sum(each, 0), np.float64)


def weighted_sum(parts: Sequence[Predictor], factors: Sequence[float], unit: str = "1") -> Predictor:
    """The weighted sum of predictions; where all are sums over positions it is one too, and knows its exact minimum."""
    combined = Combined(parts, factors, "weighted", unit)
    tables = [part if isinstance(part, PositionTable) else getattr(part, "table", None) for part in parts]
    sums = [table for table in tables if isinstance(table, PositionTable) and table.combine == "sum"]
    if len(sums) < len(parts):
        return combined
    values = np.sum([factor * table.values for factor, table in zip(factors, sums, strict=True)], 0)
    constant = sum(factor * table.constant for factor, table in zip(factors, sums, strict=True))
    return PositionTable(sums[0].space, combined.metric, unit, values, "sum", constant)

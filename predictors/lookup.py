"""Latency by table lookup, corrected with a few whole networks.

The sum of layers measured alone is not the latency of a network: each lone run pays a call and, at both ends, a change
of memory layout that inside a network is paid once or not at all, while caches and clocks scale the rest. Four terms
say so, fitted on relative errors::

    network = scale * sum(layers) + per_layer * number of layers + per_element * boundary elements + constant

All are sums over positions, so the corrected predictor is again one table, as fast as the plain one. Which terms a
device needs is chosen by leaving networks out: a table in context is often right as it is, and then a fitted term adds
only the noise of its fit.

Terms that fit what was measured, but would have some network of the space run its layers more than `FASTER` times as
fast as any measured one ran its own, cannot be right, and simpler ones are taken. So no network is ever predicted to
take no time, or less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.latency_table import LatencyTable
from predictors.base import Values, exact_minimum
from predictors.layer_model import LayerModel
from predictors.position_table import PositionTable
from predictors.validation import checked_pairs
from search_spaces.architecture import Architecture, Genes
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Layer
from search_spaces.metric import LATENCY, Metric
from search_spaces.program import elements
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from torch import Tensor

TERMS = ("scale", "per_layer", "per_element", "constant")

SETS: tuple[tuple[str, ...], ...] = ((), ("scale",), ("scale", "constant"), ("scale", "per_layer", "constant"), TERMS)
"""Sets of terms that may be fitted, from nothing (the plain sum) to all terms."""


SAMPLE = 10_000
"""Random networks that are looked at where the exact minimum over a space is too costly."""

FASTER = 2.0
"""Factor by which layers may be predicted to run faster than in any measured network."""


@dataclass(frozen=True)
class Coverage:
    """A space's distinct layers by what a latency table says of them."""

    measured: tuple[Layer, ...]
    failed: tuple[Layer, ...]
    absent: tuple[Layer, ...]


def coverage(space: SearchSpace, table: LatencyTable, metric: Metric = LATENCY) -> Coverage:
    """Coverage of the space's layers by what the table has of a metric."""
    values = table.values_of(metric.name)
    failed = tuple(layer for layer in space.distinct_layers if layer in table.failed)
    known = tuple(layer for layer in space.distinct_layers if layer in values)
    either = {*failed, *known}
    return Coverage(known, failed, tuple(layer for layer in space.distinct_layers if layer not in either))


def plain_sum(
    space: SearchSpace, table: LatencyTable, fill: LayerModel | None = None, metric: Metric = LATENCY
) -> PositionTable:
    """Sum of the layers' latencies, or of another metric that adds up over layers; inf for architectures with a layer
    that the device cannot run.

    Args:
        space: whose architectures to predict.
        table: of measured layers.
        fill: predicts the layers that the table lacks (`coverage` says which).
        metric: that is summed.

    Raises:
        MissingLayerError: the table lacks a layer of the space, and there is no ``fill``.
        InvalidValueError: ``fill`` is not fitted.
    """
    predicted: dict[Layer, float] = {}
    if fill is not None:
        absent = coverage(space, table, metric).absent
        predicted = dict(zip(absent, fill.predict(absent)[0].tolist(), strict=True))

    def of_layer(layer: Layer) -> float:
        if layer in table.failed:
            return np.inf
        return predicted[layer] if layer in predicted else table.value(layer, metric.name)

    return PositionTable.of_layers(space, metric.title, metric.unit, of_layer)


def sums_left_out(space: SearchSpace, table: LatencyTable, genes: Genes) -> Values:
    """The layers' sum of each network (n, choices) by what the table has from other networks, (n,) in ms.

    A table in context is made from the networks that its correction is fitted on: their sums know the answer. These do
    not. Where the table has layers alone, both are the same.

    Raises:
        MissingLayerError: the table lacks a layer of a network.
    """
    return np.array([table.sum_without(list(space.lower(Architecture(space, row)).values())) for row in genes])


class CorrectedLookup:
    """Lookup table with whole-network correction, of the latency or another metric that adds up over layers.

    Args:
        layers: the plain sum (or any table of ms per layer), which says what the metric is.
        ridge: pull of each term, in units of the mean latency, towards the plain sum.
        minimum_pairs: fewest networks that a fit takes.

    After a fit ``doubt`` says, in words for a person, why what was measured may be wrong; empty where nothing does.
    """

    def __init__(self, layers: PositionTable, *, ridge: float = 1e-4, minimum_pairs: int = 8) -> None:
        self.layers = layers
        self.metric, self.unit = layers.metric, layers.unit
        self.ridge = ridge
        self.minimum_pairs = minimum_pairs
        self.space = layers.space
        self.terms: dict[str, float] = {}
        self.chosen: tuple[str, ...] = ()
        self.doubt = ""
        self.expected_error = np.nan
        self._fitted_sums = np.zeros(0)
        self._table: PositionTable | None = None
        self._counts = PositionTable.of_layers(self.space, "layers", "1", lambda layer: 1.0)
        self._boundaries = PositionTable.of_layers(self.space, "boundary", "1", _boundary_elements)

    def fit(self, genes: Genes, values: Values, *, sums: Values | None = None) -> None:
        """Fit terms to measured networks, minimising relative errors; of `SETS`, the first whose mean relative error on
        networks left out is within a standard error of the least (Breiman et al., "Classification and Regression
        Trees", 1984, section 3.4.3).

        Args:
            genes: of the networks, (n, choices).
            values: their ms, (n,).
            sums: of their layers, (n,); None: as the table has them. See `sums_left_out`.

        Only terms count that are possible for every network of the space (`is_possible`); where others fit best,
        ``doubt`` says so.

        Raises:
            InvalidValueError: fewer than ``minimum_pairs`` pairs, wrong shapes, or values that are not positive.
        """
        genes, values = checked_pairs(self.space, genes, values, minimum=self.minimum_pairs, positive=True)
        features = np.stack(
            [
                self.layers.predict(genes) if sums is None else sums,
                self._counts.predict(genes),
                self._boundaries.predict(genes),
                np.ones(len(genes)),
            ],
            axis=1,
        )  # (n, 4)
        if not np.isfinite(features).all():
            raise InvalidValueError("A network to fit on has a layer that the device cannot run.")
        fits = {chosen: self._fit(features, values, chosen) for chosen in SETS}
        least = min(1.0, float((values / features[:, 0]).min())) / FASTER
        possible = [chosen for chosen in SETS if self.is_possible(_terms(fits[chosen][0]), least)]
        self.chosen, wanted = (
            _simplest({chosen: np.abs(fits[chosen][1]) for chosen in sets}) for sets in (possible, SETS)
        )
        self.doubt = ""
        if wanted not in possible:
            best, taken = (", ".join(chosen) or "none" for chosen in (wanted, self.chosen))
            fitted = ", ".join(f"{name} {value:.3g}" for name, value in _terms(fits[wanted][0]).items())
            self.doubt = (
                f"The terms {best} fit the measured networks best ({fitted}), but would have networks of space "
                f"{self.space.name!r} run their layers more than {FASTER:g} times as fast as any measured one, or take "
                f"no time at all. Simpler terms are taken ({taken}). The measurements are probably disturbed."
            )
        coefficients, left_out = fits[self.chosen]
        self.expected_error = max(float(np.sqrt((left_out**2).mean())), 1e-9)
        self._fitted_sums = features[:, 0]
        self._set(_terms(coefficients))

    def is_possible(self, terms: Mapping[str, float], least: float) -> bool:
        """True if terms give every network of the space that share of its layers' sum at least: exact over all, or over
        a sample where too many choices meet."""
        table = self._table_with(terms)
        runnable = np.isfinite(self.layers.values)
        beyond = np.where(runnable, table.values - least * np.where(runnable, self.layers.values, 0), np.inf)
        above = PositionTable(self.space, self.metric, self.unit, beyond, "sum", table.constant)
        exact = exact_minimum(above)
        if exact is None:
            rows = self.space.sample(SAMPLE, np.random.default_rng(0))
            return bool(terms["scale"] > 0 and above.predict(rows).min() >= 0)
        return terms["scale"] > 0 and exact[1] >= 0

    def _fit(
        self, features: NDArray[np.float64], values: Values, chosen: tuple[str, ...]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coefficients of `TERMS`, and the relative error of each network when it is left out.

        Leaving one out of a linear fit divides its residual by 1 - leverage (Cook & Weisberg, "Residuals and Influence
        in Regression", 1982, section 2.2).
        """
        columns = [TERMS.index(name) for name in chosen]
        scales = features.mean(0)
        weighted = features / scales / values[:, None]
        start = np.array([scales[0], 0.0, 0.0, 0.0])  # the plain sum
        missing = 1 - weighted @ start
        free = weighted[:, columns]
        gram = free.T @ free + self.ridge * len(values) / values.mean() ** 2 * np.eye(len(columns))
        step = np.linalg.solve(gram, free.T @ missing)
        leverage = (free * np.linalg.solve(gram, free.T).T).sum(1)
        start[columns] += step
        return start / scales, (missing - free @ step) / np.maximum(1 - leverage, 1e-6)

    def _set(self, terms: Mapping[str, float]) -> None:
        self.terms = dict(terms)
        self._table = self._table_with(terms)

    def _table_with(self, terms: Mapping[str, float]) -> PositionTable:
        present, runnable = self._counts.values > 0, np.isfinite(self.layers.values)
        values = np.where(
            present,
            terms["scale"] * np.where(present & runnable, self.layers.values, 0)
            + terms["per_layer"] * self._counts.values
            + terms["per_element"] * self._boundaries.values,
            0.0,
        )
        values[~runnable] = np.inf  # whatever the terms: the device cannot run it
        return PositionTable(self.space, self.metric, self.unit, values, "sum", terms["constant"])

    @property
    def table(self) -> PositionTable:
        """The fitted predictor as one table.

        Raises:
            InvalidValueError: not fitted yet.
        """
        if self._table is None:
            raise InvalidValueError(f"The {self.metric} predictor is not fitted; call `fit` first.")
        return self._table

    def predict(self, genes: Genes) -> Values:
        """Values of canonical genes (n, choices), shape (n,), in the unit."""
        return self.table.predict(genes)

    def predict_with_std(self, genes: Genes) -> tuple[Values, Values]:
        """Prediction, and the standard deviation of the error to expect of a measurement, both (n,).

        The error of networks left out, widened away from the fitted ones like that of a line through their sums.
        """
        predicted, known = self.predict(genes), np.log(self._fitted_sums)
        with np.errstate(divide="ignore"):
            distance = (np.log(self.layers.predict(genes)) - known.mean()) / max(float(known.std()), 1e-9)
        widened = np.sqrt(1 + (1 + np.where(np.isfinite(distance), distance, 0) ** 2) / len(known))
        return predicted, np.where(np.isfinite(predicted), np.abs(predicted), 1.0) * self.expected_error * widened

    def extrapolates(self, genes: Genes) -> NDArray[np.bool_]:
        """Mask (n,) of networks faster or slower than all fitted ones by more than a tenth of their range."""
        _, sums = self.table, self.layers.predict(genes)
        low, high = self._fitted_sums.min(), self._fitted_sums.max()
        margin = 0.1 * (high - low)
        return np.asarray((sums < low - margin) | (sums > high + margin))

    def minimum(self) -> tuple[Genes, float]:
        """The architecture of the smallest value and that value, exact over the whole space."""
        return self.table.minimum()

    def relaxed(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """Mean over the networks that independent choices give, exact; see `Differentiable.relaxed`."""
        return self.table.relaxed(probabilities)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All that `from_arrays` needs."""
        _ = self.table
        named = {} if self.metric == LATENCY.title else {"metric": np.array([self.metric, self.unit])}
        return {
            **named,
            "layers": self.layers.values,
            "terms": np.array([self.terms[name] for name in TERMS]),
            "expected_error": np.array(self.expected_error),
            "fitted_sums": self._fitted_sums,
        }

    @classmethod
    def from_arrays(cls, space: SearchSpace, arrays: dict[str, NDArray[Any]]) -> CorrectedLookup:
        """Read back `to_arrays`."""
        metric, unit = map(str, arrays.get("metric", (LATENCY.title, LATENCY.unit)))
        lookup = cls(PositionTable(space, metric, unit, arrays["layers"]))
        lookup.expected_error = float(arrays["expected_error"])
        lookup._fitted_sums = arrays["fitted_sums"]
        lookup._set(_terms(arrays["terms"]))
        return lookup


def _terms(coefficients: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(TERMS, coefficients.tolist(), strict=True))


def _simplest(errors: Mapping[tuple[str, ...], NDArray[np.float64]]) -> tuple[str, ...]:
    """The first whose mean error is within a standard error of the least."""
    best = min(errors.values(), key=lambda error: float(error.mean()))
    good_enough = best.mean() + best.std(ddof=1) / np.sqrt(len(best))
    return next(chosen for chosen, error in errors.items() if error.mean() <= good_enough)


def _boundary_elements(layer: Layer) -> float:
    return float(sum(map(elements, layer.input_shapes)) + elements(layer.output_shape))

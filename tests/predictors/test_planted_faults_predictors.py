"""Each contract of a predictor catches the fault that it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hardware_profiles import LatencyTable
from predictors import CorrectedLookup, GaussianProcess, PositionTable, macs, plain_sum
from predictors.base import Values
from predictors.predictor_contract import SINGLE_PRECISION, TOLERANCE, check_predictor, check_trainable
from predictors.validation import checked_pairs
from search_spaces import Genes, Layer, MobileNetV3, SearchSpace
from search_spaces.base.errors import InvalidValueError

# -- predictors --------------------------------------------------------------------------------------------------------


class Sound:
    """What every faulty predictor below is but for its fault."""

    metric = "latency"
    unit = "ms"

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.table = macs(space)

    def predict(self, genes: Genes) -> Values:
        return self.table.predict(genes)

    def minimum(self) -> tuple[Genes, float]:
        return self.table.minimum()

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        return self.table.to_arrays()

    @classmethod
    def from_arrays(cls, space: SearchSpace, arrays: dict[str, NDArray[Any]]) -> Sound:
        predictor = cls(space)
        predictor.table = PositionTable.from_arrays(space, arrays)
        return predictor


class NoUnit(Sound):
    unit = ""


class Noisy(Sound):
    def predict(self, genes: Genes) -> Values:
        return super().predict(genes) * np.random.default_rng().normal(1, 0.01, len(genes))


class SeededByTheBatch(Sound):
    def predict(self, genes: Genes) -> Values:
        return super().predict(genes) + np.random.default_rng(0).normal(0, 1, len(genes))


class NormalisedByTheBatch(Sound):
    def predict(self, genes: Genes) -> Values:
        values = super().predict(genes)
        return values / (values.max() if len(values) else 1)


class NormalisedByTheBatchButForSingleRows(Sound):
    def predict(self, genes: Genes) -> Values:
        values = super().predict(genes)
        return values - values.mean() if len(values) == 1 else values


class Sorted(Sound):
    def predict(self, genes: Genes) -> Values:
        return np.sort(super().predict(genes))


class Column(Sound):
    def predict(self, genes: Genes) -> Values:
        return super().predict(genes)[:, None]


class Single(Sound):
    def predict(self, genes: Genes) -> Values:
        return super().predict(genes).astype(np.float32)  # type: ignore[return-value]


class AList(Sound):
    def predict(self, genes: Genes) -> Values:
        return super().predict(genes).tolist()  # type: ignore[return-value]


class NotANumber(Sound):
    def predict(self, genes: Genes) -> Values:
        return np.where(genes[:, 0] == 0, np.nan, super().predict(genes))


class Infinite(Sound):
    def predict(self, genes: Genes) -> Values:
        return np.where(genes[:, 0] == 0, np.inf, super().predict(genes))


class GenesChanged(Sound):
    def predict(self, genes: Genes) -> Values:
        values = super().predict(genes)
        genes[:, 0] = 0
        return values


class Remembers(Sound):
    calls = 0

    def predict(self, genes: Genes) -> Values:
        self.calls += 1
        return super().predict(genes) + self.calls


class MinimumOfASample(Sound):
    def minimum(self) -> tuple[Genes, float]:
        genes = self.space.biggest.genes
        return genes, float(self.predict(genes[None])[0])


class MinimumOfAnother(Sound):
    def minimum(self) -> tuple[Genes, float]:
        genes, least = self.table.minimum()
        return genes, least - 1


class ForgetsInTheFile(Sound):
    @classmethod
    def from_arrays(cls, space: SearchSpace, arrays: dict[str, NDArray[Any]]) -> Sound:
        return cls.__base__.from_arrays(space, {**arrays, "constant": np.array(1.0)})  # type: ignore[union-attr]


class UnitLostInTheFile(Sound):
    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        self.unit = "s"

    @classmethod
    def from_arrays(cls, space: SearchSpace, arrays: dict[str, NDArray[Any]]) -> Sound:
        return Sound(space)


def test_the_sound_predictor_is_sound(space: MobileNetV3, rng: np.random.Generator) -> None:
    check_predictor(Sound(space), space, rng)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (NoUnit, "`unit` must be a word"),
        (Noisy, "asked again"),
        (SeededByTheBatch, "order of the rows"),
        (NormalisedByTheBatch, "depends on the other rows"),
        (NormalisedByTheBatchButForSingleRows, "alone differs"),
        (Sorted, "order of the rows"),
        (Column, r"of shape \(50,\)"),
        (Single, "gives float32"),
        (AList, "gives <class 'list'>"),
        (NotANumber, "must be numbers"),
        (Infinite, "must be finite"),
        (GenesChanged, "changes the genes"),
        (Remembers, "asked again"),
        (MinimumOfASample, "was found"),
        (MinimumOfAnother, "another value"),
        (ForgetsInTheFile, "from a file"),
        (UnitLostInTheFile, "Metric and unit"),
    ],
)
def test_a_faulty_predictor_is_caught(
    space: MobileNetV3, rng: np.random.Generator, fault: type[Sound], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        check_predictor(fault(space), space, rng)


class RoundedByThePlace(Sound):
    error = 1e-7

    def predict(self, genes: Genes) -> Values:
        return super().predict(genes) * (1 + self.error * (np.arange(len(genes)) % 8 / 8))


class RoundedTooMuchByThePlace(RoundedByThePlace):
    error = 1e-5


def test_single_precision_may_round_by_the_place(space: MobileNetV3, rng: np.random.Generator) -> None:
    check_predictor(RoundedByThePlace(space), space, rng, tolerance=SINGLE_PRECISION)
    for fault, tolerance in ((RoundedByThePlace, TOLERANCE), (RoundedTooMuchByThePlace, SINGLE_PRECISION)):
        with pytest.raises(AssertionError, match="order of the rows"):
            check_predictor(fault(space), space, rng, tolerance=tolerance)


def test_infinite_values_are_fine_where_they_are_stated(space: MobileNetV3, rng: np.random.Generator) -> None:
    table = macs(space)
    values = np.where(np.arange(space.table_size) % 7 == 0, np.inf, table.values)
    predictor = PositionTable(space, "latency", "ms", values)
    check_predictor(predictor, space, rng, infinite=True)
    with pytest.raises(AssertionError, match="must be finite"):
        check_predictor(predictor, space, rng)


# -- trainable predictors ----------------------------------------------------------------------------------------------


class SoundFit(GaussianProcess):
    """Least squares would do, but this one is at hand."""


class PredictsUnfitted(SoundFit):
    def predict(self, genes: Genes) -> Values:
        return super().predict(genes) if self._fitted is not None else np.zeros(len(genes))


class NanSkipped(SoundFit):
    def fit(self, genes: Genes, values: Values) -> None:
        kept = ~np.isnan(values) if np.shape(values) == (len(genes),) else slice(None)
        super().fit(genes[kept], values[kept])


class AnyNumberOfPairs(SoundFit):
    def fit(self, genes: Genes, values: Values) -> None:
        if len(genes) < 10 and np.isfinite(values).all():
            genes, values = np.repeat(genes, 10, 0), np.repeat(values, 10)
        if len(genes):
            super().fit(genes, values)


class ValuesCut(SoundFit):
    def fit(self, genes: Genes, values: Values) -> None:
        n = min(len(genes), len(values))
        super().fit(genes[:n], values[:n])


class ValuesFlattened(SoundFit):
    def fit(self, genes: Genes, values: Values) -> None:
        super().fit(genes, np.ravel(values))


class DirectionInverted(SoundFit):
    def predict(self, genes: Genes) -> Values:
        return 1 - super().predict(genes)


class LearnsNothing(SoundFit):
    def fit(self, genes: Genes, values: Values) -> None:
        checked_pairs(self.space, genes, values, minimum=10)
        super().fit(genes, np.random.default_rng(0).permutation(values))


class RowsShifted(SoundFit):
    def fit(self, genes: Genes, values: Values) -> None:
        checked_pairs(self.space, genes, values, minimum=10)
        super().fit(genes, np.roll(values, 1))


class FitsOnChance(SoundFit):
    def fit(self, genes: Genes, values: Values) -> None:
        genes, values = checked_pairs(self.space, genes, values, minimum=10)
        kept = np.random.default_rng().permutation(len(genes))[: len(genes) // 2]
        super().fit(genes[kept], values[kept])


class FitsOnAllThatItEverSaw(SoundFit):
    def fit(self, genes: Genes, values: Values) -> None:
        genes, values = checked_pairs(self.space, genes, values, minimum=10)
        self.seen = (*getattr(self, "seen", ()), (genes, values))
        super().fit(*(np.concatenate(part) for part in zip(*self.seen, strict=True)))


class StateOfTheClass(SoundFit):
    shared: dict[str, Any] = {}

    def fit(self, genes: Genes, values: Values) -> None:
        super().fit(genes, values)
        self.shared.update(self._fitted or {})

    def predict(self, genes: Genes) -> Values:
        if self._fitted is not None:
            self._fitted = self.shared
        return super().predict(genes)


class ScalesValuesInPlace(SoundFit):
    def fit(self, genes: Genes, values: Values) -> None:
        super().fit(genes, values)
        values *= 2


def test_the_sound_fit_is_sound(space: MobileNetV3, rng: np.random.Generator) -> None:
    check_trainable(lambda: SoundFit(space), space, rng)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (PredictsUnfitted, "predict before fit must be refused"),
        (NanSkipped, "a fit to a NaN value must be refused"),
        (AnyNumberOfPairs, "a fit to one pair must be refused"),
        (ValuesCut, "fewer values than genes must be refused"),
        (ValuesFlattened, r"values of shape \(n, 1\) must be refused"),
        (DirectionInverted, "Kendall's tau"),
        (LearnsNothing, "Kendall's tau"),
        (RowsShifted, "Kendall's tau"),
        (FitsOnChance, "second fit to the same pairs"),
        (FitsOnAllThatItEverSaw, "remembers the pairs of an earlier one"),
        (StateOfTheClass, "changes another one's values"),
        (ScalesValuesInPlace, "changes what it is given"),
    ],
)
def test_a_faulty_fit_is_caught(
    space: MobileNetV3, rng: np.random.Generator, fault: type[SoundFit], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        check_trainable(lambda: fault(space), space, rng)


# -- an absent layer ---------------------------------------------------------------------------------------------------


def zero_for_absent(space: SearchSpace, table: LatencyTable) -> PositionTable:
    """The fault: a layer that was not measured costs nothing."""
    return PositionTable.of_layers(
        space, "latency", "ms", lambda layer: table[layer].latency_ms if layer in table else 0
    )


def refuses_absent(make: Callable[[SearchSpace, LatencyTable], PositionTable], space: SearchSpace, path: Any) -> bool:
    try:
        make(space, LatencyTable(path / "table.jsonl", "device", {}))
    except KeyError:
        return True
    return False


def test_an_absent_layer_counted_as_nothing_is_seen(space: MobileNetV3, tmp_path: Any) -> None:
    assert refuses_absent(plain_sum, space, tmp_path)
    assert not refuses_absent(zero_for_absent, space, tmp_path)


def test_dead_genes_that_change_a_prediction_are_caught(space: MobileNetV3, rng: np.random.Generator) -> None:
    """A lookup over raw genes would give one network two latencies; the fit takes canonical rows for that reason."""
    lookup = CorrectedLookup(PositionTable.of_layers(space, "latency", "ms", one_ms_per_mac))
    raw = rng.integers(0, space.cardinalities, (30, len(space.choices))).astype(np.int16)
    values = lookup.layers.predict(space.canonical(raw))
    lookup.fit(raw, values)
    again = CorrectedLookup(lookup.layers)
    again.fit(space.canonical(raw), values)
    assert (raw != space.canonical(raw)).any() and lookup.terms == again.terms
    with pytest.raises(InvalidValueError, match="one value per row"):
        lookup.fit(np.unique(space.canonical(raw), axis=0)[:9], values)


def one_ms_per_mac(layer: Layer) -> float:
    return float(layer.macs)

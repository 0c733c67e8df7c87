"""Common parts of all models of whole architectures: rows of features in, values with a unit and their uncertainty out.

A `Regressor` (ridge, trees, Gaussian process, perceptron, ensemble) learns standardised targets from rows of features
and knows neither spaces nor units. `FeatureModel` adds checks, the scale of the values, the range of the features and a
calibrated uncertainty; `Regression` puts a search space in front of it.

    model = FeatureModel(Ridge())                                # any csv of features and latencies
    predictor = Regression(space, Ridge(), metric="energy", unit="mJ")   # genes

The uncertainty is normalised conformal prediction (Lei et al., "Distribution-free predictive inference for regression",
JASA 2018, section 5.2): how difficult a row is, scaled such that it covers cross-validated errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from predictors.base import Values
from predictors.features import encode
from predictors.gaussian_process import DIGITS
from predictors.kinds import FITTED
from predictors.physical import at_least, fastest_rate
from predictors.validation import checked_pairs
from search_spaces.architecture import Genes
from search_spaces.base import trust
from search_spaces.base.errors import InvalidValueError
from search_spaces.space import SearchSpace

Matrix = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]

Scale = Literal["log", "linear", "log_error"]
"""Scale that a model is fitted on: the logarithm of positive values (latency, energy: errors are relative), the values
themselves, or the logarithm of the error rate of accuracies, which saturate near 1."""

COVERED = 0.95
"""Share of cross-validated errors within two standard deviations."""

LARGEST_LOG = 700.0
"""A logarithm beyond this would overflow."""


# -- regressors --------------------------------------------------------------------------------------------------------


class Fitted(Protocol):
    """A fitted regressor: plain arrays."""

    def predict(self, features: Matrix) -> Matrix:
        """Targets (n,) of features (n, f)."""

    def spread(self, features: Matrix) -> Matrix:
        """Uncertainty of the model itself, (n,), >= 0: a posterior's deviation, or members' disagreement."""

    def to_arrays(self) -> Arrays:
        """All that `from_arrays` needs."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Read back `to_arrays`."""


class Regressor(Protocol):
    """Recipe of a fit; a frozen dataclass of hyper-parameters. Equal rows give equal models."""

    def fit(self, features: Matrix, targets: Matrix) -> Fitted:
        """Fit to targets (n,), of mean 0 and deviation 1, of features (n, f); n is 5 or more."""


def pack(models: Mapping[str, Fitted]) -> Arrays:
    """Fitted regressors as arrays whose names start with the model's, which `unpack` needs."""
    arrays: Arrays = {}
    for name, model in models.items():
        arrays[f"{name}.kind"] = np.array(trust.path_of(type(model), FITTED))
        arrays |= {f"{name}.{key}": array for key, array in model.to_arrays().items()}
    return arrays


def unpack(arrays: Mapping[str, NDArray[Any]], name: str) -> Fitted:
    """Read back a model of `pack`.

    Raises:
        UnknownNameError: an unknown kind of model.
        InvalidValueError: it is of a class outside of hwnas that is neither imported nor trusted.
    """
    made = cast(type[Fitted], trust.find_class("A fitted model", str(arrays[f"{name}.kind"]), FITTED))
    start = f"{name}."
    return made.from_arrays({key.removeprefix(start): a for key, a in arrays.items() if key.startswith(start)})


def centre_and_spread(features: Matrix) -> tuple[Matrix, Matrix]:
    """Mean and standard deviation of each feature, (f,); the deviation of a feature that never varies counts as 1."""
    deviation = features.std(0)
    return features.mean(0), np.where(deviation > 1e-9, deviation, 1.0)


# -- rows of features --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _State:
    """All that a fit leaves. ``centre`` and ``deviation`` are of the targets, ``rows`` of the features."""

    model: Fitted
    scale: Scale
    centre: float
    deviation: float
    rows: Matrix  # (n, f)
    factor: float
    typical: float
    expected_error: float

    def targets(self, features: Matrix) -> Matrix:
        return self.model.predict(features) * self.deviation + self.centre

    def values(self, features: Matrix) -> Values:
        return _from_target(self.targets(features), self.scale)

    def difficulty(self, features: Matrix) -> Matrix:
        """Size of the error to expect on the targets, (n,), up to a factor.

        The model's own spread, and how far the nearest fitted row is, without which trees and ensembles are as sure far
        from all data as they are within.
        """
        return _difficulty(self.model, self.rows, features, self.typical)


def _difficulty(model: Fitted, rows: Matrix, features: Matrix, typical: float) -> Matrix:
    centre, spread = centre_and_spread(rows)
    nearest = np.zeros(len(features))
    for start in range(0, len(features), 4096):  # bounds the memory
        part = slice(start, start + 4096)
        nearest[part] = cdist((features[part] - centre) / spread, (rows - centre) / spread).min(1)
    nearest /= np.sqrt(features.shape[1])
    return np.asarray(np.sqrt(model.spread(features) ** 2 + typical**2 * (1 + nearest**2)))


def _to_target(values: Values, scale: Scale) -> Matrix:
    if scale == "linear":
        return values
    if scale == "log":
        if (values <= 0).any():
            raise InvalidValueError(
                f"Values of scale 'log' must be positive, but got {values.min()}. Choose scale 'linear' for others."
            )
        return np.log(values)
    if (values > 1).any():
        raise InvalidValueError(f"Accuracies are fractions up to 1, but got {values.max()}.")
    return np.asarray(np.log(1 - values + DIGITS))


def _from_target(targets: Matrix, scale: Scale) -> Values:
    if scale == "linear":
        return targets
    exponential = np.exp(np.clip(targets, -LARGEST_LOG, LARGEST_LOG))
    return exponential if scale == "log" else np.asarray(1 + DIGITS - exponential)


def _slope(values: Values, scale: Scale) -> Matrix:
    """|d value / d target|, (n,)."""
    if scale == "linear":
        return np.ones(len(values))
    return values if scale == "log" else np.asarray(1 + DIGITS - values)


class FeatureModel:
    """A regressor on plain rows of features, with checks, a scale and a calibrated uncertainty.

    Args:
        regressor: what learns; None for a model that is read from a file.
        scale: see `Scale`.
        folds: of the cross-validation that calibrates the uncertainty; the regressor is fitted once more than that.
        seed: of the folds.
        minimum_pairs: fewest rows that a fit takes.
    """

    def __init__(
        self,
        regressor: Regressor | None,
        *,
        scale: Scale = "log",
        folds: int = 5,
        seed: int = 0,
        minimum_pairs: int = 10,
    ) -> None:
        if scale not in get_args(Scale):
            raise InvalidValueError(f"`scale` must be one of {get_args(Scale)}, but got {scale!r}.")
        if not 2 <= folds <= minimum_pairs or minimum_pairs < 10:
            raise InvalidValueError(
                f"`folds` must be 2..`minimum_pairs` and that 10 or more, but got {folds=}, {minimum_pairs=}."
            )
        self.regressor = regressor
        self.scale: Scale = scale
        self.folds = folds
        self.seed = seed
        self.minimum_pairs = minimum_pairs
        self._state: _State | None = None

    def fit(self, features: ArrayLike, values: ArrayLike) -> Self:
        """Fit to values (n,) of features (n, f); gives the model itself.

        Raises:
            InvalidValueError: too few rows, wrong shapes, NaN or infinite numbers, values that the scale cannot take,
                or a model that was read from a file.
        """
        if self.regressor is None:
            raise InvalidValueError("A model read from a file cannot be fitted again; make one with a regressor.")
        x, y = _checked(features), np.asarray(values, np.float64)
        if y.shape != (len(x),):
            raise InvalidValueError(f"There must be one value per row of features, but got {y.shape} for {x.shape}.")
        if len(x) < self.minimum_pairs:
            raise InvalidValueError(f"At least {self.minimum_pairs} rows are needed to fit, but got {len(x)}.")
        if not np.isfinite(y).all():
            row = int(np.flatnonzero(~np.isfinite(y))[0])
            raise InvalidValueError(f"Values to fit must be finite, but row {row} is {y[row]}.")
        targets = _to_target(y, self.scale)
        centre = float(targets.mean())
        spread = float(targets.std())
        deviation = spread if spread > 1e-12 * max(1.0, abs(centre)) else 1.0
        t = (targets - centre) / deviation

        fold = np.random.default_rng(self.seed).permutation(len(x)) % self.folds
        held_out = [(self.regressor.fit(x[fold != f], t[fold != f]), fold != f, fold == f) for f in range(self.folds)]
        predicted = np.zeros(len(x))
        for model, _, unseen in held_out:
            predicted[unseen] = model.predict(x[unseen])
        missed = np.abs(predicted - t)
        typical = max(float(np.median(missed)), 1e-6)
        ratios = np.concatenate(
            [missed[unseen] / _difficulty(model, x[seen], x[unseen], typical) for model, seen, unseen in held_out]
        )
        errors = np.abs(_from_target(predicted * deviation + centre, self.scale) - y)
        self._state = _State(
            model=self.regressor.fit(x, t),
            scale=self.scale,
            centre=centre,
            deviation=deviation,
            rows=x.copy(),
            factor=max(float(np.quantile(ratios, COVERED, method="higher")) / 2, 1e-3),
            typical=typical,
            expected_error=float((errors / y).mean() if self.scale == "log" else errors.mean()),
        )
        return self

    def predict(self, features: ArrayLike) -> Values:
        """Values (n,) of features (n, f); with a logarithmic scale medians."""
        state = self._checked
        return state.values(self._rows(features))

    def predict_with_std(self, features: ArrayLike) -> tuple[Values, Values]:
        """Values, and the standard deviation of the error to expect of a measurement, > 0, both (n,).

        About 95 % of rows like those fitted lie within two deviations; far from them the deviation grows.
        """
        state, x = self._checked, self._rows(features)
        values = state.values(x)
        std = state.factor * state.difficulty(x) * state.deviation * _slope(values, state.scale)
        return values, np.maximum(std, np.finfo(np.float64).tiny)

    def extrapolates(self, features: ArrayLike) -> NDArray[np.bool_]:
        """Mask (n,) of rows with a feature outside the range of the fitted rows by more than a tenth of that range.

        For a one-hot feature that is a value that no fitted row has. Predictions there are guesses.
        """
        state, x = self._checked, self._rows(features)
        return outside(x, state.rows.min(0), state.rows.max(0))

    @property
    def fitted(self) -> Fitted:
        """The regressor's model, on standardised targets."""
        return self._checked.model

    @property
    def expected_error(self) -> float:
        """Mean error of cross-validation on the fitted rows: relative with scale 'log', else in the values' unit."""
        return self._checked.expected_error

    @property
    def _checked(self) -> _State:
        if self._state is None:
            raise InvalidValueError("The model is not fitted; call `fit` first.")
        return self._state

    def _rows(self, features: ArrayLike) -> Matrix:
        x, known = _checked(features), self._checked.rows.shape[1]
        if x.shape[1] != known:
            raise InvalidValueError(f"The model was fitted to {known} features, but got rows of {x.shape[1]}.")
        return x

    def to_arrays(self) -> Arrays:
        """All that `from_arrays` needs."""
        state = self._checked
        numbers = {name: np.array(getattr(state, name)) for name in _NUMBERS}
        return {"scale": np.array(state.scale), "rows": state.rows, **numbers, **pack({"model": state.model})}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> FeatureModel:
        """Read back `to_arrays`; the model predicts, but cannot be fitted again."""
        scale: Any = str(arrays["scale"])
        model = cls(None, scale=scale)
        model._state = _State(
            model=unpack(arrays, "model"),
            scale=model.scale,
            rows=np.asarray(arrays["rows"]),
            **{name: float(arrays[name]) for name in _NUMBERS},
        )
        return model

    @classmethod
    def of(cls, model: Fitted, rows: ArrayLike, error: float) -> FeatureModel:
        """A model fitted elsewhere, such as a published one, as it is: linear scale.

        Args:
            model: predicts values, not standardised targets.
            rows: features (n, f) that it can be trusted on; they give the range.
            error: to expect on them, in the values' unit.
        """
        if not error > 0:
            raise InvalidValueError(f"`error` must be > 0, but got {error}.")
        made = cls(None, scale="linear")
        made._state = _State(model, "linear", 0.0, 1.0, _checked(rows), 1.0, error, error)
        return made


_NUMBERS = ("centre", "deviation", "factor", "typical", "expected_error")


def outside(features: Matrix, low: Matrix, high: Matrix) -> NDArray[np.bool_]:
    """Rows with a feature outside [low, high] by more than a tenth of that range, (n,)."""
    margin = 0.1 * (high - low) + 1e-9
    return np.asarray(((features < low - margin) | (features > high + margin)).any(1))


def best_by_cross_validation(
    candidates: Mapping[str, Regressor], features: ArrayLike, values: ArrayLike, *, scale: Scale = "log", seed: int = 0
) -> tuple[str, dict[str, FeatureModel]]:
    """Fit all candidates to features (n, f) and values (n,); give the name of the one of the least cross-validated
    error, and all models by name."""
    models = {
        name: FeatureModel(regressor, scale=scale, seed=seed).fit(features, values)
        for name, regressor in candidates.items()
    }
    return min(models, key=lambda name: models[name].expected_error), models


def _checked(features: ArrayLike) -> Matrix:
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or x.shape[1] == 0:
        raise InvalidValueError(f"Features have shape (n, f), f >= 1, but got {x.shape}.")
    if not np.isfinite(x).all():
        row, column = map(int, np.argwhere(~np.isfinite(x))[0])
        raise InvalidValueError(f"Features must be finite, but feature {column} of row {row} is {x[row, column]}.")
    return x


# -- architectures -----------------------------------------------------------------------------------------------------


class Regression:
    """A regressor as a predictor of whole architectures, for any metric.

    Args:
        space: whose architectures it predicts.
        regressor: what learns; None for a predictor that is read from a file.
        metric: what is predicted.
        unit: of the values.
        scale: see `Scale`; 'log' for latencies and energies, 'log_error' or 'linear' for accuracies.
        features: names of `predictors.features.FEATURES` whose columns a row is made of.
        folds: of the cross-validation that calibrates the uncertainty.
        seed: of the folds.
        minimum_pairs: fewest pairs that a fit takes.
    """

    def __init__(
        self,
        space: SearchSpace,
        regressor: Regressor | None,
        *,
        metric: str = "latency",
        unit: str = "ms",
        scale: Scale = "log",
        features: Sequence[str] = ("one_hot", "statistics"),
        folds: int = 5,
        seed: int = 0,
        minimum_pairs: int = 10,
    ) -> None:
        self.space = space
        self.metric = metric
        self.unit = unit
        self.features = tuple(features)
        self.rate = 0.0
        self.fails = np.zeros(space.table_size, bool)
        """Which entries of a position table are layers that the device cannot run: networks with one are inf."""
        self.model = FeatureModel(regressor, scale=scale, folds=folds, seed=seed, minimum_pairs=minimum_pairs)
        encode(space, space.smallest.genes[None], self.features)  # refuses features that this space does not have

    def fit(self, genes: Genes, values: Values) -> None:
        """Fit to values (n,) of genes (n, choices).

        Raises:
            InvalidValueError: as `FeatureModel.fit`, or genes of another space.
        """
        positive = self.model.scale == "log"
        rows, numbers = checked_pairs(self.space, genes, values, minimum=self.model.minimum_pairs, positive=positive)
        self.model.fit(encode(self.space, rows, self.features), numbers)
        if self.metric == "latency" and (numbers > 0).all():
            self.rate = fastest_rate(self.space, rows, numbers)

    def predict(self, genes: Genes) -> Values:
        """Values of genes (n, choices), shape (n,); latencies keep the bound of `predictors.physical`, and are inf for
        what the device cannot run."""
        return self._bounded(genes, self.model.predict(self._rows(genes)))

    def predict_with_std(self, genes: Genes) -> tuple[Values, Values]:
        """Delegate to `FeatureModel.predict_with_std`."""
        values, std = self.model.predict_with_std(self._rows(genes))
        return self._bounded(genes, values), std

    def _bounded(self, genes: Genes, values: Values) -> Values:
        if self.fails.any():
            values = np.where(self.fails[self.space.position_index(genes)].any(1), np.inf, values)
        return at_least(self.space, genes, values, self.rate) if self.metric == "latency" else values

    def extrapolates(self, genes: Genes) -> NDArray[np.bool_]:
        """Delegate to `FeatureModel.extrapolates`: a mask (n,) of networks unlike those of the fit."""
        return self.model.extrapolates(self._rows(genes))

    @property
    def expected_error(self) -> float:
        """Delegate to `FeatureModel.expected_error`."""
        return self.model.expected_error

    def _rows(self, genes: Genes) -> NDArray[np.floating[Any]]:
        _ = self.model.fitted  # an unfitted model is told before anything else
        return encode(self.space, self.space.validate(genes), self.features)

    def to_arrays(self) -> Arrays:
        """All that `from_arrays` needs."""
        known = {"metric": self.metric, "unit": self.unit, "features": list(self.features), "macs_rate": self.rate}
        fails = {"fails": self.fails} if self.fails.any() else {}
        return {**{name: np.array(value) for name, value in known.items()}, **fails, **self.model.to_arrays()}

    @classmethod
    def from_arrays(cls, space: SearchSpace, arrays: dict[str, NDArray[Any]]) -> Regression:
        """Read back `to_arrays`; the predictor predicts, but cannot be fitted again."""
        features = tuple(str(name) for name in arrays["features"])
        predictor = cls(space, None, metric=str(arrays["metric"]), unit=str(arrays["unit"]), features=features)
        predictor.model = FeatureModel.from_arrays(arrays)
        predictor.rate = float(arrays["macs_rate"])
        predictor.fails = arrays.get("fails", predictor.fails)
        return predictor

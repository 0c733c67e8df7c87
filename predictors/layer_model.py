"""Latency of layers that were not measured, learned from those that were.

Two parts, both cheap to fit. A *base* says that each class of operators costs time per call, per multiply-accumulate,
per element moved and per parameter read; the rates are non-negative least squares on relative errors, so that it stays
sane outside what was measured (a roofline made additive: Williams et al., "Roofline", CACM 2009). *Trees* (Geurts et
al., "Extremely randomized trees", Machine Learning 2006) learn the logarithm of what the base misses.

Uncertainty is normalised conformal prediction (Lei et al., "Distribution-free predictive inference for regression",
JASA 2018, section 5.2): a difficulty per layer, scaled such that it covers cross-validated errors.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls
from scipy.spatial.distance import cdist

from hardware_profiles.latency_table import LatencyTable
from predictors.base import Values
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.counting import operators
from search_spaces.layers import Layer
from search_spaces.metric import LATENCY, Metric
from search_spaces.ops.activation import Activate
from search_spaces.ops.arithmetic import Add, Multiply, Zero
from search_spaces.ops.convolution import BatchNorm, Convolution, Linear, per_axis
from search_spaces.ops.movement import Shuffle
from search_spaces.ops.pooling import GlobalPool, Pool
from search_spaces.program import Op, Shape, elements

Matrix = NDArray[np.float64]

DEPTHWISE_KERNELS = (3, 5, 7)
"""Depthwise convolutions of these kernels are classes of their own."""

OPERATORS = (
    "pointwise",
    *(f"depthwise_{kernel}" for kernel in DEPTHWISE_KERNELS),
    "depthwise_other",
    "dense",
    "grouped",
    "linear",
    "max_pool",
    "average_pool",
    "global_pool",
    "relu",
    "relu6",
    "h_swish",
    "h_sigmoid",
    "add",
    "multiply",
    "shuffle",
    "norm",
    "zero",
)
"""Classes of operators; ``dense`` is a convolution in one group with a kernel above 1."""

QUANTITIES = ("operators", "macs", "elements", "params")
"""Quantities that are summed per class; elements are those of inputs and outputs."""

SHAPES = ("input_channels", "input_size", "output_channels", "output_size", "peak_elements")

FEATURES = tuple(f"{operator}_{quantity}" for operator in (*OPERATORS, "all") for quantity in QUANTITIES) + SHAPES
"""Names of the columns of `layer_features`."""

_COSTS = len(FEATURES) - len(SHAPES)

RIDGE = 1e-3
"""Pull of the base's rates towards 0, relative to the size of their columns."""
COVERED = 0.95
"""Share of cross-validated errors within two standard deviations."""
MINIMUM_ROWS = 12
SMALLEST = 1e-9
"""Fewest measured layers that a fit takes."""
ROWS_TO_STEER = 32
"""Number of measured layers from which on a model's own uncertainty says where to measure next."""
NOISE = 1e-2
"""Variance of a measurement relative to the prior's, on choosing what to measure."""


@functools.singledispatch
def operator_class(op: Op, *inputs: Shape) -> str | None:
    """Class of an operator among `OPERATORS`; None: it counts among all alone."""
    return None


@operator_class.register
def _(op: Convolution, *inputs: Shape) -> str | None:
    kernel = per_axis(op.kernel, len(inputs[0]) - 1)
    if op.groups == 1:
        return "pointwise" if set(kernel) == {1} else "dense"
    if op.depthwise(inputs[0][0]):
        return f"depthwise_{kernel[0] if kernel[0] in DEPTHWISE_KERNELS and len(set(kernel)) == 1 else 'other'}"
    return "grouped"


@operator_class.register
def _(op: Activate, *inputs: Shape) -> str | None:
    return op.kind if op.kind in OPERATORS else None


@operator_class.register
def _(op: Pool, *inputs: Shape) -> str | None:
    return f"{op.kind}_pool"


for _kind, _name in (
    (Linear, "linear"),
    (GlobalPool, "global_pool"),
    (Add, "add"),
    (Multiply, "multiply"),
    (Shuffle, "shuffle"),
    (BatchNorm, "norm"),
    (Zero, "zero"),
):
    operator_class.register(_kind, lambda op, *inputs, name=_name: name)


@functools.cache
def _costs_of(layer: Layer) -> Matrix:
    table = np.zeros((len(OPERATORS) + 1, len(QUANTITIES)))  # last row: all
    for op, inputs, output in operators(layer.program):
        params = sum(elements(p.shape) for p in op.parameters(*inputs) if p.trained)
        moved = sum(map(elements, inputs)) + elements(output)
        kind = operator_class(op, *inputs)
        table[([] if kind is None else [OPERATORS.index(kind)]) + [-1]] += (1, op.macs(inputs, output), moved, params)
    sizes = (*layer.input_shape, 1)[:2], (*layer.output_shape, 1)[:2]
    return np.array([*table.flat, *sizes[0], *sizes[1], layer.peak_elements], np.float64)


def _costs(layers: Sequence[Layer]) -> Matrix:
    return np.array([_costs_of(layer) for layer in layers]).reshape(len(layers), len(FEATURES))


def layer_features(layers: Sequence[Layer]) -> Matrix:
    """Costs of a layer of any kind, by class of operators, and its shapes: log(1 + x) of the `FEATURES`, (n, f).

    Counted from what the layer emits, so a new layer kind needs nothing here.
    """
    return np.log1p(_costs(layers))


@dataclass(frozen=True)
class _Fitted:
    """Base, trees, and what they were fitted on."""

    rates: Matrix  # (costs + 1,): ms per unit of each cost, and per layer
    floor_ms: float
    trees: Any
    centre: Matrix  # (f,)
    spread: Matrix
    features: Matrix  # (rows, f)

    @staticmethod
    def to(costs: Matrix, latency_ms: Matrix, trees: int, seed: int) -> _Fitted:
        from sklearn.ensemble import ExtraTreesRegressor

        features = np.log1p(costs)
        columns = np.column_stack([costs[:, :_COSTS], np.ones(len(costs))])
        scales = np.maximum(columns.max(0), 1)
        relative = columns / scales / latency_ms[:, None]  # so that the errors to minimise are relative
        ridge = np.diag(np.sqrt(RIDGE * (relative**2).sum(0)))
        target = np.concatenate([np.ones(len(costs)), np.zeros(len(ridge))])
        rates = nnls(np.vstack([relative, ridge]), target, maxiter=100 * len(ridge))[0] / scales
        floor = float(latency_ms.min()) / 10
        missed = np.log(latency_ms / np.maximum(columns @ rates, floor))
        model = ExtraTreesRegressor(trees, random_state=seed).fit(features, missed)
        deviation = features.std(0)
        return _Fitted(rates, floor, model, features.mean(0), np.where(deviation > 1e-9, deviation, 1.0), features)

    def log_ms(self, costs: Matrix) -> tuple[Matrix, Matrix]:
        """Logarithm of the latency, and how much the trees differ, both (n,)."""
        features = np.log1p(costs)
        missed = np.array([tree.predict(features.astype(np.float32)) for tree in self.trees.estimators_])  # (trees, n)
        base = np.maximum(costs[:, :_COSTS] @ self.rates[:-1] + self.rates[-1], self.floor_ms)
        return np.log(base) + missed.mean(0), missed.std(0)

    def distance(self, costs: Matrix) -> tuple[Matrix, Matrix]:
        """Distance from the nearest row (in standard deviations, root mean square over features), and how far outside
        the range of all rows (largest over features, in powers of e), both (n,)."""
        features = np.log1p(costs)
        nearest = cdist((features - self.centre) / self.spread, (self.features - self.centre) / self.spread).min(1)
        low, high = self.features.min(0), self.features.max(0)
        outside = np.maximum(np.maximum(low - features, features - high), 0).max(1)
        return nearest / np.sqrt(features.shape[1]), outside


class LayerModel:
    """Learned latency of a layer, with its uncertainty.

    Layers of five spaces on ONNX Runtime, and of one by Vela's estimate: 32 layers chosen by `next_layers` give the
    others with a median error of 1-5 % (mean 1-7 %), 128 with 0.4-1.8 % (mean 0.5-3 %). Fewer than 32 are a rough
    guess.

    Args:
        seed: of the trees and folds; the same rows and seed give the same model.
        trees: their number.
        folds: of the cross-validation that calibrates the uncertainty.
    """

    def __init__(self, seed: int = 0, *, trees: int = 64, folds: int = 8) -> None:
        if trees < 2 or not 2 <= folds <= MINIMUM_ROWS:
            raise InvalidValueError(f"`trees` must be >= 2 and `folds` 2..{MINIMUM_ROWS}, but got {trees=}, {folds=}.")
        self.seed = seed
        self.trees = trees
        self.folds = folds
        self._fitted: _Fitted | None = None
        self._typical = 0.0
        self._ratios: Matrix = np.zeros(0)

    @classmethod
    def of_table(cls, table: LatencyTable, metric: Metric = LATENCY) -> Self:
        """A model of the layers that a table does not have, fitted on those that it has.

        Args:
            table: of measured layers.
            metric: that is summed over layers; one without any, such as an identity's energy, counts next to nothing.

        Raises:
            MismatchError: these are too few.
        """
        known = table.values_of(metric.name)
        if len(known) < MINIMUM_ROWS:
            raise MismatchError(
                f"{table.path} has {len(known)} measured layers, and {MINIMUM_ROWS} are needed to predict the others. "
                "Run `nas profile` to its end first."
            )
        return cls().fit(list(known), np.maximum(list(known.values()), SMALLEST))

    def fit(self, layers: Sequence[Layer], latency_ms: ArrayLike) -> Self:
        """Fit to measured latencies (n,) of n layers; gives the model itself.

        Raises:
            InvalidValueError: fewer than `MINIMUM_ROWS`, another number of latencies, or a latency that is not finite
                and positive.
        """
        ms = np.asarray(latency_ms, np.float64)
        if ms.shape != (len(layers),):
            raise InvalidValueError(f"There must be one latency per layer, but got {ms.shape} for {len(layers)}.")
        if len(layers) < MINIMUM_ROWS:
            raise InvalidValueError(
                f"At least {MINIMUM_ROWS} measured layers are needed to predict others, but got {len(layers)}."
            )
        wrong = ~(np.isfinite(ms) & (ms > 0))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InvalidValueError(
                f"Latencies to fit must be finite and positive, but {layers[row]} has {ms[row]} ms."
            )
        costs = _costs(layers)
        fold = np.random.default_rng(self.seed).permutation(len(layers)) % self.folds
        missed = np.zeros(len(layers))
        signs = np.zeros((3, len(layers)))
        for held_out in range(self.folds):
            rows = fold == held_out
            part = _Fitted.to(costs[~rows], ms[~rows], self.trees, self.seed)
            log_ms, signs[0, rows] = part.log_ms(costs[rows])
            signs[1:, rows] = part.distance(costs[rows])
            missed[rows] = np.abs(log_ms - np.log(ms[rows]))
        self._typical = max(float(np.median(missed)), 1e-6)
        self._ratios = missed / self._difficulty(*signs)
        self._fitted = _Fitted.to(costs, ms, self.trees, self.seed)
        return self

    def _difficulty(self, disagreement: Matrix, nearest: Matrix, outside: Matrix) -> Matrix:
        """Size of the error to expect, up to a factor. That each sign is needed, and with which weight, was found on
        held-out layers of measured tables."""
        squares = disagreement**2 + self._typical**2 * (1 + (3 * nearest) ** 2) + (0.1 * outside) ** 2
        return np.asarray(np.sqrt(squares))

    @property
    def _checked(self) -> _Fitted:
        if self._fitted is None:
            raise InvalidValueError("The layer model is not fitted; call `fit` first.")
        return self._fitted

    def _judged(self, layers: Sequence[Layer]) -> tuple[Matrix, Matrix]:
        """Logarithm of the latency and difficulty, both (n,)."""
        fitted, costs = self._checked, _costs(layers)
        log_ms, disagreement = fitted.log_ms(costs)
        return log_ms, self._difficulty(disagreement, *fitted.distance(costs))

    def predict(self, layers: Sequence[Layer]) -> tuple[Values, Values]:
        """Latency in ms, positive, and its relative standard deviation (that of the logarithm), both (n,).

        About 95 % of layers like those measured lie within two standard deviations. Far outside of them, such as a
        layer with an operator that no measured layer has, the deviation is large.
        """
        if not layers:
            return np.zeros(0), np.zeros(0)
        log_ms, difficulty = self._judged(layers)
        return np.exp(log_ms), difficulty * np.quantile(self._ratios, COVERED, method="higher") / 2

    def expected_error(self, layers: Sequence[Layer]) -> float:
        """Mean relative error to expect on layers that were not measured, from cross-validation on those that were.

        The cross-validated errors themselves would mislead: layers chosen by `next_layers` are harder to predict than
        those left, by a factor of up to 10. So the errors are taken relative to how difficult each layer is.

        Raises:
            InvalidValueError: no layers, or not fitted.
        """
        if not layers:
            raise InvalidValueError("An expected error needs at least one layer.")
        _, difficulty = self._judged(layers)
        return float(self._ratios.mean() * difficulty.mean())


def next_layers(
    model: LayerModel | None,
    candidates: Sequence[Layer],
    measured: Collection[Layer],
    n: int,
    rng: np.random.Generator,
    *,
    weights: ArrayLike | None = None,
    references: int = 500,
) -> list[Layer]:
    """Choose the layers to measure next, so that the others can be predicted from them.

    Each is the one that most reduces the variance summed over all candidates (Cohn, "Neural network exploration using
    optimal experiment design", 1996), given those measured and those chosen before it, under the prior that latency is
    linear plus smooth in the standardised features: so they cover the space, and near-duplicates are not chosen
    together. From `ROWS_TO_STEER` measured layers on, the model's own uncertainty scales that variance.

    On the tables that `LayerModel` names, the mean error on the others was 0.55-0.95 of that with as many random ones
    at 32 layers, and 0.4-0.75 at 128.

    Args:
        model: fitted to the measured layers; None: there is none yet.
        candidates: distinct; to choose from and to be predicted; those measured already are not chosen.
        measured: layers measured so far.
        n: how many; fewer are given where fewer are left.
        rng: draws the candidates that stand for all where there are more than ``references``.
        weights: (candidates,) how much each one matters, such as the share of networks that have it; >= 0.
        references: see ``rng``.

    Raises:
        InvalidValueError: n < 1, weights that are not finite and >= 0, one per candidate, or a model that is needed but
            not fitted.
    """
    importance = np.ones(len(candidates)) if weights is None else np.asarray(weights, np.float64)
    if n < 1 or importance.shape != (len(candidates),) or not (np.isfinite(importance) & (importance >= 0)).all():
        raise InvalidValueError(
            f"Choosing layers needs n >= 1 and a weight >= 0 per candidate, but got {n=} and weights "
            f"{importance.shape} for {len(candidates)} candidates."
        )
    known = list(dict.fromkeys(measured))
    known_set = set(known)
    free = np.array([i for i, layer in enumerate(candidates) if layer not in known_set], np.intp)
    if not len(free):
        return []
    points = _standardised(layer_features([*candidates, *known]))  # (candidates + known, f)
    seen = np.arange(len(candidates), len(points))
    judged = np.arange(len(candidates))
    if len(judged) > references:
        judged = np.sort(rng.choice(judged, references, replace=False))
    deviation = np.ones(len(candidates))
    if model is not None and len(known) >= ROWS_TO_STEER:
        deviation = model.predict(candidates)[1]
        deviation = deviation / deviation.mean()

    # posterior(a, b) = deviation[a] * deviation[b] * (prior(a, b) - explained[:, a] . explained[:, b])
    root = np.linalg.cholesky(_prior(points[seen], points[seen]) + NOISE * np.eye(len(seen)))
    explained = np.linalg.solve(root, _prior(points[seen], points[: len(candidates)]))  # (seen, candidates)
    explained_free = explained[:, free]
    covariance = _prior(points[free], points[judged]) - explained_free.T @ explained[:, judged]
    covariance *= np.outer(deviation[free], deviation[judged])  # (free, judged)
    own = _prior_variance(points[free]) - (explained_free**2).sum(0)
    variance = deviation[free] ** 2 * np.maximum(own, 0)
    factors = explained_free * deviation[free]  # one row per layer measured or chosen
    chosen: list[int] = []
    for _ in range(min(n, len(free))):
        gain = covariance**2 @ importance[judged] / (variance + NOISE)
        gain[chosen] = -1
        best = int(gain.argmax())
        prior = deviation[free] * deviation[free[best]] * _prior(points[free[[best]]], points[free])[0]
        scale = np.sqrt(variance[best] + NOISE)
        factor = (prior - factors[:, best] @ factors) / scale
        covariance -= np.outer(factor, covariance[best] / scale)
        variance = np.maximum(variance - factor**2, 0)
        factors = np.vstack([factors, factor])
        chosen.append(best)
    return [candidates[free[index]] for index in chosen]


def _standardised(features: Matrix) -> Matrix:
    """Features that vary, of mean 0 and such that two random rows are about sqrt(2) apart."""
    deviation = features.std(0)
    varied = deviation > 1e-9
    points = (features - features.mean(0))[:, varied] / deviation[varied]
    return np.asarray(points / np.sqrt(max(1, points.shape[1])))


def _prior(a: Matrix, b: Matrix) -> Matrix:
    """Linear plus Matern-5/2 kernel (Rasmussen & Williams eq. 4.17) of points (n, f) and (m, f), shape (n, m)."""
    r = np.sqrt(5) * cdist(a, b) / np.sqrt(2)
    return np.asarray(a @ b.T + (1 + r + r**2 / 3) * np.exp(-r))


def _prior_variance(points: Matrix) -> Matrix:
    return np.asarray((points**2).sum(1) + 1)

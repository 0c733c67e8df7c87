"""Quality of a predictor on architectures that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from predictors.base import Values
from search_spaces.base.errors import InvalidValueError


@dataclass(frozen=True)
class Quality:
    """Agreement of predicted with true values.

    ``mape``: mean absolute relative error. ``within_5``, ``within_10``: share predicted within 5 % and 10 %.
    ``kendall_tau`` (tau-b), ``spearman``: rank correlations, NaN-free: 0 where either side is constant.
    ``top_10_regret``: how much worse, in the metric's unit, the truly best of the ten predicted best is than the best.
    """

    mape: float
    within_5: float
    within_10: float
    kendall_tau: float
    spearman: float
    top_10_regret: float | None

    def to_json(self) -> dict[str, float | None]:
        """The fields."""
        return asdict(self)


def quality(truth: Values, predicted: Values, *, maximise: bool = False) -> Quality:
    """Compare predicted with true values, both (n,), n >= 2.

    Args:
        truth: measured values; 0 only where large values are good: an accuracy can be 0, a latency cannot. A prediction
            other than 0 is then off by 100 %.
        predicted: for the same architectures.
        maximise: whether large values are good.

    Raises:
        InvalidValueError: other shapes, fewer than two pairs, NaN or infinite numbers, or a true value of 0.
    """
    truth, predicted = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if truth.ndim != 1 or truth.shape != predicted.shape or len(truth) < 2:
        raise InvalidValueError(
            f"Quality needs two equal arrays (n,), n >= 2, but got {truth.shape}, {predicted.shape}."
        )
    zero = truth == 0
    if not (np.isfinite(truth).all() and np.isfinite(predicted).all()) or (zero.any() and not maximise):
        raise InvalidValueError("Quality needs finite values and true values other than 0.")
    error = np.where(zero, predicted != 0, np.abs(predicted - truth) / np.where(zero, 1.0, np.abs(truth)))
    varied = np.ptp(truth) > 0 and np.ptp(predicted) > 0
    return Quality(
        mape=float(error.mean()),
        within_5=float((error <= 0.05).mean()),
        within_10=float((error <= 0.10).mean()),
        kendall_tau=float(stats.kendalltau(truth, predicted).statistic) if varied else 0.0,
        spearman=float(stats.spearmanr(truth, predicted).statistic) if varied else 0.0,
        top_10_regret=regret(truth, predicted, 10, maximise=maximise) if len(truth) > 10 else None,
    )


def regret(truth: Values, predicted: Values, k: int, *, maximise: bool = False) -> float:
    """Loss, in the metric's unit, of the truly best of the k predicted best against the best of all; >= 0.

    Args:
        truth: measured values (n,).
        predicted: for the same architectures.
        k: how many of those predicted best are tried, as after a search.
        maximise: whether large values are good.
    """
    sign = -1.0 if maximise else 1.0
    chosen = np.argsort(sign * predicted, kind="stable")[:k]
    return float((sign * truth[chosen]).min() - (sign * truth).min())


LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Nominal coverages that a calibration is taken at."""


@dataclass(frozen=True)
class Calibration:
    """Comparison of stated standard deviations with the errors.

    ``observed``: per nominal level, the share of true values inside the central interval of that level of a normal
    distribution with the predicted mean and standard deviation. ``expected_error``: mean of abs(observed - level); 0 is
    perfect. ``sharpness``: root mean square of the standard deviations, in the metric's unit; of two calibrated
    predictors the one with less tells more.
    """

    levels: tuple[float, ...]
    observed: tuple[float, ...]
    expected_error: float
    sharpness: float


def calibration(truth: Values, mean: Values, std: Values, *, levels: Sequence[float] = LEVELS) -> Calibration:
    """Compare errors with the uncertainty that was stated (Kuleshov et al., "Accurate uncertainties for deep learning
    using calibrated regression", ICML 2018, with central intervals).

    Args:
        truth: measured values (n,), n >= 2.
        mean: predicted for the same architectures.
        std: stated standard deviations, >= 0.
        levels: nominal coverages in (0, 1).

    Raises:
        InvalidValueError: other shapes, fewer than two rows, numbers that are not finite, or negative deviations.
    """
    truth, mean, std = (np.asarray(array, np.float64) for array in (truth, mean, std))
    if truth.ndim != 1 or not truth.shape == mean.shape == std.shape or len(truth) < 2:
        raise InvalidValueError(
            f"Calibration needs three equal arrays (n,), n >= 2, but got {truth.shape}, {mean.shape}, {std.shape}."
        )
    if not all(np.isfinite(array).all() for array in (truth, mean, std)) or (std < 0).any():
        raise InvalidValueError("Calibration needs finite values and standard deviations >= 0.")
    if not all(0 < level < 1 for level in levels):
        raise InvalidValueError(f"Levels of coverage lie between 0 and 1, but got {list(levels)}.")
    nominal = np.array(levels)
    half_widths = stats.norm.ppf((1 + nominal) / 2)[:, None] * std  # (levels, n)
    observed = (np.abs(truth - mean) <= half_widths).mean(1)
    return Calibration(
        levels=tuple(levels),
        observed=tuple(observed.tolist()),
        expected_error=float(np.abs(observed - nominal).mean()),
        sharpness=float(np.sqrt((std**2).mean())),
    )

"""How good a predictor is on architectures that it has not seen."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from predictors.base import Values
from search_spaces.errors import InvalidValueError


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
        truth: measured values, not 0.
        predicted: for the same architectures.
        maximise: whether large values are good (for the regret).

    Raises:
        InvalidValueError: other shapes, fewer than two pairs, NaN or infinite numbers, or a true value of 0.
    """
    truth, predicted = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if truth.ndim != 1 or truth.shape != predicted.shape or len(truth) < 2:
        raise InvalidValueError(
            f"Quality needs two equal arrays (n,), n >= 2, but got {truth.shape}, {predicted.shape}."
        )
    if not (np.isfinite(truth).all() and np.isfinite(predicted).all()) or (truth == 0).any():
        raise InvalidValueError("Quality needs finite values and true values other than 0.")
    error = np.abs(predicted - truth) / np.abs(truth)
    varied = np.ptp(truth) > 0 and np.ptp(predicted) > 0
    sign = -1.0 if maximise else 1.0
    chosen = np.argsort(sign * predicted, kind="stable")[:10]
    return Quality(
        mape=float(error.mean()),
        within_5=float((error <= 0.05).mean()),
        within_10=float((error <= 0.10).mean()),
        kendall_tau=float(stats.kendalltau(truth, predicted).statistic) if varied else 0.0,
        spearman=float(stats.spearmanr(truth, predicted).statistic) if varied else 0.0,
        top_10_regret=float((sign * truth[chosen]).min() - (sign * truth).min()) if len(truth) > 10 else None,
    )

"""Distillation by an adaptive alpha-divergence, which punishes over- and underestimation of a teacher's doubts alike.

Wang et al., "AlphaNet: Improved Training of Supernets with Alpha-Divergence", ICML 2021, arXiv:2102.07954.

Symbols: p and q are the probabilities of the teacher and of the network that learns, and

    D_alpha(p || q) = sum q ((p / q)^alpha - 1) / (alpha (alpha - 1)),

which is the Kullback-Leibler divergence KL(p || q) at alpha = 1 and KL(q || p) at alpha = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.supernet.losses.base import Lesson, NoTeacher, class_scores
from search_spaces.base.errors import InvalidValueError

if TYPE_CHECKING:
    from torch import Tensor

LIMIT = 1e-3
"""Distance from 0 and 1 within which an alpha counts as the limit."""


@dataclass(frozen=True)
class AlphaDivergence(NoTeacher):
    """Labels for the first network of a step; for the others the larger of two alpha-divergences from it, sample by
    sample.

    Args:
        low: the alpha that punishes doubts which the teacher has not; the paper's is -1.
        high: the alpha that punishes certainty which the teacher has not; the paper's is 1.
        clip: largest importance (p / q)^alpha, which bounds the gradient; the paper's is 5.
    """

    low: float = -1.0
    high: float = 1.0
    clip: float = 5.0

    def __post_init__(self) -> None:
        if not -math.inf < self.low <= self.high < math.inf:
            raise InvalidValueError(f"`low` and `high` must be ascending numbers, but got {self.low} and {self.high}.")
        if not 1 <= self.clip < math.inf:
            raise InvalidValueError(f"`clip` must be a number of at least 1, but got {self.clip}.")

    def __call__(self, outputs: Any, lesson: Lesson) -> Tensor:
        if lesson.first is None:
            return lesson.task.loss(outputs, lesson.targets, smoothing=lesson.smoothing)
        student, teacher = (class_scores(one, lesson.task, "The alpha-divergence") for one in (outputs, lesson.first))
        return adaptive_divergence(student, teacher, self.low, self.high, self.clip).mean()


def adaptive_divergence(student: Tensor, teacher: Tensor, low: float, high: float, clip: float) -> Tensor:
    """The larger of two divergences of each sample.

    Args:
        student: logits, (B, classes, ...).
        teacher: logits of the same shape, without gradient.
        low: one alpha.
        high: the other alpha.
        clip: largest importance.

    Returns:
        (B, ...)
    """
    one, other = (alpha_divergence(student, teacher, alpha, clip) for alpha in (low, high))
    return one.where(one > other, other)


def alpha_divergence(student: Tensor, teacher: Tensor, alpha: float, clip: float = math.inf) -> Tensor:
    """``D_alpha(p || q)`` of logits over the classes, (B, classes, ...) -> (B, ...), with a gradient in those of q.

    The gradient is ``-sum q rho(p / q) d(log q)``, where ``rho(t) = t^alpha / alpha``, and ``t^alpha`` is clipped in
    the value and in the gradient. At alpha = 1 the gradient in the logits is q - p, which needs no clipping.
    """
    log_q, log_p = student.log_softmax(1), teacher.log_softmax(1)
    q, log_ratio = log_q.detach().exp(), log_p - log_q.detach()
    if abs(alpha - 1) < LIMIT:
        value, weight = log_p.exp() * log_ratio, log_p.exp()
    elif abs(alpha) < LIMIT:
        weight = q * log_ratio.clamp(max=math.log(clip))
        value = -weight
    else:
        importance = (alpha * log_ratio).exp().clamp(max=clip)
        value, weight = q * (importance - 1) / (alpha * (alpha - 1)), q * importance / alpha
    gradient = -(weight * log_q).sum(1)  # weight: q rho
    return value.sum(1) + (gradient - gradient.detach())

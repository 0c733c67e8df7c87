"""Distillation from the biggest network as it was when the phase began.

Cai et al., "Once-for-All", ICLR 2020, arXiv:1908.09791, section 3.3: every network learns from the labels and from the
probabilities of the full network that was trained first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.supernet.losses.base import Lesson, Teacher
from nas.supernet.losses.distillation import in_training, teaching
from nas.supernet.supernet import input_resolution
from search_spaces.base.errors import InvalidValueError

if TYPE_CHECKING:
    from torch import Tensor

    from nas.supernet.supernet import Supernet


@dataclass(frozen=True)
class FrozenBiggest:
    """Labels, and what the biggest network of the space says, with the weights that it had when the phase began.

    The teacher sees the images at its own resolution, and takes BatchNorm's statistics from the batch, as the networks
    that learn from it do.

    Args:
        weight: of the teacher's loss beside that of the labels; the paper's is 1.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        check_weight("the frozen network", self.weight)

    def teacher(self, supernet: Supernet) -> Teacher:
        biggest = supernet.space.biggest
        return teaching(in_training(supernet.extract(biggest)), input_resolution(supernet.space, biggest))

    def __call__(self, outputs: Any, lesson: Lesson) -> Tensor:
        labels = lesson.task.loss(outputs, lesson.targets, smoothing=lesson.smoothing)
        return labels + self.weight * lesson.task.imitation(outputs, lesson.outside)


def check_weight(teacher: str, weight: float) -> None:
    """Refuse a weight of a teacher's loss that is no positive number.

    Raises:
        InvalidValueError: names the teacher.
    """
    if not 0 < weight < math.inf:
        raise InvalidValueError(f"`weight` of {teacher} must be a positive number, but got {weight}.")

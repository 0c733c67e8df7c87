"""In-place distillation: the first network of a step learns from the labels, the others from what it says.

Yu and Huang, "Universally Slimmable Networks", ICCV 2019, arXiv:1903.05134, section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.supernet.losses.base import Lesson, NoTeacher

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class InPlaceDistillation(NoTeacher):
    """Labels for the first network, the biggest under the sandwich rule; its outputs for the others."""

    def __call__(self, outputs: Any, lesson: Lesson) -> Tensor:
        if lesson.first is None:
            return lesson.task.loss(outputs, lesson.targets, smoothing=lesson.smoothing)
        return lesson.task.imitation(outputs, lesson.first)

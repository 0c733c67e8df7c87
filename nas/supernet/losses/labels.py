"""Every network learns from the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.supernet.losses.base import Lesson, NoTeacher

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Labels(NoTeacher):
    """The task's own loss for every network."""

    def __call__(self, outputs: Any, lesson: Lesson) -> Tensor:
        return lesson.task.loss(outputs, lesson.targets, smoothing=lesson.smoothing)

"""The protocol of a supernet's losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from search_spaces.layers import Size

if TYPE_CHECKING:
    from torch import Tensor

    from nas.supernet.supernet import Supernet
    from nas.tasks import Task

Teacher = Callable[[Callable[[Size], "Tensor"]], Any]
"""Outputs of a network outside of the supernet, without gradients, given a function that gives the step's inputs (B, C,
H, W) at a resolution."""


@dataclass(frozen=True)
class Lesson:
    """All that one network of a step can learn from.

    Args:
        task: of the data.
        targets: of the batch.
        smoothing: of the labels.
        first: outputs of the first network of the step, without gradients; None: this is the first.
        outside: outputs of the outside teacher, where there is one.
    """

    task: Task
    targets: Any
    smoothing: float
    first: Any = None
    outside: Any = None


@runtime_checkable
class SupernetLoss(Protocol):
    """Loss of each network of a step."""

    def teacher(self, supernet: Supernet) -> Teacher | None:
        """Teacher outside of the supernet for a phase that begins now; None: there is none."""

    def __call__(self, outputs: Any, lesson: Lesson) -> Tensor:
        """Loss of a network's outputs, a scalar."""


class NoTeacher:
    """Losses without a teacher outside of the supernet."""

    def teacher(self, supernet: Supernet) -> Teacher | None:
        return None

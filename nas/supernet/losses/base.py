"""The protocol of a supernet's losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from nas.tasks import MultiLabel
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Size

if TYPE_CHECKING:
    from nas.supernet.supernet import Supernet
    from nas.tasks import Task
    from search_spaces.architecture import Architecture

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


@runtime_checkable
class Independent(SupernetLoss, Protocol):
    """A loss whose teacher may have nothing of the supernet."""

    @property
    def independent(self) -> bool:
        """True if the teacher is made without the weights that the phase begins with, so that no checkpoint keeps
        them."""


@runtime_checkable
class InsideLoss(SupernetLoss, Protocol):
    """A loss of what is inside of networks, in place of their outputs."""

    def outputs(self, supernet: Supernet, images: Tensor, architecture: Architecture, outside: Any) -> Any:
        """Values that are learned from, which the loss is then called with.

        Args:
            supernet: to run.
            images: inputs at the resolution of the architecture, (B, C, H, W).
            architecture: which network.
            outside: outputs of the outside teacher.
        """


class NoTeacher:
    """Losses without a teacher outside of the supernet."""

    def teacher(self, supernet: Supernet) -> Teacher | None:
        return None


def class_scores(outputs: Any, task: Task, loss: str) -> Tensor:
    """The outputs of a network as scores of classes along axis 1.

    Args:
        outputs: of the network.
        task: that they are of.
        loss: what compares probabilities of classes, for the message.

    Raises:
        InvalidValueError: they are none.
    """
    classes = None if isinstance(task, MultiLabel) else getattr(task, "classes", None)  # whose labels do not exclude
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or classes is None or outputs.shape[1] < classes:
        raise InvalidValueError(
            f"{loss} compares probabilities of classes, which networks for {type(task).__name__} do not give. Choose "
            "another `training.loss`, such as nas.supernet.losses.InPlaceDistillation."
        )
    return outputs

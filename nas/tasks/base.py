"""The protocol of tasks: the loss of a network's outputs, and the score that networks are compared by.

Outputs are what the supernet gives for a batch: a tensor, or tensors by name where a network has several outputs.
Targets are what the data gives beside the inputs, in whatever form the task wants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from search_spaces.metric import TaskMetric
from search_spaces.program import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from nas.tasks.mixing import Mixing


class Score(Protocol):
    """The score of one network over many batches."""

    def add(self, outputs: Any, targets: Any) -> None:
        """Take a batch into account."""

    def value(self) -> float:
        """The score over all batches so far, in the unit of the task's metric."""

    def error(self) -> float | None:
        """Standard error of the value, as inputs are a sample; None: that of a share of right answers, or unknown."""


@runtime_checkable
class Task(Protocol):
    """Task that networks are trained for. Tasks are frozen dataclasses: equal ones are the same task."""

    @property
    def metric(self) -> TaskMetric:
        """Metric that networks are judged by, with its unit, direction and range."""

    @property
    def identity(self) -> str:
        """Words that differ for different tasks, part of the fingerprint of data."""

    def check(self, networks: str, outputs: Mapping[str, Shape], data: str) -> None:
        """Check that networks with these outputs can do the task.

        Args:
            networks: whose they are, for the message.
            outputs: shapes by name, without the batch.
            data: name of the data.

        Raises:
            MismatchError: they cannot.
        """

    @property
    def title(self) -> str:
        """The task in a few words, such as ``10 classes``."""

    def notes(self, data: str, parts: Mapping[str, Any], outputs: Mapping[str, Shape]) -> list[str]:
        """Notes on what is unusual about some data.

        Args:
            data: its name.
            parts: samples of train, validation and test.
            outputs: shapes of the networks' outputs by name, without the batch.

        Raises:
            InvalidValueError: nothing can be learned from it.
        """

    def move(self, targets: Any, movement: Tensor) -> Any:
        """Targets of a batch whose inputs were moved.

        Args:
            targets: of the batch.
            movement: affine maps (B, 2, 3) from coordinates of the moved inputs to those of the inputs as they were;
                coordinates span -1 to 1; see `nas.tasks.movement`.
        """

    def mix(self, targets: Any, others: Any, mixing: Mixing) -> Any:
        """Targets of a batch whose inputs were mixed with others, in a form that `loss` takes.

        Args:
            targets: of the batch.
            others: those of the other inputs, in the same order.
            mixing: how much of the others came in, and where.

        Raises:
            InvalidValueError: such targets cannot be mixed so.
        """

    def loss(self, outputs: Any, targets: Any, *, smoothing: float = 0.0) -> Tensor:
        """Mean loss of a batch, a scalar.

        Args:
            outputs: of the network.
            targets: of the data, or what `mix` makes of them.
            smoothing: of labels, in [0, 1), where the targets are classes.
        """

    def imitation(self, outputs: Any, teacher: Any) -> Tensor:
        """Mean loss of a batch against what a teacher says of it, a scalar; the teacher's outputs carry no gradient."""

    def score(self) -> Score:
        """An empty score."""

    def output(self, shapes: Mapping[str, Shape]) -> Mapping[str, Any]:
        """Description of an exported network's outputs, JSON-able, given their shapes by name, of a batch."""

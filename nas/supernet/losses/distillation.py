"""Distillation from a network outside of the supernet.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas.core import processes
from nas.supernet.losses.base import Lesson, NoTeacher, Teacher
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Size
from search_spaces.torch_program import StaticNetwork


@dataclass(frozen=True)
class Distillation(NoTeacher):
    """Labels and what the teacher that a training begins with says, weighted; labels alone where there is none.

    Args:
        share: of the teacher, in [0, 1].
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InvalidValueError(f"`share` of distillation must be in [0, 1], but got {self.share}.")

    def __call__(self, outputs: Any, lesson: Lesson) -> Tensor:
        labels = lesson.task.loss(outputs, lesson.targets, smoothing=lesson.smoothing)
        if lesson.outside is None or not self.share:
            return labels
        return (1 - self.share) * labels + self.share * lesson.task.imitation(outputs, lesson.outside)


def in_training(network: StaticNetwork) -> StaticNetwork:
    """A network as it is in training: BatchNorm takes the statistics of the batch, of all processes together."""
    network.train().synchronise(processes.several())
    return network


def teaching(network: nn.Module, resolution: Size) -> Teacher:
    """Teacher that says what a network gives for the step's inputs.

    Args:
        network: in the mode that it teaches in.
        resolution: of its inputs.
    """

    @torch.no_grad()
    def says(view: Callable[[Size], Tensor]) -> Any:
        images = view(resolution)
        return network.to(images.device)(images)

    return says

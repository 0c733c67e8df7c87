"""Distillation from a teacher of another family, which has nothing but its outputs in common with the supernet.

Hao et al., "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation", NeurIPS 2023,
arXiv:2310.19444; here for the outputs of the network alone, without branches in its stages.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.supernet.losses.base import Lesson, Teacher, class_scores
from nas.supernet.losses.distillation import teaching
from nas.supernet.losses.frozen import check_weight
from nas.tasks import Classification
from search_spaces.base import trust
from search_spaces.base.errors import DamagedFileError, InvalidValueError, MismatchError
from search_spaces.base.storage import read_bytes
from search_spaces.layers import Size, image_shape

if TYPE_CHECKING:
    from nas.supernet.supernet import Supernet


@dataclass(frozen=True)
class ForeignTeacher:
    """Labels, and the logits of a trained network of another family.

    With probabilities p of the teacher and q of the network, and y the share of each class in a sample, which is 1 or 0
    where samples are not mixed, the teacher's loss is

        - sum over classes of ((p + y) ^ gamma - y) log q,

    which is the cross-entropy with p at gamma = 1, and trusts a sure teacher more above that.

    Args:
        network: import path of the class or function that makes a `torch.nn.Module`, such as
            ``torchvision.models.resnet18``; it runs if its module is trusted (``--trust torchvision``).
        weights: file with its state, as ``torch.save`` writes it; pickled code in it is refused.
        resolution: height and width of the images that it takes, normalised as the data normalises them.
        arguments: that the network is made with.
        weight: of the teacher's loss beside that of the labels.
        gamma: the exponent; the paper's is 1 to 1.5. Above 1 it is for one class per input.
    """

    network: str
    weights: str
    resolution: Size
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_weight("the teacher", self.weight)
        if not 1 <= self.gamma < math.inf:
            raise InvalidValueError(f"`gamma` of the teacher must be a number of at least 1, but got {self.gamma}.")
        trust.find("The teacher", self.network)

    @property
    def independent(self) -> bool:
        return True

    def teacher(self, supernet: Supernet) -> Teacher:
        device = next(supernet.parameters()).device
        network = self._made().to(device).eval().requires_grad_(False)
        lowered = supernet.lower(supernet.space.biggest)
        channels, wanted = next(iter(lowered.inputs.values()))[0], list(lowered.output_shapes.values())
        with torch.no_grad():
            try:
                given = network(torch.zeros(1, *image_shape(channels, self.resolution), device=device))
            except (RuntimeError, ValueError, TypeError) as error:
                raise MismatchError(
                    f"The teacher {self.network} does not take images of {channels} channels at {self.resolution}: "
                    f"{str(error)[:200]}. Set `resolution` and `arguments` of the teacher."
                ) from error
        if not isinstance(given, Tensor) or [tuple(given.shape[1:])] != wanted:
            shape = tuple(given.shape[1:]) if isinstance(given, Tensor) else type(given).__name__
            raise MismatchError(
                f"The teacher {self.network} gives {shape}, but networks of space {supernet.space.name!r} give "
                f"{', '.join(map(str, wanted))}. Set the number of classes by `arguments` of the teacher."
            )
        return teaching(network, self.resolution)

    def _made(self) -> nn.Module:
        """The network with its weights.

        Raises:
            InvalidValueError: the path names none.
            DamagedFileError: the file is none of weights.
            MismatchError: it holds those of another network.
        """
        make = trust.find("The teacher", self.network)
        try:
            with torch.random.fork_rng(devices=[]):  # its initial weights are replaced
                network = make(**self.arguments)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidValueError(f"The teacher {self.network} cannot be made: {error}") from error
        if not isinstance(network, nn.Module):
            raise InvalidValueError(
                f"The teacher must be a torch.nn.Module, but {self.network} makes {type(network).__name__}."
            )
        path = Path(self.weights).expanduser()
        raw = read_bytes(path)
        try:
            state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
        except Exception as error:  # torch, zipfile and pickle each raise their own kinds
            raise DamagedFileError(
                f"{path} is no file of weights that `torch.load(weights_only=True)` can read ({str(error)[:200]}). "
                "Write `network.state_dict()` with `torch.save`."
            ) from error
        try:
            network.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise MismatchError(f"{path} does not hold the weights of {self.network}: {str(error)[:200]}") from error
        return network

    def __call__(self, outputs: Any, lesson: Lesson) -> Tensor:
        labels = lesson.task.loss(outputs, lesson.targets, smoothing=lesson.smoothing)
        if self.gamma == 1:
            return labels + self.weight * lesson.task.imitation(outputs, lesson.outside)
        student, teacher = (class_scores(one, lesson.task, "The teacher") for one in (outputs, lesson.outside))
        if not isinstance(lesson.task, Classification):
            raise InvalidValueError(
                f"`gamma` of the teacher enhances the class of an input, which {type(lesson.task).__name__} has not. "
                "Use `gamma=1`."
            )
        return labels + self.weight * enhanced(student, teacher, lesson.targets, self.gamma)


def enhanced(student: Tensor, teacher: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Mean loss of logits (B, classes) with the teacher's target enhanced by the exponent gamma.

    Args:
        student: logits.
        teacher: logits.
        labels: classes (B,), or shares of the first ones of them (B, fewer classes).
        gamma: the exponent.
    """
    if labels.is_floating_point():
        own = functional.pad(labels, (0, student.shape[1] - labels.shape[1]))
    else:
        own = functional.one_hot(labels, student.shape[1]).to(student.dtype)
    target = (teacher.softmax(1) + own) ** gamma - own
    return -(target * student.log_softmax(1)).sum(1).mean()

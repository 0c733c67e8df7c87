"""SD-DARTS: the supernet is taught by what it was some steps ago.

Zhu et al., "Improving Differentiable Architecture Search via Self-Distillation", Neural Networks 2023,
arXiv:2302.05629.

DARTS's supernet tends towards sharp minima of its loss, so that the network that is read from it is worse than it was.
Here the weights descend

    CE(z, labels) + strength * T^2 * KL(vote || softmax(z / T))

where z are the supernet's logits and the vote is the mean of what the last few supernets (their weights and mixtures of
the time) give for the same images. What the loss does from one step to the next, its sharpness along the way, is thus
kept small; several teachers are steadier than one. Logits of choices are trained as in DARTS, first order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nas.searchers.differentiable.base import Batch, GradientRun, GradientSearch, Parts, detached
from search_spaces.base.errors import InvalidValueError


@dataclass(frozen=True)
class SDDARTS(GradientSearch):
    """SD-DARTS, see above; the settings of `GradientSearch` and these.

    Args:
        teachers: how many earlier supernets vote; each takes the memory of the weights and a forward pass per step.
        interval: steps between two teachers.
        strength: of the distillation.
        temperature: T, of student and teachers.
    """

    teachers: int = 3
    interval: int = 1
    strength: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teachers < 1 or self.interval < 1:
            raise InvalidValueError(
                f"`teachers` and `interval` must be >= 1, but got {self.teachers} and {self.interval}."
            )
        if not self.strength >= 0 or not self.temperature > 0:
            raise InvalidValueError(
                f"`strength` must be >= 0 and `temperature` > 0, but got {self.strength} and {self.temperature}."
            )

    def extra(self, run: GradientRun) -> Parts:
        return {"teachers": Teachers(self.teachers, self.interval)}

    def step(self, run: GradientRun, train: Batch, validation: Batch, progress: float, searching: bool) -> Tensor:
        if searching:
            run.descend_logits(run.loss(validation, self.mixture(run, run.logits, progress)))
        weights = detached(self.mixture(run, run.logits, progress))
        teachers: Teachers = run.extra["teachers"]
        images, labels = train
        vote = teachers.vote(run, images, self.temperature)
        teachers.add(run, weights)
        with run.fabric.autocast():
            z = run.relaxed(images, weights)
            loss = self.data.task.loss(z, labels)
            if vote is not None:
                student = (z / self.temperature).log_softmax(1)
                distance = functional.kl_div(student, vote, reduction="batchmean")
                loss = loss + self.strength * self.temperature**2 * distance
        return run.descend_weights(loss)


class Teachers:
    """The supernets of earlier steps, the oldest first.

    Args:
        count: how many are kept.
        interval: steps between two of them.
    """

    def __init__(self, count: int, interval: int) -> None:
        self.count = count
        self.interval = interval
        self.steps = 0
        self.kept: list[dict[str, dict[str, Tensor]]] = []

    def add(self, run: GradientRun, weights: Mapping[str, Tensor]) -> None:
        """Keep a copy of the present supernet, if it is time."""
        if self.steps % self.interval == 0:
            state = {name: tensor.detach().clone() for name, tensor in run.relaxed.state_dict().items()}
            mixture = {name: values.clone() for name, values in weights.items()}
            self.kept = [*self.kept, {"state": state, "mixture": mixture}][-self.count :]
        self.steps += 1

    def vote(self, run: GradientRun, images: Tensor, temperature: float) -> Tensor | None:
        """Mean of the teachers' probabilities, shape (B, classes), without a graph; None before there is a teacher."""
        if not self.kept:
            return None
        with torch.no_grad(), run.fabric.autocast():
            given = [
                torch.func.functional_call(run.relaxed, teacher["state"], (images, teacher["mixture"]))
                for teacher in self.kept
            ]
            return torch.stack([(z / temperature).softmax(1) for z in given]).mean(0)

    def state_dict(self) -> dict[str, Any]:
        """State for the checkpoint."""
        return {"steps": self.steps, "kept": self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Read back `state_dict`."""
        self.steps, self.kept = int(state["steps"]), list(state["kept"])

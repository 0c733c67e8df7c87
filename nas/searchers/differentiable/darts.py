"""DARTS: gradient descent on a continuous mixture of all choices.

Liu et al., "DARTS: Differentiable Architecture Search", ICLR 2019, arXiv:1806.09055. Every position runs all that it
can be, weighted by a softmax of logits (equation 2). Logits follow the validation loss, weights the training loss, one
step of each in turn (algorithm 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nas.searchers.differentiable.base import Batch, GradientRun, GradientSearch
from search_spaces.base.errors import InvalidValueError

if TYPE_CHECKING:
    from torch import Tensor

DISTANCE = 0.01
"""Distance that the weights move for a finite difference, all of them together: epsilon times the norm of the
gradient."""


@dataclass(frozen=True)
class DARTS(GradientSearch):
    """Softmax mixtures, trained by alternating descent.

    Args:
        order: ``first``: the weights count as given; ``second``: the validation loss is that of the weights after one
            step on the training loss, which takes three times as long.
    """

    order: Literal["first", "second"] = "first"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in ("first", "second"):
            raise InvalidValueError(f"`order` must be first or second, but got {self.order!r}.")

    def step(self, run: GradientRun, train: Batch, validation: Batch, progress: float, searching: bool) -> Tensor:
        if not searching or self.order == "first":
            return super().step(run, train, validation, progress, searching)
        run.apply_logit_gradients(unrolled_gradients(run, train, validation, progress))
        return super().step(run, train, validation, progress, searching=False)


def unrolled_gradients(run: GradientRun, train: Batch, validation: Batch, progress: float) -> dict[str, Tensor]:
    """Gradient of the validation loss after one step of the weights on the training loss; equations 7 and 8.

    The step is that of the run's optimiser, momentum and weight decay included. Weights are as before afterwards.
    """
    import torch

    weights = [weight for weight in run.relaxed.parameters() if weight.requires_grad]
    logits = list(run.logits.values())
    group = run.weight_optimiser.param_groups[0]
    kept = [weight.detach().clone() for weight in weights]

    def training_gradients(of: Sequence[Tensor]) -> tuple[Tensor, ...]:
        loss = run.task_loss(train, run.method.mixture(run, run.logits, progress))
        return torch.autograd.grad(loss, of, allow_unused=True, materialize_grads=True)

    with torch.no_grad():
        with torch.enable_grad():
            gradients = training_gradients(weights)
        for weight, gradient in zip(weights, gradients, strict=True):
            past = run.weight_optimiser.state[weight].get("momentum_buffer")
            step = gradient + group["weight_decay"] * weight
            weight.sub_(group["lr"] * (step if past is None else step + group["momentum"] * past))  # w'
        with torch.enable_grad():
            loss = run.loss(validation, run.method.mixture(run, run.logits, progress))
            found = torch.autograd.grad(loss, [*logits, *weights], allow_unused=True, materialize_grads=True)
        direct, direction = found[: len(logits)], found[len(logits) :]
        norm = torch.sqrt(sum((part.square().sum() for part in direction), start=torch.zeros(())))
        epsilon = DISTANCE / float(norm.clamp_min(1e-12))
        ends = []
        for sign in (1, -1):
            for weight, old, part in zip(weights, kept, direction, strict=True):
                weight.copy_(old + sign * epsilon * part)  # w+ and w-
            with torch.enable_grad():
                ends.append(training_gradients(logits))
        for weight, old in zip(weights, kept, strict=True):
            weight.copy_(old)
        return {
            name: first - group["lr"] * (plus - minus) / (2 * epsilon)
            for name, first, plus, minus in zip(run.logits, direct, *ends, strict=True)
        }

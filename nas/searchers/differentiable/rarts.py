"""RARTS: single-level search with two copies of the weights, which learn from different data and pull on each other.

Xue, Qi and Xin, "RARTS: An Efficient First-Order Relaxed Architecture Search Method", IEEE Access 2022,
arXiv:2008.03901.

DARTS asks for the logits that are best for the weights that are best for them, and drops that dependence in its first
order. RARTS splits the weights into w and y in place of it, and descends the relaxed Lagrangian

    L(y, w, alpha) = L_v(y, alpha) + strength * L_t(w, alpha) + penalty / 2 * |y - w|^2

in turns (Gauss-Seidel), each with what the one before has just become: w, then y, then alpha. L_t is the loss on one
half of the images, L_v on the other, so alpha learns from all of them. No second derivatives are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.searchers.differentiable.base import Batch, GradientRun, GradientSearch, Parts, detached
from nas.supernet.relaxed import RelaxedSupernet
from search_spaces.base.errors import InvalidValueError


@dataclass(frozen=True)
class RARTS(GradientSearch):
    """RARTS, see above; the settings of `GradientSearch` and these.

    Args:
        strength: lambda, of the loss of w.
        penalty: beta, of the distance between y and w.
    """

    strength: float = 1.0
    penalty: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strength > 0 or not self.penalty > 0:
            raise InvalidValueError(
                f"`strength` and `penalty` must be > 0, but got {self.strength} and {self.penalty}."
            )
        if self.penalty * self.learning_rate > 0.25:
            raise InvalidValueError(
                "`penalty` times `learning_rate` must be <= 0.25, or the copies overshoot each other and diverge, but "
                f"got {self.penalty} * {self.learning_rate}."
            )

    def extra(self, run: GradientRun) -> Parts:
        """The second copy, y, which starts as w does, with its optimiser."""
        y = RelaxedSupernet(run.space, fixed=run.fixed, seed=self.seed, mix=self.mix()).train().to(run.device)
        optimiser = torch.optim.SGD(y.parameters(), lr=self.learning_rate, momentum=0.9, weight_decay=self.weight_decay)
        return {"y": y, "optimiser": optimiser}

    def step(self, run: GradientRun, train: Batch, validation: Batch, progress: float, searching: bool) -> Tensor:
        y, optimiser = run.extra["y"], run.extra["optimiser"]
        for ours, theirs in zip(optimiser.param_groups, run.weight_optimiser.param_groups, strict=True):
            ours["lr"] = theirs["lr"]
        weights = detached(self.mixture(run, run.logits, progress))

        lagrangian = self.strength * run.task_loss(train, weights) + self.penalty / 2 * distance(run.relaxed, y)
        loss = run.descend_weights(lagrangian)
        lagrangian = run.task_loss(validation, weights, y) + self.penalty / 2 * distance(y, run.relaxed)
        optimiser.zero_grad()
        lagrangian.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(y.parameters(), 5.0)
        optimiser.step()
        del lagrangian  # and what it holds in memory
        if searching:
            run.descend_logits(run.with_latency(self._both(run, train, validation, progress)))
        return loss

    def _both(self, run: GradientRun, train: Batch, validation: Batch, progress: float) -> Tensor:
        """L_v(y) + strength * L_t(w), a scalar with their gradient; one network is run after the other, which halves
        the memory."""
        total = torch.zeros(())
        logits = list(run.logits.values())
        for strength, supernet, batch in ((1.0, run.extra["y"], validation), (self.strength, run.relaxed, train)):
            loss = strength * run.task_loss(batch, self.mixture(run, run.logits, progress), supernet)
            gradients = torch.autograd.grad(loss, logits, allow_unused=True, materialize_grads=True)
            slopes = [((q - q.detach()) * gradient).sum() for q, gradient in zip(logits, gradients, strict=True)]
            total = total + loss.detach() + torch.stack(slopes).sum()
        return total


def distance(first: nn.Module, second: nn.Module) -> Tensor:
    """Squared distance of the weights of two networks, a scalar; with a gradient of the first one's only."""
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return torch.stack([(a - b.detach()).square().sum() for a, b in pairs]).sum()

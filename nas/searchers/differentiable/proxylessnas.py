"""ProxylessNAS: one path at a time, so that searching takes the memory of training one network.

Cai et al., "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware", ICLR 2019, arXiv:1812.00332.

In every step one value of each choice is drawn (the binary gates g of equation 2), and only what it leads to is run.
Weights are trained on the drawn path alone. Logits are trained in one of two ways:

- ``gradient`` (equation 4): dL/dalpha_i = sum over j of dL/dg_j * p_j * (delta_ij - p_i). The gradient of a gate is the
  product of its layer's output and the gradient of the position's output. So it needs the outputs of all layers, but no
  graph of any: they are computed in the backward pass, one after the other, as in the authors' code. (Their paper draws
  two paths instead and rescales, which has the memory of two.)
- ``reinforce`` (section 3.3.2): the gradient is the mean of (L - baseline) * grad log p(path) over some drawn paths,
  which are run forwards only. The baseline of a path is the mean loss of the others, so that nothing is kept from one
  step to the next.

The mean of the latency is known exactly, so in both ways it is descended as it is (equation 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from nas.searchers.differentiable.base import Batch, GradientRun, GradientSearch, detached
from search_spaces.base.errors import InvalidValueError

if TYPE_CHECKING:
    from nas.supernet.relaxed import Mix, Runner


@dataclass(frozen=True)
class ProxylessNAS(GradientSearch):
    """ProxylessNAS, see above; the settings of `GradientSearch` and these.

    Args:
        update: how logits are trained.
        paths: of ``reinforce``: drawn per step.
    """

    update: Literal["gradient", "reinforce"] = "gradient"
    paths: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.update not in ("gradient", "reinforce"):
            raise InvalidValueError(f"`update` must be gradient or reinforce, but got {self.update!r}.")
        if self.paths < 2:
            raise InvalidValueError(f"`paths` must be >= 2, as each is compared with the others, but got {self.paths}.")

    def mix(self) -> Mix:
        return drawn_layer

    def mixture(self, run: GradientRun, logits: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Binary gates (equation 2): 1 for the drawn value, 0 for the others. Their gradients go to the probabilities
        as they are (equation 4)."""
        return {name: _gates(values.softmax(0), run.generator) for name, values in logits.items()}

    def step(self, run: GradientRun, train: Batch, validation: Batch, progress: float, searching: bool) -> Tensor:
        if searching:
            if self.update == "gradient":
                error = run.task_loss(validation, self.mixture(run, run.logits, progress))
            else:
                error = self._reinforce(run, validation, progress)
            run.descend_logits(run.with_latency(error))
        return run.descend_weights(run.task_loss(train, detached(self.mixture(run, run.logits, progress))))

    def _reinforce(self, run: GradientRun, batch: Batch, progress: float) -> Tensor:
        """A scalar that has the mean loss of the drawn paths as its value, and as its gradient that of 3.3.2."""
        losses, chances = [], []
        for _ in range(self.paths):
            path = detached(self.mixture(run, run.logits, progress))
            with torch.no_grad():
                losses.append(run.task_loss(batch, path))
            log_p = [(gates * run.logits[name].log_softmax(0)).sum() for name, gates in path.items()]
            chances.append(torch.stack(log_p).sum())
        loss = torch.stack(losses).to(chances[0].device)  # (paths,)
        baseline = (loss.sum() - loss) / (self.paths - 1)
        score = ((loss - baseline) * torch.stack(chances)).mean()
        return loss.mean() + (score - score.detach())


def _gates(p: Tensor, generator: torch.Generator) -> Tensor:
    """One value drawn by its probability: exactly 0 or 1, with the gradient of the probabilities."""
    drawn = p.detach().multinomial(1, generator=generator)
    return torch.zeros_like(p).index_fill(0, drawn, 1.0) + (p - p.detach())


def drawn_layer(x: Tensor, weights: Tensor, layers: Sequence[Runner]) -> Tensor:
    """The output of the one layer whose weight is 1, with gradients of all weights where these are wanted; a `Mix`.

    Raises:
        InvalidValueError: the weights are not those of one drawn layer.
    """
    gates = weights.detach().tolist()
    if sorted(gates) != [0.0] * (len(gates) - 1) + [1.0]:
        raise InvalidValueError(f"One drawn layer has weight 1 and all others 0, but got {gates}.")
    drawn = gates.index(1.0)
    y = layers[drawn](x)
    if not (weights.requires_grad and torch.is_grad_enabled()):
        return y
    gated: Tensor = _Gate.apply(y, weights.to(x.device), x, layers, drawn)  # type: ignore[no-untyped-call]
    return gated


class _Gate(torch.autograd.Function):
    """Hands on the drawn layer's output. Backwards it computes what the other layers would have given, one at a time,
    without a graph."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weights: Tensor, x: Tensor, layers: Sequence[Runner], drawn: int) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.layers, ctx.drawn = layers, drawn
        ctx.precision = torch.is_autocast_enabled(x.device.type), torch.get_autocast_dtype(x.device.type)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (gradient,) = gradients
        x, y = ctx.saved_tensors
        mixed, kind = ctx.precision
        with torch.no_grad(), torch.autocast(x.device.type, kind, enabled=mixed):
            of_gates = [
                ((y if k == ctx.drawn else layer(x)) * gradient).float().sum() for k, layer in enumerate(ctx.layers)
            ]
        return gradient, torch.stack(of_gates), None, None, None

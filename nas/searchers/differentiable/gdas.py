"""GDAS: each step draws one network and sends the gradient through the draw.

Dong and Yang, "Searching for a Robust Neural Architecture in Four GPU Hours", CVPR 2019, arXiv:1910.04465. The draw is
the largest of logits plus Gumbel noise, its gradient that of the softmax at a temperature (equations 3 to 5), which
falls from 10 to 0.1. Only what is drawn is run, so a step costs one network in time and memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas.searchers.differentiable.base import GradientRun, GradientSearch, check_temperatures, gumbel

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GDAS(GradientSearch):
    """Hard Gumbel draws with straight-through gradients.

    Args:
        temperature: of the softmax at the start of the search.
        final_temperature: at its end; in between it falls linearly.
    """

    temperature: float = 10.0
    final_temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperatures(self.temperature, self.final_temperature)

    def mixture(self, run: GradientRun, logits: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        temperature = self.temperature + (self.final_temperature - self.temperature) * progress
        return {name: straight_through(values + gumbel(values, run), temperature) for name, values in logits.items()}


def straight_through(logits: Tensor, temperature: float) -> Tensor:
    """One-hot at the largest logit; its gradient is that of the softmax at a temperature."""
    import torch

    soft = (logits / temperature).softmax(0)
    hard = torch.zeros_like(soft).index_fill(0, soft.argmax(), 1.0)
    return hard + (soft - soft.detach())  # the added numbers are exactly 0, so what is not drawn is not run

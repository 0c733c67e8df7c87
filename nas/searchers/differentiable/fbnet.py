"""FBNet: soft Gumbel draws that harden while they cool, and a loss that multiplies by a power of latency.

Wu et al., "FBNet: Hardware-Aware Efficient ConvNet Design via Differentiable Neural Architecture Search", CVPR 2019,
arXiv:1812.03443: every position mixes its layers by a Gumbel softmax (equation 6) whose temperature falls by a constant
factor (from 5, times exp(-0.045) per epoch of 90), and the latency that is multiplied with the cross-entropy comes from
a table. The mean latency is taken under the logits themselves, not under their draw: the same on average, without the
draw's noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nas.searchers.differentiable.base import GradientRun, GradientSearch, LatencyLoss, check_temperatures, gumbel

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FBNet(GradientSearch):
    """Gumbel softmax at a falling temperature.

    Args:
        latency: how it enters the loss.
        temperature: at the start of the search.
        final_temperature: at its end; in between it falls exponentially.
    """

    latency: LatencyLoss = field(default_factory=lambda: LatencyLoss("power", weight=0.2, exponent=0.6))
    temperature: float = 5.0
    final_temperature: float = 0.09

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperatures(self.temperature, self.final_temperature)

    def mixture(self, run: GradientRun, logits: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        temperature = self.temperature * (self.final_temperature / self.temperature) ** progress
        return {name: ((values + gumbel(values, run)) / temperature).softmax(0) for name, values in logits.items()}

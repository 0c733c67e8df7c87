"""sharpDARTS: mixtures whose strongest choice counts in full, and a learning rate that falls sooner.

Hundt et al., "sharpDARTS: Faster and More Accurate Differentiable Architecture Search", 2019, arXiv:1903.09900. Max-W
regularisation: a value whose softmax is w counts 1 - max(w) + w, so that the strongest counts 1 however strong it is,
and the others are not starved. Cosine power annealing of the learning rate: between a cosine and an exponential decay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas.searchers.differentiable.base import GradientRun, GradientSearch
from search_spaces.base.errors import InvalidValueError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SharpDARTS(GradientSearch):
    """DARTS with Max-W regularisation and cosine power annealing.

    Args:
        power: of the annealing, >= 1; 1: a plain cosine.
        least_rate: of the weights, at the end, as a share of ``learning_rate``.
    """

    power: float = 2.0
    least_rate: float = 0.004

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.power >= 1 or not 0 <= self.least_rate <= 1:
            raise InvalidValueError(
                f"`power` must be >= 1 and `least_rate` in [0, 1], but got {self.power} and {self.least_rate}."
            )

    def mixture(self, run: GradientRun, logits: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        return self.probabilities(logits)

    def probabilities(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: max_w(values.softmax(0)) for name, values in logits.items()}

    def rate(self, done: float) -> float:
        return self.learning_rate * (self.least_rate + (1 - self.least_rate) * cosine_power(done, self.power))


def max_w(weights: Tensor) -> Tensor:
    """1 - max(w) + w of the weights w, scaled to add up to 1.

    In the paper a BatchNorm undoes the scale of a mixture. Blocks with a residual connection pass it on, so unscaled a
    mixture of n layers would grow n-fold at every position; scaled, the weights are probabilities of a latency as well.
    """
    sharp = 1 - weights.max() + weights
    return sharp / sharp.sum()


def cosine_power(done: float, power: float) -> float:
    """Share of the learning rate that is left after a share of all epochs, from 1 to 0."""
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    if power == 1:
        return cosine
    return float((power ** (cosine + 1) - power) / (power**2 - power))

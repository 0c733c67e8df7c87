"""The l1/l2 latency surrogate: choices are continuous masks whose size is read by l1/l2 norms.

Nasery, Shah, Suggala and Jain, "End-to-End Neural Network Compression via l1/l2 Regularized Latency Surrogates", CVPR
workshops 2024, arXiv:2306.05785. They learn a mask in [0, 1] over the channels of each layer beside its weights; the
number of channels that are left, an l0 norm, has no gradient, so their latency is that of the size that a ratio of l1
and l2 norms gives, interpolated in a table. The ratio does not change when a mask is scaled, so a mask cannot get away
with being small; it has to have zeros. Bits are masked in the same way.

Here a mask covers the values of a choice, and the table is the latency predictor of the problem:

- A choice whose values are positive numbers in ascending order (channels, expand ratios, depths, kernels, bits) has a
  nested mask: 1 for what its smallest value has, and m_j for what value j has in addition, 1 >= m_2 >= m_3 >= ... >= 0.
  So the layers are mixed by the steps of the mask, p_j = m_j - m_(j + 1), and p = softmax(logits) makes every p a mask.
  The size is (|m|_1 / |m|_2)^2, where each m_j counts as often as value j adds units (value j - value j - 1); the
  latency is interpolated linearly between the two values beside it.
- Any other choice has a mask over its values, of which the l1 norm is 1: their weights in the mixture, and in the mean
  of the latency.

For masks of zeros and ones the square of l1/l2 is the l0 norm itself, so discrete masks have exactly the latency of
their network. The number of values that are left of p, (|p|_1 / |p|_2)^2, is a second term of the loss. Its weight
rises linearly from 0 over the search (annealing), which drives all masks to one value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.searchers.differentiable.base import Batch, GradientRun, GradientSearch, detached
from search_spaces.architecture import Value
from search_spaces.base.errors import InvalidValueError


@dataclass(frozen=True)
class L1L2Surrogate(GradientSearch):
    """Masks with the l1/l2 surrogate, see above; the settings of `GradientSearch` and this.

    Args:
        sparsity: what the term of the values that are left, scaled to 0 (one) to 1 (all), weighs at the end of the
            search.
    """

    sparsity: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sparsity >= 0:
            raise InvalidValueError(f"`sparsity` must be >= 0, but got {self.sparsity}.")

    def step(self, run: GradientRun, train: Batch, validation: Batch, progress: float, searching: bool) -> Tensor:
        if searching:
            run.descend_logits(self._loss(run, validation, progress))
        return run.descend_weights(run.task_loss(train, detached(self.mixture(run, run.logits, progress))))

    def _loss(self, run: GradientRun, batch: Batch, progress: float) -> Tensor:
        """Cross-entropy, what is left of the masks, and the latency at their sizes, a scalar."""
        p = self.mixture(run, run.logits, progress)
        left = torch.stack([(left_values(q) - 1) / max(len(q) - 1, 1) for q in p.values()]).mean()
        return run.with_latency(run.task_loss(batch, p) + self.sparsity * progress * left, _sizes(run, p))


def left_values(p: Tensor) -> Tensor:
    """Number of values that a mask has left, (|p|_1 / |p|_2)^2, a scalar from 1 to their number; p: (values,), >= 0."""
    return p.sum().square() / p.square().sum()


def at_size(p: Tensor, values: Sequence[Value]) -> Tensor:
    """The weights of two neighbouring values, (values,), whose mean is the size of the nested mask with the steps p.

    Args:
        p: what each value of a choice weighs, shape (values,), adding up to 1.
        values: of the choice, positive and ascending.
    """
    axis = torch.tensor(values, dtype=p.dtype, device=p.device)
    units = axis.diff(prepend=axis.new_zeros(1))
    mask = p.flip(0).cumsum(0).flip(0)
    size = ((units * mask).sum().square() / (units * mask.square()).sum()).clamp(axis[0], axis[-1])
    upper = int((axis[1:-1] <= size.detach()).sum()) + 1
    share = (size - axis[upper - 1]) / (axis[upper] - axis[upper - 1])
    weights = torch.zeros_like(p)
    return weights.index_add(0, torch.tensor([upper - 1, upper], device=p.device), torch.stack([1 - share, share]))


def _sizes(run: GradientRun, p: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Probabilities that the latency is the mean over."""
    sizes = {}
    for name, given in p.items():
        values = run.space.choices[run.space.index[name]].values
        sizes[name] = at_size(given, values) if _ascends(values) else given
    return sizes


def _ascends(values: Sequence[Value]) -> bool:
    """True if values are at least two positive numbers, the smallest first."""
    numbers = [value for value in values if isinstance(value, int | float) and value > 0]
    return len(values) > 1 and len(numbers) == len(values) and numbers == sorted(numbers)

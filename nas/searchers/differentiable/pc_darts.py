"""PC-DARTS: only a part of the channels goes through the mixture of a cell's edge.

Xu et al., "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search", ICLR 2020,
arXiv:1907.05737.

- Partial channels (equation 2): 1/K of an edge's channels goes through the mixture of operations, with the weights of
  these channels; the rest goes past it. The channels are shuffled behind each edge, so that all of them take turns, as
  in the authors' code, where the first 1/K are taken. The mixture takes about 1/K of the memory.
- Edge normalisation (equation 3): a node is the sum of its edges weighted by softmax(beta), where the betas of the
  edges that lead to it are trained beside the logits. They even out that a part of the channels makes operations
  without weights less attractive, and what is best unsteady.

Both need operations that give as many channels as they get, however many: those on the edges of cells. All other
positions are mixed as in DARTS (Liu et al., ICLR 2019, equation 2). Where an operation halves the image, what goes past
it goes through max pooling, as in the authors' code. Where the edges of a node are a choice of their own, its
probabilities are what betas are for, and there are none.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.searchers.differentiable.base import Batch, GradientRun, GradientSearch, Parts, detached
from nas.supernet.relaxed import EdgeRunner, weighted_sum
from search_spaces.base.errors import InvalidValueError

if TYPE_CHECKING:
    from nas.supernet.relaxed import Mix, Runner


@dataclass(frozen=True)
class PCDARTS(GradientSearch):
    """PC-DARTS, see above; the settings of `GradientSearch` and these.

    Args:
        parts: K: 1/K of the channels is mixed; it must divide the channels of every cell.
        edge_normalisation: whether edges have weights of their own.
    """

    parts: int = 4
    edge_normalisation: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parts < 1:
            raise InvalidValueError(f"`parts` must be >= 1, but got {self.parts}.")

    def mix(self) -> Mix:
        return functools.partial(partial_channels, self.parts)

    def extra(self, run: GradientRun) -> Parts:
        """The betas of the edges, by the names of their choices, and their optimiser, which is that of the logits."""
        betas = nn.ParameterDict({_key(name): torch.zeros(()) for name in itertools.chain(*self._nodes(run))})
        optimiser = torch.optim.Adam(
            [{"params": list(betas.values())}],
            lr=self.architecture_rate,
            betas=(0.5, 0.999),
            weight_decay=self.architecture_decay,
        )
        return {"betas": betas, "optimiser": optimiser}

    def mixture(self, run: GradientRun, logits: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """softmax(alpha), times the edge's share of its node (equations 2 and 3)."""
        weights = super().mixture(run, logits, progress)
        for names in self._nodes(run):
            shares = torch.stack([run.extra["betas"][_key(name)] for name in names]).softmax(0)
            weights.update({name: weights[name] * share for name, share in zip(names, shares, strict=True)})
        return weights

    def step(self, run: GradientRun, train: Batch, validation: Batch, progress: float, searching: bool) -> Tensor:
        if searching:
            self._descend(run, validation, progress)
        return run.descend_weights(run.task_loss(train, detached(self.mixture(run, run.logits, progress))))

    def _descend(self, run: GradientRun, batch: Batch, progress: float) -> None:
        """One step of logits and betas."""
        betas = list(run.extra["betas"].values())
        loss = run.loss(batch, self.mixture(run, run.logits, progress))
        gradients = torch.autograd.grad(loss, [*run.logits.values(), *betas], allow_unused=True, materialize_grads=True)
        for beta, gradient in zip(betas, gradients[len(run.logits) :], strict=True):
            beta.grad = gradient
        run.extra["optimiser"].step()
        run.apply_logit_gradients(dict(zip(run.logits, gradients, strict=False)))

    def _nodes(self, run: GradientRun) -> list[list[str]]:
        """The searched edges that lead to each node of the cells, by the names of their choices."""
        nodes: dict[tuple[str, ...], dict[int, list[str]]] = {}
        for place in run.relaxed.places if self.edge_normalisation else ():
            if place.cell is not None and place.choices not in nodes:
                into = nodes.setdefault(place.choices, {})
                for (_, node), name in zip(place.cell.edges, place.choices, strict=True):
                    if name in run.logits:
                        into.setdefault(node, []).append(name)
        return [names for into in nodes.values() for names in into.values()]


def partial_channels(parts: int, x: Tensor, weights: Tensor, layers: Sequence[Runner]) -> Tensor:
    """The first 1/parts of the channels mixed, the others handed on, all shuffled; a `Mix` but for ``parts``.

    The weights of an edge add up to its share of the node, which both halves are multiplied by.

    Raises:
        InvalidValueError: the channels of a cell cannot be divided by ``parts``.
    """
    if not all(isinstance(layer, EdgeRunner) for layer in layers):
        return weighted_sum(x, weights, layers)
    channels = x.shape[1]
    if channels % parts:
        raise InvalidValueError(
            f"`parts` must divide the channels of every cell, but got {parts} and a cell of {channels}."
        )
    mixed, rest = x[:, : channels // parts], x[:, channels // parts :]
    y = weighted_sum(mixed, weights, layers)
    if y.shape[2:] != x.shape[2:]:
        rest = functional.max_pool2d(rest, 2, 2)
    y = torch.cat([y, weights.sum().to(x.device) * rest], 1)  # (B, C, H, W)
    return functional.channel_shuffle(y, parts)


def _key(name: str) -> str:
    """A choice's name as that of a parameter, which must have no dot."""
    return name.replace(".", "_")

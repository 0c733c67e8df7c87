"""Few-shot search by gradient matching: what trains the shared weights into different directions gets weights of its
own.

Hu et al., "Generalizing Few-Shot NAS with Gradient Matching", ICLR 2022, arXiv:2203.15207. Two values of a choice suit
one set of weights if the gradients that they give to what both use point the same way. The cosine of the angle between
them is averaged over batches and random networks that differ in that choice alone. Of every choice the values are cut
into two halves such that gradients across the cut agree least, and the choice of the best cut divides the space. The
parts begin with the weights of the whole (no restart), and each can be divided again by a later phase.
"""

from __future__ import annotations

import fnmatch
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.supernet.region import Region
from nas.supernet.supernet import Part, Supernet
from search_spaces.architecture import Architecture
from search_spaces.base.errors import InvalidValueError
from search_spaces.space import SearchSpace

MOST_VALUES = 16
"""Values of a choice whose cuts are tried one by one: 6,435 of them."""

LossOf = Callable[[Architecture], Tensor]
"""Loss of a network on a batch, with gradients."""


@dataclass(frozen=True)
class GradientMatching:
    """Division of each part of the space in two, by the choice whose values disagree most.

    Args:
        choices: name or pattern of those that may divide; only choices that always matter do.
        batches: that gradients are compared on, each with another network.
    """

    choices: str = "*"
    batches: int = 8

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise InvalidValueError(f"`batches` of a division must be at least 1, but got {self.batches}.")

    def columns(self, space: SearchSpace) -> list[int]:
        """Columns of the choices that may divide.

        Raises:
            InvalidValueError: none.
        """
        found = [
            column
            for column, choice in enumerate(space.choices)
            if choice.active_when is None
            and 2 <= len(choice.values) <= MOST_VALUES
            and fnmatch.fnmatchcase(choice.name, self.choices)
        ]
        if not found:
            raise InvalidValueError(
                f"No choice of space {space.name!r} that fits {self.choices!r} always matters and has 2 to "
                f"{MOST_VALUES} values, so that nothing can be divided. Give another pattern as `choices`."
            )
        return found

    def divide(
        self,
        supernet: Supernet,
        region: Region,
        losses: Iterator[LossOf],
        rng: np.random.Generator,
        mean: Callable[[Tensor], Tensor] = lambda values: values,
    ) -> list[tuple[int, Part]]:
        """Parts to divide a supernet into, as `Supernet.divided` takes them; a part of which no choice is left stays.

        Args:
            supernet: trained for a while.
            region: that networks are drawn from.
            losses: losses on one batch after the other.
            rng: draws networks.
            mean: of a tensor over all processes.
        """
        found: list[tuple[int, Part]] = []
        for number, part in enumerate(supernet.parts):
            best: tuple[float, Part, Part] | None = None
            for column in self.columns(supernet.space):
                choice = supernet.space.choices[column]
                values = part.get(choice.name, choice.values)
                if len(values) < 2:
                    continue
                distances = mean(self.distances(supernet, region, number, column, losses, rng)).cpu().numpy()
                score, (first, second) = best_cut(distances)
                halves = [{**part, choice.name: tuple(values[i] for i in half)} for half in (first, second)]
                if best is None or score > best[0]:
                    best = (score, halves[0], halves[1])
            found += [(number, part)] if best is None else [(number, best[1]), (number, best[2])]
        return found

    def distances(
        self,
        supernet: Supernet,
        region: Region,
        part: int,
        column: int,
        losses: Iterator[LossOf],
        rng: np.random.Generator,
    ) -> Tensor:
        """Mean of 1 - cosine of the gradients of each two values of a choice in a part of the space, (values, values);
        0 where no weights ever have both."""
        space, values_in = supernet.space, supernet.parts[part]
        choice = space.choices[column]
        genes = [choice.values.index(value) for value in values_in.get(choice.name, choice.values)]
        weights = [one for one in supernet.weights_of(part).parameters() if one.requires_grad]
        found = []
        for loss_of in itertools.islice(losses, self.batches):
            row = _drawn(region, values_in, rng)
            gradients = []
            for gene in genes:
                row[column] = gene
                loss = loss_of(Architecture(space, row))
                gradients.append(torch.autograd.grad(loss, weights, allow_unused=True))
            distances = torch.zeros(len(genes), len(genes), dtype=torch.float64)
            for i, j in itertools.combinations(range(len(genes)), 2):
                distances[i, j] = distances[j, i] = 1 - _cosine(gradients[i], gradients[j])
            found.append(distances)
        return torch.stack(found).nanmean(0).nan_to_num(0.0).to(weights[0].device)


def _drawn(region: Region, part: Part, rng: np.random.Generator) -> NDArray[np.int16]:
    """Genes of a random network of a region, put into a part; not canonical, so that other values may follow."""
    space = region.space
    row: NDArray[np.int16] = region.rows(1, rng)[0]
    for name, values in part.items():
        row[space.index[name]] = space.choices[space.index[name]].values.index(values[int(rng.integers(len(values)))])
    return row


def _cosine(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> float:
    """Cosine of the angle between two gradients, over the weights that have both; NaN where there is none."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    product = sum(float((a * b).sum(dtype=torch.float64)) for a, b in pairs)
    squares = [sum(float(pair[i].square().sum(dtype=torch.float64)) for pair in pairs) for i in (0, 1)]
    return product / (squares[0] * squares[1]) ** 0.5 if min(squares) > 0 else math.nan


def best_cut(distances: NDArray[np.float64]) -> tuple[float, tuple[list[int], list[int]]]:
    """Largest mean distance across a cut into two halves, of equal size give or take one, and the halves.

    Args:
        distances: between each two values, (n, n), symmetric; n at least 2.
    """
    n = len(distances)
    best: tuple[float, tuple[list[int], list[int]]] | None = None
    for half in itertools.combinations(range(n), n // 2):
        if 2 * len(half) == n and 0 not in half:
            continue  # the other half of one that was tried
        first, second = list(half), [i for i in range(n) if i not in half]
        score = float(distances[np.ix_(first, second)].mean())
        if best is None or score > best[0]:
            best = (score, (first, second))
    assert best is not None
    return best

"""The mean of a position table while choices are still probabilities: what a differentiable search descends.

Each choice takes its values independently, and the prediction is the mean over the networks that come out (Cai et al.,
"ProxylessNAS", ICLR 2019, and Wu et al., "FBNet", CVPR 2019, have it for blocks that are independent). No network needs
to be drawn: the mean of a sum is the sum of means, and a position depends on few choices::

    mean = sum over positions, sum over what their choices can be: value * product of the probabilities

A choice that does not matter has the gene 0, whatever was drawn for it. So a position is enumerated over the choices
that it depends on and those that decide whether these matter, and its value is that of the canonical row.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from torch import Tensor

SUM_TOLERANCE = 1e-2
"""Difference from 1 that the sum of a choice's probabilities may have: those in half precision do."""


class Expectation:
    """The mean of a sum over positions, a multilinear function of probabilities; built once per table.

    Args:
        space: of the table.
        values: one per index of `SearchSpace.position_index`; inf for a layer that the device cannot run.
    """

    def __init__(self, space: SearchSpace, values: NDArray[np.float64]) -> None:
        import torch

        self.space = space
        starts = np.concatenate(([0], np.cumsum(space.cardinalities)))
        groups = positions_by_choices(space)
        width = max(map(len, groups))
        factors, sums = [], []
        for columns, positions in groups.items():
            genes = assignments(space, columns)
            places = np.full((len(genes), width), starts[-1])  # behind all probabilities stands a 1
            places[:, : len(columns)] = starts[list(columns)] + genes[:, columns]
            factors.append(places)
            index = space.position_index(space.canonical(genes))[:, positions]  # (rows, positions)
            sums.append(values[index].sum(1))
        total = np.concatenate(sums)
        self._places = torch.from_numpy(np.concatenate(factors).T.copy())  # (width, rows)
        self._values = torch.from_numpy(np.where(np.isfinite(total), total, 0.0))  # (rows,)
        self._failing = torch.from_numpy(np.flatnonzero(~np.isfinite(total)))
        self._choices = torch.from_numpy(np.repeat(np.arange(len(space.choices)), space.cardinalities))

    def __call__(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """The mean, a scalar of the probabilities' dtype; see `Differentiable.relaxed`."""
        import torch

        given = torch.cat(self._in_order(probabilities))
        if (self._values.dtype, self._values.device) != (given.dtype, given.device):
            self._values = self._values.to(given)
            self._places, self._failing, self._choices = (
                indices.to(given.device) for indices in (self._places, self._failing, self._choices)
            )
        self._check(given.detach())
        factors = torch.cat([given, given.new_ones(1)])
        weights = given.new_ones(len(self._values))
        for places in self._places:
            weights = weights * factors.index_select(0, places)
        mean = weights @ self._values
        fails = bool((weights.detach()[self._failing] > 0).any())  # inf * 0 would be NaN
        return mean + torch.inf if fails else mean

    def _in_order(self, probabilities: Mapping[str, Tensor]) -> list[Tensor]:
        unknown = [name for name in probabilities if name not in self.space.index]
        if unknown:
            raise InvalidValueError(f"Space {self.space.name!r} has no choice {unknown[0]!r}.")
        for choice in self.space.choices:
            shape = tuple(probabilities[choice.name].shape) if choice.name in probabilities else "none"
            if shape != (len(choice.values),):
                raise InvalidValueError(
                    f"Choice {choice.name!r} needs probabilities of shape ({len(choice.values)},), but got {shape}."
                )
        return [probabilities[choice.name] for choice in self.space.choices]

    def _check(self, given: Tensor) -> None:
        sums = given.new_zeros(len(self.space.choices)).index_add(0, self._choices, given)
        if not bool((given >= 0).all() & ((sums - 1).abs() <= SUM_TOLERANCE).all()):  # false for NaN, too
            raise InvalidValueError(
                "Probabilities must be >= 0 and those of a choice add up to 1; a softmax of logits does."
            )


def positions_by_choices(space: SearchSpace) -> dict[tuple[int, ...], list[int]]:
    """Columns of the choices that positions depend on, also through what makes a choice matter -> these positions."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for p, position in enumerate(space.positions):
        columns: set[int] = set()
        waiting = [space.index[name] for name in position.depends_on]
        while waiting:
            column = waiting.pop()
            columns.add(column)
            condition = space.choices[column].active_when
            if condition is not None:
                waiting.append(space.index[condition.choice])
        groups.setdefault(tuple(sorted(columns)), []).append(p)
    return groups


def assignments(space: SearchSpace, columns: tuple[int, ...]) -> Genes:
    """All that these choices can be, all others at 0, shape (rows, choices)."""
    listed = list(itertools.product(*(range(int(space.cardinalities[column])) for column in columns)))
    genes = np.zeros((len(listed), len(space.choices)), np.int16)
    genes[:, columns] = np.array(listed, np.int16).reshape(len(listed), len(columns))
    return genes

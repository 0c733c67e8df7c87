"""Means, sums and maxima over axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from search_spaces.base.errors import InvalidValueError
from search_spaces.ops.movement import axis_of
from search_spaces.program import Op, Shape

Reduction = Literal["mean", "sum", "max"]


@dataclass(frozen=True)
class Reduce(Op):
    """Mean, sum or maximum over some axes."""

    kind: Reduction
    axes: tuple[int, ...]
    keep: bool = False
    """True: the axes stay, with extent 1."""

    def over(self, rank: int) -> tuple[int, ...]:
        """Axes counted from the front, in order.

        Raises:
            InvalidValueError: an axis that there is not, twice the same, or none.
        """
        found = tuple(sorted({axis_of(axis, rank, f"A {self.kind}") for axis in self.axes}))
        if not found or len(found) < len(self.axes):
            raise InvalidValueError(f"A {self.kind} goes over axes that are given once each, but got {self.axes}.")
        return found

    def shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        axes = self.over(len(shape))
        if len(axes) == len(shape) and not self.keep:
            raise InvalidValueError(f"A {self.kind} over all axes of {shape} needs keep=True: a tensor has an axis.")
        kept = ((1 if i in axes else n) for i, n in enumerate(shape) if self.keep or i not in axes)
        return tuple(kept)

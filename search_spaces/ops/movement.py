"""Operators that only move values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from search_spaces.base.errors import InvalidValueError
from search_spaces.program import Op, Shape, Traced


def axis_of(axis: int, rank: int, what: str) -> int:
    """Number of an axis, counted from the front; axes have no batch, and negative ones count from the end.

    Raises:
        InvalidValueError: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise InvalidValueError(f"{what} needs an axis in {-rank}..{rank - 1} (the batch is none), but got {axis}.")
    return axis % rank


@dataclass(frozen=True)
class Shuffle(Op):
    """Channel c of C goes to c // (C / groups) + groups * (c % (C / groups)): each group is dealt out to all groups
    (ShuffleNet, arXiv:1707.01083)."""

    groups: int

    def shape(self, *inputs: Shape) -> Shape:
        if inputs[0][0] % self.groups:
            raise InvalidValueError(f"A shuffle of {inputs[0][0]} channels needs a divisor of it, not {self.groups}.")
        return inputs[0]


@dataclass(frozen=True)
class Concat(Op):
    """Tensors one after the other along an axis."""

    axis: int = 0

    arity: ClassVar[int | None] = None

    def shape(self, *inputs: Shape) -> Shape:
        axis = axis_of(self.axis, len(inputs[0]), "A concatenation")
        for shape in inputs[1:]:
            if len(shape) != len(inputs[0]) or any(
                m != n for i, (m, n) in enumerate(zip(shape, inputs[0], strict=True)) if i != axis
            ):
                raise InvalidValueError(
                    f"A concatenation needs shapes that are equal but for axis {axis}, but got {inputs[0]} and {shape}."
                )
        return (*inputs[0][:axis], sum(shape[axis] for shape in inputs), *inputs[0][axis + 1 :])


@dataclass(frozen=True)
class Slice(Op):
    """Entries ``start``, ``start + step``, ... before ``stop`` of an axis."""

    axis: int
    start: int
    stop: int
    step: int = 1

    def shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        axis = axis_of(self.axis, len(shape), "A slice")
        if not (0 <= self.start < self.stop <= shape[axis] and self.step >= 1):
            raise InvalidValueError(
                f"A slice of axis {axis} of {shape} needs 0 <= start < stop <= {shape[axis]} and a positive step, but "
                f"got start={self.start}, stop={self.stop}, step={self.step}."
            )
        return (*shape[:axis], len(range(self.start, self.stop, self.step)), *shape[axis + 1 :])


def split(x: Traced, sizes: Sequence[int], axis: int = 0) -> tuple[Traced, ...]:
    """Slices of the given sizes, one after the other along an axis.

    Raises:
        InvalidValueError: sizes that do not add up to the axis.
    """
    extent = x.shape[axis_of(axis, len(x.shape), "A split")]
    if sum(sizes) != extent:
        raise InvalidValueError(f"A split of {extent} entries needs sizes that add up to it, but got {list(sizes)}.")
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return tuple(Slice(axis, end - size, end)(x) for size, end in zip(sizes, ends, strict=True))

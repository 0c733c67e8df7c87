"""Sums, products, factors and zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from search_spaces.base.errors import InvalidValueError
from search_spaces.program import Op, Shape


@dataclass(frozen=True)
class Add(Op):
    """Sum of two tensors; the second may be of extent 1 along some axes."""

    arity: ClassVar[int | None] = 2
    in_place: ClassVar[bool] = True
    keeps_channels: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        a, b = inputs
        if a != b and not _broadcasts(a, b):
            raise InvalidValueError(f"A sum needs two tensors of one shape, but got {a} and {b} (the second may be 1).")
        return a


@dataclass(frozen=True)
class Multiply(Op):
    """Product of two tensors; the second may be of extent 1 along some axes."""

    arity: ClassVar[int | None] = 2
    in_place: ClassVar[bool] = True
    keeps_channels: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        a, b = inputs
        if not _broadcasts(a, b):
            raise InvalidValueError(f"A product needs a second factor of shape {a}, or 1 in its place, but got {b}.")
        return a


@dataclass(frozen=True)
class Scale(Op):
    """Product with a fixed number, such as 1 / sqrt(features) of attention."""

    factor: float

    in_place: ClassVar[bool] = True
    keeps_channels: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]


@dataclass(frozen=True)
class Zero(Op):
    """Zeros of the shape of the input."""

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def words_read(self, inputs: tuple[Shape, ...], output: Shape) -> tuple[int, ...]:
        return (0,)


def _broadcasts(a: Shape, b: Shape) -> bool:
    return len(a) == len(b) and all(m in (1, n) for n, m in zip(a, b, strict=True))

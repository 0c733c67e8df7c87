"""Sums, products and zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from search_spaces.base.errors import InvalidValueError
from search_spaces.program import Op, Shape


@dataclass(frozen=True)
class Add(Op):
    """Sum of two tensors of equal shape."""

    arity: ClassVar[int | None] = 2
    in_place: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        if inputs[0] != inputs[1]:
            raise InvalidValueError(f"A sum needs two tensors of one shape, but got {inputs[0]} and {inputs[1]}.")
        return inputs[0]


@dataclass(frozen=True)
class Multiply(Op):
    """Product of two tensors; the second may be of extent 1 along some axes."""

    arity: ClassVar[int | None] = 2
    in_place: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        a, b = inputs
        if len(a) != len(b) or any(m not in (1, n) for n, m in zip(a, b, strict=True)):
            raise InvalidValueError(f"A product needs a second factor of shape {a}, or 1 in its place, but got {b}.")
        return a


@dataclass(frozen=True)
class Zero(Op):
    """Zeros of the shape of the input."""

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

"""Products of two tensors and softmax: what attention is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from search_spaces.base.errors import InvalidValueError
from search_spaces.ops.movement import axis_of
from search_spaces.program import Op, Shape, elements


@dataclass(frozen=True)
class Matmul(Op):
    """Matrix product of two tensors, (..., M, K) and (..., K, N), for each entry of the axes before: (..., M, N)."""

    transposed: bool = False
    """True: the second is (..., N, K)."""

    arity: ClassVar[int | None] = 2
    linear: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        a, b = inputs
        if len(a) < 2 or len(a) != len(b) or a[:-2] != b[:-2] or a[-1] != b[-1 if self.transposed else -2]:
            second = "(..., N, K)" if self.transposed else "(..., K, N)"
            raise InvalidValueError(
                f"A matrix product needs (..., M, K) and {second} with equal axes before, but got {a} and {b}."
            )
        return (*a[:-1], b[-2 if self.transposed else -1])

    def macs(self, inputs: tuple[Shape, ...], output: Shape) -> int:
        return elements(output) * inputs[0][-1]


@dataclass(frozen=True)
class Softmax(Op):
    """Exponentials along an axis, divided by their sum."""

    axis: int = -1

    in_place: ClassVar[bool] = True
    keeps_channels: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        axis_of(self.axis, len(inputs[0]), "A softmax")
        return inputs[0]

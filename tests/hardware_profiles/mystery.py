"""An operator that only torch knows, and a layer with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from search_spaces.layers import Layer
from search_spaces.ops.convolution import Convolution
from search_spaces.program import Op, Shape, Traced, elements


@dataclass(frozen=True)
class Mystery(Op):
    """Each value squared."""

    linear: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def macs(self, inputs: tuple[Shape, ...], output: Shape) -> int:
        return elements(output)

    def to_torch(self, parameters: Sequence[Any], mode: Any, x: Any) -> Any:
        """Output, for torch."""
        return x * x


@dataclass(frozen=True)
class MysteryConv(Layer):
    """A convolution and what no device knows."""

    channels: int
    size: int

    @property
    def input_shape(self) -> Shape:
        return (self.channels, self.size, self.size)

    def define(self, x: Traced) -> Traced:
        return Mystery()(Convolution("conv", self.channels, 3)(x))

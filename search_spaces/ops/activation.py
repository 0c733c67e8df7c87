"""Element-wise activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from search_spaces.program import Op, Shape, Traced

Activation = Literal["none", "relu", "relu6", "h_swish", "h_sigmoid"]


@dataclass(frozen=True)
class Activate(Op):
    """Element-wise activation; "none" is no step at all."""

    kind: Activation

    in_place: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def __call__(self, *inputs: Traced) -> Traced:
        return inputs[0] if self.kind == "none" else super().__call__(*inputs)

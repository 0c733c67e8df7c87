"""Element-wise activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from search_spaces.program import Op, Parameter, Shape, Traced

Activation = Literal["none", "relu", "relu6", "h_swish", "h_sigmoid", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"]
"""Names of activations. SiLU is ``x * sigmoid(x)``; GELU is ``x * Phi(x)`` with the normal distribution function, and
``gelu_tanh`` its approximation by tanh (Hendrycks & Gimpel, arXiv:1606.08415, section 2)."""


@dataclass(frozen=True)
class Activate(Op):
    """Element-wise activation; "none" is no step at all."""

    kind: Activation

    in_place: ClassVar[bool] = True
    keeps_channels: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def __call__(self, *inputs: Traced) -> Traced:
        return inputs[0] if self.kind == "none" else super().__call__(*inputs)


@dataclass(frozen=True)
class LeakyRelu(Op):
    """Values below 0 are multiplied by a fixed slope."""

    slope: float = 0.01

    in_place: ClassVar[bool] = True
    keeps_channels: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]


@dataclass(frozen=True)
class PRelu(Op):
    """Values below 0 are multiplied by a learned slope per channel (He et al., arXiv:1502.01852, equation 1)."""

    name: str

    in_place: ClassVar[bool] = True
    keeps_channels: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def parameters(self, *inputs: Shape) -> tuple[Parameter, ...]:
        return (Parameter(f"{self.name}.weight", inputs[0][:1], "quarter", input_axis=0),)

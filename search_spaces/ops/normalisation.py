"""Normalisation by statistics of the tensor itself, equal in training and inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import Count, Positive
from search_spaces.ops.movement import axis_of
from search_spaces.program import Op, Parameter, Shape


@dataclass(frozen=True)
class LayerNorm(Op):
    """Values along an axis with mean 0 and variance 1, times a factor, plus an offset (Ba et al., arXiv:1607.06450,
    equation 4): the last axis of tokens, the channels of images with ``axis=0``."""

    name: str
    axis: int = -1
    eps: Positive = 1e-5
    """Number that is added to the variance."""

    in_place: ClassVar[bool] = True
    keeps_channels: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        axis_of(self.axis, len(inputs[0]), f"LayerNorm {self.name!r}")
        return inputs[0]

    def parameters(self, *inputs: Shape) -> tuple[Parameter, ...]:
        (shape,) = inputs
        extent, of_input = (shape[self.axis],), _input_axis(self.axis, shape)
        return (
            Parameter(f"{self.name}.weight", extent, "ones", input_axis=of_input),
            Parameter(f"{self.name}.bias", extent, "zeros", input_axis=of_input),
        )


@dataclass(frozen=True)
class RmsNorm(Op):
    """Values along an axis over their root mean square, times a factor (Zhang & Sennrich, arXiv:1910.07467, equation
    4)."""

    name: str
    axis: int = -1
    eps: Positive = 1e-6
    """Number that is added to the mean square."""

    in_place: ClassVar[bool] = True
    keeps_channels: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        axis_of(self.axis, len(inputs[0]), f"RmsNorm {self.name!r}")
        return inputs[0]

    def parameters(self, *inputs: Shape) -> tuple[Parameter, ...]:
        (shape,) = inputs
        of_input = _input_axis(self.axis, shape)
        return (Parameter(f"{self.name}.weight", (shape[self.axis],), "ones", input_axis=of_input),)


@dataclass(frozen=True)
class GroupNorm(Op):
    """Values of each group of channels, over all pixels, with mean 0 and variance 1, times a factor and plus an offset
    per channel (Wu & He, arXiv:1803.08494, equation 7)."""

    name: str
    groups: Count
    eps: Positive = 1e-5
    """Number that is added to the variance."""

    in_place: ClassVar[bool] = True
    keeps_channels: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs[0]) > 3:
            raise InvalidValueError(
                f"GroupNorm {self.name!r} takes (channels, height, width), (channels, length) or features, but got "
                f"{inputs[0]}; reshape it before."
            )
        if inputs[0][0] % self.groups:
            raise InvalidValueError(
                f"GroupNorm {self.name!r} needs channels that its groups divide, but got {inputs[0][0]} in "
                f"{self.groups} groups."
            )
        return inputs[0]

    def parameters(self, *inputs: Shape) -> tuple[Parameter, ...]:
        channels = inputs[0][:1]
        return (
            Parameter(f"{self.name}.weight", channels, "ones", input_axis=0),
            Parameter(f"{self.name}.bias", channels, "zeros", input_axis=0),
        )


def _input_axis(axis: int, shape: Shape) -> int | None:
    """Axis of a parameter along an axis of the input that is its channels."""
    return 0 if axis % len(shape) == 0 else None

"""Convolutions, over images or signals, and linear layers."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import Border, Count, Window
from search_spaces.ops.batch_norm import folded_norm, norm_parameters
from search_spaces.program import Arrays, Initial, Op, Parameter, Shape, elements

Extent = Window | tuple[Window, ...]
"""One number for all axes of an image or signal, or one per axis."""
Padding = Border | tuple[Border, ...]
"""Entries at the ends: one number, one per axis, or all before and then all behind, axis by axis."""


def per_axis(value: Extent | Padding, rank: int) -> Shape:
    """One number per axis.

    Raises:
        InvalidValueError: another number of them.
    """
    extents = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(extents) != rank:
        raise InvalidValueError(f"{rank} axes need one number or {rank}, but got {value}.")
    return extents


def not_spatial(what: str, shape: Shape) -> InvalidValueError:
    """Error of an operator over height and width, or length, that got something else."""
    return InvalidValueError(f"{what} takes (channels, height, width) or (channels, length), but got shape {shape}.")


def explicit_pads(padding: Padding, rank: int) -> tuple[tuple[int, int], ...]:
    """Padding (before, behind) of each axis, of one number, one per axis, or all before and then all behind.

    Raises:
        InvalidValueError: another number of them.
    """
    if isinstance(padding, int) or len(padding) == rank:
        return tuple((p, p) for p in per_axis(padding, rank))
    before_and_behind = per_axis(padding, 2 * rank)
    return tuple(zip(before_and_behind[:rank], before_and_behind[rank:], strict=True))


@dataclass(frozen=True)
class Convolution(Op):
    """Convolution over (channels, height, width) or (channels, length), with BatchNorm behind it or a bias."""

    name: str
    channels: Count
    """Channels of the output."""
    kernel: Extent = 1
    stride: Extent = 1
    groups: Count = 1
    norm: bool = True
    """True: BatchNorm follows, which devices run folded in."""
    bias: bool = True
    """True: without BatchNorm there is a bias."""
    padding: Padding | None = None
    """Zeros around the input: one number, one per axis, or all before and then all behind, axis by axis. None: as many
    as keep the size at stride 1 (kernel // 2)."""
    dilation: Extent = 1
    starts_silent: bool = False
    """True: the factors of BatchNorm begin with 0, so that a branch that ends here adds nothing at first (Goyal et al.,
    arXiv:1706.02677, section 5.1)."""

    linear: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        ((in_channels, *size),) = inputs
        if len(size) not in (1, 2):
            raise not_spatial(f"Convolution {self.name!r}", inputs[0])
        if in_channels % self.groups or self.channels % self.groups:
            raise InvalidValueError(
                f"Convolution {self.name!r}: {in_channels} -> {self.channels} in {self.groups} groups."
            )
        kernel, stride = self.kernel, self.stride
        if self.padding is None and self.dilation == 1 and isinstance(kernel, int) and isinstance(stride, int):
            beyond = 2 * (kernel // 2) - kernel  # the usual case, which is met thousands of times
            return (self.channels, *[(n + beyond) // stride + 1 for n in size])
        rank = len(size)
        kernels, strides, dilations = (per_axis(v, rank) for v in (self.kernel, self.stride, self.dilation))
        extents = (
            (n + before + behind - d * (k - 1) - 1) // s + 1
            for n, (before, behind), k, s, d in zip(size, self.pads(rank), kernels, strides, dilations, strict=True)
        )
        return (self.channels, *extents)

    def pads(self, rank: int) -> tuple[tuple[int, int], ...]:
        """Zeros (before, behind) of each axis."""
        kernels, dilations = per_axis(self.kernel, rank), per_axis(self.dilation, rank)
        if self.padding is None:
            return tuple((d * (k // 2),) * 2 for k, d in zip(kernels, dilations, strict=True))
        return explicit_pads(self.padding, rank)

    def depthwise(self, in_channels: int) -> bool:
        """True if each channel has a filter of its own."""
        return self.groups == in_channels == self.channels and self.groups > 1

    def weight_shape(self, *inputs: Shape) -> Shape:
        """(channels, input channels of a group, *kernel)."""
        ((in_channels, *size),) = inputs
        return (self.channels, in_channels // self.groups, *per_axis(self.kernel, len(size)))

    def macs(self, inputs: tuple[Shape, ...], output: Shape) -> int:
        return elements(output) * elements(self.weight_shape(*inputs)[1:])

    def parameters(self, *inputs: Shape) -> tuple[Parameter, ...]:
        return _parameters(self, *inputs)

    def inference(self, *inputs: Shape) -> Op:
        return dataclasses.replace(self, norm=False, bias=True)

    def folded(self, arrays: Arrays, inputs: tuple[Shape, ...], norm_eps: float) -> dict[str, NDArray[np.float32]]:
        """``w' = w * gamma / sqrt(var + eps)``, ``b' = beta - mean * gamma / sqrt(var + eps)``, in float64."""
        if not self.norm:
            bias = arrays[f"{self.name}.bias"] if self.bias else np.zeros(self.channels, np.float32)
            return _pair(self.name, arrays[f"{self.name}.weight"], bias)
        scale, offset = folded_norm(arrays, f"{self.name}.norm", norm_eps)
        weight = arrays[f"{self.name}.conv.weight"].astype(np.float64)
        return _pair(self.name, weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), offset)


@functools.cache  # thousands of layers share their convolutions
def _parameters(op: Convolution, *inputs: Shape) -> tuple[Parameter, ...]:
    shape, depthwise = op.weight_shape(*inputs), op.depthwise(inputs[0][0])
    name = f"{op.name}.conv" if op.norm else op.name
    weight = Parameter(
        f"{name}.weight",
        shape,
        fan_in=elements(shape[1:]),
        groups=op.groups,
        kernel_axes=len(shape) - 2,
        input_axis=1 if op.groups == 1 else 0 if depthwise else None,
    )
    if op.norm:
        factors: Initial = "zeros" if op.starts_silent else "ones"
        return (weight, *norm_parameters(f"{op.name}.norm", op.channels, of_input=depthwise, factors=factors))
    of_input = 0 if depthwise else None
    bias = Parameter(f"{name}.bias", (op.channels,), "bias", elements(shape[1:]), input_axis=of_input)
    return (weight, bias) if op.bias else (weight,)


@dataclass(frozen=True)
class Linear(Op):
    """Fully connected layer over the last axis; of (C, 1, 1), which global pooling gives, it is over the channels."""

    name: str
    features: Count
    bias: bool = True

    linear: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        return (*self._rows(*inputs), self.features)

    def width(self, *inputs: Shape) -> int:
        """Features of the input."""
        (shape,) = inputs
        return shape[-1] if self._rows(shape) else math.prod(shape)

    def _rows(self, *inputs: Shape) -> Shape:
        """Axes before the features; an image or signal of one pixel has none."""
        (shape,) = inputs
        if len(shape) > 3 or (len(shape) == 3 and shape[1:] != (1, 1)):
            raise InvalidValueError(
                f"Linear layer {self.name!r} takes features, (tokens, features) or (channels, 1, 1), but got {shape}."
            )
        return shape[:-1] if len(shape) == 2 else ()

    def macs(self, inputs: tuple[Shape, ...], output: Shape) -> int:
        return elements(output) * self.width(*inputs)

    def parameters(self, *inputs: Shape) -> tuple[Parameter, ...]:
        width = self.width(*inputs)
        channels = None if self._rows(*inputs) else 1
        weight = Parameter(f"{self.name}.weight", (self.features, width), fan_in=width, input_axis=channels)
        bias = Parameter(f"{self.name}.bias", (self.features,), "bias", width)
        return (weight, bias) if self.bias else (weight,)

    def inference(self, *inputs: Shape) -> Op:
        return dataclasses.replace(self, bias=True)

    def folded(self, arrays: Arrays, inputs: tuple[Shape, ...], norm_eps: float) -> dict[str, NDArray[np.float32]]:
        bias = arrays[f"{self.name}.bias"] if self.bias else np.zeros(self.features, np.float32)
        return _pair(self.name, arrays[f"{self.name}.weight"], bias)


@dataclass(frozen=True)
class BatchNorm(Op):
    """BatchNorm that no convolution can take up: after training a factor and an offset per channel."""

    name: str

    keeps_channels: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs[0]) not in (2, 3):
            raise not_spatial(f"BatchNorm {self.name!r}", inputs[0])
        return inputs[0]

    def parameters(self, *inputs: Shape) -> tuple[Parameter, ...]:
        return norm_parameters(self.name, inputs[0][0], of_input=True)

    def inference(self, *inputs: Shape) -> Op:
        channels = inputs[0][0]
        return Convolution(self.name, channels, groups=channels, norm=False)

    def folded(self, arrays: Arrays, inputs: tuple[Shape, ...], norm_eps: float) -> dict[str, NDArray[np.float32]]:
        """Weight and bias of a 1x1 convolution with one group per channel."""
        scale, offset = folded_norm(arrays, self.name, norm_eps)
        weight = scale.reshape(-1, *[1] * len(inputs[0]))
        return {f"{self.name}.weight": weight.astype(np.float32), f"{self.name}.bias": offset.astype(np.float32)}


def _pair(name: str, weight: NDArray[np.floating], bias: NDArray[np.floating]) -> dict[str, NDArray[np.float32]]:
    return {f"{name}.weight": weight.astype(np.float32), f"{name}.bias": bias.astype(np.float32)}

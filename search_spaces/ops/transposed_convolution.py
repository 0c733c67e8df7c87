"""Transposed convolutions, which enlarge images and signals."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import Count
from search_spaces.ops.batch_norm import folded_norm, norm_parameters
from search_spaces.ops.convolution import Extent, Padding, not_spatial, per_axis
from search_spaces.program import Arrays, Op, Parameter, Shape, elements


@dataclass(frozen=True)
class TransposedConvolution(Op):
    """Transposed convolution over (channels, height, width) or (channels, length), with BatchNorm behind it or a bias:
    the gradient of a convolution as a layer (Dumoulin & Visin, arXiv:1603.07285, section 4)."""

    name: str
    channels: Count
    """Channels of the output."""
    kernel: Extent = 2
    stride: Extent = 2
    groups: Count = 1
    norm: bool = True
    """True: BatchNorm follows, which devices run folded in."""
    bias: bool = True
    """True: without BatchNorm there is a bias."""
    padding: Padding | None = None
    """Entries that are cut off the output at each end, one number or one per axis. None: such that the output is the
    input times the stride, which an even kernel cannot give at stride 1."""
    output_padding: Padding = 0
    """Entries that are added behind, less than the stride; without `padding` they follow, and none can be stated."""
    dilation: Extent = 1

    linear: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        ((in_channels, *size),) = inputs
        if len(size) not in (1, 2):
            raise not_spatial(f"Transposed convolution {self.name!r}", inputs[0])
        if in_channels % self.groups or self.channels % self.groups:
            raise InvalidValueError(
                f"Transposed convolution {self.name!r}: {in_channels} -> {self.channels} in {self.groups} groups."
            )
        kernels, strides, dilations = (per_axis(v, len(size)) for v in (self.kernel, self.stride, self.dilation))
        extents = (
            (n - 1) * s - 2 * cut + d * (k - 1) + 1 + more
            for n, s, k, d, (cut, more) in zip(size, strides, kernels, dilations, self.cuts(len(size)), strict=True)
        )
        return (self.channels, *extents)

    def cuts(self, rank: int) -> tuple[tuple[int, int], ...]:
        """Entries that each axis loses at both ends, and that it gains behind.

        Raises:
            InvalidValueError: more entries behind than a stride or dilation gives, or some without `padding`.
        """
        kernels, strides, dilations = (per_axis(v, rank) for v in (self.kernel, self.stride, self.dilation))
        if self.padding is None:
            if any(per_axis(self.output_padding, rank)):
                raise InvalidValueError(
                    f"Transposed convolution {self.name!r} has an `output_padding` of {self.output_padding}, which "
                    "needs a `padding`; without both the output is the input times the stride."
                )
            beyond = [d * (k - 1) + 1 - s for k, s, d in zip(kernels, strides, dilations, strict=True)]
            found = tuple((-(-n // 2), n % 2) if n > 0 else (0, -n) for n in beyond)
        else:
            found = tuple(zip(per_axis(self.padding, rank), per_axis(self.output_padding, rank), strict=True))
        if any(more >= max(s, d) and more for (_, more), s, d in zip(found, strides, dilations, strict=True)):
            raise InvalidValueError(
                f"Transposed convolution {self.name!r} needs an `output_padding` below its stride, but cuts and adds "
                f"{found}; an even kernel at stride 1 needs a `padding`."
            )
        return found

    def depthwise(self, in_channels: int) -> bool:
        """True if each channel has a filter of its own."""
        return self.groups == in_channels == self.channels and self.groups > 1

    def weight_shape(self, *inputs: Shape) -> Shape:
        """(input channels, output channels of a group, *kernel), as torch and ONNX have it."""
        ((in_channels, *size),) = inputs
        return (in_channels, self.channels // self.groups, *per_axis(self.kernel, len(size)))

    def macs(self, inputs: tuple[Shape, ...], output: Shape) -> int:
        return elements(inputs[0]) * elements(self.weight_shape(*inputs)[1:])

    def parameters(self, *inputs: Shape) -> tuple[Parameter, ...]:
        shape = self.weight_shape(*inputs)
        fan_in = elements(shape[1:])  # torch's own, though a sum has other terms
        name = f"{self.name}.conv" if self.norm else self.name
        depthwise = self.depthwise(inputs[0][0])
        weight = Parameter(
            f"{name}.weight",
            shape,
            fan_in=fan_in,
            groups=self.groups,
            kernel_axes=len(shape) - 2,
            input_axis=0 if self.groups == 1 or depthwise else None,
        )
        if self.norm:
            return (weight, *norm_parameters(f"{self.name}.norm", self.channels, of_input=depthwise))
        of_input = 0 if depthwise else None
        bias = Parameter(f"{name}.bias", (self.channels,), "bias", fan_in, input_axis=of_input)
        return (weight, bias) if self.bias else (weight,)

    def inference(self, *inputs: Shape) -> Op:
        return dataclasses.replace(self, norm=False, bias=True)

    def folded(self, arrays: Arrays, inputs: tuple[Shape, ...], norm_eps: float) -> dict[str, NDArray[np.float32]]:
        """Weight and bias as those of `Convolution.folded`, whose channels are the second axis within each group."""
        if self.norm:
            scale, offset = folded_norm(arrays, f"{self.name}.norm", norm_eps)
            weight = arrays[f"{self.name}.conv.weight"].astype(np.float64)
            in_groups = weight.reshape(self.groups, -1, *weight.shape[1:])  # (groups, I / groups, O / groups, *kernel)
            scales = scale.reshape(self.groups, 1, -1, *[1] * (weight.ndim - 2))
            weight = (in_groups * scales).reshape(weight.shape)
        else:
            weight = arrays[f"{self.name}.weight"]
            offset = arrays[f"{self.name}.bias"] if self.bias else np.zeros(self.channels)
        return {f"{self.name}.weight": weight.astype(np.float32), f"{self.name}.bias": offset.astype(np.float32)}

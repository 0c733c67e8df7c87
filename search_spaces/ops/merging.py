"""Operators of two forms: branches that are trained, and the one operator that they merge into for deployment.

Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021, arXiv:2101.03697, section 3.3.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import Count, Parts
from search_spaces.ops.batch_norm import folded_norm, norm_parameters
from search_spaces.ops.convolution import BatchNorm, Convolution, Extent, Linear, per_axis
from search_spaces.program import Arrays, Op, Parameter, Shape


@dataclass(frozen=True)
class Branch:
    """Summand of a `RepConvolution`."""

    op: Convolution | BatchNorm | None
    """Function of the input; None: the input itself."""
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class RepConvolution(Op):
    """Convolution that is trained as the sum of branches over one input, and deployed as one convolution with a bias.

    The branches are k x k convolutions with BatchNorm, a 1x1 convolution and, where the output has the shape of the
    input, the input. With one of each and BatchNorm behind all it is RepVGG's, with several k x k convolutions
    MobileOne's (Vasu et al., CVPR 2023, arXiv:2206.04040), with a bare input, a 1x1 convolution with a bias and
    BatchNorm behind the sum RepViT's (Wang et al., CVPR 2024, arXiv:2307.09283).
    """

    name: str
    channels: Count
    """Channels of the output."""
    kernel: Extent = 3
    """Odd extents."""
    stride: Extent = 1
    groups: Count = 1
    branches: Parts = 1
    """Number of k x k convolutions."""
    pointwise: Literal["none", "norm", "bias"] = "norm"
    """Form of the 1x1 branch: with BatchNorm, or with a bias; "none": there is no such branch."""
    identity: Literal["none", "norm", "bare"] = "norm"
    """BatchNorm of the input, or the input itself; "none": there is no such branch."""
    norm: bool = False
    """True: BatchNorm follows the sum."""

    linear: ClassVar[bool] = True

    def deployed(self) -> Convolution:
        return Convolution(self.name, self.channels, self.kernel, self.stride, self.groups, norm=False)

    def shape(self, *inputs: Shape) -> Shape:
        kernels = (self.kernel,) if isinstance(self.kernel, int) else self.kernel
        if any(k % 2 == 0 for k in kernels):
            raise InvalidValueError(f"A convolution of merging branches has odd kernels, but got {self}.")
        return self.deployed().shape(*inputs)

    def summands(self, *inputs: Shape) -> tuple[Branch, ...]:
        """Branches over an input of a shape."""
        return _summands(self, *inputs)

    def macs(self, inputs: tuple[Shape, ...], output: Shape) -> int:
        return sum(branch.op.macs(inputs, output) for branch in self.summands(*inputs) if branch.op is not None)

    def parameters(self, *inputs: Shape) -> tuple[Parameter, ...]:
        own = tuple(parameter for branch in self.summands(*inputs) for parameter in branch.parameters)
        of_input = self.deployed().depthwise(inputs[0][0])
        return (*own, *norm_parameters(f"{self.name}.norm", self.channels, of_input=of_input)) if self.norm else own

    def folded(self, arrays: Arrays, inputs: tuple[Shape, ...], norm_eps: float) -> dict[str, NDArray[np.float32]]:
        """The sum of the branches' kernels, each behind its BatchNorm, in float64: a 1x1 kernel stands in the centre of
        the k x k one, the input is a kernel that is 1 there for the channel itself."""
        ((in_channels, *size),) = inputs
        kernel = per_axis(self.kernel, len(size))
        weight = np.zeros((self.channels, in_channels // self.groups, *kernel))
        bias = np.zeros(self.channels)
        at_centre = weight.reshape(*weight.shape[:2], -1)[..., math.prod(kernel) // 2]  # a view: (channels, inputs)
        own = np.arange(self.channels)
        of_itself = own, own % (in_channels // self.groups)
        for branch in self.summands(*inputs):
            if branch.op is None:
                at_centre[of_itself] += 1
            elif isinstance(branch.op, BatchNorm):
                scale, offset = folded_norm(arrays, branch.op.name, norm_eps)
                at_centre[of_itself] += scale
                bias += offset
            else:
                behind: tuple[NDArray[np.float64], NDArray[np.float64]]
                if branch.op.norm:
                    values = arrays[f"{branch.op.name}.conv.weight"]
                    behind = folded_norm(arrays, f"{branch.op.name}.norm", norm_eps)
                else:
                    values = arrays[f"{branch.op.name}.weight"]
                    behind = np.ones(self.channels), arrays[f"{branch.op.name}.bias"].astype(np.float64)
                scaled = values.astype(np.float64) * behind[0].reshape(-1, *[1] * (values.ndim - 1))
                if branch.op.kernel == self.kernel:
                    weight += scaled
                else:
                    at_centre += scaled.reshape(scaled.shape[:2])
                bias += behind[1]
        if self.norm:
            scale, offset = folded_norm(arrays, f"{self.name}.norm", norm_eps)
            weight, bias = weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), bias * scale + offset
        return {f"{self.name}.weight": weight.astype(np.float32), f"{self.name}.bias": bias.astype(np.float32)}


@functools.cache  # read at each forward pass
def _summands(op: RepConvolution, *inputs: Shape) -> tuple[Branch, ...]:
    ops: list[Convolution | BatchNorm | None] = [
        Convolution(f"{op.name}.spatial{i}", op.channels, op.kernel, op.stride, op.groups)
        for i in range(1, op.branches + 1)
    ]
    if op.pointwise != "none":
        norm = op.pointwise == "norm"
        ops.append(Convolution(f"{op.name}.pointwise", op.channels, 1, op.stride, op.groups, norm=norm))
    if op.identity != "none" and op.shape(*inputs) == inputs[0] and op.stride in (1, (1,) * (len(inputs[0]) - 1)):
        ops.append(BatchNorm(f"{op.name}.identity") if op.identity == "norm" else None)
    return tuple(Branch(one, () if one is None else one.parameters(*inputs)) for one in ops)


@dataclass(frozen=True)
class NormLinear(Op):
    """Linear layer over BatchNorm of its input, which is deployed as one linear layer."""

    name: str
    features: Count

    linear: ClassVar[bool] = True

    def deployed(self) -> Linear:
        return Linear(self.name, self.features)

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs[0]) == 2:
            raise InvalidValueError(
                f"NormLinear {self.name!r} takes features or (channels, 1, 1), but got {inputs[0]}; state a norm and a "
                "linear layer of tokens by themselves."
            )
        return self.deployed().shape(*inputs)

    def macs(self, inputs: tuple[Shape, ...], output: Shape) -> int:
        return self.deployed().macs(inputs, output)

    def parameters(self, *inputs: Shape) -> tuple[Parameter, ...]:
        linear = Linear(f"{self.name}.linear", self.features)
        return (
            *norm_parameters(f"{self.name}.norm", linear.width(*inputs), of_input=True),
            *linear.parameters(*inputs),
        )

    def folded(self, arrays: Arrays, inputs: tuple[Shape, ...], norm_eps: float) -> dict[str, NDArray[np.float32]]:
        """``W' = W diag(scale)``, ``b' = b + W offset``, in float64."""
        scale, offset = folded_norm(arrays, f"{self.name}.norm", norm_eps)
        weight, bias = (arrays[f"{self.name}.linear.{part}"].astype(np.float64) for part in ("weight", "bias"))
        merged = {"weight": weight * scale, "bias": bias + weight @ offset}
        return {f"{self.name}.{part}": array.astype(np.float32) for part, array in merged.items()}

"""Programs in torch: one function per operator, over whatever tensors its parameters are.

The supernet passes slices of its shared weights (`nas.supernet.elastic`), a static network (`StaticNetwork`) its own.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Layer
from search_spaces.network import OUTPUT, Network
from search_spaces.ops.activation import Activate, Activation, LeakyRelu, PRelu
from search_spaces.ops.arithmetic import Add, Multiply, Scale, Zero
from search_spaces.ops.convolution import BatchNorm, Convolution, Linear, per_axis
from search_spaces.ops.learned import Embedding, Learned
from search_spaces.ops.matmul import Matmul, Softmax
from search_spaces.ops.merging import NormLinear, RepConvolution
from search_spaces.ops.movement import (
    Concat,
    DepthToSpace,
    Gather,
    Pad,
    Pick,
    Reshape,
    Shuffle,
    Slice,
    SpaceToDepth,
    Transpose,
    axis_of,
)
from search_spaces.ops.normalisation import GroupNorm, LayerNorm, RmsNorm
from search_spaces.ops.pooling import GlobalPool, Pool, PoolKind
from search_spaces.ops.reduction import Reduce, Reduction
from search_spaces.ops.resize import Resize
from search_spaces.ops.transposed_convolution import TransposedConvolution
from search_spaces.program import Form, Op, Parameter, Program, own_method

MOMENTUM = 0.1
"""Share of a batch in the running statistics of BatchNorm, torch's own."""

VECTOR = 16
"""Most float32 numbers that a processor computes with at once."""


@dataclass(frozen=True)
class Mode:
    """State in which operators run.

    Args:
        training: BatchNorm uses the statistics of the batch, and running ones follow them.
        norm_eps: number that BatchNorm adds to the variance.
        momentum: share of a batch in the running statistics; 0: they stay as they are.
        synchronised: statistics are those of the batches of all processes of `torch.distributed` together.
        lean: operators whose weights are not trained keep little for the backward pass.
    """

    training: bool = False
    norm_eps: float = 1e-5
    momentum: float = MOMENTUM
    synchronised: bool = False
    lean: bool = False


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "h_swish": functional.hardswish,
    "h_sigmoid": functional.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": functools.partial(functional.gelu, approximate="tanh"),
}


@functools.singledispatch
def run(op: Op, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    """Output of an operator, (B, *shape).

    Args:
        op: an operator.
        parameters: tensors of its `Op.parameters`, in their order.
        mode: for training or inference.
        inputs: (B, *shape) each.
    """
    y: Tensor = own_method(op, "to_torch", "Torch")(parameters, mode, *inputs)
    return y


@run.register
def _(op: Convolution, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    (x,) = inputs
    rank = x.ndim - 2
    convolve = (functional.conv1d, functional.conv2d)[rank - 1]
    pads = op.pads(rank)
    if any(before != behind for before, behind in pads):
        x = _padded(x, pads)
        pads = ((0, 0),) * rank
    weight, bias = parameters[0], None if op.norm or not op.bias else parameters[1]
    strides, dilations = per_axis(op.stride, rank), per_axis(op.dilation, rank)
    if op.kernel == 1 and op.stride != 1 and x.shape[1] < VECTOR and torch.is_grad_enabled() and x.device.type == "cpu":
        # Gradients of strided 1x1 convolutions of few channels write beyond their memory in channels-last format (torch
        # 2.13, oneDNN), so what they read is taken first.
        kept = [slice(None), slice(None), *(slice(None, None, stride) for stride in strides)]
        x = _padded(x, pads) if any(map(any, pads)) else x
        x, strides, pads = x[tuple(kept)], (1,) * rank, ((0, 0),) * rank
    padding = [before for before, _ in pads]
    y: Tensor
    if mode.lean and not weight.requires_grad:
        y = FixedConvolution.apply(x, weight, bias, strides, padding, dilations, op.groups)  # type: ignore[no-untyped-call]
    else:
        y = convolve(x, weight, bias, strides, padding, dilations, op.groups)
    return _normalised(y, parameters[1:], mode) if op.norm else y


class FixedConvolution(torch.autograd.Function):
    """Convolution whose weights are not trained: for the backward pass it keeps them alone, and not its input, which
    torch's own does. arXiv:2007.11622, section 3.1."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        strides: Sequence[int],
        padding: Sequence[int],
        dilations: Sequence[int],
        groups: int,
    ) -> Tensor:
        """Output, as of `torch.convolution`."""
        ctx.save_for_backward(weight)
        ctx.of_input, ctx.how = (x.shape, x.dtype), (strides, padding, dilations, False, [0] * len(strides), groups)
        return torch.convolution(x, weight, bias, strides, padding, dilations, False, [0] * len(strides), groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Gradients of the input and of the bias."""
        ((y,), (weight,), (shape, dtype)) = gradients, ctx.saved_tensors, ctx.of_input
        x = y.new_empty(1).expand(shape)  # stands for the input, of which only the shape is looked at
        wanted = [ctx.needs_input_grad[0], False, ctx.needs_input_grad[2]]
        of_x, _, of_bias = torch.ops.aten.convolution_backward(
            y, x, weight.to(y.dtype), [weight.shape[0]] if wanted[2] else None, *ctx.how, wanted
        )
        return None if of_x is None else of_x.to(dtype), None, of_bias, None, None, None, None


@run.register
def _(op: TransposedConvolution, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    (x,) = inputs
    rank = x.ndim - 2
    convolve = (functional.conv_transpose1d, functional.conv_transpose2d)[rank - 1]
    weight, bias = parameters[0], None if op.norm or not op.bias else parameters[1]
    cuts, more = zip(*op.cuts(rank), strict=True)
    strides, dilations = per_axis(op.stride, rank), per_axis(op.dilation, rank)
    y: Tensor = convolve(x, weight, bias, strides, cuts, more, op.groups, dilations)
    return _normalised(y, parameters[1:], mode) if op.norm else y


@run.register
def _(op: Linear, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    (x,) = inputs
    return functional.linear(x.flatten(1) if x.ndim == 4 else x, *parameters)


@run.register
def _(op: BatchNorm, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    return _normalised(inputs[0], parameters, mode)


@run.register
def _(op: RepConvolution, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    (x,) = inputs
    total: Tensor | None = None
    first = 0
    for branch in op.summands(tuple(x.shape[1:])):
        own = parameters[first : first + len(branch.parameters)]
        first += len(own)
        y = x if branch.op is None else run(branch.op, own, mode, x)
        total = y if total is None else total + y
    assert total is not None
    return _normalised(total, parameters[first:], mode) if op.norm else total


@run.register
def _(op: NormLinear, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    return functional.linear(_normalised(inputs[0].flatten(1), parameters[:5], mode), *parameters[5:])


def _normalised(x: Tensor, parameters: Sequence[Tensor], mode: Mode) -> Tensor:
    weight, bias, mean, variance, count = parameters
    if mode.training:
        if mode.momentum:
            count.add_(1)
        if mode.synchronised:
            return _normalised_together(x, weight, bias, mean, variance, mode)
        if not mode.momentum:
            return functional.batch_norm(x, None, None, weight, bias, True, eps=mode.norm_eps)
    elif mode.lean and not weight.requires_grad:  # a factor and an offset, for which the input need not be kept
        scale = weight * (variance + mode.norm_eps).rsqrt()
        shape = [1, -1, *[1] * (x.ndim - 2)]
        return x * scale.to(x.dtype).view(shape) + (bias - mean * scale).to(x.dtype).view(shape)
    return functional.batch_norm(x, mean, variance, weight, bias, mode.training, mode.momentum, mode.norm_eps)


class SumOfAll(torch.autograd.Function):
    """Sum of a tensor over all processes, whose gradient is the sum of theirs. Unlike that of
    `torch.distributed.nn.functional` it can be compiled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Sum."""
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Gradient of the input."""
        return _summed(gradients[0])


def _summed(x: Tensor) -> Tensor:
    from torch.distributed import group
    from torch.distributed._functional_collectives import all_reduce

    world: Any = group.WORLD
    total: Tensor = all_reduce(x.contiguous(), "sum", world)
    return total


def _normalised_together(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, mode: Mode) -> Tensor:
    """BatchNorm in training by the statistics of all processes' batches, which need not be of equal size."""
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    values = x.float()
    size = values.new_full((1,), x.numel() / x.shape[1])
    sums = SumOfAll.apply(torch.cat([values.sum(axes), size]))  # type: ignore[no-untyped-call]
    total = sums[-1].detach()
    average = sums[:-1] / total
    centred = values - average.view(shape)
    spread = SumOfAll.apply(centred.square().sum(axes)) / total  # type: ignore[no-untyped-call]
    if mode.momentum:
        with torch.no_grad():
            mean.lerp_(average, mode.momentum)
            variance.lerp_(spread * total / (total - 1), mode.momentum)
    scale = (weight * (spread + mode.norm_eps).rsqrt()).view(shape)
    y: Tensor = (centred * scale + bias.view(shape)).to(x.dtype)
    return y


@run.register
def _(op: Activate, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    (x,) = inputs
    if mode.lean and op.kind in ("relu", "relu6"):  # keeps a truth value of each entry and not the entry
        most = math.inf if op.kind == "relu" else 6.0
        return torch.where((x > 0) & (x < most), x, x.detach().clamp(0, most))
    return ACTIVATIONS[op.kind](x)


@run.register
def _(op: LeakyRelu, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    return functional.leaky_relu(inputs[0], op.slope)


@run.register
def _(op: PRelu, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    return functional.prelu(inputs[0], parameters[0])


@run.register
def _(op: GlobalPool, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    return inputs[0].mean(tuple(range(2, inputs[0].ndim)), keepdim=True)


@run.register
def _(op: Pool, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    (x,) = inputs
    rank = x.ndim - 2
    pool: Callable[..., Tensor] = POOLS[op.kind][rank - 1]
    if op.padding is None and isinstance(op.kernel, int) and op.kernel % 2:  # the usual case
        return pool(x, op.kernel, op.stride, op.kernel // 2)
    if op.cuts_off:
        return pool(x, op.kernel, op.stride, 0, ceil_mode=True)
    pads = op.pads(x.shape[2:])
    if all(before == behind <= k // 2 for (before, behind), k in zip(pads, per_axis(op.kernel, rank), strict=True)):
        return pool(x, op.kernel, op.stride, [before for before, _ in pads])
    if op.kind == "max":
        return pool(_padded(x, pads, -math.inf), op.kernel, op.stride)
    there = pool(_padded(torch.ones_like(x[:1, :1]), pads), op.kernel, op.stride)  # share of each window
    return pool(_padded(x, pads), op.kernel, op.stride) / there


POOLS: dict[PoolKind, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "max": (functional.max_pool1d, functional.max_pool2d),
    "average": (
        functools.partial(functional.avg_pool1d, count_include_pad=False),
        functools.partial(functional.avg_pool2d, count_include_pad=False),
    ),
}
"""Functions over signals and over images."""


def _padded(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0) -> Tensor:
    """Tensor with entries (before, behind) around the last axes."""
    return functional.pad(x, [entries for pair in reversed(pads) for entries in pair], value=value)


@run.register
def _(op: Add, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    return inputs[0] + inputs[1]


@run.register
def _(op: Multiply, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    return inputs[0] * inputs[1]


@run.register
def _(op: Shuffle, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    return functional.channel_shuffle(inputs[0], op.groups)


@run.register
def _(op: Concat, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, 1 + axis_of(op.axis, inputs[0].ndim - 1, "A concatenation"))


@run.register
def _(op: Slice, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    (x,) = inputs
    axis = 1 + axis_of(op.axis, x.ndim - 1, "A slice")
    if op.step == 1:
        return x.narrow(axis, op.start, op.stop - op.start)
    return x[(slice(None),) * axis + (slice(op.start, op.stop, op.step),)]


@run.register
def _(op: Gather, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    (x,) = inputs
    return x.index_select(1 + axis_of(op.axis, x.ndim - 1, "A gather"), _integers(op.indices, x.device))


@run.register
def _(op: Pick, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    x, places = inputs  # (B, N, ...), (B, *P)
    images = torch.arange(len(x), device=x.device).reshape(-1, *[1] * (places.ndim - 1))
    return x[images, places]  # (B, *P, ...)


@functools.lru_cache(maxsize=1024)
def _integers(values: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # whoever is first, gradients may need it later
        return torch.tensor(values, device=device)


@run.register
def _(op: Pad, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    return _padded(inputs[0], op.widths)


@run.register
def _(op: Reshape, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    return inputs[0].reshape(len(inputs[0]), *op.extents)


@run.register
def _(op: Transpose, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    return inputs[0].permute(0, *(1 + axis for axis in op.axes))


@run.register
def _(op: DepthToSpace, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    return functional.pixel_shuffle(inputs[0], op.block)


@run.register
def _(op: SpaceToDepth, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    return functional.pixel_unshuffle(inputs[0], op.block)


@run.register
def _(op: Resize, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    (x,) = inputs
    size = op.shape(x.shape[1:])[1:]
    if op.kind == "nearest":
        return functional.interpolate(x, size, mode="nearest-exact")  # "nearest" rounds half a pixel lower
    return functional.interpolate(x, size, mode=("linear", "bilinear")[x.ndim - 3], align_corners=False)


@run.register
def _(op: Reduce, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    (x,) = inputs
    axes = [1 + axis for axis in op.over(x.ndim - 1)]
    return REDUCTIONS[op.kind](x, axes, op.keep)


REDUCTIONS: dict[Reduction, Callable[[Tensor, list[int], bool], Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "max": torch.amax,
}


@run.register
def _(op: Matmul, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    a, b = inputs
    return a @ (b.transpose(-1, -2) if op.transposed else b)


@run.register
def _(op: Softmax, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    (x,) = inputs
    return x.softmax(1 + axis_of(op.axis, x.ndim - 1, "A softmax"))


@run.register
def _(op: LayerNorm, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    (x,) = inputs
    axis = 1 + axis_of(op.axis, x.ndim - 1, "LayerNorm")
    weight, bias = parameters
    return functional.layer_norm(x.movedim(axis, -1), weight.shape, weight, bias, op.eps).movedim(-1, axis)


@run.register
def _(op: RmsNorm, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    (x,), (weight,) = inputs, parameters
    axis = 1 + axis_of(op.axis, x.ndim - 1, "RmsNorm")
    return functional.rms_norm(x.movedim(axis, -1), weight.shape, weight, op.eps).movedim(-1, axis)


@run.register
def _(op: GroupNorm, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    weight, bias = parameters
    return functional.group_norm(inputs[0], op.groups, weight, bias, op.eps)


@run.register
def _(op: Learned, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    return parameters[0].expand(len(inputs[0]), *parameters[0].shape)


@run.register
def _(op: Embedding, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    return functional.embedding(inputs[0], parameters[0])


@run.register
def _(op: Scale, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    return inputs[0] * op.factor


@run.register
def _(op: Zero, parameters: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
    return torch.zeros_like(inputs[0])


# -- programs ----------------------------------------------------------------------------------------------------------

Take = Callable[[], Sequence[Tensor]]
"""Function that gives the tensors of an operator's parameters."""


@dataclass(frozen=True)
class TorchPlan:
    """A program made ready to run: which function each step calls, and where its parameters come from."""

    program: Program
    steps: tuple[tuple[Callable[..., Tensor], Op, Take, tuple[int, ...]], ...]

    @staticmethod
    def of(program: Program, take: Callable[[tuple[Parameter, ...]], Take]) -> TorchPlan:
        """TorchPlan of a program.

        Args:
            program: what is run.
            take: gives, for the parameters of an operator, the function that gives their tensors.
        """
        steps = [
            (run.dispatch(type(step.op)), step.op, take(own), step.inputs)
            for step, own in zip(program.steps, program.owned, strict=True)
        ]
        return TorchPlan(program, tuple(steps))

    def __call__(self, mode: Mode, *inputs: Tensor) -> Tensor:
        """Output, (B, *shape), of inputs (B, *shape)."""
        values = list(inputs)
        for function, op, take, numbers in self.steps:
            values.append(function(op, take(), mode, *[values[i] for i in numbers]))
        return values[self.program.output]


@dataclass(frozen=True)
class NetworkPlan:
    """A network made ready to run: the plan of each layer, the state that it runs in, and which tensors it reads.

    Nothing is looked up while it runs: it is one straight line of operators, which a compiler can take as a whole.
    """

    layers: tuple[tuple[TorchPlan, Mode, tuple[int, ...]], ...]
    outputs: Mapping[str, int] | int
    """Numbers of the tensors that are the results, by name; of a network with one output its number."""

    @staticmethod
    def of(network: Network, ready: Callable[[str, Layer], tuple[TorchPlan, Mode]]) -> NetworkPlan:
        """NetworkPlan of a network.

        Args:
            network: what is run.
            ready: gives, for a position and its layer, the plan of the layer and the state that it runs in.
        """
        layers: list[tuple[TorchPlan, Mode, tuple[int, ...]]] = []

        def number(position: str, layer: Layer, *inputs: int) -> int:
            layers.append((*ready(position, layer), inputs))
            return len(network.inputs) + len(layers) - 1

        outputs = network.run(number, *range(len(network.inputs)))
        return NetworkPlan(tuple(layers), outputs)

    def __call__(self, *inputs: Tensor) -> Any:
        """Outputs, each (B, *shape), of inputs (B, *shape): the tensor itself where there is one, else by name."""
        values = list(inputs)
        for plan, mode, numbers in self.layers:
            values.append(plan(mode, *[values[i] for i in numbers]))
        if isinstance(self.outputs, int):
            return values[self.outputs]
        return {name: values[i] for name, i in self.outputs.items()}


class Weights(nn.Module):
    """Parameters and running statistics, by their dotted names, with fresh values.

    ``still``: no factor of a BatchNorm is trained; the running statistics then stay, and count in training too.
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        super().__init__()
        self.still = False
        for parameter in parameters:
            *path, name = parameter.name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            value = initial(parameter)
            if parameter.trained:
                module.register_parameter(name, nn.Parameter(value))
            else:
                module.register_buffer(name, value)

    def freeze(self, frozen: Callable[[str], bool]) -> None:
        """Say of each parameter whether it is not trained, by its name."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not frozen(name))
        norms = [module for module in self.modules() if "running_mean" in module._buffers]
        self.still = bool(norms) and not any(norm.get_parameter("weight").requires_grad for norm in norms)

    def holder(self, name: str) -> tuple[dict[str, Any], str]:
        """The dictionary that holds a tensor, and its key there: the tensor itself may be replaced."""
        path, _, key = name.rpartition(".")
        module = self.get_submodule(path)
        return (module._parameters if key in module._parameters else module._buffers), key


def initial(parameter: Parameter) -> Tensor:
    """Fresh values of a parameter, drawn from torch's global random state."""
    if parameter.initial == "count":
        return torch.tensor(0, dtype=torch.long)
    values = torch.empty(parameter.shape)
    if parameter.initial == "kaiming":
        if len(parameter.shape) < 2:
            raise InvalidValueError(
                f"Parameter {parameter.name!r} of shape {parameter.shape} has one axis, and so no inputs to bound its "
                "values by; state another `initial`, such as ones."
            )
        nn.init.kaiming_uniform_(values, a=math.sqrt(5))  # as torch's own layers
    elif parameter.initial == "bias":
        nn.init.uniform_(values, -1 / math.sqrt(parameter.fan_in), 1 / math.sqrt(parameter.fan_in))
    elif parameter.initial == "normal":
        nn.init.normal_(values, std=0.02)
    else:
        nn.init.constant_(values, {"ones": 1.0, "zeros": 0.0, "quarter": 0.25}[parameter.initial])
    return values


class StaticLayer(Weights):
    """One layer with weights of its own, named as in its program."""

    def __init__(self, program: Program, norm_eps: float = 1e-5) -> None:
        super().__init__(program.parameters)
        self.program = program
        self.norm_eps = norm_eps
        self.momentum, self.synchronised = MOMENTUM, False
        self._plan = self._planned()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Output, (B, *shape), of inputs (B, *shape)."""
        follows = self.training and not self.still
        mode = Mode(follows, self.norm_eps, self.momentum, synchronised=self.synchronised, lean=self.still)
        return self._plan(mode, *inputs)

    def _planned(self) -> TorchPlan:
        def take(parameters: tuple[Parameter, ...]) -> Take:
            holders = [self.holder(parameter.name) for parameter in parameters]
            return lambda: [tensors[key] for tensors, key in holders]

        return TorchPlan.of(self.program, take)

    # A plan knows where the tensors of this very module are, so that a copy has a plan of its own.
    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_plan"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # of torch
        self._plan = self._planned()


class StaticNetwork(nn.Sequential):
    """A static network with weights of its own: the layers of a lowered architecture, named by position.

    Args:
        layers: by position; a mapping is a chain.
        norm_eps: number that BatchNorm adds to the variance.
        form: with all branches, or with branches merged, or with BatchNorm folded in too.
    """

    def __init__(self, layers: Mapping[str, Layer], norm_eps: float = 1e-5, *, form: Form = "training") -> None:
        super().__init__()
        self.network = Network.of(layers)
        for position, layer in self.network.items():
            self.add_module(position, StaticLayer(layer.program.in_form(form), norm_eps))

    def follow_statistics(self, momentum: float) -> None:
        """Set the share of a batch in the running statistics of every BatchNorm, in training mode."""
        for layer in self:
            assert isinstance(layer, StaticLayer)
            layer.momentum = momentum

    def synchronise(self, several: bool) -> None:
        """Let BatchNorm take its statistics over the batches of all processes, or of this one alone."""
        for layer in self:
            assert isinstance(layer, StaticLayer)
            layer.synchronised = several

    def body(self) -> StaticNetwork:
        """The network without its last layer, whose first input it gives; it shares the weights."""
        *positions, last = self.network
        layers = {position: self.network[position] for position in positions}
        sources = {position: self.network.sources[position] for position in positions}
        body = copy.copy(self)
        body._modules = {position: self._modules[position] for position in positions}
        body.network = Network(layers, sources, self.network.inputs, {OUTPUT: self.network.sources[last][0]})
        return body

    def forward(self, *inputs: Tensor) -> Any:
        """Outputs, each (B, *shape): the tensor itself where there is one, else by name."""
        return self.network.run(lambda position, _, *values: self._modules[position](*values), *inputs)


def merged(network: StaticNetwork) -> StaticNetwork:
    """The network with its branches merged, which computes the same in less time; itself where it has none."""
    layers = {position: layer for position, layer in network.named_children() if isinstance(layer, StaticLayer)}
    if all(layer.program.deployed is layer.program for layer in layers.values()):
        return network
    state: dict[str, Tensor] = {}
    for position, layer in layers.items():
        own = layer.state_dict()
        for step, parameters in zip(layer.program.steps, layer.program.owned, strict=True):
            tensors = {p.name: own[p.name] for p in parameters}
            if step.op.deployed() is not step.op:
                arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
                device = next(iter(tensors.values())).device
                folded = step.op.folded(arrays, layer.program.shapes_into(step), layer.norm_eps)
                tensors = {name: torch.from_numpy(array).to(device) for name, array in folded.items()}
            state |= {f"{position}.{name}": tensor for name, tensor in tensors.items()}
    with torch.device("meta"):
        found = StaticNetwork(network.network, next(iter(layers.values())).norm_eps, form="deployed")
    found.load_state_dict(state, assign=True)
    return found.eval()


def folded_weights(network: StaticNetwork) -> dict[str, NDArray[np.float32]]:
    """Weights of the network that is deployed, by the names of its operators: BatchNorm folded in, branches merged."""
    found: dict[str, NDArray[np.float32]] = {}
    for position, layer in network.named_children():
        assert isinstance(layer, StaticLayer)
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in layer.state_dict().items()}
        folded = layer.program.folded(arrays, layer.norm_eps)
        found |= {f"{position}.{name}": array for name, array in folded.items()}
    return found

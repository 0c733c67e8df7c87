"""A model as a TVM Relax module: what TVM compiles, for this computer and for others."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, te

from hardware_profiles.model import Model
from search_spaces.ops.activation import Activate
from search_spaces.ops.arithmetic import Add, Multiply, Zero
from search_spaces.ops.convolution import BatchNorm, Convolution, Linear, per_axis
from search_spaces.ops.movement import Shuffle
from search_spaces.ops.pooling import GlobalPool, Pool
from search_spaces.program import Op, Shape, own_method


@dataclass(frozen=True)
class RelaxValue:
    """A tensor of the Relax graph, (batch, H, W, C), and its shape (C, H, W), or (C,) for 1x1, as layers count it."""

    expression: Any
    shape: Shape


class RelaxGraph:
    """The Relax operators that are being built, in channels-last layout, so that channels fill vector registers.

    Built directly rather than from ONNX: TVM's importer keeps ONNX's channels-first layout, converting it leaves copies
    around every activation, and folding the converted weights takes longer than all other steps of a compilation.
    """

    def __init__(self, model: Model, builder: Any) -> None:
        self.model = model
        self.builder = builder
        self.position = ""
        """Of the layer that is being built."""
        self.operators: Counter[str] = Counter(dict.fromkeys(model.layers, 0))
        """How many each position has emitted."""

    def parameters(self, name: str, shape: Shape) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weight and bias of an operator of the layer."""
        return self.model.parameters(f"{self.position}.{name}", shape)

    def convolution(
        self, x: RelaxValue, weight: NDArray[np.float32], bias: NDArray[np.float32], shape: Shape, **attributes: Any
    ) -> RelaxValue:
        """Convolution of an image with a weight (O, I, H, W), and its bias."""
        kernel = relax.const(np.ascontiguousarray(weight.transpose(2, 3, 1, 0)))  # (O, I, H, W) -> (H, W, I, O)
        y = relax.op.nn.conv2d(x.expression, kernel, data_layout="NHWC", kernel_layout="HWIO", **attributes)
        return self.emit(relax.op.add(self.bind(y), relax.const(bias.reshape(1, 1, 1, -1))), shape)

    def element_wise(self, name: str, function: Callable[[Any], Any], x: RelaxValue) -> RelaxValue:
        """A function of each element as one operator, because every operator costs milliseconds to compile."""

        def compute(tensor: Any) -> Any:
            return te.compute(tensor.shape, lambda *index: function(tensor(*index)))

        return self.emit(self.builder.call_te(compute, x.expression, primfunc_name_hint=name), x.shape)

    def emit(self, expression: Any, shape: Shape) -> RelaxValue:
        """A new value of the graph."""
        return RelaxValue(self.bind(expression), shape)

    def bind(self, operator: Any) -> Any:
        """Variable that an operator's result is bound to."""
        self.operators[self.position] += 1
        return self.builder.emit(operator)


@functools.singledispatch
def relax_value(op: Op, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    """The result of an operator, which is added to the graph."""
    value: RelaxValue = own_method(op, "to_relax", "TVM")(graph, *inputs)
    return value


def _shape(op: Op, inputs: Sequence[RelaxValue]) -> Shape:
    return op.shape(*(x.shape for x in inputs))


@relax_value.register
def _(op: Convolution, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    (x,) = inputs
    weight, offset = graph.parameters(op.name, op.weight_shape(x.shape))
    (top, bottom), (left, right) = op.pads(2)
    pads = (top, left, bottom, right)
    attributes = {"strides": op.stride, "padding": pads[0] if len(set(pads)) == 1 else pads, "groups": op.groups}
    if per_axis(op.dilation, 2) != (1, 1):
        attributes["dilation"] = op.dilation
    return graph.convolution(x, weight, offset, _shape(op, inputs), **attributes)


@relax_value.register
def _(op: BatchNorm, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    channels = inputs[0].shape[0]  # a convolution of 1x1 is the same
    return relax_value(Convolution(op.name, channels, groups=channels), graph, *inputs)


@relax_value.register
def _(op: Activate, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    return graph.element_wise(op.kind, ACTIVATIONS[op.kind], inputs[0])


@relax_value.register
def _(op: GlobalPool, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    return graph.emit(relax.op.mean(inputs[0].expression, [1, 2], keepdims=True), _shape(op, inputs))


@relax_value.register
def _(op: Pool, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    operator = {"max": relax.op.nn.max_pool2d, "average": relax.op.nn.avg_pool2d}[op.kind]
    (top, bottom), (left, right) = op.pads(inputs[0].shape[1:])
    pooled = operator(
        inputs[0].expression,
        pool_size=per_axis(op.kernel, 2),
        strides=per_axis(op.stride, 2),
        padding=(0,) * 4 if op.cuts_off else (top, left, bottom, right),
        ceil_mode=op.cuts_off,
        layout="NHWC",
    )
    return graph.emit(pooled, _shape(op, inputs))


@relax_value.register
def _(op: Linear, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    weight, offset = graph.parameters(op.name, (op.features, op.width(inputs[0].shape)))
    return graph.convolution(inputs[0], weight[:, :, None, None], offset, _shape(op, inputs))


@relax_value.register
def _(op: Add, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    return graph.emit(relax.op.add(*(x.expression for x in inputs)), inputs[0].shape)


@relax_value.register
def _(op: Multiply, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    return graph.emit(relax.op.multiply(*(x.expression for x in inputs)), inputs[0].shape)


@relax_value.register
def _(op: Shuffle, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    (x,) = inputs
    channels, height, width = x.shape
    batch = x.expression.ty.shape[0]
    split = relax.op.reshape(x.expression, (batch, height, width, op.groups, channels // op.groups))
    swapped = relax.op.permute_dims(graph.bind(split), [0, 1, 2, 4, 3])
    return graph.emit(relax.op.reshape(graph.bind(swapped), (batch, height, width, channels)), x.shape)


@relax_value.register
def _(op: Zero, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    return graph.emit(relax.op.subtract(inputs[0].expression, inputs[0].expression), inputs[0].shape)


def _relu(x: Any) -> Any:
    return te.max(x, 0.0)


def _relu6(x: Any) -> Any:
    return te.min(te.max(x, 0.0), 6.0)


def _h_sigmoid(x: Any) -> Any:
    return te.max(te.min(x * (1 / 6) + 0.5, 1.0), 0.0)


def _h_swish(x: Any) -> Any:
    return x * _h_sigmoid(x)


ACTIVATIONS = {"relu": _relu, "relu6": _relu6, "h_sigmoid": _h_sigmoid, "h_swish": _h_swish}
"""Functions of one element."""


def channels_last(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images (N, C, H, W) or vectors (N, C) as (N, H, W, C), which is what a Relax module takes."""
    images = images.reshape(*images.shape, *[1] * (4 - images.ndim))
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def relax_module(model: Model, batch: int) -> tuple[Any, dict[str, int]]:
    """Relax module with function ``main``, (batch, H, W, C) -> (batch, H, W, C), float32, weights inside.

    Returns:
        the module, and how many operators each position has emitted into it, in order.
    """
    builder = relax.BlockBuilder()
    graph = RelaxGraph(model, builder)
    channels, height, width = model.input_shape if len(model.input_shape) == 3 else (*model.input_shape, 1, 1)
    image = relax.Var("image", relax.TensorType((batch, height, width, channels), "float32"))

    def build(position: str, op: Op, *values: RelaxValue) -> RelaxValue:
        graph.position = position
        return relax_value(op, graph, *values)

    with builder.function("main", [image]):
        with builder.dataflow():
            y = model.fold(build, RelaxValue(image, model.input_shape))
            output = builder.emit_output(y.expression)
        builder.emit_func_output(output)
    return builder.get(), dict(graph.operators)

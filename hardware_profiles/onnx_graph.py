"""The one way from layers to ONNX: for measuring with ONNX Runtime and for export with trained weights.

Building the graph directly costs milliseconds where ``torch.onnx.export`` costs seconds, and what is exported is then
exactly what was measured. Nodes are named ``<position>/v<number>_<operator>``, so that a profiler's times can be
attributed to positions (`node_positions`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hardware_profiles.model import Model
from search_spaces.base.errors import DamagedFileError, MeasurementError, StorageError
from search_spaces.base.storage import read_bytes
from search_spaces.ops.activation import Activate, LeakyRelu, PRelu
from search_spaces.ops.arithmetic import Add, Multiply, Scale, Zero
from search_spaces.ops.convolution import BatchNorm, Convolution, Linear, per_axis
from search_spaces.ops.learned import Embedding, Learned
from search_spaces.ops.matmul import Matmul, Softmax
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
from search_spaces.ops.pooling import GlobalPool, Pool
from search_spaces.ops.reduction import Reduce
from search_spaces.ops.resize import Resize
from search_spaces.ops.transposed_convolution import TransposedConvolution
from search_spaces.program import Op, Shape, elements, own_method, shape_of

OPSET = 18
IR_VERSION = 8
"""The oldest that has all of the opset: runtimes refuse files of a later one than they know."""

MOVES = ("Flatten", "Identity", "Reshape", "Transpose")
"""Operators that only move values."""


def cpu_session(content: bytes) -> ort.InferenceSession:
    """A network in ONNX Runtime on one thread of the CPU, whose outputs do not depend on how many there are."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class OnnxValue:
    """A tensor of the ONNX graph: name and shape without the batch."""

    name: str
    shape: Shape


class OnnxGraph:
    """The nodes and weights of a graph that is being written.

    Args:
        model: gives the weights.
        batch: images per run.
        prefix: of the names of nodes.
    """

    def __init__(self, model: Model, batch: int, prefix: str = "") -> None:
        self.model = model
        self.prefix = prefix
        self.batch = batch
        self.position = ""
        """Position of the layer that is being written."""
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._constants: set[str] = set()

    def node(self, kind: str, inputs: Sequence[str], shape: Shape, **attributes: Any) -> OnnxValue:
        """The result of a new node."""
        name = f"{self.prefix}{self.position}/v{len(self.nodes)}_{kind}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return OnnxValue(name, shape)

    def parameters(self, name: str, shape: Shape, outputs: int | None = None) -> tuple[str, str]:
        """Names of the weight and the bias of an operator of the layer, see `Model.parameters`."""
        full = f"{self.position}.{name}"
        names = f"{full}.weight", f"{full}.bias"
        for key, array in zip(names, self.model.parameters(full, shape, outputs), strict=True):
            self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), key))
        return names

    def parameter(self, name: str, shape: Shape) -> str:
        """Name of a single parameter of the layer."""
        full = f"{self.position}.{name}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(self.model.parameter(full, shape)), full))
        return full

    def integers(self, values: Sequence[int], what: str) -> str:
        """Name of a list of integers that the next node reads, such as a shape."""
        return self._constant(np.array(values, np.int64), what)

    def numbers(self, values: Sequence[float], what: str) -> str:
        """Name of a list of numbers that the next node reads."""
        return self._constant(np.array(values, np.float32), what)

    def _constant(self, array: NDArray[Any], what: str) -> str:
        name = f"{self.prefix}{self.position}/v{len(self.nodes)}_{what}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def constant(self, name: str, value: float) -> str:
        """Name of a number that is part of the file once."""
        if name not in self._constants:
            self._constants.add(name)
            self.weights.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def channel_parameter(self, name: str, shape: Shape) -> OnnxValue:
        """One number per channel, (C,), as a tensor that a value of the given shape broadcasts with."""
        channels = OnnxValue(self.parameter(name, shape[:1]), shape[:1])
        if len(shape) == 1:
            return channels
        shape = (shape[0], *[1] * (len(shape) - 1))
        return self.node("Reshape", [channels.name, self.integers(shape, "Reshape.shape")], shape)

    def element_wise(self, kind: str, a: OnnxValue, b: OnnxValue | float) -> OnnxValue:
        """The result of a node of two values of one shape, or of a value and a number."""
        second = b.name if isinstance(b, OnnxValue) else self.constant(f"number.{float(b)!r}", b)
        return self.node(kind, [a.name, second], a.shape)

    def transpose(self, x: OnnxValue, axes: Sequence[int]) -> OnnxValue:
        """The axes, which have no batch, in another order."""
        shape = tuple(x.shape[axis] for axis in axes)
        return self.node("Transpose", [x.name], shape, perm=[0, *(1 + axis for axis in axes)])

    def reshape(self, x: OnnxValue, shape: Shape) -> OnnxValue:
        """The same elements in another shape."""
        return self.node("Reshape", [x.name, self.integers((self.batch, *shape), "Reshape.shape")], shape)


@functools.singledispatch
def onnx_value(op: Op, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    """The result of an operator, whose nodes are added to the graph."""
    value: OnnxValue = own_method(op, "to_onnx", "ONNX")(graph, *inputs)
    return value


@onnx_value.register
def _(op: Convolution, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    (x,) = inputs
    rank = len(x.shape) - 1
    weight, offset = graph.parameters(op.name, op.weight_shape(x.shape))
    dilations = per_axis(op.dilation, rank)
    pads = op.pads(rank)
    return graph.node(
        "Conv",
        [x.name, weight, offset],
        shape_of(op, inputs),
        kernel_shape=per_axis(op.kernel, rank),
        strides=per_axis(op.stride, rank),
        pads=[before for before, _ in pads] + [behind for _, behind in pads],
        group=op.groups,
        **({"dilations": dilations} if set(dilations) != {1} else {}),
    )


@onnx_value.register
def _(op: BatchNorm, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    return onnx_value(op.inference(inputs[0].shape), graph, *inputs)


@onnx_value.register
def _(op: Activate, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    (x,) = inputs
    if op.kind == "relu6":
        bounds = [graph.constant(name, value) for name, value in (("relu6.low", 0), ("relu6.high", 6))]
        return graph.node("Clip", [x.name, *bounds], x.shape)
    if op.kind == "h_sigmoid":
        return graph.node("HardSigmoid", [x.name], x.shape, alpha=1 / 6, beta=0.5)
    if op.kind == "silu":
        return graph.element_wise("Mul", x, graph.node("Sigmoid", [x.name], x.shape))
    if op.kind in ("gelu", "gelu_tanh"):  # Gelu is of opset 20; runtimes fuse these nodes
        root = graph.element_wise("Div", x, 2**0.5) if op.kind == "gelu" else _tanh_argument(graph, x)
        distribution = graph.node({"gelu": "Erf", "gelu_tanh": "Tanh"}[op.kind], [root.name], x.shape)
        half = graph.element_wise("Mul", x, 0.5)
        return graph.element_wise("Mul", half, graph.element_wise("Add", distribution, 1))
    return graph.node(ACTIVATIONS[op.kind], [x.name], x.shape)


ACTIVATIONS = {"relu": "Relu", "h_swish": "HardSwish", "sigmoid": "Sigmoid", "tanh": "Tanh"}
"""Activations that are one node without attributes."""


def _tanh_argument(graph: OnnxGraph, x: OnnxValue) -> OnnxValue:
    """``sqrt(2 / pi) * (x + 0.044715 x**3)``, arXiv:1606.08415, section 2."""
    cube = graph.element_wise("Mul", graph.element_wise("Pow", x, 3), 0.044715)
    return graph.element_wise("Mul", graph.element_wise("Add", x, cube), (2 / np.pi) ** 0.5)


@onnx_value.register
def _(op: LeakyRelu, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    return graph.node("LeakyRelu", [inputs[0].name], inputs[0].shape, alpha=op.slope)


@onnx_value.register
def _(op: PRelu, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    (x,) = inputs
    slope = graph.channel_parameter(f"{op.name}.weight", x.shape)
    return graph.node("PRelu", [x.name, slope.name], x.shape)


@onnx_value.register
def _(op: GlobalPool, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    return graph.node("GlobalAveragePool", [inputs[0].name], shape_of(op, inputs))


@onnx_value.register
def _(op: Pool, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    (x,) = inputs
    rank = len(x.shape) - 1
    pads = op.pads(x.shape[1:])
    attributes: dict[str, Any] = (
        {"ceil_mode": 1} if op.cuts_off else {"pads": [before for before, _ in pads] + [behind for _, behind in pads]}
    )
    return graph.node(
        {"max": "MaxPool", "average": "AveragePool"}[op.kind],
        [x.name],
        shape_of(op, inputs),
        kernel_shape=per_axis(op.kernel, rank),
        strides=per_axis(op.stride, rank),
        **attributes,
    )


@onnx_value.register
def _(op: TransposedConvolution, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    (x,) = inputs
    rank = len(x.shape) - 1
    cuts, more = zip(*op.cuts(rank), strict=True)
    return graph.node(
        "ConvTranspose",
        [x.name, *graph.parameters(op.name, op.weight_shape(x.shape), op.channels)],
        shape_of(op, inputs),
        kernel_shape=per_axis(op.kernel, rank),
        strides=per_axis(op.stride, rank),
        dilations=per_axis(op.dilation, rank),
        pads=cuts * 2,
        output_padding=more,
        group=op.groups,
    )


@onnx_value.register
def _(op: Linear, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    (x,) = inputs
    shape = shape_of(op, inputs)
    names = graph.parameters(op.name, (op.features, op.width(x.shape)))
    if len(shape) == 2:  # of each token: a matrix product of (batch * tokens, features)
        rows = graph.node("Reshape", [x.name, graph.integers((-1, x.shape[-1]), "Reshape.shape")], x.shape)
        return graph.reshape(graph.node("Gemm", [rows.name, *names], shape, transB=1), shape)
    if len(x.shape) > 1:
        x = graph.node("Flatten", [x.name], (elements(x.shape),), axis=1)
    return graph.node("Gemm", [x.name, *names], shape, transB=1)


@onnx_value.register
def _(op: Add, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    return graph.node("Add", [x.name for x in inputs], inputs[0].shape)


@onnx_value.register
def _(op: Multiply, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    return graph.node("Mul", [x.name for x in inputs], inputs[0].shape)


@onnx_value.register
def _(op: Shuffle, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    (x,) = inputs
    channels, *size = x.shape
    split = graph.reshape(x, (op.groups, channels // op.groups, *size))
    swapped = graph.node("Transpose", [split.name], split.shape, perm=[0, 2, 1, *range(3, 3 + len(size))])
    return graph.reshape(swapped, x.shape)


@onnx_value.register
def _(op: Concat, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    axis = 1 + axis_of(op.axis, len(inputs[0].shape), "A concatenation")
    return graph.node("Concat", [x.name for x in inputs], shape_of(op, inputs), axis=axis)


@onnx_value.register
def _(op: Slice, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    (x,) = inputs
    values = {"starts": op.start, "ends": op.stop, "axes": 1 + axis_of(op.axis, len(x.shape), "A slice")}
    values |= {"steps": op.step} if op.step > 1 else {}
    names = [graph.integers([value], f"Slice.{name}") for name, value in values.items()]
    return graph.node("Slice", [x.name, *names], shape_of(op, inputs))


@onnx_value.register
def _(op: Gather, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    (x,) = inputs
    axis = 1 + axis_of(op.axis, len(x.shape), "A gather")
    return graph.node("Gather", [x.name, graph.integers(op.indices, "Gather.indices")], shape_of(op, inputs), axis=axis)


@onnx_value.register
def _(op: Pick, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    x, places = inputs
    one_each = graph.reshape(places, (*places.shape, 1))
    return graph.node("GatherND", [x.name, one_each.name], shape_of(op, inputs), batch_dims=1)


@onnx_value.register
def _(op: Pad, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    before, behind = zip(*op.widths, strict=True)
    return graph.node(
        "Pad", [inputs[0].name, graph.integers([0, *before, 0, *behind], "Pad.pads")], shape_of(op, inputs)
    )


@onnx_value.register
def _(op: Reshape, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    return graph.reshape(inputs[0], shape_of(op, inputs))


@onnx_value.register
def _(op: Transpose, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    return graph.transpose(inputs[0], op.axes)


@onnx_value.register
def _(op: DepthToSpace, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    return graph.node("DepthToSpace", [inputs[0].name], shape_of(op, inputs), blocksize=op.block, mode="CRD")


@onnx_value.register
def _(op: SpaceToDepth, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    channels, height, width = shape_of(op, inputs)  # ONNX's own operator has the channels in another order
    split = graph.reshape(inputs[0], (inputs[0].shape[0], height, op.block, width, op.block))
    return graph.reshape(graph.transpose(split, (0, 2, 4, 1, 3)), (channels, height, width))


@onnx_value.register
def _(op: Resize, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    (x,) = inputs
    shape = shape_of(op, inputs)
    return graph.node(
        "Resize",
        [x.name, "", "", graph.integers((graph.batch, *shape), "Resize.sizes")],
        shape,
        mode={"nearest": "nearest", "bilinear": "linear"}[op.kind],
        coordinate_transformation_mode="half_pixel",
        **({"nearest_mode": "round_prefer_ceil"} if op.kind == "nearest" else {}),
    )


@onnx_value.register
def _(op: Reduce, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    (x,) = inputs
    axes = graph.integers([1 + axis for axis in op.over(len(x.shape))], "Reduce.axes")
    kind = {"mean": "ReduceMean", "sum": "ReduceSum", "max": "ReduceMax"}[op.kind]
    return graph.node(kind, [x.name, axes], shape_of(op, inputs), keepdims=int(op.keep))


@onnx_value.register
def _(op: Matmul, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    a, b = inputs
    if op.transposed:
        rank = len(b.shape)
        b = graph.transpose(b, (*range(rank - 2), rank - 1, rank - 2))
    return graph.node("MatMul", [a.name, b.name], shape_of(op, inputs))


@onnx_value.register
def _(op: Softmax, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    (x,) = inputs
    axis = axis_of(op.axis, len(x.shape), "A softmax")
    if x.shape[axis] == 1:  # 1, of which ONNX Runtime's integer kernel makes 0
        return graph.element_wise("Add", graph.node("Sub", [x.name, x.name], x.shape), 1)
    return graph.node("Softmax", [x.name], x.shape, axis=1 + axis)


@onnx_value.register
def _(op: LayerNorm, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    def of_last_axis(x: OnnxValue) -> OnnxValue:
        extent = x.shape[-1:]
        names = [graph.parameter(f"{op.name}.{part}", extent) for part in ("weight", "bias")]
        return graph.node("LayerNormalization", [x.name, *names], x.shape, axis=-1, epsilon=op.eps)

    return _with_last_axis(op.axis, of_last_axis, graph, inputs[0])


@onnx_value.register
def _(op: RmsNorm, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    def of_last_axis(x: OnnxValue) -> OnnxValue:  # RMSNormalization is of opset 23; runtimes fuse these nodes
        axes = graph.integers([len(x.shape)], "ReduceMean.axes")
        squares = graph.element_wise("Pow", x, 2)
        mean = graph.node("ReduceMean", [squares.name, axes], (*x.shape[:-1], 1), keepdims=1)
        root = graph.node("Sqrt", [graph.element_wise("Add", mean, op.eps).name], mean.shape)
        weight = graph.parameter(f"{op.name}.weight", x.shape[-1:])
        return graph.node("Mul", [graph.element_wise("Div", x, root).name, weight], x.shape)

    return _with_last_axis(op.axis, of_last_axis, graph, inputs[0])


def _with_last_axis(axis: int, function: Callable[[OnnxValue], OnnxValue], graph: OnnxGraph, x: OnnxValue) -> OnnxValue:
    """The result of a function that works on the last axis, for another axis."""
    axes = list(range(len(x.shape)))
    axis %= len(axes)
    if axis == axes[-1]:
        return function(x)
    there = [*axes[:axis], *axes[axis + 1 :], axis]
    back = [*axes[:axis], axes[-1], *axes[axis:-1]]
    return graph.transpose(function(graph.transpose(x, there)), back)


@onnx_value.register
def _(op: GroupNorm, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    # GroupNormalization has one factor per group before opset 21, and runtimes of opset 18 lack it.
    (x,) = inputs
    groups = graph.reshape(x, (op.groups, elements(x.shape) // op.groups))
    ones, zeros = (graph.numbers([value] * op.groups, f"InstanceNormalization.{value}s") for value in (1, 0))
    y = graph.node("InstanceNormalization", [groups.name, ones, zeros], groups.shape, epsilon=op.eps)
    y = graph.reshape(y, x.shape)
    y = graph.element_wise("Mul", y, graph.channel_parameter(f"{op.name}.weight", x.shape))
    return graph.element_wise("Add", y, graph.channel_parameter(f"{op.name}.bias", x.shape))


@onnx_value.register
def _(op: Learned, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    shape = graph.integers((graph.batch, *op.extents), "Expand.shape")
    return graph.node("Expand", [graph.parameter(op.name, op.extents), shape], op.extents)


@onnx_value.register
def _(op: Embedding, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    table = graph.parameter(f"{op.name}.weight", (op.entries, op.features))
    return graph.node("Gather", [table, inputs[0].name], shape_of(op, inputs), axis=0)


@onnx_value.register
def _(op: Scale, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    return graph.element_wise("Mul", inputs[0], op.factor)


@onnx_value.register
def _(op: Zero, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
    return graph.node("Sub", [inputs[0].name, inputs[0].name], inputs[0].shape)


@functools.singledispatch
def onnx_parts(op: Op, graph: OnnxGraph, *inputs: OnnxValue) -> list[OnnxValue]:
    """Values on the way to the result of an operator, in order, which a target that lacks it computes one by one."""
    return []


@onnx_parts.register
def _(op: LayerNorm, graph: OnnxGraph, *inputs: OnnxValue) -> list[OnnxValue]:
    (x,) = inputs
    axis = op.axis % len(x.shape)
    extents = tuple(n if i == axis else 1 for i, n in enumerate(x.shape))
    weight = graph.parameter(f"{op.name}.weight", (x.shape[axis],))
    factors = graph.node("Reshape", [weight, graph.integers(extents, "Reshape.shape")], extents)
    return _parts_of_norm(graph, x, [axis], [axis], op.eps, factors)


@onnx_parts.register
def _(op: RmsNorm, graph: OnnxGraph, *inputs: OnnxValue) -> list[OnnxValue]:
    axis = op.axis % len(inputs[0].shape)
    return _parts_of_norm(graph, inputs[0], [axis], [axis], op.eps)


@onnx_parts.register
def _(op: GroupNorm, graph: OnnxGraph, *inputs: OnnxValue) -> list[OnnxValue]:
    (x,) = inputs
    extents = (op.groups, x.shape[0] // op.groups, 1)
    weight = graph.parameter(f"{op.name}.weight", x.shape[:1])
    factors = graph.node("Reshape", [weight, graph.integers(extents, "Reshape.shape")], extents)
    return _parts_of_norm(graph, graph.reshape(x, (*extents[:2], elements(x.shape[1:]))), [2], [1, 2], op.eps, factors)


def _parts_of_norm(
    graph: OnnxGraph,
    x: OnnxValue,
    first: Sequence[int],
    axes: Sequence[int],
    eps: float,
    factors: OnnxValue | None = None,
) -> list[OnnxValue]:
    """Values on the way to a norm.

    Args:
        graph: to write to.
        x: its input.
        first: axes over which means are taken first.
        axes: over which it normalises.
        eps: number that is added to the mean of the squares.
        factors: of the norm, where an offset follows, and where the mean is subtracted before.
    """

    def mean(y: OnnxValue, over: Sequence[int]) -> OnnxValue:
        shape = tuple(1 if i in over else n for i, n in enumerate(y.shape))
        axes = graph.integers([1 + i for i in over], "ReduceMean.axes")
        return graph.node("ReduceMean", [y.name, axes], shape, keepdims=1)

    parts = []
    if factors is not None:
        parts.append(mean(x, first))
        parts.append(x := graph.element_wise("Sub", x, mean(x, axes)))
    squares = graph.element_wise("Mul", x, x)
    root = graph.node("Sqrt", [graph.element_wise("Add", mean(squares, axes), eps).name], squares.shape)
    inverse = graph.node("Reciprocal", [root.name], squares.shape)
    parts += [squares, mean(squares, first), inverse, normalised := graph.element_wise("Mul", x, inverse)]
    return parts if factors is None else [*parts, graph.element_wise("Mul", normalised, factors)]


def onnx_model(model: Model, batch: int = 1) -> onnx.ModelProto:
    """ONNX model, float32, with the network's inputs (batch, *shape) and outputs (batch, *shape) by their names: of one
    input and output ``image`` and ``logits``. Inputs that something is looked up by are int64."""
    return onnx_and_results(model, batch)[0]


def onnx_and_results(model: Model, batch: int) -> tuple[onnx.ModelProto, list[str], OnnxGraph]:
    """Model of `onnx_model`, the names of all values that have a range of their own, and a graph of those of them that
    the model does not compute.

    The values are inputs in float32, then of each operator that does not only move values its parts (`onnx_parts`) and
    its result, in order.
    """
    graph, beside = OnnxGraph(model, batch), OnnxGraph(model, batch, "beside/")
    inputs = {name: OnnxValue(name, shape) for name, shape in model.network.inputs.items()}
    limits = model.network.index_limits
    results = [name for name, limit in limits.items() if limit is None]

    def write(position: str, op: Op, *values: OnnxValue) -> OnnxValue:
        graph.position = beside.position = position
        result = onnx_value(op, graph, *values)
        if not op.moves:
            results.extend(part.name for part in (*onnx_parts(op, beside, *values), result))
        return result

    written = model.fold(write, *inputs.values())
    outputs = model.network.named_outputs(written)
    last = graph.nodes[-1].output[0] if graph.nodes else ""
    if len(outputs) > 1 or next(iter(outputs.values())).name != last:
        # An output is a node of its own: the network gives its input, a value twice, or computes more than it gives.
        for name, y in outputs.items():
            source = model.network.outputs[name]
            graph.position = source if source in model.layers else list(model.layers)[-1]
            outputs[name] = graph.node("Identity", [y.name], y.shape)
    renamed = {y.name: name for name, y in outputs.items()}
    for node, name in zip(graph.nodes[-len(outputs) :], outputs, strict=True):
        node.output[0] = name
    proto = model_of_nodes(
        graph.nodes,
        [_info(name, (batch, *x.shape), limits[name] is not None) for name, x in inputs.items()],
        [_info(name, (batch, *y.shape)) for name, y in outputs.items()],
        graph.weights,
    )
    return proto, [renamed.get(name, name) for name in results], beside


def _info(name: str, shape: Shape, integers: bool = False) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64 if integers else TensorProto.FLOAT, shape)


def model_of_nodes(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto],
) -> onnx.ModelProto:
    """The file that holds these nodes."""
    graph = helper.make_graph(nodes, "network", inputs, outputs, constants)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="hwnas"
    )


def node_positions(optimised: onnx.GraphProto, outputs: Mapping[str, str], positions: Collection[str]) -> list[str]:
    """The position that each node of an optimised graph works for.

    A node keeps the name of one that it was made of, or its output does. What was inserted without such a name (changes
    of layout, parts of a composed operator) works for the node that reads its output first, or else made its input.

    Args:
        optimised: what a runtime made of the graph; nodes in an order in which they can run.
        outputs: name of each output -> position that gives it.
        positions: of the model.

    Raises:
        MeasurementError: a node works for none of them.
    """
    longest_first = sorted(positions, key=len, reverse=True)
    pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})/v[0-9]+_")
    makers_of = [(name, outputs[name]) for name in sorted(outputs, key=len, reverse=True) if outputs[name] in positions]

    def named(name: str) -> str | None:
        found = pattern.search(name)
        return found[1] if found else next((maker for output, maker in makers_of if name.startswith(output)), None)

    found = [next(filter(None, map(named, (node.name, *node.output))), None) for node in optimised.node]
    steps = list(enumerate(optimised.node))
    readers: dict[str, str] = {}
    for i, node in reversed(steps):
        found[i] = position = found[i] or next((readers[name] for name in node.output if name in readers), None)
        if position:
            readers.update(dict.fromkeys(node.input, position))
    makers: dict[str, str] = {}
    for i, node in steps:
        position = found[i] or next((makers[name] for name in node.input if name in makers), None)
        if position is None:
            raise MeasurementError(
                f"Node {node.name!r} ({node.op_type}) of the optimised graph belongs to no position of the network, so "
                f"its time cannot be attributed; measure layers isolated instead."
            )
        found[i] = position
        makers.update(dict.fromkeys(node.output, position))
    return [position for position in found if position is not None]


def weights_of_onnx(path: Path) -> dict[str, NDArray[np.float32]]:
    """Weights of a network that hwnas exported, by position, operator and parameter.

    Raises:
        DamagedFileError: the file is not a network that hwnas exported.
    """
    try:
        proto = onnx.load_model_from_string(read_bytes(path))  # without the other files that it may name
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
        # Constants are integers, scalars, or named after a node.
        found = {n: array for n, array in arrays.items() if array.dtype == np.float32 and array.ndim and "/" not in n}
        if not found:  # protobuf reads an empty or foreign file as a model without content
            raise ValueError("it holds no weights")
        return found
    except StorageError:
        raise
    except Exception as error:  # onnx and protobuf each raise their own kinds on a damaged file
        raise DamagedFileError(
            f"{path} is not a network that hwnas exported ({error}). Run `nas export` again."
        ) from error

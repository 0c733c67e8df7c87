"""A model as a TVM Relax module: what TVM compiles, for this computer and for others."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, tirx

from hardware_profiles import layout
from hardware_profiles.model import Batch, Model
from hardware_profiles.tvm import kernels
from search_spaces.ops.activation import Activate, LeakyRelu, PRelu
from search_spaces.ops.arithmetic import Add, Multiply, Scale, Zero
from search_spaces.ops.convolution import BatchNorm, Convolution, Extent, Linear, per_axis
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


@dataclass(frozen=True)
class RelaxValue:
    """A tensor of the Relax graph, (batch, *extents in memory), and its shape as layers count it.

    ``image``: channels lie last, behind height and width (`hardware_profiles.layout`); else as the shape has them.
    """

    expression: Any
    shape: Shape
    image: bool


class RelaxGraph(layout.Layouts[RelaxValue]):
    """The Relax operators that are being built, images in channels-last layout, so that channels fill vector registers.

    Built directly rather than from ONNX: TVM's importer keeps ONNX's channels-first layout, converting it leaves copies
    around every activation, and folding the converted weights takes longer than all other steps of a compilation.
    """

    def __init__(self, model: Model, builder: Any, batch: int) -> None:
        self.model = model
        self.builder = builder
        self.batch = batch
        self.position = ""
        """Position of the layer that is being built."""
        self.operators: Counter[str] = Counter(dict.fromkeys(model.layers, 0))
        """Number that each position has emitted."""

    def parameters(
        self, name: str, shape: Shape, outputs: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weight and bias of an operator of the layer, see `Model.parameters`."""
        return self.model.parameters(f"{self.position}.{name}", shape, outputs)

    def parameter(self, name: str, shape: Shape) -> Any:
        """A single parameter of the layer, as a constant."""
        return relax.const(np.ascontiguousarray(self.model.parameter(f"{self.position}.{name}", shape)))

    def convolution(
        self, x: RelaxValue, weight: NDArray[np.float32], bias: NDArray[np.float32], shape: Shape, **attributes: Any
    ) -> RelaxValue:
        """Convolution of an image with a weight (O, I, H, W), and its bias."""
        kernel = relax.const(np.ascontiguousarray(weight.transpose(2, 3, 1, 0)))  # (O, I, H, W) -> (H, W, I, O)
        y = relax.op.nn.conv2d(x.expression, kernel, data_layout="NHWC", kernel_layout="HWIO", **attributes)
        return self.emit(relax.op.add(self.bind(y), relax.const(bias.reshape(1, 1, 1, -1))), shape, image=True)

    def kernel(self, name: str, compute: Callable[..., Any], *inputs: Any, **attributes: Any) -> Any:
        """The result of a computation of `hardware_profiles.tvm.kernels` as one operator, because every operator costs
        milliseconds to compile."""
        function = functools.partial(compute, **attributes) if attributes else compute
        return self.bind(self.builder.call_te(function, *inputs, primfunc_name_hint=name))

    def placed(
        self, name: str, values: Sequence[RelaxValue], starts: Sequence[Sequence[int]], shape: Shape
    ) -> RelaxValue:
        """Values of one layout at places of a larger one, see `kernels.placed`; places are counted as in the shape."""
        image = values[0].image
        extents = [(self.batch, *layout.extents(one.shape, image)) for one in values]
        places = [(0, *layout.per_axis_in_memory(start, 0, image)) for start in starts]
        whole = (self.batch, *layout.extents(shape, image))
        function = self.builder.add_func(kernels.placed(extents, places, whole, "float32"), name)
        tensors = [x.expression for x in values]
        return self.emit(relax.call_tir(function, tensors, relax.TensorType(whole, "float32")), shape, image)

    def element_wise(self, name: str, function: kernels.Element, x: RelaxValue) -> RelaxValue:
        """A function of each element."""
        return RelaxValue(self.kernel(name, kernels.element_wise(function), x.expression), x.shape, x.image)

    def like(self, x: RelaxValue, expression: Any) -> RelaxValue:
        """A variable as a value of the shape and layout of another one."""
        return RelaxValue(expression, x.shape, x.image)

    def permuted(self, x: RelaxValue, axes: Sequence[int]) -> RelaxValue:
        if list(axes) == sorted(axes):
            return x
        expression = relax.op.permute_dims(x.expression, [0, *(axis + 1 for axis in axes)])
        return self.emit(expression, tuple(x.shape[axis] for axis in axes), image=False)

    def viewed(self, x: RelaxValue, shape: Shape, *, image: bool) -> RelaxValue:
        extents = (self.batch, *layout.extents(shape, image))
        if tuple(int(extent) for extent in x.expression.ty.shape) == extents:
            return RelaxValue(x.expression, shape, image)
        return self.emit(relax.op.reshape(x.expression, extents), shape, image)

    def emit(self, expression: Any, shape: Shape, image: bool) -> RelaxValue:
        """A new value of the graph."""
        return RelaxValue(self.bind(expression), shape, image)

    def bind(self, operator: Any) -> Any:
        """Variable that an operator's result is bound to."""
        self.operators[self.position] += 1
        return self.builder.emit(operator)


@functools.singledispatch
def relax_value(op: Op, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    """The result of an operator, which is added to the graph."""
    value: RelaxValue = own_method(op, "to_relax", "TVM")(graph, *inputs)
    return value


@relax_value.register
def _(op: Convolution, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    x, rank = graph.as_image(inputs[0]), len(inputs[0].shape) - 1
    weight, offset = graph.parameters(op.name, op.weight_shape(x.shape))
    if rank == 1:  # a signal is an image of one row
        weight = weight[:, :, None]
    pads = _around(op.pads(rank))
    strides, dilation = (_two(value, rank, 1) for value in (op.stride, op.dilation))
    attributes = {"strides": strides, "padding": pads[0] if len(set(pads)) == 1 else pads, "groups": op.groups}
    if set(dilation) != {1}:
        attributes["dilation"] = dilation
    return graph.convolution(x, weight, offset, shape_of(op, inputs), **attributes)


def _two(value: Extent, rank: int, filler: int) -> Shape:
    """Numbers for height and width; a signal has one row."""
    return (filler,) * (2 - rank) + per_axis(value, rank)


def _around(pads: Sequence[tuple[int, int]]) -> tuple[int, int, int, int]:
    """Zeros above, left, below and right of an image; a signal has one row."""
    (top, bottom), (left, right) = [(0, 0)] * (2 - len(pads)) + list(pads)
    return top, left, bottom, right


@relax_value.register
def _(op: BatchNorm, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    return relax_value(op.inference(inputs[0].shape), graph, *inputs)


@relax_value.register
def _(op: Activate, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    return graph.element_wise(op.kind, kernels.ACTIVATIONS[op.kind], inputs[0])


@relax_value.register
def _(op: GlobalPool, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    x = graph.as_image(inputs[0])
    return graph.emit(relax.op.mean(x.expression, [1, 2], keepdims=True), shape_of(op, inputs), image=True)


@relax_value.register
def _(op: Pool, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    operator = {"max": relax.op.nn.max_pool2d, "average": relax.op.nn.avg_pool2d}[op.kind]
    x, rank = graph.as_image(inputs[0]), len(inputs[0].shape) - 1
    pooled = operator(
        x.expression,
        pool_size=_two(op.kernel, rank, 1),
        strides=_two(op.stride, rank, 1),
        padding=(0,) * 4 if op.cuts_off else _around(op.pads(x.shape[1:])),
        ceil_mode=op.cuts_off,
        layout="NHWC",
    )
    return graph.emit(pooled, shape_of(op, inputs), image=True)


@relax_value.register
def _(op: Linear, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    (x,), shape = inputs, shape_of(op, inputs)
    weight, offset = graph.parameters(op.name, (op.features, op.width(x.shape)))
    if len(shape) == 1:  # of one pixel
        return graph.convolution(graph.as_image(x), weight[:, :, None, None], offset, shape)
    turned = relax.const(np.ascontiguousarray(weight.T))
    y = graph.bind(relax.op.matmul(graph.as_plain(x).expression, turned))
    return graph.emit(relax.op.add(y, relax.const(offset)), shape, image=False)


@relax_value.register
def _(op: Add, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    a, b = graph.alike(*inputs)
    return graph.emit(relax.op.add(a.expression, b.expression), a.shape, a.image)


@relax_value.register
def _(op: Multiply, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    a, b = graph.alike(*inputs)
    return graph.emit(relax.op.multiply(a.expression, b.expression), a.shape, a.image)


@relax_value.register
def _(op: Shuffle, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    x = graph.as_image(inputs[0])
    *size, channels = layout.extents(x.shape, image=True)
    before, after = (graph.batch, *size), len(size) + 1
    split = relax.op.reshape(x.expression, (*before, op.groups, channels // op.groups))
    swapped = relax.op.permute_dims(graph.bind(split), [*range(after), after + 1, after])
    return graph.emit(relax.op.reshape(graph.bind(swapped), (*before, channels)), x.shape, image=True)


@relax_value.register
def _(op: Zero, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    (x,) = inputs
    return graph.emit(relax.op.subtract(x.expression, x.expression), x.shape, x.image)


@relax_value.register
def _(op: LeakyRelu, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    return graph.element_wise("leaky_relu", lambda x: tirx.Select(x > 0.0, x, x * op.slope), inputs[0])


@relax_value.register
def _(op: PRelu, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    (x,) = inputs
    slopes = graph.parameter(f"{op.name}.weight", x.shape[:1])
    axis = graph.axis(0, x) % (1 + len(layout.extents(x.shape, x.image)))
    return graph.like(x, graph.kernel("prelu", kernels.below_zero, x.expression, slopes, axis=axis))


@relax_value.register
def _(op: Scale, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    return graph.element_wise("scale", lambda x: x * op.factor, inputs[0])


@relax_value.register
def _(op: Concat, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    values, shape = graph.alike(*inputs), shape_of(op, inputs)
    axis = axis_of(op.axis, len(shape), "A concatenation")
    ends = np.cumsum([x.shape[axis] for x in values])
    starts = [
        [int(end - x.shape[axis]) if i == axis else 0 for i in range(len(shape))]
        for end, x in zip(ends, values, strict=True)
    ]
    return graph.placed("concat", values, starts, shape)


@relax_value.register
def _(op: Slice, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    (x,) = inputs
    axis = graph.axis(axis_of(op.axis, len(x.shape), "A slice"), x)
    axis %= 1 + len(layout.extents(x.shape, x.image))
    part = relax.op.strided_slice(x.expression, [axis], [op.start], [op.stop], [op.step], assume_inbound=True)
    return graph.emit(part, shape_of(op, inputs), x.image)


@relax_value.register
def _(op: Gather, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    (x,) = inputs
    axis = graph.axis(axis_of(op.axis, len(x.shape), "A gather"), x) % (1 + len(layout.extents(x.shape, x.image)))
    indices = relax.const(np.array(op.indices, np.int32))
    chosen = graph.kernel("gather", kernels.gather, x.expression, indices, axis=axis)
    return RelaxValue(chosen, shape_of(op, inputs), x.image)


@relax_value.register
def _(op: Pick, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    x, places = (graph.as_plain(value) for value in inputs)
    picked = graph.kernel("pick", kernels.pick, x.expression, places.expression)
    return RelaxValue(picked, shape_of(op, inputs), image=False)


@relax_value.register
def _(op: Pad, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    return graph.placed("pad", inputs, [[before for before, _ in op.widths]], shape_of(op, inputs))


@relax_value.register
def _(op: Reshape, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    return graph.reshaped(inputs[0], shape_of(op, inputs))


@relax_value.register
def _(op: Transpose, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    return graph.transposed(inputs[0], op.axes)


@relax_value.register
def _(op: DepthToSpace, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    x = graph.as_image(inputs[0]).expression
    moved = graph.kernel("depth_to_space", kernels.depth_to_space, x, block=op.block)
    return RelaxValue(moved, shape_of(op, inputs), image=True)


@relax_value.register
def _(op: SpaceToDepth, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    x = graph.as_image(inputs[0]).expression
    moved = graph.kernel("space_to_depth", kernels.space_to_depth, x, block=op.block)
    return RelaxValue(moved, shape_of(op, inputs), image=True)


@relax_value.register
def _(op: Resize, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    x, shape = graph.as_image(inputs[0]), shape_of(op, inputs)
    before, after = (layout.extents(s, image=True)[:-1] for s in (x.shape, shape))
    if op.kind == "nearest":
        return RelaxValue(graph.kernel("nearest", kernels.nearest, x.expression, size=after), shape, image=True)
    tables = [_between(old, new) for old, new in zip(before, after, strict=True)]
    indices, weights = ([relax.const(table[i]) for table in tables] for i in (0, 1))
    return RelaxValue(graph.kernel("bilinear", kernels.bilinear, x.expression, *indices, *weights), shape, image=True)


def _between(before: int, after: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Indices (before and behind, size) of the entries that an output entry lies between, and its weight of those
    behind, by the half-pixel rule; beyond the border is the entry there."""
    place = np.clip((np.arange(after) + 0.5) * before / after - 0.5, 0, before - 1)
    first = np.floor(place).astype(np.int32)
    return np.stack([first, np.minimum(first + 1, before - 1)]), (place - first).astype(np.float32)


@relax_value.register
def _(op: Reduce, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    (x,), shape = inputs, shape_of(op, inputs)
    reduce = {"mean": relax.op.mean, "sum": relax.op.sum, "max": relax.op.max}[op.kind]
    axes, rank = op.over(len(x.shape)), len(x.shape)
    kept = tuple(1 if axis in axes else extent for axis, extent in enumerate(x.shape))
    over = sorted(graph.axis(axis, x) for axis in axes)
    if x.image and rank == 3 and axes == (1, 2):
        over = [1, 2]
    y = graph.emit(reduce(x.expression, over, keepdims=True), kept, x.image)
    if op.keep:
        return y
    of_pixel = x.image and axes == tuple(range(1, rank))  # a vector is an image of one pixel
    return graph.viewed(y, shape, image=of_pixel or layout.reduced_is_image(rank, axes, False, x.image))


@relax_value.register
def _(op: Matmul, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    a, b = (graph.as_plain(x) for x in inputs)
    second = b.expression
    if op.transposed:  # so that what is multiplied with one number lies side by side
        axes = [*range(len(b.shape) - 1), len(b.shape), len(b.shape) - 1]
        second = graph.bind(relax.op.permute_dims(second, axes))
    return graph.emit(relax.op.matmul(a.expression, second), shape_of(op, inputs), image=False)


@relax_value.register
def _(op: Softmax, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    def of_rows(x: RelaxValue) -> RelaxValue:
        return graph.like(x, graph.kernel("softmax", kernels.softmax, x.expression))

    return graph.along_last(inputs[0], op.axis, of_rows)


@relax_value.register
def _(op: LayerNorm, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    weight, bias = (graph.parameter(f"{op.name}.{part}", (inputs[0].shape[op.axis],)) for part in ("weight", "bias"))

    def of_rows(x: RelaxValue) -> RelaxValue:
        return graph.like(x, graph.kernel("layer_norm", kernels.layer_norm, x.expression, weight, bias, eps=op.eps))

    return graph.along_last(inputs[0], op.axis, of_rows)


@relax_value.register
def _(op: RmsNorm, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    weight = graph.parameter(f"{op.name}.weight", (inputs[0].shape[op.axis],))

    def of_rows(x: RelaxValue) -> RelaxValue:
        return graph.like(x, graph.kernel("rms_norm", kernels.rms_norm, x.expression, weight, eps=op.eps))

    return graph.along_last(inputs[0], op.axis, of_rows)


@relax_value.register
def _(op: GroupNorm, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    """Mean and variance of each channel, then of its group, and a factor and an offset per channel: kernels whose
    channels fill vector registers."""
    x, channels = graph.as_image(inputs[0]), inputs[0].shape[0]
    weight, bias = (graph.parameter(f"{op.name}.{part}", (channels,)) for part in ("weight", "bias"))
    means = graph.bind(relax.op.mean(x.expression, [1, 2], keepdims=True))
    mean = graph.kernel("group_means", kernels.group_means, means, groups=op.groups)
    squares = graph.kernel("squares", kernels.squares, x.expression, mean)
    variance = graph.kernel("group_means", kernels.group_means, squares, groups=op.groups)
    pixels = elements(x.shape[1:])
    factors = graph.kernel("factors", kernels.factors, variance, weight, eps=op.eps, pixels=pixels)
    offsets = graph.kernel("offsets", kernels.offsets, mean, factors, bias)
    return graph.like(x, graph.kernel("per_channel", kernels.per_channel, x.expression, factors, offsets))


@relax_value.register
def _(op: Learned, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    name = f"{graph.position}.{op.name}"
    shape, image = op.extents, layout.starts_as_image(op.extents)
    array = np.broadcast_to(graph.model.parameter(name, shape), (graph.batch, *shape))
    return RelaxValue(relax.const(to_memory(array)), shape, image)


@relax_value.register
def _(op: Embedding, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    table = graph.parameter(f"{op.name}.weight", (op.entries, op.features))
    rows = graph.kernel("embedding", kernels.embedding, graph.as_plain(inputs[0]).expression, table)
    return RelaxValue(rows, shape_of(op, inputs), image=False)


@relax_value.register
def _(op: TransposedConvolution, graph: RelaxGraph, *inputs: RelaxValue) -> RelaxValue:
    """One convolution whose channels are the phases of the stride, taken apart to pixels: of a kernel that is larger
    than the stride each phase has every ``stride``-th entry."""
    (x,), shape, rank = inputs, shape_of(op, inputs), len(inputs[0].shape) - 1
    weight, bias = graph.parameters(op.name, op.weight_shape(x.shape), op.channels)
    strides = _two(op.stride, rank, 1)
    cuts = (*(0,) * (2 - rank), *(cut for cut, _ in op.cuts(rank)))
    size, before = (layout.extents(s, image=True)[:-1] for s in (shape, x.shape))
    phases = _phases(_dense(weight, per_axis(op.dilation, rank)), strides, op.groups)
    kernel = phases.shape[2:]
    pads = [
        (k - 1, max(0, (out - 1 + cut) // s + 1 - n))
        for k, out, cut, s, n in zip(kernel, size, cuts, strides, before, strict=True)
    ]
    offsets = np.broadcast_to(
        bias.reshape(op.groups, 1, -1), (op.groups, strides[0] * strides[1], len(bias) // op.groups)
    )
    grid = (len(phases), *(n + behind for n, (_, behind) in zip(before, pads, strict=True)))
    y = graph.convolution(
        graph.as_image(x),
        phases,
        np.ascontiguousarray(offsets).reshape(-1),
        grid,
        padding=_around(pads),
        groups=op.groups,
    )
    attributes = {"strides": strides, "groups": op.groups, "cuts": cuts, "size": size}
    return RelaxValue(graph.kernel("interleaved", kernels.interleaved, y.expression, **attributes), shape, image=True)


def _dense(weight: NDArray[np.float32], dilation: Shape) -> NDArray[np.float32]:
    """Kernel (I, O, H, W), or (I, O, W), with the zeros of its dilation in it, of two axes."""
    kernel = [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    dense = np.zeros((*weight.shape[:2], *kernel), np.float32)
    dense[np.ix_(*(range(0, n, d) for n, d in zip(dense.shape, (1, 1, *dilation), strict=True)))] = weight
    return dense if weight.ndim == 4 else dense[:, :, None]


def _phases(weight: NDArray[np.float32], strides: Shape, groups: int) -> NDArray[np.float32]:
    """Kernel of a transposed convolution, (I, O of a group, H, W), as that of a convolution, whose outputs are, in each
    group, those of every phase of the stride: (groups * phases * O, I of a group, H / stride, W / stride)."""
    (down, right), (inputs, outputs, *kernel) = strides, weight.shape
    taps = [-(-k // s) for k, s in zip(kernel, strides, strict=True)]
    whole = np.zeros((inputs, outputs, taps[0] * down, taps[1] * right), np.float32)
    whole[:, :, : kernel[0], : kernel[1]] = weight
    split = whole.reshape(groups, inputs // groups, outputs, taps[0], down, taps[1], right)[:, :, :, ::-1, :, ::-1]
    # (groups, I, O, taps, down, taps, right) -> (groups, down, right, O, I, taps, taps)
    return np.ascontiguousarray(split.transpose(0, 4, 6, 2, 1, 3, 5)).reshape(-1, inputs // groups, *taps)


def relax_module(model: Model, batch: int) -> tuple[Any, dict[str, int]]:
    """Relax module with function ``main``, float32, weights inside: of the network's inputs, in the order that it has
    them, to its output, or a tuple of its outputs; images as (batch, H, W, C), see `to_memory` and `from_memory`.

    Returns:
        the module, and how many operators each position has emitted into it, in order.

    Raises:
        MissingOperatorError: TVM has no form of an operator.
        MismatchError: the model's weights do not fit its layers.
    """
    model.fold(
        _check_known, *(None for _ in model.network.inputs)
    )  # first, because TVM complains of modules that are left half built
    builder = relax.BlockBuilder()
    graph = RelaxGraph(model, builder, batch)
    inputs = []
    limits = model.network.index_limits
    for name, shape in model.network.inputs.items():
        image = layout.starts_as_image(shape) and limits[name] is None
        dtype = "float32" if limits[name] is None else "int64"
        tensor = relax.TensorType((batch, *layout.extents(shape, image)), dtype)
        inputs.append(RelaxValue(relax.Var(name, tensor), shape, image))

    def build(position: str, op: Op, *values: RelaxValue) -> RelaxValue:
        graph.position = position
        return relax_value(op, graph, *values)

    with builder.function("main", [x.expression for x in inputs]):
        with builder.dataflow():
            results = model.fold(build, *inputs)
            outputs = list(results.values()) if isinstance(results, dict) else [results]
            laid = [graph.as_input(y).expression for y in outputs]
            output = builder.emit_output(laid[0] if len(laid) == 1 else relax.Tuple(laid))
        builder.emit_func_output(output)
    return builder.get(), dict(graph.operators)


def _check_known(position: str, op: Op, *inputs: None) -> None:
    """Check that an operator has a form here.

    Raises:
        MissingOperatorError: it has none.
    """
    if relax_value.dispatch(type(op)) is relax_value.dispatch(Op):
        own_method(op, "to_relax", "TVM")


def to_memory(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """A batch of inputs, (N, *shape), as a Relax module takes it."""
    shape = array.shape[1:]
    if array.dtype.kind == "i":  # integers that name something
        return np.ascontiguousarray(array, np.int64)
    if not layout.starts_as_image(shape):
        return np.ascontiguousarray(array)
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)).reshape(len(array), *layout.extents(shape, image=True))


def outputs_of(result: Any, model: Model) -> Batch:
    """Outputs of the function ``main`` of a Relax module, as (batch, *shape) each."""
    shapes = model.network.output_shapes.values()
    tensors = [result] if len(shapes) == 1 else list(result)
    return model.outputs([_from_memory(tensor.numpy(), s) for tensor, s in zip(tensors, shapes, strict=True)])


def _from_memory(array: NDArray[np.float32], shape: Shape) -> NDArray[np.float32]:
    if not layout.starts_as_image(shape):
        return array
    channels_last = array.reshape(len(array), *shape[1:], shape[0])
    return np.ascontiguousarray(np.moveaxis(channels_last, -1, 1))

"""The one way from layers to int8 TFLite: what the Ethos-U compiler takes, and what is shipped to microcontrollers.

The file (`hardware_profiles.tflite_file`) is written in milliseconds, and without TensorFlow. It computes the same
network as the ONNX graph, up to quantisation (`hardware_profiles.quantisation`; the rules of TFLite's quantisation
specification):

- Weights are int8 and symmetric, with one scale per output channel of a convolution and one per linear layer. Biases
  are int32.
- Activations are int8. Their scales come from example images (`activation_ranges`). Without these every activation gets
  `DEFAULT_QUANTISATION`, which is enough for timing: scales are numbers in the NPU's rescaling unit and cost the same
  whatever they are. A file that is to be run needs the ranges.
- A convolution pads by kernel // 2 on each side. With a stride TFLite's SAME may pad less before than after, which
  would shift the image; there a PAD comes first, and Vela folds it into the convolution. Maximum pooling takes zeros
  around the image where its values are known not to be negative, and else copies of the border, which change no
  maximum; without ranges, zeros.
- ReLU is fused into the convolution or linear layer before it. Hard sigmoid is ReLU6(x + 3) / 6, as TensorFlow's
  converter writes it.
- Norms are written in parts, each with a range of its own: mean, difference, square, mean square, inverse root,
  product. Means and sums over the last axis are 1x1 convolutions or linear layers, as NPUs have none of their own.
- A convolution of some groups is one whose filters have fewer channels than the input.

The result of an operator is named ``<position>/v<number>_<operator>``, so that a compiler's figures can be attributed
to positions (`operator_positions`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware_profiles import layout
from hardware_profiles.model import Model
from hardware_profiles.quantisation import DEFAULT_QUANTISATION, Quantisation, Range, quantise_bias, quantise_weight
from hardware_profiles.tflite_file import FileOperator, FileTensor, serialised, unavailable
from search_spaces.base.errors import MismatchError, MissingOperatorError
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
from search_spaces.program import Op, Shape, own_method, shape_of

try:
    from ethosu.vela.tflite import Model as ModelTable
    from ethosu.vela.tflite.ActivationFunctionType import ActivationFunctionType
    from ethosu.vela.tflite.MirrorPadMode import MirrorPadMode
    from ethosu.vela.tflite.Padding import Padding
    from ethosu.vela.tflite.TensorType import TensorType
except ImportError as error:
    raise unavailable(error) from error

POINTWISE = {"Padding": Padding.SAME, "StrideW": 1, "StrideH": 1, "DilationWFactor": 1, "DilationHFactor": 1}
"""Options of a 1x1 convolution."""

Pads = Sequence[tuple[int, int]]
"""Zeros (before, behind) per axis."""

FUSED = {"RELU": ActivationFunctionType.RELU, "RELU6": ActivationFunctionType.RELU6}
"""Operators that the one before them can do along the way."""

HARD_SIGMOID_CLIP = Quantisation(6 / 255, -128)
HARD_SIGMOID_GATE = Quantisation(1 / 255, -128)
SHARE = Quantisation(1 / 256, -128)
"""Quantisation that TFLite asks of sigmoid and softmax."""
TANH = Quantisation(1 / 128, 0)
"""Quantisation that TFLite asks of tanh."""
MOST_SLICES = 32
"""Slices that a gather becomes; one of more is an operator of its own."""
NOT_NEGATIVE = Quantisation(1 / 16, -128)
"""Quantisation of squares and roots without a known range."""

FIXED: tuple[str, ...] = (
    *("LOGISTIC", "TANH", "SOFTMAX", "RESHAPE", "TRANSPOSE", "PAD", "SLICE", "STRIDED_SLICE", "GATHER", "QUANTIZE"),
    *("CONCATENATION", "MAX_POOL_2D", "AVERAGE_POOL_2D", "REDUCE_MAX", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
    "MIRROR_PAD",
)
"""Operators whose result has the quantisation of the input, or one that TFLite asks for."""


@dataclass(frozen=True)
class TfliteValue:
    """A tensor of the file: its index, and its shape as layers count it.

    ``image``: channels lie last, as in NHWC (`hardware_profiles.layout`); else as the shape has them, behind a 1.
    """

    tensor: int
    shape: Shape
    image: bool


class TfliteGraph(layout.Layouts[TfliteValue]):
    """Tensors and operators of a file that is being written.

    Args:
        model: gives the weights.
        ranges: (lowest, highest) value of the input and then of every operator that the model emits, in order. None:
            `default` for all.
        default: quantisation of activations without range.
    """

    def __init__(
        self,
        model: Model,
        ranges: Sequence[Range] | None = None,
        default: Quantisation = DEFAULT_QUANTISATION,
    ) -> None:
        self.model = model
        self.ranges = ranges
        self.default = default
        self.position = ""
        """Position of the layer that is being written."""
        self.tensors: list[FileTensor] = []
        self.operators: list[FileOperator] = []
        self.outputs: dict[int, str] = {}
        """Names of the network's outputs by tensor."""
        self.emitted = 0
        self._makers: dict[int, FileOperator] = {}
        self._read: set[int] = set()
        self._numbers: dict[int, NDArray[np.float32]] = {}

    def input(self, name: str, shape: Shape, limit: int | None = None) -> TfliteValue:
        """An input of the network; with a limit it is of integers that name something."""
        image = len(shape) == 3 and limit is None  # a vector is no image here: (1, C)
        if limit is not None:
            tensor = FileTensor(name, (1, *shape), TensorType.INT32)
            return TfliteValue(self._tensor(tensor), shape, image)
        return self._activation(name, shape, image, self.next_quantisation())

    def output(self, x: TfliteValue, name: str) -> TfliteValue:
        """A value as the network's output of that name, in a tensor of its own."""
        x = self.as_image(x) if len(x.shape) == 3 else self.as_plain(x)
        if x.tensor not in self._makers or x.tensor in self.outputs:  # an input, a constant, or one that has a name
            x = self._moved("RESHAPE", [x.tensor, self.integers("shape", (1, *self._extents(x)))], x, x.shape, x.image)
        self.outputs[x.tensor] = name
        return x

    def viewed(self, x: TfliteValue, shape: Shape, *, image: bool) -> TfliteValue:
        image = image and len(shape) > 1
        if (extents := layout.extents(shape, image)) == self._extents(x):
            return TfliteValue(x.tensor, shape, image)
        return self._moved("RESHAPE", [x.tensor, self.integers("shape", (1, *extents))], x, shape, image)

    def permuted(self, x: TfliteValue, axes: Sequence[int]) -> TfliteValue:
        if list(axes) == sorted(axes):
            return x
        order = self.integers("axes", (0, *(1 + axis for axis in axes)))
        return self._moved("TRANSPOSE", [x.tensor, order], x, tuple(x.shape[axis] for axis in axes), False)

    def _extents(self, x: TfliteValue) -> Shape:
        return self.tensors[x.tensor].shape[1:]

    def _moved(
        self, kind: str, inputs: list[int], x: TfliteValue, shape: Shape, image: bool, **options: float
    ) -> TfliteValue:
        return self.add_operator(kind, inputs, shape, self.quantisation_of(x), image=image, **options)

    def moved(self, kind: str, x: TfliteValue, shape: Shape, *integers: Sequence[int], **options: float) -> TfliteValue:
        """The result of an operator that keeps the quantisation and the layout of its input.

        Args:
            kind: of the operator.
            x: its first input.
            shape: of the result.
            integers: its other inputs.
            options: of the operator.
        """
        inputs = [x.tensor, *(self.integers(kind.lower(), values) for values in integers)]
        return self._moved(kind, inputs, x, shape, x.image, **options)

    def requantised(self, x: TfliteValue, quantisation: Quantisation) -> TfliteValue:
        """The value in another quantisation: its own becomes it where nothing has read it yet, which costs nothing."""
        if self.quantisation_of(x) == Quantisation(float(np.float32(quantisation.scale)), quantisation.zero_point):
            return x
        if x.tensor in self._numbers:
            tensor = self.constant(self.tensors[x.tensor].name, self._numbers[x.tensor], quantisation)
            return dataclasses.replace(x, tensor=tensor)
        maker = self._makers.get(x.tensor)
        if maker is not None and maker.kind not in FIXED and x.tensor not in self._read:
            made = self.tensors[x.tensor]
            made.scales, made.zero_point = np.array([quantisation.scale], np.float32), quantisation.zero_point
            return x
        return self.add_operator("QUANTIZE", [x.tensor], x.shape, quantisation, image=x.image)

    def per_axis(self, values: Sequence[int], filler: int, x: TfliteValue) -> tuple[int, ...]:
        """One number per axis of a value's shape as one per axis of its tensor; ``filler`` for the others."""
        return (filler, *layout.per_axis_in_memory(values, filler, x.image))

    def padded(
        self,
        x: TfliteValue,
        pads: Pads,
        kernel: Shape,
        stride: Shape,
        dilation: Shape = (1, 1),
        *,
        copies: bool = False,
    ) -> tuple[TfliteValue, int]:
        """The input as an operator takes it, and the kind of padding that the operator then states.

        Args:
            x: an image, or a signal, which is one of one row.
            pads: entries (before, behind) around its height and width.
            kernel, stride, dilation: of height and width.
            copies: the entries around are those at the border; else zeros.
        """
        seen, as_same = [], True
        for size, (before, behind), k, s, d in zip(self._extents(x)[:-1], pads, kernel, stride, dilation, strict=True):
            window = d * (k - 1) + 1
            outputs = (size + before + behind - window) // s + 1
            as_same &= outputs == -(-size // s)
            seen.append((before, max((outputs - 1) * s + window - size - before, 0)))  # zeros that an output sees
        # SAME puts the smaller half of the padding before.
        if as_same and all(before == (before + behind) // 2 for before, behind in seen):
            return x, Padding.SAME
        around = [(0, 0), *seen[3 - len(x.shape) :]]
        if not copies:
            return (self.zeros(x, around) if any(map(any, around)) else x), Padding.VALID
        for i in range(max(map(max, around))):  # mirrored by one entry, the one at the border is its own neighbour
            ones = [(int(i < before), int(i < behind)) for before, behind in around]
            x = self._extended("MIRROR_PAD", x, ones, Mode=MirrorPadMode.SYMMETRIC)
        return x, Padding.VALID

    def zeros(self, x: TfliteValue, widths: Sequence[tuple[int, int]]) -> TfliteValue:
        """Zeros (before, behind) along each axis of the shape."""
        return self._extended("PAD", x, widths)

    def _extended(self, kind: str, x: TfliteValue, widths: Sequence[tuple[int, int]], **options: float) -> TfliteValue:
        shape = tuple(size + sum(pair) for size, pair in zip(x.shape, widths, strict=True))
        sides = (self.per_axis([pair[side] for pair in widths], 0, x) for side in (0, 1))
        table = self.integers("padding", list(zip(*sides, strict=True)))
        return self._moved(kind, [x.tensor, table], x, shape, x.image, **options)

    def quantisation_of(self, x: TfliteValue) -> Quantisation:
        """Scale and zero point of a value."""
        source = self.tensors[x.tensor]
        assert source.scales is not None
        return Quantisation(float(source.scales[0]), source.zero_point)

    def integers(self, name: str, values: Any) -> int:
        """Tensor of integers, such as axes."""
        array = np.array(values, np.int32)
        return self._tensor(FileTensor(name, array.shape, TensorType.INT32, data=array))

    def emit(
        self,
        kind: str,
        inputs: list[int],
        shape: Shape,
        *,
        image: bool,
        **options: float,
    ) -> TfliteValue:
        """One operator that stands for one operator of a layer."""
        return self.add_operator(kind, inputs, shape, self.next_quantisation(), image=image, **options)

    def add_operator(
        self, kind: str, inputs: list[int], shape: Shape, quantisation: Quantisation, *, image: bool, **options: float
    ) -> TfliteValue:
        """The result of an operator."""
        output = self._activation(kind, shape, image, quantisation)
        operator = FileOperator(self.position, kind, inputs, output.tensor, options)
        self.operators.append(operator)
        self._makers[output.tensor] = operator
        self._read.update(inputs)
        return output

    def next_quantisation(self, default: Quantisation | None = None) -> Quantisation:
        self.emitted += 1
        if self.ranges is None:
            return default or self.default
        if self.emitted > len(self.ranges):
            raise MismatchError(f"There are only {len(self.ranges)} activation ranges; they belong to another network.")
        return Quantisation.of_range(*self.ranges[self.emitted - 1])

    def _activation(self, name: str, shape: Shape, image: bool, quantisation: Quantisation) -> TfliteValue:
        # (C, H, W) -> (1, H, W, C); (C,) -> (1, C)
        scales = np.array([quantisation.scale], np.float32)
        extents = (1, *layout.extents(shape, image))
        tensor = FileTensor(name, extents, scales=scales, zero_point=quantisation.zero_point)
        return TfliteValue(self._tensor(tensor), shape, image)

    def scalar(self, name: str, value: float) -> int:
        """Tensor of one number."""
        scales = np.array([abs(value) / 127 or 1], np.float32)
        return self._tensor(FileTensor(name, (1,), scales=scales, data=np.array([int(np.sign(value)) * 127], np.int8)))

    def constant(self, name: str, array: NDArray[np.float32], quantisation: Quantisation) -> int:
        """Tensor of given numbers."""
        steps = np.rint(array / quantisation.scale) + quantisation.zero_point
        data, scales = np.clip(steps, -128, 127).astype(np.int8), np.array([quantisation.scale], np.float32)
        tensor = FileTensor(name, array.shape, scales=scales, zero_point=quantisation.zero_point, data=data)
        index = self._tensor(tensor)
        self._numbers[index] = array
        return index

    def parameter(self, name: str, shape: Shape) -> NDArray[np.float32]:
        """A single parameter of the layer."""
        return self.model.parameter(f"{self.position}.{name}", shape)

    def parameters(
        self, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32], x: TfliteValue, axis: int | None
    ) -> tuple[int, int]:
        """Tensors of the quantised weight (one scale per index of `axis`; None: one for all) and bias."""
        input_scales = self.tensors[x.tensor].scales
        assert input_scales is not None
        integers, scales = quantise_weight(weight, bias, float(input_scales[0]), axis)
        bias_integers, bias_scales = quantise_bias(bias, scales, float(input_scales[0]))
        return (
            self._tensor(FileTensor(f"{name}.weight", weight.shape, scales=scales, axis=axis or 0, data=integers)),
            self._tensor(
                FileTensor(f"{name}.bias", bias.shape, TensorType.INT32, scales=bias_scales, data=bias_integers)
            ),
        )

    def per_channel(self, name: str, kind: str, x: TfliteValue) -> TfliteValue:
        """The result of an operator on a value and a parameter with a number per entry of its last axis in memory."""
        extents = self.tensors[x.tensor].shape
        array = self.parameter(name, extents[-1:])
        quantisation = Quantisation.of_range(float(array.min()), float(array.max()))
        lying = array.reshape(*[1] * (len(extents) - 1), -1)
        return self.emit(
            kind, [x.tensor, self.constant(f"{self.position}.{name}", lying, quantisation)], x.shape, image=x.image
        )

    def mixed(
        self, x: TfliteValue, matrix: NDArray[np.float32], quantisation: Quantisation, offset: float = 0.0
    ) -> TfliteValue:
        """Weighted sums of the entries of the last axis in memory, plus a number.

        Args:
            x: an image, or a plain value.
            matrix: a row of weights for each sum, (sums, entries).
            quantisation: of the result.
            offset: that is added.
        """
        bias = np.full(len(matrix), offset, np.float32)
        if x.image:
            inputs = [x.tensor, *self.parameters("mix", matrix[:, None, None], bias, x, axis=0)]
            shape = (len(matrix), *x.shape[1:])
            return self.add_operator("CONV_2D", inputs, shape, quantisation, image=True, **POINTWISE)
        inputs = [x.tensor, *self.parameters("mix", matrix, bias, x, axis=None)]
        shape = (*x.shape[:-1], len(matrix))
        return self.add_operator("FULLY_CONNECTED", inputs, shape, quantisation, image=False, KeepNumDims=True)

    def _tensor(self, tensor: FileTensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1


@functools.singledispatch
def tflite_value(op: Op, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    """The result of an operator, which is added to the file."""
    value: TfliteValue = own_method(op, "to_tflite", "TFLite")(graph, *inputs)
    return value


def _lacks(graph: TfliteGraph, what: str, rule: str) -> MissingOperatorError:
    place = f"Position {graph.position!r}: {what}" if len(graph.model.layers) > 1 else what  # else the caller knows it
    return MissingOperatorError(f"{place} {rule}; choose layers without it, or another device.")


def _two(value: Extent, rank: int) -> Shape:
    """Numbers for height and width; a signal has one row."""
    return (1,) * (2 - rank) + per_axis(value, rank)


def _rows_of(pads: Pads) -> Pads:
    """Zeros around height and width; a signal has one row."""
    return [(0, 0)] * (2 - len(pads)) + list(pads)


@tflite_value.register
def _(op: Convolution, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    x, rank = graph.as_image(inputs[0]), len(inputs[0].shape) - 1
    depthwise = op.depthwise(x.shape[0])
    name = f"{graph.position}.{op.name}"
    weight, offset = graph.model.parameters(name, op.weight_shape(x.shape))
    if rank == 1:
        weight = weight[:, :, None]
    # (out, in, k, k) -> (out, k, k, in), or (channels, 1, k, k) -> (1, k, k, channels)
    weight = weight.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
    kernel, stride, dilation = (_two(value, rank) for value in (op.kernel, op.stride, op.dilation))
    shape = shape_of(op, inputs)
    x, padding = graph.padded(x, _rows_of(op.pads(rank)), kernel, stride, dilation)
    options: dict[str, float] = {
        "Padding": padding,
        "StrideW": stride[1],
        "StrideH": stride[0],
        "DilationWFactor": dilation[1],
        "DilationHFactor": dilation[0],
    }
    if depthwise:
        options["DepthMultiplier"] = 1
    return graph.emit(
        "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
        [x.tensor, *graph.parameters(name, weight, offset, x, axis=3 if depthwise else 0)],
        shape,
        image=True,
        **options,
    )


@tflite_value.register
def _(op: BatchNorm, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    return tflite_value(op.inference(inputs[0].shape), graph, *inputs)


@tflite_value.register
def _(op: Activate, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    (x,) = inputs
    if op.kind == "h_sigmoid":
        quantisation = graph.next_quantisation(HARD_SIGMOID_GATE)
        three, sixth = (graph.scalar(name, value) for name, value in (("three", 3.0), ("sixth", 1 / 6)))
        clip = graph.add_operator(
            "ADD",
            [x.tensor, three],
            x.shape,
            HARD_SIGMOID_CLIP,
            image=x.image,
            FusedActivationFunction=ActivationFunctionType.RELU6,
        )
        return graph.add_operator("MUL", [clip.tensor, sixth], x.shape, quantisation, image=x.image)
    if op.kind in ("sigmoid", "tanh"):
        graph.next_quantisation()  # the range is there, but TFLite asks for another quantisation
        kind, quantisation = {"sigmoid": ("LOGISTIC", SHARE), "tanh": ("TANH", TANH)}[op.kind]
        return graph.add_operator(kind, [x.tensor], x.shape, quantisation, image=x.image)
    if op.kind == "silu":
        gate = graph.add_operator("LOGISTIC", [x.tensor], x.shape, SHARE, image=x.image)
        return graph.emit("MUL", [x.tensor, gate.tensor], x.shape, image=x.image)
    if op.kind in ("gelu", "gelu_tanh"):
        approximate = op.kind == "gelu_tanh"
        return graph.emit("GELU", [x.tensor], x.shape, image=x.image, Approximate=approximate)
    kind = {"relu": "RELU", "relu6": "RELU6", "h_swish": "HARD_SWISH"}[op.kind]
    return graph.emit(kind, [x.tensor], x.shape, image=x.image)


@tflite_value.register
def _(op: LeakyRelu, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    (x,) = inputs
    return graph.emit("LEAKY_RELU", [x.tensor], x.shape, image=x.image, Alpha=op.slope)


@tflite_value.register
def _(op: PRelu, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    x, channels = inputs[0], inputs[0].shape[0]
    slopes = graph.parameter(f"{op.name}.weight", (channels,))
    extents = graph.per_axis((channels, *[1] * (len(x.shape) - 1)), 1, x)[1:]
    quantisation = Quantisation.of_range(float(slopes.min()), float(slopes.max()))
    weight = graph.constant(f"{graph.position}.{op.name}.weight", slopes.reshape(extents), quantisation)
    return graph.emit("PRELU", [x.tensor, weight], x.shape, image=x.image)


@tflite_value.register
def _(op: LayerNorm, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    return graph.along_last(inputs[0], op.axis, lambda x: _norm_of_rows(op, graph, x, offset=True))


@tflite_value.register
def _(op: RmsNorm, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    return graph.along_last(inputs[0], op.axis, lambda x: _norm_of_rows(op, graph, x, offset=False))


def _norm_of_rows(op: LayerNorm | RmsNorm, graph: TfliteGraph, x: TfliteValue, offset: bool) -> TfliteValue:
    entries = graph.tensors[x.tensor].shape[-1]
    mean = np.full((1, entries), 1 / entries, np.float32)  # NPUs have no mean of the last axis
    return _norm(op, graph, x, lambda y, q, eps: graph.mixed(y, mean, q, eps), lambda y: y, offset)


@tflite_value.register
def _(op: GroupNorm, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    x = graph.as_image(inputs[0])
    channels = x.shape[0]
    of_group = np.repeat(np.eye(op.groups, dtype=np.float32), channels // op.groups, axis=1)  # (groups, channels)
    pixels = graph.integers("height_and_width", [1, 2])

    def mean(y: TfliteValue, quantisation: Quantisation, eps: float) -> TfliteValue:
        one = (channels, *[1] * (len(x.shape) - 1))
        of_channels = graph.add_operator("MEAN", [y.tensor, pixels], one, quantisation, image=True, KeepDims=True)
        return graph.mixed(of_channels, of_group * np.float32(op.groups / channels), quantisation, eps)

    def to_channels(y: TfliteValue) -> TfliteValue:
        return graph.mixed(y, of_group.T, graph.quantisation_of(y))

    return _norm(op, graph, x, mean, to_channels, offset=True)


def _norm(
    op: LayerNorm | RmsNorm | GroupNorm,
    graph: TfliteGraph,
    x: TfliteValue,
    mean: Callable[[TfliteValue, Quantisation, float], TfliteValue],
    spread: Callable[[TfliteValue], TfliteValue],
    offset: bool,
) -> TfliteValue:
    """The result of a norm, its parts in the order of `hardware_profiles.onnx_graph.onnx_parts`.

    Args:
        op: the norm.
        graph: to write to.
        x: its input, the channels last in memory.
        mean: gives means of a value in a quantisation, plus a number.
        spread: gives means, or what is made of them, so that they broadcast with the input.
        offset: the norm subtracts the mean before, and has an offset behind.
    """
    if offset:
        centre = spread(mean(x, graph.next_quantisation(), 0.0))
        x = graph.emit("SUB", [x.tensor, centre.tensor], x.shape, image=x.image)
    squares = graph.add_operator(
        "MUL", [x.tensor, x.tensor], x.shape, graph.next_quantisation(NOT_NEGATIVE), image=x.image
    )
    variance = mean(squares, graph.next_quantisation(NOT_NEGATIVE), op.eps)
    inverse = graph.add_operator(
        "RSQRT", [variance.tensor], variance.shape, graph.next_quantisation(NOT_NEGATIVE), image=variance.image
    )
    y = graph.emit("MUL", [x.tensor, spread(inverse).tensor], x.shape, image=x.image)
    y = graph.per_channel(f"{op.name}.weight", "MUL", y)
    return graph.per_channel(f"{op.name}.bias", "ADD", y) if offset else y


@tflite_value.register
def _(op: GlobalPool, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    x = graph.as_image(inputs[0])
    axes = graph.integers("height_and_width", [1, 2])
    return graph.emit("MEAN", [x.tensor, axes], shape_of(op, inputs), image=True, KeepDims=True)


@tflite_value.register
def _(op: Pool, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    x, rank = graph.as_image(inputs[0]), len(inputs[0].shape) - 1
    kernel, stride = _two(op.kernel, rank), _two(op.stride, rank)
    zero_is_least = graph.ranges is None or graph.quantisation_of(x).zero_point == -128  # as of what a ReLU gives
    x, padding = graph.padded(x, _rows_of(op.pads(x.shape[1:])), kernel, stride, copies=not zero_is_least)
    if padding == Padding.VALID and op.kind == "average" and x.shape != inputs[0].shape:
        raise _lacks(graph, f"average pooling of {inputs[0].shape} by {op.kernel}/{op.stride}", "would count padding")
    graph.next_quantisation()  # the range is there, but TFLite's pooling keeps the scale of its input
    options = {"StrideW": stride[1], "StrideH": stride[0], "FilterWidth": kernel[1], "FilterHeight": kernel[0]}
    return graph.add_operator(
        {"max": "MAX_POOL_2D", "average": "AVERAGE_POOL_2D"}[op.kind],
        [x.tensor],
        shape_of(op, inputs),
        graph.quantisation_of(x),
        image=True,
        Padding=padding,
        **options,
    )


@tflite_value.register
def _(op: Linear, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    (x,), shape = inputs, shape_of(op, inputs)
    x = graph.as_plain(x) if len(shape) > 1 else x
    name = f"{graph.position}.{op.name}"
    weight, offset = graph.model.parameters(name, (op.features, op.width(x.shape)))
    tensors = [x.tensor, *graph.parameters(name, weight, offset, x, axis=None)]
    options = {"KeepNumDims": True} if len(shape) > 1 else {}
    return graph.emit("FULLY_CONNECTED", tensors, shape, image=False, **options)


@tflite_value.register
def _(op: Add, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    a, b = graph.alike(*inputs)
    return graph.emit("ADD", [a.tensor, b.tensor], a.shape, image=a.image)


@tflite_value.register
def _(op: Multiply, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    a, b = graph.alike(*inputs)
    return graph.emit("MUL", [a.tensor, b.tensor], a.shape, image=a.image)


@tflite_value.register
def _(op: Scale, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    (x,) = inputs
    return graph.emit("MUL", [x.tensor, graph.scalar("factor", op.factor)], x.shape, image=x.image)


@tflite_value.register
def _(op: Zero, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    (x,) = inputs
    return graph.emit("SUB", [x.tensor, x.tensor], x.shape, image=x.image)


@tflite_value.register
def _(op: Matmul, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    a, b = (graph.as_plain(x) for x in inputs)
    return graph.emit("BATCH_MATMUL", [a.tensor, b.tensor], shape_of(op, inputs), image=False, AdjY=op.transposed)


@tflite_value.register
def _(op: Softmax, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    graph.next_quantisation()  # the range is there, but TFLite asks for another quantisation

    def of_rows(x: TfliteValue) -> TfliteValue:
        return graph.add_operator("SOFTMAX", [x.tensor], x.shape, SHARE, image=x.image, Beta=1.0)

    return graph.along_last(inputs[0], op.axis, of_rows)


@tflite_value.register
def _(op: Concat, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    values, shape = graph.alike(*inputs), shape_of(op, inputs)
    quantisation = graph.next_quantisation()
    parts = [graph.requantised(x, quantisation).tensor for x in values]  # TFLite joins equal scales alone
    axis = graph.axis(axis_of(op.axis, len(shape), "A concatenation"), values[0])
    axis %= len(graph.tensors[parts[0]].shape)
    return graph.add_operator("CONCATENATION", parts, shape, quantisation, image=values[0].image, Axis=axis)


@tflite_value.register
def _(op: Slice, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    (x,), shape = inputs, shape_of(op, inputs)
    axis = axis_of(op.axis, len(shape), "A slice")
    begin, end, step = (
        [place if i == axis else other for i in range(len(shape))]
        for place, other in ((op.start, 0), (op.stop, -1), (op.step, 1))
    )
    begins, steps = graph.per_axis(begin, 0, x), graph.per_axis(step, 1, x)
    if op.step == 1:
        return graph.moved("SLICE", x, shape, begins, graph.per_axis(shape, 1, x))
    ends = graph.per_axis([n if e == -1 else e for n, e in zip(x.shape, end, strict=True)], 1, x)
    return graph.moved("STRIDED_SLICE", x, shape, begins, ends, steps)


@tflite_value.register
def _(op: Gather, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    """Slices that are joined, one for each run of entries that follow each other: NPUs have no gather."""
    (x,) = inputs
    axis = axis_of(op.axis, len(x.shape), "A gather")
    starts = [i for i, n in enumerate(op.indices) if i == 0 or n != op.indices[i - 1] + 1]
    if len(starts) > MOST_SLICES:
        within = graph.axis(axis, x) % len(graph.tensors[x.tensor].shape)
        return graph.moved("GATHER", x, shape_of(op, inputs), op.indices, Axis=within)
    runs = [op.indices[start:end] for start, end in zip(starts, [*starts[1:], len(op.indices)], strict=True)]
    parts = [tflite_value(Slice(axis, run[0], run[-1] + 1), graph, x) for run in runs]
    if len(parts) == 1:
        return parts[0]
    within = graph.axis(axis, x) % len(graph.tensors[x.tensor].shape)
    tensors = [part.tensor for part in parts]
    quantisation = graph.quantisation_of(x)
    return graph.add_operator("CONCATENATION", tensors, shape_of(op, inputs), quantisation, image=x.image, Axis=within)


@tflite_value.register
def _(op: Pad, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    return graph.zeros(inputs[0], op.widths)


@tflite_value.register
def _(op: Reshape, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    return graph.reshaped(inputs[0], shape_of(op, inputs))


@tflite_value.register
def _(op: Transpose, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    return graph.transposed(inputs[0], op.axes)


def _regrouped(graph: TfliteGraph, x: TfliteValue, extents: Shape, axes: Sequence[int], shape: Shape) -> TfliteValue:
    """An image whose memory is cut into more axes, which are put in another order, and then is an image again."""
    return graph.viewed(graph.permuted(graph.viewed(x, extents, image=False), axes), shape, image=True)


@tflite_value.register
def _(op: Shuffle, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    x = graph.as_image(inputs[0])
    channels, *size = x.shape
    rank = len(size)
    split = (*size, op.groups, channels // op.groups)
    return _regrouped(graph, x, split, (*range(rank), rank + 1, rank), x.shape)


@tflite_value.register
def _(op: DepthToSpace, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    x, shape = graph.as_image(inputs[0]), shape_of(op, inputs)
    split = (*x.shape[1:], shape[0], op.block, op.block)
    return _regrouped(graph, x, split, (0, 3, 1, 4, 2), shape)


@tflite_value.register
def _(op: SpaceToDepth, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    x, shape = graph.as_image(inputs[0]), shape_of(op, inputs)
    split = (shape[1], op.block, shape[2], op.block, x.shape[0])
    return _regrouped(graph, x, split, (0, 2, 4, 1, 3), shape)


@tflite_value.register
def _(op: Resize, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    x, shape = graph.as_image(inputs[0]), shape_of(op, inputs)
    kind = {"nearest": "RESIZE_NEAREST_NEIGHBOR", "bilinear": "RESIZE_BILINEAR"}[op.kind]
    return graph.moved(kind, x, shape, layout.extents(shape, image=True)[:-1], HalfPixelCenters=True)


@tflite_value.register
def _(op: Reduce, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    (x,), shape = inputs, shape_of(op, inputs)
    over, rank = op.over(len(x.shape)), len(x.shape)
    kept = tuple(1 if axis in over else extent for axis, extent in enumerate(x.shape))
    axes = graph.integers("axes", sorted(graph.axis(axis, x) % len(graph.tensors[x.tensor].shape) for axis in over))
    quantisation = graph.next_quantisation()
    if op.kind == "max":
        quantisation = graph.quantisation_of(x)  # which TFLite asks for
    if op.kind != "max" and [graph.axis(axis, x) for axis in over] == [-1]:  # NPUs have no mean of the last axis
        entries = graph.tensors[x.tensor].shape[-1]
        share = 1 / entries if op.kind == "mean" else 1.0
        y = graph.mixed(x, np.full((1, entries), share, np.float32), quantisation)
    else:
        kind = {"mean": "MEAN", "sum": "SUM", "max": "REDUCE_MAX"}[op.kind]
        y = graph.add_operator(kind, [x.tensor, axes], kept, quantisation, image=x.image, KeepDims=True)
    if op.keep:
        return y
    return graph.viewed(y, shape, image=layout.reduced_is_image(rank, over, False, x.image))


@tflite_value.register
def _(op: Learned, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    array, image = graph.parameter(op.name, op.extents), len(op.extents) == 3
    quantisation = graph.next_quantisation(Quantisation.of_range(float(array.min()), float(array.max())))
    lying = np.moveaxis(array, 0, -1) if image else array
    return TfliteValue(graph.constant(f"{graph.position}.{op.name}", lying[None], quantisation), op.extents, image)


@tflite_value.register
def _(op: Embedding, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    array = graph.parameter(f"{op.name}.weight", (op.entries, op.features))
    quantisation = graph.next_quantisation(Quantisation.of_range(float(array.min()), float(array.max())))
    table = graph.constant(f"{graph.position}.{op.name}.weight", array, quantisation)
    return graph.add_operator("GATHER", [table, inputs[0].tensor], shape_of(op, inputs), quantisation, image=False)


@tflite_value.register
def _(op: TransposedConvolution, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    x, shape, rank = graph.as_image(inputs[0]), shape_of(op, inputs), len(inputs[0].shape) - 1
    what = f"transposed convolution {op.name!r}"
    if op.groups > 1 or set(per_axis(op.dilation, rank)) != {1}:
        raise _lacks(graph, what, "has one group and no dilation in TFLite")
    name = f"{graph.position}.{op.name}"
    weight, offset = graph.model.parameters(name, op.weight_shape(x.shape), op.channels)
    if rank == 1:
        weight = weight[:, :, None]
    stride = _two(op.stride, rank)
    before, after = (layout.extents(s, image=True)[:-1] for s in (x.shape, shape))
    cuts = (*(0,) * (2 - rank), *(cut for cut, _ in op.cuts(rank)))
    chosen = _transposed_padding(weight.shape[2:], stride, cuts, before, after)
    if chosen is None:
        raise _lacks(graph, what, "cuts off what neither SAME nor VALID of TFLite does")
    padding, kernel = chosen
    more = [(0, new - old) for new, old in zip(kernel, weight.shape[2:], strict=True)]
    weight = np.pad(weight, [(0, 0), (0, 0), *more]).transpose(1, 2, 3, 0)  # (in, out, k, k) -> (out, k, k, in)
    tensors = graph.parameters(name, weight, offset, x, axis=0)
    extents = graph.integers("output_shape", (1, *layout.extents(shape, image=True)))
    return graph.emit(
        "TRANSPOSE_CONV",
        [extents, tensors[0], x.tensor, tensors[1]],
        shape,
        image=True,
        Padding=padding,
        StrideW=stride[1],
        StrideH=stride[0],
    )


def _transposed_padding(
    kernel: Shape, stride: Shape, cuts: Shape, before: Shape, after: Shape
) -> tuple[int, Shape] | None:
    """Padding of TFLite that cuts as much off before and gives such an output, and the kernel for it, which may need
    zeros behind; None: there is none."""
    axes = list(zip(kernel, stride, cuts, before, after, strict=True))
    if all(cut == 0 and out == n * s + max(k - s, 0) for k, s, cut, n, out in axes):
        return Padding.VALID, kernel
    grown = tuple(max(k, s + 2 * cut) for k, s, cut, _, __ in axes)  # SAME cuts (kernel - stride) // 2 off before
    fits = all(out == n * s and (new - s) // 2 == cut for new, (_, s, cut, n, out) in zip(grown, axes, strict=True))
    return (Padding.SAME, grown) if fits else None


def tflite_model(
    model: Model,
    ranges: Sequence[Range] | None = None,
    default: Quantisation = DEFAULT_QUANTISATION,
) -> bytes:
    """int8 TFLite file with the network's inputs and outputs by name: images as (1, H, W, C), all else as (1, *shape);
    int8, but for integers that name something, which are int32.

    Args:
        model: layers and weights.
        ranges: what `activation_ranges` gives. None: those of the model; without any it is a file for timing only.
        default: quantisation of the activations where there are no ranges.

    Raises:
        InvalidValueError: a layer or weight that int8 TFLite cannot hold.
        MismatchError: weights or ranges of another network.
    """
    ranges = model.ranges if ranges is None else ranges
    graph = TfliteGraph(model, ranges, default)
    network = model.network
    inputs = [graph.input(name, shape, network.index_limits[name]) for name, shape in network.inputs.items()]

    def write(position: str, op: Op, *values: TfliteValue) -> TfliteValue:
        graph.position = position
        return tflite_value(op, graph, *values)

    results = model.fold(write, *inputs)
    named = results if isinstance(results, dict) else {next(iter(network.outputs)): results}
    outputs = []
    for name, value in named.items():
        graph.position = position_of_output(model, name)
        outputs.append(graph.output(value, name).tensor)
    if ranges is not None and graph.emitted != len(ranges):
        raise MismatchError(
            f"There are {len(ranges)} activation ranges for {graph.emitted} activations; they belong to another "
            f"network."
        )
    operators = _fuse_relu(graph.operators, outputs)
    for number, operator in enumerate(operators):
        graph.tensors[operator.output].name = f"{operator.position}/v{number}_{operator.kind}"
    for tensor, name in graph.outputs.items():
        graph.tensors[tensor].name = name
    return serialised(graph.tensors, operators, [x.tensor for x in inputs], outputs)


def position_of_output(model: Model, name: str) -> str:
    """The position that gives an output of the network; of one that is an input, the last."""
    source = model.network.outputs[name]
    return source if source in model.layers else list(model.layers)[-1]


def operator_positions(content: bytes, model: Model) -> list[str]:
    """The position that each operator of a file belongs to.

    Args:
        content: what `tflite_model` gave for the model.
        model: its outputs have names that say no position.
    """
    graph = ModelTable.Model.GetRootAs(content).Subgraphs(0)
    outputs = (graph.Operators(i).Outputs(0) for i in range(graph.OperatorsLength()))
    names = (graph.Tensors(output).Name().decode() for output in outputs)
    given = {name: position_of_output(model, name) for name in model.network.outputs}
    return [given[name] if name in given else name.rpartition("/")[0] for name in names]


def _fuse_relu(operators: Sequence[FileOperator], outputs: Sequence[int]) -> list[FileOperator]:
    """Fuse each ReLU into the convolution or linear layer whose result nothing else reads."""
    readers: dict[int, int] = dict.fromkeys(outputs, 1)
    for operator in operators:
        for tensor in operator.inputs:
            readers[tensor] = readers.get(tensor, 0) + 1
    fused: dict[int, FileOperator] = {}  # output tensor -> operator, in order
    for operator in operators:
        before = fused.get(operator.inputs[0])
        if (
            operator.kind in FUSED
            and before is not None
            and before.kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
            and readers[before.output] == 1
        ):
            del fused[before.output]
            options = {**before.options, "FusedActivationFunction": FUSED[operator.kind]}
            operator = dataclasses.replace(before, output=operator.output, options=options)
        fused[operator.output] = operator
    return list(fused.values())

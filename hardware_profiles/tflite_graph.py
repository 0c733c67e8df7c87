"""The one way from layers to int8 TFLite: what the Ethos-U compiler takes, and what is shipped to microcontrollers.

The file is written with flatbuffers and the schema classes that come with Vela: milliseconds, and no TensorFlow. It
computes the same network as the ONNX graph, up to quantisation (`hardware_profiles.quantisation`; the rules of TFLite's
quantisation specification):

- Weights are int8 and symmetric, with one scale per output channel of a convolution and one per linear layer. Biases
  are int32.
- Activations are int8. Their scales come from example images (`activation_ranges`). Without these every activation gets
  `DEFAULT_QUANTISATION`, which is enough for timing: scales are numbers in the NPU's rescaling unit and cost the same
  whatever they are. A file that is to be run needs the ranges.
- A convolution pads by kernel // 2 on each side. With a stride TFLite's SAME may pad less before than after, which
  would shift the image; there a PAD comes first, and Vela folds it into the convolution.
- ReLU is fused into the convolution or linear layer before it. Hard sigmoid is ReLU6(x + 3) / 6, as TensorFlow's
  converter writes it.

The result of an operator is named ``<position>/v<number>_<operator>``, so that a compiler's figures can be attributed
to positions (`operator_positions`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hardware_profiles.model import Model
from hardware_profiles.quantisation import DEFAULT_QUANTISATION, Quantisation, Range, quantise_bias, quantise_weight
from search_spaces.base.errors import DeviceUnavailableError, InvalidValueError, MismatchError
from search_spaces.network import INPUT, OUTPUT
from search_spaces.ops.activation import Activate
from search_spaces.ops.arithmetic import Add, Multiply, Zero
from search_spaces.ops.convolution import BatchNorm, Convolution, Linear, per_axis
from search_spaces.ops.pooling import GlobalPool, Pool
from search_spaces.program import Op, Shape, own_method

try:
    import flatbuffers
    from ethosu.vela.tflite import (
        AddOptions,
        Buffer,
        Conv2DOptions,
        DepthwiseConv2DOptions,
        FullyConnectedOptions,
        MulOptions,
        Operator,
        OperatorCode,
        PadOptions,
        Pool2DOptions,
        QuantizationParameters,
        ReducerOptions,
        SubGraph,
        SubOptions,
        Tensor,
    )
    from ethosu.vela.tflite import Model as ModelTable
    from ethosu.vela.tflite.ActivationFunctionType import ActivationFunctionType
    from ethosu.vela.tflite.BuiltinOperator import BuiltinOperator
    from ethosu.vela.tflite.BuiltinOptions import BuiltinOptions
    from ethosu.vela.tflite.Padding import Padding
    from ethosu.vela.tflite.TensorType import TensorType
except ImportError as error:
    raise DeviceUnavailableError(
        f"int8 TFLite files need Arm's compiler Vela: pip install 'hwnas[ethos-u]' ({error})."
    ) from error

Pads = Sequence[tuple[int, int]]
"""Zeros (before, behind) per axis."""

SCHEMA_VERSION = 3
FILE_IDENTIFIER = b"TFL3"
BUFFER_ALIGNMENT = 16  # bytes; TFLite's runtimes map weights in place

OPTIONS: Mapping[str, ModuleType] = {
    "ADD": AddOptions,
    "AVERAGE_POOL_2D": Pool2DOptions,
    "CONV_2D": Conv2DOptions,
    "DEPTHWISE_CONV_2D": DepthwiseConv2DOptions,
    "FULLY_CONNECTED": FullyConnectedOptions,
    "MAX_POOL_2D": Pool2DOptions,
    "MEAN": ReducerOptions,
    "MUL": MulOptions,
    "PAD": PadOptions,
    "SUB": SubOptions,
}
"""Operator -> its options table in the schema; the others have none."""

FUSED = {"RELU": ActivationFunctionType.RELU, "RELU6": ActivationFunctionType.RELU6}
"""Operators that the one before them can do along the way."""

INT8_VERSIONS = {
    "ADD": 2,
    "AVERAGE_POOL_2D": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 4,
    "HARD_SWISH": 1,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "MUL": 2,
    "PAD": 2,
    "RELU": 2,
    "RELU6": 2,
    "SUB": 2,
}
"""Operator -> the version of its definition that introduced int8."""


HARD_SIGMOID_CLIP = Quantisation(6 / 255, -128)
HARD_SIGMOID_GATE = Quantisation(1 / 255, -128)


@dataclass(frozen=True)
class TfliteValue:
    """An activation: index of its tensor in the file and shape (C, H, W) or (C,), without the batch."""

    tensor: int
    shape: Shape


@dataclass
class _Tensor:
    """One tensor of the file. ``shape`` is TFLite's, i.e. (1, H, W, C) for an activation; ``scales`` has one entry, or
    one per index of ``axis``; ``data`` is None for activations."""

    name: str
    shape: tuple[int, ...]
    dtype: int = TensorType.INT8
    scales: NDArray[np.float32] | None = None
    zero_point: int = 0
    axis: int = 0
    data: NDArray[Any] | None = None


@dataclass
class _Operator:
    """One operator of the file: the position that it belongs to; inputs and output are indices of tensors."""

    position: str
    kind: str
    inputs: list[int]
    output: int
    options: dict[str, int] = field(default_factory=dict)


class TfliteGraph:
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
        """Of the layer that is being written."""
        self.tensors: list[_Tensor] = []
        self.operators: list[_Operator] = []
        self.emitted = 0

    def input(self, shape: Shape) -> TfliteValue:
        """The network's input."""
        return self._activation(INPUT, shape, self.next_quantisation())

    def padded(
        self, x: TfliteValue, pads: Pads, kernel: Shape, stride: Shape, dilation: Shape
    ) -> tuple[TfliteValue, int]:
        """The input as an operator takes it, and the kind of padding that the operator then states.

        Args:
            x: an image.
            pads: zeros (before, behind) of its height and width.
            kernel, stride, dilation: of height and width.
        """
        seen, as_same = [], True
        for size, (before, behind), k, s, d in zip(x.shape[1:], pads, kernel, stride, dilation, strict=True):
            window = d * (k - 1) + 1
            outputs = (size + before + behind - window) // s + 1
            as_same &= outputs == -(-size // s)
            seen.append((before, max((outputs - 1) * s + window - size - before, 0)))  # zeros that an output sees
        # SAME puts the smaller half of the padding before.
        if as_same and all(before == (before + behind) // 2 for before, behind in seen):
            return x, Padding.SAME
        return (self.pad(x, seen) if any(map(any, seen)) else x), Padding.VALID

    def pad(self, x: TfliteValue, pads: Sequence[tuple[int, int]]) -> TfliteValue:
        """Zeros around an image."""
        widths = np.array([(0, 0), *pads, (0, 0)], np.int32)
        shape = (x.shape[0], *(size + sum(pair) for size, pair in zip(x.shape[1:], pads, strict=True)))
        return self.add_operator("PAD", [x.tensor, self.integers("padding", widths)], shape, self.quantisation_of(x))

    def quantisation_of(self, x: TfliteValue) -> Quantisation:
        """Scale and zero point of a value."""
        source = self.tensors[x.tensor]
        assert source.scales is not None
        return Quantisation(float(source.scales[0]), source.zero_point)

    def integers(self, name: str, values: NDArray[np.int32]) -> int:
        """Tensor of integers, such as axes."""
        return self._tensor(_Tensor(name, values.shape, TensorType.INT32, data=values))

    def emit(self, kind: str, inputs: list[int], shape: Shape, **options: int) -> TfliteValue:
        """One operator that stands for one call of the protocol."""
        return self.add_operator(kind, inputs, shape, self.next_quantisation(), **options)

    def add_operator(
        self, kind: str, inputs: list[int], shape: Shape, quantisation: Quantisation, **options: int
    ) -> TfliteValue:
        output = self._activation(kind, shape, quantisation)
        self.operators.append(_Operator(self.position, kind, inputs, output.tensor, options))
        return output

    def next_quantisation(self, default: Quantisation | None = None) -> Quantisation:
        self.emitted += 1
        if self.ranges is None:
            return default or self.default
        if self.emitted > len(self.ranges):
            raise MismatchError(f"There are only {len(self.ranges)} activation ranges; they belong to another network.")
        return Quantisation.of_range(*self.ranges[self.emitted - 1])

    def _activation(self, name: str, shape: Shape, quantisation: Quantisation) -> TfliteValue:
        # (C, H, W) -> (1, H, W, C); (C,) -> (1, C)
        scales = np.array([quantisation.scale], np.float32)
        tensor = _Tensor(name, (1, *shape[1:], shape[0]), scales=scales, zero_point=quantisation.zero_point)
        return TfliteValue(self._tensor(tensor), shape)

    def scalar(self, name: str, value: float) -> int:
        scales = np.array([value / 127], np.float32)
        return self._tensor(_Tensor(name, (1,), scales=scales, data=np.array([127], np.int8)))

    def parameters(
        self, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32], x: TfliteValue, axis: int | None
    ) -> tuple[int, int]:
        """Tensors of the quantised weight (one scale per index of `axis`; None: one for all) and bias."""
        input_scales = self.tensors[x.tensor].scales
        assert input_scales is not None
        integers, scales = quantise_weight(weight, bias, float(input_scales[0]), axis)
        bias_integers, bias_scales = quantise_bias(bias, scales, float(input_scales[0]))
        return (
            self._tensor(_Tensor(f"{name}.weight", weight.shape, scales=scales, axis=axis or 0, data=integers)),
            self._tensor(_Tensor(f"{name}.bias", bias.shape, TensorType.INT32, scales=bias_scales, data=bias_integers)),
        )

    def _tensor(self, tensor: _Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1


@functools.singledispatch
def tflite_value(op: Op, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    """The result of an operator, which is added to the file."""
    value: TfliteValue = own_method(op, "to_tflite", "TFLite")(graph, *inputs)
    return value


def _shape(op: Op, inputs: Sequence[TfliteValue]) -> Shape:
    return op.shape(*(x.shape for x in inputs))


@tflite_value.register
def _(op: Convolution, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    (x,) = inputs
    in_channels, depthwise = x.shape[0], op.depthwise(x.shape[0])
    if op.groups > 1 and not depthwise:
        raise InvalidValueError(
            f"Convolution '{graph.position}.{op.name}' to TFLite has groups = 1 or one group per channel, but got "
            f"{op.groups} groups for {in_channels} -> {op.channels} channels."
        )
    weight, offset = graph.model.parameters(f"{graph.position}.{op.name}", op.weight_shape(x.shape))
    # (out, in, k, k) -> (out, k, k, in), or (channels, 1, k, k) -> (1, k, k, channels)
    weight = weight.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
    kernel, stride, dilation = (per_axis(value, 2) for value in (op.kernel, op.stride, op.dilation))
    shape = _shape(op, inputs)
    x, padding = graph.padded(x, op.pads(2), kernel, stride, dilation)
    options = {
        "Padding": padding,
        "StrideW": stride[1],
        "StrideH": stride[0],
        "DilationWFactor": dilation[1],
        "DilationHFactor": dilation[0],
    }
    if depthwise:
        options["DepthMultiplier"] = 1
    name = f"{graph.position}.{op.name}"
    return graph.emit(
        "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
        [x.tensor, *graph.parameters(name, weight, offset, x, axis=3 if depthwise else 0)],
        shape,
        **options,
    )


@tflite_value.register
def _(op: BatchNorm, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    channels = inputs[0].shape[0]  # a convolution of 1x1 is the same
    return tflite_value(Convolution(op.name, channels, groups=channels), graph, *inputs)


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
            FusedActivationFunction=ActivationFunctionType.RELU6,
        )
        return graph.add_operator("MUL", [clip.tensor, sixth], x.shape, quantisation)
    return graph.emit({"relu": "RELU", "relu6": "RELU6", "h_swish": "HARD_SWISH"}[op.kind], [x.tensor], x.shape)


@tflite_value.register
def _(op: GlobalPool, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    axes = graph.integers("height_and_width", np.array([1, 2], np.int32))
    return graph.emit("MEAN", [inputs[0].tensor, axes], _shape(op, inputs), KeepDims=True)


@tflite_value.register
def _(op: Pool, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    (x,) = inputs
    _, height, width = x.shape
    kernel, stride = per_axis(op.kernel, 2), per_axis(op.stride, 2)
    x, padding = graph.padded(x, op.pads(x.shape[1:]), kernel, stride, (1, 1))
    if padding == Padding.VALID and op.kind == "average":
        raise InvalidValueError(
            f"Average pooling of {height}x{width} by {op.kernel}/{op.stride} would count the padding."
        )
    # Zeros around the image are the least values of a maximum over what a ReLU gives, as in the ResNets.
    graph.next_quantisation()  # the range is there, but TFLite's pooling keeps the scale of its input
    return graph.add_operator(
        {"max": "MAX_POOL_2D", "average": "AVERAGE_POOL_2D"}[op.kind],
        [x.tensor],
        _shape(op, inputs),
        graph.quantisation_of(x),
        Padding=padding,
        StrideW=stride[1],
        StrideH=stride[0],
        FilterWidth=kernel[1],
        FilterHeight=kernel[0],
    )


@tflite_value.register
def _(op: Linear, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    (x,) = inputs
    name = f"{graph.position}.{op.name}"
    weight, offset = graph.model.parameters(name, (op.features, op.width(x.shape)))
    tensors = [x.tensor, *graph.parameters(name, weight, offset, x, axis=None)]
    return graph.emit("FULLY_CONNECTED", tensors, _shape(op, inputs))


@tflite_value.register
def _(op: Add, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    return graph.emit("ADD", [x.tensor for x in inputs], inputs[0].shape)


@tflite_value.register
def _(op: Multiply, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    return graph.emit("MUL", [x.tensor for x in inputs], inputs[0].shape)


@tflite_value.register
def _(op: Zero, graph: TfliteGraph, *inputs: TfliteValue) -> TfliteValue:
    return graph.emit("SUB", [inputs[0].tensor, inputs[0].tensor], inputs[0].shape)


def tflite_model(
    model: Model,
    ranges: Sequence[Range] | None = None,
    default: Quantisation = DEFAULT_QUANTISATION,
) -> bytes:
    """int8 TFLite file with input ``image`` (1, H, W, C) and output ``logits`` (1, ...), both int8.

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
    x = graph.input(model.input_shape)

    def write(position: str, op: Op, *values: TfliteValue) -> TfliteValue:
        graph.position = position
        return tflite_value(op, graph, *values)

    y = model.fold(write, x)
    if ranges is not None and graph.emitted != len(ranges):
        raise MismatchError(
            f"There are {len(ranges)} activation ranges for {graph.emitted} activations; they belong to another "
            f"network."
        )
    operators = _fuse_relu(graph.operators, y.tensor)
    for number, operator in enumerate(operators):
        graph.tensors[operator.output].name = f"{operator.position}/v{number}_{operator.kind}"
    graph.tensors[y.tensor].name = OUTPUT
    return _serialise(graph.tensors, operators, x.tensor, y.tensor)


def operator_positions(content: bytes, model: Model) -> list[str]:
    """The position that each operator of a file belongs to.

    Args:
        content: what `tflite_model` gave for the model.
        model: its last layer gives the output, whose name says no position.
    """
    graph = ModelTable.Model.GetRootAs(content).Subgraphs(0)
    outputs = (graph.Operators(i).Outputs(0) for i in range(graph.OperatorsLength()))
    names = (graph.Tensors(output).Name().decode() for output in outputs)
    return [list(model.layers)[-1] if name == OUTPUT else name.rpartition("/")[0] for name in names]


def _fuse_relu(operators: Sequence[_Operator], output: int) -> list[_Operator]:
    """Fuse each ReLU into the convolution or linear layer whose result nothing else reads."""
    readers: dict[int, int] = {output: 1}
    for operator in operators:
        for tensor in operator.inputs:
            readers[tensor] = readers.get(tensor, 0) + 1
    fused: dict[int, _Operator] = {}  # output tensor -> operator, in order
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


def _serialise(tensors: Sequence[_Tensor], operators: Sequence[_Operator], x: int, y: int) -> bytes:
    builder = flatbuffers.Builder(1024 + 2 * sum(t.data.nbytes for t in tensors if t.data is not None))
    used = sorted({x, y}.union(*({*operator.inputs, operator.output} for operator in operators)))
    number = {tensor: i for i, tensor in enumerate(used)}
    kinds = sorted({operator.kind for operator in operators})

    buffers = [_table(builder, Buffer)]  # TFLite: buffer 0 is empty, and activations use it
    tensor_tables = []
    for tensor in (tensors[i] for i in used):
        buffer = 0
        if tensor.data is not None:
            buffer = len(buffers)
            buffers.append(_table(builder, Buffer, Data=_aligned_bytes(builder, tensor.data.tobytes())))
        tensor_tables.append(_tensor_table(builder, tensor, buffer))

    operator_tables = []
    for operator in operators:
        fields: dict[str, int] = {"OpcodeIndex": kinds.index(operator.kind)}
        if operator.kind in OPTIONS:
            options = OPTIONS[operator.kind]
            fields["BuiltinOptions"] = _table(builder, options, **operator.options)
            fields["BuiltinOptionsType"] = getattr(BuiltinOptions, options.__name__.rsplit(".", 1)[-1])
        fields["Inputs"] = _integers(builder, [number[tensor] for tensor in operator.inputs])
        fields["Outputs"] = _integers(builder, [number[operator.output]])
        operator_tables.append(_table(builder, Operator, **fields))

    subgraph = _table(
        builder,
        SubGraph,
        Tensors=_offsets(builder, tensor_tables),
        Inputs=_integers(builder, [number[x]]),
        Outputs=_integers(builder, [number[y]]),
        Operators=_offsets(builder, operator_tables),
    )
    codes = []
    for kind in kinds:
        code = getattr(BuiltinOperator, kind)  # below 127, so that the old field holds it as well
        version = INT8_VERSIONS[kind]
        codes.append(_table(builder, OperatorCode, DeprecatedBuiltinCode=code, BuiltinCode=code, Version=version))
    root = _table(
        builder,
        ModelTable,
        Version=SCHEMA_VERSION,
        OperatorCodes=_offsets(builder, codes),
        Subgraphs=_offsets(builder, [subgraph]),
        Description=builder.CreateString("hwnas"),
        Buffers=_offsets(builder, buffers),
    )
    builder.Finish(root, FILE_IDENTIFIER)
    return bytes(builder.Output())


def _tensor_table(builder: flatbuffers.Builder, tensor: _Tensor, buffer: int) -> int:
    fields = {"Shape": _integers(builder, tensor.shape), "Name": builder.CreateString(tensor.name)}
    if tensor.scales is not None:
        zero_points = np.full(len(tensor.scales), tensor.zero_point, np.int64)
        fields["Quantization"] = _table(
            builder,
            QuantizationParameters,
            Scale=builder.CreateNumpyVector(tensor.scales),
            ZeroPoint=builder.CreateNumpyVector(zero_points),
            QuantizedDimension=tensor.axis,
        )
    return _table(builder, Tensor, Type=tensor.dtype, Buffer=buffer, **fields)


def _table(builder: flatbuffers.Builder, schema: ModuleType, **fields: int) -> int:
    """Write one table; fields are named as in the schema, and nested things are offsets."""
    schema.Start(builder)
    for name, value in fields.items():
        getattr(schema, f"Add{name}")(builder, value)
    offset: int = schema.End(builder)
    return offset


def _integers(builder: flatbuffers.Builder, values: ArrayLike) -> int:
    offset: int = builder.CreateNumpyVector(np.asarray(values, np.int32))
    return offset


def _offsets(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    size = np.dtype(np.uint32).itemsize
    builder.StartVector(size, len(offsets), size)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    vector: int = builder.EndVector()
    return vector


def _aligned_bytes(builder: flatbuffers.Builder, content: bytes) -> int:
    # As builder.CreateByteVector, which has no alignment.
    builder.StartVector(1, len(content), BUFFER_ALIGNMENT)
    builder.head -= len(content)
    builder.Bytes[builder.head : builder.head + len(content)] = content
    offset: int = builder.EndVector()
    return offset

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import INPUT, OUTPUT
from hardware_profiles.quantisation import DEFAULT_QUANTISATION, Quantisation, Range, quantise_bias, quantise_weight
from search_spaces.base.errors import DeviceUnavailableError, InvalidValueError, MismatchError
from search_spaces.graph import Activation, Pool
from search_spaces.layers import Shape

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
    """Implements `search_spaces.graph.Graph`.

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
        """Of the layer that is emitting itself."""
        self.tensors: list[_Tensor] = []
        self.operators: list[_Operator] = []
        self.emitted = 0

    def input(self, shape: Shape) -> TfliteValue:
        """The network's input."""
        return self._activation(INPUT, shape, self._next_quantisation())

    def conv(
        self,
        x: TfliteValue,
        name: str,
        *,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        bias: bool = True,
    ) -> TfliteValue:
        in_channels, height, width = x.shape
        depthwise = groups == in_channels == channels and groups > 1
        if groups > 1 and not depthwise:
            raise InvalidValueError(
                f"Convolution {name!r} to TFLite has groups = 1 or one group per channel, but got {groups} groups for "
                f"{in_channels} -> {channels} channels."
            )
        weight, offset = self.model.parameters(name, (channels, in_channels // groups, kernel, kernel))
        # (out, in, k, k) -> (out, k, k, in), or (channels, 1, k, k) -> (1, k, k, channels)
        weight = weight.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
        x, padding = self._padded(x, kernel, stride)
        options = {
            "Padding": padding,
            "StrideW": stride,
            "StrideH": stride,
            "DilationWFactor": 1,
            "DilationHFactor": 1,
        }
        if depthwise:
            options["DepthMultiplier"] = 1
        return self._emit(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
            [x.tensor, *self._parameters(name, weight, offset, x, axis=3 if depthwise else 0)],
            (channels, -(-height // stride), -(-width // stride)),
            **options,
        )

    def norm(self, x: TfliteValue, name: str) -> TfliteValue:
        return self.conv(x, name, channels=x.shape[0], groups=x.shape[0])  # of 1x1 is the same

    def activation(self, x: TfliteValue, kind: Activation) -> TfliteValue:
        if kind == "none":
            return x
        if kind == "h_sigmoid":
            quantisation = self._next_quantisation(HARD_SIGMOID_GATE)
            three, sixth = (self._scalar(name, value) for name, value in (("three", 3.0), ("sixth", 1 / 6)))
            clip = self._add_operator(
                "ADD",
                [x.tensor, three],
                x.shape,
                HARD_SIGMOID_CLIP,
                FusedActivationFunction=ActivationFunctionType.RELU6,
            )
            return self._add_operator("MUL", [clip.tensor, sixth], x.shape, quantisation)
        return self._emit({"relu": "RELU", "relu6": "RELU6", "h_swish": "HARD_SWISH"}[kind], [x.tensor], x.shape)

    def global_pool(self, x: TfliteValue) -> TfliteValue:
        axes = self._tensor(_Tensor("height_and_width", (2,), TensorType.INT32, data=np.array([1, 2], np.int32)))
        return self._emit("MEAN", [x.tensor, axes], (x.shape[0], 1, 1), KeepDims=True)

    def pool(self, x: TfliteValue, kind: Pool, *, kernel: int, stride: int) -> TfliteValue:
        channels, height, width = x.shape
        x, padding = self._padded(x, kernel, stride)
        if padding == Padding.VALID and kind == "average":
            raise InvalidValueError(
                f"Average pooling of {height}x{width} by {kernel}/{stride} would count the padding."
            )
        # Zeros around the image are the least values of a maximum over what a ReLU gives, as in the ResNets.
        source = self.tensors[x.tensor]
        assert source.scales is not None
        self._next_quantisation()  # the range is there, but TFLite's pooling keeps the scale of its input
        return self._add_operator(
            {"max": "MAX_POOL_2D", "average": "AVERAGE_POOL_2D"}[kind],
            [x.tensor],
            (channels, -(-height // stride), -(-width // stride)),
            Quantisation(float(source.scales[0]), source.zero_point),
            Padding=padding,
            StrideW=stride,
            StrideH=stride,
            FilterWidth=kernel,
            FilterHeight=kernel,
        )

    def linear(self, x: TfliteValue, name: str, *, features: int, bias: bool = True) -> TfliteValue:
        weight, offset = self.model.parameters(name, (features, int(np.prod(x.shape))))
        inputs = [x.tensor, *self._parameters(name, weight, offset, x, axis=None)]
        return self._emit("FULLY_CONNECTED", inputs, (features,))

    def add(self, a: TfliteValue, b: TfliteValue) -> TfliteValue:
        return self._emit("ADD", [a.tensor, b.tensor], a.shape)

    def multiply(self, a: TfliteValue, b: TfliteValue) -> TfliteValue:
        return self._emit("MUL", [a.tensor, b.tensor], a.shape)

    def shuffle(self, x: TfliteValue, groups: int) -> TfliteValue:
        raise InvalidValueError(f"A shuffle of {groups} groups cannot be written to TFLite, nor can its convolutions.")

    def zero(self, x: TfliteValue) -> TfliteValue:
        return self._emit("SUB", [x.tensor, x.tensor], x.shape)

    def _padded(self, x: TfliteValue, kernel: int, stride: int) -> tuple[TfliteValue, int]:
        """The input as an operator with this kernel takes it, and the kind of padding that the operator then states."""
        vertical, horizontal = (_padding(extent, kernel, stride) for extent in x.shape[1:])
        # SAME puts the smaller half of the padding before.
        if all(before == (before + after) // 2 for before, after in (vertical, horizontal)):
            return x, Padding.SAME
        return self._pad(x, vertical, horizontal), Padding.VALID

    def _pad(self, x: TfliteValue, vertical: tuple[int, int], horizontal: tuple[int, int]) -> TfliteValue:
        widths = np.array([(0, 0), vertical, horizontal, (0, 0)], np.int32)
        shape = (x.shape[0], x.shape[1] + sum(vertical), x.shape[2] + sum(horizontal))
        source = self.tensors[x.tensor]
        assert source.scales is not None
        quantisation = Quantisation(float(source.scales[0]), source.zero_point)
        widths_tensor = self._tensor(_Tensor("padding", widths.shape, TensorType.INT32, data=widths))
        return self._add_operator("PAD", [x.tensor, widths_tensor], shape, quantisation)

    def _emit(self, kind: str, inputs: list[int], shape: Shape, **options: int) -> TfliteValue:
        """One operator that stands for one call of the protocol."""
        return self._add_operator(kind, inputs, shape, self._next_quantisation(), **options)

    def _add_operator(
        self, kind: str, inputs: list[int], shape: Shape, quantisation: Quantisation, **options: int
    ) -> TfliteValue:
        output = self._activation(kind, shape, quantisation)
        self.operators.append(_Operator(self.position, kind, inputs, output.tensor, options))
        return output

    def _next_quantisation(self, default: Quantisation | None = None) -> Quantisation:
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

    def _scalar(self, name: str, value: float) -> int:
        scales = np.array([value / 127], np.float32)
        return self._tensor(_Tensor(name, (1,), scales=scales, data=np.array([127], np.int8)))

    def _parameters(
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


def _padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding (before, after) that the outputs see: by kernel // 2 on both ends, by none where the kernel is even."""
    outputs = -(-size // stride)
    before = kernel // 2 if kernel % 2 else 0
    return before, max((outputs - 1) * stride + kernel - size - before, 0)


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
    y = x = graph.input(model.input_shape)
    for position, layer in model.layers.items():
        graph.position = position
        y = layer.emit(graph, y, position)
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

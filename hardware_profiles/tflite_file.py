"""Files of TFLite, written with flatbuffers and the schema classes that come with Vela."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.base.errors import DeviceUnavailableError


def unavailable(error: ImportError) -> DeviceUnavailableError:
    """The error of whoever needs these classes without having them."""
    return DeviceUnavailableError(
        f"int8 TFLite files need Arm's compiler Vela: pip install 'hwnas[ethos-u]' ({error})."
    )


try:
    import flatbuffers
    from ethosu.vela.tflite import (
        AddOptions,
        BatchMatMulOptions,
        Buffer,
        ConcatenationOptions,
        Conv2DOptions,
        DepthwiseConv2DOptions,
        FullyConnectedOptions,
        GatherOptions,
        GeluOptions,
        LeakyReluOptions,
        MirrorPadOptions,
        MulOptions,
        Operator,
        OperatorCode,
        PadOptions,
        Pool2DOptions,
        QuantizationParameters,
        QuantizeOptions,
        ReducerOptions,
        ReshapeOptions,
        ResizeBilinearOptions,
        ResizeNearestNeighborOptions,
        SliceOptions,
        SoftmaxOptions,
        StridedSliceOptions,
        SubGraph,
        SubOptions,
        Tensor,
        TransposeConvOptions,
        TransposeOptions,
    )
    from ethosu.vela.tflite import Model as ModelTable
    from ethosu.vela.tflite.BuiltinOperator import BuiltinOperator
    from ethosu.vela.tflite.BuiltinOptions import BuiltinOptions
    from ethosu.vela.tflite.TensorType import TensorType
except ImportError as error:
    raise unavailable(error) from error

SCHEMA_VERSION = 3
FILE_IDENTIFIER = b"TFL3"
LARGEST_OLD_CODE = 127
"""Stands in the old field of an operator's code for all that it cannot hold."""
BUFFER_ALIGNMENT = 16  # bytes; TFLite's runtimes map weights in place

OPTIONS: Mapping[str, ModuleType] = {
    "ADD": AddOptions,
    "AVERAGE_POOL_2D": Pool2DOptions,
    "BATCH_MATMUL": BatchMatMulOptions,
    "CONCATENATION": ConcatenationOptions,
    "CONV_2D": Conv2DOptions,
    "DEPTHWISE_CONV_2D": DepthwiseConv2DOptions,
    "FULLY_CONNECTED": FullyConnectedOptions,
    "GATHER": GatherOptions,
    "GELU": GeluOptions,
    "LEAKY_RELU": LeakyReluOptions,
    "MAX_POOL_2D": Pool2DOptions,
    "MEAN": ReducerOptions,
    "MIRROR_PAD": MirrorPadOptions,
    "MUL": MulOptions,
    "PAD": PadOptions,
    "QUANTIZE": QuantizeOptions,
    "REDUCE_MAX": ReducerOptions,
    "RESHAPE": ReshapeOptions,
    "RESIZE_BILINEAR": ResizeBilinearOptions,
    "RESIZE_NEAREST_NEIGHBOR": ResizeNearestNeighborOptions,
    "SLICE": SliceOptions,
    "SOFTMAX": SoftmaxOptions,
    "STRIDED_SLICE": StridedSliceOptions,
    "SUB": SubOptions,
    "SUM": ReducerOptions,
    "TRANSPOSE": TransposeOptions,
    "TRANSPOSE_CONV": TransposeConvOptions,
}
"""Operator -> its options table in the schema; the others have none."""

INT8_VERSIONS = {
    "ADD": 2,
    "AVERAGE_POOL_2D": 2,
    "BATCH_MATMUL": 2,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 4,
    "GATHER": 2,
    "GELU": 1,
    "HARD_SWISH": 1,
    "LEAKY_RELU": 2,
    "LOGISTIC": 2,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "MIRROR_PAD": 2,
    "MUL": 2,
    "PAD": 2,
    "PRELU": 1,
    "QUANTIZE": 2,
    "REDUCE_MAX": 2,
    "RELU": 2,
    "RELU6": 2,
    "RESHAPE": 1,
    "RESIZE_BILINEAR": 3,
    "RESIZE_NEAREST_NEIGHBOR": 3,
    "RSQRT": 2,
    "SLICE": 2,
    "SOFTMAX": 2,
    "STRIDED_SLICE": 2,
    "SUB": 2,
    "SUM": 2,
    "TANH": 2,
    "TRANSPOSE": 2,
    "TRANSPOSE_CONV": 3,
}
"""Operator -> the version of its definition that introduced int8."""


@dataclass
class FileTensor:
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
class FileOperator:
    """One operator of the file: the position that it belongs to; inputs and output are indices of tensors."""

    position: str
    kind: str
    inputs: list[int]
    output: int
    options: dict[str, float] = field(default_factory=dict)


def serialised(
    tensors: Sequence[FileTensor], operators: Sequence[FileOperator], inputs: Sequence[int], outputs: Sequence[int]
) -> bytes:
    """A file of the tensors that the operators use.

    Args:
        tensors: all that there may be.
        operators: in the order in which they run.
        inputs, outputs: of the network, indices of tensors.
    """
    builder = flatbuffers.Builder(1024 + 2 * sum(t.data.nbytes for t in tensors if t.data is not None))
    used = sorted({*inputs, *outputs}.union(*({*operator.inputs, operator.output} for operator in operators)))
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
        fields: dict[str, float] = {"OpcodeIndex": kinds.index(operator.kind)}
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
        Inputs=_integers(builder, [number[tensor] for tensor in inputs]),
        Outputs=_integers(builder, [number[tensor] for tensor in outputs]),
        Operators=_offsets(builder, operator_tables),
    )
    codes = []
    for kind in kinds:
        code = getattr(BuiltinOperator, kind)
        old = min(code, LARGEST_OLD_CODE)
        codes.append(
            _table(builder, OperatorCode, DeprecatedBuiltinCode=old, BuiltinCode=code, Version=INT8_VERSIONS[kind])
        )
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


def _tensor_table(builder: flatbuffers.Builder, tensor: FileTensor, buffer: int) -> int:
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


def _table(builder: flatbuffers.Builder, schema: ModuleType, **fields: float) -> int:
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

"""Operators and networks of any shape as int8 TFLite: what is written, what it is quantised with, what it computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("ethosu")

from ethosu.vela.tflite.BuiltinOptions import BuiltinOptions

from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import cpu_session, onnx_model
from hardware_profiles.quantisation import activation_ranges
from hardware_profiles.tflite_graph import SHARE, TANH, operator_positions, tflite_model
from search_spaces.base.errors import MissingOperatorError
from search_spaces.network import Network
from search_spaces.ops.activation import Activate, LeakyRelu, PRelu
from search_spaces.ops.arithmetic import Add, Multiply, Scale
from search_spaces.ops.convolution import Convolution, Linear
from search_spaces.ops.learned import Embedding, Learned
from search_spaces.ops.matmul import Matmul, Softmax
from search_spaces.ops.movement import (
    Concat,
    DepthToSpace,
    Gather,
    Pad,
    Shuffle,
    Slice,
    SpaceToDepth,
    Transpose,
    flatten,
    split,
)
from search_spaces.ops.normalisation import GroupNorm, LayerNorm, RmsNorm
from search_spaces.ops.pooling import Pool
from search_spaces.ops.reduction import Reduce
from search_spaces.ops.resize import Resize
from search_spaces.ops.transposed_convolution import TransposedConvolution
from search_spaces.program import Shape, Traced
from tests.hardware_profiles.networks import Steps, graph, network_of, oblong, patches, signal, tokens, vector
from tests.hardware_profiles.test_tflite_graph import File

IMAGE, SIGNAL, TOKENS, VECTOR = (8, 6, 10), (8, 12), (7, 24), (16,)


def enlarged(**named: Any) -> Steps:
    return TransposedConvolution("t", 16, **named)


def attention(x: Traced) -> Traced:
    """Self-attention of one head, without a norm."""
    query, key, value = (Linear(name, 16)(x) for name in ("query", "key", "value"))
    return Matmul()(Softmax()(Scale(0.25)(Matmul(transposed=True)(query, key))), value)


def shares(x: Traced) -> Traced:
    return Concat()(*(Activate("relu")(part) for part in split(x, [2, 6])))


SCALED = ["RSQRT", "MUL", "MUL"]
"""Inverse root of the mean square, its product with the input, and that with the norm's factors."""
GROUPS_NORMED = ["MEAN", "CONV_2D", "CONV_2D", "SUB", "MUL", "MEAN", "CONV_2D", "RSQRT", "CONV_2D", "MUL", "MUL", "ADD"]

WRITTEN: dict[str, tuple[list[str], Steps, *tuple[Shape, ...]]] = {
    "sigmoid": (["LOGISTIC"], Activate("sigmoid"), IMAGE),
    "tanh": (["TANH"], Activate("tanh"), TOKENS),
    "silu": (["LOGISTIC", "MUL"], Activate("silu"), IMAGE),
    "gelu": (["GELU"], Activate("gelu"), IMAGE),
    "gelu_tanh": (["GELU"], Activate("gelu_tanh"), TOKENS),
    "leaky": (["LEAKY_RELU"], LeakyRelu(0.1), IMAGE),
    "prelu": (["PRELU"], PRelu("slope"), IMAGE),
    "prelu of tokens": (["PRELU"], PRelu("slope"), TOKENS),
    "scale": (["MUL"], Scale(-0.3), TOKENS),
    "sum with channels": (["ADD"], Add(), IMAGE, (8, 1, 1)),
    "product": (["MUL"], Multiply(), TOKENS, (1, 24)),
    "concat": (["CONCATENATION"], Concat(), IMAGE, (16, 6, 10)),
    "split": (["SLICE", "SLICE", "RELU", "RELU", "CONCATENATION"], shares, IMAGE),
    "strided slice": (["STRIDED_SLICE"], Slice(1, 1, 6, 2), IMAGE),
    "gather": (["SLICE", "SLICE", "SLICE", "CONCATENATION"], Gather((3, 1, 1, 2)), IMAGE),
    "gather of a run": (["SLICE"], Gather((3, 4, 5), 1), IMAGE),
    "gather of many": (["GATHER"], Gather((1,) * 40, -1), TOKENS),
    "pad": (["PAD"], Pad(((1, 0), (0, 2), (3, 1))), IMAGE),
    "flatten": (["TRANSPOSE", "RESHAPE"], flatten, IMAGE),
    "tokens of an image": (
        ["RESHAPE", "RESHAPE", "FULLY_CONNECTED"],
        lambda x: Linear("l", 4)(Transpose((1, 0))(flatten(x, 1))),
        IMAGE,
    ),
    "transpose": (["TRANSPOSE"], Transpose((0, 2, 1)), IMAGE),
    "shuffle": (["RESHAPE", "TRANSPOSE", "RESHAPE"], Shuffle(2), IMAGE),
    "depth to space": (["RESHAPE", "TRANSPOSE", "RESHAPE"], DepthToSpace(2), IMAGE),
    "space to depth": (["RESHAPE", "TRANSPOSE", "RESHAPE"], SpaceToDepth(2), IMAGE),
    "nearest": (["RESIZE_NEAREST_NEIGHBOR"], Resize("nearest", 2), IMAGE),
    "bilinear": (["RESIZE_BILINEAR"], Resize("bilinear", 2), IMAGE),
    "mean": (["MEAN"], Reduce("mean", (1, 2), True), IMAGE),
    "mean of tokens": (["MEAN", "RESHAPE"], Reduce("mean", (0,)), TOKENS),
    "mean of channels": (["CONV_2D"], Reduce("mean", (0,), True), IMAGE),
    "mean of features": (["FULLY_CONNECTED", "RESHAPE"], Reduce("mean", (1,)), TOKENS),
    "sum": (["FULLY_CONNECTED"], Reduce("sum", (1,), True), TOKENS),
    "sum of rows": (["SUM"], Reduce("sum", (1,), True), IMAGE),
    "maximum": (["REDUCE_MAX"], Reduce("max", (1,), True), IMAGE),
    "product of matrices": (["TRANSPOSE", "TRANSPOSE", "BATCH_MATMUL", "TRANSPOSE"], Matmul(), (2, 7, 24), (2, 24, 9)),
    "attention": (
        [*["FULLY_CONNECTED"] * 3, "BATCH_MATMUL", "MUL", "SOFTMAX", "BATCH_MATMUL"],
        attention,
        TOKENS,
    ),
    "softmax of channels": (["SOFTMAX"], Softmax(0), IMAGE),
    "class token": (["CONCATENATION"], lambda x: Concat()(Learned("token", (1, 24))(x), x), TOKENS),
    "embedding": (["GATHER", "FULLY_CONNECTED"], lambda x: Linear("l", 8)(Embedding("e", 11, 16)(x)), (7,)),
    "enlarged": (["TRANSPOSE_CONV"], enlarged(), IMAGE),
    "enlarged by an odd kernel": (["TRANSPOSE_CONV"], enlarged(kernel=3), IMAGE),
    "enlarged and cut": (["TRANSPOSE_CONV"], enlarged(kernel=4, padding=1), IMAGE),
    "enlarged, nothing cut": (["TRANSPOSE_CONV"], enlarged(kernel=4, padding=0), IMAGE),
    "maximum of windows": (["PAD", "MAX_POOL_2D"], Pool("max", 3, 2), IMAGE),
    "average of a cut image": (["AVERAGE_POOL_2D"], Pool("average", (3, 2), 1, padding=0), IMAGE),
    "signal": (
        ["TRANSPOSE", "RESHAPE", "CONV_2D", "DEPTHWISE_CONV_2D", "PAD", "MAX_POOL_2D", "MEAN", "RESHAPE"]
        + ["FULLY_CONNECTED"],
        signal,
        (6, 51),
    ),
    "tokens": (["FULLY_CONNECTED", "FULLY_CONNECTED", "ADD"], tokens, (7, 12)),
    "vector": (["FULLY_CONNECTED", "FULLY_CONNECTED", "ADD"], vector, (10,)),
    "oblong": (["PAD", "CONV_2D", "CONV_2D", "PAD", "DEPTHWISE_CONV_2D"], oblong, (6, 11, 20)),
    "patches": ([*["RESHAPE"] * 2, "FULLY_CONNECTED", *["RESHAPE"] * 2, "DEPTHWISE_CONV_2D"], patches, (16, 6, 10)),
    "groups": (["CONV_2D"], Convolution("conv", 12, 3, groups=4), IMAGE),
    "groups of one input": (["PAD", "CONV_2D"], Convolution("conv", 16, 3, 2, groups=8), IMAGE),
    "groups of a signal": (
        ["TRANSPOSE", "RESHAPE", "CONV_2D", "RESHAPE", "TRANSPOSE"],
        Convolution("conv", 16, 3, groups=2, dilation=2),
        SIGNAL,
    ),
    "layer norm": (["FULLY_CONNECTED", "SUB", "MUL", "FULLY_CONNECTED", *SCALED, "ADD"], LayerNorm("norm"), TOKENS),
    "layer norm of channels": (
        ["CONV_2D", "SUB", "MUL", "CONV_2D", *SCALED, "ADD"],
        LayerNorm("norm", axis=0),
        (32, 6, 10),
    ),
    "layer norm of rows": (
        ["TRANSPOSE", "FULLY_CONNECTED", "SUB", "MUL", "FULLY_CONNECTED", *SCALED, "ADD", "TRANSPOSE"],
        LayerNorm("norm", axis=2),
        (8, 6, 32),
    ),
    "rms norm": (["MUL", "FULLY_CONNECTED", *SCALED], RmsNorm("norm"), TOKENS),
    "rms norm of channels": (["MUL", "CONV_2D", *SCALED], RmsNorm("norm", axis=0), (32, 6, 10)),
    "group norm": (GROUPS_NORMED, GroupNorm("norm", 2), IMAGE),
    "instance norm": (GROUPS_NORMED, GroupNorm("norm", 8), IMAGE),
    "group norm of a signal": (
        ["TRANSPOSE", "RESHAPE", *GROUPS_NORMED, "RESHAPE", "TRANSPOSE"],
        GroupNorm("norm", 1),
        SIGNAL,
    ),
}


def network(name: str) -> Network:
    _, steps, *shapes = WRITTEN[name]
    return network_of(steps, *shapes)


def in_file(array: NDArray[Any]) -> NDArray[Any]:
    """A batch as it lies in the file."""
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written(name: str) -> None:
    net = network(name)
    file = File(tflite_model(Model(net)))
    assert file.kinds == WRITTEN[name][0]
    read = {i for operator in file.operators for i in operator.InputsAsNumpy()}
    assert read | {operator.Outputs(0) for operator in file.operators} == set(range(len(file.tensors)))
    for shapes, number, indices in (
        (net.inputs, file.graph.InputsLength(), file.graph.Inputs),
        (net.output_shapes, file.graph.OutputsLength(), file.graph.Outputs),
    ):
        tensors = [file.tensors[indices(i)] for i in range(number)]
        assert [tensor.Name().decode() for tensor in tensors] == list(shapes)
        for tensor, shape in zip(tensors, shapes.values(), strict=True):
            assert tuple(tensor.ShapeAsNumpy()) == in_file(np.empty((1, *shape))).shape


KEEP = (
    "RESHAPE",
    "TRANSPOSE",
    "PAD",
    "MIRROR_PAD",
    "SLICE",
    "STRIDED_SLICE",
    "GATHER",
    "MAX_POOL_2D",
    "AVERAGE_POOL_2D",
)
KEEP += ("RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR", "REDUCE_MAX", "CONCATENATION")


@pytest.mark.parametrize("name", WRITTEN)
def test_quantisation_is_that_of_the_specification(name: str) -> None:
    model = Model(network(name))
    examples = dict(zip(model.network.inputs, model.random_inputs(4), strict=True))
    file = File(tflite_model(model, activation_ranges(model, examples)))
    for operator in file.operators:
        kind, given = file.kind(operator), file.tensors[operator.Outputs(0)].Quantization()
        found = given.Scale(0), given.ZeroPoint(0)
        expected = {"LOGISTIC": SHARE, "SOFTMAX": SHARE, "TANH": TANH}.get(kind)
        if expected is not None:
            assert found == (pytest.approx(expected.scale), expected.zero_point)
        if kind in KEEP:
            inputs = operator.InputsAsNumpy()[: None if kind == "CONCATENATION" else 1]
            taken = [file.tensors[i].Quantization() for i in inputs]
            assert {(one.Scale(0), one.ZeroPoint(0)) for one in taken} == {found}


@pytest.mark.parametrize(("kernel", "mirrored"), [(3, 1), (5, 2)])
def test_maxima_are_of_the_image_also_where_all_of_it_is_negative(kernel: int, mirrored: int) -> None:
    model = Model(network_of(Pool("max", kernel, 2), IMAGE))
    images = -1 - np.random.default_rng(0).random((4, *IMAGE), np.float32)
    file = File(tflite_model(model, activation_ranges(model, images)))
    assert file.kinds == [*["MIRROR_PAD"] * mirrored, "MAX_POOL_2D"]
    x = in_file(images[:1])
    for operator in file.operators[:-1]:
        assert operator.BuiltinOptionsType() == BuiltinOptions.MirrorPadOptions
        x = np.pad(x, file.data(file.tensors[operator.Inputs(1)]), mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))[:, ::2, ::2]
    expected = cpu_session(onnx_model(model).SerializeToString()).run(None, {"image": images[:1]})[0]
    np.testing.assert_array_equal(windows.max((-1, -2)), in_file(expected))


def test_zeros_around_what_is_never_negative_change_no_maximum() -> None:
    model = Model(network_of(lambda x: Pool("max", 3, 2)(Activate("relu")(x)), IMAGE))
    file = File(tflite_model(model, activation_ranges(model, model.random_inputs(4)[0])))
    assert file.kinds == ["RELU", "PAD", "MAX_POOL_2D"]


def test_parts_of_a_concatenation_take_its_scale_where_that_is_free() -> None:
    def free(x: Traced) -> Traced:
        return Concat()(Convolution("a", 4)(x), Activate("relu")(Convolution("b", 4)(x)))

    def read_before(x: Traced) -> Traced:
        y = Convolution("a", 4)(x)
        return Concat()(y, Activate("sigmoid")(y))

    for steps, kinds in (
        (free, ["CONV_2D", "CONV_2D", "CONCATENATION"]),
        (read_before, ["CONV_2D", "LOGISTIC", "QUANTIZE", "CONCATENATION"]),
    ):
        model = Model(network_of(steps, IMAGE))
        file = File(tflite_model(model, activation_ranges(model, model.random_inputs(8)[0])))
        assert file.kinds == kinds


def test_a_graph_has_its_inputs_outputs_and_positions_by_name() -> None:
    model = Model(graph())
    content = tflite_model(model)
    file = File(content)
    assert file.kinds == ["CONV_2D", "CONV_2D", "CONV_2D", "ADD", "RELU", "HARD_SWISH", *["FULLY_CONNECTED"] * 2, "ADD"]
    assert operator_positions(content, model) == ["right", "left", *["join"] * 3, "side", *["head"] * 3]
    names = [file.tensors[file.graph.Outputs(i)].Name().decode() for i in range(3)]
    assert names == ["joined", "beside", "scores"]


def test_an_output_that_is_given_twice_or_is_an_input_has_a_tensor_of_its_own() -> None:
    layer = network_of(Activate("relu"), IMAGE)
    twice = Network(layer.layers, layer.sources, layer.inputs, {"one": "layer", "two": "layer", "same": "image"})
    file = File(tflite_model(Model(twice)))
    outputs = [file.graph.Outputs(i) for i in range(3)]
    assert len({*outputs}) == 3 and file.kinds == ["RELU", "RESHAPE", "RESHAPE"]
    assert [file.tensors[i].Name().decode() for i in outputs] == ["one", "two", "same"]


@pytest.mark.parametrize(
    ("steps", "shape", "what"),
    [
        (Pool("average", 3, 1, padding=(0, 1, 1, 1)), IMAGE, "average pooling of .* would count padding"),
        (enlarged(groups=2), IMAGE, "transposed convolution 't' has one group"),
        (enlarged(dilation=2), IMAGE, "transposed convolution 't' has one group and no dilation"),
        (enlarged(kernel=5, stride=3, padding=2, output_padding=1), IMAGE, "cuts off what neither SAME nor VALID"),
    ],
)
def test_what_tflite_lacks_is_refused_by_name(steps: Steps, shape: Shape, what: str) -> None:
    with pytest.raises(MissingOperatorError, match=what):
        tflite_model(Model(network_of(steps, shape)))


@pytest.mark.parametrize("name", [*WRITTEN, "graph"])
def test_litert_computes_what_onnx_runtime_computes(name: str) -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    model = Model(graph() if name == "graph" else network(name))
    examples = dict(zip(model.network.inputs, model.random_inputs(32), strict=True))
    runner = interpreter.Interpreter(model_content=tflite_model(model, activation_ranges(model, examples)))
    runner.allocate_tensors()
    first = {key: array[:1] for key, array in examples.items()}
    for tensor in runner.get_input_details():
        array, (scale, zero_point) = in_file(first[tensor["name"]]), tensor["quantization"]
        if tensor["dtype"] == np.int8:
            array = np.clip(np.rint(array / scale + zero_point), -128, 127)
        runner.set_tensor(tensor["index"], array.astype(tensor["dtype"]))
    runner.invoke()
    names = list(model.network.outputs)
    expected = dict(zip(names, cpu_session(onnx_model(model).SerializeToString()).run(names, first), strict=True))
    for tensor in runner.get_output_details():
        scale, zero_point = tensor["quantization"]
        found = (runner.get_tensor(tensor["index"]).astype(np.float64) - zero_point) * scale
        np.testing.assert_allclose(found, in_file(expected[tensor["name"]]), atol=4 * scale)

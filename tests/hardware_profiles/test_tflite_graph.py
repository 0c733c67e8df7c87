"""The int8 TFLite file, read back with the schema's own classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("ethosu")

from ethosu.vela.tflite.ActivationFunctionType import ActivationFunctionType
from ethosu.vela.tflite.BuiltinOperator import BuiltinOperator
from ethosu.vela.tflite.Conv2DOptions import Conv2DOptions
from ethosu.vela.tflite.Model import Model as ModelTable
from ethosu.vela.tflite.Padding import Padding
from ethosu.vela.tflite.TensorType import TensorType

from hardware_profiles.model import Model
from hardware_profiles.quantisation import DEFAULT_QUANTISATION, Quantisation, activation_ranges, quantise_weight
from hardware_profiles.tflite_file import FILE_IDENTIFIER
from hardware_profiles.tflite_graph import HARD_SIGMOID_GATE, tflite_model
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.layers import (
    UIB,
    Bottleneck,
    Classifier,
    Conv,
    FBNetBlock,
    FusedMBConv,
    Layer,
    LinearClassifier,
    MaxPool,
    MBConv,
    NormClassifier,
    ResidualConv,
)
from search_spaces.ops.activation import Activate
from search_spaces.ops.arithmetic import Add
from search_spaces.ops.convolution import Convolution
from search_spaces.ops.transposed_convolution import TransposedConvolution
from search_spaces.program import Traced

KINDS = {code: kind for kind, code in vars(BuiltinOperator).items() if isinstance(code, int)}
SQUEEZED = MBConv(16, 16, 48, True, 3, 1, 8, "h_swish", 6)


class File:
    """A TFLite file opened for reading."""

    def __init__(self, content: bytes) -> None:
        assert ModelTable.ModelBufferHasIdentifier(content, 0) and content[4:8] == FILE_IDENTIFIER
        self.table = ModelTable.GetRootAs(content)
        self.graph = self.table.Subgraphs(0)
        self.tensors = [self.graph.Tensors(i) for i in range(self.graph.TensorsLength())]
        self.operators = [self.graph.Operators(i) for i in range(self.graph.OperatorsLength())]

    def kind(self, operator: Any) -> str:
        return KINDS[self.table.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()]

    @property
    def kinds(self) -> list[str]:
        return [self.kind(operator) for operator in self.operators]

    def named(self, name: str) -> Any:
        (tensor,) = [tensor for tensor in self.tensors if tensor.Name().decode() == name]
        return tensor

    def data(self, tensor: Any) -> NDArray[Any]:
        dtype = {TensorType.INT8: np.int8, TensorType.INT32: np.int32}[tensor.Type()]
        raw = self.table.Buffers(tensor.Buffer()).DataAsNumpy()
        return np.frombuffer(raw.tobytes(), dtype).reshape(tensor.ShapeAsNumpy())

    def conv_options(self) -> Iterator[Conv2DOptions]:
        for operator in self.operators:
            if self.kind(operator) == "CONV_2D":
                options = Conv2DOptions()
                options.Init(operator.BuiltinOptions().Bytes, operator.BuiltinOptions().Pos)
                yield options


def file_of(layer: Layer) -> File:
    return File(tflite_model(Model.of_layer(layer)))


@pytest.mark.parametrize(
    ("layer", "kinds"),
    [
        (Conv(3, 8, 3, 1, "relu", 8), ["CONV_2D"]),
        (Conv(3, 8, 3, 1, "h_swish", 8), ["CONV_2D", "HARD_SWISH"]),
        (Conv(3, 8, 3, 2, "none", 8), ["PAD", "CONV_2D"]),
        (Conv(3, 8, 3, 2, "none", 7), ["CONV_2D"]),  # SAME is symmetric here
        (MBConv(8, 8, 8, False, 3, 1, 0, "relu", 8), ["DEPTHWISE_CONV_2D", "CONV_2D", "ADD"]),
        (MBConv(8, 16, 24, True, 5, 2, 0, "relu", 8), ["CONV_2D", "PAD", "DEPTHWISE_CONV_2D", "CONV_2D"]),
        (
            SQUEEZED,
            ["CONV_2D", "HARD_SWISH", "DEPTHWISE_CONV_2D", "HARD_SWISH", "MEAN", "CONV_2D", "CONV_2D"]
            + ["ADD", "MUL", "MUL", "CONV_2D", "ADD"],
        ),
        (Classifier(8, 16, 4, "relu", 3), ["MEAN", "FULLY_CONNECTED", "FULLY_CONNECTED"]),
        (LinearClassifier(8, 4, 3), ["MEAN", "FULLY_CONNECTED"]),
        (ResidualConv(8, 3, "relu", 8), ["CONV_2D", "ADD"]),
        (MaxPool(8, 3, 2, 8), ["PAD", "MAX_POOL_2D"]),
        (MaxPool(8, 3, 2, 7), ["MAX_POOL_2D"]),
        (Bottleneck(8, 8, 8, False, 1, "relu", 7), ["CONV_2D", "CONV_2D", "CONV_2D", "ADD", "RELU"]),
        (
            Bottleneck(8, 16, 8, True, 2, "relu", 7),
            ["CONV_2D", "CONV_2D", "CONV_2D", "AVERAGE_POOL_2D", "CONV_2D", "ADD", "RELU"],
        ),
    ],
)
def test_operators(layer: Layer, kinds: list[str]) -> None:
    file = file_of(layer)
    assert file.kinds == kinds
    read = {i for operator in file.operators for i in operator.InputsAsNumpy()}
    made = {operator.Outputs(0) for operator in file.operators}
    assert read | made == set(range(len(file.tensors)))  # fusing leaves no tensor behind


def test_input_and_output_are_named_int8_nhwc() -> None:
    file = file_of(Conv(3, 8, 3, 2, "h_swish", 9))
    x, y = file.tensors[file.graph.Inputs(0)], file.tensors[file.graph.Outputs(0)]
    assert (x.Name(), y.Name()) == (b"image", b"logits")
    assert (list(x.ShapeAsNumpy()), list(y.ShapeAsNumpy())) == ([1, 9, 9, 3], [1, 5, 5, 8])
    assert x.Type() == y.Type() == TensorType.INT8
    assert list(file_of(Classifier(8, 16, 4, "relu", 3)).named("logits").ShapeAsNumpy()) == [1, 4]


def test_parameter_shapes_and_scales() -> None:
    file = file_of(SQUEEZED)
    for name, shape, axis in (("expand", [48, 1, 1, 16], 0), ("depthwise", [1, 3, 3, 48], 3)):
        weight, bias = file.named(f"layer.{name}.weight"), file.named(f"layer.{name}.bias")
        assert list(weight.ShapeAsNumpy()) == shape
        assert weight.Quantization().QuantizedDimension() == axis
        assert weight.Quantization().ScaleLength() == bias.Quantization().ScaleLength() == 48
        assert not weight.Quantization().ZeroPointAsNumpy().any()
        assert bias.Type() == TensorType.INT32
        np.testing.assert_allclose(
            bias.Quantization().ScaleAsNumpy(),
            weight.Quantization().ScaleAsNumpy() * DEFAULT_QUANTISATION.scale,
            rtol=1e-6,
        )
    linear = file_of(Classifier(8, 16, 4, "relu", 3)).named("layer.mix.weight")
    assert list(linear.ShapeAsNumpy()) == [16, 8] and linear.Quantization().ScaleLength() == 1


def test_hard_sigmoid_spans_zero_to_one() -> None:
    file = file_of(SQUEEZED)
    gate = file.tensors[file.operators[8].Outputs(0)].Quantization()
    assert gate.Scale(0) == pytest.approx(HARD_SIGMOID_GATE.scale) and gate.ZeroPoint(0) == -128


class Forked(Conv):
    """A convolution whose result is read before and after its ReLU."""

    def define(self, x: Traced) -> Traced:
        y = Convolution("conv", 8)(x)
        return Add()(Activate("relu")(y), y)


def test_relu_is_fused_only_where_nothing_else_reads_the_value() -> None:
    (options,) = file_of(Conv(3, 8, 3, 1, "relu", 8)).conv_options()
    assert options.FusedActivationFunction() == ActivationFunctionType.RELU
    file = File(tflite_model(Model.of_layer(Forked(8, 8, 1, 1, "none", 4))))
    (options,) = file.conv_options()
    assert options.FusedActivationFunction() == ActivationFunctionType.NONE
    assert file.kinds == ["CONV_2D", "RELU", "ADD"]


def test_asymmetric_padding_is_explicit() -> None:
    file = file_of(Conv(3, 8, 5, 2, "none", 8))
    (options,) = file.conv_options()
    assert options.Padding() == Padding.VALID
    assert file.data(file.named("padding")).tolist() == [[0, 0], [2, 1], [2, 1], [0, 0]]


def test_weights_dequantise_to_the_originals_within_half_a_step() -> None:
    model = Model({"block": SQUEEZED, "classifier": Classifier(16, 32, 10, "h_swish", 6)})
    file = File(tflite_model(model))
    for name, shape, to_file in (
        ("block.expand", (48, 16, 1, 1), (0, 2, 3, 1)),
        ("block.depthwise", (48, 1, 3, 3), (1, 2, 3, 0)),
        ("block.reduce", (8, 48, 1, 1), (0, 2, 3, 1)),
        ("block.project", (16, 48, 1, 1), (0, 2, 3, 1)),
        ("classifier.mix", (32, 16), (0, 1)),
        ("classifier.classify", (10, 32), (0, 1)),
    ):
        for part, original in zip(("weight", "bias"), model.parameters(name, shape), strict=True):
            tensor = file.named(f"{name}.{part}")
            expected = original.transpose(to_file) if part == "weight" else original
            quantised, scales = file.data(tensor), tensor.Quantization().ScaleAsNumpy()
            along = [1] * quantised.ndim
            along[tensor.Quantization().QuantizedDimension()] = len(scales)
            steps = scales.reshape(along if len(scales) > 1 else [1] * quantised.ndim)
            error = np.abs(quantised * steps.astype(np.float64) - expected) / steps
            assert error.max() <= 0.5 + 1e-4, (name, part)
            if part == "weight":
                assert np.abs(quantised.astype(int)).max() == 127


def test_quantise_weight_of_dead_and_tiny_channels() -> None:
    weight = np.array([[0.0, 0.0], [1e-30, 0.0], [1.0, -2.0]], np.float32)
    bias = np.array([0.0, 5.0, 0.1], np.float32)
    integers, scales = quantise_weight(weight, bias, 0.05, axis=0)
    assert (np.isfinite(scales) & (scales > 0)).all()
    assert integers.tolist() == [[0, 0], [0, 0], [64, -127]]
    assert np.abs(bias / (scales * 0.05)).max() < 2**31


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(InvalidValueError, match="finite"):
        quantise_weight(np.full((2, 2), value, np.float32), np.zeros(2, np.float32), 0.05, axis=0)


def test_ranges_become_scales() -> None:
    model = Model.of_layer(SQUEEZED)
    images = np.random.default_rng(0).standard_normal((32, *model.input_shape)).astype(np.float32)
    ranges = activation_ranges(model, images)
    file = File(tflite_model(model, ranges))
    assert ranges[0] == (float(images.min()), float(images.max()))
    activations = [file.named("image"), *(file.tensors[operator.Outputs(0)] for operator in file.operators)]
    # The ReLU behind the reduction is fused, so the range before it is not used; the ADD of the hard sigmoid has none.
    before_relu, clip = 6, 8
    used = [values for i, values in enumerate(ranges) if i != before_relu]
    for tensor, values in zip((a for i, a in enumerate(activations) if i != clip), used, strict=True):
        expected = Quantisation.of_range(*values)
        assert tensor.Quantization().Scale(0) == pytest.approx(expected.scale, rel=1e-6)
        assert tensor.Quantization().ZeroPoint(0) == expected.zero_point


@pytest.mark.parametrize("layer", [MaxPool(8, 3, 2, 8), Bottleneck(8, 16, 8, True, 2, "relu", 7)])
def test_pooling_keeps_the_scale_of_its_input(layer: Layer) -> None:
    model = Model.of_layer(layer)
    images = np.random.default_rng(0).standard_normal((8, *model.input_shape)).astype(np.float32)
    file = File(tflite_model(model, activation_ranges(model, images)))
    (pool,) = [operator for operator in file.operators if file.kind(operator).endswith("POOL_2D")]
    before, after = (file.tensors[i].Quantization() for i in (pool.Inputs(0), pool.Outputs(0)))
    assert (before.Scale(0), before.ZeroPoint(0)) == (after.Scale(0), after.ZeroPoint(0))


def test_ranges_of_another_network_are_refused() -> None:
    model = Model.of_layer(Conv(3, 8, 3, 1, "h_swish", 8))
    for ranges in ([(-1.0, 1.0)] * 2, [(-1.0, 1.0)] * 4):
        with pytest.raises(MismatchError, match="ranges"):
            tflite_model(model, ranges)
    with pytest.raises(InvalidValueError, match="finite"):
        tflite_model(model, [(-1.0, float("nan"))] * 3)
    with pytest.raises(InvalidValueError, match="multiple of 1 examples"):
        activation_ranges(model, np.zeros((0, 3, 8, 8), np.float32))


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-3.0, -1.0), (0.0, 0.0)])
def test_quantisation_of_a_range_holds_zero_and_both_ends(low: float, high: float) -> None:
    quantisation = Quantisation.of_range(low, high)
    assert -128 <= quantisation.zero_point <= 127
    for value in (low, high, 0.0):
        step = value / quantisation.scale + quantisation.zero_point
        assert -128.5 <= step <= 127.5


def test_a_refusal_names_the_position() -> None:
    class Grouped(Conv):
        def define(self, x: Traced) -> Traced:
            return TransposedConvolution("conv", 8, kernel=1, stride=1, groups=2)(x)

    layer = Grouped(8, 8, 1, 1, "none", 4)
    with pytest.raises(InvalidValueError, match="one group") as refused:
        tflite_model(Model.of_layer(layer))
    assert "Position" not in str(refused.value)  # who compiles a layer alone knows where it stands
    with pytest.raises(InvalidValueError, match="Position 'second': .* one group"):
        tflite_model(Model({"first": Conv(8, 8, 1, 1, "none", 4), "second": layer}))


def test_the_same_model_gives_the_same_file() -> None:
    assert tflite_model(Model.of_layer(SQUEEZED)) == tflite_model(Model.of_layer(SQUEEZED))


@pytest.mark.parametrize(
    ("layer", "kinds"),
    [
        (UIB(8, 8, 16, 3, 3, 1, "relu", 7), ["DEPTHWISE_CONV_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "ADD"]),
        (UIB(8, 8, 16, 0, 0, 1, "relu", 7), ["CONV_2D", "CONV_2D", "ADD"]),
        (UIB(8, 16, 16, 3, 0, 2, "relu", 7), ["DEPTHWISE_CONV_2D", "CONV_2D", "CONV_2D"]),
        (FusedMBConv(8, 16, 16, 3, 2, "relu", "relu", 7), ["CONV_2D", "CONV_2D"]),
        (NormClassifier(8, 16, 4, "relu", 3), ["MEAN", "CONV_2D", "FULLY_CONNECTED"]),
        (FBNetBlock(8, 8, 16, 3, 1, 1, "relu", 7), ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "ADD"]),
        (
            FBNetBlock(8, 8, 16, 3, 1, 2, "relu", 7),
            ["CONV_2D", "RESHAPE", "TRANSPOSE", "RESHAPE", "DEPTHWISE_CONV_2D", "CONV_2D", "ADD"],
        ),
    ],
)
def test_operators_of_universal_blocks(layer: Layer, kinds: list[str]) -> None:
    assert file_of(layer).kinds == kinds

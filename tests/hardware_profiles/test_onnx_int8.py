from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from hardware_profiles import Model
from hardware_profiles.onnx_graph import node_positions, onnx_model
from hardware_profiles.onnx_int8 import int8_onnx_model
from hardware_profiles.quantisation import activation_ranges
from search_spaces import Conv, Layer, MobileNetV3
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.layers import UIB, Bottleneck, Classifier, FBNetBlock, MaxPool, MBConv, ResidualConv
from search_spaces.nasbench201 import Reduction201
from search_spaces.network import INPUT, OUTPUT


def optimised(proto: onnx.ModelProto, folder: Path) -> onnx.GraphProto:
    """What ONNX Runtime runs on this processor."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimised.onnx").graph


@pytest.mark.parametrize(
    ("layer", "returns"),
    [
        *((Conv(8, 16, 3, 2, activation, 9), 1) for activation in ("none", "relu", "relu6")),
        (ResidualConv(8, 3, "relu", 8), 1),
        (MBConv(8, 8, 16, True, 5, 1, 0, "relu", 8), 1),
        (MBConv(8, 16, 24, True, 3, 2, 8, "h_swish", 8), 1 + 3),  # two hard swishes, one hard sigmoid
        (MaxPool(8, 3, 2, 8), 1),
        (Bottleneck(8, 16, 8, True, 2, "relu", 7), 1),
        (FBNetBlock(8, 8, 16, 3, 1, 2, "relu", 8), 1),
        (UIB(8, 8, 16, 3, 5, 1, "relu", 8), 1),
        (Reduction201(8, 16, 8), 1 + 1),  # a ReLU of what is also read without it
        (Classifier(16, 8, 4, "relu", 3), 1),
    ],
    ids=str,
)
def test_all_but_hard_activations_run_on_integers(layer: Layer, returns: int, tmp_path: Path) -> None:
    """`returns`: how often integers become floats again, once at the end."""
    graph = optimised(int8_onnx_model(Model.of_layer(layer)), tmp_path)
    kinds = Counter(node.op_type for node in graph.node)
    assert not set(kinds) & {"Conv", "Gemm", "Add", "AveragePool", "GlobalAveragePool"}
    assert kinds["DequantizeLinear"] == kinds["QuantizeLinear"] == returns
    weights = [tensor for tensor in graph.initializer if tensor.name.endswith((".weight", "_quantized"))]
    assert all(tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) for tensor in weights)


def test_only_hard_swish_is_float_in_a_network(tiny_space: MobileNetV3, tmp_path: Path) -> None:
    layers = tiny_space.lower(tiny_space.biggest)
    graph = optimised(int8_onnx_model(Model(layers)), tmp_path)
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["QLinearConv"] > 8 and kinds["QGemm"] == 2
    assert set(kinds) - {"QuantizeLinear", "DequantizeLinear", "Transpose", "Flatten", "Reshape"} <= {
        *("QLinearConv", "QGemm", "QLinearAdd", "QLinearMul", "QLinearGlobalAveragePool"),
        *("HardSigmoid", "Mul", "HardSwish"),
    }


@pytest.mark.parametrize("build", [onnx_model, int8_onnx_model])
def test_each_parameter_is_read_in_its_position(
    build: Callable[[Model], onnx.ModelProto], tiny_space: MobileNetV3, tmp_path: Path
) -> None:
    """Weights keep their names where ONNX Runtime does not reorder them, which nodes and values do not tell."""
    layers = tiny_space.lower(tiny_space.biggest)
    proto = build(Model(layers))
    graph = optimised(proto, tmp_path)
    found = node_positions(graph, {"logits": list(layers)[-1]}, layers)
    readers = {name: position for node, position in zip(graph.node, found, strict=True) for name in node.input}
    parameters = [name for name in readers if name.endswith((".weight", ".weight.scale", ".bias"))]
    assert len(parameters) > 10
    for name in parameters:
        assert readers[name] == name.split(".")[0]


@pytest.mark.parametrize("batch", [1, 3])
def test_the_file_is_sound_and_takes_floats(tiny_space: MobileNetV3, batch: int) -> None:
    model = Model(tiny_space.lower(tiny_space.biggest))
    proto = int8_onnx_model(model, batch)
    onnx.checker.check_model(proto, full_check=True)
    (x,), (y,) = proto.graph.input, proto.graph.output
    assert (x.name, y.name) == (INPUT, OUTPUT)
    assert [d.dim_value for d in x.type.tensor_type.shape.dim] == [batch, 1, 12, 12]
    assert x.type.tensor_type.elem_type == y.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert proto.SerializeToString() == int8_onnx_model(model, batch).SerializeToString()


def test_ranges_decide_the_steps() -> None:
    model = Model.of_layer(Conv(3, 4, 3, 1, "relu", 6))
    images = np.random.default_rng(1).standard_normal((2, 3, 6, 6), np.float32) * 10
    session = ort.InferenceSession(
        int8_onnx_model(replace(model, ranges=activation_ranges(model, images))).SerializeToString(),
        providers=["CPUExecutionProvider"],
    )
    narrow = ort.InferenceSession(int8_onnx_model(model, 1).SerializeToString(), providers=["CPUExecutionProvider"])
    wide, clipped = (s.run([OUTPUT], {INPUT: images[:1]})[0] for s in (session, narrow))
    assert wide.max() > 2 * clipped.max()  # the default ranges are of standard normal images


def test_ranges_of_another_network_are_refused() -> None:
    model = Model.of_layer(Conv(3, 8, 3, 1, "h_swish", 8))
    for count in (2, 4):
        with pytest.raises(MismatchError, match="ranges"):
            int8_onnx_model(replace(model, ranges=[(-1.0, 1.0)] * count))
    with pytest.raises(InvalidValueError, match="finite"):
        int8_onnx_model(replace(model, ranges=[(-1.0, float("inf"))] * 3))

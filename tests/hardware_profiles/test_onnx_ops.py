"""All operators in ONNX Runtime against torch, and in integers against float32."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from hardware_profiles import Model, load_device
from hardware_profiles.backend_contract import check_layer_lowering
from hardware_profiles.onnx_graph import (
    OnnxGraph,
    OnnxValue,
    cpu_session,
    node_positions,
    onnx_model,
    onnx_value,
    weights_of_onnx,
)
from hardware_profiles.onnx_int8 import int8_onnx_model
from hardware_profiles.quantisation import activation_ranges
from search_spaces.base.errors import InvalidValueError
from search_spaces.network import Network
from search_spaces.ops.matmul import Softmax
from search_spaces.ops.movement import Reshape, SpaceToDepth
from search_spaces.ops.normalisation import GroupNorm, LayerNorm, RmsNorm
from search_spaces.ops.resize import Resize
from search_spaces.ops.transposed_convolution import TransposedConvolution
from tests.hardware_profiles.networks import network_of
from tests.search_spaces.ops.cases import CASES, Case

NAMES = [name for name in CASES if name != "none"]
PARTS = {LayerNorm: 7, RmsNorm: 4, GroupNorm: 7}
"""Values on the way to a norm that have a range beside its own."""


@pytest.mark.parametrize("name", NAMES)
def test_onnx_runtime_computes_what_torch_computes(name: str) -> None:
    check_layer_lowering(Case(name), 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_integers_are_close_and_each_operator_has_a_range(name: str) -> None:
    layer, batch = Case(name), 2
    model = Model.of_layer(layer)
    inputs = dict(zip(model.network.inputs, model.random_inputs(batch), strict=True))
    ranges = activation_ranges(model, inputs)
    floats = sum(kind == "float32" for kind in layer.input_types)
    ops = [step.op for step in layer.program.steps]
    assert len(ranges) == floats + sum(not op.moves for op in ops) + sum(PARTS.get(type(op), 0) for op in ops)
    proto = int8_onnx_model(dataclasses.replace(model, ranges=ranges), batch)
    onnx.checker.check_model(proto)
    (expected,), (got,) = (
        cpu_session(one.SerializeToString()).run(None, inputs) for one in (onnx_model(model, batch), proto)
    )
    assert np.abs(got - expected).max() <= 0.03 * np.ptp(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", {"QGemm": 1}),
        ("matmul_transposed", {"QLinearMatMul": 1}),
        ("concat", {"QLinearConcat": 1}),
        ("attention", {"QGemm": 4, "QLinearMatMul": 2, "Softmax": 1, "QLinearAdd": 1}),
        ("nearest", {"Resize": 1}),
        ("average_pool_padded", {"QLinearAveragePool": 1}),
    ],
)
def test_what_runs_on_integers(name: str, expected: dict[str, int], tmp_path: Path) -> None:
    kinds = Counter(node.op_type for node in optimised(int8_onnx_model(Model.of_layer(Case(name))), tmp_path).node)
    assert {kind: kinds[kind] for kind in expected} == expected
    assert not {"Gemm", "MatMul", "Conv", "Add", "Concat"} & set(kinds)


def test_a_softmax_of_one_entry_is_1_in_integers_too() -> None:
    """Behind what is moved on integers, where ONNX Runtime takes its integer kernel."""
    model = Model(network_of(lambda x: Softmax()(Reshape((6, 1))(x)), (6, 1, 1)))
    x = model.random_inputs(4)[0]
    for proto in (
        onnx_model(model, 4),
        int8_onnx_model(dataclasses.replace(model, ranges=activation_ranges(model, x)), 4),
    ):
        (got,) = cpu_session(proto.SerializeToString()).run(None, {"image": x})
        np.testing.assert_allclose(got, np.ones((4, 6, 1)), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind"), [("gelu", "Gelu"), ("silu", "QuickGelu"), ("rms_norm", "SimplifiedLayerNormalization")]
)
def test_nodes_that_onnx_runtime_fuses_belong_to_their_position(name: str, kind: str, tmp_path: Path) -> None:
    model = Model(Network.of_layer("first", Case(name)))
    proto = onnx_model(model)
    graph = optimised(proto, tmp_path)
    assert [node.op_type for node in graph.node] == [kind]
    assert node_positions(graph, model.network.outputs, model.layers) == ["first"]


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_read_back_by_their_names(name: str, tmp_path: Path) -> None:
    model = Model.of_layer(Case(name))
    arrays, path = model.arrays(), tmp_path / "network.onnx"
    path.write_bytes(onnx_model(model).SerializeToString())
    found = weights_of_onnx(path) if arrays else {}
    assert list(found) == list(arrays) and all(np.array_equal(found[key], arrays[key]) for key in arrays)


def optimised(proto: onnx.ModelProto, folder: Path) -> onnx.GraphProto:
    """What ONNX Runtime runs on this processor."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimised.onnx").graph


def test_an_input_of_integers_is_int64() -> None:
    model = Model.of_layer(Case("embedding"))
    assert Case("embedding").input_types == ("int64",) and model.network.index_limits == {"image": 11}
    proto = onnx_model(model)
    assert proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT64
    assert len(activation_ranges(model, np.zeros((3, 7), np.int64))) == 1  # of the vectors, none of the words
    with pytest.raises(InvalidValueError, match=r"Input 'image' must have shape \(N, 7\), but got \(3, 6\)"):
        activation_ranges(model, np.zeros((3, 6), np.int64))
    with pytest.raises(InvalidValueError, match="a multiple of 1 examples.*image: 0"):
        activation_ranges(model, np.zeros((0, 7), np.int64))


def test_several_inputs_and_outputs_in_integers() -> None:
    """Words and tokens in, and out the tokens after attention, twice, and the words' vectors."""
    network = Network(
        {"embed": Case("embedding"), "attend": Case("attention"), "mix": Case("linear")},
        {"embed": ("words",), "attend": ("tokens",), "mix": ("attend",)},
        {"words": (7,), "tokens": (5, 8)},
        {"vectors": "embed", "attended": "attend", "mixed": "mix", "again": "mix"},
    )
    network.check_shapes()
    model, batch = Model(network), 2
    inputs = dict(zip(network.inputs, model.random_inputs(batch), strict=True))
    assert {name: array.dtype.name for name, array in inputs.items()} == {"words": "int64", "tokens": "float32"}
    ranges = activation_ranges(model, inputs)
    protos = onnx_model(model, batch), int8_onnx_model(dataclasses.replace(model, ranges=ranges), batch)
    expected, got = (cpu_session(proto.SerializeToString()).run(list(network.outputs), inputs) for proto in protos)
    for one, other in zip(expected, got, strict=True):
        assert one.shape == other.shape and np.abs(one - other).max() <= 0.02 * np.ptp(one)
    with pytest.raises(InvalidValueError, match="takes the inputs words, tokens, but got words"):
        activation_ranges(model, {"words": inputs["words"]})
    with pytest.raises(InvalidValueError, match="equally many of each input, not words: 1, tokens: 2"):
        activation_ranges(model, inputs | {"words": inputs["words"][:1]})


def test_integers_from_a_layer_are_refused() -> None:
    layers = {"features": Case("none"), "words": Case("embedding")}
    sources = {"features": ("image",), "words": ("features",)}
    network = Network(layers, sources, {"image": (6, 9, 7)}, {"y": "words"})
    with pytest.raises(InvalidValueError, match="'words' takes int64 from 'features', which gives float32"):
        network.check_shapes()
    layers = {"words": Case("embedding"), "flat": Case("gather_of_words")}
    sources = dict.fromkeys(layers, ("image",))
    network = Network(layers, sources, {"image": (7,)}, {"y": "words", "z": "flat"})
    with pytest.raises(InvalidValueError, match="'words' takes int64 from 'image', but 'flat' float32"):
        network.check_shapes()


@pytest.mark.parametrize("op", [Resize, SpaceToDepth])
def test_a_planted_fault_is_caught(op: type) -> None:
    """Half pixels left out, and channels in the order of ONNX's own operator."""

    def floor(op: Resize, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
        shape = op.shape(inputs[0].shape)
        sizes = graph.integers((graph.batch, *shape), "Resize.sizes")
        mode = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return graph.node("Resize", [inputs[0].name, "", "", sizes], shape, mode="nearest", **mode)

    def other_order(op: SpaceToDepth, graph: OnnxGraph, *inputs: OnnxValue) -> OnnxValue:
        return graph.node("SpaceToDepth", [inputs[0].name], op.shape(inputs[0].shape), blocksize=op.block)

    name, fault = {Resize: ("nearest_of_many", floor), SpaceToDepth: ("space_to_depth", other_order)}[op]
    check_layer_lowering(Case(name))
    right = onnx_value.dispatch(op)
    try:
        onnx_value.register(op, fault)
        with pytest.raises(AssertionError, match="differs by"):
            check_layer_lowering(Case(name))
    finally:
        onnx_value.register(op, right)


def test_faulty_folded_weights_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output channels of a transposed convolution in another order than their offsets."""
    right = TransposedConvolution.folded

    def wrong(op: TransposedConvolution, *arguments: Any) -> dict[str, NDArray[np.float32]]:
        first, second = right(op, *arguments).items()
        return {first[0]: first[1][:, ::-1], second[0]: second[1]}

    check_layer_lowering(Case("transposed_convolution"))
    monkeypatch.setattr(TransposedConvolution, "folded", wrong)
    with pytest.raises(AssertionError, match="differs by"):
        check_layer_lowering(Case("transposed_convolution"))


def test_every_operator_is_timed_and_its_time_attributed() -> None:
    backend = load_device("host_ort").open()
    try:
        for name in NAMES:
            loaded = backend.load(Model.of_layer(Case(name)))
            assert loaded.sample_ms(1) > 0 and set(loaded.positions_ms(1)) == {"layer"}
    finally:
        backend.close()

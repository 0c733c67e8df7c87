from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import NodeProto, helper

from hardware_profiles import Model
from hardware_profiles.backend_contract import check_layer_lowering
from hardware_profiles.onnx_graph import node_positions, onnx_model, weights_of_onnx
from search_spaces import Classifier, Conv, Layer, MBConv, MobileNetV3
from search_spaces.base.errors import DamagedFileError, MeasurementError, StorageError
from search_spaces.network import INPUT, OUTPUT
from search_spaces.torch_program import StaticNetwork, folded_weights


@pytest.mark.parametrize(
    "layer",
    [
        *(Conv(3, 8, 3, 2, activation, 9) for activation in ("none", "relu", "h_swish", "h_sigmoid")),
        MBConv(8, 8, 16, True, 5, 1, 8, "relu", 5),
        MBConv(8, 16, 24, True, 7, 2, 0, "h_swish", 6),
        MBConv(8, 8, 8, False, 3, 1, 0, "relu", 5),
        MBConv(8, 8, 8, False, 3, 1, 3, "relu", 1),
        Classifier(16, 8, 4, "h_swish", 3),
        Classifier(16, 8, 4, "h_swish", 1),
    ],
    ids=str,
)
def test_onnx_runtime_computes_what_torch_computes(layer: Layer) -> None:
    check_layer_lowering(layer)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_whole_network_computes_what_torch_computes(tiny_space: MobileNetV3, batch: int) -> None:
    layers = tiny_space.lower(tiny_space.biggest)
    network = StaticNetwork(layers).eval()
    proto = onnx_model(Model(layers, folded_weights(network)), batch)
    onnx.checker.check_model(proto, full_check=True)
    images = torch.randn(batch, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network(images).numpy()
    got = session.run([OUTPUT], {INPUT: images.numpy()})[0]
    assert got.shape == (batch, 3) and np.abs(got - expected).max() < 1e-4


def test_the_model_is_the_same_each_time(tiny_space: MobileNetV3) -> None:
    model = Model(tiny_space.lower(tiny_space.biggest))
    assert onnx_model(model).SerializeToString() == onnx_model(model).SerializeToString()


def test_weights_come_back_from_the_file(tiny_space: MobileNetV3, tmp_path: Path) -> None:
    layers = tiny_space.lower(tiny_space.biggest)
    weights = folded_weights(StaticNetwork(layers).eval())
    onnx.save(onnx_model(Model(layers, weights)), str(tmp_path / "a.onnx"))
    again = weights_of_onnx(tmp_path / "a.onnx")
    assert set(again) == set(weights)
    assert all(np.array_equal(again[name], array) for name, array in weights.items())


@pytest.mark.parametrize("content", [b"", b"no protobuf", b"\x00" * 50])
def test_a_file_that_is_no_network_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"a\.onnx.*nas export"):
        weights_of_onnx(tmp_path / "a.onnx")


def test_a_network_cut_short_is_refused(tiny_space: MobileNetV3, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    content = onnx_model(Model(tiny_space.lower(tiny_space.smallest))).SerializeToString()
    for length in range(0, len(content) - 20, len(content) // 23):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedFileError):
            weights_of_onnx(path)


def test_a_foreign_network_and_a_missing_file(tmp_path: Path) -> None:
    proto = onnx_model(Model.of_layer(Conv(3, 8, 3, 1, "relu", 8)))
    del proto.graph.initializer[:]
    onnx.save(proto, str(tmp_path / "a.onnx"))
    with pytest.raises(DamagedFileError, match="holds no weights"):
        weights_of_onnx(tmp_path / "a.onnx")
    with pytest.raises(StorageError, match="No such file"):
        weights_of_onnx(tmp_path / "b.onnx")


def test_nodes_are_named_by_position(tiny_space: MobileNetV3) -> None:
    layers = tiny_space.lower(tiny_space.biggest)
    nodes = onnx_model(Model(layers)).graph.node
    assert list(dict.fromkeys(node.name.split("/")[0] for node in nodes)) == list(layers)
    assert len({node.name for node in nodes}) == len(nodes)
    assert nodes[-1].output == [OUTPUT]


def node(kind: str, inputs: str, outputs: str, name: str = "") -> NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), name=name)


def positions_of(*nodes: NodeProto, positions: tuple[str, ...] = ("a", "b", "b.2")) -> list[str]:
    return node_positions(helper.make_graph(list(nodes), "optimised", [], []), {"logits": "b.2"}, positions)


def test_positions_of_named_nodes() -> None:
    """The names are those that ONNX Runtime gives: fused nodes, copies, nodes named after what they give."""
    found = positions_of(
        node("Conv", "image w", "x", "fused a/v0_Conv"),
        node("Conv", "x w", "y", "b/v1_Relu_nchwc"),
        node("QLinearConv", "y w", "b.2/v2_Conv_token_6", "v"),
        node("Conv", "b.2/v2_Conv_token_6 w", "z", "logits_nchwc"),
    )
    assert found == ["a", "b", "b.2", "b.2"]
    assert positions_of(node("Conv", "x w", "y", "12/v3_Conv"), positions=("1", "2", "12")) == ["12"]


def test_an_inserted_node_is_of_who_reads_it_first_or_else_of_who_made_its_input() -> None:
    found = positions_of(
        node("ReorderInput", "image", "r"),
        node("Conv", "r w", "c", "a/v0_Conv_nchwc"),
        node("ReorderOutput", "c", "plain"),  # read by b, then by b.2
        node("HardSigmoid", "plain", "gate"),  # a chain: read by the next
        node("Mul", "gate plain", "b/v1_HardSwish"),
        node("Add", "b/v1_HardSwish plain", "sum", "b.2/v2_Add"),
        node("ReorderOutput", "sum", "logits_before"),
        node("Cast", "logits_before", "out"),
    )
    assert found == ["a", "a", "b", "b", "b", "b.2", "b.2", "b.2"]


def test_a_node_of_no_position_is_refused() -> None:
    with pytest.raises(MeasurementError, match=r"'stray' \(Cast\) .* belongs to no position"):
        positions_of(node("Conv", "image w", "c", "a/v0_Conv"), node("Cast", "other", "out", "stray"))


def test_a_file_needs_no_later_runtime_than_its_operators(digits_space: MobileNetV3) -> None:
    proto = onnx_model(Model(digits_space.lower(digits_space.biggest)))
    assert proto.ir_version == onnx.helper.find_min_ir_version_for(proto.opset_import) == 8

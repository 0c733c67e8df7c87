"""Slices of the weights of layers with branches: those that merge, and those that are concatenated."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import cpu_session, onnx_model
from nas.supernet.elastic import ElasticLayer
from search_spaces.concatenation import OSA, FasterNetBlock, HarDBlock
from search_spaces.layers import Layer
from search_spaces.network import INPUT, Network
from search_spaces.ops.convolution import BatchNorm, Convolution
from search_spaces.ops.movement import Concat
from search_spaces.program import Shape, Traced
from search_spaces.reparameterised import BatchNormClassifier, MobileOneBlock, RepConv, RepViTBlock
from search_spaces.torch_program import StaticNetwork, folded_weights

POSITIONS: dict[str, Sequence[Layer]] = {
    "RepConv": [
        RepConv(inputs, outputs, kernel, 1, branches, "relu", 6)
        for inputs, outputs, kernel, branches in itertools.product((4, 6), (4, 8), (3, 5), (1, 2))
    ],
    "MobileOneBlock": [
        MobileOneBlock(inputs, outputs, kernel, 1, 2, "relu", 6)
        for inputs, outputs, kernel in itertools.product((4, 6), (4, 8), (3, 5))
    ],
    "RepViTBlock": [
        RepViTBlock(channels, outputs, 2 * outputs, kernel, 1, squeeze, "gelu", 6)
        for channels, outputs, kernel, squeeze in itertools.product((4, 6), (4, 6), (3, 5), (0, 4))
    ],
    "FasterNetBlock": [
        FasterNetBlock(channels, channels, channels // parts, expand * channels, 3, 1, "gelu", 6)
        for channels, parts, expand in itertools.product((8, 12), (1, 2, 4), (1, 2))
    ],
    "FasterNetBlock, strided": [
        FasterNetBlock(inputs, outputs, outputs // parts, 16, 3, 2, "gelu", 6)
        for inputs, outputs, parts in itertools.product((6, 8), (8, 12), (2, 4))
    ],
    "OSA": [
        OSA(inputs, 8, hidden, layers, kernel, 1, inputs == 8, "relu", 6)
        for inputs, hidden, layers, kernel in itertools.product((6, 8), (2, 4), (2, 3), (3, 5))
    ],
    "OSA, strided": [OSA(inputs, 8, hidden, 2, 3, 2, False, "relu", 6) for inputs in (6, 8) for hidden in (2, 4)],
    "HarDBlock": [
        HarDBlock(inputs, outputs, growth, 16, 4, 3, 2, "relu6", 6)
        for inputs, outputs, growth in itertools.product((6, 8), (6, 8), (4, 6))
    ],
    "BatchNormClassifier": [BatchNormClassifier(channels, 3, 6) for channels in (4, 8)],
}


def trained(layers: Sequence[Layer]) -> ElasticLayer:
    """Shared weights as if they were trained."""
    elastic = ElasticLayer(layers)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in elastic.state_dict().items():
            if tensor.is_floating_point() and not name.startswith("transforms"):
                low, high = (0.5, 2) if name.endswith(("running_var", "norm.weight")) else (-0.5, 0.5)
                tensor.uniform_(low, high, generator=generator)
            elif tensor.is_floating_point():
                tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    return elastic


@pytest.mark.parametrize("name", POSITIONS)
def test_deployed_network_computes_what_the_shared_weights_do(name: str) -> None:
    elastic = trained(POSITIONS[name]).eval()
    for layer in POSITIONS[name]:
        x = torch.randn(2, *layer.input_shape, generator=torch.Generator().manual_seed(2))
        lone = Network.of_layer("layer", layer)
        with torch.no_grad():
            expected = elastic(layer, x).numpy()
            static = StaticNetwork(lone).eval()
            static.load_state_dict({f"layer.{key}": value for key, value in elastic.state(layer).items()})
            extracted = static(x).numpy()
            model = Model(lone, folded_weights(static))
            deployed = StaticNetwork(lone, form="inference").eval()
            deployed.load_state_dict({key: torch.from_numpy(array) for key, array in model.arrays().items()})
            merged = deployed(x).numpy()
        written = cpu_session(onnx_model(model, batch=2).SerializeToString()).run(None, {INPUT: x.numpy()})[0]
        largest = max(1.0, float(np.abs(expected).max()))
        for what in (extracted, merged, written):
            np.testing.assert_allclose(what, expected, atol=1e-5 * largest, err_msg=str(layer))


@pytest.mark.parametrize("name", POSITIONS)
def test_every_weight_learns(name: str) -> None:
    elastic = trained(POSITIONS[name]).train()
    for layer in POSITIONS[name]:
        elastic(layer, torch.randn(4, *layer.input_shape)).square().sum().backward()
    assert [key for key, weight in elastic.named_parameters() if weight.grad is None] == []
    unused = {key: weight.grad == 0 for key, weight in elastic.named_parameters() if weight.grad is not None}
    assert [key for key, zero in unused.items() if zero.all()] == []


def test_branch_that_only_smaller_layers_have_is_shared() -> None:
    elastic = ElasticLayer([RepConv(4, 8, 3, 1, 1, "relu", 6), RepConv(4, 4, 3, 1, 1, "relu", 6)])
    assert elastic.state(RepConv(4, 4, 3, 1, 1, "relu", 6))["conv.identity.weight"].shape == (4,)
    assert "conv.identity.weight" not in elastic.state(RepConv(4, 8, 3, 1, 1, "relu", 6))


def test_narrow_aggregation_takes_the_first_channels_of_each_part() -> None:
    full, small = OSA(6, 8, 4, 3, 3, 1, False, "relu", 6), OSA(5, 8, 2, 2, 3, 1, False, "relu", 6)
    elastic = ElasticLayer([full, small])
    whole, part = (elastic.state(layer)["aggregate.conv.weight"] for layer in (full, small))
    assert torch.equal(part, whole[:, [0, 1, 2, 3, 4, 6, 7, 10, 11]])


def test_statistics_of_the_branches_in_use_follow_the_batch() -> None:
    layers = [MobileOneBlock(4, 4, 3, 1, branches, "relu", 6) for branches in (1, 2)]
    elastic = ElasticLayer(layers).train()
    elastic(layers[0], torch.randn(4, *layers[0].input_shape) + 3)
    counts = {key: int(value) for key, value in elastic.state_dict().items() if key.endswith("num_batches_tracked")}
    assert {key for key, count in counts.items() if count == 0} == {
        "body.depthwise.spatial2.norm.num_batches_tracked",
        "body.pointwise.spatial2.norm.num_batches_tracked",
    }


@dataclass(frozen=True)
class NormOfBoth(Layer):
    """BatchNorm of the input beside a convolution of it."""

    in_channels: int
    width: int

    @property
    def input_shape(self) -> Shape:
        return (self.in_channels, 6, 6)

    def define(self, x: Traced) -> Traced:
        return BatchNorm("norm")(Concat()(x, Convolution("conv", self.width, 1)(x)))


def test_statistics_of_each_part_of_a_concatenation_follow_the_batch() -> None:
    full, small = NormOfBoth(4, 8), NormOfBoth(3, 2)
    elastic = ElasticLayer([full, small]).train()
    x = torch.randn(16, 3, 6, 6) + 2
    elastic(small, x)
    mean = elastic.body.get_buffer("norm.running_mean")
    torch.testing.assert_close(mean[:3], 0.1 * x.mean((0, 2, 3)))
    assert mean[3] == 0 and torch.equal(mean[6:], torch.zeros(6))
    assert (mean[4:6] != 0).all()

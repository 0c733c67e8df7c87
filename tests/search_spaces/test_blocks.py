import numpy as np
import pytest
import torch
from search_spaces.blocks import ACTIVATIONS, ConvNorm, Network, folded_weights
from torch import nn

from search_spaces import (
    Bottleneck,
    Classifier,
    Conv,
    Layer,
    LinearClassifier,
    MaxPool,
    MBConv,
    MobileNetV3,
    ResidualConv,
)
from search_spaces.space_contract import check_layer

LAYERS: list[Layer] = [
    Conv(3, 8, 3, 2, "h_swish", 9),
    MBConv(8, 8, 16, True, 5, 1, 8, "relu", 5),
    MBConv(8, 16, 24, True, 3, 2, 0, "h_swish", 5),
    MBConv(8, 8, 8, False, 3, 1, 0, "none", 5),
    Classifier(16, 8, 4, "h_sigmoid", 3),
    LinearClassifier(16, 4, 3),
    ResidualConv(8, 3, "relu", 5),
    MaxPool(8, 3, 2, 5),
    MaxPool(8, 3, 2, 6),
    Bottleneck(8, 16, 8, True, 2, "relu", 5),
    Bottleneck(8, 16, 8, True, 1, "relu", 5),
    Bottleneck(16, 16, 8, False, 1, "h_swish", 6),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_module_and_counts_agree(layer: Layer) -> None:
    check_layer(layer)


def test_network_runs_from_image_to_logits(tiny_space: MobileNetV3) -> None:
    layers = tiny_space.lower(tiny_space.biggest)
    network = Network(layers).eval()
    assert [name for name, _ in network.named_children()] == list(layers)
    with torch.no_grad():
        assert network(torch.zeros(2, *layers["stem"].input_shape)).shape == (2, 3)


def randomise(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.1, 3, generator=generator)
            module.weight.data.normal_(generator=generator)
            module.bias.data.normal_(generator=generator)


def test_the_last_window_of_a_shortcut_averages_what_is_there() -> None:
    block = Bottleneck(1, 1, 1, True, 2, "none", 3).build().eval()
    with torch.no_grad():
        for parameter in block.get_submodule("widen").parameters():
            parameter.zero_()  # leaves the shortcut alone
        convolution = block.get_parameter("shortcut.conv.weight").fill_(1)
        pooled = block(torch.arange(9.0).reshape(1, 1, 3, 3)) * (1 + 1e-5) ** 0.5
    assert convolution.shape == (1, 1, 1, 1)
    expected = torch.tensor([[2.0, 3.5], [6.5, 8.0]])  # of 0 1 3 4, 2 5, 6 7 and 8
    torch.testing.assert_close(pooled[0, 0], expected)


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 4), (2, 8)])
def test_folded_convolution_is_convolution_and_batch_norm(stride: int, groups: int) -> None:
    block = nn.Sequential(ConvNorm(8, 8, 3, stride, groups)).eval()
    randomise(block)
    ((weight, bias),) = folded_weights(block).values()
    x = torch.randn(2, 8, 7, 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        folded = nn.functional.conv2d(x, torch.tensor(weight), torch.tensor(bias), stride, 1, 1, groups)
        assert torch.allclose(folded, block(x), atol=1e-5)
        assert not torch.allclose(folded - torch.tensor(bias).reshape(-1, 1, 1), block(x), atol=1e-1)


def test_folded_weights_name_every_convolution_and_linear_layer_once() -> None:
    network = Network({"a": LAYERS[1], "b": LAYERS[2], "c": LAYERS[4]})
    randomise(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = folded_weights(network)
    assert set(folded) == {
        *(f"a.{part}" for part in ("expand", "depthwise", "reduce", "excite", "project")),
        *(f"b.{part}" for part in ("expand", "depthwise", "project")),
        "c.mix",
        "c.classify",
    }
    assert all(w.dtype == b.dtype == np.float32 and len(w) == len(b) for w, b in folded.values())
    folded["c.mix"][0][:] = 0  # a copy, not the network's own memory
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_batch_norm_without_statistics_cannot_be_folded() -> None:
    block = ConvNorm(2, 2)
    block.norm.running_mean = None
    with pytest.raises(ValueError, match="running statistics"):
        folded_weights(nn.Sequential(block))


def test_activations_are_those_of_the_paper() -> None:
    x = torch.linspace(-5, 5, 41)
    sigmoid = (x + 3).clamp(0, 6) / 6
    expected = {"none": x, "relu": x.clamp(min=0), "h_sigmoid": sigmoid, "h_swish": x * sigmoid}
    expected["relu6"] = x.clamp(0, 6)
    assert set(expected) == set(ACTIVATIONS)
    for kind, module in ACTIVATIONS.items():
        assert torch.allclose(module()(x), expected[kind], atol=1e-6), kind

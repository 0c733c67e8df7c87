import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

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
from search_spaces.base.errors import InvalidValueError
from search_spaces.ops.activation import Activation
from search_spaces.ops.convolution import Convolution
from search_spaces.program import Parameter, Program
from search_spaces.space_contract import check_layer
from search_spaces.torch_program import ACTIVATIONS, StaticLayer, StaticNetwork, folded_weights, initial

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
    network = StaticNetwork(layers).eval()
    assert [name for name, _ in network.named_children()] == list(layers)
    with torch.no_grad():
        assert network(torch.zeros(2, *layers["stem"].input_shape)).shape == (2, 3)


def randomise(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if ".norm." in name and tensor.is_floating_point():
            tensor.uniform_(0.1, 3, generator=generator) if "var" in name else tensor.normal_(generator=generator)


def test_the_last_window_of_a_shortcut_averages_what_is_there() -> None:
    block = StaticLayer(Bottleneck(1, 1, 1, True, 2, "none", 3).program).eval()
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
    program = Program.of(Convolution("a", 8, 3, stride, groups=groups), [(8, 7, 7)])
    block = StaticLayer(program, norm_eps=0.1).eval()
    randomise(block)
    arrays = {name: tensor.numpy() for name, tensor in block.state_dict().items()}
    weight, bias = (torch.tensor(array) for array in program.folded(arrays, 0.1).values())
    x = torch.randn(2, 8, 7, 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        folded = torch.nn.functional.conv2d(x, weight, bias, stride, 1, 1, groups)
        assert torch.allclose(folded, block(x), atol=1e-5)
        assert not torch.allclose(folded - bias.reshape(-1, 1, 1), block(x), atol=1e-1)


def test_folded_weights_name_every_convolution_and_linear_layer_once() -> None:
    network = StaticNetwork({"a": LAYERS[1], "b": LAYERS[2], "c": LAYERS[4]})
    randomise(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = folded_weights(network)
    names = {
        *(f"a.{part}" for part in ("expand", "depthwise", "reduce", "excite", "project")),
        *(f"b.{part}" for part in ("expand", "depthwise", "project")),
        "c.mix",
        "c.classify",
    }
    assert set(folded) == {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    assert all(array.dtype == np.float32 for array in folded.values())
    assert all(len(folded[f"{name}.weight"]) == len(folded[f"{name}.bias"]) for name in names)
    folded["c.mix.weight"][:] = 0  # a copy, not the network's own memory
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_copy_has_its_own_weights() -> None:
    network = StaticNetwork({"a": LAYERS[0]}).eval()
    x = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    again = copy.deepcopy(network)
    with torch.no_grad():
        before = network(x)
        for parameter in again.parameters():
            parameter.zero_()
        assert torch.equal(network(x), before) and not again(x).any()


def test_names_are_those_of_the_modules_of_torch() -> None:
    norm = [f"norm.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
    layer = StaticLayer(LAYERS[0].program)
    assert list(layer.state_dict()) == ["conv.conv.weight", *(f"conv.{part}" for part in norm)]
    torch.manual_seed(3)
    weight = StaticLayer(LAYERS[0].program).state_dict()["conv.conv.weight"]
    torch.manual_seed(3)
    assert torch.equal(weight, torch.nn.Conv2d(3, 8, 3, bias=False).weight)


def test_activations_are_those_of_the_paper() -> None:
    x = torch.linspace(-5, 5, 41)
    sigmoid = (x + 3).clamp(0, 6) / 6
    expected = {"relu": x.clamp(min=0), "h_sigmoid": sigmoid, "h_swish": x * sigmoid, "relu6": x.clamp(0, 6)}
    assert set(expected) <= set(ACTIVATIONS)
    for kind, values in expected.items():
        assert torch.allclose(ACTIVATIONS[kind](x), values, atol=1e-6), kind  # type: ignore[index]


@pytest.mark.parametrize("channels", [3, 13])
def test_gradients_of_strided_pointwise_convolutions_stay_within_their_memory(channels: int) -> None:
    """In a process of its own, since what is written elsewhere may end it."""
    code = f"""
import torch
from search_spaces.base.errors import InvalidValueError
from search_spaces.ops.activation import Activation
from search_spaces.ops.convolution import Convolution
from search_spaces.program import Parameter, Program
from search_spaces.torch_program import StaticLayer
layer = StaticLayer(Program.of(Convolution("a", 64, 1, 2), [({channels}, 32, 32)])).train()
layer.to(memory_format=torch.channels_last)
for _ in range(20):
    x = torch.randn(2, {channels}, 32, 32).to(memory_format=torch.channels_last).requires_grad_()
    layer(x).square().sum().backward()
"""
    environment = {**os.environ, "MALLOC_CHECK_": "3", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def test_a_strided_pointwise_convolution_reads_every_other_pixel() -> None:
    program = Program.of(Convolution("a", 4, 1, 2, norm=False), [(3, 9, 8)])
    layer = StaticLayer(program)
    x = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.conv2d(x, layer.state_dict()["a.weight"], layer.state_dict()["a.bias"], 2)
    torch.testing.assert_close(layer(x), expected)


def test_a_parameter_of_one_axis_states_its_initial_values() -> None:
    with pytest.raises(InvalidValueError, match=r"Parameter 'factor' of shape \(3,\) has one axis.*another `initial`"):
        initial(Parameter("factor", (3,)))


# -- weights that are not trained --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "op",
    [
        Convolution("a", 8, 3),
        Convolution("a", 8, 5, 2, groups=2, norm=False),
        Convolution("a", 8, (3, 1), (1, 2), norm=False, padding=(1, 0, 0, 1), dilation=2),
        Convolution("a", 8, groups=4),
    ],
    ids=str,
)
def test_gradients_are_those_of_an_ordinary_convolution(op: Convolution) -> None:
    program = Program.of(op, [(4, 9, 9)])
    plain = StaticLayer(program).double()
    randomise(plain)
    fixed = copy.deepcopy(plain)
    fixed.freeze(lambda name: not name.endswith("bias"))
    fixed.still = True  # also where it has no BatchNorm
    x = torch.randn(3, 4, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for layer in (plain.eval(), fixed.train()):
        given = x.clone().requires_grad_()
        y = layer(given)
        (y * y.detach().sin()).sum().backward()
        biases = [weights.grad for name, weights in layer.named_parameters() if name.endswith("bias")]
        found.append([y, given.grad, *biases])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert all(weights.grad is None for name, weights in fixed.named_parameters() if not name.endswith("bias"))


def test_batch_norm_whose_factors_are_not_trained_stays() -> None:
    layer = StaticLayer(MBConv(8, 8, 16, True, 5, 1, 8, "relu", 5).program)
    randomise(layer)
    layer.freeze(lambda name: not name.endswith("bias"))
    before, x = copy.deepcopy(layer.state_dict()), torch.randn(4, 8, 5, 5)
    assert layer.still
    torch.testing.assert_close(layer.train()(x), layer.eval()(x), rtol=0, atol=0)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    layer.freeze(lambda name: False)
    assert not layer.still and not torch.equal(layer.train()(x), layer.eval()(x))


@pytest.mark.parametrize("value", [1.0, -2.0, 0.0])
@pytest.mark.parametrize("kind", ["relu", "relu6"])
def test_lean_activations_are_the_usual_ones(value: float, kind: Activation) -> None:
    layer = StaticLayer(Conv(1, 1, 1, 1, kind, 2).program)
    with torch.no_grad():
        layer.get_parameter("conv.conv.weight").fill_(1.0)
    layer.freeze(lambda name: not name.endswith("bias"))
    x = torch.full((1, 1, 2, 2), value, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad > 0, x.detach() > 0)
    torch.testing.assert_close(y.detach(), ACTIVATIONS[kind](x.detach() / (1 + 1e-5) ** 0.5))


@pytest.mark.parametrize("layer", [Conv(3, 8, 3, 2, "h_swish", 9), MBConv(8, 8, 16, True, 5, 1, 8, "relu", 5)])
def test_without_momentum_running_statistics_stay_and_outputs_are_the_same(layer: Layer) -> None:
    follows = StaticLayer(layer.program).train()
    stays = copy.deepcopy(follows)
    stays.momentum = 0.0
    before = copy.deepcopy(stays.state_dict())
    x = torch.randn(4, *layer.input_shape)
    assert torch.equal(stays(x), follows(x))
    assert all(torch.equal(value, before[name]) for name, value in stays.state_dict().items())
    assert not all(torch.equal(value, before[name]) for name, value in follows.state_dict().items())

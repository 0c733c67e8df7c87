"""Slices of every operator with parameters: a smaller layer takes part of a larger one's, and all of it is trained."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from nas.supernet.elastic import ElasticLayer
from search_spaces.channels import channels_read
from search_spaces.layers import Layer
from search_spaces.ops.activation import PRelu
from search_spaces.ops.arithmetic import Add
from search_spaces.ops.convolution import BatchNorm, Convolution, Linear
from search_spaces.ops.learned import Embedding, Learned
from search_spaces.ops.merging import RepConvolution
from search_spaces.ops.movement import Concat, Reshape
from search_spaces.ops.normalisation import GroupNorm, LayerNorm, RmsNorm
from search_spaces.ops.pooling import GlobalPool
from search_spaces.ops.transposed_convolution import TransposedConvolution
from search_spaces.program import Program, Shape, Traced
from search_spaces.torch_program import StaticLayer
from tests.search_spaces.ops.cases import attention


@dataclass(frozen=True)
class Sized(Layer):
    """The layer of one of the definitions, in one size."""

    name: str
    width: int
    groups: int = 1
    extent: int = 3

    @property
    def input_shape(self) -> Shape:
        return INPUTS[self.name](self.width)

    def define(self, x: Traced) -> Traced:
        return DEFINITIONS[self.name](self, x)


def upsampled(layer: Sized, x: Traced) -> Traced:
    return TransposedConvolution("up", layer.width, layer.extent, 2, layer.groups)(x)


def upsampled_with_bias(layer: Sized, x: Traced) -> Traced:
    return TransposedConvolution("up", 2 * layer.width, layer.extent, 2, layer.groups, norm=False)(x)


DEFINITIONS: dict[str, Callable[[Sized, Traced], Traced]] = {
    "up": upsampled,
    "up_with_bias": upsampled_with_bias,
    "prelu": lambda layer, x: PRelu("act")(x),
    "layer_norm": lambda layer, x: LayerNorm("norm", 0)(x),
    "rms_norm": lambda layer, x: RmsNorm("norm", 0)(x),
    "group_norm": lambda layer, x: GroupNorm("norm", 4)(x),
    "token": lambda layer, x: Concat()(Learned("token", (1, layer.width))(x), x),
    "positions": lambda layer, x: Add()(x, Learned("positions", x.shape)(x)),
    "words": lambda layer, x: Embedding("words", 12, layer.width)(x),
    "attention": lambda layer, x: attention(x, layer.width // 4),
    "linear": lambda layer, x: Linear("mix", 2 * layer.width)(x),
}

INPUTS: dict[str, Callable[[int], Shape]] = {
    **dict.fromkeys(DEFINITIONS, lambda width: (width, 5, 4)),
    **dict.fromkeys(("token", "positions", "attention", "linear"), lambda width: (5, width)),
    "words": lambda width: (5,),
}


def inputs(layer: Layer, generator: torch.Generator) -> Tensor:
    if layer.input_types == ("int64",):
        return torch.arange(12).remainder(12)[: 2 * 5].view(2, 5)
    return torch.randn(2, *layer.input_shape, generator=generator)


def extracted(elastic: ElasticLayer, layer: Layer) -> StaticLayer:
    static = StaticLayer(layer.program)
    static.load_state_dict(elastic.state(layer))
    return static


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_smaller_layer_takes_the_first_entries(name: str) -> None:
    layers = [Sized(name, width) for width in (4, 8, 16)]
    elastic = ElasticLayer(layers).eval()
    generator = torch.Generator().manual_seed(0)
    full = elastic.state(layers[-1])
    for layer in layers:
        for key, tensor in elastic.state(layer).items():
            corner = full[key][tuple(slice(n) for n in tensor.shape)]
            assert torch.equal(tensor, corner) and tensor.data_ptr() == full[key].data_ptr()
        x = inputs(layer, generator)
        assert torch.equal(elastic(layer, x), extracted(elastic, layer).eval()(x))


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_weight_is_trained(name: str) -> None:
    layers = [Sized(name, width) for width in (4, 8)]
    elastic = ElasticLayer(layers)
    generator = torch.Generator().manual_seed(0)
    y = elastic(layers[-1], inputs(layers[-1], generator))
    (y * torch.randn(y.shape, generator=generator)).sum().backward()
    for key, parameter in elastic.body.named_parameters():
        assert parameter.grad is not None
        reached = parameter.grad != 0
        if key == "words.weight":  # two words are not in the sentences
            assert reached.any(1).sum() == 10
        elif key != "key.bias":  # softmax does not see what all keys have in common
            assert reached.all(), key


@pytest.mark.parametrize("name", ["up", "up_with_bias"])
@pytest.mark.parametrize(("few", "many"), [(1, 2), (1, 8), (2, 8)])
def test_more_groups_are_blocks_on_the_diagonal(name: str, few: int, many: int) -> None:
    """A layer in groups is one in fewer groups whose other products are 0."""
    dense, grouped = Sized(name, 8, few), Sized(name, 8, many)
    elastic = ElasticLayer([dense, grouped])
    key = next(iter(elastic.body.state_dict()))
    assert elastic.largest == dense and key.endswith("weight")
    state = {key: tensor.clone() for key, tensor in elastic.state(dense).items()}
    inputs_of, outputs_of = 8 // many, state[key].shape[1] * few // many  # channels of a small group
    for i in range(8):
        for o in range(state[key].shape[1]):
            output = i // (8 // few) * state[key].shape[1] + o  # number of the output channel
            if output // outputs_of != i // inputs_of:
                state[key][i, o] = 0
    reference = StaticLayer(dense.program)
    reference.load_state_dict(state)
    x = torch.randn(2, 8, 5, 4, generator=torch.Generator().manual_seed(0))
    got = elastic.eval()(grouped, x).detach().numpy()
    np.testing.assert_allclose(got, reference.eval()(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_the_centre_of_a_kernel() -> None:
    layers = [Sized("up", 4, extent=extent) for extent in (3, 5)]
    elastic = ElasticLayer(layers)
    weight = elastic.body.get_parameter("up.conv.weight")
    assert list(elastic.transforms) == ["up_5to3"]
    assert torch.equal(elastic.state(layers[0])["up.conv.weight"], weight[:, :, 1:4, 1:4])


@dataclass(frozen=True)
class Joined(Layer):
    """An operator with parameters over the input and two convolutions of it."""

    name: str
    width: int

    @property
    def input_shape(self) -> Shape:
        return (4, 5, 5)

    def define(self, x: Traced) -> Traced:
        y = Concat()(x, Convolution("a", self.width)(x), Convolution("b", self.width)(x))
        return JOINED[self.name](y)


JOINED: dict[str, Callable[[Traced], Traced]] = {
    "norm": BatchNorm("read"),
    "act": PRelu("read"),
    "layer_norm": LayerNorm("read", 0),
    "rms_norm": RmsNorm("read", 0),
    "group_norm": GroupNorm("read", 2),
    "conv": Convolution("read", 3, 3),
    "depthwise": lambda x: Convolution("read", x.shape[0], 3, groups=x.shape[0])(x),
    "depthwise_with_bias": lambda x: Convolution("read", x.shape[0], 3, groups=x.shape[0], norm=False)(x),
    "merging": lambda x: RepConvolution("read", x.shape[0], 3, 1, x.shape[0], 1, "bias", "bare", norm=True)(x),
    "up": TransposedConvolution("read", 12),
    "depthwise_up": lambda x: TransposedConvolution("read", x.shape[0], groups=x.shape[0])(x),
    "linear": lambda x: Linear("read", 3)(GlobalPool()(x)),
    "tokens": lambda x: Linear("read", 3)(Reshape((x.shape[0], 25))(x)),  # (channels, pixels): each reads all pixels
}


@pytest.mark.parametrize("name", JOINED)
def test_what_reads_several_parts_takes_the_first_channels_of_each(name: str) -> None:
    small, large = Joined(name, 2), Joined(name, 6)  # 8 channels and 16
    elastic = ElasticLayer([small, large]).eval()
    with torch.no_grad():
        for tensor in elastic.state(large).values():
            if tensor.ndim:
                tensor.copy_(torch.arange(1.0, 1 + tensor.numel()).reshape(tensor.shape).remainder(7.3) + 0.1)
    full = elastic.state(large)
    for key, tensor in elastic.state(small).items():
        if key.startswith("read"):
            axes = [axis for axis, extent in enumerate(full[key].shape) if extent == 16]
            expected = full[key]
            for axis in axes:
                expected = expected.index_select(axis, torch.tensor([0, 1, 2, 3, 4, 5, 10, 11]))
            assert torch.equal(tensor, expected), key
            assert axes or name == "tokens" or key.endswith("tracked") or name in ("conv", "up", "linear")
    x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(elastic(small, x), extracted(elastic, small).eval()(x))


def test_a_linear_layer_of_each_token_does_not_take_tokens_for_features() -> None:
    """As many tokens as features, the first of them a class token of its own."""

    def program(tokens: int, features: int) -> Program:
        def define(x: Traced) -> Traced:
            return Linear("mix", 4)(Concat()(Learned("token", (1, features))(x), x))

        return Program.of(define, [(tokens, features)])

    assert channels_read(program(7, 8)) == {}

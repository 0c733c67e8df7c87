import numpy as np
import pytest
import torch

from search_spaces import Architecture, SearchSpace
from search_spaces.base.building import build
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Conv, Layer, MBConv
from search_spaces.lite_residual import SUFFIX, LiteResidual, LiteResiduals
from search_spaces.loading import load_space
from search_spaces.torch_program import StaticNetwork


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("mobilenet_v3_digits")


@pytest.fixture(scope="module")
def lite(space: SearchSpace) -> LiteResiduals:
    return LiteResiduals("digits_lite", space)


def test_what_it_computes_and_costs() -> None:
    """A 5x5 convolution in two groups and a 1x1 convolution, at half the resolution."""
    layer = LiteResidual(in_channels=8, out_channels=16, size=12, out_size=12)
    spatial, widen = 8 * 4 * 25, 8 * 16
    assert layer.output_shape == (16, 12, 12)
    assert layer.macs == 36 * (spatial + widen)
    assert layer.params == spatial + widen + 2 * 8 + 2 * 16
    strided = LiteResidual(in_channels=8, out_channels=16, size=12, out_size=6)
    assert strided.output_shape == (16, 6, 6) and strided.macs == 9 * (spatial + widen)


@pytest.mark.parametrize(("size", "out_size"), [(1, 1), (2, 1), (3, 2), (5, 5), ((6, 4), (3, 2)), ((1, 9), (1, 9))])
def test_it_has_the_size_of_the_block(size: int, out_size: int) -> None:
    layer = LiteResidual(in_channels=4, out_channels=6, size=size, out_size=out_size, kernel=1)
    assert layer.output_shape == layer.input_shapes[0]


def test_it_stands_beside_blocks_alone(space: SearchSpace, lite: LiteResiduals) -> None:
    whole, plain = lite.transferred(space.biggest).layers, space.biggest.layers
    added = {position: layer for position, layer in whole.items() if isinstance(layer, LiteResidual)}
    blocks = [position for position, layer in plain.items() if isinstance(layer, MBConv)]
    assert list(added) == [f"{block}{SUFFIX}" for block in blocks]
    assert {position: layer for position, layer in whole.items() if position not in added} == dict(plain)
    for position, layer in added.items():
        block = plain[position.removesuffix(SUFFIX)]
        assert whole.sources[position][0] == position.removesuffix(SUFFIX)
        assert layer.input_shapes == (block.output_shape, block.input_shape)


def test_every_network_has_one_with_lite_residuals(space: SearchSpace, lite: LiteResiduals) -> None:
    assert lite.size == space.size
    for row in space.sample(20, np.random.default_rng(0)):
        one = Architecture(space, row)
        added = lite.transferred(one).layers
        assert len(added) == 2 * len(one.layers) - sum(isinstance(layer, Conv) for layer in one.layers.values()) - 1
        assert LiteResiduals.of(one).layers == added or dict(LiteResiduals.of(one).layers) == dict(added)


def test_it_adds_nothing_at_first(space: SearchSpace, lite: LiteResiduals) -> None:
    torch.manual_seed(0)
    network = StaticNetwork(lite.smallest.layers)
    plain = StaticNetwork(space.smallest.layers)
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if SUFFIX not in name})
    images = torch.randn(4, *next(iter(space.smallest.layers.inputs.values())))
    assert torch.equal(network.eval()(images), plain.eval()(images))


def test_it_is_made_again_from_its_definition(lite: LiteResiduals) -> None:
    again = build("space", lite.definition, SearchSpace)
    assert again.fingerprint == lite.fingerprint
    layers = {type(layer).__name__: layer for layer in lite.biggest.layers.values()}
    assert Layer.from_json(layers["LiteResidual"].to_json()) == layers["LiteResidual"]


def test_spaces_that_cannot_have_them_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="several ways"):
        LiteResiduals("lite", load_space("nasbench201"))

"""The space for super-resolution: its layers, its MACs beside torch's, and what an untrained network gives."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from search_spaces import Architecture
from search_spaces.base.errors import InvalidValueError
from search_spaces.loading import load_space
from search_spaces.space_contract import check_space
from search_spaces.super_resolution import BiasedConv, SubPixels, SuperResolutionSpace
from search_spaces.torch_program import StaticLayer, StaticNetwork

SMALL: dict[str, Any] = {
    "name": "small",
    "resolutions": ["6x8"],
    "in_channels": 3,
    "scale": 2,
    "widths": [4, 8],
    "depths": [1, 2],
    "kernels": [1, 3],
}


def test_layers_of_a_network() -> None:
    space = SuperResolutionSpace(**SMALL)
    network = space.lower(space.biggest)
    assert list(network) == ["first", "middle1", "middle2", "pixels"]
    assert network["first"] == BiasedConv(3, 8, 5, "relu", (6, 8))
    assert network["middle2"] == BiasedConv(8, 8, 3, "relu", (6, 8))
    assert network["pixels"] == SubPixels(8, 3, 2, 3, (6, 8))
    assert network.sources["pixels"] == ("middle2", "first", "image")
    assert network.output_shapes == {"upscaled": (3, 12, 16)}
    small = space.lower(space.smallest)
    assert list(small) == ["first", "middle1", "pixels"] and small.sources["pixels"] == ("middle1", "first", "image")
    check_space(space, np.random.default_rng(0))


@pytest.mark.parametrize("scale", [2, 3])
def test_without_a_convolution_the_pixels_are_those_of_the_image(scale: int) -> None:
    layer = StaticLayer(SubPixels(4, 3, scale, 3, (5, 6)).program)
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    image = torch.rand(2, 3, 5, 6)
    found = layer(torch.rand(2, 4, 5, 6), torch.rand(2, 4, 5, 6), image)
    torch.testing.assert_close(found, image.repeat_interleave(scale, 2).repeat_interleave(scale, 3))


def test_macs_are_those_that_torch_counts() -> None:
    space = load_space("super_resolution")
    for genes in [space.biggest.genes, *space.sample(3, np.random.default_rng(1))]:
        layers = space.lower(Architecture(space, genes))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            StaticNetwork(layers).eval()(torch.zeros(1, 3, 48, 48))
        assert sum(layer.macs for layer in layers.values()) == counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernels": [2, 3]}, "must be odd"),
        ({"widths": [8, 4]}, "`widths` of space 'small' must be integers that ascend"),
        ({"depths": [0, 2]}, "`depths` of space 'small' must be a list of int from 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        SuperResolutionSpace(**{**SMALL, **changes})

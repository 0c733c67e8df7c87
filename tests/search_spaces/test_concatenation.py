"""FasterNet, VoVNet and HarDNet: networks that concatenate."""

import pytest
import torch
from torch.nn import functional

from search_spaces.base.errors import InvalidValueError
from search_spaces.concatenation import OSA, FasterNetBlock, HarDBlock
from search_spaces.torch_program import Mode, StaticLayer, run
from tests.conftest import shipped

COUNTS = {
    ("fasternet", "fasternet_t0"): (335_422_720, 3_905_500),
    ("fasternet", "fasternet_t1"): (850_511_872, 7_595_368),
    ("vovnet", "vovnet27_slim"): (2_176_695_296, 3_525_736),
    ("vovnet", "vovnet39"): (7_072_227_328, 22_600_296),
    ("hardnet", "hardnet39ds"): (429_471_474, 3_488_228),
}
"""(Space, network) -> (MACs, parameters) of the authors' code, at 224 x 224 and 1000 classes."""


@pytest.mark.parametrize(("space", "network"), COUNTS)
def test_published_networks(space: str, network: str) -> None:
    architecture = shipped(space).member(network)
    assert (architecture.macs, architecture.params) == COUNTS[space, network]


def test_partial_convolution_leaves_the_other_channels() -> None:
    block = StaticLayer(FasterNetBlock(8, 8, 2, 16, 3, 1, "relu", 5).program).eval()
    x = torch.randn(1, 8, 5, 5)
    weights = dict(block.named_parameters())
    with torch.no_grad():
        y = torch.cat([functional.conv2d(x[:, :2], weights["partial.weight"], padding=1), x[:, 2:]], 1)
        y = functional.relu(functional.conv2d(y, weights["expand.conv.weight"]) / (1 + 1e-5) ** 0.5)
        expected = functional.conv2d(y, weights["project.weight"]) + x
        torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("size", [7, 8])
def test_pooling_before_an_aggregation_has_no_padding_before(size: int) -> None:
    layer = OSA(4, 6, 2, 3, 3, 2, False, "relu", size)
    first = layer.program.steps[0]
    x = torch.randn(1, 4, size, size)
    pooled = run(first.op, [], Mode(), x)
    padded = functional.pad(x, (0, size % 2 + 1) * 2, value=-torch.inf)
    torch.testing.assert_close(pooled, functional.max_pool2d(padded, 3, 2))
    if size % 2 == 0:
        torch.testing.assert_close(pooled, functional.max_pool2d(x, 3, 2, ceil_mode=True))  # the authors' form


def test_second_aggregation_of_a_stage_adds_its_input() -> None:
    layers = shipped("vovnet").member("vovnet39").layers
    found = [layer for layer in layers.values() if isinstance(layer, OSA)]
    assert [layer.residual for layer in found] == [False, False, False, True, False, True]


def test_links_and_widths_of_a_harmonic_block() -> None:
    block = HarDBlock(96, 320, 20, 16, 16, 3, 2, "relu6", 56)
    assert [block.links(n) for n in (1, 2, 3, 4, 8, 16)] == [
        [0],
        [1, 0],
        [2],
        [3, 2, 0],
        [7, 6, 4, 0],
        [15, 14, 12, 8, 0],
    ]
    widths = [20, 32, 20, 52, 20, 32, 20, 82, 20, 32, 20, 52, 20, 32, 20, 132]
    assert [block.width(n) for n in range(1, 17)] == widths
    assert block.program.shapes[-3][0] == 292  # what the transition reads


@pytest.mark.parametrize(
    "make",
    [
        lambda: FasterNetBlock(8, 8, 9, 16, 3, 1, "relu", 5),
        lambda: FasterNetBlock(8, 12, 2, 16, 3, 1, "relu", 5),
        lambda: OSA(4, 6, 2, 3, 3, 1, True, "relu", 8),
    ],
)
def test_impossible_layers_are_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(InvalidValueError):
        make()

"""PP-LCNet and FD-MobileNet: depthwise separable convolutions without residuals."""

import pytest

from search_spaces.layers import Classifier, SeparableConv
from tests.conftest import shipped

COUNTS = {
    ("pp_lcnet", "pp_lcnet_x0_25"): (16_773_440, 1_521_184),
    ("pp_lcnet", "pp_lcnet_x0_35"): (27_357_832, 1_643_090),
    ("pp_lcnet", "pp_lcnet_x0_5"): (44_731_008, 1_879_576),
    ("pp_lcnet", "pp_lcnet_x0_75"): (94_786_496, 2_357_008),
    ("pp_lcnet", "pp_lcnet_x1_0"): (155_700_480, 2_952_520),
    ("pp_lcnet", "pp_lcnet_x1_5"): (334_188_416, 4_499_832),
    ("pp_lcnet", "pp_lcnet_x2_0"): (580_194_816, 6_521_512),
    ("pp_lcnet", "pp_lcnet_x2_5"): (893_719_680, 9_017_560),
    ("fd_mobilenet", "fd_mobilenet_x0_25"): (12_037_952, 383_160),
    ("fd_mobilenet", "fd_mobilenet_x0_5"): (40_132_224, 993_928),
    ("fd_mobilenet", "fd_mobilenet_x0_75"): (84_282_816, 1_833_304),
    ("fd_mobilenet", "fd_mobilenet_x1_0"): (144_489_728, 2_901_288),
}
"""(Space, network) -> (MACs, parameters) as counted by hand from the papers and the authors' code, at 224 x 224."""


@pytest.mark.parametrize(("space", "network"), COUNTS)
def test_published_networks(space: str, network: str) -> None:
    architecture = shipped(space).member(network)
    assert (architecture.macs, architecture.params) == COUNTS[space, network]


def test_last_blocks_of_pp_lcnet_have_gates() -> None:
    layers = shipped("pp_lcnet").member("pp_lcnet_x1_0").layers
    blocks = [layer for layer in layers.values() if isinstance(layer, SeparableConv)]
    assert [block.squeeze for block in blocks] == [0] * 11 + [64, 128]
    assert [block.kernel for block in blocks] == [3] * 6 + [5] * 7
    assert layers["head"] == Classifier(512, 1280, 1000, "h_swish", 7, mix_bias=False)


def test_steps_of_a_block() -> None:
    steps = SeparableConv(8, 12, 3, 1, 2, "relu", 6).program.steps
    assert [type(step.op).__name__ for step in steps] == [
        *("Convolution", "Activate"),
        *("GlobalPool", "Convolution", "Activate", "Convolution", "Activate", "Multiply"),
        *("Convolution", "Activate"),
    ]

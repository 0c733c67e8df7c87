"""RepVGG, MobileOne and RepViT: networks whose branches merge."""

import pytest

from search_spaces import counting
from search_spaces.layers import LinearClassifier
from search_spaces.ops.convolution import BatchNorm, Convolution
from search_spaces.reparameterised import BatchNormClassifier, MobileOneBlock, RepConv, RepViTBlock
from tests.conftest import shipped

COUNTS = {
    ("repvgg", "repvgg_a0"): {"training": (1_512_581_120, 9_108_968), "inference": (1_361_451_008, 8_309_384)},
    ("repvgg", "repvgg_a1"): {"training": (2_626_488_320, 14_092_264), "inference": (2_363_967_488, 12_789_864)},
    ("repvgg", "repvgg_a2"): {"training": (5_685_345_280, 28_210_600), "inference": (5_116_951_552, 25_499_944)},
    ("repvgg", "repvgg_b0"): {"training": (3_397_191_680, 15_817_960), "inference": (3_057_600_512, 14_339_048)},
    ("mobileone", "mobileone_s0"): {"training": (1_051_935_232, 5_293_272), "inference": (275_110_400, 2_078_504)},
    ("mobileone", "mobileone_s1"): {"inference": (825_057_024, 4_764_840)},
    ("repvit", "repvit_m0_9"): {"training": (816_896_832, 5_103_560), "inference": (815_617_344, 5_067_056)},
}
"""(Space, network) -> form -> (MACs, parameters) of the authors' code, at 224 x 224 and 1000 classes."""


@pytest.mark.parametrize(("space", "network"), COUNTS)
def test_published_networks(space: str, network: str) -> None:
    architecture = shipped(space).member(network)
    programs = [layer.program for layer in architecture.layers.values()]
    for form, expected in COUNTS[space, network].items():
        assert tuple(sum(count(p, form) for p in programs) for count in (counting.macs, counting.params)) == expected
    assert architecture.macs == COUNTS[space, network]["inference"][0]


def test_repvgg_a0() -> None:
    layers = dict(shipped("repvgg").member("repvgg_a0").layers)
    assert len(layers) == 23
    assert layers["stem"] == RepConv(3, 48, 3, 2, 1, "relu", 224)
    assert layers["stage3_block1"] == RepConv(96, 192, 3, 2, 1, "relu", 28)
    assert layers["stage3_block14"] == RepConv(192, 192, 3, 1, 1, "relu", 14)
    assert layers["head"] == LinearClassifier(1280, 1000, 7)


def test_mobileone_s0() -> None:
    layers = dict(shipped("mobileone").member("mobileone_s0").layers)
    assert [name for name in layers if name.startswith("stage")] == [
        f"stage{stage}_block{block}" for stage, depth in enumerate((2, 8, 10, 1), 1) for block in range(1, depth + 1)
    ]
    assert layers["stem"] == RepConv(3, 48, 3, 2, 1, "relu", 224)  # its one branch is the paper's
    assert layers["stage2_block1"] == MobileOneBlock(48, 128, 3, 2, 4, "relu", 56)


def test_repvit_m0_9() -> None:
    layers = dict(shipped("repvit").member("repvit_m0_9").layers)
    blocks = [layer for layer in layers.values() if isinstance(layer, RepViTBlock)]
    assert [block.squeeze for block in blocks] == [16, 0, 0, 0, 24, 0, 0, 0, *[48, 0] * 7, 0, 0, 96, 0]
    assert blocks[3] == RepViTBlock(48, 96, 192, 3, 2, 0, "gelu", 56)
    assert layers["head"] == BatchNormClassifier(384, 1000, 7)


def test_branch_over_the_input_is_there_where_the_shape_stays() -> None:
    for layer, there in (
        (RepConv(8, 8, 3, 1, 1, "relu", 8), True),
        (RepConv(8, 8, 3, 2, 1, "relu", 8), False),
        (RepConv(8, 16, 3, 1, 1, "relu", 8), False),
    ):
        assert ("conv.identity.weight" in {p.name for p in layer.program.parameters}) is there


def test_merged_block_has_no_addition_and_no_norm() -> None:
    steps = MobileOneBlock(8, 16, 3, 1, 4, "relu", 8).program.deployed.steps
    assert [type(step.op).__name__ for step in steps] == ["Convolution", "Activate"] * 2
    assert all(not step.op.norm for step in steps if isinstance(step.op, Convolution))
    assert not any(isinstance(step.op, BatchNorm) for step in BatchNormClassifier(8, 3, 4).program.deployed.steps)

"""Published networks of the spaces that are YAMLs of stages."""

from typing import Any

import pytest

from search_spaces import (
    Architecture,
    BasicBlock,
    Bottleneck,
    Conv,
    DepthwiseBottleneck,
    FusedMBConv,
    Layer,
    MBConv,
    Tucker,
)
from tests.conftest import shipped

PUBLISHED: dict[str, list[tuple[str, int, int]]] = {
    "mobilenet_v2": [("mobilenet_v2", 300_774_272, 3_504_872)],
    "mnasnet": [("mnasnet_a1", 311_579_072, 3_887_038), ("mnasnet_b1", 314_415_872, 4_383_312)],
    "efficientnet": [
        ("efficientnet_b0", 385_814_752, 5_288_548),
        ("efficientnet_b1", 686_802_832, 7_794_184),
        ("efficientnet_b2", 993_561_872, 9_109_994),
        ("efficientnet_b3", 1_827_141_392, 12_233_232),
        ("efficientnet_b4", 4_393_771_024, 19_341_616),
    ],
    "mobiledets": [
        ("mobiledet_edgetpu", 1_473_795_200, 2_777_040),
        ("mobiledet_dsp", 2_763_353_600, 5_839_952),
        ("mobiledet_gpu", 5_009_920_000, 11_689_920),
    ],
    "mobiledets_cpu": [("mobiledet_cpu", 408_006_272, 3_006_440)],
    "genet": [("genet_light", 547_222_656, 8_173_761)],
    "resnet_rs": [
        ("resnet_rs_50_160", 2_278_629_376, 35_691_912),
        ("resnet_rs_101_160", 4_181_532_672, 63_618_696),
        ("resnet_rs_101_192", 6_012_157_952, 63_618_696),
        ("resnet_rs_152_192", 8_746_844_160, 86_621_576),
        ("resnet_rs_152_224", 11_895_185_408, 86_621_576),
        ("resnet_rs_152_256", 15_527_886_848, 86_621_576),
        ("resnet_rs_200_256", 20_093_386_752, 93_209_992),
    ],
}
"""Space -> network, MACs and parameters of the published definitions; of MobileDets, of the backbones."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_the_published_counts(name: str) -> None:
    space = shipped(name)
    assert space.members == tuple(member for member, _, _ in PUBLISHED[name])
    for member, macs, params in PUBLISHED[name]:
        layers = space.lower(space.member(member))
        counted = [
            layer for position, layer in layers.items() if not name.startswith("mobiledets") or position != "head"
        ]
        assert (sum(x.macs for x in counted), sum(x.params for x in counted)) == (macs, params), member


@pytest.mark.parametrize(
    ("name", "member", "position", "layer"),
    [
        ("mobilenet_v2", "mobilenet_v2", "stage1_block1", MBConv(32, 16, 32, False, 3, 1, 0, "relu6", 112)),
        ("mnasnet", "mnasnet_a1", "stage3_block1", MBConv(24, 40, 72, True, 5, 2, 6, "relu", 56, "relu", "sigmoid")),
        ("mnasnet", "mnasnet_b1", "stage6_block4", MBConv(192, 192, 1152, True, 5, 1, 0, "relu", 7)),
        (
            "efficientnet",
            "efficientnet_b0",
            "stage1_block1",
            MBConv(32, 16, 32, False, 3, 1, 8, "silu", 112, "silu", "sigmoid"),
        ),
        ("mobiledets", "mobiledet_edgetpu", "stage1_block1", Tucker(32, 16, 8, 16, 3, 1, "relu6", 160)),
        ("mobiledets", "mobiledet_edgetpu", "stage2_block2", FusedMBConv(16, 16, 64, 3, 1, "relu6", "none", 80)),
        ("mobiledets", "mobiledet_dsp", "stage6_block4", Tucker(160, 160, 120, 120, 3, 1, "relu6", 10)),
        (
            "mobiledets_cpu",
            "mobiledet_cpu",
            "stage5_block1",
            MBConv(72, 72, 576, True, 3, 1, 144, "h_swish", 20, "h_swish", "sigmoid", False),
        ),
        ("genet", "genet_light", "stem", Conv(3, 13, 3, 2, "relu", 192)),
        ("genet", "genet_light", "stage1_block1", BasicBlock(13, 48, 48, 3, 2, "relu", 96)),
        ("genet", "genet_light", "stage3_block2", Bottleneck(384, 384, 96, False, 1, "relu", 12)),
        ("genet", "genet_light", "stage3_block1", Bottleneck(48, 384, 96, True, 2, "relu", 24, pools=False)),
        ("genet", "genet_light", "stage4_block1", DepthwiseBottleneck(384, 560, 1680, 3, 2, "relu", 12)),
        (
            "resnet_rs",
            "resnet_rs_50_160",
            "stage2_block1",
            Bottleneck(256, 512, 128, True, 2, "relu", 40, squeeze=128, gate_activation="sigmoid"),
        ),
    ],
)
def test_layers_of_published_networks(name: str, member: str, position: str, layer: Layer) -> None:
    space = shipped(name)
    assert space.lower(space.member(member))[position] == layer


@pytest.mark.parametrize(("name", "member"), [("mobiledets", "mobiledet_gpu"), ("mobiledets_cpu", "mobiledet_cpu")])
def test_mobiledets_add_the_input_in_all_blocks_but_the_first_of_a_stage(name: str, member: str) -> None:
    space = shipped(name)
    blocks: dict[str, Any] = {n: x for n, x in space.lower(space.member(member)).items() if n.startswith("stage")}
    assert {name: block.residual for name, block in blocks.items()} == {name: name[-1] != "1" for name in blocks}


def test_scaled_networks_are_baselines() -> None:
    for name, baseline in (("efficientnet", "EfficientNet B0 to B4"), ("resnet_rs", "ResNet-RS")):
        assert shipped(name).baselines == {baseline: tuple(member for member, _, _ in PUBLISHED[name])}


def test_a_published_network_outside_of_a_part_is_refused() -> None:
    part = shipped("resnet_rs").restricted({"resolution": 192})
    assert isinstance(part.member("resnet_rs_152_192"), Architecture)
    with pytest.raises(ValueError, match=r"it is outside of the part in which \{'resolution': 192\}"):
        part.member("resnet_rs_50_160")

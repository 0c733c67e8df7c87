"""Networks in once-for-all's formats, and the numbers that their authors published."""

import copy
import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from search_spaces import Architecture, MobileNetV3
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.layers import Classifier, Conv, Layer, LinearClassifier, MBConv
from search_spaces.published import published_architecture

DATA = Path(__file__).parents[3] / "shared" / "data" / "ofa_mbv3"
SPACES = Path(__file__).parents[2] / "search_spaces" / "space"


def tiny(**changes: Any) -> MobileNetV3:
    settings: dict[str, Any] = {
        "name": "tiny",
        "resolutions": [16, 32],
        "in_channels": 3,
        "classes": 5,
        "stem": 8,
        "stem_stride": 2,
        "stages": [
            {"channels": 16, "stride": 2, "squeeze": False, "activation": "relu"},
            {"channels": 24, "stride": 1, "squeeze": True, "activation": "h_swish"},
        ],
        "depths": [1, 2],
        "kernels": [3, 5],
        "expands": [3, 4],
        "last_channels": 32,
        "features": 40,
        "mix_bias": False,
    }
    return MobileNetV3(**(settings | changes))


def block(inputs: int, outputs: int, kernel: int, stride: int, expand: int, activation: str, squeeze: bool) -> Any:
    conv = {"name": "MBConvLayer", "in_channels": inputs, "out_channels": outputs, "kernel_size": kernel}
    conv |= {"stride": stride, "expand_ratio": expand, "mid_channels": None, "act_func": activation, "use_se": squeeze}
    return {"name": "ResidualBlock", "conv": conv, "shortcut": {} if stride == 1 and inputs == outputs else None}


CONFIG: dict[str, Any] = {
    "name": "MobileNetV3",
    "bn": {"momentum": 0.1, "eps": 1e-5},
    "first_conv": {"kernel_size": 3, "stride": 2, "in_channels": 3, "out_channels": 8, "act_func": "h_swish"},
    "blocks": [
        block(8, 8, 3, 1, 1, "relu", False),
        block(8, 16, 5, 2, 4, "relu", False),
        block(16, 16, 3, 1, 3, "relu", False),
        block(16, 24, 5, 1, 3, "h_swish", True),
    ],
    "final_expand_layer": {
        "kernel_size": 1,
        "stride": 1,
        "in_channels": 24,
        "out_channels": 32,
        "act_func": "h_swish",
    },
    "feature_mix_layer": {
        "kernel_size": 1,
        "stride": 1,
        "bias": False,
        "in_channels": 32,
        "out_channels": 40,
        "act_func": "h_swish",
    },
    "classifier": {"in_features": 40, "out_features": 5, "bias": True},
}
LISTS: dict[str, Any] = {"ks": [5, 3, 5, 3], "e": [4, 3, 3, 4], "d": [2, 1], "r": [32]}
VALUES = {"resolution": 32, "depth.1": 2, "kernel.1.1": 5, "expand.1.1": 4, "kernel.1.2": 3, "expand.1.2": 3}
VALUES |= {"depth.2": 1, "kernel.2.1": 5, "expand.2.1": 3}


def changed(path: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    *parents, last = path.split(".")
    node: Any = config
    for key in parents:
        node = node[int(key)] if isinstance(node, list) else node[key]
    node[last] = value
    return config


@pytest.mark.parametrize(
    "config",
    [
        LISTS,
        {**LISTS, "r": 32},
        {"ks": LISTS["ks"], "e": LISTS["e"], "d": LISTS["d"], "image_size": 32},
        {"net_config": CONFIG, "image_size": 32, "top1": 80.0},
    ],
)
def test_both_formats(config: dict[str, Any]) -> None:
    assert published_architecture(tiny(), config).values == VALUES


def test_older_names_and_a_given_resolution() -> None:
    config = copy.deepcopy(CONFIG)
    for part in config["blocks"]:
        part["mobile_inverted_conv"] = part.pop("conv")
    assert published_architecture(tiny(), config, resolution=16).values == {**VALUES, "resolution": 16}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed("blocks.2.conv.kernel_size", 7), r"kernel size of block 2 must be one of \[3, 5\]"),
        (changed("blocks.3.conv.expand_ratio", 6), r"expand ratio of block 3 must be one of \[3, 4\]"),
        (changed("blocks.3.conv.use_se", False), r"block 3 is MBConv.*squeeze=0.*'stage2_block1' of space 'tiny' is"),
        (changed("blocks.1.conv.out_channels", 24), "block 1 is MBConv"),
        (changed("blocks.1.conv.mid_channels", 24), "block 1 is MBConv"),
        (changed("blocks.2.shortcut", None), "2 stages behind the fixed block, but the network has 3"),
        (changed("blocks.3.shortcut", {}), "2 stages behind the fixed block, but the network has 1"),
        (changed("blocks.0.conv.act_func", "h_swish"), "block 0 is MBConv"),
        (changed("first_conv.act_func", "relu"), "first convolution is Conv"),
        (changed("final_expand_layer.out_channels", 48), "last convolution is Conv"),
        (changed("feature_mix_layer.bias", True), "classifier is Classifier"),
        (changed("bn.eps", 1e-3), "BatchNorm of space 'tiny' adds 1e-05"),
        ({**LISTS, "r": 24}, r"resolution must be one of \[16, 32\]"),
        ({**LISTS, "ks": [5, 3, 7, 3]}, "kernel size of block 3"),
        ({**LISTS, "d": [2, 3]}, "number of blocks in stage 2"),
        ({**LISTS, "e": [3, 3, 3]}, "`e` has 4 numbers"),
    ],
)
def test_a_network_of_another_space(config: dict[str, Any], message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        published_architecture(tiny(), config, resolution=32)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"top1": 80.0}, "'ks' is missing in one with"),
        ({**LISTS, "ks": 3}, "another form"),
        ({**LISTS, "r": [16, 32]}, "resolution"),
        (CONFIG, "states no resolution"),
        ([], "mapping"),
        (changed("blocks.1.conv", 3), "Block 1 needs"),
        (changed("blocks.1.conv", {"stride": 2}), "Block 1 lacks"),
        ({k: v for k, v in CONFIG.items() if k != "first_conv"} | {"image_size": 32}, "'first_conv' is missing"),
    ],
)
def test_malformed_configurations(config: Any, message: str) -> None:
    with pytest.raises((InvalidValueError, MismatchError), match=message):
        published_architecture(tiny(), config)


def test_proxylessnas_has_no_hidden_layer_and_one_block_in_its_last_stage() -> None:
    space = ofa("ofa_proxylessnas")
    lists = {"ks": [3] * 21, "e": [4] * 21, "d": [2, 2, 2, 2, 2, 4], "r": 128}
    architecture = published_architecture(space, lists)
    layers = space.lower(architecture)
    assert architecture.values["depth.6"] == 1
    assert layers["first"] == MBConv(40, 24, 40, False, 3, 1, 0, "relu6", 64)
    assert layers["stage6_block1"] == MBConv(248, 416, 992, True, 3, 1, 0, "relu6", 4)
    assert layers["last"] == Conv(416, 1664, 1, 1, "relu6", 4)
    assert layers["classifier"] == LinearClassifier(1664, 1000, 4)


# -- published numbers -------------------------------------------------------------------------------------------------


def ofa(name: str, **changes: Any) -> MobileNetV3:
    settings = yaml.safe_load((SPACES / f"{name}.yaml").read_text())
    del settings["_target_"]
    return MobileNetV3(**(settings | changes))


def macs(architecture: Architecture) -> int:
    return sum(layer.macs for layer in architecture.space.lower(architecture).values())


def test_sizes() -> None:
    # Section 3.1 of the paper: (3 x 3) ** 2 + (3 x 3) ** 3 + (3 x 3) ** 4 per unit, 5 units, 25 resolutions
    assert ofa("ofa_mobilenet_v3").size == ofa("ofa_mobilenet_v3_w1.2").size == 25 * 7371**5
    assert ofa("ofa_proxylessnas").size == 25 * 7371**5 * 9


def test_mobilenet_v3_large() -> None:
    """The published network has ratios such as 2.5 and no equal number of blocks, so it is in no once-for-all space; of
    the same layers it has the parameters and operations that torchvision states for `mobilenet_v3_large`."""
    rows = [  # (kernel, hidden, channels, squeeze, activation, stride) of arXiv:1905.02244, table 1
        *((3, 16, 16, 0, "relu", 1), (3, 64, 24, 0, "relu", 2), (3, 72, 24, 0, "relu", 1)),
        *((5, 72, 40, 24, "relu", 2), (5, 120, 40, 32, "relu", 1), (5, 120, 40, 32, "relu", 1)),
        *((3, 240, 80, 0, "h_swish", 2), (3, 200, 80, 0, "h_swish", 1), (3, 184, 80, 0, "h_swish", 1)),
        *((3, 184, 80, 0, "h_swish", 1), (3, 480, 112, 120, "h_swish", 1), (3, 672, 112, 168, "h_swish", 1)),
        *((5, 672, 160, 168, "h_swish", 2), (5, 960, 160, 240, "h_swish", 1), (5, 960, 160, 240, "h_swish", 1)),
    ]
    layers: list[Layer] = [Conv(3, 16, 3, 2, "h_swish", 224)]
    channels, size = 16, 112
    for number, (kernel, hidden, out, squeeze, activation, stride) in enumerate(rows):
        layers.append(MBConv(channels, out, hidden, number > 0, kernel, stride, squeeze, activation, size))  # type: ignore[arg-type]
        channels, size = out, -(-size // stride)
    layers += [Conv(160, 960, 1, 1, "h_swish", 7), Classifier(960, 1280, 1000, "h_swish", 7)]
    assert sum(layer.params for layer in layers) == 5_483_032
    assert round(sum(layer.macs for layer in layers) / 1e9, 3) == 0.217


def published(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there: once-for-all's published networks do not come with the repository")
    return path


def test_macs_of_the_published_networks() -> None:
    nets = json.loads(published("published_nets.json").read_text())
    resolutions = list(range(128, 261, 4))  # some networks were published for larger images than were searched
    names = ("ofa_mobilenet_v3", "ofa_mobilenet_v3_w1.2", "ofa_proxylessnas")
    spaces = [ofa(name, resolutions=resolutions) for name in names]
    stated = {}
    for net in nets:
        found = []
        for space in spaces:
            try:
                found.append(published_architecture(space, net))
            except MismatchError:
                continue
        assert len(found) == 1, f"{net['name']} must be in one of the spaces alone, but is in {found}"
        if match := re.search(r"flops-(\d+)M", net["name"]):
            stated[int(match[1])] = macs(found[0])
    assert stated.keys() == {389, 482, 595}
    for millions, ours in stated.items():
        assert int(ours / 1e6) == millions


def test_a_published_network_for_larger_images_than_the_space_has() -> None:
    nets = json.loads(published("published_nets.json").read_text())
    (net,) = (net for net in nets if net["name"].startswith("flops-595M"))
    with pytest.raises(MismatchError, match=r"resolution must be one of .*but is 236"):
        published_architecture(ofa("ofa_mobilenet_v3_w1.2"), net)


def test_published_lists() -> None:
    space = ofa("ofa_mobilenet_v3")
    with published("gpu_latency_ms.csv").open() as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(200), strict=False)]
    found, latency = [], []
    for row in rows:
        lists = {key: [int(row[f"{key}{n}"]) for n in range(count)] for key, count in (("ks", 20), ("e", 20), ("d", 5))}
        found.append(macs(published_architecture(space, {**lists, "r": int(row["r"])})))
        latency.append(float(row["titan_xp_64"]))
    assert np.corrcoef(found, latency)[0, 1] > 0.9

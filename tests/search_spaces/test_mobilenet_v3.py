from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import instantiate

from search_spaces import Architecture, Classifier, Conv, MBConv, MobileNetV3
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import LinearClassifier

GOOD: dict[str, Any] = {
    "name": "good",
    "resolutions": [16],
    "in_channels": 3,
    "classes": 2,
    "stem": 8,
    "stem_stride": 2,
    "stages": [{"channels": 16, "stride": 2, "squeeze": True, "activation": "relu"}],
    "depths": [1, 2],
    "kernels": [3, 5],
    "expands": [2, 3],
    "last_channels": 16,
    "features": 16,
}


def test_the_published_network(ofa_space: MobileNetV3) -> None:
    """MobileNetV3-Large's layout: 16-24-40-80-112-160-960-1280 at strides 2, 2, 2, 2, 1, 2."""
    layers = ofa_space.lower(ofa_space.biggest)
    assert len(layers) == 2 + 5 * 4 + 2
    assert layers["stem"] == Conv(3, 16, 3, 2, "h_swish", 224)
    assert layers["first"] == MBConv(16, 16, 16, False, 3, 1, 0, "relu", 112)
    assert layers["stage1_block1"] == MBConv(16, 24, 96, True, 7, 2, 0, "relu", 112)
    assert layers["stage2_block2"] == MBConv(40, 40, 240, True, 7, 1, 64, "relu", 28)
    assert layers["stage5_block4"] == MBConv(160, 160, 960, True, 7, 1, 240, "h_swish", 7)
    assert layers["last"] == Conv(160, 960, 1, 1, "h_swish", 7)
    assert layers["classifier"] == Classifier(960, 1280, 1000, "h_swish", 7, mix_bias=False)


def test_depth_leaves_out_the_last_blocks(tiny_space: MobileNetV3) -> None:
    for depth in (1, 2, 3):
        values: dict[str, int | str] = {"resolution": 8, "depth.1": depth}
        for block in range(1, depth + 1):
            values |= {f"kernel.1.{block}": 3, f"expand.1.{block}": 1}
        lowered = tiny_space.lower(Architecture(tiny_space, tiny_space.genes_of(values)))
        assert [name for name in lowered if name.startswith("stage")] == [
            f"stage1_block{block}" for block in range(1, depth + 1)
        ]


def test_odd_sizes_round_up() -> None:
    space = MobileNetV3(**{**GOOD, "resolutions": [15]})
    sizes = [layer.input_shape[1] for layer in space.lower(space.biggest).values()]
    assert sizes == [15, 8, 8, 4, 4, 4]


def test_width_scales_all_channels() -> None:
    space = MobileNetV3(**{**GOOD, "width": 2.0})
    layers = space.lower(space.smallest)
    assert [layer.output_shape[0] for layer in layers.values()] == [16, 16, 32, 32, 2]
    assert space.fingerprint != MobileNetV3(**GOOD).fingerprint


def test_identity_is_the_name_and_all_settings() -> None:
    assert MobileNetV3(**GOOD).fingerprint == MobileNetV3(**GOOD).fingerprint
    assert MobileNetV3(**{**GOOD, "kernels": (3, 5)}).fingerprint == MobileNetV3(**GOOD).fingerprint
    changes: list[dict[str, Any]] = [{"name": "other"}, {"classes": 3}, {"depths": [1, 3]}, {"stem_activation": "relu"}]
    stage = GOOD["stages"][0]
    changes += [{"stages": [{**stage, "squeeze": False}]}, {"mix_bias": False}, {"norm_eps": 1e-3}, {"first": 16}]
    prints = {MobileNetV3(**{**GOOD, **change}).fingerprint for change in [{}, *changes]}
    assert len(prints) == len(changes) + 1


def test_a_stage_can_have_its_own_depths() -> None:
    stage = GOOD["stages"][0]
    space = MobileNetV3(**{**GOOD, "stages": [stage, {**stage, "depths": [1]}]})
    assert space.size == (4 + 4**2) * 4
    names = [position.name for position in space.positions]
    assert names == ["stem", "first", "stage1_block1", "stage1_block2", "stage2_block1", "last", "classifier"]


def test_the_fixed_block_and_the_head_of_proxylessnas() -> None:
    changes = {"first": 24, "first_activation": "relu6", "last_activation": "relu6", "features": None}
    space = MobileNetV3(**{**GOOD, **changes})
    layers = space.lower(space.smallest)
    assert layers["first"] == MBConv(8, 24, 8, False, 3, 1, 0, "relu6", 8)
    assert layers["stage1_block1"].input_shape == (24, 8, 8)
    assert layers["last"] == Conv(16, 16, 1, 1, "relu6", 4)
    assert layers["classifier"] == LinearClassifier(16, 2, 4)


def test_hydra_builds_the_same_space(digits_space: MobileNetV3) -> None:
    path = Path(__file__).parents[2] / "search_spaces" / "space" / "mobilenet_v3_digits.yaml"
    assert instantiate(yaml.safe_load(path.read_text())).fingerprint == digits_space.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolutions": []}, "resolutions"),
        ({"resolutions": [16, 8]}, "resolutions"),
        ({"depths": [0, 1]}, "depths"),
        ({"depths": [1, 1]}, "depths"),
        ({"kernels": [3, 4]}, "odd"),
        ({"kernels": [3, "5"]}, "kernels"),
        ({"expands": [1.5]}, "expands"),
        ({"expands": [True, 2]}, "expands"),
        ({"stages": []}, "stages"),
        ({"stages": [{"channels": 8}]}, "stage has"),
        ({"stages": [GOOD["stages"][0] | {"depth": [1]}]}, "stage has"),
        ({"stages": [GOOD["stages"][0] | {"depths": [2, 1]}]}, "depths"),
        ({"norm_eps": 0.0}, "norm_eps"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        MobileNetV3(**{**GOOD, **change})

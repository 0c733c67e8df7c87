import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from search_spaces import UIB, Architecture, Conv, FusedMBConv, MobileNetV4, NormClassifier, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.space_contract import check_space

SPACES = Path(__file__).parents[2] / "search_spaces" / "space"

INSTANCES = {(False, False): "ffn", (True, False): "convnext", (False, True): "inverted", (True, True): "extra"}

# Per stage and block: (kernel, expand) where fused, else (starting kernel, middle kernel, expand).
CONV_SMALL = [
    [(3, 1)],
    [(3, 3)],
    [(5, 5, 3), *[(0, 3, 2)] * 4, (3, 0, 4)],
    [(3, 3, 6), (5, 5, 4), (0, 5, 4), (0, 5, 3), (0, 3, 4), (0, 3, 4)],
]
CONV_MEDIUM = [
    [(3, 4)],
    [(3, 5, 4), (3, 3, 2)],
    [(3, 5, 6), (3, 3, 4), (3, 3, 4), (3, 5, 4), (3, 3, 4), (3, 0, 4), (0, 0, 2), (3, 0, 4)],
    [(5, 5, 6), (5, 5, 4), (3, 5, 4), (3, 5, 4), (0, 0, 4), (3, 0, 4), (3, 5, 2), (5, 5, 4), (0, 0, 4), (0, 0, 4)]
    + [(5, 0, 2)],
]

TINY: dict[str, Any] = {
    "name": "tiny",
    "resolutions": [8, 12],
    "in_channels": 1,
    "classes": 3,
    "stem": 8,
    "stem_stride": 1,
    "stages": [
        {"block": "fused", "channels": 8, "stride": 1, "depths": [1], "kernels": [3, 5], "expands": [1, 2]},
        {"block": "uib", "channels": 16, "stride": 2, "depths": [1, 2], "kernels": [3, 5], "expands": [1, 2]},
    ],
    "last_channels": 16,
    "features": 16,
}


def space_of(name: str) -> MobileNetV4:
    settings = yaml.safe_load((SPACES / f"{name}.yaml").read_text())
    del settings["_target_"]
    return MobileNetV4(**settings)


def choices_of(stages: list[Any], resolution: int) -> dict[str, Value]:
    values: dict[str, Value] = {"resolution": resolution}
    for s, blocks in enumerate(stages, 1):
        values[f"depth.{s}"] = len(blocks)
        for b, block in enumerate(blocks, 1):
            values[f"expand.{s}.{b}"] = block[-1]
            if len(block) == 2:
                values[f"kernel.{s}.{b}"] = block[0]
                continue
            start, middle, _ = block
            values[f"block.{s}.{b}"] = INSTANCES[bool(start), bool(middle)]
            values |= {f"{name}.{s}.{b}": kernel for name, kernel in (("start", start), ("middle", middle)) if kernel}
    return values


@pytest.mark.parametrize(
    ("name", "stages", "resolution", "params", "macs"),
    [  # as counted by timm 1.0.31 on mobilenetv4_conv_small and mobilenetv4_conv_medium
        ("mobilenet_v4_conv_small", CONV_SMALL, 224, 3_774_024, 186_005_568),
        ("mobilenet_v4_conv_small", CONV_SMALL, 256, 3_774_024, 242_178_048),
        ("mobilenet_v4_conv_medium", CONV_MEDIUM, 224, 9_715_512, 827_649_984),
        ("mobilenet_v4_conv_medium", CONV_MEDIUM, 256, 9_715_512, 1_080_244_224),
    ],
)
def test_the_published_networks(name: str, stages: list[Any], resolution: int, params: int, macs: int) -> None:
    space = space_of(name)
    choices = choices_of(stages, resolution)
    data = {"space": space.name, "fingerprint": space.fingerprint, "choices": choices}
    architecture = Architecture.from_json(space, json.dumps(data))
    layers = space.lower(architecture)
    assert sum(layer.params for layer in layers.values()) == params
    assert sum(layer.macs for layer in layers.values()) == macs
    assert len(layers) == 3 + sum(map(len, stages))
    assert architecture.values == {name: choices[name] for name in architecture.values} and len(choices) == len(
        architecture.values
    )


def test_the_layers_of_conv_small() -> None:
    space = space_of("mobilenet_v4_conv_small")
    layers = space.lower(Architecture(space, space.genes_of(choices_of(CONV_SMALL, 224))))
    assert layers["stem"] == Conv(3, 32, 3, 2, "relu", 224)
    assert layers["stage1_block1"] == FusedMBConv(32, 32, 32, 3, 2, "relu", "relu", 112)
    assert layers["stage2_block1"] == FusedMBConv(32, 64, 96, 3, 2, "relu", "relu", 56)
    assert layers["stage3_block1"] == UIB(64, 96, 192, 5, 5, 2, "relu", 28)
    assert layers["stage3_block6"] == UIB(96, 96, 384, 3, 0, 1, "relu", 14)
    assert layers["stage4_block1"] == UIB(96, 128, 576, 3, 3, 2, "relu", 14)
    assert layers["last"] == Conv(128, 960, 1, 1, "relu", 7)
    assert layers["classifier"] == NormClassifier(960, 1280, 1000, "relu", 7)


def test_the_size_of_a_tiny_space_by_hand(rng: np.random.Generator) -> None:
    space = MobileNetV4(**TINY)
    fused = 2 * 2
    strided = 2 * (2 + 2 + 2 * 2)  # expand x (convnext, inverted, extra)
    plain = 2 * (1 + 2 + 2 + 2 * 2)
    assert space.size == 2 * fused * strided * (1 + plain)
    check_space(space, rng)


def test_every_instance_of_the_block_lowers_to_its_convolutions() -> None:
    space = MobileNetV4(**TINY)
    shape = {"resolution": 8, "depth.1": 1, "kernel.1.1": 3, "expand.1.1": 1, "depth.2": 2, "expand.2.1": 1}
    shape |= {"block.2.1": "convnext", "start.2.1": 3, "expand.2.2": 2}  # type: ignore[dict-item]
    for values, start, middle in (
        ({"block.2.2": "ffn"}, 0, 0),
        ({"block.2.2": "convnext", "start.2.2": 5}, 5, 0),
        ({"block.2.2": "inverted", "middle.2.2": 5}, 0, 5),
        ({"block.2.2": "extra", "start.2.2": 3, "middle.2.2": 5}, 3, 5),
    ):
        layers = space.lower(Architecture(space, space.genes_of({**shape, **values})))
        assert layers["stage2_block1"] == UIB(8, 16, 8, 3, 0, 2, "relu", 8)
        assert layers["stage2_block2"] == UIB(16, 16, 32, start, middle, 1, "relu", 4)
    with pytest.raises(InvalidValueError, match=r"start\.2\.2"):  # a kernel of a convolution that is not there
        space.genes_of({**shape, "block.2.2": "ffn", "start.2.2": 3})
    with pytest.raises(InvalidValueError, match=r"block\.2\.1.*'ffn'"):  # nothing could carry the stride
        space.genes_of({**shape, "block.2.1": "ffn", "block.2.2": "ffn"})


def test_identity_is_the_name_and_all_settings() -> None:
    assert MobileNetV4(**TINY).fingerprint == MobileNetV4(**{**TINY, "resolutions": (8, 12)}).fingerprint
    changes: list[dict[str, Any]] = [{}, {"name": "other"}, {"classes": 4}, {"features": 24}, {"activation": "relu6"}]
    first, second = TINY["stages"]
    changes += [{"stages": [{**first, "out_activation": "relu"}, second]}, {"stages": [second, second]}]
    assert len({MobileNetV4(**{**TINY, **change}).fingerprint for change in changes}) == len(changes)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"block": "mbconv"}, "'uib' or 'fused'"),
        ({"kernels": [4]}, "odd"),
        ({"kernels": []}, "kernels"),
        ({"depths": [2, 1]}, "depths"),
        ({"expands": [1, 1.5]}, "expands"),
        ({"squeeze": True}, "squeeze"),
        ({"out_activation": "relu"}, "out_activation"),
    ],
)
def test_wrong_stages_are_refused(stage: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        MobileNetV4(**{**TINY, "stages": [{**TINY["stages"][1], **stage}]})


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="resolutions"):
        MobileNetV4(**{**TINY, "resolutions": [12, 8]})
    with pytest.raises(InvalidValueError, match="stages"):
        MobileNetV4(**{**TINY, "stages": []})
    with pytest.raises(InvalidValueError, match=r"distinct hidden channels.*\[16, 16\]"):
        MobileNetV4(**{**TINY, "stem": 2, "stages": [{**TINY["stages"][0], "expands": [6, 7]}]})
    with pytest.raises(InvalidValueError, match="A stage has"):
        MobileNetV4(**{**TINY, "stages": [{"channels": 8}]})

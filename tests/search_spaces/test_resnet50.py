import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra.utils import instantiate

from search_spaces import Architecture, Bottleneck, Conv, LinearClassifier, MaxPool, ResidualConv, ResNet50, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.space_contract import check_space

PATH = Path(__file__).parents[2] / "search_spaces" / "space" / "ofa_resnet50.yaml"
TINY: dict[str, Any] = {
    "name": "tiny",
    "resolutions": [16],
    "in_channels": 1,
    "classes": 3,
    "stem": 32,
    "stages": [{"channels": 64, "stride": 2, "depths": [1, 2]}],
    "widths": [50, 100],
    "expands": [25, 50],
}


@pytest.fixture(scope="module")
def published() -> ResNet50:
    settings = yaml.safe_load(PATH.read_text())
    del settings["_target_"]
    return ResNet50(**settings)


def resnet50d(space: ResNet50) -> Architecture:
    """ResNet50-D, which is one of the networks of once-for-all's space."""
    values: dict[str, Value] = {"resolution": 224, "stem_width": 32, "stem_depth": 1, "width.0": 64}
    for stage, (channels, depth) in enumerate(zip((256, 512, 1024, 2048), (3, 4, 6, 3), strict=True), 1):
        values |= {f"width.{stage}": channels, f"depth.{stage}": depth}
        values |= {f"expand.{stage}.{block}": 25 for block in range(1, depth + 1)}
    return Architecture(space, space.genes_of(values))


def test_resnet50d_has_the_published_counts(published: ResNet50) -> None:
    """timm's resnet50d: 25.58 M parameters, 4.35 GMACs with 2 per element of a BatchNorm's input, as fvcore counts."""
    layers = published.lower(resnet50d(published))
    assert sum(layer.params for layer in layers.values()) == 25_576_264
    macs = sum(layer.macs for layer in layers.values())
    # torchvision's resnet50 differs in the stem: one 7x7 convolution in place of three 3x3.
    deep_stem = 112 * 112 * 9 * (3 * 32 + 32 * 32 + 32 * 64)
    assert macs == 4_089_184_256 - 112 * 112 * 49 * 3 * 64 + deep_stem == 4_328_824_832
    normalised = 0
    for name, layer in layers.items():
        if isinstance(layer, Bottleneck):
            inside, outside = layer.hidden * layer.size**2, math.prod(layer.output_shape)
            normalised += inside + inside // layer.stride**2 + outside * (2 if layer.projects else 1)
        elif name.startswith("stem") and not isinstance(layer, MaxPool):
            normalised += math.prod(layer.output_shape)
    assert round((macs + 2 * normalised) / 1e9, 2) == 4.35


def test_the_published_layers(published: ResNet50) -> None:
    layers = published.lower(published.biggest)
    assert len(layers) == 4 + 4 + 4 + 6 + 4 + 1
    assert layers["stem_first"] == Conv(3, 32, 3, 2, "relu", 256)
    assert layers["stem_residual"] == ResidualConv(32, 3, "relu", 128)
    assert layers["stem_last"] == Conv(32, 64, 3, 1, "relu", 128)
    assert layers["stem_pool"] == MaxPool(64, 3, 2, 128)
    assert layers["stage1_block1"] == Bottleneck(64, 256, 88, True, 1, "relu", 64)
    assert layers["stage3_block1"] == Bottleneck(512, 1024, 360, True, 2, "relu", 32)
    assert layers["stage3_block6"] == Bottleneck(1024, 1024, 360, False, 1, "relu", 16)
    assert layers["classifier"] == LinearClassifier(2048, 1000, 8)
    smallest = published.lower(published.smallest)
    assert len(smallest) == 3 + 2 + 2 + 4 + 2 + 1
    assert smallest["stage1_block1"] == Bottleneck(40, 168, 32, True, 1, "relu", 32)


def test_the_published_size(published: ResNet50) -> None:
    """Two of the three widths between the stem's convolutions are 24 channels, which is one network, not two."""
    assert published.choices[published.index["stem_width"]].values == (24, 32)
    stages = [sum(3**depth for depth in (base, base + 1, base + 2)) for base in (2, 2, 4, 2)]
    assert published.size == 8 * 2 * 2 * 3**5 * math.prod(stages) == 13_114_212_250_464


def test_each_position_depends_on_exactly_what_it_states(published: ResNet50) -> None:
    for p, position in enumerate(published.positions):
        cards = [int(published.cardinalities[published.index[name]]) for name in position.depends_on]
        numbers: dict[object, int] = {}
        layers = np.array([numbers.setdefault(layer, len(numbers)) for layer in published.layers_at(p)]).reshape(cards)
        for axis, name in enumerate(position.depends_on):
            assert (layers != np.roll(layers, 1, axis)).any(), (position.name, name)


def test_contracts_of_a_space_that_is_enumerated(rng: np.random.Generator) -> None:
    space = ResNet50(**TINY)
    assert space.size == 1 * 2 * 2 * 2 * 2 * (2 + 4)
    check_space(space, rng)


def test_the_stem_and_the_stages_have_their_own_depth() -> None:
    space = ResNet50(**TINY)
    values: dict[str, Value] = {"resolution": 16, "stem_width": 8, "width.0": 16, "width.1": 32, "expand.1.1": 25}
    for stem_depth, names in ((0, ["stem_first", "stem_last"]), (1, ["stem_first", "stem_residual", "stem_last"])):
        genes = space.genes_of({**values, "stem_depth": stem_depth, "depth.1": 1})
        lowered = space.lower(Architecture(space, genes))
        assert list(lowered) == [*names, "stem_pool", "stage1_block1", "classifier"]


def test_odd_sizes_round_up() -> None:
    space = ResNet50(**{**TINY, "resolutions": [17]})
    sizes = [layer.input_shape[1] for layer in space.lower(space.biggest).values()]
    assert sizes == [17, 9, 9, 9, 5, 3, 3]


def test_identity_is_the_name_and_all_settings() -> None:
    assert ResNet50(**TINY).fingerprint == ResNet50(**{**TINY, "widths": (50, 100)}).fingerprint
    (stage,) = TINY["stages"]
    changes: list[dict[str, Any]] = [{"name": "other"}, {"classes": 4}, {"in_channels": 3}, {"stem": 64}]
    changes += [{"resolutions": [32]}, {"widths": [50]}, {"expands": [25]}]
    changes += [{"stages": [{**stage, key: value}]} for key, value in (("channels", 96), ("depths", [2]))]
    prints = {ResNet50(**{**TINY, **change}).fingerprint for change in [{}, *changes]}
    assert len(prints) == len(changes) + 1


def test_hydra_builds_the_same_space(published: ResNet50) -> None:
    assert instantiate(yaml.safe_load(PATH.read_text())).fingerprint == published.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolutions": []}, "resolutions"),
        ({"resolutions": [16, 8]}, "resolutions"),
        ({"widths": [0, 100]}, "widths"),
        ({"widths": [0.5, 1.0]}, "widths"),
        ({"expands": [25, 25]}, "expands"),
        ({"expands": [True]}, "expands"),
        ({"expands": [10, 12]}, r"32 channels are \[8, 8\]"),  # two genes for one network
        ({"stages": []}, "stages"),
        ({"stages": [{"channels": 8}]}, "stage has"),
        ({"stages": [{"channels": 64, "stride": 1, "depths": [0, 1]}]}, "depths"),
        ({"stages": [{"channels": 64, "stride": 3, "depths": [1]}]}, "stride"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        ResNet50(**{**TINY, **change})

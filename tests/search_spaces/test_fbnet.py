import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from search_spaces import Architecture, Conv, FBNet, FBNetBlock, Layer, LinearClassifier
from search_spaces.base.errors import InvalidValueError
from search_spaces.fbnet import BENCHMARK_ORDER
from search_spaces.space_contract import check_space

SPACES = Path(__file__).parents[2] / "search_spaces" / "space"

TABLE = Path(__file__).parents[3] / "shared" / "data" / "fbnet" / "latency_ms.csv"

TINY: dict[str, Any] = {
    "name": "tiny",
    "resolutions": [8],
    "in_channels": 1,
    "classes": 3,
    "stem": 4,
    "stem_stride": 1,
    "stages": [{"channels": 4, "layers": 1, "stride": 1}, {"channels": 8, "layers": 3, "stride": 2}],
    "last_channels": 8,
}


def space_of(name: str) -> FBNet:
    settings = yaml.safe_load((SPACES / f"{name}.yaml").read_text())
    del settings["_target_"]
    return FBNet(**settings)


def test_fbnet_c() -> None:
    """The paper's table 4 gives 375 M MACs and 5.5 M parameters; the numbers here are timm's 1.0.31 of fbnetc_100."""
    space = space_of("fbnet")
    operations = ["k3_e1"]
    operations += ["k3_e6", "skip", "k3_e1", "k3_e1"]
    operations += ["k5_e6", "k5_e3", "k5_e6", "k3_e6"]
    operations += ["k5_e6", "k5_e3", "k5_e6", "k5_e6"]
    operations += ["k5_e6", "k5_e6", "k5_e6", "k5_e3"]
    operations += ["k5_e6"] * 4
    operations += ["k3_e6"]
    layers = space.lower(space.of_operations(operations))
    assert sum(layer.params for layer in layers.values()) == 5_572_200
    assert sum(layer.macs for layer in layers.values()) == 384_960_160
    assert layers["stage2_layer1"] == FBNetBlock(16, 24, 96, 3, 2, 1, "relu", 112)
    assert layers["stage7_layer1"] == FBNetBlock(184, 352, 1104, 3, 1, 1, "relu", 7)
    assert layers["classifier"] == LinearClassifier(1984, 1000, 7)
    assert len(layers) == 22 - 1 + 3


def test_the_size_is_that_of_the_paper_without_repetitions() -> None:
    """9^22 sequences, of which those that skip equally many of a stage's last three layers are one network."""
    run = 1 + 8 + 8**2 + 8**3
    for name in ("fbnet", "fbnet_cifar100"):
        assert space_of(name).size == (1 + 8) * 9**6 * run**5


def test_networks_are_equal_exactly_if_their_layers_are(rng: np.random.Generator) -> None:
    space = FBNet(**TINY)
    check_space(space, rng)
    networks: dict[Architecture, tuple[Layer, ...]] = {}
    for operations in itertools.product(range(9), repeat=4):
        architecture = space.of_operations(operations)
        chain = tuple(space.lower(architecture).values())
        assert networks.setdefault(architecture, chain) == chain
    assert len(networks) == len(set(networks.values())) == space.size == 9 * 9 * (1 + 8 + 64)


def test_where_skips_stand_makes_no_difference() -> None:
    space = FBNet(**TINY)
    first, second = (space.of_operations(["k3_e1", "k5_e6", *rest]) for rest in (["skip", "k3_e3"], ["k3_e3", "skip"]))
    assert first == second and hash(first) == hash(second)
    assert list(space.lower(first)) == [
        "stem", "stage1_layer1", "stage2_layer1", "stage2_layer2", "last", "classifier",
    ]  # fmt: skip


def test_skip_is_nothing_or_a_convolution_that_changes_the_shape() -> None:
    space = FBNet(**TINY)
    layers = space.lower(space.of_operations([8] * 4))
    assert list(layers) == ["stem", "stage2_skip", "last", "classifier"]
    assert layers["stage2_skip"] == Conv(4, 8, 1, 2, "relu", 8)


def test_operations_by_hand() -> None:
    space = FBNet(**TINY)
    expected = {  # kernel, hidden, groups
        "k3_e1": (3, 4, 1), "k3_e1_g2": (3, 4, 2), "k3_e3": (3, 12, 1), "k3_e6": (3, 24, 1),
        "k5_e1": (5, 4, 1), "k5_e1_g2": (5, 4, 2), "k5_e3": (5, 12, 1), "k5_e6": (5, 24, 1),
    }  # fmt: skip
    for number, operation in enumerate(BENCHMARK_ORDER[:-1]):
        kernel, hidden, groups = expected[operation]
        layer = space.lower(space.of_operations([8, number, 8, 8]))["stage2_layer1"]
        assert layer == FBNetBlock(4, 8, hidden, kernel, 2, groups, "relu", 8)
        assert layer.macs == 64 * 4 * hidden // groups + 16 * hidden * kernel**2 + 16 * hidden * 8 // groups
        weights = 4 * hidden // groups + hidden * kernel**2 + hidden * 8 // groups
        assert layer.params == weights + 2 * (hidden + hidden + 8)


@pytest.mark.parametrize(
    ("operations", "message"),
    [([0, 0, 0], "4 layers, but got 3"), ([0, 0, 0, 9], "got 9"), ([-1, 0, 0, 0], "-1"), (["k7", 0, 0, 0], "'k7'")],
)
def test_wrong_operations_are_refused(operations: list[int | str], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        FBNet(**TINY).of_operations(operations)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolutions": []}, "resolutions"),
        ({"stages": []}, "stages"),
        ({"stages": [{"channels": 8, "stride": 1}]}, "A stage has"),
        ({"stages": [{"channels": 8, "stride": 0, "layers": 1}]}, "positive"),
        ({"stem": 3, "stages": [{"channels": 8, "stride": 1, "layers": 1}]}, "groups"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        space = FBNet(**{**TINY, **change})
        space.distinct_layers  # noqa: B018


def benchmark_flops(layer: Layer) -> int:
    """The convention of the table's ``flops``, found by regression on it: multiply-accumulates, 2 per output of a
    BatchNorm, 1 per output of a ReLU (of a block's two only the second, which in HW-NAS-Bench is the same module as the
    first), 1 per input of the pooling; sums of residuals are not counted."""
    if isinstance(layer, Conv):
        return layer.macs + 3 * int(np.prod(layer.output_shape))
    if isinstance(layer, FBNetBlock):
        channels, height, width = layer.output_shape
        return layer.macs + 2 * layer.hidden * layer.size**2 + (3 * layer.hidden + 2 * channels) * height * width
    assert isinstance(layer, LinearClassifier)
    return layer.macs + int(np.prod(layer.input_shape))


def test_a_published_row_by_hand() -> None:
    """The first row of HELP's table, which has six digits."""
    space = space_of("fbnet_cifar100")
    row = [7, 8, 1, 8, 4, 8, 8, 8, 7, 4, 1, 4, 7, 3, 2, 7, 3, 2, 4, 2, 4, 5]
    layers = space.lower(space.of_operations(row)).values()
    assert sum(layer.params for layer in layers) == pytest.approx(1.7905e6, abs=50)
    assert sum(map(benchmark_flops, layers)) == pytest.approx(7.00988e7, abs=50)


@pytest.mark.skipif(not TABLE.exists(), reason=f"HELP's table of FBNet is not at {TABLE}")
def test_all_published_rows() -> None:
    space = space_of("fbnet_cifar100")
    with TABLE.open() as file:
        rows = list(csv.DictReader(file))
    macs = []
    for row in rows:
        architecture = space.of_operations([int(row[f"op_{i}"]) for i in range(22)])
        layers = space.lower(architecture).values()
        for count, text in (
            (sum(layer.params for layer in layers), row["params"]),
            (sum(map(benchmark_flops, layers)), row["flops"]),
        ):
            assert float(f"{count:.6g}") == pytest.approx(float(text), rel=1e-9)
        macs.append(sum(layer.macs for layer in layers))
    assert np.corrcoef(macs, [float(row["flops"]) for row in rows])[0, 1] > 0.999

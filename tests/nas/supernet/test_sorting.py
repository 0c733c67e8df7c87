"""Channels are sorted by importance, and no network that was trained before computes anything else."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from nas.supernet import Supernet
from nas.supernet.elastic import ElasticLayer
from nas.supernet.region import Region
from nas.supernet.sorting import groups, sort_channels
from search_spaces import Architecture, MobileNetV3, SearchSpace
from search_spaces.layers import Bottleneck, FusedMBConv, Layer, MBConv
from search_spaces.loading import load_space
from search_spaces.staged import Staged
from tests.nas.supernet.conftest import make_space


def mbconv(hidden: int, squeeze: int = 0) -> MBConv:
    return MBConv(8, 8, hidden, True, 3, 1, squeeze, "relu", 4)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (
            [mbconv(8), mbconv(32)],
            {"expand.conv.weight 0, depthwise.conv.weight 0, project.conv.weight 1"},
        ),
        (
            [mbconv(8, 4), mbconv(32, 8)],
            {
                "expand.conv.weight 0, depthwise.conv.weight 0, reduce.weight 1, "
                "excite.weight 0, project.conv.weight 1",
                "reduce.weight 0, excite.weight 1",
            },
        ),
        ([mbconv(32, 8), mbconv(32, 8)], set()),  # of one width
        ([mbconv(16), MBConv(8, 8, 8, False, 3, 1, 0, "relu", 4)], set()),  # channels of the input in one of them
        (
            [FusedMBConv(8, 8, n, 3, 1, "relu", "none", 4) for n in (8, 16)],
            {"expand.conv.weight 0, project.conv.weight 1"},
        ),
        (
            [Bottleneck(8, 8, n, False, 1, "relu", 4) for n in (4, 8)],
            {"narrow.conv.weight 0, spatial.conv.weight 1", "spatial.conv.weight 0, widen.conv.weight 1"},
        ),
    ],
    ids=["MBConv", "squeeze", "one width", "of the input", "FusedMBConv", "Bottleneck"],
)
def test_channels_that_belong_together(layers: list[Layer], expected: set[str]) -> None:
    weights = {
        ", ".join(f"{name} {axis}" for name, axis in group.members if name.endswith("weight") and ".norm." not in name)
        for group in groups(layers)
    }
    assert weights == expected


@torch.no_grad()
def outputs(supernet: Supernet, architectures: list[Architecture]) -> list[torch.Tensor]:
    """In float64, as deep networks of random weights magnify what rounding leaves."""
    found, exact = [], copy.deepcopy(supernet).eval().double()
    for architecture in architectures:
        (shape,) = supernet.space.lower(architecture).inputs.values()
        x = torch.randn(4, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        y = exact(x, architecture)
        found.append(y / y.abs().max())
    return found


def weights(supernet: Supernet, position: str, name: str) -> torch.Tensor:
    elastic = supernet.at(position)
    assert isinstance(elastic, ElasticLayer)
    found: torch.Tensor = elastic.body.get_parameter(name).detach()
    return found


def several_kinds() -> Staged:
    return Staged(
        name="several_kinds",
        resolutions=[16],
        in_channels=1,
        classes=10,
        stem=[{"kind": "Conv", "channels": 16, "stride": 2, "kernel": 3}],
        depths=[1, 2],
        activation="relu",
        blocks=[
            {"kind": "MBConv", "kernel": [3, 5], "expand": [2, 4], "squeeze": [0, 25]},
            {"kind": "FusedMBConv", "expand": [2, 4]},
            {"kind": "Tucker", "narrow": [50, 100], "core": [50, 100]},
            {"kind": "Bottleneck", "expand": [25, 50]},
        ],
        stages=[{"channels": [16, 24], "stride": 2}, {"channels": [24]}],
        head=[{"kind": "LinearClassifier"}],
    )


SPACES: dict[str, Callable[[], SearchSpace]] = {
    "MBConv": make_space,
    "UIB": lambda: load_space("mobilenet_v4_conv_small", resolutions=[32]),
    "several kinds": several_kinds,
}
KINDS: dict[str, list[str | None]] = {"several kinds": ["MBConv", "FusedMBConv", "Tucker", "Bottleneck"]}


@pytest.mark.parametrize("kind", SPACES)
def test_sorting_changes_no_output_of_the_biggest_network(kind: str, randomise: Callable[[Supernet], Supernet]) -> None:
    space = SPACES[kind]()
    supernet = randomise(Supernet(space))
    ends = [Region(space, {"op*": [op]} if op else {}).biggest for op in KINDS.get(kind, [None])]
    before = outputs(supernet, ends)
    state = {name: value.clone() for name, value in supernet.state_dict().items()}
    sort_channels(supernet, Region(space, {"*": 1, "op*": 4} if kind in KINDS else {"*": 1}))
    changed = {name for name, value in supernet.state_dict().items() if not torch.equal(value, state[name])}
    assert all(any(f".{op or ''}" in name for name in changed) for op in KINDS.get(kind, [None]))
    torch.testing.assert_close(outputs(supernet, ends), before, atol=1e-6, rtol=0)


def test_sorting_changes_no_output_of_the_biggest_resnet(
    resnet_space: SearchSpace, randomise: Callable[[Supernet], Supernet]
) -> None:
    supernet = randomise(Supernet(resnet_space))
    before = outputs(supernet, [resnet_space.biggest])
    spatial = weights(supernet, "stage1_block1", "spatial.conv.weight").clone()
    sort_channels(supernet, Region(resnet_space, {"*": 1}))
    assert not torch.equal(weights(supernet, "stage1_block1", "spatial.conv.weight"), spatial)
    torch.testing.assert_close(outputs(supernet, [resnet_space.biggest]), before, atol=1e-6, rtol=0)


def test_the_first_channels_are_those_that_the_next_convolution_weighs_most(
    space: MobileNetV3, randomise: Callable[[Supernet], Supernet]
) -> None:
    supernet = randomise(Supernet(space))
    project = weights(supernet, "stage2_block2", "project.conv.weight").clone()
    excite = weights(supernet, "stage2_block2", "excite.weight").abs().sum((0, 2, 3))
    sort_channels(supernet, Region(space, {"*": 1}))
    order = project.abs().sum((0, 2, 3)).argsort(descending=True)
    assert torch.equal(weights(supernet, "stage2_block2", "project.conv.weight"), project[:, order])
    after = weights(supernet, "stage2_block2", "excite.weight").abs().sum((0, 2, 3))  # what reads squeezed channels
    torch.testing.assert_close(after, excite.sort(descending=True).values)


def test_sorting_keeps_to_the_widths_that_were_trained(
    space: MobileNetV3, randomise: Callable[[Supernet], Supernet]
) -> None:
    trained = Region(space, {"expand*": [2, 4]})
    some = [trained.biggest, trained.smallest, *trained.draw(6, np.random.default_rng(0))]
    supernet = randomise(Supernet(space))
    others = outputs(supernet, [space.smallest])
    before = outputs(supernet, some)
    project = weights(supernet, "stage1_block1", "project.conv.weight").abs().sum((0, 2, 3)).clone()  # 32 channels
    sort_channels(supernet, trained)
    torch.testing.assert_close(outputs(supernet, some), before, atol=1e-6, rtol=0)
    after = weights(supernet, "stage1_block1", "project.conv.weight").abs().sum((0, 2, 3))
    halves = [part.sort(descending=True).values for part in project.tensor_split([16])]
    torch.testing.assert_close(after, torch.cat(halves))
    assert not torch.allclose(outputs(supernet, [space.smallest])[0], others[0], atol=1e-4)


def test_an_average_is_sorted_as_the_weights_are(space: MobileNetV3, randomise: Callable[[Supernet], Supernet]) -> None:
    supernet, average = randomise(Supernet(space)), randomise(Supernet(space, seed=1))
    before = outputs(average, [space.biggest])
    order = weights(supernet, "stage1_block1", "project.conv.weight").abs().sum((0, 2, 3)).argsort(descending=True)
    expected = weights(average, "stage1_block1", "project.conv.weight")[:, order]
    sort_channels(supernet, Region(space, {"*": 1}), average)
    assert torch.equal(weights(average, "stage1_block1", "project.conv.weight"), expected)
    torch.testing.assert_close(outputs(average, [space.biggest]), before, atol=1e-6, rtol=0)

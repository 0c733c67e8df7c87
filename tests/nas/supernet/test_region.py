import numpy as np
import pytest

from nas.supernet.region import Region
from search_spaces import MobileNetV3
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError


def test_a_number_stands_for_so_many_of_the_last_values(space: MobileNetV3) -> None:
    region = Region(space, {"kernel*": 2, "depth*": 1, "expand.1*": 9})
    kernel, depth, expand = (region.values(space.index[name]) for name in ("kernel.1.1", "depth.2", "expand.1.1"))
    assert kernel.tolist() == [1, 2] and depth.tolist() == [1] and expand.tolist() == [0, 1, 2]
    networks = region.draw(50, np.random.default_rng(0))
    assert {network.values["kernel.1.1"] for network in networks} == {5, 7}
    assert {network.values["depth.2"] for network in networks} == {2}
    assert region.biggest == space.biggest and region.smallest.values["kernel.2.2"] == 5
    with pytest.raises(InvalidValueError, match=r"choices\.kernel\*.*at least 1.*got 0"):
        Region(space, {"kernel*": 0})


def test_layers_are_those_of_the_networks(space: MobileNetV3) -> None:
    p = [position.name for position in space.positions].index("stage1_block2")
    for region in (
        Region(space),
        Region(space, {"kernel*": [3], "expand.1.2": [1, 4]}),
        Region(space, {"depth.1": [1]}),
    ):
        networks = region.draw(2000, np.random.default_rng(0))
        seen = {network.layers["stage1_block2"] for network in networks if "stage1_block2" in network.layers}
        assert set(region.layers(p)) == seen
    fixed = Region(space.restricted({"resolution": 8}))
    assert {layer.size for layer in fixed.layers(p)} == {4}  # type: ignore[attr-defined]
    assert fixed.values(space.index["resolution"]).tolist() == [0]


def test_choices_stay_uniform_where_others_are_limited_or_changed(space: MobileNetV3) -> None:
    column, depth = space.index["kernel.1.2"], space.index["depth.1"]
    assert space.choices[column].active_when is not None  # it matters in half of all networks alone

    def shares(genes: Genes) -> list[float]:
        assert set(genes[:, depth].tolist()) == {1}
        return (np.bincount(genes[:, column], minlength=3) / len(genes)).tolist()

    wanted = pytest.approx([1 / 3] * 3, abs=0.03)
    assert shares(Region(space, {"depth*": 1}).sample(5000, np.random.default_rng(0))) == wanted
    rows = Region(space).rows(5000, np.random.default_rng(0))
    rows[:, depth] = 1
    assert shares(space.canonical(rows)) == wanted


def test_without_limits_networks_are_those_that_the_space_samples(space: MobileNetV3) -> None:
    for one in (space, space.restricted({"depth.1": 2})):
        found = Region(one).sample(100, np.random.default_rng(3))
        assert np.array_equal(found, one.sample(100, np.random.default_rng(3)))


def test_counts_are_those_of_the_networks(space: MobileNetV3) -> None:
    region = Region(space)
    networks = region.draw(50, np.random.default_rng(0))
    genes = np.stack([network.genes for network in networks])
    assert region.macs(genes).tolist() == [network.macs for network in networks]
    assert region.params(genes).tolist() == [network.params for network in networks]

import numpy as np
import pytest

from nas.supernet.region import Region
from search_spaces import MobileNetV3
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

import math
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from nas.supernet.region import Region
from nas.supernet.samplers import Fair, State
from search_spaces import Architecture, MobileNetV3, SearchSpace
from search_spaces.base.errors import InvalidValueError


def unused(architectures: object) -> NDArray[np.float64]:
    raise AssertionError("nothing is probed")


def steps(fair: Fair, region: Region, count: int) -> list[tuple[list[Architecture], State]]:
    """Networks of each step, and the state after it."""
    state, rng, found = fair.init(region), np.random.default_rng(0), []
    for _ in range(count):
        drawn = fair.draw(region, state, rng, unused)
        state = fair.tell(region, state, drawn, ())
        found.append((drawn, state))
    return found


def counted(space: SearchSpace, networks: list[Architecture]) -> dict[str, Counter[object]]:
    """How often each choice had each value, in the networks that have the choice."""
    found: dict[str, Counter[object]] = {choice.name: Counter() for choice in space.choices}
    for network in networks:
        for name, value in network.values.items():
            found[name][value] += 1
    return found


def test_every_value_is_trained_equally_often_in_every_step(space: MobileNetV3) -> None:
    fair = Fair(6)  # choices of 2 and 3 values
    for drawn, _ in steps(fair, Region(space), 20):
        counts = counted(space, drawn)
        for choice in space.choices:
            if choice.active_when is None:
                assert set(counts[choice.name].values()) == {6 // len(choice.values)}
            else:  # half of the networks are deep enough for the second block of a stage: 3, for 3 values
                assert set(counts[choice.name].values()) == {1}
            assert set(counts[choice.name]) == set(choice.values)


def test_counts_never_differ_by_more_than_one(space: MobileNetV3) -> None:
    networks: list[Architecture] = []
    for drawn, state in steps(Fair(4), Region(space), 30):  # 3 values do not divide 4 networks
        networks += drawn
        counts = counted(space, networks)
        for column, choice in enumerate(space.choices):
            n = len(choice.values)
            own = [counts[choice.name][value] for value in choice.values]
            assert max(own) - min(own) <= 1
            assert state["counts"][column, :n].tolist() == own
            assert math.fsum(own) == sum(choice.name in network.values for network in networks)
    for choice in space.choices:
        if choice.active_when is None:
            assert len(set(counts[choice.name].values())) == 1  # 120 networks


def test_a_region_and_fixed_choices_are_kept_to(space: MobileNetV3) -> None:
    part = space.restricted({"resolution": 12})
    region = Region(part, {"kernel*": [3, 7], "depth.1": [2]})
    networks = [network for drawn, _ in steps(Fair(2), region, 10) for network in drawn]
    counts = counted(part, networks)
    assert counts["resolution"] == {12: 20} and counts["depth.1"] == {2: 20}
    assert counts["kernel.1.1"] == {3: 10, 7: 10}


def test_values_are_combined_at_random(space: MobileNetV3) -> None:
    pairs = Counter(
        (network.values["kernel.1.1"], network.values["expand.1.1"])
        for drawn, _ in steps(Fair(3), Region(space), 300)
        for network in drawn
    )
    assert len(pairs) == 9 and min(pairs.values()) > 60  # 100 each, with a standard deviation of less than 10


def test_settings_are_checked() -> None:
    with pytest.raises(InvalidValueError, match="networks"):
        Fair(0)

"""Complexity-aware sampling: adjacent steps train networks of adjacent complexity."""

import numpy as np
import pytest

from nas.supernet.region import Region
from nas.supernet.samplers import ConflictAware, Probe
from nas.supernet.samplers.complexity import Levels
from nas.supernet.samplers.conflict_aware import there_and_back
from search_spaces import Architecture, MobileNetV3
from search_spaces.base.errors import InvalidValueError


def no_probe(networks: object) -> np.ndarray:
    raise AssertionError("complexity is known without a forward pass")


def drawn_steps(sampler: ConflictAware, region: Region, steps: int) -> list[list[Architecture]]:
    rng, state, found = np.random.default_rng(0), sampler.init(region), []
    probe: Probe = no_probe
    for _ in range(steps):
        found.append(sampler.draw(region, state, rng, probe))
        state = sampler.tell(region, state, found[-1], ())
    return found


def test_networks_of_adjacent_steps_differ_by_at_most_the_bound(space: MobileNetV3) -> None:
    sampler, region = ConflictAware(networks=3, levels=8), Region(space)
    steps = drawn_steps(sampler, region, 60)
    costs = np.array([[network.macs for network in step] for step in steps])
    levels = Levels.of(region, 8)
    assert len(levels) == 8, "no level of this space is empty"
    bound = 2 * levels.width
    between = costs[1:, :, None] - costs[:-1, None, :]
    assert np.abs(between).max() <= bound
    uniform = np.array([network.macs for network in region.draw(180, np.random.default_rng(0))]).reshape(60, 3)
    assert np.abs(uniform[1:, :, None] - uniform[:-1, None, :]).max() > 2 * bound
    assert (costs[:, -1] <= costs.min(1)).mean() > 0.9, "the last is the smallest known of its level"


def test_all_complexities_are_trained_as_often(space: MobileNetV3) -> None:
    region, sampler = Region(space), ConflictAware(networks=2, levels=8)
    levels = Levels.of(region, 8)
    genes = np.stack([network.genes for step in drawn_steps(sampler, region, 32) for network in step])
    assert np.bincount(levels.numbers(region, genes), minlength=8).tolist() == [8] * 8
    assert [there_and_back(step, 4) for step in range(10)] == [0, 1, 2, 3, 3, 2, 1, 0, 0, 1]
    assert there_and_back(5, 1) == 0
    costs = region.macs(genes)
    assert costs.min() == space.smallest.macs and costs.max() > 0.9 * space.biggest.macs


def test_networks_of_a_level_differ_and_stay_in_the_region(space: MobileNetV3) -> None:
    region = Region(space, {"resolution": [8], "kernel*": [3, 5]})
    steps = drawn_steps(ConflictAware(networks=4, levels=4), region, 24)
    drawn = [network for step in steps for network in step]
    assert len(set(drawn)) > 30
    assert all(network.values["resolution"] == 8 and network.values["kernel.1.1"] != 7 for network in drawn)


def test_a_level_of_one_network_gives_that_one(space: MobileNetV3) -> None:
    only = {choice.name: [choice.values[0]] for choice in space.choices}
    region = Region(space, only)
    ((first, second),) = drawn_steps(ConflictAware(networks=2), region, 1)
    assert first == second == region.smallest


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="`networks`.*0"):
        ConflictAware(networks=0)
    with pytest.raises(InvalidValueError, match="`levels`.*0"):
        ConflictAware(levels=0)

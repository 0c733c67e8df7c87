import numpy as np
import pytest

from search_spaces import Architecture, SearchSpace
from search_spaces.base.building import build
from search_spaces.loading import load_space
from search_spaces.one_network import OneNetwork, origin_of
from tests.conftest import shipped


@pytest.mark.parametrize("name", ["mobilenet_v3_digits", "nasbench201", "hardnet"])
def test_its_one_network_is_that_of_the_other_space(name: str) -> None:
    space = shipped(name)
    architecture = Architecture(space, space.sample(1, np.random.default_rng(0))[0])
    one = OneNetwork.of(architecture)
    assert one.size == 1 and one.smallest == one.biggest == one.network
    ours, theirs = one.network.layers, architecture.layers
    assert (dict(ours), ours.sources, ours.inputs, ours.outputs) == (
        dict(theirs),
        theirs.sources,
        theirs.inputs,
        theirs.outputs,
    )
    assert origin_of(one.network) == architecture and origin_of(architecture) == architecture


def test_networks_of_other_choices_or_spaces_are_other_spaces() -> None:
    space = shipped("mobilenet_v3_digits")
    ends = [OneNetwork.of(space.smallest), OneNetwork.of(space.biggest)]
    assert ends[0].fingerprint == OneNetwork.of(space.smallest).fingerprint != ends[1].fingerprint
    other = load_space("mobilenet_v3_digits", resolutions=[12, 16, 20])
    assert OneNetwork.of(other.smallest).fingerprint != ends[0].fingerprint


def test_it_is_made_again_from_its_definition() -> None:
    one = OneNetwork.of(shipped("mobilenet_v3_digits").biggest)
    again = build("space", one.definition, SearchSpace)
    assert again.fingerprint == one.fingerprint and again.biggest == one.biggest

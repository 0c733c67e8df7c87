"""Ratios of sums over positions."""

import numpy as np
import pytest

from predictors import Ratio, activations, intensity, macs, traffic
from predictors.base import metric_of
from search_spaces import Architecture, MobileNetV3
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError
from search_spaces.loading import load_space
from search_spaces.metric import INTENSITY, Metric


def test_counts_of_networks_are_those_of_their_layers(tiny_space: MobileNetV3) -> None:
    genes = tiny_space.sample(20, np.random.default_rng(0))
    networks = [Architecture(tiny_space, row) for row in genes]
    for buffer in (0, 500, 10**6):
        words = [sum(layer.traffic(buffer) for layer in network.layers.values()) for network in networks]
        assert traffic(tiny_space, buffer).predict(genes).tolist() == words
        expected = [network.macs / (2 * count) for network, count in zip(networks, words, strict=True)]
        np.testing.assert_allclose(intensity(tiny_space, 2, buffer).predict(genes), expected)
    elements = [sum(layer.activations for layer in network.layers.values()) for network in networks]
    assert activations(tiny_space).predict(genes).tolist() == elements


def test_a_ratio_states_its_metric(tiny_space: MobileNetV3) -> None:
    found = intensity(tiny_space)
    assert (found.metric, found.unit, found.direction) == ("intensity", "MAC/byte", "max")
    assert metric_of(found) == INTENSITY and metric_of(traffic(tiny_space)).name == "traffic"


def test_sums_over_two_spaces_make_no_ratio(tiny_space: MobileNetV3) -> None:
    other = load_space("mobilenet_v3_digits", resolutions=[12])
    with pytest.raises(InvalidValueError, match="'mobilenet_v3_digits'. Make them of the same"):
        Ratio(Metric("rate", "1"), macs(tiny_space), macs(other))


@pytest.mark.parametrize("buffer", [0, 1000])
def test_the_extremes_are_those_of_all_networks(space: MobileNetV3, everything: Genes, buffer: int) -> None:
    ratio = intensity(space, 4, buffer)
    values = ratio.predict(everything)
    for (genes, value), expected in ((ratio.minimum(), values.min()), (ratio.maximum(), values.max())):
        assert value == expected == ratio.predict(genes[None])[0]

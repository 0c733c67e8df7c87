"""Peak memory over whole networks: by tables of the tensors that are alive, against counting each network."""

from collections.abc import Mapping

import numpy as np
import pytest

from predictors import PositionTable, peak_memory
from predictors.factor_table import FactorTable
from search_spaces import Architecture, Choice, Layer, MobileNetV3, Position, SearchSpace, Value
from search_spaces.base.errors import TooCostlyError
from search_spaces.layers import Conv, LinearClassifier, ResidualConv
from search_spaces.network import Network
from tests.search_spaces.graph_spaces import GRAPHS, Branches, Coupled, Operators, Sum, TwoByTwo, whole


def test_a_chain_needs_what_its_largest_layer_needs(tiny_space: MobileNetV3) -> None:
    table = peak_memory(tiny_space)
    assert isinstance(table, PositionTable)
    genes = tiny_space.sample(50, np.random.default_rng(0))
    counted = [Architecture(tiny_space, row) for row in genes]
    assert table.predict(genes).tolist() == [4 * one.peak_elements for one in counted]
    assert [one.peak_elements for one in counted] == [
        max(layer.peak_elements for layer in one.layers.values()) for one in counted
    ]


def test_a_branch_that_waits_is_counted() -> None:
    conv = ResidualConv(2, 3, "relu", 4)  # 32 elements in and out: 64 while the convolution runs
    network = Network(
        {"first": conv, "second": conv, "sum": Sum(2, 4)},
        {"first": ("image",), "second": ("first",), "sum": ("second", "image")},
        {"image": (2, 4, 4)},
        {"logits": "sum"},
    )
    # The convolution's output is added to its input, which lives on; the image waits beside the second one.
    assert conv.peak_elements == 64
    assert network.peak_elements == 96


@pytest.mark.parametrize("kind", GRAPHS)
def test_tables_know_the_peak_of_every_network(kind: type[SearchSpace]) -> None:
    space = kind(name="space")  # type: ignore[call-arg]
    genes = np.unique(space.sample(400, np.random.default_rng(1)), axis=0)
    counted = [4 * Architecture(space, row).peak_elements for row in genes]
    assert peak_memory(space).predict(genes).tolist() == counted


@pytest.mark.parametrize("kind", [Branches, TwoByTwo])
def test_the_leanest_network_is_found_without_looking_at_all(kind: type[SearchSpace]) -> None:
    space = kind(name="space")  # type: ignore[call-arg]
    everything = np.indices(tuple(map(int, space.cardinalities)), np.int16).reshape(len(space.choices), -1).T
    table = peak_memory(space, 1)
    values = table.predict(np.unique(space.canonical(everything), axis=0))
    genes, least = table.minimum()
    assert least == values.min() == Architecture(space, genes).peak_elements


def test_tables_survive_their_file() -> None:
    space = Branches()
    table = peak_memory(space)
    assert isinstance(table, FactorTable)
    again = FactorTable.from_arrays(space, table.to_arrays())
    genes = space.sample(20, np.random.default_rng(0))
    assert np.array_equal(again.predict(genes), table.predict(genes))


def test_operators_at_a_position_of_a_chain_need_no_more_choices() -> None:
    assert isinstance(peak_memory(Operators()), PositionTable)


class Waiting(SearchSpace):
    """Many tensors, each of a width of its own, that wait for one layer."""

    def __init__(self, branches: int) -> None:
        names = [f"b{i}" for i in range(branches)]
        choices = [Choice(name, (1, 2, 3, 4)) for name in names]
        positions = [Position(name, (name,), ("image",)) for name in names]
        super().__init__("waiting", {}, choices, positions, outputs={name: name for name in names})

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        return Conv(1, whole(values[position]), 3, 1, "relu", 4)


def test_too_many_choices_are_refused_with_their_number() -> None:
    with pytest.raises(
        TooCostlyError, match=r"position 'b10' .* takes 4\.2e\+06 table entries, .* 11 choices .*: b0, b1"
    ):
        peak_memory(Waiting(12))
    small = Waiting(5)
    genes = small.sample(100, np.random.default_rng(0))
    counted = [4 * Architecture(small, row).peak_elements for row in genes]
    assert peak_memory(small).predict(genes).tolist() == counted


def test_a_minimum_is_refused_where_all_choices_meet() -> None:
    space = Coupled()
    table = PositionTable.of_layers(space, "macs", "1", lambda layer: layer.macs)
    with pytest.raises(TooCostlyError, match=r"minimum of the macs .* 14 choices meet: c0, .*`search.fixed="):
        table.minimum()
    assert PositionTable.of_layers(Coupled(choices=4), "macs", "1", lambda layer: layer.macs).minimum()[1] > 0


def test_a_layer_that_is_the_output_too_is_alive_to_the_end() -> None:
    network = Network(
        {"a": Conv(2, 2, 1, 1, "none", 4), "b": Conv(2, 2, 1, 1, "none", 4), "c": LinearClassifier(2, 3, 4)},
        {"a": ("image",), "b": ("a",), "c": ("b",)},
        {"image": (2, 4, 4)},
        {"logits": "c", "early": "a"},
    )
    assert network.peak_elements == 32 + 32 + 2  # a, b, and the mean of b's channels; a and b in and out: 64

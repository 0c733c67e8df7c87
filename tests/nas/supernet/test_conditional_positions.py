"""Positions that are part of some networks only, from the space to the relaxed supernet."""

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from nas.supernet import Supernet
from nas.supernet.relaxed import RelaxedSupernet
from predictors.peak_memory import peak_memory
from predictors.position_table import PositionTable, macs
from search_spaces import Architecture, Choice, Condition, Conv, Layer, LinearClassifier, Position, SearchSpace, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.cells import Cell
from search_spaces.ops.arithmetic import Add
from search_spaces.ops.convolution import Convolution
from search_spaces.program import Shape, Traced
from search_spaces.space_contract import check_space

PAIRS = ("a+b", "a+c", "b+c")


@dataclass(frozen=True)
class Both(Layer):
    """Sum of two images."""

    channels: int

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return ((self.channels, 6, 6),) * 2

    def define(self, x: Traced, *others: Traced) -> Traced:
        for other in others:
            x = Add()(x, other)
        return x


class Fork(SearchSpace):
    """Two of three branches behind a stem, each a 3x3 convolution or nothing at all."""

    def __init__(self, condition: Condition | None = None, depends_on: tuple[str, ...] = ("pair", "of.a")) -> None:
        choices, positions = [Choice("pair", PAIRS)], [Position("stem", ())]
        for branch in "abc":
            there = Condition("pair", tuple(pair for pair in PAIRS if branch in pair))
            choices.append(Choice(f"of.{branch}", ("skip", "conv"), there))
            positions.append(Position(branch, ("pair", f"of.{branch}"), ("stem",), there))
        if condition is not None:
            positions[1] = Position("a", depends_on, ("stem",), condition)
        positions += [Position("sum", (), ("a", "b", "c")), Position("classifier", ())]
        super().__init__("fork", {}, choices, positions)

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        fixed = {"stem": Conv(1, 4, 3, 1, "relu", 6), "sum": Both(4), "classifier": LinearClassifier(4, 2, 6)}
        return fixed[position] if position in fixed else self._branch(values[f"of.{position}"])

    def _branch(self, what: Value) -> Layer | None:
        return Conv(4, 4, 3, 1, "relu", 6) if what == "conv" else None


@pytest.fixture(scope="module")
def fork() -> Fork:
    return Fork()


def all_networks(space: SearchSpace) -> list[Architecture]:
    rows = np.array(list(itertools.product(*(range(n) for n in space.cardinalities))), np.int16)
    return [Architecture(space, row) for row in np.unique(space.canonical(rows), axis=0)]


def test_it_is_a_sound_space_of_twelve_networks(fork: Fork) -> None:
    check_space(fork, np.random.default_rng(0))
    assert fork.size == len(all_networks(fork)) == 3 * 4


def test_what_reads_a_position_does_without_it(fork: Fork) -> None:
    network = fork.lower(Architecture(fork, fork.genes_of({"pair": "a+c", "of.a": "conv", "of.c": "skip"})))
    assert list(network) == ["stem", "a", "sum", "classifier"]
    assert network.sources["sum"] == ("a", "stem")  # a skip hands the stem on; b is not there


def test_tables_know_when_it_is_there(fork: Fork) -> None:
    table = macs(fork)
    rows = np.stack([architecture.genes for architecture in all_networks(fork)])
    assert table.predict(rows).tolist() == [Architecture(fork, row).macs for row in rows]
    assert table.minimum()[1] == min(table.predict(rows))


def test_peak_memory_knows_what_is_alive(fork: Fork) -> None:
    table = peak_memory(fork)
    rows = np.stack([architecture.genes for architecture in all_networks(fork)])
    assert table.predict(rows).tolist() == [4 * architecture.peak_elements for architecture in all_networks(fork)]


def mixture(space: SearchSpace, architecture: Architecture) -> dict[str, Tensor]:
    return {
        choice.name: torch.eye(len(choice.values))[int(gene)]
        for choice, gene in zip(space.choices, architecture.genes, strict=True)
    }


def test_a_one_hot_mixture_is_the_network(fork: Fork) -> None:
    relaxed = RelaxedSupernet(fork).eval()
    x = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    for architecture in all_networks(fork):
        y = relaxed(x, mixture(fork, architecture))
        assert torch.equal(y, relaxed.supernet(x, architecture))
        assert torch.equal(y, relaxed.supernet.extract(architecture)(x))


def test_a_branch_counts_as_often_as_it_is_there(fork: Fork) -> None:
    """The sum is that of p(branch is there) * (p(skip) x + p(conv) conv(x)): DARTS's mixture."""
    relaxed = RelaxedSupernet(fork).eval()
    x = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    pair, chosen = torch.tensor([0.5, 0.2, 0.3]), {"a": 0.25, "b": 0.5, "c": 0.75}
    weights = {"pair": pair, **{f"of.{b}": torch.tensor([1 - p, p]) for b, p in chosen.items()}}
    at = relaxed.supernet.positions
    stem = at["stem"](fork.layers_at(0)[0], x)
    conv = fork._branch("conv")
    total = torch.zeros_like(stem)
    for branch, p in chosen.items():
        there = sum(float(share) for share, name in zip(pair, PAIRS, strict=True) if branch in name)
        total = total + there * ((1 - p) * stem + p * at[branch](conv, stem))
    wanted = at["classifier"](fork.layers_at(5)[0], total)
    torch.testing.assert_close(relaxed(x, weights), wanted)


def test_the_mean_of_a_table_counts_it_by_the_same_probability(fork: Fork) -> None:
    table = PositionTable.of_layers(fork, "latency", "ms", lambda layer: float(isinstance(layer, Conv)))
    weights = {"pair": torch.tensor([0.5, 0.2, 0.3]), **{f"of.{b}": torch.tensor([0.25, 0.75]) for b in "abc"}}
    assert float(table.relaxed(weights)) == pytest.approx(1 + 2 * 0.75)  # the stem, and two of three branches


@pytest.mark.parametrize(
    ("condition", "depends_on", "message"),
    [
        (Condition("pair", ("a+d",)), ("pair", "of.a"), r"'a' of space 'fork' is active when 'pair' is one of \['a\+d"),
        (Condition("pair", ("a+b",)), ("of.a",), "that must be a choice that it depends on"),
        (Condition("of.a", ("conv",)), ("pair", "of.a"), "always matters"),
    ],
)
def test_conditions_that_cannot_be_told_are_refused(
    condition: Condition, depends_on: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InvalidValueError, match=message):
        Fork(condition, depends_on)


def test_a_position_without_inputs_is_named() -> None:
    class Lost(Fork):
        def __init__(self) -> None:
            super().__init__()
            SearchSpace.__init__(
                self,
                "lost",
                {},
                [Choice("pair", PAIRS)],
                [Position("a", ("pair",), (), Condition("pair", ("a+b",))), Position("stem", (), ("a",))],
            )

        def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
            return Conv(1, 1, 3, 1, "relu", 6)

    space = Lost()
    with pytest.raises(InvalidValueError, match="'stem' of space 'lost' reads a, none of which is active here"):
        space.lower(Architecture(space, space.genes_of({"pair": "a+c"})))


# -- cells of another kind ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ladder(Cell):
    """Three edges, each a convolution or nothing."""

    edges: ClassVar[tuple[tuple[int, int], ...]] = ((0, 1), (0, 2), (1, 2))
    choices: ClassVar[tuple[str, ...]] = ("none", "conv")

    def apply(self, operation: str, name: str, x: Traced) -> Traced:
        return Convolution(name, x.shape[0], 3)(x)


class Ladders(SearchSpace):
    """Two equal cells."""

    def __init__(self) -> None:
        names = tuple("xyz")
        cells = [Position("first", names), Position("second", names)]
        super().__init__(
            "ladders",
            {},
            [Choice(name, Ladder.choices) for name in names],
            [Position("stem", ()), *cells, Position("end", ())],
        )

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        if position in ("stem", "end"):
            return Conv(1, 4, 3, 1, "relu", 6) if position == "stem" else LinearClassifier(4, 2, 6)
        return Ladder(4, 6, tuple(str(value) for value in values.values()))


def test_a_mixture_of_anyones_cell_is_its_network() -> None:
    space = Ladders()
    relaxed = RelaxedSupernet(space).eval()
    x = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    for architecture in all_networks(space):
        torch.testing.assert_close(
            relaxed(x, mixture(space, architecture)), relaxed.supernet(x, architecture), rtol=0, atol=1e-6
        )
    assert [place.name for place in relaxed.places if place.cell] == ["first", "second"]


def test_paths_are_planned_once() -> None:
    space = Ladders()
    relaxed = RelaxedSupernet(space)
    x = torch.zeros(2, 1, 6, 6)
    weights = {choice.name: torch.tensor([0.5, 0.5]) for choice in space.choices}
    counts = []
    for model in (relaxed, relaxed, copy.deepcopy(relaxed)):
        model(x, weights)
        counts.append(len(model.supernet.at("first")._plans))
    assert counts == [6, 6, 6]


def test_a_supernet_has_weights_of_what_is_not_always_there(fork: Fork) -> None:
    shapes = {name: tuple(p.shape) for name, p in Supernet(fork).named_parameters()}
    assert all(shapes[f"positions.{branch}.body.conv.conv.weight"] == (4, 4, 3, 3) for branch in "abc")

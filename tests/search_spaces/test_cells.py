"""A cell of another kind than the shipped ones, and what every cell says of itself."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from search_spaces.base.errors import InvalidValueError
from search_spaces.cells import Cell, EdgeOperation
from search_spaces.layers import Layer, Shape
from search_spaces.nasbench201 import CELL_OPERATIONS, CELLS, Cell201, used_edges
from search_spaces.ops.activation import Activate
from search_spaces.ops.convolution import Convolution
from search_spaces.program import Program, Traced
from search_spaces.space_contract import check_layer
from search_spaces.torch_program import StaticLayer


@dataclass(frozen=True)
class Diamond(Cell):
    """Two ways from the input to the output, of which only the second has a node in between."""

    edges: ClassVar[tuple[tuple[int, int], ...]] = ((0, 1), (0, 2), (1, 2))
    choices: ClassVar[tuple[str, ...]] = ("none", "skip_connect", "conv", "relu")

    def apply(self, operation: str, name: str, x: Traced) -> Traced:
        if operation == "conv":
            return Convolution(name, x.shape[0], 3)(x)
        return Activate("relu")(x) if operation == "relu" else x


def test_a_cell_is_the_sum_of_its_paths() -> None:
    cell = Diamond(4, 6, ("conv", "relu", "skip_connect"))
    check_layer(cell)
    assert (cell.macs, cell.params) == (36 * 4 * 4 * 9, 4 * 4 * 9 + 2 * 4)
    module = StaticLayer(cell.program).eval()
    conv = StaticLayer(Program.of(cell.paths(0)[2], cell.input_shapes)).eval()
    conv.load_state_dict(module.state_dict())
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(module(x), x.relu() + conv(x))


def test_nothing_reaches_what_has_no_edges() -> None:
    assert [type(step.op).__name__ for step in Diamond(4, 6, ("none", "relu", "conv")).program.steps] == ["Activate"]
    assert [type(step.op).__name__ for step in Diamond(4, 6, ("none",) * 3).program.steps] == ["Zero"]


def test_paths_run_on_any_number_of_channels() -> None:
    cell = Diamond(4, 6, ("conv",) * 3)
    shapes = [Program.of(path, [(2, 6, 6)]).output_shape for path in cell.paths(1)]
    assert shapes == [(2, 6, 6)] * 4
    assert [p.shape for p in Program.of(cell.paths(1)[2], [(2, 6, 6)]).parameters][0] == (2, 2, 3, 3)


def test_used_edges_are_on_a_path_and_kept_ones_compute_something() -> None:
    cell = Diamond(4, 6, ("conv", "relu", "none"))
    assert (cell.used, cell.kept_share) == ((False, True, False), 1 / 3)
    assert Diamond(4, 6, ("conv", "skip_connect", "relu")).kept_share == 2 / 3


def test_used_edges_of_one_cell_are_those_of_all() -> None:
    some = CELLS[:: len(CELLS) // 200]
    found = [Cell201(4, 4, tuple(CELL_OPERATIONS[gene] for gene in row)).used for row in some]
    assert np.array_equal(used_edges(some), found)


def test_unknown_operations_and_edges_are_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"Diamond.operations must be 3 of \['none', .*'mixed'\]"):
        Diamond(4, 6, ("conv", "conv", "pool"))
    with pytest.raises(InvalidValueError, match="must be 3 of"):
        Diamond(4, 6, ("conv", "conv"))


def test_short_names_of_kinds_beside_their_space_are_read() -> None:
    cell = Cell201(4, 4, ("none",) * 6)
    assert cell.to_json()["kind"] == "Cell201"
    assert Layer.from_json(cell.to_json()) == cell


@dataclass(frozen=True)
class FixedWidth(EdgeOperation):
    channels: int

    @property
    def input_shape(self) -> Shape:
        return (self.channels, 6, 6)

    def define(self, x: Traced) -> Traced:
        return Convolution("conv", self.channels)(x)


@dataclass(frozen=True)
class FixedCell(Diamond):
    def apply(self, operation: str, name: str, x: Traced) -> Traced:
        return Convolution(name, self.channels, 3)(x) if operation == "conv" else x


@dataclass(frozen=True)
class ExtraConvolution(Diamond):
    def define(self, x: Traced) -> Traced:
        return Convolution("extra", 4)(super().define(x))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (FixedWidth(4), "gives 4 channels of 2, and 4 of 4"),
        (FixedCell(4, 6, ("conv",) * 3), "gives 4 channels of 2"),
        (ExtraConvolution(4, 6, ("conv",) * 3), r"has the parameters \['extra.conv.weight'.*which none of its paths"),
    ],
)
def test_the_contract_catches_operations_that_do_not_follow_their_input(layer: Layer, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_layer(layer)

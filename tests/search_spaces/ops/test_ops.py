"""All operators: the contract of layers."""

import pytest

from search_spaces.base.errors import InvalidValueError
from search_spaces.ops.convolution import Convolution
from search_spaces.ops.pooling import GlobalPool, Pool
from search_spaces.ops.resize import Resize
from search_spaces.ops.transposed_convolution import TransposedConvolution
from search_spaces.program import Op, Program, Shape
from search_spaces.space_contract import check_layer
from tests.search_spaces.ops.cases import CASES, Case


@pytest.mark.parametrize("name", CASES)
def test_counts_and_shapes_are_those_of_torch(name: str) -> None:
    check_layer(Case(name))


@pytest.mark.parametrize(
    "op",
    [Convolution("a", 4), TransposedConvolution("a", 4), Pool("max", 2, 2), GlobalPool(), Resize("nearest", 2)],
    ids=lambda op: type(op).__name__,
)
@pytest.mark.parametrize("shape", [(4,), (4, 4, 4, 4)])
def test_operators_over_pixels_refuse_other_shapes(op: Op, shape: Shape) -> None:
    with pytest.raises(InvalidValueError, match=r"takes \(channels, height, width\) or \(channels, length\), but got"):
        Program.of(op, [shape])

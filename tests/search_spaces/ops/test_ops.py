"""All operators: the contract of layers."""

import pytest

from search_spaces.space_contract import check_layer
from tests.search_spaces.ops.cases import CASES, Case


@pytest.mark.parametrize("name", CASES)
def test_counts_and_shapes_are_those_of_torch(name: str) -> None:
    check_layer(Case(name))

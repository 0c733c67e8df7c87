"""Plans look at some networks of a space before anything else."""

import re

import pytest

from nas.pipeline.checks import check_networks
from search_spaces import Position
from search_spaces.base.errors import InvalidValueError
from tests.search_spaces.graph_spaces import Branches
from tests.search_spaces.test_graph_spaces import HEAD, Given


def test_a_space_whose_networks_fit_together_passes() -> None:
    check_networks(Branches())


def test_a_network_that_cannot_be_is_named() -> None:
    message = "Space 'given' has a network that cannot be: Position 'h' takes (4, 4, 4), but c give (6, 4, 4)"
    with pytest.raises(InvalidValueError, match=re.escape(message) + ".* It is {'there': 1, 'width': 6}"):
        check_networks(Given([Position("c", ("width",)), HEAD]))

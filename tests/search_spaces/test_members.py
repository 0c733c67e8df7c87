from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from search_spaces import Choice, Condition, Conv, Layer, Position, SearchSpace, Value
from search_spaces.base.errors import InvalidValueError, UnknownNameError

DEEP = Condition("depth.1", (2,))
PUBLISHED: dict[str, dict[str, Any]] = {
    "short": {"size": 8, "depth": 1, "kernel": [3, 1]},
    "long": {"size": 4, "depth": 2, "kernel": [[3, 1], [3]]},
}


class Two(SearchSpace):
    """Up to two convolutions of a stage, and one of another."""

    def __init__(self, published: Mapping[str, Mapping[str, Any]], baseline: Sequence[str] | None = None) -> None:
        choices = [
            Choice("size", (4, 8)),
            Choice("depth.1", (1, 2)),
            Choice("kernel.1.1", (1, 3)),
            Choice("kernel.1.2", (1, 3), DEEP),
            Choice("kernel.2.1", (1, 3)),
        ]
        positions = [
            Position("1.1", ("size", "kernel.1.1")),
            Position("1.2", ("size", "depth.1", "kernel.1.2")),
            Position("2.1", ("size", "kernel.2.1")),
        ]
        baselines = {"both": list(published) if baseline is None else baseline} if published else {}
        super().__init__("two", {}, choices, positions, published=published, baselines=baselines)

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        if position == "1.2" and values["depth.1"] == 1:
            return None
        kernel, size = values[f"kernel.{position}"], values["size"]
        assert isinstance(kernel, int) and isinstance(size, int)
        return Conv(3, 3, kernel, 1, "relu", size)


def test_plain_values_are_for_all_choices_and_lists_for_stages_and_blocks() -> None:
    space = Two(PUBLISHED)
    assert space.members == ("short", "long")
    assert space.member("short").values == {"size": 8, "depth.1": 1, "kernel.1.1": 3, "kernel.2.1": 1}
    long = {"size": 4, "depth.1": 2, "kernel.1.1": 3, "kernel.1.2": 1, "kernel.2.1": 3}
    assert space.member("long").values == long
    assert space.baselines == {"both": ("short", "long")}


def test_named_networks_are_no_part_of_the_identity_but_of_the_definition() -> None:
    assert Two(PUBLISHED).fingerprint == Two({}).fingerprint
    assert Two(PUBLISHED).definition["published"] == PUBLISHED


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": None}, "'size' needs one value, but is None"),
        ({"size": 5}, r"'size' can be \[4, 8\], but is 5"),
        ({"depth": 3}, r"'depth.1' can be \[1, 2\], but is 3"),
        ({"kernel": [3]}, "'kernel.2.1' is missing: its list has 1 entries"),
        ({"kernel": [[3, 3], 1]}, "'kernel.1.2' is 3, but is no choice of this network; put null there"),
        ({"kernel": [3, 1, 3]}, "'kernel.3' is 3, but is no choice of this network"),
        ({"kernel.2.1": [1]}, "'kernel.2.1' needs one value"),
        ({"width": 8}, "'width' is 8, but is no choice"),
    ],
)
def test_a_wrong_network_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=f"Network 'short' of space 'two': {message}"):
        Two({"short": {**PUBLISHED["short"], **change}}).member("short")


def test_a_missing_choice_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"'depth.1' is missing; it can be \[1, 2\]"):
        Two({"short": {"size": 8, "kernel": 1}}).member("short")


def test_an_unknown_name_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(UnknownNameError, match=r"no published network 'shor'. Did you mean 'short'\?"):
        Two(PUBLISHED).member("shor")
    with pytest.raises(UnknownNameError, match="no published network 'x'. It has none"):
        Two({}).member("x")


@pytest.mark.parametrize(("baseline", "message"), [([], "but got none"), (["short", "tall"], "but got tall")])
def test_a_baseline_is_of_published_networks(baseline: list[str], message: str) -> None:
    with pytest.raises(InvalidValueError, match=f"Baseline 'both' of space 'two' .*{message}"):
        Two(PUBLISHED, baseline)

"""Graphs that cannot be are refused with a sentence that names the position and the way out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from search_spaces import Architecture, Choice, Layer, Position, SearchSpace, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Conv, LinearClassifier, size_of, strided
from search_spaces.loading import load_space
from search_spaces.space_contract import check_space
from tests.search_spaces.graph_spaces import GRAPHS, Sum


class Given(SearchSpace):
    """Positions as they are given; the first letter of a name says which layer is there."""

    def __init__(
        self,
        positions: Sequence[Position],
        inputs: Sequence[str] = ("image",),
        outputs: Mapping[str, str] | None = None,
    ) -> None:
        choices = [Choice("there", (0, 1)), Choice("width", (4, 6))]
        super().__init__("given", {}, choices, positions, inputs=inputs, outputs=outputs)

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        width = int(values.get("width", 4))
        layers: dict[str, Layer] = {
            "c": Conv(1, width, 3, 1, "relu", 4),
            "d": Conv(4, 4, 3, 1, "relu", 4),
            "s": Sum(4, 4),
            "h": LinearClassifier(4, 2, 4),
        }
        return layers[position[0]] if values.get("there", 1) else None


STEM = Position("c", ())
HEAD = Position("h", ())


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([STEM, Position("d", (), ("h",)), HEAD], "'d' of space 'given' reads 'h', which comes after it or reads it"),
        ([STEM, Position("d", (), ("d",)), HEAD], "'d' of space 'given' reads 'd', which comes after it or reads it"),
        (
            [STEM, Position("d", (), ("x",)), HEAD],
            "'d' of space 'given' reads 'x', which there is not; there are",
        ),
        ([STEM, Position("d", ()), Position("h", (), ("c",))], "Nothing reads 'd' of space 'given'; make it an output"),
        ([STEM, STEM], "names 'c' twice"),
        ([STEM, Position("d", ("no such",)), HEAD], "'d' depends on 'no such', which is not a choice"),
        ([], "needs an input and a position"),
    ],
)
def test_wiring_is_checked_when_the_space_is_built(positions: list[Position], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        Given(positions)


def test_outputs_are_positions() -> None:
    with pytest.raises(InvalidValueError, match="Output 'mask' of space 'given' is of 'm', no position"):
        Given([STEM, HEAD], outputs={"logits": "h", "mask": "m"})
    with pytest.raises(InvalidValueError, match="Nothing reads 'depth' of space 'given'"):
        Given([STEM, HEAD], inputs=("image", "depth"))


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (
            [Position("c", ("width",)), HEAD],
            r"Position 'h' takes \(4, 4, 4\), but c give \(6, 4, 4\); let its layer follow from theirs",
        ),
        (
            [STEM, Position("d", (), ("c",)), Position("s", ("there",), ("c", "d")), HEAD],
            "Nothing reads position 'd' here, because what would read it has no layer and hands on another input",
        ),
    ],
)
def test_networks_that_cannot_be_are_refused_when_they_are_lowered(positions: list[Position], message: str) -> None:
    space = Given(positions)
    wrong = Architecture(space, np.array([0, 1], np.int16))
    with pytest.raises(InvalidValueError, match=message):
        space.lower(wrong)


def test_a_network_computes_something() -> None:
    space = Given([Position("c", ("there",))])
    with pytest.raises(InvalidValueError, match="Output 'logits' is the input 'image' itself here, .* always have one"):
        space.lower(space.smallest)


def test_a_position_has_a_layer_somewhere() -> None:
    class Never(Given):
        def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
            return None if position == "d" else super().layer(position, values)

    with pytest.raises(InvalidValueError, match="Position 'd' of space 'given' never has a layer; leave it out"):
        _ = Never([STEM, Position("d", ()), HEAD]).distinct_layers


@pytest.mark.parametrize("kind", GRAPHS)
def test_graphs_keep_the_contract(kind: type[SearchSpace]) -> None:
    check_space(kind(name="space"), np.random.default_rng(0))  # type: ignore[call-arg]


def test_sizes_of_images() -> None:
    assert [size_of(value) for value in (96, "96x128", "64x64")] == [96, (96, 128), 64]
    assert [strided(size, 2) for size in (9, (7, 10))] == [5, (4, 5)]
    for wrong in ("96", "96x", "0x4", 0):
        with pytest.raises(InvalidValueError, match="such as '192x256'"):
            size_of(wrong)


def test_a_shipped_space_of_images_that_are_not_square() -> None:
    space = load_space("mobiledets", resolutions=[64, "64x96"])
    rows = np.stack([[gene, *space.biggest.genes[1:]] for gene in (0, 1)]).astype(np.int16)
    whole, wide = (Architecture(space, row) for row in rows)
    assert [one.layers.inputs["image"] for one in (whole, wide)] == [(3, 64, 64), (3, 64, 96)]
    assert whole.params == wide.params and 1.4 * whole.macs < wide.macs < 1.5 * whole.macs
    again = load_space("mobiledets", resolutions=[64, "64x96"])
    assert again.fingerprint == space.fingerprint
    with pytest.raises(InvalidValueError, match="must have ever more pixels"):
        load_space("mobiledets", resolutions=["96x64", "64x96"])

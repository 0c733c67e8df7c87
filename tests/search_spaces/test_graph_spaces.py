"""Graphs that cannot be are refused with a sentence that names the position and the way out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from search_spaces import Architecture, Choice, Layer, Position, SearchSpace, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import (
    Conv,
    LinearClassifier,
    check_resolutions,
    image_shape,
    image_size,
    size_of,
    size_text,
    strided,
)
from search_spaces.loading import load_space
from search_spaces.space_contract import check_space
from search_spaces.torch_program import StaticNetwork
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
    assert [strided(size, 2) for size in (9, (7, 10), (3, 4))] == [5, (4, 5), 2]
    assert [size_text(size) for size in (96, (96, 128))] == ["96", "96x128"]
    assert [image_size(image_shape(3, size)) for size in (96, (96, 128))] == [96, (96, 128)]
    for wrong in ("96", "96x", "0x4", 0):
        with pytest.raises(InvalidValueError, match="such as '192x256'"):
            size_of(wrong)


@pytest.mark.parametrize("values", [[], [24, 12], [12, 12], [0, 12], [12.5], [True], ["12"], ["24x12", "12x24"]])
def test_resolutions_have_ever_more_pixels(values: list[int | str]) -> None:
    check_resolutions("mine", [12, "12x16", 16])
    with pytest.raises(InvalidValueError, match="of space 'mine' must have ever more pixels|is a number such as 192"):
        check_resolutions("mine", values)


@pytest.mark.parametrize("name", ["mobilenet_v3_digits", "mobilenet_v4_conv_small", "fbnet", "ofa_resnet50"])
def test_layers_of_wide_images_are_as_high_as_one_square_and_as_wide_as_another(name: str) -> None:
    space = load_space(name, resolutions=[32, "32x72", 72])
    rows = np.stack([[gene, *space.smallest.genes[1:]] for gene in range(3)]).astype(np.int16)
    (low, wide, high), channels = (Architecture(space, row) for row in rows), space.in_channels
    assert wide.layers.inputs["image"] == (channels, 32, 72) and wide.values["resolution"] == "32x72"
    assert wide.params == low.params == high.params and low.macs < wide.macs < high.macs
    for one, other, layer in zip(low.layers.values(), high.layers.values(), wide.layers.values(), strict=True):
        assert layer.input_shape == (*one.input_shape[:2], other.input_shape[2])
        assert type(layer).merge([one, layer, other]).input_shape == other.input_shape
    scores = StaticNetwork(wide.layers).eval()(torch.rand(2, channels, 32, 72))
    assert scores.shape == (2, space.classes) and bool(scores.isfinite().all())
    assert Architecture.from_json(space, wide.to_json()) == wide
    assert load_space(name, resolutions=[32, "32x72", 72]).fingerprint == space.fingerprint
    for wrong in ([32, 16], ["72x32", "32x72"]):
        with pytest.raises(InvalidValueError, match=f"of space '{space.name}' must have ever more pixels"):
            load_space(name, resolutions=wrong)


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

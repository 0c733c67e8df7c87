import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import (
    Architecture,
    Choice,
    Classifier,
    Condition,
    Conv,
    Layer,
    MobileNetV3,
    NasBench201,
    Position,
    SearchSpace,
)
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import MBConv


class Nested(SearchSpace):
    """Conditions two deep: c matters while b does and is 1, b while a is not 0. Each is one row of convolutions."""

    def __init__(self, choices: Sequence[Choice] | None = None, positions: Sequence[Position] | None = None) -> None:
        given = choices or [
            Choice("a", (0, 1, 2)),
            Choice("d", ("x", "y")),
            Choice("b", (0, 1), Condition("a", (1, 2))),
            Choice("c", (0, 1, 2), Condition("b", (1,))),
        ]
        super().__init__("nested", {}, given, positions or [Position("only", ("a", "b", "c")), Position("end", ("d",))])

    def layer(self, position: str, values: Mapping[str, int | str]) -> Layer | None:
        if position == "end":
            return Classifier(8, 8 if values["d"] == "x" else 16, 2, "relu", 8)
        a, b, c = (int(values[name]) for name in "abc")
        width = 1 + (0 if a == 0 else 10 * a + (0 if b == 0 else 3 + c))
        return Conv(width, 8, 3, 1, "none", 8)


def test_nested_conditions() -> None:
    space = Nested()
    # columns a, d, b, c: b is dead, so c is dead although b's gene says that it is not
    raw = np.array([[0, 1, 1, 2], [1, 0, 0, 2], [1, 0, 1, 2], [2, 1, 1, 0]], np.int16)
    assert space.canonical(raw).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 1, 2], [2, 1, 1, 0]]
    assert space.active(raw).tolist() == [
        [True, True, False, False],
        [True, True, True, False],
        [True, True, True, True],
        [True, True, True, True],
    ]
    assert space.size == (1 + 2 * (1 + 3)) * 2


def all_rows(space: SearchSpace) -> np.ndarray:
    return np.array(list(np.ndindex(*map(int, space.cardinalities))), np.int16)


def test_equal_rows_are_equal_networks_by_enumeration(tiny_space: MobileNetV3) -> None:
    for space in (tiny_space, Nested()):
        networks = {
            tuple(genes.tolist()): tuple(space.lower(Architecture(space, genes)).items())
            for genes in space.canonical(all_rows(space))
        }
        assert len(networks) == len(set(networks.values())) == space.size


def test_size_of_the_published_space(ofa_space: MobileNetV3) -> None:
    # 25 resolutions; each of 5 units has 2 to 4 blocks of 3 kernels times 3 expand ratios
    assert 9**2 + 9**3 + 9**4 == 7371
    assert ofa_space.size == 25 * 7371**5


def test_size_of_the_others(tiny_space: MobileNetV3, digits_space: MobileNetV3) -> None:
    assert tiny_space.size == 2 * (2 + 4 + 8)
    assert digits_space.size == 3 * (6 + 36 + 216) ** 3


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ([0, 0], "shape"),
        ([[0, 0]], r"\(1, 2\)"),
        ([[[0] * 8]], "shape"),
        ([[0.0] * 8], "integers"),
        ([[True] * 8], "integers"),
        ([["0"] * 8], "integers"),
        ([[0] * 7 + [2]], "expand.1.3.*row 0.*0..1.*got 2"),
        ([[0] * 8, [-1] + [0] * 7], "resolution.*row 1"),
    ],
)
def test_validate_says_what_is_wrong(tiny_space: MobileNetV3, genes: object, message: str) -> None:
    assert len(tiny_space.choices) == 8
    with pytest.raises(InvalidValueError, match=message):
        tiny_space.validate(genes)  # type: ignore[arg-type]


def test_no_rows_are_fine(tiny_space: MobileNetV3, rng: np.random.Generator) -> None:
    none = tiny_space.sample(0, rng)
    assert none.shape == (0, 8)
    for result in (
        tiny_space.validate(none),
        tiny_space.canonical(none),
        tiny_space.mutate(none, rng, 0.5),
        tiny_space.cross(none, none, rng),
        tiny_space.encode(none),
        tiny_space.position_index(none),
    ):
        assert len(result) == 0


def test_more_values_than_int8_holds(rng: np.random.Generator) -> None:
    space = Nested([Choice("a", tuple(range(300))), Choice("d", ("x", "y"))], [Position("only", ("a", "d"))])
    rows = space.sample(20_000, rng)
    assert rows.dtype == np.int16 and rows[:, 0].max() == 299 and rows.min() == 0
    assert space.encode(rows).sum() == 2 * len(rows)
    assert space.encode(rows).shape == (len(rows), 302)
    assert space.position_index(rows).max() == 599
    assert space.biggest.values == {"a": 299, "d": "y"}
    assert space.mutate(rows, rng, 1.0)[:, 0].max() == 299


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), probability=st.floats(0, 1))
def test_operators_stay_inside_the_space(seed: int, probability: float) -> None:
    space, rng = Nested(), np.random.default_rng(seed)
    first, second = space.sample(30, rng), space.sample(30, rng)
    for rows in (space.mutate(first, rng, probability), space.cross(first, second, rng)):
        assert np.array_equal(space.canonical(space.validate(rows)), rows)


def test_mutation_changes_as_many_genes_as_asked(digits_space: MobileNetV3, rng: np.random.Generator) -> None:
    deep = np.repeat(digits_space.biggest.genes[None], 4000, 0)
    changed = digits_space.mutate(deep, rng, 0.3)[:, 0] != deep[:, 0]
    assert abs(changed.mean() - 0.3 * 2 / 3) < 0.03  # one draw in three gives the old resolution back
    assert np.array_equal(digits_space.mutate(deep, rng, 0.0), deep)


def test_crossover_takes_from_both_parents(digits_space: MobileNetV3, rng: np.random.Generator) -> None:
    small = np.repeat(digits_space.smallest.genes[None], 2000, 0)
    big = np.repeat(digits_space.biggest.genes[None], 2000, 0)
    children = digits_space.cross(small, big, rng)
    assert set(np.unique(children[:, 0])) == {0, 2}
    assert abs((children[:, 0] == 2).mean() - 0.5) < 0.05


def test_encode_is_one_hot_over_what_matters(tiny_space: MobileNetV3) -> None:
    encoded = tiny_space.encode(np.stack([tiny_space.smallest.genes, tiny_space.biggest.genes]))
    assert encoded.dtype == np.float32
    assert encoded.sum(1).tolist() == [4, 8]
    # resolution (2), depth (3), then kernel (1) and expand (2) of three blocks
    assert encoded[0].tolist() == [1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert encoded[1].tolist() == [0, 1, 0, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1]


def test_position_index_is_where_the_layer_is(digits_space: MobileNetV3, rng: np.random.Generator) -> None:
    rows = digits_space.sample(30, rng)
    index = digits_space.position_index(rows)
    for genes, row in zip(rows, index, strict=True):
        lowered = digits_space.lower(Architecture(digits_space, genes))
        for p, position in enumerate(digits_space.positions):
            assert digits_space.layers_at(p)[row[p] - digits_space.offsets[p]] == lowered.get(position.name)
    assert digits_space.table_size == sum(len(digits_space.layers_at(p)) for p in range(len(digits_space.positions)))


def test_largest_layers_hold_all_others(tiny_space: MobileNetV3) -> None:
    largest = tiny_space.largest_layers["stage1_block1"][MBConv]
    for layer in tiny_space.layers_at(2):
        assert layer is not None and layer.params <= largest.params and layer.input_shape <= largest.input_shape


def test_genes_of_names_missing_choices(tiny_space: MobileNetV3) -> None:
    with pytest.raises(InvalidValueError, match="'resolution' is missing"):
        tiny_space.genes_of({"depth.1": 1})
    assert tiny_space.genes_of(tiny_space.biggest.values).tolist() == tiny_space.biggest.genes.tolist()
    values = {**tiny_space.biggest.values, "depth.1": np.int64(3)}
    assert tiny_space.genes_of(values).tolist() == tiny_space.biggest.genes.tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("choices", "positions", "message"),
    [
        ([Choice("a", (1,)), Choice("a", (2,))], None, "twice"),
        ([Choice("b", (1, 2), Condition("a", (1,))), Choice("a", (1, 2))], None, "'b' depends on 'a'.*before"),
        ([Choice("b", (1, 2), Condition("b", (1,)))], None, "'b' depends on 'b'"),
        ([Choice("a", (1, 2)), Choice("b", (1, 2), Condition("a", (3,)))], None, "'b'.*'a' cannot be"),
        ([Choice("a", (1,))], [Position("only", ("typo",))], "'only' depends on 'typo'"),
    ],
)
def test_a_space_that_makes_no_sense_cannot_be_built(
    choices: list[Choice], positions: list[Position] | None, message: str
) -> None:
    with pytest.raises(InvalidValueError, match=message):
        Nested(choices, positions)


# -- a part of a space -------------------------------------------------------------------------------------------------


def test_a_part_holds_the_networks_that_have_the_fixed_values(digits_space: MobileNetV3) -> None:
    whole, rng = digits_space, np.random.default_rng(0)
    fixed = {"resolution": whole.choices[0].values[-1], "kernel.2.2": 5}
    part = whole.restricted(fixed)
    assert part.fixed == fixed and whole.fixed == {} and part.fingerprint == whole.fingerprint
    genes = part.sample(500, rng)
    for rows in (genes, part.mutate(genes, rng, 0.5), part.cross(genes, genes[::-1], rng), part.canonical(genes)):
        assert np.array_equal(whole.canonical(rows), rows)
        for row in rows[:100]:
            values = Architecture(whole, row).values
            assert all(values.get(name, value) == value for name, value in fixed.items())
    assert {"kernel.2.2" in Architecture(whole, row).values for row in genes} == {True, False}
    assert part.smallest.values["resolution"] == part.biggest.values["resolution"] == fixed["resolution"]


def test_the_size_of_a_part_is_that_of_its_list(tiny_space: MobileNetV3) -> None:
    grid = np.array(list(itertools.product(*(range(int(c)) for c in tiny_space.cardinalities))), np.int16)
    last = {choice.name: choice.values[-1] for choice in (tiny_space.choices[0], tiny_space.choices[-1])}
    for fixed in ({}, dict([next(iter(last.items()))]), last):
        part = tiny_space.restricted(fixed)
        assert part.size == len(np.unique(part.canonical(grid), axis=0))


@pytest.mark.parametrize(
    ("fixed", "message"),
    [({"nope": 1}, "has no choice 'nope'; it has"), ({"resolution": 7}, "Choice 'resolution' can be")],
)
def test_what_cannot_be_fixed_is_refused(digits_space: MobileNetV3, fixed: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        digits_space.restricted(fixed)


def test_a_choice_of_one_of_several_ways_to_write_a_network_cannot_be_fixed() -> None:
    cells = NasBench201(name="cells", resolution=8, in_channels=1, classes=10, channels=4, cells=1)
    with pytest.raises(InvalidValueError, match="cannot be fixed, as they have equal networks"):
        cells.restricted({cells.choices[0].name: cells.choices[0].values[1]})

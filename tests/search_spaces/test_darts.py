"""DARTS's cell space against the authors' code: counts of every cell, and operators written out."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from predictors.position_table import macs, params
from search_spaces import Architecture, Darts
from search_spaces.base.errors import InvalidValueError, MismatchError, UnknownNameError
from search_spaces.darts import (
    OPERATIONS,
    DilConv,
    EdgePool,
    FactorizedReduce,
    Genotype,
    SepConv,
    edge_layer,
)
from search_spaces.layers import Layer
from search_spaces.loading import load_space
from search_spaces.program import Program
from search_spaces.space_contract import check_layer, check_space
from search_spaces.torch_program import StaticLayer


@pytest.fixture(scope="module")
def cifar() -> Darts:
    space = load_space("darts_cifar")
    assert isinstance(space, Darts)
    return space


@pytest.fixture(scope="module")
def imagenet() -> Darts:
    space = load_space("darts_imagenet")
    assert isinstance(space, Darts)
    return space


@pytest.fixture(scope="module")
def tiny() -> Darts:
    return Darts(name="tiny_darts", in_channels=1, classes=4, resolution=8, channels=4, cells=3)


# -- published networks ------------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_authors_code(cifar: Darts, imagenet: Darts) -> None:
    """Of https://github.com/quark0/darts at f276dd3 without auxiliary heads; it states 3.3M and 4.7M parameters for
    the second-order cells."""
    found = {(s.name, m): (s.member(m).macs, s.member(m).params) for s in (cifar, imagenet) for m in s.members}
    assert found == {
        ("darts_cifar", "darts_v1"): (500_987_520, 3_169_414),
        ("darts_cifar", "darts_v2"): (528_359_040, 3_349_342),
        ("darts_imagenet", "darts_v1"): (505_864_704, 4_510_432),
        ("darts_imagenet", "darts_v2"): (529_911_552, 4_718_752),
    }


def of_cells(architecture: Architecture) -> dict[str, tuple[int, int]]:
    """MACs and parameters of each cell."""
    found: dict[str, tuple[int, int]] = {}
    for position, layer in architecture.layers.items():
        cell = position.partition("_")[0]
        before = found.get(cell, (0, 0))
        found[cell] = before[0] + layer.macs, before[1] + layer.params
    return found


def test_each_cell_has_the_counts_of_the_authors_code(cifar: Darts, imagenet: Darts) -> None:
    small, large = of_cells(cifar.member("darts_v2")), of_cells(imagenet.member("darts_v2"))
    assert small["stem"] == (2_985_984, 3_132) and small["classifier"] == (5_760, 5_770)
    assert small["cell1"] == (26_210_304, 26_532) and small["cell2"] == (27_537_408, 27_828)
    assert {small[f"cell{k}"] for k in (3, 4, 5, 6)} == {(28_864_512, 29_124)}
    assert small["cell7"] == (21_233_664, 21_024) and small["cell8"] == (24_385_536, 97_128)
    assert {small[f"cell{k}"] for k in range(9, 14)} == {(27_039_744, 107_496)}
    assert small["cell14"] == (21_233_664, 83_520) and small["cell15"] == (23_473_152, 370_512)
    assert {small[f"cell{k}"] for k in range(16, 21)} == {(26_127_360, 411_984)}
    assert large["stem3"] == (16_257_024, 20_832) and large["classifier"] == (768_000, 769_000)
    assert large["cell1"] == (27_207_936, 35_952) and large["cell2"] == (32_626_944, 42_864)
    assert large["cell5"] == (28_901_376, 37_248) and large["cell6"] == (32_570_496, 168_672)
    assert large["cell10"] == (28_901_376, 148_224) and large["cell14"] == (35_251_776, 724_416)


def test_sizes_are_those_of_the_paper(cifar: Darts, imagenet: Darts) -> None:
    shapes = {name: layer.output_shape for name, layer in imagenet.member("darts_v2").layers.items()}
    wanted = {"stem2": (48, 56, 56), "cell1": (192, 28, 28), "cell5": (384, 14, 14), "cell14": (768, 7, 7)}
    assert {name: shapes[name] for name in wanted} == wanted
    assert cifar.member("darts_v2").layers["cell20"].output_shape == (576, 8, 8)


# -- operators ---------------------------------------------------------------------------------------------------------


def module(layer: Layer) -> StaticLayer:
    made = StaticLayer(layer.program).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.ndim:
                tensor.normal_(0, 0.5, generator=generator)
    return made


def normalised(x: torch.Tensor, of: StaticLayer, name: str) -> torch.Tensor:
    mean, variance, weight, bias = (
        of.state_dict()[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return functional.batch_norm(x, mean, variance, weight, bias)


X = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(1))


def test_a_factorised_reduction_sees_even_and_odd_pixels() -> None:
    made = module(FactorizedReduce(4, 6, (6, 8)))
    weights, x = made.state_dict(), X.relu()
    even = functional.conv2d(x, weights["even.conv.weight"], stride=2)
    odd = functional.conv2d(x[:, :, 1:, 1:], weights["odd.conv.weight"], stride=2)
    wanted = torch.cat([normalised(even, made, "even"), normalised(odd, made, "odd")], 1)
    torch.testing.assert_close(made(X), wanted)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_separable_and_dilated_convolutions_are_the_authors(kernel: int, stride: int) -> None:
    made = module(SepConv(4, stride, (6, 8), kernel))
    weights, x = made.state_dict(), X
    for part, step in (("first", stride), ("second", 1)):
        x = functional.conv2d(x.relu(), weights[f"{part}_depthwise.weight"], None, step, kernel // 2, groups=4)
        x = functional.conv2d(x, weights[f"{part}_pointwise.conv.weight"])
        x = normalised(x, made, f"{part}_pointwise")
    torch.testing.assert_close(made(X), x)
    made = module(DilConv(4, stride, (6, 8), kernel))
    weights = made.state_dict()
    x = functional.conv2d(X.relu(), weights["depthwise.weight"], None, stride, kernel - 1, dilation=2, groups=4)
    x = functional.conv2d(x, weights["pointwise.conv.weight"])
    torch.testing.assert_close(made(X), normalised(x, made, "pointwise"))


def test_pooling_never_counts_the_padding() -> None:
    average = functional.avg_pool2d(X, 3, 2, 1, count_include_pad=False)
    torch.testing.assert_close(StaticLayer(EdgePool(4, 2, (6, 8), "average").program)(X), average)
    assert torch.equal(StaticLayer(EdgePool(4, 1, (6, 8), "max").program)(X), functional.max_pool2d(X, 3, 1, 1))


def test_an_operation_is_a_layer_of_its_name() -> None:
    made = [edge_layer(operation, 4, 1, 6) for operation in OPERATIONS]
    assert made == [
        None,
        EdgePool(4, 1, 6, "max"),
        EdgePool(4, 1, 6, "average"),
        DilConv(4, 1, 6, 3),
        DilConv(4, 1, 6, 5),
        SepConv(4, 1, 6, 3),
        SepConv(4, 1, 6, 5),
    ]
    assert edge_layer("skip_connect", 4, 2, 6) == FactorizedReduce(4, 4, 6)
    wide = [edge_layer(operation, 36, 1, 6) for operation in OPERATIONS]
    by_macs = [0 if layer is None else layer.macs for layer in wide]
    assert by_macs == sorted(by_macs)  # the smallest first
    for layer in (*made[1:], FactorizedReduce(4, 8, 6)):
        assert layer is not None
        check_layer(layer)


# -- the space ---------------------------------------------------------------------------------------------------------


def test_a_reduction_of_odd_channels_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="gives even channels, but got 3"):
        Program.of(FactorizedReduce(6, 6, 8).define, [(3, 8, 8)])
    with pytest.raises(InvalidValueError, match="takes an even size"):
        FactorizedReduce(4, 4, 7)


def test_it_has_as_many_networks_as_the_paper_counts(cifar: Darts) -> None:
    """180 ways to choose two earlier nodes for each of four, and seven operations on each of eight edges."""
    assert cifar.size == (180 * 7**8) ** 2


def test_the_contract_holds(tiny: Darts) -> None:
    check_space(tiny, np.random.default_rng(0))


def test_tables_are_small_and_exact(cifar: Darts) -> None:
    assert len(cifar.distinct_layers) == 48
    for table, count in ((macs(cifar), "macs"), (params(cifar), "params")):
        rows = cifar.sample(20, np.random.default_rng(0))
        assert table.predict(rows).tolist() == [getattr(Architecture(cifar, row), count) for row in rows]
    genes, least = macs(cifar).minimum()
    assert Architecture(cifar, genes).macs == least


def test_genotypes_are_read_and_written(cifar: Darts) -> None:
    for row in cifar.sample(50, np.random.default_rng(1)):
        architecture = Architecture(cifar, row)
        assert cifar.from_genotype(str(cifar.to_genotype(architecture))) == architecture
    v2 = cifar.to_genotype(cifar.member("darts_v2"))
    assert v2.normal[4:] == (("skip_connect", 0), ("sep_conv_3x3", 1), ("skip_connect", 0), ("dil_conv_3x3", 2))


def test_the_order_of_a_nodes_inputs_does_not_matter(cifar: Darts) -> None:
    genotype = cifar.to_genotype(Architecture(cifar, cifar.sample(1, np.random.default_rng(2))[0]))
    swapped = tuple(genotype.normal[i ^ 1] for i in range(8))
    assert cifar.from_genotype(dataclasses.replace(genotype, normal=swapped)) == cifar.from_genotype(genotype)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("sep_conv_3x3', 0)", "sep_conv_7x7', 0)"), "The normal cell of a genotype is 8 pairs"),
        (("range(2, 6), reduce", "range(3, 6), reduce"), r"concatenate the nodes \[2, 3, 4, 5\], but `normal_concat`"),
        (("Genotype(", "print("), "A genotype reads Genotype"),
        (("('dil_conv_3x3', 2)", "('dil_conv_3x3', 5)"), "of different nodes before it"),
        (("('dil_conv_3x3', 2)", "('dil_conv_3x3', 0)"), "of different nodes before it"),
        (("normal=", "normal=__import__('os').getcwd() or "), "A genotype reads"),
        (("('dil_conv_3x3', 2)", "('dil_conv_3x3', 1e400)"), "The normal cell of a genotype is pairs"),
        (("('dil_conv_3x3', 2)", "('dil_conv_3x3', 2.5)"), "The normal cell of a genotype is pairs"),
    ],
)
def test_what_is_no_genotype_is_refused(cifar: Darts, change: tuple[str, str], message: str) -> None:
    text = str(cifar.to_genotype(cifar.member("darts_v2")))
    assert change[0] in text
    with pytest.raises(InvalidValueError, match=message):
        Genotype.parse(text.replace(*change))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"cells": 2}, "`cells` of space 'x' must be an integer from 3 to 1,024, but got 2"),
        ({"resolution": 30}, "`resolution` of space 'x' must be a multiple of 4"),
        ({"stem": "large", "resolution": 48}, "must be a multiple of 32"),
        ({"resolution": "32x40"}, "integer from 1 to 16,777,216, but got '32x40'. Images of this space are square"),
        ({"stem": "huge"}, "`stem` of space 'x' is small or large"),
        ({"channels": 5}, "`channels` of space 'x' must be a multiple of 2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(setting: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"in_channels": 3, "classes": 10, "resolution": 32, "channels": 8, "cells": 8}
    with pytest.raises(InvalidValueError, match=message):
        Darts(name="x", **{**good, **setting})  # type: ignore[arg-type]


# -- transfer ----------------------------------------------------------------------------------------------------------


def test_a_cell_is_stacked_for_another_task(cifar: Darts, imagenet: Darts) -> None:
    assert imagenet.transferred(cifar.member("darts_v2")) == imagenet.member("darts_v2")
    assert imagenet.transferred(cifar.member("darts_v2")).macs == 529_911_552


def test_other_choices_cannot_be_transferred(cifar: Darts) -> None:
    cell = load_space("nasbench201").smallest
    with pytest.raises(
        MismatchError, match="of space 'nasbench201' cannot be transferred to 'darts_cifar': .*edge.0.1"
    ):
        cifar.transferred(cell)


@pytest.mark.parametrize(
    "given", [{"choices": {}}, {"space": "a", "choices": 5}, {"space": "a"}, {}, [], None, 5, "darts_v2", Genotype]
)
def test_what_is_no_network_cannot_be_transferred(cifar: Darts, given: Any) -> None:
    with pytest.raises(InvalidValueError, match="An architecture is a mapping with `space`, .* but got"):
        cifar.transferred(given)


@pytest.mark.parametrize("cell", [5, None, [5], [("sep_conv_3x3",)], [("sep_conv_3x3", "a")] * 8, [1.5] * 8])
def test_a_cell_that_is_no_pairs_is_refused(cell: Any) -> None:
    with pytest.raises(InvalidValueError, match="The normal cell of a genotype is pairs"):
        Genotype(cell, ())


@pytest.mark.parametrize("text", [None, 5, [], b"Genotype()"])
def test_a_genotype_that_is_no_text_is_refused(cifar: Darts, text: Any) -> None:
    with pytest.raises(InvalidValueError, match="A genotype reads Genotype"):
        cifar.from_genotype(text)


def test_unknown_members_are_named(cifar: Darts) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'darts_v2'"):
        cifar.member("darts_v3")


# -- a planted fault ---------------------------------------------------------------------------------------------------


class EdgesAlwaysThere(Darts):
    """Forgets that an edge is there only while its node chose it."""

    def _wiring(self, *arguments: object) -> object:  # type: ignore[override]
        self.positions = tuple(dataclasses.replace(position, active_when=None) for position in self.positions)
        return super()._wiring(*arguments)  # type: ignore[arg-type]


def test_the_contract_catches_edges_that_nobody_chose() -> None:
    space = EdgesAlwaysThere(name="faulty", in_channels=1, classes=4, resolution=8, channels=4, cells=3)
    with pytest.raises(AssertionError, match="canonical changes the network: .* at 'cell1_"):
        check_space(space, np.random.default_rng(0))

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
    ChangingDilConv,
    ChangingPool,
    ChangingSepConv,
    DilConv,
    EdgePool,
    FactorizedReduce,
    Genotype,
    NodeSum,
    ReluClassifier,
    ReluConv,
    SepConv,
    StridedSkip,
    UnpaddedConv,
    edge_layer,
)
from search_spaces.layers import Layer
from search_spaces.loading import load_space
from search_spaces.ops.convolution import Convolution
from search_spaces.program import Program
from search_spaces.space_contract import check_layer, check_space
from search_spaces.torch_program import StaticLayer
from tests.conftest import shipped


@pytest.fixture(scope="module")
def cifar() -> Darts:
    space = shipped("darts_cifar")
    assert isinstance(space, Darts)
    return space


@pytest.fixture(scope="module")
def imagenet() -> Darts:
    space = shipped("darts_imagenet")
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


def test_a_reduction_of_odd_channels_gives_one_more_of_the_odd_pixels() -> None:
    program = Program.of(FactorizedReduce(6, 6, 8).define, [(3, 8, 8)])
    parts = [step.op.channels for step in program.steps if isinstance(step.op, Convolution)]
    assert parts == [1, 2] and program.output_shape == (3, 4, 4)


def test_a_factorised_reduction_of_an_odd_size_sees_zeros_behind() -> None:
    made = module(FactorizedReduce(4, 6, (5, 7)))
    weights, x = made.state_dict(), X[:, :, :5, :7].relu()
    even = functional.conv2d(x, weights["even.conv.weight"], stride=2)
    odd = functional.conv2d(functional.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:], weights["odd.conv.weight"], stride=2)
    wanted = torch.cat([normalised(even, made, "even"), normalised(odd, made, "odd")], 1)
    torch.testing.assert_close(made(X[:, :, :5, :7]), wanted)
    assert wanted.shape == (2, 6, 3, 4)


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
    cell = shipped("nasbench201").smallest
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


# -- NASNet ------------------------------------------------------------------------------------------------------------


NASNET: dict[str, Any] = {
    "authors": "nasnet",
    "nodes": 5,
    "operations": ["skip_connect", "max_pool_3x3", "avg_pool_3x3", "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7"],
    "concat": {"normal": [0, 2, 3, 4, 5, 6], "reduce": [3, 4, 5, 6]},
}


@pytest.fixture(scope="module")
def nasnet() -> Darts:
    space = shipped("nasnet_imagenet")
    assert isinstance(space, Darts)
    return space


@pytest.fixture(scope="module")
def tiny_nasnet() -> Darts:
    return Darts(name="tiny_nasnet", in_channels=1, classes=4, resolution=8, channels=4, cells=3, **NASNET)


def test_nasnet_a_has_the_published_counts(nasnet: Darts) -> None:
    """564 million multiply-adds and 5.3 million parameters (table 5 of the paper, 4 @ 1056); the trained parameters of
    the authors' code to the last one, without its auxiliary head."""
    network = nasnet.member("nasnet_a")
    assert (round(network.macs / 1e6), network.params) == (564, 5_289_978)
    layers = network.layers
    assert layers["cell14"].output_shape == (1056, 7, 7) and layers["stem"].output_shape == (32, 111, 111)
    assert [layers[name].output_shape for name in ("stem_cell1", "stem_cell2", "cell1", "cell5", "cell10")] == [
        *((44, 56, 56), (88, 28, 28), (264, 28, 28), (352, 14, 14), (704, 7, 7)),
    ]


def test_nasnet_a_is_read_and_written(nasnet: Darts) -> None:
    network = nasnet.member("nasnet_a")
    assert network.values["normal.5.inputs"] == "0+0" and network.values["normal.5.0+0"] == "avg_pool_3x3+avg_pool_3x3"
    text = str(nasnet.to_genotype(network))
    assert "normal_concat=[0, 2, 3, 4, 5, 6]" in text and "reduce_concat=range(3, 7)" in text
    assert nasnet.from_genotype(text) == network


def test_a_reduction_of_nasnet_is_the_authors(nasnet: Darts) -> None:
    """Operations on the inputs of the first cell of the stem, one of which is the first convolution as it is."""
    layers = nasnet.member("nasnet_a").layers
    found = {name.removeprefix("stem_cell1_"): layers[name] for name in layers if name.startswith("stem_cell1_")}
    assert found == {
        "input1": ReluConv(32, 11, 1, 1, 111),
        "0to2": ChangingSepConv(32, 11, 2, 111, 7),
        "1to2": SepConv(11, 2, 111, 5),
        "node2": NodeSum(11, 56),
        "0to3": ChangingSepConv(32, 11, 2, 111, 7),
        "1to3": EdgePool(11, 2, 111, "max"),
        "node3": NodeSum(11, 56),
        "0to4": ChangingSepConv(32, 11, 2, 111, 5),
        "1to4": EdgePool(11, 2, 111, "average"),
        "node4": NodeSum(11, 56),
        "2to5": EdgePool(11, 1, 56, "average"),
        "node5": NodeSum(11, 56),
        "1to6": EdgePool(11, 2, 111, "max"),
        "2to6": SepConv(11, 1, 56, 3),
        "node6": NodeSum(11, 56),
    }
    sources = nasnet.member("nasnet_a").layers.sources
    assert sources["stem_cell1_node5"] == ("stem_cell1_2to5", "stem_cell1_node3")
    assert sources["cell1_node6"] == ("cell1_input1", "cell1_1to6_second")
    assert sources["cell1"] == ("cell1_input0", *(f"cell1_node{node}" for node in range(2, 7)))


def test_operations_that_change_the_channels_are_written_out() -> None:
    made = [edge_layer(operation, 6, 2, 6, 4, "nasnet") for operation in (*OPERATIONS, "sep_conv_7x7")]
    assert made == [
        ReluConv(4, 6, 1, 2, 6),
        ChangingPool(4, 6, 2, 6, "max"),
        ChangingPool(4, 6, 2, 6, "average"),
        ChangingDilConv(4, 6, 2, 6, 3),
        ChangingDilConv(4, 6, 2, 6, 5),
        ChangingSepConv(4, 6, 2, 6, 3),
        ChangingSepConv(4, 6, 2, 6, 5),
        ChangingSepConv(4, 6, 2, 6, 7),
    ]
    for layer in (*made, StridedSkip(4, 7), UnpaddedConv(3, 4, 8), ReluClassifier(4, 5, 6)):
        assert layer is not None
        check_layer(layer)
    assert edge_layer("skip_connect", 4, 2, 6, 4, "nasnet") == StridedSkip(4, 6)
    assert edge_layer("sep_conv_3x3", 4, 2, 6, 4, "nasnet") == SepConv(4, 2, 6, 3)
    pool = module(ChangingPool(4, 6, 2, (6, 8), "average"))
    pooled = functional.conv2d(
        functional.avg_pool2d(X, 3, 2, 1, count_include_pad=False), pool.state_dict()["conv.conv.weight"]
    )
    torch.testing.assert_close(pool(X), normalised(pooled, pool, "conv"))


def test_nasnets_contract_holds(tiny_nasnet: Darts) -> None:
    check_space(tiny_nasnet, np.random.default_rng(0))


def test_nasnets_networks_are_counted_and_read(tiny_nasnet: Darts) -> None:
    pairs = [1, 6, 10, 15, 21]  # of two earlier nodes, which may be one
    normal = 1
    for node, count in enumerate(pairs, 2):
        doubles = node if count > 1 else 0
        normal *= (count - doubles) * 6**2 + doubles * 21
    reduce = normal // (15 * 36 + 6 * 21) * (5 * 36 + 21)  # its last node reads node 2, which is not concatenated
    assert tiny_nasnet.size == normal * reduce
    for row in tiny_nasnet.sample(50, np.random.default_rng(1)):
        architecture = Architecture(tiny_nasnet, row)
        assert tiny_nasnet.from_genotype(str(tiny_nasnet.to_genotype(architecture))) == architecture


def test_a_nasnet_cell_is_stacked_for_large_images(nasnet: Darts) -> None:
    small = load_space("nasnet_imagenet", resolution=32, channels=8, cells=4, classes=10)
    for row in small.sample(3, np.random.default_rng(0)):
        assert nasnet.transferred(Architecture(small, row)).values == Architecture(small, row).values
    assert small.member("nasnet_a").layers["cell4"].output_shape == (6 * 32, 1, 1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"authors": "me"}, "`authors` of space 'x' is darts or nasnet, but got 'me'"),
        (
            {"operations": ["sep_conv_3x3", "sep_conv_9x9"]},
            "Space 'x': `operations` of cells are some of .*sep_conv_7x7",
        ),
        ({"operations": ["sep_conv_3x3"] * 2}, "each once, but got"),
        ({"nodes": 0}, "`nodes` of space 'x' must be"),
        ({"concat": {"last": [2]}}, "`concat` of space 'x' is of normal and reduce, but names 'last'"),
        ({"concat": {"reduce": [0, 5]}}, r"The reduce cell concatenates nodes of \[2, 3, 4, 5\]"),
        ({"concat": {"normal": [2, 3]}}, "in ascending order, the last among them"),
        ({"authors": "nasnet", "stem": "large", "channels": 6}, "`channels` of space 'x' must be a multiple of 4"),
    ],
)
def test_rules_that_cells_cannot_have_are_refused(setting: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"in_channels": 3, "classes": 10, "resolution": 32, "channels": 8, "cells": 8}
    with pytest.raises(InvalidValueError, match=message):
        Darts(name="x", **{**good, **setting})


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

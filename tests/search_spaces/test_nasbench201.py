import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import yaml
from hydra.utils import instantiate
from numpy.typing import NDArray
from torch import nn

from hardware_profiles import Model, load_device
from hardware_profiles.onnx_graph import onnx_model
from nas.supernet import Supernet
from predictors.peak_memory import peak_memory
from predictors.position_table import macs, params
from search_spaces.architecture import Architecture
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Conv, Layer
from search_spaces.nasbench201 import (
    CELL_EDGES,
    CELL_OPERATIONS,
    CELLS,
    Cell201,
    Head201,
    NasBench201,
    Reduction201,
    genes_of_string,
    official_cells,
    string_of_genes,
    used_edges,
)
from search_spaces.network import INPUT, OUTPUT
from search_spaces.space_contract import check_layer
from search_spaces.torch_program import StaticNetwork, folded_weights

ROOT = Path(__file__).parents[2]
TABLE = ROOT.parent / "shared" / "data" / "nasbench201" / "accuracy.csv"
TINY: dict[str, Any] = {"name": "tiny", "in_channels": 1, "classes": 3, "resolution": 8, "channels": 4, "cells": 1}

NONE, SKIP, CONV1, CONV3, POOL = CELL_OPERATIONS
FIRST = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"

ODD = [
    [NONE] * 6,  # zero
    [NONE, NONE, NONE, SKIP, NONE, NONE],  # the input itself
    [CONV3, NONE, NONE, SKIP, NONE, NONE],  # the input itself, beside a convolution for nothing
    [CONV3, CONV1, CONV3, NONE, NONE, NONE],  # zero, beside convolutions for nothing
    [NONE, NONE, CONV1, NONE, NONE, CONV3],  # convolutions of nothing
    [NONE, POOL, POOL, NONE, SKIP, POOL],  # pooling of nothing
    [SKIP, SKIP, SKIP, SKIP, SKIP, SKIP],
    [POOL, CONV1, CONV3, NONE, CONV3, SKIP],
]


@pytest.fixture(scope="module")
def paper() -> NasBench201:
    space = instantiate(yaml.safe_load((ROOT / "search_spaces" / "space" / "nasbench201.yaml").read_text()))
    assert isinstance(space, NasBench201)
    return space


@pytest.fixture(scope="module")
def tiny() -> NasBench201:
    return NasBench201(**TINY)


def genes_of(operations: list[str]) -> NDArray[np.int16]:
    return np.array([CELL_OPERATIONS.index(operation) for operation in operations], np.int16)


def some_cells(n: int) -> list[NDArray[np.int16]]:
    drawn = np.random.default_rng(0).choice(len(CELLS), n, replace=False)
    return [genes_of(operations) for operations in ODD] + list(CELLS[drawn])


def raw_layers(space: NasBench201, genes: NDArray[np.int16]) -> dict[str, Layer]:
    """The network with the cell as it is written."""
    biggest = space.lower(space.biggest)
    operations = tuple(CELL_OPERATIONS[gene] for gene in genes)
    return {
        name: Cell201(layer.channels, layer.size, operations) if isinstance(layer, Cell201) else layer
        for name, layer in biggest.items()
    }


def randomise(module: nn.Module) -> nn.Module:
    """BatchNorm as after training."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif name.endswith(("norm.bias", "running_mean")):
            tensor.normal_(0, 0.5, generator=generator)
        elif name.endswith("norm.weight"):
            tensor.uniform_(0.5, 1.5, generator=generator)
    return module


# -- the benchmark -----------------------------------------------------------------------------------------------------


def test_layout(paper: NasBench201) -> None:
    layers = paper.lower(paper.biggest)
    assert len(layers) == 1 + 3 * 5 + 2 + 1
    assert layers["stem"] == Conv(3, 16, 3, 1, "none", 32)
    assert layers["stage1_cell5"] == Cell201(16, 32, (POOL,) * 6)
    assert layers["reduction1"] == Reduction201(16, 32, 32)
    assert layers["reduction2"] == Reduction201(32, 64, 16)
    assert layers["stage3_cell1"] == Cell201(64, 8, (POOL,) * 6)
    assert layers["classifier"] == Head201(64, 10, 8)


def test_counts_by_hand(paper: NasBench201) -> None:
    """Without convolutions in the cells: stem, reductions, last BatchNorm, classifier; then with one of each kind."""
    stem = 3 * 16 * 9
    reductions = [(16 * 32 * 9, 32 * 32 * 9, 16 * 32), (32 * 64 * 9, 64 * 64 * 9, 32 * 64)]
    expected_params = stem + 32 + sum(map(sum, reductions)) + 4 * 32 + 4 * 64 + 128 + 650
    expected_macs = stem * 32**2 + sum(reductions[0]) * 16**2 + sum(reductions[1]) * 8**2 + 640
    assert (expected_params, expected_macs) == (73_306, 7_783_040)
    for kernel, operation in ((0, POOL), (1, CONV1), (3, CONV3)):
        layers = raw_layers(paper, genes_of([operation, NONE, NONE, SKIP, NONE, NONE])).values()
        weights = [kernel**2 * channels**2 for channels in (16, 32, 64)]
        norms = [2 * channels if kernel else 0 for channels in (16, 32, 64)]
        assert sum(layer.params for layer in layers) == expected_params + 5 * (sum(weights) + sum(norms))
        assert sum(layer.macs for layer in layers) == expected_macs + 5 * sum(
            weight * size**2 for weight, size in zip(weights, (32, 16, 8), strict=True)
        )


@pytest.fixture(scope="module")
def table() -> list[dict[str, str]]:
    if not TABLE.exists():
        pytest.skip(f"the benchmark's table is not at ../{TABLE.relative_to(ROOT.parent)}")
    with TABLE.open() as file:
        return list(csv.DictReader(file))


def test_all_cells_have_the_benchmarks_counts(paper: NasBench201, table: list[dict[str, str]]) -> None:
    cells = official_cells()
    assert [string_of_genes(genes) for genes in cells] == [row["arch_str"] for row in table]
    expected = np.array([[int(row["params"]), int(row["macs"])] for row in table])
    canonical = paper.canonical(cells)
    assert np.array_equal(params(paper).predict(canonical), expected[:, 0])
    assert np.array_equal(macs(paper).predict(canonical), expected[:, 1])
    shapes = [(layer.channels, layer.size) for layer in raw_layers(paper, cells[0]).values() if type(layer) is Cell201]
    outside = [layer for layer in raw_layers(paper, cells[0]).values() if type(layer) is not Cell201]
    for genes, (expected_params, expected_macs) in zip(cells, expected.tolist(), strict=True):
        operations = tuple(CELL_OPERATIONS[gene] for gene in genes)
        layers = [*outside, *(Cell201(channels, size, operations) for channels, size in dict.fromkeys(shapes))]
        repeats = [1] * len(outside) + [5, 5, 5]
        assert sum(n * layer.params for n, layer in zip(repeats, layers, strict=True)) == expected_params
        assert sum(n * layer.macs for n, layer in zip(repeats, layers, strict=True)) == expected_macs


def test_equal_cells_are_of_equal_accuracy(paper: NasBench201, table: list[dict[str, str]]) -> None:
    """After 200 epochs, up to the noise of training; cells that do not use their input stay at chance."""
    numbers = {tuple(genes): n for n, genes in enumerate(np.unique(paper.canonical(CELLS), axis=0).tolist())}
    groups: dict[int, list[float]] = {}
    for genes, row in zip(paper.canonical(official_cells()).tolist(), table, strict=True):
        groups.setdefault(numbers[tuple(genes)], []).append(float(row["cifar10_test_200ep"]))
    within = [np.std(group) for group in groups.values() if len(group) > 1]
    assert np.mean(within) < 0.2 < 5 < np.std([np.mean(group) for group in groups.values()])


def test_unused_edges_change_nothing_and_used_ones_do(paper: NasBench201) -> None:
    """Against the graph, path by path; and a cell all of whose edges are unused ignores its input."""
    paths = [path for n in (1, 2, 3) for path in itertools.permutations(CELL_EDGES, n)]
    paths = [p for p in paths if p[0][0] == 0 and p[-1][1] == 3]
    paths = [p for p in paths if all(a[1] == b[0] for a, b in itertools.pairwise(p))]
    assert len(paths) == 4
    for row, used in zip(CELLS[::7], used_edges(CELLS[::7]), strict=True):
        there = {edge for edge, gene in zip(CELL_EDGES, row, strict=True) if gene}
        on_paths = {edge for path in paths if there.issuperset(path) for edge in path}
        assert {edge for edge, u in zip(CELL_EDGES, used, strict=True) if u} == on_paths
    ignoring = ~used_edges(CELLS).any(1)
    assert ignoring.sum() == 341
    wasteful = paper.wasteful(CELLS)
    assert wasteful[ignoring].all()
    assert np.array_equal(wasteful & ~ignoring, ((CELLS != 0) & ~used_edges(CELLS)).any(1) & ~ignoring)

    small = NasBench201(name="cells", in_channels=1, classes=3, resolution=4, channels=2, cells=1)
    images = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    constant = []
    for number in np.concatenate([rng.choice(np.flatnonzero(chosen), 20) for chosen in (ignoring, ~ignoring)]):
        architecture = Architecture(small, small.canonical(CELLS[number : number + 1])[0])
        with torch.random.fork_rng():
            torch.manual_seed(0)
            first, second = StaticNetwork(small.lower(architecture)).eval()(images)
        constant.append(torch.equal(first, second))
    assert all(constant[:20]) and sum(constant[20:]) < 10  # some of so small networks give nothing on as at random


# -- equal networks ----------------------------------------------------------------------------------------------------


def fingerprints() -> NDArray[np.uint64]:
    """Numbers that are equal for equal cells: the cells run on integers, convolutions being random functions.

    Every edge gets one of six functions, in all 720 ways, and the sum over these does not depend on how the edges are
    named. Shape (15625, 3), with the number of convolutions of each kind.
    """
    rng = np.random.default_rng(0)
    odd = rng.integers(2**63, size=(8, 2), dtype=np.uint64) | np.uint64(1)

    def mixed(x: NDArray[np.uint64], function: int) -> NDArray[np.uint64]:
        for multiplier in odd[function]:
            x = (x + multiplier) * multiplier
            x ^= x >> np.uint64(29)
        return x

    start = np.full(len(CELLS), 12345, np.uint64)
    total = np.zeros(len(CELLS), np.uint64)
    selected = [[CELLS[:, edge] == CELL_OPERATIONS.index(o) for o in (SKIP, CONV1, CONV3, POOL)] for edge in range(6)]
    for functions in itertools.permutations(range(6)):
        nodes = [start]
        for target in (1, 2, 3):
            node = np.zeros(len(CELLS), np.uint64)
            for edge, (source, to) in enumerate(CELL_EDGES):
                if to == target:
                    x = nodes[source]
                    skip, conv1, conv3, pool = selected[edge]
                    convolved = mixed(x + conv3, functions[edge])
                    node += np.where(skip, x, 0) + np.where(conv1 | conv3, convolved, 0)
                    node += np.where(pool & (x != 0), mixed(x, 6), 0).astype(np.uint64)
            nodes.append(node)
        total += mixed(nodes[3], 7)
    kinds = [(CELLS == CELL_OPERATIONS.index(o)).sum(1).astype(np.uint64) for o in (CONV1, CONV3)]
    return np.stack([total, *kinds], 1)


def test_canonical_rows_are_equal_iff_the_cells_compute_the_same(tiny: NasBench201) -> None:
    _, computed = np.unique(fingerprints(), axis=0, return_inverse=True)
    rows, stated = np.unique(tiny.canonical(CELLS), axis=0, return_inverse=True)
    assert len(rows) == tiny.size == len(np.unique(computed)) == 6245
    assert len(np.unique(np.stack([computed.ravel(), stated.ravel()]), axis=1).T) == tiny.size


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        # two nodes that no edge joins are swapped
        ([CONV1, CONV3, NONE, NONE, POOL, SKIP], [CONV3, CONV1, NONE, NONE, SKIP, POOL], True),
        # a skip connection makes two nodes one
        ([SKIP, NONE, NONE, NONE, CONV3, NONE], [NONE, NONE, NONE, CONV3, NONE, NONE], True),
        # a pooling that nothing reads
        ([POOL, NONE, NONE, CONV3, NONE, NONE], [NONE, NONE, NONE, CONV3, NONE, NONE], True),
        # a convolution that nothing reads still has parameters
        ([CONV1, NONE, NONE, CONV3, NONE, NONE], [NONE, NONE, NONE, CONV3, NONE, NONE], False),
        # one convolution used twice is not two convolutions, one of them for nothing
        ([CONV3, SKIP, NONE, CONV3, NONE, SKIP], [CONV3, SKIP, NONE, NONE, CONV3, SKIP], False),
        ([CONV3, CONV3, SKIP, NONE, SKIP, NONE], [CONV3, CONV3, NONE, NONE, SKIP, SKIP], False),
        # a convolution of nothing is an offset
        ([NONE, NONE, NONE, SKIP, CONV1, NONE], [CONV1, NONE, NONE, SKIP, NONE, NONE], False),
    ],
)
def test_what_equal_means(tiny: NasBench201, first: list[str], second: list[str], equal: bool) -> None:
    one, other = (Architecture(tiny, genes_of(operations)) for operations in (first, second))
    assert (one == other) is equal
    assert (tiny.lower(one) == tiny.lower(other)) is equal


def test_a_cell_that_gives_its_input_is_no_layer(tiny: NasBench201) -> None:
    for operations in ([NONE, NONE, NONE, SKIP, NONE, NONE], [SKIP, SKIP, NONE, NONE, NONE, SKIP]):
        assert list(tiny.lower(Architecture(tiny, genes_of(operations)))) == [
            "stem",
            "reduction1",
            "reduction2",
            "classifier",
        ]


# -- the notation ------------------------------------------------------------------------------------------------------


def test_all_cells_come_back_from_their_notation(tiny: NasBench201) -> None:
    texts = [string_of_genes(genes) for genes in CELLS]
    assert len(set(texts)) == len(CELLS) and np.array_equal([genes_of_string(text) for text in texts], CELLS)
    assert string_of_genes(official_cells()[0]) == FIRST
    assert np.array_equal(np.unique(official_cells(), axis=0), CELLS)
    for genes in some_cells(50):
        architecture = Architecture(tiny, genes)
        text = tiny.to_string(architecture)
        assert tiny.from_string(text) == tiny.from_string(string_of_genes(genes)) == architecture


@pytest.mark.parametrize(
    "text",
    ["", "|", FIRST[:-1], FIRST + "|", FIRST.replace("~1", "~0"), FIRST.replace("avg", "max"), FIRST + "+" + FIRST]
    + [FIRST.replace("|+|", "|")],
)
def test_wrong_notation_is_refused(tiny: NasBench201, text: str) -> None:
    with pytest.raises(InvalidValueError, match="A cell reads"):
        tiny.from_string(text)


@pytest.mark.parametrize("change", [{"cells": 0}, {"channels": 1.5}, {"resolution": 10}, {"classes": True}])
def test_wrong_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError, match=next(iter(change))):
        NasBench201(**{**TINY, **change})


def test_images_that_are_not_square_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="but got '8x12'. Images of this space are square"):
        NasBench201(**{**TINY, "resolution": "8x12"})


@pytest.mark.parametrize("operations", [(SKIP,) * 5, (SKIP,) * 5 + ("conv",), (SKIP,) * 7])
def test_wrong_operations_are_refused(operations: tuple[str, ...]) -> None:
    with pytest.raises(InvalidValueError, match="Cell201.operations"):
        Cell201(4, 8, operations)
    with pytest.raises(InvalidValueError, match="even"):
        Reduction201(4, 8, 7)


# -- torch, the supernet and what devices run --------------------------------------------------------------------------


@pytest.mark.parametrize("genes", some_cells(10), ids=str)
def test_counts_and_onnx_runtime_agree_with_torch(tiny: NasBench201, genes: NDArray[np.int16]) -> None:
    layers = raw_layers(tiny, genes)
    for layer in layers.values():
        check_layer(layer)
    network = randomise(StaticNetwork(layers)).eval()
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    # the network, and its cell alone
    for part, shown in ((layers, images), ({"stage1_cell1": layers["stage1_cell1"]}, images.expand(2, 4, 8, 8))):
        weights = {n: w for n, w in folded_weights(network).items() if n.split(".")[0] in part}
        proto = onnx_model(Model(part, weights), 2)
        onnx.checker.check_model(proto, full_check=True)
        options = ort.SessionOptions()
        options.log_severity_level = 3  # convolutions for nothing are left out, with a warning
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        with torch.no_grad():
            expected = shown
            for name in part:
                expected = network.get_submodule(name)(expected)
        got = session.run([OUTPUT], {INPUT: shown.numpy()})[0]
        np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("operations", [ODD[0], ODD[2], ODD[4], ODD[7]], ids=str)
def test_tvm_agrees_with_torch(tiny: NasBench201, operations: list[str]) -> None:
    pytest.importorskip("tvm")
    layers = raw_layers(tiny, genes_of(operations))
    network = randomise(StaticNetwork(layers)).eval()
    images = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    backend = load_device("host_tvm").open()
    output = backend.load(Model(layers, folded_weights(network))).run(images.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(output, network(images).numpy(), rtol=0, atol=1e-4)
    backend.close()


@pytest.mark.parametrize("operations", ODD, ids=str)
def test_ethos_u_compiles(tiny: NasBench201, operations: list[str]) -> None:
    pytest.importorskip("ethosu")
    backend = load_device("ethos_u55_128").open()
    assert backend.load(Model(raw_layers(tiny, genes_of(operations)))).sample_ms(1) > 0
    backend.close()


def test_int8_tflite_takes_ranges(tiny: NasBench201) -> None:
    pytest.importorskip("ethosu")
    from hardware_profiles.quantisation import activation_ranges
    from hardware_profiles.tflite_graph import tflite_model

    images = np.random.default_rng(0).standard_normal((4, 1, 8, 8), np.float32)
    for operations in ODD:
        model = Model(raw_layers(tiny, genes_of(operations)))
        assert tflite_model(model, activation_ranges(model, images))


def test_an_extracted_network_computes_what_the_supernet_does(tiny: NasBench201) -> None:
    supernet = Supernet(tiny)
    randomise(supernet).eval()
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for genes in some_cells(30):
        architecture = Architecture(tiny, genes)
        network = supernet.extract(architecture)
        with torch.no_grad():
            torch.testing.assert_close(network(images), supernet(images, architecture), rtol=0, atol=1e-5)
            assert network(images).abs().max() > 0


def test_the_supernet_holds_each_operation_once(tiny: NasBench201) -> None:
    supernet = Supernet(tiny)
    cell = supernet.positions["stage1_cell1"]
    names = {name.split(".")[1] for name, _ in cell.named_parameters() if name.startswith("body.")}
    assert names == {f"{o}_{s}{t}" for s, t in CELL_EDGES for o in (CONV1, CONV3)}
    assert sum(p.numel() for p in cell.parameters()) == 6 * (4 * 4 + 8 + 4 * 4 * 9 + 8)


def test_every_operation_gets_gradients(tiny: NasBench201) -> None:
    supernet = Supernet(tiny)
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for genes in tiny.sample(200, np.random.default_rng(0)):
        supernet(images, Architecture(tiny, genes)).square().sum().backward()
    for name, parameter in supernet.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_slices_share_the_supernets_weights(tiny: NasBench201) -> None:
    elastic = Supernet(tiny).positions["stage2_cell1"]
    one, other = (Cell201(8, 4, (CONV3, *rest)) for rest in ((NONE,) * 5, (SKIP, CONV1, POOL, NONE, SKIP)))
    first, second = (elastic.state(layer) for layer in (one, other))
    shared = f"{CONV3}_01.conv.weight"
    assert first[shared].data_ptr() == second[shared].data_ptr()
    assert {name.split(".")[0] for name in second} == {f"{CONV3}_01", f"{CONV1}_12"}


def test_peak_memory(tiny: NasBench201) -> None:
    """ReLU works in place unless its input is needed later; then there are three tensors."""
    image = 4 * 8 * 8
    assert Cell201(4, 8, (NONE, NONE, NONE, CONV3, NONE, NONE)).peak_elements == 2 * image
    assert Cell201(4, 8, (CONV3, NONE, NONE, SKIP, SKIP, NONE)).peak_elements == 3 * image
    assert Cell201(4, 8, (CONV3, CONV3, CONV3, CONV3, CONV3, CONV3)).peak_elements == 5 * image
    # at least that of the first reduction: its input, the ReLU of it and the convolution's result
    assert peak_memory(tiny).minimum()[1] == 4 * (2 * image + 8 * 4 * 4)

"""All operators: the contract of layers."""

from collections.abc import Callable

import pytest

from search_spaces.base.errors import InvalidValueError
from search_spaces.ops.convolution import BatchNorm, Convolution, Linear
from search_spaces.ops.matmul import Matmul
from search_spaces.ops.merging import NormLinear
from search_spaces.ops.movement import DepthToSpace, Shuffle, Transpose
from search_spaces.ops.normalisation import GroupNorm
from search_spaces.ops.pooling import GlobalPool, Pool
from search_spaces.ops.resize import Resize
from search_spaces.ops.transposed_convolution import TransposedConvolution
from search_spaces.program import Op, Program, Shape, elements
from search_spaces.space_contract import check_layer
from tests.search_spaces.ops.cases import CASES, Case


@pytest.mark.parametrize("name", CASES)
def test_counts_and_shapes_are_those_of_torch(name: str) -> None:
    check_layer(Case(name))


@pytest.mark.parametrize(
    "op",
    [
        Convolution("a", 4),
        TransposedConvolution("a", 4),
        BatchNorm("a"),
        Pool("max", 2, 2),
        GlobalPool(),
        Resize("nearest", 2),
        Shuffle(2),
    ],
    ids=lambda op: type(op).__name__,
)
@pytest.mark.parametrize("shape", [(4,), (4, 4, 4, 4)])
def test_operators_over_pixels_refuse_other_shapes(op: Op, shape: Shape) -> None:
    with pytest.raises(InvalidValueError, match=r"takes \(channels, height, width\) or \(channels, length\), but got"):
        Program.of(op, [shape])


def test_linear_layers_refuse_what_they_would_have_to_flatten() -> None:
    for op, shape, message in (
        (Linear("a", 4), (3, 2, 2), r"takes features, \(tokens, features\) or \(channels, 1, 1\), but got"),
        (Linear("a", 4), (2, 7, 3, 4), r"but got \(2, 7, 3, 4\)"),
        (NormLinear("a", 4), (7, 3), r"takes features or \(channels, 1, 1\), but got \(7, 3\)"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            Program.of(op, [shape])


@pytest.mark.parametrize(
    ("name", "op", "fault"),
    [
        ("matmul_transposed", Matmul, lambda op, inputs, output: elements(output) * inputs[0][-2]),
        ("transposed_convolution", TransposedConvolution, lambda op, inputs, output: elements(output) * 16 * 6),
        ("linear", Linear, lambda op, inputs, output: elements(output)),
    ],
)
def test_faulty_multiply_accumulates_are_caught(
    name: str, op: type[Op], fault: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(op, "macs", fault)
    with pytest.raises(AssertionError, match="states .* MACs, but its module does"):
        check_layer(Case(name))


@pytest.mark.parametrize(
    ("name", "op", "fault"),
    [
        ("depth_to_space", DepthToSpace, lambda op, *inputs: (inputs[0][0] // 4, *inputs[0][1:])),
        ("transpose", Transpose, lambda op, *inputs: inputs[0]),
        ("group_norm", GroupNorm, lambda op, *inputs: (*inputs[0][:-1], 1)),
    ],
)
def test_faulty_shapes_are_caught(
    name: str, op: type[Op], fault: Callable[..., Shape], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(op, "shape", fault)
    with pytest.raises(AssertionError, match="states the output shape"):
        check_layer(Case(name))

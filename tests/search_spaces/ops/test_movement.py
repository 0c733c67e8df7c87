"""Operators that move values: shapes, and what is refused."""

from collections.abc import Callable

import pytest
import torch

from search_spaces.base.errors import InvalidValueError
from search_spaces.ops.movement import (
    Concat,
    DepthToSpace,
    Gather,
    Pad,
    Pick,
    Reshape,
    Slice,
    SpaceToDepth,
    Transpose,
    flatten,
    split,
)
from search_spaces.program import Program, Shape, Traced
from search_spaces.torch_program import StaticLayer


@pytest.mark.parametrize(
    ("define", "expected"),
    [
        (lambda x: Concat(-1)(x, x), (6, 3, 8)),
        (lambda x: Concat()(x), (6, 3, 4)),
        (Slice(2, 1, 4, 2), (6, 3, 2)),
        (lambda x: split(x, (1, 2), 1)[1], (6, 2, 4)),
        (Gather((2, 2), 1), (6, 2, 4)),
        (Pad(((0, 1), (2, 0), (0, 0))), (7, 5, 4)),
        (Reshape((2, -1)), (2, 36)),
        (Reshape((4, 3, 6)), (4, 3, 6)),
        (flatten, (72,)),
        (lambda x: flatten(x, -2), (6, 12)),
        (Transpose((2, 0, 1)), (4, 6, 3)),
        (lambda x: DepthToSpace(2)(Pad(((0, 2), (0, 0), (0, 0)))(x)), (2, 6, 8)),
        (lambda x: SpaceToDepth(2)(Slice(1, 0, 2)(x)), (24, 1, 2)),
    ],
)
def test_shapes(define: Callable[..., Traced], expected: Shape) -> None:
    assert Program.of(define, [(6, 3, 4)]).output_shape == expected


@pytest.mark.parametrize(
    ("define", "message"),
    [
        (Concat(3), r"axis in -3..2 \(the batch is none\), but got 3"),
        (lambda x: Concat()(x, Slice(1, 0, 1)(x)), r"equal but for axis 0, but got \(6, 3, 4\) and \(6, 1, 4\)"),
        (lambda x: Concat()(), "Concat takes traced tensors, but got none"),
        (Slice(0, 2, 7), r"0 <= start < stop <= 6 .*start=2, stop=7"),
        (Slice(0, 2, 2), "start < stop"),
        (Gather((0, 6)), r"needs indices in 0..5, but got \(0, 6\)"),
        (Gather(()), "needs indices"),
        (Pad(((0, 1),)), r"each of 3 axes, but got \(\(0, 1\),\)"),
        (Pad(((0, 1), (-1, 0), (0, 0))), ">= 0"),
        (Reshape((5, -1)), r"needs extents with 72 elements, .* \(5, -1\)"),
        (Reshape((-1, -1)), "one of them perhaps -1"),
        (Reshape((6, 12, 2)), "72 elements"),
        (Transpose((0, 1)), r"each axis 0..2 once, but got \(0, 1\)"),
        (DepthToSpace(4), r"channels that 4 \* 4 divides, but got \(6, 3, 4\)"),
        (SpaceToDepth(2), r"height and width that 2 divides, but got \(6, 3, 4\)"),
        (lambda x: split(x, (1, 2))[0], r"6 entries needs sizes that add up to it, but got \[1, 2\]"),
    ],
)
def test_what_is_refused(define: Callable[..., Traced], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        Program.of(define, [(6, 3, 4)])


def test_blocks_of_channels_are_pixels() -> None:
    x = torch.arange(12.0).reshape(1, 4, 1, 3)  # channel c has 3 * c + (0, 1, 2)
    image = StaticLayer(Program.of(DepthToSpace(2), [(4, 1, 3)]))(x)
    assert image[0, 0].tolist() == [[0, 3, 1, 4, 2, 5], [6, 9, 7, 10, 8, 11]]
    assert torch.equal(StaticLayer(Program.of(SpaceToDepth(2), [(1, 2, 6)]))(image), x)


def test_entries_are_picked_by_each_image_for_itself() -> None:
    x, places = torch.arange(24.0).reshape(2, 3, 4), torch.tensor([[[2, 0]], [[1, 1]]])
    y = StaticLayer(Program.of(Pick(), [(3, 4), (1, 2)]))(x, places)
    assert y.tolist() == [[[[8, 9, 10, 11], [0, 1, 2, 3]]], [[[16, 17, 18, 19], [16, 17, 18, 19]]]]
    with pytest.raises(IndexError):
        StaticLayer(Program.of(Pick(), [(3, 4), (1,)]))(x, torch.tensor([[0], [3]]))

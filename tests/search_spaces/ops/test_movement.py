"""Operators that move values: shapes, and what is refused."""

from collections.abc import Callable

import pytest

from search_spaces.base.errors import InvalidValueError
from search_spaces.ops.movement import Concat, Slice, split
from search_spaces.program import Program, Shape, Traced


@pytest.mark.parametrize(
    ("define", "expected"),
    [
        (lambda x: Concat(-1)(x, x), (6, 3, 8)),
        (lambda x: Concat()(x), (6, 3, 4)),
        (Slice(2, 1, 4, 2), (6, 3, 2)),
        (lambda x: split(x, (1, 2), 1)[1], (6, 2, 4)),
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
        (lambda x: split(x, (1, 2))[0], r"6 entries needs sizes that add up to it, but got \[1, 2\]"),
    ],
)
def test_what_is_refused(define: Callable[..., Traced], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        Program.of(define, [(6, 3, 4)])

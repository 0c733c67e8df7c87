import numpy as np
import pytest

from search_spaces.base.errors import InvalidValueError
from search_spaces.ops.reduction import Reduce
from search_spaces.program import Program


@pytest.mark.parametrize("axes", [(0,), (-1,), (0, 2), (2, 0), (1, -1), (-3, -2)])
@pytest.mark.parametrize("keep", [True, False])
def test_shapes_are_numpys(axes: tuple[int, ...], keep: bool) -> None:
    shape = Program.of(Reduce("sum", axes, keep), [(2, 3, 4)]).output_shape
    assert shape == np.zeros((2, 3, 4)).sum(axes, keepdims=keep).shape


def test_what_is_refused() -> None:
    for op, message in (
        (Reduce("mean", (3,)), "A mean needs an axis in -3..2"),
        (Reduce("sum", (0, -3)), r"given once each, but got \(0, -3\)"),
        (Reduce("sum", ()), "given once each"),
        (Reduce("max", (0, 1, 2)), "over all axes of .* needs keep=True"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            Program.of(op, [(2, 3, 4)])
    assert Program.of(Reduce("max", (0, 1, 2), True), [(2, 3, 4)]).output_shape == (1, 1, 1)

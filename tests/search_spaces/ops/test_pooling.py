import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from search_spaces.base.errors import InvalidValueError
from search_spaces.ops.pooling import Pool
from search_spaces.program import Program
from search_spaces.torch_program import StaticLayer


def pooled(op: Pool, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each window by itself, of a signal (C, L): what of it lies in the signal."""
    (kernel, stride), ((before, _),) = (op.kernel, op.stride), op.pads(x.shape[1:])
    assert isinstance(kernel, int) and isinstance(stride, int)
    function = np.max if op.kind == "max" else np.mean
    starts = [i * stride - before for i in range(op.shape(x.shape)[1])]
    return np.stack([function(x[:, max(start, 0) : start + kernel], axis=1) for start in starts], 1)


@pytest.mark.parametrize(
    ("kind", "kernel", "stride"), list(itertools.product(("max", "average"), (1, 2, 3, 4, 5), (1, 2, 3)))
)
def test_of_any_kernel_and_stride(kind: str, kernel: int, stride: int) -> None:
    rng = np.random.default_rng(0)
    for size, padding in itertools.product((5, 6, 7), (None, 0, (kernel - 1, 0), (0, kernel // 2))):
        op = Pool(kind, kernel, stride, padding)  # type: ignore[arg-type]
        x = rng.standard_normal((2, size), np.float32)
        program = Program.of(op, [x.shape])
        assert padding is not None or program.output_shape == (2, math.ceil(size / stride))
        got = StaticLayer(program)(torch.from_numpy(x)[None])[0].numpy()
        assert got.shape == program.output_shape
        np.testing.assert_allclose(got, pooled(op, x), rtol=1e-5, atol=1e-6)


def test_axes_are_pooled_by_themselves() -> None:
    x = np.random.default_rng(0).standard_normal((1, 5, 7), np.float32)
    op = Pool("max", (2, 3), (1, 2), padding=(1, 0, 0, 2))  # one row above, two columns behind
    rows = pooled(Pool("max", 2, 1, (1, 0)), x[0].T).T  # (6, 5)... of each column
    expected = pooled(Pool("max", 3, 2, (0, 2)), rows)
    got = StaticLayer(Program.of(op, [x.shape]))(torch.from_numpy(x)[None])[0, 0]
    np.testing.assert_array_equal(got.numpy(), expected)


def test_what_is_refused() -> None:
    for op, message in (
        (Pool("max", 3, 1, padding=3), r"\(3, 3\) must not lie in the padding alone"),
        (Pool("max", 3, 1, padding=(1, 1, 1)), "4 axes need one number or 4"),
        (Pool("max", 9, 1, padding=0), "not positive"),
        (Pool("max", (3, 3, 3), 1, padding=0), "2 axes need one number or 2"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            Program.of(op, [(6, 5, 5)])

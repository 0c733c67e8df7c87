"""Convolutions of any padding, dilation and kernel against torch and a second definition."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from search_spaces.ops.convolution import Convolution
from search_spaces.program import Program
from search_spaces.torch_program import StaticLayer


def convolved(op: Convolution, x: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """A convolution of a signal (C, L), one product at a time."""
    assert isinstance(op.kernel, int) and isinstance(op.stride, int) and isinstance(op.dilation, int)
    ((before, _),), length = op.pads(1), x.shape[1]
    out = np.zeros(op.shape(x.shape))
    per_group, outputs = len(x) // op.groups, op.channels // op.groups
    for o, i in np.ndindex(out.shape):
        for c, k in np.ndindex(per_group, op.kernel):
            place = i * op.stride + k * op.dilation - before
            if 0 <= place < length:
                out[o, i] += weight[o, c, k] * x[o // outputs * per_group + c, place]
    return out


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "groups"), list(itertools.product((1, 2, 3), (1, 2, 3), (1, 2), (1, 2)))
)
def test_of_signals(kernel: int, stride: int, dilation: int, groups: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 7))
    for padding in (None, 0, 2, (0, 3)):
        op = Convolution("conv", 6, kernel, stride, groups, norm=False, bias=False, padding=padding, dilation=dilation)
        program = Program.of(op, [x.shape])
        module = StaticLayer(program)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            got = module(torch.from_numpy(x[None].astype(np.float32)))[0].numpy()
        weight = module.get_parameter("conv.weight").detach().numpy().astype(np.float64)
        np.testing.assert_allclose(got, convolved(op, x, weight), rtol=1e-4, atol=1e-5)
        assert op.macs((x.shape,), program.output_shape) == counter.get_total_flops() // 2


@pytest.mark.parametrize("padding", [None, 0, 2, (1, 0), (0, 1, 2, 3)])
def test_single_pixels_with_a_stride_and_gradients(padding: Any) -> None:
    """Few channels on a CPU, of which the pixels that are read are taken first."""
    op = Convolution("conv", 4, 1, (3, 2), norm=False, padding=padding)
    program = Program.of(op, [(5, 6, 7)])
    module, x = StaticLayer(program), torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    got = module(x)
    assert got.requires_grad and got.shape[1:] == program.output_shape
    with torch.no_grad():
        torch.testing.assert_close(got, module(x))


@pytest.mark.parametrize("padding", [None, 0, 1, (2, 0), (0, 1, 2, 3)])
@pytest.mark.parametrize("kernel", [3, (1, 7), (4, 2)])
@pytest.mark.parametrize("dilation", [1, (2, 1)])
def test_of_images(padding: int | None, kernel: int, dilation: int) -> None:
    op = Convolution("conv", 4, kernel, (1, 2), 2, padding=padding, dilation=dilation)
    program = Program.of(op, [(6, 9, 11)])
    with FlopCounterMode(display=False) as counter:
        y = StaticLayer(program)(torch.zeros(2, 6, 9, 11))
    assert y.shape[1:] == program.output_shape
    assert op.macs(((6, 9, 11),), program.output_shape) == counter.get_total_flops() // 4

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from search_spaces.base.errors import InvalidValueError
from search_spaces.ops.transposed_convolution import TransposedConvolution
from search_spaces.program import Program, elements
from search_spaces.torch_program import StaticLayer


@pytest.mark.parametrize(("kernel", "stride", "dilation"), list(itertools.product((1, 2, 3, 4, 5), (1, 2, 3), (1, 2))))
def test_without_padding_the_output_is_the_input_times_the_stride(kernel: int, stride: int, dilation: int) -> None:
    op = TransposedConvolution("up", 2, kernel, stride, dilation=dilation, norm=False)
    if (stride, dilation, kernel % 2) == (1, 1, 0):
        with pytest.raises(InvalidValueError, match="an even kernel at stride 1 needs a `padding`"):
            op.shape((3, 4, 4))
        return
    for size in (1, 4):
        program = Program.of(op, [(3, size, size + 1)])
        assert program.output_shape == (2, size * stride, (size + 1) * stride)
        assert StaticLayer(program)(torch.zeros(1, 3, size, size + 1)).shape[1:] == program.output_shape


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "more", "groups"),
    [(3, 2, 1, 1, 1), ((3, 4), (2, 1), (1, 0), (1, 0), 2), (5, 3, 2, 2, 6), ((1, 7), 1, (0, 3), 0, 3)],
)
def test_shape_and_macs_are_those_of_torch(kernel: int, stride: int, padding: int, more: int, groups: int) -> None:
    op = TransposedConvolution("up", 12, kernel, stride, groups, norm=False, padding=padding, output_padding=more)
    weight = torch.zeros(op.weight_shape((6, 5, 4)))
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        y = functional.conv_transpose2d(torch.zeros(1, 6, 5, 4), weight, None, stride, padding, more, groups)
    assert op.shape((6, 5, 4)) == y.shape[1:]
    assert op.macs(((6, 5, 4),), op.shape((6, 5, 4))) == counter.get_total_flops() // 2
    assert sum(elements(p.shape) for p in op.parameters((6, 5, 4))) == weight.numel() + 12


def test_it_is_the_gradient_of_a_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, y = torch.randn(3, 2, 3, 3, generator=generator), torch.randn(1, 3, 4, 4, generator=generator)
    x = torch.randn(1, 2, 8, 8, generator=generator, requires_grad=True)
    (expected,) = torch.autograd.grad(functional.conv2d(x, weight, stride=2, padding=1), x, y)
    module = StaticLayer(Program.of(TransposedConvolution("up", 2, 3, norm=False, bias=False), [(3, 4, 4)]))
    with torch.no_grad():
        module.get_parameter("up.weight").copy_(weight)
        np.testing.assert_allclose(module(y).numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (TransposedConvolution("up", 4, groups=4), "'up': 6 -> 4 in 4 groups"),
        (
            TransposedConvolution("up", 6, padding=0, output_padding=2),
            "'up' needs an `output_padding` below its stride",
        ),
        (TransposedConvolution("up", 6, output_padding=1), "an `output_padding` of 1, which needs a `padding`"),
        (TransposedConvolution("up", 6, 1, 1, padding=3), "not positive"),
        (TransposedConvolution("up", 6, (2, 2, 2)), "2 axes need one number or 2"),
    ],
)
def test_what_is_refused(op: TransposedConvolution, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        Program.of(op, [(6, 3, 3)])

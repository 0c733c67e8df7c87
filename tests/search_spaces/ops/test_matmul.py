import numpy as np
import pytest
import torch

from search_spaces.base.errors import InvalidValueError
from search_spaces.ops.matmul import Matmul, Softmax
from search_spaces.program import Program
from search_spaces.torch_program import StaticLayer
from tests.search_spaces.ops.cases import Case


@pytest.mark.parametrize(
    ("op", "a", "b", "expected"),
    [
        (Matmul(), (5, 8), (8, 3), (5, 3)),
        (Matmul(True), (5, 8), (3, 8), (5, 3)),
        (Matmul(), (2, 4, 5, 8), (2, 4, 8, 1), (2, 4, 5, 1)),
    ],
)
def test_shapes_and_macs(op: Matmul, a: tuple[int, ...], b: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert op.shape(a, b) == expected
    assert op.macs((a, b), expected) == np.prod(expected) * 8


def test_attention_is_torchs() -> None:
    layer = Case("attention")
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    module, reference = StaticLayer(layer.program).eval(), torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()
    state = module.state_dict()
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([state[f"{name}.weight"] for name in ("query", "key", "value")]))
        reference.in_proj_bias.copy_(torch.cat([state[f"{name}.bias"] for name in ("query", "key", "value")]))
        reference.out_proj.load_state_dict({name: state[f"project.{name}"] for name in ("weight", "bias")})
        expected = reference(x, x, x, need_weights=False)[0] + x
        np.testing.assert_allclose(module(x).numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)
    assert layer.macs == 4 * 5 * 8 * 8 + 2 * 2 * 5 * 5 * 4


def test_what_is_refused() -> None:
    for op, b in ((Matmul(), (5, 8)), (Matmul(True), (8, 5)), (Matmul(), (1, 8, 5))):
        with pytest.raises(InvalidValueError, match=r"needs \(..., M, K\) and .* but got \(5, 8\) and"):
            Program.of(lambda x, y, op=op: op(x, y), [(5, 8), b])  # type: ignore[misc]
    with pytest.raises(InvalidValueError, match="A softmax needs an axis in -2..1"):
        Program.of(Softmax(2), [(5, 8)])

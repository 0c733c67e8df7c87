import numpy as np
import pytest
import torch

from search_spaces.base.errors import InvalidValueError
from search_spaces.ops.normalisation import GroupNorm, LayerNorm, RmsNorm
from search_spaces.program import Op, Program, Shape
from search_spaces.torch_program import StaticLayer


@pytest.mark.parametrize(
    ("op", "shape", "axes"),
    [
        (LayerNorm("norm"), (5, 8), (-1,)),
        (LayerNorm("norm", 0, 1e-6), (8, 3, 4), (0,)),
        (RmsNorm("norm"), (5, 8), (-1,)),
        (RmsNorm("norm", 0), (8, 3, 4), (0,)),
        (GroupNorm("norm", 2), (8, 3, 4), (0, 1, 2)),
        (GroupNorm("norm", 8), (8, 5), (0, 1)),
    ],
)
def test_equations(op: LayerNorm | RmsNorm | GroupNorm, shape: Shape, axes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape) * 3 + 1
    groups = x.reshape(op.groups, -1, *shape[1:]) if isinstance(op, GroupNorm) else x[None]
    expected = []
    for group in groups:
        mean = 0 if isinstance(op, RmsNorm) else group.mean(axes, keepdims=True)
        expected.append((group - mean) / np.sqrt(((group - mean) ** 2).mean(axes, keepdims=True) + op.eps))
    module = StaticLayer(Program.of(op, [shape]))
    place = [8 if extent == 8 else 1 for extent in shape]
    y = np.concatenate(expected).reshape(shape)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            values = rng.standard_normal(8)
            parameter.copy_(torch.from_numpy(values))
            y = y * values.reshape(place) if name == "norm.weight" else y + values.reshape(place)
        got = module(torch.from_numpy(x[None].astype(np.float32)))[0].numpy()
    np.testing.assert_allclose(got, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", [LayerNorm("norm"), RmsNorm("norm"), GroupNorm("norm", 2)])
def test_training_and_inference_are_equal(op: Op) -> None:
    module = StaticLayer(Program.of(op, [(6, 8)]))
    x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(module.train()(x), module.eval()(x))
    assert module.program.inference == module.program == module.program.deployed


def test_what_is_refused() -> None:
    for op, message in (
        (LayerNorm("norm", 2), "LayerNorm 'norm' needs an axis in -2..1"),
        (RmsNorm("norm", -3), "RmsNorm 'norm' needs an axis in -2..1"),
        (GroupNorm("norm", 4), "'norm' needs channels that its groups divide, but got 6 in 4 groups"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            Program.of(op, [(6, 8)])
    with pytest.raises(InvalidValueError, match=r"takes \(channels, height, width\), .* but got \(6, 2, 2, 2\)"):
        Program.of(GroupNorm("norm", 2), [(6, 2, 2, 2)])

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from search_spaces.base.errors import InvalidValueError
from search_spaces.ops.movement import Gather
from search_spaces.ops.resize import Resize
from search_spaces.program import Program
from search_spaces.torch_program import StaticLayer


def resized(kind: str, x: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """The half-pixel rule along the last axis."""
    before = x.shape[-1]
    found = []
    for i in range(size):
        place = min(max((i + 0.5) * before / size - 0.5, 0), before - 1)
        low, share = math.floor(place), place - math.floor(place)
        if kind == "nearest":
            found.append(x[..., math.floor(place + 0.5)].astype(np.float64))
        else:
            found.append(x[..., low] * (1 - share) + x[..., min(low + 1, before - 1)] * share)
    return np.stack(found, -1)


@pytest.mark.parametrize("kind", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", [(5, 7), (10, 14), (3, 1), (8, 20), (1, 6)])
def test_half_pixel_rule(kind: str, size: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal((2, 5, 7), np.float32)
    program = Program.of(Resize(kind, size=size), [x.shape])  # type: ignore[arg-type]
    columns = resized(kind, x, size[1])
    expected = resized(kind, columns.transpose(0, 2, 1).astype(np.float32), size[0]).transpose(0, 2, 1)
    got = StaticLayer(program)(torch.from_numpy(x)[None])[0].numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (Resize("nearest", 2), (3, 20, 200)),
        (Resize("nearest", (0.5, 0.29)), (3, 5, 29)),
        (Resize("bilinear", 1.25), (3, 12, 125)),
        (Resize("bilinear", size=(4, 9)), (3, 4, 9)),
    ],
)
def test_shapes(op: Resize, expected: tuple[int, ...]) -> None:
    assert Program.of(op, [(3, 10, 100)]).output_shape == expected


@pytest.mark.parametrize(("before", "after"), [(40, 6), (4, 41), (12, 37), (30, 9), (14, 23)])
def test_halves_are_rounded_upwards_whatever_the_sizes(before: int, after: int) -> None:
    """Sizes of which torch or ONNX Runtime find others, as they compute places in float32."""
    program = Program.of(Resize("nearest", size=(after,)), [(1, before)])
    places = [math.floor(Fraction(2 * i + 1, 2) * before / after) for i in range(after)]
    x = np.arange(before, dtype=np.float32)[None]
    assert StaticLayer(program)(torch.from_numpy(x)[None])[0, 0].tolist() == places
    assert [type(step.op) for step in program.steps] == [Gather] and program.output_shape == (1, after)


def test_whole_factors_repeat_pixels() -> None:
    x = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    got = StaticLayer(Program.of(Resize("nearest", 3), [(2, 3, 4)]))(x)
    assert torch.equal(got, x.repeat_interleave(3, 2).repeat_interleave(3, 3))


def test_what_is_refused() -> None:
    for op, message in (
        (Resize("nearest"), "either a scale or a size, but got scale=None and size=None"),
        (Resize("nearest", 2, (3, 3)), "either a scale or a size"),
        (Resize("nearest", size=(3,)), r"one for each of 2 axes, but got \(3,\)"),
        (Resize("nearest", 0.1), "not positive"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            Program.of(op, [(6, 5, 5)])

import pytest
import torch

from nas.supernet.augmentation import Affine, drawn
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Size


def movement(affine: Affine, size: Size, count: int = 8) -> torch.Tensor:
    found = drawn([affine], count, size, torch.Generator().manual_seed(0)).movement
    assert found is not None
    return found


def test_images_that_are_not_square_are_turned_as_rigid_ones() -> None:
    (height, width), count = (5, 11), 8
    turned = movement(Affine(shift=0, rotate=90, scale=0), (height, width), count)
    halves = torch.tensor([width / 2, height / 2])  # a coordinate of 1, in pixels
    turns = halves[:, None] * turned[:, :, :2] / halves  # of pixels
    torch.testing.assert_close(turns @ turns.mT, torch.eye(2).expand(count, 2, 2), atol=1e-5, rtol=0)
    assert torch.equal(*(movement(Affine(shift=0, rotate=90, scale=0), size) for size in (5, 11)))


def test_shifts_and_changes_of_size_stay_within_their_settings() -> None:
    found = movement(Affine(shift=0.2, rotate=0, scale=0.25), 12, 2000)
    zoom = 1 / found[:, 0, 0]
    assert torch.equal(found[:, 0, 0], found[:, 1, 1]) and bool((found[:, [0, 1], [1, 0]] == 0).all())
    assert 0.75 <= float(zoom.min()) < 0.76 and 1.24 < float(zoom.max()) <= 1.25 + 1e-6
    assert 0.39 < float(found[:, :, 2].abs().max()) <= 0.4  # of coordinates from -1 to 1


def test_what_comes_in_is_as_the_last_one_says() -> None:
    assert drawn([Affine()], 4, 8, torch.Generator()).outside == "black"
    assert drawn([Affine(outside="edge")], 4, 8, torch.Generator()).outside == "edge"
    with pytest.raises(InvalidValueError, match="`outside` must be black or edge"):
        Affine(outside="white")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"shift": -0.1}, {"rotate": -1}, {"scale": 1.0}, {"rotate": float("nan")}])
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match=next(iter(wrong))):
        Affine(**wrong)

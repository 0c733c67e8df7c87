import pytest
import torch

from nas.supernet.augmentation import Crop, drawn
from nas.supernet.augmentation.base import move
from search_spaces.base.errors import InvalidValueError


def test_parts_have_the_area_and_the_aspect_and_lie_inside() -> None:
    """Of images that are twice as wide as tall."""
    found = drawn([Crop(area=(0.2, 0.5), aspect=(0.5, 1.0))], 4000, (10, 20), torch.Generator().manual_seed(0)).movement
    assert found is not None
    across, down, shift = found[:, 0, 0], found[:, 1, 1], found[:, :, 2]
    area, aspect = across * down, across * 20 / (down * 10)
    uncut = (across < 1) & (down < 1)
    assert 0.2 - 1e-4 < float(area[uncut].min()) < 0.21 and 0.48 < float(area[uncut].max()) < 0.5 + 1e-4
    assert 0.5 - 1e-4 < float(aspect[uncut].min()) < 0.51 and float(aspect[uncut].max()) < 1 + 1e-4
    room = 1 - torch.stack([across, down], 1)
    assert bool((shift.abs() <= room + 1e-6).all())
    spread = (shift / room)[room > 0.1]
    assert float(spread.min()) < -0.99 and float(spread.max()) > 0.99


def test_a_part_fills_the_image() -> None:
    """A plane: the slope is that of the part, and nothing of outside is seen."""
    image = torch.arange(32.0).expand(1, 1, 32, 32)
    changes = drawn([Crop(area=(0.25, 0.25), aspect=(1.0, 1.0))], 1, 32, torch.Generator().manual_seed(0))
    found = move(image, changes.movement, torch.full((1, 1, 1, 1), -100.0))
    torch.testing.assert_close(found.diff(dim=3)[..., 2:-2], torch.full((1, 1, 32, 27), 0.5), atol=1e-4, rtol=0)
    assert float(found.min()) >= 0


@pytest.mark.parametrize("wrong", [{"area": (0.0, 1.0)}, {"area": (0.5, 0.4)}, {"aspect": (2.0, 1.0)}])
def test_settings_are_checked(wrong: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(InvalidValueError, match=next(iter(wrong))):
        Crop(**wrong)

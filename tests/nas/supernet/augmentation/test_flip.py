import pytest
import torch

from nas.supernet.augmentation import Flip, drawn
from nas.supernet.augmentation.base import move
from search_spaces.base.errors import InvalidValueError


def test_some_images_are_mirrored_and_the_others_stay() -> None:
    images = torch.rand(400, 2, 5, 8, generator=torch.Generator().manual_seed(1))
    changes = drawn([Flip(chance=0.25)], len(images), (5, 8), torch.Generator().manual_seed(0))
    found = move(images, changes.movement, torch.zeros(1, 2, 1, 1))
    flipped = torch.tensor(
        [torch.allclose(new, old.flip(2), atol=1e-5) for new, old in zip(found, images, strict=True)]
    )
    torch.testing.assert_close(found[~flipped], images[~flipped])
    assert float(flipped.float().mean()) == pytest.approx(0.25, abs=0.06)


def test_a_chance_is_a_share() -> None:
    for wrong in (0.0, 1.1, float("nan")):
        with pytest.raises(InvalidValueError, match="chance"):
            Flip(chance=wrong)

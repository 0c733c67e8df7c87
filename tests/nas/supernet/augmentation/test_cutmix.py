import pytest
import torch

from nas.supernet.augmentation import CutMix, drawn


def test_boxes_have_the_shape_of_the_image_and_their_area_is_the_share() -> None:
    mixing = drawn([CutMix()], 5000, (8, 16), torch.Generator().manual_seed(0)).mixing
    assert mixing is not None and not mixing.blends and bool((mixing.strength == 1).all())
    left, top, right, bottom = mixing.box.unbind(1)
    inside = (mixing.box > 0).all(1) & (mixing.box < 1).all(1)
    torch.testing.assert_close((right - left)[inside], (bottom - top)[inside])  # as shares of width and height
    assert bool((mixing.box >= 0).all()) and bool((mixing.box <= 1).all())
    torch.testing.assert_close(mixing.share, (right - left) * (bottom - top))
    # Uniform areas of which the centre is anywhere: the mean of what is left inside is the integral of
    # (r - r**2 / 4) ** 2 over r ** 2 in [0, 1], r the side.
    assert float(mixing.share.mean()) == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.015)

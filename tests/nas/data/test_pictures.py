"""Image files of every kind, and the one size that they are brought to."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data import resize
from nas.data.pictures import Picture, cropped
from search_spaces.base.errors import InvalidValueError


def content(image: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, **options)
    return file.getvalue()


def pixels(height: int = 6, width: int = 9, channels: int = 3) -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return image[:, :, 0] if channels == 1 else image


@pytest.mark.parametrize("form", ["PNG", "BMP", "PPM", "TIFF"])
def test_pixels_come_as_they_were(form: str) -> None:
    image = pixels()
    np.testing.assert_array_equal(Picture()(content(image, form)), image.transpose(2, 0, 1))


def test_colours_and_grey() -> None:
    image = pixels()
    grey = Picture(channels=1)(content(image))
    expected = image @ [0.299, 0.587, 0.114]
    assert grey.shape == (1, 6, 9) and np.abs(grey[0] - expected).max() <= 1
    np.testing.assert_array_equal(Picture()(content(pixels(channels=1))), np.stack([pixels(channels=1)] * 3))
    with_alpha = np.concatenate([image, np.zeros((6, 9, 1), np.uint8)], 2)
    np.testing.assert_array_equal(Picture()(content(with_alpha)), image.transpose(2, 0, 1))
    with pytest.raises(InvalidValueError, match="`channels` must be 1 .grey. or 3"):
        Picture(channels=2)
    with pytest.raises(InvalidValueError, match="`fit` must be crop or stretch, but got 'pad'"):
        Picture(fit="pad")  # type: ignore[arg-type]


def test_a_photograph_is_turned_the_way_up_that_it_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90 degrees clockwise
    image = pixels()
    turned = Picture()(content(image, exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(image, -1).transpose(2, 0, 1))


def test_crop_takes_the_middle_and_stretch_takes_all() -> None:
    image = np.arange(6 * 10, dtype=np.uint8).reshape(1, 6, 10)
    np.testing.assert_array_equal(cropped(image, 3, 3), image[:, :, 2:8])
    np.testing.assert_array_equal(cropped(image, 1, 5), image[:, 2:4, :])
    np.testing.assert_array_equal(cropped(image, 12, 20), image)
    assert cropped(image, 1, 1000).shape == (1, 1, 10)


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_one_size_by_the_resizing_that_networks_are_given(fit: Any) -> None:
    image = pixels(20, 30)
    found = Picture(size=(8, 12) if fit == "stretch" else 8, fit=fit)(content(image))
    part = image if fit == "stretch" else image[:, 5:25]
    raw = torch.from_numpy(part.transpose(2, 0, 1)[None].astype(np.float32))
    expected = resize(raw, (8, 12) if fit == "stretch" else 8).round()[0].numpy()
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_the_steps_say_what_is_done() -> None:
    plain, sized = Picture(), Picture(1, (8, 12), "crop")
    assert plain.steps == ["decode to red, green and blue, 0 to 255, the way up that EXIF says, without transparency"]
    assert len(sized.steps) == 3 and "height is to its width as 8 to 12" in sized.steps[1]
    assert "resize to 8 x 12: bilinear, antialiased where it shrinks; round" in sized.steps[2]
    assert sized.to_json() == {"channels": "grey", "size": [8, 12], "fit": "crop"}
    assert len(Picture(3, 8, "stretch").steps) == 2


@pytest.mark.parametrize(
    ("damaged", "why"),
    [
        (b"some text", "no image of a format that is known"),
        (b"", "no image of a format that is known"),
        (content(pixels(64, 64), "JPEG")[:1500], "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image of a format that is known"),
        (content(np.zeros((4, 4), np.uint16)), "more than 8 bits per channel"),
    ],
)
def test_what_is_no_image_is_refused(damaged: bytes, why: str) -> None:
    with pytest.raises(InvalidValueError, match=why):
        Picture()(damaged)


def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 20_000
    with pytest.raises(InvalidValueError, match="it has 9000 x 9000 pixels, too many"):
        Picture()((tmp_path / "bomb.png").read_bytes())

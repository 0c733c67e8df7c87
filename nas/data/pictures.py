"""Decoding of image files by Pillow, and how images of different sizes are brought to one."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from nas.data.images import resize
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Size, image_shape

FORMATS = ("JPEG", "PNG", "BMP", "PPM", "GIF", "TIFF", "WEBP")
"""Formats that Pillow may read; others, such as EPS, start programs."""
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".gif", ".tif", ".tiff", ".webp")
"""Endings of the names of image files."""
LARGEST_PIXELS = 2**26
"""Pixels of an image; a small file can claim more."""
COLOURS = {1: "L", 3: "RGB"}
"""Pillow's modes by numbers of channels."""


@dataclass(frozen=True)
class Picture:
    """Decoding of an image file.

    Args:
        channels: 3 for red, green and blue, 1 for grey.
        size: height and width that each image is brought to; None: it stays as it is.
        fit: ``crop`` takes the largest part in the middle that has the shape of ``size``, ``stretch`` the whole image.
    """

    channels: int = 3
    size: Size | None = None
    fit: Literal["crop", "stretch"] = "crop"

    def __post_init__(self) -> None:
        if self.channels not in COLOURS:
            raise InvalidValueError(f"`channels` must be 1 (grey) or 3 (colours), but got {self.channels}.")
        if self.fit not in ("crop", "stretch"):
            raise InvalidValueError(f"`fit` must be crop or stretch, but got {self.fit!r}.")

    def __call__(self, content: bytes) -> NDArray[np.uint8]:
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > LARGEST_PIXELS:
                    raise InvalidValueError(f"it has {image.width} x {image.height} pixels, too many to be meant")
                if image.mode.startswith(("I", "F")):
                    raise InvalidValueError("it has more than 8 bits per channel: an npz file can hold such images")
                ImageOps.exif_transpose(image, in_place=True)
                pixels = np.asarray(image.convert(COLOURS[self.channels]))  # (H, W) or (H, W, 3)
        except InvalidValueError:
            raise
        except Exception as error:  # Pillow's decoders each raise their own kinds on a damaged file
            known = not isinstance(error, UnidentifiedImageError)
            raise InvalidValueError(str(error) if known else "it is no image of a format that is known") from error
        raw = np.atleast_3d(pixels).transpose(2, 0, 1)  # (C, H, W)
        return np.ascontiguousarray(raw if self.size is None else self._sized(raw, self.size))

    def _sized(self, raw: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
        """An image brought to the native size, (C, H, W), by the steps below."""
        _, height, width = image_shape(1, size)
        if self.fit == "crop":
            raw = cropped(raw, height, width)
        if raw.shape[1:] == (height, width):
            return raw
        images = torch.from_numpy(np.ascontiguousarray(raw, np.float32))[None]  # (1, C, H, W)
        whole: NDArray[np.uint8] = resize(images, (height, width))[0].round().byte().numpy()
        return whole

    @property
    def steps(self) -> list[str]:
        colours = "red, green and blue" if self.channels == 3 else "grey (0.299 red + 0.587 green + 0.114 blue)"
        steps = [f"decode to {colours}, 0 to 255, the way up that EXIF says, without transparency"]
        if self.size is not None:
            _, height, width = image_shape(1, self.size)
            if self.fit == "crop":
                steps.append(f"take the largest part in the middle whose height is to its width as {height} to {width}")
            steps.append(
                f"resize to {height} x {width}: bilinear, antialiased where it shrinks; round to whole numbers"
            )
        return steps

    def to_json(self) -> dict[str, Any]:
        size = None if self.size is None else list(image_shape(1, self.size)[1:])
        return {"channels": "RGB" if self.channels == 3 else "grey", "size": size, "fit": self.fit}


def cropped(raw: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """The largest part in the middle of an image (C, H, W) whose sides are in a ratio, rounded to whole pixels."""
    _, rows, columns = raw.shape
    share = min(rows / height, columns / width)
    kept = [max(1, min(whole, round(side * share))) for side, whole in ((height, rows), (width, columns))]
    top, left = (rows - kept[0]) // 2, (columns - kept[1]) // 2
    return raw[:, top : top + kept[0], left : left + kept[1]]

"""Small files that tests of data make."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Photos = Callable[..., Path]


def pixels(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    """A colour image (H, W, 3) of random bytes."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save_picture(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """Function that makes a folder of cats and dogs, ten each, as PNG files; of given parts where some are given."""

    def make(*parts: str, each: int = 10, name: str = "photos") -> Path:
        root, seed = tmp_path / name, 0
        for part in parts or ("",):
            for kind in ("cat", "dog"):
                for number in range(each):
                    save_picture(root / part / kind / f"{number}.png", pixels(seed))
                    seed += 1
        return root

    return make

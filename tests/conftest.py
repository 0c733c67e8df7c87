"""Spaces that many tests use. They keep no state besides caches, so one of each serves the whole run."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from search_spaces import MobileNetV3

SPACES = Path(__file__).parents[1] / "nas" / "conf" / "space"


def space_of_yaml(name: str) -> MobileNetV3:
    settings = yaml.safe_load((SPACES / f"{name}.yaml").read_text())
    del settings["_target_"]
    return MobileNetV3(**settings)


@pytest.fixture(scope="session")
def digits_space() -> MobileNetV3:
    """Tens of millions of networks for 12 to 24 pixel images."""
    return space_of_yaml("mobilenet_v3_digits")


@pytest.fixture(scope="session")
def ofa_space() -> MobileNetV3:
    """The ImageNet space of the paper."""
    return space_of_yaml("ofa_mobilenet_v3")


@pytest.fixture(scope="session")
def tiny_space() -> MobileNetV3:
    """28 networks, few enough to look at each."""
    return MobileNetV3(
        name="tiny",
        resolutions=[8, 12],
        in_channels=1,
        classes=3,
        stem=8,
        stem_stride=1,
        stages=[{"channels": 8, "stride": 2, "squeeze": True, "activation": "relu"}],
        depths=[1, 2, 3],
        kernels=[3],
        expands=[1, 2],
        last_channels=8,
        features=8,
    )


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)

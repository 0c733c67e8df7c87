"""A small space whose networks can all be listed, and tables over spaces that no layer order explains."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from predictors import PositionTable
from search_spaces import Genes, MobileNetV3, SearchSpace


def small_space(name: str = "small", **changes: object) -> MobileNetV3:
    settings: dict[str, object] = {
        "resolutions": [8, 12],
        "in_channels": 1,
        "classes": 3,
        "stem": 8,
        "stem_stride": 1,
        "stages": [
            {"channels": 8, "stride": 2, "squeeze": True, "activation": "relu"},
            {"channels": 16, "stride": 1, "squeeze": False, "activation": "h_swish"},
        ],
        "depths": [1, 2],
        "kernels": [3, 5],
        "expands": [1, 2],
        "last_channels": 8,
        "features": 8,
    }
    return MobileNetV3(name=name, **(settings | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def space() -> MobileNetV3:
    """2 * (4 + 16)**2 = 800 networks."""
    return small_space()


@pytest.fixture(scope="session")
def everything(space: MobileNetV3) -> Genes:
    """All networks of `space`."""
    grid = itertools.product(*(range(int(c)) for c in space.cardinalities))
    rows = np.unique(space.canonical(np.array(list(grid), np.int16)), axis=0)
    assert len(rows) == space.size
    return rows


@pytest.fixture(scope="session")
def random_table() -> Callable[..., PositionTable]:
    """A table of random entries, even for equal layers; 0 where there is no layer, some inf if wanted."""

    def draw(
        space: SearchSpace, seed: int, combine: str = "sum", infinite: float = 0.0, constant: float = 0.0
    ) -> PositionTable:
        rng = np.random.default_rng(seed)
        layers = [layer for p in range(len(space.positions)) for layer in space.layers_at(p)]
        values = rng.integers(1, 9, len(layers)) / rng.choice([1.0, 7.0])  # few values, so that there are ties
        values[rng.random(len(layers)) < infinite] = np.inf
        values[[layer is None for layer in layers]] = 0.0
        return PositionTable(space, "latency", "ms", values, combine, constant)  # type: ignore[arg-type]

    return draw

"""A tiny space and tiny data that every test here trains or slices in a moment."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from nas.data import Data
from nas.supernet import Supernet
from search_spaces import Architecture, MobileNetV3, ResNet50, SearchSpace


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small lose more to handing work over than a second thread gains."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_space(name: str = "tiny", **changes: object) -> MobileNetV3:
    settings: dict[str, object] = {
        "resolutions": [8, 12],
        "in_channels": 1,
        "classes": 10,
        "stem": 8,
        "stem_stride": 1,
        "stages": [
            {"channels": 8, "stride": 2, "squeeze": False, "activation": "relu"},
            {"channels": 16, "stride": 1, "squeeze": True, "activation": "h_swish"},
        ],
        "depths": [1, 2],
        "kernels": [3, 5, 7],
        "expands": [1, 2, 4],
        "last_channels": 16,
        "features": 16,
    }
    return MobileNetV3(name=name, **(settings | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def space() -> MobileNetV3:
    return make_space()


@pytest.fixture(scope="session")
def other_space() -> MobileNetV3:
    return make_space("other", features=24)


@pytest.fixture(scope="session")
def resnet_space() -> ResNet50:
    return ResNet50(
        name="tiny_resnet",
        resolutions=[16, 20],
        in_channels=1,
        classes=10,
        stem=32,
        stages=[
            {"channels": 64, "stride": 1, "depths": [1, 2]},
            {"channels": 64, "stride": 2, "depths": [1, 2, 3]},
        ],
        widths=[50, 100],
        expands=[25, 50],
    )


@pytest.fixture(params=["space", "resnet_space"])
def elastic_space(request: pytest.FixtureRequest) -> SearchSpace:
    """Tiny spaces that together have every elastic layer."""
    found: SearchSpace = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def data(few_digits: Data) -> Data:
    """The first digits."""
    return few_digits


@pytest.fixture(scope="session")
def randomise() -> Callable[[Supernet], Supernet]:
    """Away from the initial state, at which kernel transforms and BatchNorm do nothing."""

    def change(supernet: Supernet) -> Supernet:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, tensor in [*supernet.named_parameters(), *supernet.named_buffers()]:
                if name.endswith("running_var"):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
                elif tensor.is_floating_point():
                    tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
        return supernet

    return change


@pytest.fixture(scope="session")
def networks() -> Callable[..., list[Architecture]]:
    """The smallest, the biggest and n random networks of a space."""

    def draw(space: SearchSpace, n: int) -> list[Architecture]:
        drawn = space.sample(n, np.random.default_rng(0))
        return [space.smallest, space.biggest, *(Architecture(space, row) for row in drawn)]

    return draw


@pytest.fixture(scope="session")
def images() -> Callable[..., torch.Tensor]:
    """n random images at the resolution of a network."""

    def draw(space: SearchSpace, architecture: Architecture, n: int = 8) -> torch.Tensor:
        shape = next(iter(space.lower(architecture).values())).input_shape
        return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))

    return draw

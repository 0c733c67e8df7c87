"""A problem whose best network is known, for searchers that train on images."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from nas.core.problem import Objective, Problem
from nas.data import Data, Part
from nas.searchers.differentiable.base import GradientRun, GradientSearch
from nas.tasks import Classification
from predictors import PositionTable
from search_spaces import Choice, Conv, Genes, Layer, Position, SearchSpace
from search_spaces.architecture import Value
from search_spaces.layers import LinearClassifier, ResidualConv

SIZE = 8


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small lose more to handing work over than a second thread gains."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


PLACES = ("first", "second", "third")


class Stripes(SearchSpace):
    """Three residual convolutions of 1 or 3 pixels, each of which can be left out: 27 networks."""

    def __init__(self) -> None:
        choices = [Choice(f"kernel.{place}", (0, 1, 3)) for place in PLACES]
        positions = [Position("stem", ()), *(Position(place, (f"kernel.{place}",)) for place in PLACES)]
        super().__init__("stripes", {}, choices, [*positions, Position("classifier", ())])

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        if position == "stem":
            return Conv(1, 8, 1, 1, "relu", SIZE)
        if position == "classifier":
            return LinearClassifier(8, 2, SIZE)
        kernel = values[f"kernel.{position}"]
        assert isinstance(kernel, int)
        return ResidualConv(8, kernel, "relu", SIZE) if kernel else None


def stripes(n: int, rng: np.random.Generator) -> Part:
    """Random stripes, upright or lying. The pixels of both are alike: whoever sees single ones can only guess."""
    labels = rng.integers(0, 2, n)
    lines = rng.choice([-1.0, 1.0], (n, 1, 1, SIZE)).astype(np.float32)
    images = np.where(labels[:, None, None, None] == 0, lines, lines.swapaxes(2, 3)) * np.ones((SIZE, 1), np.float32)
    images += 0.7 * rng.normal(size=images.shape).astype(np.float32)
    return Part(torch.from_numpy(images), torch.from_numpy(labels))


@dataclass(frozen=True)
class Planted:
    """One convolution must see neighbours, or the classes look alike; only in the first place is that cheap.

    Accuracy decides the first place, latency leaves out the others: the best network is 3, 0, 0. Latencies are 2 ms and
    the numbers of the second and third gene.
    """

    space: SearchSpace
    data: Data
    everything: Genes
    best: Genes

    def problem(self, limit: float | None = None) -> Problem:
        """Accuracy, of no interest to a method that trains, and latency, under a limit if there is one."""
        latency = PositionTable(self.space, "latency", "ms", np.array([1.0, 0, 0, 0, 0, 1, 2, 0, 1, 2, 1]))
        accuracy = PositionTable.of_layers(self.space, "accuracy", "1", lambda layer: 0.0)
        return Problem(self.space, [Objective.of(accuracy, "max"), Objective.of(latency, "min", limit)])

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Of a search that takes a second or two."""
        chosen = {"epochs": 12, "warm_up": 1, "batch_size": 32, "learning_rate": 0.02, "architecture_rate": 0.1}
        return {"data": self.data, "latency": {"form": "linear", "weight": 2.0}, **chosen, **changes}

    def run(self, make: Callable[..., GradientSearch], limit: float | None = None, **changes: Any) -> GradientRun:
        """A finished search by a method."""
        run = GradientRun(self.problem(limit), make(**self.settings(**changes)))
        run.train()
        return run


@pytest.fixture(scope="session")
def planted() -> Planted:
    space, rng = Stripes(), np.random.default_rng(0)
    parts = [stripes(n, rng) for n in (512, 64, 64)]
    data = Data("stripes", *parts, task=Classification(2), mean=(0.0,), std=(1.0,))
    everything = np.array(list(itertools.product((0, 1, 2), repeat=3)), np.int16)
    return Planted(space, data, everything, np.array([2, 0, 0], np.int16))

"""Scores of networks, such as accuracies, and the score through a supernet as a predictor."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.core.progress import each
from nas.data import Batch, Data, Samples, batches, in_order, resize, to_device
from nas.supernet.recalibration import recalibrate
from nas.supernet.supernet import Supernet, check_task, input_resolution
from nas.tasks import Task
from search_spaces.architecture import Architecture, Genes
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.base.threads import torch_threads
from search_spaces.layers import Size, image_shape
from search_spaces.space import SearchSpace
from search_spaces.torch_program import StaticNetwork, merged

KEPT_BYTES = 256 * 1024**2
"""Size of a part, decoded and at one resolution, up to which it is kept: every network is judged by the same."""

MOST, MOST_BYTES = 512, 32 * 1024**2
"""Most inputs, and most bytes of them, that are evaluated at once. The activations of more are so large that the memory
of each is asked of the system anew, which took longer than the arithmetic (detectors at 240x320)."""


@torch.no_grad()
def score_of(network: Callable[[Tensor], Any], task: Task, batches: Iterable[Batch]) -> float:
    """Score of a network, as it is, in the unit of the task's metric.

    Args:
        network: gives the task's outputs for inputs at its resolution, shape (B, C, H, W); in eval mode.
        task: says how outputs are judged.
        batches: at the network's resolution.
    """
    score = task.score()
    for inputs, targets in batches:
        score.add(network(inputs), targets)
    return score.value()


class ResizedPart:
    """Batches of a part at one resolution, kept where they are small or the part is in memory anyway, and else loaded
    anew each time.

    Args:
        samples: of the part.
        resolution: of the inputs.
        device: where they are wanted.
        size: largest number of samples at once; None: as many as are evaluated fast.
        workers: processes that load, where samples are not in memory.
    """

    def __init__(
        self, samples: Samples, resolution: Size, device: torch.device, *, size: int | None = None, workers: int = 0
    ) -> None:
        one = 4 * math.prod(image_shape(samples.shape[0], resolution))  # bytes
        self._samples, self._resolution, self._device = samples, resolution, device
        self._size, self._workers = size or min(MOST, max(1, MOST_BYTES // one)), workers
        self._kept = list(self._loaded()) if samples.in_memory or one * len(samples) <= KEPT_BYTES else None

    def __iter__(self) -> Iterator[Batch]:
        yield from self._loaded() if self._kept is None else self._kept

    def _loaded(self) -> Iterator[Batch]:
        rows = in_order(len(self._samples), self._size)
        for inputs, targets in batches(self._samples, rows, workers=self._workers):
            yield resize(inputs, self._resolution).to(self._device), to_device(targets, self._device)


def _spread_images(data: Data, count: int) -> Tensor:
    """Training images, spread evenly over the part, at most so many."""
    count = min(count, len(data.train))
    images, _ = data.train.take(torch.arange(count) * len(data.train) // count)  # they may be sorted by class
    return images


def calibration_images(data: Data, count: int, resolution: Size) -> Tensor:
    """Training images that BatchNorm statistics come from, at a resolution, shape (n, C, H, W)."""
    return resize(_spread_images(data, count), resolution)


class SupernetAccuracy:
    """Predicts how well networks do their task that take their weights from a supernet, such as their accuracy.

    Each network is extracted, its BatchNorm statistics are taken anew on training images, and it is evaluated.

    Args:
        space: of the genes.
        supernet: trained.
        data: what it was trained on.
        recalibration_images: how many training images the statistics come from, spread evenly over the part.
        part: what to evaluate on. ``"test"`` is for verification alone.
        threads: of the CPU; None: as many as torch would take. The statistics depend on it in their last bits.
        workers: processes that load the part, where it is not in memory.
    """

    costly = True

    def __init__(
        self,
        space: SearchSpace,
        supernet: Supernet,
        data: Data,
        *,
        recalibration_images: int = 512,
        part: Literal["validation", "test"] = "validation",
        threads: int | None = None,
        workers: int = 0,
    ) -> None:
        if supernet.space.fingerprint != space.fingerprint:
            raise MismatchError(
                f"The supernet belongs to space {supernet.space.name!r} ({supernet.space.fingerprint}), "
                f"but the space here is {space.name!r} ({space.fingerprint})."
            )
        check_task(space, data)
        if recalibration_images < 1:
            raise InvalidValueError(f"`recalibration_images` must be at least 1, but got {recalibration_images}.")
        if part not in ("validation", "test"):
            raise InvalidValueError(f"`part` must be 'validation' or 'test', but got {part!r}.")
        self.space = space
        self.supernet = supernet
        self.data = data
        self.metric, self.unit = data.task.metric.name, data.task.metric.unit
        self.direction = data.task.metric.direction
        self.threads = threads
        self.workers = workers
        self._part = data.validation if part == "validation" else data.test_part()
        self.recalibration_images = min(recalibration_images, len(data.train))
        self._calibration = _spread_images(data, recalibration_images)
        self._resized = functools.lru_cache(maxsize=4)(self._resize)  # not all: a space can have dozens of resolutions

    def predict(self, genes: Genes) -> NDArray[np.float64]:
        """Score of each row in the unit of the task's metric, such as an accuracy: genes (n, choices) -> (n,)."""
        rows = self.space.validate(genes)
        values = np.empty(len(rows))
        for i in each(range(len(rows)), self.data.task.metric.title, "network"):
            values[i], _ = self.recalibrated(Architecture(self.space, rows[i]))
        return values

    def recalibrated(self, architecture: Architecture, every: int = 1) -> tuple[float, float]:
        """Score of a network, and the seconds that extraction, recalibration and evaluation took; see `deployed`."""
        _, part = self._resized(self._resolution(architecture))  # not counted: networks share it
        begun = time.perf_counter()
        with torch_threads(self.threads):
            score = score_of(merged(self.deployed(architecture, every)), self.data.task, part)
        return score, time.perf_counter() - begun

    def deployed(self, architecture: Architecture, every: int = 1) -> StaticNetwork:
        """The network to deploy: extracted, recalibrated, in eval mode, not merged, with weights of its own.

        Args:
            architecture: of the network.
            every: each so many-th of the calibration images is used; 0: none, the supernet's own statistics are kept.
        """
        with torch_threads(self.threads):
            network = self.supernet.extract(architecture).eval()
            if every:
                recalibrate(network, self.calibration_images(architecture)[::every])
        return network

    def calibration_images(self, architecture: Architecture) -> Tensor:
        """The training images that its BatchNorm statistics come from, at its resolution, shape (n, C, H, W)."""
        calibration, _ = self._resized(self._resolution(architecture))
        return calibration

    def _resolution(self, architecture: Architecture) -> Size:
        return input_resolution(self.space, architecture)

    def _resize(self, resolution: Size) -> tuple[Tensor, ResizedPart]:
        """Calibration images and the evaluated part at a resolution."""
        device = next(self.supernet.parameters()).device
        with torch_threads(self.threads):
            calibration = resize(self._calibration, resolution).to(device)
            return calibration, ResizedPart(self._part, resolution, device, workers=self.workers)

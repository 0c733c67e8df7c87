"""Accuracy of networks, and the accuracy through a supernet as a predictor."""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nas.core.progress import each
from nas.data import ImageData, resize
from nas.supernet.recalibration import recalibrate
from nas.supernet.supernet import Supernet, check_task, input_resolution
from search_spaces.architecture import Architecture, Genes
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.base.threads import torch_threads
from search_spaces.layers import Size
from search_spaces.space import SearchSpace
from search_spaces.torch_program import StaticNetwork, merged


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor, *, batch: int = 512) -> float:
    """Fraction of the images that the network, as it is, classifies correctly; in [0, 1].

    Args:
        network: gives logits, shape (B, classes); in eval mode.
        images: at the network's resolution, shape (N, C, H, W).
        labels: int64, shape (N,).
        batch: largest number of images at once.
    """
    right = 0
    for start in range(0, len(labels), batch):
        predicted = network(images[start : start + batch]).argmax(1)  # (B,)
        right += int((predicted == labels[start : start + batch]).sum())
    return right / len(labels)


class SupernetAccuracy:
    """Predicts the accuracy of networks that take their weights from a supernet.

    Each network is extracted, its BatchNorm statistics are taken anew on training images, and it is evaluated.

    Args:
        space: of the genes.
        supernet: trained.
        data: what it was trained on.
        recalibration_images: how many training images the statistics come from, spread evenly over the part.
        part: what to evaluate on. ``"test"`` is for verification alone.
        threads: of the CPU; None: as many as torch would take. The statistics depend on it in their last bits.
    """

    metric = "accuracy"
    unit = "1"
    costly = True

    def __init__(
        self,
        space: SearchSpace,
        supernet: Supernet,
        data: ImageData,
        *,
        recalibration_images: int = 512,
        part: Literal["validation", "test"] = "validation",
        threads: int | None = None,
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
        self.threads = threads
        evaluated = data.validation if part == "validation" else data.test_part()
        self._images, self._labels = evaluated.images, evaluated.labels
        count = min(recalibration_images, len(data.train))
        spread = torch.arange(count) * len(data.train) // count  # also right where the images are sorted by class
        self.recalibration_images = count
        self._calibration = data.train.images[spread]
        self._resized = functools.lru_cache(maxsize=4)(self._resize)  # not all: a space can have dozens of resolutions

    def predict(self, genes: Genes) -> NDArray[np.float64]:
        """Accuracy of each row: genes (n, choices) -> (n,), in [0, 1], higher is better."""
        rows = self.space.validate(genes)
        values = np.empty(len(rows))
        for i in each(range(len(rows)), "accuracy", "network"):
            architecture = Architecture(self.space, rows[i])
            _, images = self._resized(self._resolution(architecture))
            with torch_threads(self.threads):
                network = merged(self.deployed(architecture))
                values[i] = accuracy(network, images, self._labels.to(images.device))
        return values

    def deployed(self, architecture: Architecture) -> StaticNetwork:
        """The network to deploy: extracted, recalibrated, in eval mode, not merged, with weights of its own."""
        with torch_threads(self.threads):
            network = self.supernet.extract(architecture)
            recalibrate(network, self.calibration_images(architecture))
        return network

    def calibration_images(self, architecture: Architecture) -> Tensor:
        """The training images that its BatchNorm statistics come from, at its resolution, shape (n, C, H, W)."""
        calibration, _ = self._resized(self._resolution(architecture))
        return calibration

    def _resolution(self, architecture: Architecture) -> Size:
        return input_resolution(self.space, architecture)

    def _resize(self, resolution: Size) -> tuple[Tensor, Tensor]:
        """Calibration and evaluation images at a resolution."""
        device = next(self.supernet.parameters()).device
        with torch_threads(self.threads):
            return resize(self._calibration, resolution).to(device), resize(self._images, resolution).to(device)

"""Super-resolution: an image from one of fewer pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nas.tasks.dense import check_outputs_fit
from nas.tasks.mixing import Mixing, mixed_values
from nas.tasks.movement import moved_values
from nas.tasks.resampling import mean_error
from search_spaces.base.errors import InvalidValueError
from search_spaces.metric import TASK_METRICS, TaskMetric
from search_spaces.program import Shape

LUMINANCE = (65.481 / 255, 128.553 / 255, 24.966 / 255)
"""Weights of red, green and blue, in [0, 1], in the luminance of ITU-R BT.601, which reaches from 16/255 to 235/255;
the offset of 16 falls out of differences."""
LEAST_ERROR = 1e-10
"""Mean squared error that an image has at least, so that an equal one has 100 dB."""


class PSNR:
    """Mean over images of the peak signal-to-noise ratio, 10 log10(1 / mean squared error), in dB.

    Images are cut to [0, 1], and a border of ``scale`` pixels does not count, as is usual (Lim et al., EDSR, CVPRW
    2017, arXiv:1707.02921, section 4).

    Args:
        scale: pixels per pixel of the input, along an axis.
        channel: luminance of colour images, or rgb: all channels alike.
    """

    def __init__(self, scale: int, channel: Literal["luminance", "rgb"]) -> None:
        self._scale, self._channel = scale, channel
        self._found: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        difference = outputs.clamp(0, 1) - targets
        if self._channel == "luminance" and difference.shape[1] == 3:
            weights = difference.new_tensor(LUMINANCE).reshape(1, 3, 1, 1)
            difference = (difference * weights).sum(1, keepdim=True)
        border = self._scale
        if min(difference.shape[-2:]) > 2 * border:
            difference = difference[..., border:-border, border:-border]
        squares = difference.square().flatten(1).mean(1).clamp(min=LEAST_ERROR)
        self._found.append(-10 * squares.double().log10())

    def value(self) -> float:
        return float(self._all().mean())

    def error(self) -> float | None:
        """Standard error of the mean over images."""
        return mean_error(self._all())

    def _all(self) -> NDArray[np.float64]:
        return torch.cat(self._found).cpu().numpy()


@dataclass(frozen=True)
class SuperResolution:
    """Images from ones of fewer pixels: outputs and targets are images (B, C, H, W), 0 is black and 1 the brightest.

    Args:
        size: of the targets, (C, H, W).
        scale: pixels per pixel of the input, along an axis.
        judged_on: luminance (of ITU-R BT.601) of colour images, or rgb: all channels alike.
    """

    size: tuple[int, int, int]
    scale: int
    judged_on: Literal["luminance", "rgb"] = "luminance"

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise InvalidValueError(f"`scale` must be at least 1, but got {self.scale}.")
        if self.judged_on not in ("luminance", "rgb"):
            raise InvalidValueError(f"`judged_on` must be luminance or rgb, but got {self.judged_on!r}.")

    @property
    def metric(self) -> TaskMetric:
        return TASK_METRICS["psnr_db"]

    @property
    def identity(self) -> str:
        return f"super-resolution {self}"

    def check(self, networks: str, outputs: Mapping[str, Shape], data: str) -> None:
        check_outputs_fit(networks, list(outputs.values()), self.size, data)

    @property
    def title(self) -> str:
        return f"{self.scale} times as many pixels along an axis, PSNR on {self.judged_on}"

    def notes(self, data: str, parts: Mapping[str, Any], outputs: Mapping[str, Shape]) -> list[str]:
        return []

    def move(self, targets: Tensor, movement: Tensor) -> Tensor:
        """Images moved bilinearly; what comes in from outside is black."""
        return moved_values(targets, movement)

    def mix(self, targets: Tensor, others: Tensor, mixing: Mixing) -> Tensor:
        """Images mixed as the inputs are."""
        return mixed_values(targets, others, mixing)

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Mean absolute difference (Lim et al., EDSR, arXiv:1707.02921, section 3)."""
        return functional.l1_loss(outputs, targets)

    def imitation(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        """Mean absolute difference from the teacher's image."""
        return functional.l1_loss(outputs, teacher)

    def score(self) -> PSNR:
        return PSNR(self.scale, self.judged_on)

    def output(self, shapes: Mapping[str, Shape]) -> Mapping[str, Any]:
        ((name, shape),) = shapes.items()
        meaning = "an image, 0 is black and 1 the brightest; cut what is beyond"
        return {"output": {"name": name, "shape": list(shape), "meaning": meaning}, "scale": self.scale}

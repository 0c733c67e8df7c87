"""Semantic segmentation: one class per pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nas.tasks.classification import check_classes, class_notes, first_of
from nas.tasks.dense import check_map, in_parts, upsampled
from nas.tasks.mixing import Mixing, mixed_classes
from nas.tasks.movement import moved_classes
from nas.tasks.resampling import bootstrap_error
from search_spaces.base.errors import InvalidValueError
from search_spaces.metric import TASK_METRICS, TaskMetric
from search_spaces.program import Shape


class MeanIoU:
    """Mean over the classes of intersection over union: TP / (TP + FP + FN), over the pixels of all images.

    Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2010, section 4.3. Void pixels do not count,
    nor classes that no target has.

    Args:
        classes: how many there are.
        void: number of the pixels that do not count.
    """

    def __init__(self, classes: int, void: int) -> None:
        self._classes, self._void = classes, void
        self._confusions: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        for logits, wanted in in_parts(outputs[:, : self._classes], targets):
            found = logits.argmax(1).flatten(1)  # (B, H * W)
            wanted = wanted.long().flatten(1)
            counts = wanted != self._void
            cells = self._classes**2
            place = torch.arange(len(wanted), device=wanted.device)[:, None] * cells
            index = place + wanted * self._classes + found
            confusion = torch.bincount(index[counts], minlength=len(wanted) * cells)
            self._confusions.append(confusion.reshape(-1, cells))

    def value(self) -> float:
        confusions = self._all()
        return self._of(confusions.sum(0))

    def error(self) -> float | None:
        """Standard error, by the bootstrap over images."""
        confusions = self._all()
        return bootstrap_error(lambda counts: self._of(counts @ confusions), len(confusions))

    def per_class(self) -> NDArray[np.float64]:
        """Intersection over union of each class, (classes,); NaN of those that no target has."""
        return self._ious(self._all().sum(0))

    def _all(self) -> NDArray[np.int64]:
        """Confusion of each image, targets before outputs, (images, classes * classes)."""
        return torch.cat(self._confusions).cpu().numpy()

    def _ious(self, confusion: NDArray[np.int64]) -> NDArray[np.float64]:
        table = confusion.reshape(self._classes, self._classes).astype(np.float64)
        both, targets = np.diag(table), table.sum(1)
        union = targets + table.sum(0) - both
        return np.where(targets > 0, both / np.maximum(union, 1), np.nan)

    def _of(self, confusion: NDArray[np.int64]) -> float:
        found = self._ious(confusion)
        return float(np.nanmean(found)) if not np.isnan(found).all() else 0.0


def pixels_of(masks: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Pixels of each class, (classes,), in masks (N, H, W), image by image, as counting makes them large."""
    counts = np.zeros(classes, np.int64)
    for mask in masks:
        counts += np.bincount(mask[(mask >= 0) & (mask < classes)], minlength=classes)
    return counts


@dataclass(frozen=True)
class Segmentation:
    """Semantic segmentation: outputs are logits (B, classes, h, w), targets are classes (B, H, W), integers.

    Outputs may be coarser than targets: their logits are brought to the targets' size bilinearly, as whoever uses the
    network has to do.

    Args:
        classes: how many there are; pixels are 0 to classes - 1, or void.
        void: number of the pixels that are of no class.
        names: of the classes, in their order; empty: they have none.
        weights: of the classes in the loss; empty: they are equal.
    """

    classes: int
    void: int = 255
    names: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_classes(self.classes, self.names, self.weights)
        if 0 <= self.void < self.classes:
            raise InvalidValueError(f"`void` must be no class, 0 to {self.classes - 1}, but got {self.void}.")

    @property
    def metric(self) -> TaskMetric:
        return TASK_METRICS["miou"]

    @property
    def identity(self) -> str:
        return f"segmentation {self}"

    def check(self, networks: str, outputs: Mapping[str, Shape], data: str) -> None:
        check_map(networks, outputs, data, self.classes, "classes")

    @property
    def title(self) -> str:
        return f"{self.classes} classes of pixels"

    def notes(self, data: str, parts: Mapping[str, Any], outputs: Mapping[str, Shape]) -> list[str]:
        """Notes on classes that masks of a part lack; see `class_notes`."""
        if not all(hasattr(part, "labels") for part in parts.values()):  # of a user's own, which is not looked through
            return []
        counts = {name: pixels_of(np.asarray(part.labels), self.classes) for name, part in parts.items()}
        return class_notes(data, counts, "pixels", self.metric)

    def move(self, targets: Tensor, movement: Tensor) -> Tensor:
        """Masks moved to the nearest pixel; what comes in from outside is void."""
        return moved_classes(targets, movement, self.void)

    def mix(self, targets: Tensor, others: Tensor, mixing: Mixing) -> Tensor:
        """Masks of which each pixel is that of one of both."""
        return mixed_classes(targets, others, mixing)

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of the pixels that are not void; 0 where all are."""
        logits = upsampled(outputs, tuple(targets.shape[-2:]))
        wanted = targets.long()
        weight = torch.tensor(self.weights, device=logits.device) if self.weights else None
        if weight is not None and logits.shape[1] > self.classes:
            weight = functional.pad(weight, (0, logits.shape[1] - self.classes))
        total = functional.cross_entropy(
            logits, wanted, weight, ignore_index=self.void, label_smoothing=smoothing, reduction="sum"
        )
        counted = (wanted != self.void).float()
        if weight is not None:
            counted = counted * weight[wanted.clamp(0, self.classes - 1)]
        return total / counted.sum().clamp(min=1e-6)

    def imitation(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        """Cross-entropy with the teacher's probabilities, in the size of the outputs."""
        given = upsampled(teacher, tuple(outputs.shape[-2:]))
        return functional.cross_entropy(outputs, given.softmax(1))

    def score(self) -> MeanIoU:
        return MeanIoU(self.classes, self.void)

    def output(self, shapes: Mapping[str, Shape]) -> Mapping[str, Any]:
        ((name, shape),) = shapes.items()
        named = {"names": list(self.names)} if self.names else {}
        meaning = (
            f"a score per class and pixel, {shape[2]} x {shape[3]} over the whole image: resize bilinearly to the size "
            "that is wanted, with the centres of pixels corresponding; the highest counts"
            f"{first_of(shape, self.classes, 'classes')}"
        )
        output = {"name": name, "shape": list(shape), "meaning": meaning}
        return {"output": output, "classes": self.classes, **named}

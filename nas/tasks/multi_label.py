"""Multi-label classification: any number of classes per input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nas.tasks.classification import check_classes, check_vector, class_notes, first_of
from nas.tasks.mixing import Mixing
from nas.tasks.resampling import bootstrap_error
from search_spaces.base.errors import InvalidValueError
from search_spaces.metric import TASK_METRICS, TaskMetric
from search_spaces.program import Shape


def average_precision(scores: NDArray[Any], positive: NDArray[Any], counts: NDArray[np.int64]) -> float:
    """Area under the steps of precision over recall; NaN where nothing is positive.

    The sum over thresholds of (recall - recall before) * precision, inputs of equal score together (scikit-learn's
    ``average_precision_score``).

    Args:
        scores: of the inputs, (n,).
        positive: whether they are of the class, (n,).
        counts: how many times each counts, (n,).
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hits, weights = -scores[order], positive[order] * counts[order], counts[order]
    last = np.searchsorted(ranked, ranked, side="right") - 1  # the last input of the same score
    total = hits.sum()
    precision = hits.cumsum()[last] / np.maximum(weights.cumsum()[last], 1)
    return float((precision * hits).sum() / total) if total else float("nan")


class MeanAveragePrecision:
    """Mean of the average precisions of the classes that some input has."""

    def __init__(self) -> None:
        self._scores: list[Tensor] = []
        self._positive: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        self._scores.append(outputs[:, : targets.shape[1]].detach())
        self._positive.append(targets > 0.5)

    def value(self) -> float:
        scores, positive = self._all()
        return self._of(scores, positive, np.ones(len(scores), np.int64))

    def error(self) -> float | None:
        """Standard error, by the bootstrap over inputs."""
        scores, positive = self._all()
        return bootstrap_error(lambda counts: self._of(scores, positive, counts), len(scores), draws=50)

    def _all(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return torch.cat(self._scores).float().cpu().numpy(), torch.cat(self._positive).cpu().numpy()

    @staticmethod
    def _of(scores: NDArray[Any], positive: NDArray[Any], counts: NDArray[np.int64]) -> float:
        found = np.array([average_precision(scores[:, c], positive[:, c], counts) for c in range(scores.shape[1])])
        return float(np.nanmean(found)) if not np.isnan(found).all() else 0.0


@dataclass(frozen=True)
class MultiLabel:
    """Classes that do not exclude each other: outputs are logits (B, classes), targets are 0 or 1, (B, classes).

    Args:
        classes: how many there are.
        names: of the classes, in their order; empty: they have none.
        weights: of the inputs that have a class, in its loss; empty: they count as those that do not.
    """

    classes: int
    names: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_classes(self.classes, self.names, self.weights)

    @property
    def metric(self) -> TaskMetric:
        return TASK_METRICS["mean_average_precision"]

    @property
    def identity(self) -> str:
        return f"multi-label {self}"

    def check(self, networks: str, outputs: Mapping[str, Shape], data: str) -> None:
        check_vector(networks, outputs, data, self.classes, "classes")

    @property
    def title(self) -> str:
        return f"{self.classes} classes, any number per image"

    def notes(self, data: str, parts: Mapping[str, Any], outputs: Mapping[str, Shape]) -> list[str]:
        """Notes on classes that no training image has, or all have, and on those that images of a part lack."""
        if not all(hasattr(part, "labels") for part in parts.values()):  # of a user's own, which is not looked through
            return []
        shares = np.asarray(parts["train"].labels).mean(0)
        useless = np.flatnonzero((shares == 0) | (shares == 1))
        if len(useless) == self.classes:
            raise InvalidValueError(
                f"Each class of {data!r} is that of all training images or of none, so there is nothing to learn. Give "
                "other images, or another split."
            )
        counts = {name: np.asarray(part.labels).sum(0).astype(np.int64) for name, part in parts.items()}
        notes = class_notes(data, counts, "images", self.metric)
        if len(useless):
            notes.append(
                f"{len(useless)} of {self.classes} classes of {data!r} are those of all training images or of none"
            )
        return notes

    def move(self, targets: Tensor, movement: Tensor) -> Tensor:
        """The labels as they are: an image that was moved still shows the same."""
        return targets

    def mix(self, targets: Tensor, others: Tensor, mixing: Mixing) -> Tensor:
        """Shares of the labels, (B, classes)."""
        return torch.lerp(targets.float(), others.float(), mixing.share[:, None])

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Binary cross-entropy, mean over classes; smoothed labels are that much nearer to 1/2."""
        weight = torch.tensor(self.weights, device=outputs.device) if self.weights else None
        wanted = targets.float() * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(outputs[:, : self.classes], wanted, pos_weight=weight)

    def imitation(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        """Binary cross-entropy with the teacher's probabilities."""
        return functional.binary_cross_entropy_with_logits(outputs, teacher.sigmoid())

    def score(self) -> MeanAveragePrecision:
        return MeanAveragePrecision()

    def output(self, shapes: Mapping[str, Shape]) -> Mapping[str, Any]:
        ((name, shape),) = shapes.items()
        named = {"names": list(self.names)} if self.names else {}
        meaning = "a score per class; its sigmoid is the probability that the image shows it"
        meaning += first_of(shape, self.classes, "classes")
        output = {"name": name, "shape": list(shape), "meaning": meaning}
        return {"output": output, "classes": self.classes, **named}

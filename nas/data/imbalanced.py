"""Images of classes some of which are rare: the same data, with weights of the classes and judged by macro F1."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from nas.data.base import Data
from nas.data.loading import load_data
from nas.tasks import Classification
from nas.tasks.classification import balanced
from search_spaces.base.errors import InvalidValueError


def imbalanced(
    of: str | Data,
    *,
    weights: Sequence[float] | Literal["balanced"] = "balanced",
    judged_by: Literal["accuracy", "macro_f1"] = "macro_f1",
    name: str | None = None,
) -> Data:
    """Any data of exclusive classes, with other weights of these and another metric.

    Args:
        of: the data, a name, a YAML file or settings with ``_target_``.
        weights: of the classes in the loss; ``balanced``: so that all count alike; []: equal.
        judged_by: accuracy, or macro_f1, for which rare classes count as much as frequent ones.
        name: what the data is called; that of the images by default.

    Raises:
        InvalidValueError: it is no data of exclusive classes.
    """
    data = load_data(of) if isinstance(of, str) else of
    task, train = data.task, data.train
    if not isinstance(task, Classification):
        raise InvalidValueError(f"Data {data.name!r} is of {task.title}, but weights are of exclusive classes.")
    labels: Any = train.labels  # type: ignore[attr-defined]
    counts = np.bincount(labels, minlength=task.classes)
    given = balanced(counts) if weights == "balanced" else tuple(map(float, weights))
    return Data(
        name=name or data.name,
        train=train,
        validation=data.validation,
        test=data.test_part(),
        task=dataclasses.replace(task, weights=given, judged_by=judged_by),
        mean=data.mean,
        std=data.std,
        scale=data.scale,
        kind=data.kind,
        preparation=data.preparation,
        notes=data.notes,
    )

"""Classification: one class per input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.metric import ACCURACY, Metric
from search_spaces.program import Shape


class Accuracy:
    """Share of the inputs whose class has the highest logit."""

    def __init__(self) -> None:
        self._right: int | Tensor = 0
        self._seen = 0

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        self._right = self._right + (outputs.argmax(1) == targets).sum()
        self._seen += len(targets)

    def value(self) -> float:
        return int(self._right) / self._seen


@dataclass(frozen=True)
class Classification:
    """Classification of inputs into exclusive classes: outputs are logits (B, classes), targets are labels (B,), int64.

    Args:
        classes: how many there are; labels are 0 to classes - 1.
        names: of the classes, in the order of their labels; empty: they have none.
    """

    classes: int
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise InvalidValueError(f"`classes` must be at least 1, but got {self.classes}.")
        if self.names and len(set(self.names)) != self.classes:
            raise InvalidValueError(
                f"Each of {self.classes} classes has a name of its own, or none has one, but got {len(self.names)} "
                f"names, {len(set(self.names))} of them different."
            )

    @property
    def metric(self) -> Metric:
        return ACCURACY

    @property
    def identity(self) -> str:
        return " ".join([str(self.classes), *map(repr, self.names)])

    def check(self, networks: str, outputs: Mapping[str, Shape], data: str) -> None:
        given = ", ".join(f"{name} of shape {shape}" for name, shape in outputs.items())
        shapes = list(outputs.values())
        if len(shapes) != 1 or len(shapes[0]) != 1:
            raise MismatchError(
                f"{networks} give {given}, but data {data!r} is of images and classes: nothing can be trained on it. "
                "Search without accuracy, and export with `export.weights=random`."
            )
        if shapes[0][0] < self.classes:
            raise MismatchError(
                f"{networks} tell {shapes[0][0]} classes, but data {data!r} has {self.classes}. Set `space.classes` "
                "to that of the data."
            )

    @property
    def title(self) -> str:
        return f"{self.classes} classes"

    def notes(self, data: str, parts: Mapping[str, Any], outputs: Mapping[str, Shape]) -> list[str]:
        """Notes on classes that a part lacks, on few images, and on more outputs than classes."""
        counts = {name: np.array(self.counts(part)) for name, part in parts.items()}
        if (counts["train"] > 0).sum() < 2:
            only = counts["train"].argmax(0, keepdims=True)
            raise InvalidValueError(
                f"All {len(parts['train'])} training images of {data!r} are of {self._said(only)}, so there is nothing "
                "to learn. Give images of two classes or more, or another split."
            )
        notes = []
        for name in ("validation", "test"):
            unlearnt = np.flatnonzero((counts[name] > 0) & (counts["train"] == 0))
            if len(unlearnt):
                share = counts[name][unlearnt].sum() / counts[name].sum()
                notes.append(
                    f"{self._said(unlearnt)} of {data!r} {'is' if len(unlearnt) == 1 else 'are'} in {name} but not in "
                    f"train: no network can learn {'it' if len(unlearnt) == 1 else 'them'} ({share:.0%} of {name})"
                )
            missing = np.flatnonzero((counts[name] == 0) & (counts["train"] > 0))
            if len(missing):
                has = int((counts[name] > 0).sum())
                tells = "says nothing" if has == 1 else "says less"
                notes.append(
                    f"{name} of {data!r} has {has} of {self.classes} classes ({self._said(missing)} missing): accuracy "
                    f"on it {tells} about the others"
                )
        size = len(parts["validation"])
        if size < 100:
            notes.append(
                f"validation of {data!r} has {size} image{'s' * (size > 1)}: accuracies come in steps of {1 / size:.1%}"
            )
        told = next(iter(outputs.values()))[0]
        if told > self.classes:
            notes.append(
                f"the networks tell {told} classes and {data!r} has {self.classes}: set `space.classes={self.classes}` "
                "unless the weights are imported"
            )
        return notes

    def move(self, targets: Tensor, movement: Tensor) -> Tensor:
        """The labels as they are: an image that was moved is still of its class."""
        return targets

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy with label smoothing (Szegedy et al., "Rethinking the Inception Architecture for Computer
        Vision", CVPR 2016, section 7)."""
        return functional.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def imitation(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        """Cross-entropy with the teacher's probabilities as targets."""
        return functional.cross_entropy(outputs, teacher.softmax(1))

    def score(self) -> Accuracy:
        return Accuracy()

    def output(self, shapes: Mapping[str, Shape]) -> Mapping[str, Any]:
        ((name, (batch, *_)),) = shapes.items()
        meaning = "a score per class; the highest counts"
        named = {"names": list(self.names)} if self.names else {}
        return {
            "output": {"name": name, "shape": [batch, self.classes], "meaning": meaning},
            "classes": self.classes,
            **named,
        }

    def counts(self, part: Any) -> list[int]:
        """Numbers of inputs of each class in a part."""
        found: list[int] = np.bincount(part.labels.numpy(), minlength=self.classes).tolist()
        return found

    def check_labels(self, labels: Tensor, where: str) -> None:
        """Check labels (N,).

        Args:
            labels: of a part.
            where: names it, for the message.

        Raises:
            InvalidValueError: one is not in 0 to classes - 1.
        """
        low, high = (int(bound) for bound in torch.aminmax(labels))
        if low < 0 or high >= self.classes:
            raise InvalidValueError(f"Labels of {where} must be in 0..{self.classes - 1}, but got {low}..{high}.")

    def _said(self, classes: NDArray[Any]) -> str:
        """Words for some classes, with their names where they have some."""
        said = [self.names[n] if self.names else str(n) for n in classes[:5].tolist()]
        return ("class " if len(classes) == 1 else "classes ") + ", ".join(said) + (", ..." if len(classes) > 5 else "")

"""Classification: one class per input."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nas.tasks.mixing import Mixing
from nas.tasks.resampling import bootstrap_error
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.metric import TASK_METRICS, TaskMetric
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

    def error(self) -> None:
        """Standard error: none is stated, as it follows from the value and the number of inputs."""


class MacroF1:
    """Mean of the F1 scores of the classes, 2 TP / (2 TP + FP + FN), where a rare class counts as a frequent one.

    Classes that no target has do not count. An input whose highest output is none of the classes is missed.

    Args:
        classes: how many there are; networks may tell more.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._found: list[Tensor] = []
        self._wanted: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        self._found.append(outputs.argmax(1).clamp(max=self._classes))
        self._wanted.append(targets)

    def value(self) -> float:
        cells = self._cells()
        return self._of(np.ones(len(cells), np.int64), cells)

    def error(self) -> float | None:
        """Standard error, by the bootstrap over inputs."""
        cells = self._cells()
        return bootstrap_error(lambda counts: self._of(counts, cells), len(cells))

    def _cells(self) -> NDArray[np.int64]:
        """Cell of the confusion table (classes, classes + 1) of each input, targets before outputs, (inputs,)."""
        return (torch.cat(self._wanted) * (self._classes + 1) + torch.cat(self._found)).cpu().numpy()

    def _of(self, counts: NDArray[np.int64], cells: NDArray[np.int64]) -> float:
        classes = self._classes
        table = np.bincount(cells, counts, classes * (classes + 1)).reshape(classes, classes + 1)
        right, wanted = np.diag(table), table.sum(1)
        scores = 2 * right / np.maximum(wanted + table.sum(0)[:classes], 1)
        return float(scores[wanted > 0].mean())


@dataclass(frozen=True)
class Classification:
    """Classification of inputs into exclusive classes: outputs are logits (B, classes), targets are labels (B,), int64.

    Args:
        classes: how many there are; labels are 0 to classes - 1.
        names: of the classes, in the order of their labels; empty: they have none.
        weights: of the classes in the loss, where some are rare; empty: they are equal.
        judged_by: accuracy, or macro_f1, for which rare classes count as much as frequent ones.
    """

    classes: int
    names: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    judged_by: Literal["accuracy", "macro_f1"] = "accuracy"

    def __post_init__(self) -> None:
        check_classes(self.classes, self.names, self.weights)
        if self.judged_by not in ("accuracy", "macro_f1"):
            raise InvalidValueError(f"`judged_by` must be accuracy or macro_f1, but got {self.judged_by!r}.")

    @property
    def metric(self) -> TaskMetric:
        return TASK_METRICS[self.judged_by]

    @property
    def identity(self) -> str:
        weights = [f"weights {list(self.weights)}"] if self.weights else []
        judged = [self.judged_by] if self.judged_by != "accuracy" else []
        return " ".join([str(self.classes), *map(repr, self.names), *weights, *judged])

    def check(self, networks: str, outputs: Mapping[str, Shape], data: str) -> None:
        check_vector(networks, outputs, data, self.classes, "classes")

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
        if size < 100 and self.judged_by == "accuracy":
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

    def mix(self, targets: Tensor, others: Tensor, mixing: Mixing) -> Tensor:
        """Shares of the classes, (B, classes)."""
        share = mixing.share[:, None]
        own, other = (functional.one_hot(labels, self.classes).to(share.dtype) for labels in (targets, others))
        return torch.lerp(own, other, share)

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy with label smoothing (Szegedy et al., "Rethinking the Inception Architecture for Computer
        Vision", CVPR 2016, section 7)."""
        weights = None
        if self.weights:  # outputs that are no class of the data have the weight 0
            weights = torch.tensor([*self.weights, *[0.0] * (outputs.shape[1] - self.classes)], device=outputs.device)
        if targets.is_floating_point():  # shares of the classes; networks may tell more
            targets = functional.pad(targets, (0, outputs.shape[1] - self.classes))
        return functional.cross_entropy(outputs, targets, weights, label_smoothing=smoothing)

    def imitation(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        """Cross-entropy with the teacher's probabilities as targets."""
        return functional.cross_entropy(outputs, teacher.softmax(1))

    def score(self) -> Accuracy | MacroF1:
        return Accuracy() if self.judged_by == "accuracy" else MacroF1(self.classes)

    def output(self, shapes: Mapping[str, Shape]) -> Mapping[str, Any]:
        ((name, shape),) = shapes.items()
        meaning = f"a score per class; the highest counts{first_of(shape, self.classes, 'classes')}"
        named = {"names": list(self.names)} if self.names else {}
        output = {"name": name, "shape": list(shape), "meaning": meaning}
        return {"output": output, "classes": self.classes, **named}

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
            InvalidValueError: they are no whole numbers, or one is not in 0 to classes - 1.
        """
        if labels.ndim != 1 or labels.dtype != torch.int64:
            raise InvalidValueError(
                f"Labels of {where} are int64, shape (N,), but got {labels.dtype} {tuple(labels.shape)}."
            )
        low, high = (int(bound) for bound in torch.aminmax(labels))
        if low < 0 or high >= self.classes:
            raise InvalidValueError(f"Labels of {where} must be in 0..{self.classes - 1}, but got {low}..{high}.")

    def _said(self, classes: NDArray[Any]) -> str:
        """Words for some classes, with their names where they have some."""
        said = [self.names[n] if self.names else str(n) for n in classes[:5].tolist()]
        return ("class " if len(classes) == 1 else "classes ") + ", ".join(said) + (", ..." if len(classes) > 5 else "")


def balanced(counts: NDArray[np.int64]) -> tuple[float, ...]:
    """Weights of classes for which all count alike in the loss: all inputs over those of the class, their mean over the
    inputs 1; 0 of a class without inputs (scikit-learn's ``class_weight="balanced"``).

    Args:
        counts: training inputs, or pixels, of each class, (classes,).
    """
    weights = np.where(counts > 0, counts.sum() / ((counts > 0).sum() * np.maximum(counts, 1)), 0.0)
    return tuple(weights.tolist())


def check_classes(classes: int, names: Sequence[str], weights: Sequence[float]) -> None:
    """Check the classes of a task.

    Args:
        classes: how many there are.
        names: of each, or none.
        weights: of each, or none.

    Raises:
        InvalidValueError: there is none, or names and weights are not as many.
    """
    if classes < 1:
        raise InvalidValueError(f"`classes` must be at least 1, but got {classes}.")
    if names and not len(names) == len(set(names)) == classes:
        raise InvalidValueError(
            f"Each of {classes} classes has a name of its own, or none has one, but got {len(names)} names, "
            f"{len(set(names))} of them different."
        )
    if weights and (len(weights) != classes or not 0 <= min(weights) <= max(weights) < math.inf or max(weights) == 0):
        raise InvalidValueError(
            f"Each of {classes} classes has a weight of at least 0, or none has one, but got {list(weights)}."
        )


def first_of(shape: Shape, count: int, what: str) -> str:
    """Words on outputs (B, n, ...) that are more than the data has use for; empty where they are not."""
    return "" if shape[1] == count else f"; of {shape[1]} channels the first {count} are the {what} of the data"


def class_notes(data: str, counts: Mapping[str, NDArray[np.int64]], what: str, metric: TaskMetric) -> list[str]:
    """Notes on classes that train has and another part lacks, or the other way round.

    Args:
        data: its name.
        counts: how many there are of each class, (classes,), in train, validation and test.
        what: is counted, such as ``pixels``.
        metric: of the task.

    Raises:
        InvalidValueError: a part has none of any class.
    """
    notes, trained = list[str](), counts["train"] > 0
    for name, of_part in counts.items():
        if not of_part.any():
            why = "there is nothing to learn" if name == "train" else "no network can be judged on it"
            raise InvalidValueError(
                f"{name} of {data!r} has no {what} of any class, so {why}. Give other images, or another split."
            )
        for classes, has, so in (
            ((of_part > 0) & ~trained, f"{what} of {{}} classes that train lacks", "no network can learn them"),
            (
                (of_part == 0) & trained,
                f"no {what} of {{}} classes that train has",
                f"its {metric.title} leaves them out",
            ),
        ):
            if classes.any():
                notes.append(f"{name} of {data!r} has {has.format(f'{classes.sum()} of {len(classes)}')}: {so}")
    return notes


def check_vector(networks: str, outputs: Mapping[str, Shape], data: str, count: int, what: str) -> None:
    """Check that networks give one vector of so many numbers, or of more.

    Args:
        networks: whose outputs they are, for the message.
        outputs: shapes by name, without the batch.
        data: its name.
        count: numbers that are wanted.
        what: the numbers are of, in words.

    Raises:
        MismatchError: they do not.
    """
    given = ", ".join(f"{name} of shape {shape}" for name, shape in outputs.items())
    shapes = list(outputs.values())
    if len(shapes) != 1 or len(shapes[0]) != 1:
        raise MismatchError(
            f"{networks} give {given}, but data {data!r} is of images and {what}: nothing can be trained on it. Search "
            "without accuracy, and export with `export.weights=random`."
        )
    if shapes[0][0] < count:
        raise MismatchError(
            f"{networks} tell {shapes[0][0]} {what}, but data {data!r} has {count}. Set `space.classes` to that of the "
            "data."
        )

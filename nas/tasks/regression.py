"""Regression: numbers per input, or per pixel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nas.tasks.classification import check_vector, first_of
from nas.tasks.dense import check_map, in_parts, upsampled
from nas.tasks.mixing import Mixing, mixed_values
from nas.tasks.movement import moved_values
from nas.tasks.resampling import bootstrap_error
from search_spaces.base.errors import InvalidValueError
from search_spaces.metric import TASK_METRICS, TaskMetric
from search_spaces.program import Shape

ROUNDING = 1e-12
"""Standard deviation, relative to the mean, below which targets are equal but for rounding."""


class MeanAbsoluteError:
    """Mean of absolute differences in the unit of the targets; unknown targets (NaN) do not count.

    Args:
        mean: of the targets, per value.
        std: per value; outputs are the targets less ``mean``, over ``std``.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self._mean, self._std = mean, std
        self._sums: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        for given, wanted in in_parts(outputs, targets) if targets.ndim == 4 else [(outputs, targets)]:
            mean, std = (t.to(given.device).reshape(1, -1, *[1] * (given.ndim - 2)) for t in (self._mean, self._std))
            known = wanted.isfinite()
            error = torch.where(known, (given[:, : wanted.shape[1]] * std + mean - wanted).abs(), 0.0)
            self._sums.append(torch.stack([error.flatten(1).double().sum(1), known.flatten(1).double().sum(1)], 1))

    def value(self) -> float:
        sums = self._all()
        return self._of(np.ones(len(sums), np.int64), sums)

    def error(self) -> float | None:
        """Standard error, by the bootstrap over inputs."""
        sums = self._all()
        return bootstrap_error(lambda counts: self._of(counts, sums), len(sums))

    def _all(self) -> NDArray[np.float64]:
        """Sum of the differences and number of the known targets of each input, (inputs, 2)."""
        return torch.cat(self._sums).cpu().numpy()

    @staticmethod
    def _of(counts: NDArray[np.int64], sums: NDArray[np.float64]) -> float:
        total, known = counts @ sums
        return float(total / max(known, 1))


class R2:
    """Coefficient of determination, 1 - squared errors over squared differences from the mean, mean over the values.

    Of a value whose targets are all equal it is 0, or 1 where all outputs are right (scikit-learn's ``r2_score``).

    Args:
        mean: of the targets, per value.
        std: per value; outputs are the targets less ``mean``, over ``std``.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self._mean, self._std = mean, std
        self._given: list[Tensor] = []
        self._wanted: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        mean, std = self._mean.to(outputs.device), self._std.to(outputs.device)
        self._given.append(outputs[:, : targets.shape[1]].detach() * std + mean)
        self._wanted.append(targets)

    def value(self) -> float:
        given, wanted = self._all()
        return self._of(np.ones(len(given), np.int64), given, wanted)

    def error(self) -> float | None:
        """Standard error, by the bootstrap over inputs."""
        given, wanted = self._all()
        return bootstrap_error(lambda counts: self._of(counts, given, wanted), len(given))

    def _all(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return torch.cat(self._given).double().cpu().numpy(), torch.cat(self._wanted).double().cpu().numpy()

    @staticmethod
    def _of(counts: NDArray[np.int64], given: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
        mean = counts @ wanted / counts.sum()
        left, all_ = counts @ (given - wanted) ** 2, counts @ (wanted - mean) ** 2
        varies = all_ > counts.sum() * (ROUNDING * mean) ** 2
        shares = left / np.where(varies, all_, 1.0)
        return float(np.mean(np.where(varies, 1 - shares, left == 0)))


@dataclass(frozen=True)
class VectorRegression:
    """Numbers of each input: outputs are standardised values (B, values), targets are values (B, values), float32.

    Args:
        mean: of the training targets, per value.
        std: per value; networks give the values less ``mean``, over ``std``.
        unit: of the values; ``1``: none.
        judged_by: mae, the mean absolute error, or r2, the coefficient of determination.
        names: of the values; empty: they have none.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    unit: str = "1"
    judged_by: Literal["mae", "r2"] = "mae"
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_values(self.mean, self.std, self.names)
        if self.judged_by not in ("mae", "r2"):
            raise InvalidValueError(f"`judged_by` must be mae or r2, but got {self.judged_by!r}.")

    @property
    def metric(self) -> TaskMetric:
        known = TASK_METRICS[self.judged_by]
        return known if self.judged_by == "r2" else replace(known, unit=self.unit)

    @property
    def identity(self) -> str:
        return f"regression {self}"

    def check(self, networks: str, outputs: Mapping[str, Shape], data: str) -> None:
        check_vector(networks, outputs, data, len(self.mean), "values")

    @property
    def title(self) -> str:
        return f"{len(self.mean)} value{'s' * (len(self.mean) > 1)}"

    def notes(self, data: str, parts: Mapping[str, Any], outputs: Mapping[str, Shape]) -> list[str]:
        return _constant_notes(data, parts, len(self.mean))

    def move(self, targets: Tensor, movement: Tensor) -> Tensor:
        """The values as they are: they are of the input, wherever it lies in the image."""
        return targets

    def mix(self, targets: Tensor, others: Tensor, mixing: Mixing) -> Tensor:
        """Values between those of both inputs, by their shares."""
        return torch.lerp(targets, others, mixing.share[:, None].to(targets.dtype))

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Mean squared error of standardised values."""
        return functional.mse_loss(outputs[:, : len(self.mean)], _standardised(self, targets))

    def imitation(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        """Mean squared difference from what the teacher says."""
        return functional.mse_loss(outputs, teacher)

    def score(self) -> MeanAbsoluteError | R2:
        kind = MeanAbsoluteError if self.judged_by == "mae" else R2
        return kind(torch.tensor(self.mean), torch.tensor(self.std))

    def output(self, shapes: Mapping[str, Shape]) -> Mapping[str, Any]:
        ((name, shape),) = shapes.items()
        meaning = _meaning(self.unit) + first_of(shape, len(self.mean), "values")
        output = {"name": name, "shape": list(shape), "meaning": meaning}
        return {"output": output, **_scale(self.mean, self.std, self.unit, self.names)}


@dataclass(frozen=True)
class DenseRegression:
    """Numbers of each pixel: outputs are standardised values (B, values, h, w), targets are (B, values, H, W), float32.

    Outputs may be coarser than targets; they are brought to the targets' size bilinearly. Unknown targets are NaN.

    Args:
        mean: of the training targets, per value.
        std: per value; networks give the values less ``mean``, over ``std``.
        unit: of the values, which are judged by their mean absolute error; ``1``: none.
        names: of the values; empty: they have none.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    unit: str = "1"
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_values(self.mean, self.std, self.names)

    @property
    def metric(self) -> TaskMetric:
        return replace(TASK_METRICS["mae"], unit=self.unit)

    @property
    def identity(self) -> str:
        return f"dense regression {self}"

    def check(self, networks: str, outputs: Mapping[str, Shape], data: str) -> None:
        check_map(networks, outputs, data, len(self.mean), "values per pixel")

    @property
    def title(self) -> str:
        return f"{len(self.mean)} value{'s' * (len(self.mean) > 1)} per pixel"

    def notes(self, data: str, parts: Mapping[str, Any], outputs: Mapping[str, Shape]) -> list[str]:
        return _constant_notes(data, parts, len(self.mean))

    def move(self, targets: Tensor, movement: Tensor) -> Tensor:
        """Values moved bilinearly; what comes in from outside is unknown."""
        return moved_values(targets, movement, math.nan)

    def mix(self, targets: Tensor, others: Tensor, mixing: Mixing) -> Tensor:
        """Values mixed as the pixels are."""
        return mixed_values(targets, others, mixing)

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Mean absolute error of the standardised values that are known; 0 where none is."""
        given = upsampled(outputs[:, : len(self.mean)], tuple(targets.shape[-2:]))
        known = targets.isfinite()
        wanted = _standardised(self, targets.nan_to_num())
        return torch.where(known, (given - wanted).abs(), 0.0).sum() / known.sum().clamp(min=1)

    def imitation(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        """Mean absolute difference from what the teacher says, in the size of the outputs."""
        return functional.l1_loss(outputs, upsampled(teacher, tuple(outputs.shape[-2:])))

    def score(self) -> MeanAbsoluteError:
        return MeanAbsoluteError(torch.tensor(self.mean), torch.tensor(self.std))

    def output(self, shapes: Mapping[str, Shape]) -> Mapping[str, Any]:
        ((name, shape),) = shapes.items()
        meaning = (
            f"{_meaning(self.unit)}, {shape[2]} x {shape[3]} over the whole image: resize bilinearly to the size that "
            f"is wanted, with the centres of pixels corresponding{first_of(shape, len(self.mean), 'values')}"
        )
        output = {"name": name, "shape": list(shape), "meaning": meaning}
        return {"output": output, **_scale(self.mean, self.std, self.unit, self.names)}


def check_values(mean: Sequence[float], std: Sequence[float], names: Sequence[str]) -> None:
    """Check what the values of a task are standardised by.

    Raises:
        InvalidValueError: means and deviations are not as many, or no positive numbers.
    """
    if not mean or len(mean) != len(std) or not all(map(math.isfinite, [*mean, *std])) or min(std) <= 0:
        raise InvalidValueError(
            f"Each value has a mean and a standard deviation > 0, but got mean={list(mean)} and std={list(std)}."
        )
    if names and len(names) != len(mean):
        raise InvalidValueError(f"Each of {len(mean)} values has a name, or none has one, but got {list(names)}.")


def _constant_notes(data: str, parts: Mapping[str, Any], count: int) -> list[str]:
    """Note on values that are the same in all training images.

    Raises:
        InvalidValueError: all are.
    """
    targets = getattr(parts["train"], "labels", None)
    if targets is None:  # of a user's own, which is not looked through
        return []
    values = np.moveaxis(np.asarray(targets), 1, 0).reshape(count, -1)  # (values, all targets)
    constant = np.flatnonzero(np.nanmax(values, 1) == np.nanmin(values, 1)).tolist()
    if len(constant) == count:
        raise InvalidValueError(
            f"All training images of {data!r} have the same values, so there is nothing to learn. Give other images, "
            "or another split."
        )
    return [f"value {value} of {data!r} is the same in all training images" for value in constant]


def _standardised(task: VectorRegression | DenseRegression, targets: Tensor) -> Tensor:
    shape = (1, -1, *[1] * (targets.ndim - 2))
    mean, std = (targets.new_tensor(numbers).reshape(shape) for numbers in (task.mean, task.std))
    return (targets - mean) / std


def _meaning(unit: str) -> str:
    return f"values: multiply by std and add mean{'' if unit == '1' else f', which gives {unit}'}"


def _scale(mean: Sequence[float], std: Sequence[float], unit: str, names: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"output_mean": list(mean), "output_std": list(std)}
    return found | ({} if unit == "1" else {"unit": unit}) | ({"names": list(names)} if names else {})

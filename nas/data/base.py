"""Data: inputs with their targets in three parts, of which one is guarded, and the task that they are for."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from nas.tasks import Task
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Size, image_size, size_text
from search_spaces.program import Shape

if TYPE_CHECKING:
    from torch import Tensor

PartName = Literal["train", "validation", "test"]
PARTS: tuple[PartName, ...] = ("train", "validation", "test")

Batch = tuple["Tensor", Any]
"""Inputs (B, *shape), normalised, and their targets in the form of the task."""


class Digest(Protocol):
    """A hash that takes bytes, such as those of hashlib."""

    def update(self, content: Any, /) -> None:
        """Take bytes, or a contiguous array, into account."""


class Preparation(Protocol):
    """Steps that make raw inputs of what is stored; a deployed network needs the same."""

    @property
    def steps(self) -> list[str]:
        """The steps in words, in their order."""

    def to_json(self) -> dict[str, Any]:
        """Settings of the steps, JSON-able."""


class Samples(Protocol):
    """Inputs with their targets, by number: one part of some data."""

    def __len__(self) -> int: ...

    @property
    def in_memory(self) -> bool:
        """True where all of it is kept in memory, so that taking a batch costs nothing."""

    @property
    def shape(self) -> Shape:
        """Shape of one input, without the batch."""

    def take(self, rows: Tensor) -> Batch:
        """Inputs and targets of the given rows (B,), in their order; called in worker processes too."""

    def update(self, digest: Digest) -> None:
        """Hash the content, so that equal content has equal fingerprints in every process."""


@dataclass(frozen=True, eq=False)
class Data:
    """Data of a task: a part to train on, one to choose by, and one that is looked at once.

    The test part is no attribute: only verification calls `test_part`, so that nothing can be trained on it, chosen by
    it or tuned to it by accident.

    Args:
        name: what users call it.
        train: what weights and BatchNorm statistics come from.
        validation: what architectures and settings are chosen by.
        test: what the chosen networks are reported on.
        task: what the targets are for.
        mean: per channel, of the raw training pixels (0 is black); subtracted from all inputs.
        std: per channel; what all inputs were divided by.
        scale: what raw pixels were divided by before that, such as 255 for bytes; mean and std are of the quotients.
        kind: word for one input.
        preparation: steps that made the raw inputs; None: they are as they were stored.
        notes: on what is unusual, a clause each.

    ``definition``: settings that make the data again, where it was made by name.
    """

    name: str
    train: Samples
    validation: Samples
    test: InitVar[Samples]
    task: Task
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1.0
    kind: str = "image"
    preparation: Preparation | None = None
    notes: tuple[str, ...] = ()
    definition: Mapping[str, Any] | None = field(default=None, init=False)

    def __post_init__(self, test: Samples) -> None:
        object.__setattr__(self, "_test", test)
        shape = self.train.shape
        for name, part in zip(PARTS, (self.train, self.validation, test), strict=True):
            if part.shape != shape:
                raise InvalidValueError(
                    f"All parts of {self.name!r} have inputs of one shape, but {name} has {part.shape} and train has "
                    f"{shape}."
                )
        check = getattr(self.task, "check_labels", None)
        for name, part in zip(PARTS, (self.train, self.validation, test), strict=True):
            if check is not None:
                check(part.labels, f"{name} of {self.name!r}")  # type: ignore[attr-defined]
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0:
            raise InvalidValueError(
                f"`mean` and `std` hold one number per channel and std > 0, but got {self.mean=} and {self.std=}."
            )

    def __repr__(self) -> str:
        """Equal for equal content, so that what a search with them has left is known by it."""
        return f"Data({self.name!r}, {self.fingerprint})"

    def test_part(self) -> Samples:
        """The test part. For verification alone: whoever chooses anything by it has no test part any more."""
        part: Samples = vars(self)["_test"]
        return part

    @property
    def channels(self) -> int:
        """Channels of the inputs."""
        return self.train.shape[0]

    @property
    def resolution(self) -> Size:
        """Native height and width of the images; one number for squares."""
        return image_size(self.train.shape)

    @property
    def black(self) -> Tensor:
        """Normalised value of a raw 0, shape (1, C, 1, 1)."""
        import torch

        return -(torch.tensor(self.mean) / torch.tensor(self.std)).reshape(1, -1, 1, 1)

    @functools.cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of the training and validation parts, equal in every process."""
        return self._digest(self.train, self.validation)

    @functools.cached_property
    def test_fingerprint(self) -> str:
        """`fingerprint` of the test part, which is not looked at otherwise."""
        return self._digest(self.test_part())

    def _digest(self, *parts: Samples) -> str:
        of_shape = "" if isinstance(self.resolution, int) else f" {size_text(self.resolution)}"
        digest = hashlib.sha256(f"{self.name} {self.task.identity}{of_shape}".encode())
        for part in parts:
            part.update(digest)
        return digest.hexdigest()[:16]

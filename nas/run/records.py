"""Forms of the small files of a run folder that several stages read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import ArchitectureJson
from search_spaces.base.checked import read_checked
from search_spaces.base.errors import DamagedFileError

log = logging.getLogger(__name__)

CHOSEN = ("fastest", "knee", "most accurate")
"""Labels that say how a network compares with the others."""


class Claim(TypedDict):
    """run.json, as far as it says whose folder it is."""

    space: str
    fingerprint: str


class Marker(TypedDict):
    """stages/<stage>.json."""

    identity: NotRequired[str]
    seconds: NotRequired[float]
    complete: NotRequired[bool]
    command: NotRequired[str]
    seed: NotRequired[int]
    data: NotRequired[str]
    made: NotRequired[dict[str, str]]


@dataclass(frozen=True)
class Column:
    """What is known of all networks of a front.

    Args:
        name: as settings and files have it, such as ``latency_ms``.
        unit: such as ``ms``; ``1`` for a share of 1.
        goal: to be maximised or minimised; None: neither.
        limit: what the search had to keep to; None: nothing.
        at_least: the limit is a least value; None: as is usual for the goal and the name.
    """

    name: str
    unit: str
    goal: Literal["max", "min"] | None = None
    limit: float | None = None
    at_least: bool | None = None

    def __post_init__(self) -> None:
        if self.at_least is None:
            usual = self.goal == "max" or (self.goal is None and self.name == "accuracy")
            object.__setattr__(self, "at_least", usual)

    def keeps(self, values: NDArray[np.float64], limit: float) -> NDArray[np.bool_]:
        """Which values (n,) keep a limit; unknown ones (NaN) do not."""
        return np.asarray(values >= limit if self.at_least else values <= limit)

    def strictest(self, limits: Sequence[float | None]) -> float | None:
        """Of several limits on this value."""
        given = [limit for limit in limits if limit is not None]
        return (max if self.at_least else min)(given) if given else None

    @property
    def sign(self) -> str:
        """Between name and limit."""
        return "≥" if self.at_least else "≤"


@dataclass(frozen=True, kw_only=True)
class Point:
    """A network of a front; ``values`` are all that are known of it, by name, as the search had them.

    The others are those of the file's device; a file of an older version has no more than these.
    """

    architecture: ArchitectureJson
    accuracy: float | None = None
    latency_ms: float | None = None
    memory_bytes: float | None = None
    values: Mapping[str, float | None] | None = None


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a searcher found, and how: ``history`` has the hypervolume after a number of evaluations, ``failed`` says
    how many evaluations gave nothing, and ``stopped`` why it ended before its budget."""

    front: Sequence[Point]
    hypervolume: float
    evaluations: int
    failed: int = 0
    stopped: str | None = None
    seconds: float
    history: Sequence[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Search:
    """search/<device>.json; the first searcher is the run's own.

    Args:
        device: whose latency it is.
        joint: the devices that it is for at once; None: for ``device`` alone.
        limits: as the user set them, by name; those of the objectives may be stricter by a margin.
        objectives: goals, limits and what else is known; None in a file of an older version.
        reference: the value of each goal that bounds the hypervolume.
        searchers: what they found.
        without_front: others, and why they have none.
    """

    device: str
    joint: Sequence[str] | None = None
    limits: Mapping[str, float | None]
    objectives: Sequence[Column] | None = None
    reference: Sequence[float]
    searchers: Mapping[str, Searched]
    without_front: Mapping[str, str] = field(default_factory=dict)


class Tested(TypedDict):
    """verify/<device>.json, as far as it says how many images judged."""

    test_images: int


class Predicted(TypedDict):
    """Predicted values of a network; ``values`` are all of them by name."""

    accuracy: float | None
    latency_ms: float | None
    memory_bytes: float | None
    values: dict[str, float | None]


class Exported(TypedDict):
    """A network of export/<device>/networks.json; ``row`` is its number on the front, from 1."""

    label: str
    folder: str
    row: int
    predicted: Predicted
    evaluated_accuracy: float | None
    parity: dict[str, float]


class Evaluated(TypedDict):
    """How many networks a front had, how many were evaluated, and how many were left to choose from."""

    networks: int
    evaluated: int
    left: int


class Exports(TypedDict):
    """export/<device>/networks.json."""

    device: str
    objectives: list[Column]
    recalibration_images: int
    front: Evaluated
    picked: bool
    networks: list[Exported]


def read_claim(folder: Path) -> Claim:
    """Whose folder it is.

    Raises:
        DamagedFileError: run.json does not say it.
    """
    remedy = "Delete it to have it made again; the next command then says whose folder it is."
    return read_checked(folder / "run.json", Claim, remedy)


def read_marker(path: Path) -> Marker:
    """What is known of a stage; of a file that is not there or damaged, nothing, so that the stage is run again."""
    if not path.exists():
        return {}
    try:
        return read_checked(path, Marker, "It is made again.")
    except DamagedFileError as error:
        log.warning("%s", error)
        return {}

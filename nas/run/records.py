"""Forms of the small files of a run folder that several stages read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

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


class Limits(TypedDict):
    """What a measured network has to keep to; None: no limit."""

    latency_ms: float | None
    memory_bytes: float | None


class Point(TypedDict):
    """A network of a front, as far as the stages after the search read it."""

    architecture: dict[str, Any]
    accuracy: float | None
    latency_ms: float | None
    memory_bytes: float | None


class Searched(TypedDict):
    """What a searcher found."""

    front: list[Point]


class Search(TypedDict):
    """search/<device>.json; the first searcher is the run's own."""

    limits: Limits
    searchers: dict[str, Searched]


class Tested(TypedDict):
    """verify/<device>.json, as far as it says how many images judged."""

    test_images: int


class Objective(TypedDict):
    """What is known of all networks of a front, such as ``latency_ms``; see `nas.run.fronts.Column`."""

    name: str
    unit: str
    goal: Literal["max", "min"] | None
    limit: float | None
    at_least: bool


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
    objectives: list[Objective]
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


def read_points(path: Path) -> tuple[str, Limits, list[Point]]:
    """The run's own searcher, limits, and the networks that it found, one or more, of ``search/<device>.json``.

    Raises:
        StorageError: the file cannot be opened.
        DamagedFileError: it is no front.
    """
    remedy = "Run `nas search` again, or give a file that it has written."
    found = read_checked(path, Search, remedy)
    for searcher, searched in found["searchers"].items():
        if searched["front"]:
            return searcher, found["limits"], searched["front"]
        break
    raise DamagedFileError(f"{path} holds an empty front. {remedy}")


def read_marker(path: Path) -> Marker:
    """What is known of a stage; of a file that is not there or damaged, nothing, so that the stage is run again."""
    if not path.exists():
        return {}
    try:
        return read_checked(path, Marker, "It is made again.")
    except DamagedFileError as error:
        log.warning("%s", error)
        return {}

"""What a network is judged by: a quantity with a name, a unit and a direction, and a limit on it."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Literal

from search_spaces.base.errors import InvalidValueError

Direction = Literal["min", "max"]
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Metric:
    """A quantity of a network.

    Args:
        name: as settings and files have it, such as ``latency_ms``: the unit is part of it.
        unit: of the values, such as ``ms``; ``1`` for a share or a count.
        direction: whether less or more of it is better; a limit is the largest or the least value accordingly.
        of_layers: whether the values of layers add up to that of the network, or the largest is it; None: it is known
            of whole networks alone.
        estimated: values are a compiler's, a simulator's or a formula's, not measured.
        title: what a person calls it; the name without its unit where empty.
    """

    name: str
    unit: str
    direction: Direction = "min"
    of_layers: Literal["sum", "max"] | None = None
    estimated: bool = False
    title: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise InvalidValueError(
                f"A metric's name is of lower-case letters, digits and _, such as energy_mj, but got {self.name!r}."
            )
        if self.direction not in ("min", "max"):
            raise InvalidValueError(f"The direction of {self.name} is min or max, but got {self.direction!r}.")
        if self.of_layers not in ("sum", "max", None):
            raise InvalidValueError(f"`of_layers` of {self.name} is sum, max or None, but got {self.of_layers!r}.")
        if not self.title:
            object.__setattr__(self, "title", self.name.removesuffix(f"_{self.unit}").replace("_", " "))


ACCURACY = Metric("accuracy", "1", "max")
LATENCY = Metric("latency_ms", "ms", of_layers="sum")
MEMORY = Metric("memory_bytes", "bytes", of_layers="max")
MACS = Metric("macs", "1", of_layers="sum", title="MACs")
PARAMS = Metric("params", "1", of_layers="sum", title="parameters")

BUILT_IN = {metric.name: metric for metric in (ACCURACY, LATENCY, MEMORY, MACS, PARAMS)}
"""Metrics that every run has, by name."""


@dataclass(frozen=True)
class Limit:
    """A bound on a metric: the largest value where less is better, the least one where more is.

    Args:
        metric: that is bounded.
        bound: as the user set it, in the metric's unit.
        stated: how the user set it, for messages, such as ``limit.latency_ms=20``.
        margin: a search keeps this share of the bound away from it, so that measured networks keep the bound.
    """

    metric: Metric
    bound: float
    stated: str
    margin: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.bound) or (self.metric.direction == "min" and self.bound <= 0):
            rule = "a finite number > 0" if self.metric.direction == "min" else "a finite number"
            raise InvalidValueError(f"`{self.stated}` must be {rule}, but got {self.bound}.")
        if not 0 <= self.margin < 1:
            raise InvalidValueError(f"The margin of `{self.stated}` must be in [0, 1), but got {self.margin}.")

    def with_margin(self, margin: float) -> Limit:
        """The same limit, searched with a margin."""
        return dataclasses.replace(self, margin=margin)

    @property
    def searched(self) -> float:
        """What predicted values have to keep."""
        return self.bound * (1 - self.margin if self.metric.direction == "min" else 1 + self.margin)

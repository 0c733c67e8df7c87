"""Measures of a network: a quantity with a name, a unit and a direction, and a limit on it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import check_fields

Direction = Literal["min", "max"]
Number = TypeVar("Number", float, NDArray[np.float64])
NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)


def as_cost(values: Number, direction: Direction) -> Number:
    """Values so that less is better, and costs back as values. No other function flips a direction."""
    return values * (-1.0 if direction == "max" else 1.0)


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
        check_fields("a metric", self)
        if not NAME.fullmatch(self.name):
            raise InvalidValueError(
                f"A metric's name is of letters, digits and _, such as energy_mj, but got {self.name!r}."
            )
        if self.direction not in ("min", "max"):
            raise InvalidValueError(f"The direction of {self.name} is min or max, but got {self.direction!r}.")
        if self.of_layers not in ("sum", "max", None):
            raise InvalidValueError(f"`of_layers` of {self.name} is sum, max or None, but got {self.of_layers!r}.")
        if not self.title:
            object.__setattr__(self, "title", self.name.removesuffix(f"_{self.unit.lower()}").replace("_", " "))

    def cost(self, values: Number) -> Number:
        """Values so that less is better, and costs back as values; see `as_cost`."""
        return as_cost(values, self.direction)

    @property
    def sign(self) -> str:
        """Sign between the name and a limit."""
        return "≥" if self.direction == "max" else "≤"


@dataclass(frozen=True)
class TaskMetric(Metric):
    """A quantity that says how well a network does its task.

    Args:
        low: least value that there is.
        high: greatest value that there is.
    """

    low: float = -math.inf
    high: float = math.inf

    @property
    def is_share(self) -> bool:
        """True if it is a share of 1, which people read in percent."""
        return (self.unit, self.low, self.high) == ("1", 0, 1)

    def check(self, value: float, what: str) -> None:
        """Refuse a value that there is not.

        Raises:
            InvalidValueError: names it.
        """
        if not self.low <= value <= self.high:
            kind = "a fraction, 0 to 1" if self.is_share else f"in {self.low:g} to {self.high:g}"
            raise InvalidValueError(f"{what} is {kind}, but got {value:g}.")


ACCURACY = TaskMetric("accuracy", "1", "max", low=0, high=1)
BLOCK_LOSS = Metric("block_loss", "1", title="loss of blocks")
LATENCY = Metric("latency_ms", "ms", of_layers="sum")
MEMORY = Metric("memory_bytes", "bytes", of_layers="max")
MACS = Metric("macs", "1", of_layers="sum", title="MACs")
PARAMS = Metric("params", "1", of_layers="sum", title="parameters")
ACTIVATIONS = Metric("activations", "1", of_layers="sum")
TRAFFIC = Metric("traffic", "1", of_layers="sum", title="words of memory traffic")
INTENSITY = Metric("intensity", "MAC/byte", "max", title="arithmetic intensity")

COUNTED = {metric.name: metric for metric in (MACS, PARAMS, ACTIVATIONS, TRAFFIC, INTENSITY)}
"""Metrics that are counted from a network's operators, exactly, by name."""

TASK_METRICS = {
    metric.name: metric
    for metric in (
        ACCURACY,
        TaskMetric("macro_f1", "1", "max", title="macro F1", low=0, high=1),
        TaskMetric("mean_average_precision", "1", "max", title="mean average precision", low=0, high=1),
        TaskMetric("ap50", "1", "max", title="AP50", low=0, high=1),
        TaskMetric("miou", "1", "max", title="mIoU", low=0, high=1),
        TaskMetric("r2", "1", "max", title="R²", high=1),
        TaskMetric("mae", "1", title="mean absolute error", low=0),
        TaskMetric("psnr_db", "dB", "max", title="PSNR"),
    )
}
"""Metrics of tasks that are known by name; a task may have one of its own."""

BUILT_IN = {metric.name: metric for metric in (ACCURACY, LATENCY, MEMORY, *COUNTED.values())}
"""Metrics that every run has, by name."""


def title_of(name: str, unit: str) -> str:
    """Title of values under a name such as ``energy_mj`` or ``latency_ms@host``."""
    metric, _, device = name.partition("@")
    title = (known_metric(metric) or Metric(metric, unit)).title
    return f"{title} on {device}" if device else title


def known_metric(name: str) -> Metric | None:
    """The metric that every run, or a task, has under a name; None: neither."""
    return BUILT_IN.get(name) or TASK_METRICS.get(name)


@dataclass(frozen=True)
class Limit:
    """A bound on a metric: the largest value where less is better, the least one where more is.

    Args:
        metric: that is bounded.
        bound: in the metric's unit.
        setting: where the user set it, for messages, such as ``limit.latency_ms``.
        margin: a search keeps this share of the bound away from it, so that measured networks keep the bound.
        scale: the bound is this times what the user set, such as a share of the slowest network's latency.
        scale_of: what has that value, in words, such as ``the slowest network``.
        origin: what has the bound where the user set none, in words, such as ``the memory that a device has``.
    """

    metric: Metric
    bound: float
    setting: str = "limit"
    margin: float = 0.0
    scale: float = 1.0
    scale_of: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        check_fields("a limit", self)
        if not math.isfinite(self.bound):
            raise InvalidValueError(f"`{self.setting}` must be a finite number or null, but got {self.bound}.")
        if not 0 <= self.margin < 1:
            raise InvalidValueError(f"The margin of `{self.setting}` must be in [0, 1), but got {self.margin}.")

    @property
    def searched(self) -> float:
        """Bound that predicted values have to keep."""
        return self.bound * self._within if self.margin else self.bound

    def keeps(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Mask (n,) of predicted values that keep it; unknown ones (NaN) do not."""
        return np.asarray(self.metric.cost(values) <= self.metric.cost(self.searched))

    def excess(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Amount by which predicted values (n,) exceed it, relative to it; below 0 within it."""
        over = self.metric.cost(values) - self.metric.cost(self.searched)
        return np.asarray(over / max(abs(self.searched), 1e-12))

    def loosened(self, by: float) -> Limit:
        """A limit that predicted values keep which miss this one by so much."""
        bound = self.metric.cost(self.metric.cost(self.searched) + by)
        return dataclasses.replace(self, bound=bound, margin=0.0)

    @property
    def stated(self) -> str:
        """The limit as the user set it, and what predicted values have to keep where that is another number."""
        given = f"`{self.setting}`={setting_text(self.bound / self.scale)}"
        given += f" ({self.origin})" if self.origin else ""
        if self.margin == 0 and self.scale == 1:
            return given
        if self.scale_of:
            given += f" of the {with_unit(self.scale, self.metric.unit)} of {self.scale_of}"
        bound = "at least" if self.metric.direction == "max" else "at most"
        return f"{given} ({bound} {with_unit(self.searched, self.metric.unit)} predicted)"

    def nearest(self, value: float) -> str:
        """Bound to set, three significant digits, so that a predicted value is just within."""
        factor, step = self.scale * self._within, int(self.metric.cost(1.0))
        stated = value / factor
        unit = 10.0 ** (math.floor(math.log10(abs(stated))) - 2) if stated else 1.0
        steps = round(stated / unit)
        while (float(written := setting_text(steps * unit)) * factor - value) * step < 0:
            steps += step
        return f"`{self.setting}` to {written} or {'less' if step < 0 else 'more'}"

    @property
    def _within(self) -> float:
        return 1 + self.metric.cost(-self.margin)


def strictest(limits: Iterable[Limit | None]) -> Limit | None:
    """The limit of one metric that is hardest to keep; None: there is none."""
    given = [limit for limit in limits if limit is not None]
    return min(given, key=lambda limit: limit.metric.cost(limit.searched), default=None)


# -- numbers as text ---------------------------------------------------------------------------------------------------


def number_text(value: float) -> str:
    """A number with four significant digits, a large or a whole one with all before the point: 0.1235, 12,380."""
    size = abs(value)
    return f"{value:,.0f}" if size < 1e15 and (size >= 1000 or value == round(value)) else f"{value:.4g}"


def setting_text(value: float) -> str:
    """A number as a setting has it: six significant digits, a large or a whole one with all before the point."""
    size = abs(value)
    return f"{value:.0f}" if size < 1e15 and (size >= 1e5 or value == round(value)) else f"{value:g}"


def with_unit(value: float, unit: str) -> str:
    """A number, see `number_text`, and its unit; "1" is that of a share or a count, which has none."""
    return number_text(value) if unit in ("", "1") else f"{number_text(value)} {unit}"


_AMOUNT = re.compile(r"(\d+\.?\d*|\.\d+) ?([kKMG])(i?B?)", re.ASCII)


def amount_of(metric: str, value: Any) -> Any:
    """The number that a text such as 16KiB or 50M states, in the unit of a metric; anything else as it is.

    Bytes have K, Ki and KiB, of 1024, and KB, a thousand. What is counted and metrics of one's own have k, M and G: a
    thousand, a million and a billion.
    """
    found = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    is_count = known_metric(metric) is None or (metric in COUNTED and COUNTED[metric].unit == "1")
    if found is None or not (is_of_bytes(metric) or (is_count and not found[3])):
        return value
    thousand = 1024 if is_of_bytes(metric) and found[3] != "B" else 1000
    return float(found[1]) * thousand ** (1 + "KMG".index(found[2].upper()))


def is_of_bytes(metric: str) -> bool:
    """True if a metric, by name, is in bytes."""
    return metric.endswith("_bytes") or (metric in BUILT_IN and BUILT_IN[metric].unit == "bytes")


def amounts(metric: str) -> str:
    """Forms that `amount_of` takes for a metric that every run has, for messages; empty where there are none."""
    if is_of_bytes(metric):
        return " (bytes, or such as 16KiB, 1MB)"
    return " (or such as 200k, 50M)" if metric in COUNTED and COUNTED[metric].unit == "1" else ""

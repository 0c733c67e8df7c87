"""The report of a run: one HTML file that carries its figures in itself, and the figures as PNG files beside it.

Everything is read from the JSON files that the stages wrote; nothing is measured or evaluated here.
"""

from __future__ import annotations

import base64
import itertools
import math
import re
import statistics
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import jinja2
from matplotlib.figure import Figure

from nas.core.history import Epoch
from nas.report import figures
from nas.report.figures import (
    LayerPoint,
    NetworkRow,
    Pair,
    PlotPoint,
    Scatter,
    Unit,
    Waterline,
    duration,
    latency_unit,
    unit_for,
)
from nas.report.kinds import KindTable, kind_table
from nas.run.layer_costs import LayerCost, Roof, csv_of, layer_costs, roof_of, times_of, whole
from nas.run.objectives import BYTES
from nas.run.records import (
    CHOSEN,
    About,
    Column,
    Fits,
    Images,
    Point,
    Predicted,
    PredictorQuality,
    RecalibrationCost,
    Search,
    StageTime,
    Verification,
    VerifiedNetwork,
    best_of,
    judging,
    read_file,
)
from search_spaces.architecture import Architecture
from search_spaces.base.errors import DamagedFileError, StorageError
from search_spaces.base.storage import write_bytes, write_text
from search_spaces.metric import (
    ACCURACY,
    LATENCY,
    MACS,
    MEMORY,
    PARAMS,
    TASK_METRICS,
    Direction,
    TaskMetric,
    number_text,
)
from search_spaces.space import SearchSpace

NOISE_LIMIT = 1.1
"""Ratio of two measurements of one network above which the report warns."""
AGREEMENT = 0.15
"""A latency agrees with its prediction if it differs by no more than this share."""
ACCURACY_AGREEMENT = 0.03
"""An accuracy agrees with its prediction if it differs by no more than this, or by two standard errors; what is no
share of 1, if it differs by no more than this share of it."""
AGREEMENT_SHARE = 0.8
"""Share of a device's latencies, or accuracies, that agree below which the report warns."""
KENDALL_LIMIT = 0.8
"""Rank correlation on held-out networks below which the report warns."""
DRIFT_LIMIT = 1.1
"""Ratio of the device's speed on verifying to that on profiling beyond which the report warns."""
PARITY_LIMIT = 1e-3
"""Difference between the outputs of the exported and the trained network above which the report warns."""
SHARES = ("", "1")
"""Units of a share of 1, such as an accuracy."""
LATENCIES = ("latency_ms", "latency_share")
"""Goals that are latencies, of one device or of several."""
WITH_COLUMNS = [*TASK_METRICS, *(metric.name for metric in (LATENCY, MEMORY, MACS, PARAMS))]
"""Metrics that have columns of their own in the table of networks."""

# -- numbers as text ---------------------------------------------------------------------------------------------------


def significant(value: float) -> str:
    """Three significant digits without an exponent."""
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    return _minus(f"{round(value, digits):,.{max(digits, 0)}f}")


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 1 in percent."""
    return "–" if share is None else _minus(f"{100 * share:.{digits}f}\u00a0%")


def points(share: float | None) -> str:
    """A share of 1 in percent, where the unit stands elsewhere."""
    return "–" if share is None else _minus(f"{100 * share:.1f}")


def kibibytes(count: float | None) -> str:
    """Bytes in KiB, where the unit stands elsewhere."""
    return "–" if count is None else f"{count / 1024:,.1f}"


def error(share: float | None) -> str:
    """A relative error in percent, with its sign."""
    return "–" if share is None else f"{signed(100 * share)}\u00a0%"


def exponential(value: float | None) -> str:
    """A small number as a digit and a power of ten."""
    return "–" if value is None else _minus(f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e+"))


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign."""
    return _minus(f"{value:+.{digits}f}")


def latency(milliseconds: float, unit: Unit | None = None) -> str:
    """A latency in the given unit, or in the one that suits it."""
    unit = unit or latency_unit([milliseconds])
    return f"{significant(milliseconds * unit.factor)}\u00a0{unit.name}"


def memory(count: float | None) -> str:
    """Bytes in KiB or MiB."""
    if count is None:
        return "–"
    return f"{count / 1024:.1f}\u00a0KiB" if count < 1024**2 else f"{count / 1024**2:.1f}\u00a0MiB"


def amount(count: float) -> str:
    """A count with k, M or G."""
    for factor, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{significant(count / factor)}\u00a0{name}"
    return f"{count:,.0f}" if count == round(count) else significant(count)


def regret(value: float, unit: str, is_share: bool = True) -> str:
    """A regret in the unit of what was predicted; that of a share is in points."""
    if unit in SHARES and not is_share:
        return significant(value)
    if unit == "ms":
        return latency(value)
    if unit == "bytes":
        return memory(value)
    return f"{100 * value:.2f}\u00a0points" if unit in SHARES else f"{significant(value)}\u00a0{unit}"


def power_of_ten(number: str) -> str:
    """A big whole number, given as text, as a product with a power of ten."""
    digits = number.strip()
    if not digits.isdigit():
        return number
    if len(digits) <= 6:
        return f"{int(digits):,}"
    mantissa, exponent = f"{int(digits[:17]):.1e}".split("e")
    exponent = str(int(exponent) + max(len(digits) - 17, 0))
    return f"{mantissa}\u00a0×\u00a010{exponent.translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def _minus(text: str) -> str:
    return text.replace("-", "−")


@dataclass(frozen=True)
class Judge:
    """The metric that networks are judged by, in words and as numbers are read.

    Args:
        column: of it.
    """

    column: Column

    @property
    def metric(self) -> TaskMetric:
        """Metric of the task."""
        known = TASK_METRICS.get(self.column.name)
        direction: Direction = "max" if self.column.at_least else "min"
        return known or TaskMetric(self.column.name, self.column.unit, direction)

    @property
    def title(self) -> str:
        """Title, such as accuracy or mIoU."""
        return self.metric.title

    @property
    def heading(self) -> str:
        """The title as a sentence begins."""
        return self.title[:1].upper() + self.title[1:]

    @property
    def unit(self) -> Unit:
        """Unit that values are read in: percent of a share of 1."""
        return (
            Unit("%", 100.0) if self.metric.is_share else Unit("" if self.column.unit == "1" else self.column.unit, 1.0)
        )

    @property
    def axis(self) -> str:
        """Title and unit, such as mIoU (%)."""
        return f"{self.title} ({self.unit.name})" if self.unit.name else self.title

    @property
    def nouns(self) -> tuple[str, str]:
        """Noun for one value and for several."""
        if self.column.name == ACCURACY.name:
            return "accuracy", "accuracies"
        return f"{self.title} value", f"{self.title} values"

    @property
    def best(self) -> str:
        """Word for the network that is the best by it."""
        return best_of(self.column)

    def text(self, value: float | None) -> str:
        """A value with its unit."""
        if value is None or self.metric.is_share:
            return percent(value)
        return f"{self.number(value)}\u00a0{self.unit.name}".rstrip()

    def number(self, value: float | None) -> str:
        """A value, where the unit stands elsewhere."""
        return points(value) if value is None or self.metric.is_share else significant(value)

    def difference(self, value: float) -> str:
        """A difference of two values without its sign, in points of shares of 1."""
        if self.metric.is_share:
            return f"{100 * value:.1f} points"
        return f"{significant(value)} {self.unit.name}".rstrip()

    def signed(self, value: float | None) -> str:
        """A difference with its sign, where the unit stands elsewhere."""
        if value is None:
            return "–"
        if self.metric.is_share:
            return signed(100 * value)
        return ("+" if value > 0 else "") + significant(value)

    def error(self, value: float, stated: float | None, count: int) -> float | None:
        """Standard error of a value: as stated, or that of a share of right answers among so many; None: not known."""
        if stated is not None or self.column.name != ACCURACY.name:
            return stated
        return math.sqrt(value * (1 - value) / max(count, 1))

    def tolerance(self, value: float) -> float:
        """Difference up to which a value agrees with a prediction, its standard error aside."""
        return ACCURACY_AGREEMENT * (1.0 if self.metric.is_share else abs(value))

    @property
    def agreement(self) -> str:
        """Bounds within which a value agrees with a prediction, in words."""
        return f"{100 * ACCURACY_AGREEMENT:.0f} {'points' if self.metric.is_share else '%'}, or two standard errors,"


# -- what was found ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Values:
    """A metric of a device's verified networks, None where a value is not known.

    Args:
        title: of the metric.
        unit: that all of them read well in.
        known: measured, exact or predicted.
        predicted: of each network, in the metric's own unit.
        verified: of each network; the predicted ones unless measured.
    """

    title: str
    unit: Unit
    known: Literal["measured", "exact", "predicted"]
    predicted: Sequence[float | None]
    verified: Sequence[float | None]

    def text(self, value: float | None) -> str:
        """A value, where the unit stands elsewhere; whole numbers where all are whole."""
        if value is None:
            return "–"
        whole = all(v is None or (v * self.unit.factor).is_integer() for v in (*self.predicted, *self.verified))
        return _minus(f"{value * self.unit.factor:,.0f}") if whole else significant(value * self.unit.factor)

    def error(self, network: int) -> float | None:
        """Predicted over measured value, minus 1."""
        return _relative(self.predicted[network], self.verified[network])


RETRAINED_TITLES = {"finetune": "fine-tuned", "train-alone": "trained from nothing"}
"""Networks of the stages that train exported networks alone, in words."""


@dataclass(frozen=True)
class Device:
    """One device's search and verification, and what follows from them; ``exact`` names metrics that are known
    exactly."""

    name: str
    search: Search
    verification: Verification
    exact: Collection[str] = ()

    @property
    def title(self) -> str:
        return self.verification.title

    @property
    def networks(self) -> Sequence[VerifiedNetwork]:
        return self.verification.networks

    @property
    def is_trained(self) -> bool:
        return self.verification.is_trained

    @property
    def estimates(self) -> bool:
        return self.verification.estimates

    @property
    def estimate(self) -> str:
        """Noun for a value that is not measured, such as compiler’s estimate, where the backend says whose it is."""
        by = re.fullmatch(r"estimate by (\w+)", str(self.verification.environment.get("latency")))
        return f"{by[1]}’s estimate" if by else "estimate"

    @property
    def front_size(self) -> int:
        """Networks on the front of the run's own searcher."""
        return len(next(iter(self.search.searchers.values())).front) if self.search.searchers else 0

    @property
    def judge(self) -> Judge:
        """The metric that networks are judged by."""
        return Judge(judging(self.verification.objectives))

    def merit(self, network: VerifiedNetwork) -> float:
        """Value that was measured on the validation part, so that more is better; the least where nothing was."""
        value = network.measured.validation_accuracy
        if value is None:
            return 0.0 if self.judge.metric.direction == "max" else -math.inf
        return -self.judge.metric.cost(value)

    @property
    def best(self) -> VerifiedNetwork:
        """Network of the best measured validation accuracy, so that the test accuracy of the choice is not a choice by
        it.

        Of networks that are not trained it is the slowest.
        """
        if not self.is_trained:
            return max(self.networks, key=lambda n: n.measured.latency_ms)
        return max(self.networks, key=lambda n: (self.merit(n), -n.measured.latency_ms))

    @property
    def judges_accuracy(self) -> bool:
        """True if the search was for accuracy, and it was verified."""
        return self.is_trained and any(goal.judges for goal in self.goals)

    @property
    def cost(self) -> Column | None:
        """Goal that the summary compares networks in: latency, or where it is no goal the first that is minimised."""
        minimised = [goal for goal in self.goals if not goal.at_least and not goal.judges]
        if any(goal.name in LATENCIES for goal in minimised):
            return Column("latency_ms", "ms")
        return minimised[0] if minimised else None

    @property
    def by_latency(self) -> bool:
        """True if latency is a goal."""
        return self.cost is not None and self.cost.name == "latency_ms"

    @cached_property
    def gain(self) -> tuple[float, float] | None:
        """Gain of the network of the least cost against the most accurate one, or where accuracy is no goal that of the
        greatest cost: how many times as much the other one costs, and how much more accurate it is, in the unit of the
        test accuracy. None where nothing can be compared."""
        if self.cost is None or len(self.networks) < 2:
            return None
        judge = self.judge.column.name
        costs = [_verified(network, judge).get(self.cost.name) or 0.0 for network in self.networks]
        if min(costs) <= 0:
            return None
        least = self.networks[costs.index(min(costs))]
        other = costs[list(self.networks).index(self.best)] if self.judges_accuracy else max(costs)
        price = (self.best.measured.test_accuracy or 0.0) - (least.measured.test_accuracy or 0.0)
        return other / min(costs), -self.judge.metric.cost(price)

    @property
    def highlights(self) -> list[tuple[VerifiedNetwork, float]]:
        """The networks that stand for the front, and how many times as fast as the most accurate one they are, or where
        accuracy is no goal as the slowest."""
        chosen = [network for network in self.networks if is_chosen(network)] or list(self.networks[:3])
        latencies = [self.best] if self.judges_accuracy else self.networks
        slowest = max((network.measured.latency_ms for network in latencies), default=0.0)
        return [(network, slowest / network.measured.latency_ms) for network in chosen]

    @property
    def further_goals(self) -> list[Column]:
        """Goals other than accuracy and latency."""
        return [goal for goal in self.goals if not goal.judges and goal.name not in LATENCIES]

    @property
    def agreeing(self) -> int:
        """Networks whose latency agrees with its prediction."""
        return sum(abs(latency_error(network)) <= AGREEMENT for network in self.networks)

    @property
    def accurate(self) -> int:
        """Networks whose validation accuracy agrees with its prediction."""
        return sum(abs(error) <= self._tolerance(n) for n in self.networks if (error := accuracy_error(n)) is not None)

    @property
    def judged(self) -> int:
        """Networks whose accuracy is both predicted and measured."""
        return sum(accuracy_error(network) is not None for network in self.networks)

    def _tolerance(self, network: VerifiedNetwork) -> float:
        value = network.measured.validation_accuracy or 0.0
        error = self.judge.error(value, network.measured.validation_error, self.verification.validation_images)
        return max(self.judge.tolerance(value), 2 * (error or 0.0))

    @property
    def dominated(self) -> int:
        """Networks that another verified one dominates."""
        return sum(network.dominated_by is not None for network in self.networks)

    @property
    def retrained(self) -> dict[str, tuple[str, float]]:
        """Stages that have trained all of its networks alone: how its table calls them, and the median difference of
        the test score from that of the inherited weights."""
        found = {}
        for stage, title in RETRAINED_TITLES.items():
            if self.networks and all(stage in network.retrained for network in self.networks):
                gains = [n.retrained[stage].test - (n.measured.test_accuracy or 0.0) for n in self.networks]
                found[stage] = title, statistics.median(gains)
        return found

    @property
    def limits(self) -> list[str]:
        """The limits of the search, in words."""
        return [_limit(o) for o in self.verification.objectives if o.limit is not None]

    @property
    def goals(self) -> list[Column]:
        """The goals of the search."""
        return [objective for objective in self.verification.objectives if objective.goal]

    @property
    def axes(self) -> tuple[str, str]:
        """Titles of the axes of the front's figure, the vertical one first."""
        up, across = _axes(self.verification.objectives)
        return up.title, across.title

    @property
    def undrawn(self) -> list[str]:
        """Titles of the goals that the front's figure does not show."""
        drawn = [column.name for column in _axes(self.verification.objectives)]
        return [goal.title for goal in self.goals if goal.name not in drawn]

    @property
    def per_batch(self) -> str:
        """Words on what a latency is of, where it is not of one image."""
        batch = self.verification.batch
        return f" per batch of {batch}" if batch > 1 else ""

    @property
    def violations(self) -> list[tuple[str, str]]:
        """(network, what is violated)."""
        return [(network.label, text) for network in self.networks for text in network.violations]

    @property
    def limited(self) -> bool:
        """True if the search had a limit."""
        return bool(self.limits)

    @property
    def has_memory(self) -> bool:
        return any(values.memory_bytes is not None for n in self.networks for values in (n.predicted, n.measured))

    @property
    def has_accuracy(self) -> bool:
        known = ((n.predicted.accuracy, n.measured.validation_accuracy) for n in self.networks)
        return any(share is not None for shares in known for share in shares)

    @property
    def width(self) -> int:
        """Columns of the table of networks."""
        latencies = 3 + (not self.estimates) + bool(self.per_batch)
        others = sum(3 if values.known == "measured" else 1 for values in self.others)
        return 4 + 4 * self.has_accuracy + latencies + 3 * self.has_memory + others

    @cached_property
    def others(self) -> list[Values]:
        """Goals and limited metrics that have no columns of their own in the table of networks."""
        wanted = [o for o in self.verification.objectives if o.goal or o.limit is not None]
        wanted = [o for o in wanted if not o.judges]
        return [values for o in wanted if o.name not in WITH_COLUMNS and (values := self._values(o))]

    def _values(self, column: Column) -> Values | None:
        """Values of a metric; None where nothing is known."""
        judge = self.judge.column.name
        predicted = [_known(network.predicted, judge).get(column.name) for network in self.networks]
        measured = [network.measured.values.get(column.name) for network in self.networks]
        if any(value is not None for value in measured):
            known: Literal["measured", "exact", "predicted"] = "measured"
        else:
            known, measured = "exact" if column.name in self.exact else "predicted", predicted
        numbers = [value for value in (*predicted, *measured) if value is not None]
        unit = unit_for(column.unit, numbers)
        return Values(column.title, unit, known, predicted, measured) if numbers else None

    @property
    def unit(self) -> Unit:
        """Unit of all latencies in the device's table."""
        return latency_unit([n.measured.latency_ms for n in self.networks])

    @property
    def warnings(self) -> list[str]:
        """Warnings on the numbers, in words."""
        found = [f"“{label}”: {text}" for label, text in self.violations]
        noisy = [n.measured.noise for n in self.networks if n.measured.noise > NOISE_LIMIT]
        if noisy:
            found.append(
                f"{len(noisy)} of {_plural(len(self.networks), 'latency', 'latencies')} disturbed: "
                f"measured twice, the values differ by a factor of up to {max(noisy):.2f}"
            )
        unsure = [n.label for n in self.networks if not n.measured.agreed and n.measured.noise <= NOISE_LIMIT]
        if unsure:
            found.append(f"passes did not agree, or other programs took the CPU away, on measuring {', '.join(unsure)}")
        drift = self.verification.drift
        if max(drift, 1 / drift) > DRIFT_LIMIT:
            found.append(
                f"the device changed speed: networks took {drift:.2f} times as long on verifying as on profiling"
            )
        if self.agreeing < AGREEMENT_SHARE * len(self.networks):
            found.append(
                f"{_few(self.agreeing)} of {_plural(len(self.networks), 'latency', 'latencies')} "
                f"within {AGREEMENT:.0%} of the prediction".replace("%", "\u00a0%")
            )
        if not self.is_trained:
            found.append(
                "the networks are not trained: their weights are random, and nothing is known of their "
                f"{self.judge.title}"
            )
        if self.accurate < AGREEMENT_SHARE * self.judged:
            most = max(abs(accuracy_error(network) or 0.0) for network in self.networks)
            found.append(
                f"{_few(self.accurate)} of {_plural(self.judged, *self.judge.nouns)} within "
                f"{self.judge.agreement} of the prediction, which is up to {self.judge.difference(most)} off"
            )
        wrong = [n.label for n in self.networks if (n.parity or 0) > PARITY_LIMIT]
        if wrong:
            found.append(f"exported and trained network give different outputs: {', '.join(wrong)}")
        searchers = list(self.search.searchers.items())
        for name, other in searchers[1:]:
            if other.hypervolume > searchers[0][1].hypervolume:
                found.append(f"the contrast, {name}, found a better front than {searchers[0][0]}")
        for name in self.search.without_front:
            found.append(f"the contrast, {name}, found no network that keeps the limits")
        return found


@dataclass(frozen=True)
class Formats:
    """Networks in a short number format beside those in float32 on the same computer or board."""

    short: Device
    full: Device

    @property
    def beaten(self) -> int:
        """Short networks for which one in float32 is no slower and no less accurate, and better in one of the two."""
        return sum(any(self._better(other, network) for other in self.full.networks) for network in self.short.networks)

    def _better(self, one: VerifiedNetwork, other: VerifiedNetwork) -> bool:
        """True if a network is no slower and no less accurate than another one, and better in one of the two."""
        a, b = ((-self.full.merit(n), n.measured.latency_ms) for n in (one, other))
        return a != b and a[0] <= b[0] and a[1] <= b[1]

    @property
    def pointless(self) -> bool:
        """True if more than half of the short networks are beaten."""
        return 2 * self.beaten > len(self.short.networks)

    @property
    def text(self) -> str:
        """Note for the reader."""
        dtype, count = self.short.verification.dtype, len(self.short.networks)
        unit = latency_unit([d.best.measured.latency_ms for d in (self.short, self.full)])
        judge = self.full.judge
        ends = [
            f"{judge.text(d.best.measured.validation_accuracy)} at {latency(d.best.measured.latency_ms, unit)}"
            for d in (self.short, self.full)
        ]
        return (
            f"{dtype} ({self.short.name}) against float32 ({self.full.name}): {self.beaten} of {count} {dtype} "
            f"networks are beaten by a float32 network that is as fast and as "
            f"{'accurate' if judge.best == 'most accurate' else 'good'}, or better; the {judge.best} "
            f"reach {ends[0]} in {dtype} and {ends[1]} in float32 (validation {judge.title})"
        )


@dataclass(frozen=True)
class Content:
    """All that the report shows."""

    run: About
    data: Images | None
    stages: list[StageTime]
    epochs: list[Epoch]
    quality: Fits
    devices: list[Device]
    recalibration: RecalibrationCost | None = None

    @cached_property
    def seconds(self) -> float:
        """Time of the stages that were not skipped."""
        return sum(stage.seconds for stage in self.stages if not stage.skipped)

    @cached_property
    def verified(self) -> int:
        return sum(len(device.networks) for device in self.devices)

    @cached_property
    def agreeing(self) -> int:
        return sum(device.agreeing for device in self.devices)

    @cached_property
    def accurate(self) -> int:
        return sum(device.accurate for device in self.devices)

    @cached_property
    def judged(self) -> int:
        return sum(device.judged for device in self.devices)

    @cached_property
    def formats(self) -> list[Formats]:
        """Devices that differ in the number format alone."""
        with_networks = [device for device in self.devices if device.networks and device.is_trained]
        return [
            Formats(short, full)
            for short, full in itertools.permutations(with_networks, 2)
            if short.verification.dtype != full.verification.dtype == "float32" and _same_host(short, full)
        ]

    @cached_property
    def violations(self) -> int:
        return sum(len(device.violations) for device in self.devices)

    @cached_property
    def best_device(self) -> Device | None:
        """Device with the network of the best validation accuracy."""
        with_networks = [device for device in self.devices if device.networks]
        return max(with_networks, key=lambda d: d.merit(d.best), default=None)

    @cached_property
    def quickest_device(self) -> Device | None:
        """Device whose front gains the most; measured ones go before estimated ones."""
        gaining = [device for device in self.devices if device.gain]
        pointless = [formats.short.name for formats in self.formats if formats.pointless]
        return max(gaining, key=lambda d: (d.name not in pointless, not d.estimates, (d.gain or (0,))[0]), default=None)

    @cached_property
    def test_error(self) -> float | None:
        """Standard error of the best test accuracy: it is of a finite number of images. None: not known."""
        assert self.best_device is not None
        assert self.data is not None
        measured = self.best_device.best.measured
        return self.judge.error(measured.test_accuracy or 0.0, measured.test_error, self.data.test)

    @cached_property
    def judge(self) -> Judge:
        """The metric that networks are judged by."""
        return self.devices[0].judge if self.devices else Judge(Column.of(ACCURACY))

    @cached_property
    def warnings(self) -> list[tuple[str, list[str]]]:
        """(heading, warnings) of each device that has some, then of the predictors."""
        found = [(device.title, device.warnings) for device in self.devices if device.warnings]
        found += [
            (f"Measurements of {name} are doubtful", list(quality.doubts))
            for name, quality in self.quality.latency.items()
            if quality.doubts
        ]
        weak = [
            f"{name}: Kendall’s τ {quality.metrics.kendall_tau:.2f} on held-out networks"
            for name, quality in self.predictors
            if quality.metrics.kendall_tau < KENDALL_LIMIT
        ]
        pointless = [formats.text for formats in self.formats if formats.pointless]
        found += [("A number format that gains nothing here", pointless)] if pointless else []
        return [*found, ("Predictors that rank poorly", weak)] if weak else found

    @cached_property
    def predictors(self) -> list[tuple[str, PredictorQuality]]:
        """(name, quality) in reading order."""
        return [
            *([(self.judge.heading, self.quality.accuracy)] if self.quality.accuracy else []),
            *((f"Latency on {name}", quality) for name, quality in self.quality.latency.items()),
            *((f"Memory on {name}", quality) for name, quality in self.quality.memory.items()),
            *(
                (f"{metric.title.capitalize()} on {name}", quality)
                for metric, there in self.quality.others()
                for name, quality in there.items()
            ),
        ]

    def is_share(self, quality: PredictorQuality) -> bool:
        """True unless a predictor is of a task's metric that is no share of 1."""
        return quality is not self.quality.accuracy or self.judge.metric.is_share

    @cached_property
    def differences(self) -> list[tuple[str, str, int, int]]:
        """(device, device, differing choices, all choices) between the knees of each two devices."""
        knees = [
            (device.name, network.architecture["choices"])
            for device in self.devices
            for network in device.networks
            if "knee" in network.label.split(" and ")
        ]
        found = []
        for (first, choices), (second, others) in itertools.combinations(knees, 2):
            names = dict.fromkeys([*choices, *others])
            differing = sum(choices.get(name) != others.get(name) for name in names)
            found.append((first, second, differing, len(names)))
        return found


def is_chosen(network: VerifiedNetwork) -> bool:
    """True if a network is one of those that stand for a front."""
    return any(name in CHOSEN for name in network.label.split(" and "))


def accuracy_error(network: VerifiedNetwork) -> float | None:
    """Predicted less measured validation accuracy, in the unit of the task's metric; None where one is not known."""
    predicted, measured = network.predicted.accuracy, network.measured.validation_accuracy
    return None if predicted is None or measured is None else predicted - measured


def _same_host(one: Device, other: Device) -> bool:
    """True if two devices are the same software on the same computer or board, with the same threads and batch."""
    first, second = one.verification, other.verification
    places = [[v.environment.get(key) for key in ("cpu", "os", "provider", "accelerator")] for v in (first, second)]
    same = (first.backend, first.threads, first.batch) == (second.backend, second.threads, second.batch)
    return same and places[0] == places[1]


def _limit(objective: Column) -> str:
    """A limit in words."""
    return f"{objective.title} {objective.sign} {_with_unit(objective, objective.limit)}"


def verified_value(network: VerifiedNetwork, column: Column) -> str:
    """A value of a network after measuring, with its unit; none of the task's metric."""
    return _with_unit(column, _verified(network, ACCURACY.name).get(column.name), significant)


def _with_unit(column: Column, value: float | None, number: Callable[[float], str] = number_text) -> str:
    if value is None or column.judges:
        return Judge(column).text(value)
    if column.unit == "ms":
        return latency(value)
    if column.unit == "bytes":
        return memory(value)
    return amount(value) if column.unit in SHARES else f"{_minus(number(value))}\u00a0{column.unit}"


def latency_error(network: VerifiedNetwork) -> float:
    """Predicted over measured latency, minus 1."""
    return network.predicted.latency_ms / network.measured.latency_ms - 1


def memory_error(network: VerifiedNetwork) -> float | None:
    """Predicted over measured memory, minus 1; None where one is not known."""
    return _relative(network.predicted.memory_bytes, network.measured.memory_bytes)


def _relative(predicted: float | None, measured: float | None) -> float | None:
    return predicted / measured - 1 if predicted is not None and measured else None


def _few(count: int) -> str:
    return f"only {count}" if count else "none"


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


# -- reading, drawing, writing -----------------------------------------------------------------------------------------


def write_report(
    run: Path,
    space: SearchSpace,
    out: Path,
    devices: Sequence[str] | None = None,
    exact: Collection[str] = (),
    buffer_kib: float = 0.0,
) -> Path:
    """Write ``report.html``, its figures and ``layers.csv``, the layers of the verified networks, into a folder.

    Args:
        run: folder of the run, where the stages wrote their JSON files.
        space: the space that the run searched.
        out: folder to write to.
        devices: names of those to report on; None: all that the folder has files of.
        exact: metrics besides MACs and parameters that are known exactly, such as plain functions, by name.
        buffer_kib: on-chip buffer at which memory traffic is counted.

    Returns:
        Path of the HTML file.

    Raises:
        StorageError: a stage has not been run yet (it is named), or a file cannot be read or written.
        DamagedFileError: a file of the run is damaged or lacks something.
        MismatchError: the run is of another space.
    """
    content = read_run(run, devices, exact)
    layers = {device.name: _layers(device, run, space, buffer_kib) for device in content.devices}
    roofs = {device.name: _roof(device, run, space) for device in content.devices}
    drawn = {name: figures.png(figure) for name, figure in draw(content, space, layers, roofs).items()}
    for name, image in drawn.items():
        write_bytes(out / "figures" / f"{name}.png", image)
    rows = ((device, split.network.label, split.layers) for device, splits in layers.items() for split in splits)
    write_text(out / "layers.csv", csv_of(rows))
    path = out / "report.html"
    networks = [
        (device.title, network.label, space.lower(Architecture.from_json(space, network.architecture)))
        for device in content.devices
        for network in device.networks
    ]
    write_text(path, _html(content, drawn, layers, buffer_kib, kind_table(space, networks)))
    return path


def read_run(run: Path, devices: Sequence[str] | None = None, exact: Collection[str] = ()) -> Content:
    """Read and check the files of a run, of the given devices or of all, in the order of the fitted predictors."""
    quality = Fits.read(run / "fit" / "quality.json")
    present = [name for part in ("search", "verify") for name in sorted(p.stem for p in (run / part).glob("*.json"))]
    if not present:
        raise StorageError(f"{run / 'search'} holds no device: run `nas search` first.")
    names = dict.fromkeys(devices or [*(name for name in quality.latency if name in present), *present])
    found = [
        Device(
            name,
            Search.read(run / "search" / f"{name}.json"),
            Verification.read(run / "verify" / f"{name}.json"),
            exact,
        )
        for name in names
    ]
    about, weighed = About.read(run / "run.json"), run / "label" / "recalibration.json"
    if about.data is None and any(device.is_trained for device in found):
        raise DamagedFileError(f"{run / 'run.json'} does not say what the data are. Run `nas report` again.")
    return Content(
        run=about,
        data=about.data,
        stages=read_file(run / "stages.json", list[StageTime], "run"),
        epochs=read_file(run / "train" / "history.json", list[Epoch], "train") if (run / "train").exists() else [],
        quality=quality,
        devices=found,
        recalibration=RecalibrationCost.read(weighed) if weighed.exists() else None,
    )


@dataclass(frozen=True)
class Split:
    """A verified network as the costs of its layers and of the whole."""

    network: VerifiedNetwork
    layers: Sequence[LayerCost]
    whole: LayerCost

    @property
    def rows(self) -> list[LayerCost]:
        """The layers, then the whole."""
        return [*self.layers, self.whole]


def _layers(device: Device, run: Path, space: SearchSpace, buffer_kib: float) -> list[Split]:
    """The verified networks of a device, each split into its layers; none where their times are not known."""
    architectures = [Architecture.from_json(space, network.architecture) for network in device.networks]
    about, found = device.verification, []
    word_bytes = BYTES.get(about.dtype, 4)
    for network, architecture, times in zip(
        device.networks, architectures, times_of(run, space, device.name, architectures) or (), strict=False
    ):
        costs = layer_costs(
            architecture.layers,
            times,
            network.measured.latency_ms,
            batch=about.batch,
            word_bytes=word_bytes,
            buffer_words=int(buffer_kib * 1024 // word_bytes),
        )
        total = whole(costs, network.measured.latency_ms, batch=about.batch, word_bytes=word_bytes)
        found.append(Split(network, costs, total))
    return found


def _roof(device: Device, run: Path, space: SearchSpace) -> Roof | None:
    """The roof of a device, to be drawn above the layers of its verified networks."""
    networks = [Architecture.from_json(space, network.architecture) for network in device.networks]
    latencies = [network.measured.latency_ms for network in device.networks]
    return roof_of(run, space, device.name, networks, latencies, device.verification.batch)


def _waterline(device: Device, splits: Sequence[Split], roof: Roof | None) -> Figure:
    """The layers of up to three networks of a device, of those first that stand for its front."""
    shown = sorted(splits, key=lambda split: not is_chosen(split.network))[:3]
    batch = device.verification.batch
    return figures.waterline(
        [
            Waterline(
                split.network.label,
                [
                    LayerPoint(layer.position, layer.kind, batch * layer.macs, layer.latency_ms)
                    for layer in split.layers
                ],
            )
            for split in shown
        ],
        roof,
    )


def draw(
    content: Content,
    space: SearchSpace,
    layers: Mapping[str, Sequence[Split]],
    roofs: Mapping[str, Roof | None],
) -> dict[str, Figure]:
    """All figures by file name; one that would be empty is left out.

    Args:
        content: of the report.
        space: of the networks.
        layers: the networks of each device, split.
        roofs: of each device, where it is known.
    """
    drawn = {
        f"front_{device.name}": _front(device)
        for device in content.devices
        if any(points for _, points in _fronts(device))
    }
    rows = [row for device in content.devices for row in _network_rows(device, space)]
    if rows:
        drawn["networks"] = figures.networks(rows)
    drawn |= {
        f"waterline_{device.name}": _waterline(device, layers[device.name], roofs[device.name])
        for device in content.devices
        if layers[device.name]
    }
    drawn["predictors"] = figures.scatter(
        [
            scatter_panel(
                name, quality.unit, held_out.truth, held_out.predicted, is_share=content.is_share(quality)
            )._replace(std=held_out.std or ())
            for name, quality in content.predictors
            for held_out in [quality.held_out]
        ]
    )
    judged = content.quality.accuracy
    if judged is not None and (curve := judged.learning) is not None:
        drawn["learning"] = figures.learning(content.judge.heading, curve.networks, curve.kendall_tau, curve.doubled)
    drawn["hypervolume"] = figures.hypervolume(
        [
            (
                device.name,
                {name: searched.history for name, searched in device.search.searchers.items()},
            )
            for device in content.devices
        ]
    )
    if content.epochs:
        drawn["training"] = figures.training(
            [epoch.epoch for epoch in content.epochs],
            [epoch.loss for epoch in content.epochs],
            {
                "biggest network": [epoch.biggest_accuracy for epoch in content.epochs],
                "smallest network": [epoch.smallest_accuracy for epoch in content.epochs],
            },
            content.judge.axis,
            content.judge.unit.factor,
        )
    drawn["stages"] = figures.stages(
        [stage.stage for stage in content.stages],
        [stage.seconds for stage in content.stages],
        [stage.skipped for stage in content.stages],
    )
    return drawn


def _front(device: Device) -> Figure:
    nobody: tuple[str, list[PlotPoint]] = ("", [])
    up, across = _axes(device.verification.objectives)
    (found_by, found), (contrast_by, contrast), *_ = [*_fronts(device), nobody, nobody]
    pairs, judge = [], device.judge.column.name
    for network in device.networks:
        known = _points([_known(network.predicted, judge), _verified(network, judge)], up.name, across.name)
        if len(known) == 2:
            pairs.append(Pair(_chosen_label(network), *known))
    baselines = {
        name: _points([_known(point, judge) for point in points], up.name, across.name)
        for name, points in device.search.baselines.items()
    }
    usual = up.judges and across.name == "latency_ms"
    return figures.front(
        found,
        contrast,
        pairs,
        found_by=found_by,
        contrast_by=contrast_by,
        measured_name=f"whole network, {device.estimate}" if device.estimates else "measured" if usual else "verified",
        limit=across.limit,
        per_batch=device.per_batch,
        goals=None if usual else ((up.name, up.unit), (across.name, across.unit)),
        judged=(device.judge.axis, device.judge.unit.factor),
        directions=(_direction(up), _direction(across)) if usual or device.undrawn else None,
        baselines=baselines,
    )


def _fronts(device: Device) -> list[tuple[str, list[PlotPoint]]]:
    """Points that each searcher found, along the axes of the figure."""
    up, across = _axes(device.verification.objectives)
    judge = device.judge.column.name
    return [
        (name, _points([_known(point, judge) for point in searched.front], up.name, across.name))
        for name, searched in device.search.searchers.items()
    ]


def _axes(objectives: Sequence[Column]) -> tuple[Column, Column]:
    """The vertical and the horizontal axis: accuracy, or what else the task is judged by, over latency where these are
    known, unless other things were searched for; then the first two goals."""
    columns, judge = {column.name: column for column in objectives}, judging(objectives)
    usual = judge, columns.get("latency_ms", Column("latency_ms", "ms"))
    goals = [column for column in objectives if column.goal]
    names = {column.name for column in goals}
    if len(goals) < 2 or {judge.name, "latency_ms"} <= names or "latency_share" in names:
        return usual
    return goals[0], goals[1]


def _direction(column: Column) -> Direction:
    return "max" if column.at_least else "min"


def _known(point: Point | Predicted, judge: str) -> Mapping[str, float | None]:
    """Values of a network of a front by name, those of the device under their plain names.

    Args:
        point: the network.
        judge: name of the task's metric.
    """
    plain = {judge: point.accuracy, "latency_ms": point.latency_ms, "memory_bytes": point.memory_bytes}
    return {**(point.values or {}), **{name: value for name, value in plain.items() if value is not None}}


def _verified(network: VerifiedNetwork, judge: str) -> Mapping[str, float | None]:
    """Values of a network after measuring; those that were not measured as they were predicted."""
    measured = network.measured
    found = {judge: measured.validation_accuracy, "latency_ms": measured.latency_ms, **measured.values}
    memory = {} if measured.memory_bytes is None else {"memory_bytes": measured.memory_bytes}
    return {**_known(network.predicted, judge), "macs": network.macs, "params": network.params, **found, **memory}


def _chosen_label(network: VerifiedNetwork) -> str:
    return network.label if is_chosen(network) else ""


def _points(values: Sequence[Mapping[str, float | None]], up: str, across: str) -> list[PlotPoint]:
    """Networks of which both values are known."""
    known = ((one.get(across), one.get(up)) for one in values)
    return [PlotPoint(x, y) for x, y in known if x is not None and y is not None]


def _network_rows(device: Device, space: SearchSpace) -> list[NetworkRow]:
    chosen = [network for network in device.networks if is_chosen(network)] or device.networks
    return [
        NetworkRow(
            group=device.title,
            label=network.label,
            note=", ".join(
                [latency(network.measured.latency_ms, device.unit)]
                + ([device.judge.text(network.measured.test_accuracy)] if device.is_trained else [])
            ),
            layers=space.lower(Architecture.from_json(space, network.architecture)),
        )
        for network in chosen
    ]


def scatter_panel(
    title: str, unit: str, truth: Sequence[float], predicted: Sequence[float], *, is_share: bool = True
) -> Scatter:
    """Predicted against true values, in the unit that suits them and with the band that is usual for it.

    Args:
        title: of the panel.
        unit: of the values.
        truth: true values.
        predicted: for these.
        is_share: values without a unit are shares of 1.
    """
    if unit in SHARES and is_share:
        # A tenth of an accuracy is no use to anybody, so the band of accuracies is one point.
        return Scatter(title, Unit("%", 100), truth, predicted, 0.01, "± 1 point", False)
    if unit == "ms":
        shown = latency_unit(truth)
    else:
        shown = Unit("KiB", 1 / 1024) if unit == "bytes" else Unit("" if unit in SHARES else unit, 1)
    return Scatter(title, shown, truth, predicted, 0.1, "± 10 %", True)


@dataclass(frozen=True)
class Image:
    """A PNG file to embed, with the size in CSS pixels at which its text is as large as that of the page."""

    data: str
    width: int
    height: int


def embedded(png: bytes) -> Image:
    """A figure's PNG file, to stand inside a page."""
    width, height = struct.unpack(">II", png[16:24])  # the header chunk, which comes first
    scale = 100 / figures.DOTS_PER_INCH
    return Image(base64.b64encode(png).decode(), round(width * scale), round(height * scale))


def template(name: str) -> jinja2.Template:
    """A template of a page, with the numbers' formats as filters."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (
        *(significant, percent, points, signed, error, exponential, amount, power_of_ten),
        *(latency, memory, kibibytes, regret, duration),
    )
    environment.filters.update({function.__name__: function for function in filters})
    return environment.get_template(name)


def _html(
    content: Content,
    drawn: Mapping[str, bytes],
    layers: Mapping[str, Sequence[Split]],
    buffer_kib: float,
    kinds: KindTable | None,
) -> str:
    return template("report.html").render(
        content=content,
        run=content.run,
        images={name: embedded(image) for name, image in drawn.items()},
        accuracy_error=accuracy_error,
        latency_error=latency_error,
        memory_error=memory_error,
        verified_value=verified_value,
        layers=layers,
        kinds=kinds,
        buffer_kib=buffer_kib,
        agreement=AGREEMENT,
        judge=content.judge,
        noise_limit=NOISE_LIMIT,
        parity_limit=PARITY_LIMIT,
    )

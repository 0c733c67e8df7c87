"""The one protocol that turns samples into a measurement, for every device.

Items are measured in passes: each pass goes through all items in a new random order, so that two measurements of one
item lie far apart in time and a disturbance does not fall on neighbours. A pass warms up, then takes the lower quartile
of several samples. An item whose two lowest passes differ by more than a stated factor is measured again; the result is
the mean of the two that agree.

What other programs take from a network that runs on this computer's own CPUs is seen (`hardware_profiles.host.Watch`),
and samples that they disturbed are dropped and taken again, up to as many more. Where even so fewer than half are
undisturbed, because a run takes longer than the system leaves the CPU to one program at a time, the pass rests on the
time that the computing thread was given. That is a little too long, as it finds the caches cold, so a measurement that
had to rest on such passes does not count as agreed, and says which share of its samples was disturbed.

A reference layer is measured beside every pass. Passes while it is slower than at its best do not count and are
repeated, and a measurement that had to rest on such passes says so.

Why the low ones: on a shared machine a disturbance only ever adds time. With another job on both cores, medians of two
passes repeated to 26 % (median difference; 42 % at the 95th percentile), this protocol to 0.5 % (1.6 %).

Several boards of one kind are measured on at once, one thread each. What a board that is lost has not finished goes to
the others. Every pass is noted in a journal as it is taken, so that a kill loses at most one.
"""

from __future__ import annotations

import contextlib
import math
import queue
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np

from hardware_profiles.backends.base import Backend, Loaded, Values, reported_values
from hardware_profiles.device import DeviceProfile
from hardware_profiles.host import Sample
from hardware_profiles.model import Model
from search_spaces.base.checked import check
from search_spaces.base.errors import (
    DamagedFileError,
    DeviceLostError,
    InvalidValueError,
    MeasurementError,
    MismatchError,
    NasError,
)
from search_spaces.base.storage import RecordLog, fingerprint
from search_spaces.layers import MBConv
from search_spaces.metric import LATENCY

Item = TypeVar("Item")

MOST_DISTURBED = 0.5
"""A result does not count as agreed when a larger share of its samples was disturbed."""


LONGEST_MS = 1e9
"""Eleven days: what is longer is no latency."""


@dataclass(frozen=True)
class Measurement:
    """Latency of one item in milliseconds.

    ``latency_ms`` is the result of the protocol, ``median_ms``, ``p10_ms`` and ``p90_ms`` describe all samples taken.
    ``low_ms`` and ``high_ms`` bound the lower quartile of the samples that the result rests on with 95 % confidence,
    whatever their distribution. ``noise`` is the ratio of the two passes that the result rests on (1: equal).
    ``agreed`` is False where the profile's agreement was not reached. ``values`` are those of the backend's other
    metrics by name, such as ``memory_bytes``; in JSON each is a field of its own. ``reference_ms`` is what the
    reference took beside the passes that the result rests on: a larger one than elsewhere says that the device was slow
    then. ``positions_ms`` splits the time of a network by
    position, where that was asked for. ``disturbed`` is the share of the samples that the result rests on which other
    programs disturbed; None where nobody can tell.
    """

    latency_ms: float
    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int
    passes: int
    noise: float
    agreed: bool
    values: Values = field(default_factory=dict)
    reference_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    positions_ms: Mapping[str, float] | None = None
    disturbed: float | None = None

    @property
    def is_disturbed(self) -> bool:
        """True if other programs disturbed most of what it rests on, so that it should be measured again."""
        return self.disturbed is not None and self.disturbed > MOST_DISTURBED

    def __post_init__(self) -> None:
        if not 0 < self.latency_ms <= LONGEST_MS:
            raise MeasurementError(
                f"A latency must be a positive number of ms up to {LONGEST_MS:.0g}, but got {self.latency_ms}."
            )
        if not np.isfinite([self.median_ms, self.p10_ms, self.p90_ms, self.noise]).all():
            raise MeasurementError(f"Quantiles and noise of a latency must be finite, but got {self}.")
        for name, value in self.values.items():
            if not (math.isfinite(value) and value >= 0):
                raise MeasurementError(f"{name} must be a finite number >= 0, but got {value}.")
        for position, ms in (self.positions_ms or {}).items():
            if not (math.isfinite(ms) and ms >= 0):
                raise MeasurementError(f"Position {position!r} must take a number of ms >= 0, but got {ms}.")

    def to_json(self) -> dict[str, Any]:
        """The fields, without those that are None; each of the values is one."""
        stated = {name: value for name, value in asdict(self).items() if value is not None}
        pairs = (self.values if name == "values" else {name: value} for name, value in stated.items())
        return {name: value for pair in pairs for name, value in pair.items()}

    def value(self, metric: str) -> float:
        """The latency, or another value by the name of its metric.

        Raises:
            MismatchError: it was not reported.
        """
        if metric == LATENCY.name:
            return self.latency_ms
        if metric not in self.values:
            raise MismatchError(f"No {metric} was reported with this measurement. Measure again with `nas profile`.")
        return self.values[metric]

    @staticmethod
    def from_json(data: dict[str, Any]) -> Measurement:
        """Read back `to_json`.

        Raises:
            InvalidValueError: a field is missing or of another type.
            MeasurementError: its latency is none.
        """
        known = {field.name for field in fields(Measurement)}
        try:
            check(data, dict[str, Any], "it", "Measure again.")
            values = {n: value for n, value in data.items() if n not in known and type(value) in (int, float)}
            return cast(Measurement, check({**data, "values": values}, Measurement, "it", "Measure again."))
        except DamagedFileError as error:
            raise InvalidValueError(f"Not a measurement: {error}") from error


def quartile_bounds(samples: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of the lower quartile by order statistics (Conover, Practical Nonparametric Statistics,
    section 3.2): the number of samples below the quartile is binomial. With few samples it ends at the lowest one."""
    ordered, n = np.sort(samples), len(samples)
    chances = [math.exp(_log_choices(n, k) + k * math.log(0.25) + (n - k) * math.log(0.75)) for k in range(n + 1)]
    below = np.searchsorted(np.cumsum(chances), (0.025, 0.975))
    return float(ordered[max(0, below[0] - 1)]), float(ordered[min(n - 1, below[1])])


def _log_choices(n: int, k: int) -> float:
    """Logarithm of the number of ways to choose k of n."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


REFERENCE = MBConv(16, 16, 64, True, 3, 1, 0, "relu", 16)
"""The layer that is measured beside all others."""
SHORTEST_READING_MS, LONGEST_READING_MS = 0.2, 5.0
SPEED_TOLERANCE = 1.1
"""A pass does not count while the reference takes this factor longer than at its best."""


READINGS = 5


def reading_seconds(beside_ms: float) -> float:
    """Seconds for which the reference is run, about, beside samples that take so many ms."""
    return READINGS * min(max(beside_ms / 2, SHORTEST_READING_MS), LONGEST_READING_MS) / 1e3


@dataclass
class Reference:
    """A model measured beside every other one, so that a device that is slow for a while is noticed.

    Args:
        loaded: the model.
        best_ms: the least that it has taken undisturbed; lowered as it is measured.
    """

    loaded: Loaded
    best_ms: float = math.inf

    @staticmethod
    def on(backend: Backend, best_ms: float = math.inf) -> Reference | None:
        """The reference layer on a device; None where latencies are estimates, or the device cannot run it."""
        if backend.estimates:
            return None
        try:
            reference = Reference(backend.load(Model.of_layer(REFERENCE)), best_ms)
        except MeasurementError:
            return None
        reference.now()
        return reference

    def now(self, beside_ms: float = 0.0) -> float:
        """Milliseconds at present.

        Args:
            beside_ms: what a sample of the model takes that it is measured beside: the reference is run for about as
                long in all, so that what disturbs the one disturbs the other, but for no more than a few ms.
        """
        once = self.loaded.sample_ms(3)
        length_ms = min(max(beside_ms / 2, SHORTEST_READING_MS), LONGEST_READING_MS)
        runs = max(1, round(length_ms / once)) if once > 0 else 1
        samples = [self.loaded.sample(runs) for _ in range(READINGS)]
        calm = [sample.ms for sample in samples if not sample.disturbed]
        if len(calm) > len(samples) / 2:
            ms = float(np.median(calm))
            self.best_ms = min(self.best_ms, ms)
            return ms
        return float(np.median([sample.own_ms for sample in samples]))

    def was_slow(self, reference_ms: float | None) -> bool:
        """True if the device was slow when the reference took this long; None: it was not measured."""
        return reference_ms is not None and reference_ms > self.best_ms * SPEED_TOLERANCE


@dataclass(frozen=True)
class Pass:
    """Result of one pass over an item: all samples in ms, by position if that was asked for, which share of the samples
    was disturbed (None: nobody can tell), and the values of other metrics."""

    samples: Sequence[float]
    reference_ms: float | None = None
    positions_ms: Mapping[str, float] | None = None
    disturbed: float | None = None
    values: Values = field(default_factory=dict)

    @property
    def ms(self) -> float:
        """The lower quartile of the samples."""
        return float(np.quantile(self.samples, 0.25))


class Journal:
    """Passes over items that are not final yet, in a file that survives a kill; `remove` it when all are final.

    What is final is told by `finish`: a later measurement of the same model begins anew.

    Args:
        path: of the file.
        conditions: that the passes share; a journal of other conditions is refused.
    """

    def __init__(self, path: Path, conditions: Mapping[str, Any]) -> None:
        self._log = RecordLog(path, conditions)
        self._passes: dict[str, list[Pass]] = {}
        for record in self._log.records:
            if record.get("final") is True:
                self._passes.pop(str(record.get("key")), None)
                continue
            with contextlib.suppress(KeyError, TypeError, NasError):  # a damaged row is a pass that is taken again
                self._passes.setdefault(str(record["key"]), []).append(check(record["pass"], Pass, "pass", ""))

    def passes(self, key: str) -> list[Pass]:
        """Passes taken before this process."""
        return list(self._passes.get(key, ()))

    def add(self, key: str, taken: Pass) -> None:
        """Note a pass; it outlives the process, though perhaps not a loss of power."""
        self._log.append({"key": key, "pass": asdict(taken)}, durable=False)

    def finish(self, key: str) -> None:
        """Note that the passes over an item have become a result, which has been taken."""
        self._log.append({"key": key, "final": True}, durable=False)
        self._passes.pop(key, None)

    def remove(self) -> None:
        """Delete the file."""
        self._log.path.unlink(missing_ok=True)


@dataclass
class _Progress(Generic[Item]):
    item: Item
    model: Model
    key: str
    passes: list[Pass] = field(default_factory=list)
    loads: Sequence[Loaded] = ()
    is_final: bool = False
    losses: int = 0
    """Boards that were lost while this was loaded or measured."""

    def calm(self, reference: Reference | None) -> list[Pass]:
        """The undisturbed passes taken while the device was as fast as ever."""
        undisturbed = [p for p in self.passes if not p.disturbed]
        return [p for p in undisturbed if reference is None or not reference.was_slow(p.reference_ms)]


@dataclass
class _Board:
    backend: Backend
    reference: Reference | None
    rng: np.random.Generator
    at: _Progress[Any] | None = None
    """Item that it is loading or measuring."""


Result = Measurement | MeasurementError


class Measurer:
    """Measures models on a device, on all its boards at once.

    Args:
        backend: opened for the profile.
        profile: says how many samples and passes.
        rng: draws the orders.
        best_ms: what the reference took at its best in earlier measurements.
        journal: keeps unfinished work; None: nowhere.
        group_seconds: models are loaded in groups; a group is closed once loading it has taken as long,
        group_size: or it has as many models,
        group_params: or their loads have as many parameters, which bounds what the device must hold at once.
    """

    def __init__(
        self,
        backend: Backend,
        profile: DeviceProfile,
        rng: np.random.Generator,
        *,
        best_ms: float = math.inf,
        journal: Journal | None = None,
        group_seconds: float = 10.0,
        group_size: int = 512,
        group_params: float = 2e8,
    ) -> None:
        self._backend = backend
        self._profile = profile
        self._rng = rng
        self._journal = journal
        self._group_seconds, self._group_size, self._group_params = group_seconds, group_size, group_params
        self._lock = threading.Lock()
        self._until = math.inf
        self._boards = self._reach(best_ms)

    def _reach(self, best_ms: float = math.inf) -> list[_Board]:
        boards = self._backend.boards()
        rngs = [self._rng] if len(boards) == 1 else self._rng.spawn(len(boards))
        reached = []
        for backend, rng in zip(boards, rngs, strict=True):
            try:
                reached.append(_Board(backend, Reference.on(backend, best_ms), rng))
            except DeviceLostError:
                if len(boards) == 1:
                    raise
        return reached

    @property
    def boards(self) -> list[Backend]:
        """Boards that are measured on."""
        return [board.backend for board in self._boards]

    def references_ms(self) -> list[float]:
        """Latency of the reference at present, per board that has one."""
        return [board.reference.now() for board in self._boards if board.reference is not None]

    def was_slow(self, measurement: Measurement) -> bool:
        """True if the device was slow, beside the best seen of any board, when a measurement was made."""
        references = [board.reference for board in self._boards if board.reference is not None]
        return any(reference.was_slow(measurement.reference_ms) for reference in references)

    def measure(
        self,
        items: Sequence[tuple[Item, Model]],
        *,
        purpose: str = "",
        in_context: bool = False,
        is_done: Callable[[Item], bool] | None = None,
        until: float = math.inf,
    ) -> Iterator[tuple[Item, Result]]:
        """Load and measure models, each result as soon as it is final.

        Args:
            items: what to measure: (key, model).
            purpose: tells apart, in the journal, measurements of one model that must not be mixed.
            in_context: also split the time by position; the backend must be able to.
            is_done: asked before an item is loaded: whether somebody else has measured it meanwhile.
            until: when `time.perf_counter` reaches it, what has no pass yet is left out, and what has too few is final
                without having agreed.

        Yields:
            (key, measurement), or (key, the error) for a model that the device cannot run.

        Raises:
            DeviceUnavailableError: the device was lost and does not come back.
        """
        self._until = until
        waiting: deque[_Progress[Item]] = deque()
        keys: dict[Item, str] = {}
        for item, model in items:
            key = keys[item] = fingerprint([purpose, in_context, model.to_json()])
            passes = self._journal.passes(key) if self._journal else []
            passes = [p for p in passes if all(m.name in p.values for m in self._backend.capabilities.metrics)]
            waiting.append(_Progress(item, model, key, passes))
        while waiting:
            if not self._boards:
                self._boards = self._reach()
            if len(self._boards) == 1:
                results = self._on_one(self._boards[0], waiting, in_context, is_done)
            else:
                results = self._on_all(waiting, in_context, is_done)
            for item, result in results:
                yield item, result
                if self._journal is not None:  # whoever asked has kept the result
                    with self._lock:
                        self._journal.finish(keys[item])

    def _on_one(
        self,
        board: _Board,
        waiting: deque[_Progress[Item]],
        in_context: bool,
        is_done: Callable[[Item], bool] | None,
    ) -> Iterator[tuple[Item, Result]]:
        """Work until nothing waits, or the board is lost and its unfinished items wait again."""
        group: list[_Progress[Item]] = []
        try:
            while waiting:
                group.clear()
                yield from self._load_group(board, waiting, group, is_done)
                yield from self._measure_group(board, group, in_context)
        except DeviceLostError as error:
            self._boards.remove(board)
            unfinished = [progress for progress in group if not progress.is_final]
            culprit = board.at
            if culprit is not None:
                culprit.losses += 1
                if culprit.losses == 2:
                    unfinished.remove(culprit)
                    yield culprit.item, MeasurementError(f"The device was lost twice at this: {error}")
            for progress in unfinished:
                progress.loads = ()
            waiting.extendleft(reversed(unfinished))

    def _on_all(
        self, waiting: deque[_Progress[Item]], in_context: bool, is_done: Callable[[Item], bool] | None
    ) -> Iterator[tuple[Item, Result]]:
        """One thread per board; ends when all have ended."""
        results: queue.Queue[tuple[Item, Result] | BaseException | None] = queue.Queue()
        stop = threading.Event()

        def work(board: _Board) -> None:
            try:
                for result in self._on_one(board, waiting, in_context, is_done):
                    results.put(result)
                    if stop.is_set():
                        return
            except BaseException as error:  # raised again in the thread that asked
                results.put(error)
            finally:
                results.put(None)

        threads = [threading.Thread(target=work, args=(board,), daemon=True) for board in list(self._boards)]
        for thread in threads:
            thread.start()
        try:
            running = len(threads)
            while running:
                result = results.get()
                if result is None:
                    running -= 1
                elif isinstance(result, BaseException):
                    raise result
                else:
                    yield result
        finally:
            stop.set()

    def _load_group(
        self,
        board: _Board,
        waiting: deque[_Progress[Item]],
        group: list[_Progress[Item]],
        is_done: Callable[[Item], bool] | None,
    ) -> Iterator[tuple[Item, Result]]:
        """Fill the group with models loaded on the board; gives those that it cannot run."""
        size = max(1, min(-(-len(waiting) // max(1, len(self._boards))), self._group_size))
        started, params = time.perf_counter(), 0
        while waiting and len(group) < size and params < self._group_params:
            if self._is_late():
                waiting.clear()
                return
            try:
                progress = waiting.popleft()
            except IndexError:  # another board was faster
                return
            if is_done is not None and is_done(progress.item):
                continue
            group.append(progress)
            board.at = progress
            try:
                progress.loads = [board.backend.load(progress.model) for _ in range(self._profile.loads)]
                params += self._profile.loads * sum(layer.params for layer in progress.model.layers.values())
            except MeasurementError as error:
                progress.is_final = True
                yield progress.item, error
            now = time.perf_counter()
            if now - started > min(self._group_seconds, (self._until - now) if self._until < math.inf else math.inf):
                return  # what is loaded must still be measured

    def _measure_group(
        self, board: _Board, group: list[_Progress[Item]], in_context: bool
    ) -> Iterator[tuple[Item, Result]]:
        """Measure models that are on the board; takes those that are final out of the group."""
        profile, reference = self._profile, board.reference
        started = -math.inf
        most = profile.max_passes * (1 if reference is None else 2)
        while not all(progress.is_final for progress in group):
            time.sleep(max(0.0, started + profile.pass_seconds - time.perf_counter()))
            started = time.perf_counter()
            for i in board.rng.permutation(len(group)):
                progress = board.at = group[i]
                if progress.is_final:
                    continue
                result = self._result(progress, reference, most)  # the journal may hold all passes already
                if result is None and self._is_late() and not progress.passes:
                    progress.is_final = True
                    continue
                if result is None and not self._is_late():
                    try:
                        self._take_pass(progress, board, in_context)
                        result = self._result(progress, reference, most)
                    except MeasurementError as error:
                        result = error
                if result is not None:
                    progress.is_final = True
                    yield progress.item, result
                    progress.loads = ()

    def _is_late(self) -> bool:
        return self._until < math.inf and time.perf_counter() > self._until

    def _take_pass(self, progress: _Progress[Any], board: _Board, in_context: bool) -> None:
        reference, metrics = board.reference, board.backend.capabilities.metrics
        loaded = progress.loads[len(progress.passes) % len(progress.loads)]
        once = loaded.sample_ms(1)
        beside = None if reference is None else reference.now(max(once, self._profile.sample_ms))
        samples, disturbed = _samples(loaded, self._profile, once)
        positions = dict(loaded.positions_ms(self._profile.runs)) if in_context else None
        values = reported_values(loaded, self._profile.runs, metrics) if metrics else {}
        taken = Pass(samples, beside, positions, disturbed, values)
        progress.passes.append(taken)
        if self._journal is not None:
            with self._lock:
                self._journal.add(progress.key, taken)

    def _result(self, progress: _Progress[Any], reference: Reference | None, most: int) -> Result | None:
        """The measurement, once the passes agree, or there have been enough, or there is no time for more."""
        profile, calm = self._profile, progress.calm(reference)
        agreed = len(calm) >= profile.passes and _noise(calm) <= profile.agreement
        given_up = sum(1 for p in progress.passes if p.disturbed) >= profile.passes  # more would be as disturbed
        enough = agreed or given_up or len(calm) >= profile.max_passes or len(progress.passes) >= most
        if not (enough or (progress.passes and self._is_late())):
            return None
        try:
            return _measurement(progress, profile, calm if agreed or len(calm) > 1 else progress.passes)
        except MeasurementError as error:  # the device's samples were zero or not numbers
            return error


def measure(
    items: Sequence[tuple[Item, Model]], backend: Backend, profile: DeviceProfile, rng: np.random.Generator
) -> Iterator[tuple[Item, Result]]:
    """Load and measure models by the protocol; see `Measurer.measure`."""
    return Measurer(backend, profile, rng).measure(items)


def _samples(loaded: Loaded, profile: DeviceProfile, once: float) -> tuple[list[float], float | None]:
    """Samples in ms, and which share of them was disturbed.

    Args:
        loaded: what to sample.
        profile: says how many.
        once: ms of a first run.
    """
    runs = max(1, round(profile.sample_ms / once)) if once > 0 else 1
    if profile.warm_up:
        once = loaded.sample_ms(profile.warm_up)
        runs = max(1, round(profile.sample_ms / once)) if once > 0 else 1
    taken: list[Sample] = []
    calm: list[Sample] = []
    while len(calm) < profile.runs and len(taken) < 2 * profile.runs:
        if len(taken) == profile.runs and not calm:
            break
        taken.append(loaded.sample(runs))
        calm = [sample for sample in taken if not sample.disturbed]
    kept = calm if 2 * len(calm) >= profile.runs else taken
    samples = [sample.own_ms for sample in kept]
    if not (np.isfinite(samples).all() and min(samples) >= 0):
        raise MeasurementError(f"Samples must be positive numbers of ms, but the device gave {samples}.")
    known = [sample.disturbed for sample in kept if sample.disturbed is not None]
    return samples, float(np.mean(known)) if known else None


def typical_values(passes: Sequence[Values]) -> Values:
    """The lower median of each value over passes: one that was reported, and disturbances add to most."""
    names = dict.fromkeys(name for values in passes for name in values)
    return {name: statistics.median_low([v[name] for v in passes if name in v]) for name in names}


def _lowest(passes: Sequence[Pass]) -> list[Pass]:
    return sorted(passes, key=lambda p: p.ms)[:2]


def _noise(passes: Sequence[Pass]) -> float:
    lowest = _lowest(passes)
    return lowest[-1].ms / lowest[0].ms if lowest[0].ms > 0 else math.inf


def _measurement(progress: _Progress[Any], profile: DeviceProfile, passes: Sequence[Pass]) -> Measurement:
    samples = np.concatenate([p.samples for p in progress.passes])
    noise, lowest = _noise(passes), _lowest(passes)
    references = [p.reference_ms for p in lowest if p.reference_ms is not None]
    low, high = quartile_bounds(np.concatenate([p.samples for p in lowest]).tolist())
    split = [p.positions_ms for p in passes if p.positions_ms is not None]
    known = [p.disturbed for p in lowest if p.disturbed is not None]
    disturbed = float(np.mean(known)) if known else None
    return Measurement(
        latency_ms=float(np.mean([p.ms for p in lowest])),
        median_ms=float(np.median(samples)),
        p10_ms=float(np.quantile(samples, 0.1)),
        p90_ms=float(np.quantile(samples, 0.9)),
        runs=len(samples),
        passes=len(progress.passes),
        noise=noise,
        agreed=len(progress.passes) >= profile.passes
        and noise <= profile.agreement
        and (disturbed is None or disturbed <= MOST_DISTURBED),
        values=typical_values([p.values for p in passes]),
        reference_ms=max(references) if references else None,
        low_ms=low,
        high_ms=high,
        positions_ms={p: float(np.mean(sorted(s[p] for s in split)[:2])) for p in split[0]} if split else None,
        disturbed=disturbed,
    )

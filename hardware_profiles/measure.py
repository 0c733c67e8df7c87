"""The one protocol that turns samples into a measurement, for every device.

Items are measured in passes: each pass goes through all items in a new random order, so that two measurements of one
item lie far apart in time and a disturbance does not fall on neighbours. A pass warms up, then takes the lower quartile
of several samples. An item whose two lowest passes differ by more than a stated factor is measured again; the result is
the mean of the two that agree.

A reference layer is measured beside every pass. Passes while it is slower than at its best do not count and are
repeated, and a measurement that had to rest on such passes says so.

Why the low ones: on a shared machine a disturbance only ever adds time. With another job on both cores, medians of two
passes repeated to 26 % (median difference; 42 % at the 95th percentile), this protocol to 0.5 % (1.6 %).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from hardware_profiles.backends.base import Backend, Loaded
from hardware_profiles.device import DeviceProfile
from hardware_profiles.model import Model
from search_spaces.errors import InvalidValueError, MeasurementError
from search_spaces.layers import MBConv

Item = TypeVar("Item")


@dataclass(frozen=True)
class Measurement:
    """Latency of one item in milliseconds.

    ``latency_ms`` is the result of the protocol, ``median_ms``, ``p10_ms`` and ``p90_ms`` describe all samples taken.
    ``noise`` is the ratio of the two passes that the result rests on (1: equal). ``agreed`` is False where the
    profile's agreement was not reached. ``memory_bytes`` is the activation memory that the device's tools report.
    ``reference_ms`` is what the reference took beside the passes that the result rests on: a larger one than elsewhere
    says that the device was slow then.
    """

    latency_ms: float
    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int
    passes: int
    noise: float
    agreed: bool
    memory_bytes: int | None = None
    reference_ms: float | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.latency_ms) and self.latency_ms > 0):
            raise MeasurementError(f"A latency must be a positive number of ms, but got {self.latency_ms}.")
        if not np.isfinite([self.median_ms, self.p10_ms, self.p90_ms, self.noise]).all():
            raise MeasurementError(f"Quantiles and noise of a latency must be finite, but got {self}.")

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Measurement:
        """Read back `to_json`."""
        try:
            return Measurement(**data)
        except TypeError as error:
            raise InvalidValueError(f"Not a measurement: {error}.") from error


REFERENCE = MBConv(16, 16, 64, True, 3, 1, 0, "relu", 16)
"""The layer that is measured beside all others."""
SPEED_TOLERANCE = 1.1
"""A pass does not count while the reference takes this factor longer than at its best."""


@dataclass
class Reference:
    """A model measured beside every other one, so that a device that is slow for a while is noticed.

    Args:
        loaded: the model.
        best_ms: the least that it has taken; lowered as it is measured.
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

    def now(self) -> float:
        """Milliseconds at present."""
        once = self.loaded.sample_ms(3)
        runs = max(1, round(0.2 / once)) if once > 0 else 1
        ms = float(np.median([self.loaded.sample_ms(runs) for _ in range(5)]))
        self.best_ms = min(self.best_ms, ms)
        return ms

    def was_slow(self, reference_ms: float | None) -> bool:
        """Whether the device was slow when the reference took this long; None: it was not measured."""
        return reference_ms is not None and reference_ms > self.best_ms * SPEED_TOLERANCE


@dataclass
class _Pass:
    ms: float
    reference_ms: float | None


@dataclass
class _Progress(Generic[Item]):
    item: Item
    loads: Sequence[Loaded]
    passes: list[_Pass] = field(default_factory=list)
    samples: list[list[float]] = field(default_factory=list)

    def calm(self, reference: Reference | None) -> list[_Pass]:
        """The passes taken while the device was as fast as ever."""
        return [p for p in self.passes if reference is None or not reference.was_slow(p.reference_ms)]


def measure(
    items: Sequence[tuple[Item, Model]],
    backend: Backend,
    profile: DeviceProfile,
    rng: np.random.Generator,
    *,
    reference: Reference | None = None,
    group_seconds: float = 10.0,
    group_size: int = 512,
) -> Iterator[tuple[Item, Measurement | MeasurementError]]:
    """Load and measure models, each result as soon as it is final.

    Items are taken in groups, so that what a kill can lose, and what the device must hold at once, is bounded.

    Args:
        items: what to measure: (key, model).
        backend: opened for the profile.
        profile: says how many samples and passes.
        rng: draws the orders.
        reference: measured beside every pass; passes while it is slow are repeated.
        group_seconds: a group is closed once loading it has taken as long.
        group_size: most models in a group.

    Yields:
        (key, measurement), or (key, the error) for a model that the device cannot run.
    """
    waiting = list(items)
    while waiting:
        group: list[tuple[Item, Sequence[Loaded]]] = []
        started = time.perf_counter()
        while waiting and (not group or (len(group) < group_size and time.perf_counter() - started < group_seconds)):
            item, model = waiting.pop(0)
            try:
                group.append((item, load(model, backend, profile)))
            except MeasurementError as error:
                yield item, error
        yield from measure_loaded(group, profile, rng, reference)


def load(model: Model, backend: Backend, profile: DeviceProfile) -> Sequence[Loaded]:
    """Load a model as often as the profile says.

    Raises:
        MeasurementError: the device cannot run it.
    """
    return [backend.load(model) for _ in range(profile.loads)]


def measure_loaded(
    loaded: Sequence[tuple[Item, Sequence[Loaded]]],
    profile: DeviceProfile,
    rng: np.random.Generator,
    reference: Reference | None = None,
) -> Iterator[tuple[Item, Measurement | MeasurementError]]:
    """Measure models that are on the device already; see `measure`."""
    unfinished = [_Progress(item, loads) for item, loads in loaded]
    started = -math.inf
    most = profile.max_passes * (1 if reference is None else 2)
    for number in range(1, most + 1):
        if not unfinished:
            return
        time.sleep(max(0.0, started + profile.pass_seconds - time.perf_counter()))
        started = time.perf_counter()
        group, unfinished = unfinished, []
        for i in rng.permutation(len(group)):
            progress = group[i]
            try:
                beside = None if reference is None else reference.now()
                samples = _one_pass(progress.loads[(number - 1) % len(progress.loads)], profile)
            except MeasurementError as error:
                yield progress.item, error
                continue
            progress.samples.append(samples)
            progress.passes.append(_Pass(float(np.quantile(samples, 0.25)), beside))
            calm = progress.calm(reference)
            agreed = len(calm) >= profile.passes and _noise(calm) <= profile.agreement
            if agreed or len(calm) >= profile.max_passes or number == most:
                yield progress.item, _result(progress, profile, calm if len(calm) > 1 else progress.passes)
            else:
                unfinished.append(progress)


def _one_pass(loaded: Loaded, profile: DeviceProfile) -> list[float]:
    once = loaded.sample_ms(1)
    runs = max(1, round(profile.sample_ms / once)) if once > 0 else 1
    if profile.warm_up:
        once = loaded.sample_ms(profile.warm_up)
        runs = max(1, round(profile.sample_ms / once)) if once > 0 else 1
    samples = [loaded.sample_ms(runs) for _ in range(profile.runs)]
    if not (np.isfinite(samples).all() and min(samples) >= 0):
        raise MeasurementError(f"Samples must be positive numbers of ms, but the device gave {samples}.")
    return samples


def _lowest(passes: Sequence[_Pass]) -> list[_Pass]:
    return sorted(passes, key=lambda p: p.ms)[:2]


def _noise(passes: Sequence[_Pass]) -> float:
    lowest = _lowest(passes)
    return lowest[-1].ms / lowest[0].ms if lowest[0].ms > 0 else math.inf


def _result(
    progress: _Progress[Any], profile: DeviceProfile, passes: Sequence[_Pass]
) -> Measurement | MeasurementError:
    samples = np.concatenate(progress.samples)
    noise, lowest = _noise(passes), _lowest(passes)
    references = [p.reference_ms for p in lowest if p.reference_ms is not None]
    try:
        return Measurement(
            latency_ms=float(np.mean([p.ms for p in lowest])),
            median_ms=float(np.median(samples)),
            p10_ms=float(np.quantile(samples, 0.1)),
            p90_ms=float(np.quantile(samples, 0.9)),
            runs=len(samples),
            passes=len(progress.passes),
            noise=noise,
            agreed=noise <= profile.agreement,
            memory_bytes=progress.loads[0].memory_bytes,
            reference_ms=max(references) if references else None,
        )
    except MeasurementError as error:  # the device's samples were zero or not numbers
        return error

"""The one protocol that turns samples into a measurement, for every device.

Items are measured in passes: each pass goes through all items in a new random order, so that two measurements of one
item lie far apart in time and a disturbance does not fall on neighbours. A pass warms up, then takes the lower quartile
of several samples. An item whose two lowest passes differ by more than a stated factor is measured again; the result is
the mean of the two that agree.

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

Item = TypeVar("Item")


@dataclass(frozen=True)
class Measurement:
    """Latency of one item in milliseconds.

    ``latency_ms`` is the result of the protocol, ``median_ms``, ``p10_ms`` and ``p90_ms`` describe all samples taken.
    ``noise`` is the ratio of the two passes that the result rests on (1: equal). ``agreed`` is False where the
    profile's agreement was not reached. ``memory_bytes`` is the activation memory that the device's tools report.
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


@dataclass
class _Progress(Generic[Item]):
    item: Item
    loads: Sequence[Loaded]
    passes: list[float] = field(default_factory=list)
    samples: list[list[float]] = field(default_factory=list)


def measure(
    items: Sequence[tuple[Item, Model]],
    backend: Backend,
    profile: DeviceProfile,
    rng: np.random.Generator,
    *,
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
        yield from measure_loaded(group, profile, rng)


def load(model: Model, backend: Backend, profile: DeviceProfile) -> Sequence[Loaded]:
    """Load a model as often as the profile says.

    Raises:
        MeasurementError: the device cannot run it.
    """
    return [backend.load(model) for _ in range(profile.loads)]


def measure_loaded(
    loaded: Sequence[tuple[Item, Sequence[Loaded]]], profile: DeviceProfile, rng: np.random.Generator
) -> Iterator[tuple[Item, Measurement | MeasurementError]]:
    """Measure models that are on the device already; see `measure`."""
    unfinished = [_Progress(item, loads) for item, loads in loaded]
    started = -math.inf
    for number in range(1, profile.max_passes + 1):
        if not unfinished:
            return
        time.sleep(max(0.0, started + profile.pass_seconds - time.perf_counter()))
        started = time.perf_counter()
        group, unfinished = unfinished, []
        for i in rng.permutation(len(group)):
            progress = group[i]
            try:
                samples = _one_pass(progress.loads[(number - 1) % len(progress.loads)], profile)
            except MeasurementError as error:
                yield progress.item, error
                continue
            progress.samples.append(samples)
            progress.passes.append(float(np.quantile(samples, 0.25)))
            agreed = number >= profile.passes and _noise(progress.passes) <= profile.agreement
            if agreed or number == profile.max_passes:
                yield progress.item, _result(progress, profile)
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


def _noise(passes: Sequence[float]) -> float:
    lowest = sorted(passes)[:2]
    return lowest[-1] / lowest[0] if lowest[0] > 0 else math.inf


def _result(progress: _Progress[Any], profile: DeviceProfile) -> Measurement | MeasurementError:
    samples = np.concatenate(progress.samples)
    noise = _noise(progress.passes)
    try:
        return Measurement(
            latency_ms=float(np.mean(sorted(progress.passes)[:2])),
            median_ms=float(np.median(samples)),
            p10_ms=float(np.quantile(samples, 0.1)),
            p90_ms=float(np.quantile(samples, 0.9)),
            runs=len(samples),
            passes=len(progress.passes),
            noise=noise,
            agreed=noise <= profile.agreement,
            memory_bytes=progress.loads[0].memory_bytes,
        )
    except MeasurementError as error:  # the device's samples were zero
        return error

"""The one protocol that turns samples into a measurement, for every device.

Items are measured in passes: each pass goes through all items in a new random order, so that two measurements of one
item lie far apart in time and a disturbance does not fall on neighbours. A pass warms up, then takes the lower quartile
of several samples. An item whose two lowest passes differ by more than a stated factor is measured again; the result is
the mean of the two that agree.

Why the low ones: on a shared machine a disturbance only ever adds time. With another job on both cores, medians of two
passes repeated to 26 % (median difference; 42 % at the 95th percentile), this protocol to 0.5 % (1.6 %).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
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
    model: Model
    loaded: Loaded | None
    passes: list[float]
    samples: list[list[float]]


def measure(
    items: Sequence[tuple[Item, Model]],
    backend: Backend,
    profile: DeviceProfile,
    rng: np.random.Generator,
    *,
    keep_loaded: int = 512,
    on_progress: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Item, Measurement | MeasurementError]]:
    """Measure models, each result as soon as it is final.

    Args:
        items: what to measure: (key, model).
        backend: opened for the profile.
        profile: says how many samples and passes.
        rng: draws the orders.
        keep_loaded: models held on the device at once; items are measured in groups of this size.
        on_progress: called after each pass over one item.

    Yields:
        (key, measurement), or (key, the error) for a model that the device cannot run.
    """
    for start in range(0, len(items), keep_loaded):
        group: list[_Progress[Item]] = []
        for item, model in items[start : start + keep_loaded]:
            try:
                group.append(_Progress(item, model, backend.load(model), [], []))
            except MeasurementError as error:
                yield item, error
            on_progress()
        for number in range(1, profile.max_passes + 1):
            unfinished = []
            for i in rng.permutation(len(group)):
                progress = group[i]
                assert progress.loaded is not None
                samples = _one_pass(progress.loaded, profile)
                progress.samples.append(samples)
                progress.passes.append(float(np.quantile(samples, 0.25)))
                on_progress()
                if number >= profile.passes and (
                    _noise(progress.passes) <= profile.agreement or number == profile.max_passes
                ):
                    yield progress.item, _result(progress, profile)
                    progress.loaded = None
                else:
                    unfinished.append(progress)
            group = unfinished


def _one_pass(loaded: Loaded, profile: DeviceProfile) -> list[float]:
    once = loaded.sample_ms(1)
    runs = max(1, round(profile.sample_ms / once)) if once > 0 else 1
    if profile.warm_up:
        once = loaded.sample_ms(profile.warm_up)
        runs = max(1, round(profile.sample_ms / once)) if once > 0 else 1
    return [loaded.sample_ms(runs) for _ in range(profile.runs)]


def _noise(passes: Sequence[float]) -> float:
    lowest = sorted(passes)[:2]
    return lowest[-1] / lowest[0]


def _result(progress: _Progress[Any], profile: DeviceProfile) -> Measurement:
    assert progress.loaded is not None
    samples = np.concatenate(progress.samples)
    noise = _noise(progress.passes)
    return Measurement(
        latency_ms=float(np.mean(sorted(progress.passes)[:2])),
        median_ms=float(np.median(samples)),
        p10_ms=float(np.quantile(samples, 0.1)),
        p90_ms=float(np.quantile(samples, 0.9)),
        runs=len(samples),
        passes=len(progress.passes),
        noise=noise,
        agreed=noise <= profile.agreement,
        memory_bytes=progress.loaded.memory_bytes,
    )

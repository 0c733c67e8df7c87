"""Is a device fit to be measured on: three layers measured twice, what the device does meanwhile, and what to do about
it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hardware_profiles.backends.base import Backend, Capabilities
from hardware_profiles.device import DeviceProfile
from hardware_profiles.latency_table import LatencyTable
from hardware_profiles.measure import SPEED_TOLERANCE, Measurement, Measurer, Result
from hardware_profiles.model import Model
from search_spaces.base.errors import DeviceLostError, MeasurementError
from search_spaces.layers import Classifier, Conv, Layer, MBConv

LAYERS: Mapping[str, Layer] = {
    "stem": Conv(3, 16, 3, 2, "h_swish", 32),
    "block": MBConv(16, 16, 64, True, 3, 1, 16, "h_swish", 16),
    "classifier": Classifier(16, 64, 10, "h_swish", 16),
}
"""Space that devices are checked with: small enough for a microcontroller, big enough to be timed."""

REPEATS = 1.05
"""Two measurements of a layer repeat when they differ by at most this factor."""
SPREAD = 2.0
"""Samples are calm when their 90th percentile is at most this factor above the 10th."""
FINE = 0.01
"""The clock is fine enough when its steps are at most this share of a sample."""


@dataclass(frozen=True)
class LayerCheck:
    """One layer, measured twice some seconds apart, or why it could not be."""

    layer: Layer
    first: Result
    again: Result

    @property
    def measurements(self) -> tuple[Measurement, Measurement] | None:
        """Both; None where one failed."""
        if isinstance(self.first, Measurement) and isinstance(self.again, Measurement):
            return self.first, self.again
        return None

    @property
    def error(self) -> MeasurementError | None:
        """Reason why it could not be measured."""
        return next((result for result in (self.first, self.again) if isinstance(result, MeasurementError)), None)

    @property
    def ratio(self) -> float:
        """The slower of the two over the faster; 1: equal. NaN where one failed."""
        if self.measurements is None:
            return float("nan")
        latencies = [measurement.latency_ms for measurement in self.measurements]
        return max(latencies) / min(latencies)


@dataclass(frozen=True)
class DeviceCheck:
    """Findings of a check.

    Args:
        profile: of the device.
        capabilities: of its backend.
        layers: by name.
        boards: devices of the kind that were measured on.
        reference_ms: what the reference layer took at the start and at the end, on the board where that changed most;
            None where latencies are estimates or no board can run it.
        clock_ms: the smallest step between samples of a single run: the clock's resolution is no coarser. 0: all
            samples were equal. None: estimates.
        sample_ms: length of the shortest sample.
    """

    profile: DeviceProfile
    capabilities: Capabilities
    layers: Mapping[str, LayerCheck]
    boards: int
    reference_ms: tuple[float, float] | None
    clock_ms: float | None
    sample_ms: float | None

    @property
    def is_broken(self) -> bool:
        """True if no layer could be measured."""
        return all(layer.error is not None for layer in self.layers.values())

    def findings(self) -> list[str]:
        """Faults, and what to do about them; empty: nothing."""
        found = [
            f"{name} cannot be measured: {layer.error} Networks with such layers will not be offered for this device."
            for name, layer in self.layers.items()
            if layer.error is not None
        ]
        if self.capabilities.estimates:
            changed = [name for name, layer in self.layers.items() if layer.ratio > 1]
            if changed:
                found.append(f"The estimate of {', '.join(changed)} is another one each time, which it should not be.")
            return found
        return found + self._noise() + self._drift() + self._clock()

    def _noise(self) -> list[str]:
        measured = {name: layer for name, layer in self.layers.items() if layer.measurements is not None}
        noisy = [
            name
            for name, layer in measured.items()
            if layer.ratio > REPEATS or not all(m.agreed for m in layer.measurements or ())
        ]
        spread = max(
            (m.p90_ms / m.p10_ms for layer in measured.values() for m in layer.measurements or ()), default=1.0
        )
        advice = "close other programs on the device"
        if self.capabilities.here and self.profile.cpus is None and hasattr(os, "sched_getaffinity"):
            last = sorted(os.sched_getaffinity(0))[-self.profile.threads :]
            advice += f", keep it on CPUs of its own (`isolated: true` and `cpus: {last}` in its YAML)"
        if noisy:
            return [
                f"Noisy: two measurements or the passes of one do not agree, of {', '.join(noisy)}. What to do: "
                f"{advice}, take more `passes` (now {self.profile.passes}) and `max_passes` (now "
                f"{self.profile.max_passes})."
            ]
        if spread > SPREAD:
            return [
                f"Disturbed: samples of one layer spread by a factor of {spread:.1f}, though the results repeat, "
                f"because they rest on the undisturbed ones. Measuring takes longer so. What to do: {advice}."
            ]
        return []

    def _drift(self) -> list[str]:
        if self.reference_ms is None:
            return []
        start, end = self.reference_ms
        if max(start, end) <= SPEED_TOLERANCE * min(start, end):
            return []
        how, why = (
            ("slower", "heat, energy saving or another program")
            if end > start
            else ("faster", "a turbo or another program's end")
        )
        return [
            f"The device became {max(start, end) / min(start, end):.2f} times {how} during the check ({why}). What to "
            "do: fix its clock (on Linux the `performance` governor, without turbo), cool it, keep other programs "
            "away. Passes that are taken while it is slow are repeated."
        ]

    def _clock(self) -> list[str]:
        if self.clock_ms is None or self.sample_ms is None:
            return []
        if self.clock_ms == 0:
            return [
                "All samples of the fastest layer are equal: the clock is too coarse. What to do: raise `sample_ms`."
            ]
        if self.clock_ms <= FINE * self.sample_ms:
            return []
        return [
            f"The clock steps by {self.clock_ms:.2g} ms, {self.clock_ms / self.sample_ms:.0%} of a sample. What to do: "
            f"set `sample_ms: {self.clock_ms / FINE:.2g}`, so that a sample times more runs."
        ]


def check_measuring(profile: DeviceProfile, backend: Backend, *, pause_seconds: float = 3.0) -> DeviceCheck:
    """Measure three layers twice by the protocol of `hardware_profiles.measure`.

    Args:
        profile: of the device.
        backend: opened for the profile.
        pause_seconds: between the two measurements; estimates need none.

    Raises:
        DeviceUnavailableError: the device stopped answering.
    """
    layers = layers_for(profile)
    items = [(name, Model.of_layer(layer)) for name, layer in layers.items()]
    measurer = Measurer(backend, profile, np.random.default_rng(0))
    boards = len(measurer.boards)
    start = _references(measurer)
    first = dict(measurer.measure(items, purpose="first"))
    if not backend.estimates:
        time.sleep(pause_seconds)
    again = dict(measurer.measure(items, purpose="again"))
    end = _references(measurer)
    if len(measurer.boards) < boards:
        raise DeviceLostError(
            f"Device {profile.name!r}: {boards - len(measurer.boards)} of {boards} boards stopped answering during the "
            "check. Look at their cables, power supplies and temperature."
        )
    checks = {name: LayerCheck(layer, first[name], again[name]) for name, layer in layers.items()}
    measured = {
        name: min(m.latency_ms for m in c.measurements) for name, c in checks.items() if c.measurements is not None
    }
    clock = (
        None
        if backend.estimates or not measured
        else _clock_ms(measurer, layers[min(measured, key=measured.__getitem__)])
    )
    return DeviceCheck(
        profile=profile,
        capabilities=backend.capabilities,
        layers=checks,
        boards=boards,
        reference_ms=max(zip(start, end, strict=True), key=lambda ms: abs(np.log(ms[1] / ms[0])), default=None),
        clock_ms=clock,
        sample_ms=None if clock is None else max(profile.sample_ms, min(measured.values())),
    )


def layers_for(profile: DeviceProfile) -> Mapping[str, Layer]:
    """The layers that a device is checked with: of somebody else's table three that it has, else `LAYERS`."""
    if profile.backend != "table":
        return LAYERS
    from hardware_profiles.backends.table import table_path

    rows = list(LatencyTable.read(table_path(profile)))
    return {f"row {i + 1}": rows[i] for i in sorted({0, len(rows) // 2, len(rows) - 1})}


def _references(measurer: Measurer) -> Sequence[float]:
    """Reference latency per board, the least of several: a disturbance for a moment is no drift."""
    times: Sequence[float] = np.min([measurer.references_ms() for _ in range(5)], axis=0).tolist()
    return times


def _clock_ms(measurer: Measurer, layer: Layer) -> float:
    loaded = measurer.boards[0].load(Model.of_layer(layer))
    loaded.sample_ms(3)
    samples = np.unique(np.round([loaded.sample_ms(1) for _ in range(50)], 6))  # to ns: below that is rounding
    return float(np.diff(samples).min()) if len(samples) > 1 else 0.0

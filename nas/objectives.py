"""What a run searches for, on one device or on several at once, from its settings and its fitted predictors.

Objectives have names, as settings and files call them: ``accuracy``, ``latency_ms``, ``memory_bytes``, ``macs``,
``params`` and those of `metrics`. On several devices at once there is a ``latency_ms@<device>`` for each, and
``latency_share``: the latencies as shares of what the largest network takes, the worst of them or their weighted mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from hardware_profiles.device import DeviceProfile
from nas.problem import Objective, Problem
from nas.settings import BUILT_IN, LimitSettings, MetricSettings, Settings
from predictors import Combined, Predictor, load, macs, params, weighted_sum
from search_spaces.errors import InvalidValueError, UnknownNameError
from search_spaces.space import SearchSpace


class Fitted(Protocol):
    """What is needed of a run: its settings, and a folder with fitted predictors."""

    @property
    def settings(self) -> Settings: ...
    @property
    def space(self) -> SearchSpace: ...
    @property
    def folder(self) -> Path: ...
    @property
    def devices(self) -> list[DeviceProfile]: ...


@dataclass(frozen=True)
class _Limit:
    """A limit as the predictors have to keep it, and as the user set it."""

    value: float | None
    name: str
    scale: float = 1.0


def problem_of(run: Fitted, device: DeviceProfile, accuracy: Predictor | None = None) -> Problem:
    """What is searched for one device.

    Args:
        run: its settings and fitted predictors.
        device: one of its devices.
        accuracy: evaluates in place of the fitted predictor; each evaluation is costly.
    """
    return Problem(run.space, _objectives(run, [device], accuracy))


def joint_problem(run: Fitted, accuracy: Predictor | None = None) -> Problem:
    """What is searched for all devices of the run at once; limits hold on each."""
    return Problem(run.space, _objectives(run, run.devices, accuracy))


def _objectives(run: Fitted, devices: Sequence[DeviceProfile], accuracy: Predictor | None) -> list[Objective]:
    settings, space = run.settings, run.space
    wanted = list(settings.search.objectives)
    known = [*BUILT_IN, *settings.metrics]
    for name in wanted:
        if name not in known:
            raise UnknownNameError(f"`search.objectives` may name {', '.join(known)}, but got {name!r}.")
    found = {"accuracy": _accuracy(run, "accuracy" in wanted, accuracy)}
    joint = len(devices) > 1
    latencies = {device.name: _load(run.folder / "fit" / f"{device.name}_latency.npz", run) for device in devices}
    if joint:
        if "latency_ms" in wanted:
            found["latency_ms"] = Objective(_shared(run, latencies), "min", name="latency_share")
    for device in devices:
        limit, latency = _latency_limit(run, device, latencies[device.name]), latencies[device.name]
        goal = "min" if "latency_ms" in wanted and not joint else None
        name = f"latency_ms@{device.name}" if joint else "latency_ms"
        found[name] = _objective(name, latency, goal, limit)
    for device in devices:
        memory = _memory(run, device)
        if memory is not None:
            predictor, limit = memory
            name = f"memory_bytes@{device.name}" if joint else "memory_bytes"
            found[name] = _objective(name, predictor, "min" if "memory_bytes" in wanted and not joint else None, limit)
        elif "memory_bytes" in wanted:
            raise InvalidValueError(
                f"`search.objectives` names memory_bytes, but the backend of {device.name!r} reports no memory."
            )
    if joint and "memory_bytes" in wanted:
        raise InvalidValueError("`search.joint` has one number for all devices, so memory_bytes can only be a limit.")
    for name, exact in (("macs", macs), ("params", params)):
        limit = _Limit(settings.limit.of(name, devices[0].name), f"limit.{name}")
        if name in wanted or limit.value is not None:
            found[name] = _objective(name, exact(space), "min" if name in wanted else None, limit)
    for name, metric in settings.metrics.items():
        found |= _metric(run, name, MetricSettings.of(name, metric), devices, name in wanted)
    return [found.pop(name) for name in wanted] + list(found.values())


def _objective(name: str, predictor: Predictor, goal: Any, limit: _Limit) -> Objective:
    return Objective(predictor, goal, limit.value, limit.name, limit.scale, name=name)


def _accuracy(run: Fitted, wanted: bool, costly: Predictor | None) -> Objective:
    floor = run.settings.limit.of("accuracy", "")
    return Objective(
        costly or _load(run.folder / "fit" / "accuracy.npz", run),
        "max" if wanted else None,
        floor,
        "limit.accuracy",
        name="accuracy",
        at_least=True,
        costly=costly is not None,
        worst=None if costly is None else 0.0,
    )


def _latency_limit(run: Fitted, device: DeviceProfile, latency: Predictor) -> _Limit:
    """`limit.latency_ms`, or where there is none `limit.latency_share`, less the margin."""
    limits: LimitSettings = run.settings.limit
    limit, name, scale = limits.of("latency_ms", device.name), "limit.latency_ms", 1.0
    share = limits.of("latency_share", device.name)
    if limit is None and share is not None:
        scale = float(latency.predict(run.space.biggest.genes[None])[0])
        limit, name = share * scale, "limit.latency_share"
    within = 1 - limits.latency_margin
    return _Limit(None if limit is None else limit * within, name, scale * within)


def _memory(run: Fitted, device: DeviceProfile) -> tuple[Predictor, _Limit] | None:
    path = run.folder / "fit" / f"{device.name}_memory.npz"
    limit = run.settings.limit.of("memory_bytes", device.name) or device.memory_limit_bytes
    if path.exists():
        return _load(path, run), _Limit(limit, "limit.memory_bytes")
    if limit is not None:
        raise InvalidValueError(
            f"`limit.memory_bytes`={limit:g} cannot be honoured on {device.name!r}: its backend reports no memory."
        )
    return None


def _metric(
    run: Fitted, name: str, metric: MetricSettings, devices: Sequence[DeviceProfile], wanted: bool
) -> dict[str, Objective]:
    """A metric of the user's: a saved predictor for all devices, or with ``{device}`` in its path one for each."""
    per_device = "{device}" in metric.file and len(devices) > 1
    if wanted and per_device:
        raise InvalidValueError(f"`search.joint` has one number for all devices, so {name!r} can only be a limit.")
    found = {}
    for device in devices if per_device else devices[:1]:
        predictor = _load(Path(metric.file.format(device=device.name)), run)
        key = f"{name}@{device.name}" if per_device else name
        found[key] = Objective(
            predictor,
            cast(Any, metric.goal) if wanted else None,
            metric.limit,
            f"metrics.{name}.limit",
            name=key,
            at_least=metric.goal == "max",
        )
    return found


def _shared(run: Fitted, latencies: dict[str, Predictor]) -> Predictor:
    """Latency on all devices as one number: each as a share of the largest network's there."""
    search = run.settings.search
    biggest = [float(part.predict(run.space.biggest.genes[None])[0]) for part in latencies.values()]
    if search.joint == "worst":
        return Combined(list(latencies.values()), [1 / ms for ms in biggest], "worst")
    weights = search.weights_of(list(latencies))
    factors = [weight / sum(weights) / ms for weight, ms in zip(weights, biggest, strict=True)]
    return weighted_sum(list(latencies.values()), factors)


def _load(path: Path, run: Fitted) -> Predictor:
    return cast(Predictor, load(path, run.space))

"""What a run searches for, on one device or on several at once, from its settings and its fitted predictors.

Objectives have names, as settings and files call them: ``accuracy``, ``latency_ms``, ``memory_bytes``, ``macs``,
``params`` and those of `metrics`. On several devices at once there is a ``latency_ms@<device>`` for each, and
``latency_share``: the latencies as shares of what the largest network takes, the worst of them or their weighted mean.

Memory is what a device's own tools report. Of a device that reports none it is the peak of the activations alive at
once, computed from the layers and the device's number format: what no order of one operator after the other needs less
than.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from hardware_profiles.device import DeviceProfile
from nas.core.problem import Objective, Problem
from nas.run.settings import MetricSettings, Settings
from predictors import Combined, PositionTable, Predictor, load, macs, params, peak_memory, weighted_sum
from predictors.additive_model import table_of
from search_spaces.architecture import Genes
from search_spaces.base.errors import InfeasibleError, InvalidValueError, UnknownNameError
from search_spaces.metric import ACCURACY, BUILT_IN, LATENCY, MACS, MEMORY, PARAMS, Limit, Metric, strictest
from search_spaces.space import SearchSpace

log = logging.getLogger(__name__)

SHARE = Metric("latency_share", "1", title="latency on all devices")
PEAK = dataclasses.replace(MEMORY, estimated=True)
"""Memory of a device whose own tools report none, as it is computed."""

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
"""Of one activation in a number format."""


class FittedRun(Protocol):
    """What is needed of a run: its settings, and a folder with fitted predictors."""

    @property
    def settings(self) -> Settings: ...
    @property
    def space(self) -> SearchSpace: ...
    @property
    def folder(self) -> Path: ...
    @property
    def devices(self) -> list[DeviceProfile]: ...


def searched_space(run: FittedRun) -> SearchSpace:
    """The part of the run's space that `search.fixed` leaves."""
    return run.space.restricted(run.settings.search.fixed)


def problem_of(run: FittedRun, device: DeviceProfile, accuracy: Predictor | None = None) -> Problem:
    """What is searched for one device.

    Args:
        run: its settings and fitted predictors.
        device: one of its devices.
        accuracy: evaluates in place of the fitted predictor; each evaluation is costly.
    """
    return Problem(searched_space(run), _objectives(run, [device], accuracy))


def joint_problem(run: FittedRun, accuracy: Predictor | None = None) -> Problem:
    """What is searched for all devices of the run at once; limits hold on each."""
    return Problem(searched_space(run), _objectives(run, run.devices, accuracy))


def _objectives(run: FittedRun, devices: Sequence[DeviceProfile], accuracy: Predictor | None) -> list[Objective]:
    settings = run.settings
    check_names(settings, len(devices))
    wanted = list(settings.search.objectives)
    found = _accuracy(run, "accuracy" in wanted, accuracy)
    joint = len(devices) > 1
    latencies = {device.name: _load(run.folder / "fit" / f"{device.name}_latency.npz", run) for device in devices}
    if joint and "latency_ms" in wanted:
        found["latency_ms"] = Objective(_shared(run, latencies), SHARE)
    for device in devices:
        latency, goal = latencies[device.name], "latency_ms" in wanted and not joint
        where = device.name if joint else None
        one = Objective(latency, LATENCY, goal, latency_limit(run, device, latency), where)
        found[one.name] = one
    for device in devices:
        path, limit = run.folder / "fit" / f"{device.name}_memory.npz", memory_limit(run, device)
        goal, where = "memory_bytes" in wanted and not joint, device.name if joint else None
        if path.exists() or goal or limit is not None:
            memory, metric = (_load(path, run), MEMORY) if path.exists() else (computed_memory(run.space, device), PEAK)
            one = Objective(memory, metric, goal, limit, where)
            found[one.name] = one
    found |= {o.name: o for o in _counted(run, devices)}
    found |= {o.name: o for o in metric_objectives(run, devices)}
    return [found.pop(name) for name in wanted] + list(found.values())


def check_names(settings: Settings, devices: int) -> None:
    """Refuse objectives and metrics that there are not, or not on so many devices at once.

    Raises:
        UnknownNameError: names the objective, and those that there are.
        InvalidValueError: a metric is malformed, or cannot be one number for all devices.
    """
    wanted, known = settings.search.objectives, [*BUILT_IN, *settings.metrics]
    for name in wanted:
        if name not in known:
            raise UnknownNameError(f"`search.objectives` may name {', '.join(known)}, but got {name!r}.")
    per_device = ["memory_bytes"]
    for name, given in settings.metrics.items():
        if "{device}" in MetricSettings.of(name, given).file:
            per_device.append(name)
    for name in set(wanted) & set(per_device) if devices > 1 else ():
        raise InvalidValueError(f"`search.joint` has one number for all devices, so {name} can only be a limit.")


def device_limits(
    run: FittedRun, device: DeviceProfile, latency: Predictor | None = None, memory: Predictor | None = None
) -> list[Objective]:
    """The limits that hold on a device, as far as it is known how the networks of the space compare with them.

    MACs, parameters and metrics of the user's cost nothing to know, nor does the computed peak of the memory.

    Args:
        run: its settings.
        device: one of its devices.
        latency: of the device, once it is known.
        memory: as the device's own tools report it, once it is known.

    Returns:
        For each limit an objective whose goal is to keep it.
    """
    found = [*_counted(run, [device]), *metric_objectives(run, [device])]
    if memory is not None:
        found.append(Objective(memory, MEMORY, False, memory_limit(run, device)))
    elif not reports_memory(device):
        found.append(Objective(computed_memory(run.space, device), PEAK, False, memory_limit(run, device)))
    if latency is not None:
        found.append(Objective(latency, LATENCY, False, latency_limit(run, device, latency)))
    return [dataclasses.replace(objective, goal=True) for objective in found if objective.limit is not None]


def reports_memory(device: DeviceProfile) -> bool:
    """Whether the device's own tools say how much memory a network needs."""
    return MEMORY in device.capabilities.metrics


def short_name(metric: Metric) -> str:
    """What files of a run call a metric of a device: latency and memory without their units."""
    return {LATENCY.name: "latency", MEMORY.name: "memory"}.get(metric.name, metric.name)


def computed_memory(space: SearchSpace, device: DeviceProfile) -> PositionTable:
    """Peak of the activation bytes alive at once, of a batch in the device's number format."""
    table = peak_memory(space, BYTES.get(device.dtype, 4) * device.batch)
    return dataclasses.replace(table, metric="computed peak of the activation memory")


def _counted(run: FittedRun, devices: Sequence[DeviceProfile]) -> list[Objective]:
    """MACs and parameters, where they are wanted or limited; of several devices' limits the tightest holds."""
    found = []
    for metric, exact in ((MACS, macs), (PARAMS, params)):
        limit = strictest(stated_limit(run, metric, device.name) for device in devices)
        goal = metric.name in run.settings.search.objectives
        if goal or limit is not None:
            found.append(Objective(exact(run.space), metric, goal, limit))
    return found


def stated_limit(run: FittedRun, metric: Metric, device: str) -> Limit | None:
    """The limit of the settings as it holds for a device."""
    bound = run.settings.limit.of(metric.name, device)
    return None if bound is None else Limit(metric, bound, f"limit.{metric.name}")


def _accuracy(run: FittedRun, wanted: bool, costly: Predictor | None) -> dict[str, Objective]:
    """The objective by its name; nothing where none is needed or fitted."""
    file = run.folder / "fit" / "accuracy.npz"
    if costly is None and not (run.settings.needs_accuracy or file.exists()):
        return {}
    objective = Objective(
        costly or _load(file, run),
        ACCURACY,
        wanted,
        stated_limit(run, ACCURACY, ""),
        costly=costly is not None,
        worst=None if costly is None else 0.0,
    )
    return {"accuracy": objective}


def latency_limit(run: FittedRun, device: DeviceProfile, latency: Predictor) -> Limit | None:
    """`limit.latency_ms`, or where there is none `limit.latency_share`, with the margin."""
    margin = run.settings.limit.latency_margin
    if (limit := stated_limit(run, LATENCY, device.name)) is not None:
        return dataclasses.replace(limit, margin=margin)
    if (share := run.settings.limit.of("latency_share", device.name)) is None:
        return None
    _, largest = largest_runnable(run.space, latency, device.name)
    return Limit(LATENCY, share * largest, "limit.latency_share", margin, largest)


def largest_runnable(space: SearchSpace, latency: Predictor, device: str) -> tuple[Genes, float]:
    """The largest network and its latency; the slowest one of those that run, where the device cannot run it.

    Raises:
        InfeasibleError: the device can run none.
    """
    genes = space.biggest.genes
    value = float(latency.predict(genes[None])[0])
    if not np.isposinf(value):
        return genes, value
    table = table_of(latency)
    if table is not None and table.combine == "sum":
        negative = np.where(np.isfinite(table.values), -table.values, np.inf)
        genes, least = dataclasses.replace(table, values=negative, constant=-table.constant).minimum()
        value = -least
    else:
        rows = space.sample(1000, np.random.default_rng(0))
        values = latency.predict(rows)
        values[np.isposinf(values)] = -np.inf
        genes, value = rows[int(values.argmax())], float(values.max())
    if np.isneginf(value):
        raise InfeasibleError(
            f"Device {device!r} can run none of the {space.size:,} networks: each has a layer whose latency could not "
            "be taken. Choose another device or another space."
        )
    log.warning(
        "%s cannot run the largest network of the space, so shares are of the slowest that it can run, %.4g ms",
        device,
        value,
    )
    return genes, value


def memory_limit(run: FittedRun, device: DeviceProfile) -> Limit | None:
    """`limit.memory_bytes`, or the device's own limit."""
    limit, own = stated_limit(run, MEMORY, device.name), device.memory_limit_bytes
    if limit is None and own is not None:
        return Limit(MEMORY, float(own), f"memory_limit_bytes of {device.name}")
    return limit


def metric_objectives(run: FittedRun, devices: Sequence[DeviceProfile]) -> list[Objective]:
    """Metrics of the user's: of each a saved predictor for all devices, or with ``{device}`` in its path one for each.

    Raises:
        InvalidValueError: a file is not there; the message names the metric.
    """
    found = []
    for name, given in run.settings.metrics.items():
        own = MetricSettings.of(name, given)
        per_device = "{device}" in own.file and len(devices) > 1
        for device in devices if per_device else devices[:1]:
            path = Path(own.file.replace("{device}", device.name))
            if not path.is_file():
                raise InvalidValueError(
                    f"`metrics.{name}.file` must be the npz of a saved predictor, but {path} is no file."
                )
            predictor = _load(path, run)
            metric = Metric(name, predictor.unit, own.goal)
            limit = None if own.limit is None else Limit(metric, own.limit, f"metrics.{name}.limit")
            goal, where = name in run.settings.search.objectives, device.name if per_device else None
            found.append(Objective(predictor, metric, goal, limit, where))
    return found


def _shared(run: FittedRun, latencies: dict[str, Predictor]) -> Predictor:
    """Latency on all devices as one number: each as a share of the largest network's there."""
    search = run.settings.search
    biggest = [largest_runnable(run.space, part, device)[1] for device, part in latencies.items()]
    if search.joint == "worst":
        return Combined(list(latencies.values()), [1 / ms for ms in biggest], "worst")
    weights = search.weights_of(list(latencies))
    factors = [weight / sum(weights) / ms for weight, ms in zip(weights, biggest, strict=True)]
    return weighted_sum(list(latencies.values()), factors)


def _load(path: Path, run: FittedRun) -> Predictor:
    return cast(Predictor, load(path, run.space))

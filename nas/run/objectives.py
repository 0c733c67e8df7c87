"""Objectives of a run, on one device or on several at once, from its settings and its fitted predictors.

Objectives have names, as settings and files call them: the metric of the task, such as ``accuracy`` or ``miou`` (which
settings may call accuracy, whatever it is), ``latency_ms``, ``memory_bytes``, those that are counted (``macs``,
``params``, ``activations``, ``traffic``, ``intensity``) and those of `metrics`. On several devices at once there is a
``latency_ms@<device>`` for each, and ``latency_share``: the latencies as shares of what the slowest network takes, the
worst of them or their weighted mean.

Memory is what a device's own tools report. Of a device that reports none it is the peak of the activations alive at
once, computed from the layers and the device's number format: what no order of one operator after the other needs less
than.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from hardware_profiles.device import DeviceProfile
from nas.core.problem import Objective, Problem
from nas.run.settings import MetricSettings, Settings
from predictors import (
    Combined,
    Function,
    PositionTable,
    Predictor,
    activations,
    intensity,
    macs,
    params,
    peak_memory,
    traffic,
    weighted_sum,
)
from predictors.additive_model import table_of
from predictors.base import exact_minimum, metric_of
from predictors.factor_table import FactorTable
from predictors.saving import saved_predictor
from search_spaces.architecture import Genes
from search_spaces.base import trust
from search_spaces.base.errors import InfeasibleError, InvalidValueError, UnknownNameError
from search_spaces.metric import (
    ACCURACY,
    BLOCK_LOSS,
    BUILT_IN,
    COUNTED,
    LATENCY,
    MEMORY,
    Limit,
    Metric,
    TaskMetric,
    strictest,
)
from search_spaces.space import SearchSpace

SHARE = Metric("latency_share", "1", title="latency on all devices")
PEAK = dataclasses.replace(MEMORY, estimated=True, title="computed peak of activations")
"""Memory of a device whose own tools report none, as it is computed."""

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
"""Bytes of a number in a format."""


class FittedRun(Protocol):
    """Part of a run that is needed: its settings, and a folder with fitted predictors."""

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
    """Problem of one device.

    Args:
        run: its settings and fitted predictors.
        device: one of its devices.
        accuracy: evaluates in place of the fitted predictor; each evaluation is costly.
    """
    return Problem(searched_space(run), _objectives(run, [device], accuracy))


def joint_problem(run: FittedRun, accuracy: Predictor | None = None) -> Problem:
    """Problem of all devices of the run at once; limits hold on each."""
    return Problem(searched_space(run), _objectives(run, run.devices, accuracy))


def _objectives(run: FittedRun, devices: Sequence[DeviceProfile], accuracy: Predictor | None) -> list[Objective]:
    wanted, joint = run.settings.search.objectives, len(devices) > 1
    found = {objective.name: objective for objective in _accuracy(run, devices, accuracy)}
    check_names(run, *(o.metric for o in found.values() if isinstance(o.metric, TaskMetric)))
    wanted = [next(iter(found), name) if name == ACCURACY.name else name for name in wanted]
    if len(set(wanted)) < len(wanted):
        raise InvalidValueError(f"`search.objectives` names {next(iter(found))} twice, once as accuracy. Name it once.")
    if joint and LATENCY.name in wanted:
        latencies = {
            device.name: saved_predictor(run.space, file=fitted_file(run, device, LATENCY)) for device in devices
        }
        found[LATENCY.name] = Objective(_shared(run, latencies), SHARE)
    for metric in device_metrics(run):
        for device in devices:
            path = fitted_file(run, device, metric)
            predictor = saved_predictor(run.space, file=path) if path.exists() else None
            objective = _of_device(run, device, metric, predictor, joint)
            found |= {} if objective is None else {objective.name: objective}
    further = [*_rated(run, devices), *_counted(run, devices), *own_objectives(run, devices)]
    found |= {objective.name: objective for objective in further}
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InvalidValueError(
            f"`search.objectives` names {missing[0]}, but no predictor of it is fitted. Run `nas profile`, `nas fit`."
        )
    return [found.pop(name) for name in wanted] + list(found.values())


def _of_device(
    run: FittedRun, device: DeviceProfile, metric: Metric, predictor: Predictor | None, joint: bool
) -> Objective | None:
    """A metric of a device as an objective; None where nothing is known or wanted of it."""
    limit, goal = limit_of(run, metric, device, predictor), metric.name in run.settings.search.objectives and not joint
    if predictor is None and metric == MEMORY and (goal or limit is not None):
        predictor, metric = computed_memory(run.space, device), PEAK
    if predictor is None:
        if limit is None or not reports(device, metric):
            return None
        path = fitted_file(run, device, metric)
        raise InvalidValueError(
            f"`{limit.setting}` needs {path}, which does not exist. Run `nas profile` and `nas fit`."
        )
    return Objective(predictor, metric, goal, limit, device.name if joint else None)


def metrics_of(run: FittedRun) -> dict[str, list[str]]:
    """All metrics of a run, with the devices that have them.

    Raises:
        InvalidValueError: one of the user's metrics is malformed, or has a name that a device reports or a choice of
            the space has.
    """
    names = [device.name for device in run.devices]
    rated = [] if BLOCK_LOSS.name in run.settings.own else [BLOCK_LOSS.name]
    found = {name: names for name in [*BUILT_IN, *rated, *run.settings.task_names]}
    for metric in device_metrics(run)[2:]:
        found[metric.name] = [device.name for device in run.devices if reports(device, metric)]
    for name in run.settings.own:
        if name in found:
            raise InvalidValueError(f"`metrics` must not name {name!r}, which {' and '.join(found[name])} reports.")
        check_name(run.space, name)
        found[name] = names
    return found


def check_name(space: SearchSpace, name: str) -> None:
    """Refuse a metric that has the name of a choice: they are columns of one table."""
    if name in space.index:
        raise InvalidValueError(
            f"A metric must not be called {name}, as a choice of the space is. Choose another name."
        )


def device_metrics(run: FittedRun) -> list[Metric]:
    """Metrics that each device has a value of its own of: latency, memory, and what backends report besides."""
    reported = {metric.name: metric for device in run.devices for metric in device.capabilities.metrics}
    return [LATENCY, MEMORY, *(metric for name, metric in reported.items() if name != MEMORY.name)]


def check_names(run: FittedRun, task: TaskMetric = ACCURACY) -> None:
    """Refuse objectives, metrics and limits that there are not, or not on so many devices at once.

    Args:
        run: its settings.
        task: metric of its task, which accuracy stands for.

    Raises:
        UnknownNameError: names the objective, and those that there are.
        InvalidValueError: a metric is malformed, or cannot be one number for all devices.
    """
    wanted, known = run.settings.search.objectives, metrics_of(run)
    for name in wanted:
        if name not in known:
            raise UnknownNameError(f"`search.objectives` may name {', '.join(known)}, but got {name!r}.")
        lacking = [device.name for device in run.devices if device.name not in known[name]]
        if lacking:
            raise InvalidValueError(f"`search.objectives` names {name}, which {lacking[0]} does not report.")
    run.settings.limits.check(known, task)
    per_device = [metric.name for metric in device_metrics(run)[1:]]
    per_device += [name for name, own in run.settings.own.items() if own.of_device]
    for name in set(wanted) & set(per_device) if run.settings.search.joint and len(run.devices) > 1 else ():
        raise InvalidValueError(f"`search.joint` has one number for all devices, so {name} can only be a limit.")


def device_limits(run: FittedRun, device: DeviceProfile, known: Mapping[str, Predictor]) -> list[Objective]:
    """The limits that hold on a device, as far as it is known how the networks of the space compare with them.

    What is counted and metrics of the user's cost nothing to know, nor does the computed peak of the memory.

    Args:
        run: its settings.
        device: one of its devices.
        known: predictors of its metrics, as far as there are any.

    Returns:
        For each limit an objective whose goal is to keep it.
    """
    found = [*_counted(run, [device]), *own_objectives(run, [device])]
    for metric in device_metrics(run):
        predictor = known.get(metric.name)
        if predictor is not None or (metric == MEMORY and not reports(device, MEMORY)):
            found += filter(None, [_of_device(run, device, metric, predictor, False)])
    return [dataclasses.replace(objective, goal=True) for objective in found if objective.limit is not None]


def reports(device: DeviceProfile, metric: Metric) -> bool:
    """True if a device has values of its own of a metric: of its latency, and of what its own tools report."""
    return metric == LATENCY or metric.name in [reported.name for reported in device.capabilities.metrics]


def fitted_file(run: FittedRun, device: DeviceProfile, metric: Metric) -> Path:
    """Path of the fitted predictor of a device's metric, if there is one."""
    return run.folder / "fit" / f"{device.name}_{short_name(metric)}.npz"


def fitted_files(run: FittedRun) -> list[Path]:
    """Paths where fitted predictors of devices' metrics may be."""
    return [fitted_file(run, device, metric) for metric in device_metrics(run) for device in run.devices]


def rating_file(folder: Path) -> Path:
    """Path of the losses of blocks in a run folder."""
    return folder / "label" / f"{BLOCK_LOSS.name}.npz"


def short_name(metric: Metric) -> str:
    """Name of a metric of a device in files of a run: latency and memory without their units."""
    return {LATENCY.name: "latency", MEMORY.name: "memory"}.get(metric.name, metric.name)


def computed_memory(space: SearchSpace, device: DeviceProfile) -> PositionTable | FactorTable:
    """Peak of the activation bytes alive at once, of a batch in the device's number format."""
    table = peak_memory(space, BYTES.get(device.dtype, 4) * device.batch)
    return dataclasses.replace(table, metric="computed peak of the activation memory")


def counters(
    space: SearchSpace, devices: Sequence[DeviceProfile] = (), buffer_kib: float = 0.0
) -> dict[str, Callable[[], Predictor]]:
    """Makers of the predictors of the metrics that are counted, by name.

    Args:
        space: of the networks.
        devices: that run them: a number is as wide as in the widest of their formats, without any as in float32.
        buffer_kib: on-chip buffer of a device, in KiB.
    """
    word_bytes = max((BYTES.get(device.dtype, 4) for device in devices), default=4)
    words = int(buffer_kib * 1024 // word_bytes)
    return {
        "macs": lambda: macs(space),
        "params": lambda: params(space),
        "activations": lambda: activations(space),
        "traffic": lambda: traffic(space, words),
        "intensity": lambda: intensity(space, word_bytes, words),
    }


def _counted(run: FittedRun, devices: Sequence[DeviceProfile]) -> list[Objective]:
    """Metrics that are counted, where they are wanted or limited; of several devices' limits the tightest holds."""
    found = []
    for name, make in counters(run.space, devices, run.settings.buffer_kib).items():
        limit = strictest(limit_of(run, COUNTED[name], device) for device in devices)
        goal = name in run.settings.search.objectives
        if goal or limit is not None:
            found.append(Objective(make(), COUNTED[name], goal, limit))
    return found


def _rated(run: FittedRun, devices: Sequence[DeviceProfile]) -> list[Objective]:
    """The loss of blocks, where it is wanted or limited."""
    if not run.settings.rates_blocks:
        return []
    limit = strictest(limit_of(run, BLOCK_LOSS, device) for device in devices)
    goal = BLOCK_LOSS.name in run.settings.search.objectives
    return [Objective(saved_predictor(run.space, file=rating_file(run.folder)), BLOCK_LOSS, goal, limit)]


def _accuracy(run: FittedRun, devices: Sequence[DeviceProfile], costly: Predictor | None) -> list[Objective]:
    """The metric of the task as an objective; nothing where none is needed or fitted."""
    file = run.folder / "fit" / "accuracy.npz"
    if costly is None and not (run.settings.needs_accuracy or file.exists()):
        return []
    predictor = costly or saved_predictor(run.space, file=file)
    metric = task_metric_of(predictor)
    objective = Objective(
        predictor,
        metric,
        bool({ACCURACY.name, metric.name} & set(run.settings.search.objectives)),
        strictest(limit_of(run, metric, device) for device in devices),
        costly=costly is not None,
        worst=None if costly is None or metric.direction == "min" else 0.0,
    )
    return [objective]


def task_metric_of(predictor: Predictor) -> TaskMetric:
    """Metric of a task that a predictor names; see `metric_of`."""
    metric = metric_of(predictor)
    if isinstance(metric, TaskMetric):
        return metric
    return TaskMetric(metric.name, metric.unit, metric.direction)


def limit_of(run: FittedRun, metric: Metric, device: DeviceProfile, predictor: Predictor | None = None) -> Limit | None:
    """The limit on a metric as it holds for a device: that of the settings, a share of what the slowest network takes,
    or the memory that the device has.

    Args:
        run: its settings.
        metric: that is limited.
        device: one of its devices.
        predictor: of the metric there; without it a share is not known.
    """
    limits = run.settings.limits
    margin = limits.margin if metric == LATENCY else 0.0
    name, task = limits.named(metric), metric if isinstance(metric, TaskMetric) else ACCURACY
    if (bound := limits.of(name, device.name, task)) is not None:
        return Limit(metric, bound, limits.setting(name), margin)
    share = limits.of(SHARE.name, device.name) if metric == LATENCY else None
    if share is not None and predictor is not None:
        slowest = slowest_network(run.space, predictor, device.name)
        return Limit(metric, share * slowest.ms, f"limit.{SHARE.name}", margin, slowest.ms, slowest.words)
    if metric.name == MEMORY.name and device.memory_limit_bytes is not None:
        return own_memory_limit(metric, device, f"limit.{MEMORY.name}")
    return None


def own_memory_limit(metric: Metric, device: DeviceProfile, setting: str) -> Limit:
    """The limit on the memory of a device that its profile has.

    Args:
        metric: that is limited.
        device: with a memory limit.
        setting: by which the user may set another one.
    """
    assert device.memory_limit_bytes is not None
    origin = f"the memory that {device.name} has"
    return Limit(metric, float(device.memory_limit_bytes), setting, origin=origin)


LOOKED_AT = 1000
"""Random networks of which the slowest is known where that of the space is not."""


@dataclass(frozen=True)
class Slowest:
    """The slowest network of a space that a device can run: its genes, its latency, and what it is in words."""

    genes: Genes
    ms: float
    words: str


def slowest_network(space: SearchSpace, latency: Predictor, device: str) -> Slowest:
    """The slowest network of a space that a device can run.

    Where no network has more work at any position than the one of each choice's last value, only what disturbs
    measurements can make another one slower: it is the slowest. Elsewhere, as where a position offers several kinds of
    layers, the slowest one is exact where the latency is a sum over positions and few choices meet, and else that of
    some random networks.

    Args:
        space: of the networks.
        latency: predicts it on the device.
        device: its name, for a refusal.

    Raises:
        InfeasibleError: the device can run none.
    """
    largest = space.biggest.genes
    ms = float(latency.predict(largest[None])[0])
    most = [[one.macs for one in space.largest_layers[name].values()] for name in space.biggest.layers]
    is_largest = most == [[layer.macs] for layer in space.biggest.layers.values()]
    if is_largest and not np.isposinf(ms):
        return Slowest(largest, ms, "the largest network")
    found = _exact_slowest(latency)
    if found is None:
        rows = np.concatenate([largest[None], space.sample(LOOKED_AT, np.random.default_rng(0))])
        values = latency.predict(rows)
        values[np.isposinf(values)] = -np.inf
        row = int(values.argmax())
        found = Slowest(rows[row], float(values[row]), f"the slowest of {LOOKED_AT + 1:,} networks")
    if np.isneginf(found.ms):
        raise InfeasibleError(
            f"Device {device!r} can run none of the {space.size:,} networks: each has a layer whose latency could not "
            "be taken. Choose another device or another space."
        )
    return found


def _exact_slowest(latency: Predictor) -> Slowest | None:
    """The slowest network by a latency that is a sum over positions; None: it is none, or too many choices meet."""
    table = table_of(latency)
    if not isinstance(table, PositionTable) or table.combine != "sum":
        return None
    runs = np.isfinite(table.values)
    negative = dataclasses.replace(table, values=np.where(runs, -table.values, np.inf), constant=-table.constant)
    found = exact_minimum(negative)
    words = "the slowest network" if runs.all() else "the slowest network that the device can run"
    return None if found is None else Slowest(found[0], -found[1], words)


def own_objectives(run: FittedRun, devices: Sequence[DeviceProfile]) -> list[Objective]:
    """Metrics of the user's: of each one predictor for all devices, or with ``{device}`` in its file's path one for
    each.

    Raises:
        InvalidValueError: a file is not there, or a function is not trusted; the message names the metric.
    """
    found = []
    for name, own in run.settings.own.items():
        apart = own.of_device and len(devices) > 1
        for device in devices if apart else devices[:1]:
            metric, predictor = _own(run, name, own, device)
            limit = strictest(limit_of(run, metric, one) for one in ([device] if own.of_device else devices))
            goal, where = name in run.settings.search.objectives, device.name if apart else None
            found.append(Objective(predictor, metric, goal, limit, where))
    return found


def own_function(name: str, own: MetricSettings) -> Function | None:
    """The function of a metric of the user's; None where a file has its values.

    Raises:
        InvalidValueError: it is not trusted, or no function.
        UnknownNameError: there is none.
    """
    if own.function is None:
        return None
    f = trust.find(f"`metrics.{name}.function`", own.function)
    return Function(name, own.unit or "1", f, own.direction or "min", own.layers, own.batched)


def exact_predictors(run: FittedRun, device: DeviceProfile) -> dict[str, Predictor]:
    """Metrics that are known exactly, by name: what is counted, as far as it is wanted or limited on a device, and
    functions of the user's."""
    found = {objective.name: objective.predictor for objective in _counted(run, [device])}
    made = {name: own_function(name, own) for name, own in run.settings.own.items()}
    return found | {name: function.predictor(run.space) for name, function in made.items() if function is not None}


def _own(run: FittedRun, name: str, own: MetricSettings, device: DeviceProfile) -> tuple[Metric, Predictor]:
    if (function := own_function(name, own)) is not None:
        return function.metric, function.predictor(run.space)
    path = Path(str(own.file).replace("{device}", device.name))
    if not path.is_file():
        raise InvalidValueError(f"`metrics.{name}.file` must be the npz of a saved predictor, but {path} is no file.")
    predictor = saved_predictor(run.space, file=path)
    return Metric(name, own.unit or predictor.unit, metric_of(predictor, own.direction).direction), predictor


def _shared(run: FittedRun, latencies: dict[str, Predictor]) -> Predictor:
    """Latency on all devices as one number: each as a share of the slowest network's there."""
    search = run.settings.search
    slowest = [slowest_network(run.space, part, device).ms for device, part in latencies.items()]
    if search.joint == "worst":
        return Combined(list(latencies.values()), [1 / ms for ms in slowest], "worst")
    weights = search.weights_of(list(latencies))
    factors = [weight / sum(weights) / ms for weight, ms in zip(weights, slowest, strict=True)]
    return weighted_sum(list(latencies.values()), factors)

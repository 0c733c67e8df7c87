"""Checks before a run begins, and the plan of what it will do.

`check` makes every object of a run once, looks at the images, reaches the devices and compares limits with what the
space can keep, exactly where that costs nothing: MACs, parameters and the computed peak of the activation memory at
once, latencies as soon as the layers are measured. Nothing is measured, trained or written here.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware_profiles.device import DeviceProfile
from hardware_profiles.latency_table import LatencyTable
from nas.core.evaluations import check_workers
from nas.core.problem import Objective, Problem
from nas.core.progress import duration
from nas.run.fitting import fit_latency, fit_metric, fitted_metrics, predictor_maker
from nas.run.fronts import Front
from nas.run.labelling import training_settings
from nas.run.network_log import NetworkLog
from nas.run.objectives import (
    check_names,
    computed_memory,
    counters,
    device_limits,
    device_metrics,
    fitted_file,
    limit_of,
    metrics_of,
    own_objectives,
    reports,
    searched_space,
)
from nas.run.rating import blockwise_of
from nas.run.recipe_search import trainings_of
from nas.run.retraining import retraining_settings
from nas.run.reuse import check_reuse, check_taken
from nas.run.run_folder import Run
from nas.run.searching import check_feasible, searcher_of
from nas.run.settings import parse_duration
from predictors import CorrectedLookup, PositionTable, Predictor, macs
from predictors.base import exact_minimum
from predictors.saving import saved_predictor
from search_spaces.architecture import Architecture
from search_spaces.base.errors import DeviceUnavailableError, InvalidValueError, TooCostlyError, UnknownNameError
from search_spaces.metric import (
    ACCURACY,
    COUNTED,
    LATENCY,
    MEMORY,
    Limit,
    Metric,
    TaskMetric,
    number_text,
    setting_text,
    strictest,
    with_unit,
)
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from nas.data import Data, Samples
    from nas.supernet import TrainingSettings

NETWORKS = 30
"""Random networks of a space whose layers must fit together."""
SAMPLE = 1000
"""Random networks that medians are of."""
ENLARGED = 4
"""Images that are enlarged by more than this hold no more than they did."""
STRETCHED = 1.25
"""Images of which one side grows by more than this, compared with the other, look like other things."""
LOADED = 32
"""Inputs that are loaded to try out how long that takes."""
TRIED_MACS = 2e9
"""Multiply-accumulates of the training step that is tried out, at most: a second or so."""


@dataclass(frozen=True)
class Quantity:
    """Range of a quantity over the networks of the space on a device, and its limit.

    ``least`` is exact over the whole space, ``median`` that of random networks, ``largest`` the largest of theirs and
    of the network that has the last value of each choice, which need not be large where kinds of layers are chosen.
    ``kept``: share of the random networks that keep the limit; None where there is none.
    """

    device: str
    name: str
    metric: Metric
    least: float
    median: float
    largest: float
    limit: Limit | None
    kept: float | None


@dataclass(frozen=True)
class Plan:
    """Facts that are known before a run begins.

    ``notes``: what is unusual, a sentence each. ``times``: about how long stages take, where that can be told.
    """

    notes: tuple[str, ...] = ()
    times: Mapping[str, str] = field(default_factory=dict)


def check(run: Run, stages: Collection[str]) -> Plan:
    """Refuse what would fail later.

    Args:
        run: its settings; of its folder only what is there already is read.
        stages: those that are to be run; what they need is checked.

    Raises:
        NasError: a setting, the data, a device or a limit is wrong; the message says which, and the way out.
    """
    devices, notes = run.devices, list[str]()
    names = [device.name for device in devices]
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise InvalidValueError(
            f"Two devices of `device={run.settings.devices}` are called {twice[0]!r}. Give each a `name` of its own."
        )
    task = _task_metric(run)
    run.settings.limits.check(metrics_of(run), task)
    check_taken(run)
    if run.space.size < 2 and "search" in stages:
        raise InvalidValueError(f"Space {run.space.name!r} has a single network, so there is nothing to search.")
    check_networks(run.space)
    times: dict[str, str] = {}
    if {"fit", "search"} & set(stages):
        check_names(run, task)
    if "search" in stages:
        _check_search(run)
        _check_own_metrics(run)
    if "fit" in stages:
        _check_predictors(run)
    kept = run.settings.reuse.train is not None or (run.folder / "train" / "imported.json").exists()
    looking = {"label"} if kept else {"train", "label"}
    if run.settings.export.weights == "supernet":
        looking.add("verify")
    looking |= {"finetune", "train-alone"}
    if looking & set(stages):
        notes += _check_data(run)
    if {"profile", "train"} & set(stages):
        check_reuse(run)
    if "train" in stages and not kept:
        notes += movement_notes(run.data, training_settings(run))
        times |= _check_training(run, stages)
    if "label" in stages and run.settings.rates_blocks:
        blockwise_of(run)
    if "label" in stages and run.settings.label.by == "training":
        times["label"] = _time_of_trainings(run)
    for stage in {"finetune", "train-alone"} & set(stages):
        retraining_settings(run, stage)
    if "search" in stages:
        notes += check_limits(run, profiled="profile" not in stages, fitted="fit" not in stages)
    if {"profile", "verify"} & set(stages):
        for device in devices:
            _check_device(run, device)
    if "label" in stages:
        check_workers(run.settings.label.workers)
    if "search" in stages and run.settings.search.accuracy == "supernet":
        check_workers(run.settings.search.workers)
    if "profile" in stages and run.settings.profile.budget is not None:
        budget = parse_duration("budget", run.settings.profile.budget) * len(devices)
        times["profile"] = f"at most {duration(budget)}"
    return Plan(tuple(notes), times)


def check_networks(space: SearchSpace) -> None:
    """Look at the ends of a space and at some networks between: whether their layers take what they are given.

    Raises:
        InvalidValueError: names the position, the way out, and the network.
    """
    between = [Architecture(space, row) for row in space.sample(NETWORKS, np.random.default_rng(0))]
    for architecture in (space.smallest, space.biggest, *between):
        try:
            space.lower(architecture)
        except InvalidValueError as error:
            raise InvalidValueError(
                f"Space {space.name!r} has a network that cannot be: {error} It is {architecture.values}."
            ) from error


def _task_metric(run: Run) -> TaskMetric:
    """Metric of the task of a run; where no setting depends on it, accuracy.

    Raises:
        UnknownNameError: settings name that of another task.
    """
    names, limits = run.settings.task_names, run.settings.limits
    others = [name for name in names if name != ACCURACY.name]
    if not others and not limits.stated(ACCURACY.name):
        return ACCURACY
    metric = run.data.task.metric
    if wrong := [name for name in others if name != metric.name]:
        raise UnknownNameError(
            f"The objectives or limits name {wrong[0]}, but the task of data {run.data.name!r} is judged by "
            f"{metric.name}. Say {metric.name}, or accuracy, which stands for the metric of any task."
        )
    return metric


# -- the parts of a run ------------------------------------------------------------------------------------------------


def _check_device(run: Run, device: DeviceProfile) -> None:
    """Reach a device."""
    if run.settings.profile.method == "in_context" and not device.capabilities.in_context:
        raise InvalidValueError(
            f"`profile.method=in_context` needs a backend that can time inside a network, which {device.backend} of "
            f"device {device.name!r} cannot. Use `profile.method=isolated`."
        )
    try:
        device.open().close()
    except DeviceUnavailableError as error:
        raise DeviceUnavailableError(f"Device {device.name!r} cannot be used: {error}") from error


def _check_predictors(run: Run) -> None:
    """Make the predictors that `nas fit` makes, with an empty table in place of the measured one."""
    empty = PositionTable(run.space, "latency", "ms", np.zeros(run.space.table_size))
    made_for = [("accuracy", run.settings.accuracy, "")]
    made_for += [("latency", run.settings.latency, device.name) for device in run.devices]
    for key, node, device in made_for:
        make = predictor_maker(key, node, device)
        try:
            if getattr(make, "func", None) is CorrectedLookup:
                make(empty)
            else:
                make(run.space, seed=run.settings.seed)
        except TypeError as error:
            raise InvalidValueError(f"`{key}` cannot be made: {error}") from error


def _check_search(run: Run) -> None:
    settings = run.settings.search
    searcher_of(run, run.devices[0].name)
    settings.weights_of([device.name for device in run.devices])
    if settings.start:
        if not Path(settings.start).is_file():
            raise InvalidValueError(f"`search.start={settings.start}` must be the file of a front, but there is none.")
        Front.read(Path(settings.start)).genes(run.space)


def _check_own_metrics(run: Run) -> None:
    """Ask the user's metrics for the values of two networks."""
    for objective in own_objectives(run, run.devices):
        objective.predictor.predict(np.stack([run.space.smallest.genes, run.space.biggest.genes]))


def _check_training(run: Run, stages: Collection[str]) -> dict[str, str]:
    """Make the training's settings, and try out one step.

    Returns:
        About how long training and labelling take.
    """
    from nas.core import loop
    from nas.supernet import Supernet, check_device
    from nas.supernet.augmentation import check_augment
    from nas.supernet.training_settings import check_recipe

    settings = training_settings(run)
    check_device(settings)
    supernet = Supernet(run.space, seed=0)
    if settings.trained:
        supernet.train_only(settings.trained)
    check_recipe(settings, supernet)
    check_augment(settings.augment, run.data)
    if "label" in stages:
        loop.check_device(run.settings.label.device, "label.device")
    step_s, image_s = _seconds_per_step(run, settings)
    steps = settings.epochs * max(1, len(run.data.train) // settings.batch_size)
    images = min(run.settings.label.recalibration_images, len(run.data.train)) + len(run.data.validation)
    subnets = min(run.settings.label.subnets, run.space.size)
    return {
        "train": f"about {duration(steps * step_s)}",
        **({"label": f"about {duration(subnets * images * image_s)}"} if "label" in stages else {}),
    }


def _time_of_trainings(run: Run) -> str:
    """Duration of the trainings of all labels in words, from one step that is tried out."""
    from nas.supernet.augmentation import check_augment

    settings = trainings_of(run).settings
    check_augment(settings.augment, run.data)
    steps = settings.epochs * max(1, len(run.data.train) // settings.batch_size)
    subnets = min(run.settings.label.subnets, run.space.size)
    return f"about {duration(subnets * steps * _seconds_per_step(run, settings)[0])}"


def _seconds_per_step(run: Run, settings: TrainingSettings) -> tuple[float, float]:
    """Seconds of a training step, inputs loaded, and of evaluating one image with a network of the mean size."""
    step_s, image_s = _tried(run, settings)
    load_s = _seconds_to_load(run.data.train) / max(1, settings.workers) * settings.batch_size
    return max(step_s, load_s) if settings.workers else step_s + load_s, image_s  # beside the step, or before it


def _tried(run: Run, settings: TrainingSettings) -> tuple[float, float]:
    """Seconds of a training step, and of evaluating one image with a network of the mean size."""
    import torch

    from nas.data import resize, to_device
    from nas.supernet import Supernet
    from nas.supernet.supernet import input_resolution
    from search_spaces.base.threads import torch_threads

    space, count = run.space, min(settings.batch_size, len(run.data.train))
    ends = (space.smallest, space.biggest)
    work = macs(space).predict(np.stack([architecture.genes for architecture in ends]))
    mean = float(macs(space).predict(space.sample(SAMPLE, np.random.default_rng(0))).mean())
    images = max(2, min(count, int(TRIED_MACS / max(1.0, work[1]))))
    steps, looks = [], []
    with torch_threads(settings.threads):
        supernet = Supernet(space, seed=0).to(settings.device)
        for architecture in ends:
            inputs, targets = run.data.train.take(torch.arange(images))
            x = resize(inputs, input_resolution(space, architecture)).to(settings.device)
            y = to_device(targets, torch.device(settings.device))

            def step(x: torch.Tensor = x, y: Any = y, architecture: Architecture = architecture) -> None:
                run.data.task.loss(supernet.train()(x, architecture), y).backward()  # type: ignore[no-untyped-call]

            def look(x: torch.Tensor = x, architecture: Architecture = architecture) -> None:
                with torch.no_grad():
                    supernet.eval()(x, architecture)

            steps.append(_least_seconds(step) * count / images)
            looks.append(_least_seconds(look) / images)
    of_mean = [float(np.interp(mean, work, seconds)) for seconds in (steps, looks)]  # they grow with the work
    return settings.per_step * of_mean[0], of_mean[1]


def _seconds_to_load(samples: Samples) -> float:
    """Seconds to load one input, in one process."""
    import torch

    count = min(len(samples), LOADED)
    return 0.0 if samples.in_memory else _least_seconds(lambda: samples.take(torch.arange(count))) / count


def _least_seconds(action: Callable[[], object]) -> float:
    """Least seconds of a few times; the first one allocates."""
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


# -- images ------------------------------------------------------------------------------------------------------------


def _check_data(run: Run) -> list[str]:
    """Refuse images that no network of the space can be trained on; what is unusual about them."""
    from nas.data import leak_notes
    from nas.supernet.supernet import check_task

    data, notes = run.data, list[str]()
    check_task(run.space, data)
    parts = {"train": data.train, "validation": data.validation, "test": data.test_part()}
    notes += [*data.notes, *leak_notes(data)]
    notes += data.task.notes(data.name, parts, run.space.lower(run.space.biggest).output_shapes)
    wanted = run.settings.label.recalibration_images
    if wanted > len(data.train):
        notes.append(f"`label.recalibration_images={wanted}`: all {len(data.train)} training images are used")
    return notes + resolution_notes(run.space, data)


def movement_notes(data: Data, settings: TrainingSettings) -> list[str]:
    """Note on features of sound that the training would turn, mirror or stretch like pictures."""
    import torch

    from nas.supernet.augmentation import drawn

    if data.kind != "recording":
        return []
    named = []
    for number, one in enumerate(settings.augment):
        movement = drawn([one], 8, data.resolution, torch.Generator().manual_seed(0)).movement
        if movement is not None and not torch.allclose(movement[:, :, :2], torch.eye(2)):
            named.append(f"`training.augment.{number}` ({type(one).__name__})")
    if not named:
        return []
    return [
        f"{' and '.join(named)} would turn, mirror or stretch time and frequency: for recordings, leave such changes "
        "out, or set `rotate=0` and `scale=0` of Affine"
    ]


def resolution_notes(space: SearchSpace, data: Data) -> list[str]:
    """Networks whose feature maps shrink to one pixel, and images that are enlarged or stretched a lot."""
    notes = []
    layers = space.lower(space.smallest)
    (_, *size) = next(iter(layers.inputs.values()))
    inner = list(layers.items())[:-1]
    for number, (position, layer) in enumerate(inner):
        if max(layer.input_shape[1:]) == 1:
            notes.append(
                f"at {'x'.join(map(str, size))} pixels the feature maps are 1x1 from {position} on, place {number + 1} "
                f"of {len(inner) + 1}: kernels see padding alone. Take larger resolutions or fewer strides"
            )
            break
    taken = [layer.input_shape[1:] for layer in space.layers_at(0) if layer is not None]
    largest = max(taken, key=math.prod)
    native = data.train.shape[1:]
    if math.prod(largest) > ENLARGED**2 * math.prod(native):
        notes.append(
            f"{data.kind}s of {'x'.join(map(str, native))} pixels are enlarged to {'x'.join(map(str, largest))}: that "
            "costs time and tells networks nothing new"
        )
    stretches = [abs(math.log(height * native[1] / (width * native[0]))) for height, width in taken]
    if max(stretches) > math.log(STRETCHED):
        worst = taken[int(np.argmax(stretches))]
        notes.append(
            f"{data.kind}s of {'x'.join(map(str, native))} pixels are stretched to {'x'.join(map(str, worst))}: a "
            f"resolution of height x width, such as {'x'.join(map(str, native))}, keeps their shape"
        )
    return notes


# -- limits ------------------------------------------------------------------------------------------------------------


def known(run: Run, device: DeviceProfile, *, profiled: bool, fitted: bool) -> dict[str, Predictor]:
    """Predictors of a device's metrics, by name: as fitted, else fitted to its profile where that is there.

    Args:
        run: its folder is read.
        device: one of its devices.
        profiled: whether its profile is complete.
        fitted: whether its predictors are.
    """
    if fitted:
        files = {metric.name: fitted_file(run, device, metric) for metric in device_metrics(run)}
        return {
            name: saved_predictor(run.space, file=file)
            for name, file in files.items()
            if name == LATENCY.name or file.exists()
        }
    if "file" in run.settings.latency:
        return {LATENCY.name: predictor_maker("latency", run.settings.latency, device.name)(run.space)}
    if not profiled:
        return {}
    make = predictor_maker("latency", run.settings.latency)
    if getattr(make, "func", None) is not CorrectedLookup:
        return {}  # its least value is not known
    table = LatencyTable.read(run.folder / "profile" / device.name / "table.jsonl")
    networks = NetworkLog.read(run.folder / "profile" / device.name / "networks.jsonl", run.space)
    found: dict[str, Predictor] = {LATENCY.name: fit_latency(run.space, table, networks, make)[0]}
    fits = fitted_metrics(run.space, table)
    return found | {metric.name: fit_metric(run.space, table, networks, metric)[0] for metric in fits}


def check_limits(run: Run, *, profiled: bool, fitted: bool = False) -> list[str]:
    """Refuse limits, each alone and all of a device together, that no network of the space keeps.

    Limits on latency can be compared once a device is ``profiled``, those on accuracy before the search.

    Returns:
        What is left to be seen, a sentence each.

    Raises:
        InfeasibleError: names the limits and the nearest ones that can be met.
    """
    objectives = {}
    notes = []
    for device in run.devices:
        at_hand = known(run, device, profiled=profiled, fitted=fitted)
        objectives[device.name] = device_limits(run, device, at_hand)
        limit = limit_of(run, MEMORY, device)
        least = _leanest(run, device)
        if limit is not None and limit.bound < least and MEMORY.name not in at_hand and reports(device, MEMORY):
            notes.append(
                f"the memory limit of {device.name}, {with_unit(limit.bound, MEMORY.unit)}, can hardly be met: the "
                f"computed peak of the leanest network is {with_unit(least, MEMORY.unit)}. What its own tools need is "
                "known after profiling"
            )
    if run.settings.search.joint:
        objectives["joint"] = [objective for some in objectives.values() for objective in some]
    for key, some in objectives.items():
        if some:
            check_feasible(Problem(searched_space(run), some), key)
    return notes


def _leanest(run: Run, device: DeviceProfile) -> float:
    """Computed peak of the leanest network in bytes, 0 where it takes too much work."""
    try:
        return computed_memory(run.space, device).minimum()[1]
    except TooCostlyError:
        return 0.0


# -- the plan ----------------------------------------------------------------------------------------------------------


def quantities(run: Run, *, profiled: bool, fitted: bool) -> Iterator[Quantity]:
    """Quantities of all that can be limited, as far as it is known; of each device, then of all."""
    space = run.space
    genes = np.concatenate([space.biggest.genes[None], space.sample(SAMPLE, np.random.default_rng(0))])

    def of(device: str, name: str, objective: Objective) -> Quantity:
        values, predictor, limit = objective.predictor.predict(genes), objective.predictor, objective.limit
        exact = exact_minimum(predictor)
        least = float(values.min()) if exact is None else exact[1]
        kept = None if limit is None else float(limit.keeps(values[1:]).mean())
        median, largest = float(np.median(values[1:])), float(values[np.isfinite(values)].max(initial=least))
        return Quantity(device, name, objective.metric, least, median, largest, limit, kept)

    for device in run.devices:
        at_hand = known(run, device, profiled=profiled, fitted=fitted)
        for metric in device_metrics(run):
            predictor = at_hand.get(metric.name)
            if predictor is None and metric == MEMORY:
                with contextlib.suppress(TooCostlyError):
                    predictor = computed_memory(space, device)
            if predictor is not None:
                name = metric.name if metric.name in at_hand else "peak"
                yield of(
                    device.name, name, Objective(predictor, metric, False, limit_of(run, metric, device, predictor))
                )
    for name, make in counters(space, run.devices, run.settings.buffer_kib).items():
        limit = strictest(limit_of(run, COUNTED[name], device) for device in run.devices)
        yield of("all", name, Objective(make(), COUNTED[name], False, limit))
    for own in own_objectives(run, run.devices):
        yield of(own.device or "all", own.metric.name, own)


UNITS = {
    "latency_ms": ("latency, ms", 1.0),
    "memory_bytes": ("memory, KiB", 1024.0),
    "peak": ("peak of activations, KiB", 1024.0),
    "macs": ("MACs, millions", 1e6),
    "params": ("parameters, thousands", 1e3),
    "activations": ("activations, thousands", 1e3),
    "traffic": ("words of memory traffic, thousands", 1e3),
}
"""Title of a quantity of the plan, and its unit; others have those of their metric."""


def plan_lines(run: Run, states: Mapping[str, str], plan: Plan, profiles: Sequence[str] = ()) -> Iterator[str]:
    """The plan for a person.

    Args:
        run: what is planned.
        states: of each stage, such as ``to do``.
        plan: of `check`.
        profiles: what is left to measure on each device, where that is known.
    """
    yield f"{run.folder}"
    yield f"  space {run.space.name}: {_count(run.space.size)} networks"
    if {states.get("train"), states.get("label")} != {"not needed"}:
        data = run.data
        parts = (
            f"{len(data.train):,} {data.kind}s to train, {len(data.validation):,} to validate, "
            f"{len(data.test_part()):,} to test"
        )
        yield f"  data {data.name}: {data.task.title}, {parts}"
    yield ""
    times = {"profile": "" if profiles else "says how long before it measures", **plan.times}
    for name, other in (("profile", run.settings.reuse.profile), ("train", run.settings.reuse.train)):
        if other is not None:
            times[name] = f"from {other}"
    for name, state in states.items():
        yield f"  {name:8} {state:12}{times.get(name, '') if state in ('to do', 'continues') else ''}".rstrip()
        yield from (f"    {line}" for line in (profiles if name == "profile" else ()))
    yield ""
    profiled, fitted = states.get("profile") == "done", states.get("fit") == "done"
    rows = list(quantities(run, profiled=profiled, fitted=fitted))
    width = max(len("device"), *(len(row.device) for row in rows))
    titles = [_title_and_unit(row) for row in rows]
    names = max(len(title) for title, _ in titles)
    yield f"  {'device':{width}}  {'':{names}} {'least':>9} {'median':>9} {'largest':>9}  limit"
    for row, (title, unit) in zip(rows, titles, strict=True):
        numbers = " ".join(f"{_number(value / unit):>9}" for value in (row.least, row.median, row.largest))
        limit = ""
        if row.limit is not None:
            margin, sign = row.limit.margin, row.limit.metric.sign
            given = _number(row.limit.bound / unit) if margin else ""
            if row.limit.scale_of:
                share, scale = setting_text(row.limit.bound / row.limit.scale), _number(row.limit.scale / unit)
                given = f"{share} of the {scale} of {row.limit.scale_of}"
            given += f" less a margin of {margin:.3g}" if margin else ""
            given = f" ({given})" if given else ""
            limit = f"{sign} {_number(row.limit.searched / unit)}{given}, kept by {row.kept:.0%} of random networks"
            limit += f" ({row.limit.origin})" if row.limit.origin else ""
        yield f"  {row.device:{width}}  {title:{names}} {numbers}  {limit}".rstrip()
    told = {(row.device, row.metric.name) for row in rows}
    for device, metric in itertools.product(run.devices, device_metrics(run)):
        if (device.name, metric.name) not in told and (words := _limit_words(run, device, metric)):
            yield f"  {device.name:{width}}  {words}; whether networks keep it shows after `profile`"
    for note in plan.notes:
        yield f"  note: {note}"


def _limit_words(run: Run, device: DeviceProfile, metric: Metric) -> str:
    """The limit on a metric of a device as it is set; empty where there is none."""
    limits = run.settings.limits
    bound, share = limits.of(metric.name, device.name), limits.of("latency_share", device.name)
    if bound is not None:
        return f"{metric.title} {metric.sign} {with_unit(bound, metric.unit)}"
    return f"latency ≤ {share:g} of the slowest network's" if metric == LATENCY and share is not None else ""


def _title_and_unit(row: Quantity) -> tuple[str, float]:
    metric = row.metric
    title = metric.title if metric.unit in ("", "1") else f"{metric.title}, {metric.unit}"
    return UNITS.get(row.name, (title, 1.0))


def _number(value: float) -> str:
    return number_text(value) if np.isfinite(value) else "cannot"


def _count(size: int) -> str:
    return f"{size:,}" if size < 1e9 else f"{float(size):.1e}"

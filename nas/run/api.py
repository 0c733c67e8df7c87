"""Functions to call from Python: each function takes objects or their names, and does what a stage of a run does.

Folders are run folders: the command line goes on in them, and they go on in those of the command line.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.device import DeviceProfile, load_device
from nas.core import processes
from nas.core.exact_front import check_fitted
from nas.core.problem import Objective, Problem
from nas.core.search_loop import Budget
from nas.core.searcher import Searcher
from nas.run.fitting import (
    FEWEST,
    change_quality,
    fit_accuracy,
    fit_measured,
    fit_pairs,
    of_metric,
    predictor_maker,
)
from nas.run.fronts import Front
from nas.run.judged import JudgedPredictor, genes_of
from nas.run.labelling import (
    check_trains,
    conditions_of,
    evaluated,
    gpus_each,
    images_of,
    supernet_of,
    train_supernet,
    weigh_recalibration,
)
from nas.run.networks import distinct_networks
from nas.run.objectives import PEAK, SHARE, check_name, computed_memory, counters, own_memory_limit
from nas.run.profiling import measure
from nas.run.retraining import (
    TrainedNetwork,
    fine_tuned,
    of_fine_tuning,
    of_one_network,
    other_classes,
    trained_alone,
    transferred,
)
from nas.run.reuse import start_of
from nas.run.run_folder import claim_folder, generator, searcher_name
from nas.run.searching import bare_searcher, baselines_of, check_feasible, front_of, searched, write_fronts
from nas.run.settings import (
    CONF,
    FinetuneSettings,
    LabelSettings,
    ProfileSettings,
    check_bound,
    check_margin,
    check_seed,
    parse_duration,
)
from predictors import Regression, load, save
from predictors.base import Trainable, metric_of
from predictors.function import Function
from predictors.regression import Regressor
from search_spaces.architecture import Architecture, Genes
from search_spaces.base import trust
from search_spaces.base.building import TARGET, build, named
from search_spaces.base.errors import InvalidValueError, MismatchError, UnknownNameError
from search_spaces.base.folders import locked_folder
from search_spaces.base.names import closest
from search_spaces.base.threads import one_blas_thread
from search_spaces.base.values import checked_arguments, fits, hints_of, plain, real_numbers
from search_spaces.loading import load_space
from search_spaces.metric import (
    BUILT_IN,
    COUNTED,
    LATENCY,
    MEMORY,
    Direction,
    Limit,
    Metric,
    TaskMetric,
    amount_of,
    amounts,
)
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from nas.data import Data
    from nas.supernet import Supernet, SupernetAccuracy, TrainingSettings

say = functools.partial(print, file=sys.stderr, flush=True)
"""Tells a person what takes long, beside the progress bars."""

# -- things by name ----------------------------------------------------------------------------------------------------


@checked_arguments
def space(name: str | Path, /, **changes: Any) -> SearchSpace:
    """The search space of a name, of a YAML file or of a dotted path.

    Args:
        name: such as ``ofa_mobilenet_v3``, ``mine.yaml`` or ``mymodule.MySpace``.
        changes: settings in place of those of the YAML.

    >>> nas.space("mobilenet_v3_digits", resolutions=[12]).size
    17173512
    """
    return load_space(name, **changes)


@checked_arguments
def device(name: str | Path, /, **changes: Any) -> DeviceProfile:
    """The profile of a device by name, or by the path of a YAML file; `nas devices` lists the names.

    >>> nas.device("host_ort", batch=4).title
    'This computer, ONNX Runtime, 1 thread'
    """
    return load_device(name, **changes)


@checked_arguments
def dataset(name: str | Path, /, **changes: Any) -> Data:
    """Labelled images by name, by a YAML file, or by the dotted path of a function that gives them.

    >>> len(nas.dataset("digits", fractions=[0.6, 0.2, 0.2]).train)
    1078
    """
    from nas.data import load_data

    return load_data(name, **changes)


def _space(given: SearchSpace | str | Path) -> SearchSpace:
    return given if isinstance(given, SearchSpace) else load_space(given)


def _device(given: DeviceProfile | str | Path) -> DeviceProfile:
    return given if isinstance(given, DeviceProfile) else load_device(given)


def _settings(group: str, kind: type, given: Mapping[str, Any]) -> Any:
    """Settings of a group, their names and types checked."""
    return build(group, {"_target_": f"{kind.__module__}.{kind.__qualname__}", **given}, kind)


@contextlib.contextmanager
def _working(
    folder: Path,
    space: SearchSpace,
    call: str,
    seed: int,
    *,
    data: Data | None = None,
    device: str | None = None,
    shared: bool = False,
    trains: bool = False,
) -> Iterator[None]:
    """Work in a run folder, which is noted to be of a space, of data and of the name or file of a device.

    Of the processes of ``torchrun``, which take part in what ``trains`` alone, the first one holds it for all.

    Raises:
        FolderInUseError: another process works there.
        MismatchError: it is of another space.
        InvalidValueError: ``torchrun`` has started what runs in one process.
    """
    check_seed(seed)
    if processes.several() and not trains:
        raise InvalidValueError(
            f"`torchrun` starts trainings alone in several processes, but got nas.{call}. Call it in one process."
        )
    if processes.is_follower():
        with one_blas_thread():
            yield
        return
    with locked_folder(folder, f"nas.{call}", shared=shared), one_blas_thread():
        known: dict[str, Any] = {} if device is None else {"device": [device]}
        if data is not None and data.definition is not None:
            known["data"] = dict(data.definition)
        claim_folder(folder, space, f"nas.{call}", seed, parts=known)
        yield


# -- measuring, training, labelling ------------------------------------------------------------------------------------


@checked_arguments
def profile(
    space: SearchSpace | str | Path,
    device: DeviceProfile | str | Path,
    *,
    out: str | Path,
    budget: str | float | None = None,
    seed: int = 0,
    predictor: str | Path | Any = "lookup",
    **settings: Any,
) -> JudgedPredictor:
    """Measure a space on a device, and fit the predictor of its latency; as `nas profile` and `nas fit` do.

    Args:
        space: an object or a name.
        device: an object or a name.
        out: a run folder, which takes the measurements; those that it has are not made again.
        budget: time to measure, such as ``2min``; None: as long as it takes.
        seed: of what is drawn.
        predictor: of `latency` on the command line, such as ``lookup``; or what `fit` takes.
        settings: of `profile` on the command line, such as ``networks=20`` or ``method="isolated"``.

    Returns:
        The predictor, with its quality on networks that no fit has seen.
    """
    named_device = None if isinstance(device, DeviceProfile) else str(device)
    space, device, folder = _space(space), _device(device), Path(out)
    asked = _settings("profile", ProfileSettings, {"budget": budget, **settings})
    make = _maker(space, "latency", predictor, LATENCY)
    with _working(folder, space, f"profile(out={str(out)!r})", seed, device=named_device, shared=True):
        measure(space, device, asked, folder / "profile" / device.name, seed, say)
        fitted = fit_measured(space, device, folder, make, seed)
        found = {metric: quality for metric, (_, quality) in fitted.items()}
        change_quality(folder, lambda fits: fits.with_device(device.name, found))
    metrics = {"latency": LATENCY, "memory": MEMORY}
    judged = {
        name: JudgedPredictor.of(made, space, metrics.get(name) or Metric(name, quality.unit), quality, device)
        for name, (made, quality) in fitted.items()
    }
    latency = judged.pop("latency")
    return replace(latency, beside={one.metric.name: one for one in judged.values()})


@checked_arguments
def train(
    space: SearchSpace | str | Path,
    data: Data | str | Path,
    *,
    out: str | Path,
    seed: int = 0,
    start: Supernet | str | Path | None = None,
    **training: Any,
) -> Supernet:
    """Train the supernet of a space, or go on where that was stopped; as `nas train` does.

    Args:
        space: an object or a name.
        data: images to train on, an object or a name.
        out: a run folder, which takes the weights.
        seed: of weights and draws.
        start: a supernet, its file or the run folder that it is in, trained or imported, maybe of other images and
            classes, whose weights the training begins with; None: fresh ones.
        training: of `training` on the command line, such as ``epochs=40``.
    """
    space, data, folder = _space(space), images_of(data), Path(out)
    settings, begun = _training(space, data, seed, training), None
    check_trains(settings, start is not None)
    if start is not None:
        begun, line = start_of(space, start, seed=seed)
        say(line)
    with _working(folder, space, f"train(out={str(out)!r})", seed, data=data, trains=True):
        return train_supernet(space, data, settings, folder / "train", begun)


def _training(space: SearchSpace, data: Data, seed: int, given: Mapping[str, Any]) -> TrainingSettings:
    """Settings of a training on data that the space fits."""
    from nas.supernet import check_task

    settings = _training_settings(seed, given)
    check_task(space, data)
    return settings


def _training_settings(seed: int, given: Mapping[str, Any]) -> TrainingSettings:
    """Settings of a training that can be done here."""
    from nas.supernet import TrainingSettings, check_device

    node = named("training", "sandwich", CONF / "training", {"seed": seed, **given})
    settings: TrainingSettings = build("training", node, TrainingSettings)
    check_device(settings)
    return settings


@checked_arguments
def finetune(
    networks: Any,
    supernet: Supernet | str | Path,
    data: Data | str | Path,
    *,
    out: str | Path,
    seed: int = 0,
    method: str = "all",
    epochs: int = 10,
    learning_rate: float | None = None,
    distillation: float = 0.5,
    recalibration_images: int = 512,
    **training: Any,
) -> tuple[TrainedNetwork, ...]:
    """Train networks of a supernet further, each alone, with its largest network as the teacher; as `nas finetune`
    does.

    Args:
        networks: architectures, or networks of a front or an export; or one of them.
        supernet: an object, its file or the run folder that it is in.
        data: images to train on, an object or a name; maybe others than those of the supernet, and of other classes:
            the head is then made anew, and there is no teacher. Where nothing says what the supernet was trained on, as
            for a file of weights, they are others if they have another number of classes.
        out: a run folder, which takes the weights; a training that was stopped goes on there.
        seed: of the draws.
        method: what is trained: ``all``; ``biases``, with the head; ``tinytl``, beside these lite residuals, which are
            added to the networks; ``last``, the head alone.
        epochs: of each network; 0 leaves the weights that it inherits.
        learning_rate: its peak; None: a tenth of that of the supernet's training.
        distillation: share of the teacher in the loss.
        recalibration_images: training images that BatchNorm statistics are taken from.
        training: of `training` on the command line, such as ``batch_size=128``.

    Returns:
        The networks with their accuracies on the validation part; each has `export`.
    """
    from nas.supernet import SupernetAccuracy

    wanted, data, folder = _architectures(networks), images_of(data), Path(out)
    space, words = wanted[0].space, {"method": method, "epochs": epochs, "distillation": distillation}
    given: FinetuneSettings = _settings("finetune", FinetuneSettings, {**words, "learning_rate": learning_rate})
    settings = of_fine_tuning(_training_settings(seed, training), given)
    weights, place = supernet_of(space, supernet), folder / "finetune" / "training"
    judge, known = None, weights.data
    if known.fingerprint == data.fingerprint if known is not None else other_classes(wanted[0], data) is None:
        judge = SupernetAccuracy(
            space, weights, data, recalibration_images=recalibration_images, threads=settings.threads
        )

    def tuned(architecture: Architecture) -> TrainedNetwork:
        if judge is not None:
            return fine_tuned(architecture, judge, settings, place, method=method)
        images = recalibration_images
        return transferred(architecture, weights, data, settings, place, method=method, recalibration_images=images)

    with _working(folder, space, f"finetune(out={str(out)!r})", seed, data=data, trains=True):
        return tuple(map(tuned, wanted))


@checked_arguments
def train_alone(
    networks: Any,
    data: Data | str | Path,
    *,
    out: str | Path,
    seed: int = 0,
    recalibration_images: int = 512,
    **training: Any,
) -> tuple[TrainedNetwork, ...]:
    """Train networks from nothing, each alone; as `nas train-alone` does.

    Args:
        networks: architectures, or networks of a front or an export; or one of them.
        data: images to train on, an object or a name.
        out: a run folder, which takes the weights; a training that was stopped goes on there.
        seed: of weights and draws.
        recalibration_images: training images that BatchNorm statistics are taken from.
        training: of `training` on the command line, such as ``epochs=40``.

    Returns:
        The networks with their accuracies on the validation part; each has `export`.
    """
    wanted, data, folder = _architectures(networks), images_of(data), Path(out)
    space = wanted[0].space
    settings = of_one_network(_training(space, data, seed, training))
    with _working(folder, space, f"train_alone(out={str(out)!r})", seed, data=data, trains=True):
        place = folder / "train-alone" / "training"
        return tuple(
            trained_alone(one, data, settings, place, recalibration_images=recalibration_images) for one in wanted
        )


def _architectures(given: Any) -> list[Architecture]:
    """Architectures of networks of a front, of an export or themselves.

    Raises:
        InvalidValueError: there is none, or they are of several spaces.
    """
    listed = list(given) if isinstance(given, Sequence | Front) else [given]
    found = [getattr(one, "architecture", one) for one in listed]
    if not found or not all(isinstance(one, Architecture) for one in found):
        wrong = next((one for one in found if not isinstance(one, Architecture)), "none")
        raise InvalidValueError(
            f"Networks are architectures, or networks of a front or an export, but got {wrong!r:.80}."
        )
    if len({one.space.fingerprint for one in found}) > 1:
        raise InvalidValueError("Networks must be of one space. Train those of each space by themselves.")
    return found


@checked_arguments
def accuracy(
    space: SearchSpace | str | Path,
    supernet: Supernet | str | Path,
    data: Data | str | Path,
    *,
    out: str | Path,
    seed: int = 0,
    predictor: str | Path | Any = "ensemble",
    **label: Any,
) -> JudgedPredictor:
    """Evaluate networks through a supernet, and fit a predictor of their accuracy; as `nas label` and `nas fit` do.

    Args:
        space: an object or a name.
        supernet: an object, its file or the run folder that it is in.
        data: what it was trained on, an object or a name.
        out: a run folder, which takes the accuracies; those that it has are not made again.
        seed: of what is drawn.
        predictor: of `accuracy` on the command line, such as ``ensemble``; or what `fit` takes.
        label: of `label` on the command line, such as ``subnets=320`` and ``held_out=64``.

    Returns:
        The predictor, with its quality on networks that it was not fitted to.
    """
    space, data, folder = _space(space), images_of(data), Path(out)
    settings = _settings("label", LabelSettings, label)
    if settings.by != "supernet":
        raise InvalidValueError(
            f"`nas.accuracy` evaluates through a supernet, but got `by={settings.by}`. Leave it out."
        )
    metric, weights = data.task.metric, supernet_of(space, supernet, data)
    make = _maker(space, "accuracy", predictor, metric)
    with _working(folder, space, f"accuracy(out={str(out)!r})", seed, data=data):
        wanted = distinct_networks(space, settings.subnets, generator(seed, "label"))
        conditions = conditions_of(space, weights.digest, data, settings.recalibration_images, settings.device)

        def evaluator() -> SupernetAccuracy:
            from nas.core import loop
            from nas.supernet import SupernetAccuracy

            images, device = settings.recalibration_images, settings.device
            loop.check_device(device, "device")
            placed = weights if device == "cpu" else copy.deepcopy(weights).to(device)
            return SupernetAccuracy(space, placed, data, recalibration_images=images, threads=1)

        judge = functools.cache(evaluator)
        values = evaluated(
            space,
            wanted,
            judge,
            folder / "label" / "accuracy.jsonl",
            conditions,
            metric,
            workers=settings.workers,
            gpus=gpus_each(settings.device, settings.workers),
            make=evaluator,
        )
        weigh_recalibration(wanted, judge, folder / "label" / "recalibration.json", conditions, metric)
        genes = np.stack([architecture.genes for architecture in wanted])
        fitted, found = fit_accuracy(space, genes, values, make, settings, seed, metric)
        save(fitted, space, folder / "fit" / "accuracy.npz", metric.direction)
        change_quality(folder, lambda fits: replace(fits, accuracy=found))
    return JudgedPredictor.of(fitted, space, metric, found)


# -- fitting -----------------------------------------------------------------------------------------------------------


@checked_arguments
def fit(
    space: SearchSpace | str | Path,
    networks: Genes | Sequence[Architecture],
    values: Sequence[Any] | NDArray[Any],
    *,
    metric: str,
    unit: str,
    direction: Direction = "min",
    predictor: str | Path | Any = "ridge",
    held_out: int | None = None,
    seed: int = 0,
) -> JudgedPredictor:
    """Fit a predictor to pairs of one's own.

    Args:
        space: an object or a name.
        networks: canonical genes (n, choices), or architectures.
        values: of each network, (n,).
        metric: that is predicted, such as ``energy_mj``.
        unit: of the values, such as ``mJ``.
        direction: whether less or more of it is better.
        predictor: a name of `latency` on the command line (``ridge``, ``kriging``, ``gradient_boosting``, ``mlp``,
            ``ensemble``), a regressor such as ``predictors.Ridge()``, or a function that makes a predictor of the space
            and a seed.
        held_out: the last networks, which a second predictor is judged by; None: a fifth. A network that is there
            several times is held out as a whole.
        seed: of the fit.

    Returns:
        The predictor, fitted to all pairs, with the quality of its like on the networks held out.
    """
    space = _space(space)
    check_seed(seed)
    genes, measured = genes_of(space, networks), real_numbers("`values`", values)
    what = Metric(metric, unit, direction)
    if measured.shape != (len(genes),):
        raise InvalidValueError(f"There must be a value per network, but got {measured.shape} for {len(genes)}.")
    distinct = len(np.unique(genes, axis=0))
    kept = max(2, distinct // 5) if held_out is None else held_out
    if not 2 <= kept <= distinct - FEWEST:
        raise InvalidValueError(
            f"`held_out` must be 2 or more and leave {FEWEST} networks to fit to, but got {kept} of {distinct} "
            "distinct ones."
        )
    make = _maker(space, "latency", predictor, what, scale="log" if (measured > 0).all() else "linear")
    with one_blas_thread():
        maximise = direction == "max"
        fitted, found = fit_pairs(space, genes, measured, make, held_out=kept, seed=seed, maximise=maximise)
    return JudgedPredictor.of(fitted, space, what, found)


def _maker(space: SearchSpace, group: str, given: Any, metric: Metric, scale: str | None = None) -> Any:
    """Function that makes a predictor, given the space and a seed.

    Args:
        space: of the networks.
        group: of the configuration, for names.
        given: a name, the path of a YAML, a regressor, or what makes one already.
        metric: that is predicted.
        scale: of its values; None: that of the named one.
    """
    if isinstance(given, str | Path):
        node = named(f"{group} predictor", given, CONF / group, {})
        if "file" in hints_of(trust.find(f"{group} predictor", node[TARGET])):
            raise InvalidValueError(
                f"Predictor {str(given)!r} is of a file, which holds what is fitted already. Give that file to "
                "`nas.search`, or the name of a predictor to fit."
            )
        if scale is not None:
            if "scale" not in node:
                raise InvalidValueError(f"Predictor {given!r} is of layers, which `nas.profile` measures. Use ridge.")
            node |= {"metric": metric.name, "unit": metric.unit, "scale": scale}
        return predictor_maker(group, of_metric(node, metric) if isinstance(metric, TaskMetric) else node)
    if isinstance(given, type) or not hasattr(given, "fit"):
        return _checked_maker(space, given)
    regressor: Regressor = given
    usual = ("log_error" if metric.high == 1 else "linear") if isinstance(metric, TaskMetric) else "log"
    kind: Any = scale or usual
    return lambda space, seed: Regression(space, regressor, metric=metric.name, unit=metric.unit, scale=kind, seed=seed)


def _checked_maker(space: SearchSpace, given: Any) -> Any:
    """A function that makes a predictor, refused before anything is measured where it makes none."""
    try:
        inspect.signature(given).bind(space, seed=0)
    except (TypeError, ValueError) as error:
        hint = f" Call it: {given.__name__}()." if hasattr(given, "fit") else ""
        raise InvalidValueError(
            f"A predictor is a name, a regressor or a function of the space and `seed` that makes one, but got "
            f"{given!r}.{hint}"
        ) from error
    if not fits(made := given(space, seed=0), Trainable):
        raise InvalidValueError(f"{given!r} must make a predictor with `fit` and `predict`, but makes {made!r}.")
    return given


# -- searching ---------------------------------------------------------------------------------------------------------


@checked_arguments
def search(
    space: SearchSpace | str | Path,
    objectives: Sequence[Any],
    *,
    limits: Mapping[str, Any] | None = None,
    others: Sequence[Any] = (),
    searcher: Searcher | str | Path = "auto",
    evaluations: int = 4000,
    seconds: str | float | None = None,
    patience: int | None = None,
    seed: int = 0,
    margin: float = 0.05,
    fixed: Mapping[str, Any] | None = None,
    start: Front | Genes | str | Path | None = None,
    data: Data | str | Path | None = None,
    out: str | Path | None = None,
) -> Front:
    """Search the front of a space; as `nas search` does.

    Args:
        space: an object or a name.
        objectives: what is optimised, each in its direction: a predictor of any kind, its file, a metric that is
            counted (``macs``, ``params``, ``activations``, ``traffic``, ``intensity``), a `nas.Function`, or a
            predictor with ``costly = True`` (and ``worst``, which bounds the hypervolume) that trains or evaluates,
            such as `SupernetAccuracy`. Its ``fingerprint``, 16 digits or any other word that changes with its settings,
            tells it from others where a search goes on. Traffic is counted without an on-chip buffer;
            `predictors.traffic` and `predictors.intensity` take one.
            Latencies of several devices give one front for all of them.
        limits: by metric, or by ``metric@device`` for one of several devices: the largest value where less is better,
            the least one where more is; `"50M"` and `"16KiB"` are numbers too. A device's own limit of memory holds
            where none is given.
        others: predictors that are no objectives, for limits on what they predict.
        searcher: an object or a name of `searcher` on the command line.
        evaluations: networks that are evaluated at most.
        seconds: time to search, such as ``10min``.
        patience: end when as many evaluations have not raised the hypervolume.
        seed: of the search.
        margin: predicted latencies stay this share below their limit, so that measured ones keep it.
        fixed: choices that are not searched, with their values.
        start: a front or genes to begin with.
        data: images for a searcher that trains.
        out: a run folder, which takes the front, and in which a search that was stopped goes on.

    Raises:
        InfeasibleError: no network keeps the limits; the message has the nearest that can be kept.
    """
    space, folder = _space(space), None if out is None else Path(out)
    check_seed(seed)
    devices = _devices([*objectives, *others])
    problem = Problem(space.restricted(fixed or {}), _objectives(space, objectives, others, limits or {}, margin))
    key = "joint" if len(devices) > 1 else next(iter(devices), "any")
    check_feasible(problem, key)
    check_fitted(problem)
    name, where = searcher_name(searcher), None if folder is None else folder / "search" / key
    made = _searcher(searcher, data, None if where is None else where / name, seed)
    budget = Budget(evaluations, None if seconds is None else parse_duration("seconds", seconds), patience)
    if isinstance(start, str | Path):
        start = Front.read(start)
    begun = start.genes(space) if isinstance(start, Front) else start
    if begun is not None and not len(begun):
        raise InvalidValueError("`start` must have one or more networks, but has none.")
    working = contextlib.nullcontext() if folder is None else _working(folder, space, f"search(out={str(out)!r})", seed)
    with working, one_blas_thread():
        checkpoint = None if where is None else where / f"{name}.npz"
        result = searched(problem, made, f"{key} {name}", budget, seed, start=begun, checkpoint=checkpoint)
        for device in devices or [key]:
            source = "the front" if folder is None else folder / "search" / f"{device}.json"
            front = front_of(problem, name, result, source, device, list(devices) if len(devices) > 1 else None)
            if folder is not None:
                write_fronts(folder, [front], baselines=baselines_of(problem, result, front))
    return replace(front, made_by=space, profile=devices.get(front.device))


def _devices(predictors: Sequence[Any]) -> dict[str, DeviceProfile]:
    """The devices that predictors are of, by name."""
    judged = [one.device for one in predictors if isinstance(one, JudgedPredictor)]
    return {device.name: device for device in judged if device is not None}


def _objectives(
    space: SearchSpace, wanted: Sequence[Any], others: Sequence[Any], limits: Mapping[str, Any], margin: float
) -> list[Objective]:
    """Objectives and what else is known of networks, with limits; see `search`.

    All are known by metric and device; by None in place of the device where it is the only one, or where there is none.

    Raises:
        UnknownNameError: a limit is on something that is not known of networks.
        InvalidValueError: two of them are of one metric, or a limit is no number that the metric can have.
    """
    check_margin("margin", margin)
    given = [*wanted, *others]
    devices = _devices(given)
    several = len(devices) > 1
    places = {device.name if several else None: device for device in devices.values()}
    stated = [_objective(space, one, i < len(wanted), devices) for i, one in enumerate(given)]
    for objective in stated:
        check_name(space, objective.metric.name)
    found = {(objective.metric.name, objective.device): objective for objective in stated}
    if len(found) < len(stated):
        names = ", ".join(objective.name for objective in stated)
        raise InvalidValueError(f"Objectives must be of different metrics, but got {names}.")

    beside = [other for one in given if isinstance(one, JudgedPredictor) for other in one.beside.values()]
    spare = dict[tuple[str, str | None], Callable[[], Objective]]()
    spare |= {(name, None): functools.partial(_objective, space, name, False, devices) for name in COUNTED}
    for place, device in places.items():
        spare[MEMORY.name, place] = functools.partial(_computed_memory, space, device, place)
        reported = {other.metric.name: other for other in beside if other.device == device}
        spare |= {(n, place): functools.partial(_objective, space, one, False, devices) for n, one in reported.items()}

    known = dict.fromkeys([*found, *spare])
    bounds = dict[tuple[str, str | None], Limit | None]()
    for name in sorted(limits, key=lambda name: "@" in name):  # those of one device in place of those of all
        metric, _, on = name.partition("@")
        keys = [key for key in known if key[0] == metric and (on in ("", key[1]) or (on in devices and not several))]
        if not keys:
            raise _unknown_limit(name, known)
        bound = plain(amount_of(metric, limits[name]))
        if bound is None:
            bounds |= dict.fromkeys(keys)
            continue
        for key in keys:
            found[key] = objective = found.get(key) or spare[key]()
            check_bound(f"limits[{name!r}]", objective.metric, bound, amounts(metric))
            setting, kept = name if on else objective.name, margin if metric == LATENCY.name else 0.0
            bounds[key] = Limit(objective.metric, float(bound), setting, kept)
    for place, device in places.items():
        key = (MEMORY.name, place)
        if bounds.get(key) is None and device.memory_limit_bytes is not None:
            found[key] = objective = found.get(key) or spare[key]()
            bounds[key] = own_memory_limit(objective.metric, device, objective.name)
    return [replace(objective, limit=bounds.get(key)) for key, objective in found.items()]


def _unknown_limit(name: str, known: Iterable[tuple[str, str | None]]) -> UnknownNameError:
    names = [metric if device is None else f"{metric}@{device}" for metric, device in known]
    close = closest(name, names)
    hint = f"Did you mean {close!r}?" if close else "Give its predictor in `others`."
    return UnknownNameError(f"`limits` names {name!r}, but known are {', '.join(names)}. {hint}")


def _computed_memory(space: SearchSpace, device: DeviceProfile, place: str | None) -> Objective:
    return Objective(computed_memory(space, device), PEAK, False, device=place)


def _objective(space: SearchSpace, given: Any, goal: bool, devices: Mapping[str, DeviceProfile]) -> Objective:
    """Objective of a predictor, of a file of one, or of a name."""
    several = len(devices) > 1
    if isinstance(given, JudgedPredictor):
        if given.space.fingerprint != space.fingerprint:
            raise MismatchError(
                f"The {given.metric.name} predictor is of space {given.space.name!r} ({given.space.fingerprint}), but "
                f"the space here is {space.name!r} ({space.fingerprint})."
            )
        device = given.device.name if several and given.device is not None else None
        return Objective(given.predictor, given.metric, goal, device=device)
    if isinstance(given, Function):
        if given.name in (*BUILT_IN, SHARE.name):
            raise InvalidValueError(
                f"A function must not be called {given.name}, which hwnas has. Choose another name."
            )
        return Objective(given.predictor(space), given.metric, goal)
    if isinstance(given, str) and given in COUNTED:
        return Objective(counters(space, list(devices.values()))[given](), COUNTED[given], goal)
    if isinstance(given, str | Path):
        if not str(given).endswith(".npz"):
            names = ", ".join(COUNTED)
            raise UnknownNameError(
                f"There is no objective {str(given)!r}. There are {names}, files of predictors (.npz) and objects."
            )
        given = load(Path(given), space)
    if not all(hasattr(given, name) for name in ("predict", "metric", "unit")):
        raise InvalidValueError(f"An objective is a predictor, its file, or a name such as macs, but got {given!r}.")
    metric, costly = metric_of(given), bool(getattr(given, "costly", False))
    worst = getattr(given, "worst", 0.0 if costly and metric.direction == "max" else None)
    return Objective(given, metric, goal, worst=worst, costly=costly)


def _searcher(given: Any, data: Data | str | Path | None, folder: Path | None, seed: int) -> Searcher:
    """A searcher, made where a name is given; one that trains needs images and a folder."""
    if not isinstance(given, str | Path):
        return cast(Searcher, given)
    made = bare_searcher(named("searcher", given, CONF / "searcher", {}))
    if isinstance(made, functools.partial):
        if data is None or folder is None:
            raise InvalidValueError(f"Searcher {given!r} trains networks: give it images, `data`, and a folder, `out`.")
        made = made(data=images_of(data), folder=folder, seed=seed)
    return cast(Searcher, made)

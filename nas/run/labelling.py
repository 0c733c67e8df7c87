"""Accuracies of subnets, or what else their task is judged by, evaluated through the supernet of a run."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.run.networks import distinct_networks
from nas.run.records import Imported, RecalibrationCost, read_marker
from nas.run.run_folder import Run, digest, made_of
from predictors import Predictor
from search_spaces.architecture import Architecture
from search_spaces.base import trust
from search_spaces.base.building import build
from search_spaces.base.checked import check
from search_spaces.base.errors import DamagedFileError, InvalidValueError, MismatchError, StorageError
from search_spaces.base.storage import RecordLog, fingerprint, set_aside, take_records
from search_spaces.metric import ACCURACY, TaskMetric
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from nas.data import Data
    from nas.supernet import Supernet, SupernetAccuracy, TrainingSettings
    from nas.supernet.training import Start

log = logging.getLogger(__name__)

WEIGHED = 4
"""Subnets that the recalibration is weighed on: the smallest, the biggest and random ones."""
QUARTER = 4
"""Each so many-th image is used beside all of them."""


def label_by_supernet(run: Run) -> None:
    """Evaluate subnets through the supernet on the validation part."""
    settings = run.settings.label
    wanted = distinct_networks(run.space, settings.subnets, run.rng("label"))
    folder, conditions = run.folder / "label", label_conditions(run, settings.device)
    evaluator = functools.cache(lambda: evaluator_of(run, settings.device))
    evaluated(
        run.space,
        wanted,
        evaluator,
        folder / "accuracy.jsonl",
        conditions,
        run.data.task.metric,
        workers=settings.workers,
        threads=training_settings(run).threads or 1,
        gpus=gpus_each(settings.device, settings.workers),
        make=evaluator_in_worker(run, settings.device),
    )
    weigh_recalibration(wanted, evaluator, folder / "recalibration.json", conditions, run.data.task.metric)


def weigh_recalibration(
    wanted: Sequence[Architecture],
    evaluator: Callable[[], SupernetAccuracy],
    path: Path,
    conditions: Mapping[str, Any],
    metric: TaskMetric,
) -> None:
    """Note what the recalibration of BatchNorm costs and gains, unless that is known.

    Args:
        wanted: networks, of which the first ones show it.
        evaluator: makes what evaluates, where it is not known.
        path: of the note.
        conditions: that the accuracies depend on.
        metric: of the task, which stands for the accuracy.
    """
    known, subnets = fingerprint(conditions), wanted[:WEIGHED]
    with contextlib.suppress(StorageError):
        if RecalibrationCost.read(path).conditions == known:
            return
    judge = evaluator()
    ways = {0: 0, -(-judge.recalibration_images // QUARTER): QUARTER, judge.recalibration_images: 1}
    scores, seconds = (
        np.array([[judge.recalibrated(one, every) for one in subnets] for every in ways.values()]).mean(1).T
    )
    cost = RecalibrationCost(
        conditions=known,
        subnets=len(subnets),
        images=list(ways),
        scores=[float(score) if np.isfinite(score) else None for score in scores],
        seconds=seconds.tolist(),
    )
    cost.write(path)
    log.info("label: %s", cost.sentence(metric))


def evaluated(
    space: SearchSpace,
    wanted: Sequence[Architecture],
    evaluator: Callable[[], Predictor],
    path: Path,
    conditions: Mapping[str, Any],
    metric: TaskMetric,
    *,
    workers: int = 1,
    threads: int = 1,
    gpus: float = 0.0,
    make: Callable[[], Predictor] | None = None,
) -> NDArray[np.float64]:
    """Accuracies (n,) of networks through a supernet; each is written to a log, which may have some already.

    They are the same with any number of workers, to the bit.

    Args:
        space: of the networks.
        wanted: networks.
        evaluator: makes what evaluates, where something is left to do.
        path: of the log.
        conditions: that the accuracies depend on; a log of others is set aside.
        metric: of the task, which stands for the accuracy.
        workers: processes that evaluate at a time; see `nas.core.evaluations.RecordedPredictor`.
        threads: that each of several workers uses.
        gpus: that each of them has to itself.
        make: makes in a worker what evaluates; None: ``evaluator`` does.

    Raises:
        InvalidValueError: some could not be evaluated; the others are in the log.
    """
    from nas.core.evaluations import RecordedPredictor

    set_aside(path, conditions)
    known = known_accuracies(space, RecordLog(path, conditions), metric)
    if todo := [architecture for architecture in wanted if architecture not in known]:
        recorded = RecordedPredictor(
            space,
            evaluator(),
            path,
            conditions,
            named=False,
            check=functools.partial(_check_label, metric),
            workers=workers,
            threads=threads,
            gpus=gpus,
            make=make or evaluator,
        )
        try:
            values = recorded.predict(np.stack([architecture.genes for architecture in todo]))
        finally:
            recorded.close()
        if failed := int(np.isnan(values).sum()):
            raise InvalidValueError(
                f"{failed} of {len(wanted)} networks could not be evaluated, as the warnings say. Start again: the "
                f"others are kept in {path}."
            )
        known.update(zip(todo, map(float, values), strict=True))
    return np.array([known[architecture] for architecture in wanted])


def known_accuracies(space: SearchSpace, pairs: RecordLog, metric: TaskMetric = ACCURACY) -> dict[Architecture, float]:
    """Accuracy, or what else the task's metric is, of every network of a log; damaged rows are skipped with a
    warning."""
    found: dict[Architecture, float] = {}

    def take(record: Mapping[str, Any]) -> None:
        value = record[metric.name]
        _check_label(metric, value)
        found[Architecture.from_json(space, record["architecture"])] = float(value)

    take_records(pairs.path, pairs.records, take)
    return found


def _check_label(metric: TaskMetric, value: Any) -> None:
    """Refuse what is no value of a task's metric."""
    remedy = "Run `nas label` again."
    check(value, float, metric.name, remedy)
    try:
        metric.check(value, metric.title)
    except InvalidValueError as error:
        raise InvalidValueError(f"{error} {remedy}") from error


def label_conditions(run: Run, device: str = "cpu") -> Mapping[str, Any]:
    """All that the accuracies of a run depend on, evaluated on a device of torch."""
    supernet = digest(run.folder / "train" / "supernet.pt")
    return conditions_of(run.space, supernet, run.data, run.settings.label.recalibration_images, device)


def conditions_of(
    space: SearchSpace, supernet: str, data: Data, recalibration_images: int, device: str = "cpu"
) -> Mapping[str, Any]:
    """All that accuracies through a supernet depend on, which is known by the digest of its file."""
    kind = device.partition(":")[0]
    return {
        "space": space.fingerprint,
        "supernet": supernet,
        "data": data.fingerprint,
        "recalibration_images": recalibration_images,
        "part": "validation",
        **({} if kind == "cpu" else {"device": kind}),
    }


def evaluator_of(run: Run, device: str = "cpu") -> SupernetAccuracy:
    """The evaluator of a run's subnets on a device of torch."""
    from nas.core import loop
    from nas.supernet import Supernet, SupernetAccuracy

    loop.check_device(device, "label.device")
    supernet = Supernet.load(run.space, run.folder / "train" / "supernet.pt").to(device)
    images, training = run.settings.label.recalibration_images, training_settings(run)
    return SupernetAccuracy(
        run.space,
        supernet,
        run.data,
        recalibration_images=images,
        threads=training.threads,
        workers=training.workers,
    )


def evaluator_in_worker(run: Run, device: str = "cpu") -> Callable[[], Predictor]:
    """Function that makes the same evaluator in a process that knows nothing but this function."""
    return in_worker(run, functools.partial(evaluator_of, device=device))


def in_worker(run: Run, make: Callable[[Run], Predictor]) -> Callable[[], Predictor]:
    """Function that makes a predictor of a run in a process that knows nothing but this function."""
    bare = Run(run.settings, run.folder.absolute(), run.command)  # none of its parts is made yet
    return functools.partial(_trusting, make, bare, trust.words())


def _trusting(make: Callable[[Run], Predictor], run: Run, trusted: Sequence[str]) -> Predictor:
    for word in trusted:
        trust.trust(word)
    return make(run)


def gpus_each(device: str, workers: int) -> float:
    """GPUs, or the share of one, that each of several workers has on a device of torch."""
    import torch

    return min(1.0, torch.cuda.device_count() / workers) if device.startswith("cuda") else 0.0


def training_settings(run: Run) -> TrainingSettings:
    """Settings of the training of a run's supernet.

    Raises:
        InvalidValueError: the configuration makes something else.
    """
    from nas.supernet import TrainingSettings

    settings: TrainingSettings = build("training", run.settings.training, TrainingSettings)
    check_trains(settings, run.settings.reuse.start is not None)
    return settings


def check_trains(settings: TrainingSettings, begun: bool) -> None:
    """Refuse a supernet of no training at all.

    Args:
        settings: of the training.
        begun: whether it begins with weights that were trained.

    Raises:
        InvalidValueError: it has no epoch, and its weights are fresh.
    """
    if not settings.epochs and not begun:
        raise InvalidValueError(f"`epochs` must be at least 1, but got {settings.epochs}.")


def train_supernet(
    space: SearchSpace, data: Data, settings: TrainingSettings, folder: Path, start: Start | None = None
) -> Supernet:
    """The supernet that a folder holds at the end: trained there, unless it was imported or taken from another run.

    Args:
        space: of the supernet.
        data: to train on.
        settings: of the training.
        folder: of the supernet.
        start: weights to begin with; None: fresh ones.

    Raises:
        DamagedFileError: an imported one is gone.
    """
    from nas.supernet import Supernet, train

    imported = folder / "imported.json"
    if not imported.exists():
        supernet = train(space, data, settings, folder, start=start).supernet
        supernet.data = data
        return supernet
    source = Imported.read(imported).file
    if not (folder / "supernet.pt").exists():
        raise DamagedFileError(
            f"{folder / 'supernet.pt'}, which came from {source}, is gone or damaged. Delete {imported} and take it "
            "from there again."
        )
    log.info("train: the weights come from %s and are kept", source)
    return Supernet.load(space, folder / "supernet.pt")


def images_of(given: Data | str | Path) -> Data:
    """Labelled images: an object, or those of a name or a file."""
    from nas.data import Data, load_data

    if isinstance(given, str | Path):
        return load_data(given)
    if not isinstance(given, Data):
        raise InvalidValueError(f"Data is a name or a Data, but got {given!r}.")
    return given


def supernet_of(space: SearchSpace, given: Supernet | str | Path, data: Data | None = None) -> Supernet:
    """A supernet: the object itself, that of a file, or that of a run folder, which also says its data if it knows it.

    Args:
        space: of the supernet.
        given: an object, its file or its run folder.
        data: that it must be trained on, where that is known; None: any.

    Raises:
        StorageError: there is none.
        MismatchError: it is of another space, or was trained on other images.
    """
    from nas.data import data_of_run
    from nas.supernet import Supernet

    if isinstance(given, Supernet):
        check_trained_on("This supernet", None if given.data is None else given.data.fingerprint, data)
        return given
    if not isinstance(given, str | Path):
        raise InvalidValueError(f"A supernet is an object, its file or its run folder, but got {given!r}.")
    path = Path(given)
    supernet = Supernet.load(space, path / "train" / "supernet.pt" if path.is_dir() else path)
    if path.is_dir() and (node := made_of(path).get("data")) is not None:
        supernet.data = data_of_run(node, path)
    noted = None if supernet.data is None else supernet.data.fingerprint
    check_trained_on(f"The supernet of {path}", read_marker(path / "stages" / "train.json").data or noted, data)
    return supernet


def check_trained_on(supernet: str, fingerprint: str | None, data: Data | None) -> None:
    """Refuse to use a supernet with other images than those that it was trained on, where these are known.

    Args:
        supernet: in words.
        fingerprint: of its images.
        data: to use it with.

    Raises:
        MismatchError: they are others.
    """
    if fingerprint is not None and data is not None and fingerprint != data.fingerprint:
        raise MismatchError(
            f"{supernet} was trained on other images than those of data {data.name!r}. Give the same images, or train "
            "one with these in another folder."
        )

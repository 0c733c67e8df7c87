"""JSON files of a run folder: what each holds; one writer and one reader each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from predictors.assessment import Quality
from predictors.learning_curve import LearningCurve
from search_spaces.architecture import ArchitectureJson
from search_spaces.base.checked import read_checked
from search_spaces.base.errors import DamagedFileError, StorageError
from search_spaces.base.storage import OMITTED, write_json
from search_spaces.metric import ACCURACY, TASK_METRICS, Metric, Number, TaskMetric, as_cost, title_of, with_unit

log = logging.getLogger(__name__)

CHOSEN = ("fastest", "knee", "most accurate", "best")
"""Labels that say how a network compares with the others."""


T = TypeVar("T")
Q = TypeVar("Q")


def read_file(path: Path, kind: type[T], stage: str, again: str = "") -> T:
    """The content of a file of a run folder.

    Args:
        path: of the file.
        kind: what it holds.
        stage: that writes it.
        again: the sentence that says how to get a good one; by default, to run the stage again.

    Raises:
        StorageError: it does not exist, or cannot be opened; the message names the stage.
        DamagedFileError: it lacks something.
    """
    if not path.exists():
        raise StorageError(f"{path} does not exist: run `nas {stage}` first.")
    return read_checked(path, kind, again or f"Run `nas {stage}` again.")


class RunFile:
    """A JSON file of a run folder that holds one record, and which stage writes it."""

    stage: ClassVar[str]
    again: ClassVar[str] = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """The content of a file; see `read_file`."""
        return read_file(path, cls, cls.stage, cls.again)

    def write(self, path: Path) -> None:
        """Write a file, atomically."""
        write_json(path, self)


# -- the folder and its stages -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Images:
    """Data of a run.

    Args:
        name: of the data.
        train: images of the part.
        validation: images of the part.
        test: images of the part.
        kind: word for one of them.
        names: of the classes; empty: they have none.
        per_class: images of each class by part; empty: there are no classes.
    """

    name: str
    train: int
    validation: int
    test: int
    kind: str = "image"
    names: Sequence[str] = field(default_factory=list)
    per_class: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def classes(self) -> list[tuple[str, int, int, int]]:
        """Classes with their numbers of images to train, to validate and to test."""
        if not self.per_class:
            return []
        parts = [self.per_class[part] for part in ("train", "validation", "test")]
        names = self.names or [str(label) for label in range(len(parts[0]))]
        return list(zip(names, *parts, strict=True))

    @property
    def spread(self) -> str:
        """Numbers of images per class in the training part, in words."""
        counts = self.per_class["train"]
        return f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"


@dataclass(frozen=True, kw_only=True)
class About(RunFile):
    """run.json.

    Args:
        name: of the run.
        command: that last worked in the folder.
        seed: of the run.
        space: whose folder it is, by name.
        fingerprint: of the space.
        space_size: networks of the space, a whole number.
        made_of: settings that make the space, and the data and the devices where they are known.
        versions: of Python and of packages.
        commit: of hwnas, where it runs from a checkout.
        created: when.
        data: of the run; None until there is a report.
    """

    stage = "run"
    again = "Delete it to have it made again; the next command then says whose folder it is."

    name: str = ""
    command: str = ""
    seed: int = 0
    space: str
    fingerprint: str
    space_size: str = ""
    made_of: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    created: str = ""
    data: Images | None = None


@dataclass(frozen=True, kw_only=True)
class Marker(RunFile):
    """stages/<stage>.json.

    Args:
        identity: fingerprint of the settings and the input files; None: the stage has never begun.
        command: that ran it.
        seed: of the run.
        data: fingerprint of the images that it used.
        seconds: that it took.
        complete: it ended.
        made: digests of the files that it made, once it has ended.
    """

    stage = "run"
    again = "It is made again."

    identity: str | None = None
    command: str = ""
    seed: int = 0
    data: str | None = None
    seconds: float = 0.0
    complete: bool = False
    made: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """A row of stages.json."""

    stage: str
    seconds: float
    skipped: bool


@dataclass(frozen=True, kw_only=True)
class Imported(RunFile):
    """train/imported.json: the file that a supernet comes from which was not trained here, with its digest, and its
    tensors that have no place in the space."""

    stage = "import-ofa"
    again = "Delete it, and what is beside it, to have it taken again."

    file: str
    sha256: str = ""
    unused: Sequence[str] = ()


Taken = TypedDict("Taken", {"from": str})
"""profile/<device>/taken.json: the run that measurements come from which were not taken here."""


# -- label -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RecalibrationCost(RunFile):
    """label/recalibration.json: what fresh BatchNorm statistics cost, and what they gain, on a few subnets.

    Args:
        conditions: fingerprint of all that labels depend on.
        subnets: how many were evaluated.
        images: that statistics came from, rising; the first is 0, the supernet's own statistics, the last all.
        scores: mean value of the task's metric with each; None: it is not finite.
        seconds: of a subnet's label with each, mean.
    """

    stage = "label"

    conditions: str
    subnets: int
    images: Sequence[int]
    scores: Sequence[float | None]
    seconds: Sequence[float]

    @property
    def share(self) -> float:
        """Share of the labelling time that recalibration takes."""
        return max(0.0, 1 - self.seconds[0] / self.seconds[-1])

    def sentence(self, metric: TaskMetric) -> str:
        """Sentence of what it costs and gains."""
        scores = ["no number" if score is None else f"{score:.3f}" for score in self.scores]
        *_, (fewer, less), (most, all_of_them) = zip(self.images, scores, strict=True)
        return (
            f"recalibration of BatchNorm takes {100 * self.share:.0f} % of the labelling time; the mean {metric.title} "
            f"of {self.subnets} subnets is {scores[0]} without it, {less} with {fewer:,} images and {all_of_them} with "
            f"all {most:,}"
        )


# -- fit ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Networks that a fit has not seen; ``std`` is what the predictor says of its own errors."""

    truth: Sequence[float]
    predicted: Sequence[float]
    std: Sequence[float] | None


@dataclass(frozen=True, kw_only=True)
class PredictorQuality:
    """Quality of a predictor on networks that its fit has not seen.

    Args:
        predictor: what it is.
        unit: of its values.
        trained_on: networks that it was fitted to.
        metrics: of its predictions.
        within_2_std: share of the errors that are within twice what it says itself.
        noise_floor: how well one measurement predicts the next.
        baselines: simpler predictors.
        held_out: the networks.
        learning: how the ranking depends on the number of networks; None: not known.
    """

    predictor: str
    unit: str
    trained_on: int
    metrics: Quality
    within_2_std: float | None
    noise_floor: Quality | None = None
    baselines: Mapping[str, Quality] = field(default_factory=dict)
    held_out: HeldOut
    learning: LearningCurve | None = field(default=None, metadata=OMITTED)


@dataclass(frozen=True, kw_only=True)
class LayerCounts:
    """Layers of a table: measured, failed and predicted from the others, these with the error that is expected."""

    measured: int
    failed: int
    predicted: int
    expected_error: float | None


@dataclass(frozen=True, kw_only=True)
class LatencyQuality(PredictorQuality):
    """The same of a latency, with doubts about what was measured, terms of the correction, and the table."""

    doubts: Sequence[str] = ()
    terms: Mapping[str, float] = field(default_factory=dict)
    method: str = ""
    layers: LayerCounts | None = None


@dataclass(frozen=True, kw_only=True)
class Fits(RunFile):
    """fit/quality.json; None, or without a device, where a predictor is not fitted. ``metrics`` are what devices report
    besides, by name."""

    stage = "fit"

    commit: str | None = None
    accuracy: PredictorQuality | None
    latency: Mapping[str, LatencyQuality]
    memory: Mapping[str, PredictorQuality]
    metrics: Mapping[str, Mapping[str, PredictorQuality]] = field(default_factory=dict)

    def others(self) -> list[tuple[Metric, dict[str, PredictorQuality]]]:
        """Metrics beside latency and memory, each with its predictors by device."""
        found: dict[Metric, dict[str, PredictorQuality]] = {}
        for device, by_name in self.metrics.items():
            for name, quality in by_name.items():
                found.setdefault(Metric(name, quality.unit), {})[device] = quality
        return list(found.items())

    def with_device(self, device: str, found: Mapping[str, PredictorQuality]) -> Fits:
        """The same with the predictors of a device, by latency, memory or the name of another metric, in place of those
        that it has."""

        def changed(section: Mapping[str, Q], quality: Q | None) -> dict[str, Q]:
            kept = {name: other for name, other in section.items() if name != device}
            return kept if quality is None else {**kept, device: quality}

        latency = found.get("latency")
        assert latency is None or isinstance(latency, LatencyQuality)
        others = {name: quality for name, quality in found.items() if name not in ("latency", "memory")}
        return replace(
            self,
            latency=changed(self.latency, latency),
            memory=changed(self.memory, found.get("memory")),
            metrics=changed(self.metrics, others or None),
        )


# -- search ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """Column of a front: what is known of all its networks.

    Args:
        name: as settings and files have it, such as ``latency_ms``.
        unit: such as ``ms``; ``1`` for a share of 1.
        goal: to be maximised or minimised; None: neither.
        limit: what the search had to keep to; None: nothing.
        at_least: the limit is a least value; None: as is usual for the goal and the name.
        of_task: it is the metric of a task that is not known by its name.
    """

    name: str
    unit: str
    goal: Literal["max", "min"] | None = None
    limit: float | None = None
    at_least: bool | None = None
    of_task: bool = field(default=False, metadata=OMITTED)

    def __post_init__(self) -> None:
        if self.at_least is None:
            known = TASK_METRICS.get(self.name)
            usual = self.goal == "max" or (self.goal is None and known is not None and known.direction == "max")
            object.__setattr__(self, "at_least", usual)

    @staticmethod
    def of(metric: TaskMetric) -> Column:
        """Column of the metric of a task that nothing is wanted of."""
        return Column(
            metric.name, metric.unit, at_least=metric.direction == "max", of_task=metric.name not in TASK_METRICS
        )

    @property
    def judges(self) -> bool:
        """True if it says how well a network does its task."""
        return self.of_task or self.name in TASK_METRICS

    def cost(self, values: Number) -> Number:
        """Values so that less is better, and costs back as values."""
        return as_cost(values, "max" if self.at_least else "min")

    def keeps(self, values: NDArray[np.float64], limit: float) -> NDArray[np.bool_]:
        """Mask (n,) of values that keep a limit; unknown ones (NaN) do not."""
        return np.asarray(self.cost(values) <= self.cost(limit))

    def strictest(self, limits: Sequence[float | None]) -> float | None:
        """Strictest of several limits on this value."""
        return min((limit for limit in limits if limit is not None), key=self.cost, default=None)

    @property
    def title(self) -> str:
        """Title of the metric."""
        return title_of(self.name, self.unit)

    @property
    def sign(self) -> str:
        """Sign between name and limit."""
        return "≥" if self.at_least else "≤"


def judging(columns: Sequence[Column]) -> Column:
    """The column that says how well networks do their task; where there is none, one of accuracies."""
    return next((column for column in columns if column.judges), Column.of(ACCURACY))


def best_of(column: Column) -> str:
    """Label of the network that is the best by the metric of its task."""
    return "most accurate" if column.name == ACCURACY.name else "best"


@dataclass(frozen=True, kw_only=True)
class Point:
    """A network of a front; ``values`` are all that are known of it, by name, as the search had them.

    The others are those of the file's device; a file of an older version has no more than these. ``accuracy`` is the
    metric of the task, whatever that is.
    """

    architecture: ArchitectureJson
    accuracy: float | None = None
    latency_ms: float | None = None
    memory_bytes: float | None = None
    values: Mapping[str, float | None] | None = None


@dataclass(frozen=True, kw_only=True)
class Searched:
    """Result of a searcher: ``history`` has the hypervolume after a number of evaluations, ``failed`` says
    how many evaluations gave nothing, and ``stopped`` why it ended before its budget."""

    front: Sequence[Point]
    hypervolume: float
    evaluations: int
    failed: int = 0
    stopped: str | None = None
    seconds: float
    history: Sequence[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Search(RunFile):
    """search/<device>.json; the first searcher is the run's own.

    Args:
        device: whose latency it is.
        joint: the devices that it is for at once; None: for ``device`` alone.
        limits: as the user set them, by name; those of the objectives may be stricter by a margin.
        objectives: goals, limits and what else is known; None in a file of an older version.
        reference: the value of each goal that bounds the hypervolume.
        searchers: what they found.
        without_front: others, and why they have none.
        baselines: networks that the space states as a comparison, by the name of what they have in common.
    """

    stage = "search"

    device: str
    joint: Sequence[str] | None = None
    limits: Mapping[str, float | None]
    objectives: Sequence[Column] | None = None
    reference: Sequence[float]
    searchers: Mapping[str, Searched]
    without_front: Mapping[str, str] = field(default_factory=dict)
    baselines: Mapping[str, Sequence[Point]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write a file, atomically; without baselines it is as those of an older version."""
        write_json(path, self if self.baselines else {k: v for k, v in vars(self).items() if k != "baselines"})


# -- export, verify ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Predicted values of a network, ``values`` all of them by name; None where one is not known.

    ``accuracy`` is the metric of the task, whatever that is.
    """

    accuracy: float | None
    latency_ms: float
    memory_bytes: float | None
    values: Mapping[str, float | None] = field(default_factory=dict)

    @staticmethod
    def of(values: Mapping[str, float | None], judge: str) -> Predicted:
        """Values by name, of which the latency must be known; ``judge`` is the name of the task's metric."""
        accuracy, latency, memory = (values.get(name) for name in (judge, "latency_ms", "memory_bytes"))
        assert latency is not None
        return Predicted(accuracy=accuracy, latency_ms=latency, memory_bytes=memory, values=values)


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Numbers of networks that a front had, that were evaluated, and that were left to choose from."""

    networks: int
    evaluated: int
    left: int


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A network that was exported.

    Args:
        label: how it compares with the others, as far as known before it is verified.
        folder: of its files, beside networks.json.
        row: its number on the front, from 1.
        predicted: by the search.
        evaluated_accuracy: through the supernet; None: it was not evaluated.
        parity: largest differences of its outputs, by what is compared.
    """

    label: str
    folder: str
    row: int
    predicted: Predicted
    evaluated_accuracy: float | None
    parity: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Exports(RunFile):
    """export/<device>/networks.json; no ``recalibration_images``: the weights are random."""

    stage = "export"

    device: str
    objectives: Sequence[Column]
    recalibration_images: int
    front: Evaluated
    picked: bool
    networks: Sequence[Exported]


@dataclass(frozen=True, kw_only=True)
class Retrained:
    """An exported network that was then trained alone.

    Args:
        folder: of its files, beside networks.json; that of the export has the same name.
        row: its number on the front, from 1.
        method: of fine-tuning; ``all`` also of training from nothing.
        epochs: of training.
        seconds: of training.
        training_bytes: that a step of the training holds: weights, activations, gradients, optimiser.
        validation_accuracy: through the network itself, BatchNorm statistics taken anew.
        inherited_accuracy: the same with the weights of the supernet; None: it was trained from nothing.
        parity: largest differences of its outputs, by what is compared.
    """

    folder: str
    row: int
    method: str
    epochs: int
    seconds: float
    training_bytes: int
    validation_accuracy: float
    inherited_accuracy: float | None
    parity: Mapping[str, float]

    def sentence(self, metric: TaskMetric) -> str:
        """Line of the scores before and after the training, its memory and seconds."""
        before = "" if self.inherited_accuracy is None else f"{self._score(metric, self.inherited_accuracy)} -> "
        return (
            f"{self.folder}: {metric.title} {before}{self._score(metric, self.validation_accuracy)}, "
            f"training memory {self.training_bytes / 2**20:.1f} MiB, {self.seconds:.1f} s"
        )

    @staticmethod
    def _score(metric: TaskMetric, value: float) -> str:
        return f"{100 * value:.1f} %" if metric.is_share else with_unit(value, metric.unit)


@dataclass(frozen=True, kw_only=True)
class FineTuned(RunFile):
    """finetune/<device>/networks.json."""

    stage = "finetune"

    device: str
    networks: Sequence[Retrained]


@dataclass(frozen=True, kw_only=True)
class TrainedAlone(FineTuned):
    """train-alone/<device>/networks.json."""

    stage = "train-alone"


RETRAINED = {kind.stage: kind for kind in (FineTuned, TrainedAlone)}
"""Files of the stages that train exported networks alone, by the stage."""


@dataclass(frozen=True, kw_only=True)
class Alone:
    """An exported network as it was trained alone: accuracies of its file, and what a step of its training held."""

    validation: float
    test: float
    training_bytes: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Values of a network that were measured; ``agreed``: passes agreed, and no other program took the device away.

    One with random weights has no accuracies. ``values`` are those of other metrics that the device reports.
    ``validation_accuracy`` and ``test_accuracy`` are the metric of the task, whatever that is, and the errors next to
    them their standard errors; None: that of a share of right answers among so many, or not known.
    """

    latency_ms: float
    p10_ms: float
    p90_ms: float
    noise: float
    agreed: bool = True
    validation_accuracy: float | None
    test_accuracy: float | None
    memory_bytes: float | None
    values: Mapping[str, float] = field(default_factory=dict)
    validation_error: float | None = field(default=None, metadata=OMITTED)
    test_error: float | None = field(default=None, metadata=OMITTED)


@dataclass(frozen=True, kw_only=True)
class VerifiedNetwork:
    """A verified network.

    Args:
        label: how it compares with the others by what was measured.
        exported_as: its label before.
        dominated_by: label of one that is nowhere worse and somewhere better.
        folder: of its files, in the run folder.
        row: its number on the front, from 1.
        architecture: of it.
        macs: exact.
        params: exact.
        predicted: by the search.
        evaluated_accuracy: through the supernet; None: it was not evaluated.
        measured: on the device, or by its compiler.
        parity: the largest difference of its outputs.
        violations: limits that it breaks, in words.
        retrained: the same network trained alone, by the stage.
    """

    label: str
    exported_as: str
    dominated_by: str | None
    folder: str
    row: int
    architecture: ArchitectureJson
    macs: int
    params: int
    predicted: Predicted
    evaluated_accuracy: float | None
    measured: Measured
    parity: float | None
    violations: Sequence[str]
    retrained: Mapping[str, Alone] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verification(RunFile):
    """verify/<device>.json.

    Args:
        device: that measured.
        title: of it.
        backend: of it.
        dtype: of it.
        threads: of it.
        batch: images that a latency is of.
        estimates: values are not measured, but those of a compiler, a simulator or a formula.
        environment: software and hardware that measured.
        drift: how many times as long networks took as on profiling.
        accuracy_of: the files that accuracies are of.
        objectives: of the search, with the limits as the user set them.
        validation_images: that validation accuracies were counted on.
        test_images: that test accuracies were counted on; 0 in files that do not say it.
        recalibration_images: that BatchNorm statistics were taken from; 0: the weights are random.
        front: how the networks were chosen.
        picked: the user named the networks.
        networks: that were verified.
    """

    stage = "verify"

    device: str
    title: str
    backend: str
    dtype: str
    threads: int | None
    batch: int
    estimates: bool
    environment: Mapping[str, Any]
    drift: float
    accuracy_of: str
    objectives: Sequence[Column]
    validation_images: int
    test_images: int = 0
    recalibration_images: int
    front: Evaluated
    picked: bool = False
    networks: Sequence[VerifiedNetwork]

    def write(self, path: Path) -> None:
        """Write a file, atomically; of networks that were not trained alone it is as those of an older version."""
        networks = [{k: v for k, v in vars(one).items() if v or k != "retrained"} for one in self.networks]
        write_json(path, {**vars(self), "networks": networks})

    @property
    def is_trained(self) -> bool:
        """True unless the weights are random, so that nothing is known of accuracies."""
        return self.recalibration_images > 0


# -- what stands in a folder -------------------------------------------------------------------------------------------


def read_about(folder: Path) -> About | None:
    """Owner of a folder; None where nobody has said it yet."""
    path = folder / "run.json"
    return About.read(path) if path.exists() else None


def read_marker(path: Path) -> Marker:
    """Marker of a stage; of a file that is not there or damaged, nothing, so that the stage is run again."""
    try:
        return Marker.read(path) if path.exists() else Marker()
    except DamagedFileError as error:
        log.warning("%s", error)
        return Marker()

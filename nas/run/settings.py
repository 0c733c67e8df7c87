"""The configuration as typed dataclasses: what ``nas/conf/config.yaml`` may say, checked by OmegaConf on composing."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from search_spaces.base.errors import InvalidValueError, UnknownNameError
from search_spaces.base.names import closest, dotted
from search_spaces.lite_residual import SUFFIX
from search_spaces.metric import (
    ACCURACY,
    BLOCK_LOSS,
    BUILT_IN,
    TASK_METRICS,
    Direction,
    Metric,
    TaskMetric,
    amount_of,
    amounts,
)

CONF = Path(__file__).parents[1] / "conf"
"""Folder of the configuration: YAMLs of data, training, predictors and searchers, by name."""
METHODS = ("auto", "in_context", "isolated")


MOST_ITEMS = 10_000_000
"""Most of whatever is counted in the settings; more would never end."""
MOST = {"profile.repeats": 1000, "search.workers": 1000, "label.workers": 1000}


def _check_counts(group: str, settings: Any, **least: int) -> None:
    """Refuse numbers of a group of settings that are too small, or so large that nothing would ever end.

    Raises:
        InvalidValueError: names the setting.
    """
    for name, fewest in least.items():
        _check_count(f"{group}.{name}", getattr(settings, name), fewest)


def _check_count(name: str, value: Any, least: int, most: float | None = None) -> None:
    most = MOST.get(name, MOST_ITEMS) if most is None else most
    if value is not None and value < least:
        raise InvalidValueError(f"`{name}` must be >= {least}, but got {value}.")
    if value is not None and value > most:
        raise InvalidValueError(f"`{name}` must be <= {most:,}, but got {value:,}.")


def check_seed(seed: int) -> None:
    """Refuse a seed that not all libraries take.

    Raises:
        InvalidValueError: it is below 0, or has more than 32 bits.
    """
    _check_count("seed", seed, 0, math.inf)
    if seed >= 2**32:
        raise InvalidValueError(f"`seed` must be below 2**32 = {2**32}, but got {seed}.")


@dataclass
class ProfileSettings:
    """Settings of how much is measured on a device; see `nas.run.profiling`.

    `networks` are measured whole to fit the correction, `check_networks` more to judge it. `method` is one of
    `METHODS`. In context every layer is in `repeats` networks, of which there are at most `most_networks`. Isolated
    layers are measured until a model of them expects to predict the others within `target_error` (null: all of them).
    `budget` is the time for one device, such as 10min (null: as long as it takes). `accept_disturbed` goes on where
    other programs disturbed most of what was measured, which is refused otherwise.
    """

    networks: int = 20
    check_networks: int = 10
    method: str = "auto"
    repeats: int = 2
    most_networks: int | None = None
    target_error: float | None = None
    budget: Any = None
    accept_disturbed: bool = False

    def __post_init__(self) -> None:
        _check_counts("profile", self, networks=8, check_networks=2, repeats=1)
        if self.method not in METHODS:
            raise InvalidValueError(f"`profile.method` must be one of {', '.join(METHODS)}, but got {self.method!r}.")
        if self.target_error is not None and not 0 < self.target_error < 1:
            raise InvalidValueError(f"`profile.target_error` must be in (0, 1) or null, but got {self.target_error}.")
        if self.budget is not None:
            parse_duration("budget", self.budget)


_UNITS = {"s": 1, "min": 60, "h": 3600}


def parse_duration(name: str, value: Any) -> float:
    """Seconds of a duration such as 90 (seconds), 90s, 10min or 1h30min.

    Raises:
        InvalidValueError: it is none, or not above 0.
    """
    seconds = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and re.fullmatch(r"([0-9]+(\.[0-9]+)?\s*(s|min|h)\s*)+", value):
        parts = re.findall(r"([0-9.]+)\s*(s|min|h)", value)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 < seconds < math.inf:
        raise InvalidValueError(f"`{name}` must be a time such as 90s, 10min or 1h30min, but got {value!r}.")
    return seconds


@dataclass
class LabelSettings:
    """`subnets` are evaluated, the last `held_out` of them to judge the predictor.

    `by` supernet: with its weights, on a `device` of torch. By training: each is trained from nothing as `nas
    train-alone` does, by its own recipe where the space has some (Dai et al., "FBNetV3", CVPR 2021). So many `workers`,
    processes, evaluate at a time.
    """

    subnets: int = 320
    held_out: int = 64
    recalibration_images: int = 512
    workers: int = 1
    device: str = "cpu"
    by: str = "supernet"

    def __post_init__(self) -> None:
        if self.by not in ("supernet", "training"):
            raise InvalidValueError(f"`label.by` must be supernet or training, but got {self.by!r}.")
        _check_counts("label", self, subnets=12, held_out=2, recalibration_images=1, workers=1)
        if self.subnets - self.held_out < 10:
            raise InvalidValueError(
                f"`label.subnets` must exceed `label.held_out` by 10 or more, but got {self.subnets} and "
                f"{self.held_out}."
            )

    def identity(self) -> dict[str, Any]:
        """All that the labels depend on; what is as it always was is left out."""
        known = {name: getattr(self, name) for name in ("subnets", "held_out", "recalibration_images")}
        changed = {"by": "supernet", "device": "cpu"}
        return known | {name: getattr(self, name) for name, usual in changed.items() if getattr(self, name) != usual}


SHARE, MARGIN = "latency_share", "latency_margin"
"""Settings of `limit` that are no metrics."""


@dataclass(frozen=True)
class Limits:
    """`limit`: metric -> a number for all devices, a mapping from device to number, or null for none.

    A limit is the largest value, or the least one where more is better; `amount_of` says how numbers may be written.
    `latency_share` is of the slowest network's latency; where `latency_ms` is given, that alone holds. Networks are
    searched that are predicted `latency_margin` below the latency limit, so that measured ones keep it. ``own``: limits
    that stand in `metrics`.
    """

    given: Mapping[str, Any]
    own: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_margin(f"limit.{MARGIN}", self.given.get(MARGIN) or 0.0)
        for name, value in self.own.items():
            if value is not None and self.given.get(name) is not None:
                raise InvalidValueError(f"`limit.{name}` and `metrics.{name}.limit` are one limit; give one of them.")

    @property
    def margin(self) -> float:
        """The share of the latency limit that searched networks stay below it."""
        return float(self.given.get(MARGIN) or 0.0)

    def setting(self, name: str) -> str:
        """The setting that has the limit of a metric."""
        return f"limit.{name}" if self.own.get(name) is None else f"metrics.{name}.limit"

    def stated(self, name: str) -> bool:
        """True if a metric has a limit on some device."""
        value = self._value(name)
        return any(one is not None for one in (value.values() if isinstance(value, dict) else [value]))

    def named(self, metric: Metric) -> str:
        """Name that a metric goes by in the settings: that of a task may be called accuracy, whatever it is."""
        is_own = not isinstance(metric, TaskMetric) or self.stated(metric.name)
        return metric.name if is_own else ACCURACY.name

    def of(self, name: str, device: str, task: TaskMetric = ACCURACY) -> float | None:
        """A limit as it holds for one device.

        Args:
            name: of the metric, as the settings have it.
            device: that it holds for.
            task: metric of the task, which accuracy stands for.

        Raises:
            InvalidValueError: it is no number, not above 0, or a value of the task's metric that there is not.
        """
        value = self._value(name)
        for one in value.values() if isinstance(value, dict) else [value]:
            if one is not None:
                others = f"{amounts(name)}, null, or a mapping from device to number"
                check_bound(self.setting(name), task if name == ACCURACY.name else name, one, others)
        return value.get(device) if isinstance(value, dict) else value

    def check(self, metrics: Mapping[str, Collection[str]], task: TaskMetric = ACCURACY) -> None:
        """Refuse limits that are no numbers, or on a metric or a device that the run does not have.

        Args:
            metrics: of the run, with the devices that have them.
            task: metric of the task, which accuracy stands for.

        Raises:
            InvalidValueError: see `of`.
            UnknownNameError: names the metric or the device, and those that there are.
        """
        for name in [name for name in self.given if name != MARGIN] + list(self.own):
            key = "latency_ms" if name == SHARE else name
            if key not in metrics:
                close = closest(name, [*metrics, SHARE, MARGIN])
                hint = f" Did you mean `limit.{close}`?" if close else ""
                raise UnknownNameError(
                    f"`limit.{name}` names no metric of this run.{hint} There are {', '.join(metrics)}, and {SHARE}."
                )
            self.of(name, "", task)
            value = self._value(name)
            unknown = set(value) - set(metrics[key]) if isinstance(value, dict) else set()
            if unknown:
                raise UnknownNameError(
                    f"`{self.setting(name)}` names {', '.join(sorted(map(str, unknown)))}, but the devices are "
                    f"{', '.join(metrics[key])}."
                )

    def _value(self, name: str) -> Any:
        value = self.own.get(name)
        value = self.given.get(name) if value is None else value
        if isinstance(value, dict):
            return {device: amount_of(name, one) for device, one in value.items()}
        return amount_of(name, value)


def check_bound(setting: str, metric: str | Metric, bound: Any, others: str = "") -> None:
    """Refuse a limit that is no finite number, or that the metric of a run cannot have.

    Args:
        setting: that has the limit, for messages.
        metric: that is limited; one that every run or a task has may be given by its name.
        bound: the limit.
        others: what the setting may be beside a number, for messages.

    Raises:
        InvalidValueError: it is no number, not above 0 where the metric always is, or a value that there is not.
    """
    name = metric if isinstance(metric, str) else metric.name
    is_above_0 = name in (*BUILT_IN, SHARE)
    if not (_is_number(bound) and abs(bound) <= sys.float_info.max and (bound > 0 or not is_above_0)):
        got = repr(bound) if not isinstance(bound, int) or abs(bound) < 10**20 else "one of too many digits"
        kind = f"a number{' > 0' if is_above_0 else ''}{others}"
        raise InvalidValueError(f"`{setting}` must be {kind}, but got {got}.")
    of_task = TASK_METRICS.get(name) if isinstance(metric, str) else metric
    if isinstance(of_task, TaskMetric) and of_task.is_share and bound > 1:
        hint = f" Did you mean {bound / 100:g}?" if 2 <= bound <= 100 else ""
        raise InvalidValueError(f"`{setting}` is a fraction, at most 1, but got {bound:g}.{hint}")
    if isinstance(of_task, TaskMetric):
        of_task.check(bound, f"`{setting}`")


def check_margin(setting: str, margin: Any) -> None:
    """Refuse a share of a limit that a search cannot stay below it.

    Raises:
        InvalidValueError: names the setting.
    """
    if not _is_number(margin) or not 0 <= margin < 1:
        raise InvalidValueError(f"`{setting}` must be in [0, 1), but got {margin}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass
class MetricSettings:
    """A metric of the user's.

    `file` is that of a saved predictor, with ``{device}`` in its path where there is one for each device. `function` is
    the import path of a plain function; see `predictors.function.Function` for `layers` and `batched`. Without a
    `direction` that of the file holds, and of a function less is better.
    """

    file: str | None = None
    function: str | None = None
    unit: str | None = None
    direction: Direction | None = None
    limit: Any = None
    layers: bool = False
    batched: bool = False

    @staticmethod
    def of(name: str, given: Any) -> MetricSettings:
        """Read an entry of `metrics`.

        Raises:
            InvalidValueError: it is malformed.
        """
        known = {"file", "function", "unit", "goal", "direction", "limit", "layers", "batched"}
        words = dict(given) if isinstance(given, dict) else {}
        if not words or set(words) - known or ("file" in words) == ("function" in words):
            raise InvalidValueError(
                f"`metrics.{name}` needs `file`, the npz of a saved predictor, or `function`, the import path of a "
                f"function, and may have `unit`, `direction`, `limit`, `layers` and `batched`, but got {given!r}."
            )
        if name in (*BUILT_IN, SHARE, MARGIN):
            raise InvalidValueError(f"`metrics` must not name {name!r}, which every run has.")
        if name in TASK_METRICS:
            raise InvalidValueError(f"`metrics` must not name {name!r}, which tasks are judged by.")
        if "goal" in words:  # another word for the direction
            if "direction" in words:
                raise InvalidValueError(
                    f"`metrics.{name}` has `direction` and `goal`, which are one; give one of them."
                )
            words["direction"] = words.pop("goal")
        metric = MetricSettings(**words)
        if metric.direction not in ("min", "max", None):
            raise InvalidValueError(f"`metrics.{name}.direction` must be min or max, but got {metric.direction!r}.")
        for key, kind in (("file", str), ("function", str), ("unit", str), ("layers", bool), ("batched", bool)):
            value = getattr(metric, key)
            if value is not None and not isinstance(value, kind):
                raise InvalidValueError(f"`metrics.{name}.{key}` must be {kind.__name__}, but got {value!r}.")
        if metric.function is not None and metric.unit is None:
            raise InvalidValueError(f"`metrics.{name}` needs the `unit` of the function's values, such as mJ.")
        if metric.file is not None and (metric.layers or metric.batched):
            raise InvalidValueError(f"`metrics.{name}`: `layers` and `batched` are of a `function`, not of a `file`.")
        return metric

    @property
    def of_device(self) -> bool:
        """True if each device has its own."""
        return self.file is not None and "{device}" in self.file


@dataclass
class SearchSettings:
    """`evaluations`, `seconds` and `patience` end a search, whichever comes first.

    `objectives` are optimised; others only keep their limits. `joint`: None, one front per device; worst or weighted,
    one front for all of them, by the worst or by the `weights`-weighted latency. `accuracy` is of the fitted predictor,
    or of the supernet itself, which takes seconds per network, in so many `workers`. `start`: the file of a front to
    begin with; `share`: each device begins with the fronts of those before it. `fixed`: choices that are not searched,
    with their values.
    """

    evaluations: int = 4000
    baseline: bool = True
    seconds: Any = None
    patience: int | None = None
    objectives: list[str] = field(default_factory=lambda: ["accuracy", "latency_ms"])
    joint: str | None = None
    weights: Any = None
    accuracy: str = "predictor"
    workers: int = 1
    start: str | None = None
    share: bool = False
    fixed: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fixed = dotted(self.fixed)
        _check_counts("search", self, evaluations=1, patience=1, workers=1)
        if self.joint not in (None, "worst", "weighted"):
            raise InvalidValueError(f"`search.joint` must be worst, weighted or null, but got {self.joint!r}.")
        if self.accuracy not in ("predictor", "supernet"):
            raise InvalidValueError(f"`search.accuracy` must be predictor or supernet, but got {self.accuracy!r}.")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise InvalidValueError(
                f"`search.objectives` must name one or more objectives, each once, but got {self.objectives}."
            )
        if self.seconds is not None:
            parse_duration("search.seconds", self.seconds)

    def weights_of(self, devices: list[str]) -> list[float]:
        """The weight of each device, 1 where none is given.

        Raises:
            InvalidValueError: no mapping of positive numbers, or a device that the run does not have.
        """
        given = {} if self.weights is None else self.weights
        numbers = isinstance(given, dict) and all(isinstance(w, int | float) and w > 0 for w in given.values())
        if not numbers or set(given) - set(devices):
            names = ", ".join(devices)
            raise InvalidValueError(f"`search.weights` must map devices ({names}) to numbers > 0, but got {given!r}.")
        return [float(given.get(device, 1.0)) for device in devices]


@dataclass
class ExportSettings:
    """Settings of the export: how many networks of each front, the fastest, the knee, the most accurate, then ones
    between.

    Before, at most `evaluate` of the front are evaluated through the supernet (0: none, predictions decide). `pick`
    names networks in place of all that, by their numbers on the front as `nas front show` has them: a list, or a
    mapping from device to list. `weights` are of the supernet, or random: then nothing is trained or evaluated.
    """

    networks: int = 6
    evaluate: int = 64
    pick: Any = None
    weights: str = "supernet"

    def __post_init__(self) -> None:
        if self.weights not in ("supernet", "random"):
            raise InvalidValueError(f"`export.weights` must be supernet or random, but got {self.weights!r}.")
        _check_counts("export", self, networks=1, evaluate=0)

    def picks(self, device: str, count: int) -> list[int]:
        """Rows, from 0, that `pick` names for a device with so many networks on its front; none: nothing is picked.

        Raises:
            InvalidValueError: they are no numbers from 1 to the count, each once.
        """
        given = self.pick.get(device) if isinstance(self.pick, dict) else self.pick
        if given is None:
            return []
        numbers = given if isinstance(given, list) else [given]
        whole = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
        if not whole or not numbers or len(set(numbers)) < len(numbers) or not all(1 <= n <= count for n in numbers):
            raise InvalidValueError(
                f"`export.pick` must name networks of the front of {device!r} by their numbers, 1 to {count}, each "
                f"once, but got {given!r}. `nas front show` numbers them."
            )
        return [number - 1 for number in numbers]


HEAD = "head"
METHODS_OF_TUNING = {
    "all": (),
    "last": (HEAD,),
    "biases": ("*.bias", HEAD),
    "tinytl": ("*.bias", f"*{SUFFIX}.*", HEAD),
}
"""Parameters that a method of fine-tuning trains, by patterns; none: all. The head are the weights that give the
output; tinytl puts lite residuals beside the blocks."""


@dataclass
class FinetuneSettings:
    """The exported networks trained further, with the largest network of the supernet as the teacher.

    `epochs` of each; `learning_rate`, a tenth of the training's where it is null; `distillation`: the share of the
    teacher in the loss, beside the labels. `method`: what is trained, one of `METHODS_OF_TUNING`.
    """

    method: str = "all"
    epochs: int = 10
    learning_rate: float | None = None
    distillation: float = 0.5

    def __post_init__(self) -> None:
        _check_counts("finetune", self, epochs=0)
        if self.method not in METHODS_OF_TUNING:
            raise InvalidValueError(
                f"`finetune.method` must be one of {', '.join(METHODS_OF_TUNING)}, but got {self.method!r}."
            )
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise InvalidValueError(f"`finetune.learning_rate` must be positive or null, but got {self.learning_rate}.")
        if not 0 <= self.distillation <= 1:
            raise InvalidValueError(f"`finetune.distillation` must be in [0, 1], but got {self.distillation}.")


@dataclass
class TrainAloneSettings:
    """The exported networks trained from nothing, for `epochs`, as many as the supernet where that is null."""

    epochs: int | None = None

    def __post_init__(self) -> None:
        _check_counts("train_alone", self, epochs=0)


@dataclass
class ReuseSettings:
    """Folders of other runs: of `profile` the measurements are taken, of `train` the supernet.

    `start`, the folder of a run or the file of a supernet, has the weights that the training begins with.
    """

    profile: str | None = None
    train: str | None = None
    start: str | None = None

    def __post_init__(self) -> None:
        if self.train is not None and self.start is not None:
            raise InvalidValueError(
                "`train.from` keeps the weights of another run and `train.start` trains them further; give one of them."
            )


@dataclass
class Settings:
    """All that one run is made of; `buffer_kib` is the on-chip buffer at which memory traffic is counted."""

    name: str = MISSING
    out: str = MISSING
    seed: int = MISSING
    device: Any = MISSING
    budget: Any = None
    buffer_kib: float = 0.0
    space: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, Any] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)
    searcher: dict[str, Any] = field(default_factory=dict)
    profile: ProfileSettings = field(default_factory=ProfileSettings)
    label: LabelSettings = field(default_factory=LabelSettings)
    limit: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    search: SearchSettings = field(default_factory=SearchSettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    train_alone: TrainAloneSettings = field(default_factory=TrainAloneSettings)
    reuse: ReuseSettings = field(default_factory=ReuseSettings)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        _check_count("buffer_kib", self.buffer_kib, 0)
        self.limits  # noqa: B018 - checked
        if not self.devices:
            raise InvalidValueError("`device` must name at least one device; `nas devices` lists them.")

    @property
    def limits(self) -> Limits:
        """The limits, those of `metrics` included."""
        return Limits(self.limit, {name: own.limit for name, own in self.own.items() if own.limit is not None})

    @property
    def own(self) -> dict[str, MetricSettings]:
        """The user's own metrics, by name."""
        return {name: MetricSettings.of(name, given) for name, given in self.metrics.items()}

    @property
    def needs_accuracy(self) -> bool:
        """True if the objectives or the limits name the metric of the task."""
        return bool(self.task_names)

    @property
    def task_names(self) -> list[str]:
        """Names that the objectives and the limits have for the metric of the task: accuracy, or its own."""
        limits = self.limits
        return [name for name in TASK_METRICS if name in self.search.objectives or limits.stated(name)]

    @property
    def needs_labels(self) -> bool:
        """True if an accuracy predictor is needed that is not taken from a file."""
        return self.needs_accuracy and self.search.accuracy == "predictor" and "file" not in self.accuracy

    @property
    def rates_blocks(self) -> bool:
        """True if the objectives or the limits name the loss of blocks, and it is no metric of the user's own."""
        name = BLOCK_LOSS.name
        return name not in self.metrics and (name in self.search.objectives or self.limits.stated(name))

    @property
    def devices(self) -> list[str]:
        """Names or paths of the devices, each once."""
        names = [self.device] if isinstance(self.device, str) else self.device
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InvalidValueError(f"`device` must be a name, a path or a list of them, but got {self.device!r}.")
        return list(dict.fromkeys(names))


def register() -> None:
    """Make the schema known to Hydra under the name that ``config.yaml`` takes it by."""
    ConfigStore.instance().store(name="schema", node=Settings)

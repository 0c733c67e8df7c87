"""Settings of a supernet's training: recipes as data, their checks, and what a checkpoint remembers of them.

A recipe is phases, each with a sampler (which networks a step trains), a loss (what they learn from) and the values
that choices may take. `nas.supernet.training` trains by them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nas.core.loop import PRECISIONS
from nas.core.schedule import Schedule, left_of_rate
from nas.supernet.augmentation import Affine, Augmentation
from nas.supernet.few_shot import GradientMatching
from nas.supernet.losses import Blockwise, InPlaceDistillation, InsideLoss, Labels, SupernetLoss
from nas.supernet.region import Region
from nas.supernet.samplers import Sampler, Sandwich
from search_spaces.architecture import Value
from search_spaces.base.errors import InvalidValueError

if TYPE_CHECKING:
    from nas.supernet.supernet import Supernet

WITHOUT_EFFECT = ("checkpoint_every", "keep_checkpoints", "tensorboard", "workers")
"""Settings that no weights depend on, so that a stopped training goes on with others."""


@dataclass(frozen=True)
class Phase:
    """A part of a training with a sampler, a loss and values of choices of its own. The learning rate begins anew, and
    so does the optimiser.

    Args:
        share: of the training's epochs, relative to those of the other phases.
        sampler: instead of the training's.
        loss: instead of the training's.
        choices: values that choices may take, by name or pattern: ``{"kernel*": [5, 7]}``; a number stands for so many
            of the last values.
        learning_rate: instead of the training's.
        warmup_epochs: instead of the training's.
        sort: whether channels are sorted by importance before it begins, see `nas.supernet.sorting`.
        division: of the space before it begins, into parts with weights of their own.
    """

    share: float = 1.0
    sampler: Sampler | None = None
    loss: SupernetLoss | None = None
    choices: Mapping[str, Sequence[Value] | int] = field(default_factory=dict)
    learning_rate: float | None = None
    warmup_epochs: float | None = None
    sort: bool = False
    division: GradientMatching | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share < math.inf:
            raise InvalidValueError(f"`share` of a phase must be a positive number, but got {self.share}.")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise InvalidValueError(f"`learning_rate` of a phase must be positive, but got {self.learning_rate}.")
        if self.warmup_epochs is not None and not self.warmup_epochs >= 0:
            raise InvalidValueError(f"`warmup_epochs` of a phase must be at least 0, but got {self.warmup_epochs}.")


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a supernet's training.

    Args:
        epochs: passes over the training images; 0: the weights stay those that it begins with.
        sampler: which networks each step trains.
        loss: what they learn from.
        phases: parts of the training, one after the other; none: all epochs are alike.
        batch_size: images per step, of all processes together, or a few more so that all steps have as many; the
            networks of a step see the same.
        accumulate: parts that a step's images are cut into where they do not fit into memory at once.
        optimiser: ``adamw``, or ``sgd`` with Nesterov momentum 0.9.
        learning_rate: its peak; a linear warm-up leads up to it.
        schedule: how it falls to 0 then: ``cosine``, ``power`` (as (1 - t) ** ``power``) or ``constant``, not at all.
        power: exponent of ``schedule=power``; 1 is a straight line.
        warmup_epochs: length of the warm-up.
        trained: parameters that are trained, by position and name or pattern, such as ``*.bias``; none: all are.
        weight_decay: of convolution and linear weights alone.
        decays: weight decays of single positions instead, by name or pattern: ``{"stage4*": 0.1}``.
        label_smoothing: of the labels, in [0, 1).
        clip_norm: gradients are scaled down to this norm; null: they are not.
        ema: share of the old in the exponential moving average of the weights that is handed on; null: the weights
            themselves are.
        augment: random changes of the images, one after the other.
        seed: of the weights and of every draw.
        evaluate_every: epochs between evaluations of the smallest and the biggest network; 0: none.
        checkpoint_every: epochs between checkpoints, which is what a stopped run can lose.
        keep_checkpoints: how many of the last checkpoints stay.
        hand_on: the ``last`` weights, or the ``best`` of the evaluated epochs by the mean of smallest and biggest.
        tensorboard: whether scalars are written for TensorBoard too.
        device: where to train, ``cpu`` or ``cuda``.
        precision: of the computation, ``float32``, ``bfloat16`` or ``float16``; weights stay float32.
        compile: whether networks that come again and again are compiled by torch, on a GPU as CUDA graphs. Sums are
            then taken in another order, so that weights are equal up to rounding, and no longer bit for bit.
        workers: processes that load images ahead, where they are not in memory.
        threads: of the CPU, also where the supernet is evaluated later; null: as many as torch takes. Tiny networks
            lose more to handing work over than a second thread gains, and only a fixed number gives the same weights,
            bit for bit, on any number of cores.
    """

    epochs: int = 30
    sampler: Sampler = field(default_factory=Sandwich)
    loss: SupernetLoss = field(default_factory=InPlaceDistillation)
    phases: tuple[Phase, ...] = ()
    batch_size: int = 64
    accumulate: int = 1
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 3e-3
    schedule: Schedule = "cosine"
    power: float = 1.0
    warmup_epochs: float = 1.0
    trained: tuple[str, ...] = ()
    weight_decay: float = 0.01
    decays: Mapping[str, float] = field(default_factory=dict)
    label_smoothing: float = 0.1
    clip_norm: float | None = 1.0
    ema: float | None = None
    augment: tuple[Augmentation, ...] = (Affine(),)
    seed: int = 0
    evaluate_every: int = 5
    checkpoint_every: int = 1
    keep_checkpoints: int = 1
    hand_on: Literal["last", "best"] = "last"
    tensorboard: bool = False
    device: str = "cpu"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    workers: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        at_least = {"epochs": 0, "batch_size": 2, "accumulate": 1, "seed": 0, "workers": 0, "keep_checkpoints": 1}
        at_least |= {"evaluate_every": 0, "checkpoint_every": 1, "warmup_epochs": 0, "weight_decay": 0}
        for name, low in at_least.items():
            if not getattr(self, name) >= low:
                raise InvalidValueError(f"`{name}` must be at least {low}, but got {getattr(self, name)}.")
        if self.threads is not None and self.threads < 1:
            raise InvalidValueError(f"`threads` must be at least 1, but got {self.threads}.")
        for name in ("learning_rate", "clip_norm", "power"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InvalidValueError(f"`{name}` must be a positive number, but got {value}.")
        for name in ("label_smoothing", "ema"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise InvalidValueError(f"`{name}` must be in [0, 1), but got {value}.")
        for pattern, decay in self.decays.items():
            if not 0 <= decay < math.inf:
                raise InvalidValueError(f"`decays.{pattern}` must be a number of at least 0, but got {decay}.")
        choices = {
            "optimiser": ("adamw", "sgd"),
            "schedule": ("cosine", "power", "constant"),
            "hand_on": ("last", "best"),
            "precision": tuple(PRECISIONS),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InvalidValueError(
                    f"`{name}` must be {' or '.join(map(repr, known))}, but got {getattr(self, name)!r}."
                )
        if len(self.phases) > self.epochs:
            raise InvalidValueError(
                f"Each of {len(self.phases)} phases needs an epoch, but `epochs` is {self.epochs}: raise it."
            )
        if self.phases and self.phases[0].sort:
            raise InvalidValueError("`sort` is for later phases: when the first one begins, nothing is trained yet.")
        if self.phases and self.phases[0].division is not None:
            raise InvalidValueError(
                "`division` is for later phases: the gradients of weights that have learned nothing say nothing."
            )
        divided = False
        for phase in self.phases:
            if divided and phase.sort:
                raise InvalidValueError(
                    "`sort` must not follow a `division`: sort in the phase that divides, or before."
                )
            divided |= phase.division is not None
        losses = [self.loss if phase.loss is None else phase.loss for phase in self.phases or (Phase(),)]
        if self.compile and (inside := [loss for loss in losses if isinstance(loss, InsideLoss)]):
            raise InvalidValueError(
                f"`compile` is for networks that run as a whole, but the loss {type(inside[0]).__name__} runs them in "
                "parts: set it to false."
            )
        if self.hand_on == "best" and not self.evaluate_every:
            raise InvalidValueError("`hand_on=best` compares evaluations, but `evaluate_every` is 0: set it to 5, say.")

    @functools.cached_property
    def per_step(self) -> float:
        """Networks per step, on average over all epochs."""
        networks = sum((stop - start) * one.sampler.per_step for start, stop, one, _ in spans_of(self))
        return networks / max(self.epochs, 1)


def spans_of(settings: TrainingSettings) -> list[tuple[int, int, TrainingSettings, Phase]]:
    """First epoch, the epoch after the last, and the settings of every phase, those of its epochs alone, with what it
    says itself; each has at least one epoch."""
    phases = settings.phases or (Phase(),)
    ends = np.cumsum([phase.share for phase in phases]) / sum(phase.share for phase in phases) * settings.epochs
    spans, start = [], 0
    for number, (phase, end) in enumerate(zip(phases, ends.tolist(), strict=True)):
        stop = min(max(start + 1, round(end)), settings.epochs - (len(phases) - number - 1))
        own = {name: getattr(phase, name) for name in ("sampler", "loss", "learning_rate", "warmup_epochs")}
        said = {name: value for name, value in own.items() if value is not None}
        spans.append((start, stop, dataclasses.replace(settings, **said, epochs=stop - start, phases=()), phase))
        start = stop
    return spans


def check_recipe(settings: TrainingSettings, supernet: Supernet) -> None:
    """Check that a supernet can be trained in every phase, before hours are spent on the first.

    Args:
        settings: of the training.
        supernet: with whatever weights; it is not changed.

    Raises:
        NasError: names what does not fit: choices, a sampler, a teacher or a division.
    """
    for *_, span, phase in spans_of(settings):
        region = Region(supernet.space, phase.choices)
        span.sampler.init(region)
        span.loss.teacher(supernet)
        if isinstance(span.loss, Blockwise):
            span.loss.check(region)
        if phase.division is not None:
            phase.division.columns(supernet.space)


def learning_rate(settings: TrainingSettings, epoch: float, decay: float = 1.0) -> float:
    """Rate after a number of epochs, fractions included: linear warm-up, then down to 0 along the schedule.

    Args:
        settings: of the phase.
        epoch: since it began.
        decay: exponent of the share that the schedule leaves.
    """
    if epoch < settings.warmup_epochs:
        return settings.learning_rate * (epoch + 0.1) / (settings.warmup_epochs + 0.1)  # never 0
    done = min((epoch - settings.warmup_epochs) / max(settings.epochs - settings.warmup_epochs, 1e-9), 1.0)
    return settings.learning_rate * float(left_of_rate(settings.schedule, done, settings.power) ** decay)


def as_data(value: Any) -> Any:
    """Settings as plain data, of objects the class's name and its fields, so that equal settings are equal."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {one.name: as_data(getattr(value, one.name)) for one in dataclasses.fields(value)}
        return fields if isinstance(value, TrainingSettings | Phase) else {"kind": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(name): as_data(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_data(one) for one in value]
    return value


def decisive(identity: Mapping[str, Any]) -> Mapping[str, Any]:
    """Identity of a checkpoint without the settings of `WITHOUT_EFFECT`."""
    settings = {name: value for name, value in identity["settings"].items() if name not in WITHOUT_EFFECT}
    return {**identity, "settings": settings}


def of_today(identity: Mapping[str, Any]) -> Mapping[str, Any]:
    """Identity of a checkpoint in today's settings: what it lacks had its default, and a recipe was two numbers."""
    settings = dict(identity["settings"])
    if "random_networks" in settings:
        random, distils = settings.pop("random_networks"), settings.pop("distillation")
        recipe = TrainingSettings(sampler=Sandwich(random), loss=InPlaceDistillation() if distils else Labels())
        settings = {**as_data(recipe), **settings}
    if "rotate" in settings:
        moves = {name: settings.pop(name) for name in ("shift", "rotate", "scale")}
        settings["augment"] = as_data([Affine(**moves)] if any(moves.values()) else [])
    settings = {**as_data(TrainingSettings()), **settings}
    settings["phases"] = [{**as_data(Phase()), **phase} for phase in settings["phases"]]
    settings["augment"] = [
        {**as_data(Affine()), **one} if one["kind"] == Affine.__name__ else one for one in settings["augment"]
    ]
    return {**identity, "settings": settings}

"""The training of a supernet: one loop for every recipe, on a CPU or a GPU, in one process or several.

A recipe is data: phases, each with a sampler (which networks a step trains), a loss (what they learn from) and the
values that choices may take. Each step adds up the gradients of its networks, and one step of the optimiser takes them.

Every random draw comes from a generator made of (seed, epoch), and a checkpoint follows every epoch: a run that was
stopped and started again ends with the same weights, bit for bit on a CPU, as one that was not. The loop itself,
`nas.core.loop`, is that of every training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nas.core import loop, processes
from nas.core.history import Epoch
from nas.core.loop import Loop, Losses
from nas.data import Data, batches, resize, rows_of, to_device
from nas.supernet.augmentation import Changes, check_augment, drawn
from nas.supernet.augmentation.base import move, recolour
from nas.supernet.evaluation import SupernetAccuracy
from nas.supernet.losses import Independent, InsideLoss, Lesson, Teacher
from nas.supernet.region import Region
from nas.supernet.repeated import RepeatedNetworks
from nas.supernet.samplers import Paced
from nas.supernet.sorting import sort_channels
from nas.supernet.supernet import Supernet, check_task, input_resolution, parts_content, position_of
from nas.supernet.training_settings import Phase as Phase  # recipes in YAML files name it here
from nas.supernet.training_settings import TrainingSettings as TrainingSettings
from nas.supernet.training_settings import as_data, check_recipe, decisive, learning_rate, of_today, spans_of
from nas.tasks import Task
from nas.tasks.mixing import mixed_values
from search_spaces.architecture import Architecture, Value
from search_spaces.base.checked import check
from search_spaces.base.compiling import why_not_compiled
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.base.storage import write_json
from search_spaces.base.threads import torch_threads
from search_spaces.layers import Size
from search_spaces.space import SearchSpace
from search_spaces.torch_program import MOMENTUM

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
SUPERNET = "supernet.pt"
BEST = "best.pt"
HISTORY = "history.json"


@dataclass(frozen=True)
class Start:
    """Beginning of a training with other weights than fresh ones.

    Args:
        weights: of the supernet, by name.
        identity: differs for different weights and teachers.
        teacher: of all phases whose loss has none of its own.
    """

    weights: Mapping[str, Tensor]
    identity: str
    teacher: Teacher | None = None


@dataclass(frozen=True)
class Trained:
    """A trained supernet, in eval mode, and how it came about."""

    supernet: Supernet
    history: tuple[Epoch, ...]


def check_device(settings: TrainingSettings) -> None:
    """Refuse a device that cannot be trained on here, or not be compiled for.

    Raises:
        InvalidValueError: says why.
    """
    loop.check_device(settings.device, "training.device")
    if settings.compile and (reason := why_not_compiled(torch.device(settings.device).type)):
        raise InvalidValueError(f"`training.compile=true` {reason}. Or use `training.compile=false`.")


def train(
    space: SearchSpace,
    data: Data,
    settings: TrainingSettings,
    folder: Path,
    *,
    start: Start | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Train the supernet of a space, or go on where a stopped run of the same settings in the same folder ended.

    The supernet of a `OneNetwork` is that network.

    Under ``torchrun`` all processes call it with the same arguments; the first one writes.

    Args:
        space: what to train.
        data: what to train on; its test part is not touched.
        settings: how.
        folder: gets the checkpoint, ``supernet.pt`` (read it with `Supernet.load`) and ``history.json``.
        start: weights to begin with; None: fresh ones.
        on_epoch: called after every epoch, once its checkpoint is written.

    Raises:
        MismatchError: space and data do not fit, or the folder's checkpoint is of another space, data or settings.
        DamagedFileError: the checkpoint cannot be read.
        NasError: the loss is no longer finite; the last checkpoint is kept.
    """
    check_task(space, data)
    with torch_threads(settings.threads):
        run = _Run(space, data, settings, folder, start)
        with _scalars(settings, folder) as write:

            def tell(epoch: Epoch) -> None:
                write(epoch)
                if on_epoch is not None:
                    on_epoch(epoch)

            history = run.finish(tell)
    supernet = run.handed_on()
    if not processes.is_follower():
        supernet.save(folder / SUPERNET)
        write_json(folder / HISTORY, history)
    return Trained(supernet, tuple(history))


class _Run(Loop[Epoch]):
    """The state of one training: weights, their average, optimiser, the sampler's memory."""

    subject = "the supernet"

    def __init__(
        self, space: SearchSpace, data: Data, settings: TrainingSettings, folder: Path, start: Start | None = None
    ) -> None:
        super().__init__(
            space,
            "train",
            settings.epochs,
            folder / CHECKPOINT,
            device=settings.device,
            precision=settings.precision,
            checkpoint_every=settings.checkpoint_every,
            keep_checkpoints=settings.keep_checkpoints,
        )
        self.data, self.settings, self.folder, self.begun = data, settings, folder, start
        self.supernet = Supernet(space, seed=settings.seed)
        if start is not None:
            self.supernet.load_state_dict(start.weights)
        if settings.trained:
            self.supernet.train_only(settings.trained)
        self.supernet.to(self.device)
        self.supernet.synchronise(self.fabric.world_size > 1)
        self.networks = self._networks()
        self.average = None if settings.ema is None else _average(self.supernet, settings.ema)
        self.steps = max(1, len(data.train) // settings.batch_size)
        self.spans = spans_of(settings)
        check_recipe(settings, self.supernet)
        check_augment(settings.augment, data)
        self.black = data.black.to(self.device)
        self.std = torch.tensor(data.std, device=self.device).reshape(1, -1, 1, 1)
        self.best: float | None = None
        self._begin(0)

    # -- phases --------------------------------------------------------------------------------------------------------

    def _begin(self, phase: int, start: Mapping[str, Tensor] | None = None) -> None:
        """Begin a phase.

        Args:
            phase: its number.
            start: weights of the supernet when it began; None: it begins now.
        """
        self.phase = phase
        *_, self.span, own = self.spans[phase]
        self.region = Region(self.space, own.choices)
        self.state = self.span.sampler.init(self.region)
        sampler, loss = self.span.sampler, self.span.loss
        self.inside = loss if isinstance(loss, InsideLoss) else None
        self.paced = sampler if isinstance(sampler, Paced) else None
        groups = 1 if self.paced is None else self.paced.groups(self.region, self.state)
        made = [_optimiser(self.supernet, self.settings) for _ in range(groups)]
        self.optimisers = [cast(Any, self.fabric.setup_optimizers(one)) for one in made]
        teaching = self.supernet
        if start is not None:
            teaching = Supernet(self.space, parts=self.supernet.parts).to(self.device)
            teaching.load_state_dict(start)
        self.teacher: Teacher | None = loss.teacher(teaching)
        self._start = None
        if self.teacher is None:
            self.teacher = None if self.begun is None else self.begun.teacher
        elif not (isinstance(loss, Independent) and loss.independent):
            self._start = {name: value.detach().clone() for name, value in teaching.state_dict().items()}

    def _divide(self, number: int) -> None:
        """Divide the space as the next phase wants it, before an epoch."""
        division = self.spans[self.phase + 1][3].division
        if division is None:
            return
        rng = np.random.default_rng((self.settings.seed, number, 1))  # not those of the epoch
        self.supernet.train()
        with _unchanged(self.supernet):
            parts = division.divide(self.supernet, self.region, self._losses(rng), rng, self._mean)
        log.info("the space is divided into %s", " and ".join(str(part) for _, part in parts))
        self._take_parts(parts)

    def _take_parts(self, parts: Sequence[tuple[int, Mapping[str, Sequence[Value]]]]) -> None:
        """Give parts of the space weights of their own, of the average too."""
        self.supernet = self.supernet.divided(parts)
        if self.settings.trained:
            self.supernet.train_only(self.settings.trained)
        self.supernet.synchronise(self.fabric.world_size > 1)
        self.networks = self._networks()
        if self.average is not None:
            seen, decay = self.average.n_averaged, cast(float, self.settings.ema)
            self.average = _average(self.judged.divided(parts), decay)
            self.average.n_averaged.copy_(seen)

    def _networks(self) -> Callable[[Tensor, Architecture], Any]:
        """Function that runs the networks of a step, one after the other."""
        if not self.settings.compile:
            return self.supernet
        return RepeatedNetworks(self.supernet, graphs=self.fabric.world_size == 1)  # collectives stay out of graphs

    def _losses(self, rng: np.random.Generator) -> Iterator[Callable[[Architecture], Tensor]]:
        """Losses of networks on one batch after the other, without end."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        while True:
            for images, targets, changes, _ in self._batches(generator):
                part = self._parts_of(images, targets, changes)[0]
                outside = self._taught(part)
                yield functools.partial(self._loss_alone, part, outside)

    def _loss_alone(self, part: _Part, outside: Any, architecture: Architecture) -> Tensor:
        """Loss of a network that is alone in its step."""
        return self._loss(part, architecture, None, outside, self.supernet)[0]

    def handed_on(self) -> Supernet:
        """The trained supernet, on the CPU, in eval mode."""
        self.fabric.barrier()  # until the first process has written the best
        if self.settings.hand_on == "best" and (self.folder / BEST).exists():
            return Supernet.load(self.space, self.folder / BEST)
        return self.judged.cpu().eval()

    @property
    def judged(self) -> Supernet:
        """The supernet that is evaluated and handed on: the average, where there is one."""
        return next(iter(self._averages), self.supernet)

    @property
    def _averages(self) -> list[Supernet]:
        return [] if self.average is None else [cast(Supernet, self.average.module)]

    # -- one epoch -----------------------------------------------------------------------------------------------------

    def epoch(self, number: int) -> Epoch:
        if number == self.spans[self.phase][1]:
            if self.spans[self.phase + 1][3].sort:
                sort_channels(self.supernet, self.region, *self._averages)
            self._divide(number)
            self._begin(self.phase + 1)
        began, settings, first = time.perf_counter(), self.settings, self.spans[self.phase][0]
        rng = np.random.default_rng((settings.seed, number))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        self.supernet.train()
        losses = Losses(self.device)
        for step, (images, targets, changes, whole) in enumerate(self._batches(generator)):
            at = number - first + step / self.steps
            losses.add(self._step(images, targets, changes, whole, at, rng))
            if (step + 1) % self.looks_every == 0 or step + 1 == self.steps:
                self.check(losses)
        if not all(bool(parameter.isfinite().all()) for parameter in self.supernet.parameters()):
            raise self.diverged("weights")
        smallest = biggest = None
        every = settings.evaluate_every
        if every and ((number + 1) % every == 0 or number + 1 == settings.epochs):
            smallest, biggest = self._evaluate()
        return Epoch(
            epoch=number + 1,
            learning_rate=learning_rate(self.span, at),
            loss=losses.mean(),
            seconds=time.perf_counter() - began,
            smallest_accuracy=smallest,
            biggest_accuracy=biggest,
        )

    def _batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Any, Changes, int]]:
        """Shuffled inputs, their targets and their changes, in batches of equal size, give or take one, and that size;
        of each batch this process's share, with the inputs that it is mixed with."""
        settings, size = self.settings, self.data.resolution
        rank, world = self.fabric.global_rank, self.fabric.world_size
        order = torch.randperm(len(self.data.train), generator=generator).tensor_split(self.steps)
        changes = [drawn(settings.augment, len(whole), size, generator) for whole in order]
        rows = list(order)
        if world > 1:
            mine = [one.of(torch.arange(rank, len(whole), world)) for whole, one in zip(order, changes, strict=True)]
            rows = [whole[needed] for whole, (needed, _) in zip(order, mine, strict=True)]
            changes = [one for _, one in mine]
        loaded = batches(self.data.train, rows, workers=settings.workers)
        for whole, own, batch in zip(order, changes, loaded, strict=True):
            images, targets = to_device(batch, self.device)
            yield images, targets, own, len(whole)

    def _step(
        self, images: Tensor, targets: Any, changes: Changes, whole: int, at: float, rng: np.random.Generator
    ) -> Tensor:
        """The gradients of all networks of a step, then one step of the optimiser.

        Args:
            images: inputs of this process, at their native resolution.
            targets: of the data.
            changes: of the images, which nothing was made of yet.
            whole: number of inputs of all processes.
            at: epochs since the phase began, fractions included.
            rng: of the sampler.

        Returns:
            Losses of the networks over the whole batch, (networks,).
        """
        settings, sampler, fabric = self.settings, self.span.sampler, self.fabric
        parts = self._parts_of(images, targets, changes)
        drawn = sampler.draw(self.region, self.state, rng, functools.partial(self._probe, parts[0]))
        optimiser = self._optimiser_of(drawn, at)
        optimiser.zero_grad()
        losses = torch.zeros(len(drawn), device=self.device)
        for part in parts:
            share = part.count * fabric.world_size / whole  # of the mean over the whole batch
            outside, first = self._taught(part), None
            for number, architecture in enumerate(drawn):
                loss, outputs = self._loss(part, architecture, first, outside, self.networks)
                first = _detached(outputs) if first is None else first
                losses[number] += loss.detach() * share
                fabric.backward(loss if share == 1 else loss * share)
        self._share_gradients()
        if settings.clip_norm is not None:
            if settings.precision == "float16":
                cast(Any, fabric.strategy.precision).unscale_gradients(optimiser.optimizer)
            nn.utils.clip_grad_norm_(self.supernet.parameters(), settings.clip_norm)
        optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.supernet)
        losses = self._mean(losses)
        self.state = sampler.tell(self.region, self.state, drawn, losses.tolist() if sampler.learns else ())
        return losses

    def _taught(self, part: _Part) -> Any:
        """Outputs of the outside teacher, where there is one."""
        with self.fabric.autocast():
            return None if self.teacher is None else self.teacher(part.view)

    def _parts_of(self, images: Tensor, targets: Any, changes: Changes) -> list[_Part]:
        """A batch in the parts whose gradients are computed at once, changed with its targets."""
        images = recolour(images, changes.recolourings, self.black, self.std)
        return _parts(self.data.task, images, targets, changes, self.black, self.settings.accumulate)

    def _optimiser_of(self, drawn: Sequence[Architecture], at: float) -> Any:
        """The optimiser of a step of some networks, at its learning rate."""
        group, decay = 0, 1.0
        if self.paced is not None:
            group = self.paced.group(self.region, self.state, drawn)
            decay = self.paced.decay(self.region, self.state, drawn)
        optimiser, rate = self.optimisers[group], learning_rate(self.span, at, decay)
        for weights in optimiser.param_groups:
            weights["lr"] = rate
        return optimiser

    def _loss(
        self,
        part: _Part,
        architecture: Architecture,
        first: Any,
        outside: Any,
        networks: Callable[[Tensor, Architecture], Any],
    ) -> tuple[Tensor, Any]:
        """Loss of one network and its outputs."""
        images = part.view(input_resolution(self.space, architecture))
        with self.fabric.autocast():
            if self.inside is None:
                outputs = networks(images, architecture)
            else:
                outputs = self.inside.outputs(self.supernet, images, architecture, outside)
            lesson = Lesson(self.data.task, part.targets, self.settings.label_smoothing, first, outside)
            return self.span.loss(outputs, lesson), outputs

    @torch.no_grad()
    def _probe(self, part: _Part, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Losses (n,) of networks against the targets, by the statistics of the batch; nothing is changed."""
        task, found = self.data.task, []
        with _unchanged(self.supernet):
            for architecture in architectures:
                images = part.view(input_resolution(self.space, architecture))
                with self.fabric.autocast():
                    found.append(task.loss(self.supernet(images, architecture), part.targets))
        return self._mean(torch.stack(found)).double().cpu().numpy()

    # -- several processes ---------------------------------------------------------------------------------------------

    def _mean(self, values: Tensor) -> Tensor:
        """Mean over the processes."""
        return values if self.fabric.world_size == 1 else cast(Tensor, self.fabric.all_reduce(values))

    def _share_gradients(self) -> None:
        """Give every process the mean gradients, in one message. All drew the same networks, so the same weights have
        some."""
        if self.fabric.world_size == 1:
            return
        gradients = [p.grad for p in self.supernet.parameters() if p.grad is not None]
        flat = self._mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    # -- evaluation ----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _judge(self) -> SupernetAccuracy:
        """The judge of all evaluations, which keeps the images that it has brought to resolutions."""
        return SupernetAccuracy(self.space, self.judged, self.data, workers=self.settings.workers)

    def _evaluate(self) -> tuple[float, float]:
        """Validation score of the smallest and the biggest network; the best supernet so far is kept."""
        ends = dict.fromkeys([self.space.smallest, self.space.biggest])  # which may be one network
        self._judge.supernet = self.judged
        smallest, *_, biggest = self._judge.predict(np.stack([end.genes for end in ends])).tolist() * 2
        score = self.data.task.metric.cost((smallest + biggest) / 2)
        if self.settings.hand_on == "best" and (self.best is None or score < self.best):
            self.best = score
            if not processes.is_follower():
                self.judged.save(self.folder / BEST)
        return smallest, biggest

    # -- files ---------------------------------------------------------------------------------------------------------

    @property
    def _identity(self) -> dict[str, Any]:
        begun = {} if self.begun is None else {"start": self.begun.identity}
        return {"settings": as_data(self.settings), "data": self.data.fingerprint, **begun}

    def words(self, record: Epoch) -> Mapping[str, str]:
        return {"loss": f"{record.loss:.3f}"}

    def content(self) -> Mapping[str, Any]:
        return {
            "identity": self._identity,
            "supernet": self.supernet.state_dict(),
            **parts_content(self.supernet),
            "average": None if self.average is None else self.average.state_dict(),
            "optimiser": self.optimisers[0].state_dict(),
            "further_optimisers": [one.state_dict() for one in self.optimisers[1:]],
            "precision": self.fabric.strategy.precision.state_dict(),
            "phase": self.phase,
            "start": self._start,
            "sampler": {name: torch.from_numpy(np.array(value)) for name, value in self.state.items()},
            "best": self.best,
            "history": [dataclasses.asdict(epoch) for epoch in self.records],
        }

    def accepts(self, content: Mapping[str, Any]) -> bool:
        there, here = map(decisive, (of_today(content["identity"]), self._identity))
        if there != here:
            changed = [k for k, v in here["settings"].items() if there["settings"].get(k) != v]
            changed = changed or [k for k in ("data", "start") if there.get(k) != here.get(k)]
            raise MismatchError(
                f"{self.path} was trained with other settings ({', '.join(changed)}). "
                "Choose another folder with `out=<folder>`, or delete the file to train anew."
            )
        return True

    def load(self, content: Mapping[str, Any]) -> list[Epoch]:
        if "parts" in content:
            self._take_parts([(0, part) for part in content["parts"]])
        self.supernet.load_state_dict(content["supernet"])
        self._begin(content.get("phase", 0), content.get("start"))
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        states = [content["optimiser"], *content.get("further_optimisers", [])]
        for optimiser, state in zip(self.optimisers, states, strict=True):
            optimiser.load_state_dict(state)
        self.fabric.strategy.precision.load_state_dict(content.get("precision") or {})
        self.state = {**self.state, **{name: value.numpy() for name, value in content.get("sampler", {}).items()}}
        self.best = content.get("best")
        return cast(list[Epoch], check(content["history"], list[Epoch], "history", ""))


@dataclass(frozen=True)
class _Part:
    """Inputs whose gradients are computed at once, those that they are mixed with behind them, and their targets, which
    are moved and mixed already."""

    images: Tensor
    targets: Any
    changes: Changes
    black: Tensor
    _views: dict[Size, Tensor] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Inputs that networks are given."""
        return self.changes.count

    def view(self, resolution: Size) -> Tensor:
        """Inputs at a resolution, moved and mixed."""
        if resolution not in self._views:
            mixing = self.changes.mixing
            moved = move(resize(self.images, resolution), self.changes.movement, self.black, self.changes.outside)
            if mixing is not None:
                moved = mixed_values(moved[: self.count], moved[mixing.partner], mixing)
            if moved.is_cuda:  # the format of the weights; on a CPU the first convolution brings them there
                moved = moved.contiguous(memory_format=torch.channels_last)
            self._views[resolution] = moved
        return self._views[resolution]


def _parts(task: Task, images: Tensor, targets: Any, changes: Changes, black: Tensor, count: int) -> list[_Part]:
    """A batch cut into parts of equal size, give or take one.

    Args:
        task: of the targets.
        images: of the batch, recoloured already.
        targets: of the data.
        changes: of the images, on the CPU.
        black: normalised value of a raw 0.
        count: parts.
    """
    parts = []
    for rows in torch.arange(changes.count).tensor_split(min(count, changes.count)):
        own, own_targets, own_changes = images, targets, changes
        if count > 1:
            needed, own_changes = changes.of(rows)
            needed = needed.to(images.device, non_blocking=True)
            own, own_targets = images[needed], rows_of(targets, needed)
        own_changes = own_changes.to(images.device)
        if own_changes.movement is not None:
            own_targets = task.move(own_targets, own_changes.movement)
        if (mixing := own_changes.mixing) is not None:
            first = torch.arange(own_changes.count, device=images.device)
            own_targets = task.mix(rows_of(own_targets, first), rows_of(own_targets, mixing.partner), mixing)
        parts.append(_Part(own, own_targets, own_changes, black))
    return parts


def _detached(outputs: Any) -> Any:
    if isinstance(outputs, Mapping):
        return {name: value.detach() for name, value in outputs.items()}
    return outputs.detach()


@contextlib.contextmanager
def _unchanged(supernet: Supernet) -> Iterator[None]:
    """Networks that run inside leave the running statistics as they are."""
    supernet.follow_statistics(0.0)
    try:
        yield
    finally:
        supernet.follow_statistics(MOMENTUM)


@contextlib.contextmanager
def _scalars(settings: TrainingSettings, folder: Path) -> Iterator[Callable[[Epoch], None]]:
    """Function that writes an epoch for TensorBoard, where that is asked for."""
    if not settings.tensorboard or processes.is_follower():
        yield lambda epoch: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InvalidValueError(
            "`training.tensorboard=true` needs TensorBoard, which is not installed: `pip install tensorboard`."
        ) from error
    with SummaryWriter(str(folder / "tensorboard")) as writer:

        def write(epoch: Epoch) -> None:
            values = {"loss": epoch.loss, "learning_rate": epoch.learning_rate, "seconds": epoch.seconds}
            scores = {"smallest": epoch.smallest_accuracy, "biggest": epoch.biggest_accuracy}
            for name, value in {**values, **scores}.items():
                if value is not None:
                    writer.add_scalar(name, value, epoch.epoch)
            writer.flush()

        yield write


def _average(supernet: Supernet, decay: float) -> AveragedModel:
    """Exponential moving average of weights; BatchNorm statistics are averaged too."""
    rule = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(supernet, multi_avg_fn=rule, use_buffers=True)


def _optimiser(supernet: Supernet, settings: TrainingSettings) -> torch.optim.Optimizer:
    # Kernel transforms rest at the identity, not at 0, and BatchNorm and biases have nothing to gain from decay.
    groups: dict[float, list[nn.Parameter]] = {settings.weight_decay: [], 0.0: []}
    for name, weights in supernet.named_parameters():
        if not weights.requires_grad:
            continue
        decay = 0.0 if weights.ndim <= 1 or ".transforms." in name else _decay(settings, position_of(name))
        groups.setdefault(decay, []).append(weights)
    parts = [{"params": weights, "weight_decay": decay} for decay, weights in groups.items() if weights]
    # One launch for all weights of a GPU; a fused step would undo the scale of float16 after the norm was taken.
    fused = True if settings.device.startswith("cuda") and settings.precision != "float16" else None
    if settings.optimiser == "sgd":
        return torch.optim.SGD(parts, settings.learning_rate, momentum=0.9, nesterov=True, fused=fused)
    return torch.optim.AdamW(parts, settings.learning_rate, fused=fused)


def _decay(settings: TrainingSettings, position: str) -> float:
    """Weight decay of a position: the last pattern that fits its name wins."""
    fits = [decay for pattern, decay in settings.decays.items() if fnmatch.fnmatchcase(position, pattern)]
    return fits[-1] if fits else settings.weight_decay

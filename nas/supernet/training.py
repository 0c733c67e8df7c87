"""Training a supernet with the sandwich rule and in-place distillation.

Yu and Huang, "Universally Slimmable Networks", ICCV 2019, arXiv:1903.05134; Yu et al., "BigNAS: Scaling Up Neural
Architecture Search with Big Single-Stage Models", ECCV 2020, arXiv:2003.11142. Each step trains the biggest network on
the labels, and the smallest and a few random ones on what the biggest says; one optimiser step takes all gradients.

Every random draw comes from a generator made of (seed, epoch), and a checkpoint follows every epoch: a run that was
stopped and started again ends with the same weights, bit for bit, as one that was not.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.core.history import Epoch
from nas.core.progress import progress
from nas.data import ImageData, resize
from nas.supernet.evaluation import SupernetAccuracy
from nas.supernet.supernet import Supernet, check_task, input_resolution, read_checkpoint, write_checkpoint
from search_spaces.architecture import Architecture
from search_spaces.base.checked import check
from search_spaces.base.errors import DamagedFileError, InvalidValueError, MismatchError, NasError
from search_spaces.base.storage import write_json
from search_spaces.base.threads import torch_threads
from search_spaces.layers import Size
from search_spaces.space import SearchSpace

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
SUPERNET = "supernet.pt"
HISTORY = "history.json"

_DIVERGED = (
    "The {what} became infinite or NaN in epoch {epoch}. The last checkpoint is kept. "
    "Lower `training.learning_rate` and train in another folder with `out=<folder>`."
)


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a supernet's training.

    Args:
        epochs: passes over the training images.
        batch_size: images per step, or a few more so that all steps have as many; the networks of a step see the same.
        optimiser: ``adamw``, or ``sgd`` with Nesterov momentum 0.9.
        learning_rate: its peak; a linear warm-up leads up to it and a cosine down to 0.
        warmup_epochs: length of the warm-up.
        weight_decay: of convolution and linear weights alone.
        label_smoothing: of the labels that the biggest network learns from, in [0, 1).
        random_networks: random networks per step, beside the biggest and the smallest.
        distillation: whether the others learn from the biggest network's output rather than from the labels.
        clip_norm: gradients are scaled down to this norm; null: they are not.
        shift: largest random shift, as a fraction of the image.
        rotate: largest random rotation, in degrees.
        scale: largest random change of size, as a fraction.
        seed: of the weights and of every draw.
        evaluate_every: epochs between evaluations of the smallest and the biggest network; 0: none.
        checkpoint_every: epochs between checkpoints, which is what a stopped run can lose.
        device: where to train, ``cpu`` or ``cuda``.
        threads: of the CPU, also where the supernet is evaluated later; null: as many as torch takes. Tiny networks
            lose more to handing work over than a second thread gains, and only a fixed number gives the same weights,
            bit for bit, on any number of cores.
    """

    epochs: int = 30
    batch_size: int = 64
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 3e-3
    warmup_epochs: float = 1.0
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    random_networks: int = 2
    distillation: bool = True
    clip_norm: float | None = 1.0
    shift: float = 0.1
    rotate: float = 10.0
    scale: float = 0.1
    seed: int = 0
    evaluate_every: int = 5
    checkpoint_every: int = 1
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        at_least = {"epochs": 1, "batch_size": 2, "random_networks": 0, "seed": 0}
        at_least |= {"evaluate_every": 0, "checkpoint_every": 1}
        at_least |= {"warmup_epochs": 0, "weight_decay": 0, "shift": 0, "rotate": 0}
        for name, low in at_least.items():
            if not getattr(self, name) >= low:
                raise InvalidValueError(f"`{name}` must be at least {low}, but got {getattr(self, name)}.")
        if self.threads is not None and self.threads < 1:
            raise InvalidValueError(f"`threads` must be at least 1, but got {self.threads}.")
        for name in ("learning_rate", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InvalidValueError(f"`{name}` must be a positive number, but got {value}.")
        for name in ("label_smoothing", "scale"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidValueError(f"`{name}` must be in [0, 1), but got {getattr(self, name)}.")
        if self.optimiser not in ("adamw", "sgd"):
            raise InvalidValueError(f"`optimiser` must be 'adamw' or 'sgd', but got {self.optimiser!r}.")


@dataclass(frozen=True)
class Trained:
    """A trained supernet, in eval mode, and how it came about."""

    supernet: Supernet
    history: tuple[Epoch, ...]


def check_device(settings: TrainingSettings) -> None:
    """Refuse a device that cannot be trained on here.

    Raises:
        InvalidValueError: says why.
    """
    try:
        torch.empty(0, device=settings.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidValueError(
            f"`training.device={settings.device}` cannot be used here: {reason} Use `training.device=cpu`."
        ) from error


def train(
    space: SearchSpace,
    data: ImageData,
    settings: TrainingSettings,
    folder: Path,
    *,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Train the supernet of a space, or go on where a stopped run of the same settings in the same folder ended.

    Args:
        space: what to train.
        data: what to train on; its test part is not touched.
        settings: how.
        folder: gets the checkpoint, ``supernet.pt`` (read it with `Supernet.load`) and ``history.json``.
        on_epoch: called after every epoch, once its checkpoint is written.

    Raises:
        MismatchError: space and data do not fit, or the folder's checkpoint is of another space, data or settings.
        DamagedFileError: the checkpoint cannot be read.
        NasError: the loss is no longer finite; the last checkpoint is kept.
    """
    check_task(space, data)
    with torch_threads(settings.threads):
        run = _Run(space, data, settings)
        history = _finish(run, folder, on_epoch)
    supernet = run.supernet.cpu().eval()
    supernet.save(folder / SUPERNET)
    write_json(folder / HISTORY, history)
    return Trained(supernet, tuple(history))


def _finish(run: _Run, folder: Path, on_epoch: Callable[[Epoch], None] | None) -> list[Epoch]:
    """Train the epochs that the folder's checkpoint lacks."""
    settings = run.settings
    history: list[Epoch] = []
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists():
        history = run.restore(checkpoint)
        log.info("going on after epoch %d of %d from %s", len(history), settings.epochs, checkpoint)
    with progress("train", settings.epochs, "epoch", done=len(history)) as shown:
        for number in range(len(history), settings.epochs):
            epoch = run.epoch(number)
            history.append(epoch)
            last = number + 1 == settings.epochs
            if last or (number + 1) % settings.checkpoint_every == 0:
                run.save(checkpoint, history)
            shown.set_postfix(loss=f"{epoch.loss:.3f}")
            shown.update()
            if on_epoch is not None:
                on_epoch(epoch)
    return history


class _Run:
    """The state of one training run: weights and optimiser."""

    def __init__(self, space: SearchSpace, data: ImageData, settings: TrainingSettings) -> None:
        self.space, self.data, self.settings = space, data, settings
        self.supernet = Supernet(space, seed=settings.seed).to(settings.device)
        self.optimiser = _optimiser(self.supernet, settings)
        self.steps = max(1, len(data.train) // settings.batch_size)

    # -- one epoch -----------------------------------------------------------------------------------------------------

    def epoch(self, number: int) -> Epoch:
        """Train one epoch; its draws depend on the seed and its number alone."""
        start, settings = time.perf_counter(), self.settings
        rng = np.random.default_rng((settings.seed, number))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        self.supernet.train()
        total = 0.0
        for step, (images, labels, movement) in enumerate(self._batches(generator)):
            rate = learning_rate(settings, number + step / self.steps)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            drawn = self.space.sample(settings.random_networks, rng)
            others = [self.space.smallest, *(Architecture(self.space, row) for row in drawn)]
            loss = self._step(images, labels, movement, others)
            if not math.isfinite(loss):
                raise NasError(_DIVERGED.format(what="loss", epoch=number + 1))
            total += loss
        if not all(bool(parameter.isfinite().all()) for parameter in self.supernet.parameters()):
            raise NasError(_DIVERGED.format(what="weights", epoch=number + 1))
        smallest = biggest = None
        every = settings.evaluate_every
        if every and ((number + 1) % every == 0 or number + 1 == settings.epochs):
            smallest, biggest = self._evaluate()
        return Epoch(
            epoch=number + 1,
            learning_rate=rate,
            loss=total / self.steps,
            seconds=time.perf_counter() - start,
            smallest_accuracy=smallest,
            biggest_accuracy=biggest,
        )

    def _batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Shuffled images, labels and movements, in batches of equal size, give or take one image."""
        device, train_part = self.settings.device, self.data.train
        for indices in torch.randperm(len(train_part), generator=generator).tensor_split(self.steps):
            movement = _movements(self.settings, len(indices), self.data.resolution, generator)
            images, labels = train_part.images[indices], train_part.labels[indices]
            yield images.to(device), labels.to(device), None if movement is None else movement.to(device)

    def _step(self, images: Tensor, labels: Tensor, movement: Tensor | None, others: list[Architecture]) -> float:
        """The sandwich rule: the gradients of all networks, then one optimiser step. Gives the biggest one's loss."""
        settings, black = self.settings, self.data.black.to(images.device)

        @functools.cache
        def view(resolution: Size) -> Tensor:
            return _move(resize(images, resolution), movement, black)

        self.optimiser.zero_grad()
        biggest = self.space.biggest
        logits = self.supernet(view(input_resolution(self.space, biggest)), biggest)  # (B, classes)
        loss = functional.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        losses = [loss.detach()]
        target = logits.detach().softmax(1) if settings.distillation else labels
        smoothing = 0.0 if settings.distillation else settings.label_smoothing
        for architecture in others:
            logits = self.supernet(view(input_resolution(self.space, architecture)), architecture)
            loss = functional.cross_entropy(logits, target, label_smoothing=smoothing)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        if settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.supernet.parameters(), settings.clip_norm)
        self.optimiser.step()
        values = torch.stack(losses)
        return float(values[0]) if bool(values.isfinite().all()) else math.nan

    def _evaluate(self) -> tuple[float, float]:
        """Validation accuracy of the smallest and the biggest network."""
        ends = np.stack([self.space.smallest.genes, self.space.biggest.genes])
        smallest, biggest = SupernetAccuracy(self.space, self.supernet, self.data).predict(ends).tolist()
        return smallest, biggest

    # -- files ---------------------------------------------------------------------------------------------------------

    @property
    def _identity(self) -> dict[str, Any]:
        return {"settings": dataclasses.asdict(self.settings), "data": self.data.fingerprint}

    def save(self, path: Path, history: list[Epoch]) -> None:
        """Write all that `restore` needs, atomically."""
        content = {
            "identity": self._identity,
            "supernet": self.supernet.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": [dataclasses.asdict(epoch) for epoch in history],
        }
        write_checkpoint(path, self.space, content)

    def restore(self, path: Path) -> list[Epoch]:
        """Take the state of a checkpoint and give its history."""
        content = read_checkpoint(path, self.space)
        try:
            there, here = content["identity"], self._identity
            if there != here:
                changed = [k for k, v in here["settings"].items() if there["settings"].get(k) != v] or ["data"]
                raise MismatchError(
                    f"{path} was trained with other settings ({', '.join(changed)}). "
                    "Choose another folder with `out=<folder>`, or delete the file to train anew."
                )
            self.supernet.load_state_dict(content["supernet"])
            self.optimiser.load_state_dict(content["optimiser"])
            return cast(list[Epoch], check(content["history"], list[Epoch], "history", ""))
        except MismatchError:
            raise
        except Exception as error:  # torch, and what stands in place of its mappings, each raise their own kinds
            raise DamagedFileError(f"{path} is damaged ({str(error)[:200]}). Delete it to train anew.") from error


def learning_rate(settings: TrainingSettings, epoch: float) -> float:
    """Rate after a number of epochs, fractions included: linear warm-up, then a cosine down to 0."""
    if epoch < settings.warmup_epochs:
        return settings.learning_rate * (epoch + 0.1) / (settings.warmup_epochs + 0.1)  # never 0
    progress = (epoch - settings.warmup_epochs) / max(settings.epochs - settings.warmup_epochs, 1e-9)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def _optimiser(supernet: Supernet, settings: TrainingSettings) -> torch.optim.Optimizer:
    # Kernel transforms rest at the identity, not at 0, and BatchNorm and biases have nothing to gain from decay.
    decayed = [p for name, p in supernet.named_parameters() if p.ndim > 1 and ".transforms." not in name]
    others = [p for name, p in supernet.named_parameters() if p.ndim <= 1 or ".transforms." in name]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, settings.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, settings.learning_rate)


def _movements(settings: TrainingSettings, count: int, size: Size, generator: torch.Generator) -> Tensor | None:
    """Random affine maps from output to input coordinates, shape (count, 2, 3); None: nothing moves.

    Coordinates span -1 to 1 whatever ``size`` is, that of the images, so a turn has to know how wide they are.
    """
    if not (settings.shift or settings.rotate or settings.scale):
        return None
    angle, zoom, right, down = (2 * torch.rand(4, count, generator=generator) - 1).unbind()
    angle, zoom = angle * math.radians(settings.rotate), 1 + zoom * settings.scale
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    shift = 2 * settings.shift  # the image spans -1 to 1
    tall = 1.0 if isinstance(size, int) else size[0] / size[1]
    rows = [torch.stack([cos, -tall * sin, right * shift], 1), torch.stack([sin / tall, cos, down * shift], 1)]
    return torch.stack(rows, 1)


def _move(images: Tensor, movement: Tensor | None, black: Tensor) -> Tensor:
    """Apply affine maps (B, 2, 3) to images (B, C, H, W); what comes in from outside is black."""
    if movement is None:
        return images
    grid = functional.affine_grid(movement, list(images.shape), align_corners=False)  # (B, H, W, 2)
    moved: Tensor = functional.grid_sample(images - black, grid, align_corners=False) + black
    return moved

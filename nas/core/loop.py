"""The loop that every training by epochs shares, on a CPU or a GPU.

It shows progress, writes a checkpoint after an epoch, goes on where a stopped training ended, and ends where numbers
are no longer finite. Lightning Fabric places tensors, computes in mixed precision and connects processes; the loop
stays ours, as a step may run several networks of one supernet, which the data-parallel wrappers of torch do not expect.
Fabric brings no trainer, no callbacks and four small packages; Accelerate would bring clients of Hugging Face's hub.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from nas.core import processes
from nas.core.progress import progress
from search_spaces.base.errors import DamagedFileError, InvalidValueError, MismatchError, NasError
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric
    from torch import Tensor

log = logging.getLogger(__name__)

Record = TypeVar("Record")
"""Type of the record of an epoch."""

SYNCHRONISED_EVERY = 50
"""Steps on a GPU after which the host looks whether losses are still finite; on a CPU it looks at each."""

PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}
"""Names of Fabric's precisions by ours."""


class Loop(ABC, Generic[Record]):
    """A training by epochs.

    Args:
        space: whose weights are trained; its checkpoint is of no other one.
        title: what is done, for the progress.
        epochs: how many there are.
        path: of the checkpoint; None: there is none, and a stopped training begins anew.
        device: where to train, ``cpu`` or ``cuda``.
        precision: of the computation, one of `PRECISIONS`.
        checkpoint_every: epochs between checkpoints.
        keep_checkpoints: how many of the last ones stay.

    ``records``: those of the epochs so far. ``saved``: how many epochs the checkpoint has.
    """

    subject = "training"
    """Name of the training in messages."""

    remedy = "Lower `training.learning_rate` and train in another folder with `out=<folder>`."
    """Advice where it diverges."""

    anew = "train"
    """Verb for doing it once more."""

    def __init__(
        self,
        space: SearchSpace,
        title: str,
        epochs: int,
        path: Path | None,
        *,
        device: str = "cpu",
        precision: str = "float32",
        checkpoint_every: int = 1,
        keep_checkpoints: int = 1,
    ) -> None:
        self.space, self.title, self.epochs, self.path = space, title, epochs, path
        self.checkpoint_every, self.keep_checkpoints = checkpoint_every, keep_checkpoints
        self.fabric = connected(device, precision)
        self.device = self.fabric.device
        self.records: list[Record] = []
        self.saved = 0

    # -- what a training is --------------------------------------------------------------------------------------------

    @abstractmethod
    def epoch(self, number: int) -> Record:
        """Train one epoch, counted from 0; its draws depend on the seed and its number alone."""

    @abstractmethod
    def words(self, record: Record) -> Mapping[str, str]:
        """Values that the progress shows of an epoch."""

    @abstractmethod
    def content(self) -> Mapping[str, Any]:
        """All that a checkpoint holds: tensors and plain data."""

    @abstractmethod
    def accepts(self, content: Mapping[str, Any]) -> bool:
        """True if a checkpoint is gone on with; otherwise the training begins anew.

        Raises:
            MismatchError: it is of another training, which must not be overwritten.
        """

    @abstractmethod
    def load(self, content: Mapping[str, Any]) -> list[Record]:
        """Take the state of a checkpoint; gives the records of its epochs."""

    # -- the loop ------------------------------------------------------------------------------------------------------

    def finish(self, on_epoch: Callable[[Record], None] | None = None) -> list[Record]:
        """Train the epochs that the checkpoint lacks.

        Args:
            on_epoch: called after every epoch, once its checkpoint is written.

        Returns:
            Records of all epochs.

        Raises:
            NasError: a number is no longer finite; the last checkpoint is kept.
        """
        self.resume()
        with progress(self.title, self.epochs, "epoch", done=len(self.records)) as shown:
            for number in range(len(self.records), self.epochs):
                record = self.epoch(number)
                self.records.append(record)
                if number + 1 == self.epochs or (number + 1) % self.checkpoint_every == 0:
                    self.save()
                shown.set_postfix(**self.words(record))
                shown.update()
                if on_epoch is not None:
                    on_epoch(record)
        return self.records

    @property
    def looks_every(self) -> int:
        """Steps after which the host looks at what was computed."""
        return 1 if self.device.type == "cpu" else SYNCHRONISED_EVERY

    def check(self, losses: Losses) -> None:
        """Refuse to go on after a loss that is not finite.

        Raises:
            NasError: names the first such step.
        """
        if (step := losses.wrong) is not None:
            raise self.diverged("loss", f", step {step}")

    def diverged(self, what: str, where: str = "") -> NasError:
        """Error for numbers that are no longer finite."""
        kept = f" The state after epoch {self.saved} is kept in {self.path}." if self.saved else ""
        return NasError(
            f"The {what} of {self.subject} became infinite or NaN in epoch {len(self.records) + 1}{where}.{kept} "
            f"{self.remedy}"
        )

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write all that `load` needs, atomically, and keep as many of the checkpoints before as are asked for; other
        processes of the training write nothing."""
        from nas.core.checkpoint import write_checkpoint

        if self.path is None or processes.is_follower():
            return
        content, path = self.content(), self.path
        write_checkpoint(path, self.space, content)
        self.saved = len(self.records)
        if self.keep_checkpoints > 1:
            write_checkpoint(path.with_stem(f"{path.stem}_{self.saved:04d}"), self.space, content)
            for old in sorted(path.parent.glob(f"{path.stem}_[0-9]*{path.suffix}"))[: -self.keep_checkpoints]:
                old.unlink()

    def resume(self) -> None:
        """Take the state of the checkpoint, where there is one.

        Raises:
            MismatchError: it is of another space or training.
            DamagedFileError: it cannot be read.
        """
        from nas.core.checkpoint import read_checkpoint

        if self.path is None or not self.path.exists():
            return
        content = read_checkpoint(self.path, self.space)
        try:
            if not self.accepts(content):
                return
            self.records = self.load(content)
        except MismatchError:
            raise
        except Exception as error:  # torch, and what stands in place of its mappings, each raise their own kinds
            raise DamagedFileError(
                f"{self.path} is damaged ({str(error)[:200]}). Delete it to {self.anew} anew."
            ) from error
        self.saved = len(self.records)
        log.info("%s: going on after epoch %d of %d from %s", self.title, self.saved, self.epochs, self.path)


class Losses:
    """Losses of the steps of an epoch, summed where they are computed, so that no step waits for the host."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._total = torch.zeros((), dtype=torch.float64, device=device)
        self._wrong = torch.full((), -1, device=device)
        self._steps = 0

    def add(self, losses: Tensor) -> None:
        """Take the losses (networks,) of a step, of which the first one counts, or its only one, a scalar."""
        import torch

        losses = losses.reshape(-1)
        self._total += losses[0].double()
        self._steps += 1
        bad = ~losses.isfinite().all() & (self._wrong < 0)
        self._wrong = torch.where(bad, self._steps, self._wrong)

    @property
    def wrong(self) -> int | None:
        """Number of the first step with a loss that is not finite; waits for what is computed."""
        step = int(self._wrong)
        return step if step >= 0 else None

    def mean(self) -> float:
        """Mean loss of the steps."""
        return float(self._total) / self._steps


def check_device(device: str, setting: str) -> None:
    """Refuse a device that cannot be trained on here.

    Args:
        device: ``cpu`` or ``cuda``.
        setting: that names it, for the message.

    Raises:
        InvalidValueError: says why.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].removesuffix(".")
        raise InvalidValueError(f"`{setting}={device}` cannot be used here: {reason}. Use `{setting}=cpu`.") from error


def connected(device: str, precision: str) -> Fabric:
    """The device, the precision and, under ``torchrun``, the other processes of a training."""
    from lightning_fabric import Fabric

    kind, _, number = device.partition(":")
    where: dict[str, Any] = {"devices": [int(number)] if number else 1}
    if processes.several():
        local = int(os.environ.get("LOCAL_WORLD_SIZE", processes.count()))
        where = {"devices": local, "num_nodes": processes.count() // local, "strategy": "ddp"}
    fabric = Fabric(accelerator=kind, precision=cast(Any, PRECISIONS[precision]), **where)
    fabric.launch()
    return fabric

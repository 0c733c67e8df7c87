"""Batches of samples, loaded here or in worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from nas.data.base import Batch, Samples
from search_spaces.base.errors import NasError


class _Taken:
    """Dataset of torch whose items are whole batches."""

    def __init__(self, samples: Samples, rows: Sequence[Tensor]) -> None:
        self.samples, self.rows = samples, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Batch | NasError:
        try:
            return self.samples.take(self.rows[number])
        except NasError as error:  # handed over as it is; torch would add the worker's traceback to its message
            return error


def batches(samples: Samples, rows: Sequence[Tensor], *, workers: int = 0) -> Iterator[Batch]:
    """Batches of samples, in order.

    Args:
        samples: to take from.
        rows: numbers of the samples of each batch, (B,) each.
        workers: processes that load ahead; 0: this one loads, as it always does where samples are in memory.

    Raises:
        NasError: a sample cannot be loaded, or a worker was killed.
    """
    if not workers or samples.in_memory or len(rows) < 2:
        yield from (samples.take(one) for one in rows)
        return
    count = min(workers, len(rows))
    loader: DataLoader[Batch] = DataLoader(
        _Taken(samples, rows),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=count,
        prefetch_factor=2,
        generator=torch.Generator(),  # which the workers' seeds are drawn from, in place of torch's global one
    )
    loaded = iter(loader)
    while True:
        try:
            batch = next(loaded, None)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker (pid"):  # else raised in a worker, by a user's code
                raise
            raise NasError(
                f"A process that loads data was killed ({str(error).splitlines()[0]}). If memory ran out, lower "
                f"`training.workers={workers}` or `training.batch_size`."
            ) from error
        if batch is None:
            return
        if isinstance(batch, NasError):
            raise batch
        yield batch


def in_order(count: int, size: int) -> list[Tensor]:
    """Rows 0 to count - 1 in batches of at most ``size``."""
    return list(torch.split(torch.arange(count), size))


def to_device(targets: Any, device: torch.device | str) -> Any:
    """Targets, tensors in whatever tuples, lists and mappings, on a device."""
    if isinstance(targets, Tensor):
        return targets.to(device, non_blocking=True)
    if isinstance(targets, Mapping):
        return {name: to_device(value, device) for name, value in targets.items()}
    if isinstance(targets, list | tuple):
        return type(targets)(to_device(value, device) for value in targets)
    return targets


def rows_of(targets: Any, rows: Tensor) -> Any:
    """Some rows of the targets of a batch, tensors or lists in whatever tuples and mappings."""
    if isinstance(targets, Tensor):
        return targets[rows]
    if isinstance(targets, Mapping):
        return {name: rows_of(value, rows) for name, value in targets.items()}
    if isinstance(targets, tuple):
        return tuple(rows_of(value, rows) for value in targets)
    return [targets[row] for row in rows.tolist()]

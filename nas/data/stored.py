"""Data that stays where it is stored: an input is decoded when it is asked for, here or in a worker process.

All inputs are looked at once before anything is trained: that gives their digests, their shape, and mean and standard
deviation of the training part, and names those that are damaged. A manifest keeps this, so that the next start with
equal content decodes nothing; files whose size and times are as they were are not even read.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.core import processes
from nas.core.progress import progress
from nas.data.base import PARTS, Batch, Data, Digest, Preparation
from nas.data.images import ROUNDING, constant_notes
from nas.data.manifest import Manifest, Stamp, Survey
from nas.tasks import Task
from search_spaces.base.errors import InvalidValueError, MismatchError, NasError
from search_spaces.base.storage import fingerprint
from search_spaces.program import Shape

T = TypeVar("T")

CHUNK = 64
"""Inputs that a thread looks at before it takes others; fixed, so that sums are taken in one order."""
NAMED = 3
"""Damaged inputs that a message names."""
LARGEST_KEPT = 8 * 1024**3
"""Bytes of decoded inputs that may be kept in memory."""


class Source(Protocol):
    """Stored inputs by number. Worker processes get copies of it."""

    @property
    def kind(self) -> str:
        """Word for one input, such as ``image``."""

    @property
    def place(self) -> str:
        """Words that differ for sources in different places."""

    @property
    def scale(self) -> float:
        """Number that raw inputs are divided by, such as 255 for bytes."""

    @property
    def parallel(self) -> bool:
        """True if several threads may ask at once."""

    @property
    def preparation(self) -> Preparation | None:
        """Steps that make raw inputs of what is stored; None: it is stored as it is."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """Name of an input as the user knows it, such as its file's."""

    def stamp(self, number: int) -> Stamp | None:
        """Numbers that are others where the content may be another; None: only the content tells."""

    def content(self, number: int) -> bytes:
        """An input as it is stored.

        Raises:
            NasError: it cannot be read.
        """

    def decode(self, content: bytes) -> NDArray[Any]:
        """Raw input, shape (C, H, W), bytes or float32.

        Raises:
            InvalidValueError: it is damaged; says why, not which it is.
        """


@dataclass(frozen=True, eq=False)
class Stored:
    """Some inputs of a source with their labels, or other targets: a part that is decoded as it is used.

    Args:
        source: of the inputs.
        rows: their numbers in it, (N,).
        labels: int64, (N,); or targets (N, ...) in the form of the task.
        digests: SHA-256 of each input as it is stored, bytes, (N, 32).
        survey: of the source.
        kept: raw inputs (N, C, H, W); None: they are not in memory.
    """

    source: Source
    rows: NDArray[np.intp]
    labels: Tensor
    digests: NDArray[np.uint8]
    survey: Survey
    kept: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def in_memory(self) -> bool:
        return self.kept is not None

    @property
    def shape(self) -> Shape:
        return self.survey.shape

    def take(self, rows: Tensor) -> Batch:
        if self.kept is not None:
            raw = self.kept[rows]
        else:
            raw = torch.from_numpy(np.stack([self.raw(row) for row in rows.tolist()]))  # (B, C, H, W)
        mean, std = (torch.tensor(one).reshape(-1, 1, 1) for one in (self.survey.mean, self.survey.std))
        return raw.float().div_(self.source.scale).sub_(mean).div_(std), self.labels[rows]

    def raw(self, row: int) -> NDArray[Any]:
        """One input, decoded, (C, H, W).

        Raises:
            MismatchError: it is no longer what it was when all were looked at.
        """
        number = int(self.rows[row])
        content = self.source.content(number)
        if hashlib.sha256(content).digest() != self.digests[row].tobytes():
            raise MismatchError(
                f"{self.source.name(number)} has changed since this command began. Start it again: what depends on "
                "the data is then made anew."
            )
        return self.source.decode(content)

    def update(self, digest: Digest) -> None:
        how = self.source.preparation
        digest.update(fingerprint(None if how is None else how.to_json()).encode())
        digest.update(np.ascontiguousarray(self.digests).data)
        digest.update(np.ascontiguousarray(self.labels.numpy()).data)


def stored_data(
    name: str,
    source: Source,
    labels: NDArray[Any],
    parts: Sequence[NDArray[np.intp]],
    task: Task,
    *,
    cache: str | None,
    keep: bool,
    notes: Sequence[str] = (),
) -> Data:
    """Data whose inputs are decoded as they are used.

    Args:
        name: of the data.
        source: of the inputs.
        labels: of all inputs, (N,), or other targets in the form of the task, (N, ...).
        parts: numbers of train, validation and test.
        task: of the data.
        cache: folder of the manifest; None: there is none.
        keep: whether decoded inputs are kept in memory.
        notes: on what is unusual.

    Raises:
        InvalidValueError: inputs are damaged or of several sizes.
        StorageError: one cannot be read, or the manifest cannot be written.
    """
    how = source.preparation
    kind = [type(source).__name__, source.place, None if how is None else how.to_json()]
    manifest = Manifest(None if cache is None else Path(cache) / f"{fingerprint(kind)}.npz")
    digests, survey = _surveyed(name, source, parts[0], manifest)
    constant = [channel for channel, std in enumerate(survey.std) if std == 0]
    survey = Survey(survey.shape, survey.mean, tuple(std or 1.0 for std in survey.std))  # a constant channel stays 0
    all_parts = [
        Stored(source, rows, torch.from_numpy(labels[rows]), digests[rows], survey, _kept(source, rows, survey, keep))
        for rows in parts
    ]
    train, validation, test = all_parts
    return Data(
        name=name,
        train=train,
        validation=validation,
        test=test,
        task=task,
        mean=survey.mean,
        std=survey.std,
        scale=source.scale,
        kind=source.kind,
        preparation=how,
        notes=(*notes, *constant_notes(name, constant)),
    )


def _surveyed(
    name: str, source: Source, train: NDArray[np.intp], manifest: Manifest
) -> tuple[NDArray[np.uint8], Survey]:
    """Digests (N, 32) of all inputs, and their survey, from the manifest as far as it knows them."""
    numbers = np.arange(len(source))
    stamps = [source.stamp(number) for number in numbers.tolist()]
    known = [manifest.digest(source.name(number), stamps[number]) or b"" for number in numbers.tolist()]
    looked, survey = False, None
    if manifest.surveys:
        unknown = [number for number in numbers.tolist() if not known[number]]
        for number, digest in zip(unknown, _each(source, np.array(unknown, int), _digest, name), strict=True):
            known[number] = digest
        survey = manifest.surveys.get(_key(source, known, train))
        looked = not unknown
    if survey is None:
        training = np.zeros(len(source), bool)
        training[train] = True
        seen = _each(source, numbers, lambda source, number: _look(source, number, bool(training[number])), name)
        known, survey = _summed(name, source, seen)
        manifest.surveys[_key(source, known, train)] = survey
        looked = False
    if not looked and not processes.is_follower():
        names = map(source.name, numbers.tolist())
        manifest.save(zip(names, stamps, known, strict=True))
    return np.frombuffer(b"".join(known), np.uint8).reshape(len(source), -1), survey


def _key(source: Source, digests: Sequence[bytes], train: NDArray[np.intp]) -> str:
    """Name of a survey: equal for equal content, preparation and training part."""
    how, total = source.preparation, hashlib.sha256(b"".join(digests))
    total.update(np.sort(train).astype(np.int64).tobytes())
    return fingerprint([total.hexdigest(), source.scale, None if how is None else how.to_json()])


def _digest(source: Source, number: int) -> bytes:
    return hashlib.sha256(source.content(number)).digest()


@dataclass
class _Seen:
    """One input as it was found: digest, shape or why it is damaged, and, of the training part, values per channel,
    their mean and the sum of squared differences from it."""

    name: str
    digest: bytes
    shape: Shape = ()
    damage: str = ""
    count: int = 0
    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


def _look(source: Source, number: int, training: bool) -> _Seen:
    name, content = source.name(number), b""
    try:
        content = source.content(number)
        raw = source.decode(content)
        if raw.dtype.kind == "f" and not np.isfinite(raw).all():
            raise InvalidValueError("some of its values are NaN or infinite")
    except NasError as error:
        return _Seen(name, hashlib.sha256(content).digest(), damage=str(error))
    seen = _Seen(name, hashlib.sha256(content).digest(), raw.shape)
    if training:
        values = raw.reshape(len(raw), -1).astype(np.float64) / source.scale  # (C, H * W)
        seen.count, seen.mean = values.shape[1], values.mean(1)
        seen.squares = ((values - seen.mean[:, None]) ** 2).sum(1)
    return seen


def _summed(name: str, source: Source, seen: Iterable[_Seen]) -> tuple[list[bytes], Survey]:
    """Digests and survey of all inputs.

    Mean and variance are joined as in Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for
    Computing Sample Variances", COMPSTAT 1982, equation 2.1.
    """
    digests, damaged, shapes = list[bytes](), list[str](), dict[Shape, str]()
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for one in seen:
        digests.append(one.digest)
        if one.damage:
            damaged.append(f"{one.name} ({one.damage.rstrip('.')})")
            continue
        shapes.setdefault(one.shape, one.name)
        if one.count and len(shapes) == 1:
            difference, total = one.mean - mean, count + one.count
            squares = squares + one.squares + difference**2 * (count * one.count / total)
            mean, count = mean + difference * (one.count / total), total
    if damaged:
        more = f"; and {len(damaged) - NAMED} more" if len(damaged) > NAMED else ""
        verb = "is" if len(damaged) == 1 else "are"
        raise InvalidValueError(
            f"{len(damaged)} of {len(digests)} {source.kind}s of {name!r} {verb} damaged: "
            f"{'; '.join(damaged[:NAMED])}{more}. Delete or replace {'it' if len(damaged) == 1 else 'them'}."
        )
    if len(shapes) > 1:
        (shape, first), (other, second) = list(shapes.items())[:2]
        raise InvalidValueError(
            f"{name!r} has {source.kind}s of {len(shapes)} sizes, such as {'x'.join(map(str, shape))} ({first}) and "
            f"{'x'.join(map(str, other))} ({second}), channels x height x width. Networks take one size: make them "
            "equal, or, of class folders and packed images, say which, such as `data.size=96` or `data.size=96x128`."
        )
    std = np.sqrt(squares / count)
    std = np.where(std > ROUNDING * np.abs(mean), std, 0)  # of equal values it need not come out as exactly 0
    return digests, Survey(next(iter(shapes)), tuple(mean.tolist()), tuple(std.tolist()))


def _kept(source: Source, rows: NDArray[np.intp], survey: Survey, keep: bool) -> Tensor | None:
    """Raw inputs of a part in memory, where they are to be kept."""
    if not keep:
        return None
    first = source.decode(source.content(int(rows[0])))
    if (size := len(rows) * math.prod(survey.shape) * first.itemsize) > LARGEST_KEPT:
        raise InvalidValueError(
            f"`data.keep=true` would take {size / 1024**3:.0f} GiB of memory, and at most "
            f"{LARGEST_KEPT / 1024**3:.0f} are kept. Use `data.keep=false`, and `training.workers` to decode ahead."
        )
    kept = np.empty((len(rows), *survey.shape), first.dtype)
    for number, raw in enumerate(_each(source, rows, lambda source, n: source.decode(source.content(n)), "inputs")):
        kept[number] = raw
    return torch.from_numpy(kept)


def _each(source: Source, numbers: NDArray[np.intp], action: Callable[[Source, int], T], title: str) -> Iterator[T]:
    """Results of an action on inputs, in their order, computed by several threads where the source allows it."""
    threads = min(8, os.cpu_count() or 1) if source.parallel else 1
    chunks = np.array_split(numbers, np.arange(CHUNK, len(numbers), CHUNK))

    def of_chunk(chunk: NDArray[np.intp]) -> list[T]:
        return [action(source, number) for number in chunk.tolist()]

    pool = ThreadPoolExecutor(threads)
    try:
        with progress(f"data {title}", len(numbers), source.kind) as shown:
            for found in pool.map(of_chunk, chunks):
                yield from found
                shown.update(len(found))
    finally:
        pool.shutdown(cancel_futures=True)


def leak_notes(data: Data) -> list[str]:
    """Notes on inputs of validation and test that are in an earlier part too, byte for byte."""
    notes, before = list[str](), dict[str, set[bytes]]()
    for name, part in zip(PARTS, (data.train, data.validation, data.test_part()), strict=True):
        digests = getattr(part, "digests", None)
        if digests is None:
            return []
        here = [digest.tobytes() for digest in digests]
        for other, there in before.items():
            if count := sum(digest in there for digest in here):
                notes.append(
                    f"{count} of {len(here)} {data.kind}s of {name} in {data.name!r} {'is' if count == 1 else 'are'} "
                    f"in {other} too, byte for byte: networks look better on {name} than they are"
                )
        before[name] = set(here)
    return notes

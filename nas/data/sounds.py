"""Recordings as log-mel features: WAV files in class folders, or samples packed into one npz file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.data.base import Data
from nas.data.class_folders import Files, class_folders
from nas.data.log_mel import LogMel, full_scale, read_wav
from nas.data.packed import labelled
from nas.data.packing import OfPieces, packed_file
from nas.data.splits import FRACTIONS, parts_of
from nas.data.stored import stored_data
from nas.tasks import Classification
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.storage import read_bytes

ENDINGS = (".wav",)
KIND = "recording"


def recordings(
    path: str,
    *,
    rate: int | None = None,
    seconds: float = 1.0,
    mels: int = 40,
    window_ms: float = 32.0,
    hop_ms: float = 16.0,
    low_hz: float = 20.0,
    high_hz: float | None = None,
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
    classes: int | None = None,
    links: bool = False,
    keep: bool = False,
    cache: str | None = None,
    name: str | None = None,
) -> Data:
    """Recordings, whose log-mel features of shape (1, mels, frames) are computed as they are used.

    Args:
        path: of a folder with WAV files, ``cat/a.wav`` or ``train/cat/a.wav``; or of an npz file, whose recording i is
            ``samples[offsets[i]:offsets[i + 1]]``, with ``labels``, shape (N,), and, where it has them, ``split``,
            ``names`` of the classes and ``rate``.
        rate: samples per second, to which WAV files of other rates are resampled; null: that of the first file, or what
            the npz file says.
        seconds: length of each recording: of longer ones it is the middle, shorter ones get silence on both sides.
        mels: bands.
        window_ms: length of a frame.
        hop_ms: time from one frame to the next.
        low_hz: lower end of the lowest band.
        high_hz: upper end of the highest band; null: half the rate.
        seed: of the parts that are drawn.
        fractions: of train, validation and test, per class; a part that is not given is drawn from train.
        classes: how many there are in an npz file, where some have no recording and none has a name.
        links: whether symbolic links may lead out of the folder.
        keep: whether features stay in memory, which suits small data.
        cache: folder for what a look at all recordings has shown, so that the next start computes none; null: a folder
            of the run, or from Python none.
        name: what the data is called; the folder's or the file's name by default.

    Raises:
        StorageError: the folder or a file cannot be read.
        InvalidValueError: it breaks the rules above, or recordings are damaged.
    """
    place = Path(path)
    settings: dict[str, Any] = {"seconds": seconds, "mels": mels, "window_ms": window_ms, "hop_ms": hop_ms}
    settings |= {"low_hz": low_hz, "high_hz": high_hz}
    if not place.is_dir():
        pieces, arrays = packed_file(place, "samples", "iuf")
        if rate is None and "rate" not in arrays:
            raise InvalidValueError(
                f"{path} does not hold the `rate` of its samples: say it, such as `data.rate=8000`."
            )
        title = name or place.stem
        labels, parts, task = labelled(place, arrays, len(pieces), classes, fractions, seed, title)
        how = LogMel(_rate(path, arrays["rate"]) if rate is None else rate, **settings)
        return stored_data(title, PackedRecordings(pieces, how), labels, parts, task, cache=cache, keep=keep)
    found = class_folders(place, ENDINGS, KIND, links=links)
    first = found.files[0]
    if rate is None:
        try:
            rate, _ = read_wav(read_bytes(place / first))
        except InvalidValueError as error:
            raise InvalidValueError(f"{place / first} is damaged ({error}). Delete or replace it.") from error
    title = name or place.resolve().name
    return stored_data(
        title,
        Files(place, found.files, LogMel(rate, **settings), KIND, 1),
        found.labels,
        parts_of(found.labels, found.split, fractions, seed, title),
        Classification(len(found.names), found.names),
        cache=cache,
        keep=keep,
        notes=found.notes,
    )


def _rate(path: str, given: NDArray[Any]) -> int:
    """Samples per second that a packed file states."""
    if given.size != 1 or given.dtype.kind not in "uif" or given.item() != round(given.item()):
        raise InvalidValueError(
            f"`rate` of {path} must be one whole number, that of all recordings, but got {given.dtype} {given.shape}."
        )
    return int(given.item())


@dataclass(frozen=True)
class PackedRecordings(OfPieces):
    """Source of recordings in an npz file.

    Args:
        pieces: of the file, samples.
        preparation: of their features.
    """

    preparation: LogMel
    kind = KIND
    scale = 1.0

    def decode(self, content: bytes) -> NDArray[Any]:
        dtype = self.pieces.dtype
        return self.preparation.features(full_scale(np.frombuffer(content, dtype), dtype))

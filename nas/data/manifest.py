"""Memory of stored data between two starts: digests of its inputs, and what a look at all of them has shown."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from search_spaces.base.checked import check
from search_spaces.base.errors import NasError
from search_spaces.base.storage import read_arrays, write_arrays

log = logging.getLogger(__name__)

DIGEST_BYTES = 32
"""Bytes of a SHA-256."""
FRESH_NS = 2 * 10**9
"""Nanoseconds in which a file may change once more without another time: some file systems keep whole seconds."""

Stamp = tuple[int, int, int]
"""Numbers that are others where the content may be another, such as a file's size and times."""


def stamp_of(path: Path) -> Stamp | None:
    """Size, time of change and time of the change of its entry, in nanoseconds, of a file; None: it is that fresh that
    a further change could go unseen."""
    status = path.stat()
    if time.time_ns() - status.st_ctime_ns < FRESH_NS:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True)
class Survey:
    """Facts on all inputs: their one shape, and mean and standard deviation of each channel over the training part."""

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Manifest:
    """Digests of inputs, by name and stamp, and surveys, by what they are of; kept in an npz file.

    Args:
        path: of the file; None: nothing outlives the process.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, tuple[Stamp, bytes]] = {}
        self.surveys: dict[str, Survey] = {}
        if path is not None and path.exists():
            try:
                self._read(path)
            except (NasError, LookupError, TypeError, ValueError) as error:
                log.warning("%s is damaged (%s) and is made again", path, error)
                self._known, self.surveys = {}, {}

    def digest(self, name: str, stamp: Stamp | None) -> bytes | None:
        """SHA-256 of an input that has had this stamp; None: it is not known."""
        there, digest = self._known.get(name, (None, None))
        return digest if stamp is not None and stamp == there else None

    def save(self, inputs: Iterable[tuple[str, Stamp | None, bytes]]) -> None:
        """Write names, stamps and digests of all inputs, and the surveys; what has no stamp is left out.

        Raises:
            StorageError: the file cannot be written.
        """
        if self._path is None:
            return
        known = {name: (stamp, digest) for name, stamp, digest in inputs if stamp is not None}
        surveys = {key: dataclasses.asdict(survey) for key, survey in self.surveys.items()}
        texts = {"names": "\0".join(known), "surveys": json.dumps(surveys)}
        arrays = {key: np.frombuffer(text.encode(errors="surrogateescape"), np.uint8) for key, text in texts.items()}
        digests = np.frombuffer(b"".join(digest for _, digest in known.values()), np.uint8)
        stamps = np.array([stamp for stamp, _ in known.values()], np.int64)
        write_arrays(self._path, {**arrays, "stamps": stamps.reshape(-1, 3), "digests": digests})

    def _read(self, path: Path) -> None:
        arrays = read_arrays(path)
        names, surveys = (arrays[key].tobytes().decode(errors="surrogateescape") for key in ("names", "surveys"))
        digests = arrays["digests"].reshape(-1, DIGEST_BYTES)
        for name, stamp, digest in zip(names.split("\0"), arrays["stamps"].tolist(), digests, strict=len(digests) > 0):
            self._known[name] = tuple(stamp), digest.tobytes()
        for key, survey in json.loads(surveys).items():
            self.surveys[key] = check(survey, Survey, key, "")

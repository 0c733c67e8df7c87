"""Files that survive a kill at any moment: atomic writes and append-only record logs.

Used by every package, hence in the leftmost one. Formats are JSON and npz without pickle.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from io import IOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import DamagedFileError, MismatchError, StorageError

try:
    import fcntl
except ImportError:  # not on Windows: there one process at a time appends to a log
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` on `path` into a `StorageError` that names the way out."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"Cannot use {path}: {error.strerror or error}. Free space or choose a writable folder with `out=<folder>`."
        ) from error


@contextlib.contextmanager
def contents_of(path: Path, remedy: str) -> Iterator[None]:
    """Turn what goes wrong when fields are taken from a file's content into a `DamagedFileError`."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, StopIteration) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"has other contents than it should ({error!r})"
        raise DamagedFileError(f"{path} {what}. {remedy}") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: readers see the old content or the new one, never a part."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def write_text(path: Path, content: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, keys in the given order."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        StorageError: the file cannot be opened.
        DamagedFileError: it is not JSON.
    """
    with storage_errors(path):
        content = path.read_bytes()
    try:
        return _loads(content)
    except ValueError as error:
        raise DamagedFileError(f"{path} is not valid JSON ({error}). Delete it to have it made again.") from error


def _loads(content: bytes) -> Any:
    return json.loads(content, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an npz file atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read an npz file; object arrays (pickle) are refused."""
    with storage_errors(path):
        content = path.read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy, zipfile and zlib each raise their own kinds on a damaged archive
        raise DamagedFileError(f"{path} is damaged ({error}). Delete it to have it made again.") from error


def fingerprint(content: Any) -> str:
    """First 16 hex digits of the SHA-256 of a JSON-able value, equal in every process."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class RecordLog:
    """An append-only file of JSON lines; the first line says under which conditions the others hold.

    Each record is one line, flushed to disk under a lock, so a kill loses at most the record being written and several
    processes can append to one file. Damaged lines are named in a warning and skipped. Opening an existing file under
    other conditions is refused: rows of different conditions are never mixed.

    Args:
        path: file to read and append to; made, with its folder, on first use.
        conditions: JSON-able description that all records share.

    Raises:
        MismatchError: the file was written under other conditions.
        StorageError: the file cannot be read or made.
    """

    def __init__(self, path: Path, conditions: Mapping[str, Any]) -> None:
        self.path = path
        self.conditions: dict[str, Any] = json.loads(json.dumps(dict(conditions), allow_nan=False))
        self.records: list[dict[str, Any]] = []
        with storage_errors(path):
            if not path.exists() or path.stat().st_size == 0:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._write(b"")
        content = _content(path) or b""
        found, self.records = _parsed(content, path)
        self._read_to = len(content)
        if found != self.conditions:
            names = [k for k in {**found, **self.conditions} if found.get(k, ...) != self.conditions.get(k, ...)]
            differences = "; ".join(f"{k}: {found.get(k)!r} there, {self.conditions.get(k)!r} now" for k in names)
            raise MismatchError(
                f"{path} was written under other conditions ({differences}). "
                "Choose another folder with `out=<folder>`, or delete the file to measure again."
            )

    def append(self, record: Mapping[str, Any], *, durable: bool = True) -> None:
        """Add one record, and read those that other processes have added meanwhile.

        Args:
            record: JSON-able.
            durable: wait until it is on the disk, so that it outlives a loss of power as well as of the process.

        Raises:
            StorageError: the disk is full or read-only; what was there before is kept.
        """
        line = json.dumps(dict(record), allow_nan=False).encode() + b"\n"
        with storage_errors(self.path):
            self._write(line, durable)
        self.refresh()

    def refresh(self) -> None:
        """Read the records that were added since."""
        content = _content(self.path, self._read_to)
        if content is None:  # removed and begun anew by another process
            content = _content(self.path) or b""
            self._read_to = content.find(b"\n") + 1
            content = content[self._read_to :]
        whole = content.rfind(b"\n") + 1  # what follows was cut short by a kill
        if whole:
            self.records += _parsed_lines(content[:whole].split(b"\n"), self.path)
            self._read_to += whole

    def _write(self, line: bytes, durable: bool = True) -> None:
        with open(self.path, "ab+", buffering=0) as file:
            _lock(file)
            end = file.seek(0, os.SEEK_END)
            if end == 0:
                line = json.dumps({"conditions": self.conditions}).encode() + b"\n" + line
            else:
                file.seek(-1, os.SEEK_END)
                if line and file.read(1) != b"\n":  # cut short by a kill: end that line, so that it spoils only itself
                    line = b"\n" + line
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[file.write(rest) :]
                if durable:
                    os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(end)  # a full disk: take back the part of the line that was still written
                raise


def _lock(file: IOBase) -> None:
    """Wait until no other process writes to the file; closing it lets the next one in.

    Without it two processes could both give a new log its first line, and a long line, which is several writes, could
    be cut in two by another one.
    """
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a network file system that knows no locks
            fcntl.flock(file, fcntl.LOCK_EX)


def read_records(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Conditions and records of a log file, damaged lines named in a warning and skipped.

    Raises:
        DamagedFileError: the first line, which holds the conditions, cannot be read.
    """
    return _parsed(_content(path) or b"", path)


def _content(path: Path, start: int = 0) -> bytes | None:
    """The file from a byte on; None if it has fewer."""
    with storage_errors(path), open(path, "rb") as file:
        _lock(file)
        if file.seek(0, os.SEEK_END) < start:
            return None
        file.seek(start)
        return file.read()


def _parsed(content: bytes, path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    lines = content.split(b"\n")
    try:
        conditions = _loads(lines[0])["conditions"]
        if not isinstance(conditions, dict):
            raise TypeError("conditions are not a mapping")
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(
            f"{path} has no readable first line with its conditions ({error}). Delete it to have it made again."
        ) from error
    return conditions, _parsed_lines(lines[1:], path, start=2)


def _parsed_lines(lines: Sequence[bytes], path: Path, start: int | None = None) -> list[dict[str, Any]]:
    """Records, damaged ones named by their line, the first of which is ``start``, and skipped."""
    records = []
    for offset, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            record = _loads(line)
            if not isinstance(record, dict):
                raise TypeError("not a mapping")
            records.append(record)
        except (ValueError, TypeError):
            place = f"line {start + offset}" if start is not None else "a line written since it was opened"
            log.warning("%s %s is damaged and was skipped; it will be made again", path, place)
    return records

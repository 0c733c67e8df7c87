"""Files that survive a kill at any moment, atomic writes and append-only record logs; and files that anybody may have
written, read so that none of them runs code, hangs or fills the memory.

Used by every package, hence in the leftmost one. Formats are JSON, YAML and npz without pickle.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import logging
import math
import os
import reprlib
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import IOBase
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from search_spaces.base.errors import (
    DamagedFileError,
    InvalidValueError,
    MismatchError,
    NasError,
    StorageError,
    UntrustedError,
)

try:
    import fcntl
except ImportError:  # not on Windows: there one process at a time appends to a log
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

MIB = 1024**2
LARGEST_JSON = 256 * MIB
"""Bytes of a JSON file; a front of a hundred thousand networks has a fifth of it."""
LARGEST_YAML = MIB
"""Bytes of a YAML file that a person writes."""
LARGEST_EXPANDED = 100_000
"""Nodes of a YAML file, its aliases written out."""
LARGEST_FILE = 16 * 1024 * MIB
"""Bytes of any file that is read at once."""
LARGEST_UNPACKED, LARGEST_RATIO = 256 * MIB, 100
"""Arrays of more bytes than this that a file holds in a hundredth of the bytes are a bomb, not data."""
ROWS_NAMED = 3
"""Damaged rows of a file that are named one by one."""


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` on `path` into a `StorageError` that names the way out."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(cannot_use(path, error)) from error


def cannot_use(path: object, error: OSError) -> str:
    """Message of the system on a path, and the way out of it."""
    remedies = {
        errno.EISDIR: "It is a folder: give a file.",
        errno.ENOENT: "There is no such file.",
        errno.ENAMETOOLONG: "Choose a shorter name.",
    }
    remedy = remedies.get(error.errno or 0, "Free space or choose a writable folder with `out=<folder>`.")
    return f"Cannot use {path}: {error.strerror or error}. {remedy}"


@contextlib.contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` on reading ``path`` into a `StorageError`."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise StorageError(f"Cannot read {path}: {reason}. Give a file that is there and that you may read.") from error


@contextlib.contextmanager
def contents_of(path: Path, remedy: str) -> Iterator[None]:
    """Turn what goes wrong when a file's content is used into a `DamagedFileError` that names the file.

    What belongs to another space stays a `MismatchError`.
    """
    try:
        yield
    except NasError as error:
        if str(path) in str(error):
            raise
        kind = MismatchError if isinstance(error, MismatchError) else DamagedFileError
        raise kind(f"{path}: {error} {remedy}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration, ArithmeticError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"has other contents than it should ({error!r})"
        raise DamagedFileError(f"{path} {what}. {remedy}") from error


def check_regular(path: Path) -> None:
    """Refuse what is no file: opening a pipe can wait for ever, and a device has no end.

    Raises:
        StorageError: there is none, or it is a folder, a pipe, a socket or a device.
    """
    with reading_errors(path):
        mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise StorageError(f"{path} is {what}, but must be a file. Give, or put there, a file.")


def read_bytes(path: Path, largest: int = LARGEST_FILE) -> bytes:
    """Read a whole file.

    Raises:
        StorageError: it cannot be opened, is no regular file, or has more bytes than the largest that makes sense.
    """
    check_regular(path)
    with reading_errors(path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise StorageError(f"{path} has {size:,} bytes, and at most {largest:,} are read. Give a smaller file.")
        return file.read(largest + 1)


def set_aside(path: Path, conditions: Mapping[str, Any]) -> None:
    """Make room at a path for the record log of some conditions.

    A log of other conditions that stands there is kept beside it, named by the fingerprint of its conditions. One of
    these conditions that was set aside before is brought back.
    """

    def aside(of: Any) -> Path:
        return path.with_name(f"{path.stem}.{fingerprint(of)}{path.suffix}")

    wanted = json.loads(json.dumps(dict(conditions)))
    with storage_errors(path):
        if path.exists() and path.stat().st_size:
            there, _ = read_records(path)
            if there == wanted:
                return
            os.replace(path, aside(there))
        if aside(wanted).exists():
            os.replace(aside(wanted), path)


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


OMITTED = {"omitted": True}
"""Metadata of a field of a dataclass that files do not have where it has its default."""


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, keys in the given order.

    A dataclass is the mapping of its fields, without those of `OMITTED` that have their default.
    """
    write_text(path, json.dumps(content, indent=1, allow_nan=False, default=_fields_of) + "\n")


def _fields_of(record: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(record):
        raise TypeError(f"{record!r} is not JSON.")
    values = ((field, getattr(record, field.name)) for field in dataclasses.fields(record))
    return {
        field.name: value for field, value in values if not ("omitted" in field.metadata and value == field.default)
    }


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        StorageError: the file cannot be opened.
        DamagedFileError: it is not JSON.
    """
    content = read_bytes(path, LARGEST_JSON)
    try:
        return loads(content)
    except ValueError as error:
        raise DamagedFileError(f"{path} is not valid JSON ({error}). Delete it to have it made again.") from error


def loads(content: bytes | str) -> Any:
    """A JSON value; its numbers are finite.

    Raises:
        ValueError: it is not JSON, or nested more deeply than can be read.
    """
    try:
        return json.loads(content, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits:.20} is too large a number")
    return value


def read_yaml(path: Path) -> Any:
    """Read a YAML file of plain values.

    Raises:
        StorageError: it cannot be opened.
        InvalidValueError: it is malformed, or grows beyond measure where its aliases are written out.
    """
    node = compose_yaml(path)
    if node is None:
        return None
    try:
        if _expanded_size(node, {}) > LARGEST_EXPANDED:
            raise ValueError(f"its aliases stand for more than {LARGEST_EXPANDED:,} values")
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidValueError(f"{path} is malformed YAML: {error}.") from error


def compose_yaml(path: Path, largest: int = LARGEST_YAML) -> yaml.Node | None:
    """The nodes of a YAML file, None for an empty one; raises as `read_yaml` does."""
    content = read_bytes(path, largest)
    try:
        node: yaml.Node | None = yaml.compose(content, Loader=yaml.SafeLoader)
    except RecursionError as error:
        raise InvalidValueError(f"{path} is malformed YAML: it is nested too deeply.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidValueError(f"{path} is malformed YAML: {error}.") from error
    return node


def _expanded_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Number of nodes with every alias written out.

    Raises:
        ValueError: a node holds itself.
    """
    if id(node) in sizes:
        if not (size := sizes[id(node)]):
            raise ValueError("an alias holds itself")
        return size
    sizes[id(node)] = 0
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    sizes[id(node)] = size = 1 + sum(_expanded_size(child, sizes) for child in children)
    return size


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an npz file atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


WAY_OUT = (
    "A file of your own: give an intact copy, or write it again with numpy.savez, plain numbers and text alone. One "
    "that hwnas wrote: move it away to have it made again."
)
"""Advice about an npz file that cannot be read."""


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read an npz file; object arrays (pickle) are refused.

    Raises:
        StorageError: the file cannot be opened.
        DamagedFileError: it is no npz file, or holds far more than its size can.
    """
    content = read_bytes(path)
    arrays: dict[str, Any] = {"": None}
    if not content or content.startswith(b"PK"):
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as members:
                unpacked = sum(member.file_size for member in members.infolist())
            if unpacked > max(LARGEST_UNPACKED, LARGEST_RATIO * len(content)):
                raise ValueError(f"it would unpack from {len(content):,} to {unpacked:,} bytes")
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except Exception as error:  # numpy, zipfile and zlib each raise their own kinds on a damaged archive
            raise DamagedFileError(f"{path} is damaged ({error}). {WAY_OUT}") from error
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise DamagedFileError(f"{path} is no npz file. {WAY_OUT}")
    return arrays


def checksum(arrays: Mapping[str, NDArray[Any]]) -> str:
    """First 16 hex digits of the SHA-256 of arrays with their names, types and shapes."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype.str} {arrays[name].shape} ".encode() + array.tobytes())
    return total.hexdigest()[:16]


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
            if path.exists() and not path.is_char_device():  # /dev/full and the like refuse by themselves
                check_regular(path)
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
    check_regular(path)
    with storage_errors(path), open(path, "rb") as file:
        _lock(file)
        if file.seek(0, os.SEEK_END) < start:
            return None
        file.seek(start)
        return file.read()


def _parsed(content: bytes, path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    lines = content.split(b"\n")
    try:
        conditions = loads(lines[0])["conditions"]
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
            record = loads(line)
            if not isinstance(record, dict):
                raise TypeError("not a mapping")
            records.append(record)
        except (ValueError, TypeError):
            place = f"line {start + offset}" if start is not None else "a line written since it was opened"
            log.warning("%s %s is damaged and was skipped; it will be made again", path, place)
    return records


def take_records(path: Path, records: Iterable[Mapping[str, Any]], take: Callable[[Mapping[str, Any]], None]) -> None:
    """Call ``take`` with every record of a log; those that it cannot use are named in a warning and skipped.

    Raises:
        UntrustedError: one names code that is not trusted, which is no damage.
    """
    skipped = 0
    for record in records:
        try:
            take(record)
        except UntrustedError:
            raise
        except (NasError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            skipped += 1
            if skipped <= ROWS_NAMED:
                what = f"lacks {error}" if isinstance(error, KeyError) and not isinstance(error, NasError) else error
                log.warning(
                    "%s holds a row that cannot be read and was skipped (%s): %s", path, what, reprlib.repr(record)
                )
    if skipped > ROWS_NAMED:
        log.warning("%s holds %d more such rows", path, skipped - ROWS_NAMED)

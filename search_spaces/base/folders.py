"""Folders that one process at a time works in, and folders for files of a moment.

What killed processes have left in them is removed by the next one.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from search_spaces.base.errors import FolderInUseError
from search_spaces.base.storage import storage_errors

try:
    import fcntl
except ImportError:  # not on Windows: there nobody else is noticed
    fcntl = None  # type: ignore[assignment]

HAS_LOCKS = fcntl is not None
LEFT_SECONDS = 600
"""A temporary folder that is younger is left alone: its process may run where its number is not known here."""
LOCK = ".lock"
"""The file in a folder that the process working there holds locked."""


@contextlib.contextmanager
def locked_folder(folder: Path, command: str, *, shared: bool = False) -> Iterator[None]:
    """Work in a folder as its only process, or beside others that share it too.

    The lock ends with the process, however that ends. Temporary files that killed processes left are removed.

    Args:
        folder: made if it is not there.
        command: what this process does, for the message to others.
        shared: whether others that share may work there at the same time.

    Raises:
        FolderInUseError: another process works there; the message names it.
        StorageError: the folder cannot be written to.
    """
    if not HAS_LOCKS:
        yield
        return
    path = folder / LOCK
    with storage_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = _held(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    with file:
        with storage_errors(path):
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            _overwrite(file, json.dumps({"process": os.getpid(), "command": command, "started": started}))
            if not shared:
                remove_temporaries(folder)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # others still share it
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def check_free(folder: Path, *, shared: bool = False) -> None:
    """Refuse a folder that another process works in, before anything else is done; nothing is made or locked.

    Raises:
        FolderInUseError: as `locked_folder` does.
    """
    path = folder / LOCK
    if HAS_LOCKS and path.exists():
        with storage_errors(path):
            _held(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX).close()


def _held(path: Path, kind: int) -> io.FileIO:
    """The lock file, locked.

    Raises:
        FolderInUseError: another process holds it.
    """
    while True:
        file = open(path, "ab+", buffering=0)
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_ino == os.stat(path).st_ino:
                return file
        except FileNotFoundError:  # its last holder has removed it meanwhile
            pass
        except BlockingIOError:
            file.seek(0)
            holder = _holder(file.read(4096))
            file.close()
            raise FolderInUseError(
                f"{path.parent} is in use by {holder}. Wait until that has ended, or choose another folder with "
                "`out=<folder>`."
            ) from None
        except OSError:  # a network file system that knows no locks
            return file
        file.close()


def _holder(content: bytes) -> str:
    try:
        about = json.loads(content)
        return f"process {int(about['process'])} (`{about['command']}`, since {about['started']})"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _overwrite(file: io.FileIO, text: str) -> None:
    file.truncate(0)
    file.write(text.encode())


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files of `write_bytes` that killed processes have left; nobody else may be writing there."""
    for path in folder.rglob(".*.tmp"):
        if path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """A folder for files of a moment, removed at the end.

    Args:
        purpose: a word for its name.
    """
    _remove_left_folders()
    with tempfile.TemporaryDirectory(prefix=f"hwnas-{purpose}-{os.getpid()}-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@functools.cache
def _remove_left_folders() -> None:
    """Remove what killed processes have left of `temporary_folder`, once in this process."""
    for left in Path(tempfile.gettempdir()).glob("hwnas-*-*-*"):
        process = left.name.split("-")[2]
        with contextlib.suppress(OSError):  # removed meanwhile
            old = time.time() - left.stat().st_mtime > LEFT_SECONDS
            if old and process.isdigit() and not _runs(int(process)):
                shutil.rmtree(left, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True

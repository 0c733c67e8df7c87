"""A time limit for what another process is asked: a process that hangs must not be waited for for ever."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

SECONDS_BETWEEN_LOOKS = 0.5
LONGEST_BETWEEN_LOOKS = 2.0
"""Seconds between two looks above which there was a pause of this process."""


class TimeLimit:
    """Kills a process that exceeds its limit; who reads its answer then sees the end of the stream.

    Args:
        popen: the process; its children are killed with it if it leads a session of its own.
    """

    exceeded_s: float | None = None
    """The limit in seconds that was exceeded; None: none was."""

    def __init__(self, popen: subprocess.Popen[Any]) -> None:
        self._popen = popen
        self._seconds = self._until = math.inf
        self._now = 0.0  # seconds that this process has run since
        threading.Thread(target=self._watch, daemon=True).start()

    @contextlib.contextmanager
    def of(self, seconds: float) -> Iterator[None]:
        """Context in which the process has so many seconds.

        Those in which this process is paused itself (Ctrl-Z) do not count: it cannot read an answer then.
        """
        self._seconds, self._until = seconds, self._now + seconds + SECONDS_BETWEEN_LOOKS
        try:
            yield
        finally:
            self._until = math.inf

    def _watch(self) -> None:
        before = time.monotonic()
        while self._popen.returncode is None:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            now = time.monotonic()
            self._now += min(now - before, LONGEST_BETWEEN_LOOKS)
            before = now
            if self._now > self._until:
                self.exceeded_s = self._seconds
                self._kill()
                return

    def _kill(self) -> None:
        """SIGKILL also ends a process that is stopped."""
        with contextlib.suppress(ProcessLookupError):
            if hasattr(os, "killpg") and os.getpgid(self._popen.pid) == self._popen.pid:
                os.killpg(self._popen.pid, signal.SIGKILL)
            else:
                self._popen.kill()

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
        threading.Thread(target=self._watch, daemon=True).start()

    @contextlib.contextmanager
    def of(self, seconds: float) -> Iterator[None]:
        """Within, the process has so many seconds."""
        self._seconds, self._until = seconds, time.monotonic() + seconds
        try:
            yield
        finally:
            self._until = math.inf

    def _watch(self) -> None:
        while self._popen.returncode is None:
            if time.monotonic() > self._until:
                self.exceeded_s = self._seconds
                self._kill()
                return
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _kill(self) -> None:
        """SIGKILL also ends a process that is stopped."""
        with contextlib.suppress(ProcessLookupError):
            if hasattr(os, "killpg") and os.getpgid(self._popen.pid) == self._popen.pid:
                os.killpg(self._popen.pid, signal.SIGKILL)
            else:
                self._popen.kill()

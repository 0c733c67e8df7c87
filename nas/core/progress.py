"""Progress of long work: a bar in a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from nas.core.terminal import clean

T = TypeVar("T")

_thread = threading.local()
"""``lines``: the innermost progress of this thread, which alone writes."""

LINE_SECONDS = 10.0
"""Seconds between two lines where standard error is no terminal."""


class Progress(Protocol):
    """Display that work reports to while it goes on; a context manager."""

    @property
    def n(self) -> int:
        """Items counted so far."""

    def __enter__(self) -> Progress: ...
    def __exit__(self, *error: object) -> None: ...
    def update(self, n: int = 1) -> Any:
        """Count further items."""

    def set_postfix(self, **values: str) -> Any:
        """Show values beside the count."""

    def reset(self) -> Any:
        """Begin to count anew."""


def progress(title: str, total: int, unit: str, *, done: int = 0) -> Progress:
    """Progress of counted items.

    Args:
        title: what is done.
        total: items.
        unit: one item, in the singular.
        done: items that were done before.
    """
    title = clean(title)
    if sys.stderr.isatty():
        bar: Progress = tqdm(total=total, initial=done, desc=title, unit=unit, leave=False)
        return bar
    return _Lines(title, total, unit, done)


def each(items: Iterable[T], title: str, unit: str) -> Iterator[T]:
    """Items one by one, with progress; the iterable must have a length."""
    assert isinstance(items, Sized)
    with progress(title, len(items), unit) as shown:
        for item in items:
            yield item
            shown.update()


def duration(seconds: float) -> str:
    """A duration in words of a glance: 12 s, 3 min, 1.5 h."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _Lines:
    """Progress as lines on standard error, written by a thread, so that one long item does not silence it."""

    def __init__(self, title: str, total: int, unit: str, done: int) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._begun = self.n = done
        self._values: dict[str, str] = {}
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._outer: _Lines | None = None
        self._has_inner = False  # which speaks for both

    def __enter__(self) -> _Lines:
        if self._total > 1:  # a single item is part of something else
            self._outer = getattr(_thread, "lines", None)
            if self._outer is not None:
                self._outer._has_inner = True
            _thread.lines = self
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            _thread.lines = self._outer
            if self._outer is not None:
                self._outer._has_inner = False
            self._thread.join()

    def update(self, n: int = 1) -> None:
        self.n += n

    def set_postfix(self, **values: str) -> None:
        self._values = values

    def reset(self) -> None:
        self.n, self._begun, self._started = 0, 0, time.monotonic()

    def _write(self) -> None:
        while not self._ended.wait(LINE_SECONDS):
            if not self._has_inner:
                print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """State of the work."""
        seconds, fresh = time.monotonic() - self._started, self.n - self._begun
        plural = "" if self._total == 1 else "s"
        words = [f"{self._title}: {self.n:,} of {self._total:,} {self._unit}{plural}", duration(seconds)]
        if 0 < fresh and self.n < self._total:
            words.append(f"about {duration(seconds / fresh * (self._total - self.n))} left")
        words += [f"{name} {value}" for name, value in self._values.items()]
        return ", ".join(words)

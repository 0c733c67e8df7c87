"""The time that measuring may take, shared out among its parts."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nas.core.progress import duration

PARTS = ("check", "main", "fit", "check again", "values", "doubtful")
"""Parts of a profiling, in order; the main one is layers, or networks in context."""
LATE = 1.25
"""Factor on the announced time above which it is told."""


@dataclass
class BudgetPart:
    """Measurements of one kind, made one after the other.

    Args:
        items: how many.
        each_s: expected seconds for each.
        least_s: expected seconds for however few: their passes lie apart in time.
    """

    items: int
    each_s: float
    least_s: float = 0.0

    @property
    def seconds(self) -> float:
        """All of them together."""
        return max(self.items * self.each_s, self.least_s) if self.items else 0.0


class ProfilingBudget:
    """The time allowed from now on; what the parts have taken tells how much the device is slower than expected.

    Args:
        seconds: inf: as long as it takes.
        device: its name, for messages.
        say: takes what a person should know.
        busy: what may be slow: the device itself, or this computer where it makes estimates.
    """

    def __init__(self, seconds: float, device: str, say: Callable[[str], None], busy: str = "it") -> None:
        self.seconds = seconds
        self.parts = dict.fromkeys(PARTS, BudgetPart(0, 0.0))
        self._device, self._say, self._busy = device, say, busy
        self._started = time.perf_counter()
        self._took = self._expected = 0.0  # seconds of the parts so far

    @property
    def left_s(self) -> float:
        """Seconds."""
        return self.seconds - (time.perf_counter() - self._started)

    @contextlib.contextmanager
    def share(self, name: str) -> Iterator[float]:
        """Time one part of the plan; gives until when it may take: its share of the time that is left."""
        names = list(self.parts)
        ahead = sum(self.parts[later].seconds for later in names[names.index(name) :])
        expected, started = self.parts[name].seconds, time.perf_counter()
        left = max(0.0, self.left_s)
        yield started + (left * expected / ahead if ahead > 0 else left) if left < math.inf else math.inf
        took, later = time.perf_counter() - started, ahead - expected
        if took > 1 and expected > 0:
            self._took, self._expected = self._took + took, self._expected + expected
        if took > LATE * expected + 1 and later * self.slower > 1:
            more = min(later * self.slower, self.left_s)
            self._say(
                f"{self._device}: took {duration(took)} in place of {duration(expected)} so far, because "
                f"{self._busy} is busy or slow at times; about {duration(max(1.0, more))} more"
            )

    @property
    def slower(self) -> float:
        """Factor by which it takes longer than expected."""
        return max(1.0, self._took / self._expected) if self._expected > 0 else 1.0

    def affordable(self) -> int:
        """Number of items of the main part that fit into the time that is left before the parts after it."""
        names = list(self.parts)
        rest_s = sum(self.parts[name].seconds for name in names[names.index("main") + 1 :])
        each_s = max(self.parts["main"].each_s * self.slower, 1e-6)
        return max(0, int(min(1e9, (self.left_s - rest_s * self.slower) / each_s)))

"""Description of this computer, for the conditions of a measurement, and whether other programs disturb one."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

resource: Any = importlib.import_module("resource") if importlib.util.find_spec("resource") else None
"""Python's module of that name; None on Windows, which has none."""

CGROUPS = Path("/sys/fs/cgroup")


@functools.cache
def host_description() -> dict[str, str | int]:
    """Processor, its core count and the operating system."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.lower().startswith(("model name", "hardware")):
                model = line.split(":", 1)[1].strip()
                break
    return {"cpu": model, "cores": os.cpu_count() or 1, "os": f"{platform.system()} {platform.machine()}"}


def usable_cpus() -> int:
    """CPUs that this process may use: those that the system lets it run on, and no more than its quota pays for."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else min(allowed, max(1, int(quota)))


def cpu_quota(groups: Path = Path("/proc/self/cgroup"), root: Path = CGROUPS) -> float | None:
    """CPUs' worth of time that a container's limit lets this process use; None: no limit is stated.

    Args:
        groups: lists the control groups of the process.
        root: where they are mounted; version 2, or version 1 with its controllers in folders of their own.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / controllers if controllers else root
        folder = top / path.strip("/")
        for group in [folder, *folder.parents]:  # a parent's limit holds as well
            if group == top.parent:
                break
            quotas.append(_quota_of(group))
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_of(group: Path) -> float | None:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


LEAST_SHARE = 0.97
"""A thread that the system gave less than this share of the time was disturbed."""
SWITCH_SECONDS = 0.05
"""A thread that was interrupted more often than once in as many seconds was disturbed as well: it found caches cold."""


@dataclass(frozen=True)
class Sample:
    """One latency sample of a loaded model.

    Args:
        ms: mean milliseconds of a run, by the clock on the wall.
        share: of that time, what the system gave the computing thread; 1 where that is not known.
        disturbed: whether other programs took the CPU away; None: nobody can tell.
    """

    ms: float
    share: float = 1.0
    disturbed: bool | None = None

    @property
    def own_ms(self) -> float:
        """Milliseconds in which the run was computed: without those that other programs took, where that is known."""
        return self.ms * self.share if self.disturbed else self.ms


class Watch:
    """Watches the calling thread, and with several threads the whole process, from when it is made.

    What the operating system tells: involuntary context switches, and for one thread its CPU time beside the time on
    the wall. With several threads CPU time tells little, because they spin while they wait for each other.
    """

    def __init__(self, threads: int) -> None:
        self._one = threads == 1
        self._before = self._now()

    def _now(self) -> tuple[float, float, int]:
        if resource is None:
            return 0.0, 0.0, 0
        who = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF) if self._one else resource.RUSAGE_SELF
        return time.perf_counter(), time.thread_time(), resource.getrusage(who).ru_nivcsw

    def sample(self, ms: float) -> Sample:
        """A sample taken since then."""
        if resource is None:
            return Sample(ms)
        wall, cpu, switches = (now - before for now, before in zip(self._now(), self._before, strict=True))
        share = min(1.0, cpu / wall) if self._one and wall > 0 else 1.0
        return Sample(ms, share, share < LEAST_SHARE or switches > wall / SWITCH_SECONDS)

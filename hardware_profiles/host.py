"""What this computer is, for the conditions of a measurement."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path


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
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""Starts the process behind `hardware_profiles.worker`. Run by its path, so that nothing is imported before its CPUs
are chosen: a library's threads keep those that they were started on."""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Set the process up as ``sys.argv[1]`` says, and answer requests until the other end of stdin is closed."""
    settings = json.loads(sys.argv[1])
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what a compiler prints must not come between the answers
    if settings["cpus"] is not None:
        os.sched_setaffinity(0, settings["cpus"])
    sys.path[:] = settings["path"]

    from hardware_profiles.device import DeviceProfile
    from hardware_profiles.worker import serve

    serve(lambda profile: DeviceProfile(**profile).open(), os.fdopen(requests, "rb"), os.fdopen(answers, "wb"))


if __name__ == "__main__":
    main()

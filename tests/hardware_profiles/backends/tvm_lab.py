"""A program that starts TVM's RPC trackers and servers, importing TVM once for all of them, which takes seconds.

It reads one JSON object per line, {role, host, port, log} and for a server {tracker, key}, answers with the process
number of what it started, and kills all when its stdin ends. Each leads a process group, because a server starts
processes for its sessions.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from typing import Any

from tvm.rpc.server import PopenRPCServerState
from tvm.rpc.tracker import PopenTrackerServerState


def run(order: dict[str, Any]) -> None:
    """Be the tracker or server, without end."""
    where = {"host": order["host"], "port": order["port"], "port_end": order["port"] + 1}
    if order["role"] == "tracker":
        PopenTrackerServerState(**where).thread.join()
    else:
        tracker = tuple(order["tracker"]) if order["tracker"] else None
        PopenRPCServerState(**where, tracker_addr=tracker, key=order["key"]).thread.join()


def main() -> None:
    """Fork for every order."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that are killed
    started: list[int] = []
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            run(order)
        started.append(child)
        print(child, flush=True)
    for child in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)


if __name__ == "__main__":
    main()

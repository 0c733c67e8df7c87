"""A backend in a process of its own, where a compiler that crashes or leaks, and its thread pools, do no harm.

Requests go to the process's stdin, answers come from its stdout. Both are frames: the lengths of two parts, then a JSON
object and the arrays as an npz file without pickle (nothing where there are none). The process ends when its stdin is
closed, so it does not outlive who started it. A process that does not answer in time is ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import os
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.backends.base import Backend, Capabilities, Loaded, Values, reported_values
from hardware_profiles.host import Sample
from hardware_profiles.model import Batch, Model
from hardware_profiles.time_limit import TimeLimit
from search_spaces.base import errors, trust
from search_spaces.base.checked import check
from search_spaces.base.errors import (
    DeviceLostError,
    DeviceUnavailableError,
    InvalidValueError,
    MeasurementError,
    NasError,
)
from search_spaces.network import Network

if TYPE_CHECKING:
    from hardware_profiles.device import DeviceProfile

Arrays = Sequence[NDArray[Any]]

_LENGTHS = struct.Struct(">QQ")
_SECONDS_TO_END = 2.0
COMPILING = 10
"""Starting a backend and loading a model may take so many times as long as another answer."""
LATE = 20
"""Runs may take so many times as long as the last ones did, beside the time that an answer may take."""
_LONG_RUN_MS = 2.0
"""The first run after a request is about 0.02 ms slower, as the process has slept: 18 % of a sample of 0.12 ms, until
shorter runs than this got one more that is not timed."""


def send(stream: IO[bytes], message: Mapping[str, Any], arrays: Arrays = ()) -> None:
    """Write one frame."""
    head, body = json.dumps(message).encode(), io.BytesIO()
    if arrays:
        np.savez(body, *arrays)
    stream.write(_LENGTHS.pack(len(head), len(body.getbuffer())) + head)
    stream.write(body.getbuffer())
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], Arrays] | None:
    """Read one frame; None where the stream ends, be it inside a frame."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    head_length, body_length = _LENGTHS.unpack(lengths)
    head, body = stream.read(head_length), stream.read(body_length)
    if len(head) + len(body) < head_length + body_length:
        return None
    if not body:
        return json.loads(head), ()
    with np.load(io.BytesIO(body), allow_pickle=False) as npz:
        return json.loads(head), [npz[f"arr_{i}"] for i in range(len(npz.files))]


# -- in the process ----------------------------------------------------------------------------------------------------


def serve(open_backend: Callable[[Mapping[str, Any]], Backend], requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until there are no more.

    Args:
        open_backend: opens the device of a profile, given its fields.
        requests: frames with ``command``, its arguments, and ``unload``: handles of models that nobody needs any more.
        answers: one frame for each request.
    """
    waiting: queue.SimpleQueue[tuple[dict[str, Any], Arrays]] = queue.SimpleQueue()

    def read() -> None:
        while (frame := receive(requests)) is not None:
            waiting.put(frame)
        os._exit(0)  # nobody waits any more for what the main thread may be compiling

    threading.Thread(target=read, daemon=True).start()
    served = _Served(open_backend)
    while True:
        request, arrays = waiting.get()
        try:
            result, arrays = served.answer(request, arrays)
            send(answers, {"result": result}, arrays)
        except NasError as error:
            known = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
            send(answers, {"error": known.__name__, "message": str(error)})
        except Exception:  # a fault in the backend: raised on the other side, as it would be without this process
            send(answers, {"fault": traceback.format_exc()})


class _Served:
    def __init__(self, open_backend: Callable[[Mapping[str, Any]], Backend]) -> None:
        self._open = open_backend
        self._backend: Backend | None = None
        self._loads: dict[int, Loaded] = {}
        self._run_ms: dict[int, float] = {}  # of the last sample

    def answer(self, request: Mapping[str, Any], arrays: Arrays) -> tuple[Any, Arrays]:
        command = request["command"]
        for word in request.get("trust", ()):
            trust.trust(word)
        if self._backend is None:
            self._backend = self._open(request["profile"])
            chosen = {"cpus": sorted(os.sched_getaffinity(0))} if request["cpus"] else {}
            found = dataclasses.asdict(self._backend.capabilities)
            return {"environment": {**self._backend.environment, **chosen}, "capabilities": found}, ()
        for handle in request["unload"]:
            self._loads.pop(handle, None)
            self._run_ms.pop(handle, None)
        if command == "close":
            self._loads.clear()
            self._backend.close()
            return None, ()
        if command == "load":
            loaded = self._backend.load(_model_from(request, arrays))
            self._loads[request["handle"]] = loaded
            return None, ()
        loaded = self._loads[request["handle"]]
        if command == "sample":
            if self._run_ms.get(request["handle"], 0.0) < _LONG_RUN_MS:
                loaded.sample_ms(1)
            sample = loaded.sample(request["runs"])
            self._run_ms[request["handle"]] = float(sample.ms)
            return [float(sample.ms), sample.share, sample.disturbed], ()
        if command == "positions":
            return {name: float(ms) for name, ms in loaded.positions_ms(request["runs"]).items()}, ()
        if command == "values":
            return dict(reported_values(loaded, request["runs"], self._backend.capabilities.metrics)), ()
        names = request["inputs"]
        output = loaded.run(arrays[0] if names is None else dict(zip(names, arrays, strict=True)))
        return _parts(output)


def _parts(batch: Batch | None) -> tuple[list[str] | None, Arrays]:
    """Names, None of a single array, and arrays of what a network takes or gives; no array at all for nothing."""
    if batch is None:
        return None, ()
    return (list(batch), list(batch.values())) if isinstance(batch, Mapping) else (None, (batch,))


def _request_for(model: Model) -> tuple[dict[str, Any], Arrays]:
    request = {
        "network": model.to_json(),
        "trust": trust.words(*(type(layer).__module__ for layer in model.layers.values())),
        "weights": None if model.weights is None else list(model.weights),
        "ranges": model.ranges,
    }
    return request, list((model.weights or {}).values())


def _model_from(request: Mapping[str, Any], arrays: Arrays) -> Model:
    names = request["weights"]
    weights = None if names is None else dict(zip(names, arrays, strict=True))
    ranges = request["ranges"]
    return Model(
        Network.from_json(request["network"]),
        weights,
        None if ranges is None else [(low, high) for low, high in ranges],
    )


# -- on the side that measures -----------------------------------------------------------------------------------------


class _DiedError(Exception):
    """The process died; the message says how."""


class _Process:
    """One process with the backend opened, in which the same code is trusted as here.

    Raises:
        NasError: the backend cannot be opened.
        _DiedError: the process died of it.
    """

    def __init__(self, profile: DeviceProfile) -> None:
        cpus = None if profile.cpus is None else list(profile.cpus)
        settings = {"cpus": cpus, "path": [path or os.getcwd() for path in sys.path]}
        inner = dataclasses.asdict(dataclasses.replace(profile, isolated=False, cpus=None))
        trusted = trust.words(profile.backend) if "." in profile.backend else trust.words()
        self._said = tempfile.TemporaryFile("a+b")
        self._popen = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("worker_main.py")), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            start_new_session=True,  # Ctrl-C in the terminal is for the measuring side alone, which then ends this one
        )
        self._limit = TimeLimit(self._popen)
        self.end = weakref.finalize(self, _end, self._popen, self._said)
        try:
            request = {"command": "open", "profile": inner, "cpus": cpus, "trust": trusted}
            opened = self.ask(request, (), COMPILING * profile.timeout_s)[0]
            self.environment: dict[str, Any] = opened["environment"]
            self.capabilities = check(opened["capabilities"], Capabilities, "capabilities", "")
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        return self._popen.pid

    def ask(self, request: Mapping[str, Any], arrays: Arrays, limit_s: float) -> tuple[Any, Arrays]:
        """The result of a request, or the error that it raises; a process that takes longer is ended."""
        assert self._popen.stdin is not None and self._popen.stdout is not None
        self._said.truncate(0)  # so that what is there later is of this request
        try:
            with self._limit.of(limit_s):
                send(self._popen.stdin, request, arrays)
                answer = receive(self._popen.stdout)
        except BrokenPipeError:
            answer = None
        except BaseException:  # Ctrl-C: the answer that is still to come must not be taken for that to another request
            self.end()
            raise
        if answer is None:
            raise _DiedError(self._death())
        message, arrays = answer
        if "error" in message:
            raise getattr(errors, message["error"])(message["message"])
        if "fault" in message:
            raise RuntimeError(f"The backend's process raised an error:\n{message['fault']}")
        return message["result"], arrays

    def _death(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(_SECONDS_TO_END)
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), None)
        code = self._popen.returncode
        self.end()
        if self._limit.exceeded_s is not None:
            return f"did not answer within {self._limit.exceeded_s:g} s (`timeout_s` of the device) and was ended"
        if code is not None and code < 0:
            names = {int(s): s.name for s in signal.Signals}
            how = f"died with signal {-code} ({names.get(-code, 'unknown')})"
        else:
            how = f"ended with exit code {code}"
        return how + (f'; its last words were "{last[-500:]}"' if last else "")


def _end(popen: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    assert popen.stdin is not None and popen.stdout is not None
    with contextlib.suppress(OSError):  # it has ended by itself, with a request unread
        popen.stdin.close()
    try:
        popen.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        os.killpg(popen.pid, signal.SIGKILL)  # with the compilers that it runs
        popen.wait()
    popen.stdout.close()
    said.close()


class WorkerLoaded(Loaded):
    """A model loaded in the process; loaded again where the process is another one by now."""

    def __init__(self, worker: WorkerBackend, model: Model, handle: int) -> None:
        self._worker = worker
        self.model = model
        self.handle = handle
        self.process: _Process | None = None
        """In which it is loaded."""
        self._run_ms = 0.0

    def sample_ms(self, runs: int) -> float:
        return self.sample(runs).ms

    def sample(self, runs: int) -> Sample:
        """See `Loaded.sample`; the process that runs the network is the one that is watched."""
        taken = Sample(*self._worker.ask(self, "sample", expected_s=self._run_ms * runs / 1e3, runs=runs)[0])
        self._run_ms = taken.own_ms  # the wall's would let a process that hangs after a pause go on for as long
        return taken

    def positions_ms(self, runs: int) -> Mapping[str, float]:
        expected = self._run_ms * runs / 1e3
        result: dict[str, float] = self._worker.ask(self, "positions", expected_s=expected, runs=runs)[0]
        return result

    def values(self, runs: int) -> Values:
        expected = self._run_ms * runs / 1e3
        result: Values = self._worker.ask(self, "values", expected_s=expected, runs=runs)[0]
        return result

    def run(self, images: Batch) -> Batch | None:
        names, given = _parts(images)
        outputs, arrays = self._worker.ask(self, "run", given, inputs=names)
        if not arrays:
            return None
        return arrays[0] if outputs is None else dict(zip(outputs, arrays, strict=True))


class WorkerBackend(Backend):
    """The profile's backend in a process of its own, on the profile's CPUs.

    A model on which the process dies is tried once more, in a fresh one, because an earlier model may have been the
    cause (a leak, say). Other models are loaded anew when they are used next.

    Args:
        profile: with ``isolated``.

    Raises:
        InvalidValueError: the profile names CPUs that this process cannot use, or its backend refuses it.
        DeviceUnavailableError: the backend cannot run here, or CPUs cannot be chosen on this system.
    """

    def __init__(self, profile: DeviceProfile) -> None:
        self._profile = profile
        self._handles = itertools.count()
        self._unneeded: list[int] = []  # handles; filled by the garbage collector, so at any moment
        self._is_closed = False
        _check_cpus(profile)
        try:
            self._process = _Process(profile)
        except _DiedError as died:
            raise DeviceUnavailableError(f"{self._who} {died}, on opening it.") from None
        self._environment = self._process.environment
        self.capabilities = self._process.capabilities  # of the profile, which may be fewer than the backend's

    @property
    def environment(self) -> dict[str, Any]:
        return self._environment

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def load(self, model: Model) -> WorkerLoaded:
        loaded = WorkerLoaded(self, model, next(self._handles))
        weakref.finalize(loaded, self._unneeded.append, loaded.handle).atexit = False
        self.ask(loaded, None)
        return loaded

    def ask(
        self,
        loaded: WorkerLoaded,
        command: str | None,
        arrays: Arrays = (),
        *,
        expected_s: float = 0.0,
        **arguments: Any,
    ) -> tuple[Any, Arrays]:
        """The result of a command about a model, which is loaded first where it is not; None: no command but that.

        Args:
            loaded: the model.
            command: what to do with it.
            arrays: that the command takes.
            expected_s: about how long it takes, where that is known.
            arguments: further ones of the command.

        Raises:
            MeasurementError: the model does not compile or run, or the process dies of it or does not answer.
            DeviceLostError: the backend cannot be opened any more, or is closed.
        """
        for attempt in (1, 2):
            doing = "loading"
            process = self._running()
            try:
                if loaded.process is not process:
                    request, weights = _request_for(loaded.model)
                    limit_s = COMPILING * self._profile.timeout_s
                    self._ask(process, loaded, "load", request, weights, limit_s)
                    loaded.process = process
                if command is None:
                    return None, ()
                doing = "running"
                limit_s = self._profile.timeout_s + LATE * expected_s
                return self._ask(process, loaded, command, arguments, arrays, limit_s)
            except _DiedError as died:
                if attempt == 2:
                    raise MeasurementError(f"{self._who} {died}, on {doing} the model.") from None
        raise AssertionError

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self._process.end.alive:
                self._process.ask({"command": "close", "unload": ()}, (), self._profile.timeout_s)
        except _DiedError:
            pass  # as good as closed
        finally:
            self._process.end()

    @property
    def _who(self) -> str:
        return f"Device {self._profile.name!r}: the process of backend {self._profile.backend}"

    def _ask(
        self,
        process: _Process,
        loaded: WorkerLoaded,
        command: str,
        arguments: Mapping[str, Any],
        arrays: Arrays,
        limit_s: float,
    ) -> tuple[Any, Arrays]:
        unload = [self._unneeded.pop() for _ in range(len(self._unneeded))]
        request = {"command": command, "handle": loaded.handle, "unload": unload, **arguments}
        return process.ask(request, arrays, limit_s)

    def _running(self) -> _Process:
        if self._is_closed:
            raise DeviceLostError(f"Device {self._profile.name!r} is closed: open it again.")
        if not self._process.end.alive:
            try:
                self._process = _Process(self._profile)
            except _DiedError as died:
                raise DeviceLostError(f"{self._who} {died}, on opening it again.") from None
            except DeviceUnavailableError as error:
                raise DeviceLostError(str(error)) from error
            self._environment = self._process.environment
        return self._process


def _check_cpus(profile: DeviceProfile) -> None:
    if profile.cpus is None:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise DeviceUnavailableError(
            f"Device {profile.name!r}: `cpus` cannot be chosen on {sys.platform}; leave it out."
        )
    usable = sorted(os.sched_getaffinity(0))
    if not set(profile.cpus) <= set(usable):
        raise InvalidValueError(
            f"Device {profile.name!r}: `cpus` must be among those that this process may use, {usable}, but got "
            f"{list(profile.cpus)}."
        )

"""TVM on boards and phones that this computer reaches through TVM's RPC: its tracker, or the server of one board.

A network is compiled and linked here; the board gets a shared library, runs it and takes the time itself, so that the
connection is not in the numbers. ``docs/boards.md`` says how to connect a board.

TVM's RPC waits without end: for a tracker's answer, for a server that is busy, for a board whose cable was pulled. So
the tracker is asked here rather than by TVM's client, and the sockets of TVM's sessions get a time limit.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import logging
import math
import os
import queue
import re
import shutil
import socket
import stat
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.backends.base import Backend, Capabilities, Loaded
from hardware_profiles.device import DeviceProfile
from hardware_profiles.model import Batch, Model
from search_spaces.base.errors import (
    DeviceLostError,
    DeviceUnavailableError,
    InvalidValueError,
    MeasurementError,
    NasError,
)
from search_spaces.base.values import whole_number
from search_spaces.layers import Conv

try:
    import tvm
    from tvm import relax, rpc
    from tvm.support import cc
    from tvm.target import codegen

    from hardware_profiles.tvm import stamps as tvm_stamps
    from hardware_profiles.tvm.compiler import Compiler, last_line, refusals
    from hardware_profiles.tvm.graph import outputs_of, to_memory
except ModuleNotFoundError as error:
    raise DeviceUnavailableError(
        "Backend tvm_rpc needs Apache TVM, which is not installed. Run `pip install 'hwnas[tvm]'`."
    ) from error

logger = logging.getLogger(__name__)

CAPABILITIES = Capabilities(
    options={
        "target": "the board's processor, a mapping as TVM takes it, e.g. {kind: llvm, mtriple: aarch64-linux-gnu}",
        "tracker": "host:port of the tracker that the boards are registered with",
        "key": "what the boards are registered as",
        "server": "host:port of one board's server, instead of a tracker",
        "cross_compiler": "the C++ compiler that links for the board (default: this computer's own)",
        "cores": "big or little: the kind of cores that the board uses (default big)",
        "boards": "most boards that are used at once (default: all that are free)",
        "connect_seconds": "longest wait for a connection (default 10)",
        "answer_seconds": "a board that gives no answer for so long is lost (default 60)",
    },
    required=("target",),
    programs=("cross_compiler",),
    in_context=True,
)

_CORES = {"big": 1, "little": -1}  # TVM's affinity modes, of which the others need a list of cores
_ARCHITECTURES = re.compile(r"aarch64|arm64|armv\d\w*|x86_64|riscv64")
_SECONDS_TO_REGISTER = 1.0
"""A server is free again so soon after a session."""
_PROBE = Conv(3, 8, 3, 1, "relu", 4)

Address = tuple[str, int]
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class RpcSettings:
    """The options of a profile, checked; see `CAPABILITIES`."""

    device: str
    tracker: Address | None
    server: Address | None
    key: str
    cores: str
    boards: int | None
    connect_seconds: float
    answer_seconds: float

    @staticmethod
    def of(profile: DeviceProfile) -> RpcSettings:
        """Settings of a profile.

        Raises:
            InvalidValueError: the first that breaks a rule.
        """
        options, who = profile.options, f"Device {profile.name!r}"
        if ("tracker" in options) == ("server" in options):
            raise InvalidValueError(f"{who} needs one of the options `tracker` and `server`, host:port, and not both.")
        key = options.get("key", "")
        if not isinstance(key, str) or re.search(r"\s", key) or ("tracker" in options and not key):
            raise InvalidValueError(f"{who}: `key` must be a word beside `tracker`, but got {key!r}.")
        cores = options.get("cores", "big")
        if cores not in _CORES:
            raise InvalidValueError(f"{who}: `cores` must be one of {', '.join(_CORES)}, but got {cores!r}.")
        boards = options.get("boards")
        if boards is not None and (type(boards) is not int or boards < 1):
            raise InvalidValueError(f"{who}: `boards` must be a whole number >= 1, but got {boards!r}.")
        return RpcSettings(
            device=profile.name,
            tracker=_address(options, "tracker", who),
            server=_address(options, "server", who),
            key=key,
            cores=cores,
            boards=boards,
            connect_seconds=_seconds(options, "connect_seconds", 10, who),
            answer_seconds=_seconds(options, "answer_seconds", 60, who),
        )


def _address(options: Mapping[str, Any], name: str, who: str) -> Address | None:
    if name not in options:
        return None
    host, _, port = str(options[name]).rpartition(":")
    number = whole_number(port)
    if not host or number is None or not 0 < number < 2**16:
        raise InvalidValueError(f"{who}: `{name}` must be host:port, e.g. 127.0.0.1:9190, but got {options[name]!r}.")
    return host, number


def _seconds(options: Mapping[str, Any], name: str, default: float, who: str) -> float:
    seconds = options.get(name, default)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise InvalidValueError(f"{who}: `{name}` must be a number > 0, but got {seconds!r}.")
    return float(seconds)


class Libraries:
    """Shared libraries for boards of one kind.

    Threads of several boards can ask at once: TVM compiles for one at a time, linkers run side by side.
    """

    def __init__(self, profile: DeviceProfile) -> None:
        self._profile = profile
        self.target = _target(profile)
        self._linker = _linker(profile)
        self._compiler = Compiler(self.target, profile.threads)
        self._lock = threading.Lock()

    def build(self, model: Model, *, stamped: bool = False) -> bytearray:
        """A shared library with the network and its weights.

        Args:
            model: the network.
            stamped: it notes when each position ends; see `tvm_stamps`.

        Raises:
            MeasurementError: TVM cannot compile the model.
            InvalidValueError: the linker cannot link for the target.
        """
        if stamped and str(self.target.attrs.get("mtriple", "")).startswith("armv"):
            raise MeasurementError(
                f"Device {self._profile.name!r}: a 32-bit processor cannot be timed inside a network. Measure layers "
                "isolated instead."
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "network.so")
            with self._lock, refusals(self._profile.name):
                executable = self._compiler.compile(model, self._profile.batch, stamped=stamped)
                objects, options = executable.export_library(
                    path, workspace_dir=folder, fcompile=lambda _, objects, options=None: (objects, options)
                )
            try:
                cc.create_shared(str(path), objects, options, cc=self._linker)
            except (RuntimeError, OSError) as error:
                said = str(error).partition("Command line:")[0].removeprefix("Compilation error:").split("\n")
                reason = next((line for line in said if line), "it says nothing").rstrip(".")
                raise InvalidValueError(
                    f"Device {self._profile.name!r}: {self._linker} cannot link for `target` "
                    f"{dict(self._profile.options['target'])}: {reason}. `cross_compiler` must name a C++ compiler for "
                    "that target, such as aarch64-linux-gnu-g++ of Debian's package g++-aarch64-linux-gnu."
                ) from error
            return bytearray(path.read_bytes())

    def clear(self) -> None:
        """Forget all kernels."""
        with self._lock:
            self._compiler.clear()


def _target(profile: DeviceProfile) -> Any:
    """The profile's target, checked, because LLVM crashes the process on some that it does not know.

    Raises:
        InvalidValueError: TVM does not know it.
    """
    options = profile.options["target"]

    def refuse(reason: str) -> InvalidValueError:
        return InvalidValueError(f"Device {profile.name!r}: `target` {options!r} cannot be used: {reason}.")

    if not isinstance(options, Mapping) or options.get("kind") != "llvm":
        raise refuse("it must be a mapping with `kind: llvm`, e.g. {kind: llvm, mtriple: aarch64-linux-gnu}")
    triple = str(options.get("mtriple", codegen.llvm_get_system_triple()))
    if not _ARCHITECTURES.fullmatch(triple.partition("-")[0]):
        raise refuse("its `mtriple` must begin with aarch64, armv7l, x86_64 or riscv64")
    processors = list(codegen.llvm_get_cpu_archlist(tvm.target.Target({"kind": "llvm", "mtriple": triple})))
    processor = options.get("mcpu", "generic")
    if processor != "generic" and processor not in processors:
        close = difflib.get_close_matches(str(processor), processors, 1)
        raise refuse(f"LLVM does not know the `mcpu` for {triple}" + (f"; did you mean {close[0]}?" if close else ""))
    try:
        return tvm.target.Target(dict(options))
    except (TypeError, ValueError) as error:
        raise refuse(last_line(error)) from error


def _linker(profile: DeviceProfile) -> str:
    """The compiler that links for the board.

    Raises:
        DeviceUnavailableError: it is not installed here.
    """
    wanted = profile.options.get("cross_compiler")
    if wanted is None:
        linker: str | None = cc.get_cc()
        if linker is None:
            raise DeviceUnavailableError(f"Device {profile.name!r} needs a C++ compiler to link. Install g++.")
        return linker
    command = os.path.expandvars(str(wanted))
    if variable := re.search(r"\$\{?(\w+)", command):
        raise DeviceUnavailableError(
            f"Device {profile.name!r} needs the environment variable {variable[1]}, its cross compiler. For Android "
            "set it to the NDK's, e.g. .../toolchains/llvm/prebuilt/linux-x86_64/bin/aarch64-linux-android24-clang++."
        )
    if shutil.which(command) is None:
        gnu = re.fullmatch(r"(?:.*/)?([\w-]+)-g\+\+", command)
        package = f"Debian's package g++-{gnu[1]}" if gnu else "it, or correct `cross_compiler`"
        raise DeviceUnavailableError(
            f"Device {profile.name!r} needs the cross compiler {command}, which is not installed. Install {package}."
        )
    return command


class Tracker:
    """A connection to TVM's tracker.

    Raises:
        DeviceUnavailableError: none answers at the address; so all methods.
    """

    def __init__(self, settings: RpcSettings, address: Address) -> None:
        self._settings = settings
        self.where = "{}:{}".format(*address)
        with self._answers():
            self._socket = socket.create_connection(address, settings.connect_seconds)
        try:
            with self._answers():
                self._socket.sendall(struct.pack("<i", rpc.base.RPC_TRACKER_MAGIC))
                if struct.unpack("<i", rpc.base.recvall(self._socket, 4))[0] != rpc.base.RPC_TRACKER_MAGIC:
                    raise ValueError("what answers there is no tracker")
        except BaseException:
            self.close()
            raise

    def keys(self) -> list[str]:
        """The key of each registered board, used or free."""
        summary = self._ask([rpc.base.TrackerCode.SUMMARY])
        return sorted(str(server["key"]).removeprefix("server:") for server in summary["server_info"])

    def free(self, key: str) -> int:
        """Boards of a key that nobody uses."""
        summary = self._ask([rpc.base.TrackerCode.SUMMARY])
        return int(summary["queue_info"].get(key, {"free": 0})["free"])

    def request(self, key: str) -> tuple[Address, str] | None:
        """Address of a free board, and the word to greet it with; None if none gets free in time."""
        try:
            host, port, greeting = self._ask([rpc.base.TrackerCode.REQUEST, key, "", 1])
        except DeviceUnavailableError as error:
            if isinstance(error.__cause__, TimeoutError):
                return None
            raise
        return (str(host), int(port)), str(greeting)

    def close(self) -> None:
        """Hang up; a request that waits is withdrawn."""
        self._socket.close()

    def _ask(self, message: list[Any]) -> Any:
        with self._answers():
            rpc.base.sendjson(self._socket, message)
            status, answer = rpc.base.recvjson(self._socket)
            if status != rpc.base.TrackerCode.SUCCESS:
                raise ValueError(f"it refuses with {answer!r}")
            return answer

    @contextlib.contextmanager
    def _answers(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, TypeError, struct.error) as error:  # no connection, or not the tracker's protocol
            raise DeviceUnavailableError(
                f"Device {self._settings.device!r}: no answer from a TVM tracker at {self.where} ({error}). Start one "
                "with `python -m tvm.exec.rpc_tracker`, or correct `tracker`; see docs/boards.md."
            ) from error


class Session:
    """A session with the server of one board.

    Raises:
        DeviceUnavailableError: no server answers there in time.
    """

    def __init__(self, settings: RpcSettings, address: Address, key: str) -> None:
        self._settings = settings
        self.where = "{}:{}".format(*address)
        try:
            # IPv4, because that is what TVM's servers listen on; as a number, to know TVM's socket by it.
            found = socket.getaddrinfo(*address, socket.AF_INET, socket.SOCK_STREAM)[0][4]
            numeric = str(found[0]), int(found[1])
            with _connecting:
                before = {connection.getsockname() for connection in _connections_to(numeric)}
                try:
                    self.rpc = _within(settings.connect_seconds, lambda: rpc.connect(*numeric, key))
                except TimeoutError:
                    # Else a server that is busy or stopped would one day serve the call that was left behind.
                    for connection in _connections_to(numeric):
                        if connection.getsockname() not in before:
                            _hang_up(connection)
                    raise
                (self._socket,) = (c.dup() for c in _connections_to(numeric) if c.getsockname() not in before)
        except Exception as error:  # TVM's exceptions share no base class
            reason = last_line(error) or type(error).__name__
            raise DeviceUnavailableError(
                f"Device {settings.device!r}: no TVM RPC server that is free answers at {self.where} ({reason}). Start "
                "`python -m tvm.exec.rpc_server` on the board and look what it prints; see docs/boards.md."
            ) from error
        seconds, fraction = divmod(settings.answer_seconds, 1)
        limit = struct.pack("@ll", int(seconds), int(fraction * 1e6))  # struct timeval
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self.is_lost = False

    @contextlib.contextmanager
    def remotely(self) -> Iterator[None]:
        """Context of calls on the board: what goes wrong there, and whether the board still answers.

        Raises:
            MeasurementError: the board refuses, but answers.
            DeviceLostError: it does not answer any more.
        """
        if self.is_lost:
            raise DeviceLostError(f"Device {self._settings.device!r}: the session with {self.where} has ended.")
        start = time.monotonic()
        try:
            yield
        except NasError:
            raise
        except Exception as error:  # TVM's exceptions share no base class
            in_time = time.monotonic() - start < self._settings.answer_seconds
            if in_time and self._answers():
                raise MeasurementError(
                    f"Device {self._settings.device!r} cannot run the model: {last_line(error)}."
                ) from error
            self.close()
            raise DeviceLostError(
                f"Device {self._settings.device!r}: the board at {self.where} "
                + (f"was lost ({last_line(error)})." if in_time else "gave no answer in `answer_seconds`.")
            ) from error

    def _answers(self) -> bool:
        try:
            self.rpc.get_function("runtime.NumThreads")()
        except Exception:  # TVM's exceptions share no base class
            return False
        return True

    def close(self) -> None:
        """Hang up, also where TVM still holds objects of the board: freeing them then waits for nothing."""
        if not self.is_lost:
            self.is_lost = True
            _hang_up(self._socket)
            self._socket.close()


_connecting = threading.Lock()


def _connections_to(address: Address) -> Iterator[socket.socket]:
    """Duplicates of this process's sockets that are connected to an address, each until the next. TVM hides its own."""
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile, or not connected
            # Sockets only, because to close the duplicate of a file gives up the process's locks on it.
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.fromfd(int(name), socket.AF_INET, socket.SOCK_STREAM) as connection:
                    if connection.getpeername() == address:
                        yield connection


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side was faster
        connection.shutdown(socket.SHUT_RDWR)


def _within(seconds: float, call: Callable[[], Result]) -> Result:
    """Result of a call; after so many seconds `TimeoutError`, and the call is left behind in its thread."""
    results: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            results.put((call(), None))
        except BaseException as error:  # raised again by who asked
            results.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


class LoadedOnBoard(Loaded):
    """A network on the virtual machine of a board, with inputs of random numbers in the board's memory."""

    def __init__(self, board: Board, session: Session, model: Model, batch: int) -> None:
        self._board, self._session, self._model = board, session, model
        self._machine = board.machine(model)
        with session.remotely():
            self._processor = session.rpc.cpu()
            self._inputs = [self._send(array) for array in model.random_inputs(batch)]

    def sample_ms(self, runs: int) -> float:
        # The board repeats the call and takes the time, after one call that it does not count.
        with self._session.remotely():
            evaluator = self._machine.time_evaluator("main", self._processor, number=runs, repeat=1)
            return float(evaluator(*self._inputs).mean) * 1e3

    def positions_ms(self, runs: int) -> Mapping[str, float]:
        stamped = self._stamped
        with self._session.remotely():
            return tvm_stamps.positions_ms(stamped, self._processor, self._inputs, list(self._model.layers), runs)

    def run(self, images: Batch) -> Batch | None:
        with self._session.remotely():
            inputs = [self._send(array) for array in self._model.inputs(images)]
            # A call would give several outputs as one object, which stays on the board.
            self._machine.set_input("main", *inputs)
            self._machine.invoke_stateful("main")
            return outputs_of(self._machine.get_outputs("main"), self._model)

    @functools.cached_property
    def _stamped(self) -> Any:
        return self._board.machine(self._model, stamped=True)

    def _send(self, array: NDArray[np.float32]) -> Any:
        return tvm.runtime.tensor(to_memory(array), self._processor)


class Board(Backend):
    """One board, which has shown that it runs what is compiled for it.

    Raises:
        InvalidValueError: it cannot load what the profile's target and compiler make.
        DeviceUnavailableError: it does not run as many threads, or was lost on the way.
    """

    capabilities = CAPABILITIES

    def __init__(self, profile: DeviceProfile, settings: RpcSettings, libraries: Libraries, session: Session) -> None:
        self._profile = profile
        self._settings = settings
        self._libraries = libraries
        self._session = session
        self._count = 0
        self._latest: tuple[Model, bool, bytearray] | None = None
        try:
            self._threads = self._apply_threads()
            self._processor = self._read_processor()
            self.load(Model.of_layer(_PROBE))
        except MeasurementError as error:
            self.close()
            reason = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise InvalidValueError(
                f"Device {profile.name!r}: the board at {session.where} cannot run a single convolution that is "
                f"compiled for it ({last_line(reason)}). `target` and `cross_compiler` must fit its processor, and its "
                f"TVM must be version {tvm.__version__}."
            ) from error
        except DeviceLostError as error:
            raise DeviceUnavailableError(
                f"{error} That was on trying the first network: if its server has crashed, `target` asks for what the "
                "board's processor does not have."
            ) from error
        except BaseException:
            self.close()
            raise

    @property
    def environment(self) -> dict[str, Any]:
        return {
            "tvm": tvm.__version__,
            "target": str(self._libraries.target),
            "threads": self._threads,
            "cores": self._settings.cores,
            **({"board_processor": self._processor} if self._processor else {}),
        }

    @property
    def is_lost(self) -> bool:
        """True: it did not answer, or was closed."""
        return self._session.is_lost

    def load(self, model: Model) -> LoadedOnBoard:
        loaded = LoadedOnBoard(self, self._session, model, self._profile.batch)
        loaded.sample_ms(1)
        return loaded

    def machine(self, model: Model, *, stamped: bool = False) -> Any:
        """A virtual machine on the board with the network.

        Args:
            model: the network.
            stamped: ``main`` takes a log as well; see `tvm_stamps`.

        Raises:
            MeasurementError: the network cannot be compiled, or the board refuses it.
            DeviceLostError: the board does not answer any more.
        """
        library = self._library(model, stamped)
        self._count += 1
        name = f"network_{self._count}.so"  # another one for each load, because a loaded file is not read again
        with self._session.remotely():
            self._session.rpc.upload(library, name)
            module = self._session.rpc.load_module(name)
            self._session.rpc.remove(name)  # it stays in memory; the server deletes all others when the session ends
            return relax.VirtualMachine(module, self._session.rpc.cpu())

    def close(self) -> None:
        self._session.close()

    def _library(self, model: Model, stamped: bool) -> bytearray:
        # A model is loaded several times in a row.
        if self._latest is None or self._latest[0] is not model or self._latest[1] != stamped:
            self._latest = model, stamped, self._libraries.build(model, stamped=stamped)
        return self._latest[2]

    def _apply_threads(self) -> int:
        wanted = self._profile.threads
        with self._session.remotely():
            self._session.rpc.get_function("runtime.config_threadpool")(_CORES[self._settings.cores], wanted)
            threads = int(self._session.rpc.get_function("runtime.NumThreads")())
        if threads != wanted:
            raise DeviceUnavailableError(
                f"Device {self._profile.name!r} needs {wanted} threads, but the board at {self._session.where} runs "
                f"{threads}. Start its server with TVM_NUM_THREADS={wanted}, or lower `threads`."
            )
        return threads

    def _read_processor(self) -> str | None:
        """Name in LLVM of the board's processor, where the board's TVM has LLVM."""
        with contextlib.suppress(MeasurementError), self._session.remotely():
            return str(self._session.rpc.get_function("tvm.codegen.llvm.GetHostCPUName")())
        return None


class TvmRpcBackend(Backend):
    """All boards of a profile. It reaches one on opening, the others when `boards` asks for them."""

    capabilities = CAPABILITIES

    def __init__(self, profile: DeviceProfile) -> None:
        self._profile = profile
        self._settings = RpcSettings.of(profile)
        self._libraries = Libraries(profile)
        self._boards: list[Board] = []
        self._reach(1)
        self._environment = self._boards[0].environment

    @property
    def environment(self) -> dict[str, Any]:
        return self._environment

    def load(self, model: Model) -> LoadedOnBoard:
        return (self._alive() or self._boards)[0].load(model)

    def boards(self) -> Sequence[Board]:
        self._reach(self._settings.boards or sys.maxsize)
        return tuple(self._boards)

    def close(self) -> None:
        for board in self._boards:
            board.close()
        self._libraries.clear()

    def _alive(self) -> list[Board]:
        return [board for board in self._boards if not board.is_lost]

    def _reach(self, most: int) -> None:
        """Add free boards until so many answer, and forget those that are lost.

        Raises:
            DeviceUnavailableError: none answers.
        """
        failures: list[DeviceUnavailableError] = []
        for address, key in self._free_servers(most):
            try:
                session = Session(self._settings, address, key)
                self._boards.append(Board(self._profile, self._settings, self._libraries, session))
            except DeviceUnavailableError as error:
                failures.append(error)
            if len(self._alive()) >= most:
                break
        if not self._alive():
            raise next(iter(failures), None) or DeviceUnavailableError(
                f"Device {self._settings.device!r}: all boards with key {self._settings.key!r} are in use, or do not "
                "answer. Wait until their users are done, or start their servers again."
            )
        for failure in failures:
            logger.warning("Goes on without a board. %s", failure)
        self._boards = self._alive()

    def _free_servers(self, most: int) -> Iterator[tuple[Address, str]]:
        """Address and greeting of servers that nobody uses. Waits for one where there is no other board."""
        settings, used = self._settings, len(self._alive())
        if used >= most:
            return
        if settings.server is not None:
            if not used:
                yield settings.server, settings.key
            return
        assert settings.tracker is not None
        with contextlib.closing(Tracker(settings, settings.tracker)) as tracker:
            keys = tracker.keys()
            registered = keys.count(settings.key)
            if not registered and not self._boards:
                listed = ", ".join(f"{key} ({keys.count(key)})" for key in dict.fromkeys(keys)) or "no board at all"
                raise DeviceUnavailableError(
                    f"Device {settings.device!r}: the tracker at {tracker.where} has no board with key "
                    f"{settings.key!r}; it has {listed}. Start `python -m tvm.exec.rpc_server` with that key on the "
                    "board, or correct `key`; see docs/boards.md."
                )
            deadline = time.monotonic() + _SECONDS_TO_REGISTER
            while tracker.free(settings.key) < min(registered, most) - used and time.monotonic() < deadline:
                time.sleep(0.1)
            for _ in range(max(tracker.free(settings.key), 0 if used else 1)):
                server = tracker.request(settings.key)
                if server is None:
                    return
                yield server


def open_backend(profile: DeviceProfile) -> TvmRpcBackend:
    """See `hardware_profiles.backends.base`."""
    return TvmRpcBackend(profile)

"""The TVM RPC backend with real trackers and servers on this computer's loopback, against ONNX Runtime."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

pytest.importorskip("tvm")
pytest.importorskip("tornado")
pytest.importorskip("cloudpickle")

from hardware_profiles.backend_contract import check_device
from hardware_profiles.backends.tvm_rpc import Libraries, RpcSettings, Tracker, TvmRpcBackend, open_backend
from hardware_profiles.device import DeviceProfile, load_device
from hardware_profiles.measure import Measurement, measure
from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import cpu_session, onnx_model
from search_spaces.base.errors import (
    DeviceLostError,
    DeviceUnavailableError,
    InvalidValueError,
    MeasurementError,
    MismatchError,
)
from search_spaces.layers import Conv, MBConv
from tests.hardware_profiles.mystery import MysteryConv
from tests.hardware_profiles.networks import graph

BLOCK = MBConv(8, 8, 16, True, 3, 1, 8, "h_swish", 4)
LOCALHOST = "127.0.0.1"
GNU = "aarch64-linux-gnu-g++"
needs_gnu = pytest.mark.skipif(shutil.which(GNU) is None, reason=f"needs {GNU}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOCALHOST, 0))
        return int(listener.getsockname()[1])


@dataclass
class Process:
    """A tracker or a server."""

    pid: int
    port: int
    log: Path

    @property
    def address(self) -> str:
        return f"{LOCALHOST}:{self.port}"

    def signal(self, number: int) -> None:
        os.killpg(self.pid, number)

    def count(self, event: str) -> int:
        return self.log.read_text().count(event)


class Lab:
    """A tracker with two boards of one key, and a board without tracker. `tvm_lab` starts and ends their processes."""

    def __init__(self, folder: Path, launcher: subprocess.Popen[str]) -> None:
        self._folder, self._launcher = folder, launcher
        self.tracker = self.start("tracker")
        self.direct = self.start("server")
        wait_until(lambda: accepts(self.tracker), self.tracker)  # servers look for it every 5 s only
        wait_until(lambda: accepts(self.direct), self.direct)
        self.boards = self.start_boards("board")

    def start(self, role: str, **settings: Any) -> Process:
        port = free_port()
        log = self._folder / f"{role}_{port}.log"
        order = {"role": role, "host": LOCALHOST, "port": port, "log": str(log), "tracker": None, "key": ""}
        assert self._launcher.stdin is not None and self._launcher.stdout is not None
        self._launcher.stdin.write(json.dumps({**order, **settings}) + "\n")
        self._launcher.stdin.flush()
        return Process(int(self._launcher.stdout.readline()), port, log)

    def start_boards(self, key: str) -> list[Process]:
        boards = [self.start("server", tracker=(LOCALHOST, self.tracker.port), key=key) for _ in range(2)]
        wait_until(lambda: self.free(key) == 2, self.tracker, *boards)
        return boards

    def free(self, key: str) -> int:
        settings = RpcSettings.of(board_profile(self, key=key))
        with contextlib.closing(Tracker(settings, (LOCALHOST, self.tracker.port))) as tracker:
            return tracker.free(key)


def accepts(process: Process) -> bool:
    with socket.socket() as client:
        return client.connect_ex((LOCALHOST, process.port)) == 0


def wait_until(condition: Callable[[], bool], *processes: Process) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, [process.log.read_text() for process in processes]
        time.sleep(0.05)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    command = [sys.executable, str(Path(__file__).with_name("tvm_lab.py"))]
    environment = {**os.environ, "TVM_NUM_THREADS": "2"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as launcher:
        yield Lab(tmp_path_factory.mktemp("lab"), launcher)


def board_profile(lab: Lab, *, without: tuple[str, ...] = (), **options: Any) -> DeviceProfile:
    defaults = {"target": {"kind": "llvm"}, "tracker": lab.tracker.address, "key": "board"}
    chosen = {name: value for name, value in {**defaults, **options}.items() if name not in without}
    return DeviceProfile(name="lab", title="Loopback", backend="tvm_rpc", options=chosen)


def direct_profile(lab: Lab, **options: Any) -> DeviceProfile:
    return board_profile(lab, without=("tracker", "key"), **{"server": lab.direct.address, **options})


@contextlib.contextmanager
def opened(profile: DeviceProfile) -> Iterator[TvmRpcBackend]:
    with contextlib.closing(open_backend(profile)) as backend:
        yield backend


def quick(profile: DeviceProfile) -> DeviceProfile:
    return dataclasses.replace(profile, runs=2, warm_up=1, passes=2, agreement=1e9, loads=1, pass_seconds=0)


@pytest.mark.parametrize("changes", [{}, {"threads": 2, "batch": 2}])
def test_keeps_the_contract(lab: Lab, changes: dict[str, Any]) -> None:
    check_device(dataclasses.replace(board_profile(lab), **changes))


def test_the_board_computes_what_onnx_runtime_computes(lab: Lab) -> None:
    model = Model.of_layer(BLOCK)
    images = np.random.default_rng(1).standard_normal((1, *model.input_shape), np.float32)
    session = ort.InferenceSession(onnx_model(model, 1).SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"image": images})
    with opened(direct_profile(lab)) as backend:
        loaded = backend.load(model)
        output = loaded.run(images)
        assert output is not None and output.shape == expected.shape
        np.testing.assert_allclose(output, expected, atol=1e-4)
        assert loaded.sample_ms(3) > 0
        assert not backend.estimates


def test_the_time_of_a_network_is_split_by_position(lab: Lab) -> None:
    layers = {"stem": Conv(3, 8, 3, 2, "relu", 16), "block": MBConv(8, 8, 64, True, 5, 1, 8, "h_swish", 8)}
    with opened(direct_profile(lab)) as backend:
        loaded = backend.load(Model(layers))
        positions = loaded.positions_ms(5)
        assert list(positions) == ["stem", "block"]
        assert all(0 < ms < 1e3 for ms in positions.values())
        assert loaded.sample_ms(1) > 0


def test_all_boards_of_a_key_are_used(lab: Lab, rng: np.random.Generator) -> None:
    profile = quick(board_profile(lab))
    before = [board.count("load_module") for board in lab.boards]
    with opened(profile) as backend:
        assert len(backend.boards()) == 2
        assert lab.free("board") == 0
        items = [(channels, Model.of_layer(Conv(3, channels, 3, 1, "relu", 8))) for channels in range(1, 9)]
        results = dict(measure(items, backend, profile, rng))
    assert set(results) == set(range(1, 9))
    assert all(isinstance(result, Measurement) for result in results.values())
    # Each has loaded the first network, the reference layer and some of the items.
    after = [board.count("load_module") for board in lab.boards]
    assert all(new - old > 2 for old, new in zip(before, after, strict=True))


@pytest.mark.slow
def test_no_more_boards_than_asked_for(lab: Lab) -> None:
    with opened(board_profile(lab, boards=1)) as backend:
        assert len(backend.boards()) == 1
        with opened(board_profile(lab)) as other:
            assert len(other.boards()) == 1
            with pytest.raises(DeviceUnavailableError, match="all boards with key 'board' are in use"):
                open_backend(board_profile(lab, connect_seconds=0.2))
    with opened(board_profile(lab)) as backend:
        assert len(backend.boards()) == 2


def test_leaves_no_files_on_the_board(lab: Lab) -> None:
    with opened(direct_profile(lab)) as backend:
        backend.load(Model.of_layer(BLOCK))
        folder = Path(re.findall("start serving at (.*)", lab.direct.log.read_text())[-1])
        assert folder.is_dir() and not list(folder.iterdir())


def test_inputs_and_weights_that_do_not_fit_are_refused(lab: Lab) -> None:
    model = Model.of_layer(BLOCK)
    with opened(direct_profile(lab)) as backend:
        loaded = backend.load(model)
        with pytest.raises(InvalidValueError, match=r"Input 'image' must have shape \(N, 8, 4, 4\)"):
            loaded.run(np.zeros((1, 3, 4, 4), np.float32))
        assert loaded.sample_ms(1) > 0
        with pytest.raises(MismatchError):
            backend.load(Model({"other": BLOCK}, {"layer.conv.weight": np.zeros(1, np.float32)}))


@pytest.mark.parametrize("isolated", [False, True])
def test_a_layer_that_tvm_lacks_fails_by_name_and_others_go_on(
    lab: Lab, rng: np.random.Generator, isolated: bool
) -> None:
    profile = dataclasses.replace(quick(board_profile(lab)), isolated=isolated)
    items = [
        (i, Model.of_layer(layer)) for i, layer in enumerate((BLOCK, MysteryConv(8, 4), Conv(8, 8, 1, 1, "relu", 4)))
    ]
    with contextlib.closing(profile.open()) as backend:
        results = dict(measure(items, backend, profile, rng))
    assert isinstance(results[0], Measurement) and isinstance(results[2], Measurement)
    assert isinstance(results[1], MeasurementError) and "TVM here has no operator Mystery" in str(results[1])


def test_a_graph_of_several_inputs_and_outputs(lab: Lab) -> None:
    model = Model(graph())
    inputs = dict(zip(model.network.inputs, model.random_inputs(1), strict=True))
    names = list(model.network.outputs)
    expected = cpu_session(onnx_model(model).SerializeToString()).run(names, inputs)
    with opened(direct_profile(lab)) as backend:
        loaded = backend.load(model)
        outputs, split_ms = loaded.run(inputs), loaded.positions_ms(2)
    assert isinstance(outputs, dict) and list(outputs) == names and list(split_ms) == list(model.layers)
    for output, array in zip(outputs.values(), expected, strict=True):
        np.testing.assert_allclose(output, array, atol=1e-5)


def test_work_goes_on_when_a_board_dies(lab: Lab, rng: np.random.Generator) -> None:
    mortals = lab.start_boards("mortal")
    profile = quick(board_profile(lab, key="mortal"))
    with opened(profile) as backend:
        first, second = backend.boards()
        items = [(channels, Model.of_layer(Conv(3, channels, 3, 1, "relu", 8))) for channels in range(1, 13)]
        results = {}
        for item, result in measure(items, backend, profile, rng):
            if not results:
                mortals[0].signal(signal.SIGKILL)
            results[item] = result
        assert set(results) == set(range(1, 13))
        assert all(isinstance(result, Measurement) for result in results.values())
        assert first.is_lost != second.is_lost
        (alive,) = backend.boards()

        loaded = alive.load(Model.of_layer(BLOCK))
        runs = round(20_000 / loaded.sample_ms(10))
        killer = threading.Timer(0.3, mortals[1].signal, [signal.SIGKILL])
        killer.start()
        with pytest.raises(DeviceLostError, match="was lost"):
            loaded.sample_ms(runs)
        killer.join()
        with pytest.raises(DeviceLostError, match="has ended"):
            loaded.sample_ms(1)
    with pytest.raises(DeviceUnavailableError, match="has no board with key 'mortal'; it has board"):
        open_backend(profile)


def test_a_board_that_hangs_is_lost_and_can_come_back(lab: Lab) -> None:
    with opened(direct_profile(lab, answer_seconds=1)) as backend:
        loaded = backend.load(Model.of_layer(BLOCK))
        lab.direct.signal(signal.SIGSTOP)
        try:
            with pytest.raises(DeviceLostError, match="gave no answer in `answer_seconds`"):
                loaded.sample_ms(1)
            with pytest.raises(DeviceUnavailableError, match=rf"no TVM RPC server .* answers at {lab.direct.address}"):
                open_backend(direct_profile(lab, connect_seconds=0.3))
        finally:
            lab.direct.signal(signal.SIGCONT)
        (board,) = backend.boards()
        assert board.load(Model.of_layer(BLOCK)).sample_ms(1) > 0


def test_says_what_cannot_be_reached(lab: Lab) -> None:
    with pytest.raises(DeviceUnavailableError, match=r"tracker at 127\.0\.0\.1:\d+ \(.*refused\)\. Start one"):
        open_backend(board_profile(lab, tracker=f"{LOCALHOST}:{free_port()}"))
    with pytest.raises(DeviceUnavailableError, match=r"no board with key 'bored'; it has board \(2\)"):
        open_backend(board_profile(lab, key="bored"))
    with pytest.raises(DeviceUnavailableError, match=r"no TVM RPC server .* answers at 127\.0\.0\.1:\d+ \(.*failed"):
        open_backend(direct_profile(lab, server=f"{LOCALHOST}:{free_port()}"))
    with pytest.raises(DeviceUnavailableError, match=r"server that matches key=client:other"):
        open_backend(board_profile(lab, without=("tracker",), server=lab.direct.address, key="other"))
    with socket.create_server((LOCALHOST, 0)) as silent:
        address = f"{LOCALHOST}:{silent.getsockname()[1]}"
        with pytest.raises(DeviceUnavailableError, match=r"tracker at .* \(timed out\)"):
            open_backend(board_profile(lab, tracker=address, connect_seconds=0.2))
        with pytest.raises(DeviceUnavailableError, match=r"no answer in 0\.2 s"):
            open_backend(direct_profile(lab, server=address, connect_seconds=0.2))


def test_threads_that_the_board_lacks(lab: Lab) -> None:
    with pytest.raises(DeviceUnavailableError, match=r"needs 3 threads, .* runs 2\. .* TVM_NUM_THREADS=3"):
        open_backend(dataclasses.replace(direct_profile(lab), threads=3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"server": "127.0.0.1:9090"}, "one of the options `tracker` and `server`"),
        ({"without": ("tracker",)}, "one of the options `tracker` and `server`"),
        ({"tracker": "localhost"}, "`tracker` must be host:port, .* but got 'localhost'"),
        ({"tracker": "localhost:99999"}, "`tracker` must be host:port"),
        ({"without": ("key",)}, "`key` must be a word"),
        ({"key": "two words"}, "`key` must be a word"),
        ({"cores": "huge"}, "`cores` must be one of big, little, but got 'huge'"),
        ({"boards": 0}, "`boards` must be a whole number >= 1"),
        ({"connect_seconds": float("nan")}, "`connect_seconds` must be a number > 0"),
        ({"answer_seconds": "soon"}, "`answer_seconds` must be a number > 0"),
        ({"target": "llvm"}, "must be a mapping with `kind: llvm`"),
        ({"target": {"kind": "cuda"}}, "must be a mapping with `kind: llvm`"),
        ({"target": {"kind": "llvm", "mtriple": "pdp11-unknown"}}, "`mtriple` must begin with aarch64"),
        ({"target": {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a27"}}, "did you mean cortex-a"),
        ({"target": {"kind": "llvm", "speed": 9}}, "Unknown config option 'speed'"),
    ],
)
def test_refuses_what_it_cannot_apply(lab: Lab, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        open_backend(board_profile(lab, **changes))


def test_needs_a_target(lab: Lab) -> None:
    with pytest.raises(InvalidValueError, match="needs the option `target`"):
        board_profile(lab, without=("target",)).open()


def test_says_which_compiler_is_missing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceUnavailableError, match=r"Install Debian's package g\+\+-mips64-linux-gnu\."):
        open_backend(board_profile(lab, cross_compiler="mips64-linux-gnu-g++"))
    monkeypatch.delenv("TVM_NDK_CC", raising=False)
    with pytest.raises(DeviceUnavailableError, match="environment variable TVM_NDK_CC"):
        open_backend(load_device("android_phone"))


def test_a_compiler_that_cannot_link(lab: Lab) -> None:
    with pytest.raises(InvalidValueError, match="false cannot link for `target` .*: it says nothing"):
        open_backend(direct_profile(lab, cross_compiler="false"))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs a linker that knows no aarch64")
def test_this_computers_compiler_cannot_link_for_arm(lab: Lab) -> None:
    target = {"kind": "llvm", "mtriple": "aarch64-linux-gnu"}
    with pytest.raises(InvalidValueError, match="cannot link for `target` .*: .* of Debian's package"):
        open_backend(direct_profile(lab, target=target))


@needs_gnu
def test_cross_compiles_for_the_raspberry_pi() -> None:
    library = Libraries(load_device("raspberry_pi_4")).build(Model.of_layer(BLOCK))
    assert library[:4] == b"\x7fELF"
    assert struct.unpack("<HH", library[16:20]) == (3, 183)  # shared object, AArch64


def test_a_32_bit_processor_is_not_timed_inside(lab: Lab) -> None:
    target = {"kind": "llvm", "mtriple": "armv7l-linux-gnueabihf"}
    with pytest.raises(MeasurementError, match="a 32-bit processor cannot be timed inside"):
        Libraries(board_profile(lab, target=target)).build(Model.of_layer(BLOCK), stamped=True)


@needs_gnu
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs another processor than the library's")
def test_a_library_for_another_processor(lab: Lab) -> None:
    options = load_device("raspberry_pi_4").options
    with pytest.raises(InvalidValueError, match="`target` and `cross_compiler` must fit its processor"):
        open_backend(direct_profile(lab, target=options["target"], cross_compiler=options["cross_compiler"]))


def test_says_how_to_install_tvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tvm", None)
    monkeypatch.delitem(sys.modules, "hardware_profiles.backends.tvm_rpc")
    with pytest.raises(DeviceUnavailableError, match=r"pip install 'hwnas\[tvm\]'"):
        importlib.import_module("hardware_profiles.backends.tvm_rpc")

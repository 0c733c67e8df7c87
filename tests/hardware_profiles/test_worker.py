import dataclasses
import gc
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from hardware_profiles import DeviceProfile, Model, availability, load_device
from hardware_profiles.backend_contract import SMALL, check_device
from hardware_profiles.worker import WorkerBackend, WorkerLoaded
from search_spaces.base.errors import (
    DeviceLostError,
    DeviceUnavailableError,
    InvalidValueError,
    MeasurementError,
    MismatchError,
    UnknownNameError,
)
from search_spaces.layers import Conv, Layer

ODD_KINDS = """
import os, signal, sys, time
from dataclasses import dataclass
from search_spaces.base.errors import DeviceLostError
from search_spaces.layers import Conv


@dataclass(frozen=True)
class Odd(Conv):
    what: str = ""

    def __post_init__(self):
        super().__post_init__()
        if self.what == "lost" and "worker_main" in sys.argv[0]:  # outside of what the backend catches
            raise Lost("the cable is out")

    def define(self, x):
        if self.what == "crash":
            print("before it", file=sys.stderr)
            os.write(2, b"assertion failed: tile\\n")
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.what == "exit":
            os._exit(3)
        if self.what == "crash once" and not os.path.exists(self.mark_file):
            open(self.mark_file, "w").close()
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.what == "print":
            print("noise" * 10_000, flush=True)
            os.write(1, b"from C" * 10_000)
            assert sys.stdin.read() == ""
        if self.what == "hang":
            time.sleep(600)
        if self.what == "fault":
            raise ZeroDivisionError("a fault of ours")
        return super().define(x)

    @property
    def mark_file(self):
        return os.environ["ODD_FILE"]


class Lost(DeviceLostError):
    pass
"""


def isolated(**changes: Any) -> DeviceProfile:
    return dataclasses.replace(load_device("host_ort"), isolated=True, **changes)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Model]]:
    """A convolution that does something odd while it is compiled; its module can be imported from this process."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "odd_kinds.py").write_text(ODD_KINDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("ODD_FILE", str(folder / "crashed"))
        patch.setattr(Layer, "kinds", dict(Layer.kinds))
        kind = importlib.import_module("odd_kinds").Odd
        yield lambda what: Model.of_layer(kind(3, 8, 3, 2, "relu", 8, what=what))


@pytest.fixture(scope="module")
def worker(odd: object) -> Iterator[WorkerBackend]:
    """Started when the module of `odd` can be found."""
    backend = isolated().open()
    assert isinstance(backend, WorkerBackend)
    yield backend
    backend.close()


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- it does what the backend does -------------------------------------------------------------------------------------


def test_the_contract_of_a_device() -> None:
    check_device(isolated())


def test_trained_weights_and_images_arrive_as_they_are(worker: WorkerBackend) -> None:
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {}

    class Recorder(Model):
        def parameters(self, name: str, shape: tuple[int, ...], outputs: int | None = None) -> Any:
            shapes[name] = shape
            return super().parameters(name, shape, outputs)

    from hardware_profiles.onnx_graph import onnx_model

    layers = {"first": Conv(3, 8, 3, 2, "relu", 8), "second": dataclasses.replace(SMALL, size=4)}
    onnx_model(Recorder(layers), 1)
    weights = {f"{name}.weight": rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    weights |= {f"{name}.bias": rng.standard_normal(shape[:1], np.float32) for name, shape in shapes.items()}
    images = rng.standard_normal((1, 3, 8, 8), np.float32)
    here = load_device("host_ort").open()
    for model in (Model(layers, weights), Model(layers)):
        expected, got = here.load(model).run(images), worker.load(model).run(images)
        assert expected is not None and got is not None and got.dtype == np.float32
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(MismatchError, match="belong to another network"):
        worker.load(Model(layers, {}))


def test_an_estimate_is_the_same_in_a_process_of_its_own() -> None:
    profile = load_device("ethos_u55_128")
    if reason := availability(profile):
        pytest.skip(reason)
    model = Model.of_layer(SMALL)
    here, backend = profile.open(), dataclasses.replace(profile, isolated=True).open()
    expected, got = here.load(model), backend.load(model)
    assert got.sample_ms(1) == expected.sample_ms(1)
    assert got.values(1) == expected.values(1) and got.values(1)["memory_bytes"]
    assert got.run(np.zeros((1, *model.input_shape), np.float32)) is None
    assert backend.estimates and backend.environment == here.environment
    backend.close()


def test_positions_of_a_backend_that_cannot_tell_them(worker: WorkerBackend) -> None:
    loaded = worker.load(Model.of_layer(SMALL))
    if worker.capabilities.in_context:
        assert set(loaded.positions_ms(2)) == {"layer"}
    else:
        with pytest.raises(RuntimeError, match="NotImplementedError: this backend cannot time inside"):
            loaded.positions_ms(2)
    assert loaded.sample_ms(1) > 0


def test_models_are_unloaded_when_they_are_not_needed_any_more(worker: WorkerBackend) -> None:
    def memory() -> int:
        return int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def load() -> WorkerLoaded:
        return worker.load(Model.of_layer(Conv(512, 1024, 3, 1, "none", 2)))  # 18 MiB of weights

    kept = load()
    for _ in range(2):
        load()
        gc.collect()
    before = memory()
    for _ in range(4):
        load()
        gc.collect()
    assert memory() - before < 50 << 20
    assert kept.sample_ms(1) > 0


def test_what_is_printed_does_no_harm(worker: WorkerBackend, odd: Callable[[str], Model]) -> None:
    assert worker.load(odd("print")).sample_ms(1) > 0


# -- CPUs --------------------------------------------------------------------------------------------------------------

needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot choose CPUs")


@needs_affinity
def test_cpus_are_chosen_and_read_back() -> None:
    cpu = max(os.sched_getaffinity(0))
    backend = isolated(cpus=[cpu]).open()
    assert isinstance(backend, WorkerBackend)
    backend.load(Model.of_layer(SMALL)).sample_ms(1)
    assert backend.environment["cpus"] == [cpu]
    tasks = [int(task.name) for task in Path(f"/proc/{backend.pid}/task").iterdir()]
    assert len(tasks) > 1 and all(os.sched_getaffinity(task) == {cpu} for task in tasks)
    backend.close()


@needs_affinity
def test_cpus_that_do_not_exist_are_refused_with_those_that_do() -> None:
    with pytest.raises(InvalidValueError, match=r"'host_ort'.*may use, \[0.*but got \[0, 9999\]"):
        isolated(cpus=[0, 9999]).open()


def test_a_system_that_cannot_choose_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.raises(DeviceUnavailableError, match="`cpus` cannot be chosen on"):
        isolated(cpus=[0]).open()


# -- errors ------------------------------------------------------------------------------------------------------------


def test_a_backend_that_cannot_be_opened_says_why() -> None:
    missing = next(p for p in ort.get_all_providers() if p not in ort.get_available_providers())
    with pytest.raises(DeviceUnavailableError, match=f"{missing}.*CPUExecutionProvider"):
        isolated(options={"provider": missing}).open()
    with pytest.raises(InvalidValueError, match="'NoSuchExecutionProvider'"):
        isolated(options={"provider": "NoSuchExecutionProvider"}).open()


def test_errors_keep_their_class(worker: WorkerBackend, odd: Callable[[str], Model]) -> None:
    with pytest.raises(DeviceLostError, match="^the cable is out$"):  # of a class that only the process knows
        worker.load(odd("lost"))
    with pytest.raises(MeasurementError, match="'host_ort' cannot run the model.*a fault of ours"):
        worker.load(odd("fault"))
    with pytest.raises(RuntimeError, match="(?s)The backend's process raised.*Traceback.*InvalidArgument"):
        worker.load(Model.of_layer(SMALL)).run(np.zeros((3, 8, 8, 8), np.float32))
    assert worker.load(Model.of_layer(SMALL)).sample_ms(1) > 0  # and the process goes on


def test_a_layer_kind_of_a_script(worker: WorkerBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Layer, "kinds", dict(Layer.kinds))
    kind = type("OfScript", (Conv,), {"__module__": "__main__"})
    with pytest.raises(UnknownNameError, match="__main__.OfScript, which was defined in a script"):
        worker.load(Model.of_layer(kind(3, 8, 3, 2, "relu", 8)))


# -- death -------------------------------------------------------------------------------------------------------------


def test_a_model_that_crashes_the_compiler(worker: WorkerBackend, odd: Callable[[str], Model]) -> None:
    before, images = worker.load(Model.of_layer(SMALL)), np.ones((1, 8, 8, 8), np.float32)
    expected, pid = before.run(images), worker.pid
    with pytest.raises(MeasurementError, match=r"'host_ort'.*onnxruntime died with signal 11 \(SIGSEGV\).*words were "
                       '"assertion failed: tile", on loading'):  # fmt: skip
        worker.load(odd("crash"))
    with pytest.raises(MeasurementError, match="ended with exit code 3, on loading the model"):
        worker.load(odd("exit"))
    np.testing.assert_array_equal(before.run(images), expected)  # loaded anew
    assert worker.pid != pid and not is_there(pid)  # who saw it end has waited for it
    assert worker.load(Model.of_layer(SMALL)).sample_ms(1) > 0


def test_a_crash_that_an_earlier_model_caused(worker: WorkerBackend, odd: Callable[[str], Model]) -> None:
    pid = worker.pid
    assert worker.load(odd("crash once")).sample_ms(1) > 0
    assert worker.pid != pid


def test_a_process_that_is_killed_between_two_requests(worker: WorkerBackend) -> None:
    loaded = worker.load(Model.of_layer(SMALL))
    os.kill(worker.pid, signal.SIGKILL)
    assert loaded.sample_ms(1) > 0
    os.kill(worker.pid, signal.SIGKILL)
    assert worker.load(Model.of_layer(SMALL)).sample_ms(1) > 0


def test_a_process_that_dies_twice_while_measuring(worker: WorkerBackend) -> None:
    loaded = worker.load(Model.of_layer(SMALL))
    killed = []

    def kill() -> None:
        for _ in range(2):
            while loaded.process is None or loaded.process.pid in killed:
                time.sleep(0.02)
            killed.append(loaded.process.pid)
            os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(MeasurementError, match=r"died with signal 9 \(SIGKILL\), on running the model"):
        loaded.sample_ms(1 << 40)  # years
    killer.join()
    assert len(set(killed)) == 2
    assert loaded.sample_ms(1) > 0


def test_a_process_that_hangs_is_replaced() -> None:
    worker = isolated(timeout_s=2.0).open()
    assert isinstance(worker, WorkerBackend)
    loaded, hung = worker.load(Model.of_layer(SMALL)), worker.pid
    os.kill(hung, signal.SIGSTOP)
    assert loaded.sample_ms(1) > 0
    assert worker.pid != hung and not is_there(hung)  # who ended it has waited for it
    worker.close()


def test_a_run_that_does_not_end() -> None:
    worker = isolated(timeout_s=2.0).open()
    assert isinstance(worker, WorkerBackend)
    loaded = worker.load(Model.of_layer(SMALL))
    with pytest.raises(MeasurementError, match=r"did not answer within 2 s \(`timeout_s` of the device\)"):
        loaded.sample_ms(1 << 40)  # years
    assert loaded.sample_ms(1) > 0
    worker.close()


_PAUSED = """
import os, signal, subprocess, sys, time
from hardware_profiles.time_limit import TimeLimit

answers = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1); print('there')"], stdout=subprocess.PIPE)
limit = TimeLimit(answers)
with limit.of(3.0):
    subprocess.Popen(["sh", "-c", f"sleep 5; kill -CONT {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.5)
    assert answers.stdout.read() == b"there\\n" and answers.wait() == 0
assert limit.exceeded_s is None
"""


@pytest.mark.slow
def test_a_pause_of_the_measuring_side_is_no_time_that_the_process_took() -> None:
    subprocess.run([sys.executable, "-c", _PAUSED], check=True, timeout=60)


def test_samples_are_watched_where_the_network_runs(worker: WorkerBackend) -> None:
    sample = worker.load(Model.of_layer(SMALL)).sample(1000)
    assert sample.disturbed is not None and 0 < sample.share <= 1 and sample.ms > 0


# -- the end -----------------------------------------------------------------------------------------------------------


def test_the_process_is_gone_when_it_is_closed() -> None:
    worker = isolated().open()
    assert isinstance(worker, WorkerBackend)
    loaded, pid = worker.load(Model.of_layer(SMALL)), worker.pid
    assert is_there(pid)
    worker.close()
    assert not is_there(pid)
    worker.close()
    with pytest.raises(DeviceLostError, match="closed"):
        loaded.sample_ms(1)
    with pytest.raises(DeviceLostError, match="closed"):
        worker.load(Model.of_layer(SMALL))


def test_the_process_is_gone_when_nobody_holds_its_backend() -> None:
    backend = isolated().open()
    assert isinstance(backend, WorkerBackend)
    pid = backend.pid
    del backend
    gc.collect()
    assert not is_there(pid)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_process_is_gone_when_the_measuring_side_is(
    how: signal.Signals,
    odd: Callable[[str], Model],
    start_process: Callable[..., subprocess.Popen[bytes]],
    wait_until: Callable[[Callable[[], object]], None],
) -> None:
    """In the middle of a compilation, which would take longer than is waited for."""
    code = f"""
import dataclasses, sys
sys.path[:] = {sys.path!r}
from odd_kinds import Odd
from hardware_profiles import Model, load_device
backend = dataclasses.replace(load_device("host_ort"), isolated=True).open()
print(backend.pid, flush=True)
backend.load(Model.of_layer(Odd(3, 8, 3, 2, "relu", 8, what="hang")))
"""
    measuring = start_process([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert measuring.stdout is not None
    pid = int(measuring.stdout.readline())
    assert os.getsid(pid) == pid  # the terminal's Ctrl-C does not reach it
    time.sleep(0.2)
    measuring.send_signal(how)
    assert measuring.wait(120) != 0
    wait_until(lambda: not is_there(pid))


def test_interrupting_a_request_does_not_mix_up_the_answers(worker: WorkerBackend, odd: Callable[[str], Model]) -> None:
    loaded = worker.load(Model.of_layer(SMALL))
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            worker.load(odd("hang"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    output = loaded.run(np.ones((1, 8, 8, 8), np.float32))
    assert output is not None and output.shape == (1, 8, 8, 8)

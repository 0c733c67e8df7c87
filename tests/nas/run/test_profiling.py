"""What is measured, in which order, and what happens to what a device cannot run; measured by real ONNX Runtime."""

import dataclasses
import json
import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware_profiles import DeviceProfile, LatencyTable, Measurement, Model
from hardware_profiles.backends.base import Backend, Loaded
from hardware_profiles.backends.onnxruntime import CAPABILITIES, OnnxRuntimeBackend
from hardware_profiles.host import Sample
from hardware_profiles.measure import REFERENCE, Journal
from nas.run.budget import BudgetPart, ProfilingBudget
from nas.run.network_log import ROLES, NetworkLog
from nas.run.networks import distinct_networks
from nas.run.profiling import DeviceProfiling
from nas.run.settings import ProfileSettings
from search_spaces import Layer, MBConv, MobileNetV3, SearchSpace
from search_spaces.base.errors import InvalidValueError, MeasurementError

ONE = Measurement(latency_ms=1, median_ms=1, p10_ms=1, p90_ms=1, runs=1, passes=1, noise=1, agreed=True)
QUICK = DeviceProfile(
    name="quick",
    title="",
    backend="onnxruntime",
    **{"warm_up": 0, "runs": 2, "sample_ms": 0, "passes": 1, "max_passes": 1, "loads": 1, "pass_seconds": 0},
)


# -- profiling ---------------------------------------------------------------------------------------------------------


class Watched(OnnxRuntimeBackend):
    """Notes what it loads, and refuses what it is told to."""

    def __init__(self, refuses: Callable[[Model], bool] = lambda model: False) -> None:
        super().__init__(QUICK)
        self.loaded: list[Model] = []
        self.refuses = refuses

    def load(self, model: Model) -> Any:
        if self.refuses(model):
            raise MeasurementError("it does not fit")
        self.loaded.append(model)
        return super().load(model)

    @property
    def layers(self) -> list[Layer]:
        """Those loaded alone."""
        return [next(iter(model.layers.values())) for model in self.loaded if len(model.layers) == 1]


def profiling(
    space: SearchSpace, folder: Path, backend: Backend | None = None, said: list[str] | None = None, **settings: Any
) -> DeviceProfiling:
    def rng_of(*purpose: int | str) -> np.random.Generator:
        return np.random.default_rng(sum(map(ord, str(purpose[0]))))

    # What these tests are about does not depend on how busy this computer is.
    wanted = {"networks": 8, "check_networks": 3, "method": "isolated", "accept_disturbed": True, **settings}
    say = (said if said is not None else []).append
    return DeviceProfiling(space, QUICK, backend or Watched(), ProfileSettings(**wanted), folder, rng_of, say)


def tables(space: SearchSpace, folder: Path) -> tuple[LatencyTable, NetworkLog]:
    return LatencyTable.read(folder / "table.jsonl"), NetworkLog.read(folder / "networks.jsonl", space)


def test_layers_alone(small_space: MobileNetV3, tmp_path: Path) -> None:
    said: list[str] = []
    profiling(small_space, tmp_path, said=said).run()
    table, networks = tables(small_space, tmp_path)
    assert set(table) == set(small_space.distinct_layers) and table.conditions["method"] == "isolated"
    assert {role: len(networks.rows(role)) for role in ("fit", "check", "check again")} == {
        "fit": 8,
        "check": 3,
        "check again": 3,
    }
    assert {small_space.smallest, small_space.biggest} <= set(networks.rows("fit"))
    assert not set(networks.rows("fit")) & set(networks.rows("check"))
    n = len(small_space.distinct_layers)
    assert re.fullmatch(
        rf"quick: {n} layers, 8 whole networks to fit on and 3 networks, twice, to judge: about \d+ s", said[0]
    )
    assert not (tmp_path / "unfinished.jsonl").exists()


def test_whole_networks_in_context(small_space: MobileNetV3, tmp_path: Path) -> None:
    said: list[str] = []
    backend = Watched()
    profiling(small_space, tmp_path, backend, said, method="in_context", repeats=2).run()
    table, networks = tables(small_space, tmp_path)
    assert set(table) == set(small_space.distinct_layers) and table.conditions["method"] == "in context"
    assert min(len(table.within(layer)) for layer in table) >= 2
    assert len(networks.rows("fit")) >= 8 and not set(networks.rows("fit")) & set(networks.rows("check"))
    assert {small_space.smallest, small_space.biggest} <= set(networks.rows("fit"))
    assert set(backend.layers) == {REFERENCE}
    assert re.fullmatch(r"quick: \d+ networks in context and 3 networks, twice, to judge: about \d+ s", said[0])


def test_what_is_there_is_not_measured_again(
    small_space: MobileNetV3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[Journal.__module__], "SPEED_TOLERANCE", float("inf"))  # what was slow would be
    for method in ("isolated", "in_context"):
        profiling(small_space, tmp_path / method, method=method).run()
        rows = (tmp_path / method / "table.jsonl").read_bytes(), (tmp_path / method / "networks.jsonl").read_bytes()
        said: list[str] = []
        profiling(small_space, tmp_path / method, said=said, method="auto").run()  # goes on as it was begun
        assert said == []
        assert rows == (
            (tmp_path / method / "table.jsonl").read_bytes(),
            (tmp_path / method / "networks.jsonl").read_bytes(),
        )


def has_kernel_5(model: Model) -> bool:
    return any(isinstance(layer, MBConv) and layer.kernel == 5 for layer in model.layers.values())


@pytest.mark.parametrize("method", ["isolated", "in_context"])
def test_layers_that_do_not_run_are_named_and_left_out(
    small_space: MobileNetV3, tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    profiling(small_space, tmp_path, Watched(has_kernel_5), method=method).run()
    table, networks = tables(small_space, tmp_path)
    bad = {layer for layer in small_space.distinct_layers if has_kernel_5(Model.of_layer(layer))}
    assert set(table.failed) == bad and set(table) == set(small_space.distinct_layers) - bad
    measured = [a for role in ("fit", "check", "check again") for a in networks.rows(role)]
    assert len(measured) >= 14 and not any(has_kernel_5(Model(small_space.lower(a))) for a in measured)
    assert all("it does not fit" in reason for reason in table.failed.values())
    assert sum("cannot run there, and no network with it is feasible" in r.message for r in caplog.records) == len(bad)


def test_networks_that_do_not_run_as_a_whole_are_replaced(small_space: MobileNetV3, tmp_path: Path) -> None:
    def too_long(model: Model) -> bool:
        return len(model.layers) == 7

    profiling(small_space, tmp_path, Watched(too_long)).run()
    table, networks = tables(small_space, tmp_path)
    assert not table.failed and networks.failed
    assert {len(small_space.lower(a)) for role in ("fit", "check") for a in networks.rows(role)} == {6, 8}
    assert len(networks.rows("fit")) == 8 and len(networks.rows("check")) == 3


def test_a_device_that_runs_nothing_is_an_error(small_space: MobileNetV3, tmp_path: Path) -> None:
    for method in ("isolated", "in_context"):
        with pytest.raises(MeasurementError, match="runs 0 of the networks drawn, and 2 are needed: it does not fit"):
            profiling(small_space, tmp_path / method, Watched(lambda model: True), method=method).run()


# -- the budget --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["isolated", "in_context"])
def test_a_budget_that_is_too_short_is_refused_before_anything_is_measured(
    small_space: MobileNetV3, tmp_path: Path, method: str
) -> None:
    with pytest.raises(InvalidValueError, match=r"`budget=0.001s` is too short for 'quick': .* take about \d+ s"):
        profiling(small_space, tmp_path, budget="0.001s", method=method).run()
    table, networks = tables(small_space, tmp_path)
    assert not table and not networks.rows("check")


def test_a_short_budget_measures_a_part(digits_space: MobileNetV3, tmp_path: Path) -> None:
    said: list[str] = []
    one = profiling(digits_space, tmp_path, said=said, budget="1h")

    class Counted(ProfilingBudget):
        """Everything takes 50 s."""

        @property
        def left_s(self) -> float:
            return self.seconds - 50 * (len(one.table) + sum(len(one.networks.rows(r)) for r in ("check", "fit")))

    one._seconds, one.budget = (lambda models, in_context: 50.0), Counted(3600, "quick", said.append)  # type: ignore[method-assign]
    one.run()
    table, networks = tables(digits_space, tmp_path)
    assert "120 layers, 8 whole networks to fit on and 3 networks, twice, to judge: about 1.9 h for all" in said[0]
    left = r"58 of 120 layers measured, 62 predicted by a model \(expected error \d+\.\d%\); the same command"
    assert re.search(left, said[-1])
    assert len(table) == 58 and len(networks.rows("fit")) == 8  # 72 items, 14 of them networks


def test_a_target_error_ends_the_measuring_of_layers(ofa_space: MobileNetV3, tmp_path: Path) -> None:
    one = profiling(ofa_space, tmp_path, target_error=0.9)
    layers = [layer for layer in ofa_space.distinct_layers if layer.input_shape[-1] <= 16]
    one._measure_layers(layers, math.inf)
    assert 32 <= len(one.table) < len(layers)


def test_in_context_needs_a_backend_that_can(small_space: MobileNetV3, tmp_path: Path) -> None:
    class Plain(Watched):
        def __init__(self) -> None:
            super().__init__()
            self.capabilities = dataclasses.replace(CAPABILITIES, in_context=False)

    with pytest.raises(InvalidValueError, match="Use `profile.method=isolated`"):
        profiling(small_space, tmp_path, Plain(), method="in_context")
    assert not profiling(small_space, tmp_path, Plain(), method="auto").in_context


@pytest.mark.parametrize(("share", "in_context"), [(0.95, True), (1.2, True), (0.6, False), (1.4, False)])
def test_auto_looks_inside_networks_only_where_that_is_honest(
    small_space: MobileNetV3, tmp_path: Path, share: float, in_context: bool
) -> None:
    class Split(Loaded):
        def sample_ms(self, runs: int) -> float:
            return 10.0

        def positions_ms(self, runs: int) -> dict[str, float]:
            return {"a": 4 * share, "b": 6 * share}

    class Splits(Watched):
        def load(self, model: Model) -> Any:
            return Split()

    assert profiling(small_space, tmp_path, Splits(), method="auto").in_context == in_context


# -- processes ---------------------------------------------------------------------------------------------------------

WORK = """
import sys
import time
from pathlib import Path
import numpy as np
from hardware_profiles import DeviceProfile
from nas.run.profiling import DeviceProfiling
from nas.run.settings import ProfileSettings
from search_spaces import MobileNetV3

stages = [{"channels": 8, "stride": 2, "squeeze": True, "activation": "relu"}]
sizes = {"stem": 8, "stem_stride": 1, "last_channels": 8, "features": 8, "in_channels": 1, "classes": 3}
choices = {"resolutions": [8, 12], "depths": [1, 2, 3], "kernels": [3, 5], "expands": [1, 2, 3]}
space = MobileNetV3(name="shared", stages=stages, **sizes, **choices)
device = DeviceProfile(name="quick", title="", backend="onnxruntime", runs=2, passes=3, pass_seconds=0.1)
backend = device.open()
settings = ProfileSettings(8, 3, method="isolated", accept_disturbed=True)
one = DeviceProfiling(space, device, backend, settings, Path(sys.argv[1]), lambda *_: np.random.default_rng(0), print)
print("ready", flush=True)
sys.stdin.readline()
one.run()
"""


@pytest.fixture
def begin(
    start_process: "Callable[..., subprocess.Popen[str]]", tmp_path: Path
) -> "Callable[[], subprocess.Popen[str]]":
    """Starts a process that is ready to profile and waits for a line."""

    def start() -> "subprocess.Popen[str]":
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = start_process([sys.executable, "-c", WORK, str(tmp_path)], text=True, **pipes)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process

    return start


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.slow
def test_two_processes_profile_into_one_table(tmp_path: Path, begin: "Callable[[], subprocess.Popen[str]]") -> None:
    processes = [begin(), begin()]
    for process in processes:
        go(process)
    for process in processes:
        _, problems = process.communicate(timeout=120)
        assert process.returncode == 0 and "Error" not in problems  # doubts are, if the computer is busy
    lines = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text().splitlines()]
    assert "conditions" in lines[0] and all("measurement" in line for line in lines[1:])
    table = LatencyTable.read(tmp_path / "table.jsonl")
    assert len(table) == len({json.dumps(line["layer"]) for line in lines[1:]}) == 32


def test_a_killed_process_loses_no_more_than_the_pass_it_was_in(
    tmp_path: Path,
    begin: "Callable[[], subprocess.Popen[str]]",
    wait_until: Callable[[Callable[[], object]], None],
) -> None:
    process = begin()
    go(process)
    unfinished = tmp_path / "unfinished.jsonl"
    wait_until(lambda: unfinished.read_bytes().count(b"\n") >= 20)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = [line for line in unfinished.read_text().splitlines()[1:] if line.endswith("}")]
    assert len(before) >= 19
    rows = (tmp_path / "networks.jsonl").read_text().count("\n")
    again = begin()
    kept = unfinished.read_text().splitlines()
    assert kept[1 : 1 + len(before)] == before
    go(again)
    _, problems = again.communicate(timeout=120)
    assert again.returncode == 0 and "Traceback" not in problems
    assert len(LatencyTable.read(tmp_path / "table.jsonl")) == 32
    assert (tmp_path / "networks.jsonl").read_text().count("\n") > rows and not unfinished.exists()


# -- somebody else's numbers -------------------------------------------------------------------------------------------


def foreign(folder: Path, layers: Iterable[Layer]) -> Backend:
    """A device that has the numbers of some layers."""
    table = LatencyTable(folder / "theirs.jsonl", "theirs", {})
    for layer in layers:
        table.add(layer, ONE)
    options = {"path": str(folder / "theirs.jsonl")}
    return dataclasses.replace(QUICK, backend="table", options=options).open()


def test_a_table_of_another_space_is_refused_in_one_message(
    small_space: MobileNetV3, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stem = next(iter(small_space.lower(small_space.smallest).values()))
    theirs = foreign(tmp_path, [dataclasses.replace(stem, size=100), dataclasses.replace(stem, size=160)])
    count = len(small_space.distinct_layers)
    rule = rf"has 0 of the {count} layers of space .* resolutions in it: 100, 160, in the space: \d+.* `space="
    with pytest.raises(MeasurementError, match=rule):
        profiling(small_space, tmp_path / "run", theirs).run()
    assert not caplog.records


def test_a_table_that_lacks_some_layers_says_so_in_one_warning(
    small_space: MobileNetV3, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layers = small_space.distinct_layers
    lacking = {layer for layer in layers if isinstance(layer, MBConv) and layer.kernel == 5}
    assert lacking
    profiling(small_space, tmp_path / "run", foreign(tmp_path, [one for one in layers if one not in lacking])).run()
    (record,) = caplog.records
    assert f"{len(layers) - len(lacking)} of the {len(layers)} layers" in record.getMessage()
    table, networks = tables(small_space, tmp_path / "run")
    assert set(table.failed) == lacking and len(networks.rows("fit")) >= 8


# -- doubts ------------------------------------------------------------------------------------------------------------


class Spied(Loaded):
    """A session of another backend that other programs disturb as long as the backend is busy."""

    def __init__(self, inner: Loaded, backend: "Busy") -> None:
        self._inner, self._backend = inner, backend

    def sample_ms(self, runs: int) -> float:
        return self._inner.sample_ms(runs)

    def sample(self, runs: int) -> Sample:
        return Sample(self.sample_ms(runs), 1.0, self._backend.is_busy)


class Busy(Watched):
    is_busy = True

    def load(self, model: Model) -> Any:
        return Spied(super().load(model), self)


def test_what_was_disturbed_is_refused_and_measured_again(small_space: MobileNetV3, tmp_path: Path) -> None:
    busy = Busy()
    with pytest.raises(MeasurementError, match=r"of \d+ layers .*same command again.*accept_disturbed=true"):
        profiling(small_space, tmp_path, busy, accept_disturbed=False).run()
    table, networks = tables(small_space, tmp_path)
    assert all(m.is_disturbed and not m.agreed for m in [*table.values(), *networks.rows("check").values()])
    profiling(small_space, tmp_path, busy).run()  # as asked for, though still busy

    busy.is_busy, said = False, list[str]()
    again = profiling(small_space, tmp_path, busy, said, accept_disturbed=True)
    again.run()
    assert "measured before, but doubtful" in said[0]
    table, networks = tables(small_space, tmp_path)
    rows = [*table.values(), *(m for role in ROLES for m in networks.rows(role).values())]
    assert rows and not any(m.is_disturbed for m in rows)


def test_what_did_not_agree_is_measured_again_where_it_is_refused(small_space: MobileNetV3, tmp_path: Path) -> None:
    """Nobody can tell whether other programs disturb some devices: passes that do not agree are all that says so."""
    one = profiling(small_space, tmp_path, accept_disturbed=False)
    layers = list(small_space.distinct_layers)
    for layer in layers:
        one.table.add(layer, dataclasses.replace(ONE, agreed=False, noise=1.5))
    with pytest.raises(MeasurementError, match=rf"which makes {len(layers)} measurements again"):
        one._judge()
    said: list[str] = []
    profiling(small_space, tmp_path, said=said).run()
    assert f"{len(layers)} measured before, but doubtful" in said[0]
    table, _ = tables(small_space, tmp_path)
    assert all(m.runs == QUICK.runs * m.passes for m in table.values())


def test_what_cannot_be_measured_again_stays(
    small_space: MobileNetV3, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It ran once; that a process hangs at it now is no reason to do without all networks that have it."""
    bad = dataclasses.replace(ONE, agreed=False, disturbed=1.0)
    one = profiling(small_space, tmp_path, Watched(lambda model: REFERENCE not in model.layers.values()))
    layer, network = small_space.distinct_layers[0], small_space.smallest
    one.table.add(layer, bad)
    one.networks.add("fit", network, bad)
    one._measure_alone([layer], "again", math.inf)
    one._measure_whole("fit", [network], "again", "again", until=math.inf)
    table, networks = tables(small_space, tmp_path)
    assert table[layer] == bad and not table.failed and networks.rows("fit") == {network: bad} and not networks.failed
    assert len([r for r in caplog.records if "could not be made again, and stays" in r.getMessage()]) == 2


def test_few_that_did_not_agree_stay(small_space: MobileNetV3, tmp_path: Path) -> None:
    one = profiling(small_space, tmp_path)
    for n, layer in enumerate(small_space.distinct_layers):
        one.table.add(layer, dataclasses.replace(ONE, agreed=n > 0))
    assert len(one._doubtful()) == 0


def test_a_refusal_names_a_way_out_that_is_one(small_space: MobileNetV3, tmp_path: Path) -> None:
    """Nothing says that a single measurement was disturbed."""
    one = profiling(small_space, tmp_path, accept_disturbed=False)
    for network in distinct_networks(small_space, 3, np.random.default_rng(0)):
        one.networks.add("check", network, ONE)
        one.networks.add("check again", network, dataclasses.replace(ONE, latency_ms=2))
    with pytest.raises(MeasurementError, match=rf"differ by 100%.*delete {tmp_path} to make all of them anew"):
        one._judge()


class Slow(Watched):
    """Each load takes so long, once it is told."""

    seconds = 0.0

    def load(self, model: Model) -> Any:
        time.sleep(self.seconds)
        return super().load(model)


def test_a_budget_that_is_too_short_is_refused_before_it_is_over(small_space: MobileNetV3, tmp_path: Path) -> None:
    slow = Slow()
    slow.seconds = 0.4
    one = profiling(small_space, tmp_path, slow, budget="3s")
    with pytest.raises(InvalidValueError, match=r"`budget=3s` is too short"):
        one.run()
    assert len(slow.loaded) == 3  # the reference, one network and one layer


@pytest.mark.slow
def test_the_budget_holds_for_whole_networks_too(small_space: MobileNetV3, tmp_path: Path) -> None:
    """The device becomes slower than it was when the time was announced."""
    slow, said = Slow(), list[str]()
    one = profiling(small_space, tmp_path, slow, said, budget="12s")
    announce = one._announce

    def then_slow(*arguments: Any) -> None:
        announce(*arguments)
        slow.seconds = 0.4

    one._announce = then_slow  # type: ignore[method-assign]
    started = time.perf_counter()
    try:
        one.run()
    except MeasurementError as error:
        assert "`budget=12s` was over" in str(error) and "is kept" in str(error)
    took = time.perf_counter() - started
    # All would be 22 networks and the layers, loaded twice each: 30 s and more.
    assert took < 12 * 1.1 + 2
    assert any("in place of" in line and "more" in line for line in said)
    table, networks = tables(small_space, tmp_path)
    assert networks.rows("check")


@pytest.mark.parametrize("busy", ["it", "this computer"])
def test_what_took_longer_is_named(monkeypatch: pytest.MonkeyPatch, busy: str) -> None:
    now, said = [0.0], list[str]()
    monkeypatch.setattr("nas.run.budget.time.perf_counter", lambda: now[0])
    budget = ProfilingBudget(math.inf, "board", said.append, busy)
    budget.parts |= {"check": BudgetPart(1, 5.0), "main": BudgetPart(10, 5.0)}
    with budget.share("check"):
        now[0] = 9.0
    assert said == [f"board: took 9 s in place of 5 s so far, because {busy} is busy or slow at times; about 90 s more"]

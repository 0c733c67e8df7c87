import contextlib
import gc
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.core.evaluations import RecordedPredictor
from nas.core.problem import Objective, Problem
from nas.core.search_loop import search
from nas.searchers.random import RandomSearch
from search_spaces import Genes, MobileNetV3
from search_spaces.architecture import Architecture
from search_spaces.base.errors import InvalidValueError, MeasurementError, MismatchError, NasError


def predictor(act: Callable[[Genes], float]) -> Any:
    """A predictor of one architecture at a time; local, so that it is sent to workers by value."""

    class Slow:
        metric, unit = "accuracy", "1"

        def predict(self, genes: Genes) -> Any:
            assert len(genes) == 1
            return np.array([act(genes[0])])

    return Slow()


def never(row: Genes) -> float:
    raise AssertionError("evaluated again")


def counted(row: Genes) -> float:
    """A value of its own for every row."""
    return float(row @ 3 ** np.arange(len(row)) / 1e6)


@pytest.fixture
def genes(everything: Genes) -> Genes:
    return everything[::40]  # 20 rows


def raw(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_evaluation_is_recorded_and_none_made_twice(
    small_space: MobileNetV3, genes: Genes, tmp_path: Path
) -> None:
    path, made = tmp_path / "a" / "log.jsonl", []
    recorded = RecordedPredictor(
        small_space, predictor(lambda row: made.append(1) or counted(row)), path, {"epochs": 3}
    )
    assert (recorded.metric, recorded.unit) == ("accuracy", "1")
    rows = genes[[2, 0, 2, 1]]
    expected = np.array([counted(row) for row in rows])
    assert np.array_equal(recorded.predict(rows), expected) and len(made) == 3
    assert np.array_equal(recorded.predict(genes[:4])[:3], expected[[1, 3, 0]]) and len(made) == 4
    conditions, *records = raw(path)
    assert conditions["conditions"] == {
        "space": small_space.fingerprint,
        "metric": "accuracy",
        "unit": "1",
        "epochs": 3,
    }
    assert records[0] == {"architecture": Architecture(small_space, genes[2]).to_json(), "accuracy": expected[0]}
    again = RecordedPredictor(small_space, predictor(never), path, {"epochs": 3})
    assert np.array_equal(again.predict(rows), expected)
    assert len(again.predict(genes[:0])) == 0


def test_processes_share_a_log(small_space: MobileNetV3, genes: Genes, tmp_path: Path) -> None:
    first = RecordedPredictor(small_space, predictor(counted), tmp_path / "log", {})
    second = RecordedPredictor(small_space, predictor(never), tmp_path / "log", {})
    values = first.predict(genes)
    assert np.array_equal(second.predict(genes), values)


def test_what_another_process_evaluates_meanwhile_is_left_out(
    small_space: MobileNetV3, genes: Genes, tmp_path: Path
) -> None:
    other = RecordedPredictor(small_space, predictor(counted), tmp_path / "log", {})
    made = []

    def act(row: Genes) -> float:
        made.append(row)
        if len(made) == 1:
            other.predict(genes[5:])
        return counted(row)

    recorded = RecordedPredictor(small_space, predictor(act), tmp_path / "log", {})
    assert np.array_equal(recorded.predict(genes), [counted(row) for row in genes])
    assert np.array_equal(made, genes[:5])


def test_infinite_values_are_kept(small_space: MobileNetV3, genes: Genes, tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert RecordedPredictor(small_space, predictor(lambda row: np.inf), path, {}).predict(genes[:1])[0] == np.inf
    assert RecordedPredictor(small_space, predictor(never), path, {}).predict(genes[:1])[0] == np.inf


@pytest.mark.parametrize("kind", ["raise", "nas error", "nan"])
def test_a_failed_evaluation_is_nan_and_tried_again_later(
    small_space: MobileNetV3, genes: Genes, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    def act(row: Genes) -> float:
        if np.array_equal(row, genes[3]):
            if kind == "raise":
                raise ZeroDivisionError("of nothing")
            if kind == "nas error":
                raise MeasurementError("not this one")
            return np.nan
        return counted(row)

    values = RecordedPredictor(small_space, predictor(act), tmp_path / "log", {}).predict(genes[:6])
    assert np.flatnonzero(np.isnan(values)).tolist() == [3]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert str(Architecture(small_space, genes[3]).values) in warning
    assert {"raise": "ZeroDivisionError: of nothing", "nas error": "not this one", "nan": "it gave NaN"}[
        kind
    ] in warning
    assert len(raw(tmp_path / "log")) == 1 + 5
    made: list[Genes] = []
    again = RecordedPredictor(small_space, predictor(lambda row: made.append(row) or 7.0), tmp_path / "log", {})
    assert again.predict(genes[:6])[3] == 7.0
    assert np.array_equal(made, genes[3:4])


def test_wrong_settings_are_refused_at_the_first_evaluation(
    small_space: MobileNetV3, genes: Genes, tmp_path: Path
) -> None:
    def act(row: Genes) -> float:
        raise MeasurementError("no such compiler")

    recorded = RecordedPredictor(small_space, predictor(act), tmp_path / "log", {})
    with pytest.raises(MeasurementError, match="no such compiler"):
        recorded.predict(genes)
    assert np.isnan(recorded.predict(genes[:2])).all()  # from then on it is the architectures' fault


def test_a_kill_loses_one_evaluation(small_space: MobileNetV3, genes: Genes, tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        try:
            dying = predictor(
                lambda row: os.kill(os.getpid(), signal.SIGKILL) if np.array_equal(row, genes[4]) else counted(row)
            )
            RecordedPredictor(small_space, dying, tmp_path / "log", {}).predict(genes)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    made: list[Genes] = []
    recorded = RecordedPredictor(
        small_space, predictor(lambda row: made.append(row) or counted(row)), tmp_path / "log", {}
    )
    assert np.array_equal(recorded.predict(genes), [counted(row) for row in genes])
    assert np.array_equal(made, genes[4:])


def test_a_log_of_other_conditions_is_refused(small_space: MobileNetV3, tmp_path: Path) -> None:
    RecordedPredictor(small_space, predictor(counted), tmp_path / "log", {"epochs": 3})
    with pytest.raises(MismatchError, match="epochs: 3 there, 4 now"):
        RecordedPredictor(small_space, predictor(counted), tmp_path / "log", {"epochs": 4})


@pytest.mark.parametrize("settings", [{"workers": 0}, {"workers": 2, "threads": 0}, {"workers": 2, "gpus": -1}])
def test_wrong_numbers_of_workers_are_refused(
    small_space: MobileNetV3, tmp_path: Path, settings: dict[str, int]
) -> None:
    with pytest.raises(InvalidValueError, match="`workers` and `threads` must be >= 1"):
        RecordedPredictor(small_space, predictor(counted), tmp_path / "log", {}, **settings)


def test_workers_without_ray_say_what_to_install(
    small_space: MobileNetV3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InvalidValueError, match=r"pip install 'hwnas\[ray\]'"):
        RecordedPredictor(small_space, predictor(counted), tmp_path / "log", {}, workers=2)


# -- parallel workers --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(small_space: MobileNetV3, everything: Genes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Ray with two workers, started as the first evaluation starts it, and both of them up."""
    if importlib.util.find_spec("ray") is None:  # not `importorskip`: what imports Ray first sets its environment
        pytest.skip("Ray is not installed")

    def act(row: Genes) -> float:
        time.sleep(0.05)
        return float(os.getpid())

    path = tmp_path_factory.mktemp("ray") / "log"
    recorded = RecordedPredictor(small_space, predictor(act), path, {}, workers=2)
    found: set[float] = set()
    for start in range(0, len(everything), 4):
        found |= set(recorded.predict(everything[start : start + 4]))
        if len(found) > 1:
            break
    assert len(found) > 1 and os.getpid() not in found
    import ray

    yield ray
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray does not wait for its servers
        recorded.close()
        gc.collect()
    assert not ray.is_initialized()


def test_workers_are_on_this_machine_alone(cluster: Any) -> None:
    (node,) = cluster.nodes()
    assert (node["NodeManagerAddress"], node["Resources"]["CPU"]) == ("127.0.0.1", 2)


def test_the_result_is_the_same_with_two_workers(
    cluster: Any, small_space: MobileNetV3, genes: Genes, tmp_path: Path
) -> None:
    here, started = os.getpid(), tmp_path / "started"
    started.mkdir()

    def act(row: Genes) -> float:
        if os.getpid() != here:
            (started / str(row @ 3 ** np.arange(len(row)))).touch()
            while np.array_equal(row, genes[0]) and len(list(started.iterdir())) < 3:
                time.sleep(0.01)  # the first one comes when the other worker has given one and begun the next
        if np.array_equal(row, genes[2]):
            raise MeasurementError("not this one")
        return float(row @ 3 ** np.arange(len(row)) / 1e6)

    one = RecordedPredictor(small_space, predictor(act), tmp_path / "one", {}, workers=1).predict(genes)
    two = RecordedPredictor(small_space, predictor(act), tmp_path / "two", {}, workers=2).predict(genes)
    assert np.array_equal(one, two, equal_nan=True) and np.isnan(one).sum() == 1
    first = Architecture(small_space, genes[0]).to_json()
    places = [[r["architecture"] for r in raw(tmp_path / name)[1:]].index(first) for name in ("one", "two")]
    assert places[0] == 0 and places[1] > 0
    again = RecordedPredictor(small_space, predictor(never), tmp_path / "two", {}, workers=2)
    assert np.array_equal(again.predict(genes[3:]), two[3:])


def test_a_dead_worker_costs_one_evaluation(
    cluster: Any,
    small_space: MobileNetV3,
    genes: Genes,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def act(row: Genes) -> float:
        if np.array_equal(row, genes[5]):
            os.kill(os.getpid(), 9)
        return float(row @ 3 ** np.arange(len(row)) / 1e6)

    values = RecordedPredictor(small_space, predictor(act), tmp_path / "log", {}, workers=2).predict(genes)
    expected = np.array([counted(row) for row in genes])
    expected[5] = np.nan
    assert np.array_equal(values, expected, equal_nan=True)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "its worker died (WorkerCrashedError)" in warning
    assert str(Architecture(small_space, genes[5]).values) in warning
    assert len(raw(tmp_path / "log")) == 1 + 19
    time.sleep(0.2)
    assert capfd.readouterr() == ("", "")


def test_a_search_goes_on_without_what_failed(
    cluster: Any, small_problem: Problem, everything: Genes, tmp_path: Path
) -> None:
    space, latency = small_problem.space, small_problem.objectives[1]
    asked = space.sample(30, np.random.default_rng([0, 0]))
    (row,) = [r for r in np.unique(asked, axis=0) if np.array_equal(r, asked[4])]

    def act(genes: Genes) -> float:
        if np.array_equal(genes, row):
            os.kill(os.getpid(), 9)
        return 0.5 + float(genes.sum()) / 100

    accuracy = RecordedPredictor(space, predictor(act), tmp_path / "log", {}, workers=2)
    problem = Problem(space, [Objective.of(accuracy, "max", worst=0.0, costly=True), latency])
    result = search(problem, RandomSearch(30), evaluations=40, seed=0)
    assert (result.evaluations, result.failed) == (40, 1)
    assert len(result.genes) and not (result.genes == row).all(1).any()


def test_wrong_settings_are_refused_with_workers_too(
    cluster: Any, small_space: MobileNetV3, genes: Genes, tmp_path: Path
) -> None:
    def act(row: Genes) -> float:
        time.sleep(0.1 if np.array_equal(row, genes[0]) else 0)
        raise MeasurementError("no such compiler")

    with pytest.raises(MeasurementError, match="no such compiler"):
        RecordedPredictor(small_space, predictor(act), tmp_path / "log", {}, workers=2).predict(genes)


def test_a_predictor_that_cannot_be_sent_is_named(
    cluster: Any, small_space: MobileNetV3, genes: Genes, tmp_path: Path
) -> None:
    lock = threading.Lock()
    held = predictor(lambda row: float(lock.locked()))
    with pytest.raises(InvalidValueError, match=r"cannot be sent to other processes .*Use `workers=1`"):
        RecordedPredictor(small_space, held, tmp_path / "log", {}, workers=2).predict(genes)


def test_a_predictor_that_cannot_be_made_in_a_worker_is_named(
    cluster: Any, small_space: MobileNetV3, genes: Genes, tmp_path: Path
) -> None:
    made = predictor(counted)
    here = os.getpid()

    def refuse(pid: int) -> Any:
        if os.getpid() != pid:
            raise RuntimeError("no data here")

    type(made).__reduce__ = lambda self: (refuse, (here,))
    with pytest.raises(InvalidValueError, match=r"cannot be made in another process \(.*no data here\)"):
        RecordedPredictor(small_space, made, tmp_path / "log", {}, workers=2).predict(genes)


@pytest.mark.parametrize(
    ("settings", "message"), [({"threads": 64}, "64 CPUs, but there are 2"), ({"gpus": 99}, "99 GP")]
)
def test_more_than_there_is_is_refused(
    cluster: Any, small_space: MobileNetV3, genes: Genes, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    recorded = RecordedPredictor(small_space, predictor(counted), tmp_path / "log", {}, workers=2, **settings)
    with pytest.raises(NasError, match=message):
        recorded.predict(genes)


ENDLESS = """
    import sys, time
    from pathlib import Path
    import numpy as np
    from nas.core.evaluations import RecordedPredictor
    from search_spaces import MobileNetV3

    def make():
        class Slow:
            metric, unit = "accuracy", "1"
            def predict(self, genes):
                time.sleep(0.05 if genes.sum() % 3 else 600)
                return genes.sum(1) * 1.0
        return Slow()

    space = MobileNetV3(name="small", resolutions=[8, 12], in_channels=1, classes=10, stem=8, stem_stride=1,
        stages=[{"channels": 8, "stride": 2, "squeeze": True, "activation": "relu"}], depths=[1, 2, 3], kernels=[3, 5],
        expands=[1, 2], last_channels=8, features=8)
    rows = np.unique(space.sample(500, np.random.default_rng(0)), axis=0)
    rows = rows[np.argsort(rows.sum(1) % 3 == 0, kind="stable")]
    RecordedPredictor(space, make(), Path(sys.argv[1]), {}, workers=2).predict(rows)
"""


def processes_of(folder: Path) -> list[int]:
    """Processes with the folder in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"TMPDIR={folder}\0".encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    "sent", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)], ids=["SIGINT", "SIGKILL"]
)
def test_no_worker_outlives_an_interrupt_and_what_is_done_is_kept(
    sent: signal.Signals,
    tmp_path: Path,
    start_process: "Callable[..., subprocess.Popen[str]]",
    wait_until: Callable[[Callable[[], object]], None],
) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    path, folder = tmp_path / "log", Path("/tmp") / f"hw{os.getpid()}{sent.name}"  # sockets need a short path
    folder.mkdir()
    try:
        command = [sys.executable, "-c", textwrap.dedent(ENDLESS), str(path)]
        process = start_process(command, env={**os.environ, "TMPDIR": str(folder)}, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: process.poll() is not None or (path.exists() and len(path.read_bytes().splitlines()) >= 4))
        assert process.poll() is None, process.communicate()[1]
        assert len(processes_of(folder)) > 3  # the parent, Ray's servers and workers
        os.killpg(process.pid, sent)  # as the terminal does it on Ctrl-C
        _, error = process.communicate(timeout=120)
        assert process.returncode != 0 and (sent == signal.SIGKILL or "KeyboardInterrupt" in error)
        wait_until(lambda: not processes_of(folder))
        assert len(raw(path)) >= 4
    finally:
        for pid in processes_of(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        subprocess.run(["rm", "-rf", str(folder)], check=True)

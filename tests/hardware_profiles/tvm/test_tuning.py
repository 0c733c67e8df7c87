"""Tuning of a tiny kernel with the real MetaSchedule, and what is kept of it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm
import tvm_ffi
from tvm import te

from hardware_profiles.model import Model
from hardware_profiles.tvm import tuning as tvm_tuning
from hardware_profiles.tvm.compiler import FUSION
from hardware_profiles.tvm.graph import relax_module
from hardware_profiles.tvm.schedule import Processor, scheduled
from hardware_profiles.tvm.tuning import Tuner
from search_spaces.base.errors import DamagedFileError, DeviceUnavailableError, StorageError
from search_spaces.ops.learned import Embedding
from search_spaces.ops.movement import Concat, Gather
from search_spaces.program import Shape
from tests.hardware_profiles.networks import Steps, network_of

TARGET = tvm.target.Target({"kind": "llvm", "opt-level": 1})


def kernel(size: int = 8) -> Any:
    """A product of matrices, (1, 1, size, size) twice, without a schedule."""
    a = te.placeholder((1, 1, size, size), "float32", "a")
    b = te.placeholder((size, size), "float32", "b")
    k = te.reduce_axis((0, size), "k")
    return te.create_prim_func(
        [a, b, te.compute((1, 1, size, size), lambda n, h, w, c: te.sum(a[n, h, w, k] * b[k, c], k), "product")]
    )


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the records of `kernel()` from three trials."""
    folder = tmp_path_factory.mktemp("records")
    Tuner(TARGET, 1, 3, folder).faster(kernel(), ours())
    yield folder


@pytest.fixture
def records(tuned: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tuned, tmp_path / "records"))


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each build."""
    built: list[int] = []
    build = tvm.tirx.build
    monkeypatch.setattr(tvm.tirx, "build", lambda *args, **kwargs: built.append(1) or build(*args, **kwargs))
    return built


def ours() -> Any:
    return scheduled(kernel(), Processor(8, 16))


def kernel_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*") if path.is_dir())


def result(folder: Path) -> dict[str, Any]:
    (found,) = kernel_folders(folder)
    content: dict[str, Any] = json.loads((found / tvm_tuning.RESULT).read_text())
    return content


def test_trials_are_recorded_and_both_schedules_timed(tuned: Path) -> None:
    (folder,) = kernel_folders(tuned)
    assert len((folder / "database_tuning_record.json").read_text().splitlines()) == 3
    content = result(tuned)
    assert content["trials"] == 3
    assert content["ours_ms"] > 0 and content["tuned_ms"] > 0


@pytest.mark.parametrize("threads", [1, 2])
def test_variants_are_split_over_the_threads(tmp_path: Path, threads: int) -> None:
    Tuner(TARGET, threads, 1, tmp_path).faster(kernel(), ours())
    (folder,) = kernel_folders(tmp_path)
    trace = (folder / "database_tuning_record.json").read_text()
    assert ('"meta_schedule.parallel"' in trace) == (threads > 1)


def test_records_are_reused(records: Path, builds: list[int]) -> None:
    for trials in (3, 2):
        Tuner(TARGET, 1, trials, records).faster(kernel(), ours())
    assert builds == []
    assert len(kernel_folders(records)) == 1


def test_more_trials_than_recorded_are_made(records: Path, builds: list[int]) -> None:
    Tuner(TARGET, 1, 4, records).faster(kernel(), ours())
    assert len(builds) == 4 + 1  # each variant, and the comparison
    assert len(kernel_folders(records)) == 2


def test_records_of_other_conditions_are_not_used(records: Path, builds: list[int]) -> None:
    Tuner(tvm.target.Target({"kind": "llvm", "opt-level": 2}), 1, 3, records).faster(kernel(), ours())
    assert len(builds) == 3 + 1


def test_the_faster_schedule_is_used(records: Path) -> None:
    own = ours()
    content = result(records)
    (folder,) = kernel_folders(records)
    used = {}
    for tuned_ms in (content["ours_ms"] / 2, content["ours_ms"] * 2, None):
        (folder / tvm_tuning.RESULT).write_text(json.dumps({**content, "tuned_ms": tuned_ms}))
        used[tuned_ms] = Tuner(TARGET, 1, 3, records).faster(kernel(), own)
    tuned, *same = used.values()
    assert tuned is not own
    assert all(function is own for function in same)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((1, 1, 8, 8), np.float32), rng.standard_normal((8, 8), np.float32)
    output = tvm.runtime.tensor(np.zeros((1, 1, 8, 8), np.float32))
    library = tvm.tirx.build(tvm.IRModule({"main": tuned.with_attr("global_symbol", "main")}), TARGET)
    library["main"](tvm.runtime.tensor(a), tvm.runtime.tensor(b), output)
    np.testing.assert_allclose(output.numpy(), a @ b, atol=1e-5)


def test_variants_that_do_not_build_leave_our_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, own = tvm.tirx.build, ours()

    def build_ours_only(module: Any, *args: Any, **kwargs: Any) -> Any:
        if "ours" not in [variable.name_hint for variable in module.functions]:
            raise RuntimeError("refused")
        return build(module, *args, **kwargs)

    monkeypatch.setattr(tvm.tirx, "build", build_ours_only)
    assert Tuner(TARGET, 1, 2, tmp_path).faster(kernel(), own) is own
    assert result(tmp_path)["tuned_ms"] is None


def test_a_kill_leaves_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(tvm.tirx, "build", kill)
    with pytest.raises(KeyboardInterrupt):
        Tuner(TARGET, 1, 2, tmp_path).faster(kernel(), ours())
    assert kernel_folders(tmp_path) == []


def test_of_two_processes_the_first_keeps_its_records(
    records: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = result(records)
    monkeypatch.setattr(Tuner, "_recorded", lambda *_: None)  # as when the other process has not yet ended
    with caplog.at_level(logging.INFO, logger="hardware_profiles.tvm.tuning"):
        Tuner(TARGET, 1, 3, records).faster(kernel(), ours())
    assert "tuned by another process" in caplog.text
    assert result(records) == before


def test_a_damaged_result_is_named(records: Path) -> None:
    (folder,) = kernel_folders(records)
    (folder / tvm_tuning.RESULT).write_text("{")
    with pytest.raises(DamagedFileError, match=tvm_tuning.RESULT):
        Tuner(TARGET, 1, 3, records).faster(kernel(), ours())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        Tuner(TARGET, 1, 3, tmp_path / "file")


def test_a_version_that_crashes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tvm_tuning.check_installed("board")
    monkeypatch.setattr(tvm_ffi, "__version__", "0.1.15.post2")
    with pytest.raises(DeviceUnavailableError, match=r"needs apache-tvm-ffi 0\.1\.14\.post1, but 0\.1\.15\.post2"):
        tvm_tuning.check_installed("board")


def test_records_are_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tvm_tuning.default_folder() == tmp_path / "hwnas" / "tvm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tvm_tuning.default_folder() == tmp_path / ".cache" / "hwnas" / "tvm"


@pytest.mark.parametrize(
    ("steps", "shapes"),
    [
        (Embedding("table", 11, 16), ((7,),)),
        (Gather((3, 1)), ((8, 4, 4),)),
        (Concat(), ((8, 4, 4), (8, 4, 4))),
    ],
)
def test_kernels_of_integers_and_of_several_copies(steps: Steps, shapes: tuple[Shape, ...], tmp_path: Path) -> None:
    module = tvm.transform.Sequential(FUSION)(relax_module(Model(network_of(steps, *shapes)), 1)[0])
    (function,) = (f for f in module.functions.values() if isinstance(f, tvm.tirx.PrimFunc))
    Tuner(TARGET, 1, 1, tmp_path).faster(function, scheduled(function, Processor(8, 16)))
    assert result(tmp_path)["ours_ms"] > 0

"""Tuning of single kernels with TVM's MetaSchedule, with records that later processes reuse.

The schedule of a kernel is searched for by building and timing variants (Shao et al., "Tensor Program Optimization with
Probabilistic Programs", NeurIPS 2022, arXiv:2205.13603). The best one is then timed beside our own schedule, and the
faster of the two is what a kernel gets: ours often is.

Variants are built and run in this process, because TVM's own workers take seconds to start for each dozen of them. One
that crashes takes the process with it, so a profile that tunes says ``isolated: true``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm.s_tir import meta_schedule

from hardware_profiles.host import host_description
from search_spaces.base.errors import DeviceUnavailableError
from search_spaces.base.storage import fingerprint, read_json, storage_errors, write_json

log = logging.getLogger(__name__)

FFI_VERSION = "0.1.14.post1"
"""The version of apache-tvm-ffi with which MetaSchedule works: 0.1.15.post2 crashes it."""
RESULT = "result.json"
_TRIALS_PER_ROUND = 16
_STRATEGY = meta_schedule.search_strategy.EvolutionarySearch


def check_installed(device: str) -> None:
    """Check that what is installed can tune.

    Raises:
        DeviceUnavailableError: it cannot.
    """
    if tvm_ffi.__version__ != FFI_VERSION:
        raise DeviceUnavailableError(
            f"Device {device!r}: `tune_trials` needs apache-tvm-ffi {FFI_VERSION}, but {tvm_ffi.__version__} is "
            "installed, with which tuning may crash. Run `pip install 'hwnas[tvm]'`."
        )


def default_folder() -> Path:
    """Folder of records if the profile does not say."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwnas" / "tvm"


class Tuner:
    """Finds the faster schedule of each kernel.

    A kernel's folder has MetaSchedule's JSON database and the milliseconds of both schedules. It appears at once, when
    its tuning has ended, so a kill leaves none that is half done, and of two processes one keeps its own.

    Args:
        target: LLVM target of this computer.
        threads: threads that one kernel is split over.
        trials: variants that are timed per kernel.
        folder: of the records; made if need be. Records made with as many trials or more are reused.
    """

    def __init__(self, target: Any, threads: int, trials: int, folder: Path) -> None:
        # The number of cores is what MetaSchedule splits parallel loops for.
        self._target = tvm.target.Target({**_exported(target), "num-cores": threads})
        self._threads = threads
        self._trials = trials
        conditions = {"tvm": tvm.__version__, "target": str(self._target), "cpu": host_description()["cpu"]}
        self._folder = folder / fingerprint(conditions)
        with storage_errors(folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        if not (self._folder / "conditions.json").exists():
            write_json(self._folder / "conditions.json", conditions)

    def faster(self, function: Any, ours: Any) -> Any:
        """The tuned schedule of a kernel, or ours if it is the faster one.

        Args:
            function: the kernel without a schedule.
            ours: the same with our schedule.
        """
        folder = self._recorded(function) or self._tuned(function, ours)
        result = read_json(folder / RESULT)
        if result["tuned_ms"] is None or result["ours_ms"] <= result["tuned_ms"]:
            return ours
        return _best(folder, function)

    def _recorded(self, function: Any) -> Path | None:
        prefix = _name(function)
        folders = {int(path.name.rpartition("-")[2]): path for path in self._folder.glob(f"{prefix}-*")}
        most = max(folders, default=0)
        return folders[most] if most >= self._trials else None

    def _tuned(self, function: Any, ours: Any) -> Path:
        final = self._folder / f"{_name(function)}-{self._trials}"
        with storage_errors(self._folder), tempfile.TemporaryDirectory(dir=self._folder, prefix=".") as made:
            folder = Path(made) / "kernel"
            folder.mkdir()
            self._search(function, folder)
            best = _best(folder, function)
            functions = {"ours": ours} if best is None else {"ours": ours, "tuned": best}
            seconds = self._seconds(functions, rounds=9)
            times = {f"{name}_ms": 1e3 * seconds[name] if name in seconds else None for name in ("ours", "tuned")}
            write_json(folder / RESULT, {"trials": self._trials, **times})
            try:
                os.rename(folder, final)
            except OSError:
                if not final.exists():
                    raise
                log.info("%s was tuned by another process meanwhile", final)
        return final

    def _search(self, function: Any, folder: Path) -> None:
        """Time variants, and note those that run in the folder's database."""
        with _no_tensor_intrinsics():
            context = meta_schedule.TuneContext(
                function,
                target=self._target,
                space_generator=_space(self._threads),
                search_strategy=_STRATEGY(population_size=64, init_min_unmeasured=16, genetic_num_iters=1),
                rand_state=1 + int(_name(function), 16) % (2**31 - 2),  # the same search every time
                num_threads=self._threads,
                logger=log.getChild("metaschedule"),
            )
        database = meta_schedule.database.JSONDatabase(work_dir=str(folder))
        workload = database.commit_workload(context.mod)
        context.pre_tuning(
            self._trials,
            min(self._trials, _TRIALS_PER_ROUND),
            database=database,
            cost_model=meta_schedule.cost_model.RandomModel(),
        )
        while (candidates := context.generate_measure_candidates()) is not None:
            results = []
            for candidate in candidates:
                try:
                    seconds = self._seconds({"main": candidate.sch.mod["main"]}, rounds=3)["main"]
                except Exception as error:  # TVM's, of many kinds: a variant that does not compile is no candidate
                    results.append(meta_schedule.runner.RunnerResult(None, str(error)))
                    continue
                results.append(meta_schedule.runner.RunnerResult([seconds], None))
                record = meta_schedule.database.TuningRecord(
                    candidate.sch.trace, workload, [seconds], self._target, candidate.args_info
                )
                database.commit_tuning_record(record)
            context.notify_runner_results(candidates, results)
        context.post_tuning()

    def _seconds(self, functions: Mapping[str, Any], rounds: int) -> dict[str, float]:
        """Least seconds of each, timed in turns."""
        named = {name: function.with_attr("global_symbol", name) for name, function in functions.items()}
        library = tvm.tirx.build(tvm.IRModule(named), self._target, pipeline=None)
        rng = np.random.default_rng(0)
        arrays = []
        for parameter in next(iter(functions.values())).params:
            shape, dtype = [int(extent) for extent in parameter.shape], str(parameter.dtype)
            numbers = (
                rng.standard_normal(shape, np.float32) if dtype == "float32" else np.zeros(shape, dtype)
            )  # indices
            arrays.append(tvm.runtime.tensor(numbers))
        times: dict[str, list[float]] = {name: [] for name in functions}
        for _ in range(rounds):
            for name, samples in times.items():
                timed = library.time_evaluator(name, tvm.cpu(), number=1, repeat=3, min_repeat_ms=1)
                samples.append(min(timed(*arrays).results))
        return {name: min(samples) for name, samples in times.items()}


@contextlib.contextmanager
def _no_tensor_intrinsics() -> Iterator[None]:
    """TVM registers them whenever something is tuned, which takes half a minute, and our search space has no use for
    them."""
    name = "tvm.s_tir.tensor_intrin"
    known = name in sys.modules
    sys.modules.setdefault(name, types.ModuleType(name))
    try:
        yield
    finally:
        if not known:
            del sys.modules[name]


def _exported(target: Any) -> dict[str, Any]:
    return {key: value for key, value in target.export().items() if key != "tag"}


def _name(function: Any) -> str:
    """Equal for equal kernels, in every process."""
    return f"{tvm_ffi.structural_hash(function) % 2**64:016x}"


def _best(folder: Path, function: Any) -> Any:
    """The fastest recorded schedule; None where no variant could be built and run."""
    database = meta_schedule.database.JSONDatabase(work_dir=str(folder))
    workload = database.commit_workload(meta_schedule.tune_context._normalize_mod(function))
    records = database.get_top_k(workload, 1)
    if not records:
        return None
    schedule = tvm.s_tir.Schedule(workload.mod)
    records[0].trace.apply_to_schedule(schedule, remove_postproc=False)
    return schedule.mod["main"]


def _space(threads: int) -> Any:
    """MetaSchedule's search space for processors of any kind, without parallel loops for one thread: they cost even
    where nothing is split. Its spaces for certain processors differ in int8 only."""
    rule, mutator = meta_schedule.schedule_rule.ParallelizeVectorizeUnroll, meta_schedule.mutator
    parallel = 16 if threads > 1 else -1  # loops per thread, -1: none
    split = rule(
        max_jobs_per_core=parallel, max_vectorize_extent=64, unroll_max_steps=[0, 16, 64, 512], unroll_explicit=True
    )
    mutators = {mutator.MutateTileSize(): 0.9, mutator.MutateComputeLocation(): 0.05, mutator.MutateUnroll(): 0.03}
    return meta_schedule.space_generator.PostOrderApply(
        sch_rules=[
            split if isinstance(default, rule) else default for default in meta_schedule.ScheduleRule.create("llvm")
        ],
        postprocs=meta_schedule.Postproc.create("llvm"),
        mutator_probs=mutators | ({mutator.MutateParallel(parallel): 0.02} if threads > 1 else {}),
    )

"""Evaluations that train or measure: each is kept on disk as it comes, and several are made at a time.

    accuracy = RecordedPredictor(space, trainer, folder / "trained.jsonl", {"epochs": 30}, workers=4)
    search(Problem(space, [Objective.of(accuracy, "max", worst=0.1, costly=True), ...]), ...)

Parallel workers are processes of Ray (Moritz et al., OSDI 2018) on this machine, or of the cluster that the program has
joined with `ray.init` before.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nas.core.progress import progress
from predictors.base import Predictor, Values, metric_of
from search_spaces.architecture import Architecture, Genes
from search_spaces.base.errors import DeviceUnavailableError, InvalidValueError, NasError
from search_spaces.base.storage import RecordLog, fingerprint, take_records
from search_spaces.metric import Direction
from search_spaces.space import SearchSpace

log = logging.getLogger(__name__)

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to Ray's makers
    # Ray's own switch for a cluster of one machine: everything listens on the loopback address. The name is of the
    # systems for which this is the default; an address given to `ray.init` does not do it (seen with 2.60).
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^A worker died or was killed",  # not on stdout: we say which architecture it was
}
"""Variables that Ray and its servers read, set before it is imported; a variable that the user has set is left as it
is."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def check_workers(workers: int) -> None:
    """Check that so many workers can be had; nothing is imported or started.

    Raises:
        InvalidValueError: several need Ray, which is not installed.
    """
    if workers > 1 and importlib.util.find_spec("ray") is None:
        raise _without_ray("it is not installed")


def recorded_conditions(space: SearchSpace, predictor: Predictor, conditions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Content of the first line of a `RecordedPredictor`'s file."""
    return {"space": space.fingerprint, "metric": predictor.metric, "unit": predictor.unit, **conditions}


class RecordedPredictor:
    """A predictor whose every evaluation is written to a log, so that none is made twice.

    A process that is killed loses at most the evaluations that were under way, one per worker. Several processes may
    share a log. An evaluation that fails gives NaN and a warning, and is not recorded, so a later run tries it again:
    one whose worker is killed or crashes, one that raises, one that gives NaN.

    Args:
        space: whose architectures are evaluated.
        predictor: what evaluates one architecture; slow. It must give the same value in every process.
        path: the log, one JSON line per evaluation; made on first use.
        conditions: JSON-able description of all else that a value depends on, such as the data, the number of epochs
            or the digest of a supernet; a log of other conditions is refused.
        named: whether the log's first line has the space, the metric and its unit beside the conditions.
        check: raises an `InvalidValueError` of what is no value; what the log has of it is evaluated again.
        workers: processes that evaluate at a time. 1: this process. More need Ray, which sends them the predictor
            through memory, serialised by cloudpickle; nothing of that is kept in a file of ours.
        make: what makes the predictor in a worker, from files say, where it is no object to be sent.
        threads: that each worker uses, of 2 or more workers.
        gpus: that each of them has to itself; a fraction shares one.

    Raises:
        MismatchError: the log was written under other conditions.
        InvalidValueError: fewer than one worker or thread, or Ray is not installed.
    """

    costly = True

    def __init__(
        self,
        space: SearchSpace,
        predictor: Predictor,
        path: Path,
        conditions: Mapping[str, Any],
        *,
        named: bool = True,
        check: Callable[[Any], None] | None = None,
        workers: int = 1,
        threads: int = 1,
        gpus: float = 0.0,
        make: Callable[[], Predictor] | None = None,
    ) -> None:
        if workers < 1 or threads < 1 or gpus < 0:
            raise InvalidValueError(
                f"`workers` and `threads` must be >= 1 and `gpus` >= 0, but got {workers}, {threads} and {gpus}."
            )
        if workers > 1:
            _import_ray()
        self.workers, self.threads, self.gpus = workers, threads, gpus
        self._space, self._predictor = space, predictor
        self._make = make or functools.partial(_same, predictor)
        self._check = check
        self._conditions = recorded_conditions(space, predictor, conditions) if named else conditions
        self._log = RecordLog(path, self._conditions)
        self._known: dict[bytes, float] = {}  # genes -> value
        self._read = 0
        self._tried = False
        self._stop: weakref.finalize[..., RecordedPredictor] | None = None

    @property
    def metric(self) -> str:
        return self._predictor.metric

    @property
    def unit(self) -> str:
        return self._predictor.unit

    @property
    def direction(self) -> Direction:
        """Direction in which the metric is better."""
        return metric_of(self._predictor).direction

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the conditions under which values hold."""
        return fingerprint(self._conditions)

    def predict(self, genes: Genes) -> Values:
        """Values of canonical genes (n, choices), shape (n,); NaN where an evaluation failed.

        Raises:
            NasError: of the first architecture of all: most likely the settings are wrong, not the architecture.
            StorageError: the log cannot be written.
        """
        self._log.refresh()
        self._take_records()
        rows = {row.tobytes(): row for row in np.asarray(genes, np.int16)}
        todo = {key: row for key, row in rows.items() if key not in self._known}
        first = None if self._tried else next(iter(todo), None)
        self._tried = self._tried or bool(todo)
        evaluated = self._in_parallel(todo) if self.workers > 1 else self._in_turn(todo)
        title = metric_of(self._predictor).title
        with contextlib.closing(evaluated) as outcomes, progress(title, len(todo), "network") as shown:
            for key, outcome in outcomes:
                shown.update()
                architecture = Architecture(self._space, todo[key])
                if outcome.reason is None:
                    written = outcome.value if np.isfinite(outcome.value) else str(outcome.value)  # JSON has no inf
                    self._log.append({"architecture": architecture.to_json(), self.metric: written})
                    self._take_records()
                    continue
                if key == first and outcome.error is not None:
                    raise outcome.error
                log.warning("%s of %s could not be evaluated: %s", self.metric, architecture.values, outcome.reason)
                if outcome.details:
                    log.debug("%s", outcome.details)
        return np.array([self._known.get(row.tobytes(), np.nan) for row in np.asarray(genes, np.int16)])

    def close(self) -> None:
        """Stop the workers; otherwise they end with this process. Evaluating again starts new ones."""
        if self._stop is not None:
            self._stop()

    def _take_records(self) -> None:
        """Take over what was added to the log, by this process and by others."""

        def take(record: Mapping[str, Any]) -> None:
            architecture, value = Architecture.from_json(self._space, record["architecture"]), record[self.metric]
            if self._check is not None:
                self._check(value)
            self._known[architecture.genes.tobytes()] = float(value)

        take_records(self._log.path, self._log.records[self._read :], take)
        self._read = len(self._log.records)

    def _in_turn(self, todo: Mapping[bytes, Genes]) -> Generator[tuple[bytes, _Outcome]]:
        for key, row in todo.items():
            if key not in self._known:  # another process may have evaluated it meanwhile
                yield key, _attempt(self._predictor, row)

    def _in_parallel(self, todo: Mapping[bytes, Genes]) -> Generator[tuple[bytes, _Outcome]]:
        """Outcomes in the order in which they come."""
        if not todo:
            return
        ray = self._start()
        try:
            predictor = ray.put(self._make)
        except Exception as error:  # pickling calls the predictor's own code
            raise InvalidValueError(
                f"The {self.metric} predictor cannot be sent to other processes ({_cause(error)}). Use `workers=1`."
            ) from error
        task = ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_retries=0)(_attempt_in_worker)
        waiting = deque(todo)
        running: dict[Any, bytes] = {}
        lost = (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    if (key := waiting.popleft()) not in self._known:
                        # In a list the predictor is a reference, which a worker resolves once for many tasks.
                        running[task.remote([predictor], todo[key])] = key
                if not running:
                    break
                ready = ray.wait(list(running), num_returns=1)[0][0]
                try:
                    outcome = ray.get(ready)
                except lost as error:
                    outcome = _Outcome(reason=f"its worker died ({type(error).__name__})", details=str(error))
                yield running.pop(ready), outcome
        except ray.exceptions.RayError as error:
            raise DeviceUnavailableError(
                f"Ray's workers cannot be used any more: {str(error).splitlines()[-1]}. Start again; what was "
                f"evaluated is kept in {self._log.path}."
            ) from error
        finally:
            for reference in running:  # on Ctrl-C or an error
                ray.cancel(reference, force=True)

    def _start(self) -> Any:
        """Ray, with a cluster: the one that the program has joined, or a new one on this machine."""
        ray = _import_ray()
        if not ray.is_initialized():
            folder = tempfile.mkdtemp(prefix="ray-")  # sockets and the workers' output
            self._stop = weakref.finalize(self, _shut_down, ray, folder)
            try:
                ray.init(
                    address="local",
                    num_cpus=self.workers * self.threads,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=folder,
                )
            except Exception as error:  # each of its servers has its own kinds
                raise DeviceUnavailableError(
                    f"Ray cannot start workers on this machine ({_cause(error)}). Its sockets are in the folder that "
                    "the environment variable TMPDIR names; `workers=1` does without it."
                ) from error
            if (address := ray.util.get_node_ip_address()) not in LOOPBACK:
                log.warning(
                    "Ray's workers listen on %s, since Ray was imported before it could be told to use the loopback "
                    "address. Set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 to have it so.",
                    address,
                )
        has = ray.cluster_resources()
        for name, asked in (("CPU", self.threads), ("GPU", self.gpus)):
            if asked > has.get(name, 0):
                raise InvalidValueError(
                    f"Each worker is to have {asked:g} {name}s, but there are {has.get(name, 0):g}. Lower `threads` or "
                    "`gpus`."
                )
        return ray


@dataclass(frozen=True)
class _Outcome:
    """A value, or the reason why there is none. ``error``: a `NasError` that says it, which the first one raises."""

    value: float = np.nan
    reason: str | None = None
    error: NasError | None = None
    details: str = ""


def _attempt(predictor: Predictor, row: Genes) -> _Outcome:
    """Evaluate one architecture (choices,)."""
    try:
        value = float(predictor.predict(row[None])[0])
    except NasError as error:
        return _Outcome(reason=str(error), error=error)
    except (Exception, SystemExit) as error:  # whatever training or measuring may raise costs this evaluation only
        return _Outcome(reason=f"{type(error).__name__}: {error}", details=traceback.format_exc())
    return _Outcome(value=value, reason="it gave NaN" if np.isnan(value) else None)


_received: dict[Any, Predictor] = {}
"""Predictor of a worker: the one that it evaluates with."""


def _attempt_in_worker(predictor: list[Any], row: Genes) -> _Outcome:
    """`_attempt`, with the predictor that comes of what is behind Ray's reference."""
    if predictor[0] not in _received:
        _received.clear()
        try:
            _received[predictor[0]] = _import_ray().get(predictor[0])()
        except Exception as error:  # unpickling imports modules and calls the predictor's own code, as making it does
            reason = f"The predictor cannot be made in another process ({_cause(error)}). Use `workers=1`."
            return _Outcome(reason=reason, error=InvalidValueError(reason))
    return _attempt(_received[predictor[0]], row)


def _same(predictor: Predictor) -> Predictor:
    """Function in place of `make` where the predictor itself is sent."""
    return predictor


def _cause(error: Exception) -> str:
    """The line that says why; Ray puts it before, or beneath, a page of its own."""
    return str(error.__cause__ or error).splitlines()[0]


def _import_ray() -> Any:
    if "ray" not in sys.modules:  # later, its servers would take other settings than this process has
        for name, value in RAY_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise _without_ray(error) from error


def _without_ray(reason: object) -> InvalidValueError:
    return InvalidValueError(
        f"Evaluating in parallel needs Ray ({reason}). Install it with `pip install 'hwnas[ray]'`, or use `workers=1`."
    )


def _shut_down(ray: Any, folder: str) -> None:
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)

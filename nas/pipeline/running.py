"""Running stages: what is finished is skipped, what was killed continues, what is lost or damaged is made again.

A stage leaves ``stages/<stage>.json``: a fingerprint of its settings and input files, whether it is complete, its
seconds, and a manifest, which is the digest of each file that it made.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nas.core import processes
from nas.pipeline import checks
from nas.pipeline.stages import STAGES, Stage, announced, unneeded
from nas.report.front_text import summary_lines
from nas.run.fronts import Front
from nas.run.labelling import check_trained_on
from nas.run.records import Marker, StageTime, read_file, read_marker
from nas.run.run_folder import Run, digest, made_of
from search_spaces.base.errors import DamagedFileError, InvalidValueError
from search_spaces.base.folders import check_free, locked_folder, temporary_folder
from search_spaces.base.storage import fingerprint, write_json
from search_spaces.base.threads import one_blas_thread

log = logging.getLogger(__name__)


DONE, NOT_NEEDED = "done", "not needed"


UNTRAINED = (
    "Nothing is exported, as no weights are trained: the search does not need them. `nas train` trains a supernet, "
    "`train.from=` takes that of another run; `nas run` then exports. `export.weights=random` "
    "exports networks that are not trained; `nas train-alone` then trains them."
)


@dataclass(frozen=True)
class Outcome:
    """Outcome of a stage.

    ``seconds`` are what it took, now or, where it is ``unchanged``, when it was last run.
    """

    stage: str
    seconds: float
    unchanged: bool = False
    needed: bool = True

    def __str__(self) -> str:
        if not self.needed:
            return f"{self.stage:8} {NOT_NEEDED}"
        return f"{self.stage:8} unchanged" if self.unchanged else f"{self.stage:8} {self.seconds:7.1f} s"


def run_stage(run: Run, name: str) -> Outcome:
    """Check what concerns one stage, then run it.

    Raises:
        NasError: a setting is wrong or a file that it reads is missing; the message names the stage that makes it.
        FolderInUseError: another process works in the run folder; several may profile there.
    """
    if processes.is_follower():
        return _follow(run, name)
    check_free(run.folder, shared=name == "profile")
    run.check_folder()
    _inputs(run, name)
    for note in checks.check(run, [name]).notes:
        log.warning("%s", note)
    with locked_folder(run.folder, run.command, shared=name == "profile"):
        return _run_stage(run, name)


def _follow(run: Run, name: str) -> Outcome:
    """Take part in a stage that several processes run, of which the first one writes.

    Raises:
        InvalidValueError: the stage runs in one process.
    """
    if name != "train":
        raise InvalidValueError(f"`torchrun` starts `nas train` alone in several processes, but got `nas {name}`.")
    started = time.perf_counter()
    STAGES[name].run(run)
    return Outcome(name, time.perf_counter() - started)


def run_all(run: Run, say: Callable[[str], None] | None = None) -> Iterator[Outcome]:
    """Check everything, then run all stages in order, skipping those that were done with the same settings and inputs.

    Args:
        run: what to run.
        say: takes the lines of the plan, where there is something to do.

    Yields:
        What became of each stage, when it has ended.

    Raises:
        FolderInUseError: another process works in the run folder.
    """
    if processes.several():
        raise InvalidValueError(
            "`torchrun` starts one stage in several processes: `torchrun --nproc-per-node 2 -m nas train ...`. "
            "`nas run` with the same settings goes on after it, in one process."
        )
    check_free(run.folder)
    run.check_folder()
    states = stage_states(run)
    todo = _todo(states)
    checked = checks.check(run, todo)
    if say is not None and todo:
        for line in checks.plan_lines(run, states, checked):
            say(line)
    with locked_folder(run.folder, run.command):
        for name, state in states.items():
            if state == NOT_NEEDED:
                yield Outcome(name, 0.0, needed=False)
            else:
                yield _run_stage(run, name, skip_unchanged=True)
        if not (run.folder / "run.json").exists():
            run.claim_folder()
        _write_stage_times(run)


def plan(run: Run) -> list[str]:
    """Check everything that is still to do, and say what that is; nothing is run or written."""
    with _without_traces(run) as run:
        run.check_folder()
        states = stage_states(run)
        todo = _todo(states)
        checked = checks.check(run, todo)
        profiles = [line for device in run.devices for line in announced(run, device)] if "profile" in todo else []
        return list(checks.plan_lines(run, states, checked, profiles))


@contextlib.contextmanager
def _without_traces(run: Run) -> Iterator[Run]:
    """The run, whose data leaves what a look at it shows in a temporary folder, where all that is known of it is
    already."""
    from nas.data.loading import CACHE, caching

    with temporary_folder("plan") as folder:

        def place(cache: str | None) -> str:
            kept = Path(cache or run.folder / CACHE)
            if kept.is_dir():
                shutil.copytree(kept, folder, dirs_exist_ok=True)
            return str(folder)

        yield replace(run, settings=replace(run.settings, data=dict(caching(run.settings.data, place))))


def _todo(states: Mapping[str, str]) -> list[str]:
    return [name for name, state in states.items() if state not in (DONE, NOT_NEEDED)]


def stage_states(run: Run) -> dict[str, str]:
    """State of each stage: done, to do, continues, or not needed."""
    states: dict[str, str] = {}
    anew: set[Path] = set()
    left_out = unneeded(run)
    for name, stage in STAGES.items():
        if name in left_out:
            states |= {} if stage.asked else {name: NOT_NEEDED}
            continue
        reads = stage.reads(run)
        states[name] = "to do"
        if not anew.intersection(reads) and all(path.exists() for path in reads):
            at = _Standing.of(run, name, _manifest(run, reads))
            if at.same:
                states[name] = DONE if at.is_whole else "continues"
        if states[name] != DONE:
            anew.update(stage.writes(run))
    return states


def _run_stage(run: Run, name: str, *, skip_unchanged: bool = False) -> Outcome:
    stage = STAGES[name]
    run.check_folder()
    at = _Standing.of(run, name, _inputs(run, name))
    if skip_unchanged and at.is_whole:
        return Outcome(name, at.seconds, unchanged=True)
    for file in at.lost:
        _clear(run.folder / file, stage)
    run.claim_folder()
    data = run.data.fingerprint if stage.uses_data(run) else None
    done = Marker(identity=at.identity, command=run.command, seed=run.settings.seed, data=data, complete=True)
    if name == "report":
        _write_stage_times(run)
    earlier = 0.0 if at.is_complete else at.seconds
    # Until the stage ends, what lies there is of the images that it last saw.
    begun = replace(done, data=_marker(run, name).data or data, complete=False)
    path, started = _path(run, name), time.perf_counter()
    replace(begun, seconds=earlier).write(path)
    try:
        with one_blas_thread():
            stage.run(run)
    finally:  # an interrupted stage is continued later: keep the time that it has taken so far
        seconds = earlier + time.perf_counter() - started
        replace(begun, seconds=seconds).write(path)
    replace(done, seconds=seconds, made=_manifest(run, stage.writes(run))).write(path)
    _write_stage_times(run)
    if name == "profile":
        checks.check_limits(run, profiled=True)  # before hours of training
    return Outcome(name, seconds)


def _inputs(run: Run, name: str) -> dict[str, str]:
    """Manifest of the files that a stage reads.

    Raises:
        InvalidValueError: one of them is missing.
        DamagedFileError: one is not as its stage left it.
        MismatchError: the supernet has seen other images.
    """
    reads = STAGES[name].reads(run)
    for path in reads:
        if not path.exists() and not (STAGES[name].takes_part and any(other.exists() for other in reads)):
            maker = path.relative_to(run.folder).parts[0]
            raise InvalidValueError(
                f"`nas {name}` needs {path}, which is not there.{_other_devices(run, path)} Run "
                f"`nas {maker}` with the same settings first, "
                "or everything with `nas run`."
            )
    left = {
        file: (maker, kept)
        for maker in STAGES
        if STAGES[maker].sealed
        for file, kept in _made(_marker(run, maker)).items()
    }
    manifest = _manifest(run, reads)
    for file, now in manifest.items():
        maker, kept = left.get(file, ("", now))
        if now != kept:
            raise DamagedFileError(
                f"{run.folder / file} is not as `nas {maker}` left it: it is damaged or was changed. Run `nas {maker}` "
                "again, or everything with `nas run`."
            )
    if STAGES[name].uses_supernet(run):
        _check_data(run, name)
    return manifest


def _other_devices(run: Run, path: Path) -> str:
    """Sentence on the devices whose file of the same kind is there in place of a missing one; else empty."""
    file = path.relative_to(run.folder).as_posix()
    device = next((device.name for device in run.devices if device.name in file), None)
    if device is None:
        return ""
    before, _, after = file.partition(device)
    found = [other.relative_to(run.folder).as_posix() for other in sorted(run.folder.glob(f"{before}*{after}"))]
    given = {Path(name).stem: name for name in made_of(run.folder).get("device", [])}
    names = [other.removeprefix(before).removesuffix(after) for other in found]
    if not names:
        return ""
    device = ",".join(given.get(name, name) for name in names)
    return f" This folder has {', '.join(names)}: add `device={device if len(names) == 1 else f'[{device}]'}`."


def _write_stage_times(run: Run) -> None:
    """Write ``stages.json``, the seconds of each stage, if it would change."""
    markers = {name: _marker(run, name) for name in STAGES}
    times = [StageTime(stage=n, seconds=m.seconds, skipped=False) for n, m in markers.items() if m.identity]
    path = run.folder / "stages.json"
    try:
        there = read_file(path, list[StageTime], "run") if path.exists() else None
    except DamagedFileError:
        there = None
    if there != times:
        write_json(path, times)


# -- markers and manifests ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Standing:
    """Standing of a stage.

    Args:
        identity: of the settings and the input files as they are now.
        same: whether it was last run with these.
        is_complete: whether it then ended.
        seconds: that it took then, 0 where it was run with others.
        lost: files that it made then and that are gone or damaged now.
    """

    identity: str
    same: bool
    is_complete: bool
    seconds: float
    lost: Sequence[str]

    @property
    def is_whole(self) -> bool:
        """True if there is nothing to do."""
        return self.is_complete and not self.lost

    @staticmethod
    def of(run: Run, name: str, inputs: Mapping[str, str]) -> _Standing:
        stage, marker = STAGES[name], _marker(run, name)
        identity = fingerprint([run.space.fingerprint, run.settings.seed, stage.depends_on(run), dict(inputs)])
        same = marker.identity == identity
        complete = same and marker.complete and marker.made is not None
        lost = [file for file, kept in (_made(marker) if same else {}).items() if _digest(run.folder / file) != kept]
        return _Standing(identity, same, complete, marker.seconds if same else 0.0, lost)


def _made(marker: Marker) -> Mapping[str, str]:
    """Manifest of a stage that ended; nothing of one that did not."""
    return marker.made or {} if marker.complete else {}


def _path(run: Run, name: str) -> Path:
    return run.folder / "stages" / f"{name}.json"


def _marker(run: Run, name: str) -> Marker:
    """Marker that a stage has left; nothing where the file is damaged, so that the stage is run again."""
    path = _path(run, name)
    found = read_marker(path)
    if all(map(_is_inside, found.made or {})):
        return found
    log.warning("%s names files outside of the run folder; the stage is run again", path)
    return Marker()


def _is_inside(file: str) -> bool:
    path = Path(file)
    return not path.is_absolute() and ".." not in path.parts


def _manifest(run: Run, paths: Sequence[Path]) -> dict[str, str]:
    """File, relative to the run folder -> digest; a folder stands for all files in it."""
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return {str(file.relative_to(run.folder)): digest(file) for file in files if file.is_file()}


def _digest(path: Path) -> str | None:
    return digest(path) if path.is_file() else None


def _clear(path: Path, stage: Stage) -> None:
    """Remove a damaged file that its stage makes again; a log keeps its whole rows."""
    if not path.is_file():
        log.warning("%s is gone and is made again", path)
    elif stage.appends:
        log.warning("%s has changed since it was written; the rows that it lacks are made again", path)
    else:
        log.warning("%s is not as this run has written it (other settings, or damage) and is made again", path)
        path.unlink()


def _check_data(run: Run, name: str) -> None:
    """Refuse to use a supernet with other images than those that it was trained on."""
    supernet = f"`nas {name}` would use the supernet in {run.folder / 'train'}, which"
    check_trained_on(supernet, _marker(run, "train").data, run.data)


# -- for the terminal --------------------------------------------------------------------------------------------------


def summary(run: Run, stage: str) -> str:
    """Summary after a stage: where the result is, and its main numbers."""
    if stage == "run" and "export" in unneeded(run):
        return f"{summary(run, 'search')}\n\n{UNTRAINED}"
    if stage in ("run", "report"):
        return f"report: {run.folder / 'report' / 'report.html'}"
    if stage == "search":
        return "\n\n".join("\n".join(summary_lines(Front.read(path))) for path in run.per_device("search/{}.json"))
    return "\n".join(f"wrote {path}" for path in STAGES[stage].writes(run) if path.exists())

"""Running stages: what is finished is skipped, what was killed continues."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nas import checks
from nas.front_view import summary_lines
from nas.fronts import Front
from nas.records import read_marker
from nas.run_folder import Run, digest, digests
from nas.stages import STAGES, Stage
from search_spaces.errors import InvalidValueError
from search_spaces.storage import fingerprint, write_json
from search_spaces.threads import one_blas_thread

log = logging.getLogger(__name__)


def run_stage(run: Run, name: str) -> float:
    """Check what concerns one stage, then run it.

    Returns:
        Seconds that it took.

    Raises:
        NasError: a setting is wrong or a file that it reads is missing; the message names the stage that makes it.
    """
    _check_folder(run)
    _check_inputs(run, name)
    for note in checks.check(run, [name]).notes:
        log.warning("%s", note)
    return _run_stage(run, name)


def run_all(run: Run, say: Callable[[str], None] | None = None) -> Iterator[tuple[str, float]]:
    """Check everything, then run all stages in order, skipping those that were done with the same settings and inputs.

    Args:
        run: what to run.
        say: takes the lines of the plan, where there is something to do.

    Yields:
        (stage, seconds) after each.
    """
    _check_folder(run)
    states = stage_states(run)
    todo = [name for name, state in states.items() if state != DONE]
    checked = checks.check(run, todo)
    if say is not None and todo:
        for line in checks.plan_lines(run, states, checked):
            say(line)
    for name in STAGES:
        yield name, _run_stage(run, name, skip_unchanged=True)


def plan(run: Run) -> list[str]:
    """Check everything that is still to do, and say what that is; nothing is run or written."""
    _check_folder(run)
    states = stage_states(run)
    checked = checks.check(run, [name for name, state in states.items() if state != DONE])
    return list(checks.plan_lines(run, states, checked))


DONE = "done"


def stage_states(run: Run) -> dict[str, str]:
    """What each stage is: done, to do, or continues."""
    states: dict[str, str] = {}
    anew: set[Path] = set()
    for name, stage in STAGES.items():
        reads = stage.reads(run)
        states[name] = "to do"
        if not anew.intersection(reads) and all(path.exists() for path in reads):
            identity, done = _identity(run, stage), read_marker(_marker(run, name))
            if done.get("identity") == identity:
                whole = done.get("complete") and done.get("written") == digests(stage.writes(run))
                states[name] = DONE if whole else "continues"
        if states[name] != DONE:
            anew.update(stage.writes(run))
    return states


def _identity(run: Run, stage: Stage) -> str:
    """Of all that a stage depends on: settings and what it reads."""
    return fingerprint(
        [run.space.fingerprint, run.settings.seed, run.settings.devices, stage.depends_on(run)]
        + [digest(path) for path in stage.reads(run)]
    )


def _check_folder(run: Run) -> None:
    """Refuse a folder that holds another run; one that holds none is not claimed yet."""
    if (run.folder / "run.json").exists():
        run.claim_folder()


def _check_inputs(run: Run, name: str) -> None:
    for path in STAGES[name].reads(run):
        if not path.exists():
            maker = path.relative_to(run.folder).parts[0]
            raise InvalidValueError(
                f"`nas {name}` needs {path}, which is not there. Run `nas {maker}` with the same settings first, "
                "or everything with `nas run`."
            )


def _marker(run: Run, name: str) -> Path:
    return run.folder / "stages" / f"{name}.json"


def _run_stage(run: Run, name: str, *, skip_unchanged: bool = False) -> float:
    stage = STAGES[name]
    run.claim_folder()
    _check_inputs(run, name)
    marker = _marker(run, name)
    identity, done = _identity(run, stage), read_marker(marker)
    complete = done.get("complete", False) and done.get("identity") == identity
    if skip_unchanged and complete and done.get("written") == digests(stage.writes(run)):
        log.info("%s: nothing changed, skipped", name)
        return float(done.get("seconds", 0.0))
    earlier = float(done.get("seconds", 0.0)) if done.get("identity") == identity and not complete else 0.0
    started = time.perf_counter()
    write_json(marker, {"identity": identity, "seconds": earlier, "complete": False})
    try:
        with one_blas_thread():
            stage.run(run)
    finally:  # an interrupted stage is continued later: keep the time that it has taken so far
        seconds = earlier + time.perf_counter() - started
        write_json(marker, {"identity": identity, "seconds": seconds, "complete": False})
    written = digests(stage.writes(run))  # a file that is damaged or lost later is made again
    write_json(marker, {"identity": identity, "seconds": seconds, "complete": True, "written": written})
    _write_stage_times(run)
    if name == "profile":
        checks.check_limits(run, profiled=True)  # before hours of training
    return seconds


def _write_stage_times(run: Run) -> None:
    times = []
    for name in STAGES:
        marker = run.folder / "stages" / f"{name}.json"
        if marker.exists():
            times.append({"stage": name, "seconds": read_marker(marker).get("seconds", 0.0), "skipped": False})
    write_json(run.folder / "stages.json", times)


def summary(run: Run, stage: str) -> str:
    """What a person wants to know after a stage: where the result is, and its main numbers."""
    if stage in ("run", "report"):
        return f"report: {run.folder / 'report' / 'report.html'}"
    if stage == "search":
        return "\n\n".join("\n".join(summary_lines(Front.read(path))) for path in run.per_device("search/{}.json"))
    return "\n".join(f"wrote {path}" for path in STAGES[stage].writes(run))

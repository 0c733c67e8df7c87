"""Running stages: what is finished is skipped, what was killed continues."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from nas.front_view import summary_lines
from nas.fronts import Front
from nas.records import read_marker
from nas.run_folder import Run, digest, digests
from nas.stages import STAGES
from search_spaces.errors import InvalidValueError
from search_spaces.storage import fingerprint, write_json
from search_spaces.threads import one_blas_thread

log = logging.getLogger(__name__)


def run_stage(run: Run, name: str, *, skip_unchanged: bool = False) -> float:
    """Run one stage, or skip it where it was finished before with the same settings and inputs.

    Returns:
        Seconds that it took, now or when it was last run.

    Raises:
        NasError: a file that it reads is missing; the message names the stage that makes it.
    """
    stage = STAGES[name]
    run.claim_folder()
    for path in stage.reads(run):
        if not path.exists():
            maker = path.relative_to(run.folder).parts[0]
            raise InvalidValueError(
                f"`nas {name}` needs {path}, which is not there. Run `nas {maker}` with the same settings first, "
                "or everything with `nas run`."
            )
    marker = run.folder / "stages" / f"{name}.json"
    identity = fingerprint(
        [run.space.fingerprint, run.settings.seed, run.settings.devices, stage.depends_on(run)]
        + [digest(path) for path in stage.reads(run)]
    )
    done = read_marker(marker)
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
    return seconds


def run_all(run: Run) -> Iterator[tuple[str, float]]:
    """Run all stages in order, skipping those that are done.

    Yields:
        (stage, seconds) after each.
    """
    for name in STAGES:
        yield name, run_stage(run, name, skip_unchanged=True)


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

"""Searching the front of every device of a run."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.device import DeviceProfile
from nas.core import exact_front as exact
from nas.core.pareto import costs_of
from nas.core.problem import Objective, Problem
from nas.core.progress import Progress, progress
from nas.core.search_loop import Budget, SearchResult, search
from nas.core.searcher import Searcher
from nas.run.labelling import evaluator_of, label_conditions
from nas.run.objectives import joint_problem, problem_of
from nas.run.records import read_points
from nas.run.run_folder import Run, digest
from nas.run.settings import parse_duration
from nas.searchers.differentiable.base import GradientSearch, short_of_limit
from nas.searchers.random import RandomSearch
from predictors import Predictor, macs, params
from search_spaces.architecture import Architecture, Genes
from search_spaces.base import trust
from search_spaces.base.building import build
from search_spaces.base.errors import InfeasibleError
from search_spaces.base.storage import contents_of, set_aside, write_json
from search_spaces.space import SearchSpace

log = logging.getLogger(__name__)


def search_fronts(run: Run) -> None:
    """Search the front of every device, or one for all of them, and beside it by random search."""
    settings = run.settings.search
    run.settings.limit.check_devices([device.name for device in run.devices])
    name = run.searcher_name
    accuracy = _recorded_accuracy(run) if settings.accuracy == "supernet" else None
    if settings.joint:
        problems = {"joint": joint_problem(run, accuracy)}
    else:
        problems = {device.name: problem_of(run, device, accuracy) for device in run.devices}
    for problem in problems.values():
        problem.check_feasible()
        exact.check_feasible(problem)
        exact.check_fitted(problem)
    seconds = None if settings.seconds is None else parse_duration("search.seconds", settings.seconds)
    for line in _unused_shares(run):
        print(line, flush=True)
    budget = Budget(settings.evaluations, seconds, settings.patience)
    known = [front_genes(run.space, Path(settings.start))] if settings.start else []
    for key, problem in problems.items():
        results: dict[str, SearchResult] = {}
        without: dict[str, str] = {}  # searcher -> why it has no front
        searchers = {name: searcher_of(run, key)}
        if settings.baseline:
            searchers.setdefault("random", RandomSearch())
        for title, one in searchers.items():
            checkpoint = run.folder / "search" / key / f"{title}.npz"
            start = np.concatenate(known) if known and title == name else None
            with progress(f"search {key} {title}", budget.evaluations, "evaluation") as shown:

                def show(evaluations: int, hypervolume: float, shown: Progress = shown) -> None:
                    shown.update(evaluations - shown.n)
                    shown.set_postfix(hypervolume=f"{hypervolume:.4g}")

                try:
                    results[title] = search(
                        problem,
                        one,
                        budget=budget,
                        seed=run.settings.seed,
                        start=start,
                        checkpoint=checkpoint,
                        on_round=show,
                    )
                except InfeasibleError as error:
                    if title == name:
                        raise
                    without[title] = str(error)
                    log.warning("search %s: %s, the contrast, found no network that keeps the limits", key, title)
        if isinstance(searchers[name], GradientSearch):
            if (short := short_of_limit(problem, results[name].values)) is not None:
                log.warning("search %s: %s: %s", key, name, short)
        if settings.share:
            known.append(results[name].genes)
        for device in run.devices if settings.joint else [d for d in run.devices if d.name == key]:
            found = {**_front_json(run, device, problem, results), "without_front": without}
            write_json(run.folder / "search" / device.name / f"{name}.json", found)  # beside other searchers' fronts
            write_json(run.folder / "search" / f"{device.name}.json", found)


def searcher_of(run: Run, key: str) -> Searcher:
    """The searcher of the settings; one that trains is given the images and a folder of its own."""
    made = _bare_searcher(run)
    if isinstance(made, functools.partial):
        folder = run.folder / "search" / key / run.searcher_name
        made = made(data=run.data, folder=folder, seed=run.settings.seed)
    return cast(Searcher, made)


def _bare_searcher(run: Run) -> Any:
    """The searcher of the settings, or what makes it where it lacks the images."""
    return build("searcher", run.settings.searcher, Searcher, given=("data", "folder", "seed"))


def looks_at_images(run: Run) -> bool:
    """Whether the search trains or evaluates networks, and so depends on the images."""
    return run.settings.search.accuracy == "supernet" or isinstance(_bare_searcher(run), functools.partial)


def _unused_shares(run: Run) -> list[str]:
    """A line for each device whose `limit.latency_share`, a recipe's say, gives way to a `limit.latency_ms`."""
    limit, share = run.settings.limit, run.settings.limit.latency_share
    return [
        f"{device.name}: limit.latency_ms={ms:g} holds, and limit.latency_share={share:g} is not used"
        for device in run.devices
        if share is not None and (ms := limit.of("latency_ms", device.name)) is not None
    ]


def _recorded_accuracy(run: Run) -> Predictor:
    """The supernet itself; what it has evaluated is kept."""
    from nas.core.evaluations import RecordedPredictor, recorded_conditions

    path, conditions, evaluator = run.folder / "search" / "accuracy.jsonl", label_conditions(run), evaluator_of(run)
    set_aside(path, recorded_conditions(run.space, evaluator, conditions))
    workers = run.settings.search.workers
    bare = Run(run.settings, run.folder.absolute(), run.command)  # none of its parts is made yet
    make = functools.partial(_evaluator_in_worker, bare, trust.words())
    return RecordedPredictor(run.space, evaluator, path, conditions, workers=workers, make=make)


def _evaluator_in_worker(run: Run, trusted: Sequence[str]) -> Predictor:
    """What evaluates in a process that knows nothing but this."""
    for word in trusted:
        trust.trust(word)
    return evaluator_of(run)


def front_genes(space: SearchSpace, path: Path) -> Genes:
    """The networks of a front's file, whatever device it is of."""
    *_, points = read_points(path)
    with contents_of(path, "Give a file of `nas search`."):
        rows = [Architecture.from_json(space, point["architecture"]).genes for point in points]
    return np.stack(rows)


def _front_json(run: Run, device: DeviceProfile, problem: Problem, results: dict[str, SearchResult]) -> dict[str, Any]:
    objectives = {objective.name: column for column, objective in enumerate(problem.objectives)}

    def of_device(name: str, values: NDArray[np.float64]) -> float | None:
        column = objectives.get(f"{name}@{device.name}", objectives.get(name))
        return None if column is None else float(values[column])

    limits = np.array([np.nan if o.limit is None else o.limit for o in problem.objectives])
    latency, memory = (of_device(name, limits) for name in ("latency_ms", "memory_bytes"))
    within = 1 - run.settings.limit.latency_margin
    goals = [o.goal for o in problem.objectives if o.goal]
    counts = [count for count in (macs(run.space), params(run.space)) if count.metric not in objectives]
    told = [
        Objective(count, None, name=count.metric) for count in counts
    ]  # exact, so a front can be chosen from by them
    return {
        "device": device.name,
        "joint": [d.name for d in run.devices] if run.settings.search.joint else None,
        "limits": {
            "latency_ms": None if latency is None or np.isnan(latency) else latency / within,
            "memory_bytes": None if memory is None or np.isnan(memory) else memory,
        },
        "objectives": [
            {"name": o.name, "unit": o.predictor.unit, "goal": o.goal, "limit": o.limit, "at_least": o.floor}
            for o in (*problem.objectives, *told)
        ],
        "reference": costs_of(next(iter(results.values())).reference[None], goals)[0].tolist(),  # minus minus is plus
        "searchers": {
            name: {
                "front": [
                    {
                        "architecture": Architecture(problem.space, genes).to_json(),
                        **{key: of_device(key, values) for key in ("accuracy", "latency_ms", "memory_bytes")},
                        "values": {key: float(values[column]) for key, column in objectives.items()}
                        | {count.metric: float(number) for count, number in zip(counts, numbers, strict=True)},
                    }
                    for genes, values, numbers in zip(
                        result.genes, result.values, _columns(counts, result.genes), strict=True
                    )
                ],
                "hypervolume": result.hypervolume,
                "evaluations": result.evaluations,
                "failed": result.failed,
                "stopped": result.stopped,
                "seconds": result.seconds,
                "history": result.history,
            }
            for name, result in results.items()
        },
    }


def _columns(predictors: Sequence[Predictor], genes: Genes) -> NDArray[np.float64]:
    """What each predictor gives for genes (n, choices), shape (n, predictors)."""
    return np.array([p.predict(genes) for p in predictors]).reshape(len(predictors), len(genes)).T


def outside_digests(run: Run) -> list[str]:
    """Of files outside of the run folder that a search reads."""
    paths = [run.settings.search.start] if run.settings.search.start else []
    for metric in run.settings.metrics.values():
        file = metric.get("file") if isinstance(metric, dict) else None
        paths += [str(file).replace("{device}", device.name) for device in run.devices] if file else []
    return [digest(path) for path in map(Path, paths) if path.exists()]

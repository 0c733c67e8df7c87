"""Searching the front of every device of a run."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from nas.core import exact_front as exact
from nas.core.pareto import costs_of
from nas.core.problem import Problem
from nas.core.progress import progress
from nas.core.search_loop import Budget, SearchResult, search
from nas.core.searcher import Searcher
from nas.run.fronts import Front, search_of
from nas.run.labelling import evaluator_in_worker, evaluator_of, label_conditions
from nas.run.objectives import joint_problem, own_function, problem_of
from nas.run.records import Column
from nas.run.run_folder import Run, digest
from nas.run.settings import SHARE, parse_duration
from nas.searchers.differentiable.base import GradientSearch, short_of_limit
from nas.searchers.random import RandomSearch
from predictors import Predictor, macs, params
from search_spaces.architecture import Architecture, Genes
from search_spaces.base.building import build
from search_spaces.base.errors import InfeasibleError, NasError
from search_spaces.base.storage import set_aside
from search_spaces.metric import TASK_METRICS, TaskMetric

log = logging.getLogger(__name__)

PROBED = 16
"""Networks that a function of the user's is known by."""


def search_fronts(run: Run) -> None:
    """Search the front of every device, or one for all of them, and beside it by random search."""
    settings = run.settings.search
    name = run.searcher_name
    accuracy = _recorded_accuracy(run) if settings.accuracy == "supernet" else None
    if settings.joint:
        problems = {"joint": joint_problem(run, accuracy)}
    else:
        problems = {device.name: problem_of(run, device, accuracy) for device in run.devices}
    for key, problem in problems.items():
        check_feasible(problem, key)
        exact.check_fitted(problem)
    seconds = None if settings.seconds is None else parse_duration("search.seconds", settings.seconds)
    for line in (*_unused_shares(run), *_shares(problems)):
        print(line, flush=True)
    budget = Budget(settings.evaluations, seconds, settings.patience)
    known = [Front.read(Path(settings.start)).genes(run.space)] if settings.start else []
    for key, problem in problems.items():
        results: dict[str, SearchResult] = {}
        without: dict[str, str] = {}  # searcher -> why it has no front
        searchers = {name: searcher_of(run, key)}
        if settings.baseline:
            searchers.setdefault("random", RandomSearch())
        for title, one in searchers.items():
            checkpoint = run.folder / "search" / key / f"{title}.npz"
            start = np.concatenate(known) if known and title == name else None
            try:
                where, seed = f"{key} {title}", run.settings.seed
                results[title] = searched(problem, one, where, budget, seed, start=start, checkpoint=checkpoint)
            except InfeasibleError as error:
                if title == name:
                    raise
                without[title] = str(error)
                log.warning("search %s: %s, the contrast, found no network that keeps the limits", key, title)
        if settings.share:
            known.append(results[name].genes)
        for device in run.devices if settings.joint else [d for d in run.devices if d.name == key]:
            source = run.folder / "search" / f"{device.name}.json"
            joint = [d.name for d in run.devices] if settings.joint else None
            fronts = [front_of(problem, *result, source, device.name, joint) for result in results.items()]
            write_fronts(run.folder, fronts, without, baselines_of(problem, results[name], fronts[0]))


def check_feasible(problem: Problem, key: str) -> None:
    """Refuse limits that no network of the space keeps.

    Raises:
        InfeasibleError: names the device, or says that the front is a joint one.
    """
    try:
        problem.check_feasible()
        exact.check_feasible(problem)
    except InfeasibleError as error:
        raise InfeasibleError(f"{key}: {error}") from error


def baselines_of(problem: Problem, result: SearchResult, front: Front) -> dict[str, Front]:
    """Networks that the space states as a comparison, valued as a front is; costly objectives are not evaluated.

    Args:
        problem: that was searched.
        result: of the search.
        front: of the result, for a device.
    """
    found = {}
    for name, networks in problem.space.baselines.items():
        try:
            genes = np.stack([problem.space.member(network).genes for network in networks])
            values = problem.evaluate_cheap(genes)
        except NasError as error:
            log.warning("baseline %s: left out, as it cannot be valued: %s", name, error)
            continue
        valued = dataclasses.replace(result, genes=genes, values=np.where(np.isfinite(values), values, np.nan))
        found[name] = front_of(problem, name, valued, front.source, front.device, front.joint)
    return found


def write_fronts(
    folder: Path,
    fronts: Sequence[Front],
    without: Mapping[str, str] | None = None,
    baselines: Mapping[str, Front] | None = None,
) -> None:
    """Write what was found for a device into a run folder, beside the fronts of other searchers.

    Args:
        folder: of the run.
        fronts: that of the run's own searcher first.
        without: searchers that found none, and why.
        baselines: networks that the space states as a comparison.
    """
    found, first = search_of(fronts, without, baselines), fronts[0]
    found.write(folder / "search" / first.device / f"{first.searcher}.json")
    found.write(folder / "search" / f"{first.device}.json")


def searched(
    problem: Problem,
    searcher: Searcher,
    title: str,
    budget: Budget,
    seed: int,
    *,
    start: Genes | None = None,
    checkpoint: Path | None = None,
) -> SearchResult:
    """Search, progress shown; see `nas.core.search_loop.search`."""
    with progress(f"search {title}", budget.evaluations, "evaluation") as shown:

        def show(evaluations: int, hypervolume: float) -> None:
            shown.update(evaluations - shown.n)
            shown.set_postfix(hypervolume=f"{hypervolume:.4g}")

        result = search(problem, searcher, budget=budget, seed=seed, start=start, checkpoint=checkpoint, on_round=show)
    if isinstance(searcher, GradientSearch) and (short := short_of_limit(problem, result.values)) is not None:
        log.warning("search %s: %s", title, short)
    return result


def searcher_of(run: Run, key: str) -> Searcher:
    """The searcher of the settings; one that trains is given the images and a folder of its own."""
    made = bare_searcher(run.settings.searcher)
    if isinstance(made, functools.partial):
        folder = run.folder / "search" / key / run.searcher_name
        made = made(data=run.data, folder=folder, seed=run.settings.seed)
    return cast(Searcher, made)


def bare_searcher(node: Mapping[str, Any]) -> Any:
    """The searcher that settings name, or what makes it where it lacks the images."""
    return build("searcher", node, Searcher, given=("data", "folder", "seed"))


def looks_at_images(run: Run) -> bool:
    """True if the search trains or evaluates networks, and so depends on the images."""
    return run.settings.search.accuracy == "supernet" or isinstance(
        bare_searcher(run.settings.searcher), functools.partial
    )


def _unused_shares(run: Run) -> list[str]:
    """A line for each device whose `limit.latency_share`, a recipe's say, gives way to a `limit.latency_ms`."""
    pairs = [(d.name, *(run.settings.limits.of(name, d.name) for name in ("latency_ms", SHARE))) for d in run.devices]
    return [
        f"{device}: limit.latency_ms={ms:g} holds, and limit.latency_share={share:g} is not used"
        for device, ms, share in pairs
        if ms is not None and share is not None
    ]


def _shares(problems: Mapping[str, Problem]) -> list[str]:
    """A line for each limit that is a share of what some network takes: of which one."""
    pairs = ((key, objective) for key, problem in problems.items() for objective in problem.objectives)
    return [f"{o.device or key}: {o.limit.stated}" for key, o in pairs if o.limit is not None and o.limit.scale_of]


def _recorded_accuracy(run: Run) -> Predictor:
    """The supernet itself; what it has evaluated is kept."""
    from nas.core.evaluations import RecordedPredictor, recorded_conditions

    path, conditions, evaluator = run.folder / "search" / "accuracy.jsonl", label_conditions(run), evaluator_of(run)
    set_aside(path, recorded_conditions(run.space, evaluator, conditions))
    workers, make = run.settings.search.workers, evaluator_in_worker(run)
    return RecordedPredictor(run.space, evaluator, path, conditions, workers=workers, make=make)


def front_of(
    problem: Problem,
    searcher: str,
    result: SearchResult,
    source: Path | str,
    device: str,
    joint: Sequence[str] | None = None,
) -> Front:
    """Result of a searcher, for a device; MACs and parameters are known of each network.

    Args:
        problem: that was searched.
        searcher: its name.
        result: of the search.
        source: what the front is called in messages, such as its file.
        device: whose values it has.
        joint: the devices that it is for at once.
    """
    columns = [
        Column(
            o.name,
            o.metric.unit,
            o.direction,
            o.bound,
            o.metric.direction == "max",
            isinstance(o.metric, TaskMetric) and o.metric.name not in TASK_METRICS,
        )
        for o in problem.objectives
    ]
    limits = {o.name: None if o.limit is None else o.limit.bound for o in problem.objectives}
    counts = [count for count in (macs(problem.space), params(problem.space)) if count.metric not in limits]
    columns += [Column(count.metric, count.unit) for count in counts]  # exact, so a front can be chosen from by them
    latency, memory = (limits.get(f"{name}@{device}", limits.get(name)) for name in ("latency_ms", "memory_bytes"))
    goals = [o.direction for o in problem.objectives if o.goal]
    return Front(
        source=str(source),
        device=device,
        searcher=searcher,
        space=problem.space.name,
        fingerprint=problem.space.fingerprint,
        columns=tuple(columns),
        values=np.column_stack([result.values, *(count.predict(result.genes) for count in counts)]),
        networks=tuple(Architecture(problem.space, genes).values for genes in result.genes),
        reference=costs_of(result.reference[None], goals)[0],  # minus minus is plus
        limits={"latency_ms": latency, "memory_bytes": memory},
        evaluations=result.evaluations,
        seconds=result.seconds,
        failed=result.failed,
        stopped=result.stopped,
        history=result.history,
        joint=joint,
    )


def outside_digests(run: Run) -> list[str]:
    """Digests of files outside of the run folder, and of functions and their values, that a search reads.

    What a function gives for some networks tells that something that it uses has changed.
    """
    paths = [run.settings.search.start] if run.settings.search.start else []
    functions = []
    for name, own in run.settings.own.items():
        function = own_function(name, own)
        if function is not None:
            probe = run.space.sample(PROBED, np.random.default_rng(0))
            functions += [function.fingerprint, str(function.predictor(run.space).predict(probe).tolist())]
        paths += [] if own.file is None else [own.file.replace("{device}", device.name) for device in run.devices]
    return [digest(path) for path in map(Path, paths) if path.exists()] + functions

"""The stages of a run: each reads the files of earlier ones, calls the library and writes its own files, atomically.

A stage that is killed continues when started again; `run_all` skips those whose settings and inputs have not changed.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import logging
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import hydra.utils
import numpy as np
from hydra.errors import InstantiationException
from numpy.typing import NDArray
from tqdm import tqdm

from hardware_profiles.device import DeviceProfile, load_device
from hardware_profiles.latency_table import LatencyTable
from hardware_profiles.measure import Measurement
from nas.front_view import summary_lines
from nas.fronts import Front
from nas.objectives import joint_problem, problem_of
from nas.pareto import costs_of
from nas.problem import Problem
from nas.profiling import DeviceProfiling, NetworkLog, distinct_networks, has_memory, layer_model
from nas.search import Budget, SearchResult, search
from nas.searcher import Searcher
from nas.searchers.random import RandomSearch
from nas.settings import Settings, parse_duration
from predictors import (
    CorrectedLookup,
    PositionTable,
    Predictor,
    Regression,
    Uncertain,
    coverage,
    largest_layer_memory,
    plain_sum,
    quality,
    save,
    scaled_memory,
    sums_left_out,
)
from predictors.position_table import macs
from search_spaces.architecture import Architecture, Genes
from search_spaces.errors import DamagedFileError, InvalidValueError, MismatchError, NasError
from search_spaces.space import SearchSpace
from search_spaces.storage import RecordLog, contents_of, fingerprint, read_json, write_json

if TYPE_CHECKING:
    from nas.data import ImageData
    from nas.supernet import SupernetAccuracy

log = logging.getLogger(__name__)

REFERENCES = 4
"""Networks of profiling that are measured again on verifying, to see whether the device has changed speed."""


@dataclass
class Run:
    """One run: its settings and its folder. Parts of it are made when first used."""

    settings: Settings
    folder: Path
    command: str

    @functools.cached_property
    def space(self) -> SearchSpace:
        """The search space of the run."""
        return cast(SearchSpace, build("space", self.settings.space))

    @functools.cached_property
    def data(self) -> ImageData:
        """The images of the run."""
        return cast("ImageData", build("data", self.settings.data))

    @functools.cached_property
    def devices(self) -> list[DeviceProfile]:
        """The devices of the run."""
        return [load_device(name) for name in self.settings.devices]

    def per_device(self, pattern: str) -> list[Path]:
        """The files of a pattern such as ``search/{}.json``, one per device."""
        return [self.folder / pattern.format(device.name) for device in self.devices]

    def rng(self, *purpose: int | str) -> np.random.Generator:
        """A generator of the run's seed and a purpose."""
        numbers = [int(hashlib.sha256(str(p).encode()).hexdigest()[:8], 16) for p in purpose]
        return np.random.default_rng([self.settings.seed, *numbers])

    def claim_folder(self) -> None:
        """Note whose folder this is.

        Raises:
            MismatchError: it holds the run of another space.
        """
        path = self.folder / "run.json"
        if path.exists():
            there = read_json(path)
            if there.get("fingerprint") != self.space.fingerprint:
                raise MismatchError(
                    f"{self.folder} holds a run of space {there.get('space')!r} ({there.get('fingerprint')}), but this "
                    f"run's space is {self.space.name!r} ({self.space.fingerprint}). Choose another folder with `out=`."
                )
            return
        write_json(
            path,
            {
                "name": self.settings.name,
                "command": self.command,
                "seed": self.settings.seed,
                "space": self.space.name,
                "fingerprint": self.space.fingerprint,
                "space_size": str(self.space.size),
                "versions": _versions(),
                "commit": _commit(),
                "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            },
        )


def build(key: str, node: dict[str, Any]) -> Any:
    """Make the object that a part of the configuration names by ``_target_``.

    Raises:
        InvalidValueError: it names nothing, or its arguments do not fit.
    """
    if "_target_" not in node:
        raise InvalidValueError(f"`{key}` must name what to make with `_target_`, but got {sorted(node)}.")
    try:
        return hydra.utils.instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, NasError):
            raise cause from None
        raise InvalidValueError(f"`{key}` cannot be made: {cause or error}") from error


# -- profile -----------------------------------------------------------------------------------------------------------


def profile(run: Run) -> None:
    """Measure the layers of the space, alone or inside networks, and whole networks on every device."""
    for device in run.devices:
        backend = device.open()
        try:
            folder = run.folder / "profile" / device.name
            say = functools.partial(print, flush=True)
            DeviceProfiling(run.space, device, backend, run.settings.profile, folder, run.rng, say).run()
        finally:
            backend.close()


# -- train, label ------------------------------------------------------------------------------------------------------


def train(run: Run) -> None:
    """Train the supernet; imported weights are kept."""
    imported = run.folder / "train" / "imported.json"
    if imported.exists() and (run.folder / "train" / "supernet.pt").exists():
        log.warning("train: the weights come from %s and are kept", read_json(imported).get("file"))
        return

    from nas.supernet import TrainingSettings
    from nas.supernet import train as train_supernet

    settings = build("training", run.settings.training)
    if not isinstance(settings, TrainingSettings):
        raise InvalidValueError(f"`training` must make TrainingSettings, but got {type(settings).__name__}.")
    train_supernet(run.space, run.data, settings, run.folder / "train")


def import_weights(run: Run, checkpoint: Path) -> str:
    """Put published once-for-all weights where the later stages look for the supernet; `train` then keeps them.

    Returns:
        What a person wants to know about it.

    Raises:
        MismatchError: the folder holds a supernet that was trained there, or the weights do not fit the space.
    """
    from nas.import_ofa import import_ofa

    folder = run.folder / "train"
    trained = [name for name in ("checkpoint.pt", "supernet.pt") if (folder / name).exists()]
    if trained and not (folder / "imported.json").exists():
        raise MismatchError(
            f"{folder / trained[0]} was trained here and is not overwritten. Choose another folder with `out=`."
        )
    imported = import_ofa(run.space, checkpoint)
    run.claim_folder()
    about = {"file": str(checkpoint), "sha256": _digest(checkpoint), "unused": list(imported.unused)}
    write_json(folder / "imported.json", about)  # first: a supernet without it counts as trained
    write_json(folder / "history.json", [])
    imported.supernet.save(folder / "supernet.pt")
    lines = [f"{imported.tensors} tensors of {checkpoint} imported", f"wrote {folder / 'supernet.pt'}"]
    if imported.unused:
        lines.insert(1, f"{len(imported.unused)} tensors have no place in the space: {', '.join(imported.unused)}")
    return "\n".join(lines)


def label(run: Run) -> None:
    """Evaluate subnets through the supernet on the validation part."""
    path, conditions = run.folder / "label" / "accuracy.jsonl", _label_conditions(run)
    try:
        pairs = RecordLog(path, conditions)
    except MismatchError:  # of a supernet or settings that are no longer there: worth nothing now
        path.unlink()
        pairs = RecordLog(path, conditions)
    known = {Architecture.from_json(run.space, record["architecture"]) for record in pairs.records}
    wanted = distinct_networks(run.space, run.settings.label.subnets, run.rng("label"))
    todo = [architecture for architecture in wanted if architecture not in known]
    if not todo:
        return
    evaluator = _evaluator(run)
    for architecture in tqdm(todo, desc="label", unit="subnet", disable=None, leave=False):
        value = float(evaluator.predict(architecture.genes[None])[0])
        pairs.append({"architecture": architecture.to_json(), "accuracy": value})


def _label_conditions(run: Run) -> dict[str, Any]:
    return {
        "space": run.space.fingerprint,
        "supernet": _digest(run.folder / "train" / "supernet.pt"),
        "recalibration_images": run.settings.label.recalibration_images,
        "part": "validation",
    }


def _evaluator(run: Run) -> SupernetAccuracy:
    from nas.supernet import Supernet, SupernetAccuracy

    supernet = Supernet.load(run.space, run.folder / "train" / "supernet.pt")
    images = run.settings.label.recalibration_images
    return SupernetAccuracy(run.space, supernet, run.data, recalibration_images=images)


# -- fit ---------------------------------------------------------------------------------------------------------------


def fit(run: Run) -> None:
    """Fit the accuracy predictor and, per device, the latency and memory predictors; judge them on unseen networks."""
    folder = run.folder / "fit"
    report: dict[str, Any] = {"commit": _commit(), "accuracy": _fit_accuracy(run), "latency": {}, "memory": {}}
    for device in run.devices:
        table = LatencyTable.read(run.folder / "profile" / device.name / "table.jsonl")
        networks = NetworkLog.read(run.folder / "profile" / device.name / "networks.jsonl", run.space)
        lookup, report["latency"][device.name] = _fit_latency(run, table, networks)
        save(lookup, run.space, folder / f"{device.name}_latency.npz")
        if all(has_memory(table, layer) for layer in run.space.distinct_layers):
            memory, report["memory"][device.name] = _fit_memory(run, table, networks)
            save(memory, run.space, folder / f"{device.name}_memory.npz")
    write_json(folder / "quality.json", report)


def _fit_accuracy(run: Run) -> dict[str, Any]:
    pairs = RecordLog(run.folder / "label" / "accuracy.jsonl", _label_conditions(run))
    values = {Architecture.from_json(run.space, r["architecture"]): float(r["accuracy"]) for r in pairs.records}
    wanted = distinct_networks(run.space, run.settings.label.subnets, run.rng("label"))
    genes = np.stack([a.genes for a in wanted])
    missing = sum(a not in values for a in wanted)
    if missing:
        raise MismatchError(
            f"{pairs.path} lacks {missing} of {len(wanted)} subnets. Run `nas label` with the same settings first."
        )
    accuracies = np.array([values[a] for a in wanted])
    seen = len(wanted) - run.settings.label.held_out
    make = _predictor("accuracy", run.settings.accuracy)
    judged = make(run.space, seed=run.settings.seed)
    judged.fit(genes[:seen], accuracies[:seen])
    result = _quality(_title(judged), judged, seen, genes[seen:], accuracies[seen:], maximise=True)
    final = make(run.space, seed=run.settings.seed)
    final.fit(genes, accuracies)
    save(final, run.space, run.folder / "fit" / "accuracy.npz")
    return result


def _predictor(key: str, node: dict[str, Any]) -> Callable[..., Any]:
    """What makes a predictor, given the space."""
    made = build(key, node)
    if not isinstance(made, functools.partial):
        raise InvalidValueError(f"`{key}` must have `_partial_: true`: the space is only known to the stage.")
    return made


def _title(predictor: Predictor) -> str:
    """What a predictor is, for a report."""
    kind = type(predictor.model.regressor if isinstance(predictor, Regression) else predictor).__name__
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", kind).capitalize()


def _fit_latency(run: Run, table: LatencyTable, networks: NetworkLog) -> tuple[Any, dict[str, Any]]:
    absent = coverage(run.space, table).absent
    model = layer_model(table) if absent else None
    layers = plain_sum(run.space, table, fill=model)
    make = _predictor("latency", run.settings.latency)
    by_table = getattr(make, "func", None) is CorrectedLookup
    predictor = make(layers) if by_table else make(run.space, seed=run.settings.seed)
    unseen, first, second = networks.judged()
    genes, values = _pairs({a: m for a, m in networks.rows("fit").items() if a not in unseen})
    method = str(table.conditions.get("method", "isolated"))
    if by_table and method == "in context":
        predictor.fit(genes, values, sums=sums_left_out(run.space, table, genes))
    else:
        predictor.fit(genes, values)
    truth, unseen_genes = (first + second) / 2, np.stack([a.genes for a in unseen])
    rows = f"{len(table)} layers {'in context' if method == 'in context' else 'alone'}"
    error = None if model is None else model.expected_error(absent)
    if error is not None:
        rows += f", {len(absent)} more from a model of these (expected error {error:.1%})"
    correction = "no correction needed"
    if by_table and (terms := predictor.chosen):
        correction = f"whole-network correction ({', '.join(terms).replace('_', ' ')})"
    name = f"Lookup table ({rows}), {correction}" if by_table else f"{_title(predictor)}, whole networks"
    result = _quality(name, predictor, len(genes), unseen_genes, truth)
    result["noise_floor"] = quality(first, second).to_json()
    work = macs(run.space).predict
    slope, intercept = np.polyfit(work(genes), values, 1, w=1 / values)
    result["baselines"] = {
        "plain sum of layers": quality(truth, layers.predict(unseen_genes)).to_json(),
        "linear in MACs": quality(truth, slope * work(unseen_genes) + intercept).to_json(),
    }
    result["terms"] = predictor.terms if by_table else {}
    result["method"] = method
    counts = {"measured": len(table), "failed": len(table.failed), "predicted": len(absent)}
    result["layers"] = {**counts, "expected_error": error}
    return predictor, result


def _fit_memory(run: Run, table: LatencyTable, networks: NetworkLog) -> tuple[PositionTable, dict[str, Any]]:
    unseen, *_ = networks.judged()
    rows = {a: m for a, m in networks.rows("fit").items() if a not in unseen}
    genes, measured = np.stack([a.genes for a in rows]), _memory_bytes(rows)
    layers = largest_layer_memory(run.space, table)
    memory = scaled_memory(layers, genes, measured)
    checks = networks.rows("check")
    truth, unseen_genes = _memory_bytes({a: checks[a] for a in unseen}), np.stack([a.genes for a in unseen])
    result = _quality("Largest layer, scaled", memory, len(rows), unseen_genes, truth)
    result["baselines"] = {"largest layer": quality(truth, layers.predict(unseen_genes)).to_json()}
    return memory, result


def _memory_bytes(rows: dict[Architecture, Measurement]) -> NDArray[np.float64]:
    return np.array([float(m.memory_bytes or 0) for m in rows.values()])


def _pairs(rows: dict[Architecture, Measurement]) -> tuple[Genes, NDArray[np.float64]]:
    return np.stack([a.genes for a in rows]), np.array([m.latency_ms for m in rows.values()])


def _quality(
    name: str, predictor: Predictor, trained_on: int, genes: Genes, truth: Any, *, maximise: bool = False
) -> dict[str, Any]:
    """How good a predictor is on unseen networks (n, choices) of true values (n,), and how good it says that it is."""
    predicted, std = predictor.predict(genes), None
    if isinstance(predictor, Uncertain):
        predicted, std = predictor.predict_with_std(genes)
    return {
        "predictor": name,
        "unit": predictor.unit,
        "trained_on": trained_on,
        "metrics": quality(truth, predicted, maximise=maximise).to_json(),
        "within_2_std": None if std is None else float((np.abs(predicted - truth) <= 2 * std).mean()),
        "noise_floor": None,
        "baselines": {},
        "held_out": {
            "truth": truth.tolist(),
            "predicted": predicted.tolist(),
            "std": None if std is None else std.tolist(),
        },
    }


# -- search ------------------------------------------------------------------------------------------------------------


def search_fronts(run: Run) -> None:
    """Search the front of every device, or one for all of them, and beside it by random search."""
    settings = run.settings.search
    run.settings.limit.check_devices([device.name for device in run.devices])
    name = str(run.settings.searcher["_target_"]).rsplit(".", 2)[-2]
    accuracy = _recorded_accuracy(run) if settings.accuracy == "supernet" else None
    if settings.joint:
        problems = {"joint": joint_problem(run, accuracy)}
    else:
        problems = {device.name: problem_of(run, device, accuracy) for device in run.devices}
    for problem in problems.values():
        problem.check_feasible()
    seconds = None if settings.seconds is None else parse_duration("search.seconds", settings.seconds)
    budget = Budget(settings.evaluations, seconds, settings.patience)
    known = [_front_genes(run.space, Path(settings.start))] if settings.start else []
    for key, problem in problems.items():
        results = {}
        searchers = {name: _searcher(run, key)}
        if settings.baseline:
            searchers.setdefault("random", RandomSearch())
        for title, one in searchers.items():
            checkpoint = run.folder / "search" / f"{key}_{title}.npz"
            start = np.concatenate(known) if known and title == name else None
            with tqdm(total=budget.evaluations, desc=f"search {key} {title}", disable=None, leave=False) as progress:

                def show(evaluations: int, hypervolume: float, progress: tqdm[Any] = progress) -> None:
                    progress.update(evaluations - progress.n)
                    progress.set_postfix(hypervolume=f"{hypervolume:.4g}")

                results[title] = search(
                    problem,
                    one,
                    budget=budget,
                    seed=run.settings.seed,
                    start=start,
                    checkpoint=checkpoint,
                    on_round=show,
                )
        if settings.share:
            known.append(results[name].genes)
        for device in run.devices if settings.joint else [d for d in run.devices if d.name == key]:
            write_json(run.folder / "search" / f"{device.name}.json", _front_json(run, device, problem, results))


def _searcher(run: Run, key: str) -> Searcher:
    """The searcher of the settings; one that trains is given the images and a folder of its own."""
    made = build("searcher", run.settings.searcher)
    if isinstance(made, functools.partial):
        made = made(data=run.data, folder=run.folder / "search" / key, seed=run.settings.seed)
    return cast(Searcher, made)


def _recorded_accuracy(run: Run) -> Predictor:
    """The supernet itself; what it has evaluated is kept."""
    from nas.evaluations import RecordedPredictor

    path, conditions = run.folder / "search" / "accuracy.jsonl", _label_conditions(run)
    workers = run.settings.search.workers
    return RecordedPredictor(run.space, _evaluator(run), path, conditions, workers=workers)


def _front_genes(space: SearchSpace, path: Path) -> Genes:
    """The networks of a front's file, whatever device it is of."""
    found = read_json(path)
    with contents_of(path, "Give a file of `nas search`."):
        points = next(iter(found["searchers"].values()))["front"]
        rows = [Architecture.from_json(space, point["architecture"]).genes for point in points]
    if not rows:
        raise DamagedFileError(f"{path} holds an empty front. Give a file of `nas search`.")
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
    return {
        "device": device.name,
        "joint": [d.name for d in run.devices] if run.settings.search.joint else None,
        "limits": {
            "latency_ms": None if latency is None or np.isnan(latency) else latency / within,
            "memory_bytes": None if memory is None or np.isnan(memory) else memory,
        },
        "objectives": [
            {"name": o.name, "unit": o.predictor.unit, "goal": o.goal, "limit": o.limit, "at_least": o.floor}
            for o in problem.objectives
        ],
        "reference": costs_of(next(iter(results.values())).reference[None], goals)[0].tolist(),  # minus minus is plus
        "searchers": {
            name: {
                "front": [
                    {
                        "architecture": Architecture(problem.space, genes).to_json(),
                        **{key: of_device(key, values) for key in ("accuracy", "latency_ms", "memory_bytes")},
                        "values": {key: float(values[column]) for key, column in objectives.items()},
                    }
                    for genes, values in zip(result.genes, result.values, strict=True)
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


# -- export, verify ----------------------------------------------------------------------------------------------------


def export(run: Run) -> None:
    """Write the chosen networks of every front as ONNX with trained weights, parity with the supernet checked."""
    from nas.export import choose, export_network

    evaluator = _evaluator(run)
    for device in run.devices:
        path = run.folder / "search" / f"{device.name}.json"
        found = read_json(path)
        with contents_of(path, "Run `nas search` again."):
            limits, points = found["limits"], next(iter(found["searchers"].values()))["front"]
            costs = np.array([[-point["accuracy"], point["latency_ms"]] for point in points])
            told = [{key: point[key] for key in ("accuracy", "latency_ms", "memory_bytes")} for point in points]
            architectures = [Architecture.from_json(run.space, point["architecture"]) for point in points]
        folder = run.folder / "export" / device.name
        partial = folder.with_name(f".{device.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        networks = []
        chosen = choose(costs, run.settings.export.networks)
        for row, name in tqdm(chosen, desc=f"export {device.name}", unit="network", disable=None, leave=False):
            slug = name.replace(" ", "_")
            parity = export_network(architectures[row], evaluator, partial / slug, device)
            networks.append({"label": name, "folder": slug, "predicted": told[row], "parity": parity})
        write_json(partial / "networks.json", {"device": device.name, "limits": limits, "networks": networks})
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


def verify(run: Run) -> None:
    """Measure the exported networks on their devices, and their accuracy on the test part, used here alone."""
    from nas.verify import verify_device

    for device in run.devices:
        profiled = NetworkLog.read(run.folder / "profile" / device.name / "networks.jsonl", run.space)
        references = dict(list(profiled.rows("check").items())[:REFERENCES])
        folder, rng = run.folder / "export" / device.name, run.rng("verify", device.name)
        result = verify_device(run.space, run.data, device, folder, references, rng)
        write_json(run.folder / "verify" / f"{device.name}.json", result)


def report(run: Run) -> None:
    """Write the report and its figures."""
    from nas.report import write_report

    about = read_json(run.folder / "run.json")
    about["data"] = {
        "name": run.data.name,
        "train": len(run.data.train),
        "validation": len(run.data.validation),
        "test": read_json(run.per_device("verify/{}.json")[0])["test_images"],
    }
    write_json(run.folder / "run.json", about)
    write_report(run.folder, run.space, run.folder / "report")


# -- running stages ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """A stage with what it depends on: settings and the files that it reads; and what it writes."""

    run: Callable[[Run], None]
    depends_on: Callable[[Run], Any]
    reads: Callable[[Run], Sequence[Path]]
    writes: Callable[[Run], Sequence[Path]]


def _profile_files(run: Run) -> list[Path]:
    return run.per_device("profile/{}/table.jsonl") + run.per_device("profile/{}/networks.jsonl")


STAGES: dict[str, Stage] = {
    "profile": Stage(
        profile,
        lambda run: [[d.conditions() for d in run.devices], dataclasses.asdict(run.settings.profile)],
        lambda run: [],
        _profile_files,
    ),
    "train": Stage(
        train,
        lambda run: [run.settings.data, run.settings.training],
        lambda run: [],
        lambda run: [run.folder / "train" / "supernet.pt", run.folder / "train" / "history.json"],
    ),
    "label": Stage(
        label,
        lambda run: [run.settings.data, dataclasses.asdict(run.settings.label)],
        lambda run: [run.folder / "train" / "supernet.pt"],
        lambda run: [run.folder / "label" / "accuracy.jsonl"],
    ),
    "fit": Stage(
        fit,
        lambda run: [
            dataclasses.asdict(run.settings.label),
            dataclasses.asdict(run.settings.profile),
            run.settings.accuracy,
            run.settings.latency,
        ],
        lambda run: [run.folder / "label" / "accuracy.jsonl", *_profile_files(run)],
        lambda run: [
            run.folder / "fit" / "quality.json",
            run.folder / "fit" / "accuracy.npz",
            *run.per_device("fit/{}_latency.npz"),
        ],
    ),
    "search": Stage(
        search_fronts,
        lambda run: [
            run.settings.searcher,
            dataclasses.asdict(run.settings.search),
            dataclasses.asdict(run.settings.limit),
            run.settings.metrics,
            _file_digests(run),
            [d.memory_limit_bytes for d in run.devices],
        ],
        lambda run: [run.folder / "fit" / "accuracy.npz", *run.per_device("fit/{}_latency.npz")],
        lambda run: run.per_device("search/{}.json"),
    ),
    "export": Stage(
        export,
        lambda run: [dataclasses.asdict(run.settings.export), run.settings.label.recalibration_images],
        lambda run: [run.folder / "train" / "supernet.pt", *run.per_device("search/{}.json")],
        lambda run: run.per_device("export/{}/networks.json"),
    ),
    "verify": Stage(
        verify,
        lambda run: [run.settings.data, [d.conditions() for d in run.devices]],
        lambda run: [
            *run.per_device("export/{}/networks.json"),
            *run.per_device("export/{}/fastest/network.onnx"),
            *run.per_device("profile/{}/networks.jsonl"),
        ],
        lambda run: run.per_device("verify/{}.json"),
    ),
    "report": Stage(
        report,
        lambda run: [],
        lambda run: [
            run.folder / "train" / "history.json",
            run.folder / "fit" / "quality.json",
            *run.per_device("search/{}.json"),
            *run.per_device("verify/{}.json"),
        ],
        lambda run: [run.folder / "report" / "report.html"],
    ),
}


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
        + [_digest(path) for path in stage.reads(run)]
    )
    done = read_json(marker) if marker.exists() else {}
    complete = done.get("complete", False) and done.get("identity") == identity
    if skip_unchanged and complete and done.get("written") == _digests(stage.writes(run)):
        log.info("%s: nothing changed, skipped", name)
        return float(done.get("seconds", 0.0))
    earlier = float(done.get("seconds", 0.0)) if done.get("identity") == identity and not complete else 0.0
    started = time.perf_counter()
    write_json(marker, {"identity": identity, "seconds": earlier, "complete": False})
    try:
        stage.run(run)
    finally:  # an interrupted stage is continued later: keep the time that it has taken so far
        seconds = earlier + time.perf_counter() - started
        write_json(marker, {"identity": identity, "seconds": seconds, "complete": False})
    written = _digests(stage.writes(run))  # a file that is damaged or lost later is made again
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
            times.append({"stage": name, "seconds": read_json(marker).get("seconds", 0.0), "skipped": False})
    write_json(run.folder / "stages.json", times)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _file_digests(run: Run) -> list[str]:
    """Of files outside of the run folder that a search reads."""
    paths = [run.settings.search.start] if run.settings.search.start else []
    for metric in run.settings.metrics.values():
        file = metric.get("file") if isinstance(metric, dict) else None
        paths += [str(file).format(device=device.name) for device in run.devices] if file else []
    return [_digest(path) for path in map(Path, paths) if path.exists()]


def _digests(paths: Sequence[Path]) -> list[str | None]:
    return [_digest(path) if path.exists() else None for path in paths]


def _versions() -> dict[str, str]:
    names = ("hwnas", "torch", "numpy", "onnxruntime", "apache-tvm", "ethos-u-vela", "scikit-learn", "optuna")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str | None:
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def summary(run: Run, stage: str) -> str:
    """What a person wants to know after a stage: where the result is, and its main numbers."""
    if stage in ("run", "report"):
        return f"report: {run.folder / 'report' / 'report.html'}"
    if stage == "search":
        return "\n\n".join("\n".join(summary_lines(Front.read(path))) for path in run.per_device("search/{}.json"))
    return "\n".join(f"wrote {path}" for path in STAGES[stage].writes(run))

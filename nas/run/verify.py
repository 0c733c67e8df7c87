"""Verification: exported networks measured on their device as a whole, beside what was predicted."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hardware_profiles.backends.base import Backend
from hardware_profiles.device import DeviceProfile
from hardware_profiles.measure import Measurement, Measurer
from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import cpu_session, weights_of_onnx
from nas.core import pareto
from nas.core.progress import progress
from nas.data import Data, Samples, batches, in_order, resize, rows_of
from nas.run.records import (
    CHOSEN,
    RETRAINED,
    Alone,
    Column,
    Exports,
    Measured,
    Retrained,
    Verification,
    VerifiedNetwork,
    best_of,
    judging,
)
from nas.tasks import Score, Task
from predictors import Predictor
from search_spaces.architecture import Architecture
from search_spaces.base.checked import read_checked
from search_spaces.base.errors import DamagedFileError, MeasurementError, MismatchError
from search_spaces.base.storage import contents_of, read_json
from search_spaces.metric import ACCURACY, MEMORY, number_text, with_unit
from search_spaces.space import SearchSpace

DEVICE_TOLERANCE = {"float32": 1e-3, "float16": 5e-2, "bfloat16": 2e-1, "int8": 2e-1}
"""Largest difference of a device's outputs from the exported file's, relative to the largest one if that is above 1."""
AGAIN = "Run `nas export` again."
INTEGER_FILE = "network_int8.onnx"
COUNTS = ("macs", "params")
"""Counts that are known exactly of a network."""
LOADED = 256
"""Samples that are loaded at once."""
DRIFT_TOLERANCE = 1.05
DRIFT_ATTEMPTS = 4


def verify_device(
    space: SearchSpace,
    data: Data | None,
    device: DeviceProfile,
    folder: Path,
    references: Mapping[Architecture, Measurement],
    rng: np.random.Generator,
    exact: Mapping[str, Predictor] | None = None,
    *,
    workers: int = 0,
    retrained: Mapping[str, Path] | None = None,
) -> Verification:
    """Measure all networks exported for a device: latency there, accuracy of the exported file.

    Only here, after all choices are made, the test part of the data is used.

    Networks measured when the device was profiled are measured again among the exported ones. Where they come out
    slower or faster than then, the device itself has changed speed (another job, heat): the measurement is repeated a
    few times, and the drift that remains is part of the result.

    Args:
        space: of the networks.
        data: validation and test images; None: the weights are random, so there is no accuracy.
        device: to measure on.
        folder: of the export: ``networks.json`` and a folder per network.
        references: networks as measured when the device was profiled.
        rng: draws the order of measuring.
        exact: predictors of other metrics that are exact, such as plain functions, by name.
        workers: processes that load data which is not in memory.
        retrained: folders of the same networks trained alone, by the stage that has trained them.

    Returns:
        Per network the predicted beside the measured values, violations in words, and a label by what was measured,
        which need not be that of the export.

    Raises:
        MeasurementError: a network does not run on the device, or computes something else there.
    """
    exported = Exports.read(folder / "networks.json")
    objectives, entries = exported.objectives, exported.networks
    architectures, models, files = [], [], []
    for entry in entries:
        place = folder / entry.folder
        if Path(entry.folder).name != entry.folder:
            raise DamagedFileError(
                f"{folder / 'networks.json'} names the folder {entry.folder!r}, which is not in it. {AGAIN}"
            )
        with contents_of(place / "architecture.json", AGAIN):
            architectures.append(Architecture.from_json(space, read_json(place / "architecture.json")))
        files.append(place / "network.onnx")
        ranges = None
        if (place / "ranges.json").exists():
            ranges = read_checked(place / "ranges.json", list[tuple[float, float]], AGAIN)
        with contents_of(place, AGAIN):
            models.append(Model(space.lower(architectures[-1]), weights_of_onnx(files[-1]), ranges))

    in_integers = all(path.with_name(INTEGER_FILE).exists() for path in files)
    judged = [path.with_name(INTEGER_FILE) for path in files] if in_integers else files
    backend = device.open()
    try:
        with _files_named(folder):
            _check_outputs(device, backend, models, judged)
            drift, measured = _measure_without_drift(device, backend, models, space, references, rng)
        environment, estimates = backend.environment, backend.estimates
    finally:
        backend.close()

    scored: list[tuple[Score, Score] | None] = [
        None
        if data is None
        else (
            scored_file(file, data.task, data.validation, workers),
            scored_file(file, data.task, data.test_part(), workers),
        )
        for file in judged
    ]
    found = [
        Measured(
            latency_ms=latency.latency_ms,
            p10_ms=latency.p10_ms,
            p90_ms=latency.p90_ms,
            noise=latency.noise,
            agreed=latency.agreed,
            validation_accuracy=None if scores is None else scores[0].value(),
            test_accuracy=None if scores is None else scores[1].value(),
            memory_bytes=latency.values.get(MEMORY.name),
            values={name: value for name, value in latency.values.items() if name != MEMORY.name},
            validation_error=None if scores is None else scores[0].error(),
            test_error=None if scores is None else scores[1].error(),
        )
        for latency, scores in zip(measured, scored, strict=True)
    ]
    counts = [
        {name: sum(getattr(layer, name) for layer in model.layers.values()) for name in COUNTS} for model in models
    ]
    genes = np.stack([architecture.genes for architecture in architectures])
    others = {name: predictor.predict(genes) for name, predictor in (exact or {}).items()}
    table = [
        verified_values(
            entry.predicted.values,
            found[i],
            {**counts[i], **{name: v[i] for name, v in others.items()}},
            judging(objectives).name,
        )
        for i, entry in enumerate(entries)
    ]
    alone = {stage: list(files_alone(stage, place, folder, judged)) for stage, place in (retrained or {}).items()}
    labels, dominated_by = standing(objectives, table, [(entry.row, entry.label) for entry in entries])
    return Verification(
        device=device.name,
        title=device.title,
        backend=device.backend,
        dtype=device.dtype,
        threads=device.threads,
        batch=device.batch,
        estimates=estimates,
        environment=environment,
        drift=drift,
        accuracy_of=f"int8 {INTEGER_FILE}" if in_integers else "float32 network.onnx",
        objectives=objectives,
        validation_images=0 if data is None else len(data.validation),
        test_images=0 if data is None else len(data.test_part()),
        recalibration_images=exported.recalibration_images,
        front=exported.front,
        picked=exported.picked,
        networks=[
            VerifiedNetwork(
                label=labels[i],
                exported_as=entry.label,
                dominated_by=None if better is None else labels[better],
                folder=f"export/{device.name}/{entry.folder}",
                row=entry.row,
                architecture=architectures[i].to_json(),
                **counts[i],
                predicted=entry.predicted,
                evaluated_accuracy=entry.evaluated_accuracy,
                measured=found[i],
                parity=max(entry.parity.values()) if entry.parity else None,
                violations=violations(
                    objectives, table[i], 0 if data is None else len(data.validation), found[i].validation_error
                ),
                retrained={
                    stage: Alone(
                        validation=file_score(one[0], data.task, data.validation, workers),
                        test=file_score(one[0], data.task, data.test_part(), workers),
                        training_bytes=one[1].training_bytes,
                    )
                    for stage, of_stage in alone.items()
                    if data is not None and (one := of_stage[i]) is not None
                },
            )
            for i, (entry, better) in enumerate(zip(entries, dominated_by, strict=True))
        ],
    )


@contextlib.contextmanager
def _files_named(folder: Path) -> Iterator[None]:
    """Name the files that weights and activation ranges are from where these do not fit a network."""
    try:
        yield
    except MismatchError as error:
        raise MismatchError(f"{folder}/*/network.onnx or ranges.json: {error} {AGAIN}") from error


def _measure_without_drift(
    device: DeviceProfile,
    backend: Backend,
    models: list[Model],
    space: SearchSpace,
    references: Mapping[Architecture, Measurement],
    rng: np.random.Generator,
) -> tuple[float, list[Measurement]]:
    """Ratio of the references' latencies to those of profiling (1: no drift), and the models' measurements."""
    then = [measurement.latency_ms for measurement in references.values()]
    known = [m.reference_ms for m in references.values() if m.reference_ms is not None]
    measurer = Measurer(backend, device, rng, best_ms=min(known, default=math.inf))
    items = list(enumerate([*models, *(Model(space.lower(architecture)) for architecture in references)]))
    best: tuple[float, list[Measurement]] | None = None
    with progress(f"verify {device.name}", len(items), "network") as shown:
        for _ in range(DRIFT_ATTEMPTS):
            shown.reset()
            results: dict[int, Measurement] = {}
            for i, result in measurer.measure(items):
                if isinstance(result, MeasurementError):
                    raise result
                results[i] = result
                shown.update()
            now = [results[i].latency_ms for i in range(len(models), len(items))]
            drift = float(np.median(np.array(now) / then)) if then else 1.0
            if best is None or abs(np.log(drift)) < abs(np.log(best[0])):
                best = drift, [results[i] for i in range(len(models))]
            if max(drift, 1 / drift) <= DRIFT_TOLERANCE:
                break
    assert best is not None
    return best


Verified = Mapping[str, tuple[float, str]]
"""Values of a network by the names of objectives, and how each is known: measured, exact or predicted."""


def verified_values(
    predicted: Mapping[str, float | None], measured: Measured, exact: Mapping[str, float], judge: str = ACCURACY.name
) -> Verified:
    """Values of an exported network after measuring.

    Args:
        predicted: all values that the search had, by name.
        measured: accuracy of the validation part, latency, and what else the device reports.
        exact: counts, and what functions give.
        judge: name of the task's metric.
    """
    found = {name: (value, "predicted") for name, value in predicted.items() if value is not None}
    found |= {name: (float(count), "exact") for name, count in exact.items()}
    if measured.validation_accuracy is not None:
        found[judge] = measured.validation_accuracy, "measured"
    found["latency_ms"] = measured.latency_ms, "measured"
    if measured.memory_bytes is not None:
        found["memory_bytes"] = measured.memory_bytes, "measured"
    return found | {name: (value, "measured") for name, value in measured.values.items()}


def violations(objectives: Sequence[Column], values: Verified, images: int, error: float | None = None) -> list[str]:
    """The limits that a network breaks, in words.

    Args:
        objectives: with their limits.
        values: of the network.
        images: that the accuracy was counted on; 0: it is predicted.
        error: standard error of the task's metric, where it is not that of a share of right answers.
    """
    words = []
    for column in objectives:
        if column.limit is None or column.name not in values:
            continue
        value, known = values[column.name]
        if column.cost(value) <= column.cost(column.limit):
            continue
        shown, limit = (with_unit(number, column.unit) for number in (value, column.limit))
        by, near = abs(column.limit - value), ", which is within its standard error"
        if column.name == "accuracy" and images:
            error = math.sqrt(value * (1 - value) / images)
            shown = f"{100 * value:.1f} %"
            limit = f"{100 * column.limit:.4g} % by {100 * by:.1f} ± {100 * error:.1f} points{near * (by <= error)}"
        elif column.judges and error is not None and known == "measured":
            limit += f" by {number_text(by)} ± {number_text(error)}{near * (by <= error)}"
        elif column.unit == "bytes":
            shown, limit = f"{value / 1024:.1f} KiB", f"{column.limit / 1024:.1f} KiB"
        guess = ", predicted," if known == "predicted" else ""
        words.append(f"{column.title} {shown}{guess} is {'below' if column.at_least else 'above'} the limit {limit}")
    return words


def standing(
    objectives: Sequence[Column], table: Sequence[Verified], exported: Sequence[tuple[int, str]]
) -> tuple[list[str], list[int | None]]:
    """Comparison of networks by what was verified.

    A network is dominated where another one is nowhere worse in the goals of the search, and better in one. The latency
    of this device stands for a goal that joins several devices.

    Args:
        objectives: of the search.
        table: values of each network.
        exported: number on the front and label of each, as chosen before anything was verified.

    Returns:
        Labels: the fastest, the most accurate (or the best by the metric of another task), the knee of those that
        nobody dominates; others keep the one that they have, if it says nothing of the kind. And for each network the
        number of one that dominates it, or None.
    """
    if not table:
        return [], []
    columns = [replace(c, name="latency_ms") if c.name == "latency_share" else c for c in objectives if c.goal]
    columns = [column for column in columns if all(column.name in values for values in table)]
    values = np.array([[row[column.name][0] for column in columns] for row in table])
    costs = pareto.costs_of(values, [column.goal for column in columns])
    one, other = costs[:, None], costs[None]
    better: NDArray[np.bool_] = np.asarray((one <= other).all(2) & (one < other).any(2))  # (i, j): i dominates j
    free = np.flatnonzero(~better.any(0))
    latency = np.array([row["latency_ms"][0] for row in table])
    judge = judging(objectives)
    cost = judge.cost(np.array([row.get(judge.name, (np.nan, ""))[0] for row in table]))
    names: dict[int, list[str]] = {int(np.lexsort((cost, latency))[0]): ["fastest"]}
    if not np.isnan(cost).any():
        names.setdefault(int(np.lexsort((latency, cost))[0]), []).append(best_of(judge))
    names.setdefault(int(free[pareto.knee(costs[free])]), ["knee"])
    labels = [
        " and ".join(names[i]) if i in names else f"network {row}" if label in CHOSEN else label
        for i, (row, label) in enumerate(exported)
    ]
    # The fastest of those that dominate it, of which none is dominated itself.
    by = [min((i for i in free if better[i, j]), key=lambda i: latency[i], default=None) for j in range(len(table))]
    return labels, [None if i is None else int(i) for i in by]


def files_alone(
    stage: str, place: Path, folder: Path, judged: Sequence[Path]
) -> Iterator[tuple[Path, Retrained] | None]:
    """Files of exported networks that a stage has trained alone, in their order, with what it says of them; None for
    one that it has not trained.

    Args:
        stage: that trained them.
        place: where it wrote them.
        folder: of the export.
        judged: files of the exported networks.
    """
    known = {entry.folder: entry for entry in RETRAINED[stage].read(place / "networks.json").networks}
    for file in judged:
        there, stated, entry = place / file.relative_to(folder), "architecture.json", known.get(file.parent.name)
        if entry is not None and there.is_file():
            first, second = (read_json(path.with_name(stated))["choices"] for path in (there, file))
            yield (there, entry) if first == second else None
        else:
            yield None


def file_score(path: Path, task: Task, samples: Samples, workers: int = 0) -> float:
    """Score of an exported network on a part of the data, in the unit of the task's metric; see `scored_file`."""
    return scored_file(path, task, samples, workers).value()


def scored_file(path: Path, task: Task, samples: Samples, workers: int = 0) -> Score:
    """Score of an exported network on a part of the data, run in batches of its own in ONNX Runtime.

    Args:
        path: of the ONNX file.
        task: says how outputs are judged.
        samples: of the part.
        workers: processes that load them, where they are not in memory.

    Raises:
        DamagedFileError: the file cannot be loaded.
    """
    try:
        session = cpu_session(path.read_bytes())
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise DamagedFileError(f"{path} cannot be loaded ({error}). Run `nas export` again.") from error
    (taken,) = session.get_inputs()
    batch, _, height, width = taken.shape
    names = [given.name for given in session.get_outputs()]
    score = task.score()
    for inputs, targets in batches(samples, in_order(len(samples), max(1, LOADED // batch) * batch), workers=workers):
        for rows in in_order(len(inputs), batch):
            images = resize(inputs[rows], (height, width))
            images = images[torch.arange(batch).clamp(max=len(images) - 1)]  # the last image fills the last batch
            found = [torch.from_numpy(one)[: len(rows)] for one in session.run(names, {taken.name: images.numpy()})]
            outputs = found[0] if len(found) == 1 else dict(zip(names, found, strict=True))
            score.add(outputs, rows_of(targets, rows))
    return score


def _check_outputs(device: DeviceProfile, backend: Backend, models: list[Model], files: list[Path]) -> None:
    """Compare what the device computes with the exported file in ONNX Runtime, for the first network."""
    for model, path in list(zip(models, files, strict=True))[:1]:
        given = dict(zip(model.network.inputs, model.random_inputs(device.batch), strict=True))
        output = backend.load(model).run(given if len(given) > 1 else next(iter(given.values())))
        if output is None:
            return
        expected = model.network.named_outputs(model.run_onnx(cpu_session(path.read_bytes()), given))
        for name, found in model.network.named_outputs(output).items():
            difference = float(np.abs(found - expected[name]).max() / max(1.0, float(np.abs(expected[name]).max())))
            if not difference <= DEVICE_TOLERANCE[device.dtype]:
                raise MeasurementError(
                    f"Device {device.name!r} computes something else than the exported network {path}: outputs differ "
                    f"by {difference:.2g}. Its latencies would mean nothing."
                )

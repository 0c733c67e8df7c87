"""Fitting the predictors of a run and judging them on held-out networks."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import re
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.device import DeviceProfile
from hardware_profiles.latency_table import LatencyTable
from hardware_profiles.measure import Measurement
from nas.run.doubts import doubts
from nas.run.labelling import known_accuracies
from nas.run.network_log import NetworkLog
from nas.run.networks import FEWEST_TO_FIT, distinct_networks
from nas.run.objectives import reports, short_name
from nas.run.recipe_search import conditions_of_labels
from nas.run.records import Fits, HeldOut, LatencyQuality, LayerCounts, PredictorQuality
from nas.run.reuse import PROFILE_FILES
from nas.run.run_folder import Run, commit, digest
from nas.run.settings import LabelSettings
from predictors import (
    CorrectedLookup,
    LayerModel,
    PositionTable,
    Predictor,
    Regression,
    Ridge,
    Uncertain,
    coverage,
    largest_layer,
    plain_sum,
    quality,
    save,
    scaled_largest,
    sums_left_out,
)
from predictors.base import Trainable, metric_of
from predictors.largest_layer import REACHED
from predictors.learning_curve import learning_curve
from predictors.position_table import macs
from predictors.regression import Scale
from search_spaces.architecture import Architecture, Genes
from search_spaces.base import trust
from search_spaces.base.building import build
from search_spaces.base.errors import DamagedFileError, InvalidValueError, MismatchError
from search_spaces.base.storage import RecordLog
from search_spaces.metric import ACCURACY, LATENCY, MEMORY, Metric, TaskMetric
from search_spaces.space import SearchSpace

log = logging.getLogger(__name__)


FEWEST = 10
"""Rows that any predictor can be fitted to."""
_WANTED: dict[str, Metric] = {"accuracy": ACCURACY, "latency": LATENCY}
"""Metrics that predictors from files are of, by the group of settings; of a task it may be another one."""
NONE_UNSEEN = " (the space is so small that none is unseen)"


def fit(run: Run) -> None:
    """Fit the accuracy predictor and, per device, those of all that was measured; judge them on unseen networks.

    A predictor that is taken from a file is copied. One that there is nothing to fit to is left out.
    """
    file = run.folder / "fit" / "quality.json"
    fits = Fits(commit=commit(), accuracy=_fit_accuracy(run), latency={}, memory={})
    earlier = fits
    if file.exists():
        with contextlib.suppress(DamagedFileError):
            earlier = Fits.read(file)
    for device in run.devices:
        found = _fit_device(run, device)
        fits = fits.with_device(device.name, found)
        for name in {"latency", "memory", *earlier.metrics.get(device.name, ())} - {*found}:
            if name != "latency" or "file" not in run.settings.latency:  # else it is of the device as it was
                (run.folder / "fit" / f"{device.name}_{name}.npz").unlink(missing_ok=True)
    fits.write(file)


def _fit_device(run: Run, device: DeviceProfile) -> dict[str, PredictorQuality]:
    """Fit the predictors of a device: the quality of each by its metric."""
    space, folder, found = run.space, run.folder / "profile" / device.name, dict[str, PredictorQuality]()
    is_profiled, is_taken = all((folder / name).exists() for name in PROFILE_FILES), "file" in run.settings.latency
    make = predictor_maker("latency", run.settings.latency, device.name)
    if is_taken:
        save(make(space, seed=run.settings.seed), space, run.folder / "fit" / f"{device.name}_latency.npz")
    elif not is_profiled:
        log.warning("%s has no profile, so its latency is not fitted. `nas profile` makes one.", device.name)
    if is_profiled:
        fitted = fit_measured(space, device, run.folder, None if is_taken else make, run.settings.seed)
        found = {metric: quality for metric, (_, quality) in fitted.items()}
    elif reports(device, MEMORY):
        log.warning("%s has no profile, so its memory is the computed peak of the activations.", device.name)
    return found


def fit_measured(
    space: SearchSpace, device: DeviceProfile, folder: Path, make: Callable[..., Any] | None, seed: int
) -> dict[str, tuple[Any, PredictorQuality]]:
    """Fit predictors to what was measured on a device, and write them.

    Args:
        space: of the networks.
        device: that was measured on.
        folder: of the run.
        make: makes the latency predictor; None: that comes from elsewhere.
        seed: of the predictors.

    Returns:
        Each predictor with its quality, by latency, memory and the names of other metrics, as the device reports them.
    """
    place, found = folder / "profile" / device.name, dict[str, tuple[Any, PredictorQuality]]()
    table, networks = LatencyTable.read(place / "table.jsonl"), NetworkLog.read(place / "networks.jsonl", space)
    if make is not None:
        predictor, judged = fit_latency(space, table, networks, make, seed)
        told = [doubt.text for doubt in doubts(space, table, networks)]  # by `profile`, at its end
        for doubt in judged.doubts:
            if doubt not in told:
                log.warning("%s: %s", device.name, doubt)
        found["latency"] = predictor, judged
    fitted = fitted_metrics(space, table)
    for metric in fitted:
        one, _ = found[short_name(metric)] = fit_metric(space, table, networks, metric, seed)
        if isinstance(one, CorrectedLookup) and one.doubt:
            log.warning("%s: %s: %s", device.name, metric.title, one.doubt)
    for metric in table.metrics:
        if metric not in fitted and table.values_of(metric.name):
            log.warning("%s: %s is not known of all layers, and is not fitted.", device.name, metric.name)
    directions = {short_name(metric): metric.direction for metric in fitted}
    for name, (predictor, _) in found.items():
        save(predictor, space, folder / "fit" / f"{device.name}_{name}.npz", directions.get(name))
    return found


def change_quality(folder: Path, change: Callable[[Fits], Fits]) -> None:
    """Note in ``fit/quality.json`` of a run folder how good a predictor is, beside the others."""
    path = folder / "fit" / "quality.json"
    fits = Fits.read(path) if path.exists() else Fits(accuracy=None, latency={}, memory={})
    replace(change(fits), commit=commit()).write(path)


def _fit_accuracy(run: Run) -> PredictorQuality | None:
    """Fit the accuracy predictor: its quality; None where it is taken from a file, or there are no labels."""
    file = run.folder / "fit" / "accuracy.npz"
    node = run.settings.accuracy
    if "file" in run.settings.accuracy:
        save(predictor_maker("accuracy", node)(run.space, seed=run.settings.seed), run.space, file)
        return None
    if not (run.folder / "label" / "accuracy.jsonl").exists():
        if run.settings.needs_labels:
            log.warning("There are no accuracies, so accuracy is not fitted. `nas train` and `nas label` make them.")
        file.unlink(missing_ok=True)
        return None
    pairs = RecordLog(run.folder / "label" / "accuracy.jsonl", conditions_of_labels(run))
    metric = run.data.task.metric
    values = known_accuracies(run.space, pairs, metric)
    wanted = distinct_networks(run.space, run.settings.label.subnets, run.rng("label"))
    genes = np.stack([a.genes for a in wanted])
    missing = sum(a not in values for a in wanted)
    if missing:
        raise MismatchError(
            f"{pairs.path} lacks {missing} of {len(wanted)} subnets. Run `nas label` with the same settings first."
        )
    accuracies = np.array([values[a] for a in wanted])
    make = predictor_maker("accuracy", of_metric(node, metric))
    final, result = fit_accuracy(run.space, genes, accuracies, make, run.settings.label, run.settings.seed, metric)
    save(final, run.space, run.folder / "fit" / "accuracy.npz", metric.direction)
    if result.learning is not None:
        print(f"{metric.title}: {result.learning.sentence}", flush=True)
    return result


def of_metric(node: dict[str, Any], metric: TaskMetric) -> dict[str, Any]:
    """Settings of a predictor of accuracies as those of one of another task's metric, on its own scale where it is no
    quantity that saturates at 1."""
    if metric == ACCURACY:
        return node
    wanted: dict[str, Any] = {"metric": metric.name, "unit": metric.unit}
    if metric.high != 1:
        wanted["log_error"] = False
        if node.get("scale", "log_error") == "log_error":
            wanted["scale"] = "linear"
    taken = inspect.signature(trust.find("`accuracy`", node["_target_"])).parameters
    return {**node, **{name: value for name, value in wanted.items() if name in taken}}


def fit_accuracy(
    space: SearchSpace,
    genes: Genes,
    accuracies: NDArray[np.float64],
    make: Callable[..., Any],
    settings: LabelSettings,
    seed: int,
    metric: TaskMetric = ACCURACY,
) -> tuple[Any, PredictorQuality]:
    """Fit a predictor of the task's metric to labelled, distinct networks, and judge its like on the last of them,
    fitted to all others and to fewer; see `fit_pairs`."""
    held_out = settings.held_out
    if len(genes) < settings.subnets:  # all that the space has
        held_out = max(2, len(genes) * held_out // settings.subnets)
    maximise = metric.direction == "max"
    final, found = fit_pairs(space, genes, accuracies, make, held_out=held_out, seed=seed, maximise=maximise)
    unseen = genes[len(genes) - held_out :], accuracies[len(genes) - held_out :]

    def tau(rows: NDArray[np.intp]) -> float:
        judged = make(space, seed=seed)
        judged.fit(genes[rows], accuracies[rows])
        return quality(unseen[1], judged.predict(unseen[0]), maximise=maximise).kendall_tau

    count, rng = len(genes) - held_out, np.random.default_rng(seed)
    curve = learning_curve(tau, count, FEWEST, rng, all_of_them=found.metrics.kendall_tau)
    return final, replace(found, learning=curve)


def fit_pairs(
    space: SearchSpace,
    genes: Genes,
    values: NDArray[np.float64],
    make: Callable[..., Any],
    *,
    held_out: int,
    seed: int,
    maximise: bool,
) -> tuple[Any, PredictorQuality]:
    """Fit a predictor to pairs of networks and values, and judge its like on the last of them.

    Args:
        space: of the networks.
        genes: networks (n, choices); one may be there several times.
        values: of them, (n,).
        make: makes a predictor to fit, given the space and the seed.
        held_out: distinct networks that a second predictor, fitted without them, is judged by.
        seed: of the predictor.
        maximise: whether large values are good.

    Returns:
        The predictor, fitted to all pairs, and how good it is; where too few are left to fit, by these themselves.
    """
    _, first, number = np.unique(genes, axis=0, return_index=True, return_inverse=True)
    seen = first[number] < np.sort(first)[-held_out]
    judged = make(space, seed=seed)
    if seen.sum() >= FEWEST:
        judged.fit(genes[seen], values[seen])
        result = _quality(_title(judged), judged, int(seen.sum()), genes[~seen], values[~seen], maximise=maximise)
    else:
        judged.fit(*_repeated(space, genes, values))
        result = _quality(_title(judged) + NONE_UNSEEN, judged, len(genes), genes, values, maximise=maximise)
    final = make(space, seed=seed)
    final.fit(*_repeated(space, genes, values))
    return final, result


def predictor_maker(key: str, node: dict[str, Any], device: str = "") -> Callable[..., Any]:
    """Function that makes a predictor, given the space: one to fit, or one from a ``file``, whose path may name the
    device."""
    if "file" in node:
        file = _file(node["file"], device)
        if not file.is_file():
            raise InvalidValueError(f"`{key}.file` must be the npz of a fitted predictor, but {file} is no file.")
        node = {**node, "file": str(file)}
    made = build(key, node, Predictor if "file" in node else Trainable, given=("space", "layers", "seed"))
    if not isinstance(made, functools.partial):
        raise InvalidValueError(f"`{key}` must have `_partial_: true`: the space is only known to the stage.")
    return functools.partial(_of_file, made, key, Path(node["file"])) if "file" in node else made


def _of_file(make: Callable[..., Any], key: str, file: Path, *given: Any, **more: Any) -> Any:
    """The predictor of a file, which must be of the metric that a setting asks for."""
    predictor = make(*given, **more)
    found = metric_of(predictor)
    wanted = found if key == "accuracy" and isinstance(found, TaskMetric) else _WANTED[key]
    if (found.name, found.unit) != (wanted.name, wanted.unit):
        raise MismatchError(
            f"`{key}.file` must predict {wanted.title} in {wanted.unit}, but {file} is of {predictor.metric} in "
            f"{predictor.unit}. Give the file of another predictor."
        )
    return predictor


def predictor_digests(run: Run) -> list[str]:
    """Digests of the files that predictors are taken from."""
    names = {"accuracy": [""], "latency": [device.name for device in run.devices]}
    nodes = {"accuracy": run.settings.accuracy, "latency": run.settings.latency}
    files = [_file(node["file"], name) for key, node in nodes.items() if "file" in node for name in names[key]]
    return [digest(file) for file in files if file.is_file()]


def _file(given: Any, device: str) -> Path:
    """The file of a fitted predictor, ``{device}`` in its path replaced."""
    return Path(str(given).replace("{device}", device))


def _title(predictor: Predictor) -> str:
    """Title of a predictor, for a report."""
    kind = type(predictor.model.regressor if isinstance(predictor, Regression) else predictor).__name__
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", kind).capitalize()


def fit_latency(
    space: SearchSpace, table: LatencyTable, networks: NetworkLog, make: Callable[..., Any], seed: int = 0
) -> tuple[Any, LatencyQuality]:
    """The latency predictor of a device, and how good it is on networks that it has not seen.

    Args:
        space: of the networks.
        table: of the layers, as measured.
        networks: as measured.
        make: makes the predictor, given the plain sum of layers, or else the space and the seed.
        seed: of the predictor.
    """
    absent = coverage(space, table).absent
    model = LayerModel.of_table(table) if absent else None
    layers = plain_sum(space, table, fill=model)
    by_table = getattr(make, "func", None) is CorrectedLookup
    predictor = make(layers) if by_table else make(space, seed=seed)
    if isinstance(predictor, Regression):
        predictor.fails = np.isinf(layers.values)
    unseen, first, second = networks.judged()
    fitted, others = _fitted_on(networks, unseen)
    kept, left_out = _undisturbed(fitted, FEWEST)
    genes, values = _pairs(kept, LATENCY)
    method = str(table.conditions.get("method", "isolated"))
    if by_table and method == "in context":
        *pairs, sums = _repeated(space, genes, values, sums_left_out(space, table, genes))
        predictor.fit(*pairs, sums=sums)
    else:
        predictor.fit(*_repeated(space, genes, values))
    truth, unseen_genes = (first + second) / 2, np.stack([a.genes for a in unseen])
    rows = f"{len(table)} layers {'in context' if method == 'in context' else 'alone'}"
    error = None if model is None else model.expected_error(absent)
    if error is not None:
        rows += f", {len(absent)} more from a model of these (expected error {error:.1%})"
    name = f"Lookup table ({rows}), {_correction(predictor)}" if by_table else f"{_title(predictor)}, whole networks"
    doubtful = [doubt.text for doubt in doubts(space, table, networks)]
    if left_out:
        doubtful.append(f"Other programs disturbed {left_out} networks that the fit therefore leaves out.")
    if doubt := networks.doubt_of_judges():
        doubtful.append(doubt)
    if by_table and predictor.doubt:
        doubtful.append(predictor.doubt)
    work = macs(space).predict
    slope, intercept = np.polyfit(work(genes), values, 1, w=1 / values)
    judged = _quality(name if others else name + NONE_UNSEEN, predictor, len(genes), unseen_genes, truth)
    known = {
        "noise_floor": quality(first, second),
        "baselines": {
            "plain sum of layers": quality(truth, layers.predict(unseen_genes)),
            "linear in MACs": quality(truth, slope * work(unseen_genes) + intercept),
        },
    }
    return predictor, LatencyQuality(
        **{**vars(judged), **known},
        doubts=doubtful,
        terms=predictor.terms if by_table else {},
        method=method,
        layers=LayerCounts(measured=len(table), failed=len(table.failed), predicted=len(absent), expected_error=error),
    )


def fitted_metrics(space: SearchSpace, table: LatencyTable) -> list[Metric]:
    """Metrics beside the latency that predictors are fitted to: a layer of unknown memory may be the largest one."""
    layers = space.distinct_layers
    return [m for m in table.metrics if m.of_layers != "max" or table.has_values(m.name, layers)]


def fit_metric(
    space: SearchSpace, table: LatencyTable, networks: NetworkLog, metric: Metric, seed: int = 0
) -> tuple[Any, PredictorQuality]:
    """The predictor of a metric that a device reports beside its latency, and how good it is on networks that it has
    not seen: the largest layer or the sum of layers, corrected by whole networks, or a regression on these alone.

    Args:
        space: of the networks.
        table: of the layers, as measured.
        networks: as measured.
        metric: says what a network has of its layers.
        seed: of the regression.
    """
    unseen, first, second = networks.judged(metric.name)
    rows, others = _fitted_on(networks, unseen)
    genes, values = _pairs(rows if metric.of_layers == "max" else _undisturbed(rows, FEWEST)[0], metric)
    baselines: dict[str, PositionTable] = {}
    predictor: Any
    if metric.of_layers == "max":
        layers = largest_layer(space, table, metric)
        title = f"Largest layer, scaled to reach {REACHED:.0%} of unseen networks"
        baselines["largest layer"] = layers
        predictor = scaled_largest(layers, genes, values)
    elif metric.of_layers == "sum":
        absent = coverage(space, table, metric).absent
        layers = plain_sum(space, table, LayerModel.of_table(table, metric) if absent else None, metric)
        baselines["plain sum of layers"] = layers
        predictor = CorrectedLookup(layers)
        predictor.fit(*_repeated(space, genes, values))
        title = f"Sum of layers, {_correction(predictor)}"
    else:
        scale: Scale = "log" if (values > 0).all() else "linear"
        predictor = Regression(space, Ridge(), metric=metric.title, unit=metric.unit, scale=scale, seed=seed)
        fails = PositionTable.of_layers(space, "failure", "1", lambda layer: float(layer in table.failed))
        predictor.fails = fails.values > 0
        predictor.fit(*_repeated(space, genes, values))
        title = f"{_title(predictor)}, whole networks"
    truth = first if metric.of_layers == "max" else (first + second) / 2
    unseen_genes = np.stack([a.genes for a in unseen])
    result = _quality(title + NONE_UNSEEN * (not others), predictor, len(genes), unseen_genes, truth)
    return predictor, replace(
        result,
        noise_floor=None if metric.of_layers == "max" else quality(first, second),
        baselines={name: quality(truth, layers.predict(unseen_genes)) for name, layers in baselines.items()},
    )


def _correction(lookup: CorrectedLookup) -> str:
    if not lookup.chosen:
        return "no correction needed"
    return f"whole-network correction ({', '.join(lookup.chosen).replace('_', ' ')})"


def _fitted_on(networks: NetworkLog, unseen: Collection[Architecture]) -> tuple[dict[Architecture, Measurement], bool]:
    """Networks that were measured to fit on, and whether those that judge are others: a tiny space has none."""
    rows = networks.rows("fit")
    others = {a: m for a, m in rows.items() if a not in unseen}
    enough = len(others) >= FEWEST_TO_FIT
    return others if enough else rows, enough


def _undisturbed(rows: dict[Architecture, Measurement], fewest: int) -> tuple[dict[Architecture, Measurement], int]:
    """Rows without those that other programs disturbed, and how many these are; all rows where too few are left."""
    calm = {a: m for a, m in rows.items() if not m.is_disturbed}
    return (calm, len(rows) - len(calm)) if len(calm) >= max(fewest, len(rows) / 2) else (rows, 0)


def _repeated(space: SearchSpace, genes: Genes, *columns: NDArray[np.float64]) -> tuple[Any, ...]:
    """The rows, or of a tiny space each so often that there are as many as any predictor asks for."""
    times = -(-FEWEST // len(genes)) if space.size < 2 * FEWEST else 1
    return tuple(np.concatenate([rows] * times) for rows in (genes, *columns))


def _pairs(rows: dict[Architecture, Measurement], metric: Metric) -> tuple[Genes, NDArray[np.float64]]:
    return np.stack([a.genes for a in rows]), np.array([float(m.value(metric.name)) for m in rows.values()])


def _quality(
    name: str, predictor: Predictor, trained_on: int, genes: Genes, truth: Any, *, maximise: bool = False
) -> PredictorQuality:
    """Quality of a predictor on unseen networks (n, choices) of true values (n,), and as it states it itself."""
    predicted, std = predictor.predict(genes), None
    if isinstance(predictor, Uncertain):
        predicted, std = predictor.predict_with_std(genes)
    return PredictorQuality(
        predictor=name,
        unit=predictor.unit,
        trained_on=trained_on,
        metrics=quality(truth, predicted, maximise=maximise),
        within_2_std=None if std is None else float((np.abs(predicted - truth) <= 2 * std).mean()),
        held_out=HeldOut(truth=truth.tolist(), predicted=predicted.tolist(), std=None if std is None else std.tolist()),
    )

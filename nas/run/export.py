"""Export from points of a front to files that run elsewhere: ONNX with trained weights, and what network it is."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnx
import torch

from hardware_profiles.device import DeviceProfile, backend_module, load_device
from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import cpu_session, onnx_model
from nas.core import pareto
from nas.core.problem import Values
from nas.core.progress import each
from nas.run.labelling import images_of, supernet_of
from nas.run.records import Column, Evaluated, Exported, Exports, Predicted, best_of, judging
from nas.run.settings import ExportSettings
from predictors.base import Predictor
from search_spaces.architecture import Architecture, Genes
from search_spaces.base.errors import InvalidValueError, MismatchError, NasError
from search_spaces.base.storage import write_bytes, write_json
from search_spaces.base.threads import torch_threads
from search_spaces.base.values import checked_arguments
from search_spaces.metric import ACCURACY, LATENCY, TaskMetric
from search_spaces.one_network import origin_of
from search_spaces.space import SearchSpace
from search_spaces.torch_program import folded_weights

if TYPE_CHECKING:
    from nas.data import Data
    from nas.run.fronts import Front
    from nas.supernet import Supernet, SupernetAccuracy

log = logging.getLogger(__name__)

SUPERNET_TOLERANCE = 1e-5
ONNX_TOLERANCE = 1e-4
PARITY_IMAGES = 8


def localised(front: Front, device: str) -> Front:
    """A front with the values of one of its devices under their plain names, and without those of the others.

    The limits are those that the user set, where the search kept a margin from them.
    """
    columns, kept = [], []
    for number, column in enumerate(front.columns):
        name, _, on = column.name.partition("@")
        if on in ("", device):
            stated = front.limits.get(name) if name in front.limits else column.limit
            columns.append(dataclasses.replace(column, name=name, limit=stated))
            kept.append(number)
    return dataclasses.replace(front, columns=tuple(columns), values=front.values[:, kept])


def knowing_accuracy(front: Front, metric: TaskMetric = ACCURACY) -> Front:
    """A front with a column of the task's metric, such as accuracies; where the search had none they are unknown (NaN).

    Raises:
        MismatchError: it has a column of the metric of another task.
    """
    judge = judging(front.columns)
    if judge.name in front.names:
        if metric.name not in (judge.name, ACCURACY.name):
            raise MismatchError(
                f"{front.source} is a front of {judge.name}, but the task of the data is judged by {metric.name}. Give "
                "the data that it was searched for."
            )
        return front
    unknown = np.full((len(front), 1), np.nan)
    columns = (*front.columns, Column.of(metric))
    return dataclasses.replace(front, columns=columns, values=np.concatenate([front.values, unknown], 1))


def spread(front: Front, most: int) -> list[int]:
    """Rows of a front, so many at most: its ends and its knee, and others evenly between in the order of latency."""
    order = front.column("latency_ms")[1].argsort(kind="stable")
    if len(order) <= most:
        return sorted(order.tolist())
    judge = judging(front.columns)
    cost = judge.cost(front.column(judge.name)[1])
    first = [order[0], order[0] if np.isnan(cost).any() else int(cost.argmin()), front.knee]
    evenly = order[np.linspace(0, len(order) - 1, max(most - len(first), 0)).round().astype(int)]
    return sorted(list(dict.fromkeys(map(int, [*first, *evenly])))[:most])


def judged(front: Front, rows: Sequence[int], accuracy: Values) -> tuple[Front, list[int]]:
    """Rest of a front when some of its networks have been evaluated.

    Those are left that no other one dominates by its evaluated accuracy, and that keep the limit on it if any does.

    Args:
        front: as predicted.
        rows: that were evaluated.
        accuracy: of each, shape (rows,); NaN where the evaluation failed, or for all where none is known.

    Returns:
        The front that is left, with evaluated accuracies, and the rows that its networks had.
    """
    known, judge = with_accuracy(front, rows, accuracy), judging(front.columns)
    kept = ~np.isnan(accuracy)
    kept |= not kept.any()  # no accuracy is known
    if judge.limit is not None and (keeping := kept & judge.keeps(accuracy, judge.limit)).any():
        kept = keeping
    left = np.flatnonzero(kept)
    left = left[np.sort(pareto.front(known.costs[left]))]
    return known.rows(left), [rows[i] for i in left.tolist()]


def with_accuracy(front: Front, rows: Sequence[int], accuracy: Values) -> Front:
    """Some rows of a front, with other accuracies."""
    some = front.rows(np.array(rows, int))
    values = some.values.copy()
    values[:, some.names.index(judging(front.columns).name)] = accuracy
    return dataclasses.replace(some, values=values)


def choose(front: Front, n: int) -> list[tuple[int, str]]:
    """Rows of a front, n at most: the fastest, the knee, the most accurate, and then ones evenly between.

    Fastest is the least latency and most accurate the greatest accuracy of these networks, whether or not the search
    had them for goals. Of another task's networks it is the best by the task's metric. The knee is that of the goals.

    Args:
        front: at least one network, with the task's metric and ``latency_ms``.
        n: how many, at least one.

    Returns:
        (row, name) sorted by latency.
    """
    judge = judging(front.columns)
    cost, latency = judge.cost(front.column(judge.name)[1]), front.column("latency_ms")[1]
    order = np.lexsort((cost, latency)).tolist()
    best, knee, last = int(np.lexsort((latency, cost))[0]), front.knee, len(order) - 1
    names = {knee: "knee", best: best_of(judge), order[0]: "fastest"}  # where two meet, the later name
    between = [order[i] for i in np.linspace(0, last, max(n, 2)).round().astype(int)]
    wanted = set(list(dict.fromkeys([order[0], knee, best, *between, *order]))[:n])
    numbers = itertools.count(1)
    return [(row, names.get(row) or f"front {next(numbers)}") for row in order if row in wanted]


def keeping_limits(front: Front, n: int, stated: Callable[[int], Mapping[str, float]]) -> list[int]:
    """Rows of a front that are left to choose from: each time that a network is chosen which breaks a limit by what its
    device states of it, another one takes its place. All rows, if none keeps the limits.

    Args:
        front: at least one network.
        n: how many are to be chosen.
        stated: gives what the device states of a row's network, by name.
    """
    kept = list(range(len(front)))
    while kept:
        chosen = [kept[row] for row, _ in choose(front.rows(np.array(kept)), n)]
        over = {row for row in chosen if not _keeps(front.columns, stated(row))}
        if not over:
            return kept
        kept = [row for row in kept if row not in over]
    return list(range(len(front)))


def _keeps(columns: Sequence[Column], values: Mapping[str, float]) -> bool:
    """True if values keep all limits on them."""
    limits = [(c, c.limit, values[c.name]) for c in columns if c.limit is not None and c.name in values]
    return all(bool(column.keeps(np.array(value), limit)) for column, limit, value in limits)


@contextlib.contextmanager
def _statements(
    device: DeviceProfile, space: SearchSpace, evaluator: SupernetAccuracy | None
) -> Iterator[Callable[[Genes], Mapping[str, float]]]:
    """Function of genes (choices,) that gives what the compiler or simulator of a device states of a network, with the
    weights that it gets."""
    with contextlib.closing(device.open()) as backend:

        def stated(genes: Genes) -> Mapping[str, float]:
            architecture = Architecture(space, genes)
            weights = None if evaluator is None else folded_weights(evaluator.deployed(architecture))
            loaded = backend.load(Model(space.lower(architecture), weights))
            return {LATENCY.name: loaded.sample_ms(1), **loaded.values(1)}

        yield stated


def export_device(
    front: Front,
    space: SearchSpace,
    evaluator: SupernetAccuracy | None,
    judge: Predictor | None,
    device: DeviceProfile,
    settings: ExportSettings,
    folder: Path,
) -> None:
    """Write some networks of a device's front, each into a folder of its own, and ``networks.json``.

    Before they are chosen, networks of the predicted front are evaluated through the supernet on the validation part:
    at most ``settings.evaluate``, and all that ``settings.pick`` names. A device whose figures are a compiler's or a
    simulator's is asked whether those that are chosen keep its limits, and others take the place of those that do not.
    Boards measure networks only when all is chosen: one that breaks a limit is then reported as such.

    Args:
        front: as predicted.
        space: of the networks.
        evaluator: has the supernet; None: the networks get random weights, and predictions decide.
        judge: gives accuracies through the supernet; it keeps those that it has evaluated.
        device: of the front.
        settings: how many are evaluated and written, or which.
        folder: to write to.

    Raises:
        InvalidValueError: the settings name networks that the front does not have.
    """
    predicted = knowing_accuracy(
        localised(front, device.name), ACCURACY if evaluator is None else evaluator.data.task.metric
    )
    judge_name = judging(predicted.columns).name
    evaluate = 0 if judge is None else settings.evaluate
    genes, picks = predicted.genes(space), settings.picks(device.name, len(front))
    rows = picks or (spread(predicted, evaluate) if evaluate else list(range(len(front))))
    accuracy = predicted.column(judge_name)[1][rows]
    if judge is not None and evaluate:
        accuracy = judge.predict(genes[rows])
        if np.isnan(accuracy).all():
            raise NasError(
                f"None of {len(rows)} networks of the front of {device.name!r} could be evaluated through the "
                "supernet, for the reasons above. With `export.evaluate=0` predictions decide which are exported."
            )
    if picks:
        found, left = with_accuracy(predicted, rows, accuracy), rows
        order = found.column("latency_ms")[1].argsort(kind="stable").tolist()
        chosen = [(row, f"network {left[row] + 1}") for row in order]
    else:
        found, left = judged(predicted, rows, accuracy)
        known = {LATENCY.name, *(metric.name for metric in device.capabilities.metrics)}
        if device.capabilities.estimates and any(c.limit is not None and c.name in known for c in found.columns):
            with _statements(device, space, evaluator) as stated:
                own = functools.cache(lambda row: stated(genes[left[row]]))
                kept = keeping_limits(found, settings.networks, own)
            if len(kept) < len(found):
                log.info(
                    "%s: %d of %d networks of the front break a limit by what the device states of them; others are "
                    "exported",
                    *(device.name, len(found) - len(kept), len(found)),
                )
            found, left = found.rows(np.array(kept)), [left[row] for row in kept]
        chosen = choose(found, settings.networks)
    networks = []
    for row, name in each(chosen, f"export {device.name}", "network"):
        slug = name.replace(" ", "_")
        architecture = Architecture(space, genes[left[row]])
        if evaluator is None:
            parity = export_untrained(architecture, folder / slug, device)
        else:
            parity = export_network(architecture, evaluator, folder / slug, device)
        networks.append(
            Exported(
                label=name,
                folder=slug,
                row=left[row] + 1,
                predicted=Predicted.of(predicted.known(left[row]), judge_name),
                evaluated_accuracy=found.known(row)[judge_name] if evaluate else None,
                parity=parity,
            )
        )
    about = Exports(
        device=device.name,
        objectives=predicted.columns,
        recalibration_images=0 if evaluator is None else evaluator.recalibration_images,
        front=Evaluated(networks=len(front), evaluated=len(rows) if evaluate else 0, left=len(left)),
        picked=bool(picks),
        networks=networks,
    )
    about.write(folder / "networks.json")


@checked_arguments
def export(
    architecture: Architecture,
    folder: str | Path,
    weights: Supernet | str | Path | None = None,
    *,
    data: Data | str | Path | None = None,
    device: DeviceProfile | str | Path | None = None,
    recalibration_images: int = 512,
) -> dict[str, float]:
    """Write a network as ONNX with how images become its input and what it is.

    Args:
        architecture: of a space, such as a published one: ``nas.space("mnasnet").member("mnasnet_a1")``.
        folder: takes ``network.onnx``, ``preprocessing.json``, ``architecture.json`` and what the device takes.
        weights: a supernet, its file or the run folder that it is in; ``random`` for a file to take times of.
        data: that the supernet was trained on, where it is not known by itself.
        device: that the file is for, its batch and number format.
        recalibration_images: training images that BatchNorm statistics are taken from.

    Returns:
        Largest differences of outputs: ``extracted``, from the supernet, and ``onnx``, from the file.

    Raises:
        InvalidValueError: no weights, or no images, are given.
    """
    from nas.supernet import SupernetAccuracy

    target = load_device(device) if isinstance(device, str | Path) else device
    if weights is None:
        raise InvalidValueError(
            "A network is exported with the weights of a supernet: give `weights`, a supernet, its file or a run "
            'folder; or `weights="random"` for a file to take times of.'
        )
    if weights == "random":
        return export_untrained(architecture, Path(folder), target)
    given = None if data is None else images_of(data)
    supernet = supernet_of(architecture.space, weights, given)
    images = given or supernet.data
    if images is None:
        raise InvalidValueError(
            "BatchNorm statistics of the network are taken on training images: give `data`, the images that the "
            "supernet was trained on."
        )
    evaluator = SupernetAccuracy(
        architecture.space, supernet, images, recalibration_images=recalibration_images, threads=1
    )
    return export_network(architecture, evaluator, Path(folder), target)


def export_network(
    architecture: Architecture, evaluator: SupernetAccuracy, folder: Path, device: DeviceProfile | None = None
) -> dict[str, float]:
    """Write ``network.onnx``, ``architecture.json``, ``preprocessing.json``, and what the device takes besides.

    The files take the batch that the device is measured with. For an int8 device there is the quantised network, with
    the activation ranges of its calibration images in ``ranges.json``.

    BatchNorm statistics are taken anew for the network and folded into its weights.

    Returns:
        Largest absolute differences of outputs: ``extracted``, the supernet against the extracted network; ``onnx``,
        the network to deploy against the written file in ONNX Runtime.

    Raises:
        NasError: a difference is too large: the file would not be the network that was searched.
    """
    supernet, batch = evaluator.supernet.eval(), 1 if device is None else device.batch
    network = evaluator.deployed(architecture)
    layers = architecture.space.lower(architecture)
    model = Model(layers, folded_weights(network))
    content = onnx_model(model, batch).SerializeToString()

    images = torch.randn(
        (-(-PARITY_IMAGES // batch) * batch, *model.input_shape), generator=torch.Generator().manual_seed(0)
    )  # (B, C, H, W)
    with torch_threads(evaluator.threads), torch.no_grad():
        trained = _named(model, supernet(images, architecture))
        extracted = _named(model, supernet.extract(architecture)(images))
        deployed = {name: one.numpy() for name, one in _named(model, network(images)).items()}
    session = cpu_session(content)
    parts = np.split(images.numpy(), len(images) // batch)
    runs = [model.network.named_outputs(model.run_onnx(session, part)) for part in parts]
    written = {name: np.concatenate([run[name] for run in runs]) for name in deployed}
    parity = {
        "extracted": max(float((one - extracted[name]).abs().max()) for name, one in trained.items()),
        "onnx": max(
            float(np.abs(written[name] - one).max() / max(1.0, float(np.abs(one).max())))
            for name, one in deployed.items()
        ),
    }
    for name, tolerance in (("extracted", SUPERNET_TOLERANCE), ("onnx", ONNX_TOLERANCE)):
        if not parity[name] <= tolerance:
            raise NasError(
                f"Parity check {name!r} of {architecture.values} failed: outputs differ by {parity[name]:.2g}, "
                f"more than {tolerance:g}. Nothing was exported; please report this network."
            )
    if device is not None and device.dtype == "int8":
        from hardware_profiles.quantisation import activation_ranges

        ranges = activation_ranges(model, evaluator.calibration_images(architecture).numpy())
        write_json(folder / "ranges.json", ranges)
        model = dataclasses.replace(model, ranges=ranges)
    files = {"network.onnx": content, **_of_device(device, model)}
    how = preprocessing(evaluator.data, model, batch)
    if any(name.endswith(".tflite") for name in files):
        how["tflite"] = "input NHWC, int8: divide by the scale and add the zero point that the file states for it"
    for name, file in files.items():
        write_bytes(folder / name, _described(file, how) if name.endswith(".onnx") else file)
    write_json(folder / "architecture.json", origin_of(architecture).to_json())
    write_json(folder / "preprocessing.json", how)
    return parity


def _named(model: Model, outputs: Any) -> Mapping[str, Any]:
    """Outputs of a network by name."""
    return cast(Mapping[str, Any], model.network.named_outputs(outputs))


def export_untrained(architecture: Architecture, folder: Path, device: DeviceProfile | None) -> dict[str, float]:
    """Write a network with random weights, to take times of; nothing says how images become its input.

    Returns:
        No differences: there is nothing to compare with.
    """
    model = Model(architecture.space.lower(architecture))
    content = onnx_model(model, 1 if device is None else device.batch).SerializeToString()
    for name, file in {"network.onnx": content, **_of_device(device, model)}.items():
        write_bytes(folder / name, _described(file, {"steps": ["random weights"]}) if name.endswith(".onnx") else file)
    write_json(folder / "architecture.json", architecture.to_json())
    return {}


def _of_device(device: DeviceProfile | None, model: Model) -> dict[str, bytes]:
    """Files that a device takes beside the ONNX file, by name."""
    if device is None:
        return {}
    deployable = getattr(backend_module(device.backend, f"Device {device.name!r}"), "deployable", None)
    return {} if deployable is None else dict(deployable(device, model))


def preprocessing(data: Data, model: Model, batch: int) -> dict[str, Any]:
    """Description of how raw images become the input of an exported network, and of its output; JSON-able."""
    ((name, (channels, height, width)),) = model.network.inputs.items()
    how = data.preparation
    raw = "raw pixels (0: black) " if how is None else ""
    return {
        "steps": [
            *(() if how is None else how.steps),
            *([f"divide {raw}by {data.scale:g}"] if how is None or data.scale != 1 else []),
            f"subtract mean and divide by std, per channel, in the order of the training {data.kind}s' channels",
            f"resize to {height} x {width}: bilinear, antialiased where it shrinks",
        ],
        **({} if how is None else {"preparation": how.to_json()}),
        "divide_by": data.scale,
        "mean": list(data.mean),
        "std": list(data.std),
        "height": height,
        "width": width,
        "input": {
            "name": next(iter(model.network.inputs)),
            "dtype": "float32",
            "layout": "NCHW",
            "shape": [batch, channels, height, width],
        },
        **data.task.output({name: (batch, *shape) for name, shape in model.network.output_shapes.items()}),
        "data": data.name,
    }


def _described(content: bytes, how: Mapping[str, Any]) -> bytes:
    """An ONNX file that says itself how images become its input."""
    proto = onnx.load_model_from_string(content)
    proto.doc_string = "; ".join(how["steps"])
    onnx.helper.set_model_props(proto, {"preprocessing": json.dumps(how)})
    return bytes(proto.SerializeToString())

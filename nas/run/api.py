"""What a user calls from Python: each function takes objects or their names, and does what a stage of a run does.

Folders are run folders: the command line goes on in them, and they go on in those of the command line.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from hardware_profiles.device import DeviceProfile, load_device
from hardware_profiles.latency_table import LatencyTable
from nas.run.fitting import (
    FEWEST,
    fit_accuracy,
    fit_latency,
    fit_pairs,
    predictor_maker,
)
from nas.run.judged import JudgedPredictor, genes_of
from nas.run.labelling import conditions_of, evaluated, train_supernet
from nas.run.network_log import NetworkLog
from nas.run.networks import distinct_networks
from nas.run.profiling import measure
from nas.run.run_folder import claim_folder, generator
from nas.run.settings import CONF, LabelSettings, ProfileSettings
from predictors import Regression, save
from predictors.regression import Regressor
from search_spaces.architecture import Architecture, Genes
from search_spaces.base.building import build, named
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.folders import locked_folder
from search_spaces.base.threads import one_blas_thread
from search_spaces.loading import load_space
from search_spaces.metric import ACCURACY, LATENCY, Direction, Metric
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from nas.data import ImageData
    from nas.supernet import Supernet, SupernetAccuracy

say = functools.partial(print, file=sys.stderr, flush=True)
"""Tells a person what takes long, beside the progress bars."""

# -- things by name ----------------------------------------------------------------------------------------------------


def space(name: str | Path, /, **changes: Any) -> SearchSpace:
    """The search space of a name, of a YAML file or of a dotted path.

    Args:
        name: such as ``ofa_mobilenet_v3``, ``mine.yaml`` or ``mymodule.MySpace``.
        changes: settings in place of those of the YAML.

    >>> nas.space("mobilenet_v3_digits", resolutions=[12]).size
    17173512
    """
    return load_space(name, **changes)


def device(name: str | Path, /, **changes: Any) -> DeviceProfile:
    """The profile of a device by name, or by the path of a YAML file; `nas devices` lists the names.

    >>> nas.device("host_ort", batch=4).title
    'This computer, ONNX Runtime, 1 thread'
    """
    return load_device(name, **changes)


def dataset(name: str | Path, /, **changes: Any) -> ImageData:
    """Labelled images by name, by a YAML file, or by the dotted path of a function that gives them.

    >>> len(nas.dataset("digits", fractions=[0.6, 0.2, 0.2]).train)
    1078
    """
    from nas.data import ImageData

    data: ImageData = build(str(name), named("data", name, CONF / "data", changes), ImageData)
    return data


def _space(given: SearchSpace | str | Path) -> SearchSpace:
    return given if isinstance(given, SearchSpace) else load_space(given)


def _device(given: DeviceProfile | str | Path) -> DeviceProfile:
    return given if isinstance(given, DeviceProfile) else load_device(given)


def _data(given: ImageData | str | Path) -> ImageData:
    return dataset(given) if isinstance(given, str | Path) else given


def _settings(group: str, kind: type, given: Mapping[str, Any]) -> Any:
    """Settings of a group, their names and types checked."""
    return build(group, {"_target_": f"{kind.__module__}.{kind.__qualname__}", **given}, kind)


@contextlib.contextmanager
def _working(folder: Path, space: SearchSpace, call: str, seed: int, *, shared: bool = False) -> Iterator[None]:
    """Work in a run folder, which is noted to be of a space.

    Raises:
        FolderInUseError: another process works there.
        MismatchError: it is of another space.
    """
    with locked_folder(folder, f"nas.{call}", shared=shared), one_blas_thread():
        claim_folder(folder, space, f"nas.{call}", seed)
        yield


# -- measuring, training, labelling ------------------------------------------------------------------------------------


def profile(
    space: SearchSpace | str | Path,
    device: DeviceProfile | str | Path,
    *,
    out: str | Path,
    budget: str | float | None = None,
    seed: int = 0,
    predictor: str | Path | Any = "lookup",
    **settings: Any,
) -> JudgedPredictor:
    """Measure a space on a device, and fit the predictor of its latency; as `nas profile` and `nas fit` do.

    Args:
        space: an object or a name.
        device: an object or a name.
        out: a run folder, which takes the measurements; those that it has are not made again.
        budget: time to measure, such as ``2min``; None: as long as it takes.
        seed: of what is drawn.
        predictor: of `latency` on the command line, such as ``lookup``; or what `fit` takes.
        settings: of `profile` on the command line, such as ``networks=20`` or ``method="isolated"``.

    Returns:
        The predictor, with its quality on networks that no fit has seen.
    """
    space, device, folder = _space(space), _device(device), Path(out)
    asked = _settings("profile", ProfileSettings, {"budget": budget, **settings})
    make = _maker("latency", predictor, LATENCY)
    with _working(folder, space, f"profile(out={str(out)!r})", seed, shared=True):
        there = folder / "profile" / device.name
        measure(space, device, asked, there, seed, say)
        table, networks = LatencyTable.read(there / "table.jsonl"), NetworkLog.read(there / "networks.jsonl", space)
        fitted, found = fit_latency(space, table, networks, make, seed)
        save(fitted, space, folder / "fit" / f"{device.name}_latency.npz")
    return JudgedPredictor.of(fitted, space, LATENCY, found, device)


def train(
    space: SearchSpace | str | Path, data: ImageData | str | Path, *, out: str | Path, seed: int = 0, **training: Any
) -> Supernet:
    """Train the supernet of a space, or go on where that was stopped; as `nas train` does.

    Args:
        space: an object or a name.
        data: images to train on, an object or a name.
        out: a run folder, which takes the weights.
        seed: of weights and draws.
        training: of `training` on the command line, such as ``epochs=40``.
    """
    from nas.supernet import TrainingSettings

    space, data, folder = _space(space), _data(data), Path(out)
    node = named("training", "sandwich", CONF / "training", {"seed": seed, **training})
    settings: TrainingSettings = build("training", node, TrainingSettings)
    with _working(folder, space, f"train(out={str(out)!r})", seed):
        return train_supernet(space, data, settings, folder / "train")


def accuracy(
    space: SearchSpace | str | Path,
    supernet: Supernet | str | Path,
    data: ImageData | str | Path,
    *,
    out: str | Path,
    seed: int = 0,
    predictor: str | Path | Any = "ensemble",
    **label: Any,
) -> JudgedPredictor:
    """Evaluate networks through a supernet, and fit a predictor of their accuracy; as `nas label` and `nas fit` do.

    Args:
        space: an object or a name.
        supernet: an object, its file or the run folder that it is in.
        data: what it was trained on, an object or a name.
        out: a run folder, which takes the accuracies; those that it has are not made again.
        seed: of what is drawn.
        predictor: of `accuracy` on the command line, such as ``ensemble``; or what `fit` takes.
        label: of `label` on the command line, such as ``subnets=320`` and ``held_out=64``.

    Returns:
        The predictor, with its quality on networks that it was not fitted to.
    """
    space, data, folder = _space(space), _data(data), Path(out)
    settings = _settings("label", LabelSettings, label)
    make = _maker("accuracy", predictor, ACCURACY)
    with _working(folder, space, f"accuracy(out={str(out)!r})", seed):
        weights = _supernet(space, supernet)
        wanted = distinct_networks(space, settings.subnets, generator(seed, "label"))
        conditions = conditions_of(space, weights.digest, data, settings.recalibration_images)

        def evaluator() -> SupernetAccuracy:
            from nas.supernet import SupernetAccuracy

            images = settings.recalibration_images
            return SupernetAccuracy(space, weights, data, recalibration_images=images, threads=1)

        values = evaluated(space, wanted, evaluator, folder / "label" / "accuracy.jsonl", conditions)
        genes = np.stack([architecture.genes for architecture in wanted])
        fitted, found = fit_accuracy(space, genes, values, make, settings, seed)
        save(fitted, space, folder / "fit" / "accuracy.npz")
    return JudgedPredictor.of(fitted, space, ACCURACY, found)


def _supernet(space: SearchSpace, given: Supernet | str | Path) -> Supernet:
    """A supernet, read where a file or a run folder is given."""
    from nas.supernet import Supernet

    if isinstance(given, Supernet):
        return given
    path = Path(given)
    return Supernet.load(space, path / "train" / "supernet.pt" if path.is_dir() else path)


# -- fitting -----------------------------------------------------------------------------------------------------------


def fit(
    space: SearchSpace | str | Path,
    networks: Genes | Sequence[Architecture],
    values: ArrayLike,
    *,
    metric: str,
    unit: str,
    direction: Direction = "min",
    predictor: str | Path | Any = "ridge",
    held_out: int | None = None,
    seed: int = 0,
) -> JudgedPredictor:
    """Fit a predictor to pairs of one's own.

    Args:
        space: an object or a name.
        networks: canonical genes (n, choices), or architectures.
        values: of each network, (n,).
        metric: that is predicted, such as ``energy_mj``.
        unit: of the values, such as ``mJ``.
        direction: whether less or more of it is better.
        predictor: a name of `latency` on the command line (``ridge``, ``kriging``, ``gradient_boosting``, ``mlp``,
            ``ensemble``), a regressor such as ``predictors.Ridge()``, or a function that makes a predictor of the space
            and a seed.
        held_out: the last networks, which a second predictor is judged by; None: a fifth.
        seed: of the fit.

    Returns:
        The predictor, fitted to all pairs, with the quality of its like on the networks held out.
    """
    space = _space(space)
    genes, numbers = genes_of(space, networks), np.asarray(values, np.float64)
    what = Metric(metric, unit, direction)
    if numbers.shape != (len(genes),):
        raise InvalidValueError(f"There must be a value per network, but got {numbers.shape} for {len(genes)}.")
    kept = max(2, len(genes) // 5) if held_out is None else held_out
    if not 2 <= kept <= len(genes) - FEWEST:
        raise InvalidValueError(
            f"`held_out` must be 2 or more and leave {FEWEST} networks to fit to, but got {kept} of {len(genes)}."
        )
    make = _maker("latency", predictor, what, scale="log" if (numbers > 0).all() else "linear")
    with one_blas_thread():
        maximise = direction == "max"
        fitted, found = fit_pairs(space, genes, numbers, make, held_out=kept, seed=seed, maximise=maximise)
    return JudgedPredictor.of(fitted, space, what, found)


def _maker(group: str, given: Any, metric: Metric, scale: str | None = None) -> Any:
    """What makes a predictor, given the space and a seed.

    Args:
        group: of the configuration, for names.
        given: a name, the path of a YAML, a regressor, or what makes one already.
        metric: that is predicted.
        scale: of its values; None: that of the named one.
    """
    if isinstance(given, str | Path):
        node = named(f"{group} predictor", given, CONF / group, {})
        if scale is not None:
            if "scale" not in node:
                raise InvalidValueError(f"Predictor {given!r} is of layers, which `nas.profile` measures. Use ridge.")
            node |= {"metric": metric.name, "unit": metric.unit, "scale": scale}
        return predictor_maker(group, node)
    if isinstance(given, type) or not hasattr(given, "fit"):
        if not callable(given):
            raise InvalidValueError(f"A predictor is a name, a regressor or what makes one, but got {given!r}.")
        return given
    regressor: Regressor = given
    kind: Any = scale or ("log_error" if metric == ACCURACY else "log")
    return lambda space, seed: Regression(space, regressor, metric=metric.name, unit=metric.unit, scale=kind, seed=seed)

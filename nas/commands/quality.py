"""The command ``nas quality``: a saved predictor judged by networks that its fit has not seen."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hardware_profiles.measure import Measurement
from nas import __version__
from nas.report import figures
from nas.report.page import embedded, percent, regret, scatter_panel, template
from nas.run.network_log import NetworkLog
from nas.run.records import HeldOut, read_about
from predictors import Predictor, Quality, quality
from predictors.assessment import Calibration, calibration
from predictors.assessment import regret as regret_of
from predictors.base import Uncertain, metric_of
from predictors.saving import saved_predictor
from search_spaces.architecture import Architecture, Genes
from search_spaces.base.errors import DamagedFileError, InvalidValueError, MismatchError, NasError, StorageError
from search_spaces.base.storage import (
    loads,
    read_arrays,
    read_bytes,
    read_records,
    write_bytes,
    write_json,
    write_text,
)
from search_spaces.base.values import decimal, whole_number
from search_spaces.loading import known_spaces, load_space
from search_spaces.metric import LATENCY
from search_spaces.space import SearchSpace

Floats = NDArray[np.float64]

FEWEST = 5
"""A rank correlation of fewer networks says nothing."""
TRIES = (1, 5, 10)
"""Number of the networks predicted best that are tried, for the regret."""
SETTINGS = ("predictor", "truth", "space", "out", "roles")
USAGE = f"""nas quality predictor=FILE.npz truth=FILE [space=NAME] [out=FOLDER] [roles=fit]
                             how good a saved predictor is on measured networks

truth is a run's profile/<device>/networks.jsonl, its label/accuracy.jsonl, or a CSV or JSON lines of your own with one
network per row: `architecture` (as in these files), `genes` (numbers), or a column per choice; and its value as `value`
or by the metric's name. A network that stands there twice was measured twice, which gives the noise floor.

Of networks.jsonl those are used that judge, which `nas fit` does not fit on; roles=fit takes those that it fits on.
space= is a name of `nas run --help` or the path of a YAML; without it, the shipped space that the predictor is of.
Written to FOLDER/quality/<predictor> (without out=, beside the predictor): quality.json, quality.html and figures. At
least {FEWEST} networks are needed.
"""


@dataclass(frozen=True)
class Truth:
    """Networks that were measured.

    Args:
        genes: canonical, distinct, shape (n, choices).
        values: shape (n,), the mean of what was measured.
        twice: of the networks that were measured more than once, the first and the last value, shape (2, m).
        conditions: under which they were measured, as the file says.
        role: of the networks in their file, where it has roles.
    """

    genes: Genes
    values: Floats
    twice: Floats
    conditions: Mapping[str, Any] = field(default_factory=dict)
    role: str = ""

    def without(self, rows: NDArray[np.bool_]) -> Truth:
        """Remove the networks of a mask, shape (n,)."""
        return Truth(self.genes[~rows], self.values[~rows], self.twice, self.conditions, self.role)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of values with true ones; ``regret`` by how many of those predicted best are tried."""

    networks: int
    metrics: Quality
    regret: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Judged(Agreement):
    """Quality of a predictor.

    Args:
        noise_floor: of the second measurement with the first; None: few networks were measured twice.
        calibration: of the errors that it states; None: it states none.
        extrapolated: networks unlike those that it was fitted on.
        held_out: the values themselves.
        measured_twice: the first and the last values of networks that were measured more than once.
    """

    noise_floor: Agreement | None
    calibration: Calibration | None
    extrapolated: int | None
    held_out: HeldOut
    measured_twice: Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Account(Judged):
    """quality/<predictor>/quality.json: how good a predictor is, and how that was found out."""

    command: str
    predictor: str
    kind: str
    metric: str
    unit: str
    space: str
    fingerprint: str
    truth: str
    role: str
    unseen: bool
    left_out: int
    conditions: Mapping[str, Any]
    versions: Mapping[str, str]
    created: str
    warnings: Sequence[str]


def command(arguments: list[str]) -> str:
    """Run ``nas quality`` and give what it prints.

    Raises:
        NasError: wrong arguments, a file that is missing or damaged, another space, or too few networks.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        return USAGE.rstrip()
    settings = dict(argument.partition("=")[::2] for argument in arguments)
    for name in settings:
        if name not in SETTINGS:
            raise InvalidValueError(f"`nas quality` has no setting {name!r}; it has {', '.join(SETTINGS)}.")
    paths = {}
    for name in ("predictor", "truth"):
        if not settings.get(name):
            raise InvalidValueError(f"`nas quality` needs `{name}=` and a file; `nas quality --help` explains.")
        paths[name] = Path(settings[name])
        if not paths[name].is_file():
            raise StorageError(f"There is no file {paths[name]}, which `{name}=` names.")
    if settings.get("roles", "check") not in ("check", "fit"):
        raise InvalidValueError(f"`roles` is check or fit, but got {settings['roles']!r}.")
    seen_too = settings.get("roles") == "fit"

    space = _space(settings.get("space"), paths["predictor"])
    predictor = saved_predictor(space, file=paths["predictor"])
    parent = Path(settings["out"]) if "out" in settings else paths["predictor"].parent
    _check_folder(parent, space)
    truth = read_truth(paths["truth"], space, predictor, "fit" if seen_too else "check")
    left_out, warnings = 0, []
    if seen_too:
        warnings.append("The fit may have seen these networks, so the errors on others are larger.")
    elif hasattr(predictor, "fitted_on"):
        seen = predictor.fitted_on(truth.genes)
        left_out = int(seen.sum())
        truth = truth.without(seen)
    elif not truth.role:
        warnings.append("Whether the fit has seen some of these networks cannot be told from the predictor’s file.")
    if len(truth.genes) < FEWEST:
        seen_text = f" besides {left_out} that the predictor was fitted on" if left_out else ""
        hint = " `roles=fit` judges by those that it was fitted on." if left_out or truth.role == "check" else ""
        raise InvalidValueError(
            f"{paths['truth']} holds {len(truth.genes)} networks{seen_text}, and {FEWEST} are needed.{hint}"
        )

    about = Account(
        command=" ".join(["nas quality", *arguments]),
        predictor=str(paths["predictor"]),
        kind=type(predictor).__name__,
        metric=predictor.metric,
        unit=predictor.unit,
        space=space.name,
        fingerprint=space.fingerprint,
        truth=str(paths["truth"]),
        role=truth.role,
        unseen=not warnings,
        left_out=left_out,
        conditions=truth.conditions,
        versions={"hwnas": __version__, "numpy": np.__version__},
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        warnings=warnings,
        **vars(judge(predictor, truth)),
    )
    out = parent / "quality" / paths["predictor"].stem
    _write(about, out)
    return f"{_summary(about)}\nwrote {out / 'quality.html'}"


def judge(predictor: Predictor, truth: Truth) -> Judged:
    """Metrics, regrets, noise floor, calibration and the values themselves.

    Raises:
        InvalidValueError: the predictor gives a value that is not finite.
    """
    predicted, std, extrapolated = predictor.predict(truth.genes), None, None
    if isinstance(predictor, Uncertain):
        predicted, std = predictor.predict_with_std(truth.genes)
        extrapolated = int(predictor.extrapolates(truth.genes).sum())
    wrong = ~np.isfinite(predicted)
    if wrong.any():
        raise InvalidValueError(
            f"The predictor gives {predicted[wrong][0]} for {wrong.sum()} of {len(wrong)} networks that were measured; "
            "inf is that of a layer that failed on its device. Is the truth of the same device?"
        )
    maximise = metric_of(predictor).direction == "max"

    def agreement(true: Floats, other: Floats) -> Agreement:
        return Agreement(
            networks=len(true),
            metrics=quality(true, other, maximise=maximise),
            regret={str(k): regret_of(true, other, k, maximise=maximise) for k in TRIES},
        )

    return Judged(
        **vars(agreement(truth.values, predicted)),
        noise_floor=agreement(*truth.twice) if truth.twice.shape[1] >= 2 else None,
        calibration=None if std is None else calibration(truth.values, predicted, std),
        extrapolated=extrapolated,
        held_out=HeldOut(
            truth=truth.values.tolist(), predicted=predicted.tolist(), std=None if std is None else std.tolist()
        ),
        measured_twice=truth.twice.tolist(),
    )


# -- reading -----------------------------------------------------------------------------------------------------------


def _space(given: str | None, predictor: Path) -> SearchSpace:
    """The space that was given, by name or YAML file, or the shipped one that the predictor is of."""
    if given:
        return load_space(given)
    wanted = str(read_arrays(predictor).get("space", ""))
    for space in map(load_space, known_spaces()):
        if space.fingerprint == wanted:
            return space
    raise MismatchError(
        f"{predictor} is of none of the shipped spaces (its space is {wanted or 'not named'}). Write the space's "
        "settings into a YAML file and give it with `space=<path>`."
    )


def _check_folder(folder: Path, space: SearchSpace) -> None:
    if (there := read_about(folder)) and there.fingerprint != space.fingerprint:
        raise MismatchError(
            f"{folder} holds a run of space {there.space!r} ({there.fingerprint}), but the predictor is "
            f"of {space.name!r} ({space.fingerprint}). Choose another folder with `out=`."
        )


def read_truth(path: Path, space: SearchSpace, predictor: Predictor, role: str) -> Truth:
    """Networks that were measured: of a run's networks.jsonl or accuracy.jsonl, a CSV, or JSON lines.

    Args:
        path: of the file.
        space: of the networks.
        predictor: whose metric was measured.
        role: of the networks in networks.jsonl: check (with those measured again at the end) or fit.

    Raises:
        MismatchError: the networks are of another space, or were not measured to the end.
        InvalidValueError: a row names no network or no value, or the value is no finite number other than 0.
        DamagedFileError: it is none of these files.
    """
    if path.suffix == ".csv":
        try:
            text = read_bytes(path).decode("utf-8-sig")
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
        except (UnicodeDecodeError, csv.Error) as error:
            raise DamagedFileError(f"{path} cannot be read as CSV: {error}.") from error
        return _of_rows(path, space, predictor, rows, {})
    lines = read_bytes(path).splitlines()
    if not lines or b'"conditions"' not in lines[0]:
        return _of_rows(path, space, predictor, _json_rows(path, lines), {})
    conditions, records = read_records(path)
    if conditions.get("space", space.fingerprint) != space.fingerprint:
        raise MismatchError(
            f"The networks of {path} are of space {conditions['space']}, but the predictor is of {space.name!r} "
            f"({space.fingerprint})."
        )
    if not any("role" in record for record in records):
        return _of_rows(path, space, predictor, records, conditions)
    networks = NetworkLog.read(path, space)
    kinds = ("fit",) if role == "fit" else ("check", "check again")
    chosen = list(networks.rows("fit")) if role == "fit" else networks.judged()[0]
    what, by_kind = (predictor.metric, predictor.unit), [networks.rows(kind) for kind in kinds]
    names = [metric.name for metric in (LATENCY, *networks.metrics) if (metric.title, metric.unit) == what]
    name = names[0] if names else "_".join(what)
    measured = np.array([[_known(row[a]).get(name, np.nan) for a in chosen] for row in by_kind]).reshape(
        len(by_kind), -1
    )
    if np.isnan(measured).any():
        raise InvalidValueError(f"{path} does not say `{name}` of its networks, which the predictor is of.")
    genes = np.array([a.genes for a in chosen], np.int16).reshape(len(chosen), len(space.choices))
    twice = measured if len(kinds) == 2 else np.zeros((2, 0))
    return Truth(genes, measured.mean(0), twice, conditions, role)


def _known(measurement: Measurement) -> Mapping[str, float]:
    return {**measurement.values, LATENCY.name: measurement.latency_ms}


def _json_rows(path: Path, lines: Iterable[bytes]) -> Iterable[Mapping[str, Any]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = loads(line)
            except ValueError as error:
                raise DamagedFileError(
                    f"{path}, line {number}, is not JSON ({error}). It must be JSON lines, or a CSV named *.csv."
                ) from error
            if not isinstance(row, dict):
                raise DamagedFileError(f"{path}, line {number}, must be a mapping, but is {str(row)[:40]}.")
            yield row


def _of_rows(
    path: Path,
    space: SearchSpace,
    predictor: Predictor,
    rows: Iterable[Mapping[str, Any]],
    conditions: Mapping[str, Any],
) -> Truth:
    found: dict[bytes, tuple[Genes, list[float]]] = {}
    for number, row in enumerate(rows, 1):
        try:
            genes, value = _genes(row, space), _value(row, predictor)
        except NasError as error:
            kind = MismatchError if isinstance(error, MismatchError) else InvalidValueError
            raise kind(f"{path}, network {number}: {error}") from error
        found.setdefault(genes.tobytes(), (genes, []))[1].append(value)
    pairs = [pair for pair in found.values()]
    values = [measured for _, measured in pairs]
    twice = np.array([(measured[0], measured[-1]) for measured in values if len(measured) > 1]).reshape(-1, 2).T
    stacked = np.array([genes for genes, _ in pairs], np.int16).reshape(len(pairs), len(space.choices))
    return Truth(stacked, np.array([np.mean(measured) for measured in values]), twice, conditions)


def _genes(row: Mapping[str, Any], space: SearchSpace) -> Genes:
    if row.get("architecture"):
        return Architecture.from_json(space, row["architecture"]).genes
    if row.get("genes"):
        numbers = row["genes"]
        if isinstance(numbers, str):
            numbers = numbers.strip("[] ").replace(",", " ").split()
        try:
            return Architecture(space, np.array([_gene(number) for number in numbers], np.int16)).genes
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, NasError):
                raise
            raise InvalidValueError(f"`genes` are whole numbers, but got {row['genes']!r}.") from error
    named = {choice.name: row[choice.name] for choice in space.choices if row.get(choice.name) not in (None, "")}
    if not named:
        raise InvalidValueError(
            f"it names no network: give `architecture`, `genes` or the choices of {space.name!r} "
            f"({', '.join(choice.name for choice in space.choices[:3])}...)."
        )
    texts = {choice.name: {str(value): value for value in choice.values} for choice in space.choices}
    values = {name: texts[name].get(str(value), value) for name, value in named.items()}
    return Architecture(space, space.genes_of(values)).genes


def _gene(number: Any) -> int:
    found = whole_number(number) if isinstance(number, str) else int(number)
    if found is None:
        raise ValueError(f"{number!r} is no gene")
    return found


def _value(row: Mapping[str, Any], predictor: Predictor) -> float:
    names = ("value", predictor.metric, f"{predictor.metric}_{predictor.unit}")
    given = next((row[name] for name in names if row.get(name) not in (None, "")), None)
    if given is None:
        raise InvalidValueError(f"it has no value; name it {', '.join(names[:-1])} or {names[-1]}.")
    try:
        value = decimal(given) if isinstance(given, str) else float(given)
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value) or value == 0:
        raise InvalidValueError(f"its value must be a finite number other than 0, but is {given!r}.")
    return value


# -- writing -----------------------------------------------------------------------------------------------------------


def _write(about: Account, out: Path) -> None:
    held_out, twice = about.held_out, about.measured_twice
    panel = scatter_panel("Predicted", about.unit, held_out.truth, held_out.predicted)
    panels = [panel._replace(std=held_out.std or ())]
    if about.noise_floor:
        again = scatter_panel("Measured twice", about.unit, *twice)
        panels.append(again._replace(unit=panel.unit, axes=("First", "Again")))
    drawn = {"scatter": figures.scatter(panels)}
    if about.calibration:
        levels, n = np.array(about.calibration.levels), about.networks
        uncertainty = figures.Uncertainty(
            levels=about.calibration.levels,
            observed=about.calibration.observed,
            low=np.asarray(stats.binom.ppf(0.025, n, levels) / n).tolist(),
            high=np.asarray(stats.binom.ppf(0.975, n, levels) / n).tolist(),
            unit=panel.unit,
            std=held_out.std or (),
            errors=(np.array(held_out.predicted) - held_out.truth).tolist(),
        )
        drawn["calibration"] = figures.calibration(uncertainty)
    images = {name: figures.png(figure) for name, figure in drawn.items()}
    for name, image in images.items():
        write_bytes(out / f"{name}.png", image)
    write_json(out / "quality.json", about)
    page = template("quality.html").render(
        about=about,
        device=about.conditions.get("device"),
        conditions=list(_flat(about.conditions)),
        images={name: embedded(image) for name, image in images.items()},
    )
    write_text(out / "quality.html", page)


def _flat(conditions: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in conditions.items():
        if isinstance(value, dict):
            yield from value.items()
        elif name != "space":
            yield name, value


def _summary(about: Account) -> str:
    floor = about.noise_floor
    columns = [("predictor", about)] + ([("noise floor", floor)] if floor else [])
    rows = [
        ("mean error", [percent(c.metrics.mape) for _, c in columns]),
        ("within 5 %", [percent(c.metrics.within_5) for _, c in columns]),
        ("within 10 %", [percent(c.metrics.within_10) for _, c in columns]),
        ("Kendall tau", [f"{c.metrics.kendall_tau:.3f}" for _, c in columns]),
        ("Spearman", [f"{c.metrics.spearman:.3f}" for _, c in columns]),
        *((f"top-{k} regret", [regret(c.regret[str(k)], about.unit) for _, c in columns]) for k in TRIES),
    ]
    left_out = f", {about.left_out} left out that its fit has seen" if about.left_out else ""
    lines = [
        f"{about.metric} of {about.networks} networks by {about.kind}{left_out}",
        f"{'':14}" + "".join(f"{name:>14}" for name, _ in columns),
        *(f"{name:14}" + "".join(f"{value:>14}" for value in values) for name, values in rows),
    ]
    if about.calibration:
        found = about.calibration
        lines.append(
            f"uncertainty: expected calibration error {percent(found.expected_error)}, "
            f"sharpness {regret(found.sharpness, about.unit)}"
        )
        lines.append(f"{about.extrapolated} networks are flagged as unlike those that it was fitted on")
    return "\n".join([*lines, *about.warnings])

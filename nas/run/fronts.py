"""Fronts that searches have written: read, chosen from, merged, exported and compared.

Nothing is predicted again: all numbers are those of the files, in natural units, under the names that settings have.
"""

from __future__ import annotations

import csv
import html
import importlib
import io
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.device import DeviceProfile
from nas.core import pareto
from nas.run.found import FoundNetwork
from nas.run.records import Column, Point, Search, Searched, judging
from search_spaces.architecture import Architecture, ArchitectureJson, Genes, Value
from search_spaces.base.errors import (
    DamagedFileError,
    InfeasibleError,
    InvalidValueError,
    MismatchError,
    StorageError,
    UnknownNameError,
)
from search_spaces.base.storage import contents_of, write_text
from search_spaces.base.values import checked_arguments
from search_spaces.metric import number_text
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Network = dict[str, Value]
"""Choice -> value, of the choices that matter for the network."""

AGAIN = "Run `nas search` again."
MERGED = "merged"
"""Name of a searcher that a union of fronts has."""
KNEE = "knee"
"""Word for the best compromise, where a network is chosen."""
LEVELS = {"best": 0.0, "median": 0.5, "worst": 1.0}
"""Attainment surfaces -> share of the runs that attain them, at least; 0: one run."""


# -- a front and its file ----------------------------------------------------------------------------------------------


_OLD_COLUMNS = (Column(name="accuracy", unit="1", goal="max"), Column(name="latency_ms", unit="ms", goal="min"))
"""Columns of files that name no objectives; memory_bytes follows where it is known."""


@dataclass(frozen=True, eq=False)
class Front:
    """Feasible networks of which none is better than another in all goals.

    Args:
        source: the file that it is of, for messages.
        device: whose latency it is.
        searcher: who found it.
        space: name of the networks' space.
        fingerprint: of the space.
        columns: what is known of the networks.
        values: in natural units, shape (n, columns), n >= 1; NaN where a value without a goal is not known.
        networks: of length n.
        reference: the value of each goal that bounds the hypervolume, shape (goals,).
        limits: as the user set them, by name; ``Column.limit`` may be stricter by a margin.
        evaluations: that it took.
        seconds: that it took.
        failed: evaluations that gave nothing.
        stopped: why the search ended before its budget; None: it did not.
        history: the hypervolume after a number of evaluations.
        joint: the devices that it is for at once; None: for ``device`` alone.
        made_by: makes the networks; None: the front was read without its space.
        profile: of the device, where it is known.
    """

    source: str
    device: str
    searcher: str
    space: str
    fingerprint: str
    columns: tuple[Column, ...]
    values: Floats
    networks: tuple[Network, ...]
    reference: Floats
    limits: Mapping[str, float | None]
    evaluations: int
    seconds: float
    failed: int = 0
    stopped: str | None = None
    history: Sequence[tuple[int, float]] = ()
    joint: Sequence[str] | None = None
    made_by: SearchSpace | None = None
    profile: DeviceProfile | None = None

    def __len__(self) -> int:
        return len(self.networks)

    @checked_arguments
    def __getitem__(self, row: int) -> FoundNetwork:
        """A network by its row, from 0; -1 is the last."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"The front has networks 0 to {len(self) - 1}, but got {row}.")
        return FoundNetwork(self, row % len(self))

    def __iter__(self) -> Iterator[FoundNetwork]:
        return map(self.__getitem__, range(len(self)))

    @checked_arguments
    def choose(self, best: str | None = None, **limits: Limit) -> FoundNetwork:
        """The best network within limits: ``choose(latency_ms=15)``, ``choose("knee")``; see the function `choose`."""
        return self[choose(self, limits, best)]

    def to_pandas(self) -> Any:
        """A data frame with a row per network: its values, then its choices.

        Raises:
            InvalidValueError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise InvalidValueError(
                "A front as a data frame needs pandas: `pip install pandas`; `to_csv` does without."
            ) from error
        return pandas.DataFrame(table(self))

    @checked_arguments
    def to_csv(self, path: str | Path) -> None:
        """Write a row per network: its values, then its choices."""
        write_text(Path(path), to_csv(self))

    def plot(self, x: str | None = None, y: str | None = None) -> Figure:
        """A figure of one value over another, the knee marked; limits are dashed.

        Args:
            x: a value; None: the second goal.
            y: another value; None: the first goal.

        Raises:
            UnknownNameError: there is no such value.
            InvalidValueError: there is one value alone.
        """
        from matplotlib.figure import Figure

        names = axes_of([column.name for column in sorted(self.columns, key=lambda column: column.goal is None)], x, y)
        if names is None:
            raise InvalidValueError(f"A figure of {self.source} needs two values, but it has {', '.join(self.names)}.")
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        (across, x_values), (up, y_values) = map(self.column, names)
        axes.plot(x_values, y_values, "o")
        axes.plot(x_values[self.knee], y_values[self.knee], "D", label="knee")
        for column, line in ((across, axes.axvline), (up, axes.axhline)):
            axes.set(**{"xlabel" if column is across else "ylabel": f"{column.name} ({column.unit})"})
            if column.limit is not None:
                line(column.limit, linestyle="--", color="grey", label=f"{column.name} {column.sign} {column.limit:g}")
        axes.legend()
        return figure

    def __repr__(self) -> str:
        limits = "".join(f", {c.name} {c.sign} {number_text(c.limit)}" for c in self.columns if c.limit is not None)
        goals = " and ".join(f"{goal.goal} {goal.name}" for goal in self.goals)
        return f"Front({plural(len(self), 'network')} of {self.space}: {goals}{limits}; {self.place}, {self.searcher})"

    def __str__(self) -> str:
        shown = len(shown_rows(self))
        more = "" if shown == len(self) else f"\n{shown} of {len(self)} are shown; `to_csv(path)` writes all."
        numbers = "\nno. 1 is front[0]" + more
        return "\n".join([repr(self), "", *network_lines(self), numbers])

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        rows = table(self)
        head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
        body = "".join("<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row.values()) + "</tr>" for row in rows)
        return f"<p>{html.escape(repr(self))}</p><table><tr>{head}</tr>{body}</table>"

    @staticmethod
    @checked_arguments
    def read(path: str | Path, searcher: str | None = None) -> Front:
        """The front of a searcher, or of the run's own, in ``search/<device>.json``.

        Raises:
            StorageError: the file cannot be read.
            DamagedFileError: it is not JSON, or lacks something that a front has.
            UnknownNameError: it has no such searcher.
        """
        fronts = read_fronts(Path(path))
        name = next(iter(fronts)) if searcher is None else searcher
        if name not in fronts:
            raise UnknownNameError(f"{path} has no front by {name!r}; it has those by {', '.join(fronts)}.")
        return fronts[name]

    @property
    def place(self) -> str:
        """The device, or the devices, that it is for."""
        return self.device if self.joint is None else f"{' and '.join(self.joint)} together"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def units(self) -> tuple[str, ...]:
        """Units of the columns."""
        return tuple(column.unit for column in self.columns)

    @property
    def goals(self) -> tuple[Column, ...]:
        """Columns that are maximised or minimised."""
        return tuple(column for column in self.columns if column.goal)

    @property
    def costs(self) -> Floats:
        """The goals, all to be minimised, shape (n, goals)."""
        return pareto.costs_of(self.values, [column.goal for column in self.columns])

    @property
    def reference_costs(self) -> Floats:
        """The reference point in the sense of `costs`, shape (goals,)."""
        return pareto.costs_of(self.reference[None], [column.goal for column in self.goals]).ravel()

    @property
    def hypervolume(self) -> float:
        """Hypervolume within the reference point, in the product of the goals' units."""
        return pareto.hypervolume(self.costs, self.reference_costs)

    @property
    def knee(self) -> int:
        """Row of the best compromise, see `nas.core.pareto.knee`."""
        return pareto.knee(self.costs)

    def column(self, name: str) -> tuple[Column, Floats]:
        """A column by its name, and its values (n,).

        Raises:
            UnknownNameError: there is none.
        """
        if name not in self.names:
            raise UnknownNameError(f"{self.source} has no value {name!r}; it has {', '.join(self.names)}.")
        index = self.names.index(name)
        return self.columns[index], self.values[:, index]

    def genes(self, space: SearchSpace) -> Genes:
        """The networks as canonical genes, shape (n, choices).

        Raises:
            MismatchError: they are of another space.
            DamagedFileError: one of them is no network.
        """
        with contents_of(Path(self.source), AGAIN):
            return np.stack([Architecture.from_json(space, self.architecture(row)).genes for row in range(len(self))])

    def architecture(self, row: int) -> ArchitectureJson:
        """A network in the form of `Architecture.to_json`."""
        return {"space": self.space, "fingerprint": self.fingerprint, "choices": self.networks[row]}

    def known(self, row: int) -> dict[str, float | None]:
        """Values of a network by name, None for unknown ones."""
        pairs = zip(self.names, self.values[row].tolist(), strict=True)
        return {name: None if math.isnan(value) else value for name, value in pairs}

    def rows(self, kept: NDArray[Any]) -> Front:
        """Front of some of its networks only, given by numbers or as a mask."""
        numbers = np.arange(len(self))[kept]
        return replace(self, values=self.values[numbers], networks=tuple(self.networks[i] for i in numbers))


def read_fronts(path: Path) -> dict[str, Front]:
    """All fronts of a file by their searchers, that of the run's own first; see `Front.read`."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise StorageError(f"{path} {what}: give the file of a front, such as <run folder>/search/<device>.json.")
    found = Search.read(path)
    if not found.searchers:
        raise DamagedFileError(f"{path} holds no searcher. {AGAIN}")
    return {searcher: _front(found, searcher, str(path)) for searcher in found.searchers}


def _front(file: Search, searcher: str, where: str) -> Front:
    found, place = file.searchers[searcher], f"{where}: {searcher}"
    if not found.front:
        raise DamagedFileError(f"{place} holds no network. {AGAIN}")
    architectures = [point.architecture for point in found.front]
    space, fingerprint = (architectures[0][key] for key in ("space", "fingerprint"))
    if any((a["space"], a["fingerprint"]) != (space, fingerprint) for a in architectures):
        raise DamagedFileError(f"{place} holds networks of several spaces. {AGAIN}")
    columns = tuple(file.objectives or ())
    if file.objectives is None:
        columns = tuple(replace(column, limit=file.limits.get(column.name)) for column in _OLD_COLUMNS)
        if any(point.memory_bytes is not None for point in found.front):
            columns += (Column("memory_bytes", "bytes", limit=file.limits.get("memory_bytes")),)
    names, goals = [column.name for column in columns], [column.name for column in columns if column.goal]
    if len(set(names)) < len(names) or not goals:
        raise DamagedFileError(f"{where}: objectives must have distinct names and a goal, but are {names}. {AGAIN}")
    if len(file.reference) != len(goals):
        raise DamagedFileError(
            f"{where}: `reference` must have a number per goal, but has {len(file.reference)}. {AGAIN}"
        )
    known = [vars(point) if point.values is None else point.values for point in found.front]
    for number, values in enumerate(known):
        if lacking := [name for name in goals if values.get(name) is None]:
            raise DamagedFileError(f"{place}: front[{number}] has no {lacking[0]}, which is a goal. {AGAIN}")
    return Front(
        source=where,
        device=file.device,
        searcher=searcher,
        space=space,
        fingerprint=fingerprint,
        columns=columns,
        values=np.array([[values.get(name) for name in names] for values in known], np.float64),  # None becomes NaN
        networks=tuple(architecture["choices"] for architecture in architectures),
        reference=np.array(file.reference),
        limits=file.limits,
        evaluations=found.evaluations,
        seconds=found.seconds,
        failed=found.failed,
        stopped=found.stopped,
        history=found.history,
        joint=file.joint,
    )


def search_of(
    fronts: Sequence[Front],
    without_front: Mapping[str, str] | None = None,
    baselines: Mapping[str, Front] | None = None,
) -> Search:
    """The content of ``search/<device>.json``, which `read_fronts` reads back.

    Args:
        fronts: of one device and one set of columns, that of the run's own searcher first.
        without_front: searchers that have none, and why.
        baselines: networks that the space states as a comparison, with the same columns.
    """
    first = fronts[0]
    return Search(
        device=first.device,
        joint=first.joint,
        limits=first.limits,
        objectives=first.columns,
        reference=first.reference.tolist(),
        searchers={
            front.searcher: Searched(
                front=[_point(front, row) for row in range(len(front))],
                hypervolume=front.hypervolume,
                evaluations=front.evaluations,
                failed=front.failed,
                stopped=front.stopped,
                seconds=front.seconds,
                history=front.history,
            )
            for front in fronts
        },
        without_front=without_front or {},
        baselines={name: [_point(front, i) for i in range(len(front))] for name, front in (baselines or {}).items()},
    )


def _point(front: Front, row: int) -> Point:
    known, judge = front.known(row), judging(front.columns).name
    accuracy, latency, memory = (
        known.get(f"{name}@{front.device}", known.get(name)) for name in (judge, "latency_ms", "memory_bytes")
    )
    return Point(
        architecture=front.architecture(row), accuracy=accuracy, latency_ms=latency, memory_bytes=memory, values=known
    )


def _cell(value: Value | float | None) -> str:
    return "" if value is None else number_text(value) if isinstance(value, float) else html.escape(str(value))


# -- choosing, merging, exporting --------------------------------------------------------------------------------------


Limit = float | tuple[float | None, float | None]
"""Limit on a value: a least one where it is maximised, a greatest one otherwise; or (least, greatest), None: no such
one."""


def choose(front: Front, limits: Mapping[str, Limit], best: str | None = None) -> int:
    """Row of the best network within limits.

    Args:
        front: to choose from.
        limits: by column.
        best: the column to choose by, or `knee`: the best compromise; without it the first goal that has no limit, or
            the first goal. Ties are broken by the other goals in order.

    Raises:
        UnknownNameError: there is no such column.
        InfeasibleError: no network keeps all limits; the message has the nearest that can be kept.
    """
    bounds = [bound for name, limit in limits.items() for bound in _bounds(front, name, limit)]
    feasible = np.flatnonzero(np.all([np.ones(len(front), bool), *(bound.kept for bound in bounds)], axis=0))
    if not len(feasible):
        raise InfeasibleError(_nearest(front, bounds))
    if best == KNEE:
        return int(feasible[pareto.knee(front.costs[feasible])])
    goals = sorted(front.goals, key=lambda goal: goal.name in limits)  # stable: those without a limit first
    by = front.column(best)[0] if best else goals[0]
    order = [by, *(goal for goal in front.goals if goal != by)]
    keys = [c.cost(front.values[feasible, front.names.index(c.name)]) for c in order]
    return int(feasible[np.lexsort(keys[::-1])[0]])


@dataclass(frozen=True, eq=False)
class _Bound:
    """A limit on one side. ``setting`` says how it is written, with {} for the number."""

    column: Column
    values: Floats
    limit: float
    setting: str

    @property
    def kept(self) -> NDArray[np.bool_]:
        return self.column.keeps(self.values, self.limit)

    def setting_of(self, value: float) -> str:
        """Limit to set so that a value is just within."""
        return f"{self.column.name}={self.setting.format(_rounded(value, up=not self.column.at_least))}"


def _bounds(front: Front, name: str, limit: Limit) -> list[_Bound]:
    column, values = front.column(name)
    ends = limit if isinstance(limit, tuple | list) else (limit,)
    if not all(end is None or abs(end) <= sys.float_info.max for end in ends):  # false for NaN as well
        raise InvalidValueError(f"A limit is a finite number, but got {name}={limit}.")
    if not isinstance(limit, tuple | list):
        return [_Bound(column, values, limit, "{}")]
    sides = ((limit[0], True, "{}.."), (limit[1], False, "..{}"))
    return [_Bound(replace(column, at_least=side), values, end, text) for end, side, text in sides if end is not None]


def _nearest(front: Front, bounds: Sequence[_Bound]) -> str:
    """Reason why no network keeps all limits, and the nearest that can be kept: by one other limit, or else by all
    others."""
    stated = ", ".join(f"{bound.column.name} {bound.column.sign} {number_text(bound.limit)}" for bound in bounds)
    refused = f"{plural(len(front), 'network')} of {front.source}, but none with {stated}"
    facts, ways = [], []
    for bound in bounds:
        others_kept = [other.kept for other in bounds if other is not bound]
        within = bound.values[np.all([~np.isnan(bound.values), *others_kept], axis=0)]
        if len(within):
            floor = bound.column.at_least
            extreme = bound.column.cost(float(bound.column.cost(within).min()))
            others = " with the other kept" if len(bounds) == 2 else " with the others kept" if len(bounds) > 2 else ""
            facts.append(
                f"the {'greatest' if floor else 'least'} {bound.column.name}{others} is {number_text(extreme)}"
            )
            ways.append(bound.setting_of(extreme))
    if ways:
        return f"{refused}: {' and '.join(facts)}. Set {' or '.join(ways)}."
    excess = [
        np.maximum((b.column.cost(b.values) - b.column.cost(b.limit)) / max(abs(b.limit), 1e-12), 0) for b in bounds
    ]
    total = np.nan_to_num(np.sum(excess, axis=0), nan=np.inf)
    closest = int(total.argmin())
    if np.isinf(total[closest]):
        return f"{refused}: not all of these values are known of any network. Leave out a limit."
    needed = [
        bound.setting_of(float(bound.values[closest]))
        for bound, over in zip(bounds, excess, strict=True)
        if over[closest] > 0
    ]
    return f"{refused}; more than one limit is too strict. The closest network needs {' and '.join(needed)}."


def merge(fronts: Sequence[Front]) -> Front:
    """The non-dominated networks of several fronts of one space, device and set of goals, sorted by the last goal.

    Of different limits the strictest hold, and networks beyond them are dropped. Of a network that several fronts have,
    the values of the first are taken. The reference point is the worst of theirs.

    Raises:
        MismatchError: the fronts are of other spaces, devices or values.
        InfeasibleError: no network keeps the strictest limits.
    """
    first = fronts[0]
    for other in fronts[1:]:
        _check_same(first, other, ("device", "place"), ("space", "space"), ("space settings", "fingerprint"))
        if first.names != other.names:
            raise MismatchError(
                f"{other.source} has {', '.join(other.names)}, but {first.source} has {', '.join(first.names)}; only "
                "fronts of the same values can be merged."
            )
    columns = tuple(
        replace(column, limit=column.strictest([front.columns[i].limit for front in fronts]))
        for i, column in enumerate(first.columns)
    )
    limits = {
        name: next((c for c in columns if c.name == name), Column(name, "")).strictest(
            [front.limits.get(name) for front in fronts]
        )
        for name in dict.fromkeys(name for front in fronts for name in front.limits)
    }
    distinct: dict[str, tuple[Network, Floats]] = {}
    for front in fronts:
        for network, row in zip(front.networks, front.values, strict=True):
            distinct.setdefault(json.dumps(network, sort_keys=True), (network, row))
    networks, values = zip(*distinct.values(), strict=True)
    reference = np.max([front.reference_costs for front in fronts], axis=0)
    union = replace(
        first,
        source=", ".join(front.source for front in fronts),
        searcher=MERGED,
        columns=columns,
        values=np.array(values),
        networks=networks,
        reference=pareto.costs_of(reference[None], [column.goal for column in first.goals])[0],
        limits=limits,
        evaluations=sum(front.evaluations for front in fronts),
        seconds=sum(front.seconds for front in fronts),
        failed=sum(front.failed for front in fronts),
        stopped=None,
    )
    feasible = np.ones(len(union), bool)
    for column, values_of in zip(columns, union.values.T, strict=True):
        if column.limit is not None:
            feasible &= column.keeps(values_of, column.limit)
    if not feasible.any():
        stated = ", ".join(f"{c.name} {c.sign} {number_text(c.limit)}" for c in columns if c.limit is not None)
        raise InfeasibleError(f"No network of these fronts keeps the strictest of their limits: {stated}.")
    union = union.rows(feasible)
    union = union.rows(pareto.front(union.costs))
    return replace(union, history=((union.evaluations, union.hypervolume),))


def _check_same(first: Front, other: Front, *attributes: tuple[str, str]) -> None:
    """Refuse two fronts that differ in one of these (what to call it, attribute), or in their goals."""
    for name, attribute in attributes:
        here, there = getattr(first, attribute), getattr(other, attribute)
        if here != there:
            raise MismatchError(f"{other.source} is of {name} {there}, but {first.source} of {name} {here}.")
    goals = [[f"{goal.name} ({goal.goal})" for goal in front.goals] for front in (first, other)]
    if goals[0] != goals[1]:
        raise MismatchError(
            f"{other.source} has the goals {', '.join(goals[1])}, but {first.source} has {', '.join(goals[0])}."
        )


def table(front: Front) -> list[dict[str, Value | float | None]]:
    """One row per network: its values by name, then every choice; None for what is not known or does not matter."""
    order: list[str] = []
    for network in front.networks:
        after = 0
        for name in network:
            if name not in order:
                order.insert(after, name)
            after = order.index(name) + 1
    return [
        {**front.known(row), **{name: network.get(name) for name in order}}
        for row, network in enumerate(front.networks)
    ]


def to_csv(front: Front) -> str:
    """`table` as CSV; a cell is empty where the value is None."""
    rows = table(front)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


# -- comparing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Comparison:
    """Fronts of one device beside each other.

    Args:
        fronts: one per run and searcher, with the run's label.
        reference: the worst of their reference points, as costs.
        hypervolumes: of each, within it.
        union: hypervolume of all of them as one.
    """

    fronts: tuple[tuple[str, Front], ...]
    reference: Floats
    hypervolumes: tuple[float, ...]
    union: float

    @property
    def searchers(self) -> dict[str, list[Front]]:
        """The fronts of each searcher."""
        found: dict[str, list[Front]] = {}
        for _, front in self.fronts:
            found.setdefault(front.searcher, []).append(front)
        return found


def compare(fronts: Sequence[tuple[str, Front]]) -> Comparison:
    """Compare fronts of one device and one set of goals; of other spaces, too.

    Args:
        fronts: with the labels of their runs.

    Raises:
        MismatchError: they are of other devices or goals.
    """
    for _, other in fronts[1:]:
        _check_same(fronts[0][1], other, ("device", "place"))
    reference = np.max([front.reference_costs for _, front in fronts], axis=0)
    union = pareto.hypervolume(np.concatenate([front.costs for _, front in fronts]), reference)
    volumes = tuple(pareto.hypervolume(front.costs, reference) for _, front in fronts)
    return Comparison(tuple(fronts), reference, volumes, union)


@dataclass(frozen=True, eq=False)
class Attained:
    """Attainment of the runs of each searcher, in one goal or in two; see `nas.core.pareto.attainment`.

    Args:
        goals: the goals, ``x`` last where there are two; surfaces are sorted by it.
        surfaces: searcher -> best, median and worst surface, as costs (m, goals).
        reference: bounds their hypervolume, as costs.
        union: hypervolume of all fronts together.
    """

    goals: tuple[Column, ...]
    surfaces: Mapping[str, Mapping[str, Floats]]
    reference: Floats
    union: float

    def natural(self, costs: Floats) -> Floats:
        """Costs (m, goals) in natural units."""
        return pareto.costs_of(costs, [goal.goal for goal in self.goals])  # a sign flipped twice


def attained(comparison: Comparison, *, x: str | None = None, y: str | None = None) -> Attained:
    """Best, median and worst attainment surface over the runs of each searcher.

    Args:
        comparison: of the runs.
        x: a goal; without it the second.
        y: another goal; without it the first.

    Raises:
        InvalidValueError: no two goals.
    """
    first = comparison.fronts[0][1]
    names = [goal.name for goal in first.goals]
    for name in (x, y):
        if name is not None and name not in names:
            raise InvalidValueError(f"{name!r} is no goal of {first.source}; its goals are {', '.join(names)}.")
    axes = axes_of(names, x, y)
    chosen = [names.index(name) for name in reversed(axes)] if axes else [0]
    reference = comparison.reference[chosen]
    everything = np.concatenate([front.costs[:, chosen] for _, front in comparison.fronts])
    found = {}
    for searcher, fronts in comparison.searchers.items():
        costs = [front.costs[:, chosen] for front in fronts]
        found[searcher] = {name: pareto.attainment(costs, max(level, 1 / len(costs))) for name, level in LEVELS.items()}
    goals = tuple(first.goals[i] for i in chosen)
    return Attained(goals, found, reference, pareto.hypervolume(everything, reference))


def axes_of(names: Sequence[str], x: str | None, y: str | None) -> tuple[str, str] | None:
    """The names for x and y, in their place the second and the first of all names; None if there are no two."""
    vertical = y or next((name for name in names if name != x), names[0])
    horizontal = x or next((name for name in names if name != vertical), vertical)
    return None if horizontal == vertical else (horizontal, vertical)


# -- networks as text --------------------------------------------------------------------------------------------------

SHOWN = 10
"""Networks of a front that are printed, where no other number is asked for."""


def shown_rows(front: Front, rows: int = SHOWN) -> list[int]:
    """Rows of the networks that are printed, at most so many: the ends, the knee, and others evenly between."""
    count, knee = len(front), front.knee
    few = np.unique(np.linspace(0, count - 1, min(count, rows)).round().astype(int))
    if knee not in few:  # takes the place of its neighbour, never of an end
        few[1 + np.abs(few[1:-1] - knee).argmin()] = knee
    return [int(row) for row in few]


def network_lines(front: Front, rows: int = SHOWN) -> list[str]:
    """A table of `shown_rows`, networks numbered from 1, the knee marked."""
    few = shown_rows(front, rows)
    names = ["no.", *front.names]
    cells = [[str(row + 1) for row in few], *(aligned(values[few]) for values in front.values.T)]
    widths = [max(map(len, [name, *column])) for name, column in zip(names, cells, strict=True)]
    lines = ["  " + "   ".join(f"{n:>{w}}" for n, w in zip(names, widths, strict=True))]
    for i, row in enumerate(few):
        text = "   ".join(f"{column[i]:>{width}}" for column, width in zip(cells, widths, strict=True))
        lines.append(f"◆ {text}   knee" if row == front.knee else f"  {text}")
    return lines


def aligned(values: Floats) -> list[str]:
    """Numbers with so many decimals, the same for all, that a typical one has four digits; – for NaN."""
    known = np.abs(values[np.isfinite(values) & (values != 0)])
    if (known == known.round()).all() and (not len(known) or known.max() < 1e15):
        decimals = 0
    else:
        decimals = min(max(3 - math.floor(math.log10(np.median(known))), 0), 12)
    return ["–" if math.isnan(value) else f"{value:,.{decimals}f}" for value in values.tolist()]


# -- numbers in messages -----------------------------------------------------------------------------------------------


def _rounded(value: float, *, up: bool) -> str:
    """The nearest number of four digits that is not below the value, or not above it."""
    if value == 0:
        return "0"
    digits = math.floor(math.log10(abs(value))) - 3
    steps = (math.ceil if up else math.floor)(round(value / 10.0**digits, 6))
    while True:
        text = np.format_float_positional(steps * 10.0**digits, 4, fractional=False, trim="-")
        if float(text) >= value if up else float(text) <= value:
            return text
        steps += 1 if up else -1


def plural(count: int, name: str) -> str:
    """A count with its noun."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"

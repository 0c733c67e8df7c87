"""Fronts that searches have written: read, chosen from, merged, exported and compared.

Nothing is predicted again: all numbers are those of the files, in natural units, under the names that settings have.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nas.core import pareto
from search_spaces.architecture import Architecture, Genes, Value
from search_spaces.base.errors import (
    DamagedFileError,
    InfeasibleError,
    InvalidValueError,
    MismatchError,
    StorageError,
    UnknownNameError,
)
from search_spaces.base.storage import contents_of, read_json
from search_spaces.space import SearchSpace

Floats = NDArray[np.float64]
Network = dict[str, Value]
"""Choice -> value, of the choices that matter for the network."""

MERGED = "merged"
"""What a union of fronts has for the name of a searcher."""
LEVELS = {"best": 0.0, "median": 0.5, "worst": 1.0}
"""Attainment surfaces -> share of the runs that attain them, at least; 0: one run."""


# -- a front and its file ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A value of every network.

    Args:
        name: as settings and files have it, such as ``latency_ms``.
        unit: such as ``ms``; ``1`` for a share of 1.
        goal: to be maximised or minimised; None: neither.
        limit: what the search had to keep to; None: nothing.
        at_least: the limit is a least value.
    """

    name: str
    unit: str
    goal: Literal["max", "min"] | None = None
    limit: float | None = None
    at_least: bool = False

    def keeps(self, values: Floats, limit: float) -> NDArray[np.bool_]:
        """Which values (n,) keep a limit; unknown ones (NaN) do not."""
        return np.asarray(values >= limit if self.at_least else values <= limit)

    def strictest(self, limits: Sequence[float | None]) -> float | None:
        """Of several limits on this value."""
        given = [limit for limit in limits if limit is not None]
        return (max if self.at_least else min)(given) if given else None

    @property
    def sign(self) -> str:
        """Between name and limit."""
        return "≥" if self.at_least else "≤"


_OLD_COLUMNS = (Column("accuracy", "1", "max", None, True), Column("latency_ms", "ms", "min"))
"""Of files that name no objectives; memory_bytes follows where it is known."""


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
        joint: the devices that it is for at once; None: for ``device`` alone.
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
    joint: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.networks)

    @staticmethod
    def read(path: Path, searcher: str | None = None) -> Front:
        """The front of a searcher, or of the run's own, in ``search/<device>.json``.

        Raises:
            StorageError: the file cannot be read.
            DamagedFileError: it is not JSON, or lacks something that a front has.
            UnknownNameError: it has no such searcher.
        """
        fronts = read_fronts(path)
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
        """Of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def units(self) -> tuple[str, ...]:
        """Of the columns."""
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
        """Within the reference point, in the product of the goals' units."""
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
        with contents_of(Path(self.source), "Run `nas search` again."):
            return np.stack([Architecture.from_json(space, self.architecture(row)).genes for row in range(len(self))])

    def architecture(self, row: int) -> dict[str, Any]:
        """A network in the form of `Architecture.to_json`."""
        return {"space": self.space, "fingerprint": self.fingerprint, "choices": self.networks[row]}

    def known(self, row: int) -> dict[str, float | None]:
        """Values of a network by name, None for unknown ones."""
        pairs = zip(self.names, self.values[row].tolist(), strict=True)
        return {name: None if math.isnan(value) else value for name, value in pairs}

    def rows(self, kept: NDArray[Any]) -> Front:
        """With some of its networks only, given by numbers or as a mask."""
        numbers = np.arange(len(self))[kept]
        return replace(self, values=self.values[numbers], networks=tuple(self.networks[i] for i in numbers))

    def to_json(self) -> dict[str, Any]:
        """The content of a file that `Front.read`, and the stages after the search, can read."""
        memory: dict[str, Any] = {"accuracy": None, "latency_ms": None, "memory_bytes": None}
        return {
            "device": self.device,
            "joint": None if self.joint is None else list(self.joint),
            "limits": dict(self.limits),
            "objectives": [
                {"name": c.name, "unit": c.unit, "goal": c.goal, "limit": c.limit, "at_least": c.at_least}
                for c in self.columns
            ],
            "reference": self.reference.tolist(),
            "searchers": {
                self.searcher: {
                    "front": [
                        {
                            "architecture": self.architecture(row),
                            **{name: known.get(f"{name}@{self.device}", known.get(name)) for name in memory},
                            "values": known,
                        }
                        for row in range(len(self))
                        for known in [self.known(row)]
                    ],
                    "hypervolume": self.hypervolume,
                    "evaluations": self.evaluations,
                    "seconds": self.seconds,
                    "history": [[self.evaluations, self.hypervolume]],
                }
            },
        }


def read_fronts(path: Path) -> dict[str, Front]:
    """All fronts of a file by their searchers, that of the run's own first; see `Front.read`."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise StorageError(f"{path} {what}: give the file of a front, such as <run folder>/search/<device>.json.")
    content, where = read_json(path), str(path)
    searchers = _field(content, "searchers", dict, where)
    if not searchers:
        raise DamagedFileError(f"{where} holds no searcher. Run `nas search` again.")
    device = _field(content, "device", str, where)
    stated = _field(content, "limits", dict, where)
    limits = {name: _number_or_none(stated, name, f"{where}: limits") for name in stated}
    reference = _field(content, "reference", list, where)
    numbers = [_number(value, f"{where}: reference") for value in reference]
    joint = tuple(_field(content, "joint", list, where)) if content.get("joint") is not None else None
    fronts = {}
    for searcher, found in searchers.items():
        place = f"{where}: {searcher}"
        points = _field(found, "front", list, place)
        if not points:
            raise DamagedFileError(f"{place} holds no network. Run `nas search` again.")
        named = [(f"{place}, network {i}", point) for i, point in enumerate(points, 1)]
        architectures = [_field(point, "architecture", dict, at) for at, point in named]
        spaces = {
            tuple(_field(a, key, str, at) for key in ("space", "fingerprint"))
            for (at, _), a in zip(named, architectures, strict=True)
        }
        if len(spaces) > 1:
            raise DamagedFileError(f"{place} holds networks of several spaces. Run `nas search` again.")
        columns, values = _values(content, named, limits, where)
        if len(numbers) != sum(column.goal is not None for column in columns):
            raise DamagedFileError(f"{where}: `reference` must have a number per goal, but has {len(numbers)}.")
        (space, fingerprint) = spaces.pop()
        fronts[searcher] = Front(
            source=where,
            device=device,
            searcher=searcher,
            space=space,
            fingerprint=fingerprint,
            columns=columns,
            values=values,
            networks=tuple(
                _field(a, "choices", dict, f"{at}: architecture")
                for (at, _), a in zip(named, architectures, strict=True)
            ),
            reference=np.array(numbers),
            limits=limits,
            evaluations=int(_number(_field(found, "evaluations", (int, float), place), place)),
            seconds=_number(_field(found, "seconds", (int, float), place), place),
            joint=joint,
        )
    return fronts


def _values(
    content: dict[str, Any], points: list[tuple[str, Any]], limits: Mapping[str, float | None], where: str
) -> tuple[tuple[Column, ...], Floats]:
    """Columns and values (n, columns), by the file's objectives or, where it names none, by its keys."""
    if "objectives" in content:
        columns = tuple(_column(o, f"{where}: objectives") for o in _field(content, "objectives", list, where))
        mappings = [(f"{at}: values", _field(point, "values", dict, at)) for at, point in points]
    else:
        columns = tuple(replace(column, limit=limits.get(column.name)) for column in _OLD_COLUMNS)
        if any(isinstance(point, dict) and point.get("memory_bytes") is not None for _, point in points):
            columns += (Column("memory_bytes", "bytes", None, limits.get("memory_bytes")),)
        mappings = points
    names = [column.name for column in columns]
    if len(set(names)) < len(names) or not any(column.goal for column in columns):
        raise DamagedFileError(f"{where}: objectives must have distinct names and a goal, but are {names}.")
    values = np.full((len(points), len(columns)), np.nan)
    for row, (at, mapping) in enumerate(mappings):
        for number, column in enumerate(columns):
            value = _number_or_none(mapping, column.name, at)
            if value is not None:
                values[row, number] = value
            elif column.goal:
                raise DamagedFileError(f"{at} has no {column.name}, which is a goal. Run `nas search` again.")
    return columns, values


def _column(objective: Any, where: str) -> Column:
    name, unit = (_field(objective, key, str, where) for key in ("name", "unit"))
    goal = objective.get("goal")
    if goal not in ("max", "min", None):
        raise DamagedFileError(f"{where}: the goal of {name} must be max, min or null, but is {goal!r}.")
    floor = goal == "max" or (goal is None and bool(objective.get("at_least", name == "accuracy")))
    return Column(name, unit, goal, _number_or_none(objective, "limit", f"{where}: {name}"), floor)


def _field(mapping: Any, name: str, kind: Any, where: str) -> Any:
    """A field of a JSON mapping, checked."""
    if not isinstance(mapping, dict) or name not in mapping:
        raise DamagedFileError(f"{where} has no `{name}`, so it is no front that `nas search` has written.")
    if not isinstance(mapping[name], kind):
        raise DamagedFileError(f"{where}: `{name}` is {mapping[name]!r:.40}, which `nas search` does not write.")
    return mapping[name]


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DamagedFileError(f"{where}: {value!r:.40} must be a finite number. Run `nas search` again.")
    return float(value)


def _number_or_none(mapping: Any, name: str, where: str) -> float | None:
    value = mapping.get(name) if isinstance(mapping, dict) else None
    return None if value is None else _number(value, f"{where}: {name}")


# -- choosing, merging, exporting --------------------------------------------------------------------------------------


Limit = float | tuple[float | None, float | None]
"""On a value: a least one where it is maximised, a greatest one otherwise; or (least, greatest), None: no such one."""


def choose(front: Front, limits: Mapping[str, Limit], best: str | None = None) -> int:
    """Row of the best network within limits.

    Args:
        front: to choose from.
        limits: by column.
        best: the column to choose by; without it the first goal that has no limit, or the first goal. Ties are broken
            by the other goals in order.

    Raises:
        UnknownNameError: there is no such column.
        InfeasibleError: no network keeps all limits; the message has the nearest that can be kept.
    """
    bounds = [bound for name, limit in limits.items() for bound in _bounds(front, name, limit)]
    feasible = np.flatnonzero(np.all([np.ones(len(front), bool), *(bound.kept for bound in bounds)], axis=0))
    if not len(feasible):
        raise InfeasibleError(_nearest(front, bounds))
    goals = sorted(front.goals, key=lambda goal: goal.name in limits)  # stable: those without a limit first
    by = front.column(best)[0] if best else goals[0]
    order = [by, *(goal for goal in front.goals if goal != by)]
    keys = [front.values[feasible, front.names.index(c.name)] * (-1 if c.at_least else 1) for c in order]
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
        """What to set so that a value is just within."""
        return f"{self.column.name}={self.setting.format(_rounded(value, up=not self.column.at_least))}"


def _bounds(front: Front, name: str, limit: Limit) -> list[_Bound]:
    column, values = front.column(name)
    if not isinstance(limit, tuple):
        return [_Bound(column, values, limit, "{}")]
    sides = ((limit[0], True, "{}.."), (limit[1], False, "..{}"))
    return [_Bound(replace(column, at_least=side), values, end, text) for end, side, text in sides if end is not None]


def _nearest(front: Front, bounds: Sequence[_Bound]) -> str:
    """Why no network keeps all limits, and the nearest that can be kept: by one other limit, or else by all others."""
    stated = ", ".join(f"{bound.column.name} {bound.column.sign} {text_of(bound.limit)}" for bound in bounds)
    refused = f"{plural(len(front), 'network')} of {front.source}, but none with {stated}"
    facts, ways = [], []
    for bound in bounds:
        others_kept = [other.kept for other in bounds if other is not bound]
        within = bound.values[np.all([~np.isnan(bound.values), *others_kept], axis=0)]
        if len(within):
            floor = bound.column.at_least
            extreme = float(within.max() if floor else within.min())
            others = " with the other kept" if len(bounds) == 2 else " with the others kept" if len(bounds) > 2 else ""
            facts.append(f"the {'greatest' if floor else 'least'} {bound.column.name}{others} is {text_of(extreme)}")
            ways.append(bound.setting_of(extreme))
    if ways:
        return f"{refused}: {' and '.join(facts)}. Set {' or '.join(ways)}."
    excess = [
        np.maximum((b.limit - b.values if b.column.at_least else b.values - b.limit) / max(abs(b.limit), 1e-12), 0)
        for b in bounds
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
    )
    feasible = np.ones(len(union), bool)
    for column, values_of in zip(columns, union.values.T, strict=True):
        if column.limit is not None:
            feasible &= column.keeps(values_of, column.limit)
    if not feasible.any():
        stated = ", ".join(f"{c.name} {c.sign} {text_of(c.limit)}" for c in columns if c.limit is not None)
        raise InfeasibleError(f"No network of these fronts keeps the strictest of their limits: {stated}.")
    union = union.rows(feasible)
    return union.rows(pareto.front(union.costs))


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
    """What the runs of each searcher attain, in one goal or in two; see `nas.core.pareto.attainment`.

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


# -- numbers in messages -----------------------------------------------------------------------------------------------


def text_of(value: float) -> str:
    """A number with four digits, a large or a whole one with all before the point."""
    return f"{value:,.0f}" if (value == round(value) or abs(value) >= 1000) and abs(value) < 1e15 else f"{value:.4g}"


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

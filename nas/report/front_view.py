"""The command ``nas front``: fronts as text, as files for other programs and as a figure."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.core import pareto
from nas.run.fronts import (
    LEVELS,
    Attained,
    Comparison,
    Floats,
    Front,
    Limit,
    attained,
    axes_of,
    choose,
    compare,
    merge,
    plural,
    read_fronts,
    search_of,
    table,
    text_of,
    to_csv,
)
from nas.run.records import Column
from search_spaces.base.errors import InvalidValueError, UnknownNameError
from search_spaces.base.storage import write_bytes, write_json, write_text

if TYPE_CHECKING:
    from nas.report.figures import Surfaces

SHOWN = 10
"""Networks of a front that are printed, at most."""
USAGE = """nas front show FILE [searcher=NAME] [x=latency_ms y=accuracy]
                             the front as a table and a plot, its knee and its hypervolume
nas front choose FILE LIMIT=NUMBER ... [best=NAME] [searcher=NAME]
                             the best network within limits, as JSON:  latency_ms=25 accuracy=0.9 params=2e5..3e5
nas front merge OUT.json FILE FILE ... [searcher=NAME]
                             the best of several fronts of one space and device, as one
nas front export FILE OUT.csv|OUT.json [searcher=NAME]
                             one row per network: its values, then a column per choice
nas front compare FILE FILE ... [searcher=NAME] [plot=OUT.png] [x=latency_ms y=accuracy]
                             runs of several seeds or searchers: hypervolume, and what half of the runs attain

FILE is a run's search/<device>.json. It holds the front of the run's searcher and, beside it, that of random search:
searcher= chooses one; without it, it is the run's own, and compare takes all of them. merge also takes searcher=all.
search/<device>/<searcher>.json is the same for each searcher that was tried.

Names and units are those of the file, as `nas front show` prints them: accuracy is a share of 1, latency_ms is in ms.
A limit on what is maximised (accuracy) is a least value, every other one a greatest. Without best=, choose takes the
network that is best by the first goal that has no limit: latency_ms=25 gives the most accurate one within 25 ms,
accuracy=0.9 the fastest one that has it. A range has a least value, a greatest or both: params=2e5..3e5, macs=1e6.. or
latency_ms=..25. `nas export export.pick=[7]` exports the network that show and choose number 7.

merge keeps the strictest of the limits that the searches had, and drops networks beyond it. compare measures
hypervolume from the worst of the files' reference points; on its figure, the line is what half of the runs of a
searcher attain, the band reaches from the best to the worst.
"""


# -- text --------------------------------------------------------------------------------------------------------------


def summary_lines(front: Front, *, x: str | None = None, y: str | None = None, plot: bool = True) -> list[str]:
    """Summary of a front: some of its networks, a plot, its knee and its hypervolume.

    Args:
        front: to show.
        x: the column on the plot's axis; without it the second goal.
        y: the column on the plot's other axis; without it the first goal.
        plot: whether there is one.
    """
    knee, count = front.knee, len(front)
    few = np.arange(count) if count <= SHOWN else np.unique(np.linspace(0, count - 1, SHOWN).round().astype(int))
    if knee not in few:  # takes the place of its neighbour, never of an end
        few[1 + np.abs(few[1:-1] - knee).argmin()] = knee
    shown = "" if len(few) == count else f", {len(few)} of them here"
    lines = [f"{front.place}, {front.searcher}: {plural(count, 'network')} of {front.space} on the front{shown}"]
    limits = [_limit_text(front, c) for c in front.columns if c.limit is not None]
    if limits:
        lines.append(f"searched with {', '.join(limits)}")
    names = ["no.", *front.names]
    cells = [[str(row + 1) for row in few], *(_aligned(values[few]) for values in front.values.T)]
    widths = [max(map(len, [name, *column])) for name, column in zip(names, cells, strict=True)]
    lines += ["", "    " + "   ".join(f"{n:>{w}}" for n, w in zip(names, widths, strict=True))]
    for i, row in enumerate(few):
        text = "   ".join(f"{column[i]:>{width}}" for column, width in zip(cells, widths, strict=True))
        lines.append(f"  ◆ {text}   knee" if row == knee else f"    {text}")
    axes = axes_of([c.name for c in sorted(front.columns, key=lambda column: column.goal is None)], x, y)
    if plot and axes:
        (across, x_values), (up, y_values) = map(front.column, axes)
        lines += ["", *plot_text(x_values, y_values, x_name=across.name, y_name=up.name, marked=knee)]
    bounds = ", ".join(f"{c.name} {text_of(r)}" for c, r in zip(front.goals, front.reference, strict=True))
    effort = f"{plural(front.evaluations, 'evaluation')} in {front.seconds:.1f} s"
    lines += ["", f"hypervolume {text_of(front.hypervolume)} from the reference point ({bounds}); {effort}"]
    return lines


def plot_text(
    x: Floats,
    y: Floats,
    *,
    x_name: str,
    y_name: str,
    marked: int | None = None,
    width: int = 60,
    height: int = 15,
) -> list[str]:
    """Points as text, y over x, with round numbers at the axes.

    Args:
        x: shape (n,); points that are not finite are left out.
        y: shape (n,).
        x_name: written below.
        y_name: written above.
        marked: the row that is drawn as ◆.
        width: characters of the plane, axes not counted.
        height: lines of the plane.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    usable = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if not len(usable):
        return [f"{y_name} over {x_name}: nothing to plot"]
    across, down = _Scale.of(x[usable], width), _Scale.of(y[usable], height)
    plane = [[" "] * width for _ in range(height)]
    for row in [*usable, *(usable[usable == marked])]:  # the marked one last, so that none covers it
        plane[height - 1 - down.cell(y[row])][across.cell(x[row])] = "◆" if row == marked else "•"
    beside = {height - 1 - down.cell(value): text for value, text in down.ticks(max(3, height // 3))}
    margin = max(map(len, beside.values()), default=0) + 2
    lines = [f"{'':{margin}}{y_name}"]
    lines += [
        f"{beside.get(i, ''):>{margin - 1}} {'┤' if i in beside else '│'}{''.join(line)}".rstrip()
        for i, line in enumerate(plane)
    ]
    rule, texts = ["─"] * width, [" "] * (width + margin + 12)
    free = 0
    for value, text in across.ticks(max(3, width // 10)):
        column = across.cell(value)
        start = margin + 1 + column - len(text) // 2
        if start >= free:
            rule[column] = "┬"
            texts[start : start + len(text)] = text
            free = start + len(text) + 2
    lines.append(f"{'':{margin}}└{''.join(rule)}")
    lines.append("".join(texts).rstrip())
    lines.append(f"{x_name:>{margin + 1 + width}}")
    return lines


@dataclass(frozen=True)
class _Scale:
    """Numbers from low to high on so many cells."""

    low: float
    high: float
    cells: int

    @staticmethod
    def of(values: Floats, cells: int) -> _Scale:
        low, high = float(values.min()), float(values.max())
        if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value, in the middle
            around = abs(low) / 10 or 1.0
            low, high = low - around, high + around
        return _Scale(low, high, cells)

    def cell(self, value: float) -> int:
        return round((value - self.low) / (self.high - self.low) * (self.cells - 1))

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Round numbers within, at most so many, and how they are written."""
        return round_numbers(self.low, self.high, most)


_LETTERS = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
"""Numbers, and what is written in place of how many zeros from there on."""


def round_numbers(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Ticks from low to high, so many at most, in steps of 1, 2 or 5 times a power of ten, and how to write them."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power * factor for factor in (1, 2, 5, 10, 20)):
        first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)  # the ends count
        if last - first < most:
            break
    numbers = np.arange(first, last + 1) * step
    largest = max(abs(low), abs(high))
    scale, letter = next(
        ((scale, letter) for least, scale, letter in _LETTERS if largest >= least),
        (1.0, ""),
    )
    decimals = max(0, -math.floor(math.log10(step / scale) + 1e-9))
    return [(float(number), f"{number / scale:,.{decimals}f}{letter}") for number in numbers]


def comparison_lines(comparison: Comparison, attained: Attained) -> list[str]:
    """A table of the runs, and what the runs of each searcher attain."""
    first = comparison.fronts[0][1]
    bounds = pareto.costs_of(comparison.reference[None], [goal.goal for goal in first.goals])[0]
    point = ", ".join(f"{goal.name} {text_of(bound)}" for goal, bound in zip(first.goals, bounds, strict=True))
    merged = pareto.front(np.concatenate([front.costs for _, front in comparison.fronts]))
    volumes = [*comparison.hypervolumes, comparison.union]
    lines = [
        f"{plural(len(comparison.fronts), 'front')} on {first.place}; hypervolume from the reference point ({point})",
        "",
        *_grid(
            ["run", "searcher", "networks", "hypervolume", "of the union's"],
            [*(label for label, _ in comparison.fronts), "union"],
            [*(front.searcher for _, front in comparison.fronts), ""],
            [*(str(len(front)) for _, front in comparison.fronts), str(len(merged))],
            _aligned(np.array(volumes)),
            [_share(volume, comparison.union) for volume in volumes],
            left=2,
        ),
    ]
    runs = {name: len(fronts) for name, fronts in comparison.searchers.items()}
    names = " and ".join(goal.name for goal in attained.goals)
    if max(runs.values()) > 1:
        lines += [
            "",
            f"Share of the union's hypervolume in {names} that some run, half of the runs and every run attain",
            *_grid(
                ["searcher", "runs", *LEVELS],
                list(runs),
                [str(count) for count in runs.values()],
                *(
                    [
                        _share(pareto.hypervolume(found[level], attained.reference), attained.union)
                        for found in attained.surfaces.values()
                    ]
                    for level in LEVELS
                ),
                left=1,
            ),
        ]
    if len(attained.goals) == 2:
        y, x = attained.goals
        within = "at least" if x.at_least else "at most"
        whose = "half of the runs attain" if max(runs.values()) > 1 else "is attained"
        lines += ["", f"{y.name} that {whose} at {x.name} of {within}", *_attained_grid(attained)]
    return lines


def _attained_grid(attained: Attained) -> list[str]:
    """The first goal of each searcher's median surface at round values of the second."""
    medians = [found["median"] for found in attained.surfaces.values()]
    of_all = attained.natural(np.concatenate(medians))[:, 1]
    scale = _Scale.of(of_all, 2)
    ticks = round_numbers(scale.low, scale.high, 8)
    bounds = attained.natural(np.array([[0.0, value] for value, _ in ticks]))[:, 1]
    best = np.full((len(medians), len(ticks)), np.nan)
    for row, surface in enumerate(medians):
        for column, bound in enumerate(bounds):
            within = surface[surface[:, 1] <= bound, 0]
            best[row, column] = within.min() if len(within) else np.nan
    natural = attained.natural(np.stack([best.ravel(), np.zeros(best.size)], axis=1))[:, 0]
    cells = np.array(_aligned(natural)).reshape(best.shape)
    return _grid(["searcher", *(text for _, text in ticks)], list(attained.surfaces), *cells.T.tolist(), left=1)


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "–"


def _grid(heads: Sequence[str], *columns: Sequence[str], left: int) -> list[str]:
    """Columns of text under their heads, the first ones to the left, the others to the right."""
    widths = [max(map(len, [head, *column])) for head, column in zip(heads, columns, strict=True)]
    rows = [heads, *zip(*columns, strict=True)]
    return [
        "   ".join(
            f"{cell:<{width}}" if number < left else f"{cell:>{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _aligned(values: Floats) -> list[str]:
    """Numbers with so many decimals, the same for all, that a typical one has four digits; – for NaN."""
    known = np.abs(values[np.isfinite(values) & (values != 0)])
    if (known == known.round()).all() and (not len(known) or known.max() < 1e15):
        decimals = 0
    else:
        decimals = min(max(3 - math.floor(math.log10(np.median(known))), 0), 12)
    return ["–" if math.isnan(value) else f"{value:,.{decimals}f}" for value in values.tolist()]


# -- the command -------------------------------------------------------------------------------------------------------


def command(arguments: list[str]) -> str:
    """Run ``nas front`` and give what it prints.

    Raises:
        NasError: wrong arguments, a file that is missing or damaged, fronts that do not belong together, or limits
            that no network keeps.
    """
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        return _printable(USAGE.rstrip())
    word, *rest = arguments
    if word not in _COMMANDS:
        raise UnknownNameError(f"`nas front {word}` does not exist; there are {', '.join(_COMMANDS)}. {_HINT}")
    action, fewest, known = _COMMANDS[word]
    given = [argument for argument in rest if re.match(r"[\w.@-]+=", argument) and not Path(argument).exists()]
    settings = dict(argument.split("=", 1) for argument in given)
    files = [Path(argument) for argument in rest if argument not in given]
    if len(files) < fewest or (word in _EXACT and len(files) > fewest):
        raise InvalidValueError(f"`nas front {word}` cannot work with {plural(len(files), 'file')}. {_HINT}")
    for name, value in settings.items():
        if known is not None and name not in known:
            raise InvalidValueError(f"`nas front {word}` has no setting {name!r}; it has {', '.join(known)}.")
        if not value:
            raise InvalidValueError(f"`{name}=` needs a value. {_HINT}")
    return _printable(action(files, settings))


def _show(files: Sequence[Path], settings: dict[str, str]) -> str:
    front = Front.read(files[0], settings.get("searcher"))
    return "\n".join(summary_lines(front, x=settings.get("x"), y=settings.get("y")))


def _choose(files: Sequence[Path], settings: dict[str, str]) -> str:
    searcher, best = settings.pop("searcher", None), settings.pop("best", None)
    front = Front.read(files[0], searcher)
    limits = {name: _limit(front.column(name)[0], text) for name, text in settings.items()}
    if not limits and best is None:
        raise InvalidValueError(f"`nas front choose` needs a limit on one of {', '.join(front.names)}. {_HINT}")
    row = choose(front, limits, best)
    found = {"device": front.device, "searcher": front.searcher, "row": row + 1, "values": front.known(row)}
    if searcher is None or searcher == next(iter(read_fronts(files[0]))):  # `nas export` takes the run's own front
        found["export"] = f"export.pick=[{row + 1}]"
    return json.dumps({**found, "architecture": front.architecture(row)}, indent=1)


def _limit_text(front: Front, column: Column) -> str:
    """Limits that a search kept to, and what the user had set where that is another value."""
    assert column.limit is not None
    given = front.limits.get(column.name)
    margin = "" if given is None or np.isclose(given, column.limit) else f" (limit {text_of(given)} less a margin)"
    return f"{column.name} {column.sign} {text_of(column.limit)}{margin}"


def _limit(column: Column, text: str) -> Limit:
    """A limit as it is written: 3, or a range 2..3, of which one end may be left out."""

    def number(part: str) -> float:
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            unit = f", in {column.unit}" if column.unit not in ("", "1") else ""
            raise InvalidValueError(
                f"`{column.name}` must be a number{unit}, or a range such as 2..3, but got {text!r}."
            )
        return value

    low, dots, high = text.partition("..")
    if not dots or not (low or high):
        return number(text)
    ends = number(low) if low else None, number(high) if high else None
    if ends[0] is not None and ends[1] is not None and ends[0] > ends[1]:
        raise InvalidValueError(f"`{column.name}` must be a range from less to more, but got {text!r}.")
    return ends


def _merge(files: Sequence[Path], settings: dict[str, str]) -> str:
    out, *paths = files
    if out.exists():
        raise InvalidValueError(
            f"{out} exists and is not overwritten: the first file is where the union is written to."
        )
    fronts = [front for path in paths for front in _chosen(path, settings.get("searcher", _OWN))]
    if len(fronts) < 2:
        raise InvalidValueError(f"`nas front merge` needs two fronts or more, but got one. {_HINT}")
    union = merge(fronts)
    sources = [f"{front.source}: {front.searcher}" for front in fronts]
    write_json(out, {**vars(search_of([union])), "merged_from": sources})
    held = [f"{plural(len(front), 'network')} of {front.source}, {front.searcher}" for front in fronts]
    return "\n".join([*held, *_doubts(fronts), f"{plural(len(union), 'network')} in the union", f"wrote {out}"])


def _export(files: Sequence[Path], settings: dict[str, str]) -> str:
    path, out = files
    front = Front.read(path, settings.get("searcher"))
    if out.suffix == ".csv":
        write_text(out, to_csv(front))
    elif out.suffix == ".json":
        if out.exists():
            raise InvalidValueError(f"{out} exists and is not overwritten. Choose another name.")
        write_json(out, table(front))
    else:
        raise InvalidValueError(f"A front is exported to a file named *.csv or *.json, but got {out}.")
    return f"{plural(len(front), 'network')}, {plural(len(table(front)[0]), 'column')}\nwrote {out}"


def _compare(files: Sequence[Path], settings: dict[str, str]) -> str:
    out = Path(settings["plot"]) if "plot" in settings else None
    if out is not None and out.suffix != ".png":
        raise InvalidValueError(f"`plot` must name a file *.png, but got {out}.")
    if len({path.resolve() for path in files}) < len(files):
        raise InvalidValueError("`nas front compare` was given a file twice, which would count as two runs.")
    named = list(zip(_labels(files), files, strict=True))
    fronts = [(label, front) for label, path in named for front in _chosen(path, settings.get("searcher", _ALL))]
    comparison = compare(fronts)
    found = attained(comparison, x=settings.get("x"), y=settings.get("y"))
    lines = [*comparison_lines(comparison, found), *_doubts([front for _, front in fronts])]
    if out is not None:
        if len(found.goals) < 2:
            raise InvalidValueError("A figure needs two goals, but these fronts have one.")
        write_bytes(out, _figure(comparison, found))
        lines += ["", f"wrote {out}"]
    return "\n".join(lines)


_OWN, _ALL = "", "all"
_HINT = "`nas front --help` explains."
_Action = Callable[[Sequence[Path], dict[str, str]], str]
_COMMANDS: dict[str, tuple[_Action, int, tuple[str, ...] | None]] = {
    "show": (_show, 1, ("searcher", "x", "y")),
    "choose": (_choose, 1, None),
    "merge": (_merge, 2, ("searcher",)),
    "export": (_export, 2, ("searcher",)),
    "compare": (_compare, 1, ("searcher", "plot", "x", "y")),
}
"""Word -> what it does, how many files it needs and its settings; None: any."""
_EXACT = ("show", "choose", "export")
"""Words that take no more files than they need."""


def _chosen(path: Path, searcher: str) -> list[Front]:
    """The fronts of a file by a searcher, by the run's own, or by all."""
    return list(read_fronts(path).values()) if searcher == _ALL else [Front.read(path, searcher or None)]


def _doubts(fronts: Sequence[Front]) -> list[str]:
    """Warnings on numbers of several fronts, in words."""
    first, found = fronts[0], []
    if any(front.fingerprint != first.fingerprint for front in fronts):
        found.append("Note: the fronts are of several spaces.")
    elif any(not np.allclose(front.reference, first.reference, rtol=1e-9, atol=0) for front in fronts):
        found.append(
            "Note: the searches' reference points differ, so their values come from predictors that were fitted "
            "differently and are only as comparable as these."
        )
    limits = [[column.limit for column in front.columns] for front in fronts]
    if any(limit != limits[0] for limit in limits):
        found.append("Note: the searches had different limits.")
    return found


def _labels(paths: Sequence[Path]) -> list[str]:
    """The parts of the paths that tell them apart."""
    parts = [path.with_suffix("").parts for path in paths]
    shared = next((i for i, column in enumerate(zip(*parts, strict=False)) if len(set(column)) > 1), None)
    if shared is None:
        return [str(path) for path in paths]
    ends = [tuple(reversed(part)) for part in parts]
    after = next((i for i, column in enumerate(zip(*ends, strict=False)) if len(set(column)) > 1), 0)
    return [str(Path(*part[shared : max(len(part) - after, shared + 1)])) for part in parts]


def _figure(comparison: Comparison, attained: Attained) -> bytes:
    """The attainment surfaces as a PNG file."""
    from nas.report import figures  # matplotlib takes a second to import

    costs = np.concatenate([surface for found in attained.surfaces.values() for surface in found.values()])
    span = np.ptp(costs, axis=0)
    worst = costs.max(0) + 0.04 * np.where(span > 0, span, np.abs(costs).max(0))  # where the lines end
    natural = attained.natural(costs)
    first = comparison.fronts[0][1]
    (y_title, y_factor), (x_title, x_factor) = (
        figures.axis(_on_device(goal, first), goal.unit, values.tolist())
        for goal, values in zip(attained.goals, natural.T, strict=True)
    )

    def corners(surface: Floats) -> list[tuple[float, float]]:
        path = attained.natural(_staircase(surface, worst)) * [y_factor, x_factor]
        return [(float(along), float(up)) for up, along in path]

    drawn: list[Surfaces] = [
        figures.Surfaces(name, len(comparison.searchers[name]), **{key: corners(s) for key, s in found.items()})
        for name, found in attained.surfaces.items()
    ]
    return figures.png(figures.attainment(drawn, x_axis=x_title, y_axis=y_title))


def _on_device(column: Column, front: Front) -> str:
    """The name of a column with the device, where its values are of one."""
    of_device = column.unit in ("ms", "bytes") and "@" not in column.name and front.joint is None
    return f"{column.name}@{front.device}" if of_device else column.name


def _staircase(surface: Floats, worst: Floats) -> Floats:
    """The border of what a surface of two costs (m, 2), sorted by the last, attains, up to a worst point; corners."""
    y, x = surface.T
    along, up = np.repeat(x, 2), np.repeat(y, 2)
    return np.stack([[worst[0], *up], [*along, worst[1]]], axis=1)


def _printable(text: str) -> str:
    """The text in letters that the terminal has."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = text.translate({**str.maketrans("•◆│┤└─┬–", "*#||+-+-"), ord("≤"): "<=", ord("≥"): ">="})
        return plain.encode(encoding, "replace").decode(encoding)
    return text

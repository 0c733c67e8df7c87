"""Fronts, and comparisons of them, as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.core import pareto
from nas.run.fronts import (
    LEVELS,
    SHOWN,
    Attained,
    Comparison,
    Floats,
    Front,
    aligned,
    axes_of,
    network_lines,
    plural,
    shown_rows,
)
from nas.run.records import Column
from search_spaces.metric import number_text


def summary_lines(
    front: Front, *, x: str | None = None, y: str | None = None, plot: bool = True, rows: int = SHOWN
) -> list[str]:
    """Summary of a front: some of its networks, a plot, its knee and its hypervolume.

    Args:
        front: to show.
        x: the column on the plot's axis; without it the second goal.
        y: the column on the plot's other axis; without it the first goal.
        plot: whether there is one.
        rows: networks that are printed at most, spread along the front; 3 or more.
    """
    knee, count = front.knee, len(front)
    few = shown_rows(front, rows)
    shown = "" if len(few) == count else f", {len(few)} of them here (`nas front show FILE all=true` prints all)"
    lines = [f"{front.place}, {front.searcher}: {plural(count, 'network')} of {front.space} on the front{shown}"]
    limits = [limit_text(front, c) for c in front.columns if c.limit is not None]
    if limits:
        lines.append(f"searched with {', '.join(limits)}")
    lines += ["", *(f"  {line}" for line in network_lines(front, rows))]
    axes = axes_of([c.name for c in sorted(front.columns, key=lambda column: column.goal is None)], x, y)
    if plot and axes:
        (across, x_values), (up, y_values) = map(front.column, axes)
        lines += ["", *plot_text(x_values, y_values, x_name=across.name, y_name=up.name, marked=knee)]
    bounds = ", ".join(f"{c.name} {number_text(r)}" for c, r in zip(front.goals, front.reference, strict=True))
    effort = f"{plural(front.evaluations, 'evaluation')} in {front.seconds:.1f} s"
    lines += ["", f"hypervolume {number_text(front.hypervolume)} from the reference point ({bounds}); {effort}"]
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
    point = ", ".join(f"{goal.name} {number_text(bound)}" for goal, bound in zip(first.goals, bounds, strict=True))
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
            aligned(np.array(volumes)),
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
    cells = np.array(aligned(natural)).reshape(best.shape)
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


def limit_text(front: Front, column: Column) -> str:
    """Limits that a search kept to, and what the user had set where that is another value."""
    assert column.limit is not None
    given = front.limits.get(column.name)
    margin = "" if given is None or np.isclose(given, column.limit) else f" (limit {number_text(given)} less a margin)"
    return f"{column.name} {column.sign} {number_text(column.limit)}{margin}"

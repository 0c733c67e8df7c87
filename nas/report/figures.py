"""Figures of the report: plain numbers in, a matplotlib figure out. No file is read or written here.

Only the object-oriented interface of matplotlib is used, so nothing global changes and no display is needed. The
colours are those of Okabe and Ito, "Color Universal Design" (2008): readers with any colour vision can tell them apart.
"""

from __future__ import annotations

import collections
import functools
import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from nas.core import pareto
from nas.run.layer_costs import Roof
from search_spaces.cells import Cell
from search_spaces.layers import Bottleneck, Layer
from search_spaces.metric import Direction, as_cost, title_of
from search_spaces.network import Network
from search_spaces.ops.arithmetic import Add
from search_spaces.ops.convolution import Convolution, per_axis
from search_spaces.ops.pooling import GlobalPool
from search_spaces.program import Program

INK, MUTED, LINE, GREY = "#1c2733", "#5b6875", "#e3e7eb", "#8b96a1"
BLUE, VERMILION, GREEN = "#0072b2", "#d55e00", "#009e73"
KERNEL_COLOURS = {1: "#dbe9f6", 3: "#9ecae1", 5: "#3f8fc5", 7: "#0b4f8f"}
"""Colours from light to dark with the kernel size, so that they also differ in print without colour."""

WIDTH = 10.4
"""Inches: shown at 100 dots per inch, a figure fills the column of the report."""
DOTS_PER_INCH = 200


class Unit(NamedTuple):
    """A unit to show values in: its name and how many of it one stored unit is."""

    name: str
    factor: float


class PlotPoint(NamedTuple):
    """A network as two of its values, such as its latency and its accuracy (a share of 1)."""

    x: float
    y: float


class Pair(NamedTuple):
    """A network as predicted and as measured; ``label`` is written beside it unless empty."""

    label: str
    predicted: PlotPoint
    measured: PlotPoint


class Scatter(NamedTuple):
    """Held-out networks of one predictor. ``margin`` of the band is a share of the truth, or absolute.

    ``std`` are stated standard deviations, drawn as bars of twice that; ``axes`` are the names of the two axes.
    """

    title: str
    unit: Unit
    truth: Sequence[float]
    predicted: Sequence[float]
    margin: float
    margin_name: str
    relative: bool
    std: Sequence[float] = ()
    axes: tuple[str, str] = ("True", "Predicted")


class Uncertainty(NamedTuple):
    """Errors of one predictor beside the standard deviations that it stated; levels and shares are shares of 1.

    ``low`` and ``high`` bound the shares that chance gives a calibrated predictor.
    """

    levels: Sequence[float]
    observed: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    unit: Unit
    std: Sequence[float]
    errors: Sequence[float]


class Surfaces(NamedTuple):
    """Attainment surfaces of a searcher's runs, each as the corners of a line, (x, y)."""

    name: str
    runs: int
    best: Sequence[tuple[float, float]]
    median: Sequence[tuple[float, float]]
    worst: Sequence[tuple[float, float]]


class LayerPoint(NamedTuple):
    """A layer on a device: its multiply-accumulates in one run, and the milliseconds that it takes."""

    position: str
    kind: str
    macs: float
    ms: float


class Waterline(NamedTuple):
    """The layers of one network on a device, and what the network is called."""

    title: str
    layers: Sequence[LayerPoint]


class NetworkRow(NamedTuple):
    """One network to draw; rows of one group stand under its name."""

    group: str
    label: str
    note: str
    layers: Mapping[str, Layer]


def latency_unit(values_ms: Sequence[float]) -> Unit:
    """Unit that all these latencies read well in: µs if one is below 0.1 ms and none reaches 1 ms, s from 1000 ms."""
    lowest, highest = min(values_ms, default=1.0), max(values_ms, default=1.0)
    if lowest < 0.1 and highest < 1:
        return Unit("µs", 1000.0)
    return Unit("s", 0.001) if highest >= 1000 else Unit("ms", 1.0)


def unit_for(unit: str, values: Sequence[float]) -> Unit:
    """Unit that values of a unit read well in."""
    highest = max(map(abs, values), default=math.inf)
    if unit == "ms":
        return latency_unit(values)
    if unit == "bytes":
        return Unit("MiB", 1 / 1024**2) if highest >= 1024**2 else Unit("KiB", 1 / 1024)
    if unit not in ("", "1"):
        return Unit(unit, 1.0)
    large = [u for u in (Unit("G", 1e-9), Unit("M", 1e-6), Unit("k", 1e-3)) if 1 <= highest * u.factor < math.inf]
    return large[0] if large else Unit("%", 100.0) if highest <= 1 else Unit("", 1.0)


def axis(name: str, unit: str, values: Sequence[float]) -> tuple[str, float]:
    """The title of an axis for values such as ``latency_ms@host``, and the factor to draw them with."""
    title, shown = title_of(name, unit), unit_for(unit, values)
    return title[:1].upper() + title[1:] + (f" ({shown.name})" if shown.name else ""), shown.factor


def duration(seconds: float) -> str:
    """A time span in words."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def png(figure: Figure) -> bytes:
    """The figure as a PNG file; equal figures give equal bytes."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def front(
    found: Sequence[PlotPoint],
    contrast: Sequence[PlotPoint],
    pairs: Sequence[Pair],
    *,
    found_by: str,
    contrast_by: str,
    measured_name: str,
    limit: float | None,
    per_batch: str = "",
    goals: tuple[tuple[str, str], tuple[str, str]] | None = None,
    judged: tuple[str, float] = ("accuracy (%)", 100.0),
    directions: tuple[Direction, Direction] | None = ("max", "min"),
    baselines: Mapping[str, Sequence[PlotPoint]] | None = None,
) -> Figure:
    """One goal against another: the predicted front, what verifying measured, the contrast's front and baselines.

    A staircase leads through the points of a front that no other one of it dominates in the two goals.

    Args:
        found: predicted front of the run's searcher.
        contrast: predicted front of the other searcher; may be empty.
        pairs: verified networks.
        found_by: name of the run's searcher.
        contrast_by: name of the other one.
        measured_name: what the second point of a pair is called, for example ``measured``.
        limit: on the horizontal axis, drawn as a dashed line.
        per_batch: what a latency is of, where it is not of one image.
        goals: name and unit of the vertical and of the horizontal axis; None: the task's metric over latency.
        judged: title of the task's metric, with its unit, and the factor to draw it with.
        directions: of the vertical and of the horizontal axis; None: no staircase.
        baselines: name -> networks in the order in which a dotted line joins them, such as those of a scaling rule.
    """
    lines = {name: networks for name, networks in (baselines or {}).items() if networks}
    points = [*found, *contrast, *(point for pair in pairs for point in pair[1:]), *itertools.chain(*lines.values())]
    unit = latency_unit([point.x for point in points])
    across, up = (f"Latency ({unit.name}{per_batch})", unit.factor), (f"Validation {judged[0]}", judged[1])
    if goals is not None:
        up, across = (axis(*goal, [point[1 - i] for point in points]) for i, goal in enumerate(goals))
    factors = across[1], up[1]
    figure, (axes,) = _panels(1, width=WIDTH, height=4.9)

    for drawn, by, colour, width, layer in ((found, found_by, BLUE, 2, 3), (contrast, contrast_by, GREY, 1.5, 2)):
        if drawn:
            x, y = _coordinates(drawn, factors)
            name, size = f"{by}, predicted", 4 if layer == 3 else 3.5
            if directions:
                corners = _coordinates(_corners(drawn, *directions), factors)
                where = "post" if directions[1] == "min" else "pre"
                axes.step(*corners, where=where, color=colour, linewidth=width, label=name, zorder=layer)
            axes.plot(x, y, "o", color=colour, markersize=size, label=None if directions else name, zorder=layer)
    for colour, (name, networks) in zip(itertools.cycle((GREEN, *_MANY_COLOURS[3:])), lines.items(), strict=False):
        x, y = _coordinates(networks, factors, ascending=False)
        axes.plot(x, y, "s:", color=colour, linewidth=1.3, markersize=4.5, label=name, zorder=2)
    for pair in pairs:
        x, y = _coordinates(pair[1:], factors, ascending=False)
        axes.plot(x, y, color=VERMILION, linewidth=1, alpha=0.7, zorder=4)
    if pairs:
        x, y = _coordinates([pair.predicted for pair in pairs], factors, ascending=False)
        axes.plot(x, y, "o", color="white", markeredgecolor=BLUE, markeredgewidth=1.8, markersize=8, zorder=5)
        x, y = _coordinates([pair.measured for pair in pairs], factors, ascending=False)
        axes.plot(x, y, "D", color=VERMILION, markersize=7.5, label=measured_name, zorder=6)
    if limit is not None:
        axes.axvline(limit * across[1], color=INK, linestyle=(0, (5, 4)), linewidth=1.3, label="limit", zorder=1)

    axes.margins(x=0.06, y=0.1)
    axes.set_xlabel(across[0], fontsize=11, color=INK)
    axes.set_ylabel(up[0], fontsize=11, color=INK)
    handles, _ = axes.get_legend_handles_labels()
    if handles:  # above the axes, where no network can be
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=10.5, frameon=False, labelcolor=INK)
    texts = [(pair.measured.x * across[1], pair.measured.y * up[1], pair.label) for pair in pairs if pair.label]
    _place_texts(figure, axes, texts)
    return figure


def scatter(panels: Sequence[Scatter]) -> Figure:
    """Predicted against true values of held-out networks, one panel per predictor, with a band around equality."""
    figure, all_axes = _panels(len(panels), height=3.85)
    for axes, panel in zip(all_axes, panels, strict=True):
        truth = np.asarray(panel.truth, float) * panel.unit.factor
        predicted = np.asarray(panel.predicted, float) * panel.unit.factor
        values = np.concatenate([truth, predicted]) if truth.size else np.array([0.0, 1.0])
        spread = float(values.max() - values.min()) or abs(float(values.max())) or 1.0
        ends = np.array([values.min() - 0.07 * spread, values.max() + 0.07 * spread])
        margin = panel.margin * (np.abs(ends) if panel.relative else panel.unit.factor)
        axes.fill_between(
            ends, ends - margin, ends + margin, color=GREEN, alpha=0.14, linewidth=0, label=panel.margin_name
        )
        axes.plot(ends, ends, color=MUTED, linewidth=1)
        if len(panel.std):
            bars = 2 * np.asarray(panel.std, float) * panel.unit.factor
            axes.errorbar(truth, predicted, bars, fmt="none", ecolor=GREY, elinewidth=0.8, alpha=0.6, label="± 2 std")
        axes.plot(truth, predicted, "o", color=BLUE, alpha=0.6, markersize=4.5, markeredgewidth=0)
        axes.set(xlim=ends, ylim=ends)
        axes.set_aspect("equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
        _title(axes, panel.title)
        unit = f" ({panel.unit.name})" if panel.unit.name else ""
        axes.set_xlabel(f"{panel.axes[0]}{unit}", fontsize=10.5, color=INK)
        axes.set_ylabel(f"{panel.axes[1]}{unit}", fontsize=10.5, color=INK)
        _legend(axes)
    return figure


def calibration(uncertainty: Uncertainty) -> Figure:
    """Figure of how well stated standard deviations hold: coverage of their intervals, and errors beside them."""
    figure, (coverage, sharpness) = _panels(2, height=3.85)
    ends, nominal = [0, 100], 100 * np.asarray(uncertainty.levels, float)
    low, high = (100 * np.asarray(bound, float) for bound in (uncertainty.low, uncertainty.high))
    coverage.fill_between(nominal, low, high, color=GREEN, alpha=0.14, linewidth=0, label="chance, 95 %")
    coverage.plot(ends, ends, color=MUTED, linewidth=1)
    observed = 100 * np.asarray(uncertainty.observed, float)
    coverage.plot(nominal, observed, "o-", color=BLUE, linewidth=2, markersize=4.5)
    coverage.set(xlim=(-3, 103), ylim=(-3, 103))
    coverage.set_aspect("equal")
    _title(coverage, "Coverage of its intervals")
    coverage.set_xlabel("Stated (%)", fontsize=10.5, color=INK)
    coverage.set_ylabel("Observed (%)", fontsize=10.5, color=INK)
    _legend(coverage)

    std, errors = (np.asarray(x, float) * uncertainty.unit.factor for x in (uncertainty.std, uncertainty.errors))
    most = 1.08 * float(max(std.max(initial=0.0), 1e-12))
    sharpness.fill_between([0, most], [0, 2 * most], color=GREEN, alpha=0.14, linewidth=0, label="95 % should be here")
    sharpness.plot(std, np.abs(errors), "o", color=BLUE, alpha=0.6, markersize=4.5, markeredgewidth=0)
    sharpness.set(xlim=(0, most), ylim=(0, max(2 * most, 1.08 * float(np.abs(errors).max(initial=0.0)))))
    for axis in (sharpness.xaxis, sharpness.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    _title(sharpness, "Sharpness and errors")
    sharpness.set_xlabel(f"Stated standard deviation ({uncertainty.unit.name})", fontsize=10.5, color=INK)
    sharpness.set_ylabel(f"Error ({uncertainty.unit.name})", fontsize=10.5, color=INK)
    _legend(sharpness)
    return figure


def learning(title: str, networks: Sequence[int], taus: Sequence[float], doubled: tuple[float, float]) -> Figure:
    """Kendall tau on held-out networks against the number of networks that a predictor was fitted to.

    Args:
        title: of the predictor.
        networks: that each fit had, in rising order.
        taus: of the fits.
        doubled: tau that twice as many as the last are expected to give, and its standard error.
    """
    figure, (axes,) = _panels(1, height=2.9)
    colour, sizes = _searcher_colours()[0], sorted({*networks})
    means = [float(np.mean([tau for n, tau in zip(networks, taus, strict=True) if n == size])) for size in sizes]
    axes.plot(networks, taus, ".", color=GREY, label="single fits")
    axes.plot(sizes, means, color=colour, linewidth=2, label="mean")
    axes.plot([sizes[-1], 2 * sizes[-1]], [means[-1], doubled[0]], color=colour, linestyle="--", linewidth=1.5)
    axes.errorbar([2 * sizes[-1]], [doubled[0]], yerr=[doubled[1]], color=colour, fmt="o", label="expected", capsize=3)
    _title(axes, title)
    axes.set_xlabel("Networks fitted to", fontsize=10.5, color=INK)
    axes.set_ylabel("Kendall’s τ, held-out", fontsize=10.5, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    _legend(axes)
    return figure


def hypervolume(panels: Sequence[tuple[str, Mapping[str, Sequence[tuple[float, float]]]]]) -> Figure:
    """Hypervolume against evaluations, one panel per device.

    Args:
        panels: title, and searcher -> (evaluations, hypervolume) in order; the first searcher is the run's own.
    """
    figure, all_axes = _panels(len(panels), height=2.9)
    for axes, (title, searchers) in zip(all_axes, panels, strict=True):
        best = max((value for history in searchers.values() for _, value in history), default=0.0) or 1.0
        for (name, history), colour in zip(searchers.items(), _searcher_colours(), strict=False):
            x = [evaluations for evaluations, _ in history]
            y = [100 * value / best for _, value in history]
            axes.plot(x, y, color=colour, linewidth=2, label=name, marker="o" if len(x) == 1 else None)
        _title(axes, title)
        axes.set_xlabel("Networks evaluated", fontsize=10.5, color=INK)
        axes.set_ylabel("Hypervolume (% of best)", fontsize=10.5, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if searchers:
            _legend(axes)
    return figure


def attainment(searchers: Sequence[Surfaces], *, x_axis: str, y_axis: str) -> Figure:
    """Empirical attainment surfaces: the median of each searcher's runs as a line, best to worst as a band.

    Fonseca and Fleming, PPSN 1996.
    """
    figure, (axes,) = _panels(1, width=WIDTH, height=4.9)
    dashes = ("-", (0, (5, 2)), (0, (1, 1.5)))
    for number, one in enumerate(searchers):
        colour = _MANY_COLOURS[number % len(_MANY_COLOURS)]
        style = dashes[number // len(_MANY_COLOURS) % len(dashes)]
        label = f"{one.name}, median of {one.runs} runs" if one.runs > 1 else f"{one.name}, one run"
        if one.runs > 1:
            x, y = zip(*one.best, *reversed(one.worst), strict=True)
            axes.fill(x, y, color=colour, alpha=0.16, linewidth=0, zorder=2)
            for bound in (one.best, one.worst):
                axes.plot(*zip(*bound, strict=True), color=colour, linewidth=0.8, alpha=0.7, zorder=3)
        axes.plot(*zip(*one.median, strict=True), color=colour, linestyle=style, linewidth=2, label=label, zorder=4)
    axes.margins(x=0.02, y=0.04)
    axes.set_xlabel(x_axis, fontsize=11, color=INK)
    axes.set_ylabel(y_axis, fontsize=11, color=INK)
    if any(one.runs > 1 for one in searchers):
        axes.fill([], [], color=GREY, alpha=0.3, linewidth=0, label="best to worst run")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=10.5, frameon=False, labelcolor=INK)
    return figure


NAMED_LAYERS = 3
"""Layers of a network that are named: those that take the most time."""


def waterline(networks: Sequence[Waterline], roof: Roof | None = None) -> Figure:
    """Computational efficiency against work: achieved GMAC/s over the MACs of each layer, a panel per network.

    The area of a circle is the layer's share of the time. The waterline is the network's mean, all MACs over all time.
    Dotted diagonals are of equal time. The roof is what layers reach on the device: the speed of the best one, and
    among small ones what a fixed overhead leaves (after Williams et al., "Roofline", CACM 2009, which has the memory
    in place of the overhead). Layers without MACs are told above the panel.

    Args:
        networks: with their layers.
        roof: of the device; None: it is not known.
    """
    figure, all_axes = _panels(len(networks), width=WIDTH, height=4.9)
    drawn = [[layer for layer in network.layers if layer.macs > 0 and layer.ms > 0] for network in networks]
    colours = _kind_colours([layer for layers in drawn for layer in layers])
    most = max((layer.macs for layers in drawn for layer in layers), default=1.0)
    unit = Unit("M", 1e-6) if most >= 3e5 else Unit("k", 1e-3)
    spots = [
        np.array([(unit.factor * layer.macs, 1e-6 * layer.macs / layer.ms) for layer in layers]).reshape(-1, 2)
        for layers in drawn
    ]
    everything = np.concatenate([*spots, np.ones((0 if any(map(len, spots)) else 1, 2))])
    low, high = everything.min(0) / 1.8, everything.max(0) * 1.8
    if roof is not None:
        high[1] = max(high[1], 2.2 * _roof_at(high[0] / unit.factor, roof))  # and its text above it
    for axes, network, layers, spot in zip(all_axes, networks, drawn, spots, strict=True):
        axes.set(xscale="log", yscale="log", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        for axis, decades in ((axes.xaxis, np.log10(high / low)[0]), (axes.yaxis, np.log10(high / low)[1])):
            axis.set_major_locator(LogLocator(subs=(1.0, 3.0) if decades < 2.5 else (1.0,), numticks=8))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        total = sum(layer.ms for layer in network.layers)
        idle = sum(layer.ms for layer in network.layers if layer.macs <= 0)
        mean = 1e-6 * sum(layer.macs for layer in layers) / total if total else 0.0
        rest = f"; no MACs in {100 * idle / total:.0f} % of the time" if total and idle / total >= 0.005 else ""
        axes.set_title(f"mean {mean:.3g} GMAC/s{rest}", fontsize=9.5, color=MUTED, loc="left", pad=4)
        axes.annotate(
            _shortened(network.title, 36),
            (0, 1),
            xytext=(0, 20),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=11,
            fontweight="bold",
            color=INK,
        )
        _draw_equal_times(axes, low, high, unit.factor / 1e-6)
        if roof is not None:
            _draw_roof(axes, low, high, roof, unit)
        if mean > 0:
            axes.axhline(mean, color=INK, linestyle=(0, (5, 3)), linewidth=1.4, zorder=2)
        areas, filled = [14 + 1600 * layer.ms / total for layer in layers], [colours[layer.kind] for layer in layers]
        axes.scatter(*spot.T, areas, filled, alpha=0.65, edgecolors="white", linewidths=0.7, zorder=3)
        named = [f"{number}  {layer.position}: {100 * layer.ms / total:.0f} %" for number, layer in _slowest(layers)]
        axes.set_xlabel(
            "\n".join([f"MACs of the layer ({unit.name})", *named]), fontsize=10, color=INK, linespacing=1.4
        )
    all_axes[0].set_ylabel("Achieved GMAC/s", fontsize=10.5, color=INK)
    names = {colour: "other kinds" if colour == GREY else kind for kind, colour in colours.items()}
    handles = [
        Line2D([], [], color=colour, marker="o", linestyle="", markersize=8, alpha=0.75, label=name)
        for colour, name in names.items()
    ]
    handles.append(Line2D([], [], color=INK, linestyle=(0, (5, 3)), linewidth=1.4, label="waterline"))
    if roof is not None:
        handles.append(Line2D([], [], color=GREEN, linewidth=1.6, label="roof"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=9.5, frameon=False, labelcolor=INK)
    for axes, layers, spot in zip(all_axes, drawn, spots, strict=True):
        texts = [(*spot[layers.index(layer)], str(number)) for number, layer in _slowest(layers)]
        _place_texts(figure, axes, texts, points=spot)
    return figure


def _kind_colours(layers: Sequence[LayerPoint]) -> dict[str, str]:
    """A colour for each kind of layer, those that take the most time first; the last one is for all others."""
    times: dict[str, float] = {}
    for layer in layers:
        times[layer.kind] = times.get(layer.kind, 0.0) + layer.ms
    kinds, own = sorted(times, key=lambda kind: -times[kind]), _MANY_COLOURS[:-1]
    return {kind: own[number] if number < len(own) else GREY for number, kind in enumerate(kinds)}


def _slowest(layers: Sequence[LayerPoint]) -> list[tuple[int, LayerPoint]]:
    """The layers that take the most time, numbered."""
    return list(enumerate(sorted(layers, key=lambda layer: -layer.ms)[:NAMED_LAYERS], 1))


def _draw_equal_times(axes: Any, low: NDArray[np.float64], high: NDArray[np.float64], per_million: float) -> None:
    """Dotted diagonals of equal time over MACs and GMAC/s, both logarithmic, each with its time beside it; so many of
    the horizontal unit are a million."""
    first, last = (math.log10(ms / per_million) for ms in (low[0] / high[1], high[0] / low[1]))
    step = max(1, round((last - first) / 4))
    for power in range(math.ceil(first), math.floor(last) + 1, step):
        ms = 10.0**power
        slope = 1 / (ms * per_million)
        axes.plot([low[0], high[0]], [low[0] * slope, high[0] * slope], ":", color=GREY, linewidth=0.9, zorder=1)
        x, y = (high[1] / slope, high[1]) if high[1] / slope < high[0] else (high[0], high[0] * slope)
        if x > low[0] * (high[0] / low[0]) ** 0.15 and y / low[1] > 1.6:  # else the corner has no room
            unit = latency_unit([ms])
            axes.annotate(
                f"{ms * unit.factor:g} {unit.name}",
                (x, y),
                xytext=(-3, -3),
                textcoords="offset points",
                fontsize=8,
                color=MUTED,
                ha="right",
                va="top",
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )


def _roof_at(macs: float, roof: Roof) -> float:
    """Most GMAC/s that a layer of so many MACs reaches."""
    return min(roof.gmacs_per_s, 1e-6 * macs / roof.overhead_ms) if roof.overhead_ms > 0 else roof.gmacs_per_s


def _draw_roof(axes: Any, low: NDArray[np.float64], high: NDArray[np.float64], roof: Roof, unit: Unit) -> None:
    """Draw the roof over MACs, in a unit, and GMAC/s, both logarithmic; above it, where no layer is, its numbers."""
    knee = min(max(1e6 * roof.gmacs_per_s * roof.overhead_ms * unit.factor, low[0]), high[0])
    x = np.array([low[0], knee, high[0]])
    y = np.array([_roof_at(one / unit.factor, roof) for one in x])
    axes.plot(x, y, color=GREEN, linewidth=1.6, zorder=2)
    time = latency_unit([roof.overhead_ms])
    overhead = f", overhead {roof.overhead_ms * time.factor:.3g} {time.name}" if knee > low[0] else ""
    axes.annotate(
        f"best layer {roof.gmacs_per_s:.3g} GMAC/s{overhead}",
        (low[0], y[-1]),
        xytext=(4, 3),
        textcoords="offset points",
        fontsize=8,
        color=GREEN,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        zorder=7,
    )


def training(
    epochs: Sequence[int],
    loss: Sequence[float],
    accuracy: Mapping[str, Sequence[float | None]],
    title: str = "accuracy (%)",
    factor: float = 100.0,
) -> Figure:
    """Loss and, where some epoch has one, accuracy of named subnetworks against the epoch.

    Args:
        epochs: numbers.
        loss: of each epoch.
        accuracy: or what else the task is judged by, by subnetwork.
        title: of that, with its unit.
        factor: to draw it with.
    """
    curves = {
        name: [(epoch, factor * value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
        for name, values in accuracy.items()
    }
    curves = {name: curve for name, curve in curves.items() if curve}
    figure, all_axes = _panels(2 if curves else 1, width=WIDTH, height=3.1)
    all_axes[0].plot(epochs, loss, color=INK, linewidth=2, marker="o" if len(epochs) == 1 else None)
    all_axes[0].set_ylim(bottom=0)
    _title(all_axes[0], "Training loss")
    for (name, curve), colour in zip(curves.items(), (BLUE, VERMILION, GREEN), strict=False):
        x, y = zip(*curve, strict=True)
        all_axes[1].plot(x, y, color=colour, linewidth=2, marker="o", markersize=4, label=name)
    if curves:
        _title(all_axes[1], f"Validation {title}")
        _legend(all_axes[1])
    for axes in all_axes:
        axes.set_xlabel("Epoch", fontsize=10.5, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    return figure


def stages(names: Sequence[str], seconds: Sequence[float], skipped: Sequence[bool]) -> Figure:
    """Time per stage as horizontal bars in the order of the run, from top to bottom."""
    figure, (axes,) = _panels(1, width=WIDTH, height=0.75 + 0.36 * max(len(names), 1))
    y = np.arange(len(names))
    axes.barh(y, seconds, height=0.62, color=[LINE if s else BLUE for s in skipped])
    for row, (value, was_skipped) in enumerate(zip(seconds, skipped, strict=True)):
        text = "reused: its inputs had not changed" if was_skipped else duration(value)
        axes.annotate(
            text, (value, row), xytext=(6, 0), textcoords="offset points", va="center", fontsize=10.5, color=INK
        )
    axes.set_yticks(y, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max([*seconds, 0.1]))
    axes.set_xlabel("Seconds", fontsize=10.5, color=INK)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, labelsize=10.5, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    return figure


# -- networks as rows of boxes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """Picture of a layer.

    Args:
        ratio: the box is as wide as this many units; 0: just as wide as its text needs.
        kernel: gives height and colour; None: a plain box.
        text: written inside where it fits.
    """

    ratio: float
    kernel: int | None
    text: str


@functools.singledispatch
def box(layer: Layer) -> Box:
    """Picture of a layer, which follows from its program: as wide as the expand ratio where it has one, as high as its
    largest kernel, and a plus where the input is added to a convolution alone."""
    kernel, ratio = _largest_kernel(layer.program), _expand_ratio(layer.program)
    if ratio:
        return Box(ratio, kernel if kernel != 1 else None, f"{ratio:.2g}")
    return Box(0, kernel, "+" if _adds_input(layer.program) else "")


@box.register
def _(layer: Bottleneck) -> Box:
    ratio = layer.hidden / layer.out_channels
    return Box(4 * ratio, layer.kernel, f"{ratio:.2f}".lstrip("0"))  # ResNet's own ratio, 0.25, is one unit wide


@box.register
def _(layer: Cell) -> Box:
    return Box(0, _largest_kernel(layer.program), "")


def _convolutions(program: Program) -> dict[int, tuple[Convolution, int]]:
    """The convolutions of images, by the number of the tensor that each makes, with that of its input. Those behind
    global pooling, of a gate or a classifier, see no image."""
    found: dict[int, tuple[Convolution, int]] = {}
    pooled: set[int] = set()
    for output, step in enumerate(program.steps, len(program.inputs)):
        if isinstance(step.op, GlobalPool) or step.inputs[0] in pooled:
            pooled.add(output)
        elif isinstance(step.op, Convolution):
            found[output] = step.op, step.inputs[0]
    return found


def _kernel(op: Convolution, program: Program, source: int) -> int:
    return max(per_axis(op.kernel, len(program.shapes[source]) - 1))


def _largest_kernel(program: Program) -> int | None:
    kernels = [_kernel(op, program, source) for op, source in _convolutions(program).values()]
    return max(kernels, default=None)


def _expand_ratio(program: Program) -> float:
    """Most channels between a convolution and a later 1x1 one, as a multiple of the input's; 0: there are none."""
    convolutions = _convolutions(program)
    made = dict.fromkeys(convolutions, True)  # whether a tensor comes from a convolution, by element-wise operators
    widest = 0
    for output, step in enumerate(program.steps, len(program.inputs)):
        source = step.inputs[0]
        if output in convolutions:
            if _kernel(convolutions[output][0], program, source) == 1 and made.get(source, False):
                widest = max(widest, program.shapes[source][0])
        else:
            made[output] = made.get(source, False)
    return widest / program.inputs[0][0]


def _adds_input(program: Program) -> bool:
    """True if the last operator adds the input to what it is given."""
    last = program.steps[-1] if program.steps else None
    return last is not None and isinstance(last.op, Add) and bool({*last.inputs} & {*range(len(program.inputs))})


def group_layers(layers: Mapping[str, Layer]) -> list[dict[str, Layer]]:
    """The network cut where the kind of layer or the shape of the activations changes: its stages."""
    groups: list[dict[str, Layer]] = []
    previous: tuple[Any, ...] | None = None
    for name, layer in layers.items():
        key = (type(layer), layer.output_shape)
        if key != previous:
            groups.append({})
        groups[-1][name] = layer
        previous = key
    return groups


def aligned(grouped: Sequence[list[dict[str, Layer]]]) -> list[list[dict[str, Layer]]]:
    """Groups of layers of several networks in common columns, named by the first layer; {} where a network has none."""
    columns: list[str] = []
    for groups in grouped:
        after = 0
        for name in (next(iter(group)) for group in groups):
            if name not in columns:
                columns.insert(after, name)
            after = columns.index(name) + 1
    named = [{next(iter(group)): group for group in groups} for groups in grouped]
    return [[groups.get(name, {}) for name in columns] for groups in named]


_GAP = 0.16  # inches between stages
_BETWEEN = 0.03  # inches between the boxes of one stage
_LEFT, _RIGHT = 2.25, 1.6  # inches for the texts beside the boxes
_ARC = 0.1  # inches that the arc of a branch rises above the boxes
_LETTER = 0.078  # inches that a letter of the small texts takes
_STRIPE = 0.05  # inches that the stripe of a kind is high
_LEAST = 0.2  # inches that a box without an expand ratio takes
_LEAST_SCALE = 0.02  # inches per unit of expand ratio


def networks(rows: Sequence[NetworkRow]) -> Figure:
    """Networks as rows of boxes, one box per layer, stages in columns.

    A box is as wide as the expand ratio and as high and dark as the kernel. Where a column has layers of several kinds,
    a stripe has the colour of the kind. An arc leads from a layer to one that reads it later than the next. Where the
    boxes reach beyond the edge, layers are together whose names begin alike (cells), and cells that look alike are
    drawn once.
    """
    left = max(_LEFT, max((_LETTER * len(row.label) for row in rows), default=0.0) + 1.0)  # the label, then the input
    room = WIDTH - left - _RIGHT
    grouped = aligned([group_layers(row.layers) for row in rows])
    heads, least = _heads(grouped), _LEAST
    if sum(_column_widths(grouped, heads, _LEAST_SCALE, least)) + _GAP * len(heads) > room + _RIGHT:
        grouped, heads = _condensed(rows)
        least *= 0.7

    def column_widths(scale: float) -> list[float]:
        return _column_widths(grouped, heads, scale, least)

    colours = _stripes(grouped)
    scale = 0.32  # as long as all fits
    while sum(column_widths(scale)) + _GAP * len(heads) > room and scale > _LEAST_SCALE:
        if column_widths(0.97 * scale) == column_widths(scale):
            break  # only the heads take space
        scale *= 0.97
    widths = column_widths(scale)
    starts = np.concatenate(([left], left + np.cumsum([width + _GAP for width in widths])))

    row_height, title_height, head_height, legend_height = 0.46, 0.42, 0.5, 0.85 if colours else 0.55
    titles = len(dict.fromkeys(row.group for row in rows))
    height = head_height + titles * title_height + len(rows) * row_height + legend_height
    figure = Figure(figsize=(WIDTH, height), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))  # one unit is one inch
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.axis("off")

    for c, (name, kind) in enumerate(heads):
        axes.text(starts[c], 0.2, name, fontsize=9.5, color=INK, va="center")
        axes.text(starts[c], 0.39, kind, fontsize=8, color=MUTED, va="center")
    y, group = head_height, None
    for row, groups in zip(rows, grouped, strict=True):
        if row.group != group:
            group = row.group
            axes.plot([0.05, WIDTH - 0.05], [y + 0.06] * 2, color=LINE, linewidth=1)
            axes.text(0.05, y + 0.27, group, fontsize=11, fontweight="bold", color=INK, va="center")
            y += title_height
        middle = y + row_height / 2
        axes.text(0.05, middle, row.label, fontsize=10.5, color=INK, va="center")
        axes.text(left - 0.2, middle, _input_size(row.layers), fontsize=10, color=MUTED, va="center", ha="right")
        axes.text(WIDTH - 0.05, middle, row.note, fontsize=10, color=INK, va="center", ha="right")
        tops: dict[str, tuple[float, float]] = {}
        for start, members in zip(starts[:-1], groups, strict=True):
            tops |= _draw_row(axes, start, middle, members, scale, least, colours)
        if row.layers:
            _draw_branches(axes, tops, Network.of(row.layers))
        y += row_height
    _draw_legend(axes, y + 0.32, [box(layer) for row in rows for layer in row.layers.values()])
    _draw_kinds(axes, y + 0.62, colours)
    return figure


Columns = list[list[dict[str, Layer]]]
"""Layers of each network in common columns."""


def _heads(grouped: Columns) -> list[tuple[str, str]]:
    """Name of the first layer of each column, and the kinds of all its layers, or how many there are."""
    heads = []
    for column in zip(*grouped, strict=True):
        name = next(name for group in column for name in group)
        kinds = [*dict.fromkeys(type(layer).__name__ for group in column for layer in group.values())]
        heads.append((name.split("_")[0], ", ".join(kinds) if len(kinds) <= 2 else f"{len(kinds)} kinds"))
    return heads


def _stripes(grouped: Columns) -> dict[str, str]:
    """A colour for each kind that shares a column with another one, the most frequent first; the last one is for all
    others."""
    columns = (
        [type(layer).__name__ for group in column for layer in group.values()] for column in zip(*grouped, strict=True)
    )
    kinds = collections.Counter(kind for column in columns if len(set(column)) > 1 for kind in column)
    names = [kind for kind, _ in kinds.most_common()]
    return {kind: _STRIPES[min(number, len(_STRIPES) - 1)] for number, kind in enumerate(names)}


def _condensed(rows: Sequence[NetworkRow]) -> tuple[Columns, list[tuple[str, str]]]:
    """Columns of the layers whose names begin alike, and their heads; those that look alike are one, and counted."""
    cells = [
        [dict(some) for _, some in itertools.groupby(row.layers.items(), lambda item: item[0].split("_")[0])]
        for row in rows
    ]
    grouped = aligned(cells)

    def look(layer: Layer) -> tuple[Box, str | None]:
        return box(layer), colours.get(type(layer).__name__)

    colours = _stripes(grouped)
    looks: dict[tuple[Any, ...], list[int]] = {}
    for number, column in enumerate(zip(*grouped, strict=True)):
        looks.setdefault(tuple(tuple(look(layer) for layer in group.values()) for group in column), []).append(number)
    kept = [[groups[numbers[0]] for numbers in looks.values()] for groups in grouped]
    heads = zip(_heads(kept), looks.values(), strict=True)
    return kept, [(name, f"x {len(numbers)}" if len(numbers) > 1 else "") for (name, _), numbers in heads]


def _column_widths(grouped: Columns, heads: Sequence[tuple[str, str]], scale: float, least: float) -> list[float]:
    return [
        max([_LETTER * max(map(len, head))] + [_row_width(groups[c].values(), scale, least) for groups in grouped])
        for c, head in enumerate(heads)
    ]


def _box_width(layer: Layer, scale: float, least: float) -> float:
    drawn = box(layer)
    return drawn.ratio * scale if drawn.ratio else max(least, _LETTER * len(drawn.text) + 0.5 * least)


def _row_width(layers: Any, scale: float, least: float) -> float:
    return sum(_box_width(layer, scale, least) + _BETWEEN for layer in layers)


def _box_height(kernel: int | None) -> float:
    return 0.22 if kernel is None else min(0.1 + 0.042 * kernel, 0.42)


def _kernel_colour(kernel: int | None) -> str:
    if kernel is None:
        return "#f1f3f5"
    return KERNEL_COLOURS[max([k for k in KERNEL_COLOURS if k <= kernel], default=1)]


def _draw_row(
    axes: Any,
    x: float,
    middle: float,
    layers: Mapping[str, Layer],
    scale: float,
    least: float,
    colours: Mapping[str, str],
) -> dict[str, tuple[float, float]]:
    """Draw the boxes of a stage; gives the middle of the upper edge of each."""
    tops = {}
    for name, layer in layers.items():
        drawn, width = box(layer), _box_width(layer, scale, least)
        _draw_box(axes, x, middle, width, drawn.kernel, colours.get(type(layer).__name__))
        if width > _LETTER * len(drawn.text) + 0.04:
            colour = "white" if drawn.kernel is not None and drawn.kernel >= 5 else INK
            axes.text(x + width / 2, middle, drawn.text, fontsize=8.5, color=colour, ha="center", va="center_baseline")
        tops[name] = x + width / 2, middle - _box_height(drawn.kernel) / 2
        x += width + _BETWEEN
    return tops


def _draw_branches(axes: Any, tops: Mapping[str, tuple[float, float]], network: Network) -> None:
    """Draw an arc for each layer that another one than the next reads, of those that are drawn."""
    order = {name: number for number, name in enumerate(network) if name in tops}
    for reader, sources in network.sources.items():
        for source in sources:
            if not {source, reader} <= set(order) or order[reader] == order[source] + 1:
                continue
            (x, top), (end_x, end_top) = tops[source], tops[reader]
            between = (tops[name][1] for name in order if order[source] <= order[name] <= order[reader])
            peak = min(between) - _ARC
            path = Path([(x, top), (x, peak), (end_x, peak), (end_x, end_top)], [Path.MOVETO, *[Path.CURVE4] * 3])
            axes.add_patch(PathPatch(path, facecolor="none", edgecolor=MUTED, linewidth=0.9))


def _draw_box(axes: Any, x: float, middle: float, width: float, kernel: int | None, stripe: str | None = None) -> None:
    height = _box_height(kernel)
    edge = GREY if kernel is None else _kernel_colour(kernel)
    corner = (x, middle - height / 2)
    axes.add_patch(Rectangle(corner, width, height, facecolor=_kernel_colour(kernel), edgecolor=edge, linewidth=0.8))
    if stripe is not None:
        axes.add_patch(Rectangle((x, middle + height / 2 - _STRIPE), width, _STRIPE, facecolor=stripe, linewidth=0))


def _draw_legend(axes: Any, middle: float, boxes: Sequence[Box]) -> None:
    x = _LEFT
    kernels: list[int | None] = [*sorted({b.kernel for b in boxes if b.kernel is not None})]
    if any(b.kernel is None for b in boxes):
        kernels.append(None)
    for kernel in kernels:
        _draw_box(axes, x, middle, 0.26, kernel)
        name = "no kernel" if kernel is None else f"{kernel} × {kernel} kernel"
        axes.text(x + 0.34, middle, name, fontsize=9.5, color=MUTED, va="center")
        x += 0.34 + 0.085 * len(name) + 0.18
    if any(b.ratio for b in boxes):
        text = "width and number: expand ratio"
        axes.text(x, middle, text, fontsize=9.5, color=MUTED, va="center")


def _draw_kinds(axes: Any, middle: float, colours: Mapping[str, str]) -> None:
    """Draw the legend of the kinds, one entry for all that share a colour."""
    names: dict[str, str] = {}
    for kind, colour in colours.items():
        names[colour] = "other kinds" if colour in names else kind
    x = _LEFT
    for colour, name in names.items():
        axes.add_patch(Rectangle((x, middle - _STRIPE / 2), 0.26, _STRIPE, facecolor=colour, linewidth=0))
        axes.text(x + 0.34, middle, name, fontsize=9.5, color=MUTED, va="center")
        x += 0.34 + 0.085 * len(name) + 0.18


def _input_size(layers: Mapping[str, Layer]) -> str:
    shapes = Network.of(layers).inputs.values() if layers else ()
    images = (" × ".join(map(str, shape[1:])) + " px" for shape in shapes if len(shape) == 3)
    return ", ".join((*images, *(" × ".join(map(str, shape)) for shape in shapes if len(shape) != 3)))


# -- shared ------------------------------------------------------------------------------------------------------------


def _searcher_colours() -> Sequence[str]:
    return (BLUE, GREY, GREEN, VERMILION)


_MANY_COLOURS = (BLUE, VERMILION, GREEN, "#cc79a7", "#e69f00", "#56b4e9", INK, GREY)
_STRIPES = (VERMILION, GREEN, "#e69f00", "#cc79a7", INK, GREY)
"""Colours of kinds, unlike those of kernels; the last one is for all others."""


def _panels(n: int, *, height: float, width: float | None = None) -> tuple[Figure, list[Any]]:
    """A figure of n axes, three to a row at most; without a width it is as wide as its panels need."""
    across = max(1, min(n, 3))
    down = max(1, math.ceil(n / across))
    figure = Figure(figsize=(width or WIDTH * across / 3, height * down), dpi=100)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08, wspace=0.04, hspace=0.05)
    grid = figure.add_gridspec(down, across)
    all_axes = [figure.add_subplot(grid[i // across, i % across]) for i in range(n)]
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
        axes.grid(color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=10, color=GREY, labelcolor=MUTED)
    return figure, all_axes


def _title(axes: Any, text: str) -> None:
    axes.set_title(_shortened(text, 42), fontsize=11, fontweight="bold", color=INK, loc="left")


def _legend(axes: Any) -> None:
    """Put a legend between the title and the plot, where it covers no data."""
    axes.set_title(axes.get_title(loc="left"), fontsize=11, fontweight="bold", color=INK, loc="left", pad=22)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.03, 1),
        ncols=4,
        fontsize=9.5,
        frameon=False,
        labelcolor=INK,
        borderaxespad=0.1,
        handlelength=1.5,
        columnspacing=1.0,
    )


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _coordinates(
    points: Sequence[PlotPoint], factors: tuple[float, float], *, ascending: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values along both axes as they are drawn, in the order of the first if asked."""
    array = np.array(sorted(points) if ascending else points, float).reshape(-1, 2)
    return array[:, 0] * factors[0], array[:, 1] * factors[1]


def _corners(points: Sequence[PlotPoint], up: Direction, across: Direction) -> list[PlotPoint]:
    """Points that no other one dominates in the two goals that are drawn."""
    costs = np.array([(as_cost(point.x, across), as_cost(point.y, up)) for point in points])
    return [points[i] for i in pareto.front(costs)]


def _place_texts(
    figure: Figure,
    axes: Any,
    texts: Sequence[tuple[float, float, str]],
    *,
    points: NDArray[np.float64] | None = None,
) -> None:
    """Write each text beside its point, where it covers as little as possible of the lines and no other text; with
    ``points`` (n, 2), of them as well, and inside the axes."""
    figure.draw_without_rendering()  # settles the layout, so that positions in pixels are final
    paths = [line.get_transform().transform_path(line.get_path()) for line in axes.lines]
    dots = np.zeros((0, 2)) if points is None else axes.transData.transform(points)
    bounds = figure.bbox if points is None else axes.bbox
    taken: list[Any] = [text.get_window_extent() for text in axes.texts]
    offsets = [
        (sx * d, sy * d)
        for d in ((9, 20, 34) if points is None else (9, 16, 26, 40))
        for sx, sy in ((1, -1), (0, -1), (-1, -1), (-1, 1), (1, 1))
    ]
    for x, y, text in texts:
        note = axes.annotate(
            text,
            (x, y),
            xytext=offsets[0],
            textcoords="offset points",
            fontsize=11,
            fontweight="bold",
            color=INK,
            path_effects=[withStroke(linewidth=3, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 5},
            zorder=8,
            in_layout=False,
        )

        def extent_at(offset: tuple[float, float], note: Any = note) -> Any:
            note.xyann = offset
            sides = {0: "center", 1: "left", -1: "right"}
            note.set(ha=sides[int(np.sign(offset[0]))], va="bottom" if offset[1] > 0 else "top")
            note.get_window_extent()  # moves it there
            return Text.get_window_extent(note)  # without the line to its point

        def cost(offset: tuple[float, float], extent_at: Callable[..., Any] = extent_at) -> float:
            extent = extent_at(offset)
            outside = extent.x0 < axes.bbox.x0 or extent.y0 < axes.bbox.y0
            outside = outside or extent.x1 > bounds.x1 or extent.y1 > bounds.y1
            covered = sum(path.intersects_bbox(extent.padded(3), filled=False) for path in paths)
            covered += int(extent.padded(2).count_contains(dots)) if len(dots) else 0
            clashes = sum(extent.overlaps(other) for other in taken)
            return float(1000 * outside + 100 * clashes + covered)

        taken.append(extent_at(min(offsets, key=cost)))

"""The figures: what they show, and that nothing in them overlaps or is cut off."""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.text import Text

from nas.report import figures
from nas.report.figures import NetworkRow, Pair, PlotPoint, Scatter, Unit
from search_spaces.layers import (
    UIB,
    Bottleneck,
    Classifier,
    Conv,
    FBNetBlock,
    FusedMBConv,
    Layer,
    MBConv,
    NormClassifier,
    ResidualConv,
    Shape,
)
from search_spaces.loading import load_space
from search_spaces.nasbench201 import Cell201
from search_spaces.ops.activation import Activate
from search_spaces.ops.arithmetic import Add, Multiply
from search_spaces.ops.convolution import Convolution
from search_spaces.ops.pooling import GlobalPool
from search_spaces.program import Traced
from tests.search_spaces.graph_spaces import Branches, TwoByTwo


def pixels(figure: Figure) -> Any:
    return imread(io.BytesIO(figures.png(figure)))


def assert_readable(figure: Figure) -> None:
    """Not blank, no text outside, and no two texts over each other."""
    assert pixels(figure)[..., :3].std() > 0.01
    figure.draw_without_rendering()
    texts = [t for axes in figure.axes for t in (*axes.texts, axes.title, axes._left_title)]
    extents = [(t.get_text(), Text.get_window_extent(t)) for t in texts if t.get_text() and t.get_visible()]
    for text, extent in extents:
        assert extent.x0 >= figure.bbox.x0 - 1 and extent.x1 <= figure.bbox.x1 + 1, f"{text!r} is cut off"
        assert extent.y0 >= figure.bbox.y0 - 1 and extent.y1 <= figure.bbox.y1 + 1, f"{text!r} is cut off"
    for (first, a), (second, b) in itertools.combinations(extents, 2):
        assert not a.padded(-1).overlaps(b), f"{first!r} overlaps {second!r}"


def front(pairs: list[Pair], **changes: Any) -> Figure:
    settings = {
        "found": [pair.predicted for pair in pairs],
        "contrast": [],
        "found_by": "nsga2",
        "contrast_by": "random",
        "measured_name": "measured",
        "limit": None,
    }
    return figures.front(pairs=pairs, **{**settings, **changes})


def mbconv(ratio: int, kernel: int, *, stride: int = 1, channels: int = 16, size: int = 12) -> MBConv:
    return MBConv(channels, channels, ratio * channels, True, kernel, stride, 0, "relu", size)


@dataclass(frozen=True)
class Squash(Layer):
    """A kind of layer that the figures do not know."""

    channels: int

    @property
    def input_shape(self) -> Shape:
        return (self.channels, 6, 6)

    def define(self, x: Traced) -> Traced:
        return Activate("relu")(x)


def network(*blocks: Layer) -> dict[str, Layer]:
    return {
        "stem": Conv(1, 16, 3, 1, "relu", 12),
        **{f"stage1_block{i}": block for i, block in enumerate(blocks, start=1)},
        "classifier": Classifier(16, 32, 10, "relu", 12),
    }


def test_front_shows_points_in_units_and_names_its_networks() -> None:
    pairs = [
        Pair("fastest", PlotPoint(0.02, 0.90), PlotPoint(0.021, 0.89)),
        Pair("", PlotPoint(0.03, 0.94), PlotPoint(0.033, 0.95)),
        Pair("most accurate", PlotPoint(0.05, 0.96), PlotPoint(0.055, 0.955)),
    ]
    figure = front(pairs, contrast=[PlotPoint(0.025, 0.9)], limit=0.052)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "Latency (µs)"
    assert {text.get_text() for text in axes.texts} == {"fastest", "most accurate"}
    measured = next(line for line in axes.lines if line.get_label() == "measured")
    np.testing.assert_allclose(measured.get_xydata(), [[21, 89], [33, 95], [55, 95.5]])
    limit = next(line for line in axes.lines if line.get_label() == "limit")
    np.testing.assert_allclose(limit.get_xdata(), 52)
    assert_readable(figure)


def test_front_of_crowded_networks_keeps_its_labels_apart() -> None:
    labels = ("fastest", "knee", "most accurate")
    pairs = [
        Pair(label, PlotPoint(1 + 1e-3 * i, 0.9), PlotPoint(1.01 + 1e-3 * i, 0.9)) for i, label in enumerate(labels)
    ]
    assert_readable(front(pairs))


def test_any_two_goals_are_drawn() -> None:
    pairs = [Pair("fastest", PlotPoint(3e6, 2.0), PlotPoint(3e6, 2.5))]
    figure = front(pairs, contrast=[PlotPoint(4e6, 1.0)], limit=5e6, goals=(("energy_mj", "mJ"), ("macs", "1")))
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("MACs (M)", "Energy (mJ)")
    drawn = [line.get_xydata().tolist() for line in axes.lines]
    assert [[4.0, 1.0]] in drawn and [[3.0, 2.0], [3.0, 2.5]] in drawn and pixels(figure).size


def test_baselines_are_lines_in_the_order_in_which_they_are_stated() -> None:
    pairs = [Pair("fastest", PlotPoint(2.0, 0.8), PlotPoint(2.0, 0.8))]
    scaled = [PlotPoint(5.0, 0.7), PlotPoint(3.0, 0.75), PlotPoint(9.0, 0.9)]
    (axes,) = front(pairs, baselines={"Scaled": scaled, "none of it known": []}).axes
    line = next(line for line in axes.lines if line.get_label() == "Scaled")
    np.testing.assert_allclose(line.get_xydata(), [[5, 70], [3, 75], [9, 90]])
    assert "none of it known" not in axes.get_legend_handles_labels()[1]


@pytest.mark.parametrize(
    ("directions", "corners", "drawn_as"),
    [
        (("max", "min"), [[1, 2], [2, 3], [4, 5]], "steps-post"),
        (("min", "min"), [[1, 2], [3, 1]], "steps-post"),
        (("max", "max"), [[4, 5]], "steps-pre"),
        (("min", "max"), [[3, 1], [4, 5]], "steps-pre"),
    ],
)
def test_a_staircase_leads_through_what_no_other_beats_in_the_drawn_goals(
    directions: Any, corners: list[list[int]], drawn_as: str
) -> None:
    points = [PlotPoint(*at) for at in ((4, 5), (1, 2), (3, 1), (2, 3))]
    goals = (("depth", "layers"), ("energy_mj", "mJ"))
    figure = front([], found=points, contrast=points, goals=goals, directions=directions)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    for name in ("nsga2, predicted", "random, predicted"):
        assert lines[name].get_xydata().tolist() == corners and lines[name].get_drawstyle() == drawn_as
    dots = [line.get_xydata().tolist() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert dots == [sorted(map(list, points))] * 2, "all are drawn"
    plain = front([], found=points, goals=goals, directions=None)
    assert [line.get_drawstyle() for line in plain.axes[0].lines] == ["default"], "points alone"


@pytest.mark.parametrize("limit", [None, 3.0])
def test_front_without_networks(limit: float | None) -> None:
    assert pixels(front([], limit=limit)).size


def test_scatter_has_a_panel_per_predictor_with_its_band() -> None:
    truth = [1.0, 2.0, 3.0]
    panels = [Scatter(f"predictor {i}", Unit("ms", 1), truth, [1.1, 1.9, 3.0], 0.1, "± 10 %", True) for i in range(5)]
    figure = figures.scatter(panels)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [panel.title for panel in panels]
    assert_readable(figure)


@pytest.mark.parametrize("values", [[], [0.0], [2.0, 2.0]])
def test_scatter_of_few_or_equal_values(values: list[float]) -> None:
    assert pixels(figures.scatter([Scatter("one", Unit("ms", 1), values, values, 0.1, "± 10 %", True)])).size


def test_hypervolume_is_relative_to_the_best() -> None:
    figure = figures.hypervolume([("host", {"nsga2": [(10, 1.0), (20, 2.0)], "random": [(10, 0.5), (20, 1.5)]})])
    searcher, contrast = figure.axes[0].lines
    np.testing.assert_allclose(searcher.get_ydata(), [50, 100])
    np.testing.assert_allclose(contrast.get_ydata(), [25, 75])
    assert_readable(figure)


def test_hypervolume_without_history() -> None:
    assert pixels(figures.hypervolume([("host", {"nsga2": []}), ("other", {})])).size


def test_training_leaves_out_epochs_without_accuracy() -> None:
    figure = figures.training([1, 2, 3], [2.0, 1.0, 0.5], {"biggest": [None, 0.5, 0.75], "smallest": [None] * 3})
    loss, accuracy = figure.axes
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [[1, 2], [2, 1], [3, 0.5]])
    assert len(accuracy.lines) == 1
    np.testing.assert_allclose(accuracy.lines[0].get_xydata(), [[2, 50], [3, 75]])
    assert_readable(figure)


def test_training_with_one_accuracy_has_whole_epochs() -> None:
    figure = figures.training([1, 2, 3], [2.0, 1.0, 0.5], {"biggest": [None, None, 0.75]})
    low, high = figure.axes[1].get_xlim()
    assert [tick for tick in figure.axes[1].get_xticks() if low <= tick <= high] == [3]


def test_training_without_any_accuracy_shows_the_loss_alone() -> None:
    assert len(figures.training([1], [2.0], {"biggest": [None]}).axes) == 1


def test_stages_stand_in_the_order_of_the_run_with_their_time() -> None:
    figure = figures.stages(["profile", "train"], [200.0, 0.0], [False, True])
    (axes,) = figure.axes
    assert axes.yaxis_inverted()
    assert [text.get_text() for text in axes.texts] == ["3 min 20 s", "reused: its inputs had not changed"]
    assert_readable(figure)


def test_networks_draw_a_box_per_layer_as_wide_as_its_ratio_and_as_high_as_its_kernel() -> None:
    layers = network(mbconv(2, 3), mbconv(4, 7))
    figure = figures.networks([NetworkRow("host", "knee", "1 ms", layers)])
    _, narrow, wide, _ = figure.axes[0].patches[:4]
    assert wide.get_width() == pytest.approx(2 * narrow.get_width())
    assert wide.get_height() > narrow.get_height()
    assert wide.get_facecolor() != narrow.get_facecolor()
    texts = [text.get_text() for text in figure.axes[0].texts]
    for text in ("host", "knee", "1 ms", "12 × 12 px", "stem", "stage1", "classifier", "2", "4", "7 × 7 kernel"):
        assert text in texts
    assert_readable(figure)


def test_an_arc_leads_from_a_layer_to_one_that_reads_it_later() -> None:
    layers = Branches().biggest.layers
    figure = figures.networks([NetworkRow("host", "knee", "1 ms", layers)])
    arcs = [patch for patch in figure.axes[0].patches if isinstance(patch, PathPatch)]
    boxes = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    middles = {name: box.get_x() + box.get_width() / 2 for name, box in zip(layers, boxes, strict=False)}
    ends = {tuple(arc.get_path().vertices[[0, -1], 0]) for arc in arcs}
    pairs = [("stem", "right"), ("stem", "long"), ("left2", "join")]
    assert ends == {(middles[source], middles[reader]) for source, reader in pairs}
    assert_readable(figure)
    figure = figures.networks([NetworkRow("host", "knee", "1 ms", TwoByTwo().biggest.layers)])
    assert sum(isinstance(patch, PathPatch) for patch in figure.axes[0].patches) == 2  # camera to fuse, fuse to map
    assert "16 × 12 px, 8 × 6 px" in [text.get_text() for text in figure.axes[0].texts]
    assert_readable(figure)


def test_stages_of_networks_stand_below_each_other() -> None:
    rows = [
        NetworkRow("host", "a", "", network(mbconv(2, 3))),
        NetworkRow("host", "b", "", network(*[mbconv(4, 5)] * 4)),
    ]
    patches = figures.networks(rows).axes[0].patches
    assert patches[2].get_x() == patches[3 + 5].get_x(), "the classifiers"
    assert patches[1].get_x() == patches[3 + 1].get_x(), "the first blocks"


def test_the_head_of_a_column_names_all_kinds_that_stand_below_it() -> None:
    kinds: list[Layer] = [FusedMBConv(16, 16, 32, 3, 1, "relu", "none", 12), Conv(16, 8, 3, 1, "relu", 12)]
    rows = [NetworkRow("host", str(n), "", network(block)) for n, block in enumerate([mbconv(2, 3), *kinds])]
    for some, head in ((rows[:1], "MBConv"), (rows[:2], "MBConv, FusedMBConv"), (rows, "3 kinds")):
        figure = figures.networks(some)
        assert head in [text.get_text() for text in figure.axes[0].texts]
        assert_readable(figure)


def test_kinds_that_share_a_column_have_a_stripe_and_a_legend() -> None:
    fused = FusedMBConv(16, 16, 32, 3, 1, "relu", "none", 12)
    rows = [NetworkRow("host", str(n), "", network(block)) for n, block in enumerate([mbconv(2, 3), fused])]
    figure = figures.networks(rows)
    patches = figure.axes[0].patches
    colours = [patch.get_facecolor() for patch in patches]
    (first, second) = (to_rgba(colour) for colour in figures._STRIPES[:2])
    assert colours.count(first) == colours.count(second) == 2, "one box and the legend"
    stripe, box = (patches[colours.index(first) - back] for back in (0, 1))
    assert (stripe.get_x(), stripe.get_width()) == (box.get_x(), box.get_width())
    assert box.get_y() < stripe.get_y() and stripe.get_bbox().y1 == pytest.approx(box.get_bbox().y1)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"MBConv", "FusedMBConv"} <= set(texts)
    assert_readable(figure)
    alone = [text.get_text() for text in figures.networks(rows[:1]).axes[0].texts]
    assert alone.count("MBConv") == 1, "the head of the column says it"


def test_kinds_beyond_the_stripes_share_one() -> None:
    kinds: list[type[Layer]] = [type(f"Kind{n}", (Squash,), {}) for n in range(8)]
    try:
        rows = [NetworkRow("host", str(n), "", {"stage1": kind(4)}) for n, kind in enumerate(kinds)]
        figure = figures.networks(rows)
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert texts.count("other kinds") == 1 and {f"Kind{n}" for n in range(5)} <= set(texts)
        assert_readable(figure)
    finally:
        for kind in kinds:
            del Layer.kinds[kind.__name__]


def test_groups_are_cut_where_kind_or_shape_changes() -> None:
    layers: dict[str, Layer] = {
        "stem": Conv(1, 16, 3, 1, "relu", 12),
        "a": mbconv(2, 3),
        "b": mbconv(3, 5),
        "c": mbconv(3, 5, stride=2),
        "d": mbconv(3, 5, size=6),
    }
    assert [list(group) for group in figures.group_layers(layers)] == [["stem"], ["a", "b"], ["c", "d"]]


def test_a_layer_that_some_networks_leave_out_keeps_its_column() -> None:
    stem, pool = Conv(3, 8, 3, 2, "relu", 16), Conv(8, 8, 1, 2, "relu", 8)
    extra, head = ResidualConv(8, 3, "relu", 8), Classifier(8, 8, 4, "relu", 4)
    long = {"stem": stem, "extra": extra, "pool": pool, "head": head}
    short = {name: layer for name, layer in long.items() if name != "extra"}
    for first, second in ((long, short), (short, long)):
        rows = figures.aligned([figures.group_layers(first), figures.group_layers(second)])
        assert [[*map(list, row)] for row in rows][first is short] == [["stem"], ["extra"], ["pool"], ["head"]]
        assert [[*map(list, row)] for row in rows][first is long] == [["stem"], [], ["pool"], ["head"]]


def test_a_bottleneck_of_resnet_is_one_unit_wide() -> None:
    assert figures.box(Bottleneck(256, 256, 64, False, 1, "relu", 8)) == figures.Box(1, 3, ".25")


def test_a_kind_without_convolutions_is_a_plain_box_below_its_name() -> None:
    assert figures.box(Squash(4)) == figures.Box(0, None, "")
    figure = figures.networks([NetworkRow("host", "knee", "", {"squash": Squash(4)})])
    assert "Squash" in [text.get_text() for text in figure.axes[0].texts]
    assert_readable(figure)


def test_wide_networks_fit_the_page() -> None:
    layers: dict[str, Layer] = {}
    for stage in range(1, 6):
        for block in range(1, 5):
            layers[f"stage{stage}_block{block}"] = mbconv(6, 7, channels=8 * stage)
    figure = figures.networks([NetworkRow("host", "biggest", "12.3 ms, 76.4 %", layers)])
    note = next(text for text in figure.axes[0].texts if text.get_text() == "12.3 ms, 76.4 %")
    figure.draw_without_rendering()
    right = max(patch.get_window_extent().x1 for patch in figure.axes[0].patches)
    assert right <= note.get_window_extent().x0
    assert_readable(figure)


def test_equal_figures_give_equal_files_and_change_no_global_setting() -> None:
    before = dict(rcParams)
    files = [figures.png(figures.stages(["a"], [1.0], [False])) for _ in range(2)]
    assert files[0] == files[1]
    assert dict(rcParams) == before


@pytest.mark.parametrize(
    ("values", "name"),
    [([], "ms"), ([0.05], "µs"), ([0.05, 0.9], "µs"), ([0.05, 1.2], "ms"), ([0.2, 0.9], "ms"), ([20, 1200], "s")],
)
def test_unit_suits_all_latencies(values: list[float], name: str) -> None:
    assert figures.latency_unit(values).name == name


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.6, "9.6 s"), (59.4, "59 s"), (59.7, "1 min 0 s"), (3599.6, "1 h 0 min"), (5025, "1 h 23 min")],
)
def test_duration_in_words(seconds: float, text: str) -> None:
    assert figures.duration(seconds) == text


def test_boxes_of_universal_and_grouped_blocks() -> None:
    assert figures.box(UIB(8, 16, 24, 3, 5, 2, "relu", 8)) == figures.Box(3, 5, "3")
    assert figures.box(UIB(8, 8, 16, 0, 0, 1, "relu", 8)) == figures.Box(2, None, "2")
    assert figures.box(FusedMBConv(8, 8, 16, 3, 1, "relu", "none", 8)) == figures.Box(2, 3, "2")
    assert figures.box(FBNetBlock(8, 8, 48, 5, 1, 2, "relu", 8)) == figures.Box(6, 5, "6")
    assert figures.box(NormClassifier(8, 8, 4, "relu", 8)) == figures.Box(0, None, "")


def uncertainty(errors: list[float], std: list[float], observed: list[float]) -> figures.Uncertainty:
    return figures.Uncertainty(
        [0.1, 0.5, 0.9], observed, [0.0, 0.3, 0.7], [0.3, 0.7, 1.0], Unit("µs", 1000.0), std, errors
    )


def test_calibration_shows_coverage_and_every_error() -> None:
    figure = figures.calibration(uncertainty([0.1, -0.2, 0.5], [0.1, 0.1, 0.2], [0.2, 0.6, 0.8]))
    assert_readable(figure)
    coverage, sharpness = figure.axes
    np.testing.assert_allclose(coverage.lines[-1].get_xydata(), [[10, 20], [50, 60], [90, 80]])
    np.testing.assert_allclose(sharpness.lines[0].get_xydata(), [[100, 100], [100, 200], [200, 500]])
    assert sharpness.get_ylim()[1] > 500 and sharpness.get_xlim()[1] > 200


def test_calibration_of_a_predictor_that_is_always_sure() -> None:
    assert_readable(figures.calibration(uncertainty([0.1, 0.2], [0.0, 0.0], [0.0, 0.0, 0.0])))


def test_scatter_with_stated_errors_and_other_axes() -> None:
    panel = Scatter("A", Unit("ms", 1), [1.0, 2.0], [1.1, 1.9], 0.1, "± 10 %", True, [0.1, 0.2], ("First", "Again"))
    figure = figures.scatter([panel])
    assert_readable(figure)
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("First (ms)", "Again (ms)")
    (bars,) = [c for c in axes.collections if hasattr(c, "get_segments")]
    np.testing.assert_allclose(bars.get_segments(), [[[1, 0.9], [1, 1.3]], [[2, 1.5], [2, 2.3]]])


def surfaces(name: str, runs: int, shift: float = 0.0) -> figures.Surfaces:
    def line(loss: float) -> list[tuple[float, float]]:
        return [(1 + shift, 80), (1 + shift, 90 - loss), (2 + shift, 90 - loss), (2 + shift, 95 - loss), (9, 95 - loss)]

    return figures.Surfaces(name, runs, line(0), line(1), line(2))


def test_attainment_draws_the_median_as_a_line_and_the_band_from_best_to_worst() -> None:
    figure = figures.attainment(
        [surfaces("nsga2", 5), surfaces("random", 1, 0.5)], x_axis="Latency (ms)", y_axis="Accuracy (%)"
    )
    assert_readable(figure)
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["nsga2, median of 5 runs", "random, one run", "best to worst run"]
    (median,) = [line for line in axes.lines if line.get_label() == labels[0]]
    np.testing.assert_array_equal(median.get_xydata(), surfaces("nsga2", 5).median)
    band, _ = axes.patches  # the other one is that of the legend
    corners = [*surfaces("nsga2", 5).best, *reversed(surfaces("nsga2", 5).worst)]
    np.testing.assert_array_equal(band.get_xy()[: len(corners)], corners)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Latency (ms)", "Accuracy (%)")


def test_attainment_of_many_searchers_tells_them_apart() -> None:
    figure = figures.attainment([surfaces(f"searcher {i}", 1, i / 9) for i in range(10)], x_axis="x", y_axis="y")
    assert_readable(figure)
    styles = {
        (line.get_color(), str(line.get_linestyle()), line._unscaled_dash_pattern) for line in figure.axes[0].lines
    }
    assert len(styles) == 10


@pytest.mark.parametrize(
    ("name", "unit", "values", "title", "factor"),
    [
        ("latency_ms", "ms", [0.05, 0.9], "Latency (µs)", 1000),
        ("latency_ms@host_tvm", "ms", [5, 20], "Latency on host_tvm (ms)", 1),
        ("accuracy", "1", [0.9, 0.97], "Accuracy (%)", 100),
        ("memory_bytes", "bytes", [3e5], "Memory (KiB)", 1 / 1024),
        ("memory_bytes", "bytes", [3e6], "Memory (MiB)", 1 / 1024**2),
        ("macs", "1", [2e6, 3e8], "MACs (M)", 1e-6),
        ("params", "1", [400, 900], "Parameters", 1),
        ("energy_mj", "mJ", [3], "Energy (mJ)", 1),
        ("zen_score", "", [], "Zen score", 1),
    ],
)
def test_axes_are_called_by_what_they_show(
    name: str, unit: str, values: list[float], title: str, factor: float
) -> None:
    assert figures.axis(name, unit, values) == (title, factor)


@dataclass(frozen=True)
class Wide(Layer):
    """A kind that nothing here knows: 5x1 convolution, gate, projection, and perhaps the input."""

    hidden: int
    adds: bool = False

    @property
    def input_shape(self) -> Shape:
        return (8, 6, 6)

    def define(self, x: Traced) -> Traced:
        y = Convolution("spatial", self.hidden, (5, 1))(x)
        gate = Convolution("narrow", 99, norm=False)(GlobalPool()(y))
        y = Multiply()(y, Convolution("gate", self.hidden, norm=False)(gate))
        return Convolution("project", 8)(Activate("relu")(y))


@dataclass(frozen=True)
class Plain(Wide):
    def define(self, x: Traced) -> Traced:
        y = Convolution("spatial", 8, 5)(x)
        return Add()(y, x) if self.adds else y


def test_a_new_kind_is_drawn_by_its_program() -> None:
    assert figures.box(Wide(20)) == figures.Box(2.5, 5, "2.5")
    assert figures.box(Plain(20)) == figures.Box(0, 5, "")
    assert figures.box(Plain(20, adds=True)) == figures.Box(0, 5, "+")
    assert figures.box(Cell201(8, 6, ("none", "nor_conv_1x1", *["skip_connect"] * 4))) == figures.Box(0, 1, "")


def test_cells_that_do_not_fit_are_drawn_once_and_counted() -> None:
    space = load_space("darts_cifar")
    figure = figures.networks([NetworkRow("host", name, "1 ms", space.member(name).layers) for name in space.members])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"cell1", "x 16", "cell7", "x 2", "cell8"} <= set(texts) and "cell2" not in texts
    boxes = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert (
        max(patch.get_x() + patch.get_width() for patch in boxes) < figures.WIDTH - 1
    )  # left of what is written there
    assert_readable(figure)


def test_a_learning_curve_is_continued_to_twice_the_labels() -> None:
    figure = figures.learning("Accuracy", [10, 10, 20, 40], [0.4, 0.6, 0.6, 0.7], (0.8, 0.05))
    (axes,) = figure.axes
    drawn = [line.get_xydata().tolist() for line in axes.lines]
    assert [[10, 0.5], [20, 0.6], [40, 0.7]] in drawn and [[40, 0.7], [80, 0.8]] in drawn
    assert pixels(figure).size

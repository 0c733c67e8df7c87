"""The layers of networks in the report: the figure and the tables."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from nas.report import figures
from nas.report.figures import LayerPoint, Waterline
from nas.report.page import write_report
from nas.run.layer_costs import Roof
from predictors import PositionTable, macs, save
from search_spaces.base.storage import read_json
from tests.nas.report.test_figures import assert_readable
from tests.nas.report.test_page import digits_space, write_run

KINDS = ("Conv", "MBConv", "Bottleneck", "MaxPool", "Classifier", "UIB", "FusedMBConv", "Attention", "Mixer")


def network(count: int, seed: int, title: str = "knee") -> Waterline:
    rng = np.random.default_rng(seed)
    work = 10 ** rng.uniform(5, 8, count)
    ms = work / 10 ** rng.uniform(6, 7.3, count)
    kinds = rng.choice(KINDS, count)
    rows = zip(kinds, work, ms, strict=True)
    return Waterline(
        title, [LayerPoint(f"stage{i // 8}_block{i % 8}", str(k), m, t) for i, (k, m, t) in enumerate(rows)]
    )


def test_layers_are_drawn_by_work_and_speed_with_the_mean_as_the_waterline() -> None:
    layers = [
        LayerPoint("a", "Conv", 2e6, 1.0),
        LayerPoint("b", "MBConv", 6e6, 1.0),
        LayerPoint("c", "MaxPool", 0, 2.0),
    ]
    figure = figures.waterline([Waterline("knee", layers)])
    (axes,) = figure.axes
    (circles,) = axes.collections
    np.testing.assert_allclose(circles.get_offsets(), [[2, 2], [6, 6]])  # M MACs, GMAC/s
    areas = circles.get_sizes() - 14
    np.testing.assert_allclose(areas, [400, 400])  # a quarter of the time each
    level = next(line for line in axes.lines if line.get_linestyle() != ":")
    np.testing.assert_allclose(level.get_ydata(), 8e6 * 1e-6 / 4)
    assert axes.get_title(loc="left") == "mean 2 GMAC/s; no MACs in 50 % of the time"
    assert axes.get_xlabel().splitlines() == ["MACs of the layer (M)", "1  a: 25 %", "2  b: 25 %"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["Conv", "MBConv", "waterline"]
    assert_readable(figure)


def test_layers_on_one_diagonal_take_the_same_time() -> None:
    layers = [LayerPoint("a", "Conv", 1e6, 0.1), LayerPoint("b", "Conv", 1e7, 0.1), LayerPoint("c", "Conv", 1e7, 10.0)]
    (axes,) = figures.waterline([Waterline("knee", layers)]).axes
    diagonals = [line.get_xydata() for line in axes.lines if line.get_linestyle() == ":"]
    times = sorted(float(x / y) for ((x, y), _) in diagonals)  # M MACs over GMAC/s are ms
    assert times and all(np.log10(ms) == pytest.approx(round(np.log10(ms))) for ms in times)
    shown = {text.get_text() for text in axes.texts}
    assert shown >= {"knee", "0.1 ms"} and {"1", "2", "3"} <= shown


@pytest.mark.parametrize("counts", [[10], [60], [12, 30, 60], [1, 1]])
def test_few_and_many_layers_are_readable(counts: list[int]) -> None:
    panels = [network(count, number, "fastest and most accurate") for number, count in enumerate(counts)]
    assert_readable(figures.waterline(panels))


def test_kinds_beyond_the_colours_share_one() -> None:
    figure = figures.waterline([network(200, 0)])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(names) == 9 and names[-2:] == ["other kinds", "waterline"] and set(names[:-2]) < set(KINDS)


def test_a_network_without_any_macs_is_an_empty_panel() -> None:
    figure = figures.waterline([Waterline("fastest", [LayerPoint("a", "MaxPool", 0, 1.0)])])
    assert figure.axes[0].get_title(loc="left") == "mean 0 GMAC/s; no MACs in 100 % of the time"


def test_the_roof_is_drawn_above_all_layers_with_its_numbers() -> None:
    """At 2 GMAC/s, 0.5 ms of overhead are as long as a million MACs take."""
    layers = [LayerPoint("a", "Conv", 1e5, 0.6), LayerPoint("b", "Conv", 1e7, 5.1)]
    figure = figures.waterline([Waterline("knee", layers)], Roof(2.0, 0.5))
    (axes,) = figure.axes
    (roof,) = (line for line in axes.lines if line.get_color() == figures.GREEN)
    low, high = axes.get_xlim()
    np.testing.assert_allclose(roof.get_xydata(), [[low, low / 0.5], [1, 2], [high, 2]])  # M MACs, GMAC/s
    assert "best layer 2 GMAC/s, overhead 0.5 ms" in [text.get_text() for text in axes.texts]
    assert "roof" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert axes.get_ylim()[1] > 2
    assert_readable(figure)


def test_an_overhead_that_no_layer_feels_is_not_drawn() -> None:
    figure = figures.waterline([network(20, 0)], Roof(50.0, 1e-9))
    (roof,) = (line for line in figure.axes[0].lines if line.get_color() == figures.GREEN)
    assert set(roof.get_ydata()) == {50.0}
    assert "best layer 50 GMAC/s" in [text.get_text() for text in figure.axes[0].texts]
    assert_readable(figure)


@pytest.mark.parametrize("roof", [Roof(30.0, 0.003), Roof(900.0, 1.0), Roof(25.0, 0.0)])
@pytest.mark.parametrize("counts", [[10], [12, 30, 60]])
def test_panels_with_a_roof_are_readable(counts: list[int], roof: Roof) -> None:
    assert_readable(figures.waterline([network(count, number) for number, count in enumerate(counts)], roof))


def test_the_report_says_where_the_time_goes(tmp_path: Path) -> None:
    space = digits_space()
    run = write_run(tmp_path / "run", space)
    latency = PositionTable(space, "latency", "ms", macs(space).values / 1e7)
    save(latency, space, run / "fit" / "host_ort_latency.npz")
    text = write_report(run, space, tmp_path / "out", ["host_ort", "host_tvm"], buffer_kib=16).read_text()
    assert (tmp_path / "out" / "figures" / "waterline_host_ort.png").exists()
    assert not (tmp_path / "out" / "figures" / "waterline_host_tvm.png").exists(), "its layers' times are not known"
    section = text[text.index("Why a network is slow") : text.index('id="predictors"')]
    verified = read_json(run / "verify" / "host_ort.json")["networks"]
    assert re.findall("<summary>Layers of “(.*)”", section) == [one["label"] for one in verified]
    assert "on-chip buffer of 16 KiB" in section and "host_tvm" not in section
    with (tmp_path / "out" / "layers.csv").open() as file:
        rows = list(csv.DictReader(file))
    first = [row for row in rows if row["network"] == verified[0]["label"]]
    measured = verified[0]["measured"]["latency_ms"]
    assert sum(float(row["latency_ms"]) for row in first) == pytest.approx(measured)
    assert sum(int(row["macs"]) for row in first) == verified[0]["macs"]
    speeds = {round(float(row["gmacs_per_s"]), 6) for row in first}
    assert len(speeds) == 1, "this predictor knows nothing but MACs"


def test_a_report_without_times_of_layers_has_no_such_section(tmp_path: Path) -> None:
    space = digits_space()
    run = write_run(tmp_path / "run", space)
    text = write_report(run, space, tmp_path / "out", ["host_ort"]).read_text()
    assert "Why a network is slow" not in text
    assert (tmp_path / "out" / "layers.csv").read_text().splitlines() == [
        "device,network,position,kind,share,latency_ms,macs,gmacs_per_s,traffic_words,intensity,settings"
    ]

"""Costs of layers on a device."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hardware_profiles import LatencyTable, Measurement
from nas.run.layer_costs import LayerCost, Roof, csv_of, layer_costs, roof_of, settings_of, times_of, whole
from predictors import GaussianProcess, PositionTable, macs, save
from search_spaces import Architecture, MobileNetV3
from search_spaces.layers import Conv, Layer, MaxPool, Shape
from search_spaces.ops.convolution import Linear
from search_spaces.program import Traced

CONV, POOL = Conv(3, 8, 3, 1, "relu", 4), MaxPool(8, 3, 2, 4)


def test_costs_of_two_layers() -> None:
    """The convolution: 8 * 3 * 9 * 16 = 3456 MACs, and 656 words as `counting.traffic` has them."""
    costs = layer_costs({"a": CONV, "b": POOL}, {"a": 3.0, "b": 1.0}, 0.002, batch=2, word_bytes=1)
    conv = LayerCost("a", "Conv", 0.75, 0.0015, 3456, 2 * 3456e-6 / 0.0015, 656, 3456 / 656, settings_of(CONV))
    pool = LayerCost("b", "MaxPool", 0.25, 0.0005, 0, 0.0, 128 + 32, 0.0, settings_of(POOL))
    assert costs == [conv, pool]
    assert conv.settings == "in_channels 3, out_channels 8, kernel 3, stride 1, activation relu, size 4"
    assert whole(costs, 0.002, batch=2, word_bytes=1) == LayerCost(
        "", "network", 1.0, 0.002, 3456, 2 * 3456e-6 / 0.002, 816, 3456 / 816
    )


def test_the_buffer_and_the_number_format_count() -> None:
    (cost,) = layer_costs({"a": CONV}, {"a": 1.0}, 1.0, word_bytes=4, buffer_words=176)
    assert (cost.traffic_words, cost.intensity) == (400, 3456 / 1600)
    (free,) = layer_costs({"a": CONV, "b": POOL}, {"a": 0.0, "b": 1.0}, 1.0)[:1]
    assert (free.share, free.gmacs_per_s) == (0, 0), "no time is left for it"


def networks_of(space: MobileNetV3) -> list[Architecture]:
    return [Architecture(space, genes) for genes in space.sample(4, np.random.default_rng(0))]


def test_times_are_those_that_the_fitted_predictor_adds_up(tmp_path: Path, small_space: MobileNetV3) -> None:
    table = PositionTable(small_space, "latency", "ms", macs(small_space).values / 1e4 - 0.01, constant=0.5)
    save(table, small_space, tmp_path / "fit" / "host_latency.npz")
    networks = networks_of(small_space)
    found = times_of(tmp_path, small_space, "host", networks)
    assert found is not None
    for times, network in zip(found, networks, strict=True):
        assert times == {name: max(layer.macs / 1e4 - 0.01, 0) for name, layer in network.layers.items()}


def test_without_a_sum_times_are_those_of_the_latency_table(tmp_path: Path, small_space: MobileNetV3) -> None:
    networks = networks_of(small_space)
    genes = np.stack([network.genes for network in networks])
    process = GaussianProcess(small_space)
    process.fit(np.concatenate([genes, small_space.sample(20, np.random.default_rng(1))]), np.arange(24) / 24)
    save(process, small_space, tmp_path / "fit" / "host_latency.npz")
    assert times_of(tmp_path, small_space, "host", networks) is None, "neither knows layers"
    table = LatencyTable(tmp_path / "profile" / "host" / "table.jsonl", "host", {})
    layers = dict.fromkeys(layer for network in networks for layer in network.layers.values())
    for number, layer in enumerate(layers, 1):
        assert times_of(tmp_path, small_space, "host", networks) is None, "not all layers are there yet"
        table.add(layer, Measurement(number, number, number, number, 8, 2, 1.0, True))
    found = times_of(tmp_path, small_space, "host", networks)
    expected = [{p: float(list(layers).index(layer) + 1) for p, layer in n.layers.items()} for n in networks]
    assert found == expected
    assert times_of(tmp_path, small_space, "host", []) == []


def test_the_csv_has_a_row_for_each_layer() -> None:
    costs = layer_costs({"a": CONV, "b": POOL}, {"a": 3.0, "b": 1.0}, 0.002)
    rows = list(csv.DictReader(io.StringIO(csv_of([("host", "knee", costs)]))))
    assert [(row["device"], row["network"], row["position"], row["kind"]) for row in rows] == [
        ("host", "knee", "a", "Conv"),
        ("host", "knee", "b", "MaxPool"),
    ]
    assert float(rows[0]["share"]) == 0.75 and int(rows[1]["traffic_words"]) == 160
    assert float(rows[0]["gmacs_per_s"]) == pytest.approx(3456e-6 / 0.0015)


@dataclass(frozen=True)
class Work(Layer):
    """A layer of so many MACs."""

    outputs: int

    @property
    def input_shape(self) -> Shape:
        return (1,)

    def define(self, x: Traced) -> Traced:
        return Linear("work", self.outputs)(x)


def table_of(folder: Path, times: Mapping[Layer, float]) -> None:
    table = LatencyTable(folder / "profile" / "host" / "table.jsonl", "host", {})
    for layer, ms in times.items():
        table.add(layer, Measurement(ms, ms, ms, ms, 8, 2, 1.0, True))


def test_the_roof_is_the_best_layer_and_the_overhead_that_none_is_below(tmp_path: Path) -> None:
    assert roof_of(tmp_path, "host") is None, "there is no table"
    best = {Work(n): 0.002 + 1e-6 * n for n in (100, 1000, 10000)}  # 1 GMAC/s in the end, and 2 µs
    slower = {Work(n): 0.004 + 3e-6 * n for n in (200, 2000, 20000)}
    table_of(tmp_path, {**best, **slower, POOL: 1e-4})
    roof = roof_of(tmp_path, "host")
    assert roof is not None
    assert roof.overhead_ms == pytest.approx(0.002) and roof.gmacs_per_s == pytest.approx(1e-6 * 10000 / 0.012)
    twice = roof_of(tmp_path, "host", batch=2)
    assert twice is not None and twice.gmacs_per_s == pytest.approx(2 * roof.gmacs_per_s)
    assert twice.overhead_ms == pytest.approx(0.002)


def test_without_an_overhead_the_roof_has_none(tmp_path: Path) -> None:
    table_of(tmp_path, {Work(n): 1e-5 * n for n in (100, 1000, 10000)})
    assert roof_of(tmp_path, "host") == Roof(pytest.approx(0.1), pytest.approx(0, abs=1e-9))


def test_layers_without_time_or_work_make_no_roof(tmp_path: Path) -> None:
    table_of(tmp_path, {POOL: 0.1, Work(100): 1e-6})
    assert roof_of(tmp_path, "host") is None


def test_a_table_that_cannot_be_read_has_no_roof(tmp_path: Path) -> None:
    table_of(tmp_path, {Work(100): 1.0})
    path = tmp_path / "profile" / "host" / "table.jsonl"
    path.write_text(path.read_text().replace("Work", "Gone"))
    assert roof_of(tmp_path, "host") is None

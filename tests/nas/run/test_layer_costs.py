"""Costs of layers on a device."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hardware_profiles import LatencyTable, Measurement
from nas.run.layer_costs import LayerCost, Roof, csv_of, layer_costs, roof_of, settings_of, times_of, whole
from predictors import GaussianProcess, PositionTable, macs, save
from search_spaces import Architecture, MobileNetV3
from search_spaces.layers import Conv, Layer, LinearClassifier, MaxPool
from search_spaces.staged import Staged

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


ROOF_SPACE = Staged(
    name="works",
    resolutions=[4],
    in_channels=4,
    classes=4,
    stem=[{"kind": "Conv", "kernel": 1, "channels": 4}],
    stages=[{"channels": 4, "depths": [1, 2], "blocks": [{"kind": "Conv", "kernel": [1, 3, 5, 7]}]}],
    head=[{"kind": "LinearClassifier"}],
)


def roof_with(folder: Path, ms: Callable[[Layer], float], share: float = 1.0, batch: int = 1) -> Roof | None:
    """The roof of layers that take so long, where networks take a share of the sum of their layers."""
    table = LatencyTable(folder / "profile" / "host" / "table.jsonl", "host", {})
    for layer in ROOF_SPACE.distinct_layers:
        time = ms(layer)
        table.add(layer, Measurement(time, time, time, time, 8, 2, 1.0, True))
    networks = [ROOF_SPACE.smallest, ROOF_SPACE.biggest]
    latencies = [share * sum(map(ms, network.layers.values())) for network in networks]
    return roof_of(folder, ROOF_SPACE, "host", networks, latencies, batch)


def test_the_roof_is_the_best_layer_and_the_overhead_that_none_is_below(tmp_path: Path) -> None:
    """At 1 GMAC/s, 2 µs before; the classifier, which is slow, changes nothing."""
    best = max(layer.macs for layer in ROOF_SPACE.distinct_layers)

    def ms(layer: Layer) -> float:
        return 1.0 if isinstance(layer, LinearClassifier) else 0.002 + 1e-6 * layer.macs

    roof = roof_with(tmp_path / "a", ms)
    assert roof is not None and roof.overhead_ms == pytest.approx(0.002)
    assert roof.gmacs_per_s == pytest.approx(1e-6 * best / (0.002 + 1e-6 * best))
    half = roof_with(tmp_path / "b", ms, share=0.5, batch=3)
    assert half is not None and half.overhead_ms == pytest.approx(0.001), "on the scale of the layers' costs"
    assert half.gmacs_per_s == pytest.approx(2 * 3 * roof.gmacs_per_s)
    none = roof_with(tmp_path / "c", lambda layer: 1e-5 * layer.macs)
    assert none == Roof(pytest.approx(0.1), pytest.approx(0, abs=1e-9))


def test_the_roof_is_of_times_as_they_are_fitted(tmp_path: Path) -> None:
    """Layers alone take 10 µs more than inside a network, and a table that is fitted knows."""
    fitted = PositionTable(ROOF_SPACE, "latency", "ms", np.where(macs(ROOF_SPACE).values > 0, 0.01, 0) + 0.001)
    save(fitted, ROOF_SPACE, tmp_path / "fit" / "host_latency.npz")
    roof = roof_with(tmp_path, lambda layer: 0.02)
    assert roof is not None and roof.overhead_ms == pytest.approx(0.02), "fitted ones all take the same, 20 µs scaled"


def test_layers_without_time_make_no_roof(tmp_path: Path) -> None:
    assert roof_with(tmp_path, lambda layer: 1e-6) is None
    assert roof_of(tmp_path / "empty", ROOF_SPACE, "host", [ROOF_SPACE.smallest], [1.0]) is None


def test_a_table_that_cannot_be_read_has_no_roof(tmp_path: Path) -> None:
    assert roof_with(tmp_path, lambda layer: 1.0) is not None
    path = tmp_path / "profile" / "host" / "table.jsonl"
    path.write_text(path.read_text().replace("Conv", "Gone"))
    assert roof_of(tmp_path, ROOF_SPACE, "host", [ROOF_SPACE.smallest], [1.0]) is None

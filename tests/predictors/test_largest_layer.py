import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hardware_profiles import LatencyTable, Measurement
from predictors import largest_layer, scaled_largest
from predictors.predictor_contract import check_predictor
from search_spaces import Architecture, Genes, MobileNetV3
from search_spaces.base.errors import InvalidValueError, MissingLayerError

ONE = Measurement(latency_ms=1, median_ms=1, p10_ms=1, p90_ms=1, runs=1, passes=1, noise=1, agreed=True)


@pytest.fixture
def table(tmp_path: Path, space: MobileNetV3) -> LatencyTable:
    table = LatencyTable(tmp_path / "table.jsonl", "device", {})
    for layer in space.distinct_layers:
        table.add(layer, dataclasses.replace(ONE, values={"memory_bytes": layer.peak_elements + 100}))
    return table


def test_largest_layer(table: LatencyTable, space: MobileNetV3, everything: Genes) -> None:
    expected = [
        max(layer.peak_elements + 100 for layer in space.lower(Architecture(space, row)).values()) for row in everything
    ]
    assert largest_layer(space, table).predict(everything).tolist() == expected


def test_a_failed_layer_is_infinite_and_a_missing_one_raises(
    table: LatencyTable, space: MobileNetV3, everything: Genes, tmp_path: Path
) -> None:
    table.add_failure(space.distinct_layers[3], "too large")
    assert np.isinf(largest_layer(space, table).predict(everything)).any()
    with pytest.raises(MissingLayerError):
        largest_layer(space, LatencyTable(tmp_path / "empty.jsonl", "device", {}))


def test_a_device_without_memory_figures_is_refused(table: LatencyTable, space: MobileNetV3) -> None:
    table.add(space.distinct_layers[2], ONE)
    with pytest.raises(MissingLayerError, match="'device' has no memory_bytes of"):
        largest_layer(space, table)


def test_scaled_memory_reaches_four_of_five_networks_and_follows_no_outlier(
    table: LatencyTable, space: MobileNetV3, rng: np.random.Generator
) -> None:
    layers, genes = largest_layer(space, table), space.sample(30, rng)
    factors = rng.uniform(1.0, 1.3, 30)
    factors[:3] = 2.5
    scaled = scaled_largest(layers, genes, layers.predict(genes) * factors)
    assert scaled.predict(genes) == pytest.approx(layers.predict(genes) * np.sort(factors)[24])  # ceil(31 * 0.8) = 25
    few = scaled_largest(layers, genes[:8], layers.predict(genes[:8]) * factors[:8])
    assert few.predict(genes) == pytest.approx(layers.predict(genes) * 2.5)
    assert (scaled.metric, scaled.unit, scaled.combine) == ("memory", "bytes", "max")
    check_predictor(scaled, space, rng)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, -1.0])
def test_bad_memory_is_refused(table: LatencyTable, space: MobileNetV3, rng: np.random.Generator, bad: float) -> None:
    layers, genes = largest_layer(space, table), space.sample(4, rng)
    with pytest.raises(InvalidValueError, match="finite and positive"):
        scaled_largest(layers, genes, np.array([1.0, bad, 1.0, 1.0]))
    with pytest.raises(InvalidValueError, match="At least 2"):
        scaled_largest(layers, genes[:1], np.ones(1))

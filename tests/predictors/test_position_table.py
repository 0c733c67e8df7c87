from collections.abc import Callable
from zlib import crc32

import numpy as np
import pytest

from predictors import PositionTable, macs, params, peak_memory
from predictors.base import Bounded
from predictors.predictor_contract import check_predictor
from search_spaces import Architecture, Genes, Layer, MobileNetV3
from search_spaces.base.errors import InvalidValueError

Table = Callable[..., PositionTable]


def by_loop(space: MobileNetV3, genes: Genes, value: Callable[[Layer], float], combine: str = "sum") -> list[float]:
    reduced = []
    for row in genes:
        total = 0.0
        for layer in space.lower(Architecture(space, row)).values():
            total = total + value(layer) if combine == "sum" else max(total, value(layer))
        reduced.append(total)
    return reduced


@pytest.mark.parametrize("combine", ["sum", "max"])
def test_predict_is_a_loop_over_the_lowered_layers(space: MobileNetV3, everything: Genes, combine: str) -> None:
    def value(layer: Layer) -> float:
        return crc32(repr(layer).encode()) % 1009 / 7

    table = PositionTable.of_layers(space, "latency", "ms", value, combine)  # type: ignore[arg-type]
    assert table.predict(everything) == pytest.approx(by_loop(space, everything, value, combine), rel=1e-12)


def test_counts_are_those_of_the_layers(digits_space: MobileNetV3, rng: np.random.Generator) -> None:
    genes = digits_space.sample(20, rng)
    assert macs(digits_space).predict(genes).tolist() == by_loop(digits_space, genes, lambda layer: layer.macs)
    assert params(digits_space).predict(genes).tolist() == by_loop(digits_space, genes, lambda layer: layer.params)
    peaks = by_loop(digits_space, genes, lambda layer: 2 * layer.peak_elements, "max")
    assert peak_memory(digits_space, 2).predict(genes).tolist() == peaks


def test_the_function_is_called_once_per_distinct_layer(space: MobileNetV3) -> None:
    called: list[Layer] = []
    PositionTable.of_layers(space, "latency", "ms", lambda layer: called.append(layer) or 1.0)  # type: ignore[func-returns-value]
    assert len(called) == len(set(called)) == len(space.distinct_layers)


@pytest.mark.parametrize("combine", ["sum", "max"])
@pytest.mark.parametrize("infinite", [0.0, 0.1, 0.4])
def test_minimum_is_that_of_enumeration(
    space: MobileNetV3, everything: Genes, random_table: Table, combine: str, infinite: float
) -> None:
    for seed in range(12):
        table = random_table(space, seed, combine, infinite, constant=0.25)
        genes, least = table.minimum()
        values = table.predict(everything)
        assert least == pytest.approx(values.min(), rel=1e-12)
        assert table.predict(genes[None])[0] == pytest.approx(least, rel=1e-12)
        assert (everything == genes).all(1).any()


def test_minimum_where_negative_entries_make_larger_networks_better(space: MobileNetV3, everything: Genes) -> None:
    counted = PositionTable.of_layers(space, "latency", "ms", lambda layer: -1.0)
    genes, least = counted.minimum()
    assert least == counted.predict(everything).min() == -8
    assert space.active(genes[None]).all()


def test_minimum_of_a_space_without_a_runnable_network_is_inf(space: MobileNetV3) -> None:
    for combine in ("sum", "max"):
        table = PositionTable.of_layers(space, "latency", "ms", lambda layer: np.inf, combine)  # type: ignore[arg-type]
        genes, least = table.minimum()
        assert least == np.inf and np.array_equal(space.canonical(genes[None])[0], genes)


def test_minimum_of_a_space_too_large_to_enumerate(ofa_space: MobileNetV3, rng: np.random.Generator) -> None:
    genes, least = macs(ofa_space).minimum()
    assert np.array_equal(genes, ofa_space.smallest.genes)
    table = PositionTable.of_layers(ofa_space, "latency", "ms", lambda layer: crc32(repr(layer).encode()) % 997 / 10)
    genes, least = table.minimum()
    assert table.predict(genes[None])[0] == pytest.approx(least)
    assert table.predict(ofa_space.sample(5000, rng)).min() >= least
    neighbours = ofa_space.mutate(np.repeat(genes[None], 2000, 0), rng, 0.05)
    assert table.predict(neighbours).min() >= least - 1e-9  # no small step leads lower


def test_a_layer_that_the_device_cannot_run_makes_its_networks_infinite(space: MobileNetV3, everything: Genes) -> None:
    bad = next(layer for layer in space.distinct_layers if getattr(layer, "kernel", 0) == 5)
    table = PositionTable.of_layers(space, "latency", "ms", lambda layer: np.inf if layer == bad else 1.0)
    holds = np.array([bad in space.lower(Architecture(space, row)).values() for row in everything])
    assert 0 < holds.sum() < len(everything)
    assert np.array_equal(np.isinf(table.predict(everything)), holds)
    assert np.isfinite(table.minimum()[1])


@pytest.mark.parametrize("combine", ["sum", "max"])
def test_contract(space: MobileNetV3, random_table: Table, rng: np.random.Generator, combine: str) -> None:
    check_predictor(random_table(space, 1, combine, 0.0, 0.5), space, rng)
    check_predictor(random_table(space, 2, combine, 0.2), space, rng, infinite=True)


def test_contract_on_a_large_space(ofa_space: MobileNetV3, rng: np.random.Generator) -> None:
    for predictor in (macs(ofa_space), params(ofa_space), peak_memory(ofa_space)):
        assert isinstance(predictor, Bounded)
        check_predictor(predictor, ofa_space, rng)


def test_wrong_tables_are_refused(space: MobileNetV3) -> None:
    values = np.ones(space.table_size)
    with pytest.raises(InvalidValueError, match=rf"has {space.table_size} values, but got \({space.table_size - 1},\)"):
        PositionTable(space, "latency", "ms", values[1:])
    values[3] = np.nan
    with pytest.raises(InvalidValueError, match="NaN"):
        PositionTable(space, "latency", "ms", values)
    with pytest.raises(InvalidValueError, match="NaN"):
        PositionTable(space, "latency", "ms", np.ones(space.table_size), constant=float("nan"))

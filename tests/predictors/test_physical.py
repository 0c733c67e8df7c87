import numpy as np
import pytest

from predictors import Regression
from predictors.physical import at_least, fastest_rate
from predictors.position_table import PositionTable, macs
from predictors.ridge import Ridge
from search_spaces.mobilenet_v3 import MobileNetV3


def test_no_network_computes_more_than_four_times_as_fast_as_any_measured_one(digits_space: MobileNetV3) -> None:
    genes = digits_space.sample(20, np.random.default_rng(0))
    work = macs(digits_space).predict(genes)
    rate = fastest_rate(digits_space, genes, work * np.arange(1, 21))
    assert rate == pytest.approx(1.0)
    assert at_least(digits_space, genes, np.zeros(20), rate) == pytest.approx(work / 4)
    assert at_least(digits_space, genes, work, rate) == pytest.approx(work)
    assert at_least(digits_space, genes, np.ones(20), 0.0) == pytest.approx(np.ones(20))


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_a_regression_of_latencies_keeps_the_bound(digits_space: MobileNetV3, scale: str) -> None:
    rng = np.random.default_rng(1)
    genes = digits_space.sample(40, rng)
    work = macs(digits_space).predict(genes)
    large = genes[np.argsort(work)[10:]]
    measured = np.sort(work)[10:] ** 4  # so steep that it seems to cross zero
    predictor = Regression(digits_space, Ridge(), scale=scale)  # type: ignore[arg-type]
    predictor.fit(large, measured / measured.min())
    small = digits_space.smallest.genes[None]
    least = macs(digits_space).predict(small) / (4 * predictor.rate)
    assert (predictor.predict(small) >= least).all() and (least > 0).all()
    assert np.array_equal(predictor.predict_with_std(genes)[0], predictor.predict(genes))
    unbounded = predictor.model.predict(predictor._rows(small))
    assert scale == "log" or unbounded < least  # so that the bound did something

    again = Regression.from_arrays(digits_space, predictor.to_arrays())
    assert np.array_equal(again.predict(genes), predictor.predict(genes))
    assert np.array_equal(again.predict(small), predictor.predict(small))


def test_a_regression_gives_no_time_to_what_the_device_cannot_run(digits_space: MobileNetV3) -> None:
    rng = np.random.default_rng(1)
    genes = digits_space.sample(200, rng)
    failing = next(layer for layer in digits_space.distinct_layers if getattr(layer, "kernel", 0) == 5)
    table = PositionTable.of_layers(digits_space, "latency", "ms", lambda layer: np.inf if layer == failing else 1.0)
    runs = np.isfinite(table.predict(genes))
    assert 0 < runs.sum() < len(genes)
    predictor = Regression(digits_space, Ridge())
    predictor.fit(genes[runs], macs(digits_space).predict(genes[runs]))
    unaware = predictor.predict(genes)
    predictor.fails = np.isinf(table.values)
    for one in (predictor, Regression.from_arrays(digits_space, predictor.to_arrays())):
        values, std = one.predict_with_std(genes)
        assert np.array_equal(one.predict(genes), np.where(runs, unaware, np.inf))
        assert np.array_equal(values, one.predict(genes)) and np.isfinite(std).all() and (std > 0).all()

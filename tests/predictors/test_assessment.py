import itertools

import numpy as np
import pytest
from scipy import stats

from predictors import quality
from predictors.assessment import Calibration, calibration, regret
from search_spaces.base.errors import InvalidValueError


def tau_b(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall, "Rank Correlation Methods", 1948: concordant less discordant pairs, ties taken out on each side."""
    pairs = list(itertools.combinations(range(len(x)), 2))
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in pairs]
    numerator = sum(a * b for a, b in signs)
    return float(numerator / np.sqrt(sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs)))


def test_by_hand() -> None:
    found = quality(np.array([1.0, 2.0, 4.0, 10.0]), np.array([1.04, 1.82, 4.04, 15.0]))
    assert found.mape == pytest.approx((0.04 + 0.09 + 0.01 + 0.5) / 4)
    assert (found.within_5, found.within_10) == (0.5, 0.75)
    assert (found.kendall_tau, found.spearman, found.top_10_regret) == (pytest.approx(1), pytest.approx(1), None)


def test_correlations_with_ties_are_those_of_their_definitions(rng: np.random.Generator) -> None:
    for _ in range(20):
        x, y = rng.integers(1, 6, 15).astype(float), rng.integers(1, 6, 15).astype(float)
        found = quality(x, y)
        assert found.kendall_tau == pytest.approx(tau_b(x, y))
        ranks = [stats.rankdata(x), stats.rankdata(y)]
        assert found.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_an_inverted_predictor_is_seen() -> None:
    truth = np.arange(1.0, 9.0)
    found = quality(truth, -truth)
    assert (found.kendall_tau, found.spearman) == (pytest.approx(-1), pytest.approx(-1))


@pytest.mark.parametrize(("truth", "predicted"), [([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [2, 2, 2]), ([1, 1], [1, 1])])
def test_no_correlation_where_a_side_is_constant(truth: list[float], predicted: list[float]) -> None:
    found = quality(np.array(truth), np.array(predicted))
    assert (found.kendall_tau, found.spearman) == (0.0, 0.0)


@pytest.mark.parametrize("maximise", [False, True])
def test_regret(maximise: bool) -> None:
    truth = np.arange(1.0, 31.0)
    assert quality(truth, truth, maximise=maximise).top_10_regret == 0.0
    reversed_ = quality(truth, truth[::-1].copy(), maximise=maximise)
    assert reversed_.top_10_regret == 20.0  # the best of the ten worst is 20 off
    shifted = np.where(truth == (30 if maximise else 1), 15.5, truth)  # only the best network is misjudged
    assert quality(truth, shifted, maximise=maximise).top_10_regret == 1.0


def test_an_accuracy_of_exactly_0_is_off_by_all_or_nothing() -> None:
    found = quality(np.array([0.0, 0.0, 0.5, 0.5]), np.array([0.0, 0.3, 0.5, 0.25]), maximise=True)
    assert (found.mape, found.within_5) == (pytest.approx((0 + 1 + 0 + 0.5) / 4), 0.5)


@pytest.mark.parametrize(
    ("truth", "predicted"),
    [
        ([1.0], [1.0]),
        ([], []),
        ([1.0, 2.0], [1.0]),
        ([[1.0, 2.0]], [[1.0, 2.0]]),
        ([1.0, np.nan], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, np.nan]),
        ([1.0, 2.0], [1.0, np.inf]),
        ([0.0, 2.0], [1.0, 2.0]),
    ],
)
def test_bad_input_is_refused(truth: list[float], predicted: list[float]) -> None:
    with pytest.raises(InvalidValueError, match="Quality needs"):
        quality(np.array(truth), np.array(predicted))


def test_json() -> None:
    data = quality(np.array([1.0, 2.0]), np.array([1.0, 2.0])).to_json()
    assert data == {
        "mape": 0.0,
        "within_5": 1.0,
        "within_10": 1.0,
        "kendall_tau": 1.0,
        "spearman": pytest.approx(1.0),
        "top_10_regret": None,
    }


def test_regret_of_any_number_of_tries(rng: np.random.Generator) -> None:
    truth, predicted = rng.random(40), rng.random(40)
    for k in (1, 5, 40):
        tried = sorted(range(40), key=lambda i: predicted[i])[:k]
        assert regret(truth, predicted, k) == min(truth[tried]) - min(truth)
        assert regret(truth, -predicted, k, maximise=True) == pytest.approx(max(truth) - max(truth[tried]))
    assert regret(truth, predicted, 40) == 0


def test_calibration_by_hand() -> None:
    found = calibration(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.5, 2.0, 5.0, 4.9]), np.ones(4), levels=(0.5, 0.9))
    assert found.observed == (0.5, 0.75)  # within 0.674 and 1.645
    assert found.expected_error == pytest.approx((0.0 + 0.15) / 2)
    assert found.sharpness == 1.0
    assert calibration(np.ones(2), np.zeros(2), np.array([3.0, 4.0])).sharpness == pytest.approx(np.sqrt(12.5))


def test_calibration_tells_honest_from_boastful_and_timid(rng: np.random.Generator) -> None:
    std = rng.uniform(0.1, 3.0, 20_000)
    mean = rng.normal(size=20_000)
    truth = mean + std * rng.normal(size=20_000)
    honest, boastful, timid = (calibration(truth, mean, std * factor) for factor in (1.0, 0.5, 2.0))
    assert honest.expected_error < 0.01
    assert all(o < level - 0.03 for o, level in zip(boastful.observed, boastful.levels, strict=True))
    assert all(o > level for o, level in zip(timid.observed, timid.levels, strict=True))
    assert boastful.sharpness < honest.sharpness < timid.sharpness


def test_calibration_of_no_uncertainty() -> None:
    found = calibration(np.array([1.0, 2.0]), np.array([1.0, 2.5]), np.zeros(2))
    assert set(found.observed) == {0.5}  # the exact one is covered at every level, the other at none


@pytest.mark.parametrize(
    ("truth", "mean", "std", "message"),
    [
        ([1.0], [1.0], [1.0], "three equal arrays"),
        ([1.0, 2.0], [1.0, 2.0], [1.0], "three equal arrays"),
        ([1.0, np.nan], [1.0, 2.0], [1.0, 1.0], "finite"),
        ([1.0, 2.0], [1.0, 2.0], [1.0, np.inf], "finite"),
        ([1.0, 2.0], [1.0, 2.0], [1.0, -1.0], "deviations >= 0"),
    ],
)
def test_calibration_refuses_bad_input(truth: list[float], mean: list[float], std: list[float], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        calibration(np.array(truth), np.array(mean), np.array(std))
    with pytest.raises(InvalidValueError, match="between 0 and 1"):
        calibration(np.ones(2), np.ones(2), np.ones(2), levels=(0.5, 1.0))


def test_calibration_of_what_is_never_wrong() -> None:
    found = calibration(np.ones(2), np.ones(2), np.ones(2), levels=(0.5,))
    assert found == Calibration(levels=(0.5,), observed=(1.0,), expected_error=0.5, sharpness=1.0)

"""The learning curve of a predictor: what more labels would give, and when they would not."""

import numpy as np
import pytest

from predictors.learning_curve import LearningCurve, learning_curve


def curve_of(n: int, power: float) -> LearningCurve | None:
    """Of a ranking that misses by 2 n^-power."""

    def tau(size: int) -> float:
        return 1 - 2 * size**-power

    return learning_curve(lambda rows: tau(len(rows)), n, 10, np.random.default_rng(0), all_of_them=tau(n))


def test_a_power_law_is_continued() -> None:
    curve = curve_of(200, 0.5)
    assert curve is not None and curve.networks == [50, 50, 100, 100, 150, 150, 200]
    assert curve.exponent == pytest.approx((0.5, 0), abs=1e-6)
    assert curve.doubled == pytest.approx((1 - 2 * 400**-0.5, 0), abs=1e-6) and curve.helps
    assert curve.sentence == (
        "with half of the labels the held-out tau was 0.80, with all 0.86: twice as many would give about 0.90 ± 0.00"
    )


def test_a_flat_curve_says_that_more_would_not_help() -> None:
    taus = [0.8, 0.81, 0.805, 0.8, 0.81, 0.805, 0.805]
    curve = LearningCurve(networks=[50, 50, 100, 100, 150, 150, 200], kendall_tau=taus)
    assert curve.helps is False
    assert curve.sentence == (
        "with half of the labels the held-out tau was 0.80, with all 0.81: more labels would not help"
    )


def test_a_gain_within_its_uncertainty_is_open() -> None:
    curve = LearningCurve(networks=[50, 50, 100, 100, 200], kendall_tau=[0.3, 0.9, 0.9, 0.3, 0.7])
    assert curve.doubled[1] > curve.doubled[0] - 0.7 and curve.helps is None
    assert curve.sentence.endswith("so it is open whether more labels would help")


def test_too_few_pairs_have_no_curve_and_a_quarter_may_be_too_few() -> None:
    assert curve_of(19, 0.5) is None
    curve = curve_of(24, 0.5)
    assert curve is not None and curve.networks == [12, 12, 18, 18, 24]


def test_a_perfect_ranking_is_no_error() -> None:
    curve = LearningCurve(networks=[50, 100, 200], kendall_tau=[1.0, 1.0, 1.0])
    assert curve.doubled == (1, 0) and curve.helps is False

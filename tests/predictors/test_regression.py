import math
from pathlib import Path

import numpy as np
import pytest

from predictors import load, macs, save
from predictors.base import Trainable, Uncertain
from predictors.ensemble import Ensemble
from predictors.gaussian_process import GaussianProcess
from predictors.gradient_boosting import GradientBoosting
from predictors.kriging import Kriging
from predictors.mlp import Mlp
from predictors.predictor_contract import SINGLE_PRECISION, TOLERANCE, check_predictor, check_trainable, check_uncertain
from predictors.regression import FeatureModel, Regression, Regressor, best_by_cross_validation, unpack
from predictors.ridge import Ridge
from search_spaces import MobileNetV3
from search_spaces.base.errors import InvalidValueError, UnknownNameError

REGRESSORS: dict[str, Regressor] = {
    "ridge": Ridge(),
    "quadratic": Ridge(degree=2),
    "boosting": GradientBoosting(trees=40, members=2, learning_rate=0.1),
    "kriging": Kriging(),
    "mlp": Mlp(hidden=(32,), members=2, steps=120, batch=32),
    "ensemble": Ensemble((Ridge(), Kriging(per_feature=False))),
}


def rows(n: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Positive values that depend on two of four features, with 2 % of noise."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, 4)) * [1, 10, 100, 1]
    return x, np.exp(x[:, 0] + np.sin(x[:, 1] / 3) + rng.normal(0, 0.02, n))


@pytest.mark.parametrize("name", REGRESSORS)
def test_contracts(space: MobileNetV3, name: str) -> None:
    def make() -> Regression:
        return Regression(space, REGRESSORS[name], folds=2)

    check_trainable(make, space, np.random.default_rng(0))
    check_uncertain(make, space, np.random.default_rng(0))
    predictor, genes = make(), space.sample(40, np.random.default_rng(1))
    predictor.fit(genes, macs(space).predict(genes))
    tolerance = SINGLE_PRECISION if name == "mlp" else TOLERANCE
    check_predictor(predictor, space, np.random.default_rng(0), tolerance=tolerance)
    assert isinstance(predictor, Uncertain)
    trainable: Trainable = predictor
    assert trainable.unit == "ms"


def test_the_gaussian_process_on_genes_is_uncertain_too(space: MobileNetV3) -> None:
    for log_error in (True, False):
        check_uncertain(
            lambda log_error=log_error: GaussianProcess(space, log_error=log_error),  # type: ignore[misc]
            space,
            np.random.default_rng(0),
        )


@pytest.mark.parametrize("name", REGRESSORS)
def test_two_deviations_cover_most_unseen_rows_and_few_more(name: str) -> None:
    x, y = rows()
    unseen, truth = rows(1000, seed=1)
    regressor = Mlp() if name == "mlp" else REGRESSORS[name]  # the quick one is far from fitted
    model = FeatureModel(regressor, folds=4).fit(x, y)
    predicted, std = model.predict_with_std(unseen)
    error = np.abs(predicted - truth)
    assert 0.85 <= (error <= 2 * std).mean() <= 0.995
    assert (error <= 20 * std).all()
    relative = (error / truth).mean()
    assert 0.5 * relative < model.expected_error < 2 * relative


def test_the_scale_says_what_a_prediction_can_be() -> None:
    x, y = rows()
    far = x * 1e4 - 3e4
    assert (FeatureModel(Ridge()).fit(x, y).predict(far) > 0).all()
    accuracies = 1 - 0.1 / y
    log_error = FeatureModel(Ridge(), scale="log_error").fit(x, accuracies)
    assert np.isfinite(log_error.predict(far)).all() and (log_error.predict(far) < 1.01).all()
    assert log_error.predict(x) == pytest.approx(accuracies, abs=0.05)
    linear = FeatureModel(Ridge(), scale="linear").fit(x, -y)
    assert (linear.predict(x) < 0).mean() > 0.9


def test_latencies_in_other_units_are_the_same_predictions() -> None:
    x, y = rows()
    for regressor in (Ridge(), Kriging()):
        ms, s = FeatureModel(regressor).fit(x, y), FeatureModel(regressor).fit(x, y / 1000)
        assert s.predict(x) * 1000 == pytest.approx(ms.predict(x), rel=1e-4)
        assert s.predict_with_std(x)[1] * 1000 == pytest.approx(ms.predict_with_std(x)[1], rel=1e-3)


def test_what_lies_outside_is_predicted_and_flagged() -> None:
    x, y = rows()
    model = FeatureModel(Ridge()).fit(x, y)
    low, high = x.min(0), x.max(0)
    asked = np.tile(x.mean(0), (4, 1))
    asked[1, 2], asked[2, 0], asked[3, 1] = 2 * high[2], low[0] - 0.5, high[1] + 0.01
    assert model.extrapolates(asked).tolist() == [False, True, True, False]
    assert np.isfinite(model.predict(asked)).all()
    std = model.predict_with_std(asked)[1] / model.predict(asked)
    assert std[1] > std[0]


def test_constant_values_are_predicted_as_they_are() -> None:
    x, _ = rows(20)
    for name, regressor in REGRESSORS.items():
        predicted, std = FeatureModel(regressor, folds=2).fit(x, np.full(20, 3.0)).predict_with_std(x)
        assert predicted == pytest.approx(np.full(20, 3.0), rel=1e-2), name
        assert (std > 0).all(), name


def test_bad_rows_are_refused() -> None:
    x, y = rows(20)
    model = FeatureModel(Ridge())
    nan = x.copy()
    nan[3, 1] = np.nan
    for features, values, message in (
        (x, -y, "must be positive"),
        (x, np.where(y == y[4], 0, y), "must be positive"),
        (x, np.where(y == y[4], np.nan, y), "row 4 is nan"),
        (nan, y, "feature 1 of row 3 is nan"),
        (x[:9], y[:9], "At least 10 rows are needed to fit, but got 9"),
        (x, y[1:], "one value per row"),
        (x[:, :0], y, r"f >= 1"),
        (x[:, 0], y, r"shape \(n, f\)"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            model.fit(features, values)
    with pytest.raises(InvalidValueError, match="not fitted"):
        model.predict(x)
    model.fit(x, y)
    with pytest.raises(InvalidValueError, match="fitted to 4 features, but got rows of 3"):
        model.predict(x[:, :3])
    with pytest.raises(InvalidValueError, match="fractions up to 1"):
        FeatureModel(Ridge(), scale="log_error").fit(x, y + 90)


def test_bad_settings_are_refused(space: MobileNetV3) -> None:
    with pytest.raises(InvalidValueError, match="`scale` must be one of"):
        FeatureModel(Ridge(), scale="cubic")  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="`folds`"):
        FeatureModel(Ridge(), folds=1)
    with pytest.raises(UnknownNameError, match="one_hot"):
        Regression(space, Ridge(), features=("colours",))
    with pytest.raises(InvalidValueError, match="finite and positive"):
        Regression(space, Ridge()).fit(space.sample(20, np.random.default_rng(0)), np.linspace(-1, 1, 20))


@pytest.mark.parametrize("name", REGRESSORS)
def test_a_file_holds_all_of_it_but_the_settings_of_the_fit(tmp_path: Path, space: MobileNetV3, name: str) -> None:
    genes = space.sample(60, np.random.default_rng(0))
    names = ("one_hot",) if name == "mlp" else ("statistics", "one_hot")
    predictor = Regression(space, REGRESSORS[name], metric="energy", unit="mJ", features=names, folds=2)
    predictor.fit(genes[:30], macs(space).predict(genes[:30]))
    save(predictor, space, tmp_path / "a.npz")
    again = load(tmp_path / "a.npz", space)
    assert isinstance(again, Regression)
    assert (again.metric, again.unit, again.features) == ("energy", "mJ", names)
    for ours, theirs in zip(predictor.predict_with_std(genes), again.predict_with_std(genes), strict=True):
        assert np.array_equal(ours, theirs)
    assert np.array_equal(predictor.extrapolates(genes), again.extrapolates(genes))
    assert again.expected_error == predictor.expected_error
    with pytest.raises(InvalidValueError, match="read from a file cannot be fitted again"):
        again.fit(genes, macs(space).predict(genes))


def test_an_unknown_kind_in_a_file_is_told() -> None:
    with pytest.raises(UnknownNameError, match="'Oracle', which is unknown; there are FittedEnsemble"):
        unpack({"model.kind": np.array("Oracle")}, "model")


def test_the_best_is_chosen_by_cross_validation_not_by_name() -> None:
    x, y = rows()
    candidates: dict[str, Regressor] = {"ridge": Ridge(), "kriging": Kriging()}
    name, models = best_by_cross_validation(candidates, x, y)
    assert name == "kriging" and models["kriging"].expected_error < models["ridge"].expected_error
    straight = np.exp(0.3 * x[:, 0] - 0.01 * x[:, 2])
    assert best_by_cross_validation(candidates, x, straight)[0] == "ridge"


def test_dead_genes_do_not_matter(space: MobileNetV3) -> None:
    rng = np.random.default_rng(0)
    raw = rng.integers(0, space.cardinalities, (40, len(space.choices))).astype(np.int16)
    genes = space.canonical(raw)
    first, second = Regression(space, Ridge()), Regression(space, Ridge())
    first.fit(raw, macs(space).predict(genes))
    second.fit(genes, macs(space).predict(genes))
    assert (raw != genes).any() and math.isclose(first.expected_error, second.expected_error)
    assert np.array_equal(first.predict(genes), second.predict(genes))

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from predictors import GaussianProcess, macs
from predictors.gaussian_process import DIGITS, FITTED
from predictors.predictor_contract import check_predictor, check_trainable
from search_spaces import Genes, MobileNetV3
from search_spaces.base.errors import InvalidValueError


def accuracies(space: MobileNetV3, genes: Genes, noise: float = 0.003) -> np.ndarray:
    size = np.log(macs(space).predict(genes))
    bend = 1 - 0.5 * np.exp(-(size - size.min()) / 2) - 0.05
    return bend + np.random.default_rng(5).normal(0, noise, len(genes))


def reference(space: MobileNetV3, genes: Genes, targets: np.ndarray) -> GaussianProcessRegressor:
    kernel = ConstantKernel(1.0, (1e-2, 1e3)) * Matern(3.0, (0.3, 1e2), nu=2.5) + WhiteKernel(0.1, (1e-5, 1e1))
    regressor = GaussianProcessRegressor(kernel, alpha=1e-9, n_restarts_optimizer=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return regressor.fit(space.encode(genes).astype(float), (targets - targets.mean()) / targets.std())


@pytest.mark.parametrize("log_error", [False, True])
def test_mean_and_deviation_are_those_of_scikit_learn(digits_space: MobileNetV3, log_error: bool) -> None:
    rng = np.random.default_rng(0)
    genes, unseen = digits_space.sample(60, rng), digits_space.sample(100, rng)
    values = accuracies(digits_space, genes)
    process = GaussianProcess(digits_space, log_error=log_error)
    process.fit(genes, values)

    targets = np.log(1 - values + DIGITS) if log_error else values
    regressor = reference(digits_space, genes, targets)
    mean, deviation = regressor.predict(digits_space.encode(unseen).astype(float), return_std=True)
    noise = regressor.kernel_.k2.noise_level
    mean = mean * targets.std() + targets.mean()
    deviation = np.sqrt(np.maximum(deviation**2 - noise, 0)) * targets.std()  # of the function, not of a measurement
    expected = 1 + DIGITS - np.exp(mean) if log_error else mean
    spread = np.exp(mean) * deviation if log_error else deviation
    assert process.predict(unseen) == pytest.approx(expected, rel=1e-7)
    assert process.uncertainty(unseen) == pytest.approx(spread, rel=1e-4, abs=1e-6)


def test_it_is_surer_near_what_it_has_seen(digits_space: MobileNetV3) -> None:
    rng = np.random.default_rng(0)
    genes = digits_space.sample(80, rng)
    process = GaussianProcess(digits_space)
    process.fit(genes, accuracies(digits_space, genes, noise=0))
    seen, unseen = process.uncertainty(genes), process.uncertainty(digits_space.sample(80, rng))
    assert (seen >= 0).all() and np.median(seen) < 0.75 * np.median(unseen)


def test_accuracies_are_predicted_well_and_stay_below_one(digits_space: MobileNetV3) -> None:
    rng = np.random.default_rng(0)
    genes, unseen = digits_space.sample(100, rng), digits_space.sample(500, rng)
    process = GaussianProcess(digits_space)
    process.fit(genes, accuracies(digits_space, genes))
    predicted = process.predict(unseen)
    assert (predicted < 1 + DIGITS).all()
    assert np.corrcoef(predicted, np.log(macs(digits_space).predict(unseen)))[0, 1] > 0.8


@pytest.mark.parametrize("log_error", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_values_are_predicted_as_they_are(
    space: MobileNetV3, rng: np.random.Generator, log_error: bool, value: float
) -> None:
    genes = space.sample(20, rng)
    process = GaussianProcess(space, log_error=log_error)
    process.fit(genes, np.full(20, value))
    assert process.predict(space.sample(5, rng)) == pytest.approx(np.full(5, value), abs=1e-9)


def test_the_same_network_with_two_values_is_averaged(space: MobileNetV3, rng: np.random.Generator) -> None:
    genes = np.repeat(space.sample(10, rng), 2, 0)
    process = GaussianProcess(space, log_error=False)
    process.fit(genes, np.tile([0.4, 0.6], 10))
    assert process.predict(genes) == pytest.approx(np.full(20, 0.5), abs=0.02)


def test_bad_pairs_are_refused(space: MobileNetV3, rng: np.random.Generator) -> None:
    genes = space.sample(12, rng)
    process = GaussianProcess(space)
    with pytest.raises(InvalidValueError, match="At least 10 measured networks are needed to fit, but got 9"):
        process.fit(genes[:9], np.full(9, 0.5))
    with pytest.raises(InvalidValueError, match=r"fractions up to 1, but got 97"):
        process.fit(genes, np.linspace(90, 97, 12))
    with pytest.raises(InvalidValueError, match="accuracy predictor is not fitted"):
        process.uncertainty(genes)
    with pytest.raises(InvalidValueError, match="not fitted"):
        process.to_arrays()


def test_arrays_hold_all_that_prediction_needs(space: MobileNetV3, rng: np.random.Generator) -> None:
    genes = space.sample(30, rng)
    process = GaussianProcess(space, metric="other", unit="points", log_error=False)
    process.fit(genes, accuracies(space, genes))
    again = GaussianProcess.from_arrays(space, process.to_arrays())
    assert (again.metric, again.unit, again.log_error) == ("other", "points", False)
    assert np.array_equal(again.predict(genes), process.predict(genes))
    assert np.array_equal(again.uncertainty(genes), process.uncertainty(genes))
    assert set(process.to_arrays()) == {"metric", "unit", "log_error", *(f"fitted_{name}" for name in FITTED)}


def test_contract(digits_space: MobileNetV3, rng: np.random.Generator) -> None:
    check_trainable(lambda: GaussianProcess(digits_space), digits_space, rng)
    process = GaussianProcess(digits_space, log_error=False)
    genes = digits_space.sample(40, rng)
    process.fit(genes, accuracies(digits_space, genes))
    check_predictor(process, digits_space, rng)

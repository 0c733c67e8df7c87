import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from predictors.kriging import Kriging, _loss
from search_spaces.base.errors import InvalidValueError


def rows(n: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.random((n, 4)) * [1, 10, 100, 1]
    return x, 2 + np.sin(x[:, 1]) + x[:, 0] + rng.normal(0, 0.05, n)


@pytest.mark.parametrize("prior", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("lengths", [1, 4])
def test_the_gradient_is_that_of_the_loss(lengths: int, prior: float) -> None:
    x, y = rows(25)
    rng = np.random.default_rng(1)
    for _ in range(3):
        logs = rng.normal(0, 0.5, 2 + lengths)
        given = (x / 10, y, 0.7, prior)
        error = check_grad(lambda p, *args: _loss(p, *args)[0], lambda p, *args: _loss(p, *args)[1], logs, *given)
        assert error < 1e-4 * max(1.0, np.linalg.norm(_loss(logs, *given)[1]))


@pytest.mark.parametrize("per_feature", [True, False])
def test_the_posterior_is_scikit_learns_with_the_same_hyper_parameters(per_feature: bool) -> None:
    x, y = rows()
    unseen = rows(50, seed=1)[0]
    fitted = Kriging(per_feature=per_feature).fit(x, y)
    length = fitted.width / x.std(0)
    kernel = ConstantKernel(fitted.variance) * Matern(length, nu=2.5) + WhiteKernel(fitted.noise)
    reference = GaussianProcessRegressor(kernel, alpha=0, optimizer=None).fit((x - x.mean(0)) / x.std(0), y - y.mean())
    mean, deviation = reference.predict((unseen - x.mean(0)) / x.std(0), return_std=True)
    assert fitted.predict(unseen) == pytest.approx(mean + y.mean(), rel=1e-6)
    assert fitted.spread(unseen) == pytest.approx(deviation, rel=1e-4)
    assert fitted.predict(unseen[:0]).shape == (0,)


def test_features_that_do_not_matter_get_long_lengths() -> None:
    x, y = rows()
    fitted = Kriging().fit(x, y)
    length = fitted.width / x.std(0)
    assert length[[2, 3]].min() > 3 * length[[0, 1]].max()
    unseen, truth = rows(500, seed=1)
    ours = np.abs(fitted.predict(unseen) - truth).mean()
    assert ours < 0.6 * np.abs(Kriging(per_feature=False).fit(x, y).predict(unseen) - truth).mean()


def test_few_rows_of_many_features_and_equal_rows_do_no_harm() -> None:
    rng = np.random.default_rng(0)
    x = np.repeat(rng.integers(0, 2, (10, 60)).astype(float), 2, 0)
    y = x[:, :5].sum(1) + rng.normal(0, 0.1, 20)
    fitted = Kriging().fit(x, y)
    assert np.corrcoef(fitted.predict(x), y)[0, 1] > 0.9
    with pytest.raises(InvalidValueError, match="`starts`"):
        Kriging(starts=())
    with pytest.raises(InvalidValueError, match="`prior`"):
        Kriging(prior=-1.0)


def test_the_prior_draws_lengths_towards_its_own() -> None:
    x, y = rows()
    spread, typical = x.std(0), np.sqrt(2) + 0.5 * np.log(4)
    away = [np.abs(np.log(Kriging(prior=p).fit(x, y).width / spread) - typical).sum() for p in (0.0, 1.0, 1e6)]
    assert away[0] > away[1] > away[2] and away[2] < 0.01

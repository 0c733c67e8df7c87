import numpy as np
import pytest
from sklearn.linear_model import Ridge as ScikitRidge

from predictors.ridge import STRENGTHS, Ridge
from search_spaces.base.errors import InvalidValueError


def rows(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(3, [1, 10, 0.1, 1, 1], (n, 5))
    return x, x[:, 0] - 0.1 * x[:, 1] + 5 * x[:, 2] + rng.normal(0, 0.5, n)


def test_it_is_scikit_learns_with_the_strength_of_the_least_left_out_error() -> None:
    x, y = rows()
    z = (x - x.mean(0)) / x.std(0)

    def left_out(strength: float) -> float:
        errors = []
        for i in range(len(x)):
            kept = np.arange(len(x)) != i
            # the centre is that of all rows, so the one left out is predicted by weights and mean of the others
            errors.append(float(y[i] - ScikitRidge(strength * len(x)).fit(z[kept], y[kept]).predict(z[i : i + 1])[0]))
        return float(np.square(errors).mean())

    best = min(STRENGTHS, key=left_out)
    fitted = Ridge().fit(x, y)
    assert fitted.noise**2 == pytest.approx(left_out(best), rel=1e-6)
    assert fitted.predict(x) == pytest.approx(ScikitRidge(best * len(x)).fit(z, y).predict(z), rel=1e-9)


def test_the_spread_is_that_of_the_bayesian_posterior() -> None:
    for n in (60, 4):  # with fewer rows than features some directions were never seen
        x, y = rows(n)
        fitted = Ridge().fit(x, y)
        z, asked = (x - x.mean(0)) / x.std(0), rows(30, seed=1)[0]
        penalty = 1 / fitted.prior
        inverse = np.linalg.inv(z.T @ z + penalty * np.eye(5))
        a = (asked - x.mean(0)) / x.std(0)
        expected = fitted.noise * np.sqrt(1 + np.einsum("nf,fg,ng->n", a, inverse, a))
        assert fitted.spread(asked) == pytest.approx(expected, rel=1e-6)


def test_products_of_features_are_learned_with_degree_two() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (200, 3))
    y = x[:, 0] * x[:, 1] + x[:, 2] ** 2
    assert np.abs(Ridge(degree=2).fit(x, y).predict(x) - y).max() < 1e-3
    assert np.abs(Ridge(degree=1).fit(x, y).predict(x) - y).mean() > 0.5
    with pytest.raises(InvalidValueError, match="`degree` must be 1 or 2, but got 3"):
        Ridge(degree=3)


def test_equal_columns_and_columns_that_never_vary_do_no_harm() -> None:
    x, y = rows()
    doubled = np.column_stack([x, x[:, 0], np.full(len(x), 7.0)])
    fitted = Ridge().fit(doubled, y)
    assert np.isfinite(fitted.predict(doubled)).all() and np.isfinite(fitted.spread(doubled * 2)).all()
    assert np.corrcoef(fitted.predict(doubled), y)[0, 1] > 0.9

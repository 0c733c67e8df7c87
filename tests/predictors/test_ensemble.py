import numpy as np
import pytest

from predictors.ensemble import Ensemble
from predictors.kriging import Kriging
from predictors.ridge import Ridge
from search_spaces.base.errors import InvalidValueError


def test_it_is_the_mean_and_deviation_of_the_mixture_of_its_members() -> None:
    rng = np.random.default_rng(0)
    x, unseen = rng.normal(0, 1, (50, 3)), rng.normal(0, 2, (20, 3))
    y = np.sin(x[:, 0]) + x[:, 1]
    members = (Ridge(), Kriging())
    fitted = Ensemble(members).fit(x, y)
    alone = [member.fit(x, y) for member in members]
    means, spreads = (np.array([getattr(m, name)(unseen) for m in alone]) for name in ("predict", "spread"))
    assert fitted.predict(unseen) == pytest.approx(means.mean(0))
    rng = np.random.default_rng(1)  # second moment of the mixture, drawn
    draws = means[:, None] + spreads[:, None] * rng.normal(0, 1, (2, 40_000, 20))
    assert fitted.spread(unseen) == pytest.approx(draws.reshape(-1, 20).std(0), rel=0.02)


def test_one_member_is_no_ensemble() -> None:
    with pytest.raises(InvalidValueError, match="two or more members, but got 1"):
        Ensemble((Ridge(),))
    assert len(Ensemble().members) == 3

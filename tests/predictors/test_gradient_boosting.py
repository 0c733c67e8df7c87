import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor

from predictors.gradient_boosting import CHUNK, GradientBoosting
from search_spaces.base.errors import InvalidValueError


def test_members_are_scikit_learns_models() -> None:
    rng = np.random.default_rng(0)
    x, unseen = rng.normal(0, 1, (100, 6)), rng.normal(0, 2, (2 * CHUNK + 5, 6))
    y = np.where(x[:, 0] > 0, 1.0, -1.0) + x[:, 1]
    fitted = GradientBoosting(trees=30, depth=4, members=3, seed=2).fit(x, y)
    members = np.array(
        [
            GradientBoostingRegressor(
                n_estimators=30, max_depth=4, learning_rate=0.05, subsample=0.5, max_features=0.5, random_state=6 + m
            )
            .fit(x, y)
            .predict(unseen)
            for m in range(3)
        ]
    )
    assert fitted.predict(unseen) == pytest.approx(members.mean(0), rel=1e-12, abs=1e-12)
    assert fitted.spread(unseen) == pytest.approx(members.std(0), rel=1e-9, abs=1e-12)
    assert fitted.predict(unseen[:0]).shape == (0,)


@pytest.mark.parametrize(
    "wrong", [{"trees": 0}, {"members": 1}, {"learning_rate": 0.0}, {"subsample": 1.5}, {"feature_share": 0.0}]
)
def test_bad_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match=f"`{next(iter(wrong))}`"):
        GradientBoosting(**wrong)  # type: ignore[arg-type]

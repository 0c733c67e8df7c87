import numpy as np
import pytest

from predictors import CorrectedLookup, GaussianProcess, PositionTable, macs
from predictors.base import Bounded, Predictor, Saved, Trainable
from search_spaces import MobileNetV3


def test_only_tables_know_their_minimum(space: MobileNetV3) -> None:
    assert isinstance(macs(space), Bounded) and isinstance(CorrectedLookup(macs(space)), Bounded)
    assert not isinstance(GaussianProcess(space), Bounded)


def test_the_shipped_predictors_have_the_forms_that_the_search_asks_for(space: MobileNetV3) -> None:
    table: Predictor = macs(space)
    trainables: list[Trainable] = [CorrectedLookup(macs(space)), GaussianProcess(space)]
    saved: list[Saved] = [macs(space), CorrectedLookup(macs(space)), GaussianProcess(space)]
    assert isinstance(table, PositionTable) and len(trainables) == 2
    assert all(callable(one.to_arrays) for one in saved)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_predictions_have_one_value_per_row(space: MobileNetV3, n: int) -> None:
    process = GaussianProcess(space)
    genes = space.sample(12, np.random.default_rng(0))
    process.fit(genes, np.linspace(0.1, 0.9, 12))
    for predictor in (macs(space), process):
        values = predictor.predict(genes[:n])
        assert values.shape == (n,) and values.dtype == np.float64

import numpy as np
import pytest

from predictors import Combined, PositionTable, macs, params, peak_memory, weighted_sum
from predictors.predictor_contract import check_predictor
from search_spaces import Genes, MobileNetV3
from search_spaces.base.errors import InvalidValueError


@pytest.mark.parametrize("how", ["worst", "weighted"])
def test_row_by_row(space: MobileNetV3, everything: Genes, how: str) -> None:
    work, size = macs(space), params(space)
    combined = Combined([work, size], [1e-3, 2e-2], how)  # type: ignore[arg-type]
    pairs = np.stack([1e-3 * work.predict(everything), 2e-2 * size.predict(everything)])
    expected = pairs.max(0) if how == "worst" else pairs.sum(0)
    assert len(set(pairs.argmax(0))) == 2  # either part is the worst somewhere
    assert combined.predict(everything) == pytest.approx(expected)
    check_predictor(combined, space, np.random.default_rng(0))


def test_a_weighted_sum_of_sums_knows_its_minimum(space: MobileNetV3, everything: Genes) -> None:
    shifted = PositionTable(space, "macs", "1", macs(space).values, "sum", 1e4)
    combined = weighted_sum([shifted, params(space)], [0.5, 7.0])
    assert isinstance(combined, PositionTable)
    expected = 0.5 * macs(space).predict(everything) + 0.5e4 + 7 * params(space).predict(everything)
    assert combined.predict(everything) == pytest.approx(expected)
    assert combined.minimum()[1] == pytest.approx(expected.min())


def test_a_weighted_sum_with_a_maximum_is_no_table(space: MobileNetV3, everything: Genes) -> None:
    combined = weighted_sum([macs(space), peak_memory(space)], [1.0, 3.0])
    assert isinstance(combined, Combined)
    expected = macs(space).predict(everything) + 3 * peak_memory(space).predict(everything)
    assert combined.predict(everything) == pytest.approx(expected)


@pytest.mark.parametrize("factors", [[], [1.0], [1.0, 0.0], [1.0, -1.0], [1.0, np.nan], [1.0, np.inf]])
def test_factors_are_checked(space: MobileNetV3, factors: list[float]) -> None:
    with pytest.raises(InvalidValueError):
        Combined([macs(space), params(space)], factors, "worst")
    with pytest.raises(InvalidValueError, match="worst"):
        Combined([macs(space)], [1.0], "best")  # type: ignore[arg-type]

import pytest

from nas.core.schedule import left_of_rate


def test_rates_fall_from_all_to_nothing_or_stay() -> None:
    assert [left_of_rate("cosine", done) for done in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    assert left_of_rate("cosine", 1 / 3) == pytest.approx(0.75)
    assert [left_of_rate("power", done, 2.0) for done in (0, 0.5, 1)] == [1, 0.25, 0]
    assert left_of_rate("power", 0.3) == pytest.approx(0.7)
    assert {left_of_rate("constant", done) for done in (0, 0.5, 1)} == {1.0}

"""Metrics and limits."""

import pytest

from search_spaces.base.errors import InvalidValueError
from search_spaces.metric import ACCURACY, BUILT_IN, LATENCY, Limit, Metric


def test_a_title_is_the_name_without_its_unit() -> None:
    assert [metric.title for metric in BUILT_IN.values()] == ["accuracy", "latency", "memory", "MACs", "parameters"]
    assert Metric("energy_mj", "mj").title == "energy"


def test_a_limit_is_searched_with_its_margin() -> None:
    assert Limit(LATENCY, 20, "limit.latency_ms").with_margin(0.1).searched == pytest.approx(18)
    assert Limit(ACCURACY, 0.5, "limit.accuracy", 0.1).searched == pytest.approx(0.55)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Metric("Energy (mJ)", "mJ"),
        lambda: Metric("energy", "mJ", "less"),  # type: ignore[arg-type]
        lambda: Metric("energy", "mJ", of_layers="mean"),  # type: ignore[arg-type]
        lambda: Limit(LATENCY, 0, "limit.latency_ms"),
        lambda: Limit(LATENCY, float("nan"), "limit.latency_ms"),
        lambda: Limit(LATENCY, 1, "limit.latency_ms", 1.0),
    ],
)
def test_what_cannot_be_is_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidValueError, match="but got"):
        make()

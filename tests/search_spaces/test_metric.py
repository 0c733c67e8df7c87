"""Metrics and limits."""

import numpy as np
import pytest

from search_spaces.base.errors import InvalidValueError
from search_spaces.metric import (
    ACCURACY,
    BUILT_IN,
    LATENCY,
    MACS,
    MEMORY,
    TASK_METRICS,
    Limit,
    Metric,
    amount_of,
    known_metric,
    strictest,
    title_of,
    with_unit,
)


def test_a_title_is_the_name_without_its_unit() -> None:
    counted = ["MACs", "parameters", "activations", "words of memory traffic", "arithmetic intensity"]
    assert [metric.title for metric in BUILT_IN.values()] == ["accuracy", "latency", "memory", *counted]
    assert Metric("energy_mj", "mj").title == "energy"


def test_a_limit_is_searched_with_its_margin() -> None:
    assert Limit(LATENCY, 20, "limit.latency_ms", 0.1).searched == pytest.approx(18)
    assert Limit(ACCURACY, 0.5, "limit.accuracy", 0.1).searched == pytest.approx(0.55)


def test_the_direction_decides_what_keeps_a_limit_and_by_how_much_others_exceed_it() -> None:
    values = np.array([8.0, 10.0, 12.0, np.nan])
    most, least = Limit(LATENCY, 10), Limit(ACCURACY, 10)
    assert most.keeps(values).tolist() == [True, True, False, False]
    assert least.keeps(values).tolist() == [False, True, True, False]
    assert most.excess(values[:3]).tolist() == [-0.2, 0, 0.2] and least.excess(values[:3]).tolist() == [0.2, 0, -0.2]
    assert (LATENCY.cost(3.0), ACCURACY.cost(3.0), ACCURACY.cost(ACCURACY.cost(3.0))) == (3, -3, 3)
    assert (LATENCY.sign, ACCURACY.sign) == ("≤", "≥")


def test_a_loosened_limit_lets_what_misses_by_so_much_pass() -> None:
    assert Limit(LATENCY, 10, margin=0.1).loosened(2).searched == 11
    assert Limit(ACCURACY, 0.5).loosened(0.1).searched == 0.4


def test_of_several_limits_the_hardest_to_keep_counts() -> None:
    assert strictest([Limit(LATENCY, 10), None, Limit(LATENCY, 9)]) == Limit(LATENCY, 9)
    assert strictest([Limit(ACCURACY, 0.5), Limit(ACCURACY, 0.9)]) == Limit(ACCURACY, 0.9)
    assert strictest([None]) is None


def test_a_limit_is_stated_as_the_user_set_it() -> None:
    assert Limit(LATENCY, 20, "limit.latency_ms").stated == "`limit.latency_ms`=20"
    share = Limit(LATENCY, 4, "limit.latency_share", 0.1, 8)
    assert share.stated == "`limit.latency_share`=0.5 (at most 3.6 ms predicted)"
    named = Limit(LATENCY, 4, "limit.latency_share", 0.1, 8, "the slowest network")
    assert named.stated == "`limit.latency_share`=0.5 of the 8 ms of the slowest network (at most 3.6 ms predicted)"
    assert Limit(MACS, 12380, "limit.macs").stated == "`limit.macs`=12380", "as it can be set again"
    assert Limit(MACS, 12380, "limit.macs").nearest(1.238e7) == "`limit.macs` to 12400000 or more"
    own = Limit(MEMORY, 16384, "limit.memory_bytes", origin="the memory that npu has")
    assert own.stated == "`limit.memory_bytes`=16384 (the memory that npu has)"
    assert own.nearest(27_300) == "`limit.memory_bytes` to 27300 or more"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(12380, "12,380"), (12380.4, "12,380"), (1.2e7, "12,000,000"), (3.14159, "3.142"), (0.00012, "0.00012")],
        *[(0.0, "0"), (2.0, "2"), (-1234.5, "-1,234"), (1e20, "1e+20"), (np.inf, "inf"), (np.nan, "nan")],
    ],
)
def test_numbers_are_written_for_readers(value: float, text: str) -> None:
    assert with_unit(value, "1") == text and with_unit(value, "mJ") == f"{text} mJ"


@pytest.mark.parametrize(
    ("metric", "given", "number"),
    [
        *[("memory_bytes", "16KiB", 16384), ("memory_bytes", "16K", 16384), ("memory_bytes", "1MB", 1e6)],
        *[("scratch_bytes", "1.5 MiB", 1.5 * 2**20), ("memory_bytes", "2kB", 2000), ("memory_bytes", 4096, 4096)],
        *[("macs", "50M", 5e7), ("params", "1.5M", 1.5e6), ("traffic", "2k", 2000), ("activations", "2K", 2000)],
        *[("macs", ".5 G", 5e8), ("energy_mj", "2k", 2000), ("macs", 50, 50), ("macs", None, None)],
    ],
)
def test_amounts_may_have_suffixes(metric: str, given: object, number: float | None) -> None:
    assert amount_of(metric, given) == number


@pytest.mark.parametrize(
    ("metric", "given"),
    [
        *[("latency_ms", "16K"), ("accuracy", "1k"), ("intensity", "1k"), ("macs", "1KiB"), ("macs", "50")],
        *[("memory_bytes", "K"), ("memory_bytes", "1.2.3K"), ("macs", "5m"), ("macs", "-5M"), ("macs", ["5M"])],
    ],
)
def test_other_words_are_no_amounts(metric: str, given: object) -> None:
    assert amount_of(metric, given) == given


@pytest.mark.parametrize("metric", [MACS, ACCURACY])
@pytest.mark.parametrize("scale", [1.0, 0.0371, 813.3])
def test_the_limit_to_set_is_kept_by_the_value_and_near(metric: Metric, scale: float) -> None:
    for value in (0.1, 0.30000000000000004, 1.0, 7.123, 99.96, 999.5, 1234567.0, 3.3e-9, -5.678):
        name, _, number, *words = Limit(metric, 1.0, "limit.it", scale=scale).nearest(value).split()
        assert (name, words) == ("`limit.it`", ["or", "more" if metric is MACS else "less"])
        bound = float(number) * scale
        assert bound >= value if metric is MACS else bound <= value
        assert bound == pytest.approx(value, rel=0.0101)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Metric("Energy (mJ)", "mJ"),
        lambda: Metric("energy", "mJ", "less"),  # type: ignore[arg-type]
        lambda: Metric("energy", "mJ", of_layers="mean"),  # type: ignore[arg-type]
        lambda: Limit(LATENCY, float("nan"), "limit.latency_ms"),
        lambda: Limit(LATENCY, 1, "limit.latency_ms", 1.0),
    ],
)
def test_what_cannot_be_is_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidValueError, match="but got"):
        make()


def test_the_metric_of_a_task_has_a_range() -> None:
    miou, error = TASK_METRICS["miou"], TASK_METRICS["mae"]
    assert miou.is_share and not error.is_share and ACCURACY.is_share and TASK_METRICS["accuracy"] is ACCURACY
    with pytest.raises(InvalidValueError, match=r"mIoU is a fraction, 0 to 1, but got 1\.5"):
        miou.check(1.5, miou.title)
    with pytest.raises(InvalidValueError, match="in 0 to inf, but got -1"):
        error.check(-1, error.title)
    with pytest.raises(InvalidValueError, match="but got nan"):
        error.check(float("nan"), error.title)
    assert title_of("psnr_db", "dB") == "PSNR" and title_of("mae", "cm") == "mean absolute error"
    assert known_metric("macs") is not None and known_metric("r2") is not None and known_metric("speed") is None

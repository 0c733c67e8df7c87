from collections.abc import Callable
from typing import Any

import pytest
import yaml

from nas.data import digits
from nas.run.settings import (
    CONF,
    ExportSettings,
    LabelSettings,
    Limits,
    ProfileSettings,
    SearchSettings,
    Settings,
    parse_duration,
)
from nas.searchers.differentiable.darts import DARTS
from search_spaces.base.errors import InvalidValueError, NasError


def settings(**changes: Any) -> Settings:
    given: dict[str, Any] = {
        "name": "a",
        "out": "runs/a",
        "seed": 0,
        "device": "host_ort",
        "profile": ProfileSettings(8, 2),
        "label": LabelSettings(14, 3, 64),
        "search": SearchSettings(100, True),
        "export": ExportSettings(3),
    }
    return Settings(**{**given, **changes})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: settings(seed=-1), "`seed` must be >= 0, but got -1"),
        (lambda: settings(seed=2**32), "`seed` must be below .*, but got 4294967296"),
        (lambda: ProfileSettings(7, 2), "`profile.networks` must be >= 8, but got 7"),
        (lambda: ProfileSettings(8, 1), "`profile.check_networks` must be >= 2"),
        (lambda: LabelSettings(by="hand"), "`label.by` must be supernet or training, but got 'hand'"),
        (lambda: LabelSettings(11, 1, 1), "`label.subnets` must be >= 12"),
        (lambda: LabelSettings(14, 1, 1), "`label.held_out` must be >= 2"),
        (lambda: LabelSettings(14, 3, 0), "`label.recalibration_images` must be >= 1"),
        (lambda: LabelSettings(14, 5, 1), "exceed `label.held_out` by 10 or more, but got 14 and 5"),
        (lambda: SearchSettings(0, True), "`search.evaluations` must be >= 1"),
        (lambda: ExportSettings(0), "`export.networks` must be >= 1"),
        (lambda: ExportSettings(10**8), "`export.networks` must be <= 10,000,000, but got 100,000,000"),
        (lambda: ProfileSettings(20, 10, repeats=1001), "`profile.repeats` must be <= 1,000, but got 1,001"),
        (lambda: settings(device=[]), "at least one device"),
        (lambda: settings(device=5), "a name, a path or a list of them, but got 5"),
        (lambda: settings(device=["host_ort", 5]), "a name, a path or a list of them"),
        (lambda: settings(device=None), "a name, a path or a list of them"),
    ],
)
def test_refusals(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("device", "names"),
    [("a", ["a"]), (["b", "a"], ["b", "a"]), (["a", "b", "a"], ["a", "b"]), ("my/own.yaml", ["my/own.yaml"])],
)
def test_devices(device: Any, names: list[str]) -> None:
    assert settings(device=device).devices == names


@pytest.mark.parametrize(
    ("value", "expected"), [(None, None), (0.5, 0.5), (2, 2), ({"a": 0.5, "b": 1}, 0.5), ({"b": 1}, None), ({}, None)]
)
def test_a_limit_for_one_device(value: Any, expected: float | None) -> None:
    assert Limits({"latency_ms": value}).of("latency_ms", "a") == expected


@pytest.mark.parametrize(
    "value", [0, -1, 0.0, True, False, "1", [1], float("nan"), {"a": -1}, {"b": -1}, {"a": "x"}, {"a": True}]
)
def test_a_wrong_limit(value: Any) -> None:
    for name in ("latency_ms", "memory_bytes"):
        with pytest.raises(InvalidValueError, match=rf"`limit\.{name}` must be a number > 0"):
            Limits({name: value}).of(name, "a")


METRICS = {"accuracy": ["a", "b"], "latency_ms": ["a", "b"], "energy_mj": ["b"], "size": ["a", "b"]}


@pytest.mark.parametrize(
    ("given", "own"),
    [
        ({"latency_ms": 3, "latency_share": {"a": 0.5}, "latency_margin": 0.1}, {}),
        ({"energy_mj": 3, "accuracy": {"a": 0.5, "b": 0.9}}, {"size": -3.5}),
        ({"energy_mj": {"b": 3}, "latency_ms": None}, {"size": {"a": 1, "b": None}}),
    ],
)
def test_any_metric_of_a_run_can_be_limited(given: Any, own: Any) -> None:
    Limits(given, own).check(METRICS)


@pytest.mark.parametrize(
    ("given", "own", "message"),
    [
        (
            {"latencyms": 3},
            {},
            r"`limit.latencyms` names no metric of.* Did you mean `limit.latency_ms`\?.*size",
        ),
        ({"speed": None}, {}, "`limit.speed` names no metric of this run. There are accuracy, latency_ms"),
        ({"energy_mj": {"a": 3}}, {}, "`limit.energy_mj` names a, but the devices are b"),
        ({"accuracy": {"b": 90}}, {}, r"Did you mean 0\.9"),
        ({"latency_share": "much"}, {}, "`limit.latency_share` must be a number > 0"),
        ({"energy_mj": "little"}, {}, "`limit.energy_mj` must be a number, null"),
        ({"size": True}, {}, "`limit.size` must be a number"),
        ({}, {"size": [3]}, "`metrics.size.limit` must be a number"),
    ],
)
def test_a_limit_that_means_nothing_is_refused(given: Any, own: Any, message: str) -> None:
    with pytest.raises(NasError, match=message):
        Limits(given, own).check(METRICS)


@pytest.mark.parametrize("margin", [-0.1, 1, "a", True, float("nan")])
def test_a_margin_is_a_share(margin: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"`limit.latency_margin` must be in \[0, 1\)"):
        Limits({"latency_margin": margin})


def test_a_metric_has_one_limit() -> None:
    with pytest.raises(InvalidValueError, match="`limit.size` and `metrics.size.limit` are one limit"):
        settings(limit={"size": 3}, metrics={"size": {"file": "a.npz", "limit": 3}})
    assert settings(metrics={"size": {"file": "a.npz", "limit": 3}}).limits.of("size", "any") == 3


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 90),
        (1.5, 1.5),
        ("90s", 90),
        ("10min", 600),
        ("2h", 7200),
        ("1h30min", 5400),
        ("0.5 min", 30),
        ("1h 5s", 3605),
    ],
)
def test_durations(text: Any, seconds: float) -> None:
    assert parse_duration("budget", text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "min", "10m", "-5s", 0, -1, True, [1], "nan", float("nan"), float("inf"), "0s"]
)
def test_what_is_no_duration_is_refused(text: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"`budget` must be a time such as 90s, 10min or 1h30min, but got"):
        parse_duration("budget", text)


def test_settings_without_a_configuration_are_those_of_the_configuration() -> None:
    written = yaml.safe_load((CONF / "config.yaml").read_text())
    for name, made in [("profile", ProfileSettings()), ("label", LabelSettings()), ("export", ExportSettings())]:
        assert vars(made) == {**written[name], **({"budget": None} if name == "profile" else {})}
    assert vars(SearchSettings()) == written["search"]


def test_limits_may_have_suffixes() -> None:
    for name, given, number in (("memory_bytes", "16KiB", 16384), ("macs", "50M", 5e7), ("energy_mj", "2k", 2000)):
        assert Limits({name: given}).of(name, "a") == Limits({name: {"a": given}}).of(name, "a") == number
    assert Limits({}, {"energy_mj": "2k"}).of("energy_mj", "a") == 2000


@pytest.mark.parametrize(
    ("name", "forms"),
    [
        ("latency_ms", ", null"),
        ("memory_bytes", r" \(bytes, or such as 16KiB, 1MB\), null"),
        ("macs", r" \(or such as 200k, 50M\)"),
    ],
)
def test_what_a_limit_cannot_be_is_refused_with_what_it_can_be(name: str, forms: str) -> None:
    with pytest.raises(InvalidValueError, match=rf"`limit.{name}` must be a number > 0{forms}.*, but got .16X.\."):
        Limits({name: "16X"}).of(name, "a")


NAMES = {"kernel.2.1": 3, "kernel.1.1": 5, "depth": 2}


@pytest.mark.parametrize("fixed", [NAMES, {"kernel": {"2": {"1": 3}, "1": {"1": 5}}, "depth": 2}])
def test_choices_whose_names_have_dots_can_be_fixed_on_the_command_line(fixed: dict[str, Any]) -> None:
    assert SearchSettings(fixed=fixed).fixed == NAMES
    assert DARTS(digits(), fixed=fixed).fixed == NAMES

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hardware_profiles import LatencyTable, Measurement
from nas.run.doubts import Doubt, doubts
from nas.run.network_log import NetworkLog
from nas.run.networks import distinct_networks
from search_spaces import MobileNetV3

ONE = Measurement(latency_ms=1, median_ms=1, p10_ms=1, p90_ms=1, runs=1, passes=1, noise=1, agreed=True)


def measured(
    space: MobileNetV3,
    folder: Path,
    *,
    layer: Callable[[int], Measurement] = lambda n: ONE,
    whole: Callable[[str, int, float], Measurement] = lambda role, n, sum_ms: dataclasses.replace(
        ONE, latency_ms=sum_ms
    ),
) -> list[Doubt]:
    """What is doubtful about layers and whole networks (role, number, sum of its layers) measured so."""
    table, networks = LatencyTable(folder / "t", "device", {}), NetworkLog(folder / "n", space, {})
    for n, kind in enumerate(space.distinct_layers):
        table.add(kind, layer(n))
    drawn = distinct_networks(space, 20, np.random.default_rng(0))
    for role, some in (("fit", drawn[:10]), ("check", drawn[10:]), ("check again", drawn[10:])):
        for n, architecture in enumerate(some):
            networks.add(role, architecture, whole(role, n, float(len(space.lower(architecture)))))
    return doubts(space, table, networks)


def test_a_quiet_device_leaves_no_doubts(small_space: MobileNetV3, tmp_path: Path) -> None:
    assert measured(small_space, tmp_path) == []


@pytest.mark.parametrize(("every", "hopeless"), [(20, None), (5, False), (1, True)])
def test_many_rows_that_do_not_agree(
    small_space: MobileNetV3, tmp_path: Path, every: int, hopeless: bool | None
) -> None:
    bad = dataclasses.replace(ONE, agreed=False, disturbed=1.0)
    found = measured(small_space, tmp_path, layer=lambda n: ONE if n % every else bad)
    assert [doubt.is_hopeless for doubt in found] == ([] if hopeless is None else [hopeless])
    assert all(re.search(r"\d+ of \d+ layers .* \d+ of them because other programs", doubt.text) for doubt in found)


@pytest.mark.parametrize(("factor", "hopeless"), [(1.05, None), (1.18, False), (2.0, True)])
def test_two_measurements_of_one_network_that_differ(
    small_space: MobileNetV3, tmp_path: Path, factor: float, hopeless: bool | None
) -> None:
    def whole(role: str, n: int, sum_ms: float) -> Measurement:
        return dataclasses.replace(ONE, latency_ms=sum_ms * (factor if role == "check again" else 1))

    found = measured(small_space, tmp_path, whole=whole)
    assert [doubt.is_hopeless for doubt in found] == ([] if hopeless is None else [hopeless])
    assert all(f"differ by {factor - 1:.0%}" in doubt.text for doubt in found)


@pytest.mark.parametrize(("factor", "hopeless"), [(0.3, None), (1.5, None), (3.0, False), (11.0, True)])
def test_whole_networks_that_take_several_times_as_long_as_their_layers(
    small_space: MobileNetV3, tmp_path: Path, factor: float, hopeless: bool | None
) -> None:
    found = measured(
        small_space, tmp_path, whole=lambda role, n, sum_ms: dataclasses.replace(ONE, latency_ms=factor * sum_ms)
    )
    assert [doubt.is_hopeless for doubt in found] == ([] if hopeless is None else [hopeless])
    assert all(f"take {factor:.1f} times as long" in doubt.text for doubt in found)


@pytest.mark.parametrize(("factor", "doubtful"), [(1.0, False), (1.2, False), (2.0, True)])
def test_splits_that_are_other_shares_of_each_network(
    small_space: MobileNetV3, tmp_path: Path, factor: float, doubtful: bool
) -> None:
    """Every third network was disturbed while it was timed as a whole, another one while it was timed inside."""

    def whole(role: str, n: int, sum_ms: float) -> Measurement:
        split = {"all": 0.9 * sum_ms * [1.0, factor, 1 / factor][n % 3]}
        return dataclasses.replace(ONE, latency_ms=sum_ms, positions_ms=split if role == "fit" else None)

    found = measured(small_space, tmp_path, whole=whole)
    assert len(found) == doubtful and all("shares differ by 100%" in doubt.text for doubt in found)

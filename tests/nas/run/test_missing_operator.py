"""Layers with an operator that a device lacks: recorded as failures, and no network with one is feasible."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from hardware_profiles import LatencyTable
from hardware_profiles.device import availability, load_device
from nas.run.profiling import DeviceProfiling
from nas.run.settings import ProfileSettings
from predictors import plain_sum
from search_spaces import Layer, SearchSpace
from search_spaces.architecture import Choice, Position, Value
from search_spaces.layers import Conv, LinearClassifier
from tests.hardware_profiles.mystery import MysteryConv


class Mixed(SearchSpace):
    """Each of three positions is a convolution, of some kernel, or a layer that no device knows."""

    def __init__(self) -> None:
        names = ["first", "second", "third"]
        choices = [Choice(name, ("conv1", "conv3", "conv5", "odd")) for name in names]
        positions = [*(Position(name, (name,)) for name in names), Position("head", ())]
        super().__init__("mixed", {}, choices, positions)

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer:
        """A layer of 8 channels and 6 x 6 pixels."""
        if position == "head":
            return LinearClassifier(8, 4, 6)
        chosen = str(values[position])
        return MysteryConv(8, 6) if chosen == "odd" else Conv(8, 8, int(chosen[-1]), 1, "relu", 6)


@pytest.mark.parametrize("method", ["isolated", "in_context"])
@pytest.mark.parametrize("device", ["ethos_u55_128", "host_tvm"])
def test_a_layer_that_a_device_lacks_is_infeasible_there(
    device: str, method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    space = Mixed()
    quick = {"warm_up": 0, "runs": 1, "sample_ms": 0, "passes": 1, "max_passes": 1, "loads": 1, "pass_seconds": 0}
    profile = dataclasses.replace(load_device(device), **quick)
    reason = availability(profile)
    if reason is not None:
        pytest.skip(reason)
    backend = profile.open()
    settings = ProfileSettings(networks=8, check_networks=3, method=method, accept_disturbed=True)
    said: list[str] = []
    profiling = DeviceProfiling(
        space, profile, backend, settings, tmp_path, lambda *purpose: np.random.default_rng(0), said.append
    )
    try:
        profiling.run()
    finally:
        backend.close()
    assert "MysteryConv(channels=8, size=6) (position 'first' and 2 more) cannot run there" in caplog.text
    table = LatencyTable.read(tmp_path / "table.jsonl")
    assert set(table.failed) == {MysteryConv(8, 6)} and "no operator Mystery" in table.failed[MysteryConv(8, 6)]
    assert set(table) == set(space.distinct_layers) - {MysteryConv(8, 6)}
    genes = space.canonical(np.array([[a, b, c] for a in range(4) for b in range(4) for c in range(4)], np.int16))
    feasible = np.isfinite(plain_sum(space, table).predict(genes))
    assert feasible.tolist() == [3 not in row for row in genes.tolist()]
    assert math.isfinite(plain_sum(space, table).minimum()[1])

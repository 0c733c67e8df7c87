"""What a target has no operator for is a failure of that layer, on every backend, and others go on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hardware_profiles.device import availability, load_device
from hardware_profiles.measure import Measurement, measure
from hardware_profiles.model import Model
from search_spaces.base.errors import MeasurementError
from search_spaces.layers import Conv
from tests.hardware_profiles.mystery import MysteryConv

ITEMS = [
    ("before", Model.of_layer(Conv(8, 8, 3, 1, "relu", 6))),
    ("odd", Model.of_layer(MysteryConv(8, 6))),
    ("network", Model({"first": Conv(8, 8, 1, 1, "relu", 6), "second": MysteryConv(8, 6)})),
    ("after", Model.of_layer(Conv(8, 8, 1, 1, "relu", 6))),
]


DEVICES = ("ethos_u55_128", "host_tvm", "systolic_eyeriss", "host_ort")
CASES = [
    *((device, False) for device in DEVICES),
    *(pytest.param(device, True, marks=[] if device == "host_ort" else [pytest.mark.slow]) for device in DEVICES),
]
"""In processes of their own, errors of one backend go the way of another's."""


@pytest.mark.parametrize(("device", "isolated"), CASES)
def test_the_layer_fails_by_name_and_others_go_on(device: str, isolated: bool) -> None:
    profile = dataclasses.replace(load_device(device), isolated=isolated, runs=1, passes=1, warm_up=0, loads=1)
    reason = availability(profile)
    if reason is not None:
        pytest.skip(reason)
    backend = profile.open()
    try:
        results = dict(measure(ITEMS, backend, profile, np.random.default_rng(0)))
    finally:
        backend.close()
    assert {name for name, result in results.items() if isinstance(result, Measurement)} == {"before", "after"}
    for name in ("odd", "network"):
        assert isinstance(results[name], MeasurementError) and "no operator Mystery" in str(results[name])

"""The contracts that ship with the packages, over every plug-in that has a YAML."""

from pathlib import Path

import numpy as np
import pytest

from hardware_profiles import availability, device_names, load_device
from hardware_profiles.backend_contract import check_device, check_layer_lowering
from search_spaces.loading import known_spaces
from search_spaces.space_contract import check_space
from tests.conftest import shipped


@pytest.mark.parametrize("name", known_spaces())
def test_space(name: str, rng: np.random.Generator) -> None:
    check_space(shipped(name), rng, file=name)


@pytest.mark.parametrize("name", known_spaces())
def test_layers_of_a_space_compute_the_same_in_torch_and_onnx(name: str, rng: np.random.Generator) -> None:
    space = shipped(name)
    kinds = {type(layer): layer for layer in reversed(space.distinct_layers)}
    drawn = [space.distinct_layers[i] for i in rng.permutation(len(space.distinct_layers))[:16]]
    for layer in dict.fromkeys([*kinds.values(), *drawn]):
        check_layer_lowering(layer)


SLOW = ("host_tvm_tuned", "host_torch_compiled")
"""Devices that compile for long: tuning tries every kernel many times, and torch calls a C++ compiler."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in device_names()]
)
def test_device(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # what a backend keeps for later stays here
    profile = load_device(name)
    reason = availability(profile)
    if reason is not None:
        pytest.skip(reason)
    check_device(profile)

"""Devices run networks with several inputs and outputs: each by its name, here and in a process of their own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from hardware_profiles.device import DeviceProfile
from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import cpu_session, onnx_model
from search_spaces import Architecture
from search_spaces.base.errors import InvalidValueError
from tests.search_spaces.graph_spaces import Branches, TwoByTwo

DEVICES = [("onnxruntime", "float32", False), ("onnxruntime", "float32", True), ("onnxruntime", "int8", False)]
DEVICES += [("pytorch", "float32", False), ("pytorch", "float32", True)]


def device(backend: str, dtype: str = "float32", isolated: bool = False) -> DeviceProfile:
    return DeviceProfile(name="here", title="Here", backend=backend, dtype=dtype, isolated=isolated, batch=2)


@pytest.mark.parametrize(("backend", "dtype", "isolated"), DEVICES)
def test_inputs_and_outputs_by_name(backend: str, dtype: str, isolated: bool) -> None:
    space = TwoByTwo()
    model = Model(Architecture(space, space.sample(1, np.random.default_rng(3))[0]).layers)
    given = {name: array for name, array in zip(model.network.inputs, model.random_inputs(2), strict=True)}
    expected = model.run_onnx(cpu_session(onnx_model(model, 2).SerializeToString()), given)
    opened = device(backend, dtype, isolated).open()
    try:
        loaded = opened.load(model)
        assert loaded.sample_ms(1) > 0
        found = loaded.run(given)
        assert isinstance(found, Mapping) and isinstance(expected, Mapping) and list(found) == ["logits", "mask"]
        for name, array in expected.items():
            assert found[name].shape == array.shape
            tolerance = 1e-4 if dtype == "float32" else 0.2
            assert np.abs(found[name] - array).max() <= tolerance * max(1.0, float(np.abs(array).max()))
        with pytest.raises(InvalidValueError, match="takes the inputs image, distance, but got image"):
            loaded.run({"image": given["image"]})
    finally:
        opened.close()


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("kind", [TwoByTwo, Branches])
def test_times_inside_are_of_every_position(kind: type[TwoByTwo] | type[Branches], dtype: str) -> None:
    space = kind()
    model = Model(space.biggest.layers)
    opened = device("onnxruntime", dtype).open()
    split = opened.load(model).positions_ms(3)
    assert set(split) == set(model.layers)
    fused = {"fuse", "join", "long"}  # a sum that the convolution before it takes up costs nothing
    assert all(ms > 0 for position, ms in split.items() if position not in fused)

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware_profiles import DeviceProfile, Model, availability, load_device, measure
from hardware_profiles.backends.onnxruntime import OnnxRuntimeBackend
from hardware_profiles.measure import Measurement
from hardware_profiles.testing import SMALL, check_device
from search_spaces import MobileNetV3
from search_spaces.errors import DeviceUnavailableError, InvalidValueError, MeasurementError


def host(**changes: Any) -> DeviceProfile:
    return dataclasses.replace(load_device("host_ort"), **changes)


@pytest.mark.parametrize("changes", [{}, {"batch": 3}, {"threads": 2}])
def test_the_contract_of_a_device(changes: dict[str, Any]) -> None:
    check_device(host(**changes))


def test_environment_is_read_back() -> None:
    environment = host(threads=2).open().environment
    assert environment["intra_op_threads"] == 2 and environment["provider"] == "CPUExecutionProvider"
    assert environment["graph_optimisation"] == "ORT_ENABLE_ALL" and environment["cores"] >= 1


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads in /proc")
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_are_those_that_run(threads: int) -> None:
    before = len(list(Path("/proc/self/task").iterdir()))
    loaded = host(threads=threads).open().load(Model.of_layer(SMALL))
    assert len(list(Path("/proc/self/task").iterdir())) - before == threads - 1  # the caller is one of them
    assert loaded.sample_ms(1) > 0


def test_a_threads_setting_that_is_not_applied_is_an_error() -> None:
    backend = OnnxRuntimeBackend(host(threads=2))
    backend._options.intra_op_num_threads = 1
    with pytest.raises(MeasurementError, match="with 2 threads, but ONNX Runtime uses .* with 1"):
        backend.load(Model.of_layer(SMALL))


@pytest.mark.parametrize(
    ("changes", "message"), [({"options": {"providers": "x"}}, "'providers'"), ({"dtype": "float16"}, "float16")]
)
def test_what_it_cannot_do_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        host(**changes).open()


def test_a_provider_that_is_not_installed_is_said_to_be_unavailable() -> None:
    profile = host(options={"provider": "NoSuchExecutionProvider"})
    with pytest.raises(DeviceUnavailableError, match="NoSuchExecutionProvider.*CPUExecutionProvider"):
        profile.open()
    assert "NoSuchExecutionProvider" in str(availability(profile))


def test_a_model_that_does_not_run_is_a_measurement_error() -> None:
    good = Model.of_layer(SMALL)

    class Broken(Model):
        def parameters(self, name: str, shape: tuple[int, ...]) -> Any:
            weight, bias = super().parameters(name, shape)
            return weight[..., :1], bias[:-1]

    with pytest.raises(MeasurementError, match="'host_ort' cannot run the model"):
        host().open().load(Broken(good.layers))


def test_outputs_depend_on_the_images() -> None:
    loaded = host(batch=2).open().load(Model.of_layer(SMALL))
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 8), np.float32)
    one, other = loaded.run(images), loaded.run(images[::-1].copy())
    assert one is not None and other is not None and one.shape == (2, 8, 8, 8)
    assert np.allclose(one[0], other[1], atol=1e-5) and not np.allclose(one[0], one[1], atol=1e-2)


def test_a_network_is_measured(tiny_space: MobileNetV3, rng: np.random.Generator) -> None:
    profile = host(runs=3, sample_ms=0.1, passes=2, max_passes=3)
    items = [(name, Model.of_layer(layer)) for name, layer in tiny_space.lower(tiny_space.biggest).items()]
    results = dict(measure(items, profile.open(), profile, rng))
    assert list(dict(items)) == sorted(results, key=list(dict(items)).index)
    assert all(isinstance(m, Measurement) and m.passes >= profile.passes for m in results.values())

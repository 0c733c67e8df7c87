import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import hardware_profiles.backends.onnxruntime as backend_module
from hardware_profiles import DeviceProfile, Model, availability, load_device, measure
from hardware_profiles.backend_contract import SMALL, check_device
from hardware_profiles.backends.onnxruntime import OnnxRuntimeBackend, node_times
from hardware_profiles.measure import Measurement
from search_spaces import Conv, Layer, MobileNetV3
from search_spaces.base.errors import DeviceUnavailableError, InvalidValueError, MeasurementError, MismatchError
from search_spaces.layers import UIB, Bottleneck, Classifier, FBNetBlock, LinearClassifier, MaxPool, MBConv
from search_spaces.nasbench201 import Cell201, Head201, Reduction201

SKIP = ("none", "none", "none", "skip_connect", "none", "none")
"""A cell that gives its input: no operator."""

NETWORKS: dict[str, dict[str, Layer]] = {
    "mobilenet_v3": {
        "stem": Conv(3, 16, 3, 2, "h_swish", 32),
        "stage1": MBConv(16, 16, 48, True, 5, 1, 16, "h_swish", 16),
        "stage1.block2": MBConv(16, 24, 48, True, 3, 2, 0, "relu", 16),
        "classifier": Classifier(24, 32, 10, "h_swish", 8),
    },
    "resnet50": {
        "pool": MaxPool(16, 3, 2, 32),
        "first": Bottleneck(16, 64, 16, True, 2, "relu", 16),
        "second": Bottleneck(64, 64, 16, False, 1, "relu", 8),
        "classifier": LinearClassifier(64, 10, 8),
    },
    "fbnet": {
        "first": FBNetBlock(16, 24, 48, 5, 2, 2, "relu", 16),
        "second": FBNetBlock(24, 24, 24, 3, 1, 2, "relu", 8),
        "last": Conv(24, 32, 1, 1, "relu6", 8),
    },
    "nasbench201": {
        "1": Cell201(16, 16, ("nor_conv_3x3", "skip_connect", "nor_conv_1x1", "none", "avg_pool_3x3", "skip_connect")),
        "11": Cell201(16, 16, SKIP),
        "reduction": Reduction201(16, 32, 16),
        "head": Head201(32, 10, 8),
    },
    "mobilenet_v4": {
        "first": UIB(16, 24, 64, 3, 5, 2, "relu", 16),
        "second": UIB(24, 24, 48, 0, 3, 1, "relu", 8),
        "convnext": UIB(24, 24, 96, 3, 0, 1, "relu", 8),
    },
}
IDLE = {"11"}
"""Positions that emit nothing."""


def host(**changes: Any) -> DeviceProfile:
    return dataclasses.replace(load_device("host_ort"), **changes)


def images_of(model: Model, batch: int = 1, seed: int = 7) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((batch, *model.input_shape), np.float32)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch": 3},
        {"threads": 2},
        {"options": {"graph_optimization": "basic"}},
        {"dtype": "int8"},
        {"dtype": "int8", "batch": 3},
    ],
    ids=str,
)
def test_the_contract_of_a_device(changes: dict[str, Any]) -> None:
    check_device(host(**changes))


def test_environment_is_read_back() -> None:
    environment = host(threads=2).open().environment
    assert environment["intra_op_threads"] == 2 and environment["provider"] == "CPUExecutionProvider"
    assert environment["graph_optimisation"] == "ORT_ENABLE_ALL" and environment["cores"] >= 1
    environment = host(options={"graph_optimization": "extended"}).open().environment
    assert environment["graph_optimisation"] == "ORT_ENABLE_EXTENDED"


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads in /proc")
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_those_that_run(threads: int) -> None:
    backend = host(threads=threads).open()
    before = len(list(Path("/proc/self/task").iterdir()))
    loaded = backend.load(Model.of_layer(SMALL))
    assert len(list(Path("/proc/self/task").iterdir())) - before == threads - 1  # the caller is one of them
    assert loaded.sample_ms(1) > 0


def test_a_threads_setting_that_is_not_applied_is_an_error() -> None:
    backend = OnnxRuntimeBackend(host(threads=2))
    backend._options.intra_op_num_threads = 1
    with pytest.raises(MeasurementError, match="with 2 threads, but ONNX Runtime uses .* with 1"):
        backend.load(Model.of_layer(SMALL))


def test_a_graph_optimisation_that_is_not_applied_is_an_error() -> None:
    backend = OnnxRuntimeBackend(host())
    backend._options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    with pytest.raises(MeasurementError, match="ORT_ENABLE_ALL .* but .* ORT_DISABLE_ALL"):
        backend.load(Model.of_layer(SMALL))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"providers": "x"}}, "'providers'"),
        ({"dtype": "float16"}, "float16"),
        ({"options": {"provider": "NoSuchExecutionProvider"}}, "'NoSuchExecutionProvider'.*CPUExecutionProvider"),
        ({"options": {"provider": ["CPUExecutionProvider"]}}, "no execution provider"),
        ({"options": {"graph_optimization": "most"}}, "disabled, basic, extended, all, but got 'most'"),
        ({"options": {"graph_optimization": ["all"]}}, "disabled, basic, extended, all"),
        ({"options": {"provider_options": "device_id"}}, "must be a mapping, but got 'device_id'"),
        ({"options": {"provider_options": {"device_id": 0}}}, "takes no `provider_options`"),
        ({"options": {"allow_cpu_fallback": "yes"}}, "true or false, but got 'yes'"),
        ({"options": {"provider": "CUDAExecutionProvider"}, "dtype": "int8"}, "no integer kernels"),
    ],
)
def test_what_it_cannot_do_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        host(**changes).open()


@pytest.mark.skipif("QNNExecutionProvider" in ort.get_available_providers(), reason="this build has it")
def test_a_provider_that_is_not_installed_is_said_to_be_unavailable() -> None:
    profile = host(options={"provider": "QNNExecutionProvider"})
    with pytest.raises(DeviceUnavailableError, match="QNNExecutionProvider.*CPUExecutionProvider"):
        profile.open()
    assert "QNNExecutionProvider" in str(availability(profile))


needs_azure = pytest.mark.skipif(
    "AzureExecutionProvider" not in ort.get_available_providers(), reason="this build has no provider beside the CPU's"
)
"""It runs calls to Azure's servers and no other operator, so that every layer would fall back to the CPU."""


@needs_azure
def test_operators_do_not_fall_back_to_the_cpu_silently(capfd: pytest.CaptureFixture[str]) -> None:
    backend = host(options={"provider": "AzureExecutionProvider"}).open()
    assert backend.environment["cpu_fallback"] is False
    with pytest.raises(MeasurementError, match="AzureExecutionProvider lacks .* `allow_cpu_fallback: true`"):
        backend.load(Model.of_layer(SMALL))
    assert capfd.readouterr() == ("", "")


@needs_azure
def test_operators_may_fall_back_where_the_profile_says_so() -> None:
    backend = host(options={"provider": "AzureExecutionProvider", "allow_cpu_fallback": True}).open()
    assert backend.environment["cpu_fallback"] is True
    loaded = backend.load(Model.of_layer(SMALL))
    assert loaded.sample_ms(1) > 0
    assert not backend.capabilities.in_context
    with pytest.raises(MeasurementError, match="only CPUExecutionProvider can be timed inside"):
        loaded.positions_ms(1)


def test_a_model_that_does_not_run_is_a_measurement_error() -> None:
    good = Model.of_layer(SMALL)

    class Broken(Model):
        def parameters(self, name: str, shape: tuple[int, ...]) -> Any:
            weight, bias = super().parameters(name, shape)
            return weight[..., :1], bias[:-1]

    with pytest.raises(MeasurementError, match="'host_ort' cannot run the model"):
        host().open().load(Broken(good.layers))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_weights_of_another_network_are_a_mismatch(dtype: str) -> None:
    with pytest.raises(MismatchError, match="belong to another network"):
        host(dtype=dtype).open().load(Model({"layer": SMALL}, {}))


def test_weights_that_int8_cannot_hold_are_a_measurement_error() -> None:
    layer = Conv(3, 4, 1, 1, "none", 4)
    nothing = np.full((4, 3, 1, 1), np.nan, np.float32)
    weights = {"layer.conv.weight": nothing, "layer.conv.bias": np.zeros(4, np.float32)}
    with pytest.raises(MeasurementError, match="finite"):
        host(dtype="int8").open().load(Model({"layer": layer}, weights))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_outputs_depend_on_the_images(dtype: str) -> None:
    loaded = host(batch=2, dtype=dtype).open().load(Model.of_layer(SMALL))
    images = images_of(Model.of_layer(SMALL), 2)
    one, other = loaded.run(images), loaded.run(images[::-1].copy())
    assert one is not None and other is not None and one.shape == (2, 8, 8, 8) and one.dtype == np.float32
    assert np.allclose(one[0], other[1], atol=1e-5) and not np.allclose(one[0], one[1], atol=1e-2)


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_computes_nearly_what_float32_does(name: str) -> None:
    model = Model(NETWORKS[name])
    exact, rounded = (host(dtype=dtype, batch=8).open().load(model) for dtype in ("float32", "int8"))
    expected, got = exact.run(images_of(model, 8)), rounded.run(images_of(model, 8))
    assert expected is not None and got is not None and got.dtype == np.float32
    assert np.corrcoef(expected.ravel(), got.ravel())[0, 1] > 0.99
    assert not np.array_equal(expected, got)


def test_a_network_is_measured(tiny_space: MobileNetV3, rng: np.random.Generator) -> None:
    profile = host(runs=3, sample_ms=0.1, passes=2, max_passes=3)
    items = [(name, Model.of_layer(layer)) for name, layer in tiny_space.lower(tiny_space.biggest).items()]
    results = dict(measure(items, profile.open(), profile, rng))
    assert list(dict(items)) == sorted(results, key=list(dict(items)).index)
    assert all(isinstance(m, Measurement) and m.passes >= profile.passes for m in results.values())


# -- in context --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dtype": "int8"},
        {"batch": 2, "threads": 2},
        *({"options": {"graph_optimization": level}} for level in ("disabled", "basic", "extended")),
    ],
    ids=str,
)
def test_all_time_is_of_one_position(name: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(events: Any, kinds: list[str]) -> NDArray[np.float64]:
        seen.append(node_times(events, kinds))
        return seen[-1]

    monkeypatch.setattr(backend_module, "node_times", spy)
    model = Model(NETWORKS[name])
    split = host(**changes).open().load(model).positions_ms(4)
    assert list(split) == list(model.layers)
    assert {position for position, ms in split.items() if ms == 0.0} == IDLE & set(split)
    (node_ms,) = seen
    assert len(node_ms) == backend_module.PROFILE_WARM_UP + 4
    nodes_ms = np.quantile(node_ms[backend_module.PROFILE_WARM_UP :], 0.25, axis=0)
    assert sum(split.values()) == pytest.approx(nodes_ms.sum())


def test_the_position_that_works_most_takes_most_of_the_time() -> None:
    small, big = Conv(32, 32, 1, 1, "relu", 32), Conv(32, 32, 7, 1, "relu", 32)
    for order in ((small, small, big), (small, big, small), (big, small, small)):
        model = Model({f"position{i}": layer for i, layer in enumerate(order)})
        split = host().open().load(model).positions_ms(5)
        assert split[f"position{order.index(big)}"] > 0.7 * sum(split.values())


def test_a_network_without_operators() -> None:
    split = host().open().load(Model({"a": Cell201(4, 4, SKIP), "b": Cell201(4, 4, SKIP)})).positions_ms(2)
    assert set(split) == {"a", "b"} and split["a"] == 0.0 and split["b"] >= 0.0


def test_positions_can_be_timed_again_and_leave_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The place of changes of layout differs from session to session, so each session needs its own graph."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    layers: dict[str, Layer] = {f"b{i}": MBConv(16, 16, 48, True, 3, 1, 16, "h_swish", 8) for i in range(8)}
    loaded = host().open().load(Model(layers))
    for _ in range(8):
        assert set(loaded.positions_ms(1)) == set(layers)
    assert not list(tmp_path.iterdir())


def events(*kinds: str) -> list[dict[str, Any]]:
    return [
        {"cat": "Node", "name": f"n{i}_kernel_time", "ts": i, "dur": 2000 + i, "args": {"op_name": kind}}
        for i, kind in enumerate(kinds)
    ]


def test_node_times_are_ms_by_run() -> None:
    others = [{"cat": "Session", "name": "model_run", "ts": 0, "dur": 9, "args": {}}]
    times = node_times(others + events("Conv", "Relu", "Conv", "Relu")[::-1], ["Conv", "Relu"])
    np.testing.assert_allclose(times, [[2.0, 2.001], [2.002, 2.003]])


@pytest.mark.parametrize("ran", [["Relu", "Conv"], ["Conv", "Relu", "Conv"], ["Conv", "Conv"], []])
def test_a_profile_of_other_nodes_is_refused(ran: list[str]) -> None:
    with pytest.raises(MeasurementError, match="cannot be attributed"):
        node_times(events(*ran), ["Conv", "Relu"])

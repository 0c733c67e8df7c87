"""The TVM backend with the real TVM, against ONNX Runtime on the exported network."""

from __future__ import annotations

import dataclasses
import importlib
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

pytest.importorskip("tvm")

from hardware_profiles.backends.tvm import TvmBackend, cuda_target, open_backend
from hardware_profiles.device import DeviceProfile, availability, load_device
from hardware_profiles.measure import Measurement, measure
from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import onnx_model
from hardware_profiles.tvm.compiler import Compiler
from search_spaces.architecture import Architecture
from search_spaces.base.errors import DeviceUnavailableError, InvalidValueError, MeasurementError, MismatchError
from search_spaces.layers import (
    UIB,
    Bottleneck,
    Classifier,
    Conv,
    FBNetBlock,
    FusedMBConv,
    Layer,
    LinearClassifier,
    MaxPool,
    MBConv,
    NormClassifier,
    ResidualConv,
)
from search_spaces.mobilenet_v3 import MobileNetV3
from search_spaces.ops.activation import Activate
from search_spaces.ops.convolution import Linear
from search_spaces.program import Traced

BLOCK = MBConv(8, 8, 16, True, 3, 1, 8, "h_swish", 4)
TASKS = Path("/proc/self/task")


@pytest.fixture(scope="module")
def profile() -> DeviceProfile:
    return load_device("host_tvm")


@pytest.fixture(scope="module")
def backend(profile: DeviceProfile) -> TvmBackend:
    return open_backend(profile)


def outputs(backend: TvmBackend, model: Model, batch: int = 1) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """From TVM and from ONNX Runtime, for the same random images."""
    images = np.random.default_rng(1).standard_normal((batch, *model.input_shape), np.float32)
    output = backend.load(model).run(images)
    assert output is not None
    session = ort.InferenceSession(onnx_model(model, batch).SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"image": images})
    return output, expected


@pytest.mark.parametrize("seed", range(4))
def test_networks_compute_what_onnx_runtime_computes(backend: TvmBackend, digits_space: MobileNetV3, seed: int) -> None:
    genes = digits_space.sample(1, np.random.default_rng(seed))[0]
    output, expected = outputs(backend, Model(digits_space.lower(Architecture(digits_space, genes))))
    assert output.shape == expected.shape == (1, 10)
    np.testing.assert_allclose(output, expected, atol=1e-4)


@dataclasses.dataclass(frozen=True)
class TwoLinear(Layer):
    """Vectors (C,), which have no height and width: linear, activation, linear."""

    features: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.features,)

    def define(self, x: Traced) -> Traced:
        return Linear("second", 5)(Activate("relu")(Linear("first", 12)(x)))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_layer_of_vectors(profile: DeviceProfile, batch: int) -> None:
    batched = open_backend(dataclasses.replace(profile, batch=batch))
    output, expected = outputs(batched, Model.of_layer(TwoLinear(7)), batch)
    assert output.shape == expected.shape == (batch, 5)
    np.testing.assert_allclose(output, expected, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        MBConv(40, 40, 240, True, 5, 1, 64, "h_swish", 28),  # the size of ImageNet networks
        MBConv(8, 8, 8, False, 3, 1, 0, "relu", 5),
        MBConv(8, 16, 24, True, 5, 2, 8, "h_swish", 5),
        MBConv(3, 3, 5, True, 3, 1, 1, "relu", 3),  # no two channels fit one vector
        MBConv(1, 1, 1, False, 5, 2, 0, "none", 1),
        Conv(1, 8, 3, 1, "h_swish", 3),
        Conv(3, 12, 5, 2, "none", 7),
        Conv(8, 20, 1, 2, "relu", 5),
        Classifier(8, 20, 10, "h_swish", 3),
        Classifier(5, 7, 3, "relu", 1),
        LinearClassifier(8, 10, 3),
        ResidualConv(8, 3, "relu", 5),
        MaxPool(8, 3, 2, 7),
        MaxPool(5, 3, 2, 8),
        Bottleneck(8, 16, 8, True, 2, "relu", 7),
        Bottleneck(5, 6, 7, True, 2, "relu", 6),
        Bottleneck(168, 168, 40, False, 1, "relu", 14),  # the size of ImageNet networks
    ],
)
def test_layers_compute_what_onnx_runtime_computes(backend: TvmBackend, layer: Layer) -> None:
    output, expected = outputs(backend, Model.of_layer(layer))
    assert output.shape == expected.shape
    np.testing.assert_allclose(output, expected, atol=1e-4)


@pytest.mark.parametrize("layer", [BLOCK, MBConv(8, 12, 16, True, 5, 2, 4, "relu", 5), Classifier(8, 8, 3, "relu", 3)])
def test_several_images_and_threads(profile: DeviceProfile, layer: Layer) -> None:
    output, expected = outputs(open_backend(dataclasses.replace(profile, batch=2, threads=2)), Model.of_layer(layer), 2)
    np.testing.assert_allclose(output, expected, atol=1e-4)


def test_trained_weights_are_used(backend: TvmBackend) -> None:
    layer = Conv(2, 2, 1, 1, "none", 2)
    weight = np.array([[1, 2], [3, 4]], np.float32).reshape(2, 2, 1, 1)
    model = Model({"layer": layer}, {"layer.conv.weight": weight, "layer.conv.bias": np.array([10, 20], np.float32)})
    image = np.array([[1, 0], [0, 2]], np.float32)
    output = backend.load(model).run(np.stack([image, image + 1])[None])
    assert output is not None
    np.testing.assert_allclose(output[0, 0], image + 2 * (image + 1) + 10)
    np.testing.assert_allclose(output[0, 1], 3 * image + 4 * (image + 1) + 20)
    with pytest.raises(MismatchError):
        backend.load(Model({"other": layer}, model.weights))


def test_measures(backend: TvmBackend, profile: DeviceProfile, rng: np.random.Generator) -> None:
    quick = dataclasses.replace(profile, runs=3, warm_up=1, agreement=1e9)
    ((item, result),) = measure([("block", Model.of_layer(BLOCK))], backend, quick, rng)
    assert item == "block"
    assert isinstance(result, Measurement) and 0 < result.median_ms < 1e3
    assert not backend.estimates


def test_networks_share_compiled_kernels(profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = open_backend(profile)
    import tvm

    built: list[int] = []
    build: Callable[..., Any] = tvm.tirx.build
    monkeypatch.setattr(tvm.tirx, "build", lambda *args, **kwargs: built.append(1) or build(*args, **kwargs))
    backend.load(Model.of_layer(BLOCK))
    assert built == [1]
    backend.load(Model({"first": BLOCK, "second": BLOCK}))
    assert built == [1]


def test_conditions_are_read_back(backend: TvmBackend) -> None:
    import tvm

    environment = backend.environment
    assert environment["tvm"] == tvm.__version__
    assert environment["threads"] == 1
    assert environment["mcpu"] == tvm.target.codegen.llvm_get_system_cpu()
    assert environment["mcpu"] in environment["target"]
    assert {"cpu", "cores", "os"} <= set(environment)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.skipif(not TASKS.exists(), reason="counts threads in /proc")
def test_threads_are_applied(profile: DeviceProfile, threads: int) -> None:
    import tvm

    before = len(os.listdir(TASKS))
    backend = open_backend(dataclasses.replace(profile, threads=threads))
    assert backend.environment["threads"] == threads
    if threads > 1:
        assert tvm.runtime.num_threads() == threads
    backend.load(Model.of_layer(BLOCK)).sample_ms(3)
    if threads == 1:
        assert len(os.listdir(TASKS)) <= before


def test_a_model_that_does_not_fit_is_a_measurement_error(profile: DeviceProfile) -> None:
    backend = open_backend(dataclasses.replace(profile, batch=2**44))
    with pytest.raises(MeasurementError, match="'host_tvm' cannot run the model: ") as caught:
        backend.load(Model.of_layer(BLOCK))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "int8"}, "no `dtype: int8`"),
        ({"options": {"tarjet": {}}}, "no option 'tarjet'"),
        ({"options": {"target": "llvm"}}, "must be a mapping"),
        ({"options": {"target": {"kind": "vulkan"}}}, "must be a mapping with `kind: llvm` or `kind: cuda`"),
        ({"options": {"target": {"kind": "llvm", "mtriple": "wasm32"}}}, "`mtriple` must be this computer's"),
        ({"options": {"target": {"kind": "llvm", "mcpu": "pentium9"}}}, "LLVM does not know the `mcpu`"),
        ({"options": {"target": {"kind": "llvm", "speed": 9}}}, "Unknown config option 'speed'"),
        ({"options": {"target": {"kind": "cuda", "speed": 9}}}, "Unknown config option 'speed'"),
        ({"options": {"target": {"kind": "cuda"}}, "threads": 2}, "on CUDA `threads` must be 1"),
        ({"options": {"target": {"kind": "cuda"}, "device": "first"}}, "`device` must be a whole number"),
        ({"options": {"target": {"kind": "cuda"}, "tune_trials": 3}}, "no option `tune_trials` for .* `kind: cuda`"),
        ({"options": {"device": 1}}, "no option `device` for a target of `kind: llvm`"),
        ({"options": {"tune_trials": -1}}, "`tune_trials` must be a whole number >= 0, but got -1"),
        ({"options": {"tune_trials": True}}, "`tune_trials` must be a whole number >= 0, but got True"),
        ({"options": {"tune_trials": 1, "tuning_records": 5}}, "`tuning_records` must be a folder, but got 5"),
        ({"options": {"tuning_records": "here"}}, "`tuning_records` needs `tune_trials` above 0"),
    ],
)
def test_refuses_what_it_cannot_apply(profile: DeviceProfile, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        dataclasses.replace(profile, **changes).open()


def test_a_target_of_the_profile_is_used(profile: DeviceProfile) -> None:
    backend = open_backend(dataclasses.replace(profile, options={"target": {"kind": "llvm", "opt-level": 1}}))
    assert '"opt-level":1' in backend.environment["target"]
    output, expected = outputs(backend, Model.of_layer(BLOCK))
    np.testing.assert_allclose(output, expected, atol=1e-4)


def test_times_each_position(backend: TvmBackend, digits_space: MobileNetV3) -> None:
    assert backend.capabilities.in_context
    model = Model(digits_space.lower(digits_space.biggest))
    loaded = backend.load(model)
    for runs in (1, 2000):  # more than fit one log
        positions = loaded.positions_ms(runs)
        assert list(positions) == list(model.layers)
        assert all(math.isfinite(ms) and ms >= 0 for ms in positions.values())
        assert sum(positions.values()) > 0


def test_tunes(profile: DeviceProfile, tmp_path: Path) -> None:
    options = {"tune_trials": 2, "tuning_records": str(tmp_path / "records")}
    backend = open_backend(dataclasses.replace(profile, options=options))
    assert backend.environment.items() >= options.items()
    output, expected = outputs(backend, Model.of_layer(Conv(4, 8, 1, 1, "relu", 4)))
    np.testing.assert_allclose(output, expected, atol=1e-4)
    assert len(list((tmp_path / "records").glob("*/*/result.json"))) == 1


@pytest.mark.parametrize(
    "model", [Model.of_layer(BLOCK), Model({"a": BLOCK, "b": BLOCK, "c": Classifier(8, 8, 3, "relu", 4)})]
)
def test_builds_for_a_gpu(model: Model) -> None:
    compiler = Compiler(cuda_target({"arch": "sm_90"}))
    executable = compiler.compile(model, 1)
    (library,) = [imported for imported in executable.mod.imports if imported.kind == "llvm"]
    (kernels,) = library.imports
    assert kernels.kind == "cuda"
    assert kernels.inspect_source().count("__global__") >= 5
    with pytest.raises(MeasurementError, match="inside a network on CUDA"):
        compiler.compile(model, 1, stamped=True)


def test_a_missing_gpu_is_one_clear_line() -> None:
    profile = load_device("cuda_tvm")
    absent = dataclasses.replace(profile, options={**profile.options, "device": 99})
    assert availability(absent) == (
        "Device 'cuda_tvm' needs CUDA device 99, which TVM does not find. `nvidia-smi` must list it, and TVM must have "
        "been built with CUDA."
    )
    with pytest.raises(DeviceUnavailableError):
        absent.open()


def test_says_how_to_install_tvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tvm", None)
    monkeypatch.delitem(sys.modules, "hardware_profiles.backends.tvm")
    with pytest.raises(DeviceUnavailableError, match=r"pip install 'hwnas\[tvm\]'"):
        importlib.import_module("hardware_profiles.backends.tvm")


@pytest.mark.parametrize(
    "layer",
    [
        UIB(8, 16, 24, 5, 3, 2, "relu", 9),
        UIB(8, 8, 24, 3, 0, 1, "relu", 9),
        UIB(8, 8, 24, 0, 0, 1, "relu", 9),
        FusedMBConv(8, 16, 24, 3, 2, "relu", "none", 9),
        NormClassifier(8, 16, 4, "relu", 5),
        FBNetBlock(16, 16, 48, 3, 1, 2, "relu", 9),
        FBNetBlock(16, 24, 16, 5, 2, 4, "relu", 8),
    ],
)
def test_universal_and_grouped_blocks(profile: DeviceProfile, layer: Layer) -> None:
    for batch in (1, 2):
        backend = open_backend(dataclasses.replace(profile, batch=batch))
        output, expected = outputs(backend, Model.of_layer(layer), batch)
        assert output.std() > 0.01
        np.testing.assert_allclose(output, expected, atol=1e-4)

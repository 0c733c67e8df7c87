import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from hardware_profiles import DeviceProfile, Model, availability, load_device, measure
from hardware_profiles.backend_contract import SMALL, check_device
from hardware_profiles.backends.pytorch import PyTorchBackend, inference_network
from hardware_profiles.measure import Measurement
from search_spaces import MobileNetV3
from search_spaces.base.errors import (
    DeviceLostError,
    DeviceUnavailableError,
    InvalidValueError,
    MeasurementError,
    MismatchError,
)
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
    SeparableConv,
)
from search_spaces.nasbench201 import Cell201, Head201, Reduction201
from search_spaces.program import Op, Shape, Traced
from search_spaces.torch_program import Mode, StaticNetwork, folded_weights

KINDS = (
    SMALL,
    MBConv(8, 16, 8, False, 5, 2, 0, "relu", 9),
    Conv(3, 8, 3, 2, "h_swish", 9),
    Classifier(8, 16, 4, "relu", 3, mix_bias=False),
    LinearClassifier(8, 4, 3),
    ResidualConv(8, 3, "relu6", 6),
    SeparableConv(8, 16, 3, 2, 4, "h_swish", 7),
    MaxPool(8, 3, 2, 7),
    Bottleneck(8, 16, 8, True, 2, "relu", 7),
    UIB(8, 8, 16, 3, 5, 1, "relu", 6),
    FusedMBConv(8, 8, 16, 3, 1, "relu", "none", 6),
    NormClassifier(8, 16, 4, "relu", 3),
    FBNetBlock(8, 8, 16, 3, 1, 2, "relu", 6),
    Cell201(8, 6, ("nor_conv_3x3", "skip_connect", "nor_conv_1x1", "none", "avg_pool_3x3", "nor_conv_3x3")),
    Reduction201(8, 16, 6),
    Head201(8, 4, 3),
)


def host(**changes: Any) -> DeviceProfile:
    return dataclasses.replace(load_device("host_torch"), **changes)


def with_options(**options: Any) -> DeviceProfile:
    profile = load_device("host_torch")
    return dataclasses.replace(profile, options={**profile.options, **options})


def images_for(model: Model, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((batch, *model.input_shape), np.float32)


class Opaque(Conv):
    """Runs, but does not compile: what it computes depends on values."""

    def define(self, x: Traced) -> Traced:
        return Fork()(x)


@dataclasses.dataclass(frozen=True)
class Fork(Op):
    """The input, or its negative, as its sum decides."""

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def to_torch(self, parameters: Sequence[torch.Tensor], mode: Mode, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum()) > 0 else -x


@pytest.mark.parametrize(
    "changes",
    [{}, {"batch": 3}, {"threads": 2}, {"dtype": "bfloat16"}, {"options": {"channels_last": True}}],
)
def test_the_contract_of_a_device(changes: dict[str, Any]) -> None:
    check_device(host(**changes))


@pytest.mark.parametrize("layer", KINDS, ids=lambda layer: type(layer).__name__)
def test_each_layer_computes_what_onnx_runtime_computes(layer: Layer) -> None:
    model = Model.of_layer(layer)
    images = images_for(model, 2)
    expected = dataclasses.replace(load_device("host_ort"), batch=2).open().load(model).run(images)
    got = host(batch=2).open().load(model).run(images)
    assert expected is not None and got is not None and np.abs(expected).max() > 1e-2
    assert np.allclose(got, expected, atol=1e-5)


def test_every_kind_of_layer_is_among_them() -> None:
    modules = (Layer.__module__, Cell201.__module__)
    shipped = {kind for kind in Layer.kinds.values() if kind.__module__ in modules}
    assert {type(layer) for layer in KINDS} == shipped


def test_a_trained_network_gives_its_own_outputs(tiny_space: MobileNetV3) -> None:
    layers = tiny_space.lower(tiny_space.biggest)
    network = StaticNetwork(layers).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if ".norm." in name and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5) if name.endswith(("var", "weight")) else tensor.uniform_(-0.5, 0.5)
        model = Model(layers, folded_weights(network))
        images = images_for(model)
        expected = network(torch.from_numpy(images)).numpy()
    got = host().open().load(model).run(images)
    assert got is not None and np.allclose(got, expected, atol=1e-5)
    with pytest.raises(MismatchError, match="belong to another network"):
        host().open().load(Model({f"other_{position}": layer for position, layer in layers.items()}, model.weights))


def test_batch_norm_is_folded_and_nothing_is_drawn() -> None:
    before = torch.random.get_rng_state()
    network = inference_network(Model.of_layer(SMALL))
    assert torch.equal(torch.random.get_rng_state(), before)
    names = {name.rpartition(".")[0] for name in network.state_dict()}
    assert names == {f"layer.{name}" for name in ("expand", "depthwise", "reduce", "excite", "project")}
    assert not network.training
    assert all(not parameter.requires_grad and parameter.device.type == "cpu" for parameter in network.parameters())


def test_settings_of_the_process_are_applied_and_given_back() -> None:
    threads, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    seen = []
    try:
        torch.set_num_threads(3)
        torch.backends.cudnn.allow_tf32 = True
        backends = [host(threads=n).open() for n in (1, 2)]
        loaded = [backend.load(Model.of_layer(SMALL)) for backend in backends]
        for item in loaded:
            network = item._network  # type: ignore[attr-defined]
            network.register_forward_hook(
                lambda *_: seen.append((torch.get_num_threads(), torch.backends.cudnn.allow_tf32))
            )
        for item in (*loaded, *loaded):
            item.sample_ms(1)
            item.run(images_for(Model.of_layer(SMALL)))
        assert seen == [(1, False)] * 2 + [(2, False)] * 2 + [(1, False)] * 2 + [(2, False)] * 2
        assert torch.get_num_threads() == 3 and torch.backends.cudnn.allow_tf32
        assert [backend.environment["intra_op_threads"] for backend in backends] == [1, 2]
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = tf32


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads in /proc")
def test_threads_are_those_that_run() -> None:
    script = """
import dataclasses
from pathlib import Path
from hardware_profiles import Model, load_device
from search_spaces.layers import Conv
model = Model.of_layer(Conv(32, 32, 3, 1, "relu", 32))
for threads in (1, 2):
    backend = dataclasses.replace(load_device("host_torch"), threads=threads).open()
    before = len(list(Path("/proc/self/task").iterdir()))
    backend.load(model).sample_ms(2)
    print(len(list(Path("/proc/self/task").iterdir())) - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]  # the caller is one of them


def test_threads_that_are_not_to_be_had_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = host(threads=torch.get_num_threads() + 1).open().load(Model.of_layer(SMALL))
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    with pytest.raises(MeasurementError, match=r"asked for \d+ threads, but torch uses"):
        loaded.sample_ms(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "int8"}, "no `dtype: int8`"),
        ({"options": {"modus": "eager"}}, "'modus'.*Did you mean 'mode'"),
        ({"options": {"mode": "fast"}}, "`mode` must be one of eager, compiled, but got 'fast'"),
        ({"options": {"device": "gpu"}}, "`device` must be cpu, .*'gpu'"),
        ({"options": {"device": "cuda:first"}}, "'cuda:first'"),
        ({"options": {"device": 0}}, "but got 0"),
        ({"options": {"channels_last": "yes"}}, "`channels_last` must be true or false, but got 'yes'"),
    ],
)
def test_what_it_cannot_do_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        host(**changes).open()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda_torch", "cuda_torch_compiled"])
def test_a_missing_gpu_is_said_in_one_line(device: str) -> None:
    reason = availability(dataclasses.replace(load_device(device), isolated=False))
    assert reason is not None and f"{device!r} needs a CUDA GPU, but torch " in reason and "\n" not in reason


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this is a Mac")
def test_a_missing_apple_gpu_is_said() -> None:
    with pytest.raises(DeviceUnavailableError, match="Apple's GPU"):
        with_options(device="mps").open()


def test_a_model_that_does_not_run_is_a_measurement_error() -> None:
    class Broken(Model):
        def parameters(self, name: str, shape: tuple[int, ...]) -> Any:
            weight, bias = super().parameters(name, shape)
            return weight[..., :1], bias[:-1]

    with pytest.raises(MeasurementError, match="'host_torch' cannot run the model") as raised:
        host().open().load(Broken({"layer": SMALL}))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("message", "kind"), [("CUDA error: unspecified launch failure\nadvice", DeviceLostError), ("x", MeasurementError)]
)
def test_a_gpu_that_fails_is_lost(message: str, kind: type[Exception]) -> None:
    backend = host().open()
    assert isinstance(backend, PyTorchBackend)
    loaded = backend.load(Model.of_layer(SMALL))

    def fail(*_: object) -> None:
        raise RuntimeError(message)

    loaded._network.register_forward_pre_hook(fail)  # type: ignore[attr-defined]
    threads = torch.get_num_threads()
    with pytest.raises(kind, match=r"'host_torch'.*: (CUDA error: unspecified launch failure|x)$"):
        loaded.sample_ms(1)
    assert torch.get_num_threads() == threads


def test_a_network_is_measured(tiny_space: MobileNetV3, rng: np.random.Generator) -> None:
    profile = host(runs=2, sample_ms=0.1, passes=2, max_passes=3)
    items = [(name, Model.of_layer(layer)) for name, layer in tiny_space.lower(tiny_space.biggest).items()]
    results = dict(measure(items, profile.open(), profile, rng))
    assert set(results) == set(dict(items)) and all(isinstance(m, Measurement) for m in results.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's compiler uses what torch deprecates
def test_compiled_networks_give_the_same_outputs_however_many_there_are() -> None:
    backend, eager = with_options(mode="compiled").open(), host().open()
    models = [Model.of_layer(LinearClassifier(8, classes, 3)) for classes in range(2, 12)]
    loaded = [backend.load(model) for model in models]  # for one piece of code torch compiles 8 times, then gives up
    for model, item in zip(models, loaded, strict=True):
        images = images_for(model)
        got, expected = item.run(images), eager.load(model).run(images)
        assert got is not None and expected is not None and np.allclose(got, expected, atol=1e-5)
    assert backend.environment["mode"] == "compiled"


def test_a_model_that_does_not_compile_is_a_measurement_error() -> None:
    model = Model.of_layer(Opaque(3, 3, 1, 1, "none", 4))
    assert host().open().load(model).sample_ms(1) > 0
    with pytest.raises(MeasurementError, match="'host_torch' cannot run the model: ") as raised:
        with_options(mode="compiled").open().load(model)
    assert "\n" not in str(raised.value)


def test_a_missing_compiler_is_said() -> None:
    script = """
from hardware_profiles import availability, load_device
import dataclasses
print(availability(dataclasses.replace(load_device("host_torch_compiled"), isolated=False)))
"""
    environment = {**os.environ, "CXX": "no-such-compiler"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    (line,) = done.stdout.splitlines()
    assert line.startswith("Device 'host_torch_compiled' needs torch.compile, which needs a C++ compiler: install g++")
    assert "no-such-compiler" in line


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_on_a_gpu(mode: str, dtype: str) -> None:
    profile = dataclasses.replace(
        load_device("cuda_torch"), dtype=dtype, options={"mode": mode, "device": "cuda", "channels_last": True}
    )
    check_device(profile)
    model = Model.of_layer(SMALL)
    images = images_for(model)
    expected, got = (backend.load(model).run(images) for backend in (host().open(), profile.open()))
    assert expected is not None and got is not None
    assert np.abs(got - expected).max() <= {"float32": 1e-3, "float16": 2e-2, "bfloat16": 0.2}[dtype]

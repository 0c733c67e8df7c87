import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from hardware_profiles import DeviceProfile, Measurement, Model, load_device
from hardware_profiles.backends.onnxruntime import LoadedSession, OnnxRuntimeBackend
from hardware_profiles.measure import Measurer
from hardware_profiles.onnx_graph import INPUT, OUTPUT
from nas.data import ImageData, Part, digits, resize
from nas.verify import file_accuracy, verify_device, violations
from search_spaces import Architecture, MobileNetV3, SearchSpace
from search_spaces.errors import DamagedFileError, MeasurementError
from search_spaces.storage import read_json


@pytest.fixture(scope="module")
def data() -> ImageData:
    whole = digits()
    parts = [Part(p.images[:40], p.labels[:40]) for p in (whole.train, whole.validation, whole.test_part())]
    return ImageData("few", *parts, classes=10, mean=whole.mean, std=whole.std)


@pytest.fixture(scope="session")
def tiny_cli_space() -> SearchSpace:
    """The space of the tiny run."""
    return MobileNetV3(
        name="tiny",
        resolutions=[8, 12],
        in_channels=1,
        classes=10,
        stem=8,
        stem_stride=1,
        stages=[
            {"channels": 8, "stride": 2, "squeeze": False, "activation": "relu"},
            {"channels": 16, "stride": 2, "squeeze": True, "activation": "relu"},
        ],
        depths=[1, 2],
        kernels=[3, 5],
        expands=[2, 3],
        last_channels=16,
        features=16,
    )


@pytest.fixture
def exported(unbroken: Path, tmp_path: Path) -> Path:
    (folder,) = unbroken.glob("export/*")
    return Path(shutil.copytree(folder, tmp_path / "export"))


@pytest.fixture
def quick() -> DeviceProfile:
    return dataclasses.replace(
        load_device("host_ort"), warm_up=0, runs=1, sample_ms=0, passes=1, max_passes=1, agreement=1e9
    )


def test_violations_in_words() -> None:
    measured = {"latency_ms": 1.5, "memory_bytes": 2048}
    assert violations({"latency_ms": None, "memory_bytes": None}, measured) == []
    assert violations({"latency_ms": 1.5, "memory_bytes": 2048}, measured) == []
    assert violations({"latency_ms": 1.4, "memory_bytes": 1024}, measured) == [
        "latency 1.5 ms is above the limit 1.4 ms",
        "memory 2.0 KiB is above the limit 1.0 KiB",
    ]
    assert violations({"latency_ms": None, "memory_bytes": 10}, {"latency_ms": 1.5, "memory_bytes": None}) == []


def test_accuracy_of_a_file_is_that_of_its_outputs(exported: Path, data: ImageData) -> None:
    path = exported / "fastest" / "network.onnx"
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = resize(data.validation.images, session.get_inputs()[0].shape[-1]).numpy()
    outputs = [session.run([OUTPUT], {INPUT: image[None]})[0][0] for image in images]
    expected = np.mean(
        [np.argmax(o) == label for o, label in zip(outputs, data.validation.labels.numpy(), strict=True)]
    )
    assert file_accuracy(path, data.validation) == pytest.approx(expected)


def test_a_damaged_file_is_told(tmp_path: Path, data: ImageData) -> None:
    (tmp_path / "network.onnx").write_bytes(b"damaged")
    with pytest.raises(DamagedFileError, match=r"network\.onnx cannot be loaded.*Run `nas export` again"):
        file_accuracy(tmp_path / "network.onnx", data.validation)


def test_result(
    exported: Path, data: ImageData, quick: DeviceProfile, tiny_cli_space: SearchSpace, rng: np.random.Generator
) -> None:
    result = verify_device(tiny_cli_space, data, quick, exported, {}, rng)
    entries = read_json(exported / "networks.json")["networks"]
    assert [n["label"] for n in result["networks"]] == [e["label"] for e in entries]
    assert (result["drift"], result["test_images"], result["estimates"]) == (1.0, 40, False)
    for network, entry in zip(result["networks"], entries, strict=True):
        path = exported / entry["folder"] / "network.onnx"
        architecture = Architecture.from_json(tiny_cli_space, network["architecture"])
        layers = tiny_cli_space.lower(architecture).values()
        assert network["macs"] == sum(layer.macs for layer in layers)
        assert network["params"] == sum(layer.params for layer in layers)
        assert network["measured"]["latency_ms"] > 0 and network["predicted"] == entry["predicted"]
        assert network["measured"]["test_accuracy"] == file_accuracy(path, data.test_part())
        assert network["measured"]["validation_accuracy"] == file_accuracy(path, data.validation)
        assert network["parity"] == max(entry["parity"].values())


class WrongOutputs(OnnxRuntimeBackend):
    def load(self, model: Model) -> LoadedSession:
        return super().load(Model(model.layers))  # random weights in place of the trained ones


def test_a_device_that_computes_something_else_is_refused(
    exported: Path,
    data: ImageData,
    quick: DeviceProfile,
    tiny_cli_space: SearchSpace,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DeviceProfile, "open", lambda profile: WrongOutputs(profile))
    with pytest.raises(MeasurementError, match="computes something else than the exported network"):
        verify_device(tiny_cli_space, data, quick, exported, {}, rng)


@pytest.mark.parametrize(
    ("speeds", "attempts", "drift"),
    [([1.0], 1, 1.0), ([1.5, 1.02], 2, 1.02), ([2.0, 1.5, 1.8, 1.3, 1.0], 4, 1.3), ([0.5, 0.97], 2, 0.97)],
)
def test_measuring_is_repeated_while_the_device_drifts(
    exported: Path,
    data: ImageData,
    quick: DeviceProfile,
    tiny_cli_space: SearchSpace,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    speeds: list[float],
    attempts: int,
    drift: float,
) -> None:
    seen: list[float] = []

    def measure(self: Measurer, items: Any) -> Iterator[tuple[int, Measurement]]:
        seen.append(speeds[len(seen)])
        for i, _model in items:
            ms = 2.0 * seen[-1]
            yield i, Measurement(ms, ms, ms, ms, runs=1, passes=1, noise=1.0, agreed=True)

    monkeypatch.setattr(Measurer, "measure", measure)
    profiled = Measurement(2.0, 2.0, 2.0, 2.0, runs=1, passes=1, noise=1.0, agreed=True)
    references = dict.fromkeys([tiny_cli_space.smallest, tiny_cli_space.biggest], profiled)
    result = verify_device(tiny_cli_space, data, quick, exported, references, rng)
    assert len(seen) == attempts and result["drift"] == pytest.approx(drift)
    assert result["networks"][0]["measured"]["latency_ms"] == pytest.approx(2.0 * drift)  # of the best attempt

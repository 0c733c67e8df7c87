import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from hardware_profiles import load_device
from hardware_profiles.onnx_graph import INPUT, OUTPUT
from nas import export, pareto
from nas.data import ImageData, Part, digits
from nas.export import choose, export_network
from nas.supernet import Supernet, SupernetAccuracy
from nas.verify import file_accuracy
from search_spaces import Architecture, MobileNetV3
from search_spaces.errors import NasError

BENT = [[-0.9, 10.0], [-0.5, 1.0], [-0.8, 2.0], [-0.85, 5.0], [-0.6, 1.5], [-0.87, 7.0], [-0.88, 8.0]]


@pytest.fixture
def costs() -> np.ndarray:
    """A front, sorted by latency, whose knee is row 2."""
    rows = np.array(BENT)
    return rows[rows[:, 1].argsort()]


def test_the_ends_and_the_knee_come_first(costs: np.ndarray) -> None:
    assert pareto.knee(costs) == 2
    assert choose(costs, 3) == [(0, "fastest"), (2, "knee"), (6, "most accurate")]


@pytest.mark.parametrize("n", range(1, 12))
def test_at_most_n_distinct_rows_sorted_with_distinct_names(costs: np.ndarray, n: int) -> None:
    chosen = choose(costs, n)
    rows, names = zip(*chosen, strict=True)
    assert len(chosen) == min(n, len(costs))
    assert list(rows) == sorted(set(rows)) and len(set(names)) == len(names)
    assert chosen[0] == (0, "fastest")  # what a run verifies its folder by


def test_more_than_three_lie_between(costs: np.ndarray) -> None:
    names = [name for _, name in choose(costs, 5)]
    assert sorted(names) == ["fastest", "front 1", "front 2", "knee", "most accurate"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], []),
        ([[-0.9, 1.0]], [(0, "fastest")]),
        ([[-0.5, 1.0], [-0.9, 2.0]], [(0, "fastest"), (1, "most accurate")]),
        ([[-0.9, 1.0], [-0.91, 9.0], [-0.92, 10.0]], [(0, "fastest"), (1, "front 1"), (2, "most accurate")]),
    ],
)
def test_short_fronts(rows: list[list[float]], expected: list[tuple[int, str]]) -> None:
    assert choose(np.array(rows).reshape(-1, 2), 6) == expected


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluator(small_space: MobileNetV3) -> Iterator[SupernetAccuracy]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = digits()
    parts = [Part(p.images[:64], p.labels[:64]) for p in (whole.train, whole.validation, whole.test_part())]
    data = ImageData("few", *parts, classes=10, mean=whole.mean, std=whole.std, scale=whole.scale)
    supernet = Supernet(small_space, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    yield SupernetAccuracy(small_space, supernet, data, recalibration_images=32)
    torch.set_num_threads(threads)


def test_the_file_is_the_deployed_network(evaluator: SupernetAccuracy, tmp_path: Path) -> None:
    for row in evaluator.space.sample(4, np.random.default_rng(0)):
        architecture = Architecture(evaluator.space, row)
        parity = export_network(architecture, evaluator, tmp_path)
        assert set(parity) == {"extracted", "onnx"} and 0 <= max(parity.values()) < 1e-4
        assert Architecture.from_json(evaluator.space, json.loads((tmp_path / "architecture.json").read_text())) == (
            architecture
        )
        session = ort.InferenceSession(str(tmp_path / "network.onnx"), providers=["CPUExecutionProvider"])
        size = session.get_inputs()[0].shape[-1]
        assert size == architecture.values["resolution"]
        images = torch.randn(3, 1, size, size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = evaluator.deployed(architecture)(images).numpy()
        for image, logits in zip(images, expected, strict=True):
            (written,) = session.run([OUTPUT], {INPUT: image[None].numpy()})
            assert written[0] == pytest.approx(logits, abs=1e-4)


def test_a_device_gets_the_network_in_its_own_format(evaluator: SupernetAccuracy, tmp_path: Path) -> None:
    architecture = evaluator.space.biggest
    written = {}
    for name in ("host_ort", "host_ort_int8", "host_tvm"):
        export_network(architecture, evaluator, tmp_path / name, load_device(name))
        written[name] = {path.name for path in (tmp_path / name).iterdir()}
    everywhere = {"network.onnx", "architecture.json", "preprocessing.json"}
    assert written == {
        "host_ort": everywhere,
        "host_ort_int8": everywhere | {"network_int8.onnx", "ranges.json"},
        "host_tvm": everywhere,
    }
    images = evaluator.calibration_images(architecture).numpy()
    outputs = []
    for name in ("network.onnx", "network_int8.onnx"):
        session = ort.InferenceSession(str(tmp_path / "host_ort_int8" / name), providers=["CPUExecutionProvider"])
        outputs.append(np.concatenate([session.run([OUTPUT], {INPUT: image[None]})[0] for image in images]))
    assert 0.98 < np.corrcoef(outputs[0].ravel(), outputs[1].ravel())[0, 1] < 1


@pytest.mark.parametrize("batch", [1, 8])
def test_raw_images_through_the_exported_folder_alone(evaluator: SupernetAccuracy, tmp_path: Path, batch: int) -> None:
    """The example of the README, without hwnas or torch, gets the accuracy that verifying finds."""
    device = dataclasses.replace(load_device("host_ort"), batch=batch)
    row = evaluator.space.biggest.genes.copy()
    export_network(Architecture(evaluator.space, row), evaluator, tmp_path / "knee", device)
    session = ort.InferenceSession(str(tmp_path / "knee" / "network.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [batch, 1, 12, 12], "what the device measures"
    metadata = session.get_modelmeta()
    how = json.loads((tmp_path / "knee" / "preprocessing.json").read_text())
    assert json.loads(metadata.custom_metadata_map["preprocessing"]) == how
    assert how["divide_by"] == 16 and "resize to 12 x 12" in metadata.description

    part, (mean,), (std,) = digits().test_part(), evaluator.data.mean, evaluator.data.std
    raw = 16 * (part.images.numpy() * std + mean)  # whole numbers from 0 to 16
    assert np.abs(raw - raw.round()).max() < 1e-4 and (raw.round().min(), raw.round().max()) == (0, 16)
    np.savez(tmp_path / "raw.npz", images=raw.round(), labels=part.labels.numpy())
    blocks: list[str] = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    (example,) = (block for block in blocks if "preprocessing.json" in block)
    code = f"""
import sys
sys.modules.update(dict.fromkeys(["torch", "onnx", "sklearn", "nas", "search_spaces", "hardware_profiles"]))
{example.replace("runs/digits/export/host_ort/knee", str(tmp_path / "knee"))}
data = np.load({str(tmp_path / "raw.npz")!r})
batch = {batch}
count = len(data["labels"]) // batch * batch
found = [logits(data["images"][i : i + batch]).argmax(1) for i in range(0, count, batch)]
print((np.concatenate(found) == data["labels"][:count]).sum(), count)
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    right, count = map(int, done.stdout.split())
    few = Part(part.images[:count], part.labels[:count])
    assert right / count == file_accuracy(tmp_path / "knee" / "network.onnx", few)
    assert file_accuracy(tmp_path / "knee" / "network.onnx", Part(part.images[:3], part.labels[:3])) in (
        0,
        1 / 3,
        2 / 3,
        1,
    )


@pytest.mark.parametrize("tolerance", ["SUPERNET_TOLERANCE", "ONNX_TOLERANCE"])
def test_a_failed_parity_check_writes_nothing(
    evaluator: SupernetAccuracy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tolerance: str
) -> None:
    monkeypatch.setattr(export, tolerance, -1.0)
    with pytest.raises(NasError, match=r"Parity check '(extracted|onnx)' of .* failed.*Nothing was exported"):
        export_network(evaluator.space.biggest, evaluator, tmp_path / "network")
    assert not (tmp_path / "network").exists()

"""Networks whose branches merge, from the supernet to the file."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from nas.data import digits, resize
from nas.run.export import export
from nas.run.verify import file_score
from nas.supernet import Supernet, SupernetAccuracy
from nas.supernet.evaluation import score_of
from search_spaces.architecture import Architecture
from search_spaces.staged import Staged


@pytest.fixture(scope="module")
def space() -> Staged:
    return Staged(
        name="merging",
        resolutions=[12],
        in_channels=1,
        classes=10,
        stem=[{"kind": "RepConv", "channels": 8, "stride": 1, "kernel": 3, "branches": 2}],
        blocks=[
            {"kind": "MobileOneBlock", "kernel": [3, 5], "branches": 2},
            {"kind": "RepViTBlock", "kernel": [3, 5], "squeeze": [0, 25]},
            {"kind": "FasterNetBlock", "partial": [25, 50]},
        ],
        stages=[{"channels": [8, 16], "stride": 2, "depths": [1, 2]}],
        head=[{"kind": "BatchNormClassifier"}],
    )


def test_file_holds_the_merged_network(space: Staged, tmp_path: Path) -> None:
    supernet, data = Supernet(space).eval(), digits()
    for number, row in enumerate(space.sample(3, np.random.default_rng(0))):
        architecture = Architecture(space, row)
        folder = tmp_path / str(number)
        parity = export(architecture, folder, supernet, data=data, recalibration_images=64)
        assert parity["extracted"] <= 1e-5 and parity["onnx"] <= 1e-5
        nodes = onnx.load(folder / "network.onnx").graph.node
        programs = [layer.program.deployed for layer in architecture.layers.values()]
        convolutions = sum(type(step.op).__name__ == "Convolution" for program in programs for step in program.steps)
        assert sum(node.op_type == "Conv" for node in nodes) == convolutions
        assert not any(node.op_type == "BatchNormalization" for node in nodes)


def test_accuracy_is_that_of_all_branches_and_of_the_file(space: Staged, tmp_path: Path) -> None:
    supernet, data = Supernet(space).eval(), digits()
    evaluator = SupernetAccuracy(space, supernet, data, recalibration_images=64, threads=1)
    images = resize(data.validation.images, 12)
    for row in space.sample(3, np.random.default_rng(0)):
        architecture = Architecture(space, row)
        export(architecture, tmp_path, supernet, data=data, recalibration_images=64)
        (predicted,) = evaluator.predict(row[None])
        for found in (
            score_of(evaluator.deployed(architecture), data.task, [(images, data.validation.labels)]),
            file_score(tmp_path / "network.onnx", data.task, data.validation),
        ):
            assert abs(found - predicted) <= 1 / len(data.validation)  # rounding may turn one image

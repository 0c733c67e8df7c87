"""Networks that are graphs, and images that are not square: exported, read back and judged as trained ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import cpu_session, weights_of_onnx
from nas.data import Data, resize
from nas.data.images import image_data
from nas.run.export import export_network, export_untrained
from nas.run.verify import file_score
from nas.supernet import Supernet, SupernetAccuracy
from nas.supernet.supernet import check_task, input_resolution
from search_spaces import Architecture, SearchSpace
from search_spaces.base.errors import MismatchError
from search_spaces.loading import load_space
from tests.search_spaces.graph_spaces import Branches, Operators, Parts, Texts, TwoByTwo


@pytest.fixture(scope="module")
def data() -> Data:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(90, 1, 10, 10)).astype(np.float32)
    labels = np.arange(90) % 3
    return image_data("noise", images, labels, [np.arange(45), np.arange(45, 75), np.arange(75, 90)], 1.0)


@pytest.mark.parametrize("kind", [Operators, Branches, Parts])
def test_the_exported_file_is_the_network(kind: type[SearchSpace], data: Data, tmp_path: Path) -> None:
    space = kind(name="space")  # type: ignore[call-arg]
    judge = SupernetAccuracy(space, Supernet(space), data, recalibration_images=30)
    for number, row in enumerate(space.sample(3, np.random.default_rng(1))):
        architecture, folder = Architecture(space, row), tmp_path / str(number)
        parity = export_network(architecture, judge, folder)
        assert parity["extracted"] == 0 and parity["onnx"] < 1e-4
        assert file_score(folder / "network.onnx", data.task, data.validation) == judge.predict(row[None])[0]
        how = json.loads((folder / "preprocessing.json").read_text())
        shape = [1, *architecture.layers.inputs["image"]]
        assert how["input"]["shape"] == shape and (how["height"], how["width"]) == tuple(shape[2:])


@pytest.mark.parametrize("name", ["mobilenet_v3_digits", "mobilenet_v4_conv_small", "fbnet", "ofa_resnet50"])
def test_networks_of_wide_and_of_square_images_share_a_supernet(name: str, tmp_path: Path) -> None:
    space = load_space(name, resolutions=["20x36", 32], in_channels=1, classes=3)
    images = np.random.default_rng(0).normal(size=(40, 1, 10, 18)).astype(np.float32)
    parts = [np.arange(20), np.arange(20, 30), np.arange(30, 40)]
    data = image_data("wide", images, np.arange(40) % 3, parts, 1.0)
    judge = SupernetAccuracy(space, Supernet(space), data, recalibration_images=20)
    for number, size in enumerate(((20, 36), (32, 32))):
        row = space.smallest.genes.copy()
        row[space.index["resolution"]] = number
        parity = export_network(Architecture(space, row), judge, tmp_path / str(number))
        assert parity["extracted"] == 0 and parity["onnx"] < 1e-4
        how = json.loads((tmp_path / str(number) / "preprocessing.json").read_text())
        assert (how["height"], how["width"]) == size


@pytest.mark.parametrize("kind", [TwoByTwo, Texts])
def test_networks_without_a_task_are_exported_with_random_weights(kind: type[SearchSpace], tmp_path: Path) -> None:
    space = kind(name="space")  # type: ignore[call-arg]
    assert export_untrained(space.biggest, tmp_path, None) == {}
    again = Model(space.biggest.layers, weights_of_onnx(tmp_path / "network.onnx"))
    given = dict(zip(again.network.inputs, again.random_inputs(1), strict=True))
    found = again.network.named_outputs(again.run_onnx(cpu_session((tmp_path / "network.onnx").read_bytes()), given))
    assert {name: y.shape[1:] for name, y in found.items()} == space.biggest.layers.output_shapes


def test_a_space_without_images_and_classes_cannot_be_trained(data: Data) -> None:
    with pytest.raises(MismatchError, match="take image of shape .*, distance of shape .* Search without accuracy"):
        check_task(TwoByTwo(), data)
    with pytest.raises(MismatchError, match="take tokens of shape .7,., but data .* is of images"):
        check_task(Texts(), data)


def test_images_are_resized_to_height_and_width() -> None:
    space = Operators()
    assert [input_resolution(space, one) for one in (space.smallest, space.biggest)] == [(8, 12), (12, 8)]
    images = torch.arange(36.0).reshape(1, 1, 6, 6)
    assert resize(images, (6, 6)) is images and resize(images, 6) is images
    assert resize(images, (8, 12)).shape == (1, 1, 8, 12)
    assert torch.equal(resize(images, (3, 3)), resize(images, 3))

"""Images with targets that are arrays, and pairs of images."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import nas.data
from nas.commands.help import described
from nas.data import Data, load_data
from nas.data.loading import FOLDER
from nas.tasks import DenseRegression, Detection, MultiLabel, Segmentation, SuperResolution, VectorRegression
from search_spaces.base.errors import InvalidValueError

SPLIT = np.array(["train"] * 6 + ["validation"] * 2 + ["test"] * 2)


def images(count: int = 10) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 8, 12)).astype(np.uint8)


def file(folder: Path, **arrays: Any) -> str:
    path = folder / "mine.npz"
    np.savez(path, **{"images": images(), "split": SPLIT, **arrays})
    return str(path)


def whole(data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    return data.train.take(torch.arange(len(data.train)))


def test_masks_of_classes(tmp_path: Path) -> None:
    masks = np.random.default_rng(1).integers(0, 4, (10, 8, 12)).astype(np.uint8)
    data = nas.data.segmentation(file(tmp_path, masks=masks, names=np.array(["a", "b", "c", "void"])), classes=3)
    inputs, targets = whole(data)
    assert data.task == Segmentation(3, 255, ("a", "b", "c")) and data.resolution == (8, 12)
    assert inputs.dtype == torch.float32 and inputs.mean().abs() < 1e-5 and inputs.std() == pytest.approx(1, abs=0.01)
    assert torch.equal(targets.long(), torch.from_numpy(np.where(masks[:6] == 3, 255, masks[:6])).long())
    assert (len(data.validation), len(data.test_part()), data.scale) == (2, 2, 255)
    balanced = nas.data.segmentation(file(tmp_path, masks=masks), classes=3, weights="balanced").task
    assert isinstance(balanced, Segmentation) and len(balanced.weights) == 3


def test_jpegs_are_decoded_when_they_are_wanted(tmp_path: Path) -> None:
    jpegs = []
    for value in range(10):
        buffer = io.BytesIO()
        Image.fromarray(np.full((8, 12, 3), 20 * value, np.uint8)).save(buffer, "JPEG")
        jpegs.append(np.frombuffer(buffer.getvalue(), np.uint8))
    offsets = np.cumsum([0, *map(len, jpegs)]).astype(np.uint32)
    arrays = {"body": np.concatenate(jpegs), "offsets": offsets, "split": SPLIT}
    path = tmp_path / "packed.npz"
    np.savez(path, **arrays, masks=np.zeros((10, 8, 12), np.uint8))
    data = nas.data.segmentation(str(path))
    inputs, targets = data.train.take(torch.tensor([5, 0]))
    assert inputs.shape == (2, 3, 8, 12) and targets.shape == (2, 8, 12)
    mean, std = (torch.tensor(numbers).reshape(3, 1, 1) for numbers in (data.mean, data.std))
    values = (inputs * std + mean) * 255
    assert (values[0] - 100).abs().max() < 3 and values[1].abs().max() < 3
    assert not data.train.in_memory and data.fingerprint == nas.data.segmentation(str(path)).fingerprint
    np.savez(path, **{**arrays, "body": np.zeros_like(arrays["body"])}, masks=np.zeros((10, 8, 12), np.uint8))
    with pytest.raises(InvalidValueError, match="10 of 10 images of 'packed' are damaged"):
        nas.data.segmentation(str(path))


def test_several_classes_of_each_image(tmp_path: Path) -> None:
    labels = (np.random.default_rng(1).random((10, 4)) < 0.5).astype(np.uint8)
    data = nas.data.multi_label(file(tmp_path, labels=labels))
    assert data.task == MultiLabel(4) and torch.equal(whole(data)[1], torch.from_numpy(labels[:6]).float())


def test_numbers_of_each_image(tmp_path: Path) -> None:
    values = np.arange(10) * 2.0
    data = nas.data.regression(file(tmp_path, values=values), unit="kg")
    assert data.task == VectorRegression((5.0,), (float(values[:6].std()),), "kg")
    assert torch.equal(whole(data)[1], torch.arange(6)[:, None] * 2.0)


def test_numbers_of_each_pixel(tmp_path: Path) -> None:
    maps = np.ones((10, 8, 12))
    maps[:, :4] = 3
    maps[0, 0, 0] = math.nan
    data = nas.data.dense_regression(file(tmp_path, maps=maps), unit="m")
    assert isinstance(data.task, DenseRegression) and data.task.mean[0] == pytest.approx(2, abs=0.01)
    assert whole(data)[1].shape == (6, 1, 8, 12) and int(whole(data)[1].isnan().sum()) == 1


BOXES: dict[str, Any] = {
    "boxes": np.array([[0, 0, 6, 4], [6, 4, 12, 8], [3, 2, 9, 6], [0, 0, 12, 8]], np.float32),
    "box_labels": np.array([1, 0, 1, 0]),
    "box_image": np.array([2, 0, 2, 7]),
}


def test_boxes_of_each_image(tmp_path: Path) -> None:
    path = file(tmp_path, **BOXES, names=np.array(["a", "b"]))
    data = nas.data.detection(path, smallest=0.3, largest=0.9, ratios=[1, 3])
    assert data.task == Detection(2, (8, 12), ("a", "b"), 0.3, 0.9, (1.0, 3.0))
    targets = whole(data)[1]
    assert targets.shape == (6, 2, 5) and (targets[[1, 3, 4, 5]][..., 0] == -1).all()
    wanted = [[1.0, 0.0, 0.0, 0.5, 0.5], [1.0, 0.25, 0.25, 0.75, 0.75]]
    torch.testing.assert_close(targets[2], torch.tensor(wanted))
    torch.testing.assert_close(targets[0, 0], torch.tensor([0.0, 0.5, 0.5, 1.0, 1.0]))
    parts = {"train": data.train, "validation": data.validation, "test": data.test_part()}
    assert targets[0, 1, 0] == -1
    with pytest.raises(InvalidValueError, match="test of 'mine' has no boxes of any class"):
        data.task.notes("mine", parts, {})
    assert isinstance(load_data("detection", path=path).task, Detection)


def test_masks_may_be_coarser_than_images(tmp_path: Path) -> None:
    masks = np.random.default_rng(1).integers(0, 2, (10, 3, 4)).astype(np.uint8)  # a third of both sides, rounded
    assert whole(nas.data.segmentation(file(tmp_path, masks=masks)))[1].shape == (6, 3, 4)


def test_names_that_are_given_are_as_many_as_classes(tmp_path: Path) -> None:
    path = file(tmp_path, masks=np.tile(np.arange(12, dtype=np.uint8) % 3, (10, 8, 1)), names=np.array(["a", "b"]))
    assert nas.data.segmentation(path).task == Segmentation(3)  # those of the file are of fewer
    assert nas.data.segmentation(path, names=["x", "y", "z"]).task == Segmentation(3, names=("x", "y", "z"))
    for names in (["x", "y"], ["x", "y", "z", "void"]):
        with pytest.raises(InvalidValueError, match="Each of 3 classes has a name"):
            nas.data.segmentation(path, names=names)


def test_images_are_looked_at_before_boxes_in_them(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="They look like channels last"):
        nas.data.detection(file(tmp_path, **BOXES, images=images().transpose(0, 2, 3, 1)))
    torn = {"body": np.zeros(20, np.uint8), "offsets": np.arange(11) * 2}
    np.savez(tmp_path / "torn.npz", **torn, **BOXES)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="image 0 of torn.npz is damaged"):
        nas.data.detection(str(tmp_path / "torn.npz"))


def test_anchors_have_the_scales_of_the_training_boxes(tmp_path: Path) -> None:
    """Those of 6 x 4 pixels and one of 12 x 8 in images of 8 x 12, whatever boxes the other parts have."""
    boxes = {**BOXES, "box_image": np.array([2, 0, 2, 7]), "box_labels": np.array([0, 0, 0, 1])}
    task = nas.data.detection(file(tmp_path, **boxes)).task
    assert isinstance(task, Detection) and (task.smallest, task.largest) == (0.612, 0.612)
    boxes["box_image"] = np.array([2, 0, 2, 1])
    task = nas.data.detection(file(tmp_path, **boxes)).task
    assert isinstance(task, Detection) and (task.smallest, task.largest) == (0.612, 1.225)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"boxes": np.zeros((4, 4), np.float32)}, "but 4 are not, such as box 0"),
        ({"boxes": BOXES["boxes"] * 2}, "within images of 8 x 12 pixels"),
        ({"box_image": np.array([2, 0, 2, 10])}, "such as box 3, .* in image 10"),
        ({"box_labels": np.array([1, 0, 2, 0]), "names": np.array(["a", "b"])}, r"must be in 0..1"),
        ({"box_labels": np.array([1.0, 0, 1, 0])}, "must have `boxes`"),
    ],
)
def test_boxes_that_cannot_be_are_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=message):
        nas.data.detection(file(tmp_path, **{**BOXES, **arrays}))


def test_pairs_of_any_images() -> None:
    data = nas.data.super_resolution("digits", scale=2)
    small, large = whole(data)
    assert data.task == SuperResolution((1, 8, 8), 2) and small.shape[1:] == (1, 4, 4) and large.shape[1:] == (1, 8, 8)
    of = load_data("digits")
    raw = of.train.take(torch.arange(len(of.train)))[0] * of.std[0] + of.mean[0]
    torch.testing.assert_close(large, raw.clamp(0, 1))
    assert (data.mean, data.std) == ((0.0,), (1.0,)) and small.min() >= 0 and small.max() <= 1
    assert small.mean() == pytest.approx(float(large.mean()), abs=0.01)
    cut = nas.data.super_resolution("digits", scale=3, size=6)
    assert cut.train.shape == (1, 2, 2) and torch.equal(whole(cut)[1], large[:, :, 1:7, 1:7])
    with pytest.raises(InvalidValueError, match="are 8 x 8, from which `scale=8`"):
        nas.data.super_resolution("digits", scale=8)


def test_pairs_are_of_images_between_black_and_white(tmp_path: Path) -> None:
    for factor in (1.0, 255.0):
        values = np.random.default_rng(0).random((20, 8, 8)) * factor
        np.savez(tmp_path / f"{factor}.npz", images=values, labels=np.arange(20) % 2)
    nas.data.super_resolution(nas.data.npz(str(tmp_path / "1.0.npz")))
    with pytest.raises(InvalidValueError, match=r"from 0 .black. to 1, but reach from 0.* to 25\d"):
        nas.data.super_resolution(nas.data.npz(str(tmp_path / "255.0.npz")))


def test_pairs_say_how_their_inputs_were_made_and_which_are_in_two_parts(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((20, 8, 10))
    values[10] = values[0]
    split = np.array(["train"] * 10 + ["validation"] * 5 + ["test"] * 5)
    np.savez(tmp_path / "mine.npz", images=values, labels=np.arange(20) % 2, split=split)
    data = nas.data.super_resolution(nas.data.npz(str(tmp_path / "mine.npz")))
    (note,) = nas.data.leak_notes(data)
    assert note.startswith("1 of 5 images of validation in 'mine' is in train too")
    assert data.preparation is not None and data.preparation.steps == [
        "take an image of 4 x 5 pixels as it is (those of the training were made of larger ones: take 8 x 10 pixels "
        "from the middle; divide both sides by 2: bicubic, antialiased)"
    ]
    assert data.preparation.to_json() == {"before": None, "size": [8, 10], "scale": 2}


def test_data_is_made_by_name(tmp_path: Path) -> None:
    path = file(tmp_path, masks=np.zeros((10, 8, 12), np.uint8))
    assert isinstance(load_data("segmentation", path=path).task, Segmentation)
    assert isinstance(load_data("super_resolution", of="digits").task, SuperResolution)


@pytest.mark.parametrize(
    ("make", "arrays", "message"),
    [
        ("segmentation", {}, "must hold `masks`"),
        ("segmentation", {"masks": np.zeros((9, 8, 12), np.uint8)}, "each of 10 images an entry of `masks`"),
        ("segmentation", {"masks": np.zeros((10, 8, 12))}, "must be whole numbers"),
        ("segmentation", {"masks": np.full((10, 8, 12), 255, np.uint8)}, "All pixels of .* are void"),
        ("segmentation", {"masks": np.zeros((10, 12, 8), np.uint8)}, "are 12 x 8 and the images 8 x 12"),
        ("segmentation", {"masks": np.zeros((10, 8, 12), np.uint8), "names": np.array([b"a"])}, "must be words"),
        ("dense_regression", {"maps": np.zeros((10, 12, 8))}, "`maps` .* in the same ratio, but are 12 x 8"),
        ("dense_regression", {"maps": np.full((10, 8, 12), math.nan)}, "one is NaN in all of train"),
        ("multi_label", {"labels": np.zeros(10, int)}, r"0 or 1, shape \(N, classes\)"),
        ("regression", {"values": np.full(10, math.nan)}, "`values` of .* must be finite numbers"),
        ("dense_regression", {"maps": np.zeros(10)}, "in 3 axes or 4 axes"),
        ("regression", {"values": np.zeros(10), "split": SPLIT[:5]}, "one of the words train, validation, test"),
    ],
)
def test_arrays_that_cannot_be_are_refused(make: str, arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=message):
        getattr(nas.data, make)(file(tmp_path, **arrays))


def test_parts_are_drawn_where_the_file_gives_none(tmp_path: Path) -> None:
    path = tmp_path / "plain.npz"
    np.savez(path, images=images(20), values=np.arange(20.0))
    data = nas.data.regression(str(path), seed=3)
    assert (len(data.train), len(data.validation), len(data.test_part())) == (16, 2, 2)
    assert data.fingerprint == nas.data.regression(str(path), seed=3).fingerprint
    assert data.fingerprint != nas.data.regression(str(path), seed=4).fingerprint
    with pytest.raises(InvalidValueError, match="add up to 1"):
        nas.data.regression(str(path), fractions=[0.5, 0.1, 0.1])


def test_arguments_of_all_files_are_settings(tmp_path: Path) -> None:
    path = file(tmp_path, values=np.arange(10.0))
    assert load_data("regression", path=path, name="other", seed=3).name == "other"
    with pytest.raises(InvalidValueError, match=r"`regression\.seed` must be int, but got '3'"):
        load_data("regression", path=path, seed="3")
    with pytest.raises(InvalidValueError, match=r"`regression\.sead`.*Did you mean `seed`"):
        load_data("regression", path=path, sead=3)


@pytest.mark.parametrize("task", ["dense_regression", "detection", "multi_label", "regression", "segmentation"])
def test_settings_of_all_files_are_explained(task: str) -> None:
    settings = yaml.safe_load((FOLDER / f"{task}.yaml").read_text())
    assert settings.keys() - {"path", *described(settings["_target_"])} == set()

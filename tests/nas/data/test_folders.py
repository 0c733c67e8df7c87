"""Images in class folders: what is accepted, and what is refused in a sentence."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.data import Data, Stored, data_of_run, folder, leak_notes, load_data
from nas.data.pictures import Picture
from nas.tasks import Classification
from search_spaces.base.errors import InvalidValueError, StorageError
from tests.nas.data.conftest import Photos, pixels, save_picture


def parts(data: Data) -> list[Stored]:
    found = [data.train, data.validation, data.test_part()]
    assert all(isinstance(part, Stored) for part in found)
    return found  # type: ignore[return-value]


def test_classes_are_the_names_of_folders(photos: Photos) -> None:
    data = folder(str(photos()))
    assert data.name == "photos" and data.task == Classification(2, ("cat", "dog"))
    assert [torch.bincount(part.labels).tolist() for part in parts(data)] == [[8, 8], [1, 1], [1, 1]]
    assert data.train.shape == (3, 8, 8) and not data.train.in_memory and data.notes == () and leak_notes(data) == []
    images, labels = data.train.take(torch.tensor([0]))
    raw = images[0].numpy() * np.reshape(data.std, (3, 1, 1)) + np.reshape(data.mean, (3, 1, 1))
    number = int(data.train.rows[0])  # type: ignore[attr-defined]
    assert int(labels) == (number >= 10)
    np.testing.assert_allclose(raw * 255, pixels(number).transpose(2, 0, 1), atol=1e-3)


def test_parts_are_the_names_of_folders_too(photos: Photos) -> None:
    data = folder(str(photos("train", "val", "test", each=2)))
    assert [len(part) for part in parts(data)] == [4, 4, 4]
    without = folder(str(photos("train", "test", each=10, name="two")))
    assert [len(part) for part in parts(without)] == [18, 2, 20]  # validation is drawn from train


def test_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    for label in (10, 9, 2):
        for number in range(10):
            save_picture(tmp_path / "n" / str(label) / f"{number}.png", pixels(100 * label + number))
    assert folder(str(tmp_path / "n")).task.names == ("2", "9", "10")  # type: ignore[attr-defined]


def test_images_of_several_sizes_are_brought_to_one(photos: Photos) -> None:
    root = photos()
    wide = pixels(77, 8, 20)
    save_picture(root / "dog" / "0.png", wide)
    with pytest.raises(InvalidValueError, match="images of 2 sizes.*such as `data.size=96` or `data.size=96x128`"):
        folder(str(root))
    for size, fit in ((6, "crop"), ("6x9", "stretch")):
        data = folder(str(root), size=size, fit=fit)  # type: ignore[arg-type]
        shape = (3, 6, 6) if size == 6 else (3, 6, 9)
        assert data.train.shape == shape and isinstance(data.preparation, Picture)
        assert data.preparation.to_json() == {"channels": "RGB", "size": list(shape[1:]), "fit": fit}
    assert folder(str(root), size=6).fingerprint != folder(str(root), size=6, fit="stretch").fingerprint


def test_the_content_makes_the_fingerprint(photos: Photos, tmp_path: Path) -> None:
    root = photos()
    before = folder(str(root))
    moved = tmp_path / "elsewhere" / "photos"
    shutil.copytree(root, moved)
    assert folder(str(moved)).fingerprint == before.fingerprint
    save_picture(root / "cat" / "0.png", pixels(999))
    after = folder(str(root))
    assert (after.fingerprint, after.test_fingerprint) != (before.fingerprint, before.test_fingerprint)
    (root / "dog").rename(root / "hound")  # of the same place in the order
    assert folder(str(root)).fingerprint != after.fingerprint


def test_a_run_keeps_what_it_saw_beside_it(photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = {"_target_": "nas.data.folder", "path": str(photos()), "cache": None}
    first = data_of_run(node, tmp_path / "run")
    assert len(list((tmp_path / "run" / "data").glob("*.npz"))) == 1

    def refuse(self: Picture, content: bytes) -> Any:
        raise AssertionError("decoded")

    monkeypatch.setattr(Picture, "__call__", refuse)
    again = data_of_run(node, tmp_path / "run")
    assert (again.fingerprint, again.mean, again.std) == (first.fingerprint, first.mean, first.std)
    with pytest.raises(AssertionError, match="decoded"):
        data_of_run({**node, "cache": str(tmp_path / "other")}, tmp_path / "run")


def test_so_does_a_run_on_data_that_is_made_of_other_data(
    photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(f"_target_: nas.data.folder\npath: {photos()}\n")
    nodes = [
        {"_target_": "nas.data.imbalanced", "of": str(tmp_path / "mine.yaml")},
        {"_target_": "nas.data.imbalanced", "of": {"_target_": "nas.data.folder", "path": str(photos())}},
    ]
    first = data_of_run(nodes[0], tmp_path / "run")

    def refuse(self: Picture, content: bytes) -> Any:
        raise AssertionError("decoded")

    monkeypatch.setattr(Picture, "__call__", refuse)
    assert [data_of_run(node, tmp_path / "run").fingerprint for node in nodes] == [first.fingerprint] * 2


def test_by_name_from_python(photos: Photos) -> None:
    data = load_data("folder", path=str(photos()), keep=True)
    assert data.train.in_memory and data.definition is not None and data.definition["keep"] is True
    with pytest.raises(InvalidValueError, match="`folder` lacks `path`, which nas.data.folder needs"):
        load_data("folder")


def test_what_is_no_image_is_left_out_with_a_note(photos: Photos) -> None:
    root = photos()
    (root / "cat" / "notes.txt").write_text("mine")
    (root / "README.md").write_text("mine")
    (root / "cat" / ".DS_Store").write_text("not mine")
    save_picture(root / "dog" / "more" / "deep.png", pixels(500))
    data = folder(str(root))
    assert data.notes == (f"2 files of {root} are no image of a class, and left out: README.md, cat/notes.txt",)
    assert sum(map(len, parts(data))) == 21


def test_a_text_file_that_is_called_an_image_is_damaged(photos: Photos) -> None:
    root = photos()
    (root / "cat" / "3.jpg").write_text("no image")
    with pytest.raises(InvalidValueError, match=r"1 of 21 images of 'photos' is damaged: cat/3.jpg \(it is no image"):
        folder(str(root))


def test_folders_that_hold_no_data_are_refused(photos: Photos, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Cannot read .*nowhere"):
        folder(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidValueError, match="empty holds no class folders: put the images of each class"):
        folder(str(tmp_path / "empty"))
    root = photos()
    with pytest.raises(InvalidValueError, match="must be a folder of class folders, but is a file"):
        folder(str(root / "cat" / "0.png"))
    (root / "zebra").mkdir()
    with pytest.raises(InvalidValueError, match=r"holds no image .* in the class folder zebra: fill or delete it"):
        folder(str(root))


def test_parts_beside_other_folders_are_refused(photos: Photos) -> None:
    root = photos("train", "test")
    (root / "masks").mkdir()
    with pytest.raises(InvalidValueError, match=r"folders of parts \(test, train\) beside others \(masks\)"):
        folder(str(root))


def test_parts_without_train_are_no_classes(photos: Photos) -> None:
    with pytest.raises(InvalidValueError, match=r"holds folders of parts \(test, val\) but none of train"):
        folder(str(photos("val", "test")))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for kind in ("car", "train"):
        for number in range(10):
            save_picture(tmp_path / "v" / kind / f"{number}.png", pixels(number + 100 * (kind == "car")))
    assert folder(str(tmp_path / "v")).task.names == ("car", "train")  # type: ignore[attr-defined]


def test_a_class_that_a_part_lacks_is_accepted(photos: Photos) -> None:
    root = photos("train", "validation", "test")
    shutil.rmtree(root / "validation" / "dog")
    data = folder(str(root))
    found = {"train": data.train, "validation": data.validation, "test": data.test_part()}
    (note, few) = data.task.notes("photos", found, {"logits": (2,)})
    assert "validation of 'photos' has 1 of 2 classes (class dog missing)" in note and "10 images" in few


def test_links_stay_inside_unless_they_may_not(photos: Photos, tmp_path: Path) -> None:
    root, outside = photos(), save_picture(tmp_path / "outside" / "a.png", pixels(700))
    (root / "cat" / "inside.png").symlink_to(root / "dog" / "0.png")
    data = folder(str(root))
    assert sum(map(len, parts(data))) == 21
    (root / "cat" / "a.png").symlink_to(outside)
    with pytest.raises(InvalidValueError, match=r"cat/a.png is a symbolic link that leads out .*`data.links=true`"):
        folder(str(root))
    assert sum(map(len, parts(folder(str(root), links=True)))) == 22
    (root / "cat" / "a.png").unlink()
    (root / "bird").symlink_to(outside.parent)
    with pytest.raises(InvalidValueError, match="bird is a symbolic link that leads out"):
        folder(str(root))
    (root / "bird").unlink()
    (root / "cat" / "round").symlink_to(root)
    with pytest.raises(InvalidValueError, match="round is a symbolic link to a folder that it lies in itself"):
        folder(str(root))


def test_a_name_that_is_no_text_can_be_used(photos: Photos) -> None:
    root = photos()
    os.rename(os.fsencode(root / "cat" / "0.png"), os.fsencode(root / "cat") + b"/\xe4.png")
    data = folder(str(root), cache=str(root.parent / "cache"))
    (number,) = [n for n in range(20) if "\\" in data.train.source.name(n)]  # type: ignore[attr-defined]
    assert data.train.source.name(number) == "cat/\\xe4.png"  # type: ignore[attr-defined]


def test_one_image_of_each_class_will_do_where_the_parts_are_given(photos: Photos) -> None:
    data = folder(str(photos("train", "val", "test", each=1)))
    assert [len(part) for part in parts(data)] == [2, 2, 2]
    with pytest.raises(InvalidValueError, match="Each part of 'few' needs an image.*Give more images of each class"):
        folder(str(photos(each=1, name="few")))

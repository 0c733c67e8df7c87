"""Images packed into one npz file."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data import Data, packed_images
from nas.data.packing import Pieces, member
from search_spaces.base.errors import DamagedFileError, InvalidValueError, StorageError
from tests.nas.data.conftest import pixels

Arrays = dict[str, Any]


def jpegs(count: int, size: int = 8) -> list[bytes]:
    found = []
    for number in range(count):
        file = io.BytesIO()
        Image.fromarray(pixels(number, size, size)).save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


def packed(count: int = 40, *, shared: bool = True) -> Arrays:
    """Arrays of a packed file of two classes; what all JPEGs begin with stands once where it is shared."""
    files = jpegs(count)
    header = b""
    if shared:
        header = files[0][: next(i for i in range(len(files[0])) if len({file[: i + 1] for file in files}) > 1)]
    bodies = [np.frombuffer(file[len(header) :], np.uint8) for file in files]
    arrays: Arrays = {
        "body": np.concatenate(bodies),
        "offsets": np.cumsum([0, *map(len, bodies)]).astype(np.uint32),
        "labels": (np.arange(count) % 2).astype(np.uint8),
    }
    return {**arrays, "header": np.frombuffer(header, np.uint8)} if shared else arrays


def save(path: Path, arrays: Arrays, *, compressed: bool = False) -> str:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return str(path)


def raw(data: Data, row: int) -> np.ndarray:
    images, _ = data.train.take(torch.tensor([row]))
    mean, std = (np.reshape(one, (-1, 1, 1)) for one in (data.mean, data.std))
    return np.round((images[0].numpy() * std + mean) * 255).astype(np.uint8)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("compressed", [True, False])
def test_images_are_those_of_their_files(tmp_path: Path, shared: bool, compressed: bool) -> None:
    arrays = packed(shared=shared)
    assert not shared or len(arrays["header"]) > 100
    data = packed_images(save(tmp_path / "mine.npz", arrays, compressed=compressed))
    assert (data.name, data.task.classes, data.train.shape) == ("mine", 2, (3, 8, 8))
    number = int(data.train.rows[3])
    expected = np.asarray(Image.open(io.BytesIO(jpegs(40)[number])).convert("RGB"))
    np.testing.assert_array_equal(raw(data, 3), expected.transpose(2, 0, 1))


def test_two_parts_in_numbers_are_train_and_test(tmp_path: Path) -> None:
    arrays = packed()
    arrays |= {"split": (np.arange(40) >= 30).astype(np.uint8), "names": np.array(["cat", "dog"])}
    data = packed_images(save(tmp_path / "mine.npz", arrays), fractions=[0.6, 0.2, 0.2])
    assert [len(part) for part in (data.train, data.validation, data.test_part())] == [22, 8, 10]
    assert sorted(data.test_part().rows) == list(range(30, 40)) and data.task.names == ("cat", "dog")


def test_a_file_that_is_not_compressed_is_mapped_here_and_in_other_processes(tmp_path: Path) -> None:
    path = Path(save(tmp_path / "mine.npz", packed()))
    pieces = Pieces(path, "body", np.array([0, 3, 7]))
    assert isinstance(member(path, "body"), np.memmap) and len(pieces) == 2
    first = pieces[1].tobytes()
    sent = pickle.dumps(pieces)
    assert len(sent) < 1000 and pickle.loads(sent)[1].tobytes() == first == packed()["body"][3:7].tobytes()


def test_what_no_packed_file_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    with pytest.raises(StorageError):
        packed_images(str(path))
    path.write_bytes(b"nonsense")
    with pytest.raises(DamagedFileError, match="is no npz file"):
        packed_images(str(path))
    right = packed()
    lacking = {name: array for name, array in right.items() if name != "labels"}
    with pytest.raises(InvalidValueError, match=r"must hold `body`, `offsets` and `labels`, but got \['body',"):
        packed_images(save(path, lacking))
    wrong: list[tuple[str, Arrays]] = [
        ("must be numbers in one dimension", {"body": right["body"][None]}),
        ("must be numbers in one dimension", {"offsets": right["offsets"] / 2}),
        ("must rise within 0", {"offsets": right["offsets"][::-1]}),
        ("must rise within 0", {"offsets": right["offsets"] + 9}),
        ("must rise within 0", {"offsets": right["offsets"][:1]}),
        (r"must be integers, shape \(40,\)", {"labels": right["labels"][:7]}),
        ("without a gap", {"labels": right["labels"] * 2}),
        ("`header` of .* must be bytes", {"header": np.zeros(4)}),
        ("must be in 0..0, as there are 1 classes", {"names": np.array(["cat"])}),
        ("must be words", {"names": np.array([1, 2])}),
        ("must give each of 40 samples", {"split": np.array(["train"] * 39 + ["dev"])}),
    ]
    for message, changed in wrong:
        with pytest.raises(InvalidValueError, match=message):
            packed_images(save(path, {**right, **changed}))
    with pytest.raises(DamagedFileError, match="`labels` of .* is damaged .*[Pp]ickle"):
        packed_images(save(path, {**right, "labels": np.array([None] * 40)}))
    assert packed_images(save(path, {**right, "labels": right["labels"] * 2}), classes=3).task.classes == 3


def test_a_corrupt_jpeg_is_named(tmp_path: Path) -> None:
    arrays = packed(shared=False)
    body = arrays["body"].copy()
    body[int(arrays["offsets"][5])] = 0  # where an image begins
    with pytest.raises(InvalidValueError, match="1 of 40 images of 'mine' is damaged: image 5 of mine.npz"):
        packed_images(save(tmp_path / "mine.npz", {**arrays, "body": body}))

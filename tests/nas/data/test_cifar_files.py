"""CIFAR's own binary files."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.data import cifar
from nas.data.cifar_files import Records
from search_spaces.base.errors import DamagedFileError, InvalidValueError, StorageError


def records(count: int, seed: int, *heads: np.ndarray) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)
    return np.concatenate([*(head[:, None].astype(np.uint8) for head in heads), pixels], 1).tobytes()


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    root = tmp_path / "cifar-10-batches-bin"
    root.mkdir()
    for number in range(1, 3):
        (root / f"data_batch_{number}.bin").write_bytes(records(100, number, np.arange(100) % 10))
    (root / "test_batch.bin").write_bytes(records(50, 9, np.arange(50) % 10))
    names = "airplane automobile bird cat deer dog frog horse ship truck".split()
    (root / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    return root


def test_cifar10(cifar10: Path) -> None:
    data = cifar(str(cifar10))
    assert (data.name, data.task.classes, data.task.names[3], data.train.shape) == ("cifar10", 10, "cat", (3, 32, 32))
    assert [len(part) for part in (data.train, data.validation, data.test_part())] == [180, 20, 50]
    images, labels = data.test_part().take(torch.tensor([42]))
    raw = np.frombuffer((cifar10 / "test_batch.bin").read_bytes(), np.uint8).reshape(50, 3073)[42]
    mean, std = (np.reshape(one, (-1, 1, 1)) for one in (data.mean, data.std))
    found = np.round((images[0].numpy() * std + mean) * 255)
    np.testing.assert_array_equal(found, raw[1:].reshape(3, 32, 32))
    assert labels.tolist() == [raw[0]] == [2]


def test_without_a_test_file_the_test_part_is_drawn(cifar10: Path) -> None:
    (cifar10 / "test_batch.bin").unlink()
    data = cifar(str(cifar10))
    assert [len(part) for part in (data.train, data.validation, data.test_part())] == [160, 20, 20]


@pytest.mark.parametrize(("labels", "classes", "name"), [("fine", 100, "f7"), ("coarse", 20, "c7")])
def test_cifar100(tmp_path: Path, labels: str, classes: int, name: str) -> None:
    fine = np.tile(np.arange(100), 10)
    (tmp_path / "train.bin").write_bytes(records(1000, 0, fine % 20, fine))
    (tmp_path / "test.bin").write_bytes(records(100, 1, np.arange(100) % 20, np.arange(100)))
    for kind, count in (("fine", 100), ("coarse", 20)):
        (tmp_path / f"{kind}_label_names.txt").write_text("\n".join(f"{kind[0]}{number}" for number in range(count)))
    data = cifar(str(tmp_path), labels=labels)  # type: ignore[arg-type]
    assert (data.name, data.task.classes, data.task.names[7]) == ("cifar100", classes, name)
    assert data.test_part().labels.tolist() == [number % classes for number in range(100)]


def test_what_cifar_is_not_is_refused(cifar10: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        cifar(str(tmp_path / "nowhere"))
    with pytest.raises(InvalidValueError, match="`labels=coarse` are of CIFAR-100"):
        cifar(str(cifar10), labels="coarse")
    with pytest.raises(InvalidValueError, match="`labels` must be fine or coarse, but got 'course'"):
        cifar(str(cifar10), labels="course")  # type: ignore[arg-type]
    (cifar10 / "data_batch_2.bin").write_bytes(records(100, 2, np.arange(100) % 10)[:-1])
    with pytest.raises(DamagedFileError, match="data_batch_2.bin has 307,299 bytes, .* multiple of 3,073"):
        cifar(str(cifar10))
    (cifar10 / "data_batch_2.bin").write_bytes(records(100, 2, np.full(100, 77)))
    with pytest.raises(InvalidValueError, match="must be in 0..9, as there are 10 classes, but got 0..77"):
        cifar(str(cifar10))
    for file in cifar10.glob("*.bin"):
        file.unlink()
    (cifar10 / "data_batch_1").write_text("pickled")
    with pytest.raises(InvalidValueError, match="holds batches.meta.txt, data_batch_1.*not the one for Python"):
        cifar(str(cifar10))


def test_other_processes_map_the_files_themselves(cifar10: Path) -> None:
    source = Records((cifar10 / "data_batch_1.bin", cifar10 / "test_batch.bin"), 1)
    content = source.content(120)
    sent = pickle.dumps(source)
    assert len(sent) < 2000 and pickle.loads(sent).content(120) == content
    assert (source.name(120), source.name(0)) == ("image 20 of test_batch.bin", "image 0 of data_batch_1.bin")

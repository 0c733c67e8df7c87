"""Data sets of one's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from nas.data import load_data, torch_dataset
from search_spaces.base import trust
from search_spaces.base.errors import InvalidValueError, UntrustedError


class Mine(Dataset[Any]):
    """Inputs of some numbers, with their labels."""

    def __init__(self, inputs: Sequence[Any], labels: Sequence[Any] | None = None, **more: Any) -> None:
        self.inputs, self.labels, self.taken = inputs, labels or [number % 2 for number in range(len(inputs))], 0
        for name, value in more.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, number: int) -> Any:
        self.taken += 1
        return self.inputs[number], self.labels[number]


def pixels(count: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 6, 5), dtype=np.uint8)


def test_one_data_set_is_cut_into_parts() -> None:
    data = torch_dataset(Mine(list(pixels()), classes=["cat", "dog"]))
    assert (data.name, data.task.names, data.scale, data.train.shape) == ("Mine", ("cat", "dog"), 255.0, (3, 6, 5))
    assert [len(part) for part in (data.train, data.validation, data.test_part())] == [32, 4, 4]
    images, labels = data.train.take(torch.tensor([1]))
    number = int(data.train.rows[1])
    mean, std = (np.reshape(one, (-1, 1, 1)) for one in (data.mean, data.std))
    np.testing.assert_allclose((images[0].numpy() * std + mean) * 255, pixels()[number], atol=1e-3)
    assert int(labels) == number % 2


def test_three_data_sets_are_the_parts() -> None:
    one = pixels()
    data = torch_dataset(Mine(list(one[:20])), validation=Mine(list(one[20:30])), test=Mine(list(one[30:])), name="x")
    assert [len(part) for part in (data.train, data.validation, data.test_part())] == [20, 10, 10] and data.name == "x"
    images, _ = data.test_part().take(torch.tensor([9]))
    mean, std = (np.reshape(part, (-1, 1, 1)) for part in (data.mean, data.std))
    np.testing.assert_allclose((images[0].numpy() * std + mean) * 255, one[39], atol=1e-3)


@pytest.mark.parametrize("kind", ["tensor", "array", "grey", "picture", "floats"])
def test_inputs_of_every_kind(kind: str) -> None:
    raw = pixels()
    inputs = {
        "tensor": list(torch.from_numpy(raw)),
        "array": list(raw),
        "grey": list(raw[:, 0]),
        "picture": [Image.fromarray(np.ascontiguousarray(one.transpose(1, 2, 0))) for one in raw],
        "floats": list(torch.from_numpy(raw / 255)),
    }[kind]
    labels = [torch.tensor(number % 2) for number in range(40)]
    data = torch_dataset(Mine(inputs, labels), seed=0)
    reference = torch_dataset(TensorDataset(torch.from_numpy(raw), torch.arange(40) % 2), seed=0)
    assert data.train.shape == ((1, 6, 5) if kind == "grey" else (3, 6, 5))
    assert data.scale == (1 if kind == "floats" else 255)
    found, expected = (one.train.take(torch.arange(8))[0] for one in (data, reference))
    torch.testing.assert_close(found, expected[:, :1] if kind == "grey" else expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        ([[1, 2]] * 40, None, "input of item 0 of train must be an image of Pillow.*but is list"),
        (list(pixels()[:, :, 0, 0]), None, r"but is uint8 \(3,\)"),
        (list(pixels(8).transpose(0, 2, 3, 1).repeat(9, 1).repeat(9, 2)), None, "They look like channels last"),
        (list(pixels()), [0.5] * 40, "Labels of `data.train` must be whole numbers, but got 0.5"),
        (list(pixels()), ["cat"] * 40, "Labels of `data.train` must be whole numbers, but got 'cat'"),
        (list(pixels()), [0, 7] * 20, "without a gap"),
        (
            list(pixels()),
            list(torch.eye(40, dtype=torch.int64)),
            r"must be integers, shape \(40,\), but got int64 .40, 40",
        ),
        (
            [*pixels(39), pixels(1)[0] / 255],
            None,
            "item 39 of train .it is of floating-point.*but item 0 of train of bytes",
        ),
        ([*pixels(39), pixels(1)[0, :, :3]], None, "of 2 sizes"),
    ],
)
def test_other_items_are_refused(inputs: Sequence[Any], labels: Any, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        torch_dataset(Mine(inputs, labels))


def test_a_picture_of_more_than_8_bits_keeps_its_values() -> None:
    deep = np.random.default_rng(0).integers(0, 2**16, (40, 6, 5)).astype(np.uint16)
    data = torch_dataset(Mine([Image.fromarray(one) for one in deep]))
    images, _ = data.train.take(torch.tensor([3]))
    found = images[0, 0].numpy() * data.std[0] + data.mean[0]
    np.testing.assert_allclose(found, deep[int(data.train.rows[3])], rtol=1e-4, atol=0.1)  # type: ignore[attr-defined]


def test_parts_of_other_classes_are_refused() -> None:
    whole, one = pixels(), ["cat", "dog"]
    train = Mine(list(whole[:20]), classes=one)
    assert torch_dataset(train, test=Mine(list(whole[20:]), classes=one)).task.classes == 2  # type: ignore[attr-defined]
    with pytest.raises(
        InvalidValueError,
        match=r"`classes` of `data.test` are cat, owl \(2\) and those of `data.train` cat, dog \(2\)",
    ):
        torch_dataset(train, test=Mine(list(whole[20:]), classes=["cat", "owl"]))


def test_what_its_code_raises_is_said_with_its_place() -> None:
    class Torn(Mine):
        def __getitem__(self, number: int) -> Any:
            if number == 30:
                raise KeyError("no such page")
            return super().__getitem__(number)

    place = r"KeyError: 'no such page' \(.*test_torch_datasets.py, line \d+\)"
    with pytest.raises(InvalidValueError, match=f"item 30 of train cannot be taken: {place}"):
        torch_dataset(Torn(list(pixels())))
    with pytest.raises(InvalidValueError, match=f"1 of 40 images of 'Torn' is damaged: item 30.*{place}"):
        torch_dataset(Torn(list(pixels()), targets=[0, 1] * 20))


def test_random_inputs_are_refused() -> None:
    class Moved(Mine):
        def __getitem__(self, number: int) -> Any:
            image, label = super().__getitem__(number)
            return np.roll(image, self.taken, 2), label

    with pytest.raises(InvalidValueError, match="item 0 of train is another one each time that it is taken"):
        torch_dataset(Moved(list(pixels())))


def test_a_data_set_has_a_length_and_items() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(InvalidValueError, match="as a map-style data set of torch does, but it has no `__len__`"):
        torch_dataset(Stream())
    with pytest.raises(InvalidValueError, match="but it is empty"):
        torch_dataset(Mine([]))

    class Threes(Mine):
        def __getitem__(self, number: int) -> Any:
            return (*super().__getitem__(number), 3)

    with pytest.raises(InvalidValueError, match="must be an input and its label, but is tuple"):
        torch_dataset(Threes(list(pixels())))


def test_its_own_fingerprint_saves_the_look_at_all_items(tmp_path: Path) -> None:
    for said, taken in (({"fingerprint": "v1", "targets": [0, 1] * 20}, 9), ({}, 9 + 40 + 40)):
        cache = str(tmp_path / str(taken))
        first = torch_dataset(Mine(list(pixels()), **said), cache=cache)
        second = Mine(list(pixels()), **said)
        data = torch_dataset(second, cache=cache)
        assert (data.fingerprint, data.mean) == (first.fingerprint, first.mean)
        assert second.taken == taken  # four twice and one for the scale; then all for labels and for digests


MODULE = """
import numpy as np
from torch.utils.data import Dataset

class Train(Dataset):
    def __init__(self, count=40):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        return np.full((1, 4, 4), number, np.uint8), number % 2

def validation() -> Dataset:
    return Train(10)
"""


def test_by_import_path_after_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mysets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UntrustedError, match="--trust mysets"):
        load_data("torch_dataset", train="mysets.Train")
    monkeypatch.setattr(trust, "_modules", set(trust._modules))  # for this test alone
    trust.trust("mysets")
    data = load_data("torch_dataset", train="mysets.Train", validation="mysets.validation")
    assert [len(part) for part in (data.train, data.validation, data.test_part())] == [36, 10, 4]
    with_arguments = load_data("torch_dataset", train={"_target_": "mysets.Train", "count": 100})
    assert len(with_arguments.train) == 80
    with pytest.raises(InvalidValueError, match="`data.train` must make Dataset"):
        load_data("torch_dataset", train="nas.data.digits")

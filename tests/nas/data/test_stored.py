"""Data that is decoded as it is used: one look at all of it, and none at the next start."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nas.data import Data, Part, Source, Stored, batches, in_order, leak_notes, stored_data
from nas.data.manifest import Stamp
from nas.tasks import Classification
from search_spaces.base.errors import InvalidValueError, MismatchError


@dataclass
class Halves:
    """Preparation that leaves every other column out."""

    every: int = 1

    @property
    def steps(self) -> list[str]:
        return [f"take one column of {self.every}"]

    def to_json(self) -> dict[str, Any]:
        return {"every": self.every}


@dataclass
class Shelf:
    """Inputs in a list, which counts how often each is read and decoded; ``times`` are their stamps."""

    inputs: list[np.ndarray]
    times: list[Stamp | None]
    preparation: Halves = field(default_factory=Halves)
    scale: float = 255.0
    kind = "picture"
    place = "shelf"
    parallel = True
    damaged: Sequence[int] = ()
    read: list[int] = field(default_factory=list)
    decoded: list[bytes] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.inputs)

    def name(self, number: int) -> str:
        return f"picture {number}"

    def stamp(self, number: int) -> Stamp | None:
        return self.times[number]

    def content(self, number: int) -> bytes:
        self.read.append(number)
        shape = np.array(self.inputs[number].shape, np.int32)
        return bytes([number in self.damaged]) + shape.tobytes() + self.inputs[number].tobytes()

    def decode(self, content: bytes) -> NDArray[Any]:
        self.decoded.append(content)
        if content[0]:
            raise InvalidValueError("it is torn.")
        shape = np.frombuffer(content, np.int32, 3, 1)
        return np.frombuffer(content, self.inputs[0].dtype, offset=13).reshape(shape)[:, :, :: self.preparation.every]


def shelf(count: int = 200, **changes: Any) -> Shelf:
    rng = np.random.default_rng(0)
    inputs = [rng.integers(0, 256, (3, 4, 6), dtype=np.uint8) for _ in range(count)]
    return Shelf(inputs, [(1, 2, number) for number in range(count)], **changes)


PARTS = [np.arange(0, 120), np.arange(120, 160), np.arange(160, 200)]


def made(source: Shelf, cache: Path | None = None, *, keep: bool = False) -> Data:
    known: Source = source
    labels, task = np.arange(len(source)) % 2, Classification(2)
    return stored_data("shelf", known, labels, PARTS, task, cache=None if cache is None else str(cache), keep=keep)


def test_inputs_are_normalised_by_the_training_part() -> None:
    source = shelf()
    data = made(source)
    train = np.stack(source.inputs[:120]) / 255
    np.testing.assert_allclose(data.mean, train.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.std, train.std((0, 2, 3)), rtol=1e-12)
    images, labels = data.validation.take(torch.tensor([3, 0]))
    mean, std = (np.reshape(one, (3, 1, 1)) for one in (data.mean, data.std))
    expected = (np.stack([source.inputs[123], source.inputs[120]]) / 255 - mean) / std
    np.testing.assert_allclose(images.numpy(), expected, atol=1e-5)
    assert images.dtype == torch.float32 and labels.tolist() == [1, 0]
    assert (data.kind, data.scale, data.train.in_memory, data.train.shape) == ("picture", 255, False, (3, 4, 6))


def test_all_is_read_and_decoded_once_and_then_what_is_asked_for() -> None:
    source = shelf()
    data = made(source)
    assert sorted(source.read) == list(range(200)) and len(source.decoded) == 200
    data.train.take(torch.tensor([5]))
    assert source.read[200:] == [5] and len(source.decoded) == 201


def test_the_next_start_reads_nothing(tmp_path: Path) -> None:
    first = made(shelf(), tmp_path)
    source = shelf()
    again = made(source, tmp_path)
    assert source.read == [] and source.decoded == []
    assert (again.mean, again.std, again.fingerprint) == (first.mean, first.std, first.fingerprint)
    assert again.test_fingerprint == first.test_fingerprint


def test_without_stamps_the_next_start_reads_but_decodes_nothing(tmp_path: Path) -> None:
    fresh = dataclasses.replace(shelf(), times=[None] * 200)
    first = made(fresh, tmp_path)
    source = dataclasses.replace(shelf(), times=[None] * 200)
    assert made(source, tmp_path).fingerprint == first.fingerprint
    assert sorted(source.read) == list(range(200)) and source.decoded == []


def test_a_changed_input_is_noticed(tmp_path: Path) -> None:
    first = made(shelf(), tmp_path)
    source = shelf()
    source.inputs[130] = source.inputs[130].copy()
    source.inputs[130][0, 0, 0] ^= 1
    source.times[130] = (1, 3, 130)
    changed = made(source, tmp_path)
    assert changed.fingerprint != first.fingerprint and changed.test_fingerprint == first.test_fingerprint
    assert source.read[0] == 130 and len(source.decoded) == 200  # which alone is read to be compared
    touched = shelf()
    touched.times[130] = (1, 4, 130)  # another time, and the content of the first start
    assert made(touched, tmp_path).fingerprint == first.fingerprint
    assert touched.read == [130] and touched.decoded == []


def test_a_change_in_the_middle_of_a_command_is_noticed() -> None:
    source = shelf()
    data = made(source)
    source.inputs[7] = source.inputs[8]
    with pytest.raises(MismatchError, match="picture 7 has changed since this command began"):
        data.train.take(torch.tensor([7]))


def test_another_preparation_is_other_data(tmp_path: Path) -> None:
    whole, half = made(shelf(), tmp_path), made(shelf(preparation=Halves(2)), tmp_path)
    assert (whole.train.shape, half.train.shape) == ((3, 4, 6), (3, 4, 3))
    assert whole.fingerprint != half.fingerprint and whole.mean != half.mean
    assert half.preparation is not None and half.preparation.steps == ["take one column of 2"]


def test_kept_inputs_are_the_same(tmp_path: Path) -> None:
    source = shelf()
    data, lazy = made(source, keep=True), made(shelf())
    count = len(source.read)
    assert data.train.in_memory and data.fingerprint == lazy.fingerprint
    for one, other in zip(data.train.take(torch.arange(9)), lazy.train.take(torch.arange(9)), strict=True):
        assert torch.equal(one, other)
    assert len(source.read) == count
    assert isinstance(data.train, Stored) and data.train.kept is not None and data.train.kept.dtype == torch.uint8


def test_workers_decode_the_same() -> None:
    data = made(shelf())
    here, there = (
        torch.cat([images for images, _ in batches(data.train, in_order(120, 50), workers=workers)])
        for workers in (0, 2)
    )
    assert torch.equal(here, there)


def test_all_damaged_inputs_are_counted_and_some_are_named() -> None:
    with pytest.raises(InvalidValueError) as found:
        made(shelf(damaged=[3, 150, 151, 152]))
    assert str(found.value) == (
        "4 of 200 pictures of 'shelf' are damaged: picture 3 (it is torn); picture 150 (it is torn); picture 151 (it "
        "is torn); and 1 more. Delete or replace them."
    )
    with pytest.raises(InvalidValueError, match=r"1 of 200 pictures of 'shelf' is damaged: picture 9 .*replace it\."):
        made(shelf(damaged=[9]))


def test_inputs_of_several_sizes_are_told_what_to_do() -> None:
    source = shelf()
    source.inputs[150] = source.inputs[150][:, :2]
    with pytest.raises(InvalidValueError, match=r"of 2 sizes, such as 3x4x6 \(picture 0\) and 3x2x6 \(picture 150\)"):
        made(source)


def test_values_that_are_no_numbers_are_damage() -> None:
    source = shelf(scale=1.0)
    source.inputs = [one.astype(np.float32) for one in source.inputs]
    source.inputs[150][0, 0, 0] = np.nan
    with pytest.raises(InvalidValueError, match="picture 150 .some of its values are NaN or infinite"):
        made(source)


def test_a_constant_channel_is_noted_and_stays_0() -> None:
    source = shelf()
    for one in source.inputs:
        one[1] = 128
    data = made(source)
    assert data.notes == ("channel 1 of 'shelf' is the same everywhere in train: nothing can be learned from it",)
    assert data.std[1] == 1 and float(data.train.take(torch.arange(9))[0][:, 1].abs().max()) < 1e-6


def test_inputs_that_are_in_two_parts_are_counted() -> None:
    source = shelf()
    source.inputs[120], source.inputs[199], source.inputs[198] = (source.inputs[number] for number in (0, 1, 150))
    assert leak_notes(made(source)) == [
        f"1 of 40 pictures of {part} in 'shelf' is in {other} too, byte for byte: networks look better on {part} than "
        "they are"
        for part, other in (("validation", "train"), ("test", "train"), ("test", "validation"))
    ]
    assert leak_notes(made(shelf())) == []


def test_images_in_memory_are_compared_too() -> None:
    images = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1])
    train, validation, test = (Part(images[rows], labels) for rows in ([0, 1], [2, 3], [1, 4]))
    data = Data("mine", train, validation, test, task=Classification(2), mean=(0.0,), std=(1.0,))
    assert leak_notes(data) == [
        "1 of 2 images of test in 'mine' is in train too, byte for byte: networks look better on test than they are"
    ]

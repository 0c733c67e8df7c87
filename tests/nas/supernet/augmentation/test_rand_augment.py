"""RandAugment with kornia's operations."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.data import Data, Part, super_resolution
from nas.supernet import TrainingSettings, train
from nas.supernet.augmentation import RandAugment, drawn
from nas.supernet.augmentation.base import recolour
from nas.supernet.augmentation.rand_augment import OPERATIONS, Drawn
from nas.supernet.samplers import SinglePath
from nas.tasks import Classification
from search_spaces import MobileNetV3
from search_spaces.base.errors import InvalidValueError

pytest.importorskip("kornia")


def images(count: int = 6, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, 24, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_keep_pixels_in_their_range_and_other_images_as_they_are(number: int, channels: int) -> None:
    given = images(channels=channels)
    numbers = torch.tensor([[number, 0, number, number, 0, number]])
    found = Drawn(numbers, torch.tensor([[0.3, 0.3, -0.3, 1.0, 0.3, -1.0]]))(given)
    assert torch.equal(found[[1, 4]], given[[1, 4]]) and found.shape == given.shape
    assert 0 <= float(found.min()) and float(found.max()) <= 1
    changed = [not torch.equal(new, old) for new, old in zip(found, given, strict=True)]
    is_none = OPERATIONS[number] is None or (number == 5 and channels == 1)  # grey images have no colour
    assert changed == ([False] * 6 if is_none else [True, False, True, True, False, True])


def test_images_are_changed_as_they_would_be_alone() -> None:
    given = images()
    changes = drawn([RandAugment(operations=3)], 6, 24, torch.Generator().manual_seed(0))
    black, std = -torch.full((1, 3, 1, 1), 2.0), torch.full((1, 3, 1, 1), 0.25)
    normalised = given / std + black
    whole = recolour(normalised, changes.recolourings, black, std)
    for row in range(6):
        _, own = changes.of(torch.tensor([row]))
        alone = recolour(normalised[row : row + 1], own.recolourings, black, std)
        torch.testing.assert_close(alone[0], whole[row], atol=1e-5, rtol=0)


def test_brightness_multiplies_pixels() -> None:
    given = images() / 4
    found = Drawn(torch.full((1, 6), 7), torch.tensor([[0.5, -0.5, 1, -1, 0, 0.1]]))(given)
    torch.testing.assert_close(found, given * torch.tensor([1.45, 0.55, 1.9, 0.1, 1, 1.09])[:, None, None, None])


def test_every_operation_is_drawn_as_often() -> None:
    (change,) = drawn([RandAugment(operations=2)], 9000, 8, torch.Generator().manual_seed(0)).recolourings
    assert isinstance(change, Drawn)
    counts = torch.bincount(change.numbers.flatten(), minlength=len(OPERATIONS))
    assert len(OPERATIONS) == 9 and bool(((counts - 2000).abs() < 200).all())
    assert change.magnitudes.unique().tolist() == pytest.approx([-0.3, 0.3])


def test_a_training_with_it_gives_the_same_weights_twice(space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    settings = TrainingSettings(epochs=1, sampler=SinglePath(), evaluate_every=0, threads=1, augment=(RandAugment(),))
    first, second, other = (
        train(space, data, dataclasses.replace(settings, **change), tmp_path / name).supernet.state_dict()
        for name, change in (("a", {}), ("b", {}), ("c", {"augment": ()}))
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_data_that_is_not_of_pixels_is_refused(
    space: MobileNetV3, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = Part(100 * data.train.take(torch.arange(96))[0], data.train.take(torch.arange(96))[1])
    other = Data("loud", loud, data.validation, data.test_part(), Classification(10), data.mean, data.std)
    settings = TrainingSettings(epochs=1, augment=(RandAugment(),))
    with pytest.raises(InvalidValueError, match=r"pixels in \[0, 1\], but data 'loud'"):
        train(space, other, settings, tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "kornia" else found(name))
    with pytest.raises(InvalidValueError, match="pip install kornia"):
        train(space, data, settings, tmp_path)


def test_inputs_whose_targets_are_their_pixels_are_not_recoloured() -> None:
    with pytest.raises(InvalidValueError, match="changes pixels of the inputs alone, but the targets of data 'digits'"):
        RandAugment().check(super_resolution("digits"))


@pytest.mark.parametrize("wrong", [{"operations": 0}, {"magnitude": 1.5}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError, match=next(iter(wrong))):
        RandAugment(**wrong)

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from nas.core.evaluations import RecordedPredictor
from nas.core.progress import progress
from nas.data import Batch, Data, Part, resize
from nas.supernet import Supernet, SupernetAccuracy, evaluation, score_of
from nas.supernet.evaluation import ResizedPart
from nas.tasks import Classification, MultiLabel
from search_spaces import Architecture, MobileNetV3
from search_spaces.base.errors import InvalidValueError, MismatchError


@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_score_is_that_of_all_batches(size: int) -> None:
    images = torch.eye(4)[[0, 1, 2, 3, 0]].reshape(5, 1, 2, 2)
    part = ResizedPart(Part(images, torch.tensor([0, 1, 2, 0, 1])), 2, torch.device("cpu"), size=size)
    for _ in range(2):  # batches are kept
        assert score_of(nn.Flatten(), Classification(4), part) == pytest.approx(0.6)


def test_large_inputs_are_evaluated_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    part, device = Part(torch.zeros(5, 1, 2, 2), torch.arange(5)), torch.device("cpu")
    assert [len(targets) for _, targets in ResizedPart(part, 2, device)] == [5]
    monkeypatch.setattr(evaluation, "MOST_BYTES", 2 * 4 * 4)
    assert [len(targets) for _, targets in ResizedPart(part, 2, device)] == [2, 2, 1]
    assert [len(targets) for _, targets in ResizedPart(part, 8, device)] == [1] * 5


def test_predictions_are_those_of_the_deployed_networks(space: MobileNetV3, data: Data) -> None:
    supernet = Supernet(space)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    predictor = SupernetAccuracy(space, supernet, data, recalibration_images=40)
    assert (predictor.metric, predictor.unit) == ("accuracy", "1")
    genes = space.sample(5, np.random.default_rng(0))
    values = predictor.predict(genes)
    assert values.shape == (5,) and values.dtype == np.float64
    for row, value in zip(genes, values, strict=True):
        architecture = Architecture(space, row)
        network = predictor.deployed(architecture)
        assert not network.training
        x = resize(data.validation.images, int(architecture.values["resolution"]))
        assert score_of(network, data.task, [(x, data.validation.labels)]) == value
    np.testing.assert_array_equal(predictor.predict(genes[::-1]), values[::-1])  # no state between networks
    assert predictor.predict(genes[:0]).shape == (0,)
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


class Counted(Part):
    """A part that is not in memory, and counts how often each image is taken."""

    in_memory = False

    def take(self, rows: torch.Tensor) -> Batch:
        taken.extend(rows.tolist())
        return super().take(rows)


taken: list[int] = []


@pytest.mark.parametrize(("kept_bytes", "times"), [(10**9, 2), (0, 4)])
def test_a_part_that_is_not_in_memory_is_kept_if_it_is_small(
    space: MobileNetV3, data: Data, monkeypatch: pytest.MonkeyPatch, kept_bytes: int, times: int
) -> None:
    """Kept, a part is loaded once for each resolution, of which two networks have the same; else for each network."""
    monkeypatch.setattr(evaluation, "KEPT_BYTES", kept_bytes)
    lazy = Counted(data.validation.images, data.validation.labels)
    stored = Data("stored", data.train, lazy, data.test_part(), data.task, data.mean, data.std)
    ends = np.stack([space.smallest.genes, space.biggest.genes] * 2)
    taken.clear()
    values = SupernetAccuracy(space, Supernet(space), stored, recalibration_images=40).predict(ends)
    assert sorted(taken) == sorted(list(range(len(lazy))) * times)
    in_memory = SupernetAccuracy(space, Supernet(space), data, recalibration_images=40)
    np.testing.assert_array_equal(values, in_memory.predict(ends))


@pytest.mark.parametrize(("threads", "expected"), [(3, 3), (None, 2)])
def test_the_number_of_threads_is_that_of_the_settings(
    space: MobileNetV3, data: Data, threads: int | None, expected: int
) -> None:
    predictor = SupernetAccuracy(space, Supernet(space), data, recalibration_images=40, threads=threads)
    before, seen = torch.get_num_threads(), set()
    hook = nn.modules.module.register_module_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        predictor.predict(space.smallest.genes[None])
        predictor.deployed(space.biggest)
        assert torch.get_num_threads() == 2
    finally:
        hook.remove()
        torch.set_num_threads(before)
    assert seen == {expected}


def test_the_part_is_chosen(space: MobileNetV3, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    test_part: Callable[[Data], Part] = Data.test_part
    monkeypatch.setattr(Data, "test_part", lambda self: asked.append(True) or test_part(self))
    supernet = Supernet(space)
    SupernetAccuracy(space, supernet, data).predict(space.smallest.genes[None])
    assert not asked
    SupernetAccuracy(space, supernet, data, part="test").predict(space.smallest.genes[None])
    assert asked


def test_things_that_do_not_fit_are_refused(space: MobileNetV3, other_space: MobileNetV3, data: Data) -> None:
    with pytest.raises(MismatchError, match="'tiny'.*'other'"):
        SupernetAccuracy(other_space, Supernet(space), data)
    with pytest.raises(InvalidValueError, match="recalibration_images"):
        SupernetAccuracy(space, Supernet(space), data, recalibration_images=0)
    with pytest.raises(InvalidValueError, match="part"):
        SupernetAccuracy(space, Supernet(space), data, part="train")  # type: ignore[arg-type]
    fewer = Data("fewer", data.train, data.validation, data.test_part(), Classification(11), data.mean, data.std)
    with pytest.raises(MismatchError, match="10 classes.*11"):
        SupernetAccuracy(space, Supernet(space), fewer)


def test_progress_names_the_metric_of_the_task(
    space: MobileNetV3, data: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown: list[str] = []

    def spied(title: str, *arguments: Any, **words: Any) -> Any:
        shown.append(title)
        return progress(title, *arguments, **words)

    monkeypatch.setattr("nas.core.progress.progress", spied)
    monkeypatch.setattr("nas.core.evaluations.progress", spied)
    parts = [
        Part(one.images, functional.one_hot(one.labels, 10).float())
        for one in (data.train, data.validation, data.test_part())
    ]
    several = Data("several", *parts, MultiLabel(10), data.mean, data.std)
    judge = SupernetAccuracy(space, Supernet(space), several, recalibration_images=40)
    genes = np.stack([space.smallest.genes, space.biggest.genes])
    judge.predict(genes)
    RecordedPredictor(space, judge, tmp_path / "log.jsonl", {}).predict(genes)
    assert set(shown) == {"mean average precision"}
    shown.clear()
    SupernetAccuracy(space, Supernet(space), data, recalibration_images=40).predict(genes)
    assert shown == ["accuracy"]

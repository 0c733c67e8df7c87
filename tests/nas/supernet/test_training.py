import copy
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.data import Batch, Data, Part
from nas.supernet import Epoch, Phase, Supernet, SupernetAccuracy, Trained, TrainingSettings, train, training
from nas.supernet.augmentation import Affine, Crop, CutMix, Flip, Mixup
from nas.supernet.few_shot import GradientMatching
from nas.supernet.losses import Labels
from nas.supernet.samplers import Sandwich
from nas.supernet.training import CHECKPOINT, HISTORY, SUPERNET
from nas.tasks import Classification
from search_spaces import MobileNetV3
from search_spaces.base.errors import DamagedFileError, MismatchError, NasError

SHORT = TrainingSettings(epochs=3, batch_size=32, sampler=Sandwich(1), evaluate_every=2)


def same(a: Supernet, b: Supernet) -> bool:
    return all(torch.equal(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items())


@pytest.fixture(scope="module")
def unbroken(space: MobileNetV3, data: Data, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Path]:
    folder = tmp_path_factory.mktemp("unbroken")
    return train(space, data, SHORT, folder), folder


def test_what_training_leaves(unbroken: tuple[Trained, Path], space: MobileNetV3) -> None:
    trained, folder = unbroken
    assert not trained.supernet.training
    assert same(Supernet.load(space, folder / SUPERNET), trained.supernet)
    assert json.loads((folder / HISTORY).read_text()) == [dataclasses.asdict(epoch) for epoch in trained.history]
    assert [epoch.epoch for epoch in trained.history] == [1, 2, 3]
    assert [epoch.biggest_accuracy is None for epoch in trained.history] == [True, False, False]
    assert trained.history[-1].loss < trained.history[0].loss


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_resumed_run_is_the_same_run(
    optimiser: str, space: MobileNetV3, data: Data, tmp_path: Path, unbroken: tuple[Trained, Path]
) -> None:
    settings = dataclasses.replace(SHORT, optimiser=optimiser)
    expected = unbroken[0] if settings == SHORT else train(space, data, settings, tmp_path / "unbroken")

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    torch.manual_seed(1)  # the global generator plays no part
    with pytest.raises(KeyboardInterrupt):
        train(space, data, settings, tmp_path, on_epoch=stop)
    torch.manual_seed(2)
    epochs: list[int] = []
    resumed = train(space, data, settings, tmp_path, on_epoch=lambda epoch: epochs.append(epoch.epoch))
    assert epochs == [3]
    assert same(resumed.supernet, expected.supernet)
    assert [e.loss for e in resumed.history] == [e.loss for e in expected.history]
    assert [e.biggest_accuracy for e in resumed.history] == [e.biggest_accuracy for e in expected.history]


def test_a_finished_run_is_read_back(space: MobileNetV3, data: Data, unbroken: tuple[Trained, Path]) -> None:
    epochs: list[Epoch] = []
    again = train(space, data, SHORT, unbroken[1], on_epoch=epochs.append)
    assert not epochs and same(again.supernet, unbroken[0].supernet) and again.history == unbroken[0].history


def test_another_seed_gives_other_weights(
    space: MobileNetV3, data: Data, tmp_path: Path, unbroken: tuple[Trained, Path]
) -> None:
    other = train(space, data, dataclasses.replace(SHORT, seed=1), tmp_path)
    assert not same(other.supernet, unbroken[0].supernet)


def test_another_run_in_the_same_folder_is_refused(
    space: MobileNetV3, other_space: MobileNetV3, data: Data, unbroken: tuple[Trained, Path]
) -> None:
    folder = unbroken[1]
    with pytest.raises(MismatchError, match=r"other settings \(learning_rate\).*out="):
        train(space, data, dataclasses.replace(SHORT, learning_rate=0.1), folder)
    with pytest.raises(MismatchError, match="'tiny'.*'other'"):
        train(other_space, data, SHORT, folder)
    half = Part(data.train.images[:48], data.train.labels[:48])
    fewer = Data("fewer", half, data.validation, data.test_part(), Classification(10), data.mean, data.std)
    with pytest.raises(MismatchError, match=r"\(data\)"):
        train(space, fewer, SHORT, folder)


def test_a_damaged_checkpoint_is_named(space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(DamagedFileError, match=CHECKPOINT):
        train(space, data, SHORT, tmp_path)
    Supernet(space).save(tmp_path / CHECKPOINT)
    with pytest.raises(DamagedFileError, match="identity"):
        train(space, data, SHORT, tmp_path)


def test_a_probe_gives_losses_and_changes_nothing(space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    run = training._Run(space, data, SHORT, tmp_path)
    run.supernet.train()
    images, targets, changes, _ = next(run._batches(torch.Generator().manual_seed(0)))
    (part,) = run._parts_of(images, targets, changes)
    before, twin = copy.deepcopy(run.supernet.state_dict()), copy.deepcopy(run.supernet)
    networks = [space.smallest, space.biggest]
    found = run._probe(part, networks)
    assert all(torch.equal(value, before[name]) for name, value in run.supernet.state_dict().items())
    with torch.no_grad():
        outputs = [twin(part.view(int(one.values["resolution"])), one) for one in networks]
    assert found.tolist() == [float(data.task.loss(one, part.targets)) for one in outputs]
    run._loss_alone(part, None, space.biggest)  # follows the batch again
    assert not all(torch.equal(value, before[name]) for name, value in run.supernet.state_dict().items())


class Counted(Part):
    """A part that is not in memory, and counts how often each image is taken."""

    in_memory = False
    taken: list[int] = []

    def take(self, rows: torch.Tensor) -> Batch:
        self.taken.extend(rows.tolist())
        return super().take(rows)


@pytest.mark.parametrize("division", [None, GradientMatching(choices="resolution", batches=1)])
def test_evaluations_load_the_validation_part_once(
    division: GradientMatching | None, space: MobileNetV3, data: Data, tmp_path: Path
) -> None:
    lazy = Counted(data.validation.images, data.validation.labels)
    stored = Data("stored", data.train, lazy, data.test_part(), data.task, data.mean, data.std)
    phases = (Phase(), Phase(division=division))
    settings = dataclasses.replace(SHORT, epochs=4, evaluate_every=1, ema=0.5, phases=phases)
    Counted.taken.clear()
    lazily = train(space, stored, settings, tmp_path / "lazily")
    assert sorted(Counted.taken) == sorted(list(range(len(lazy))) * 2)  # once for each of two resolutions
    known = train(space, data, settings, tmp_path / "known")
    assert [epoch.biggest_accuracy for epoch in lazily.history] == [epoch.biggest_accuracy for epoch in known.history]
    judge = SupernetAccuracy(space, lazily.supernet, data)
    assert judge.predict(space.biggest.genes[None])[0] == lazily.history[-1].biggest_accuracy


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    space: MobileNetV3, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Supernet.forward

    def diverge(self: Supernet, *arguments: object) -> torch.Tensor:
        y = forward(self, *arguments)  # type: ignore[arg-type]
        return y * math.nan if (tmp_path / CHECKPOINT).exists() else y

    monkeypatch.setattr(Supernet, "forward", diverge)
    settings = dataclasses.replace(SHORT, evaluate_every=0)
    with pytest.raises(NasError, match=r"loss .* in epoch 2.*learning_rate"):
        train(space, data, settings, tmp_path)
    monkeypatch.undo()
    epochs: list[int] = []
    train(space, data, settings, tmp_path, on_epoch=lambda epoch: epochs.append(epoch.epoch))
    assert epochs == [2, 3]


def test_weights_that_are_not_finite_are_never_saved(
    space: MobileNetV3, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = torch.optim.AdamW.step

    def spoil(self: torch.optim.AdamW) -> None:
        step(self)
        self.param_groups[0]["params"][0].data.fill_(math.inf)

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    with pytest.raises(NasError, match=r"weights .* in epoch 1"):
        train(space, data, dataclasses.replace(SHORT, batch_size=96), tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()


def test_training_without_distillation_augmentation_or_random_networks(
    space: MobileNetV3, data: Data, tmp_path: Path
) -> None:
    plain = TrainingSettings(epochs=1, sampler=Sandwich(0), loss=Labels(), clip_norm=None, augment=(), evaluate_every=0)
    (epoch,) = train(space, data, plain, tmp_path).history
    assert math.isfinite(epoch.loss)


def test_the_number_of_threads_holds_for_the_training_alone(space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    before, seen = torch.get_num_threads(), []
    settings = TrainingSettings(epochs=1, sampler=Sandwich(0), evaluate_every=0, threads=before + 1)
    train(space, data, settings, tmp_path, on_epoch=lambda _: seen.append(torch.get_num_threads()))
    assert seen == [before + 1] and torch.get_num_threads() == before


def test_data_of_another_kind_is_refused(space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    more = Data("more", data.train, data.validation, data.test_part(), Classification(12), data.mean, data.std)
    with pytest.raises(MismatchError, match="10 classes.*12"):
        train(space, more, SHORT, tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_on_a_gpu_does_not_wait_for_the_host(
    precision: str, space: MobileNetV3, data: Data, tmp_path: Path
) -> None:
    augment = (Affine(), Flip(), Crop(), Mixup(), CutMix(chance=0.5))
    settings = dataclasses.replace(SHORT, device="cuda", precision=precision, ema=0.9, accumulate=2, augment=augment)
    run = training._Run(space, data, settings, tmp_path)
    run.supernet.train()
    first, second, *_ = run._batches(torch.Generator().manual_seed(0))
    run._step(*first, 1.0, np.random.default_rng(0))  # allocates, chooses algorithms
    torch.cuda.set_sync_debug_mode("error")
    try:
        run._step(*second, 1.1, np.random.default_rng(1))
    finally:
        torch.cuda.set_sync_debug_mode("default")

"""Networks trained alone: further from the weights that they inherit, or from nothing."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nas
from nas.data import Data, Part
from nas.run.retraining import TrainedNetwork, fine_tuned, of_fine_tuning, of_one_network, trained_alone
from nas.run.settings import FinetuneSettings
from nas.run.verify import file_score
from nas.supernet import Epoch, Phase, Supernet, SupernetAccuracy, TrainingSettings, train
from nas.supernet.losses import Distillation, Labels, Lesson
from nas.supernet.samplers import Sandwich, SinglePath
from nas.supernet.training import Start
from nas.tasks import Classification
from search_spaces import Architecture, MobileNetV3
from search_spaces.base.errors import MismatchError
from search_spaces.base.storage import read_json
from search_spaces.one_network import OneNetwork

TRAINING = TrainingSettings(epochs=2, batch_size=32, sampler=Sandwich(1), evaluate_every=0, threads=1)


@pytest.fixture(scope="module")
def judge(small_space: MobileNetV3, few_digits: Data, tmp_path_factory: pytest.TempPathFactory) -> SupernetAccuracy:
    supernet = train(small_space, few_digits, TRAINING, tmp_path_factory.mktemp("supernet")).supernet
    return SupernetAccuracy(small_space, supernet, few_digits, recalibration_images=64, threads=1)


@pytest.fixture
def network(small_space: MobileNetV3) -> Architecture:
    return Architecture(small_space, small_space.sample(1, np.random.default_rng(1))[0])


def states_equal(a: Supernet, b: Supernet) -> bool:
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


def test_without_epochs_the_inherited_accuracy_stays(
    judge: SupernetAccuracy, network: Architecture, tmp_path: Path
) -> None:
    settings = of_fine_tuning(TRAINING, FinetuneSettings(epochs=0))
    found = fine_tuned(network, judge, settings, tmp_path / "training")
    assert found.accuracy == found.inherited == judge.predict(network.genes[None])[0]
    assert found.seconds == 0
    weights = found.judge.deployed(found.judge.space.biggest).state_dict()
    inherited = judge.deployed(network).state_dict()
    assert all(torch.equal(inherited[name], value) for name, value in weights.items() if value.is_floating_point())


def test_training_alone_is_training_a_space_of_one_network(
    network: Architecture, few_digits: Data, tmp_path: Path
) -> None:
    settings = of_one_network(TRAINING)
    assert (settings.sampler, settings.loss, settings.epochs) == (SinglePath(), Labels(), 2)
    found = trained_alone(network, few_digits, settings, tmp_path / "alone", recalibration_images=64)
    one = OneNetwork.of(network)
    other = train(one, few_digits, settings, tmp_path / "space").supernet
    assert found.inherited is None and found.architecture == network and states_equal(found.supernet, other)
    accuracy = SupernetAccuracy(one, other, few_digits, recalibration_images=64, threads=1).predict(
        one.network.genes[None]
    )
    assert found.accuracy == accuracy[0]


def test_it_begins_with_the_inherited_weights(judge: SupernetAccuracy, network: Architecture, tmp_path: Path) -> None:
    """A step of almost no length moves no weight far from where it was, but fresh weights are elsewhere."""
    given = FinetuneSettings(epochs=1, learning_rate=1e-8)
    found = fine_tuned(network, judge, of_fine_tuning(TRAINING, given), tmp_path)
    inherited = judge.deployed(network)
    for name, weights in found.supernet.extract(found.judge.space.biggest).named_parameters():
        torch.testing.assert_close(weights, dict(inherited.named_parameters())[name], atol=1e-5, rtol=0)


def test_a_resumed_fine_tuning_is_the_same_one(
    judge: SupernetAccuracy, network: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = of_fine_tuning(TRAINING, FinetuneSettings(epochs=3))
    whole = fine_tuned(network, judge, settings, tmp_path / "whole")
    plain = train

    def stopped(*arguments: object, **keywords: object) -> None:
        def stop(epoch: Epoch) -> None:
            if epoch.epoch == 2:
                raise KeyboardInterrupt

        plain(*arguments, **keywords, on_epoch=stop)  # type: ignore[arg-type]

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("nas.supernet.train", stopped)
        fine_tuned(network, judge, settings, tmp_path / "parts")
    resumed = fine_tuned(network, judge, settings, tmp_path / "parts")
    assert states_equal(whole.supernet, resumed.supernet) and whole.accuracy == resumed.accuracy


def test_other_settings_and_other_weights_are_other_trainings(
    judge: SupernetAccuracy, network: Architecture, small_space: MobileNetV3, few_digits: Data, tmp_path: Path
) -> None:
    settings = of_fine_tuning(TRAINING, FinetuneSettings(epochs=0))
    fine_tuned(network, judge, settings, tmp_path)
    fine_tuned(network, judge, settings, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    fine_tuned(network, judge, dataclasses.replace(settings, epochs=1), tmp_path)
    other = SupernetAccuracy(small_space, Supernet(small_space), few_digits, recalibration_images=64, threads=1)
    fine_tuned(network, other, settings, tmp_path)
    trained_alone(network, few_digits, settings, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_training_with_other_first_weights_is_refused(
    network: Architecture, few_digits: Data, tmp_path: Path
) -> None:
    one = OneNetwork.of(network)
    weights = Supernet(one, seed=5).state_dict()
    settings = of_one_network(TRAINING, epochs=1)
    train(one, few_digits, settings, tmp_path, start=Start(weights, "five"))
    with pytest.raises(MismatchError, match=r"other settings \(start\)"):
        train(one, few_digits, settings, tmp_path)


def test_the_largest_network_teaches(judge: SupernetAccuracy, network: Architecture, tmp_path: Path) -> None:
    """Without labels, a step's loss is the cross-entropy with what the largest network says."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    @dataclasses.dataclass(frozen=True)
    class Watched(Distillation):
        def __call__(self, outputs: torch.Tensor, lesson: Lesson) -> torch.Tensor:
            seen.append((lesson.outside.clone(), lesson.targets.clone()))
            return super().__call__(outputs, lesson)

    still = dataclasses.replace(TRAINING, augment=())
    settings = dataclasses.replace(of_fine_tuning(still, FinetuneSettings(epochs=1)), loss=Watched(1.0))
    fine_tuned(network, judge, settings, tmp_path)
    biggest = judge.deployed(judge.space.biggest)
    said, labels = torch.cat([one for one, _ in seen]), torch.cat([labels for _, labels in seen])
    assert len(said) == len(judge.data.train)
    images, targets = judge.data.train.take(torch.arange(len(judge.data.train)))
    with torch.no_grad():
        logits = biggest(torch.nn.functional.interpolate(images, (12, 12), mode="bilinear", antialias=True))
    order, expected = labels.argsort(stable=True), targets.argsort(stable=True)
    sums = said[order].sum(0), logits[expected].sum(0)
    torch.testing.assert_close(*sums, atol=1e-3, rtol=1e-3)


def test_distillation_weighs_labels_and_teacher() -> None:
    task, outputs, teacher = Classification(3), torch.randn(4, 3), torch.randn(4, 3)
    targets = torch.tensor([0, 1, 2, 0])
    lesson = Lesson(task, targets, 0.1, None, teacher)
    labels, imitation = task.loss(outputs, targets, smoothing=0.1), task.imitation(outputs, teacher)
    assert Distillation(0.25)(outputs, lesson) == 0.75 * labels + 0.25 * imitation
    assert Distillation(0.25)(outputs, dataclasses.replace(lesson, outside=None)) == labels


def test_settings_of_one_network() -> None:
    training = dataclasses.replace(TRAINING, phases=(Phase(), Phase(learning_rate=0.5)), learning_rate=0.02)
    tuned = of_fine_tuning(training, FinetuneSettings(epochs=7, distillation=0.3))
    assert (tuned.epochs, tuned.learning_rate, tuned.loss, tuned.phases) == (7, 0.002, Distillation(0.3), ())
    assert of_one_network(training, epochs=5).epochs == 5


def test_from_python_with_files(
    small_space: MobileNetV3, judge: SupernetAccuracy, few_digits: Data, tmp_path: Path
) -> None:
    words: dict[str, Any] = {"batch_size": 32, "evaluate_every": 0}
    networks = [small_space.smallest, small_space.biggest]
    tuned = nas.finetune(networks, judge.supernet, few_digits, out=tmp_path / "run", epochs=1, **words)
    (alone,) = nas.train_alone(small_space.smallest, few_digits, out=tmp_path / "run", epochs=1, **words)
    assert [one.architecture for one in tuned] == networks and isinstance(alone, TrainedNetwork)
    parity = alone.export(tmp_path / "alone")
    assert max(parity.values()) < 1e-4
    stated = read_json(tmp_path / "alone" / "architecture.json")
    assert Architecture.from_json(small_space, stated) == small_space.smallest
    again = nas.export(alone.judge.space.biggest, tmp_path / "again", alone.supernet, data=few_digits)
    assert again == parity
    names = ("network.onnx", "architecture.json")
    assert all((tmp_path / "again" / n).read_bytes() == (tmp_path / "alone" / n).read_bytes() for n in names)
    with pytest.raises(nas.NasError, match="Networks are architectures"):
        nas.train_alone([], few_digits, out=tmp_path / "run")
    with pytest.raises(nas.NasError, match="must be of one space"):
        nas.train_alone([small_space.smallest, alone.judge.space.biggest], few_digits, out=tmp_path / "run")


# -- what is trained -------------------------------------------------------------------------------------------------


def test_tinytl_changes_what_it_may_alone(judge: SupernetAccuracy, network: Architecture, tmp_path: Path) -> None:
    before, after = (
        fine_tuned(network, judge, of_fine_tuning(TRAINING, FinetuneSettings(epochs=n)), tmp_path, method="tinytl")
        for n in (0, 2)
    )
    assert before.accuracy == before.inherited  # the residuals add nothing yet
    old = before.supernet.state_dict()
    changed = {name for name, value in after.supernet.state_dict().items() if not torch.equal(value, old[name])}
    weights = {name for name, _ in after.supernet.named_parameters()}
    may = {name for name in weights if name.endswith(".bias") or "_lite." in name or ".classify." in name}
    assert changed & weights == may
    assert all("_lite." in name for name in changed - weights)  # running statistics
    assert Supernet.load(after.judge.space, next(tmp_path.glob("*/supernet.pt"))).frozen == after.supernet.frozen != []


def test_methods_hold_the_less_memory_the_less_they_train(
    judge: SupernetAccuracy, network: Architecture, tmp_path: Path
) -> None:
    settings = of_fine_tuning(TRAINING, FinetuneSettings(epochs=0))
    last, biases, tinytl, whole = (
        fine_tuned(network, judge, settings, tmp_path, method=method).memory
        for method in ("last", "biases", "tinytl", "all")
    )
    assert last.activations < biases.activations < tinytl.activations < whole.activations
    assert last.gradients < biases.gradients < whole.gradients
    assert f"training held {whole.total / 2**20:.1f} MiB" in repr(fine_tuned(network, judge, settings, tmp_path))


def test_lite_residuals_are_exported(judge: SupernetAccuracy, network: Architecture, tmp_path: Path) -> None:
    settings = of_fine_tuning(TRAINING, FinetuneSettings(epochs=1))
    found = fine_tuned(network, judge, settings, tmp_path, method="tinytl")
    assert max(found.export(tmp_path / "export").values()) < 1e-4
    accuracy = file_score(tmp_path / "export" / "network.onnx", judge.data.task, judge.data.validation)
    assert accuracy == found.accuracy
    stated = read_json(tmp_path / "export" / "architecture.json")
    assert stated["choices"] == network.to_json()["choices"] and stated["space"] == "small_lite"
    assert found.judge.space.network.macs > network.macs


def test_a_network_is_trained_further_on_data_of_other_classes(
    judge: SupernetAccuracy, network: Architecture, few_digits: Data, tmp_path: Path
) -> None:
    parts = []
    for part in (few_digits.train, few_digits.validation, few_digits.test_part()):
        images, labels = part.take(torch.arange(len(part)))
        parts.append(Part(images[labels < 4], labels[labels < 4]))
    four = Data("four_digits", *parts, task=Classification(4), mean=few_digits.mean, std=few_digits.std)
    words: dict[str, Any] = {"batch_size": 16, "evaluate_every": 0, "recalibration_images": 32}
    supernet = judge.supernet
    supernet.data = few_digits
    (found,) = nas.finetune(network, supernet, four, out=tmp_path, epochs=0, **words)
    (same,) = nas.finetune(network, supernet, few_digits, out=tmp_path, epochs=0, **words)
    assert found.inherited is None and same.inherited == same.accuracy
    assert found.judge.space.network.layers.output_shapes == {"logits": (4,)}
    ours, theirs = (one.supernet.state_dict() for one in (found, same))
    differing = {name for name, value in ours.items() if value.shape != theirs[name].shape}
    assert differing == {f"positions.classifier.body.classify.{part}" for part in ("weight", "bias")}
    supernet.save(tmp_path / "weights.pt")  # which says nothing of data
    (by_file,) = nas.finetune(network, tmp_path / "weights.pt", four, out=tmp_path, epochs=0, **words)
    assert by_file.inherited is None and states_equal(by_file.supernet, found.supernet)
    kept = {name for name, value in ours.items() if name not in differing and ".running_" not in name}
    assert all(torch.equal(ours[name], theirs[name]) for name in kept if ours[name].is_floating_point())
    words |= {"epochs": 20, "learning_rate": 0.03}
    (tuned,) = nas.finetune(network, supernet, four, out=tmp_path, method="tinytl", **words)
    assert tuned.accuracy > 0.4

"""Classification: its score, its losses, what it says of data."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch.nn import functional

from nas.data import Part
from nas.tasks import Classification
from nas.tasks.classification import balanced
from search_spaces.base.errors import InvalidValueError, MismatchError


def notes_of(train: list[int], validation: list[int], test: list[int], classes: int = 3) -> list[str]:
    parts = {
        name: Part(torch.zeros(len(labels), 1, 4, 4), torch.tensor(labels))
        for name, labels in (("train", train), ("validation", validation), ("test", test))
    }
    return Classification(classes).notes("mine", parts, {"logits": (classes,)})


def test_classes_of_each_part_are_looked_at() -> None:
    all_three = [0, 1, 2] * 40
    assert notes_of(all_three, all_three, all_three) == []
    with pytest.raises(InvalidValueError, match="All 3 training images of 'mine' are of class 1"):
        notes_of([1, 1, 1], all_three, all_three)
    (unlearnt,) = notes_of([0, 1], all_three, [0, 1])
    assert "class 2 of 'mine' is in validation but not in train" in unlearnt and "33% of validation" in unlearnt
    (missing,) = notes_of(all_three, all_three, [2, 2])
    assert "test of 'mine' has 1 of 3 classes (classes 0, 1 missing)" in missing and "says nothing" in missing
    few = notes_of(all_three, [0], all_three)
    assert any("has 1 image: accuracies come in steps of 100.0%" in note for note in few)


def test_the_score_is_the_share_of_right_classes_over_all_batches() -> None:
    score = Classification(3).score()
    score.add(torch.eye(3), torch.tensor([0, 1, 1]))
    score.add(torch.eye(3)[:1], torch.tensor([0]))
    assert score.value() == 0.75


def test_imitating_oneself_costs_the_entropy() -> None:
    outputs = torch.tensor([[2.0, 0.0, -1.0]])
    entropy = torch.distributions.Categorical(logits=outputs).entropy().mean()
    assert float(Classification(3).imitation(outputs, outputs)) == pytest.approx(float(entropy))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"boxes": (4, 10), "logits": (10,)}, "boxes of shape"),
        ({"map": (3, 8, 8)}, "nothing can be trained"),
        ({"logits": (2,)}, "tell 2 classes, but data 'mine' has 3"),
    ],
)
def test_networks_that_cannot_classify_are_refused(outputs: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        Classification(3).check("Networks", outputs, "mine")


def test_names_of_classes_stand_in_notes_and_in_the_description_of_the_output() -> None:
    task = Classification(2, ("cat", "dog"))
    described = task.output({"logits": (1, 2)})
    assert (described["classes"], described["names"]) == (2, ["cat", "dog"])
    assert "names" not in Classification(2).output({"logits": (1, 2)})
    one = Part(torch.zeros(3, 1, 4, 4), torch.tensor([1, 1, 1]))
    with pytest.raises(InvalidValueError, match="All 3 training images of 'mine' are of class dog"):
        task.notes("mine", {"train": one, "validation": one, "test": one}, {"logits": (2,)})
    assert len({Classification(2).identity, task.identity, Classification(2, ("dog", "cat")).identity}) == 3
    wide = task.output({"logits": (1, 1000)})["output"]
    assert wide["shape"] == [1, 1000] and wide["meaning"].endswith(
        "of 1000 channels the first 2 are the classes of the data"
    )
    for wrong in (("cat",), ("cat", "cat"), ("cat", "dog", "dog")):
        with pytest.raises(InvalidValueError, match="Each of 2 classes has a name of its own"):
            Classification(2, wrong)


def test_macro_f1_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(80, 3)).astype(np.float32)
    labels = rng.choice(3, 80, p=[0.8, 0.15, 0.05])
    task = Classification(3, judged_by="macro_f1")
    score = task.score()
    for rows in np.array_split(np.arange(80), 3):
        score.add(torch.from_numpy(outputs[rows]), torch.from_numpy(labels[rows]))
    assert score.value() == pytest.approx(f1_score(labels, outputs.argmax(1), average="macro"))
    error = score.error()
    assert error is not None and 0.01 < error < 0.2
    assert task.metric.name == "macro_f1" and task.identity != Classification(3).identity == "3"


def test_an_output_that_is_no_class_is_wrong_for_every_metric() -> None:
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(80, 5)).astype(np.float32), np.arange(80) % 3
    accuracy, macro = (Classification(3, judged_by=metric).score() for metric in ("accuracy", "macro_f1"))
    for score in (accuracy, macro):
        score.add(torch.from_numpy(outputs), torch.from_numpy(labels))
    assert accuracy.value() == (outputs.argmax(1) == labels).mean()
    assert macro.value() == pytest.approx(f1_score(labels, outputs.argmax(1), labels=[0, 1, 2], average="macro"))


def test_weights_of_classes_are_those_of_the_loss() -> None:
    labels = np.array([0] * 6 + [1] * 2)
    weights = balanced(np.bincount(labels, minlength=3))
    assert weights == pytest.approx((8 / (2 * 6), 8 / (2 * 2), 0))
    outputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))  # an output more than classes
    found = Classification(3, weights=weights).loss(outputs, torch.from_numpy(labels))
    wanted = functional.cross_entropy(outputs, torch.from_numpy(labels), torch.tensor([*weights, 0.0]))
    assert float(found) == pytest.approx(float(wanted))
    with pytest.raises(InvalidValueError, match="Each of 3 classes has a weight"):
        Classification(3, weights=(1.0, 2.0))

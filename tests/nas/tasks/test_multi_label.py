"""Multi-label classification: mean average precision as scikit-learn has it, and the loss."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from nas.tasks import MultiLabel, Task
from search_spaces.base.errors import InvalidValueError, MismatchError

TASK = MultiLabel(3)


def test_the_mean_average_precision_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(60, 3)).round(1).astype(np.float32)  # with ties
    labels = (rng.random((60, 3)) < [0.3, 0.6, 0.1]).astype(np.float32)
    score = TASK.score()
    for rows in np.array_split(np.arange(60), 4):
        score.add(torch.from_numpy(scores[rows]), torch.from_numpy(labels[rows]))
    assert score.value() == pytest.approx(average_precision_score(labels, scores, average="macro"))
    error = score.error()
    assert error is not None and 0.01 < error < 0.2
    assert isinstance(TASK, Task)


def test_classes_that_no_input_has_do_not_count() -> None:
    score = TASK.score()
    score.add(torch.tensor([[2.0, 0.0, 1.0], [1.0, 0.0, 2.0]]), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    assert score.value() == pytest.approx((1 + 0.5) / 2)


def test_the_loss_is_that_of_each_class_by_itself() -> None:
    loss = TASK.loss(torch.zeros(2, 3), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    assert float(loss) == pytest.approx(np.log(2))
    sure = torch.tensor([[20.0, -20.0, 20.0]])
    assert float(TASK.loss(sure, torch.tensor([[1.0, 0.0, 1.0]]))) == pytest.approx(0, abs=1e-6)
    assert float(TASK.loss(sure, torch.tensor([[1.0, 0.0, 1.0]]), smoothing=0.2)) == pytest.approx(2.0, abs=1e-3)


def test_networks_and_data_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MismatchError, match="tell 2 classes, but data 'mine' has 3"):
        TASK.check("Networks", {"logits": (2,)}, "mine")
    with pytest.raises(InvalidValueError, match="nothing to learn"):
        TASK.notes("mine", {"train": SimpleNamespace(labels=torch.ones(4, 3))}, {})
    assert TASK.output({"logits": (2, 3)})["output"]["shape"] == [2, 3]


def test_classes_that_a_part_lacks_are_told() -> None:
    both, first, none = (torch.tensor(rows) for rows in ([[1.0, 0, 0], [0, 1, 0]], [[1.0, 0, 0]], [[0.0, 0, 0]]))
    parts = {"train": both, "validation": first, "test": both}
    assert TASK.notes("mine", {name: SimpleNamespace(labels=labels) for name, labels in parts.items()}, {}) == [
        "validation of 'mine' has no images of 1 of 3 classes that train has: its mean average precision leaves them "
        "out",
        "1 of 3 classes of 'mine' are those of all training images or of none",
    ]
    parts["test"] = none
    with pytest.raises(
        InvalidValueError, match="test of 'mine' has no images of any class, so no network can be judged"
    ):
        TASK.notes("mine", {name: SimpleNamespace(labels=labels) for name, labels in parts.items()}, {})

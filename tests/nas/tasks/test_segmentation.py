"""Semantic segmentation: mIoU by hand, void pixels, coarse outputs, what is said of networks and data."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from nas.tasks import Segmentation, Task
from search_spaces.base.errors import InvalidValueError, MismatchError

TASK = Segmentation(3, void=9, names=("road", "tree", "sky"))


def logits_of(mask: torch.Tensor, classes: int = 3) -> torch.Tensor:
    """Logits whose highest are those of a mask (B, H, W)."""
    return functional.one_hot(mask, classes).movedim(-1, 1).float()


def test_the_mean_is_of_the_classes_that_targets_have() -> None:
    targets = torch.tensor([[[0, 0, 0, 1]], [[1, 1, 9, 9]]])
    outputs = torch.tensor([[[0, 0, 1, 1]], [[1, 2, 2, 0]]])
    score = TASK.score()
    for image in range(2):  # in two batches
        score.add(logits_of(outputs[image : image + 1]), targets[image : image + 1])
    # Class 0: 2 of 3. Class 1: 2 right, 1 missed, 1 wrong. Class 2 is no target, and does not count.
    assert score.per_class()[:2] == pytest.approx([2 / 3, 2 / 4])
    assert score.value() == pytest.approx((2 / 3 + 2 / 4) / 2)
    assert isinstance(TASK, Task) and TASK.metric.title == "mIoU"
    error = score.error()
    assert error is not None and error > 0


def test_void_pixels_do_not_count_in_the_loss() -> None:
    outputs = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    whole = functional.cross_entropy(outputs[:, :, :2], targets[:, :2])
    targets[:, 2:] = 9
    assert float(TASK.loss(outputs, targets)) == pytest.approx(float(whole))
    outputs.requires_grad_()
    TASK.loss(outputs, torch.full_like(targets, 9)).backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None and not outputs.grad.any()


def test_weights_are_those_of_the_classes() -> None:
    weighted = Segmentation(3, void=9, weights=(1.0, 2.0, 0.0))
    outputs, targets = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 1], [2, 9]]])
    wanted = functional.cross_entropy(outputs, targets, torch.tensor([1.0, 2.0, 0.0]), ignore_index=9)
    assert float(weighted.loss(outputs, targets)) == pytest.approx(float(wanted))


def test_coarse_outputs_are_judged_in_the_size_of_the_targets() -> None:
    targets = torch.zeros(1, 4, 8, dtype=torch.uint8)
    targets[:, :, 4:] = 1
    score = TASK.score()
    score.add(logits_of(torch.tensor([[[0, 1], [0, 1]]])), targets)
    assert score.value() == 1.0
    loss = TASK.loss(100 * logits_of(torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 1]]])), targets)
    assert float(loss) == pytest.approx(0, abs=1e-3)


def test_a_teacher_of_another_size_is_imitated() -> None:
    outputs = torch.zeros(1, 3, 2, 2)
    assert float(TASK.imitation(outputs, torch.zeros(1, 3, 4, 4))) == pytest.approx(float(torch.tensor(3.0).log()))


def test_the_output_is_described() -> None:
    found = TASK.output({"logits": (1, 3, 12, 16)})
    assert found["output"]["shape"] == [1, 3, 12, 16] and "12 x 16 over the whole image" in found["output"]["meaning"]
    assert found["classes"] == 3 and found["names"] == ["road", "tree", "sky"]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [({"logits": (3,)}, "images and maps"), ({"logits": (2, 4, 4)}, "give 2 channels, but data 'mine' has 3 classes")],
)
def test_networks_that_give_no_map_are_refused(outputs: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        TASK.check("Networks", outputs, "mine")


def test_classes_that_train_lacks_are_told() -> None:
    parts = {
        "train": SimpleNamespace(labels=torch.tensor([[[0, 9]]])),
        "validation": SimpleNamespace(labels=torch.tensor([[[0, 1]]])),
        "test": SimpleNamespace(labels=torch.tensor([[[0, 0]]])),
    }
    (note,) = TASK.notes("mine", parts, {})
    assert "validation of 'mine' has pixels of 1 of 3 classes that train lacks" in note
    parts["train"].labels = torch.tensor([[[0, 2]]])
    assert "test of 'mine' has no pixels of 1 of 3 classes that train has: its mIoU leaves them out" in TASK.notes(
        "mine", parts, {}
    )
    parts["validation"].labels = torch.tensor([[[9, 9]]])
    with pytest.raises(
        InvalidValueError, match="validation of 'mine' has no pixels of any class, so no network can be"
    ):
        TASK.notes("mine", parts, {})


def test_void_may_be_any_number_that_is_no_class() -> None:
    outputs, targets = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 1], [2, -100]]])
    weights = (1.0, 2.0, 3.0)
    wanted = functional.cross_entropy(outputs, targets, torch.tensor(weights))
    task = Segmentation(3, void=-100, weights=weights)
    assert float(task.loss(outputs, targets)) == pytest.approx(float(wanted))
    parts = {name: SimpleNamespace(labels=targets) for name in ("train", "validation", "test")}
    assert task.notes("mine", parts, {}) == []


def test_void_is_no_class() -> None:
    with pytest.raises(InvalidValueError, match="`void` must be no class, 0 to 2, but got 1"):
        Segmentation(3, void=1)

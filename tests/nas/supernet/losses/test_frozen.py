from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nas.supernet import Supernet
from nas.supernet.losses import FrozenBiggest, Lesson
from nas.tasks import Classification
from search_spaces import MobileNetV3
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Size


def test_the_teacher_is_the_biggest_network_as_it_was(
    space: MobileNetV3, randomise: Callable[[Supernet], Supernet]
) -> None:
    supernet = randomise(Supernet(space)).train()
    teacher = FrozenBiggest().teacher(supernet)
    asked: list[Size] = []

    def view(size: Size) -> Tensor:
        asked.append(size)
        return torch.randn(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))

    said = teacher(view)
    torch.testing.assert_close(said, supernet(view(12), space.biggest).detach())  # statistics of the batch
    assert asked == [12, 12] and not said.requires_grad
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.zero_()
    assert torch.equal(teacher(view), said)


def test_labels_and_the_teacher_add_up() -> None:
    task, labels = Classification(3), torch.tensor([0, 2])
    outputs, outside = torch.randn(2, 3), torch.randn(2, 3)
    lesson = Lesson(task, labels, 0.1, first=torch.zeros(2, 3), outside=outside)
    expected = task.loss(outputs, labels, smoothing=0.1) + 0.5 * task.imitation(outputs, outside)
    torch.testing.assert_close(FrozenBiggest(0.5)(outputs, lesson), expected)
    with pytest.raises(InvalidValueError, match="weight"):
        FrozenBiggest(0)

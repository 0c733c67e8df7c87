import pytest
import torch

from nas.tasks import Classification, DenseRegression, MultiLabel, Segmentation, SuperResolution, VectorRegression
from nas.tasks.mixing import Mixing, mixed_classes, mixed_values
from search_spaces.base.errors import InvalidValueError


def pasted(box: list[float], strength: float = 1.0, *, blends: bool = False) -> Mixing:
    """The same box of each of two images in the other one."""
    return Mixing(torch.tensor([1, 0]), torch.tensor([box, box]), torch.full((2,), strength), blends)


def test_a_box_is_pasted_where_it_lies() -> None:
    mixing = pasted([0.5, 0.0, 1.0, 0.25])
    values = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    found = mixed_values(values, values[mixing.partner], mixing)
    expected = torch.zeros(4, 4)
    expected[0, 2:] = 1  # right half of the first quarter of the rows
    assert torch.equal(found[0, 0], expected) and torch.equal(found[1, 0], 1 - expected)
    masks = values[:, 0].long()
    assert torch.equal(mixed_classes(masks, masks[mixing.partner], mixing)[0], expected.long())
    assert mixing.share.tolist() == [0.125, 0.125]


@pytest.mark.parametrize("size", [(5, 7), (12, 12), (1, 3)])
def test_the_mean_of_the_weights_is_the_share_at_any_resolution(size: tuple[int, int]) -> None:
    mixing = pasted([0.13, 0.21, 0.77, 0.93], 0.6)
    weights = mixing.weights(*size)
    assert weights.shape == (2, 1, *size)
    torch.testing.assert_close(weights.mean((1, 2, 3)), mixing.share)
    assert mixing.share[0] == pytest.approx(0.6 * 0.64 * 0.72)


def test_labels_become_shares_with_the_loss_of_both() -> None:
    task, mixing = Classification(3), pasted([0.0, 0.0, 1.0, 1.0], 0.25, blends=True)
    labels = torch.tensor([0, 2])
    shares = task.mix(labels, labels[mixing.partner], mixing)
    assert torch.equal(shares, torch.tensor([[0.75, 0, 0.25], [0.25, 0, 0.75]]))
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))  # networks may tell more classes
    for smoothing in (0.0, 0.1):
        own, other = (task.loss(logits, one, smoothing=smoothing) for one in (labels, labels[mixing.partner]))
        torch.testing.assert_close(task.loss(logits, shares, smoothing=smoothing), 0.75 * own + 0.25 * other)


def test_masks_of_blended_images_are_refused() -> None:
    masks = torch.zeros(2, 4, 4, dtype=torch.int64)
    with pytest.raises(InvalidValueError, match="two classes.*Mixup"):
        mixed_classes(masks, masks, pasted([0.0, 0.0, 1.0, 1.0], 0.3, blends=True))


def test_targets_of_other_tasks_are_mixed_as_their_inputs_are() -> None:
    mixing, share = pasted([0.0, 0.0, 0.5, 1.0]), 0.5
    labels = torch.tensor([[1, 0, 1], [0, 0, 1]])
    assert torch.equal(MultiLabel(3).mix(labels, labels[mixing.partner], mixing)[0], torch.tensor([share, 0, 1]))
    values = torch.tensor([[1.0], [3.0]])
    assert VectorRegression((0.0,), (1.0,)).mix(values, values.flip(0), mixing).tolist() == [[2.0], [2.0]]
    maps = torch.stack([torch.zeros(1, 2, 4), torch.ones(1, 2, 4)])
    maps[1, :, :, 0] = torch.nan  # unknown
    found = DenseRegression((0.0,), (1.0,)).mix(maps, maps.flip(0), mixing)
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([torch.nan, 1, 0, 0]), equal_nan=True)
    torch.testing.assert_close(found[1, 0, 0], torch.tensor([0.0, 0, 1, 1]))
    images = maps.nan_to_num(1.0)
    finer = SuperResolution((1, 2, 4), 2).mix(images, images.flip(0), mixing)
    assert finer[:, 0, 0].tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    masks = torch.tensor([[[0, 0]], [[1, 255]]])
    assert Segmentation(2).mix(masks, masks.flip(0), mixing)[0].tolist() == [[1, 0]]

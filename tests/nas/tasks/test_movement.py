"""Movement of targets: masks by the nearest pixel, boxes by their corners, dense values bilinearly."""

import math

import pytest
import torch

from nas.tasks.movement import moved_boxes, moved_classes, moved_values

# One pixel of four to the right: the moved image at x takes from x - 2 / 4.
RIGHT = torch.tensor([[[1.0, 0.0, -0.5], [0.0, 1.0, 0.0]]])
QUARTER = torch.tensor([[[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]])


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_a_mask_is_moved_by_whole_classes_and_void_comes_in(dtype: torch.dtype) -> None:
    mask = (torch.arange(16).reshape(1, 4, 4) % 5).to(dtype)
    moved = moved_classes(mask, RIGHT, 255)
    assert moved.dtype == mask.dtype
    assert moved[0, :, 0].tolist() == [255] * 4
    assert torch.equal(moved[0, :, 1:], mask[0, :, :-1])
    assert moved_classes(mask, None, 255) is mask


def test_a_finer_mask_is_moved_by_as_much() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.int64)
    mask[0, 2, 3] = 1
    assert moved_classes(mask, RIGHT, 255)[0, 2, 5] == 1


def test_dense_values_are_moved_bilinearly() -> None:
    values = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(1, 1, 4, 4)
    half = torch.tensor([[[1.0, 0.0, -0.25], [0.0, 1.0, 0.0]]])
    torch.testing.assert_close(moved_values(values, half)[0, 0, 0], torch.tensor([0.0, 0.5, 1.5, 2.5]))
    shifted = moved_values(values, RIGHT, math.nan)[0, 0, 0]
    assert shifted[0].isnan() and shifted[1:].tolist() == [0, 1, 2]


def test_boxes_follow_their_corners() -> None:
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.75], [0.8, 0.0, 1.0, 0.1]])
    moved = moved_boxes(boxes, RIGHT[0])
    torch.testing.assert_close(moved, torch.tensor([[0.5, 0.25, 0.75, 0.75], [1.0, 0.0, 1.0, 0.1]]))
    # A quarter turn: as the pixels of a mask turn, so does the box around them.
    mask = torch.zeros(1, 8, 8, dtype=torch.int64)
    mask[0, 1:3, 2:7] = 1
    turned = moved_classes(mask, QUARTER, 0)[0].nonzero()
    box = moved_boxes(torch.tensor([2 / 8, 1 / 8, 7 / 8, 3 / 8]), QUARTER[0])
    top, left = (turned.amin(0) / 8).tolist()
    bottom, right = ((turned.amax(0) + 1) / 8).tolist()
    torch.testing.assert_close(box, torch.tensor([left, top, right, bottom]))

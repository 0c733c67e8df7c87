"""Movement of targets that lie in the plane of an image: what a training moves of the inputs, it moves of these too.

A movement is one affine map per image, from coordinates of the moved image to those of the image as it was. They span
-1 to 1 over height and width, whatever the numbers of pixels are: targets may be finer or coarser than inputs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def moved_classes(masks: Tensor, movement: Tensor | None, void: int) -> Tensor:
    """Masks of classes moved to the nearest pixel.

    Args:
        masks: (B, H, W), integers.
        movement: affine maps (B, 2, 3); None: nothing moves.
        void: what comes in from outside.
    """
    if movement is None:
        return masks
    given = (masks.float() - void)[:, None]  # (B, 1, H, W), 0 is void; as bytes, others would be beyond them
    moved = functional.grid_sample(given, _grid(given, movement), mode="nearest", align_corners=False)
    return (moved[:, 0] + void).to(masks.dtype)


def moved_values(values: Tensor, movement: Tensor | None, outside: float = 0.0) -> Tensor:
    """Dense values (B, C, H, W) moved bilinearly; what comes in from outside is ``outside``, which may be NaN."""
    if movement is None:
        return values
    grid = _grid(values, movement)
    if not math.isnan(outside):
        moved: Tensor = functional.grid_sample(values - outside, grid, align_corners=False) + outside
        return moved
    inside = functional.grid_sample(torch.ones_like(values[:, :1]), grid, align_corners=False)
    moved = functional.grid_sample(values, grid, align_corners=False, padding_mode="border")
    return torch.where(inside > 0.5, moved, torch.nan)


def moved_boxes(boxes: Tensor, movement: Tensor | None) -> Tensor:
    """Boxes around the moved corners of boxes, cut at the image's edges.

    Args:
        boxes: (..., 4) of one image: left, top, right and bottom as shares of its width and height, in [0, 1].
        movement: affine map (2, 3) of the image; None: nothing moves.

    Returns:
        Boxes (..., 4) in the same form. One that left the image has no width or no height.
    """
    if movement is None:
        return boxes
    turn, shift = movement[:, :2].to(boxes), movement[:, 2].to(boxes)
    left, top, right, bottom = (2 * boxes - 1).unbind(-1)
    corners = torch.stack([torch.stack([x, y], -1) for x in (left, right) for y in (top, bottom)], -2)  # (..., 4, 2)
    corners = (corners - shift) @ torch.linalg.inv(turn).T
    found = torch.cat([corners.amin(-2), corners.amax(-2)], -1)
    return ((found + 1) / 2).clamp(0, 1)


def _grid(images: Tensor, movement: Tensor) -> Tensor:
    """Coordinates (B, H, W, 2) that the pixels of moved images come from."""
    return functional.affine_grid(movement.to(images.device), list(images.shape), align_corners=False)

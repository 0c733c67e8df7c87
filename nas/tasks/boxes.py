"""Boxes in images: anchors, their offsets, intersection over union, non-maximum suppression.

Boxes are left, top, right and bottom, as shares of the image's width and height unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

VARIANCES = (0.1, 0.1, 0.2, 0.2)
"""Factors of offsets, so that the four are of like size: those of the published implementation of SSD."""
USUAL = 0.2, 0.9
"""Scales of the anchors of the first and the last map (SSD, arXiv:1512.02325, section 2.2)."""
TAILS = 0.05, 0.95
"""Shares of boxes that are smaller than small and than large ones."""


def scales(smallest: float, largest: float, maps: int) -> list[float]:
    """Scales of the anchors of each map, evenly from the smallest to the largest, and one beyond the last (Liu et al.,
    SSD, arXiv:1512.02325, equation 4)."""
    step = (largest - smallest) / max(maps - 1, 1)
    return [smallest + step * number for number in range(maps + 1)]


def extents(targets: NDArray[Any], size: tuple[int, int]) -> tuple[float, float]:
    """Scales of small and of large boxes: those that 5 % and 95 % of the boxes are below, where all classes count
    alike. A scale is the square root of the area, in pixels, as a share of the shorter side of the image.

    Args:
        targets: class, left, top, right and bottom as shares of the image, (..., 5); rows of class -1 are none.
        size: height and width of the images, in pixels.

    Returns:
        The two scales, to three digits; those of SSD where there is no box.
    """
    rows = targets.reshape(-1, 5)
    rows = rows[rows[:, 0] >= 0]
    if not len(rows):
        return USUAL
    (high, wide), (left, top, right, bottom) = size, rows[:, 1:].T.astype(np.float64)
    found = np.sqrt((right - left) * wide * (bottom - top) * high) / min(size)
    _, label, count = np.unique(rows[:, 0], return_inverse=True, return_counts=True)
    order = np.argsort(found)
    below = np.cumsum(1 / count[label[order]]) / len(count)  # share of the boxes up to each one
    low, high = found[order][np.searchsorted(below, TAILS).clip(max=len(found) - 1)]
    return round(float(low), 3), round(float(high), 3)


def anchors(
    grids: Sequence[tuple[int, int]], size: tuple[int, int], smallest: float, largest: float, ratios: Sequence[float]
) -> Tensor:
    """Anchors of all maps, (A, 4), as centre x, centre y, width and height: map by map, row by row, place by place.

    Those of a place have its centre, the map's scale and each of the ratios; one more is a square between this scale
    and the next one, of the geometric mean (Liu et al., SSD, arXiv:1512.02325, section 2.2).

    Args:
        grids: height and width of each map, finest first.
        size: height and width of the images as they are stored, in pixels, so that a ratio is one of pixels.
        smallest: scale of the first map's anchors, a share of the shorter side.
        largest: scale of the last map's.
        ratios: widths to heights.
    """
    steps, (high, wide) = scales(smallest, largest, len(grids)), size
    found = []
    for (rows, columns), scale, following in zip(grids, steps, steps[1:], strict=False):
        forms = [(scale * math.sqrt(ratio), scale / math.sqrt(ratio)) for ratio in ratios]
        forms.append((math.sqrt(scale * following),) * 2)
        shapes = torch.tensor(forms) * min(size) / torch.tensor([wide, high])  # (forms, 2)
        y, x = (torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns
        centres = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).reshape(-1, 1, 2)
        every = centres.expand(-1, len(forms), -1), shapes.expand(len(centres), -1, -1)
        found.append(torch.cat(every, -1).reshape(-1, 4))
    return torch.cat(found)


def corners(centred: Tensor) -> Tensor:
    """Left, top, right and bottom of boxes (..., 4) given as centre x, centre y, width and height."""
    centre, half = centred[..., :2], centred[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def encoded(boxes: Tensor, places: Tensor) -> Tensor:
    """Offsets of boxes (..., 4) from anchors (..., 4): differences of the centres by the anchors' extents, logarithms
    of the ratios of the extents, each divided by its variance (SSD, arXiv:1512.02325, equation 2)."""
    centre, extent = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-6)
    moved = (centre - places[..., :2]) / places[..., 2:]
    return torch.cat([moved, (extent / places[..., 2:]).log()], -1) / boxes.new_tensor(VARIANCES)


def decoded(offsets: Tensor, places: Tensor) -> Tensor:
    """Boxes of offsets from anchors: the inverse of `encoded`."""
    scaled = offsets * offsets.new_tensor(VARIANCES)
    centre = places[..., :2] + scaled[..., :2] * places[..., 2:]
    return corners(torch.cat([centre, places[..., 2:] * scaled[..., 2:].clamp(max=8).exp()], -1))


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of each of some boxes (..., M, 4) with each of others (..., N, 4): (..., M, N)."""
    one, other = first[..., :, None, :], second[..., None, :, :]
    shared = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(min=0)
    both = shared.prod(-1)
    whole = (one[..., 2:] - one[..., :2]).prod(-1) + (other[..., 2:] - other[..., :2]).prod(-1) - both
    return both / whole.clamp(min=1e-12)


def suppressed(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> NDArray[np.intp]:
    """Rows of the boxes that non-maximum suppression leaves, best score first: none overlaps a better one of its class
    by more than the threshold.

    Args:
        boxes: (N, 4).
        scores: (N,).
        classes: (N,).
        threshold: of the intersection over union.
    """
    order = scores.argsort(descending=True, stable=True)
    left = np.ones(len(order), bool)
    for label in np.unique(classes.cpu().numpy()).tolist():
        own = (classes[order] == label).nonzero()[:, 0]
        there = boxes[order[own]]
        covers = (overlaps(there, there) > threshold).cpu().numpy()  # (N of the class, N of the class)
        alone = np.ones(len(own), bool)
        for row in range(len(own)):
            if alone[row]:
                alone[row + 1 :] &= ~covers[row, row + 1 :]
        left[own.cpu().numpy()] = alone
    kept: NDArray[np.intp] = order.cpu().numpy()[left]
    return kept

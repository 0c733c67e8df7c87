import math

import numpy as np
import pytest
import torch

from nas.tasks.boxes import USUAL, anchors, corners, decoded, encoded, extents, overlaps, suppressed


def boxes_of(count: int, seed: int = 0) -> torch.Tensor:
    near = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed))
    return torch.cat([near[:, :2] * 0.6, near[:, :2] * 0.6 + 0.05 + 0.3 * near[:, 2:]], 1)


def test_anchors_of_two_maps_of_a_known_case() -> None:
    """Scales 0.2 and 0.6 of the shorter side, 100 pixels, and 1.0 behind them; squares and ones twice as wide."""
    found = anchors([(1, 2), (1, 1)], (100, 200), 0.2, 0.6, (1.0, 4.0))
    first = [[0.1, 0.2], [0.2, 0.1], [0.1 * 3**0.5, 0.2 * 3**0.5]]  # 20 x 20, 40 x 10 and sqrt(20 * 60) pixels
    second = [[0.3, 0.6], [0.6, 0.3], [0.5 * 0.6**0.5, 0.6**0.5]]
    wanted = [[0.25, 0.5, *form] for form in first] + [[0.75, 0.5, *form] for form in first]
    wanted += [[0.5, 0.5, *form] for form in second]
    torch.testing.assert_close(found, torch.tensor(wanted))


def test_anchors_go_row_by_row() -> None:
    places = anchors([(2, 3)], (10, 10), 0.5, 0.5, (1.0,))[::2, :2]
    x, y = (1 / 6, 3 / 6, 5 / 6), (1 / 4, 3 / 4)
    torch.testing.assert_close(places, torch.tensor([[a, b] for b in y for a in x]))


def test_extents_count_all_classes_alike() -> None:
    """A hundred boxes of 10 x 40 pixels, a fifth of the shorter side of the image, and one of 80 x 80."""
    common, rare = [0.0, 0.1, 0.1, 0.15, 0.5], [1.0, 0.1, 0.1, 0.5, 0.9]
    targets = np.array([[common, [-1.0] * 5]] * 100 + [[rare, [-1.0] * 5]], np.float32)
    assert extents(targets, (100, 200)) == (0.2, 0.8)
    targets[-1, 0, 0] = 0.0
    assert extents(targets, (100, 200)) == (0.2, 0.2)
    assert extents(targets[:, 1:], (100, 200)) == USUAL


def test_decoding_is_the_inverse_of_encoding() -> None:
    places = anchors([(4, 5)], (48, 64), 0.3, 0.3, (1.0, 2.0))[:40]
    boxes = boxes_of(40)
    torch.testing.assert_close(decoded(encoded(boxes, places), places), boxes)
    torch.testing.assert_close(encoded(corners(places), places), torch.zeros(40, 4), atol=1e-5, rtol=0)


def test_an_offset_by_hand() -> None:
    """A box whose centre is a tenth of the anchor's width to the right, and twice as high."""
    offset = encoded(torch.tensor([0.42, 0.3, 0.62, 0.7]), torch.tensor([0.5, 0.5, 0.2, 0.2]))
    torch.testing.assert_close(offset, torch.tensor([1.0, 0.0, 0.0, math.log(2) / 0.2]), atol=1e-5, rtol=0)


def test_overlaps_by_hand() -> None:
    one = torch.tensor([[0.0, 0.0, 0.4, 0.4]])
    others = torch.tensor([[0.0, 0.0, 0.4, 0.4], [0.2, 0.0, 0.6, 0.4], [0.5, 0.5, 0.6, 0.6], [0.1, 0.1, 0.1, 0.1]])
    torch.testing.assert_close(overlaps(one, others), torch.tensor([[1.0, 1 / 3, 0.0, 0.0]]))


@pytest.mark.parametrize("seed", range(5))
def test_suppression_leaves_what_one_after_the_other_leaves(seed: int) -> None:
    boxes, rng = boxes_of(60, seed), np.random.default_rng(seed)
    scores, classes = torch.from_numpy(rng.random(60)), torch.from_numpy(rng.integers(0, 3, 60))
    kept: list[int] = []
    for row in np.argsort(-scores.numpy()).tolist():
        a = boxes[row].tolist()
        for other in kept:
            b = boxes[other].tolist()
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            both = max(width, 0) * max(height, 0)
            whole = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
            if classes[row] == classes[other] and both / whole > 0.3:
                break
        else:
            kept.append(row)
    assert 5 < len(kept) < 60
    assert suppressed(boxes, scores, classes, 0.3).tolist() == kept


def test_no_box_is_left_of_none() -> None:
    assert len(suppressed(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), 0.5)) == 0

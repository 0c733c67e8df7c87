import contextlib
import dataclasses
import io
import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torch.nn import functional

from nas.tasks.boxes import corners, encoded
from nas.tasks.detection import THRESHOLDS, AveragePrecision, Detection, Found, _annotated
from nas.tasks.mixing import Mixing
from search_spaces.base.errors import InvalidValueError, MismatchError

TASK = Detection(2, (48, 64), smallest=0.3, largest=0.6)
GRIDS = ((6, 8), (3, 4))
PLACES = TASK._places(GRIDS)


def outputs_of(targets: Tensor, sure: float = 12.0) -> dict[str, Tensor]:
    """Outputs that say the targets: of each matched anchor its box and, by so much, its class."""
    label, boxes = TASK.matched(PLACES, targets)
    scores = sure * functional.one_hot(label, 3).float()
    offsets = encoded(boxes, PLACES) * (label > 0)[..., None]
    found, start = {}, 0
    for number, (rows, columns) in enumerate(GRIDS, 1):
        stop = start + rows * columns * TASK.per_place
        for name, values in (("scores", scores), ("boxes", offsets)):
            part = values[:, start:stop].reshape(len(values), rows, columns, -1)
            found[f"{name}{number}"] = part.permute(0, 3, 1, 2)
        start = stop
    return found


def targets_of(seed: int = 0, images: int = 6) -> Tensor:
    """One to three boxes per image, apart from each other, none of which fills up."""
    rng = np.random.default_rng(seed)
    targets = np.full((images, 3, 5), -1.0)
    for rows in targets:
        for number in range(int(rng.integers(1, 4))):
            left, top = 0.05 + 0.32 * number, rng.uniform(0.05, 0.4)
            rows[number] = [rng.integers(0, 2), left, top, left + rng.uniform(0.2, 0.3), top + rng.uniform(0.3, 0.5)]
    return torch.from_numpy(targets).float()


def of(found: list[Found], wanted: list[Found], task: Detection = TASK) -> AveragePrecision:
    score = AveragePrecision(task)
    score._found, score._wanted = found, wanted
    return score


def boxes(*rows: tuple[float, ...]) -> Found:
    """Found boxes of rows of left, top, right, bottom, score and class."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Found(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


LEFT, RIGHT, BELOW = (0.0, 0.0, 0.25, 0.5), (0.5, 0.0, 0.75, 0.5), (0.5, 0.5, 1.0, 1.0)


def test_perfect_outputs_have_a_precision_of_1_and_none_has_0() -> None:
    score, targets = TASK.score(), targets_of()
    score.add(outputs_of(targets), targets)
    assert score.value() == 1.0
    np.testing.assert_allclose(score.table(), 1.0)
    assert score.error() == 0.0
    nothing, empty = outputs_of(torch.full_like(targets, -1.0)), TASK.score()
    empty.add(nothing, targets)
    assert empty.value() == 0.0


def test_the_score_is_the_same_over_several_batches() -> None:
    targets = targets_of()
    whole, parts = TASK.score(), TASK.score()
    generator = torch.Generator().manual_seed(0)
    found = {
        name: one + 3 * torch.randn(one.shape, generator=generator) for name, one in outputs_of(targets, 3).items()
    }
    whole.add(found, targets)
    for rows in (slice(0, 2), slice(2, 6)):
        parts.add({name: one[rows] for name, one in found.items()}, targets[rows])
        parts.value()
    assert parts.value() == whole.value() and 0 < whole.value() < 1


def test_average_precision_by_hand() -> None:
    """Of two boxes the best and the third detection are right: precision 1 up to recall 1/2 (51 of the 101 recalls),
    then 2/3."""
    found = [boxes((*LEFT, 0.9, 0), (*BELOW, 0.8, 0), (*RIGHT, 0.7, 0))]
    score = of(found, [boxes((*LEFT, 1, 0), (*RIGHT, 1, 0))])
    assert score.value() == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert math.isnan(score.table()[0, 1])  # no target is of class 1


def test_a_second_detection_of_one_box_is_wrong() -> None:
    found = [boxes((*LEFT, 0.9, 0), (*LEFT, 0.8, 0), (*RIGHT, 0.7, 0))]
    score = of(found, [boxes((*LEFT, 1, 0), (*RIGHT, 1, 0))])
    assert score.value() == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_overlap_counts_from_the_threshold() -> None:
    """A box of 0.7 of the width overlaps by 0.7: right at 0.5 to 0.7, wrong above."""
    found, wanted = [boxes((0.0, 0.0, 0.7, 0.5, 0.9, 0))], [boxes((0.0, 0.0, 1.0, 0.5, 1, 0))]
    table = of(found, wanted).table()[:, 0]
    assert table[THRESHOLDS < 0.69].tolist() == [1.0] * 4 and table[THRESHOLDS > 0.71].tolist() == [0.0] * 5
    task = Detection(2, (48, 64), judged_by="mean_average_precision")
    assert of(found, wanted, task).value() == pytest.approx(table.mean())
    assert task.metric.name == "mean_average_precision" and TASK.metric.name == "ap50"


@pytest.mark.parametrize("seed", range(3))
def test_precisions_are_those_of_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found, wanted = [], []
    for _ in range(8):
        rows = [(*LEFT, 1, 0), (*RIGHT, 1, 1), (*BELOW, 1, int(rng.integers(0, 2)))][: int(rng.integers(0, 4))]
        wanted.append(boxes(*rows))
        near = [(*(np.array(r[:4]) + rng.normal(0, 0.02, 4)), rng.random(), int(rng.integers(0, 2))) for r in rows * 2]
        found.append(boxes(*near))
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(_annotated(COCO(), wanted, 2, (48, 64)), _annotated(COCO(), found, 2, (48, 64)), "bbox")
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][:, :, :, 0, 2]  # all areas, at most 100 detections: (10, 101, 2)
    np.testing.assert_allclose(of(found, wanted).table(), precision.mean(1), atol=1e-12)
    assert of(found, wanted).error() > 0


def test_ap50_looks_at_its_threshold_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[float]] = []
    evaluate = COCOeval.evaluate

    def spied(judge: COCOeval) -> None:
        asked.append(list(judge.params.iouThrs))
        evaluate(judge)

    monkeypatch.setattr(COCOeval, "evaluate", spied)
    wanted = [boxes((0.1, 0.1, 0.5, 0.5, 1, 0), (0.5, 0.5, 0.9, 0.9, 1, 1))]
    found = [boxes((0.1, 0.1, 0.5, 0.41, 0.9, 0), (0.5, 0.5, 0.9, 0.9, 0.8, 1), (0.0, 0.0, 0.1, 0.1, 0.95, 1))]
    score, strict = of(found, wanted), of(found, wanted, dataclasses.replace(TASK, judged_by="mean_average_precision"))
    assert score.value() == score.table()[0].mean() == pytest.approx(0.75)
    assert strict.value() == score.table().mean() == pytest.approx((0.6 + 0.5) / 2)  # an overlap of 0.775
    assert [len(thresholds) for thresholds in asked] == [1, 10, 10, 10]


def test_each_box_has_an_anchor_and_padding_has_none() -> None:
    targets = targets_of()
    label, chosen = TASK.matched(PLACES, targets)
    for image, rows in enumerate(targets):
        for row in rows:
            given = (chosen[image] == row[1:]).all(1) & (label[image] == row[0] + 1)
            assert given.any() == (row[0] >= 0)
    assert not TASK.matched(PLACES, torch.full((2, 3, 5), -1.0))[0].any()
    assert not TASK.matched(PLACES, torch.zeros(2, 0, 5))[0].any()


def test_an_anchor_takes_the_box_that_it_overlaps_by_more_than_half() -> None:
    anchor = corners(PLACES)[100]
    label, _ = TASK.matched(PLACES, torch.tensor([[[1.0, *anchor.tolist()]]]))
    from nas.tasks.boxes import overlaps

    over = overlaps(corners(PLACES), anchor[None])[:, 0] > 0.5
    assert (label[0] == 2).tolist() == over.tolist() and label[0, 100] == 2


def test_the_loss_by_hand() -> None:
    """One matched anchor: its cross-entropy, that of the three hardest others, and its smooth L1 loss."""
    box = torch.tensor([[[0.0, 0.0, 0.0, 0.02, 0.03]]])  # overlaps no anchor by half, so its best one alone has it
    label, chosen = TASK.matched(PLACES, box)
    (place,) = label[0].nonzero().flatten().tolist()
    outputs = outputs_of(torch.full((1, 1, 5), -1.0), 0.0)
    outputs["scores2"][0, 1, 0, 0] = 2.0  # an anchor, of class 0, that is surest that there is something
    log3, hard = math.log(3), math.log(2 + math.exp(2.0))
    apart = functional.smooth_l1_loss(torch.zeros(4), encoded(chosen[0, place], PLACES[place]), reduction="sum")
    assert float(TASK.loss(outputs, box)) == pytest.approx(log3 + hard + 2 * log3 + float(apart), rel=1e-5)


def test_the_loss_falls_where_outputs_say_the_targets() -> None:
    targets = targets_of()
    blank = outputs_of(torch.full_like(targets, -1.0), 0.0)
    assert float(TASK.loss(outputs_of(targets), targets)) < 1e-3 < float(TASK.loss(blank, targets))
    empty = torch.full_like(targets, -1.0)
    assert float(TASK.loss(outputs_of(empty), empty)) < 0.01
    assert float(TASK.loss(blank, torch.zeros(6, 0, 5))) > 0


def test_imitation_is_least_for_what_the_teacher_says_at_any_resolution() -> None:
    teacher = outputs_of(targets_of(), 8.0)
    blank = {name: torch.zeros_like(one) for name, one in teacher.items()}
    assert float(TASK.imitation(teacher, teacher)) < 0.05 < float(TASK.imitation(blank, teacher))
    finer = {name: functional.interpolate(one, scale_factor=2) for name, one in teacher.items()}
    smooth = {name: torch.ones_like(one) for name, one in teacher.items()}
    wide = {name: torch.ones_like(one) for name, one in finer.items()}
    torch.testing.assert_close(TASK.imitation(smooth, wide), TASK.imitation(smooth, smooth))


def test_imitation_unlearns_an_object_that_the_teacher_does_not_see() -> None:
    """A false object costs much more than the 0.01 that other places of the background count."""
    nothing = outputs_of(torch.full((1, 1, 5), -1.0))
    false = {name: one.clone() for name, one in nothing.items()}
    false["scores1"][0, 1, 2, 3] = 24.0
    assert float(TASK.imitation(false, nothing)) > 2.0 > 0.01 > float(TASK.imitation(nothing, nothing))


def test_candidates_of_a_class_do_not_crowd_out_those_of_another() -> None:
    """All 1,536 anchors but one see the same box of class 0, and are surer of it than the last one is of its own."""
    task = Detection(2, (48, 64), smallest=0.05, largest=0.05, ratios=(1.0,))
    places, here = task._places([(24, 32)]), (5 * 32 + 7) * 2
    there, logits = torch.tensor([[0.1, 0.1, 0.5, 0.5]]).repeat(len(places), 1), torch.zeros(len(places), 3)
    logits[:, 1] = 8.0
    there[here], logits[here] = torch.tensor([0.6, 0.6, 0.9, 0.9]), torch.tensor([0.0, 0.0, 2.0])
    outputs = {
        name: values.reshape(1, 24, 32, -1).permute(0, 3, 1, 2)
        for name, values in (("scores1", logits), ("boxes1", encoded(there, places)))
    }
    (found,) = task.detections(outputs)
    sure = found.scores > 0.5
    assert found.classes[sure].tolist() == [0, 1]
    np.testing.assert_allclose(found.boxes[sure], [[0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]], atol=1e-5)


def test_boxes_move_with_their_images() -> None:
    """A shift by a quarter of the image to the left; a box whose centre leaves it is gone, padding stays padding."""
    targets = torch.tensor([[[1.0, 0.5, 0.2, 0.9, 0.6], [0.0, 0.0, 0.0, 0.3, 1.0], [-1.0, -1.0, -1.0, -1.0, -1.0]]])
    moved = TASK.move(targets, torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]]))
    torch.testing.assert_close(moved[0, 0], torch.tensor([1.0, 0.25, 0.2, 0.65, 0.6]))
    assert moved[0, 1:, 0].tolist() == [-1.0, -1.0]


def test_boxes_are_mixed_as_their_images_are() -> None:
    """The right half of the other image: its box is cut there, and the own box there is gone."""
    own = torch.tensor([[[0.0, 0.0, 0.0, 0.4, 0.4], [1.0, 0.6, 0.5, 0.9, 0.9]]])
    other = torch.tensor([[[1.0, 0.4, 0.1, 0.8, 0.5], [0.0, 0.0, 0.0, 0.3, 0.3]]])
    half, partner = torch.tensor([[0.5, 0.0, 1.0, 1.0]]), torch.tensor([0])
    mixed = TASK.mix(own, other, Mixing(partner, half, torch.ones(1), False))
    assert mixed[0, :, 0].tolist() == [0.0, -1.0, 1.0, -1.0]
    torch.testing.assert_close(mixed[0, 2, 1:], torch.tensor([0.5, 0.1, 0.8, 0.5]))
    kept = TASK.mix(own, other, Mixing(partner, half, torch.zeros(1), False))
    assert kept[0, :, 0].tolist() == [0.0, 1.0, -1.0, -1.0]
    with pytest.raises(InvalidValueError, match="Leave Mixup out"):
        TASK.mix(own, other, Mixing(partner, half, torch.ones(1), True))


def test_moved_boxes_hold_the_moved_pixels() -> None:
    from nas.supernet.augmentation.base import move

    image, targets = torch.zeros(1, 1, 48, 64), torch.tensor([[[0.0, 0.25, 0.25, 0.75, 0.5]]])
    image[..., 12:24, 16:48] = 1.0
    turn = torch.tensor([[[0.98, -0.13, 0.1], [0.23, 0.98, -0.1]]])
    shown = (move(image, turn, torch.zeros(1, 1, 1, 1))[0, 0] > 0.5).nonzero()
    pixels = TASK.move(targets, turn)[0, 0, 1:] * torch.tensor([64.0, 48.0, 64.0, 48.0])
    seen = torch.cat([shown.amin(0).flip(0), shown.amax(0).flip(0) + 1]).float()
    assert (pixels - seen).abs().max() < 2


def test_what_an_exported_network_says_of_itself_decodes_its_outputs() -> None:
    """By the written steps alone, one box comes out of the outputs."""
    target = torch.tensor([[[1.0, 0.3, 0.2, 0.55, 0.6]]])
    outputs = outputs_of(target)
    how = TASK.output({name: tuple(one.shape) for name, one in outputs.items()})
    assert [one["name"] for one in how["outputs"]] == ["scores1", "boxes1", "scores2", "boxes2"]
    assert how["scales"] == pytest.approx([0.3, 0.6, 0.9]) and how["decoding"]
    best: tuple[float, list[float], int] = (0.0, [], 0)
    for m in (1, 2):
        scores, offsets = outputs[f"scores{m}"][0].numpy(), outputs[f"boxes{m}"][0].numpy()
        _, rows, columns = scores.shape
        for k, (width, height) in enumerate(how["anchors"][f"map{m}"]):
            for row in range(rows):
                for column in range(columns):
                    logits = np.exp(scores[k * 3 : k * 3 + 3, row, column])
                    probability, label = max((logits[1:] / logits.sum()).tolist()), int(logits[1:].argmax())
                    dx, dy, dw, dh = offsets[k * 4 : k * 4 + 4, row, column].tolist()
                    x = (column + 0.5) / columns + 0.1 * width * dx
                    y = (row + 0.5) / rows + 0.1 * height * dy
                    w, h = width * math.exp(0.2 * dw), height * math.exp(0.2 * dh)
                    best = max(best, (probability, [x - w / 2, y - h / 2, x + w / 2, y + h / 2], label))
    assert best[2] == 1
    np.testing.assert_allclose(best[1], target[0, 0, 1:].numpy(), atol=1e-5)
    found = TASK.detections(outputs)[0]
    np.testing.assert_allclose(found.boxes[0], target[0, 0, 1:].numpy(), atol=1e-5)
    assert found.classes[0] == 1 and len(found.boxes) == 1


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"logits": (10,)}, "Choose a space whose networks detect"),
        ({"scores1": (8, 2, 2), "boxes1": (16, 2, 2)}, "which takes 12. Set `space.classes`"),
    ],
)
def test_networks_that_do_not_detect_are_refused(outputs: dict[str, Any], message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        TASK.check("Networks", outputs, "mine")
    TASK.check("Networks", {"scores1": (12, 2, 2), "boxes1": (16, 2, 2)}, "mine")


def test_missing_pycocotools_is_said_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(InvalidValueError, match=r"pip install hwnas\[detection\]"):
        TASK.check("Networks", {"scores1": (12, 2, 2), "boxes1": (16, 2, 2)}, "mine")


@pytest.mark.parametrize(
    "settings", [{"smallest": 0.0}, {"largest": 0.1}, {"ratios": ()}, {"judged_by": "recall"}, {"names": ("a",)}]
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        Detection(2, (48, 64), **settings)


def test_notes_name_classes_that_a_part_lacks() -> None:
    class Part:
        def __init__(self, *labels: float) -> None:
            self.labels = torch.tensor([[[label, 0.0, 0.0, 1.0, 1.0]] for label in labels])

    assert TASK.notes("mine", {"train": Part(0.0), "validation": Part(1.0), "test": Part(0.0, -1.0)}, {}) == [
        "validation of 'mine' has boxes of 1 of 2 classes that train lacks: no network can learn them",
        "validation of 'mine' has no boxes of 1 of 2 classes that train has: its AP50 leaves them out",
    ]
    with pytest.raises(InvalidValueError, match="nothing to learn"):
        TASK.notes("mine", {"train": Part(-1.0), "validation": Part(1.0), "test": Part(0.0)}, {})
    with pytest.raises(
        InvalidValueError, match="test of 'mine' has no boxes of any class, so no network can be judged"
    ):
        TASK.notes("mine", {"train": Part(0.0), "validation": Part(0.0), "test": Part(-1.0)}, {})


def test_notes_name_classes_whose_boxes_are_unlike_the_anchors() -> None:
    """Boxes of class 1 have half the extent of the smallest anchor: a quarter of its area."""

    class Part:
        labels = torch.tensor([[[0.0, 0.1, 0.1, 0.325, 0.4], [1.0, 0.1, 0.1, 0.2125, 0.25]]])

    outputs = {f"boxes{number}": (16, *grid) for number, grid in enumerate(GRIDS, 1)}
    parts = {name: Part() for name in ("train", "validation", "test")}
    (note,) = TASK.notes("mine", parts, outputs)
    assert note.startswith("100% of the training boxes of class 1 in 'mine' overlap no anchor by half")

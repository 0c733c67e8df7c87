"""Object detection: boxes with a class each, by anchors over several maps.

Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, arXiv:1512.02325.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nas.tasks.boxes import anchors, corners, decoded, encoded, overlaps, scales, suppressed
from nas.tasks.classification import check_classes, class_notes
from nas.tasks.mixing import Mixing
from nas.tasks.movement import moved_boxes
from nas.tasks.resampling import bootstrap_error
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.metric import TASK_METRICS, TaskMetric
from search_spaces.program import Shape

MATCHED = 0.5
"""Intersection over union from which an anchor is matched to a box (SSD, section 2.2)."""
NEGATIVES = 3
"""Anchors without a box that count in the loss, per matched one: those of the highest loss (SSD, section 2.2)."""
LOOKED_AT = 512
"""Training boxes of a class that are compared with the anchors before a training."""
LEAST_SCORE, SUPPRESSED, CANDIDATES, KEPT = 0.01, 0.45, 400, 100
"""Probability that a box has at least, overlap from which a better box of its class suppresses it, boxes of a class
that are compared and boxes that are left per image (SSD, section 3.1, but for their number, which is COCO's)."""
THRESHOLDS = np.asarray(np.arange(10) * 0.05 + 0.5, np.float64)
"""Overlaps at which a box counts as found: those of COCO, https://cocodataset.org/#detection-eval."""
RECALLS = np.linspace(0, 1, 101)
"""Shares of the boxes at which COCO reads the precision."""


class Found(NamedTuple):
    """Boxes of an image: (N, 4), their scores (N,) and classes (N,)."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    classes: NDArray[np.int64]


class _Matched(NamedTuple):
    """Detections of a class over all images: scores (D,), images (D,), whether each is right (thresholds, D), and the
    number of boxes that there are per image, (images,)."""

    scores: NDArray[np.float64]
    images: NDArray[np.int64]
    right: NDArray[np.bool_]
    wanted: NDArray[np.int64]


class AveragePrecision:
    """Average precision of detections, by class and overlap, as COCO has it.

    Detections are matched to boxes by pycocotools. Precision, made to fall with recall, is read at 101 recalls. Classes
    that no target has do not count.

    Args:
        task: decodes outputs.
    """

    def __init__(self, task: Detection) -> None:
        self._task = task
        self._found: list[Found] = []
        self._wanted: list[Found] = []

    def add(self, outputs: Mapping[str, Tensor], targets: Tensor) -> None:
        self._found += self._task.detections(outputs)
        for rows in targets.double().cpu().numpy():
            there = rows[rows[:, 0] >= 0]
            self._wanted.append(Found(there[:, 1:], np.ones(len(there)), there[:, 0].astype(np.int64)))
        vars(self).pop("_matches", None)

    def value(self) -> float:
        return self._of(np.ones(len(self._found), np.int64))

    def error(self) -> float | None:
        """Standard error, by the bootstrap over images."""
        return bootstrap_error(self._of, len(self._found))

    def table(self) -> NDArray[np.float64]:
        """Average precision at each of ``THRESHOLDS`` and of each class, (thresholds, classes); NaN of classes that no
        target has."""
        return _table(self._matched(THRESHOLDS), np.ones(len(self._found), np.int64))

    def _of(self, counts: NDArray[np.int64]) -> float:
        table = _table(self._matches, counts)
        return float(np.nanmean(table)) if not np.isnan(table).all() else 0.0

    @functools.cached_property
    def _matches(self) -> list[_Matched]:
        """Matches of each class at the thresholds that the metric looks at."""
        return self._matched(THRESHOLDS[:1] if self._task.judged_by == "ap50" else THRESHOLDS)

    def _matched(self, thresholds: NDArray[np.float64]) -> list[_Matched]:
        return matches(self._found, self._wanted, self._task.classes, self._task.size, thresholds)


def _table(found: Sequence[_Matched], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average precision at each threshold and of each class, (thresholds, classes), see `_precisions`."""
    return np.stack([_precisions(matched, counts) for matched in found], 1)


def _precisions(matched: _Matched, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average precision at each threshold, where each image counts so many times; NaN: there are no boxes."""
    total = int(matched.wanted @ counts)
    if not total:
        return np.full(len(matched.right), np.nan)
    order = np.argsort(-matched.scores, kind="stable")
    weight = counts[matched.images[order]]
    right = np.cumsum(matched.right[:, order] * weight, 1)  # (thresholds, D)
    seen = np.maximum(np.cumsum(weight), 1)
    precision = np.maximum.accumulate((right / seen)[:, ::-1], 1)[:, ::-1]
    padded = np.concatenate([precision, np.zeros((len(precision), 1))], 1)
    return np.array([row[np.searchsorted(r / total, RECALLS)].mean() for row, r in zip(padded, right, strict=True)])


def matches(
    found: Sequence[Found],
    wanted: Sequence[Found],
    classes: int,
    size: tuple[int, int],
    thresholds: NDArray[np.float64] = THRESHOLDS,
) -> list[_Matched]:
    """Matches of each class by pycocotools: a box is given to the best detection that overlaps it enough.

    Args:
        found: detections of each image.
        wanted: boxes of each image.
        classes: how many there are.
        size: height and width of images, in pixels.
        thresholds: overlaps at which boxes count as found; each is gone through by itself.

    Raises:
        InvalidValueError: pycocotools is not installed.
    """
    COCO, COCOeval = _pycocotools()
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(_annotated(COCO(), wanted, classes, size), _annotated(COCO(), found, classes, size), "bbox")
        judge.params.iouThrs, judge.params.maxDets = thresholds, [KEPT]
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.evaluate()
    results = []
    for label in range(classes):
        images = judge.evalImgs[label * len(found) : (label + 1) * len(found)]
        counts = [0 if image is None else len(image["dtScores"]) for image in images]
        there = [image for image in images if image is not None]
        results.append(
            _Matched(
                np.array([score for image in there for score in image["dtScores"]]),
                np.repeat(np.arange(len(images)), counts),
                np.concatenate([np.zeros((len(thresholds), 0), bool), *(i["dtMatches"] > 0 for i in there)], 1),
                np.array([(one.classes == label).sum() for one in wanted], np.int64),
            )
        )
    return results


def _pycocotools() -> tuple[Any, Any]:
    """Index and evaluation of pycocotools.

    Raises:
        InvalidValueError: it is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise InvalidValueError(
            "Detections are judged by pycocotools, which is not installed: `pip install hwnas[detection]`."
        ) from error
    return COCO, COCOeval


def _annotated(index: Any, boxes: Sequence[Found], classes: int, size: tuple[int, int]) -> Any:
    """An index of pycocotools of some boxes, in pixels."""
    annotations: list[dict[str, Any]] = []
    pixels = np.array([size[1], size[0]] * 2)
    for image, one in enumerate(boxes):
        for box, score, label in zip(one.boxes * pixels, one.scores, one.classes, strict=True):
            left, top, right, bottom = box.tolist()
            rectangle = [left, top, right - left, bottom - top]
            number = len(annotations) + 1  # 0 stands for no match
            about = {"id": number, "image_id": image, "category_id": int(label), "iscrowd": 0, "score": float(score)}
            annotations.append({**about, "bbox": rectangle, "area": rectangle[2] * rectangle[3]})
    index.dataset = {
        "images": [{"id": image} for image in range(len(boxes))],
        "categories": [{"id": label} for label in range(classes)],
        "annotations": annotations,
    }
    index.createIndex()
    return index


@dataclass(frozen=True)
class Detection:
    """Detection of objects by anchors over maps, see `search_spaces.heads.SSDLite`.

    Outputs are maps by name: ``scores1`` (B, anchors * (classes + 1), h, w), logits in which class 0 is the background,
    and ``boxes1`` (B, anchors * 4, h, w), offsets from the anchors; ``scores2`` and so on of coarser maps. Targets are
    (B, M, 5): class, left, top, right and bottom as shares of the image's width and height. Rows of class -1 are none:
    they fill up where an image has fewer boxes than another.

    Args:
        classes: of objects; labels are 0 to classes - 1.
        size: height and width of the images as they are stored.
        names: of the classes, in their order; empty: they have none.
        smallest: scale of the first map's anchors, a share of the images' shorter side.
        largest: scale of the last map's.
        ratios: widths to heights of anchors; there is one more anchor, a square.
        judged_by: ap50, average precision where an overlap of 0.5 counts, or mean_average_precision: the mean of those
            at overlaps of 0.5 to 0.95, as COCO has it.
    """

    classes: int
    size: tuple[int, int]
    names: tuple[str, ...] = ()
    smallest: float = 0.2
    largest: float = 0.9
    ratios: tuple[float, ...] = (1.0, 2.0, 0.5)
    judged_by: Literal["ap50", "mean_average_precision"] = "ap50"

    def __post_init__(self) -> None:
        check_classes(self.classes, self.names, ())
        if not 0 < self.smallest <= self.largest or not self.ratios or min(self.ratios) <= 0:
            raise InvalidValueError(
                "Scales of anchors rise from `smallest` > 0 to `largest`, and `ratios` are positive, but got "
                f"smallest={self.smallest}, largest={self.largest} and ratios={list(self.ratios)}."
            )
        if self.judged_by not in ("ap50", "mean_average_precision"):
            raise InvalidValueError(f"`judged_by` must be ap50 or mean_average_precision, but got {self.judged_by!r}.")

    @property
    def metric(self) -> TaskMetric:
        return TASK_METRICS[self.judged_by]

    @property
    def identity(self) -> str:
        return f"detection {self}"

    @property
    def title(self) -> str:
        return f"{self.classes} classes of objects in boxes"

    @property
    def per_place(self) -> int:
        """Anchors per place of a map."""
        return len(self.ratios) + 1

    def check(self, networks: str, outputs: Mapping[str, Shape], data: str) -> None:
        _pycocotools()  # missed before anything is trained
        channels = {"scores": self.per_place * (self.classes + 1), "boxes": self.per_place * 4}
        parsed = [re.fullmatch(r"(scores|boxes)([1-9]\d*)", name) for name in outputs]
        shapes = list(outputs.values())
        if not all(parsed) or len(outputs) % 2 or any(len(shape) != 3 for shape in shapes):
            given = ", ".join(f"{name} of shape {shape}" for name, shape in outputs.items())
            raise MismatchError(
                f"{networks} give {given}, but data {data!r} is of objects in boxes: nothing can be trained on it. "
                "Choose a space whose networks detect, such as `space=mobilenet_v3_ssdlite`."
            )
        for name, (given_channels, *_) in outputs.items():
            wanted = channels[name.rstrip("0123456789")]
            if given_channels != wanted:
                raise MismatchError(
                    f"{networks} give {given_channels} channels of {name}, but data {data!r} has {self.classes} "
                    f"classes and {self.per_place} anchors per place, which takes {wanted}. Set `space.classes` and "
                    "`space.head.anchors` to these numbers."
                )

    def notes(self, data: str, parts: Mapping[str, Any], outputs: Mapping[str, Shape]) -> list[str]:
        """Notes on classes that no box of a part is of, see `class_notes`, and on boxes that are unlike the anchors."""
        if not all(hasattr(part, "labels") for part in parts.values()):  # of a user's own, which is not looked through
            return []
        labels = {name: np.asarray(part.labels)[..., 0].astype(np.int64) for name, part in parts.items()}
        counts = {name: np.bincount(one[one >= 0], minlength=self.classes) for name, one in labels.items()}
        noted = class_notes(data, counts, "boxes", self.metric)
        return noted + self._unlike_anchors(data, np.asarray(parts["train"].labels), outputs)

    def _unlike_anchors(self, data: str, targets: NDArray[Any], outputs: Mapping[str, Shape]) -> list[str]:
        """Notes on classes most of whose training boxes no anchor overlaps enough to be matched."""
        if not outputs:
            return []
        grids = [(shape[-2], shape[-1]) for name, shape in outputs.items() if name.startswith("boxes")]
        places, rows, notes = corners(self._places(grids)), targets.reshape(-1, 5), list[str]()
        for label in range(self.classes):
            boxes = torch.from_numpy(rows[rows[:, 0] == label][:LOOKED_AT, 1:])
            alone = float((overlaps(boxes, places).amax(1) <= MATCHED).float().mean()) if len(boxes) else 0.0
            if alone > 0.5:
                name = repr(self.names[label]) if self.names else f"class {label}"
                notes.append(
                    f"{alone:.0%} of the training boxes of {name} in {data!r} overlap no anchor by half, so that each "
                    "teaches one anchor alone: set `data.smallest` and `data.largest` to the scales of your boxes, or "
                    "`data.ratios` to their shapes"
                )
        return notes

    def move(self, targets: Tensor, movement: Tensor) -> Tensor:
        """Boxes around the moved boxes; those whose centre left the image are gone (SSD, section 2.2)."""
        moved: Tensor = torch.vmap(moved_boxes)(targets[..., 1:], movement.to(targets))
        centre = (targets[..., 1:3] + targets[..., 3:5]) / 2
        centre = torch.vmap(moved_boxes)(torch.cat([centre, centre], -1), movement.to(targets))[..., :2]
        inside = ((centre > 0) & (centre < 1)).all(-1) & (moved[..., 2:] > moved[..., :2]).all(-1)
        label = torch.where(inside, targets[..., 0], -1.0)
        return torch.cat([label[..., None], moved], -1)

    def mix(self, targets: Tensor, others: Tensor, mixing: Mixing) -> Tensor:
        """Boxes of both, (B, 2 M, 5): the others' that are centred where theirs was pasted, cut at its edges, and those
        that are not centred there.

        Raises:
            InvalidValueError: images are blended.
        """
        if mixing.blends:
            raise InvalidValueError(
                "Boxes of two blended images are each half there, which they cannot say. Leave Mixup out of "
                "`training.augment`; CutMix pastes a box."
            )
        area = mixing.box[:, None].to(targets)  # (B, 1, 4)
        pasted = (mixing.strength > 0.5)[:, None].to(targets.device)

        def covered(boxes: Tensor) -> Tensor:
            centre = (boxes[..., 1:3] + boxes[..., 3:]) / 2
            return pasted & ((centre > area[..., :2]) & (centre < area[..., 2:])).all(-1)

        own = torch.where(covered(targets), -1.0, targets[..., 0])
        new = torch.where(covered(others), others[..., 0], -1.0)
        inside = torch.minimum(torch.maximum(others[..., 1:], area[..., [0, 1, 0, 1]]), area[..., [2, 3, 2, 3]])
        boxes = torch.cat([targets[..., 1:], inside], 1)
        return torch.cat([torch.cat([own, new], 1)[..., None], boxes], -1)

    def loss(self, outputs: Mapping[str, Tensor], targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of the matched anchors and of the hardest others, and smooth L1 loss of the matched ones'
        offsets, both by the number of the matched ones in the batch (SSD, equation 1)."""
        scores, offsets, places = self._joined(outputs)
        with torch.no_grad():
            label, boxes = self.matched(places, targets)
        positive = label > 0
        each = functional.cross_entropy(scores.transpose(1, 2), label, reduction="none", label_smoothing=smoothing)
        count = positive.sum().clamp(min=1)
        with torch.no_grad():
            hardness = each.masked_fill(positive, -torch.inf)
            rank = hardness.argsort(1, descending=True).argsort(1)
            hard = rank < (NEGATIVES * positive.sum(1, keepdim=True)).clamp(min=1)
            counted = positive | (hard & ~positive)
        wanted = encoded(boxes, places)
        apart = functional.smooth_l1_loss(offsets, wanted, reduction="none").sum(-1)
        return ((each * counted).sum() + (apart * positive).sum()) / count

    def imitation(self, outputs: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
        """Cross-entropy with the teacher's probabilities, and smooth L1 loss of the offsets. Both count for an anchor
        by the probability of an object that the teacher sees there; the classes also by that which the network sees, so
        that false objects are unlearnt, and by 0.01 at least. The teacher's maps are brought to the size of the
        network's."""
        given = {
            name: one
            if one.shape == outputs[name].shape
            else functional.interpolate(one, outputs[name].shape[-2:], mode="bilinear", align_corners=False)
            for name, one in teacher.items()
        }
        scores, offsets, _ = self._joined(outputs)
        their_scores, their_offsets, _ = self._joined(given)
        seen = their_scores.softmax(-1)
        objects = 1 - seen[..., 0]
        imagined = 1 - scores.detach().softmax(-1)[..., 0]
        weight = torch.maximum(objects, imagined).clamp(min=0.01)  # places without an object are many, and count little
        entropy = -(seen * scores.log_softmax(-1)).sum(-1)
        apart = functional.smooth_l1_loss(offsets, their_offsets, reduction="none").sum(-1)
        return (entropy * weight).sum() / weight.sum() + (apart * objects).sum() / objects.sum().clamp(min=1)

    def score(self) -> AveragePrecision:
        return AveragePrecision(self)

    def output(self, shapes: Mapping[str, Shape]) -> Mapping[str, Any]:
        maps = len(shapes) // 2
        steps = [
            "anchor k of a place stands in channels k * (classes + 1) ... of scores and k * 4 ... of boxes",
            "its centre is that of the place, (column + 0.5) / w and (row + 0.5) / h, as shares of width and height",
            "its width and height are those of `anchors`, per map, as such shares",
            "x = centre x + 0.1 * width * box[0], y = centre y + 0.1 * height * box[1]",
            "width * exp(0.2 * box[2]) and height * exp(0.2 * box[3]) are the extents around (x, y), cut at the edges",
            "softmax over the classes of an anchor, of which the first is the background",
            f"per image and class the {CANDIDATES} best of a probability above {LEAST_SCORE:g}; of those that "
            f"overlap by more than {SUPPRESSED:g}, intersection over union, the best alone; of all that are left the "
            f"{KEPT} best",
        ]
        places = self._places([(1, 1)] * maps)[:, 2:].reshape(maps, self.per_place, 2)
        return {
            "outputs": [{"name": name, "shape": list(shape)} for name, shape in shapes.items()],
            "decoding": steps,
            "anchors": {f"map{m}": forms.tolist() for m, forms in enumerate(places, 1)},
            "scales": scales(self.smallest, self.largest, maps),
            "ratios": list(self.ratios),
            "classes": self.classes,
            **({"names": list(self.names)} if self.names else {}),
        }

    # -- anchors -------------------------------------------------------------------------------------------------------

    def _places(self, grids: Sequence[tuple[int, int]]) -> Tensor:
        """Anchors (A, 4), see `nas.tasks.boxes.anchors`."""
        return _places(tuple(grids), self.size, self.smallest, self.largest, self.ratios)

    def _joined(self, outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (B, A, classes + 1), offsets (B, A, 4) and anchors (A, 4) of all maps."""

        def flat(name: str, width: int) -> Tensor:
            found = outputs[name].float()
            return found.permute(0, 2, 3, 1).reshape(len(found), -1, width)

        maps = range(1, len(outputs) // 2 + 1)
        grids = [(outputs[f"boxes{m}"].shape[-2], outputs[f"boxes{m}"].shape[-1]) for m in maps]
        scores = torch.cat([flat(f"scores{m}", self.classes + 1) for m in maps], 1)
        return scores, torch.cat([flat(f"boxes{m}", 4) for m in maps], 1), self._places(grids).to(scores.device)

    def matched(self, places: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Class of each anchor's box plus 1 (0: it has none), (B, A), and that box, (B, A, 4).

        Each box gets the anchor that overlaps it most, and each other anchor the box that it overlaps most, if by more
        than ``MATCHED`` (SSD, section 2.2).

        Args:
            places: anchors, (A, 4).
            targets: of the batch, (B, M, 5).
        """
        batch, most, _ = targets.shape
        if not most:
            return targets.new_zeros((batch, len(places)), dtype=torch.long), targets.new_zeros((batch, len(places), 4))
        there = targets[..., 0] >= 0  # (B, M)
        shared = overlaps(corners(places), targets[..., 1:]).masked_fill(~there[:, None], -1.0)  # (B, A, M)
        overlap, box = shared.max(2)
        number = torch.where(there, torch.arange(most, device=there.device), -1)  # (B, M)
        own = torch.full_like(box, -1).scatter_reduce(1, shared.argmax(1), number, "amax")  # of two, the later box
        overlap, box = torch.where(own >= 0, 1.0, overlap), torch.where(own >= 0, own, box)
        label = targets[..., 0].gather(1, box).long() + 1
        chosen = targets[..., 1:].gather(1, box[..., None].expand(-1, -1, 4))
        return torch.where(overlap > MATCHED, label, 0), chosen

    def detections(self, outputs: Mapping[str, Tensor]) -> list[Found]:
        """Boxes of each image of a batch, best first."""
        scores, offsets, places = (one.cpu() for one in self._joined(outputs))
        shares, boxes = scores.softmax(-1)[..., 1:], decoded(offsets, places).clamp(0, 1)
        found = []
        for share, there in zip(shares, boxes, strict=True):
            best, index = share.topk(min(CANDIDATES, len(share)), 0)  # (candidates, classes)
            place, label = (best > LEAST_SCORE).nonzero(as_tuple=True)
            chosen, probability = there[index[place, label]], best[place, label]
            kept = suppressed(chosen, probability, label, SUPPRESSED)[:KEPT]
            arrays = chosen[kept].double().numpy(), probability[kept].double().numpy(), label[kept].numpy()
            found.append(Found(*arrays))
        return found


@functools.lru_cache(maxsize=64)
def _places(
    grids: tuple[tuple[int, int], ...],
    size: tuple[int, int],
    smallest: float,
    largest: float,
    ratios: tuple[float, ...],
) -> Tensor:
    return anchors(grids, size, smallest, largest, ratios)

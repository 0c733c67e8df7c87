"""Images with targets that are arrays: masks, numbers, maps, several classes, boxes; and pairs of images.

A file is an npz. Its images are ``images`` (N, H, W) or (N, C, H, W), numbers of which 0 is black (bytes are divided by
255), or image files such as JPEGs one after the other, as `nas.data.packed` has them. ``split`` (N,) gives the parts,
in the words train, validation and test or the numbers of `nas.data.splits`; those that it does not give are drawn from
train.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nas.data.base import PARTS, Batch, Data, Digest, Preparation, Samples
from nas.data.images import in_memory, raw_images
from nas.data.loading import load_data
from nas.data.packed import PackedImages, header_of
from nas.data.packing import members, packed_file
from nas.data.pictures import Picture
from nas.data.splits import FRACTIONS, checked_names, numbered, parts_of
from nas.data.stored import stored_data
from nas.tasks import DenseRegression, Detection, MultiLabel, Segmentation, SuperResolution, Task, VectorRegression
from nas.tasks.boxes import extents
from nas.tasks.classification import balanced
from nas.tasks.segmentation import pixels_of
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.storage import read_arrays
from search_spaces.layers import image_shape, size_of
from search_spaces.program import Shape

Parts = Sequence[NDArray[np.intp]]
"""Rows of train, validation and test."""
LOOKED_AT = 64
"""Images that show what values others have."""


class FileArguments(TypedDict, total=False):
    """Arguments of data of a file.

    Args:
        seed: of the parts that are drawn.
        fractions: of train, validation and test; parts that the file does not give are drawn from train.
        keep: whether decoded image files stay in memory.
        cache: folder for what a look at all image files has shown; null: a folder of the run, or from Python none.
        name: what the data is called; the file's name by default.
    """

    seed: int
    fractions: Sequence[float]
    keep: bool
    cache: str | None
    name: str | None


# -- one function per task ---------------------------------------------------------------------------------------------


def segmentation(
    path: str,
    *,
    classes: int | None = None,
    void: int = 255,
    names: Sequence[str] = (),
    weights: Sequence[float] | Literal["balanced"] = (),
    **file: Unpack[FileArguments],
) -> Data:
    """Images and masks of classes, from an npz file with ``masks`` (N, H, W), whole numbers from 0.

    Args:
        path: the file; see `nas.data.targets`.
        classes: how many there are; None: up to the largest number of a mask that is not void.
        void: number of pixels that are of no class; every number from ``classes`` on counts as void.
        names: of the classes; by default the ``names`` of the file, without those from ``classes`` on.
        weights: of the classes in the loss; ``balanced``: so that all count alike.
        file: see `FileArguments`.

    Raises:
        StorageError: the file cannot be read.
        DamagedFileError: it is no npz file.
        InvalidValueError: an array is missing or breaks the rules above, or images are damaged.
    """

    def made(given: _Given) -> tuple[NDArray[Any], Parts, Task]:
        masks = given.targets
        if masks.dtype.kind not in "ui" or masks.ndim != 3:
            raise InvalidValueError(
                f"`masks` of {path} must be whole numbers, shape (N, H, W), but got {masks.dtype} {masks.shape}."
            )
        counted = masks[masks != void]
        if not counted.size:
            raise InvalidValueError(f"All pixels of {path} are void ({void}), so there is nothing to learn.")
        count = int(counted.max()) + 1 if classes is None else classes
        if not 1 <= count <= 255 or 0 <= void < count:
            raise InvalidValueError(
                f"Masks of {path} must have 1 to 255 classes, numbered from 0, and `void` is none of them, but got "
                f"{count} classes and void={void}."
            )
        said = tuple(names) or (given.names[:count] if len(given.names) >= count else ())
        masks = np.where((masks >= 0) & (masks < count), masks, 255).astype(np.uint8)
        parts = given.parts
        even = balanced(pixels_of(masks[parts[0]], count)) if weights == "balanced" else tuple(map(float, weights))
        return masks, parts, Segmentation(count, 255, said, even)

    return _targeted(path, ["masks"], made, plane=True, **file)


def multi_label(path: str, **file: Unpack[FileArguments]) -> Data:
    """Images and any number of classes of each, from an npz file with ``labels`` (N, classes), each 0 or 1.

    ``names``, where the file has them, are those of the classes. See `segmentation` for the other arguments and errors.
    """

    def made(given: _Given) -> tuple[NDArray[Any], Parts, Task]:
        labels = given.targets
        if labels.ndim != 2 or labels.dtype.kind not in "uib" or not set(np.unique(labels).tolist()) <= {0, 1}:
            raise InvalidValueError(
                f"`labels` of {path} must be 0 or 1, shape (N, classes), but got {labels.dtype} {labels.shape}."
            )
        task = MultiLabel(labels.shape[1], given.names)
        return labels.astype(np.float32), given.parts, task

    return _targeted(path, ["labels"], made, **file)


def regression(
    path: str,
    *,
    unit: str = "1",
    judged_by: Literal["mae", "r2"] = "mae",
    **file: Unpack[FileArguments],
) -> Data:
    """Images and numbers of each, from an npz file with ``values`` (N,) or (N, values).

    ``names``, where the file has them, are those of the values. See `segmentation` for the other arguments and errors.

    Args:
        unit: of the values; ``1``: none.
        judged_by: mae, the mean absolute error, or r2, the coefficient of determination.
    """

    def made(given: _Given) -> tuple[NDArray[Any], Parts, Task]:
        values = _finite(path, "values", given.targets, (1, 2))
        values = values.reshape(len(values), -1)
        parts = given.parts
        return values, parts, VectorRegression(*_statistics(values[parts[0]], 0), unit, judged_by, given.names)

    return _targeted(path, ["values"], made, **file)


def dense_regression(
    path: str,
    *,
    unit: str = "1",
    **file: Unpack[FileArguments],
) -> Data:
    """Images and numbers of each pixel, from an npz file with ``maps`` (N, H, W) or (N, values, H, W), NaN: unknown.

    ``names``, where the file has them, are those of the values. See `segmentation` for the other arguments and errors.

    Args:
        unit: of the values, which are judged by their mean absolute error; ``1``: none.
    """

    def made(given: _Given) -> tuple[NDArray[Any], Parts, Task]:
        maps = _finite(path, "maps", given.targets, (3, 4), nan=True)
        maps = maps[:, None] if maps.ndim == 3 else maps
        parts = given.parts
        for part, rows in zip(PARTS, parts, strict=True):
            if not np.isfinite(maps[rows]).any((0, 2, 3)).all():
                raise InvalidValueError(
                    f"Each value of `maps` of {path} must be known of some pixel of each part, but one is NaN in all "
                    f"of {part}."
                )
        return maps, parts, DenseRegression(*_statistics(maps[parts[0]], (0, 2, 3)), unit, given.names)

    return _targeted(path, ["maps"], made, plane=True, **file)


def detection(
    path: str,
    *,
    smallest: float | None = None,
    largest: float | None = None,
    ratios: Sequence[float] = (1.0, 2.0, 0.5),
    judged_by: Literal["ap50", "mean_average_precision"] = "ap50",
    **file: Unpack[FileArguments],
) -> Data:
    """Images and boxes around objects, from an npz file with ``boxes``, ``box_labels`` and ``box_image``.

    ``boxes`` (K, 4) are left, top, right and bottom in pixels, ``box_labels`` (K,) their classes from 0, and
    ``box_image`` (K,) the numbers of their images. ``names``, where the file has them, are those of the classes. See
    `segmentation` for the other arguments and errors.

    Args:
        smallest: scale of the anchors of the finest map, a share of the images' shorter side; None: that of the small
            training boxes, see `nas.tasks.boxes.extents`.
        largest: scale of those of the coarsest one; None: that of the large training boxes.
        ratios: widths to heights of anchors.
        judged_by: ap50, average precision where an overlap of 0.5 counts, or mean_average_precision, COCO's.
    """

    def made(given: _Given) -> tuple[NDArray[Any], Parts, Task]:
        boxes, labels, images = (given.arrays[key] for key in keys)
        height, width = given.image().shape[-2:]
        targets = _per_image(path, boxes, labels, images, given.count, (height, width))
        classes = len(given.names) or int(labels.max(initial=-1)) + 1
        if not 1 <= classes or labels.max(initial=-1) >= classes:
            raise InvalidValueError(
                f"`box_labels` of {path} must be in 0..{classes - 1}, one of `names` where there are some, but "
                f"reach {labels.max(initial=-1)}."
            )
        low, high = extents(targets[given.parts[0]], (height, width))
        low, high = low if smallest is None else smallest, high if largest is None else largest
        task = Detection(classes, (height, width), given.names, low, high, tuple(map(float, ratios)), judged_by)
        return targets, given.parts, task

    keys = ["boxes", "box_labels", "box_image"]
    return _targeted(path, keys, made, **file)


# -- pairs of images ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pairs:
    """Images of fewer pixels, made from samples, and these as targets, in [0, 1].

    Args:
        samples: whose inputs are the targets.
        size: of the targets, (C, H, W), which the inputs are cut to from their middle.
        scale: pixels of a target per pixel of the input, along an axis.
        mean: per channel, that was subtracted from the samples.
        std: per channel, which they were divided by.
    """

    samples: Samples
    size: Shape
    scale: int
    mean: Tensor
    std: Tensor

    @property
    def in_memory(self) -> bool:
        return False  # what is kept is the samples, not what is made of them

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def shape(self) -> Shape:
        channels, height, width = self.size
        return channels, height // self.scale, width // self.scale

    def take(self, rows: Tensor) -> Batch:
        images, _ = self.samples.take(rows)
        _, height, width = self.size
        top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
        images = images[:, :, top : top + height, left : left + width]
        whole = (images * self.std + self.mean).clamp(0, 1)
        size = self.shape[1:]
        small = functional.interpolate(whole, size, mode="bicubic", antialias=True, align_corners=False)
        return small.clamp(0, 1), whole

    @property
    def digests(self) -> NDArray[np.uint8] | None:
        """SHA-256 of each image that a pair is made of, bytes, (N, 32); None: it is not known."""
        return getattr(self.samples, "digests", None)

    def update(self, digest: Digest) -> None:
        self.samples.update(digest)


@dataclass(frozen=True)
class Downscaled:
    """Preparation of the inputs of pairs, which a deployed network is given as they are.

    Args:
        before: steps that made the larger images; None: they are as they were stored.
        size: height and width of these, in pixels.
        scale: their pixels per pixel of the input, along an axis.
    """

    before: Preparation | None
    size: tuple[int, int]
    scale: int

    @property
    def steps(self) -> list[str]:
        (height, width), scale = self.size, self.scale
        made = [
            *([] if self.before is None else self.before.steps),
            f"take {height} x {width} pixels from the middle",
            f"divide both sides by {scale}: bicubic, antialiased",
        ]
        return [
            f"take an image of {height // scale} x {width // scale} pixels as it is (those of the training were made "
            f"of larger ones: {'; '.join(made)})"
        ]

    def to_json(self) -> dict[str, Any]:
        before = None if self.before is None else self.before.to_json()
        return {"before": before, "size": list(self.size), "scale": self.scale}


def super_resolution(
    of: str | Data,
    *,
    scale: int = 2,
    size: str | int | None = None,
    judged_on: Literal["luminance", "rgb"] = "luminance",
    name: str | None = None,
) -> Data:
    """Pairs of images from any image data: its images, and the same with fewer pixels, downscaled bicubically.

    Args:
        of: the data, a name, a YAML file or settings with ``_target_``.
        scale: pixels per pixel of the input, along an axis.
        size: height (= width) of the larger images, or ``"192x256"``, which are cut from the middle; None: as large as
            they are, less what ``scale`` does not divide.
        judged_on: luminance of colour images, or rgb.
        name: what the data is called; that of the images by default.

    Raises:
        InvalidValueError: the images are too small, or have values beyond 0 and 1.
    """
    data = load_data(of) if isinstance(of, str) else of
    channels, height, width = data.train.shape
    _, wanted_height, wanted_width = image_shape(channels, (height, width) if size is None else size_of(size))
    whole = (wanted_height // scale * scale, wanted_width // scale * scale)
    if scale < 2 or min(whole) < 2 * scale or wanted_height > height or wanted_width > width:
        raise InvalidValueError(
            f"Images of {data.name!r} are {height} x {width}, from which `scale={scale}` and `size={size}` cannot be "
            "had: the scale is at least 2, and the size at least twice that and at most as large as the images."
        )
    target = (channels, *whole)
    mean, std = (torch.tensor(numbers, dtype=torch.float32).reshape(-1, 1, 1) for numbers in (data.mean, data.std))
    images, _ = data.train.take(torch.arange(min(LOOKED_AT, len(data.train))))
    low, high = (float(bound) for bound in torch.aminmax(images * std + mean))
    if low < -1e-3 or high > 1 + 1e-3:
        raise InvalidValueError(
            f"Images of {data.name!r} must be of bytes, or of numbers from 0 (black) to 1, but reach from {low:.4g} to "
            f"{high:.4g}. Bring them to 0 to 1: what is beyond would be cut."
        )
    train, validation, test = (
        Pairs(samples, target, scale, mean, std) for samples in (data.train, data.validation, data.test_part())
    )
    return Data(
        name=name or data.name,
        train=train,
        validation=validation,
        test=test,
        task=SuperResolution(target, scale, judged_on),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        scale=data.scale,
        kind=data.kind,
        preparation=Downscaled(data.preparation, whole, scale),
        notes=data.notes,
    )


# -- parts of it -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Given:
    """Content of a file beside its images, of which there are ``count``; ``targets`` is the first array asked for."""

    path: str
    title: str
    count: int
    arrays: Mapping[str, NDArray[Any]]
    key: str
    image: Callable[[], NDArray[Any]]
    """The first image, (C, H, W)."""
    seed: int
    fractions: Sequence[float]

    @property
    def targets(self) -> NDArray[Any]:
        """One entry per image.

        Raises:
            InvalidValueError: there are more or fewer.
        """
        targets = self.arrays[self.key]
        if targets.ndim < 1 or len(targets) != self.count:
            raise InvalidValueError(
                f"{self.path} must give each of {self.count} images an entry of `{self.key}`, but its shape is "
                f"{targets.shape}."
            )
        return targets

    @property
    def names(self) -> tuple[str, ...]:
        """Names of classes or values; empty: there are none."""
        return checked_names(self.arrays["names"], f"`names` of {self.path}") if "names" in self.arrays else ()

    @property
    def parts(self) -> Parts:
        """Rows of the parts, those that are given and those that are drawn."""
        split, count = self.arrays.get("split"), self.count
        given = None if split is None else numbered(split, count, f"`split` of {self.path}")
        return parts_of(np.zeros(count, np.int64), given, self.fractions, self.seed, self.title)


def _targeted(
    path: str,
    keys: Sequence[str],
    made: Callable[[_Given], tuple[NDArray[Any], Parts, Task]],
    *,
    plane: bool = False,
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
    keep: bool = False,
    cache: str | None = None,
    name: str | None = None,
) -> Data:
    """Data of a file.

    Args:
        path: of the file.
        keys: names of the arrays that targets are made of.
        made: targets, parts and task of what the file holds.
        plane: whether targets lie over the images, in their last two axes.

    For the others see `FileArguments`.
    """
    file, title = Path(path), name or Path(path).stem
    there = members(file)
    if not set(keys) <= set(there) or not ({"images"} <= set(there) or {"body", "offsets"} <= set(there)):
        raise InvalidValueError(
            f"{path} must hold {', '.join(f'`{key}`' for key in keys)}, and `images`, or image files in `body` with "
            f"`offsets`, but got {sorted(there)}."
        )
    if "images" in there:
        arrays = read_arrays(file)
        images = arrays.pop("images")
        raw, scale = raw_images(images[:, None] if images.ndim == 3 else images, f"`images` of {path}")
        targets, parts, task = made(_Given(path, title, len(raw), arrays, keys[0], lambda: raw[0], seed, fractions))
        data = in_memory(title, raw, targets, parts, task, scale)
    else:
        pieces, arrays = packed_file(file, "body", "u", keys)
        source = PackedImages(pieces, header_of(file, arrays), Picture())
        targets, parts, task = made(_Given(path, title, len(pieces), arrays, keys[0], source.first, seed, fractions))
        data = stored_data(title, source, targets, parts, task, cache=cache, keep=keep)
    (_, height, width), size = data.train.shape, targets.shape[-2:]
    if plane and abs(size[0] * width - size[1] * height) > max(height, width):  # but for rounding to whole pixels
        raise InvalidValueError(
            f"`{keys[0]}` of {path} must have the height and width of the images, or others in the same ratio, but are "
            f"{size[0]} x {size[1]} and the images {height} x {width}."
        )
    return data


def _per_image(
    path: str,
    boxes: NDArray[Any],
    labels: NDArray[Any],
    images: NDArray[Any],
    count: int,
    size: tuple[int, int],
) -> NDArray[np.float32]:
    """Class and box as shares of the image, of each image (count, most, 5); rows of class -1 fill up."""
    whole = labels.dtype.kind in "ui" and images.dtype.kind in "ui" and boxes.dtype.kind in "uif"
    if not whole or boxes.ndim != 2 or not boxes.shape == (len(labels), 4) or labels.shape != images.shape:
        raise InvalidValueError(
            f"{path} must have `boxes` (K, 4), numbers, and `box_labels` and `box_image` (K,), whole numbers, but got "
            f"{boxes.dtype} {boxes.shape}, {labels.dtype} {labels.shape} and {images.dtype} {images.shape}."
        )
    height, width = size
    high = [width, height, width, height]
    wrong = ~(np.isfinite(boxes) & (boxes >= 0) & (boxes <= high)).all(1) | ~(boxes[:, 2:] > boxes[:, :2]).all(1)
    wrong |= (labels.astype(np.int64) < 0) | (images.astype(np.int64) < 0) | (images >= count)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InvalidValueError(
            f"Boxes of {path} are left < right, top < bottom within images of {height} x {width} pixels, of classes "
            f"from 0 and of images 0..{count - 1}, but {wrong.sum()} are not, such as box {row}, "
            f"{boxes[row].tolist()} of class {labels[row]} in image {images[row]}. Cut or drop these."
        )
    counts = np.bincount(images.astype(np.int64), minlength=count)
    order = np.argsort(images, kind="stable")
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    targets = np.zeros((count, int(counts.max(initial=0)), 5), np.float32)
    targets[..., 0] = -1
    targets[images[order], rank] = np.concatenate([labels[order, None], boxes[order] / high], 1)
    return targets


def _finite(
    path: str, key: str, values: NDArray[Any], ranks: Sequence[int], *, nan: bool = False
) -> NDArray[np.float32]:
    """Numbers of a file, float32."""
    known = values.dtype.kind in "uif" and values.ndim in ranks
    if not known or not (np.isfinite(values) | (np.isnan(values) if nan else False)).all():
        shapes = " or ".join(f"{rank} axes" for rank in ranks)
        raise InvalidValueError(
            f"`{key}` of {path} must be finite numbers in {shapes}{', or NaN' if nan else ''}, but got {values.dtype} "
            f"{values.shape}."
        )
    return values.astype(np.float32)


def _statistics(values: NDArray[Any], axes: int | tuple[int, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per value, 1 where it is constant; of what is known."""
    mean = np.nanmean(values.astype(np.float64), axes)
    std = np.nanstd(values.astype(np.float64), axes)
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())

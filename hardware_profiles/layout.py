"""Where the axes of a tensor lie in memory, for targets that want the channels of an image behind its pixels.

A tensor is *plain* where its axes lie as its shape has them: (tokens, features). It is an *image* where its first axis,
the channels, lies last, behind at least two others: (C, H, W) as H, W, C, a signal (C, L) as 1, L, C. Networks turn one
into the other (patches into tokens and back), often without a value moving.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from search_spaces.program import Shape


def starts_as_image(shape: Shape) -> bool:
    """True if the input of a network of that shape is an image in memory: (C, H, W), and a vector as one pixel."""
    return len(shape) in (1, 3)


def channels_behind(shape: Shape) -> Shape:
    """The shape with its first axis last."""
    return (*shape[1:], shape[0])


def extents(shape: Shape, image: bool) -> Shape:
    """Extents in memory, without the batch."""
    return (*[1] * (3 - len(shape)), *channels_behind(shape)) if image else tuple(shape)


def axis_in_memory(axis: int, rank: int, image: bool) -> int:
    """Axis in memory, counted from the last (-1), of an axis of the shape, counted from the first."""
    axis %= rank
    return (-1 if axis == 0 else axis - rank - 1) if image else axis - rank


def per_axis_in_memory(values: Sequence[int], filler: int, image: bool) -> tuple[int, ...]:
    """One number per axis of the shape as one per axis in memory; ``filler`` for those that the shape has not."""
    return (*[filler] * (3 - len(values)), *values[1:], values[0]) if image else tuple(values)


def reshape_keeps_image(shape: Shape, wanted: Shape) -> bool:
    """True if an image in one shape is one in the other as well: the channels stay what they are."""
    return len(shape) > 1 and len(wanted) > 1 and shape[0] == wanted[0]


def transposed(axes: Sequence[int], image: bool) -> tuple[tuple[int, ...], bool]:
    """Order in which the axes in memory (of an image those of its shape alone) are to lie after a transposition, and
    whether the result is an image: where possible the order that they have.

    Args:
        axes: axis of the input that each axis of the output is.
        image: whether the input is one.
    """
    rank = len(axes)
    before = [*range(1, rank), 0] if image else [*range(rank)]
    plain, behind = list(axes), [*axes[1:], axes[0]]
    to_image = rank > 1 and (behind == before or (image and axes[0] == 0 and plain != before))
    return tuple(before.index(axis) for axis in (behind if to_image else plain)), to_image


def reduced_is_image(rank: int, axes: Collection[int], keepdims: bool, image: bool) -> bool:
    """True if an image is still one when some axes are gone, or are of extent 1 (``keepdims``)."""
    return image and (keepdims or (0 not in axes and rank - len(axes) > 1))

"""Layouts: where the axes of a tensor lie in memory, for targets that want an image's channels behind its pixels.

A tensor is *plain* where its axes lie as its shape has them: (tokens, features). It is an *image* where its first axis,
the channels, lies last, behind at least two others: (C, H, W) as H, W, C, a signal (C, L) as 1, L, C. Networks turn one
into the other (patches into tokens and back), often without a value moving.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Generic, Protocol, TypeVar

from search_spaces.ops.movement import axis_of
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
    return shape[0] == wanted[0]


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


def _same_in_memory(shape: Shape) -> bool:
    """True if an image has the order of a plain tensor: one channel, or one pixel."""
    return shape[0] == 1 or math.prod(shape[1:]) == 1


class Laid(Protocol):
    """A tensor of a target's graph: its shape as layers count it, and whether it is an image in memory."""

    @property
    def shape(self) -> Shape:
        """Extents without the batch."""

    @property
    def image(self) -> bool:
        """True: its channels lie last."""


V = TypeVar("V", bound=Laid)


class Layouts(ABC, Generic[V]):
    """Changes of layout in the graph of a target, which states `viewed` and `permuted`."""

    @abstractmethod
    def viewed(self, x: V, shape: Shape, *, image: bool) -> V:
        """The same memory as a value of another shape or layout."""

    @abstractmethod
    def permuted(self, x: V, axes: Sequence[int]) -> V:
        """A plain value with its axes in another order."""

    def as_image(self, x: V) -> V:
        """The value as an image in memory."""
        if x.image or _same_in_memory(x.shape):
            return self.viewed(x, x.shape, image=True)
        lying = self.permuted(x, (*range(1, len(x.shape)), 0))
        return self.viewed(lying, x.shape, image=True)

    def as_plain(self, x: V) -> V:
        """The value with its axes in memory as its shape has them."""
        if not x.image or _same_in_memory(x.shape):
            return self.viewed(x, x.shape, image=False)
        rank = len(x.shape)
        return self.permuted(self.viewed(x, channels_behind(x.shape), image=False), (rank - 1, *range(rank - 1)))

    def as_input(self, x: V) -> V:
        """The value as networks take and give it: `starts_as_image`."""
        return self.as_image(x) if starts_as_image(x.shape) else self.as_plain(x)

    def alike(self, *values: V) -> list[V]:
        """The values in the layout of the first."""
        return [self.as_image(x) if values[0].image else self.as_plain(x) for x in values]

    def axis(self, axis: int, x: V) -> int:
        """Axis in memory, counted from the last (-1), of an axis of a value's shape."""
        return axis_in_memory(axis, len(x.shape), x.image)

    def reshaped(self, x: V, shape: Shape) -> V:
        """The same elements, in the order of the axes of the shape, in another shape."""
        stays = x.image and reshape_keeps_image(x.shape, shape)
        return self.viewed(x if stays else self.as_plain(x), shape, image=stays)

    def transposed(self, x: V, axes: Sequence[int]) -> V:
        """The axes of the shape in another order, where possible without moving anything."""
        order, image = transposed(axes, x.image)
        lying = self.viewed(x, channels_behind(x.shape), image=False) if x.image else x
        return self.viewed(self.permuted(lying, order), tuple(x.shape[axis] for axis in axes), image=image)

    def along_last(self, x: V, axis: int, apply: Callable[[V], V]) -> V:
        """The result of what works along the last axis in memory, here along an axis of the shape."""
        rank = len(x.shape)
        axis = axis_of(axis, rank, "An operator")
        if self.axis(axis, x) != -1:
            x = self.as_image(x) if axis == 0 and rank > 2 else self.as_plain(x)
        if self.axis(axis, x) == -1:
            return apply(x)
        order = [i for i in range(rank) if i != axis] + [axis]
        return self.permuted(apply(self.permuted(x, order)), [order.index(i) for i in range(rank)])

"""Operators that only move values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import Count, Window
from search_spaces.program import Op, Shape, Traced, elements


def axis_of(axis: int, rank: int, what: str) -> int:
    """Number of an axis, counted from the front; axes have no batch, and negative ones count from the end.

    Raises:
        InvalidValueError: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise InvalidValueError(f"{what} needs an axis in {-rank}..{rank - 1} (the batch is none), but got {axis}.")
    return axis % rank


@dataclass(frozen=True)
class Shuffle(Op):
    """Channel c of C goes to c // (C / groups) + groups * (c % (C / groups)): each group is dealt out to all groups
    (ShuffleNet, arXiv:1707.01083)."""

    groups: Count

    moves: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs[0]) not in (2, 3):
            raise InvalidValueError(
                "A shuffle takes (channels, height, width) or (channels, length), but got shape "
                f"{inputs[0]}; a `Gather` takes any."
            )
        if inputs[0][0] % self.groups:
            raise InvalidValueError(f"A shuffle of {inputs[0][0]} channels needs a divisor of it, not {self.groups}.")
        return inputs[0]


@dataclass(frozen=True)
class Concat(Op):
    """Tensors one after the other along an axis."""

    axis: int = 0

    arity: ClassVar[int | None] = None

    def shape(self, *inputs: Shape) -> Shape:
        axis = axis_of(self.axis, len(inputs[0]), "A concatenation")
        for shape in inputs[1:]:
            if len(shape) != len(inputs[0]) or any(
                m != n for i, (m, n) in enumerate(zip(shape, inputs[0], strict=True)) if i != axis
            ):
                raise InvalidValueError(
                    f"A concatenation needs shapes that are equal but for axis {axis}, but got {inputs[0]} and {shape}."
                )
        return (*inputs[0][:axis], sum(shape[axis] for shape in inputs), *inputs[0][axis + 1 :])


@dataclass(frozen=True)
class Slice(Op):
    """Entries ``start``, ``start + step``, ... before ``stop`` of an axis."""

    axis: int
    start: int
    stop: int
    step: int = 1

    moves: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        axis = axis_of(self.axis, len(shape), "A slice")
        if not (0 <= self.start < self.stop <= shape[axis] and self.step >= 1):
            raise InvalidValueError(
                f"A slice of axis {axis} of {shape} needs 0 <= start < stop <= {shape[axis]} and a positive step, but "
                f"got start={self.start}, stop={self.stop}, step={self.step}."
            )
        return (*shape[:axis], len(range(self.start, self.stop, self.step)), *shape[axis + 1 :])

    def words_read(self, inputs: tuple[Shape, ...], output: Shape) -> tuple[int, ...]:
        return (elements(output),)


def split(x: Traced, sizes: Sequence[int], axis: int = 0) -> tuple[Traced, ...]:
    """Slices of the given sizes, one after the other along an axis.

    Raises:
        InvalidValueError: sizes that do not add up to the axis.
    """
    extent = x.shape[axis_of(axis, len(x.shape), "A split")]
    if sum(sizes) != extent:
        raise InvalidValueError(f"A split of {extent} entries needs sizes that add up to it, but got {list(sizes)}.")
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return tuple(Slice(axis, end - size, end)(x) for size, end in zip(sizes, ends, strict=True))


@dataclass(frozen=True)
class Gather(Op):
    """Entries of an axis at fixed places, in any order and any number of times."""

    indices: tuple[int, ...]
    axis: int = 0

    moves: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        axis = axis_of(self.axis, len(shape), "A gather")
        if not self.indices or not 0 <= min(self.indices) <= max(self.indices) < shape[axis]:
            raise InvalidValueError(
                f"A gather from axis {axis} of {shape} needs indices in 0..{shape[axis] - 1}, but got {self.indices}."
            )
        return (*shape[:axis], len(self.indices), *shape[axis + 1 :])

    def words_read(self, inputs: tuple[Shape, ...], output: Shape) -> tuple[int, ...]:
        """An entry that is given several times is read once."""
        return (elements(output) // len(self.indices) * len(set(self.indices)),)


@dataclass(frozen=True)
class Pick(Op):
    """Entries of the first axis at places that a second input names, other ones for each image: (entries, ...) and
    integers of any shape -> (*that shape, ...)."""

    arity: ClassVar[int | None] = 2
    moves: ClassVar[bool] = True

    def index_limits(self, *inputs: Shape) -> tuple[int | None, ...]:
        return (None, inputs[0][0])

    def shape(self, *inputs: Shape) -> Shape:
        x, places = inputs
        return (*places, *x[1:])

    def words_read(self, inputs: tuple[Shape, ...], output: Shape) -> tuple[int, ...]:
        """The entries that are named, once each time."""
        return (elements(output), elements(inputs[1]))


@dataclass(frozen=True)
class Pad(Op):
    """Zeros around a tensor."""

    widths: tuple[tuple[int, int], ...]
    """Zeros (before, behind) of each axis, channels too."""

    moves: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        if len(self.widths) != len(shape) or any(len(pair) != 2 or min(pair) < 0 for pair in self.widths):
            raise InvalidValueError(
                f"A pad of shape {shape} needs (before, behind) >= 0 for each of {len(shape)} axes, but got "
                f"{self.widths}."
            )
        return tuple(n + before + behind for n, (before, behind) in zip(shape, self.widths, strict=True))


@dataclass(frozen=True)
class Reshape(Op):
    """The same elements, in the same order, in another shape; one extent may be -1, which then follows."""

    extents: Shape

    moves: ClassVar[bool] = True
    in_place: ClassVar[bool] = True
    view: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        total, known = elements(shape), math.prod(n for n in self.extents if n != -1)
        missing = self.extents.count(-1)
        if known < 1 or missing > 1 or (total % known if missing else total != known):
            raise InvalidValueError(
                f"A reshape of {shape} needs extents with {total} elements, one of them perhaps -1, but got "
                f"{self.extents}."
            )
        return tuple(total // known if n == -1 else n for n in self.extents)


def flatten(x: Traced, axis: int = 0) -> Traced:
    """One axis in place of an axis and all behind it: (C, H, W) -> (C * H * W,), or (C, H * W) with ``axis=1``."""
    return Reshape((*x.shape[: axis_of(axis, len(x.shape), "A flatten")], -1))(x)


@dataclass(frozen=True)
class Transpose(Op):
    """Axes in another order: (C, T) -> (T, C) with ``axes=(1, 0)``."""

    axes: tuple[int, ...]
    """Axis of the input that each axis of the output is."""

    moves: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        if sorted(self.axes) != list(range(len(shape))):
            raise InvalidValueError(
                f"A transpose of {shape} needs each axis 0..{len(shape) - 1} once, but got {self.axes}."
            )
        return tuple(shape[axis] for axis in self.axes)


@dataclass(frozen=True)
class DepthToSpace(Op):
    """Channels as pixels: (C * b * b, H, W) -> (C, H * b, W * b), where b * b channels that follow each other make a
    block (pixel shuffle: Shi et al., arXiv:1609.05158, section 3.2)."""

    block: Window

    moves: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs[0]) != 3 or inputs[0][0] % self.block**2:
            raise InvalidValueError(
                f"Depth to space takes (channels, height, width) with channels that {self.block} * {self.block} "
                f"divides, but got {inputs[0]}."
            )
        channels, height, width = inputs[0]
        return (channels // self.block**2, height * self.block, width * self.block)


@dataclass(frozen=True)
class SpaceToDepth(Op):
    """Pixels as channels, the inverse of `DepthToSpace`: (C, H * b, W * b) -> (C * b * b, H, W)."""

    block: Window

    moves: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs[0]) != 3 or inputs[0][1] % self.block or inputs[0][2] % self.block:
            raise InvalidValueError(
                f"Space to depth takes (channels, height, width) with height and width that {self.block} divides, but "
                f"got {inputs[0]}."
            )
        channels, height, width = inputs[0]
        return (channels * self.block**2, height // self.block, width // self.block)

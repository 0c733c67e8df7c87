"""Resizing of images and signals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import Count, Multiple
from search_spaces.ops.convolution import not_spatial
from search_spaces.ops.movement import Gather
from search_spaces.program import Op, Shape, Traced

ResizeKind = Literal["nearest", "bilinear"]


@dataclass(frozen=True)
class Resize(Op):
    """Image or signal of another size, by a factor or to a size.

    The centres of pixels correspond (the half-pixel rule): output entry i lies at ``(i + 0.5) * before / after - 0.5``
    of the input. "nearest" takes the entry that this rounds to, halves upwards; "bilinear" goes linearly between the
    two entries around it, along each axis. Beyond the border is the entry at the border. There is no smoothing before
    an image is made smaller.

    Targets work places out in float32, and so find another nearest entry where an output lies half-way between two, as
    of 40 entries for 6. A call with "nearest" thus gathers the entries, unless each size is a multiple of the other.
    """

    kind: ResizeKind
    scale: Multiple | tuple[Multiple, ...] | None = None
    """Size of the output over that of the input, rounded down; one number or one per axis."""
    size: tuple[Count, ...] | None = None
    """Size of the output."""

    moves: ClassVar[bool] = True
    keeps_channels: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        ((channels, *before),) = inputs
        if len(before) not in (1, 2):
            raise not_spatial("A resize", inputs[0])
        if (self.scale is None) == (self.size is None):
            raise InvalidValueError(
                f"A resize needs either a scale or a size, but got scale={self.scale} and size={self.size}."
            )
        numbers = self.size or self.scale
        after = numbers if isinstance(numbers, tuple) else (numbers,) * len(before)
        if len(after) != len(before):
            raise InvalidValueError(
                f"A resize of shape {inputs[0]} needs one number, or one for each of {len(before)} axes, but got "
                f"{numbers}."
            )
        if self.size is not None:
            return (channels, *self.size)
        # A factor such as 0.29 of 100 is 28.999..., which is meant to be 29.
        return (channels, *(math.floor(n * (factor or 0) + 1e-9) for n, factor in zip(before, after, strict=True)))

    def __call__(self, *inputs: Traced) -> Traced:
        if self.kind != "nearest" or len(inputs) != 1:
            return super().__call__(*inputs)
        (x,) = inputs
        sizes = list(zip(x.shape, self.shape(x.shape), strict=True))
        if not all(map(all, sizes)) or all(max(pair) % min(pair) == 0 for pair in sizes):
            return super().__call__(x)
        for axis, (before, after) in enumerate(sizes):
            if before != after:
                x = Gather(tuple((2 * i + 1) * before // (2 * after) for i in range(after)), axis)(x)
        return x

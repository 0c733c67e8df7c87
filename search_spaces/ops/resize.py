"""Resizing of images and signals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import Count, Multiple
from search_spaces.ops.convolution import not_spatial
from search_spaces.program import Op, Shape

ResizeKind = Literal["nearest", "bilinear"]


@dataclass(frozen=True)
class Resize(Op):
    """Image or signal of another size, by a factor or to a size.

    The centres of pixels correspond (the half-pixel rule): output entry i lies at ``(i + 0.5) * before / after - 0.5``
    of the input. "nearest" takes the entry that this rounds to, halves upwards; "bilinear" goes linearly between the
    two entries around it, along each axis. Beyond the border is the entry at the border. There is no smoothing before
    an image is made smaller.
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

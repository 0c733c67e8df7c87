"""Pooling over images and signals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from search_spaces.base.errors import InvalidValueError
from search_spaces.ops.convolution import Extent, Padding, explicit_pads, not_spatial, per_axis
from search_spaces.program import Op, Shape

PoolKind = Literal["max", "average"]


@dataclass(frozen=True)
class Pool(Op):
    """Pooling over (channels, height, width) or (channels, length). Averages count what is there, never the padding."""

    kind: PoolKind
    kernel: Extent
    stride: Extent
    padding: Padding | None = None
    """Rows and columns around the input: one number, one per axis, or all before and then all behind, axis by axis.
    None: such that the output is ceil(input / stride). Odd kernels are then padded by kernel // 2 on each side; of an
    even one the last window may be cut off at the border."""

    keeps_channels: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        ((channels, *size),) = inputs
        if len(size) not in (1, 2):
            raise not_spatial("Pooling", inputs[0])
        if self.padding is None:
            if isinstance(self.stride, int):
                return (channels, *(-(-extent // self.stride) for extent in size))
            return (channels, *(-(-n // s) for n, s in zip(size, per_axis(self.stride, len(size)), strict=True)))
        kernels, strides = per_axis(self.kernel, len(size)), per_axis(self.stride, len(size))
        pads = self.pads(size)
        if any(max(pair) >= k for pair, k in zip(pads, kernels, strict=True)):
            raise InvalidValueError(f"A window of {kernels} must not lie in the padding alone, but got {pads}.")
        extents = ((n + sum(pair) - k) // s + 1 for n, pair, k, s in zip(size, pads, kernels, strides, strict=True))
        return (channels, *extents)

    @property
    def cuts_off(self) -> bool:
        """True if windows lie side by side and the last may be cut off: no padding, rounded up."""
        kernels = (self.kernel,) if isinstance(self.kernel, int) else self.kernel
        return self.padding is None and self.kernel == self.stride and not any(k % 2 for k in kernels)

    def pads(self, size: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Padding (before, behind) of each axis of an input of this height and width."""
        rank = len(size)
        if self.padding is not None:
            return explicit_pads(self.padding, rank)
        kernels, strides = per_axis(self.kernel, rank), per_axis(self.stride, rank)
        return tuple(
            (k // 2, k // 2) if k % 2 else (0, max(0, (-(-n // s) - 1) * s + k - n))
            for n, k, s in zip(size, kernels, strides, strict=True)
        )


@dataclass(frozen=True)
class GlobalPool(Op):
    """Mean over height and width: (C, H, W) -> (C, 1, 1), (C, L) -> (C, 1)."""

    keeps_channels: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        ((channels, *size),) = inputs
        if len(size) not in (1, 2):
            raise not_spatial("Global pooling", inputs[0])
        return (channels, *[1] * len(size))

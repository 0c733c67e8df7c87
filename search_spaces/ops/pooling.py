"""Pooling over images and signals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from search_spaces.program import Op, Shape

PoolKind = Literal["max", "average"]


@dataclass(frozen=True)
class Pool(Op):
    """Pooling to ceil(size / stride). Odd kernels are padded by kernel // 2 on each side; an even one equals the stride
    and its last window may be cut off at the border. Averages count what is there, never the padding."""

    kind: PoolKind
    kernel: int
    stride: int

    def shape(self, *inputs: Shape) -> Shape:
        ((channels, *size),) = inputs
        return (channels, *(-(-extent // self.stride) for extent in size))


@dataclass(frozen=True)
class GlobalPool(Op):
    """Mean over height and width: (C, H, W) -> (C, 1, 1)."""

    def shape(self, *inputs: Shape) -> Shape:
        ((channels, *size),) = inputs
        return (channels, *[1] * len(size))

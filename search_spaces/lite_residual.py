"""Lite residuals: small branches beside the blocks of a network, so that the blocks themselves need no training.

Cai et al., "TinyTL: Reduce Memory, Not Parameters for Efficient On-Device Learning", NeurIPS 2020, arXiv:2007.11622,
section 3.2: what training has to keep are activations, and those of a branch at half the resolution, without an
expansion of the channels, are few. Of the authors' program are the order of operators, the ReLU, the factors of the
last BatchNorm, which begin with 0, and kernels that are no larger than the image.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search_spaces.architecture import Architecture, Position, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Layer, Size, image_shape, image_size
from search_spaces.ops.activation import Activate
from search_spaces.ops.arithmetic import Add
from search_spaces.ops.convolution import Convolution
from search_spaces.ops.pooling import Pool
from search_spaces.ops.resize import Resize
from search_spaces.program import Shape, Traced
from search_spaces.space import SearchSpace

SUFFIX = "_lite"
"""Ending of the name of the position behind a block that adds its lite residual."""


@dataclass(frozen=True)
class LiteResidual(Layer):
    """Output of a block and, of the block's input: half the resolution, grouped convolution, 1x1 convolution, the
    block's resolution."""

    in_channels: int
    out_channels: int
    size: Size
    """Height and width of the block's input."""
    out_size: Size
    """Height and width of its output."""
    kernel: int = 5
    groups: int = 2

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return image_shape(self.out_channels, self.out_size), image_shape(self.in_channels, self.size)

    @classmethod
    def beside(cls, block: Layer, kernel: int, groups: int) -> LiteResidual:
        """The lite residual of a block.

        Args:
            block: from one image to another.
            kernel: of the grouped convolution, where the image is no smaller.
            groups: of it, as far as they divide its channels.
        """
        (channels, *size), (out_channels, *_) = block.input_shape, block.output_shape
        smallest = -(-min(size) // 2)
        return cls(
            in_channels=channels,
            out_channels=out_channels,
            size=image_size(block.input_shape),
            out_size=image_size(block.output_shape),
            kernel=min(kernel, smallest - 1 + smallest % 2),
            groups=math.gcd(groups, channels),
        )

    def define(self, block: Traced, x: Traced) -> Traced:
        low = Pool("average", 2, 2)(x) if max(x.shape[1:]) > 1 else x
        stride = 2 if math.prod(block.shape[1:]) < math.prod(x.shape[1:]) and max(low.shape[1:]) > 1 else 1
        low = Convolution("spatial", self.in_channels, self.kernel, stride, self.groups)(low)
        low = Convolution("widen", self.out_channels, starts_silent=True)(Activate("relu")(low))
        size = block.shape[1:]
        return Add()(block, low if low.shape[1:] == size else Resize("bilinear", size=size)(low))


class LiteResiduals(SearchSpace):
    """The networks of a space with a lite residual beside each block.

    A block is a layer from one image to another whose work is that of two convolutions or more. The choices are those
    of the space, so that `SearchSpace.transferred` finds the network of another one here.

    Args:
        name: what users call it.
        space: of the networks.
        kernel: of the grouped convolutions, odd.
        groups: of these.
    """

    def __init__(self, name: str, space: SearchSpace, kernel: int = 5, groups: int = 2) -> None:
        if type(space).canonical is not SearchSpace.canonical:
            raise InvalidValueError(
                f"Space {space.name!r} has networks that can be written in several ways; lite residuals cannot be "
                "added to it."
            )
        self.origin = space
        self.norm_eps = space.norm_eps
        self._numbers = {"kernel": kernel, "groups": groups}
        layers = {position.name: space.layers_at(p) for p, position in enumerate(space.positions)}
        self._blocks = {f"{name}{SUFFIX}": name for name, some in layers.items() if all(map(_is_block, some))}
        if not self._blocks:
            raise InvalidValueError(f"Space {space.name!r} has no blocks of several convolutions from image to image.")
        behind = {block: lite for lite, block in self._blocks.items()}
        positions: list[Position] = []
        for position in space.positions:
            sources = tuple(behind.get(source, source) for source in space.sources[position.name])
            positions.append(dataclasses.replace(position, inputs=sources))
            if lite := behind.get(position.name):
                positions.append(dataclasses.replace(position, name=lite, inputs=(position.name, sources[0])))
        super().__init__(
            name,
            {"space": space.fingerprint, **self._numbers},
            space.choices,
            positions,
            inputs=space.inputs,
            outputs={output: behind.get(source, source) for output, source in space.outputs.items()},
        )

    @staticmethod
    def of(architecture: Architecture) -> Architecture:
        """The network of an architecture with lite residuals, in a space of its own space's networks with them."""
        space = architecture.space
        return LiteResiduals(f"{space.name[:50]}{SUFFIX}", space).transferred(architecture)

    @property
    def _stated(self) -> Mapping[str, Any]:
        return {"space": self.origin.definition, **self._numbers}

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        block = self.origin.layer(self._blocks.get(position, position), values)
        return block if block is None or position not in self._blocks else LiteResidual.beside(block, **self._numbers)


def _is_block(layer: Layer | None) -> bool:
    """True of a block, and where a position has no layer."""
    if layer is None:
        return True
    images = len(layer.input_shapes) == 1 and len(layer.input_shape) == len(layer.output_shape) == 3
    return images and sum(step.op.linear for step in layer.program.steps) >= 2

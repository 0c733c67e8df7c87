"""Layers that concatenate channels: FasterNet's partial convolution, VoVNet's one-shot aggregation, HarDNet's block."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import Count, Multiple, Parts, Percent, Window
from search_spaces.layers import BlockPlace, Layer, Size, image_shape
from search_spaces.ops.activation import Activate, Activation
from search_spaces.ops.arithmetic import Add
from search_spaces.ops.convolution import Convolution
from search_spaces.ops.movement import Concat, split
from search_spaces.ops.pooling import Pool
from search_spaces.program import Shape, Traced


@dataclass(frozen=True)
class FasterNetBlock(Layer):
    """Partial convolution, which leaves all but the first channels as they are, then two 1x1 convolutions whose result
    is added to the input (Chen et al., "Run, Don't Walk", CVPR 2023, arXiv:2303.03667, figure 4)."""

    in_channels: int
    out_channels: int
    convolved: int
    """Number of the first channels that the k x k convolution reads and makes."""
    hidden: int
    """Channels between the 1x1 convolutions."""
    kernel: int
    stride: int
    """Stride of the block; above 1, a convolution of that kernel and stride stands in front and makes the channels."""
    activation: Activation
    size: Size
    """Height and width of the input."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.convolved > self.out_channels or (self.stride == 1 and self.in_channels != self.out_channels):
            raise InvalidValueError(
                f"FasterNetBlock convolves at most its channels, and changes them with a stride alone, but got {self}."
            )

    @classmethod
    def of_stage(
        cls, place: BlockPlace, *, kernel: Window = 3, partial: Percent = 25, expand: Multiple = 2
    ) -> FasterNetBlock:
        """Block of a stage.

        Args:
            place: in the network.
            kernel: of the partial convolution.
            partial: channels that it convolves in per cent of all.
            expand: channels between the 1x1 convolutions as a multiple of the output's.
        """
        channels = place.out_channels
        convolved, hidden = round(channels * partial / 100), round(channels * expand)
        return cls(place.in_channels, channels, convolved, hidden, kernel, place.stride, place.activation, place.size)

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        if self.stride > 1:
            x = Convolution("merge", self.out_channels, self.stride, self.stride, padding=0)(x)
        partial = Convolution("partial", self.convolved, self.kernel, norm=False, bias=False)
        if self.convolved == self.out_channels:
            y = partial(x)
        else:
            first, rest = split(x, (self.convolved, self.out_channels - self.convolved))
            y = Concat()(partial(first), rest)
        y = Activate(self.activation)(Convolution("expand", self.hidden)(y))
        return Add()(Convolution("project", self.out_channels, norm=False, bias=False)(y), x)


@dataclass(frozen=True)
class OSA(Layer):
    """One-shot aggregation: a chain of convolutions, whose input and results a 1x1 convolution reads all at once (Lee
    et al., VoVNet, CVPRW 2019, arXiv:1904.09730, figure 1)."""

    in_channels: int
    out_channels: int
    hidden: int
    """Channels that each convolution of the chain makes."""
    layers: Parts
    """Number of convolutions of the chain."""
    kernel: int
    stride: int
    """Stride of the block; above 1, maximum pooling of 3 x 3 with it stands in front."""
    residual: bool
    """True: the input is added to the output."""
    activation: Activation
    size: Size
    """Height and width of the input."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.residual and (self.stride > 1 or self.in_channels != self.out_channels):
            raise InvalidValueError(f"OSA with a residual keeps the shape, but got {self}.")

    @classmethod
    def of_stage(cls, place: BlockPlace, *, hidden: Count, layers: Parts = 5, kernel: Window = 3) -> OSA:
        """Block of a stage; from the second on, the input is added.

        Args:
            place: in the network.
            hidden: channels that each convolution of the chain makes.
            layers: number of convolutions of the chain.
            kernel: of these.
        """
        return cls(
            place.in_channels,
            place.out_channels,
            hidden,
            layers,
            kernel,
            place.stride,
            place.block > 1,
            place.activation,
            place.size,
        )

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        if self.stride > 1:  # no padding before, and behind as much as the last window lacks
            size = (self.size, self.size) if isinstance(self.size, int) else self.size
            lacking = [max(0, (-(-n // self.stride) - 1) * self.stride + 3 - n) for n in size]
            x = Pool("max", 3, self.stride, padding=(0, 0, *lacking))(x)
        found = [x]
        for number in range(1, self.layers + 1):
            y = Convolution(f"layer{number}", self.hidden, self.kernel)(found[-1])
            found.append(Activate(self.activation)(y))
        y = Activate(self.activation)(Convolution("aggregate", self.out_channels)(Concat()(*found)))
        return Add()(y, x) if self.residual else y


@dataclass(frozen=True)
class HarDBlock(Layer):
    """Harmonic dense block and the 1x1 convolution behind it (Chao et al., HarDNet, ICCV 2019, arXiv:1909.00948,
    section 3). Layer l reads the layers l - 2^i for each 2^i that divides l; the more it reads, the wider it is. Layers
    are a 1x1 and a depthwise convolution, as in HarDNet39DS; odd layers and the last are what the block gives."""

    in_channels: int
    out_channels: int
    growth: int
    """Channels of a layer that reads one other."""
    tenths: int
    """Factor of the channels per further layer that is read, in tenths."""
    layers: Parts
    kernel: int
    stride: int
    """Stride of the block; above 1, a depthwise convolution of 3 x 3 with it stands in front."""
    activation: Activation
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    @staticmethod
    def links(number: int) -> list[int]:
        """Layers that a layer reads, from 1 on; 0 is the input of the block."""
        steps = [2**i for i in range(number.bit_length()) if number % 2**i == 0]
        return [number - step for step in steps]

    def width(self, number: int) -> int:
        """Channels of a layer, even."""
        channels = float(self.growth)
        for _ in self.links(number)[1:]:
            channels *= self.tenths / 10
        return int(int(channels + 1) / 2) * 2

    def define(self, x: Traced) -> Traced:
        if self.stride > 1:
            x = Convolution("downsample", self.in_channels, 3, self.stride, groups=self.in_channels)(x)
        found = [x]
        for number in range(1, self.layers + 1):
            read = [found[link] for link in self.links(number)]
            y = Convolution(f"layer{number}", self.width(number))(read[0] if len(read) == 1 else Concat()(*read))
            y = Activate(self.activation)(y)
            found.append(
                Convolution(f"depthwise{number}", self.width(number), self.kernel, groups=self.width(number))(y)
            )
        kept = [y for number, y in enumerate(found) if number % 2 or number == self.layers]
        return Activate(self.activation)(Convolution("transition", self.out_channels)(Concat()(*kept)))

"""Blocks of MobileDets and of GENet that are built of full convolutions."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.base.values import Multiple, Window
from search_spaces.layers import BlockPlace, Layer, Size, adds_input, image_shape
from search_spaces.ops.activation import Activate, Activation
from search_spaces.ops.arithmetic import Add
from search_spaces.ops.convolution import Convolution
from search_spaces.program import Shape, Traced


def nearest_multiple(value: float, divisor: int = 8) -> int:
    """Nearest multiple of the divisor that is not 0, halves rounded up (MobileDets' rule)."""
    return max(divisor, int(value / divisor + 0.5) * divisor)


@dataclass(frozen=True)
class Tucker(Layer):
    """Tucker convolution, a generalised bottleneck (MobileDets, arXiv:2004.14525, section 3.1): a 1x1 convolution
    narrows, a full k x k convolution with the stride changes the width, a linear 1x1 convolution projects."""

    in_channels: int
    out_channels: int
    narrow: int
    """Channels of the first convolution."""
    core: int
    """Channels of the full convolution."""
    kernel: int
    stride: int
    activation: Activation
    size: Size
    """Height and width of the input."""
    adds: bool = True
    """False: the input is not added to the output, although it has its shape."""

    @classmethod
    def of_stage(
        cls,
        place: BlockPlace,
        *,
        kernel: Window = 3,
        narrow: Multiple = 25,
        core: Multiple = 75,
        first_adds: bool = True,
    ) -> Tucker:
        """Block of a stage.

        Args:
            place: in the network.
            kernel: of the full convolution.
            narrow: channels of the first convolution in per cent of the input's, to multiples of 8.
            core: channels of the full convolution in per cent of the output's, to multiples of 8.
            first_adds: False: the first block of a stage never adds its input.
        """
        return cls(
            place.in_channels,
            place.out_channels,
            nearest_multiple(place.in_channels * narrow / 100),
            nearest_multiple(place.out_channels * core / 100),
            kernel,
            place.stride,
            place.activation,
            place.size,
            adds_input(place, first_adds),
        )

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    @property
    def residual(self) -> bool:
        """True if the input is added to the output."""
        return self.adds and self.stride == 1 and self.in_channels == self.out_channels

    def define(self, x: Traced) -> Traced:
        y = Activate(self.activation)(Convolution("narrow", self.narrow)(x))
        y = Activate(self.activation)(Convolution("core", self.core, self.kernel, self.stride)(y))
        y = Convolution("project", self.out_channels)(y)
        return Add()(y, x) if self.residual else y


@dataclass(frozen=True)
class BasicBlock(Layer):
    """Two k x k convolutions and a shortcut, which is a 1x1 convolution where the shape changes (ResNet's basic block;
    "XX" of GENet, arXiv:2006.14090, section 3.1)."""

    in_channels: int
    out_channels: int
    hidden: int
    """Channels between the convolutions."""
    kernel: int
    stride: int
    activation: Activation
    size: Size
    """Height and width of the input."""

    @classmethod
    def of_stage(cls, place: BlockPlace, *, kernel: Window = 3, expand: Multiple = 100) -> BasicBlock:
        """Block of a stage.

        Args:
            place: in the network.
            kernel: of both convolutions.
            expand: hidden channels in per cent of the output's.
        """
        hidden = round(place.out_channels * expand / 100)
        return cls(place.in_channels, place.out_channels, hidden, kernel, place.stride, place.activation, place.size)

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        y = Activate(self.activation)(Convolution("first", self.hidden, self.kernel, self.stride)(x))
        y = Convolution("second", self.out_channels, self.kernel)(y)
        return Activate(self.activation)(Add()(y, shortcut(x, self.out_channels, self.stride)))


@dataclass(frozen=True)
class DepthwiseBottleneck(Layer):
    """Inverted residual with a shortcut around every block, which is a 1x1 convolution where the shape changes, and an
    activation behind the addition ("DW" of GENet, arXiv:2006.14090, section 3.1)."""

    in_channels: int
    out_channels: int
    hidden: int
    """Channels of the depthwise convolution."""
    kernel: int
    stride: int
    activation: Activation
    size: Size
    """Height and width of the input."""

    @classmethod
    def of_stage(cls, place: BlockPlace, *, kernel: Window = 3, expand: Multiple = 300) -> DepthwiseBottleneck:
        """Block of a stage.

        Args:
            place: in the network.
            kernel: of the depthwise convolution.
            expand: hidden channels in per cent of the output's.
        """
        hidden = round(place.out_channels * expand / 100)
        return cls(place.in_channels, place.out_channels, hidden, kernel, place.stride, place.activation, place.size)

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        y = Activate(self.activation)(Convolution("expand", self.hidden)(x))
        y = Convolution("depthwise", self.hidden, self.kernel, self.stride, groups=self.hidden)(y)
        y = Convolution("project", self.out_channels)(Activate(self.activation)(y))
        return Activate(self.activation)(Add()(y, shortcut(x, self.out_channels, self.stride)))


def shortcut(x: Traced, channels: int, stride: int) -> Traced:
    """The input itself, or a 1x1 convolution of it where the shape changes."""
    return x if stride == 1 and x.shape[0] == channels else Convolution("shortcut", channels, 1, stride)(x)

"""Layers that are trained with branches and deployed as one convolution: RepVGG's, MobileOne's, RepViT's."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.base.values import Multiple, Parts, Percent, Window
from search_spaces.layers import BlockPlace, Layer, Size, gated, image_shape, make_divisible
from search_spaces.ops.activation import Activate, Activation
from search_spaces.ops.arithmetic import Add
from search_spaces.ops.convolution import Convolution
from search_spaces.ops.merging import NormLinear, RepConvolution
from search_spaces.ops.pooling import GlobalPool
from search_spaces.program import Shape, Traced


@dataclass(frozen=True)
class RepConv(Layer):
    """Convolution of merging branches, and activation: k x k convolutions, a 1x1 one, and the input where the shape
    stays, each with BatchNorm (RepVGG, arXiv:2101.03697, figure 2)."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    branches: Parts
    """Number of k x k convolutions that are trained."""
    activation: Activation
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        x = RepConvolution("conv", self.out_channels, self.kernel, self.stride, branches=self.branches)(x)
        return Activate(self.activation)(x)


@dataclass(frozen=True)
class MobileOneBlock(Layer):
    """Depthwise and 1x1 convolution, each of merging branches and with an activation (MobileOne, arXiv:2206.04040,
    figure 3). The depthwise one has a 1x1 branch too; both have the input where the shape stays."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    branches: Parts
    """Number of convolutions of the full kernel that are trained in place of each."""
    activation: Activation
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        inputs, branches = self.in_channels, self.branches
        x = RepConvolution("depthwise", inputs, self.kernel, self.stride, groups=inputs, branches=branches)(x)
        x = Activate(self.activation)(x)
        x = RepConvolution("pointwise", self.out_channels, 1, branches=branches, pointwise="none")(x)
        return Activate(self.activation)(x)


@dataclass(frozen=True)
class RepViTBlock(Layer):
    """Token mixer and channel mixer of RepViT (arXiv:2307.09283, figure 3): a depthwise convolution of merging branches
    with optional squeeze-and-excitation, then two 1x1 convolutions whose result is added to their input. Where the
    shape changes, the token mixer is a depthwise convolution with the stride and a 1x1 convolution."""

    in_channels: int
    out_channels: int
    hidden: int
    """Channels between the two 1x1 convolutions of the channel mixer."""
    kernel: int
    stride: int
    squeeze: int
    """Channels of the squeeze-and-excitation bottleneck; 0: none."""
    activation: Activation
    size: Size
    """Height and width of the input."""

    @classmethod
    def of_stage(
        cls, place: BlockPlace, *, kernel: Window = 3, expand: Multiple = 2, squeeze: Percent = 0
    ) -> RepViTBlock:
        """Block of a stage.

        Args:
            place: in the network.
            kernel: of the depthwise convolution.
            expand: channels inside the channel mixer as a multiple of the output's.
            squeeze: channels of the squeeze-and-excitation bottleneck in per cent of the input's, rounded to multiples
                of 8; 0: none.
        """
        narrow = make_divisible(place.in_channels * squeeze / 100) if squeeze else 0
        return cls(
            place.in_channels,
            place.out_channels,
            round(place.out_channels * expand),
            kernel,
            place.stride,
            narrow,
            place.activation,
            place.size,
        )

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        inputs, keeps = self.in_channels, self.stride == 1 and self.in_channels == self.out_channels
        if keeps:
            x = RepConvolution("mixer", inputs, self.kernel, 1, inputs, 1, "bias", "bare", norm=True)(x)
        else:
            x = Convolution("depthwise", inputs, self.kernel, self.stride, groups=inputs)(x)
        if self.squeeze:
            x = gated(x, self.squeeze, "relu", "sigmoid")
        if not keeps:
            x = Convolution("widen", self.out_channels)(x)
        y = Activate(self.activation)(Convolution("expand", self.hidden)(x))
        return Add()(Convolution("project", self.out_channels)(y), x)


@dataclass(frozen=True)
class BatchNormClassifier(Layer):
    """Global pooling, BatchNorm and the classifying linear layer, which are deployed as one linear layer."""

    in_channels: int
    classes: int
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        return NormLinear("classify", self.classes)(GlobalPool()(x))

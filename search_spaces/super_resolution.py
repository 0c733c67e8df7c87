"""A space of networks for super-resolution: convolutions at the input's size, and channels as pixels at the end.

Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural
Network" (ESPCN), CVPR 2016, arXiv:1609.05158, has the sub-pixel convolution at the end; Dong et al., "Accelerating the
Super-Resolution Convolutional Neural Network" (FSRCNN), ECCV 2016, arXiv:1608.00367, the thin and deep middle; Bhardwaj
et al., "Collapsible Linear Blocks for Super-Efficient Super Resolution" (SESR), MLSys 2022, arXiv:2103.09404, the long
shortcuts around the middle and from the image to each of its pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces.architecture import Choice, Condition, Position, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import Count, Parts, Window, check_settings
from search_spaces.layers import Layer, Size, check_resolutions, image_shape, size_of
from search_spaces.ops.activation import Activate, Activation
from search_spaces.ops.arithmetic import Add
from search_spaces.ops.convolution import Convolution
from search_spaces.ops.movement import DepthToSpace
from search_spaces.ops.resize import Resize
from search_spaces.program import Shape, Traced
from search_spaces.space import SearchSpace


@dataclass(frozen=True)
class BiasedConv(Layer):
    """Convolution with a bias, no BatchNorm, and activation: what is added up to an image keeps its scale."""

    in_channels: int
    out_channels: int
    kernel: int
    activation: Activation
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        return Activate(self.activation)(Convolution("conv", self.out_channels, self.kernel, norm=False)(x))


@dataclass(frozen=True)
class SubPixels(Layer):
    """Sum of the features before and behind the middle, convolution, channels as pixels, and to each pixel that of the
    image added which it lies in (ESPCN, arXiv:1609.05158, section 3.2; SESR, arXiv:2103.09404, figure 2)."""

    in_channels: int
    image_channels: int
    scale: int
    kernel: int
    size: Size
    """Height and width of the input."""

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        features = image_shape(self.in_channels, self.size)
        return features, features, image_shape(self.image_channels, self.size)

    def define(self, y: Traced, x: Traced, image: Traced) -> Traced:
        y = Convolution("conv", self.image_channels * self.scale**2, self.kernel, norm=False)(Add()(y, x))
        return Add()(DepthToSpace(self.scale)(y), Resize("nearest", self.scale)(image))


_OF_SPACE: dict[str, Any] = {
    "in_channels": Count,
    "scale": Window,
    "widths": Sequence[Count],
    "depths": Sequence[Parts],
    "kernels": Sequence[Window],
    "first_kernel": Window,
    "last_kernel": Window,
}
"""Annotations of settings, with their bounds."""


class SuperResolutionSpace(SearchSpace):
    """A first convolution, a middle of elastic convolutions, and a sub-pixel convolution; the output is the image.

    Choices: ``resolution``, ``width`` of all features, ``depth`` of the middle and the ``kernel.<number>`` of each of
    its convolutions.

    Args:
        name: of the space.
        resolutions: heights (= widths) of the input image, or ``"192x256"``, height x width, with ever more pixels.
        in_channels: of the input and of the output.
        scale: pixels per pixel of the input, along an axis.
        widths: channels of the features, ascending.
        depths: how many convolutions the middle can have, ascending.
        kernels: kernel sizes of these, ascending and odd.
        first_kernel: kernel size of the first convolution.
        last_kernel: kernel size of the sub-pixel convolution.
        activation: behind all convolutions but the last.
    """

    def __init__(
        self,
        *,
        name: str,
        resolutions: Sequence[Value],
        in_channels: int,
        scale: int,
        widths: Sequence[int],
        depths: Sequence[int],
        kernels: Sequence[int],
        first_kernel: int = 5,
        last_kernel: int = 3,
        activation: Activation = "relu",
    ) -> None:
        settings: dict[str, Any] = {
            **{"resolutions": list(resolutions), "in_channels": in_channels, "scale": scale, "widths": list(widths)},
            **{"depths": list(depths), "kernels": list(kernels), "first_kernel": first_kernel},
            **{"last_kernel": last_kernel, "activation": activation},
        }
        check_resolutions(name, resolutions)
        check_settings(f"space {name!r}", settings, _OF_SPACE)
        for key in ("widths", "depths", "kernels"):
            values = settings[key]
            if not values or values != sorted(set(values)):
                raise InvalidValueError(f"`{key}` of space {name!r} must be integers that ascend, but got {values}.")
        if any(kernel % 2 == 0 for kernel in (*kernels, first_kernel, last_kernel)):
            raise InvalidValueError(f"Kernels of space {name!r} must be odd, but got {list(kernels)}.")
        self.in_channels, self.scale = in_channels, scale
        self._first, self._last, self._activation = first_kernel, last_kernel, activation
        choices = [Choice("resolution", tuple(resolutions)), Choice("width", tuple(widths))]
        choices.append(Choice("depth", tuple(depths)))
        positions = [Position("first", ("resolution", "width"))]
        for number in range(1, max(depths) + 1):
            there = tuple(depth for depth in depths if depth >= number)
            condition = Condition("depth", there) if len(there) < len(depths) else None
            choices.append(Choice(f"kernel.{number}", tuple(kernels), condition))
            depth = () if condition is None else ("depth",)
            positions.append(Position(f"middle{number}", ("resolution", "width", *depth, f"kernel.{number}")))
        middle = positions[-1].name
        positions.append(Position("pixels", ("resolution", "width"), (middle, "first", "image")))
        super().__init__(name, settings, choices, positions, outputs={"upscaled": "pixels"})

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        size, width = size_of(values["resolution"]), _int(values["width"])
        if position == "first":
            return BiasedConv(self.in_channels, width, self._first, self._activation, size)
        if position == "pixels":
            return SubPixels(width, self.in_channels, self.scale, self._last, size)
        number = int(position.removeprefix("middle"))
        if number > _int(values.get("depth", number)):
            return None
        return BiasedConv(width, width, _int(values[f"kernel.{number}"]), self._activation, size)


def _int(value: Value) -> int:
    assert isinstance(value, int)
    return value

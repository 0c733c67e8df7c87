"""Heads of networks that give something else than classes of the whole image, behind the stages of a backbone.

A head is part of a space: it has choices, positions and layers of its own, and reads what the stages give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from search_spaces.architecture import Choice, Condition, Position, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import LARGEST, Border, Count, Parts, Window, check_settings
from search_spaces.layers import Layer, Size, image_shape, make_divisible, strided
from search_spaces.ops.activation import Activate
from search_spaces.ops.arithmetic import Add, Multiply
from search_spaces.ops.convolution import Convolution
from search_spaces.ops.pooling import GlobalPool
from search_spaces.ops.resize import Resize
from search_spaces.program import Shape, Traced


@dataclass(frozen=True)
class Feature:
    """Result of a stage of the backbone: the position that gives it, its channels, its height and width."""

    position: str
    channels: int
    size: Size


class Head(Protocol):
    """Head of the networks of a space. Names of its choices and positions begin with ``head``."""

    @property
    def choices(self) -> Sequence[Choice]:
        """Decisions of the head."""

    @property
    def outputs(self) -> Mapping[str, str] | None:
        """Name -> position that gives it; None: the last position gives the only one."""

    def positions(self, stages: Sequence[str], last: str) -> Sequence[Position]:
        """Places of the head, which depend on ``resolution`` and on its own choices.

        Args:
            stages: position that gives the result of each stage, in order.
            last: position that gives the deepest features.
        """

    def layer(self, position: str, values: Mapping[str, Value], stages: Sequence[Feature], last: Feature) -> Layer:
        """Layer at a position of the head.

        Args:
            position: its name.
            values: of the choices.
            stages: results of the stages, in order.
            last: the deepest features.
        """


# -- LR-ASPP -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PixelClassifier(Layer):
    """1x1 convolution with a bias: a score per class and pixel."""

    in_channels: int
    classes: int
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        return Convolution("classify", self.classes, norm=False)(x)


@dataclass(frozen=True)
class GlobalGate(Layer):
    """1x1 convolution, BatchNorm and ReLU, times gates that another 1x1 convolution and a sigmoid make of the means of
    the input (MobileNetV3, arXiv:1905.02244, figure 10, where means are taken over large windows)."""

    in_channels: int
    out_channels: int
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        gate = Activate("sigmoid")(Convolution("gate", self.out_channels, norm=False, bias=False)(GlobalPool()(x)))
        return Multiply()(Activate("relu")(Convolution("conv", self.out_channels)(x)), gate)


@dataclass(frozen=True)
class UpsampledSum(Layer):
    """Scores per pixel of coarse features, brought to the size of finer scores and added to them.

    They are made before the upsampling: weights of bilinear interpolation add up to 1, so a 1x1 convolution gives the
    same behind it, for more multiply-accumulates.
    """

    in_channels: int
    """Channels of the coarse features."""
    classes: int
    size: Size
    """Height and width of the finer scores."""
    coarse_size: Size
    """Height and width of the coarse features."""

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return image_shape(self.classes, self.size), image_shape(self.in_channels, self.coarse_size)

    def define(self, scores: Traced, coarse: Traced) -> Traced:
        y = Convolution("classify", self.classes, norm=False)(coarse)
        if y.shape != scores.shape:
            y = Resize("bilinear", size=scores.shape[1:])(y)
        return Add()(scores, y)


_OF_LRASPP: dict[str, Any] = {"channels": Sequence[Count], "reads": Sequence[Count]}
"""Annotations of the settings of `LRASPP`, with their bounds."""


class LRASPP:
    """Lite reduced atrous spatial pyramid pooling, a head for semantic segmentation.

    Howard et al., "Searching for MobileNetV3", ICCV 2019, arXiv:1905.02244, section 6.4. The deepest features pass a
    1x1 convolution and are gated by their means; scores per class of them are added to those of the finer features of
    one stage. The network's output is as fine as that stage.

    Choices: ``head.channels``, the width of the gated branch; ``head.reads``, the number of the stage that is read.

    Args:
        classes: of pixels.
        channels: of the gated branch to choose from, ascending.
        reads: stages to choose from, ascending: a later one is coarser and costs less.
        stages: how many stages the backbone has.
    """

    def __init__(self, *, classes: int, channels: Sequence[int], reads: Sequence[int], stages: int) -> None:
        check_settings("the head LRASPP", {"channels": channels, "reads": reads}, _OF_LRASPP)
        for name, values, most in (("channels", channels, LARGEST), ("reads", reads, stages)):
            if not values or list(values) != sorted(set(values)) or values[-1] > most:
                raise InvalidValueError(
                    f"`{name}` of the head LRASPP must be integers that ascend, at most {most}, but got {list(values)}."
                )
        self._classes, self._channels, self._reads = classes, tuple(channels), tuple(reads)

    outputs: Mapping[str, str] | None = None

    @property
    def choices(self) -> Sequence[Choice]:
        offered = (("head.channels", self._channels), ("head.reads", self._reads))
        return [Choice(name, values) for name, values in offered if len(values) > 1]

    def positions(self, stages: Sequence[str], last: str) -> Sequence[Position]:
        width = ("head.channels",) if len(self._channels) > 1 else ()
        read = ("head.reads",) if len(self._reads) > 1 else ()
        fine = [
            Position(
                f"head_fine{stage}",
                ("resolution", *read),
                (stages[stage - 1],),
                Condition("head.reads", (stage,)) if read else None,
            )
            for stage in self._reads
        ]
        gate = Position("head_gate", ("resolution", *width), (last,))
        inputs = (*(position.name for position in fine), gate.name)
        return [*fine, gate, Position("head", ("resolution", *width, *read), inputs)]

    def layer(self, position: str, values: Mapping[str, Value], stages: Sequence[Feature], last: Feature) -> Layer:
        channels = values.get("head.channels", self._channels[0])
        assert isinstance(channels, int)
        if position == "head_gate":
            return GlobalGate(last.channels, channels, last.size)
        if position.startswith("head_fine"):
            read = stages[int(position.removeprefix("head_fine")) - 1]
            return PixelClassifier(read.channels, self._classes, read.size)
        number = values.get("head.reads", self._reads[0])
        assert isinstance(number, int)
        return UpsampledSum(channels, self._classes, stages[number - 1].size, last.size)


# -- SSDLite -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeparablePredictor(Layer):
    """Depthwise convolution with BatchNorm and ReLU6, and a 1x1 convolution with a bias: numbers at each place of a map
    (MobileNetV2, arXiv:1801.04381, section 6.2)."""

    in_channels: int
    out_channels: int
    """Numbers per place."""
    kernel: int
    """Extent of the depthwise convolution."""
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        x = Convolution("depthwise", self.in_channels, self.kernel, groups=self.in_channels)(x)
        return Convolution("predict", self.out_channels, norm=False)(Activate("relu6")(x))


@dataclass(frozen=True)
class ExtraFeatures(Layer):
    """Features at half the height and width: a 1x1 convolution, a depthwise 3x3 one of stride 2 and a 1x1 one, each
    with BatchNorm and ReLU6 (SSD, arXiv:1512.02325, figure 2, with a separable convolution as in MobileNetV2)."""

    in_channels: int
    hidden: int
    """Channels of the depthwise convolution."""
    out_channels: int
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        x = Activate("relu6")(Convolution("narrow", self.hidden)(x))
        x = Activate("relu6")(Convolution("depthwise", self.hidden, 3, 2, groups=self.hidden)(x))
        return Activate("relu6")(Convolution("widen", self.out_channels)(x))


_OF_SSDLITE: dict[str, Any] = {
    "reads": Sequence[Count],
    "extras": Border,
    "anchors": Parts,
    "channels": Sequence[Count],
    "kernels": Sequence[Window],
}
"""Annotations of the settings of `SSDLite`, with their bounds."""


class SSDLite:
    """Single-shot detector with separable predictors, a head for object detection.

    Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, arXiv:1512.02325; Sandler et al., "MobileNetV2", CVPR
    2018, arXiv:1801.04381, section 6.2. Boxes are predicted from several maps of features, finest first: the results of
    the stages that are read, the deepest features, and ones of half the size of those before, again and again.

    Outputs: for map m, ``scores<m>`` (anchors * (classes + 1), h, w), where class 0 is the background, and ``boxes<m>``
    (anchors * 4, h, w). An anchor's numbers follow each other. The maps are not joined, so that their shapes say where
    anchors are, a device need not transpose them, and each has a scale of its own in integers.

    Choices: ``head.channels``, the width of the extra features; ``head.kernel``, that of all predictors.

    Args:
        classes: of objects, without the background.
        reads: stages that are read, ascending; none: the deepest features are the finest map.
        extras: number of maps behind the deepest features.
        anchors: boxes per place of a map that predictions are relative to.
        channels: of the extra features to choose from, ascending; the hidden ones are half as many.
        kernels: of the predictors' depthwise convolutions to choose from, ascending and odd.
        stages: how many stages the backbone has.
    """

    def __init__(
        self,
        *,
        classes: int,
        reads: Sequence[int],
        extras: int,
        anchors: int,
        channels: Sequence[int],
        kernels: Sequence[int],
        stages: int,
    ) -> None:
        given = {"reads": reads, "extras": extras, "anchors": anchors, "channels": channels, "kernels": kernels}
        check_settings("the head SSDLite", given, _OF_SSDLITE)
        for name, values, most in (("reads", reads, stages), ("channels", channels, LARGEST), ("kernels", kernels, 99)):
            empty = not values and name != "reads"
            if empty or list(values) != sorted(set(values)) or max(values, default=0) > most:
                raise InvalidValueError(
                    f"`{name}` of the head SSDLite must be integers that ascend, at most {most}, but got "
                    f"{list(values)}."
                )
        if any(kernel % 2 == 0 for kernel in kernels):
            raise InvalidValueError(f"`kernels` of the head SSDLite must be odd, but got {list(kernels)}.")
        self._reads, self._extras, self._anchors = tuple(reads), extras, anchors
        self._classes, self._channels, self._kernels = classes, tuple(channels), tuple(kernels)
        self._maps = len(self._reads) + 1 + extras

    @property
    def outputs(self) -> Mapping[str, str]:
        return {f"{kind}{m}": f"head_{kind}{m}" for m in range(1, self._maps + 1) for kind in ("scores", "boxes")}

    @property
    def choices(self) -> Sequence[Choice]:
        offered = (("head.channels", self._channels if self._extras else ()), ("head.kernel", self._kernels))
        return [Choice(name, values) for name, values in offered if len(values) > 1]

    def positions(self, stages: Sequence[str], last: str) -> Sequence[Position]:
        width = ("head.channels",) if len(self._channels) > 1 else ()
        kernel = ("head.kernel",) if len(self._kernels) > 1 else ()
        extras = [f"head_extra{number}" for number in range(1, self._extras + 1)]
        found = [
            Position(name, ("resolution", *width), (before,))
            for before, name in zip([last, *extras], extras, strict=False)
        ]
        for m, source in enumerate([*(stages[stage - 1] for stage in self._reads), last, *extras], 1):
            needed = ("resolution", *(width if source in extras else ()), *kernel)
            found += [Position(f"head_{kind}{m}", needed, (source,)) for kind in ("scores", "boxes")]
        return found

    def layer(self, position: str, values: Mapping[str, Value], stages: Sequence[Feature], last: Feature) -> Layer:
        channels = values.get("head.channels", self._channels[0])
        kernel = values.get("head.kernel", self._kernels[0])
        assert isinstance(channels, int) and isinstance(kernel, int)
        maps = [*(stages[stage - 1] for stage in self._reads), last]
        for number in range(1, self._extras + 1):
            maps.append(Feature(f"head_extra{number}", channels, strided(maps[-1].size, 2)))
        if position.startswith("head_extra"):
            before = maps[len(self._reads) + int(position.removeprefix("head_extra")) - 1]
            return ExtraFeatures(before.channels, make_divisible(channels / 2), channels, before.size)
        scores = position.startswith("head_scores")
        read = maps[int(position.removeprefix("head_scores" if scores else "head_boxes")) - 1]
        return SeparablePredictor(
            read.channels, self._anchors * (self._classes + 1 if scores else 4), kernel, read.size
        )


HEADS: dict[str, Callable[..., Head]] = {"LRASPP": LRASPP, "SSDLite": SSDLite}
"""Heads by the ``kind`` that a space names."""


def head_of(given: Mapping[str, Any], classes: int, stages: int) -> Head:
    """The head that a space states.

    Args:
        given: ``kind``, and the settings of the head.
        classes: of the space.
        stages: how many stages its backbone has.

    Raises:
        InvalidValueError: there is no such head, or its settings are wrong.
    """
    settings = {name: value for name, value in given.items() if name != "kind"}
    kind = HEADS.get(given.get("kind", ""))
    if kind is None:
        raise InvalidValueError(f"`head` has a `kind`, which is {' or '.join(HEADS)}, but got {dict(given)}.")
    try:
        return kind(classes=classes, stages=stages, **settings)
    except TypeError as error:
        raise InvalidValueError(f"The head {given['kind']} does not have these settings: {error}.") from error

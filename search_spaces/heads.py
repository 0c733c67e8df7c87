"""Heads of networks that give something else than classes of the whole image, behind the stages of a backbone.

A head is part of a space: it has choices, positions and layers of its own, and reads what the stages give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from search_spaces.architecture import Choice, Condition, Position, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import LARGEST, Count, check_settings
from search_spaces.layers import Layer, Size, image_shape
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


HEADS = {"LRASPP": LRASPP}
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

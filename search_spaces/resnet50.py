"""Once-for-all ResNet50: elastic resolution, depth, width and expand ratio.

Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020, arXiv:1908.09791,
whose ResNet50 was published with the code. The network is ResNet50-D of He et al., "Bag of Tricks for Image
Classification with Convolutional Neural Networks", CVPR 2019, arXiv:1812.01187: a stem of three convolutions, of which
the second is elastic here and has a shortcut, and average pooling before the convolution of a shortcut.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from search_spaces.architecture import Choice, Condition, Position, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import Count, Parts, Window, check_settings
from search_spaces.layers import (
    Bottleneck,
    Conv,
    Layer,
    LinearClassifier,
    MaxPool,
    ResidualConv,
    check_resolutions,
    make_divisible,
    size_of,
    strided,
)
from search_spaces.space import SearchSpace

_OF_STAGE: dict[str, Any] = {"channels": Count, "stride": Window, "depths": Sequence[Parts]}
"""Annotations of the settings of a stage, with their bounds."""


class ResNet50(SearchSpace):
    """A deep stem, max pooling, stages of elastic bottlenecks and a linear classifier.

    Choices, besides ``resolution``: ``stem_width`` and ``stem_depth`` are the channels between the stem's convolutions
    and how many (0 or 1) convolutions with a shortcut stand there; ``width.0`` and ``width.<stage>`` are the channels
    that the stem and a stage give; ``depth.<stage>`` is a stage's number of blocks and ``expand.<stage>.<block>`` the
    hidden channels of a block in per cent of its output's.

    Args:
        name: of the space.
        resolutions: heights (= widths) of the input image, or ``"192x256"``, height x width, with ever more pixels.
        in_channels: of the image.
        classes: number of classes.
        stem: channels of the stem at full width; half as many between its convolutions.
        stages: per stage ``channels`` at full width, ``stride`` (of its first block) and ``depths`` (how many blocks it
            can have, ascending).
        widths: multipliers of the channels in per cent, ascending; channels are rounded to multiples of 8, and what is
            equal then is one value of the choice.
        expands: hidden channels in per cent of a block's output channels, ascending.
    """

    def __init__(
        self,
        *,
        name: str,
        resolutions: Sequence[Value],
        in_channels: int,
        classes: int,
        stem: int,
        stages: Sequence[Mapping[str, Any]],
        widths: Sequence[int],
        expands: Sequence[int],
    ) -> None:
        if not stages:
            raise InvalidValueError(f"`stages` of space {name!r} must not be empty.")
        for stage in stages:
            if set(stage) != {"channels", "stride", "depths"}:
                raise InvalidValueError(
                    f"A stage has channels, stride and depths, but got {sorted(stage)} in space {name!r}."
                )
            if stage["stride"] not in (1, 2):
                raise InvalidValueError(
                    f"`stride` of a stage of space {name!r} must be 1 or 2, but got {stage['stride']}."
                )
            check_settings(f"a stage of space {name!r}", stage, _OF_STAGE)
        check_settings(f"space {name!r}", {"stem": stem}, {"stem": Count})
        depths = [list(stage["depths"]) for stage in stages]
        check_resolutions(name, resolutions)
        ascending = {"widths": list(widths), "expands": list(expands)}
        for key, values in [*ascending.items(), *(("depths", values) for values in depths)]:
            if not values or any(type(v) is not int or v < 1 for v in values) or values != sorted(set(values)):
                raise InvalidValueError(
                    f"`{key}` of space {name!r} must be integers that ascend from 1 or more, but got {values}."
                )
        self.in_channels = in_channels
        self.classes = classes
        self._strides = [int(stage["stride"]) for stage in stages]
        stem_widths = _scaled(stem, widths)
        narrow_widths = _distinct(make_divisible(channels // 2) for channels in stem_widths)

        choices = [
            Choice("resolution", tuple(resolutions)),
            Choice("stem_width", narrow_widths),
            Choice("stem_depth", (0, 1)),
            Choice("width.0", stem_widths),
        ]
        positions = [
            Position("stem_first", ("resolution", "stem_width")),
            Position("stem_residual", ("resolution", "stem_width", "stem_depth")),
            Position("stem_last", ("resolution", "stem_width", "width.0")),
            Position("stem_pool", ("resolution", "width.0")),
        ]
        for s, stage in enumerate(stages, 1):
            stage_widths = _scaled(stage["channels"], widths)
            for channels in stage_widths:
                hidden = [_hidden(channels, expand) for expand in expands]
                if len(set(hidden)) < len(hidden):
                    raise InvalidValueError(
                        f"`expands` of space {name!r} must give distinct hidden channels, but {list(expands)} % of "
                        f"{channels} channels are {hidden}. Leave one out."
                    )
            choices += [Choice(f"width.{s}", stage_widths), Choice(f"depth.{s}", tuple(depths[s - 1]))]
            for b in range(1, max(depths[s - 1]) + 1):
                deep_enough = tuple(depth for depth in depths[s - 1] if depth >= b)
                condition = None if b <= min(depths[s - 1]) else Condition(f"depth.{s}", deep_enough)
                choices.append(Choice(f"expand.{s}.{b}", tuple(expands), condition))
                depends_on = ["resolution", f"width.{s}", f"expand.{s}.{b}"]
                if b == 1:
                    depends_on.insert(1, f"width.{s - 1}")
                if condition is not None:
                    depends_on.insert(1, f"depth.{s}")
                positions.append(Position(f"stage{s}_block{b}", tuple(depends_on)))
        positions.append(Position("classifier", ("resolution", f"width.{len(stages)}")))
        settings = {
            "resolutions": list(resolutions),
            **ascending,
            "in_channels": in_channels,
            "classes": classes,
            "stem": stem,
            "stages": [{**stage, "depths": values} for stage, values in zip(stages, depths, strict=True)],
        }
        super().__init__(name, settings, choices, positions)

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        sizes = {name: value for name, value in values.items() if isinstance(value, int)}
        size = size_of(values["resolution"])
        if position == "stem_first":
            return Conv(self.in_channels, sizes["stem_width"], 3, 2, "relu", size)
        size = strided(size, 2)
        if position == "stem_residual":
            return ResidualConv(sizes["stem_width"], 3, "relu", size) if sizes["stem_depth"] else None
        if position == "stem_last":
            return Conv(sizes["stem_width"], sizes["width.0"], 3, 1, "relu", size)
        if position == "stem_pool":
            return MaxPool(sizes["width.0"], 3, 2, size)
        size = strided(size, 2)
        if position.startswith("stage"):
            s, b = (int(number) for number in position.removeprefix("stage").split("_block"))
            if b > sizes.get(f"depth.{s}", b):
                return None
            for stride in self._strides[: s - 1 if b == 1 else s]:
                size = strided(size, stride)
            return Bottleneck(
                in_channels=sizes[f"width.{s - 1 if b == 1 else s}"],
                out_channels=sizes[f"width.{s}"],
                hidden=_hidden(sizes[f"width.{s}"], sizes[f"expand.{s}.{b}"]),
                projects=b == 1,
                stride=self._strides[s - 1] if b == 1 else 1,
                activation="relu",
                size=size,
            )
        for stride in self._strides:
            size = strided(size, stride)
        return LinearClassifier(sizes[f"width.{len(self._strides)}"], self.classes, size)


def _scaled(channels: int, widths: Sequence[int]) -> tuple[int, ...]:
    """Channels at each width, equal ones once."""
    return _distinct(make_divisible(channels * width / 100) for width in widths)


def _hidden(channels: int, expand: int) -> int:
    return make_divisible(round(channels * expand / 100))


def _distinct(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(values))

"""MobileNetV4's convolutional space: universal and fused inverted bottlenecks.

Qin et al., "MobileNetV4 -- Universal Models for the Mobile Ecosystem", ECCV 2024, arXiv:2404.10518. There is a YAML
with the channels and strides of each published network, which is one network of that space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.architecture import Choice, Condition, Position, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import Count, Parts, Window, check_settings
from search_spaces.layers import (
    UIB,
    Conv,
    FusedMBConv,
    Layer,
    NormClassifier,
    Size,
    check_resolutions,
    make_divisible,
    size_of,
    strided,
)
from search_spaces.ops.activation import Activation
from search_spaces.space import SearchSpace

STAGE_KEYS = {"block", "channels", "stride", "depths", "kernels", "expands"}

DEPTHWISE: Mapping[str, tuple[bool, bool]] = {
    "ffn": (False, False),
    "convnext": (True, False),
    "inverted": (False, True),
    "extra": (True, True),
}
"""Instance of the universal inverted bottleneck (the paper's figure 4) -> whether it has a starting and a middle
depthwise convolution."""


_OF_STAGE: dict[str, Any] = {
    "channels": Count,
    "stride": Window,
    "out_activation": Activation,
    "depths": Sequence[Parts],
}
_OF_STAGE |= {"kernels": Sequence[Window], "expands": Sequence[Window]}
"""Annotations of the settings of a stage, with their bounds."""


class MobileNetV4(SearchSpace):
    """A stem, stages of elastic blocks, an expanding convolution and the classifier.

    Choices, besides ``resolution``: ``depth.<stage>`` is a stage's number of blocks. Every block has
    ``expand.<stage>.<block>``, the ratio of hidden to input channels; a fused one has ``kernel.<stage>.<block>``; a
    universal one has ``block.<stage>.<block>``, which of its instances it is, and ``start.<stage>.<block>`` and
    ``middle.<stage>.<block>``, the kernel sizes of the depthwise convolutions that this instance has. A block with a
    stride cannot be ``ffn``, which has no depthwise convolution that could carry it.

    Args:
        name: of the space.
        resolutions: heights (= widths) of the input image, or ``"192x256"``, height x width, with ever more pixels.
        in_channels: of the image.
        classes: number of classes.
        stem: channels of the stem.
        stages: per stage ``block`` ("uib" or "fused"), ``channels``, ``stride`` (of its first block), ``depths`` (how
            many blocks it can have), ``kernels`` and ``expands``, each ascending; a fused stage may state its
            ``out_activation`` (default "none").
        last_channels: channels of the expanding convolution.
        features: width of the hidden layer of the classifier.
        stem_stride: stride of the stem.
        activation: of all layers.
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
        last_channels: int,
        features: int,
        stem_stride: int = 2,
        activation: Activation = "relu",
    ) -> None:
        if not stages:
            raise InvalidValueError(f"`stages` of space {name!r} must not be empty.")
        check_resolutions(name, resolutions)
        self._stages = [_checked_stage(name, stage) for stage in stages]
        self.in_channels = in_channels
        self.classes = classes
        self._stem = stem
        self._stem_stride = stem_stride
        self._last_channels = last_channels
        self._features = features
        self._activation: Activation = activation
        settings = {
            "resolutions": list(resolutions),
            "in_channels": in_channels,
            "classes": classes,
            "stem": stem,
            "stages": self._stages,
            "last_channels": last_channels,
            "features": features,
            "stem_stride": stem_stride,
            "activation": activation,
        }

        choices = [Choice("resolution", tuple(resolutions))]
        positions = [Position("stem", ("resolution",))]
        for s, stage in enumerate(self._stages, 1):
            depths = stage["depths"]
            choices.append(Choice(f"depth.{s}", tuple(depths)))
            for b in range(1, max(depths) + 1):
                self._check_hidden(s, b)
                there = None if b <= min(depths) else Condition(f"depth.{s}", tuple(d for d in depths if d >= b))
                block = _block_choices(stage, s, b, there)
                choices += block
                depends_on = ["resolution"] + ([] if there is None else [f"depth.{s}"])
                positions.append(Position(f"stage{s}_block{b}", (*depends_on, *(choice.name for choice in block))))
        positions += [Position("last", ("resolution",)), Position("classifier", ("resolution",))]
        super().__init__(name, settings, choices, positions)

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        size = size_of(values["resolution"])
        if position == "stem":
            return Conv(self.in_channels, self._stem, 3, self._stem_stride, self._activation, size)
        size = strided(size, self._stem_stride)
        if position.startswith("stage"):
            s, b = (int(number) for number in position.removeprefix("stage").split("_block"))
            if b > _int(values.get(f"depth.{s}", b)):
                return None
            return self._block(s, b, size, values)
        for stage in self._stages:
            size = strided(size, int(stage["stride"]))
        last = int(self._stages[-1]["channels"])
        if position == "last":
            return Conv(last, self._last_channels, 1, 1, self._activation, size)
        return NormClassifier(self._last_channels, self._features, self.classes, self._activation, size)

    def _block(self, s: int, b: int, size: Size, values: Mapping[str, Value]) -> Layer:
        stage = self._stages[s - 1]
        for earlier in self._stages[: s - 1] + ([stage] if b > 1 else []):
            size = strided(size, int(earlier["stride"]))
        inputs, outputs = self._inputs(s, b), int(stage["channels"])
        hidden = make_divisible(inputs * _int(values[f"expand.{s}.{b}"]))
        stride = int(stage["stride"]) if b == 1 else 1
        if stage["block"] == "fused":
            kernel = _int(values[f"kernel.{s}.{b}"])
            return FusedMBConv(inputs, outputs, hidden, kernel, stride, self._activation, stage["out_activation"], size)
        start, middle = DEPTHWISE[str(values[f"block.{s}.{b}"])]
        return UIB(
            in_channels=inputs,
            out_channels=outputs,
            hidden=hidden,
            start_kernel=_int(values[f"start.{s}.{b}"]) if start else 0,
            middle_kernel=_int(values[f"middle.{s}.{b}"]) if middle else 0,
            stride=stride,
            activation=self._activation,
            size=size,
        )

    def _inputs(self, s: int, b: int) -> int:
        if b > 1:
            return int(self._stages[s - 1]["channels"])
        return int(self._stages[s - 2]["channels"]) if s > 1 else self._stem

    def _check_hidden(self, s: int, b: int) -> None:
        """Equal hidden channels would make two architectures one network."""
        expands, inputs = self._stages[s - 1]["expands"], self._inputs(s, b)
        hidden = [make_divisible(inputs * expand) for expand in expands]
        if len(set(hidden)) < len(hidden):
            raise InvalidValueError(
                f"`expands` must give distinct hidden channels, but {expands} times {inputs} channels are {hidden}."
            )


def _block_choices(stage: Mapping[str, Any], s: int, b: int, there: Condition | None) -> list[Choice]:
    kernels = tuple(stage["kernels"])
    expand = Choice(f"expand.{s}.{b}", tuple(stage["expands"]), there)
    if stage["block"] == "fused":
        return [Choice(f"kernel.{s}.{b}", kernels, there), expand]
    shrinks = b == 1 and stage["stride"] > 1
    instances = [name for name, depthwise in DEPTHWISE.items() if any(depthwise) or not shrinks]
    kinds = Choice(f"block.{s}.{b}", tuple(instances), there)
    starting, middle = (
        Condition(kinds.name, tuple(name for name in instances if DEPTHWISE[name][which])) for which in (0, 1)
    )
    return [
        kinds,
        Choice(f"start.{s}.{b}", kernels, starting),
        Choice(f"middle.{s}.{b}", kernels, middle),
        expand,
    ]


def _checked_stage(name: str, stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage as plain data with every key.

    Raises:
        InvalidValueError: a key is missing or unknown, or a value cannot be.
    """
    optional = {"out_activation"} if stage.get("block") == "fused" else set()
    if not STAGE_KEYS <= set(stage) <= STAGE_KEYS | optional:
        raise InvalidValueError(
            f"A stage has {sorted(STAGE_KEYS)}, and out_activation if it is fused, but got {sorted(stage)} in space "
            f"{name!r}."
        )
    if stage["block"] not in ("uib", "fused"):
        raise InvalidValueError(f"`block` of a stage can be 'uib' or 'fused', but got {stage['block']!r} in {name!r}.")
    for key in ("depths", "kernels", "expands"):
        _check_ascending(name, key, stage[key])
    if any(kernel % 2 == 0 for kernel in stage["kernels"]):
        raise InvalidValueError(f"`kernels` of space {name!r} must be odd, but got {list(stage['kernels'])}.")
    check_settings(f"a stage of space {name!r}", stage, _OF_STAGE)
    plain = {key: value if isinstance(value, int | str) else list(value) for key, value in stage.items()}
    return {"out_activation": "none", **plain} if stage["block"] == "fused" else plain


def _check_ascending(name: str, key: str, values: Sequence[int]) -> None:
    plain = list(values)
    if not plain or any(type(v) is not int or v < 1 for v in plain) or plain != sorted(set(plain)):
        raise InvalidValueError(
            f"`{key}` of space {name!r} must be integers that ascend from 1 or more, but got {plain}."
        )


def _int(value: Value) -> int:
    assert isinstance(value, int)
    return value

"""Once-for-all's spaces of inverted residuals: elastic resolution, depth, kernel size and expand ratio.

Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020, arXiv:1908.09791;
blocks of Howard et al., "Searching for MobileNetV3", ICCV 2019, arXiv:1905.02244. One class serves a space for tiny
images, the two published ones around MobileNetV3, and the published one around ProxylessNAS (Cai et al., ICLR 2019,
arXiv:1812.00332), which is the same without h-swish, squeeze-and-excitation and the hidden linear layer; the numbers
stand in the YAML of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.architecture import Choice, Condition, Position, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import Count, Multiple, Parts, Window, check_settings
from search_spaces.heads import Feature, head_of
from search_spaces.layers import (
    Classifier,
    Conv,
    Layer,
    LinearClassifier,
    MBConv,
    check_resolutions,
    make_divisible,
    size_of,
    strided,
)
from search_spaces.ops.activation import Activation
from search_spaces.space import SearchSpace

_OF_STAGE: dict[str, Any] = {
    "channels": Count,
    "stride": Window,
    "squeeze": bool,
    "activation": Activation,
    "depths": Sequence[Parts],
}
"""Annotations of the settings of a stage, with their bounds."""

_OF_SPACE: dict[str, Any] = {
    "stem": Count,
    "stem_stride": Window,
    "first": Count | None,
    "last_channels": Count,
    "features": Count | None,
    "width": Multiple,
    "mix_bias": bool,
    "depths": Sequence[Parts],
    "kernels": Sequence[Window],
    "expands": Sequence[Window],
}
"""Annotations of settings, with their bounds."""


class MobileNetV3(SearchSpace):
    """A stem, one fixed block, stages of elastic blocks, an expanding convolution and the classifier or another head.

    Args:
        name: of the space.
        resolutions: heights (= widths) of the input image, or ``"192x256"``, height x width, with ever more pixels.
        in_channels: of the image.
        classes: number of classes.
        stem: channels of the stem.
        stem_stride: stride of the stem.
        stages: per stage ``channels``, ``stride`` (of its first block), ``squeeze`` (squeeze-and-excitation) and
            ``activation``; optionally its own ``depths``.
        depths: how many blocks a stage can have, ascending.
        kernels: kernel sizes of the depthwise convolutions, ascending and odd.
        expands: ratios of hidden to input channels, ascending.
        last_channels: channels of the expanding convolution.
        features: width of the hidden linear layer; null: there is none.
        mix_bias: whether the hidden linear layer has a bias; once-for-all's has none.
        width: multiplies all channels, rounded to multiples of 8.
        first: channels of the fixed block behind the stem; null: as many as the stem.
        stem_activation: activation of the stem.
        first_activation: activation of the fixed block.
        last_activation: activation of the expanding convolution and of the hidden linear layer.
        norm_eps: what BatchNorm adds to the variance.
        head: instead of the classifier, see `search_spaces.heads`: ``kind`` and the settings of that head, such as
            ``{kind: LRASPP, channels: [32, 64], reads: [1, 2]}`` for semantic segmentation; null: the classifier.
    """

    def __init__(
        self,
        *,
        name: str,
        resolutions: Sequence[Value],
        in_channels: int,
        classes: int,
        stem: int,
        stem_stride: int,
        stages: Sequence[Mapping[str, Any]],
        depths: Sequence[int],
        kernels: Sequence[int],
        expands: Sequence[int],
        last_channels: int,
        features: int | None,
        mix_bias: bool = True,
        width: float = 1.0,
        first: int | None = None,
        stem_activation: Activation = "h_swish",
        first_activation: Activation = "relu",
        last_activation: Activation = "h_swish",
        norm_eps: float = 1e-5,
        head: Mapping[str, Any] | None = None,
    ) -> None:
        settings = {key: value for key, value in locals().items() if key not in ("self", "name", "head", "__class__")}
        settings = {k: [dict(s) for s in v] if k == "stages" else _plain(v) for k, v in settings.items()}
        if head is not None:  # spaces of before have no such setting in their identity
            settings["head"] = {key: _plain(value) for key, value in head.items()}
        check_resolutions(name, resolutions)
        for key in ("depths", "kernels", "expands"):
            _check_ascending(name, key, settings[key])
        if any(kernel % 2 == 0 for kernel in kernels):
            raise InvalidValueError(f"`kernels` of space {name!r} must be odd, but got {list(kernels)}.")
        if not stages:
            raise InvalidValueError(f"`stages` of space {name!r} must not be empty.")
        for stage in stages:
            if set(stage) - {"depths"} != {"channels", "stride", "squeeze", "activation"}:
                raise InvalidValueError(
                    "A stage has channels, stride, squeeze and activation, and can have depths, but got "
                    f"{sorted(stage)} in space {name!r}."
                )
            _check_ascending(name, "depths", _plain(stage.get("depths", depths)))
            check_settings(f"a stage of space {name!r}", stage, _OF_STAGE)
        check_settings(f"space {name!r}", settings, _OF_SPACE)
        if not norm_eps > 0:
            raise InvalidValueError(f"`norm_eps` of space {name!r} must be positive, but got {norm_eps}.")
        self.in_channels = in_channels
        self.classes = classes
        self.norm_eps = norm_eps
        self._stages = [dict(stage) for stage in stages]
        self._stem = make_divisible(stem * width)
        self._stem_stride = stem_stride
        self._stem_activation: Activation = stem_activation
        self._first = make_divisible((stem if first is None else first) * width)
        self._first_activation: Activation = first_activation
        self._channels = [make_divisible(stage["channels"] * width) for stage in stages]
        self._last_channels = make_divisible(last_channels * width)
        self._last_activation: Activation = last_activation
        self._features = None if features is None else make_divisible(features * width)
        self._mix_bias = mix_bias
        self.hidden_layer = features is not None
        self.depths = [tuple(stage.get("depths", depths)) for stage in stages]

        choices = [Choice("resolution", tuple(resolutions))]
        positions = [Position("stem", ("resolution",)), Position("first", ("resolution",))]
        for s, stage_depths in enumerate(self.depths, 1):
            choices.append(Choice(f"depth.{s}", stage_depths))
            for b in range(1, max(stage_depths) + 1):
                deep_enough = tuple(depth for depth in stage_depths if depth >= b)
                condition = None if b <= min(stage_depths) else Condition(f"depth.{s}", deep_enough)
                choices.append(Choice(f"kernel.{s}.{b}", tuple(kernels), condition))
                choices.append(Choice(f"expand.{s}.{b}", tuple(expands), condition))
                depends_on = ["resolution", f"kernel.{s}.{b}", f"expand.{s}.{b}"]
                if condition is not None:
                    depends_on.insert(1, f"depth.{s}")
                positions.append(Position(f"stage{s}_block{b}", tuple(depends_on)))
        positions.append(Position("last", ("resolution",)))
        self._head = None if head is None else head_of(head, classes, len(stages))
        if self._head is None:
            positions.append(Position("classifier", ("resolution",)))
            super().__init__(name, settings, choices, positions)
            return
        if features is not None:
            raise InvalidValueError(f"`features` of space {name!r} is of the classifier; with a `head` it is null.")
        ends = [f"stage{s}_block{max(stage_depths)}" for s, stage_depths in enumerate(self.depths, 1)]
        choices += self._head.choices
        positions += self._head.positions(ends, "last")
        super().__init__(name, settings, choices, positions, outputs=self._head.outputs)

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        size = size_of(values["resolution"])
        if position == "stem":
            return Conv(self.in_channels, self._stem, 3, self._stem_stride, self._stem_activation, size)
        size = strided(size, self._stem_stride)
        if position == "first":
            return MBConv(self._stem, self._first, self._stem, False, 3, 1, 0, self._first_activation, size)
        if position.startswith("stage"):
            s, b = (int(number) for number in position.removeprefix("stage").split("_block"))
            if b > _int(values.get(f"depth.{s}", b)):
                return None
            stage = self._stages[s - 1]
            for earlier in self._stages[: s - 1] + ([stage] if b > 1 else []):
                size = strided(size, int(earlier["stride"]))
            inputs = self._channels[s - 1] if b > 1 else ([self._first, *self._channels])[s - 1]
            hidden = make_divisible(inputs * _int(values[f"expand.{s}.{b}"]))
            return MBConv(
                in_channels=inputs,
                out_channels=self._channels[s - 1],
                hidden=hidden,
                expands=True,
                kernel=_int(values[f"kernel.{s}.{b}"]),
                stride=int(stage["stride"]) if b == 1 else 1,
                squeeze=make_divisible(hidden // 4) if stage["squeeze"] else 0,
                activation=stage["activation"],
                size=size,
            )
        stages = []
        for s, (stage, channels) in enumerate(zip(self._stages, self._channels, strict=True), 1):
            size = strided(size, int(stage["stride"]))
            stages.append(Feature(f"stage{s}_block{max(self.depths[s - 1])}", channels, size))
        if self._head is not None and position != "last":
            return self._head.layer(position, values, stages, Feature("last", self._last_channels, size))
        if position == "last":
            return Conv(self._channels[-1], self._last_channels, 1, 1, self._last_activation, size)
        if self._features is None:
            return LinearClassifier(self._last_channels, self.classes, size)
        activation = self._last_activation
        return Classifier(self._last_channels, self._features, self.classes, activation, size, self._mix_bias)


def _check_ascending(name: str, key: str, values: list[Any]) -> None:
    if not values or any(type(v) is not int or v < 1 for v in values) or values != sorted(set(values)):
        raise InvalidValueError(
            f"`{key}` of space {name!r} must be integers that ascend from 1 or more, but got {values}."
        )


def _int(value: Value) -> int:
    assert isinstance(value, int)
    return value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value

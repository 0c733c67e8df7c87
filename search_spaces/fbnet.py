"""FBNet's space: 22 layers, each one of nine operations.

Wu et al., "FBNet: Hardware-Aware Efficient ConvNet Design via Differentiable Neural Architecture Search", CVPR 2019,
arXiv:1812.03443. HW-NAS-Bench (Li et al., ICLR 2021, arXiv:2103.10584) and HELP (Lee et al., NeurIPS 2021,
arXiv:2106.08630) publish latencies of the same space for 32-pixel images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.architecture import Architecture, Choice, Condition, Position, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import Count, Parts, Window, check_settings
from search_spaces.layers import Conv, FBNetBlock, Layer, LinearClassifier, Size, check_resolutions, size_of, strided
from search_spaces.space import SearchSpace

SKIP = "skip"

BLOCKS: Mapping[str, tuple[int, int, int]] = {
    "k3_e1_g2": (3, 1, 2),
    "k3_e1": (3, 1, 1),
    "k5_e1_g2": (5, 1, 2),
    "k5_e1": (5, 1, 1),
    "k3_e3": (3, 3, 1),
    "k5_e3": (5, 3, 1),
    "k3_e6": (3, 6, 1),
    "k5_e6": (5, 6, 1),
}
"""Operation -> kernel size, expand ratio, groups of the 1x1 convolutions; smallest first."""

BENCHMARK_ORDER = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", SKIP)
"""Operations by the number that HW-NAS-Bench and HELP give them."""


_OF_STAGE: dict[str, Any] = {"channels": Count, "layers": Parts, "stride": Window}
"""Annotations of the settings of a stage, with their bounds."""


class FBNet(SearchSpace):
    """A stem, stages of layers, an expanding convolution and the classifier.

    Where a layer keeps the shape, skipping leaves it out, so which of a stage's layers are skipped makes no difference,
    only how many: ``depth.<stage>`` is the number of a stage's layers that are there, and ``op.<stage>.<layer>`` the
    operation of each, never "skip". The first layer of a stage that changes the shape is always there; "skip" is then a
    1x1 convolution with BatchNorm and ReLU, as in HW-NAS-Bench. `of_operations` reads the 22 operations of the papers.

    Args:
        name: of the space.
        resolutions: heights (= widths) of the input image, or ``"192x256"``, height x width, with ever more pixels.
        in_channels: of the image.
        classes: number of classes.
        stem: channels of the stem.
        stem_stride: stride of the stem.
        stages: per stage ``channels``, ``layers`` (how many at most) and ``stride`` (of the first).
        last_channels: channels of the expanding convolution.
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
        stages: Sequence[Mapping[str, int]],
        last_channels: int,
    ) -> None:
        check_resolutions(name, resolutions)
        if not stages:
            raise InvalidValueError(f"`stages` of space {name!r} must not be empty.")
        for stage in stages:
            if set(stage) != {"channels", "layers", "stride"} or min(stage.values()) < 1:
                raise InvalidValueError(
                    f"A stage has channels, layers and stride, all positive, but got {dict(stage)} in space {name!r}."
                )
            check_settings(f"a stage of space {name!r}", stage, _OF_STAGE)
        self.in_channels = in_channels
        self.classes = classes
        self._stem = stem
        self._stem_stride = stem_stride
        self._stages = [dict(stage) for stage in stages]
        self._last_channels = last_channels
        settings: dict[str, Any] = {
            "resolutions": list(resolutions),
            "in_channels": in_channels,
            "classes": classes,
            "stem": stem,
            "stem_stride": stem_stride,
            "stages": self._stages,
            "last_channels": last_channels,
        }

        choices = [Choice("resolution", tuple(resolutions))]
        positions = [Position("stem", ("resolution",))]
        for s, stage in enumerate(self._stages, 1):
            fixed = int(self._changes_shape(s, 1))
            depths = tuple(range(fixed, stage["layers"] + 1))
            if len(depths) > 1:
                choices.append(Choice(f"depth.{s}", depths))
            for b in range(1, stage["layers"] + 1):
                operation = f"op.{s}.{b}"
                if b <= fixed:
                    choices.append(Choice(operation, (SKIP, *BLOCKS)))
                    # A position of its own, because a position holds layers of one kind.
                    positions.append(Position(f"stage{s}_skip", ("resolution", operation)))
                    positions.append(Position(f"stage{s}_layer{b}", ("resolution", operation)))
                else:
                    deep_enough = Condition(f"depth.{s}", tuple(depth for depth in depths if depth >= b))
                    choices.append(Choice(operation, tuple(BLOCKS), deep_enough))
                    positions.append(Position(f"stage{s}_layer{b}", ("resolution", f"depth.{s}", operation)))
        positions += [Position("last", ("resolution",)), Position("classifier", ("resolution",))]
        super().__init__(name, settings, choices, positions)

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        size = size_of(values["resolution"])
        if position == "stem":
            return Conv(self.in_channels, self._stem, 3, self._stem_stride, "relu", size)
        size = strided(size, self._stem_stride)
        if position.startswith("stage"):
            stage, _, place = position.removeprefix("stage").partition("_")
            return self._stage_layer(int(stage), place, size, values)
        for entry in self._stages:
            size = strided(size, entry["stride"])
        if position == "last":
            return Conv(self._stages[-1]["channels"], self._last_channels, 1, 1, "relu", size)
        return LinearClassifier(self._last_channels, self.classes, size)

    def _stage_layer(self, s: int, place: str, size: Size, values: Mapping[str, Value]) -> Layer | None:
        b = 1 if place == SKIP else int(place.removeprefix("layer"))
        operation = str(values[f"op.{s}.{b}"])
        if b > _int(values.get(f"depth.{s}", b)) or (operation == SKIP) != (place == SKIP):
            return None
        stage = self._stages[s - 1]
        for earlier in self._stages[: s - 1] + ([stage] if b > 1 else []):
            size = strided(size, earlier["stride"])
        inputs, outputs, stride = self._inputs(s, b), stage["channels"], stage["stride"] if b == 1 else 1
        if operation == SKIP:
            return Conv(inputs, outputs, 1, stride, "relu", size)
        kernel, expand, groups = BLOCKS[operation]
        return FBNetBlock(inputs, outputs, inputs * expand, kernel, stride, groups, "relu", size)

    def _inputs(self, s: int, b: int) -> int:
        if b > 1:
            return self._stages[s - 1]["channels"]
        return self._stages[s - 2]["channels"] if s > 1 else self._stem

    def _changes_shape(self, s: int, b: int) -> bool:
        stage = self._stages[s - 1]
        return b == 1 and (stage["stride"] > 1 or self._inputs(s, b) != stage["channels"])

    def of_operations(self, operations: Sequence[int | str], resolution: Value | None = None) -> Architecture:
        """The network with these operations.

        Args:
            operations: one per layer (22 in the paper), from input to output, by name or by `BENCHMARK_ORDER`'s number.
            resolution: of the image; None: the largest.

        Raises:
            InvalidValueError: not as many operations as layers, or one that does not exist.
        """
        count = sum(stage["layers"] for stage in self._stages)
        if len(operations) != count:
            raise InvalidValueError(f"Space {self.name!r} has {count} layers, but got {len(operations)} operations.")
        names = iter([_operation_name(operation) for operation in operations])
        values: dict[str, Value] = {
            "resolution": self.choices[0].values[-1] if resolution is None else resolution,
        }
        for s, stage in enumerate(self._stages, 1):
            drawn = [next(names) for _ in range(stage["layers"])]
            kept = [name for b, name in enumerate(drawn, 1) if name != SKIP or self._changes_shape(s, b)]
            if f"depth.{s}" in self.index:
                values[f"depth.{s}"] = len(kept)
            values |= {f"op.{s}.{b}": name for b, name in enumerate(kept, 1)}
        return Architecture(self, self.genes_of(values))


def _operation_name(operation: int | str) -> str:
    if isinstance(operation, str) and operation in BENCHMARK_ORDER:
        return operation
    if not isinstance(operation, str) and operation == int(operation) and 0 <= operation < len(BENCHMARK_ORDER):
        return BENCHMARK_ORDER[int(operation)]
    raise InvalidValueError(f"An operation is 0 to 8 or one of {list(BENCHMARK_ORDER)}, but got {operation!r}.")


def _int(value: Value) -> int:
    assert isinstance(value, int)
    return value

"""Spaces of stages: a stem, stages of blocks and a head, each block one of several layer kinds with elastic fields.

A YAML says what is fixed and what can be chosen; where a list stands, its entries are the values of a choice:

    _target_: search_spaces.staged.Staged
    name: mine
    resolutions: [128, 160]
    in_channels: 3
    classes: 10
    blocks: [{kind: MBConv, kernel: [3, 5], expand: [3, 6]}, {kind: FusedMBConv, expand: [2, 4]}]
    depths: [1, 2, 3]
    stem: [{kind: Conv, channels: 16, stride: 2, kernel: 3}]
    stages:
      - {channels: [16, 24], stride: 2}
      - {channels: 48, stride: 2, depths: [2, 4]}
    head: [{kind: Conv, channels: 256, kernel: 1}, {kind: LinearClassifier}]

Choosing per stage, as here with ``per_block: false``, is the factorised hierarchical space of MnasNet (Tan et al., CVPR
2019, arXiv:1807.11626, section 4.1); choosing per block is once-for-all's way (arXiv:1908.09791).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_origin

from search_spaces.architecture import Architecture, Choice, Condition, Position, Value
from search_spaces.base import trust
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.names import closest
from search_spaces.base.values import FEW, LARGEST, described, fits, hints_of
from search_spaces.layers import (
    BlockPlace,
    Layer,
    Size,
    check_resolutions,
    image_shape,
    make_divisible,
    own_kinds,
    size_of,
    strided,
)
from search_spaces.ops.activation import Activation
from search_spaces.space import SearchSpace

SKIP = "skip"
"""Option of a block that leaves it out."""


@dataclass(frozen=True, eq=False)
class Option:
    """A layer kind that a block may be, with fixed values and values to choose from."""

    name: str
    kind: type[Layer]
    fixed: Mapping[str, Any]
    chosen: Mapping[str, tuple[Value, ...]]


@dataclass(frozen=True, eq=False)
class BlockStage:
    """Blocks of equal output: the first has the stride. A part of the stem or of the head is a stage of one block."""

    label: str
    """Number, or the name of a part of the stem or head."""
    channels: tuple[int, ...]
    """Channels of the output to choose from; (): as many as come in."""
    stride: int
    depths: tuple[int, ...]
    options: tuple[Option, ...]
    activation: Activation
    per_block: bool

    def own(self, what: str, block: int) -> str:
        """Name of a choice of a block, or of all blocks where they choose together."""
        return f"{what}.{self.label}.{block}" if self.per_block else f"{what}.{self.label}"

    def variants(self) -> Iterator[tuple[Option, dict[str, Value]]]:
        """All that a block can be: an option and the values of its choices."""
        for option in self.options:
            for values in itertools.product(*option.chosen.values()):
                yield option, dict(zip(option.chosen, values, strict=True))

    def choice_of(self, option: Option, key: str, block: int) -> str:
        """Name of the choice of a value: options that offer the same values share it."""
        offers = {other.chosen[key] for other in self.options if key in other.chosen}
        return self.own(key if len(offers) == 1 else f"{option.name}.{key}", block)


@dataclass(frozen=True, eq=False)
class Block:
    """A position: the number of the block in its stage, and the stages before that."""

    stage: BlockStage
    number: int
    before: tuple[BlockStage, ...]

    @property
    def source(self) -> BlockStage | None:
        """Stage that states the channels of the input; None: they are the image's."""
        return self.target if self.number > 1 else _stating(self.before)

    @property
    def target(self) -> BlockStage | None:
        """Stage that states the channels of the output."""
        return _stating((*self.before, self.stage))

    @functools.cached_property
    def choices(self) -> dict[Option, dict[str, str]]:
        """Names of the choices of each option's values."""
        return {
            option: {key: self.stage.choice_of(option, key, self.number) for key in option.chosen}
            for option in self.stage.options
        }

    @property
    def stride(self) -> int:
        """Stride of its layer."""
        return self.stage.stride if self.number == 1 else 1

    @functools.cache  # noqa: B019 - a block lives as long as its space
    def size(self, resolution: Value) -> Size:
        """Height and width of the input, given those of the image."""
        size = size_of(resolution)
        for stage in self.before + ((self.stage,) if self.number > 1 else ()):
            size = strided(size, stage.stride)
        return size


class Staged(SearchSpace):
    """A stem, stages of blocks and a head, as a YAML describes them.

    Choices, besides ``resolution``: ``width`` scales all channels; ``channels.<stage>`` and ``depth.<stage>`` are those
    of a stage; ``op.<stage>.<block>`` is the option that a block is, and ``<value>.<stage>.<block>`` a value of it,
    such as ``kernel.2.1``, shared by the options that offer the same values of it; where they differ it is
    ``<option>.<value>.<stage>.<block>``. A stage that chooses once for all its blocks has no ``<block>`` in these
    names. What can be one thing only is no choice.

    An option is a mapping: ``kind`` is a layer kind by name, or one of your own by its import path; the other keys are
    what its `Layer.of_stage` takes, one value or a list to choose from, smallest first. ``activation``, of kinds that
    have one, is that of the stage unless stated; ``name`` tells options of one kind apart. The option ``skip`` leaves a
    block out. As the blocks of a stage keep the shape, only how many are left out makes a difference: with it, a stage
    has all depths from 1 (0, if its ``depths`` begin there) to the largest.

    Args:
        name: of the space.
        resolutions: heights (= widths) of the input image, or ``"192x256"``, height x width, with ever more pixels.
        in_channels: of the image.
        classes: number of classes.
        stem: layers in front of the stages, each an option with ``channels`` (a list to choose from) and ``stride``.
        stages: per stage ``channels`` (a list to choose from) and ``stride`` (of the first block; 1); and, unless all
            stages have the same, ``blocks``, ``depths``, ``activation`` and ``per_block``.
        head: layers behind the stages, as the stem; the last one classifies.
        blocks: options of every block.
        depths: how many blocks a stage can have, ascending.
        activation: of all layers.
        per_block: True: every block chooses for itself; False: a stage chooses once for all its blocks.
        widths: multipliers of all channels in per cent, ascending; channels are rounded to multiples of 8.
        norm_eps: what BatchNorm adds to the variance.
        published: name -> network of the space in short, see `search_spaces.members`.
        baselines: name -> names of published networks that reports draw as one line.
    """

    def __init__(
        self,
        *,
        name: str,
        resolutions: Sequence[Value],
        in_channels: int,
        classes: int,
        stem: Sequence[Mapping[str, Any]],
        stages: Sequence[Mapping[str, Any]],
        head: Sequence[Mapping[str, Any]],
        blocks: Sequence[Mapping[str, Any] | str] = (),
        depths: Sequence[int] = (1,),
        activation: Activation = "relu",
        per_block: bool = True,
        widths: Sequence[int] = (100,),
        norm_eps: float = 1e-5,
        published: Mapping[str, Mapping[str, Any]] | None = None,
        baselines: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        given = {"stem": stem, "stages": stages, "head": head, "blocks": blocks, "depths": depths}
        settings = {
            **{key: _plain(value) for key, value in given.items()},
            **{"resolutions": list(resolutions), "in_channels": in_channels, "classes": classes},
            **{"activation": activation, "per_block": per_block, "widths": list(widths), "norm_eps": norm_eps},
        }
        check_resolutions(name, resolutions)
        _ascending("widths", widths)
        if not stages or not head:
            raise InvalidValueError(f"Space {name!r} needs at least one stage and a head.")
        if not 0 < norm_eps < math.inf:
            raise InvalidValueError(f"`norm_eps` of space {name!r} must be positive, but got {norm_eps}.")
        self.in_channels, self.classes, self.norm_eps = in_channels, classes, norm_eps
        self._widths = tuple(widths)
        common = {"blocks": blocks, "depths": depths, "activation": activation, "per_block": per_block, "stride": 1}
        all_stages = [
            *(_part(label, part, activation) for label, part in zip(_labels("stem", stem), stem, strict=True)),
            *(_stage(str(number), {**common, **stage}) for number, stage in enumerate(stages, 1)),
            *(_part(label, part, activation) for label, part in zip(_labels("head", head), head, strict=True)),
        ]
        self._blocks = dict(_blocks(all_stages))
        self._check_widths(all_stages)

        choices = [Choice("resolution", tuple(resolutions))]
        if len(widths) > 1:
            choices.append(Choice("width", self._widths))
        for stage in all_stages:
            choices += _choices(stage)
        known = {choice.name for choice in choices}
        positions = [
            Position(position, tuple(name for name in self._depends_on(block) if name in known))
            for position, block in self._blocks.items()
        ]
        super().__init__(name, settings, choices, positions, published=published, baselines=baselines)
        self._check_options(resolutions[0])
        for network in (self.smallest, self.biggest):
            self._check_outputs(network)
            self.lower(network)  # refuses layers whose shapes do not meet

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        block = self._blocks[position]
        stage = block.stage
        if block.number > _int(values.get(f"depth.{stage.label}", stage.depths[0])):
            return None
        place = BlockPlace(
            in_channels=self._channels(block.source, values),
            out_channels=self._channels(block.target, values),
            stride=block.stride,
            activation=stage.activation,
            size=block.size(values["resolution"]),
            block=block.number,
            classes=self.classes,
        )
        name = values.get(stage.own("op", block.number))
        option = next((option for option in stage.options if option.name == name), stage.options[0])
        return _layer(option, place, tuple((key, values[name]) for key, name in block.choices[option].items()))

    def _channels(self, stage: BlockStage | None, values: Mapping[str, Value]) -> int:
        if stage is None:
            return self.in_channels
        channels = _int(values.get(f"channels.{stage.label}", stage.channels[0]))
        return _scaled(channels, _int(values.get("width", self._widths[0])))

    @staticmethod
    def _depends_on(block: Block) -> Iterator[str]:
        """Names of the choices that decide about a block's layer; where there is one value only, there is no choice."""
        stage = block.stage
        yield from ("resolution", "width")
        if block.number > min(stage.depths):
            yield f"depth.{stage.label}"
        yield from dict.fromkeys(f"channels.{one.label}" for one in (block.source, block.target) if one is not None)
        yield stage.own("op", block.number)
        yield from dict.fromkeys(name for names in block.choices.values() for name in names.values())

    # -- checks --------------------------------------------------------------------------------------------------------

    def _check_widths(self, stages: Sequence[BlockStage]) -> None:
        """Equal channels would make two architectures one network."""
        if len(self._widths) > 1 and any(len(stage.channels) > 1 for stage in stages):
            raise InvalidValueError(
                "`widths` scales the channels of all stages; state one number of channels for each."
            )
        found: dict[tuple[int, ...], int] = {}
        for width in self._widths:
            scaled = tuple(_scaled(channels, width) for stage in stages for channels in stage.channels)
            if scaled in found:
                raise InvalidValueError(f"`widths` {found[scaled]} and {width} give equal channels; leave one out.")
            found[scaled] = width

    def _check_outputs(self, network: Architecture) -> None:
        """Refuse layers that do not give the channels or the size that their stage states."""
        for position, block in self._blocks.items():
            stage, label = block.stage, _place(block.stage.label)
            for option in stage.options:
                own = {block.choices[option][key]: values[0] for key, values in option.chosen.items()}
                values = {**network.values, **own, stage.own("op", block.number): option.name}
                layer = self.layer(position, values)
                if layer is None:
                    continue
                made, channels = layer.output_shape, self._channels(block.target, values)
                if stage.channels and made[0] != channels:
                    raise InvalidValueError(
                        f"`channels` of {label} is {channels}, but {option.name} gives {made}; leave `channels` out, "
                        "or choose another kind."
                    )
                shape = image_shape(made[0], strided(block.size(values["resolution"]), block.stride))
                if block.stride > 1 and made != shape:
                    raise InvalidValueError(
                        f"`stride` of {label} is {block.stride}, which makes {shape}, but {option.name} gives {made}; "
                        "leave `stride` out, or choose another kind."
                    )
        if made[0] != self.classes:  # of the last
            raise InvalidValueError(
                f"The last layer of the head gives {made}, but there are {self.classes} classes; end with a kind that "
                "classifies, such as LinearClassifier."
            )

    def _check_options(self, resolution: Value) -> None:
        """Refuse options that give equal layers, which would make two architectures one network."""
        for position, block in self._blocks.items():
            stage, number = block.stage, block.number
            if number > (2 if stage.per_block else 1):
                continue  # its place is that of an earlier block
            group = [position]
            if not stage.per_block:  # they choose together
                always = max(min(stage.depths), 1)
                group = [name for name, one in self._blocks.items() if one.stage is stage and one.number <= always]
            sizes = [
                self.choices[self.index[name]]
                for name in dict.fromkeys(name for one in group for name in self._depends_on(self._blocks[one]))
                if name in self.index and name.startswith(("width", "channels."))
            ]
            for values in itertools.product(*(choice.values for choice in sizes)):
                place = {choice.name: value for choice, value in zip(sizes, values, strict=True)}
                depth = {"resolution": resolution, f"depth.{stage.label}": max(stage.depths)}
                self._check_distinct(block, group, place, depth)

    def _check_distinct(
        self, block: Block, group: Sequence[str], place: Mapping[str, Value], depth: Mapping[str, Value]
    ) -> None:
        """Compare all options of a block, or of some that choose together, at one place."""
        found: dict[tuple[Layer | None, ...], str] = {}
        for option, variant in block.stage.variants():
            chosen = {block.choices[option][key]: value for key, value in variant.items()}
            chosen[block.stage.own("op", block.number)] = option.name
            layers = tuple(self.layer(position, {**place, **depth, **chosen}) for position in group)
            what = " ".join([option.name, *(f"{key}={value}" for key, value in variant.items())])
            if layers in found:
                raise InvalidValueError(
                    f"Position {group[0]!r}: {what} is the same as {found[layers]} where {place}; leave one out."
                )
            found[layers] = what


@functools.lru_cache(maxsize=2**16)
def _layer(option: Option, place: BlockPlace, chosen: tuple[tuple[str, Value], ...]) -> Layer:
    """The layer of an option at a place."""
    values = {**option.fixed, **dict(chosen)}
    if "activation" in values:
        place = dataclasses.replace(place, activation=values.pop("activation"))
    try:
        return option.kind.of_stage(place, **values)
    except (InvalidValueError, TypeError, ValueError, OverflowError) as error:
        stated = ", ".join(f"{name}={value!r}" for name, value in values.items()) or "nothing stated"
        raise InvalidValueError(
            f"Option {option.name} with {stated} cannot stand where {place.in_channels} channels of size {place.size} "
            f"become {place.out_channels} with stride {place.stride}: {error}"
        ) from error


# -- from a YAML to stages ---------------------------------------------------------------------------------------------

_STAGE = ("channels", "stride", "blocks", "depths", "activation", "per_block")


def _stage(label: str, given: Mapping[str, Any]) -> BlockStage:
    """A stage from its settings.

    Raises:
        InvalidValueError: a setting is unknown or cannot be.
    """
    for key in given:
        if key not in _STAGE:
            raise InvalidValueError(f"Stage {label} has no setting {key!r}; it has {', '.join(_STAGE)}.")
    if "channels" not in given:
        raise InvalidValueError(f"Stage {label} needs `channels`, one number or a list to choose from.")
    options = [option for option in given["blocks"] if option != SKIP]
    depths = _ascending(f"depths of stage {label}", given["depths"], least=0, most=FEW)
    if len(options) < len(given["blocks"]):
        depths = tuple(range(min(1, *depths), max(depths) + 1))
    stage = _checked(label, given, depths, [_option(label, option) for option in options])
    names = [option.name for option in stage.options]
    if len(set(names)) < len(names):
        raise InvalidValueError(f"Stage {label} offers {names}; give options of one kind a `name` each.")
    return stage


def _part(label: str, given: Mapping[str, Any], activation: Activation) -> BlockStage:
    """A layer of the stem or of the head, as a stage of one block."""
    option = {key: value for key, value in given.items() if key not in ("channels", "stride")}
    settings = {"stride": 1, **given, "activation": activation, "per_block": False}
    return _checked(label, settings, (1,), [_option(label, option)])


def _place(label: str) -> str:
    """Place of what is wrong, in words: stage 2, the stem."""
    return f"stage {label}" if label.isdigit() else f"the {label}"


def _checked(label: str, given: Mapping[str, Any], depths: tuple[int, ...], options: Sequence[Option]) -> BlockStage:
    channels = _ascending(f"channels of {_place(label)}", given["channels"]) if "channels" in given else ()
    if type(given["stride"]) is not int or given["stride"] < 1:
        raise InvalidValueError(f"`stride` of {_place(label)} must be a positive integer, but got {given['stride']!r}.")
    for key, hint in (("activation", Activation), ("per_block", bool)):
        if not fits(given[key], hint):
            raise InvalidValueError(f"`{key}` of {_place(label)} must be {described(hint)}, but got {given[key]!r}.")
    if not options:
        raise InvalidValueError(f"Stage {label} offers no layer: state `blocks`, for it or for all stages.")
    return BlockStage(label, channels, given["stride"], depths, tuple(options), given["activation"], given["per_block"])


def _option(label: str, given: Any) -> Option:
    """An option from its settings.

    Raises:
        InvalidValueError: a setting is unknown, or cannot be chosen from.
    """
    if isinstance(given, Mapping) and given.get("kind") == SKIP:
        raise InvalidValueError(f"`skip` is an option of {_place(label)} by itself: write `- {SKIP}`, without `kind`.")
    if not isinstance(given, Mapping) or "kind" not in given:
        raise InvalidValueError(f"An option of {_place(label)} is `skip` or a mapping with `kind`, but got {given!r}.")
    kind = find_kind(given["kind"])
    name = given.get("name", kind.__name__)
    if not isinstance(name, str) or name in ("", SKIP):
        raise InvalidValueError(
            f"The `name` of {given['kind']} in {_place(label)} must be a word of its own, but got {name!r}."
        )
    known = settings_of(kind)
    fixed, chosen = {}, {}
    for key, value in given.items():
        if key in ("kind", "name"):
            continue
        if key not in known:
            close = closest(key, known)
            hint = f"Did you mean {close!r}?" if close else f"It takes {', '.join(known) or 'none'}."
            raise InvalidValueError(f"{given['kind']} in {_place(label)} has no setting {key!r}. {hint}")
        what = f"{key} of {given['kind']} in {_place(label)}"
        values = tuple(value) if isinstance(value, list | tuple) else (value,)
        if len(values) > 1:
            chosen[key] = values = _chosen(what, values)
        else:
            fixed[key] = tuple(values[0]) if values and isinstance(values[0], list) else values[0] if values else ()
        for one in values if key in chosen else (fixed[key],):
            if not fits(one, known[key].hint):
                raise InvalidValueError(f"`{what}` must be {described(known[key].hint)}, but got {one!r}.")
    if missing := [key for key, setting in known.items() if setting.is_needed and key not in given]:
        needed = " and ".join(f"`{key}` ({described(known[key].hint)})" for key in missing)
        others = ", ".join(key for key in known if key not in missing) or "none"
        raise InvalidValueError(
            f"{given['kind']} in {_place(label)} needs {needed}, but got {dict(given)}. State one "
            f"value, or a list to choose from; it also takes {others}."
        )
    return Option(name, kind, fixed, chosen)


def _chosen(what: str, values: tuple[Any, ...]) -> tuple[Value, ...]:
    """Values of a choice: integers that ascend, or distinct names.

    Raises:
        InvalidValueError: they are neither.
    """
    if all(isinstance(value, str) for value in values) and len(set(values)) == len(values):
        return values
    if any(type(value) is not int for value in values):
        raise InvalidValueError(
            f"`{what}` is chosen from integers or from names, but got {list(values)}; state shares in per cent, and a "
            "fixed list inside another one."
        )
    return _ascending(what, values, least=0)


def find_kind(name: Any) -> type[Layer]:
    """A layer kind by its name, or by its import path.

    Raises:
        InvalidValueError: it is no layer kind.
        UnknownNameError: there is none.
        UntrustedError: it is outside of hwnas and not trusted.
    """
    found: type = (
        Layer.kinds[name]
        if isinstance(name, str) and name in Layer.kinds
        else trust.find_class("A block", name, block_kinds())
    )
    if not issubclass(found, Layer) or inspect.isabstract(found):
        raise InvalidValueError(
            f"A block is of a layer kind, but {name!r} is none; there are {', '.join(sorted(block_kinds()))}."
        )
    return found


@dataclass(frozen=True)
class Setting:
    """Setting that an option may state: its annotation, and whether it has no default."""

    hint: Any
    is_needed: bool


def settings_of(kind: type[Layer]) -> dict[str, Setting]:
    """Settings that an option of a kind takes."""
    by_fields = next(base for base in kind.__mro__ if "of_stage" in vars(base)) is Layer
    parameters, hints = inspect.signature(kind.of_stage).parameters, hints_of(kind.of_stage)
    given, all_known = {"place"}, not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if by_fields or not all_known:
        given = {"channels", *(field.name for field in dataclasses.fields(BlockPlace))}
        parameters, hints = inspect.signature(kind).parameters, hints_of(kind)
    found = {
        name: Setting(hints.get(name, Any), p.default is p.empty and (by_fields or all_known))
        for name, p in parameters.items()
        if name not in given
    }
    has_activation = not by_fields or any(field.name == "activation" for field in dataclasses.fields(kind))
    return {**found, **({"activation": Setting(Activation, False)} if has_activation else {})}


def block_kinds() -> dict[str, str]:
    """hwnas's own kinds that a block can be, as `own_kinds` has them: those of one input, whose settings are single
    values."""
    return {name: path for name, path in own_kinds().items() if _can_be_block(Layer.kinds[name])}


def _can_be_block(kind: type[Layer]) -> bool:
    inputs = [p for p in inspect.signature(kind.define).parameters.values() if p.name != "self"]
    return (
        len(inputs) == 1
        and inputs[0].kind is not inputs[0].VAR_POSITIONAL
        and not any(get_origin(setting.hint) is tuple and setting.is_needed for setting in settings_of(kind).values())
    )


def _stating(stages: Sequence[BlockStage]) -> BlockStage | None:
    """The last stage that states channels."""
    return next((stage for stage in reversed(stages) if stage.channels), None)


def _labels(what: str, parts: Sequence[Any]) -> list[str]:
    return [what] if len(parts) == 1 else [f"{what}{number}" for number in range(1, len(parts) + 1)]


def _blocks(stages: Sequence[BlockStage]) -> Iterator[tuple[str, Block]]:
    """Positions by name, from input to output."""
    before: tuple[BlockStage, ...] = ()
    for stage in stages:
        keeps = stage.stride == 1 and len(stage.channels) == 1 and before and before[-1].channels == stage.channels
        if min(stage.depths) == 0 and not keeps:
            raise InvalidValueError(
                f"Stage {stage.label} changes the shape, so its depth is 1 or more, but got {list(stage.depths)}."
            )
        for number in range(1, max(stage.depths) + 1):
            name = f"stage{stage.label}_block{number}" if stage.label.isdigit() else stage.label
            yield name, Block(stage, number, before)
        before = (*before, stage)


def _choices(stage: BlockStage) -> Iterator[Choice]:
    """Choices of a stage and its blocks."""
    depth = f"depth.{stage.label}"
    if len(stage.channels) > 1:
        yield Choice(f"channels.{stage.label}", stage.channels)
    if len(stage.depths) > 1:
        yield Choice(depth, stage.depths)
    for number in range(1, max(stage.depths) + 1 if stage.per_block else 2):
        deep_enough = tuple(one for one in stage.depths if one >= number)
        there = Condition(depth, deep_enough) if len(deep_enough) < len(stage.depths) else None
        operator = stage.own("op", number)
        if len(stage.options) > 1:
            yield Choice(operator, tuple(option.name for option in stage.options), there)
        offered: dict[str, tuple[tuple[Value, ...], list[str]]] = {}
        for option in stage.options:
            for key, values in option.chosen.items():
                offered.setdefault(stage.choice_of(option, key, number), (values, []))[1].append(option.name)
        for name, (values, options) in offered.items():
            always = len(options) == len(stage.options)
            yield Choice(name, values, there if always else Condition(operator, tuple(options)))


def _scaled(channels: int, width: int) -> int:
    return channels if width == 100 else make_divisible(channels * width / 100)


def _ascending(what: str, values: Any, *, least: int = 1, most: int = LARGEST) -> tuple[int, ...]:
    """Integers that ascend.

    Raises:
        InvalidValueError: they are none, or do not.
    """
    plain = list(values) if isinstance(values, list | tuple) else [values]
    if not plain or any(type(n) is not int or n < least for n in plain) or plain != sorted(set(plain)):
        raise InvalidValueError(f"`{what}` must be integers that ascend from {least} or more, but got {values!r}.")
    if plain[-1] > most:
        raise InvalidValueError(f"`{what}` must be at most {most:,}, but got {plain[-1]}.")
    return tuple(plain)


def _plain(value: Any) -> Any:
    """Lists and mappings as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def _int(value: Value) -> int:
    assert isinstance(value, int)
    return value

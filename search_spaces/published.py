"""Networks in once-for-all's own formats as architectures of a space.

Cai et al., "Once-for-All", ICLR 2020, arXiv:1908.09791; https://github.com/mit-han-lab/once-for-all publishes networks
as a ``net.config`` (every layer with its settings) and search results as the lists ``ks``, ``e``, ``d`` and ``r``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from search_spaces.architecture import Architecture, Value
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.layers import (
    Classifier,
    Conv,
    Layer,
    LinearClassifier,
    MBConv,
    Size,
    make_divisible,
    size_of,
    strided,
)
from search_spaces.mobilenet_v3 import MobileNetV3


def published_architecture(
    space: MobileNetV3, config: Mapping[str, Any], *, resolution: Value | None = None
) -> Architecture:
    """The architecture that a published configuration describes, every layer of it compared with the space's.

    Args:
        space: the space that the network is from.
        config: a mapping with ``net_config`` and ``image_size``, or a ``net.config`` with ``blocks``, or the lists
            ``ks`` and ``e`` (one number per block of the deepest network), ``d`` (one per stage) and ``r``.
        resolution: of the input, for a configuration that does not state it.

    Raises:
        InvalidValueError: the configuration is malformed.
        MismatchError: the network is not in the space; the message names the first block that is not.
    """
    if not isinstance(config, Mapping):
        raise InvalidValueError(f"A configuration is a mapping, but got {config!r}.")
    resolution = config.get("image_size", resolution)
    config = config.get("net_config", config)
    try:
        if "blocks" in config:
            return _of_layers(space, config, resolution)
        return _of_lists(space, config, resolution)
    except KeyError as error:
        raise InvalidValueError(
            f"A configuration needs `blocks` (a net.config), or `ks`, `e`, `d` and `r`; {error} is missing in one with "
            f"{sorted(config)}."
        ) from error
    except (TypeError, AttributeError) as error:
        raise InvalidValueError(
            f"A part of the configuration has another form than once-for-all's: {error}."
        ) from error


# -- lists -------------------------------------------------------------------------------------------------------------


def _of_lists(space: MobileNetV3, config: Mapping[str, Any], resolution: Value | None) -> Architecture:
    kernels, expands, depths = list(config["ks"]), list(config["e"]), list(config["d"])
    given = config.get("r", resolution)
    if isinstance(given, Sequence) and len(given) == 1:
        given = given[0]
    blocks = sum(max(stage) for stage in space.depths)
    for name, values, length in (("ks", kernels, blocks), ("e", expands, blocks), ("d", depths, len(space.depths))):
        if len(values) != length:
            raise MismatchError(f"`{name}` has {length} numbers for space {space.name!r}, but got {len(values)}.")
    stages: list[list[tuple[int, Any, Any]]] = []
    numbers = itertools.count()
    for depth, possible in zip(depths, space.depths, strict=True):
        if len(possible) == 1:  # once-for-all's lists state any depth for a stage that is never varied
            (depth,) = possible
        if depth not in possible:
            raise MismatchError(
                f"The number of blocks in stage {len(stages) + 1} must be one of {list(possible)} in space "
                f"{space.name!r}, but is {depth!r}."
            )
        rows = [(n + 1, kernels[n], expands[n]) for n in itertools.islice(numbers, max(possible))]
        stages.append(rows[:depth])
    return _architecture(space, given, stages)


# -- net.config --------------------------------------------------------------------------------------------------------


def _of_layers(space: MobileNetV3, config: Mapping[str, Any], resolution: Value | None) -> Architecture:
    blocks = [_settings(number, block) for number, block in enumerate(config["blocks"])]
    stages: list[list[tuple[int, Any, Any]]] = []
    for number, (conv, shortcut) in enumerate(blocks[1:], 1):  # the first one is fixed
        if not stages or not shortcut:  # once-for-all's own rule for where a stage begins
            stages.append([])
        stages[-1].append((number, conv["kernel_size"], conv["expand_ratio"]))
    architecture = _architecture(space, resolution, stages)

    eps = config.get("bn", {}).get("eps", space.norm_eps)
    if eps != space.norm_eps:
        raise MismatchError(f"BatchNorm of space {space.name!r} adds {space.norm_eps} to the variance, but got {eps}.")
    lowered = space.lower(architecture)
    stated = _layers(config, [conv for conv, _ in blocks], size_of(architecture.values["resolution"]))
    for (position, ours), (where, theirs) in zip(lowered.items(), stated, strict=True):
        if ours != theirs:
            raise MismatchError(
                f"The network's {where} is {theirs}, but {position!r} of space {space.name!r} is {ours}. Choose the "
                "space that the network was published for."
            )
    return architecture


def _settings(number: int, block: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """Settings of a block's convolutions, and whether it has a shortcut."""
    conv = block.get("conv", block.get("mobile_inverted_conv"))
    if not isinstance(conv, Mapping):
        raise InvalidValueError(f"Block {number} needs `conv` or `mobile_inverted_conv`, but has {sorted(block)}.")
    needed = ("in_channels", "out_channels", "kernel_size", "stride", "expand_ratio", "act_func")
    missing = [name for name in needed if name not in conv]
    if missing:
        raise InvalidValueError(f"Block {number} lacks {missing}.")
    return conv, block.get("shortcut") is not None


def _layers(config: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]], size: Size) -> Iterator[tuple[str, Layer]]:
    """Layers that the configuration states, from input to output."""
    yield "first convolution", _conv(config["first_conv"], size)
    size = strided(size, config["first_conv"]["stride"])
    for number, conv in enumerate(blocks):
        yield f"block {number}", _block(conv, size)
        size = strided(size, conv["stride"])
    classifier, mix = config["classifier"], config["feature_mix_layer"]
    classes = classifier["out_features"]
    if "final_expand_layer" not in config:  # ProxylessNAS: the mixing layer stands before the pooling
        yield "last convolution", _conv(mix, size)
        yield "classifier", LinearClassifier(classifier["in_features"], classes, size)
        return
    yield "last convolution", _conv(config["final_expand_layer"], size)
    yield (
        "classifier",
        Classifier(mix["in_channels"], mix["out_channels"], classes, mix["act_func"], size, bool(mix["bias"])),
    )


def _conv(conv: Mapping[str, Any], size: Size) -> Conv:
    activation: Any = conv["act_func"] or "none"
    return Conv(conv["in_channels"], conv["out_channels"], conv["kernel_size"], conv["stride"], activation, size)


def _block(conv: Mapping[str, Any], size: Size) -> MBConv:
    hidden = conv.get("mid_channels")
    if hidden is None:
        hidden = round(conv["in_channels"] * conv["expand_ratio"])
    return MBConv(
        in_channels=conv["in_channels"],
        out_channels=conv["out_channels"],
        hidden=hidden,
        expands=conv["expand_ratio"] != 1,
        kernel=conv["kernel_size"],
        stride=conv["stride"],
        squeeze=make_divisible(hidden // 4) if conv.get("use_se") else 0,
        activation=conv["act_func"],
        size=size,
    )


# -- both --------------------------------------------------------------------------------------------------------------


def _architecture(
    space: MobileNetV3, resolution: Value | None, stages: Sequence[Sequence[tuple[int, Any, Any]]]
) -> Architecture:
    """The architecture of (block number, kernel, expand ratio) per block and stage."""
    if resolution is None:
        raise InvalidValueError("The configuration states no resolution; give one with `resolution=`.")
    if len(stages) != len(space.depths):
        raise MismatchError(
            f"Space {space.name!r} has {len(space.depths)} stages behind the fixed block, but the network has "
            f"{len(stages)}. Choose the space that the network was published for."
        )
    wanted: list[tuple[str, str, Any]] = [("The resolution", "resolution", resolution)]
    for s, rows in enumerate(stages, 1):
        numbers = f"blocks {rows[0][0]} to {rows[-1][0]}" if rows else "no blocks"
        wanted.append((f"The number of blocks in stage {s} ({numbers})", f"depth.{s}", len(rows)))
        for b, (number, kernel, expand) in enumerate(rows[: max(space.depths[s - 1])], 1):
            wanted.append((f"The kernel size of block {number}", f"kernel.{s}.{b}", kernel))
            wanted.append((f"The expand ratio of block {number}", f"expand.{s}.{b}", expand))
    values: dict[str, Value] = {}
    for what, name, value in wanted:
        possible = space.choices[space.index[name]].values
        if value not in possible:
            raise MismatchError(f"{what} must be one of {list(possible)} in space {space.name!r}, but is {value!r}.")
        values[name] = value
    return Architecture(space, space.genes_of(values))

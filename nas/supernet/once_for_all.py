"""Published once-for-all weights as a supernet of ours: names and layouts mapped, every tensor accounted for.

Cai et al., "Once-for-All", ICLR 2020, arXiv:1908.09791; checkpoints of https://github.com/mit-han-lab/once-for-all.

A space whose published weights can be imported registers the names::

    @official_modules.register
    def _(space: MySpace) -> dict[str, str]:
        return {"stem.conv.conv": "first_conv.conv", "stem.conv.norm": "first_conv.bn", ...}
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.supernet import Supernet
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.base.storage import read_bytes
from search_spaces.layers import Bottleneck, MBConv
from search_spaces.mobilenet_v3 import MobileNetV3
from search_spaces.resnet50 import ResNet50
from search_spaces.space import SearchSpace

SHOWN = 3
"""Number of tensors that a message names."""


@dataclass(frozen=True)
class ImportedWeights:
    """A supernet with imported weights, in eval mode.

    ``unused`` are the names of the tensors that it has no place for.
    """

    supernet: Supernet
    tensors: int
    unused: tuple[str, ...]


@functools.singledispatch
def official_modules(space: SearchSpace) -> dict[str, str]:
    """Module of the supernet -> module of the official checkpoint, in the short naming of `short_name`.

    ``stem.conv.norm`` is the module ``conv.norm`` of position ``stem``. The kernel transforms of position ``p``, which
    are parameters and no module, stand under ``p.transforms``.
    """
    known = sorted(kind.__name__ for kind in official_modules.registry if kind is not object)
    raise MismatchError(
        f"Once-for-all weights can be imported into spaces of class {', '.join(known)}, but {space.name!r} is "
        f"{type(space).__name__}. Choose another with `space=`."
    )


@official_modules.register
def _(space: MobileNetV3) -> dict[str, str]:
    names = {"stem.conv.conv": "first_conv.conv", "stem.conv.norm": "first_conv.bn"}
    last = "final_expand_layer" if space.hidden_layer else "feature_mix_layer"  # ProxylessNAS has no other
    names |= {"last.conv.conv": f"{last}.conv", "last.conv.norm": f"{last}.bn"}
    names |= {"classifier.mix": "feature_mix_layer.conv", "classifier.classify": "classifier.linear"}
    blocks = [position for position, kinds in space.largest_layers.items() if MBConv in kinds]
    for number, position in enumerate(blocks):
        for ours, theirs in (
            ("expand.conv", "inverted_bottleneck.conv"),
            ("expand.norm", "inverted_bottleneck.bn"),
            ("depthwise.conv", "depth_conv.conv"),
            ("depthwise.norm", "depth_conv.bn"),
            ("reduce", "depth_conv.se.fc.reduce"),
            ("excite", "depth_conv.se.fc.expand"),
            ("project.conv", "point_linear.conv"),
            ("project.norm", "point_linear.bn"),
            ("transforms", "depth_conv.conv"),
        ):
            names[f"{position}.{ours}"] = f"blocks.{number}.conv.{theirs}"
    return names


@official_modules.register
def _(space: ResNet50) -> dict[str, str]:
    names = {"classifier.classify": "classifier.linear"}
    for position, convolution, norm in (
        ("stem_first", "input_stem.0.conv", "input_stem.0.bn"),
        ("stem_residual", "input_stem.1.conv", "input_stem.1.conv.bn"),
        ("stem_last", "input_stem.2.conv", "input_stem.2.bn"),
    ):
        names |= {f"{position}.conv.conv": convolution, f"{position}.conv.norm": norm}
    blocks = [position for position, kinds in space.largest_layers.items() if Bottleneck in kinds]
    for number, position in enumerate(blocks):
        for ours, theirs in (
            ("narrow", "conv1"),
            ("spatial", "conv2"),
            ("widen", "conv3"),
            ("shortcut", "downsample"),
        ):
            names[f"{position}.{ours}.conv"] = f"blocks.{number}.{theirs}.conv"
            names[f"{position}.{ours}.norm"] = f"blocks.{number}.{theirs}.bn"
    return names


def short_name(name: str) -> str:
    """The name of a tensor in the one naming that all official checkpoints come down to.

    Static and elastic networks, and releases before and after a renaming, wrap the same weights differently:

    >>> short_name("module.blocks.1.mobile_inverted_conv.depth_conv.bn.bn.weight")
    'blocks.1.conv.depth_conv.bn.weight'
    >>> short_name("blocks.1.conv.point_linear.conv.conv.weight"), short_name("classifier.linear.linear.bias")
    ('blocks.1.conv.point_linear.conv.weight', 'classifier.linear.bias')
    >>> short_name("input_stem.1.conv.conv.conv.weight"), short_name("input_stem.1.conv.conv.weight")
    ('input_stem.1.conv.weight', 'input_stem.1.conv.weight')
    """
    name = name.removeprefix("module.").replace(".mobile_inverted_conv.", ".conv.")
    name = re.sub(r"(\.conv)+\.weight", ".conv.weight", name)
    return name.replace(".bn.bn.", ".bn.").replace(".linear.linear.", ".linear.")


def import_ofa(space: SearchSpace, path: Path) -> ImportedWeights:
    """Read an official once-for-all checkpoint; pickled code in it is refused.

    Args:
        space: the space that it belongs to.
        path: the checkpoint: a mapping from names to tensors, or one that holds such a mapping as ``state_dict``.

    Raises:
        StorageError: the file cannot be opened.
        InvalidValueError: it is no checkpoint.
        MismatchError: a tensor is missing or has another shape, or the space has no published weights.
    """
    modules = official_modules(space)
    found = _read(path)
    supernet = Supernet(space)
    weights: dict[str, Tensor] = {}
    missing: dict[str, str] = {}  # official name -> name in the supernet
    for name, ours in supernet.state_dict().items():
        if name.endswith(".num_batches_tracked"):
            continue
        official = _official_name(name, modules)
        if official not in found:
            missing[official] = name
            continue
        weights[name] = _shaped(found.pop(official), ours, official, path, space)
    if missing:
        shown = ", ".join(list(missing)[:SHOWN]) + (" ..." if len(missing) > SHOWN else "")
        raise MismatchError(
            f"{path} must hold all {len(missing) + len(weights)} weights of space {space.name!r}, but lacks "
            f"{len(missing)} of them: {shown}. Choose the space that the weights were published for, with `space=`."
        )
    supernet.load_state_dict(weights, strict=False)  # all but the counters of batches, which stay 0
    unused = tuple(name for name in found if not name.endswith(".num_batches_tracked"))
    return ImportedWeights(supernet.eval(), len(weights), unused)


def _official_name(name: str, modules: Mapping[str, str]) -> str:
    """Short official name of a supernet's parameter or buffer."""
    path, _, attribute = name.removeprefix("positions.").replace(".body.", ".", 1).rpartition(".")
    suffix = "_matrix" if path.endswith(".transforms") else ""
    return f"{modules[path]}.{attribute}{suffix}"


def _shaped(tensor: Tensor, ours: Tensor, official: str, path: Path, space: SearchSpace) -> Tensor:
    shape = tuple(tensor.shape)
    if ours.ndim == 2 and shape[2:] == (1, 1):  # a linear layer that is a 1x1 convolution there
        tensor = tensor.flatten(1)
    if tensor.shape != ours.shape or not tensor.is_floating_point():
        raise MismatchError(
            f"{official!r} must be floating point of shape {tuple(ours.shape)} in space {space.name!r}, but is "
            f"{tensor.dtype} of shape {shape} in {path}. Choose the space that the weights were published for, with "
            "`space=`."
        )
    return tensor.to(ours.dtype)


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint by short name."""
    raw = read_bytes(path)
    try:
        content: Any = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and pickle each raise their own kinds
        raise InvalidValueError(
            f"{path} must be a checkpoint that `torch.load(weights_only=True)` can read, but it gives "
            f"{type(error).__name__}. If the file is damaged, download it again; pickled code in one is not run."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        what = f"a mapping with {list(content)[:SHOWN]}" if isinstance(content, Mapping) else type(content).__name__
        raise InvalidValueError(
            f"{path} must hold a mapping from names to tensors, itself or as its `state_dict`, but holds {what}. "
            "Give a checkpoint that once-for-all published."
        )
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InvalidValueError(f"{path} must map names to tensors only, but {name!r} is a {type(value).__name__}.")
        short = short_name(name)
        if short in tensors:
            raise InvalidValueError(f"{path} holds {short!r} under two names, one of them {name!r}.")
        tensors[short] = value
    return tensors

"""Sorting of channels: the first channels of a layer, which its narrower forms take, become the most important ones.

Cai et al., "Once-for-All", ICLR 2020, arXiv:1908.09791, section 3.3: before widths begin to vary, the channels between
two convolutions are ordered by the L1 norm of the weights by which the second one reads them. The order of channels
that stay inside of a layer changes no output.

Which weights belong to the same channels follows from the layers' programs, so that a new layer kind needs nothing
here. Channels that enter or leave a layer, that are mixed in groups, cut or concatenated, stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.supernet.elastic import ElasticLayer
from nas.supernet.region import Region
from nas.supernet.supernet import Supernet
from search_spaces.layers import Layer
from search_spaces.ops.activation import Activate, LeakyRelu, PRelu
from search_spaces.ops.arithmetic import Add, Multiply, Scale
from search_spaces.ops.convolution import BatchNorm, Convolution, Linear
from search_spaces.ops.pooling import GlobalPool, Pool
from search_spaces.ops.resize import Resize
from search_spaces.program import Op, Parameter, Program, Shape

Axis = tuple[str, int]
"""Axis of a parameter, by the parameter's name."""

STAYS: Axis = ("", 0)
"""Channels that are not sorted."""

SAME_CHANNELS = (Activate, LeakyRelu, PRelu, BatchNorm, Pool, GlobalPool, Add, Multiply, Scale, Resize)
"""Operators of which a channel of the output depends on the same channel of the inputs alone."""


@torch.no_grad()
def sort_channels(supernet: Supernet, trained: Region, *copies: Supernet) -> None:
    """Sort channels by importance, the most important first.

    Channels that a network of ``trained`` has stay before those that it lacks, so that no output of these networks
    changes.

    Args:
        supernet: whose weights say what is important.
        trained: networks whose outputs stay as they are.
        copies: supernets that are sorted in the same way, such as an average over time.
    """
    for p, position in enumerate(supernet.space.positions):
        everything = [layer for layer in dict.fromkeys(supernet.space.layers_at(p)) if layer is not None]
        kept = trained.layers(p)
        for kind in dict.fromkeys(map(type, everything)):
            layers = [layer for layer in everything if type(layer) is kind]
            elastic = [one.at(position.name).of(layers[0]) for one in (supernet, *copies)]
            for group in groups(layers):
                if (importance := _importance(elastic[0], group)) is None:
                    continue
                ends = {group.width(layer) for layer in kept if type(layer) is kind} - {0}
                order = _order(importance, sorted(ends))
                for weights, (name, axis) in ((one, member) for one in elastic for member in group.members):
                    tensors, key = weights.body.holder(name)
                    tensors[key].copy_(tensors[key].index_select(axis, order))


@dataclass(frozen=True)
class Group:
    """Axes of parameters that are indexed by the same channels.

    Args:
        members: of parameters, in the order of the programs.
    """

    members: tuple[Axis, ...]

    def width(self, layer: Layer) -> int:
        """Number of these channels in a layer; 0: it has none of them."""
        shapes = {parameter.name: parameter.shape for parameter in layer.program.parameters}
        return next((shapes[name][axis] for name, axis in self.members if name in shapes), 0)


def groups(layers: Sequence[Layer]) -> Iterator[Group]:
    """Channels inside of the layers of one kind that can be sorted, and whose number varies among the layers."""
    found = _Joined()
    for layer in layers:
        _follow(layer.program, found)
    for members in found.groups():
        group = Group(members)
        if len({group.width(layer) for layer in layers} - {0}) > 1:
            yield group


class _Joined:
    """Axes that belong together: a union-find."""

    def __init__(self) -> None:
        self._parent: dict[Axis, Axis] = {STAYS: STAYS}

    def root(self, axis: Axis) -> Axis:
        parent = self._parent.setdefault(axis, axis)
        while parent != self._parent[parent]:
            parent = self._parent[parent]
        self._parent[axis] = parent
        return parent

    def join(self, *axes: Axis) -> None:
        first, *others = map(self.root, axes)
        for other in others:
            self._parent[self.root(other)] = self.root(first)

    def groups(self) -> Iterator[tuple[Axis, ...]]:
        """Axes that belong together, but for those that stay."""
        members: dict[Axis, list[Axis]] = {}
        for axis in self._parent:
            members.setdefault(self.root(axis), []).append(axis)
        yield from (tuple(some) for some in members.values() if STAYS not in some)


def _follow(program: Program, found: _Joined) -> None:
    """Join the axes that a program indexes by the same channels."""
    tensors = [STAYS for _ in program.inputs]
    for step in program.steps:
        shapes = program.shapes_into(step)
        tensors.append(_channels(step.op, shapes, [tensors[i] for i in step.inputs], found))
    found.join(STAYS, tensors[program.output])


def _channels(op: Op, shapes: Sequence[Shape], inputs: Sequence[Axis], found: _Joined) -> Axis:
    """Channels of the output of an operator, given those of its inputs."""
    parameters = [parameter for parameter in op.parameters(*shapes) if parameter.shape]
    axis = parameters[0].input_axis if parameters else 0
    if isinstance(op, Convolution | Linear) and axis == 1:
        weight, *others = parameters
        made = (weight.name, 0)
        found.join(inputs[0], (weight.name, 1))
        found.join(made, *((other.name, 0) for other in others))
        return made
    if (isinstance(op, SAME_CHANNELS) or isinstance(op, Convolution)) and _per_channel(parameters, shapes):
        found.join(*inputs, *((parameter.name, 0) for parameter in parameters))
        return inputs[0]
    found.join(STAYS, *inputs)
    return STAYS


def _per_channel(parameters: Sequence[Parameter], shapes: Sequence[Shape]) -> bool:
    """True if all inputs have the same channels, and parameters one entry for each."""
    return len({shape[0] for shape in shapes}) == 1 and all(parameter.input_axis == 0 for parameter in parameters)


def _importance(weights: ElasticLayer, group: Group) -> Tensor | None:
    """L1 norm (channels,) of the weights of the last operator that reads the channels; None: nothing of the kind reads
    them, or layers disagree on their number."""
    tensors: dict[Axis, Tensor] = {}
    for name, axis in group.members:
        held, key = weights.body.holder(name)
        tensors[name, axis] = held[key]
    readers = [member for member in group.members if member[1] == 1]
    if not readers or len({tensor.shape[axis] for (_, axis), tensor in tensors.items()}) > 1:
        return None
    order = [parameter.name for parameter in weights.largest.program.parameters]
    last = max(readers, key=lambda member: order.index(member[0]) if member[0] in order else -1)
    return tensors[last].abs().transpose(0, 1).flatten(1).sum(1)


def _order(importance: Tensor, ends: Sequence[int]) -> Tensor:
    """Order of channels, the most important first within each run that ends where a trained width does."""
    runs = importance.tensor_split([end for end in ends if end < len(importance)])
    order, first = [], 0
    for run in runs:
        order.append(first + run.argsort(descending=True, stable=True))
        first += len(run)
    return torch.cat(order)

"""Blocks of a network: runs of positions that all information passes from one to the next through a single tensor.

Two networks of a space can then be compared block by block: the tensor at the end of a block has the same meaning in
both, whatever is inside.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.layers import Layer
from search_spaces.network import Network
from search_spaces.program import Shape
from search_spaces.space import SearchSpace

Apply = Callable[..., Tensor]
"""Function that runs a layer: position, layer, inputs -> output."""


@dataclass(frozen=True)
class NetworkBlock:
    """Consecutive positions, by number, of which nothing but the value at the last one is read later."""

    positions: tuple[int, ...]

    def end(self, space: SearchSpace) -> str:
        """Name of the last position."""
        return space.positions[self.positions[-1]].name

    def columns(self, space: SearchSpace) -> tuple[int, ...]:
        """Choices that the layers of the block depend on, by column, ascending."""
        names = {name for p in self.positions for name in space.positions[p].depends_on}
        return tuple(sorted(space.index[name] for name in names))

    def run(self, space: SearchSpace, network: Network, apply: Apply, x: Tensor) -> Tensor:
        """Value at the end of the block, (B, *shape), of the value at the end of the block before it.

        Args:
            space: of the block.
            network: one of its networks.
            apply: runs a layer.
            x: what the block reads, (B, *shape).
        """
        values: dict[str, Tensor] = {}
        for p in self.positions:
            name = space.positions[p].name
            if name in network.layers:
                inputs = [values.get(source, x) for source in network.sources[name]]
                values[name] = apply(name, network.layers[name], *inputs)
            else:  # it hands on the first of its inputs
                values[name] = values.get(space.sources[name][0], x)
        return values[name]


@functools.lru_cache(maxsize=16)
def blocks_of(space: SearchSpace, ends: tuple[str, ...] = ()) -> tuple[NetworkBlock, ...]:
    """Blocks of a space of networks with one input and one output.

    Args:
        space: to cut.
        ends: last positions of blocks; none: every position at which the networks can be cut. That of the output is one
            in any case.

    Raises:
        InvalidValueError: several inputs or outputs, or an end at which the networks cannot be cut.
    """
    if len(space.inputs) > 1 or len(space.outputs) > 1:
        raise InvalidValueError(
            f"Networks of space {space.name!r} have {len(space.inputs)} inputs and {len(space.outputs)} outputs, but "
            "those that learn block by block have one of each."
        )
    possible = cuts(space)
    names = [space.positions[p].name for p in possible]
    if wrong := [name for name in ends if name not in names]:
        raise InvalidValueError(
            f"A block of space {space.name!r} can end with {', '.join(names)}, but got {wrong[0]!r}: what comes after "
            "it reads something else too, or the number of its channels varies."
        )
    last = [p for p in possible if not ends or space.positions[p].name in ends or p == possible[-1]]
    return tuple(
        NetworkBlock(tuple(range(start, stop + 1)))
        for start, stop in zip([0, *(p + 1 for p in last)], last, strict=False)
    )


def cuts(space: SearchSpace) -> list[int]:
    """Positions, by number, whose value is all that later ones read, in every network, with one number of channels."""
    number = {position.name: p for p, position in enumerate(space.positions)}
    last_reader = dict.fromkeys([*space.inputs, *number], -1)
    for p, position in enumerate(space.positions):
        for source in space.sources[position.name]:
            last_reader[source] = p
    channels: dict[str, set[int]] = {name: set() for name in space.inputs}
    found, end = [], number[next(iter(space.outputs.values()))]
    for p, position in enumerate(space.positions):
        layers = space.layers_at(p)
        channels[position.name] = {layer.output_shape[0] for layer in layers if layer is not None}
        if None in layers:
            channels[position.name] |= channels[space.sources[position.name][0]]
        open_ = [name for name in (*space.inputs, *list(number)[:p]) if last_reader[name] > p]
        is_one = len(channels[position.name]) == 1 and position.active_when is None
        if p == end or (not open_ and is_one and p < end):
            found.append(p)
    return found


def features(
    space: SearchSpace,
    blocks: Sequence[NetworkBlock],
    network: Network,
    apply: Apply,
    x: Tensor,
    given: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Values at the ends of the blocks, by position, (B, *shape) each.

    Args:
        space: of the network.
        blocks: all of them, in order.
        network: to run.
        apply: runs a layer.
        x: input, (B, *shape).
        given: what each block reads instead of the value at the end of the one before it, by that end.

    Raises:
        MismatchError: what is given has other shapes than what the network has there.
    """
    found: dict[str, Tensor] = {}
    for block in blocks:
        end = block.end(space)
        y = found[end] = block.run(space, network, apply, x)
        x = y if given is None else given[end]
        check_shape(space, end, tuple(x.shape[1:]), tuple(y.shape[1:]))
    return found


def check_shape(space: SearchSpace, position: str, wanted: Shape, found: Shape) -> None:
    """Check that a network has values of its teacher's shape at a position.

    Raises:
        MismatchError: it has others.
    """
    if wanted != found:
        raise MismatchError(
            f"At {position!r} of space {space.name!r} the teacher has values of shape {wanted}, but a network that "
            f"learns from it {found}. Let the phase draw from networks of the teacher's shapes alone with `choices`, "
            "such as {resolution: [24]}."
        )


def shape_at(space: SearchSpace, network: Network, position: str) -> Shape:
    """Shape of the value that a network has at a position."""
    while position not in network.layers and position not in network.inputs:
        position = space.sources[position][0]
    return network.layers[position].output_shape if position in network.layers else network.inputs[position]


def layers_in(space: SearchSpace, block: NetworkBlock, network: Network) -> tuple[Layer | None, ...]:
    """Layers that a network has at the positions of a block."""
    return tuple(network.layers.get(space.positions[p].name) for p in block.positions)

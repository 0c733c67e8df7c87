"""Cells: layers whose inside is a graph of operations that choices pick.

A position that holds a cell has as many layers as there are cells, thousands, so that a relaxed supernet does not mix
whole layers there, but the operations of each edge. A cell says what is needed for that: its edges, what can be on
them, and the program of one operation on any number of channels. Nothing else asks for its kind.

An edge is for one choice. A cell whose choices also say *which* nodes are joined is better a graph of positions, each
with few layers, see `search_spaces.darts`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import FEW, LARGEST
from search_spaces.layers import Layer, Size, image_shape
from search_spaces.ops.arithmetic import Add, Zero
from search_spaces.program import Shape, Traced


class EdgeOperation(Layer):
    """Base of the layers that are one operation between two nodes of a cell: they give as many channels as they get,
    however many these are, so that their `define` follows the shape of its input."""


@dataclass(frozen=True)
class Cell(Layer):
    """Base of cells. Node 0 is the input, a later one the sum of its edges, and the last one the output. An edge is one
    operation on an earlier node; nothing reaches a node whose edges are all ``none`` or start where nothing is.

    The choices that the position depends on are those of the edges, in their order, and the values of each are the
    operations, in theirs.
    """

    edges: ClassVar[tuple[tuple[int, int], ...]]
    """(source, target) of each edge, by target."""
    choices: ClassVar[tuple[str, ...]]
    """Operations that an edge can have, ``none`` among them where it can be left out."""

    channels: int
    size: Size
    """Height and width of the input."""
    operations: tuple[str, ...]
    """Operation per edge; ``mixed``, in a supernet, is the sum of all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        known = (*self.choices, "mixed")
        if len(self.operations) != len(self.edges) or not set(self.operations) <= set(known):
            raise InvalidValueError(
                f"{type(self).__name__}.operations must be {len(self.edges)} of {list(known)}, but got "
                f"{self.operations}."
            )

    @abstractmethod
    def apply(self, operation: str, name: str, x: Traced) -> Traced:
        """The output of an operation other than ``none``, of as many channels as x has.

        Args:
            operation: one of ``choices``.
            name: of its parameters within the layer.
            x: a node.
        """

    def needs_input(self, operation: str) -> bool:
        """True if the operation on nothing is nothing; else it is run on zeros."""
        return True

    def is_kept(self, operation: str) -> bool:
        """True if an edge in use computes something with this operation."""
        return operation not in ("none", "skip_connect")

    @classmethod
    def merge(cls, layers: Sequence[Self]) -> Self:
        channels, size = (max(getattr(layer, name) for layer in layers) for name in ("channels", "size"))
        edges = [set(edge) for edge in zip(*(layer.operations for layer in layers), strict=True)]
        return cls(channels, size, tuple(edge.pop() if len(edge) == 1 else "mixed" for edge in edges))

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.channels, self.size)

    def define(self, x: Traced) -> Traced:
        nodes: list[Traced | None] = [x, *[None] * self.edges[-1][1]]
        for edge, (source, target) in enumerate(self.edges):
            for operation in self.choices if self.operations[edge] == "mixed" else (self.operations[edge],):
                y, total = nodes[source], nodes[target]
                if operation == "none" or (y is None and self.needs_input(operation)):
                    continue
                y = self.apply(operation, self.name_of(edge, operation), Zero()(x) if y is None else y)
                nodes[target] = y if total is None else Add()(total, y)
        output = nodes[-1]
        return Zero()(x) if output is None else output

    def paths(self, edge: int) -> tuple[Path, ...]:
        """All that an edge can be, in the order of ``choices``."""
        return tuple(Path(self, edge, operation) for operation in self.choices)

    def name_of(self, edge: int, operation: str) -> str:
        """Name of the parameters that an operation of an edge has within the layer."""
        source, target = self.edges[edge]
        return f"{operation}_{source}{target}"

    @property
    def used(self) -> tuple[bool, ...]:
        """Flag of each edge: it has an operation and is on a path from the input to the output."""
        there = [operation != "none" for operation in self.operations]
        from_input, to_output = {0}, {self.edges[-1][1]}
        for edge, (source, target) in enumerate(self.edges):
            if there[edge] and source in from_input:
                from_input.add(target)
        for edge, (source, target) in reversed(list(enumerate(self.edges))):
            if there[edge] and target in to_output:
                to_output.add(source)
        return tuple(
            there[edge] and source in from_input and target in to_output
            for edge, (source, target) in enumerate(self.edges)
        )

    @property
    def kept_share(self) -> float:
        """Share of the edges that are in use and compute something."""
        kept = sum(self.is_kept(o) for o, used in zip(self.operations, self.used, strict=True) if used)
        return kept / len(self.edges)


@dataclass(frozen=True)
class Path:
    """One operation of one edge of a cell: a definition on any number of channels; ``none`` gives zeros."""

    cell: Cell
    edge: int
    operation: str

    def __call__(self, x: Traced) -> Traced:
        if self.operation == "none":
            return Zero()(x)
        return self.cell.apply(self.operation, self.cell.name_of(self.edge, self.operation), x)


def check_stacked(
    space: str, settings: Mapping[str, Any], *, multiples: Mapping[str, int], fewest_cells: int = 1
) -> None:
    """Check the settings of a space of stacked cells over square images.

    Args:
        space: its name, for the message.
        settings: positive integers by name, ``cells`` among them.
        multiples: number that divides a setting, by its name.
        fewest_cells: smallest number of cells.

    Raises:
        InvalidValueError: a setting that does not fit.
    """
    for key, value in settings.items():
        least, most = (fewest_cells, FEW) if key == "cells" else (1, LARGEST)
        if type(value) is not int or not least <= value <= most:
            square = " Images of this space are square." if key == "resolution" else ""
            raise InvalidValueError(
                f"`{key}` of space {space!r} must be an integer from {least} to {most:,}, but got {value!r}.{square}"
            )
        if value % (divisor := multiples.get(key, 1)):
            raise InvalidValueError(f"`{key}` of space {space!r} must be a multiple of {divisor}, but got {value}.")

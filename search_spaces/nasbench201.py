"""NAS-Bench-201: one cell with five operations to choose from on each of its six edges, 15,625 cells.

Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020,
arXiv:2001.00326. A stem, three stages of equal cells with C, 2C and 4C channels, residual blocks of stride 2 between
them, and the classifier. MACs and parameters equal the benchmark's for every cell; it counts convolutions and the
linear layer (neither BatchNorm nor pooling), also convolutions that do not reach the output.

Equal networks: the benchmark writes one network down in several ways. Two nodes without an edge between them can be
swapped, a skip connection makes two nodes one, an operation on nothing is nothing. Two cells are *equal* here if they
hold equally many convolutions of each kind and, after renaming these, their outputs are the same expression in the
input, up to the order of sums. Equal cells thus have equal MACs and parameters and the same trained accuracy, whichever
of them is trained. The benchmark's own groups (6,466) are others: they leave out convolutions that do not reach the
output, so they merge cells of unequal cost, and they tell apart sums that differ only in their brackets.

The convolution of a node that nothing reaches is not zero: it is its BatchNorm's offset, as in the benchmark's code.
Cells that do not use their input (341 connect it with nothing) are emitted with a zero tensor and run everywhere. One
that gives back its input is no layer at all.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Architecture, Choice, Genes, Position, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.cells import Cell, check_stacked
from search_spaces.layers import Conv, Layer, Size, image_shape
from search_spaces.ops.activation import Activate
from search_spaces.ops.arithmetic import Add
from search_spaces.ops.convolution import BatchNorm, Convolution, Linear
from search_spaces.ops.pooling import GlobalPool, Pool
from search_spaces.program import Op, Shape, Traced
from search_spaces.space import SearchSpace

CELL_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""Operations of an edge, by the benchmark's names and in its order."""

CELL_KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
"""The operations with parameters -> kernel size."""

CELL_EDGES = tuple((source, target) for target in (1, 2, 3) for source in range(target))
"""Edges of a cell in the order of the benchmark; node 0 is the input, node 3 the output."""


@dataclass(frozen=True)
class Cell201(Cell):
    """Cell of NAS-Bench-201 (section 2.1): four nodes, each the sum of one operation on every node before it. A
    convolution is ReLU, convolution, BatchNorm.

    All convolutions are part of the layer, as in the benchmark, also those that do not reach the output.
    """

    edges: ClassVar[tuple[tuple[int, int], ...]] = CELL_EDGES
    choices: ClassVar[tuple[str, ...]] = CELL_OPERATIONS

    def needs_input(self, operation: str) -> bool:
        return operation not in CELL_KERNELS

    def apply(self, operation: str, name: str, x: Traced) -> Traced:
        for op in _operators(operation, name, x.shape[0]):
            x = op(x)
        return x


@functools.cache  # which thousands of cells share
def _operators(operation: str, name: str, channels: int) -> tuple[Op, ...]:
    if operation in CELL_KERNELS:
        return Activate("relu"), Convolution(name, channels, CELL_KERNELS[operation])
    return (Pool("average", 3, 1),) if operation == "avg_pool_3x3" else ()


@dataclass(frozen=True)
class Reduction201(Layer):
    """Block between the stages of NAS-Bench-201: two 3x3 convolutions (each ReLU, convolution, BatchNorm; the first of
    stride 2), beside them 2x2 average pooling and a bare 1x1 convolution."""

    in_channels: int
    out_channels: int
    size: Size
    """Height and width of the input, even."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.size, tuple) or self.size % 2:
            raise InvalidValueError(f"Reduction201.size must be even, but got {self.size}.")

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        y = Convolution("first", self.out_channels, 3, 2)(Activate("relu")(x))
        y = Convolution("second", self.out_channels, 3)(Activate("relu")(y))
        x = Pool("average", 2, 2)(x)
        return Add()(y, Convolution("shortcut", self.out_channels, norm=False, bias=False)(x))


@dataclass(frozen=True)
class Head201(Layer):
    """End of NAS-Bench-201: BatchNorm, ReLU, global pooling and the classifying linear layer."""

    in_channels: int
    classes: int
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        x = Activate("relu")(BatchNorm("norm")(x))
        return Linear("classify", self.classes)(GlobalPool()(x))


IDENTITY = tuple("skip_connect" if edge == (0, 3) else "none" for edge in CELL_EDGES)
"""The cell that gives back its input, as its canonical row has it."""

CELLS: Genes = np.array(list(itertools.product(range(len(CELL_OPERATIONS)), repeat=len(CELL_EDGES))), np.int16)
"""All cells, the last edge fastest, shape (15625, 6)."""

EDGES = tuple(f"edge.{source}.{target}" for source, target in CELL_EDGES)
"""Names of the choices."""

STEPS = tuple(len(CELL_OPERATIONS) ** power for power in reversed(range(len(CELL_EDGES))))
"""Weight of each gene in the number of a row of `CELLS`."""

_NUMBERS: dict[Value, int] = {operation: number for number, operation in enumerate(CELL_OPERATIONS)}


def used_edges(genes: Genes) -> NDArray[np.bool_]:
    """Mask (n, 6) of edges that have an operation and are on a path from the input of the cell to its output."""
    there = genes != CELL_OPERATIONS.index("none")
    from_input, to_output = np.zeros((2, len(genes), 4), bool)
    from_input[:, 0] = to_output[:, 3] = True
    for edge, (source, target) in enumerate(CELL_EDGES):  # in order of target
        from_input[:, target] |= from_input[:, source] & there[:, edge]
    for edge, (source, target) in reversed(list(enumerate(CELL_EDGES))):
        to_output[:, source] |= to_output[:, target] & there[:, edge]
    sources, targets = np.array(CELL_EDGES).T
    return np.asarray(there & from_input[:, sources] & to_output[:, targets])


class NasBench201(SearchSpace):
    """The cell space of NAS-Bench-201.

    Args:
        name: of the space.
        in_channels: of the image.
        classes: number of classes.
        resolution: height (= width) of the image, a multiple of 4.
        channels: of the first stage (C in the paper).
        cells: per stage (N in the paper).
    """

    def __init__(
        self, *, name: str, in_channels: int, classes: int, resolution: int, channels: int, cells: int
    ) -> None:
        settings: dict[str, Any] = {
            "in_channels": in_channels,
            "classes": classes,
            "resolution": resolution,
            "channels": channels,
            "cells": cells,
        }
        check_stacked(name, settings, multiples={"resolution": 4})
        choices = [Choice(edge, CELL_OPERATIONS) for edge in EDGES]
        self._layers: dict[str, Layer | None] = {
            "stem": Conv(in_channels, channels, 3, 1, "none", resolution),
            "reduction1": Reduction201(channels, 2 * channels, resolution),
            "reduction2": Reduction201(2 * channels, 4 * channels, resolution // 2),
            "classifier": Head201(4 * channels, classes, resolution // 4),
        }
        self._shapes: dict[str, tuple[int, int]] = {}
        positions = [Position("stem", ())]
        for stage in range(3):
            for cell in range(1, cells + 1):
                position = f"stage{stage + 1}_cell{cell}"
                self._shapes[position] = channels << stage, resolution >> stage
                positions.append(Position(position, EDGES))
            positions.append(Position("classifier" if stage == 2 else f"reduction{stage + 1}", ()))
        super().__init__(name, settings, choices, positions)

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        if position in self._layers:
            return self._layers[position]
        row = 0
        for edge in EDGES:
            row = row * len(CELL_OPERATIONS) + _NUMBERS[values[edge]]
        return _cell(*self._shapes[position], _canonical_numbers()[row].item())

    def wasteful(self, genes: Genes) -> NDArray[np.bool_]:
        """Cells with an operation that is on no path from input to output, or without such a path, (n,)."""
        there = genes != CELL_OPERATIONS.index("none")
        used = used_edges(genes)
        return np.asarray((there & ~used).any(1) | ~used.any(1))

    def canonical(self, genes: Genes) -> Genes:
        """Cheapest cell, in operators, that is equal to each row; of these the first."""
        rows: Genes = CELLS[_canonical_numbers()[genes.astype(np.int64) @ np.array(STEPS)]]
        return rows

    @functools.cached_property
    def size(self) -> int:
        """Number of distinct networks, exact."""
        return len(np.unique(_canonical_numbers()))

    def from_string(self, text: str) -> Architecture:
        """Architecture of the benchmark's notation, for example
        ``|nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|avg_pool_3x3~2|``.

        Raises:
            InvalidValueError: it is not a cell in that notation.
        """
        return Architecture(self, genes_of_string(text))

    def to_string(self, architecture: Architecture) -> str:
        """The benchmark's notation of the canonical cell."""
        return string_of_genes(architecture.genes)


def genes_of_string(text: str) -> Genes:
    """Gene row, shape (6,), of a cell in the benchmark's notation, as it is written: not made canonical.

    Raises:
        InvalidValueError: it is not a cell in that notation.
    """
    operations = [part.partition("~")[0] for part in text.replace("+", "").split("|") if part]
    known = len(operations) == len(CELL_EDGES) and set(operations) <= set(CELL_OPERATIONS)
    row = np.array([CELL_OPERATIONS.index(operation) for operation in operations] if known else [], np.int16)
    if not known or string_of_genes(row) != text:
        raise InvalidValueError(
            f"A cell reads |op~0|+|op~0|op~1|+|op~0|op~1|op~2| with op in {list(CELL_OPERATIONS)}, but got {text!r}."
        )
    return row


def string_of_genes(genes: Genes) -> str:
    """A gene row, shape (6,), in the benchmark's notation."""
    nodes: dict[int, str] = {}
    for (source, target), gene in zip(CELL_EDGES, genes, strict=True):
        nodes[target] = f"{nodes.get(target, '|')}{CELL_OPERATIONS[gene]}~{source}|"
    return "+".join(nodes.values())


def official_cells() -> Genes:
    """All cells in the order of the benchmark's index, shape (15625, 6), as they are written: not made canonical."""
    order = list(range(len(CELLS)))
    random.Random(88).shuffle(order)  # the seed of the benchmark's own script
    return CELLS[order]


@functools.cache
def _cell(channels: int, size: int, number: int) -> Layer | None:
    operations = tuple(CELL_OPERATIONS[gene] for gene in CELLS[number])
    return None if operations == IDENTITY else Cell201(channels, size, operations)


@functools.cache
def _canonical_numbers() -> NDArray[np.int64]:
    """Row of `CELLS`, for each of them, that stands for all cells equal to it, shape (15625,)."""
    best: dict[Hashable, tuple[int, int]] = {}
    expressions = []
    for number, genes in enumerate(CELLS.tolist()):
        expression, operators = _expression([CELL_OPERATIONS[gene] for gene in genes])
        expressions.append(expression)
        best[expression] = min(best.get(expression, (operators, number)), (operators, number))
    return np.array([best[expression][1] for expression in expressions])


def _expression(operations: Sequence[str]) -> tuple[Hashable, int]:
    """Expression that a cell computes, the same for equal cells and only for these, and its number of operators.

    Terms are the input (number 0), each convolution, and each pooling of another sum. A node is a sum of terms, written
    as their sorted numbers.
    """
    terms: list[tuple[str, tuple[int, ...]]] = [("input", ())]
    nodes: list[tuple[int, ...]] = [(0,)]
    operators = 0
    edges = dict(zip(CELL_EDGES, operations, strict=True))
    for target in (1, 2, 3):
        total: list[int] = []
        for source in range(target):
            operation, value = edges[source, target], nodes[source]
            if operation == "skip_connect":
                total += value
            elif operation in CELL_KERNELS or (operation == "avg_pool_3x3" and value):
                operators += 1 if value else 2  # nothing must be made before it can be convolved
                term = (operation, value)
                if operation in CELL_KERNELS or term not in terms:
                    terms.append(term)
                    total.append(len(terms) - 1)
                else:
                    total.append(terms.index(term))
        nodes.append(tuple(sorted(total)))

    @functools.cache
    def shape(number: int) -> tuple[Any, ...]:
        operation, value = terms[number]
        return operation, tuple(sorted(map(shape, value)))

    alive: set[int] = set()
    waiting = list(nodes[3])
    while waiting:
        number = waiting.pop()
        if number not in alive:
            alive.add(number)
            waiting += terms[number][1]
    dead = sorted(operation for i, (operation, _) in enumerate(terms) if i not in alive and operation in CELL_KERNELS)

    # Numbers say where one term is used twice, which shapes do not. They are made canonical by trying all orders of the
    # terms that have the same shape.
    groups = [list(group) for _, group in itertools.groupby(sorted(alive, key=shape), key=shape)]
    forms = []
    for orders in itertools.product(*map(itertools.permutations, groups)):
        order = list(itertools.chain.from_iterable(orders))
        renamed = {number: i for i, number in enumerate(order)}
        named = [(terms[n][0], tuple(sorted(renamed[i] for i in terms[n][1]))) for n in order]
        forms.append((tuple(named), tuple(sorted(renamed[i] for i in nodes[3]))))
    return (min(forms), tuple(dead)), operators

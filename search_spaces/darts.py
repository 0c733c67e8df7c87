"""The cell space of NASNet and DARTS: two cells, of which a network is stacked for any task.

Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition", CVPR 2018, arXiv:1707.07012; Liu et
al., "DARTS: Differentiable Architecture Search", ICLR 2019, arXiv:1806.09055, section 2.1 and appendix A. A cell has
two inputs, which are the results of the two cells before it (nodes 0 and 1), and four nodes (2 to 5). Each node is the
sum of two operations on two different earlier nodes, and the result of the cell is all four of them, concatenated.
Cells at one and two thirds of the depth reduce: operations on their inputs have stride 2, and channels double. All
normal cells are alike, and so are the reducing ones. MACs and parameters of the published cells equal those of the
authors' code.

A network is not a chain of cells here, but a graph with a position per input, edge and node of every cell. A cell as
one layer would have 10^9 forms. The layer of an edge has seven, which are the same in all cells of a stage, so that a
latency table has some fifty rows and is a sum over positions, from which exact extremes, fronts and means follow. Which
two edges a node has is a choice (``normal.4.inputs=0+2``), an edge's operation another one, which matters while the
edge is there (``normal.4.0=sep_conv_3x3``), and an edge is a position that is active just then. DARTS's mixture of all
operations on all edges, weighted by ``p(inputs) * p(operation)``, thus follows from the general rule of a relaxed
supernet. DARTS has no choice of inputs, but an operation ``none``: a part of the mixture that gives nothing, and that
no network has. Here it is that an edge is not active, of probability 1 - p(inputs).

Equal rows: the inputs of a node are a set, so that their order in DARTS's notation does not matter. Cells that differ
in the order of their nodes alone are different rows, as their results have their channels in another order.

A cell that was found on small images is transferred to large ones: `SearchSpace.transferred`.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, Literal, get_args

from search_spaces.architecture import Architecture, Choice, Condition, Position, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import Parts
from search_spaces.cells import EdgeOperation, check_stacked
from search_spaces.layers import Conv, Layer, LinearClassifier, Size, image_shape
from search_spaces.ops.activation import Activate
from search_spaces.ops.arithmetic import Add
from search_spaces.ops.convolution import Convolution
from search_spaces.ops.movement import Concat, Slice
from search_spaces.ops.pooling import Pool
from search_spaces.program import Shape, Traced
from search_spaces.space import SearchSpace

OPERATIONS = (
    "skip_connect",
    "max_pool_3x3",
    "avg_pool_3x3",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "sep_conv_3x3",
    "sep_conv_5x5",
)
"""Operations of an edge by DARTS's names, the smallest first."""

CELLS = ("normal", "reduce")
INPUTS = 2
"""Nodes that are inputs of the cell; the numbers of the others follow."""
NODES = (2, 3, 4, 5)

Edges = tuple[tuple[str, int], ...]
"""(operation, input node) of each edge, two per node, in the order of the nodes."""

Stem = Literal["small", "large"]


# -- layers ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReluConv(Layer):
    """ReLU, convolution, BatchNorm."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        return Convolution("conv", self.out_channels, self.kernel, self.stride)(Activate("relu")(x))


@dataclass(frozen=True)
class FactorizedReduce(EdgeOperation):
    """ReLU and two 1x1 convolutions of stride 2, the second over the image without its first row and column, each with
    BatchNorm, concatenated; as an operation of an edge it is the skip connection of stride 2."""

    in_channels: int
    out_channels: int
    size: Size
    """Height and width of the input, even."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(extent % 2 for extent in self.input_shape[1:]) or self.out_channels % 2:
            raise InvalidValueError(f"FactorizedReduce takes an even size and gives even channels, but got {self}.")

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        channels, height, width = x.shape
        half, odd_one = divmod(channels * self.out_channels // self.in_channels, 2)
        if odd_one:
            raise InvalidValueError(f"FactorizedReduce gives even channels, but got {channels} for {self}.")
        x = Activate("relu")(x)
        odd = Slice(2, 1, width)(Slice(1, 1, height)(x))
        return Concat()(Convolution("even", half, 1, 2)(x), Convolution("odd", half, 1, 2)(odd))


@dataclass(frozen=True)
class _Edge(EdgeOperation):
    """Fields of an operation on an edge that keeps the channels."""

    channels: int
    stride: int
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.channels, self.size)


@dataclass(frozen=True)
class SepConv(_Edge):
    """ReLU, depthwise and 1x1 convolution, BatchNorm, and all of it once more. The first part has the stride."""

    kernel: int

    def define(self, x: Traced) -> Traced:
        channels = x.shape[0]
        for part, stride in (("first", self.stride), ("second", 1)):
            name = f"{part}_depthwise"
            x = Activate("relu")(x)
            x = Convolution(name, channels, self.kernel, stride, groups=channels, norm=False, bias=False)(x)
            x = Convolution(f"{part}_pointwise", channels)(x)
        return x


@dataclass(frozen=True)
class DilConv(_Edge):
    """ReLU, depthwise convolution of dilation 2, 1x1 convolution, BatchNorm."""

    kernel: int

    def define(self, x: Traced) -> Traced:
        channels = x.shape[0]
        depthwise = Convolution(
            "depthwise", channels, self.kernel, self.stride, groups=channels, norm=False, bias=False, dilation=2
        )
        return Convolution("pointwise", channels)(depthwise(Activate("relu")(x)))


@dataclass(frozen=True)
class EdgePool(_Edge):
    """Pooling over 3x3 pixels; averages count what is there, never the padding."""

    pooling: Literal["max", "average"]

    def define(self, x: Traced) -> Traced:
        return Pool(self.pooling, 3, self.stride)(x)


@dataclass(frozen=True)
class NodeSum(Layer):
    """Sum of two images; in a relaxed supernet of all that may be there."""

    channels: int
    size: Size
    """Height and width."""

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (image_shape(self.channels, self.size),) * 2

    def define(self, x: Traced, *others: Traced) -> Traced:
        for other in others:
            x = Add()(x, other)
        return x


@dataclass(frozen=True)
class NodeConcat(Layer):
    """Images one after the other along the channels."""

    channels: int
    """Channels of each."""
    parts: Parts
    size: Size
    """Height and width."""

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (image_shape(self.channels, self.size),) * self.parts

    def define(self, *inputs: Traced) -> Traced:
        return Concat()(*inputs)


def edge_layer(operation: str, channels: int, stride: int, size: int) -> Layer | None:
    """Layer of an operation; None: a skip connection that changes nothing."""
    name, _, kernel = operation.partition("_conv_")
    if operation == "skip_connect":
        return None if stride == 1 else FactorizedReduce(channels, channels, size)
    if name in ("sep", "dil"):
        return (SepConv if name == "sep" else DilConv)(channels, stride, size, int(kernel[0]))
    return EdgePool(channels, stride, size, "max" if operation == "max_pool_3x3" else "average")


# -- genotypes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Genotype:
    """A pair of cells in DARTS's notation.

    Raises:
        InvalidValueError: a cell has not two edges per node, or one of an unknown operation or of a node that does not
            come before.
    """

    normal: Edges
    reduce: Edges

    def __post_init__(self) -> None:
        for name in CELLS:
            try:
                edges: Edges = tuple((str(operation), index(source)) for operation, source in getattr(self, name))
            except (TypeError, ValueError) as error:
                raise InvalidValueError(
                    f"The {name} cell of a genotype is pairs (operation, node), but got {getattr(self, name)!r:.120}."
                ) from error
            object.__setattr__(self, name, edges)
            pairs = [edges[2 * i : 2 * i + 2] for i in range(len(NODES))]
            good = len(edges) == 2 * len(NODES) and all(
                pair[0][1] != pair[1][1] and all(o in OPERATIONS and 0 <= source < node for o, source in pair)
                for node, pair in zip(NODES, pairs, strict=True)
            )
            if not good:
                raise InvalidValueError(
                    f"The {name} cell of a genotype is {2 * len(NODES)} pairs (operation, node), two for each of the "
                    f"nodes {list(NODES)}, of different nodes before it, with an operation of {list(OPERATIONS)}, but "
                    f"got {list(edges)}."
                )

    @staticmethod
    def parse(text: str) -> Genotype:
        """Genotype of its text, ``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), ...)``.

        Raises:
            InvalidValueError: it is not that.
        """
        try:
            call = ast.parse(str(text).strip(), mode="eval").body
            assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Genotype"
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            cells = {name: tuple(map(tuple, ast.literal_eval(given.pop(name)))) for name in CELLS}
            concats = {name: ast.unparse(value) for name, value in given.items()}
            return Genotype(**cells)._checked(concats, text)
        except (SyntaxError, AssertionError, KeyError, TypeError, ValueError, RecursionError, MemoryError) as error:
            if isinstance(error, InvalidValueError):
                raise
            raise InvalidValueError(
                "A genotype reads Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), "
                f"reduce=[...], reduce_concat=range(2, 6)), but got {text!r:.120}."
            ) from error

    def _checked(self, concats: Mapping[str | None, str], text: str) -> Genotype:
        all_nodes = ("range(2, 6)", "[2, 3, 4, 5]", "(2, 3, 4, 5)")
        for name, value in concats.items():
            if name not in ("normal_concat", "reduce_concat") or value not in all_nodes:
                raise InvalidValueError(
                    f"Cells of this space concatenate the nodes {list(NODES)}, but `{name}` is {value} in "
                    f"{text[:60]!r}."
                )
        return self

    def __str__(self) -> str:
        cells = (f"{name}={[*getattr(self, name)]}, {name}_concat=range(2, 6)" for name in CELLS)
        return f"Genotype({', '.join(cells)})"


# -- the space ---------------------------------------------------------------------------------------------------------


def _choices(cell: str) -> list[Choice]:
    found = []
    for node in NODES:
        pairs = list(itertools.combinations(range(node), 2))
        name = f"{cell}.{node}.inputs"
        if len(pairs) > 1:
            found.append(Choice(name, tuple(map(_pair, pairs))))
        for source in range(node):
            among = tuple(_pair(pair) for pair in pairs if source in pair)
            condition = Condition(name, among) if len(pairs) > 1 else None
            found.append(Choice(f"{cell}.{node}.{source}", OPERATIONS, condition))
    return found


def _pair(sources: Sequence[int]) -> str:
    return "+".join(map(str, sources))


class Darts(SearchSpace):
    """The cell space of DARTS, stacked for one task.

    Args:
        name: of the space.
        in_channels: of the image.
        classes: number of classes.
        resolution: height (= width) of the image, a multiple of 4, or of 32 with the large stem.
        channels: of the first stage's nodes (C in the paper).
        cells: in all, at least 3; those at one and two thirds reduce.
        stem: ``small`` (CIFAR-10): a 3x3 convolution to 3 C channels; ``large`` (ImageNet): three of stride 2.
        published: name -> genotype of a network, as its text, or the values of its choices.
    """

    def __init__(
        self,
        *,
        name: str,
        in_channels: int,
        classes: int,
        resolution: int,
        channels: int,
        cells: int,
        stem: Stem = "small",
        published: Mapping[str, str | Mapping[str, Any]] | None = None,
    ) -> None:
        settings: dict[str, Any] = {
            "in_channels": in_channels,
            "classes": classes,
            "resolution": resolution,
            "channels": channels,
            "cells": cells,
        }
        if stem not in get_args(Stem):
            raise InvalidValueError(f"`stem` of space {name!r} is small or large, but got {stem!r}.")
        multiples = {"resolution": 4 if stem == "small" else 32, "channels": 2}
        check_stacked(name, settings, multiples=multiples, fewest_cells=3)
        self._fixed_layers: dict[str, Layer] = {}
        self._edges: dict[str, tuple[str, int, int, int]] = {}
        positions = self._stacked(in_channels, classes, resolution, channels, cells, stem)
        choices = [choice for cell in CELLS for choice in _choices(cell)]
        named = {
            name: values_of(Genotype.parse(text)) if isinstance(text, str) else text
            for name, text in (published or {}).items()
        }
        super().__init__(name, {**settings, "stem": stem}, choices, positions, published=named)

    def _stacked(
        self, in_channels: int, classes: int, resolution: int, channels: int, cells: int, stem: Stem
    ) -> list[Position]:
        """Positions in order; their layers are noted."""
        positions: list[Position] = []

        def add(name: str, layer: Layer, *inputs: str) -> None:
            self._fixed_layers[name] = layer
            positions.append(Position(name, (), inputs))

        size = resolution
        if stem == "small":
            add("stem", Conv(in_channels, 3 * channels, 3, 1, "none", size))
            before = [("stem", 3 * channels, size)] * 2
        else:
            add("stem1", Conv(in_channels, channels // 2, 3, 2, "relu", size))
            add("stem2", Conv(channels // 2, channels, 3, 2, "none", size // 2))
            add("stem3", ReluConv(channels, channels, 3, 2, size // 4))
            before = [("stem2", channels, size // 4), ("stem3", channels, size // 8)]
            size //= 8
        for k in range(cells):
            stride = 2 if k in (cells // 3, 2 * cells // 3) else 1
            kind, cell = CELLS[stride - 1], f"cell{k + 1}"
            channels *= stride
            for number, (source, width, extent) in enumerate(before):
                layer: Layer = ReluConv(width, channels, 1, 1, extent)
                if extent != size:
                    layer = FactorizedReduce(width, channels, extent)
                add(f"{cell}_input{number}", layer, source)
            nodes = [f"{cell}_input0", f"{cell}_input1"]
            for node in NODES:
                edges = [f"{cell}_{start}to{node}" for start in range(node)]
                for start, edge in enumerate(edges):
                    own = (stride, size) if start < INPUTS else (1, size // stride)
                    self._edges[edge] = (f"{kind}.{node}.{start}", channels, *own)
                    positions.append(self._edge(edge, kind, node, start, nodes[start]))
                add(f"{cell}_node{node}", NodeSum(channels, size // stride), *edges)
                nodes.append(f"{cell}_node{node}")
            size //= stride
            add(cell, NodeConcat(channels, len(NODES), size), *nodes[INPUTS:])
            before = [before[1], (cell, channels * len(NODES), size)]
        add("classifier", LinearClassifier(channels * len(NODES), classes, size))
        return positions

    @staticmethod
    def _edge(name: str, kind: str, node: int, source: int, reads: str) -> Position:
        choice = next(choice for choice in _choices(kind) if choice.name == f"{kind}.{node}.{source}")
        condition = choice.active_when
        depends_on = (choice.name,) if condition is None else (condition.choice, choice.name)
        return Position(name, depends_on, (reads,), condition)

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        if position in self._fixed_layers:
            return self._fixed_layers[position]
        choice, channels, stride, size = self._edges[position]
        return edge_layer(str(values[choice]), channels, stride, size)

    def from_genotype(self, genotype: Genotype | str) -> Architecture:
        """Architecture of a genotype, or of its text.

        Raises:
            InvalidValueError: it is none.
        """
        genotype = genotype if isinstance(genotype, Genotype) else Genotype.parse(genotype)
        return Architecture(self, self.genes_of(values_of(genotype)))

    def to_genotype(self, architecture: Architecture) -> Genotype:
        """The cells of an architecture, the inputs of each node in ascending order."""
        values = architecture.values
        cells: dict[str, Edges] = {}
        for cell in CELLS:
            names = [f"{cell}.{node}.{source}" for node in NODES for source in range(node)]
            cells[cell] = tuple((str(values[n]), int(n.rpartition(".")[2])) for n in names if n in values)
        return Genotype(**cells)


def values_of(genotype: Genotype) -> dict[str, Value]:
    """Values of the choices that matter."""
    values: dict[str, Value] = {}
    for cell in CELLS:
        edges: Edges = getattr(genotype, cell)
        for i, node in enumerate(NODES):
            pair = sorted(edges[2 * i : 2 * i + 2], key=lambda edge: edge[1])
            if node > INPUTS:
                values[f"{cell}.{node}.inputs"] = _pair([source for _, source in pair])
            values |= {f"{cell}.{node}.{source}": operation for operation, source in pair}
    return values

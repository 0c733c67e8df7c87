"""The cell space of NASNet and DARTS: two cells, of which a network is stacked for any task.

Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition", CVPR 2018, arXiv:1707.07012; Liu et
al., "DARTS: Differentiable Architecture Search", ICLR 2019, arXiv:1806.09055, section 2.1 and appendix A. What a cell
is, and which choices it has: `search_spaces.genotypes`. In DARTS it has two inputs and four nodes, which are sums of
two operations on two different earlier nodes, and its result is all four of them, concatenated. How many nodes there
are, which operations, and what is concatenated are settings, and NASNet's cells are of other ones. Cells at one and two
thirds of the depth reduce: operations on their inputs have stride 2, and channels double. All normal cells are alike,
and so are the reducing ones. MACs and parameters of the published cells equal those of the authors' code.

A network is not a chain of cells here, but a graph with a position per input, edge and node of every cell. A cell as
one layer would have 10^9 forms. The layer of an edge has seven, which are the same in all cells of a stage, so that a
latency table has some fifty rows and is a sum over positions, from which exact extremes, fronts and means follow. An
edge is a position that is active while its node reads the node that it is from; two operations on one node are two
positions. DARTS's mixture of all operations on all edges, weighted by ``p(inputs) * p(operation)``, thus follows from
the general rule of a relaxed supernet. DARTS has no choice of inputs, but an operation ``none``: a part of the mixture
that gives nothing, and that no network has. Here it is that an edge is not active, of probability 1 - p(inputs).

Equal rows: the inputs of a node are a set, so that their order in DARTS's notation does not matter. Cells that differ
in the order of their nodes alone are different rows, as their results have their channels in another order.

A cell that was found on small images is transferred to large ones: `SearchSpace.transferred`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from search_spaces.architecture import Architecture, Position, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.values import Parts, check_settings
from search_spaces.cells import EdgeOperation, check_stacked
from search_spaces.genotypes import CELLS, INPUTS, OPERATIONS, CellRules, Genotype
from search_spaces.layers import Conv, Layer, LinearClassifier, Size, image_shape
from search_spaces.ops.activation import Activate
from search_spaces.ops.arithmetic import Add
from search_spaces.ops.convolution import Convolution, Linear
from search_spaces.ops.movement import Concat, Slice
from search_spaces.ops.pooling import GlobalPool, Pool
from search_spaces.program import Shape, Traced
from search_spaces.space import SearchSpace

Stem = Literal["small", "large"]
Authors = Literal["darts", "nasnet"]
NASNET_STEM = 32
"""Channels of the first convolution of NASNet-A for large images."""


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
    BatchNorm, concatenated; as an operation of an edge it is the skip connection of stride 2. Of an odd size the second
    sees a row or column of zeros behind, and of odd channels it gives one more."""

    in_channels: int
    out_channels: int
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        channels, height, width = x.shape
        given = channels * self.out_channels // self.in_channels
        half = given // 2
        x = Activate("relu")(x)
        odd = Slice(2, 1, width)(Slice(1, 1, height)(x))
        padding = (0, 0, height % 2, width % 2) if height % 2 or width % 2 else None
        first = Convolution("even", half, 1, 2)(x)
        return Concat()(first, Convolution("odd", given - half, 1, 2, padding=padding)(odd))


@dataclass(frozen=True)
class StridedSkip(EdgeOperation):
    """ReLU, 1x1 convolution of stride 2, BatchNorm: the skip connection of stride 2 of NASNet."""

    channels: int
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.channels, self.size)

    def define(self, x: Traced) -> Traced:
        return Convolution("conv", x.shape[0], 1, 2)(Activate("relu")(x))


@dataclass(frozen=True)
class UnpaddedConv(Layer):
    """3x3 convolution of stride 2 without padding, BatchNorm."""

    in_channels: int
    out_channels: int
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        return Convolution("conv", self.out_channels, 3, 2, padding=0)(x)


@dataclass(frozen=True)
class ReluClassifier(Layer):
    """ReLU, global pooling and the classifying linear layer."""

    in_channels: int
    classes: int
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        return Linear("classify", self.classes)(GlobalPool()(Activate("relu")(x)))


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
        return _separable(x, x.shape[0], self.kernel, self.stride)


@dataclass(frozen=True)
class DilConv(_Edge):
    """ReLU, depthwise convolution of dilation 2, 1x1 convolution, BatchNorm."""

    kernel: int

    def define(self, x: Traced) -> Traced:
        return _dilated(x, x.shape[0], self.kernel, self.stride)


@dataclass(frozen=True)
class EdgePool(_Edge):
    """Pooling over 3x3 pixels; averages count what is there, never the padding."""

    pooling: Literal["max", "average"]

    def define(self, x: Traced) -> Traced:
        return Pool(self.pooling, 3, self.stride)(x)


@dataclass(frozen=True)
class _ChangingEdge(Layer):
    """Fields of an operation on an edge from an input of the cell that has other channels."""

    in_channels: int
    out_channels: int
    stride: int
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)


@dataclass(frozen=True)
class ChangingSepConv(_ChangingEdge):
    """`SepConv` whose first 1x1 convolution changes the channels."""

    kernel: int

    def define(self, x: Traced) -> Traced:
        return _separable(x, self.out_channels, self.kernel, self.stride)


@dataclass(frozen=True)
class ChangingDilConv(_ChangingEdge):
    """`DilConv` whose 1x1 convolution changes the channels."""

    kernel: int

    def define(self, x: Traced) -> Traced:
        return _dilated(x, self.out_channels, self.kernel, self.stride)


@dataclass(frozen=True)
class ChangingPool(_ChangingEdge):
    """`EdgePool`, then a 1x1 convolution with BatchNorm that changes the channels."""

    pooling: Literal["max", "average"]

    def define(self, x: Traced) -> Traced:
        return Convolution("conv", self.out_channels)(Pool(self.pooling, 3, self.stride)(x))


def _separable(x: Traced, channels: int, kernel: int, stride: int) -> Traced:
    for part, own_stride in (("first", stride), ("second", 1)):
        name, before = f"{part}_depthwise", x.shape[0]
        x = Activate("relu")(x)
        x = Convolution(name, before, kernel, own_stride, groups=before, norm=False, bias=False)(x)
        x = Convolution(f"{part}_pointwise", channels)(x)
    return x


def _dilated(x: Traced, channels: int, kernel: int, stride: int) -> Traced:
    before = x.shape[0]
    depthwise = Convolution("depthwise", before, kernel, stride, groups=before, norm=False, bias=False, dilation=2)
    return Convolution("pointwise", channels)(depthwise(Activate("relu")(x)))


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


def edge_layer(
    operation: str,
    channels: int,
    stride: int,
    size: int,
    in_channels: int | None = None,
    authors: Authors = "darts",
) -> Layer | None:
    """Layer of an operation; None: a skip connection that changes nothing.

    Args:
        operation: by its name.
        channels: of the cell.
        stride: of the operation.
        size: height and width of its input.
        in_channels: of its input; None: those of the cell.
        authors: whose skip connection of stride 2 it is.
    """
    name, _, kernel = operation.partition("_conv_")
    pooling: Literal["max", "average"] = "max" if operation == "max_pool_3x3" else "average"
    if in_channels is not None and in_channels != channels:
        if operation == "skip_connect":
            return ReluConv(in_channels, channels, 1, stride, size)
        if name in ("sep", "dil"):
            kind = ChangingSepConv if name == "sep" else ChangingDilConv
            return kind(in_channels, channels, stride, size, int(kernel[0]))
        return ChangingPool(in_channels, channels, stride, size, pooling)
    if operation == "skip_connect":
        if stride == 1:
            return None
        return StridedSkip(channels, size) if authors == "nasnet" else FactorizedReduce(channels, channels, size)
    if name in ("sep", "dil"):
        return (SepConv if name == "sep" else DilConv)(channels, stride, size, int(kernel[0]))
    return EdgePool(channels, stride, size, pooling)


# -- the space ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """An edge of a cell: the choice of its operation, which part of the value it is, channels of its input and of the
    cell, its stride, and height and width of its input."""

    choice: str
    part: int
    in_channels: int
    channels: int
    stride: int
    size: int


class Darts(SearchSpace):
    """The cell space of DARTS and NASNet, stacked for one task.

    Args:
        name: of the space.
        in_channels: of the image.
        classes: number of classes.
        resolution: height (= width) of the image, a multiple of 4, or of 32 with the large stem.
        channels: of the first stage's nodes (C in DARTS's paper, F in NASNet's).
        cells: in all, at least 3, those of a stem not counted; those at one and two thirds reduce.
        stem: ``small`` (CIFAR-10): a 3x3 convolution to 3 C channels; ``large`` (ImageNet): three of stride 2, or in
            NASNet one and two reducing cells of C / 4 and C / 2 channels.
        authors: whose cells they are. In those of ``nasnet`` a node may read another one twice, a skip connection of
            stride 2 is one convolution, the first cell of the large stem reads the first convolution as it is, and a
            ReLU stands before the pooling at the end.
        nodes: of a cell that are sums.
        operations: of an edge, see `search_spaces.genotypes.KNOWN`.
        concat: cell (normal, reduce) -> nodes that make up its result; those that are left out are all sums.
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
        authors: Authors = "darts",
        nodes: int = 4,
        operations: Sequence[str] = OPERATIONS,
        concat: Mapping[str, Sequence[int]] | None = None,
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
        if authors not in get_args(Authors):
            raise InvalidValueError(f"`authors` of space {name!r} is darts or nasnet, but got {authors!r}.")
        multiples = {
            "resolution": 4 if stem == "small" else 32,
            "channels": 4 if (stem, authors) == ("large", "nasnet") else 2,
        }
        check_stacked(name, settings, multiples=multiples, fewest_cells=3)
        self.rules = _rules_of(name, authors, nodes, operations, concat or {})
        self._authors: Authors = authors
        self._fixed_layers: dict[str, Layer] = {}
        self._edges: dict[str, _Place] = {}
        positions = self._stacked(in_channels, classes, resolution, channels, cells, stem)
        choices = [choice for cell in CELLS for choice in self.rules.choices(cell)]
        named = {
            name: Genotype.parse(text, self.rules).values if isinstance(text, str) else text
            for name, text in (published or {}).items()
        }
        later = {
            "authors": authors,
            "nodes": nodes,
            "operations": list(operations),
            "concat": {cell: list(numbers) for cell, numbers in (concat or {}).items()},
        }
        defaults = {"authors": "darts", "nodes": 4, "operations": list(OPERATIONS), "concat": {}}
        settings |= {"stem": stem, **{key: value for key, value in later.items() if value != defaults[key]}}
        super().__init__(name, settings, choices, positions, published=named)

    def _stacked(
        self, in_channels: int, classes: int, resolution: int, channels: int, cells: int, stem: Stem
    ) -> list[Position]:
        """Positions in order; their layers are noted."""
        positions: list[Position] = []

        def add(name: str, layer: Layer, *inputs: str) -> None:
            self._fixed_layers[name] = layer
            positions.append(Position(name, (), inputs))

        size, plan = resolution, list[tuple[str, str, int]]()  # cell, kind, channels
        if stem == "small":
            add("stem", Conv(in_channels, 3 * channels, 3, 1, "none", size))
            before = [("stem", 3 * channels, size)] * 2
        elif self._authors == "nasnet":
            add("stem", UnpaddedConv(in_channels, NASNET_STEM, size))
            size = (size - 1) // 2
            before = [("stem", NASNET_STEM, size)] * 2
            plan += [("stem_cell1", "reduce", channels // 4), ("stem_cell2", "reduce", channels // 2)]
        else:
            add("stem1", Conv(in_channels, channels // 2, 3, 2, "relu", size))
            add("stem2", Conv(channels // 2, channels, 3, 2, "none", size // 2))
            add("stem3", ReluConv(channels, channels, 3, 2, size // 4))
            before = [("stem2", channels, size // 4), ("stem3", channels, size // 8)]
            size //= 8
        for k in range(cells):
            reduces = k in (cells // 3, 2 * cells // 3)
            channels *= 2 if reduces else 1
            plan.append((f"cell{k + 1}", CELLS[reduces], channels))
        for cell, kind, width in plan:
            stride, parts = 1 + CELLS.index(kind), self.rules.concat(kind)
            nodes, widths = list[str](), list[int]()
            for number, (source, given, extent) in enumerate(before):
                if number == 0 and cell == "stem_cell1":  # the first convolution as it is
                    nodes.append(source)
                    widths.append(given)
                    continue
                layer: Layer = ReluConv(given, width, 1, 1, extent)
                if extent != size:
                    layer = FactorizedReduce(given, width, extent)
                nodes.append(f"{cell}_input{number}")
                widths.append(width)
                add(nodes[-1], layer, source)
            after = -(-size // stride)
            for node in self.rules.sums:
                edges = []
                for choice in self.rules.edges(kind, node):
                    start, *again = map(int, choice.name.rpartition(".")[2].split("+"))
                    stride_here, size_here = (stride, size) if start < INPUTS else (1, after)
                    given = widths[start] if start < INPUTS else width
                    for part, which in enumerate(("_first", "_second") if again else ("",)):
                        edges.append(f"{cell}_{start}to{node}{which}")
                        self._edges[edges[-1]] = _Place(choice.name, part, given, width, stride_here, size_here)
                        condition = choice.active_when
                        depends_on = (choice.name,) if condition is None else (condition.choice, choice.name)
                        positions.append(Position(edges[-1], depends_on, (nodes[start],), condition))
                add(f"{cell}_node{node}", NodeSum(width, after), *edges)
                nodes.append(f"{cell}_node{node}")
            size = after
            add(cell, NodeConcat(width, len(parts), size), *(nodes[node] for node in parts))
            before = [before[1], (cell, width * len(parts), size)]
        _, width, size = before[1]
        if self._authors == "nasnet":
            add("classifier", ReluClassifier(width, classes, size))
        else:
            add("classifier", LinearClassifier(width, classes, size))
        return positions

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        if position in self._fixed_layers:
            return self._fixed_layers[position]
        place = self._edges[position]
        operation = str(values[place.choice]).split("+")[place.part]
        return edge_layer(operation, place.channels, place.stride, place.size, place.in_channels, self._authors)

    def from_genotype(self, genotype: Genotype | str) -> Architecture:
        """Architecture of a genotype, or of its text.

        Raises:
            InvalidValueError: it is none.
        """
        genotype = genotype if isinstance(genotype, Genotype) else Genotype.parse(genotype, self.rules)
        return Architecture(self, self.genes_of(genotype.values))

    def to_genotype(self, architecture: Architecture) -> Genotype:
        """The cells of an architecture, the inputs of each node in ascending order."""
        return Genotype.of_values(architecture.values, self.rules)


def _rules_of(
    space: str, authors: Authors, nodes: int, operations: Sequence[str], concat: Mapping[str, Sequence[int]]
) -> CellRules:
    given = {"nodes": nodes, "operations": operations, "concat": concat}
    check_settings(f"space {space!r}", given, {"nodes": Parts, "operations": list[str], "concat": dict[str, list[int]]})
    if unknown := [cell for cell in concat if cell not in CELLS]:
        raise InvalidValueError(f"`concat` of space {space!r} is of normal and reduce, but names {unknown[0]!r}.")
    try:
        lists = (tuple(concat.get(cell, ())) for cell in CELLS)
        return CellRules(tuple(operations), nodes, authors == "nasnet", *lists)
    except InvalidValueError as error:
        raise InvalidValueError(f"Space {space!r}: {error}") from error

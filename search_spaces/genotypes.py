"""Cells of NASNet and DARTS as data: what they may be, as choices, and one pair of them as text.

Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition", CVPR 2018, arXiv:1707.07012, section
3; Liu et al., "DARTS: Differentiable Architecture Search", ICLR 2019, arXiv:1806.09055, section 2.1. A cell has two
inputs, which are the results of the two cells before it (nodes 0 and 1), and nodes that follow (2 and on). Each node is
the sum of two operations on earlier nodes, and the result of the cell is some of them, concatenated.

Which two edges a node has is a choice (``normal.4.inputs=0+2``), an edge's operation another one, which matters while
the edge is there (``normal.4.0=sep_conv_3x3``). Two operations on one node are one choice
(``normal.4.0+0=avg_pool_3x3+sep_conv_3x3``), as their order does not matter.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index

from search_spaces.architecture import Choice, Condition, Value
from search_spaces.base.errors import InvalidValueError

OPERATIONS = (
    "skip_connect",
    "max_pool_3x3",
    "avg_pool_3x3",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "sep_conv_3x3",
    "sep_conv_5x5",
)
"""Operations of an edge in DARTS, by its names, the smallest first."""

KNOWN = (*OPERATIONS, "sep_conv_7x7")
"""All operations that an edge can have."""

CELLS = ("normal", "reduce")
INPUTS = 2
"""Nodes that are inputs of the cell; the numbers of the others follow."""

Edges = tuple[tuple[str, int], ...]
"""(operation, input node) of each edge, two per node, in the order of the nodes."""


@dataclass(frozen=True)
class CellRules:
    """Cells that there are.

    Args:
        operations: of an edge.
        nodes: number of nodes that are sums.
        twice: a node may apply two operations to one earlier node, as in NASNet; in DARTS its inputs differ.
        normal_concat: nodes that make up the result of a normal cell; empty: all sums. In NASNet they are those that no
            node reads, with exceptions in its published cells. Here they are the same for all cells, so that results
            are of one width.
        reduce_concat: the same of a reducing cell; none of its inputs, which are of another size.

    Every node is read: the first sum reads both inputs, and of those that are left out of a result the last is read by
    the last sum, the one before it by the sum before, and so on.

    Raises:
        InvalidValueError: an operation that there is not, or a node that cannot be concatenated.
    """

    operations: tuple[str, ...] = OPERATIONS
    nodes: int = 4
    twice: bool = False
    normal_concat: tuple[int, ...] = ()
    reduce_concat: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.operations or len(set(self.operations)) < len(self.operations) or set(self.operations) - set(KNOWN):
            raise InvalidValueError(
                f"`operations` of cells are some of {list(KNOWN)}, each once, but got {list(self.operations)}."
            )
        for cell in CELLS:
            nodes, possible = self.concat(cell), range(0 if cell == "normal" else INPUTS, INPUTS + self.nodes)
            if sorted({*nodes}) != [*nodes] or not {*nodes} <= {*possible} or possible[-1] not in nodes:
                raise InvalidValueError(
                    f"The {cell} cell concatenates nodes of {[*possible]} in ascending order, the last among them, but "
                    f"got {list(nodes)}."
                )

    @property
    def sums(self) -> tuple[int, ...]:
        """Numbers of the nodes that are sums."""
        return tuple(range(INPUTS, INPUTS + self.nodes))

    def concat(self, cell: str) -> tuple[int, ...]:
        """Nodes that make up the result of a cell."""
        return (self.normal_concat if cell == "normal" else self.reduce_concat) or self.sums

    def pairs(self, cell: str, node: int) -> list[tuple[int, int]]:
        """Pairs of earlier nodes that a sum may read."""
        if node == INPUTS:
            return [(0, 1)]
        left_out = [number for number in reversed(self.sums) if number not in self.concat(cell)]
        read = dict(zip(reversed(self.sums), left_out, strict=False)).get(node)
        combinations = itertools.combinations_with_replacement if self.twice else itertools.combinations
        return [pair for pair in combinations(range(node), 2) if read is None or read in pair]

    def choices(self, cell: str) -> list[Choice]:
        """Choices of a cell."""
        found = []
        for node in self.sums:
            pairs = self.pairs(cell, node)
            name = f"{cell}.{node}.inputs"
            if len(pairs) > 1:
                found.append(Choice(name, tuple(map(pair_text, pairs))))
            for source in range(node):
                if among := tuple(pair_text(pair) for pair in pairs if source in pair and pair[0] != pair[1]):
                    condition = Condition(name, among) if len(pairs) > 1 else None
                    found.append(Choice(f"{cell}.{node}.{source}", self.operations, condition))
            for pair in (pair for pair in pairs if pair[0] == pair[1]):
                both = itertools.combinations_with_replacement(self.operations, 2)
                condition = Condition(name, (pair_text(pair),))
                found.append(Choice(f"{cell}.{node}.{pair_text(pair)}", tuple(map("+".join, both)), condition))
        return found

    def edges(self, cell: str, node: int) -> list[Choice]:
        """Choices of the operations of a sum; a name ends with the node that an operation is on, or two are."""
        start = f"{cell}.{node}."
        return [c for c in self.choices(cell) if c.name.startswith(start) and not c.name.endswith(".inputs")]

    def check(self, cell: str, edges: Edges) -> None:
        """Refuse what is no cell.

        Raises:
            InvalidValueError: it has not two edges per node, or one of an operation or of nodes that cannot be.
        """
        pairs = [edges[2 * i : 2 * i + 2] for i in range(self.nodes)]
        good = len(edges) == 2 * self.nodes and all(
            tuple(sorted((first[1], second[1]))) in self.pairs(cell, node)
            and {first[0], second[0]} <= {*self.operations}
            for node, (first, second) in zip(self.sums, pairs, strict=True)
        )
        if not good:
            nodes = "nodes before it" if self.twice else "different nodes before it"
            raise InvalidValueError(
                f"The {cell} cell of a genotype is {2 * self.nodes} pairs (operation, node), two for each of the nodes "
                f"{list(self.sums)}, of {nodes}, with an operation of {list(self.operations)}, but got {list(edges)}."
            )


DARTS_CELLS = CellRules()


@dataclass(frozen=True)
class Genotype:
    """A pair of cells in DARTS's notation.

    Raises:
        InvalidValueError: a cell breaks the rules.
    """

    normal: Edges
    reduce: Edges
    rules: CellRules = DARTS_CELLS

    def __post_init__(self) -> None:
        for name in CELLS:
            try:
                edges: Edges = tuple((str(operation), index(source)) for operation, source in getattr(self, name))
            except (TypeError, ValueError) as error:
                raise InvalidValueError(
                    f"The {name} cell of a genotype is pairs (operation, node), but got {getattr(self, name)!r:.120}."
                ) from error
            object.__setattr__(self, name, edges)
            self.rules.check(name, edges)

    @staticmethod
    def parse(text: str, rules: CellRules = DARTS_CELLS) -> Genotype:
        """Genotype of its text, ``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), ...)``.

        Raises:
            InvalidValueError: it is not that.
        """
        try:
            call = ast.parse(str(text).strip(), mode="eval").body
            assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Genotype"
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            cells = {name: tuple(map(tuple, ast.literal_eval(given.pop(name)))) for name in CELLS}
            for name, value in given.items():
                cell = str(name).removesuffix("_concat")
                if cell not in CELLS or cell == name or _numbers(value) != list(rules.concat(cell)):
                    raise InvalidValueError(
                        f"Cells of this space concatenate the nodes {list(rules.concat(cell))}, but `{name}` is "
                        f"{ast.unparse(value)} in {text[:60]!r}."
                    )
            return Genotype(**cells, rules=rules)
        except (SyntaxError, AssertionError, KeyError, TypeError, ValueError, RecursionError, MemoryError) as error:
            if isinstance(error, InvalidValueError):
                raise
            raise InvalidValueError(
                "A genotype reads Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), "
                f"reduce=[...], reduce_concat=range(2, 6)), but got {text!r:.120}."
            ) from error

    @staticmethod
    def of_values(values: Mapping[str, Value], rules: CellRules) -> Genotype:
        """The genotype of choices, the inputs of each node in ascending order; see `values`."""
        normal, reduce = (_edges(values, rules, cell) for cell in CELLS)
        return Genotype(normal, reduce, rules)

    @property
    def values(self) -> dict[str, Value]:
        """Values of the choices that matter."""
        values: dict[str, Value] = {}
        for cell in CELLS:
            edges: Edges = getattr(self, cell)
            for i, node in enumerate(self.rules.sums):
                (first, one), (second, other) = sorted(edges[2 * i : 2 * i + 2], key=lambda edge: edge[1])
                if len(self.rules.pairs(cell, node)) > 1:
                    values[f"{cell}.{node}.inputs"] = pair_text((one, other))
                if one == other:
                    both = sorted((first, second), key=self.rules.operations.index)
                    values[f"{cell}.{node}.{pair_text((one, other))}"] = "+".join(both)
                else:
                    values |= {f"{cell}.{node}.{one}": first, f"{cell}.{node}.{other}": second}
        return values

    def __str__(self) -> str:
        cells = (
            f"{name}={[*getattr(self, name)]}, {name}_concat={_numbers_text(self.rules.concat(name))}" for name in CELLS
        )
        return f"Genotype({', '.join(cells)})"


def pair_text(sources: Sequence[int]) -> str:
    """Value of a choice of two nodes: ``0+2``."""
    return "+".join(map(str, sources))


def _edges(values: Mapping[str, Value], rules: CellRules, cell: str) -> Edges:
    found = list[tuple[str, int]]()
    for node in rules.sums:
        pair = str(values.get(f"{cell}.{node}.inputs", pair_text(rules.pairs(cell, node)[0])))
        first, second = pair.split("+")
        names = [f"{cell}.{node}.{source}" for source in (first, second)]
        both = str(values[f"{cell}.{node}.{pair}"]).split("+") if first == second else [str(values[n]) for n in names]
        found += [(both[0], int(first)), (both[1], int(second))]
    return tuple(found)


def _numbers(value: ast.expr) -> list[int] | None:
    """Numbers that ``[2, 3]``, ``(2, 3)`` or ``range(2, 4)`` states; None: it states none."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "range":
        ends = [ast.literal_eval(end) for end in value.args]
        good = len(ends) == 2 and all(type(end) is int and abs(end) < 1000 for end in ends) and not value.keywords
        return [*range(*ends)] if good else None
    return [*ast.literal_eval(value)]


def _numbers_text(numbers: Sequence[int]) -> str:
    together = [*numbers] == [*range(numbers[0], numbers[-1] + 1)]
    return f"range({numbers[0]}, {numbers[-1] + 1})" if together else str([*numbers])

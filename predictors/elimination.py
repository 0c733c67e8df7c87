"""Exact minima of sums and maxima of small tables over choices, by eliminating one choice after the other.

Dechter, "Bucket elimination", Artificial Intelligence 113, 1999. The cost grows with how many choices meet in one table
(the induced width), not with the size of the space. Which choices meet follows from the tables' scopes alone, so that
the cost is known, and refused, before anything is computed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Genes
from search_spaces.base.errors import TooCostlyError
from search_spaces.space import SearchSpace

Scope = tuple[int, ...]
"""Columns of choices."""
Factor = tuple[Scope, NDArray[np.float64]]
"""A table with one axis per choice of its scope."""

LARGEST_TABLE = 2**25
"""Entries of a table that is computed at most; it takes a quarter of a gigabyte."""


@dataclass(frozen=True)
class Elimination:
    """One step: a choice goes, and a table over those that met it stays."""

    column: int
    scope: Scope
    cells: int
    """Entries of that table."""
    entries: int
    """Entries of what is merged: the cells times the values of the choice."""


def plan(space: SearchSpace, scopes: Sequence[Collection[int]], columns: Collection[int]) -> list[Elimination]:
    """Steps in the order in which they are taken: always the choice whose table is the smallest.

    Args:
        space: of the choices.
        scopes: columns that each table depends on.
        columns: choices to eliminate.
    """
    cards = [int(cardinality) for cardinality in space.cardinalities]
    neighbours: dict[int, set[int]] = {column: set() for column in columns}
    for scope in scopes:
        for column in scope:
            neighbours[column] |= set(scope) - {column}
    steps = []
    while neighbours:
        column = min(neighbours, key=lambda c: (math.prod(cards[d] for d in neighbours[c]), c))
        scope = neighbours.pop(column)
        for other in scope:
            neighbours[other] |= scope - {other}
            neighbours[other].discard(column)
        cells = math.prod(cards[d] for d in scope)
        steps.append(Elimination(column, tuple(sorted(scope)), cells, cells * cards[column]))
    return steps


def check_cost(space: SearchSpace, steps: Sequence[Elimination], most: int, what: str, counted: str) -> None:
    """Refuse an elimination that would take too long.

    Args:
        space: of the choices.
        steps: of `plan`.
        most: entries that all steps together may have.
        what: words for what is asked, such as ``The exact minimum of the memory``.
        counted: words for the entries.

    Raises:
        TooCostlyError: gives the number, the choices that meet and the way out.
    """
    total = sum(step.entries for step in steps)
    if total <= most:
        return
    worst = max(steps, key=lambda step: step.entries)
    names = [space.choices[column].name for column in sorted((worst.column, *worst.scope))]
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    raise TooCostlyError(
        f"{what} over space {space.name!r} takes {total:.2g} {counted}, more than {most:.2g}, because {len(names)} "
        f"choices meet: {shown}. Fix one of them (`search.fixed={{{names[-1]}: ...}}`), or take a heuristic searcher, "
        "such as `searcher=nsga2`."
    )


def minimum(space: SearchSpace, factors: Sequence[Factor], combine: np.ufunc, what: str) -> tuple[Genes, float]:
    """The architecture, canonical, of the smallest sum or maximum of tables, and that value.

    Args:
        space: of the choices.
        factors: tables.
        combine: ``np.add`` or ``np.maximum``.
        what: words for it in a refusal.

    Raises:
        TooCostlyError: too many choices meet.
    """
    steps = plan(space, [scope for scope, _ in factors], range(len(space.choices)))
    check_cost(space, steps, LARGEST_TABLE, what, "table entries")
    decisions: list[tuple[int, Scope, NDArray[np.intp]]] = []
    left = list(factors)
    for step in steps:
        touching = [factor for factor in left if step.column in factor[0]]
        left = [factor for factor in left if step.column not in factor[0]]
        axes = (*step.scope, step.column)
        merged = np.zeros([int(space.cardinalities[d]) for d in axes])
        for factor in touching:
            merged = combine(merged, aligned(space, factor, axes))
        decisions.append((step.column, step.scope, merged.argmin(-1)))
        left.append((step.scope, merged.min(-1)))
    total = 0.0
    for _, table in left:
        total = float(combine(total, table))
    genes = np.zeros(len(space.choices), np.int16)
    for column, columns, best in reversed(decisions):
        genes[column] = best[tuple(genes[c] for c in columns)]
    return space.canonical(genes[None])[0], total


def aligned(space: SearchSpace, factor: Factor, axes: Scope) -> NDArray[np.float64]:
    """A factor's table with these axes, of extent 1 where it does not depend on one; further axes stay behind them."""
    scope, table = factor
    order = sorted(range(len(scope)), key=lambda i: axes.index(scope[i]))
    shape = [int(space.cardinalities[c]) if c in scope else 1 for c in axes]
    return table.transpose(*order, *range(len(scope), table.ndim)).reshape((*shape, *table.shape[len(scope) :]))

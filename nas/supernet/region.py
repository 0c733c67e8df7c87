"""The part of a space that a phase of training draws from."""

from __future__ import annotations

import fnmatch
import functools
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from predictors.position_table import PositionTable, macs, params
from search_spaces.architecture import Architecture, Genes, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Layer
from search_spaces.space import SearchSpace


class Region:
    """Networks of a space whose choices take some of their values.

    Args:
        space: of the networks.
        choices: values that choices may take, by name or pattern such as ``kernel*``; later patterns win. A number
            stands for so many of the last values. Choices that none names take all their values.

    Raises:
        InvalidValueError: a pattern that fits no choice, or a value that a choice cannot take.
    """

    def __init__(self, space: SearchSpace, choices: Mapping[str, Sequence[Value] | int] | None = None) -> None:
        self.space = space
        self._allowed: dict[int, NDArray[np.int16]] = {}
        for pattern, values in (choices or {}).items():
            columns = [i for i, choice in enumerate(space.choices) if fnmatch.fnmatchcase(choice.name, pattern)]
            if not columns:
                raise InvalidValueError(
                    f"`choices` of a phase names {pattern!r}, but space {space.name!r} has "
                    f"{', '.join(space.index)}. A pattern such as 'kernel*' fits several."
                )
            for column in columns:
                known = list(space.choices[column].values)
                if isinstance(values, int):
                    if values < 1:
                        raise InvalidValueError(
                            f"`choices.{pattern}` of a phase must be values, or a number of at least 1 for so many of "
                            f"the last, but got {values}."
                        )
                    self._allowed[column] = np.arange(max(0, len(known) - values), len(known), dtype=np.int16)
                    continue
                wrong = [value for value in values if value not in known or isinstance(value, bool | float)]
                if wrong or not values:
                    raise InvalidValueError(
                        f"`choices.{pattern}` of a phase: choice {space.choices[column].name!r} can be {known}, but "
                        f"got {wrong[0] if wrong else 'none'!r}."
                    )
                self._allowed[column] = np.array(sorted(known.index(value) for value in values), np.int16)

    def values(self, column: int) -> NDArray[np.int16]:
        """Genes that a choice may take, ascending."""
        fixed = self.space.fixed
        choice = self.space.choices[column]
        if choice.name in fixed:
            return np.array([choice.values.index(fixed[choice.name])], np.int16)
        return self._allowed.get(column, np.arange(len(choice.values), dtype=np.int16))

    def layers(self, p: int) -> list[Layer]:
        """Different layers that networks have at the p-th position."""
        columns = [self.space.index[name] for name in self.space.positions[p].depends_on]
        allowed = [set(self.values(column).tolist()) for column in columns]
        assignments = itertools.product(*(range(int(self.space.cardinalities[column])) for column in columns))
        found = {
            layer: None
            for layer, genes in zip(self.space.layers_at(p), assignments, strict=True)
            if layer is not None and all(gene in some for gene, some in zip(genes, allowed, strict=True))
        }
        return list(found)

    def sample(self, n: int, rng: np.random.Generator) -> Genes:
        """n canonical rows, each choice uniform over the values that it may take."""
        return self.space.canonical(self.rows(n, rng))

    def rows(self, n: int, rng: np.random.Generator) -> Genes:
        """n rows as those of `sample`, of which the choices that do not matter have random values too: they are uniform
        also where another choice is changed so that they matter. (n, choices)"""
        counts, values = self._table
        shares = rng.random((n, len(counts)), np.float32)  # times a count, rounded, stays below the count
        return values[np.arange(len(counts)), (shares * counts).astype(np.int16)]

    @functools.cached_property
    def _table(self) -> tuple[NDArray[np.float32], Genes]:
        """Number of the values of each choice, (choices,), and the values, (choices, most values)."""
        values = [self.values(column) for column in range(len(self.space.choices))]
        table = np.zeros((len(values), max(map(len, values))), np.int16)
        for row, some in zip(table, values, strict=True):
            row[: len(some)] = some
        return np.array([len(some) for some in values], np.float32), table

    def draw(self, n: int, rng: np.random.Generator) -> list[Architecture]:
        """n networks drawn as by `sample`."""
        return [Architecture(self.space, row) for row in self.sample(n, rng)]

    def macs(self, genes: Genes) -> NDArray[np.float64]:
        """Multiply-accumulates of networks (n, choices), (n,)."""
        return self._macs.predict(genes)

    @functools.cached_property
    def _macs(self) -> PositionTable:
        return macs(self.space)

    def params(self, genes: Genes) -> NDArray[np.float64]:
        """Parameters of networks (n, choices), (n,); exact, and at once where those of an `Architecture` are added up
        layer by layer."""
        return self._params.predict(genes)

    @functools.cached_property
    def _params(self) -> PositionTable:
        return params(self.space)

    @functools.cached_property
    def smallest(self) -> Architecture:
        """The network of each choice's first value."""
        return self._end(self.space.smallest, 0)

    @functools.cached_property
    def biggest(self) -> Architecture:
        """The network of each choice's last value."""
        return self._end(self.space.biggest, -1)

    def _end(self, whole: Architecture, index: int) -> Architecture:
        if not self._allowed:
            return whole
        genes = np.array(whole.genes if index == 0 else self.space.cardinalities - 1, np.int16)
        for column, allowed in self._allowed.items():
            genes[column] = allowed[index]
        return Architecture(self.space, self.space.canonical(genes[None])[0])

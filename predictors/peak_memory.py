"""Exact peak of the activation memory of every network of a space, also where positions branch.

While a layer runs, the tensors that later layers still read are alive beside its own. So what a position needs depends
on the choices of that position, and on those that decide how large the tensors beside it are and who still reads them.
Of a chain there are none of these, and the peak is the largest layer's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictors.elimination import Factor, Scope, aligned
from predictors.factor_table import FactorTable
from predictors.position_table import PositionTable
from search_spaces import counting
from search_spaces.base.errors import TooCostlyError
from search_spaces.layers import Layer
from search_spaces.program import Op, Shape, Step, elements
from search_spaces.space import SearchSpace

METRIC, UNIT = "memory", "bytes"
MOST = 2**20
"""Entries of a position's table that are computed at most."""


def peak_memory(space: SearchSpace, bytes_per_element: int = 4) -> PositionTable | FactorTable:
    """Exact peak of activation bytes alive at once, batch 1, one operator after the other.

    Raises:
        TooCostlyError: at a position too many choices decide about the tensors that are alive.
    """
    branches = _Branches(space)
    if not any(map(branches.beside, range(len(space.positions)))):
        return PositionTable.of_layers(
            space, METRIC, UNIT, lambda layer: layer.peak_elements * bytes_per_element, combine="max"
        )
    factors = [branches.factor(p, bytes_per_element) for p in range(len(space.positions))]
    return FactorTable.of(space, METRIC, UNIT, factors, "max")


_Tensor = tuple[int, int]
"""A position, and which of its layer's inputs, or -1: its output."""


@dataclass(frozen=True)
class _Brief:
    """Facts that others need of a layer: which of its inputs it hands on (None: its output is new), the size of its
    output, those of its inputs, and which of them its operators read. Without a layer nothing is read; nor is there
    anything to read where its position is not active."""

    hands_on: int | None = 0
    size: int = 0
    inputs: tuple[int, ...] = ()
    read: tuple[int, ...] = ()
    active: bool = True

    @staticmethod
    def of(layer: Layer | None, active: bool) -> _Brief:
        if layer is None:
            return _Brief(active=active)
        program, sizes = layer.program.deployed, tuple(elements(shape) for shape in layer.input_shapes)
        hands_on = program.output if program.output < len(sizes) else None
        read = sorted({i for step in program.steps for i in step.inputs if i < len(sizes)})
        return _Brief(hands_on, elements(layer.output_shape), sizes, tuple(read))


class _Branches:
    """The tensors that are alive at each position of a space, by the choices that decide about them."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.names = [position.name for position in space.positions]
        self.number = {name: p for p, name in enumerate(self.names)}
        self.sources = [space.sources[name] for name in self.names]
        self.briefs = [list(map(_Brief.of, space.layers_at(p), space.active_at(p))) for p in range(len(self.names))]
        self.may_hand_on = [any(brief.hands_on is not None for brief in briefs) for briefs in self.briefs]
        self.varies = [len({(b.hands_on, b.read, b.active) for b in briefs}) > 1 for briefs in self.briefs]
        self.conditional = {position.name for position in space.positions if position.active_when is not None}

    def readers(self, name: str) -> Iterator[int]:
        """Positions that read a name."""
        return (p for p, sources in enumerate(self.sources) if name in sources)

    def beside(self, p: int) -> bool:
        """True if other tensors than those of the layer at a position may be alive there, or one of them longer."""
        before = {*self.space.inputs, *self.names[:p]}
        later = {name for sources in self.sources[p + 1 :] for name in sources} | set(self.space.outputs.values())
        return len(self.sources[p]) > 1 or bool(before & later)

    def factor(self, p: int, bytes_per_element: int) -> Factor:
        """Bytes alive while the layer at a position runs, over the choices that they depend on; 0 without a layer.

        Raises:
            TooCostlyError: too many choices.
        """
        own, (early, late, sizing) = self.space.layers_at(p), self._needed(p) if self.beside(p) else ((), (), ())
        needed = sorted({*early, *late, *sizing})
        kinds = [self._table(p, range(len(own)))]
        for q in needed:
            known: dict[tuple[object, ...], int] = {}
            told = ((brief.hands_on, brief.read if q > p else (), brief.active) for brief in self.briefs[q])
            table = self._table(q, [known.setdefault(one, number) for number, one in enumerate(told)])
            kinds.append(_without_idle_axes(*table))
        sizes = {(q, -1): self._sizes(q, -1) for q in early}
        sizes |= {(q, i): self._sizes(q, i) for q in sizing for i in range(len(self.sources[q]))}
        columns = tuple(sorted({column for scope, _ in (*kinds, *sizes.values()) for column in scope}))
        cards = [int(self.space.cardinalities[column]) for column in columns]
        if math.prod(cards) > MOST:
            self._refuse(p, columns, math.prod(cards))

        spread = [np.broadcast_to(aligned(self.space, one, columns), cards).astype(np.int64) for one in kinds]
        situations = np.zeros(cards, np.int64)
        for numbers in spread:  # one number for each combination that there is
            situations = np.unique(situations * (int(numbers.max()) + 1) + numbers, return_inverse=True)[1]
            situations = situations.reshape(cards)
        _, first = np.unique(situations, return_index=True)
        within = np.zeros(len(first))
        waiting: dict[tuple[_Tensor, ...], list[int]] = {}
        for i, place in enumerate(first):
            layer, *others = (int(numbers.flat[place]) for numbers in spread)
            if own[layer] is not None:
                briefs = {q: self.briefs[q][number] for q, number in zip(needed, others, strict=True)}
                within[i], beside = self._peak(p, layer, briefs)
                waiting.setdefault(beside, []).append(i)
        values = within[situations]
        for tensors, some in waiting.items():
            where = np.isin(situations, some)
            for tensor in tensors:
                values[where] += np.broadcast_to(aligned(self.space, sizes[tensor], columns), cards)[where]
        return _without_idle_axes(columns, values * bytes_per_element)

    def _refuse(self, p: int, columns: Scope, cells: int) -> None:
        names = [self.space.choices[column].name for column in columns]
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        raise TooCostlyError(
            f"The exact peak memory at position {self.names[p]!r} of space {self.space.name!r} takes {cells:.2g} table "
            f"entries, more than {MOST:.2g}, because {len(names)} choices decide about the tensors that are alive "
            f"there: {shown}. Let fewer choices decide about their sizes, or leave out goals and limits of memory."
        )

    def _sizes(self, q: int, which: int) -> Factor:
        """Sizes of the output (-1) or an input of the layers of a position."""
        sizes = (brief.size if which < 0 else sum(brief.inputs[which : which + 1]) for brief in self.briefs[q])
        return _without_idle_axes(*self._table(q, list(sizes)))

    def _table(self, p: int, told: Sequence[int]) -> Factor:
        """Numbers, one per layer of a position, as a table over its choices."""
        scope = tuple(self.space.index[name] for name in self.space.positions[p].depends_on)
        return scope, np.array(told, np.float64).reshape([int(self.space.cardinalities[c]) for c in scope])

    def _needed(self, p: int) -> tuple[set[int], set[int], set[int]]:
        """Positions whose briefs decide about what is alive at a position: earlier ones whose tensors may be alive;
        later ones that may, or may not, read these; and those that say how large an input of the network is."""
        early, sizing = set[int](), set[int]()
        waiting = [*self.sources[p], *self.space.outputs.values()]
        waiting += [name for sources in self.sources[p + 1 :] for name in sources]
        names: set[str] = set()
        while waiting:  # names of what may be alive, and what these may stand for
            name = waiting.pop()
            if name in names or self.number.get(name, -1) >= p:
                continue
            names.add(name)
            if name not in self.number:
                sizing |= self._sizing(name)
                continue
            early.add(self.number[name])
            if self.may_hand_on[self.number[name]]:
                waiting += self.sources[self.number[name]]
        late: set[int] = set()
        unsure = {q for q in range(p + 1, len(self.names)) if names & set(self.sources[q])}
        while unsure:
            q = unsure.pop()
            for number in (self.number[name] for name in self.conditional.intersection(self.sources[q])):
                (early if number < p else late).add(number)  # which inputs of q there are
            if self.varies[q] and q not in late:
                late.add(q)
                unsure |= set(self.readers(self.names[q])) if self.may_hand_on[q] else set()
        return early, late, sizing - {p}

    def _sizing(self, name: str) -> set[int]:
        """Positions of which the first with a layer says how large an input of the network is."""
        found: set[int] = set()
        for q in self.readers(name):
            found.add(q)
            if not self.may_hand_on[q]:
                break
            found |= self._sizing(self.names[q])
        return found

    def _peak(self, p: int, number: int, briefs: Mapping[int, _Brief]) -> tuple[int, tuple[_Tensor, ...]]:
        """Elements of its own tensors while a layer of a position runs, and the tensors that are alive beside them,
        given what is known of the other positions."""
        layer, briefs = self.space.layers_at(p)[number], {**briefs, p: self.briefs[p][number]}
        assert layer is not None
        stands_for = {name: name for name in self.space.inputs}
        size_of: dict[str, _Tensor] = {}
        last_read: dict[str, int] = {}
        for q, name in enumerate(self.names):
            reads = [stands_for[source] for source in self.sources[q] if source in stands_for]
            plain = next((b for b in self.briefs[q] if b.hands_on is None), self.briefs[q][0])
            brief = briefs.get(q, plain)  # the others are all alike, or nothing alive here depends on them
            if not brief.active:
                continue
            stands_for[name] = name if brief.hands_on is None else reads[brief.hands_on]
            size_of[name] = (q, -1)
            last_read |= {reads[i]: q for i in brief.read}
            for i in range(len(brief.inputs)):
                if reads[i] in self.space.inputs:
                    size_of.setdefault(reads[i], (q, i))
        for given in self.space.outputs.values():
            last_read[stands_for[given]] = len(self.names)

        reads = [stands_for[source] for source in self.sources[p] if source in stands_for]
        own = list(dict.fromkeys(reads[i] for i in briefs[p].read))
        shapes: list[Shape] = [layer.input_shapes[reads.index(tensor)] for tensor in own]
        steps: list[Step] = []

        def step(op: Op, *inputs: int) -> int:
            steps.append(Step(op, inputs))
            shapes.append(op.shape(*(shapes[i] for i in inputs)))
            return len(shapes) - 1

        output = layer.program.deployed.fold(step, *(own.index(tensor) if tensor in own else -1 for tensor in reads))
        kept = {i for i, tensor in enumerate(own) if last_read[tensor] > p} | ({output} if output >= 0 else set())
        made = {*self.space.inputs, *self.names[:p]} - set(own)
        beside = (size_of[tensor] for tensor, last in last_read.items() if tensor in made and last > p)
        return counting.peak_of(steps, shapes, kept), tuple(sorted(beside))


def _without_idle_axes(scope: Scope, table: NDArray[np.float64]) -> Factor:
    """A table without the choices that change nothing in it."""
    for axis in reversed(range(len(scope))):
        if (table == table.take([0], axis)).all():
            scope, table = scope[:axis] + scope[axis + 1 :], np.asarray(table.take(0, axis))
    return scope, table

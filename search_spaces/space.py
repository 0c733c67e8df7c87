"""The search space: what can vary, and how a choice becomes layers. Everything on populations is vectorised."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.architecture import Architecture, ArchitectureJson, Choice, Genes, Position, Value, checked_json
from search_spaces.base.errors import InvalidValueError, MismatchError, UnknownNameError
from search_spaces.base.names import checked_name, closest
from search_spaces.base.storage import fingerprint
from search_spaces.layers import Layer, largest
from search_spaces.members import values_of
from search_spaces.network import INPUT, OUTPUT, Network
from search_spaces.program import Shape


def _refuse_hiding(kind: type, name: str, value: Any) -> None:
    hidden = getattr(SearchSpace, name, None) if not name.startswith("__") else None
    if callable(hidden) or isinstance(hidden, property | functools.cached_property):
        raise InvalidValueError(
            f"{kind.__name__} must not set `{name}` to {value!r}: that would hide `SearchSpace.{name}`, which the "
            f"search relies on. Choose another name, such as `own_{name}`."
        )


class SearchSpace(ABC):
    """A space is its choices, its positions and `layer`; all else follows.

    A subclass calls ``super().__init__(name, settings, choices, positions)`` and implements `layer`.

    Args:
        name: what users call it.
        settings: JSON-able constructor arguments; with the name they are the space's identity.
        choices: decisions; the choice that another one's condition names comes before it.
        positions: places of the network, in an order in which they can run.
        inputs: names of the inputs of the network.
        outputs: name -> position that gives it. None: the last position gives the only one.
        published: name -> network of the space in the short form of `search_spaces.members`; no part of the identity.
        baselines: name -> names of published networks that reports draw as one line beside a front, such as those of a
            scaling rule; no part of the identity.
    """

    norm_eps: float = 1e-5
    """Number that every BatchNorm of the space's networks adds to the variance."""

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any],
        choices: Sequence[Choice],
        positions: Sequence[Position],
        *,
        inputs: Sequence[str] = (INPUT,),
        outputs: Mapping[str, str] | None = None,
        published: Mapping[str, Mapping[str, Any]] | None = None,
        baselines: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.name = checked_name("A space", name)
        self.choices = tuple(choices)
        self.positions = tuple(positions)
        self.sources, self.outputs = self._wiring(inputs, outputs)
        self.inputs = tuple(inputs)
        self.fingerprint = fingerprint({"name": name, "settings": dict(settings)})
        self._settings = dict(settings)
        self._published = {name: dict(network) for name, network in (published or {}).items()}
        self._baselines = {name: list(networks) for name, networks in (baselines or {}).items()}
        for baseline, networks in self._baselines.items():
            if not networks or (unknown := [network for network in networks if network not in self._published]):
                raise InvalidValueError(
                    f"Baseline {baseline!r} of space {name!r} is of one or more of its published networks, but got "
                    f"{unknown[0] if networks else 'none'}."
                )
        self.index = {choice.name: i for i, choice in enumerate(self.choices)}
        if len(self.index) != len(self.choices):
            raise InvalidValueError(f"Space {name!r} names a choice twice.")
        self.cardinalities: NDArray[np.int16] = np.array([len(c.values) for c in self.choices], np.int16)
        self._fixed: dict[int, int] = {}
        self._activity = self._activity_tables()
        self._steps, self.offsets, self.table_size = self._position_steps()
        self._columns = [[self.index[name] for name in position.depends_on] for position in self.positions]

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, but none that would hide what every space has."""
        _refuse_hiding(type(self), name, value)
        super().__setattr__(name, value)

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for name, value in vars(cls).items():
            if not callable(value) and not hasattr(value, "__get__"):
                _refuse_hiding(cls, name, value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.size:,} networks)"

    @property
    def definition(self) -> dict[str, Any]:
        """Node from which `search_spaces.base.building.build` makes this space."""
        kind = type(self)
        named = {"published": self._published, "baselines": self._baselines}
        return {
            "_target_": f"{kind.__module__}.{kind.__qualname__}",
            "name": self.name,
            **self._stated,
            **{key: value for key, value in named.items() if value},
        }

    @property
    def _stated(self) -> Mapping[str, Any]:
        """Settings in the definition; a space of another one says that one's definition among them."""
        return self._settings

    # -- what a space defines ------------------------------------------------------------------------------------------

    @abstractmethod
    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        """Layer at a position, given the values of the choices that it depends on; None: no layer there."""

    # -- named networks ------------------------------------------------------------------------------------------------

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the published networks."""
        return tuple(self._published)

    def member(self, name: str) -> Architecture:
        """A published network.

        Raises:
            UnknownNameError: the space has none of this name.
            InvalidValueError: what is stated about it is no network of the space, or of a `restricted` part; a space
                with other resolutions than in its YAML, say, lacks the published networks.
        """
        if name not in self._published:
            close = closest(name, self._published)
            hint = f" Did you mean {close!r}?" if close else f" It has {', '.join(self._published) or 'none'}."
            raise UnknownNameError(f"Space {self.name!r} has no published network {name!r}.{hint}")
        try:
            genes = self.genes_of(values_of(self, self._published[name]))
            if not np.array_equal(self.canonical(genes[None])[0], genes):
                raise InvalidValueError(f"it is outside of the part in which {self.fixed}.")
        except InvalidValueError as error:
            raise InvalidValueError(f"Network {name!r} of space {self.name!r}: {error}") from error
        return Architecture(self, genes)

    @property
    def baselines(self) -> dict[str, tuple[str, ...]]:
        """Names of published networks that reports draw beside a front, by what they have in common."""
        return {name: tuple(networks) for name, networks in self._baselines.items()}

    def transferred(self, architecture: Architecture | ArchitectureJson) -> Architecture:
        """The network of this space that makes the choices of a network of another one: of cells that were found on
        small images, the network of more and wider ones for large images.

        Raises:
            InvalidValueError: it is no network.
            MismatchError: the other space's choices are not this one's.
        """
        given = checked_json(architecture.to_json() if isinstance(architecture, Architecture) else architecture)
        try:
            return Architecture(self, self.genes_of(given["choices"]))
        except InvalidValueError as error:
            raise MismatchError(
                f"A network of space {given['space']!r} cannot be transferred to {self.name!r}: {error}"
            ) from error

    # -- a part of it --------------------------------------------------------------------------------------------------

    def restricted(self, fixed: Mapping[str, Value]) -> Self:
        """The part of the space in which some choices take one value each, wherever they matter.

        Genes, layers and identity are those of the whole space, and so are its predictors and supernets. Networks are
        drawn and changed within the part: `canonical` puts rows into it.

        Raises:
            InvalidValueError: an unknown choice, or a value that it cannot take; or a space some of whose networks can
                be written in several ways, so that a choice says nothing.
        """
        if not fixed:
            return self
        if type(self).canonical is not SearchSpace.canonical:
            raise InvalidValueError(f"Choices of space {self.name!r} cannot be fixed, as they have equal networks.")
        part = copy.copy(self)
        part._fixed = dict(self._fixed)
        vars(part).pop("size", None)
        for name, value in fixed.items():
            if name not in self.index:
                raise InvalidValueError(f"Space {self.name!r} has no choice {name!r}; it has {', '.join(self.index)}.")
            values = self.choices[self.index[name]].values
            if isinstance(value, bool | float) or value not in values:
                raise InvalidValueError(f"Choice {name!r} can be {list(values)}, but got {value!r}.")
            part._fixed[self.index[name]] = values.index(value)
        return part

    @property
    def fixed(self) -> dict[str, Value]:
        """The choices that `restricted` has fixed, with their values."""
        return {self.choices[column].name: self.choices[column].values[gene] for column, gene in self._fixed.items()}

    # -- lowering ------------------------------------------------------------------------------------------------------

    def lower(self, architecture: Architecture) -> Network:
        """The network of an architecture. Positions without a layer are left out: what reads them reads their input, or
        does without them where they are not active.

        Raises:
            InvalidValueError: a layer that does not take what it is given; the message names the position.
        """
        return self._lowered(architecture.genes.tobytes())

    @functools.lru_cache(maxsize=64)  # noqa: B019 - as below
    def _lowered(self, row: bytes) -> Network:
        genes = np.frombuffer(row, np.int16).tolist()
        layers: dict[str, Layer] = {}
        stands_for = {name: name for name in self.inputs}
        sources: dict[str, tuple[str, ...]] = {}
        for p, (name, read) in enumerate(self.sources.items()):
            is_active, layer = self._part_at(p, tuple([genes[column] for column in self._columns[p]]))
            if not is_active:
                continue
            before = tuple([stands_for[source] for source in read if source in stands_for])
            if not before:
                raise InvalidValueError(
                    f"Position {name!r} of space {self.name!r} reads {', '.join(read)}, none of which is active here; "
                    "let it be active only while one of them is."
                )
            if layer is None:
                stands_for[name] = before[0]
            else:
                layers[name], sources[name], stands_for[name] = layer, before, name
        outputs = {name: stands_for[position] for name, position in self.outputs.items()}
        network = Network(layers, sources, self._input_shapes(layers, sources), outputs)
        network.check_shapes()
        return network

    def _input_shapes(self, layers: Mapping[str, Layer], sources: Mapping[str, tuple[str, ...]]) -> dict[str, Shape]:
        """Shapes that the first readers of the network's inputs take."""
        inputs, shapes = set(self.inputs), dict[str, Shape]()
        for position, before in sources.items():
            if not inputs.isdisjoint(before):
                shapes = dict(zip(before, layers[position].program.inputs, strict=False)) | shapes
        return {name: shapes[name] for name in self.inputs if name in shapes}

    def _wiring(
        self, inputs: Sequence[str], outputs: Mapping[str, str] | None
    ) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
        """Sources of each position, and positions of the outputs, checked."""
        known = list(inputs)
        sources: dict[str, tuple[str, ...]] = {}
        if not known or not self.positions:
            raise InvalidValueError(f"Space {self.name!r} needs an input and a position.")
        for position in self.positions:
            before = position.inputs or (known[-1] if sources else known[0],)
            if position.name in known:
                raise InvalidValueError(f"Space {self.name!r} names {position.name!r} twice.")
            if missing := [name for name in before if name not in known]:
                later = any(missing[0] == other.name for other in self.positions)
                reason = (
                    "comes after it or reads it (a cycle): order positions as they run"
                    if later
                    else (f"there is not; there are {', '.join(known)}")
                )
                raise InvalidValueError(
                    f"Position {position.name!r} of space {self.name!r} reads {missing[0]!r}, which {reason}."
                )
            sources[position.name] = tuple(before)
            known.append(position.name)
        outputs = dict(outputs or {OUTPUT: self.positions[-1].name})
        for name, position_name in outputs.items():
            if position_name not in known:
                raise InvalidValueError(f"Output {name!r} of space {self.name!r} is of {position_name!r}, no position.")
        read = {name for before in sources.values() for name in before} | set(outputs.values())
        if unread := [name for name in known if name not in read]:
            raise InvalidValueError(
                f"Nothing reads {unread[0]!r} of space {self.name!r}; make it an output, the input of a position, or "
                "leave it out."
            )
        return sources, outputs

    @functools.cache  # noqa: B019 - a space lives as long as the process
    def _part_at(self, p: int, assignment: tuple[int, ...]) -> tuple[bool, Layer | None]:
        """State of the p-th position, given the genes of the choices that it depends on: whether it is active, and its
        layer, None for none."""
        position, values = self.positions[p], self._values_at(p, assignment)
        return (True, self.layer(position.name, values)) if position.is_active(values) else (False, None)

    def _values_at(self, p: int, assignment: tuple[int, ...]) -> dict[str, Value]:
        """Values of the choices that a position depends on, given their genes."""
        chosen = zip(self._columns[p], assignment, strict=True)
        return {self.choices[column].name: self.choices[column].values[gene] for column, gene in chosen}

    def layers_at(self, p: int) -> list[Layer | None]:
        """All layers of the p-th position, in the order of `position_index` (last dependency fastest)."""
        return list(self._layers_at(p))

    @functools.cache  # noqa: B019 - as above
    def _layers_at(self, p: int) -> tuple[Layer | None, ...]:
        layers = tuple([self._part_at(p, assignment)[1] for assignment in self._assignments(p)])
        if all(layer is None for layer in layers):
            raise InvalidValueError(
                f"Position {self.positions[p].name!r} of space {self.name!r} never has a layer; leave it out."
            )
        return layers

    def active_at(self, p: int) -> list[bool]:
        """Flags of the p-th position being active, in the order of `layers_at`."""
        return [self._part_at(p, assignment)[0] for assignment in self._assignments(p)]

    def _assignments(self, p: int) -> Iterator[tuple[int, ...]]:
        """All genes of the choices that the p-th position depends on, the last choice fastest."""
        return itertools.product(*[range(self.cardinalities[column]) for column in self._columns[p]])

    @functools.cached_property
    def distinct_layers(self) -> tuple[Layer, ...]:
        """Every layer that some network of the space contains, once, in order of position."""
        return tuple(
            dict.fromkeys(layer for p in range(len(self.positions)) for layer in self.layers_at(p) if layer is not None)
        )

    @functools.cached_property
    def largest_layers(self) -> dict[str, dict[type[Layer], Layer]]:
        """Layer per position and kind whose weights hold those of all others of the kind there (the supernet's)."""
        return {
            position.name: largest([layer for layer in self.layers_at(p) if layer is not None])
            for p, position in enumerate(self.positions)
        }

    # -- gene arrays ---------------------------------------------------------------------------------------------------

    def validate(self, genes: ArrayLike) -> Genes:
        """Check shape and range and give the array as int16, shape (n, choices).

        Raises:
            InvalidValueError: wrong shape, not integers, or a gene out of range (the choice is named).
        """
        array = np.asarray(genes)
        if array.ndim != 2 or array.shape[1] != len(self.choices):
            raise InvalidValueError(
                f"Genes of space {self.name!r} have shape (n, {len(self.choices)}), but got {array.shape}."
            )
        if not np.issubdtype(array.dtype, np.integer):
            raise InvalidValueError(f"Genes are integers, but got {array.dtype}.")
        wrong = (array < 0) | (array >= self.cardinalities)
        if wrong.any():
            row, column = map(int, np.argwhere(wrong)[0])
            choice = self.choices[column]
            raise InvalidValueError(
                f"Gene {choice.name!r} of row {row} must be in 0..{len(choice.values) - 1}, "
                f"but got {array[row, column]}."
            )
        return array.astype(np.int16)

    def active(self, genes: Genes) -> NDArray[np.bool_]:
        """Mask of the genes that matter, shape (n, choices)."""
        active = np.ones(genes.shape, bool)
        for columns, parents, table in self._activity:
            active[:, columns] = table[np.arange(len(columns)), genes[:, parents]] & active[:, parents]
        return active

    def canonical(self, genes: Genes) -> Genes:
        """Genes that do not matter set to 0: equal networks are equal rows. A space with more symmetry adds to it."""
        if self._fixed:
            genes = genes.copy()
            genes[:, list(self._fixed)] = list(self._fixed.values())
        return np.where(self.active(genes), genes, np.int16(0))

    def wasteful(self, genes: Genes) -> NDArray[np.bool_]:
        """Networks that run what they do not use, or that ignore their input, (n,): a cheaper one computes the same.
        None, unless a space has such ones and says so."""
        return np.zeros(len(genes), bool)

    def sample(self, n: int, rng: np.random.Generator) -> Genes:
        """n canonical rows, each choice uniform over its values."""
        shares = rng.random((n, len(self.choices)), np.float32)  # times a count, rounded, stays below the count
        return self.canonical((shares * self.cardinalities.astype(np.float32)).astype(np.int16))

    def mutate(self, genes: Genes, rng: np.random.Generator, probability: float) -> Genes:
        """Each gene is drawn anew with the given probability; canonical."""
        rows, columns = np.nonzero(rng.random(genes.shape, np.float32) < probability)
        mutated = genes.copy()
        mutated[rows, columns] = rng.integers(0, self.cardinalities[columns])
        return self.canonical(mutated)

    def cross(self, first: Genes, second: Genes, rng: np.random.Generator) -> Genes:
        """Uniform crossover, row by row; canonical."""
        return self.canonical(np.where(rng.integers(0, 2, first.shape, np.bool_), first, second))

    def encode(self, genes: Genes) -> NDArray[np.float32]:
        """One-hot features, shape (n, sum of cardinalities); zeros for genes that do not matter."""
        offsets = np.concatenate(([0], np.cumsum(self.cardinalities)[:-1]))
        features = np.zeros((len(genes), int(self.cardinalities.sum())), np.float32)
        rows = np.arange(len(genes))[:, None]
        features[rows, offsets + genes] = self.active(genes)
        return features

    def genes_of(self, values: Mapping[str, Value]) -> Genes:
        """Gene row of named values; choices that do not matter may be left out.

        Raises:
            InvalidValueError: an unknown choice, a value that a choice cannot take, or a missing choice that matters.
        """
        unknown = [name for name in values if name not in self.index]
        if unknown:
            raise InvalidValueError(f"Space {self.name!r} has no choice {unknown[0]!r}.")
        genes = np.zeros(len(self.choices), np.int16)
        for name, value in values.items():
            choice = self.choices[self.index[name]]
            if isinstance(value, bool | float) or value not in choice.values:  # True == 1, yet it is no depth
                raise InvalidValueError(f"Choice {name!r} can be {list(choice.values)}, but got {value!r}.")
            genes[self.index[name]] = choice.values.index(value)
        active = self.active(genes.reshape(1, -1))[0]
        for choice, matters in zip(self.choices, active, strict=True):
            if matters and choice.name not in values:
                raise InvalidValueError(f"Choice {choice.name!r} is missing; it can be {list(choice.values)}.")
            if not matters and choice.name in values:
                raise InvalidValueError(
                    f"Choice {choice.name!r} does not exist in this network ({choice.active_when})."
                )
        return genes

    @functools.cached_property
    def size(self) -> int:
        """Number of distinct networks, exact."""
        children: dict[str, list[Choice]] = {choice.name: [] for choice in self.choices}
        for choice in self.choices:
            if choice.active_when is not None:
                children[choice.active_when.choice].append(choice)

        def count(choice: Choice) -> int:
            return sum(
                math.prod(count(c) for c in children[choice.name] if c.active_when and value in c.active_when.values)
                for value in ([self.fixed[choice.name]] if choice.name in self.fixed else choice.values)
            )

        return math.prod(count(choice) for choice in self.choices if choice.active_when is None)

    @property
    def smallest(self) -> Architecture:
        """All choices at their first value."""
        return Architecture(self, np.zeros(len(self.choices), np.int16))

    @property
    def biggest(self) -> Architecture:
        """All choices at their last value."""
        return Architecture(self, (self.cardinalities - 1).astype(np.int16))

    # -- positions -----------------------------------------------------------------------------------------------------

    def position_index(self, genes: Genes) -> NDArray[np.int64]:
        """Index of the layer of each network and position in the concatenated position tables.

        Position p owns the indices ``offsets[p]`` to ``offsets[p + 1]``; there are ``table_size`` in all. Shape
        (n, positions).
        """
        within = genes.astype(self._steps.dtype) @ self._steps  # BLAS, which has no integers
        index: NDArray[np.int64] = within.astype(np.int64)
        index += self.offsets[:-1]
        return index

    def is_part(self, p: int, genes: Genes) -> NDArray[np.bool_]:
        """Mask (n,) of the canonical rows (n, choices) whose networks have the p-th position: where it is active."""
        condition = self.positions[p].active_when
        if condition is None:
            return np.ones(len(genes), bool)
        column = self.index[condition.choice]
        return np.array([value in condition.values for value in self.choices[column].values])[genes[:, column]]

    def _position_steps(self) -> tuple[NDArray[np.floating], NDArray[np.int64], int]:
        steps = np.zeros((len(self.choices), len(self.positions)))
        sizes = []
        for p, position in enumerate(self.positions):
            self._check_condition(position)
            step = 1
            for name in reversed(position.depends_on):
                if name not in self.index:
                    raise InvalidValueError(f"Position {position.name!r} depends on {name!r}, which is not a choice.")
                steps[self.index[name], p] = step
                step *= int(self.cardinalities[self.index[name]])
            sizes.append(step)
        offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        exact = np.float32 if offsets[-1] < 2**24 else np.float64  # float32 holds all integers up to there
        return steps.astype(exact), offsets, int(offsets[-1])

    def _check_condition(self, position: Position) -> None:
        condition = position.active_when
        if condition is None:
            return
        if position.name in self.outputs.values():
            raise InvalidValueError(
                f"Position {position.name!r} of space {self.name!r} gives an output, so that it must always be active."
            )
        choice = self.choices[self.index[condition.choice]] if condition.choice in position.depends_on else None
        if choice is None or choice.active_when is not None or not set(condition.values) <= set(choice.values):
            raise InvalidValueError(
                f"Position {position.name!r} of space {self.name!r} is active when {condition.choice!r} is one of "
                f"{list(condition.values)}; that must be a choice that it depends on and that always matters, and "
                "values of it."
            )

    def _activity_tables(self) -> list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]]:
        """Conditional choices by depth of nesting: (columns, parent columns, table (columns, values) of activity)."""
        level: dict[str, int] = {}
        for choice in self.choices:
            parent = choice.active_when.choice if choice.active_when else None
            if parent is not None and parent not in level:
                raise InvalidValueError(f"Choice {choice.name!r} depends on {parent!r}, which must come before it.")
            if choice.active_when and not set(choice.active_when.values) <= set(
                self.choices[self.index[choice.active_when.choice]].values
            ):
                raise InvalidValueError(f"Choice {choice.name!r}: {parent!r} cannot be {choice.active_when.values}.")
            level[choice.name] = 0 if parent is None else level[parent] + 1
        tables = []
        for depth in range(1, max(level.values(), default=0) + 1):
            members = [choice for choice in self.choices if level[choice.name] == depth]
            columns = np.array([self.index[c.name] for c in members], np.intp)
            conditions = [c.active_when for c in members if c.active_when is not None]
            parents = np.array([self.index[c.choice] for c in conditions], np.intp)
            table = np.zeros((len(members), int(self.cardinalities.max())), bool)
            for row, condition in enumerate(conditions):
                for v, value in enumerate(self.choices[parents[row]].values):
                    table[row, v] = value in condition.values
            tables.append((columns, parents, table))
        return tables

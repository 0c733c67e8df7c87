"""Architectures: choices, gene arrays, and one canonical row of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from search_spaces.base.errors import InvalidValueError, MismatchError

if TYPE_CHECKING:
    from search_spaces.network import Network
    from search_spaces.space import SearchSpace

Value = int | str
"""Value of a choice: a size or a name."""

Genes = NDArray[np.int16]
"""A population, shape (n, choices): index of the value taken by each choice. Canonical rows are equal iff the networks
are equal."""


class ArchitectureJson(TypedDict):
    """JSON form of an architecture: the name and fingerprint of its space, and the choices that matter, by name."""

    space: str
    fingerprint: str
    choices: dict[str, Value]


@dataclass(frozen=True)
class Condition:
    """A choice matters only while another, earlier choice takes one of these values."""

    choice: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Choice:
    """One decision of a search space.

    Args:
        name: unique in its space, for example ``kernel.2.1``.
        values: what it can take, smallest first.
        active_when: the condition under which it matters; its gene is 0 otherwise. None: it always matters.
    """

    name: str
    values: tuple[Value, ...]
    active_when: Condition | None = None

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) != len(self.values):
            raise InvalidValueError(f"Choice {self.name!r} needs distinct values, but got {self.values!r}.")


@dataclass(frozen=True)
class Position:
    """A place in the network whose layer depends on a few named choices and on nothing else.

    So any quantity of a position is a small dense array over those choices, and a sum over positions is, for a whole
    population, a gather and a sum.

    Args:
        name: unique in its space.
        depends_on: names of the choices that decide about its layer, which may be of any kind, or absent.
        inputs: names of earlier positions, or of inputs of the network, that the layer reads, in order. An absent layer
            hands on the first of them. Empty: the position before, or the first input of the network.
        active_when: the condition under which it is part of the network; otherwise what reads it does without it. Its
            choice is one that always matters, and that the position depends on. None: it always is.
    """

    name: str
    depends_on: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    active_when: Condition | None = None

    def is_active(self, values: Mapping[str, Value]) -> bool:
        """True if it is part of the network, given the values of the choices that it depends on."""
        return self.active_when is None or values[self.active_when.choice] in self.active_when.values


@dataclass(frozen=True, eq=False)
class Architecture:
    """One network of a space: a canonical row of genes. Frozen, hashable, checked when built."""

    space: SearchSpace
    genes: Genes  # (choices,)

    def __post_init__(self) -> None:
        row = np.asarray(self.genes)
        canonical = self.space.canonical(self.space.validate(row.reshape(1, -1)))[0]
        canonical.setflags(write=False)
        object.__setattr__(self, "genes", canonical)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Architecture)
            and self.space.fingerprint == other.space.fingerprint
            and bool(np.array_equal(self.genes, other.genes))
        )

    def __hash__(self) -> int:
        return hash((self.space.fingerprint, self.genes.tobytes()))

    @property
    def values(self) -> dict[str, Value]:
        """Value of each choice that matters for this network, in the order of the space."""
        active = self.space.active(self.genes.reshape(1, -1))[0]
        return {c.name: c.values[g] for c, g, a in zip(self.space.choices, self.genes, active, strict=True) if a}

    @property
    def layers(self) -> Network:
        """Layers by position, from input to output."""
        return self.space.lower(self)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of an image."""
        return sum(layer.macs for layer in self.layers.values())

    @property
    def params(self) -> int:
        """Parameters of all layers."""
        return sum(layer.params for layer in self.layers.values())

    @property
    def peak_elements(self) -> int:
        """Largest number of activation elements alive at once, batch 1, one operator after the other."""
        return self.layers.peak_elements

    def to_json(self) -> ArchitectureJson:
        """Form for a file, which `from_json` reads back."""
        return {"space": self.space.name, "fingerprint": self.space.fingerprint, "choices": self.values}

    @staticmethod
    def from_json(space: SearchSpace, data: Any) -> Architecture:
        """Read back `to_json`.

        Raises:
            MismatchError: it belongs to another space.
            InvalidValueError: a choice is missing, superfluous or takes a value that it cannot take.
        """
        if isinstance(data, str):
            try:
                data = json.loads(data)
            except ValueError as error:
                raise InvalidValueError(f"An architecture is a JSON mapping, but got {data[:80]!r}.") from error
        given = checked_json(data)
        if (given["space"], given["fingerprint"]) != (space.name, space.fingerprint):
            raise MismatchError(
                f"The architecture belongs to space {given['space']!r} ({given['fingerprint']}), "
                f"but the space here is {space.name!r} ({space.fingerprint}). Choose that space with `space=`."
            )
        return Architecture(space, space.genes_of(given["choices"]))


def checked_json(data: Any) -> ArchitectureJson:
    """The JSON form of an architecture, if it is one.

    Raises:
        InvalidValueError: it is none.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("choices"), Mapping) or "space" not in data:
        raise InvalidValueError(
            f"An architecture is a mapping with `space`, `fingerprint` and `choices`, but got {data!r:.120}."
        )
    return {"space": data["space"], "fingerprint": data.get("fingerprint", ""), "choices": dict(data["choices"])}

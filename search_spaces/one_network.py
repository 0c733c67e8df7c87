"""A space of one network, so that what trains, judges and exports the networks of a space does so with one alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from search_spaces.architecture import Architecture, Choice, Position, Value
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.storage import fingerprint
from search_spaces.layers import Layer
from search_spaces.network import Network
from search_spaces.space import SearchSpace


class OneNetwork(SearchSpace):
    """The space that holds one network of another one: its layers at its positions, and nothing to choose.

    Its supernet has the weights of that network and no others.

    Args:
        name: what users call it.
        space: that the network is of.
        choices: of the network, by name.
        classes: that it tells instead of those that it has; None: these.

    Raises:
        InvalidValueError: classes are given, and the layer of the output has no field of this name.
    """

    def __init__(self, name: str, space: SearchSpace, choices: Mapping[str, Value], classes: int | None = None) -> None:
        self.origin = Architecture(space, space.genes_of(choices))
        self.norm_eps = space.norm_eps
        self.classes = classes
        self._network = self.origin.layers if classes is None else _telling(self.origin.layers, classes)
        told = {} if classes is None else {"classes": classes}
        super().__init__(
            name,
            {"space": space.fingerprint, "choices": self.origin.values, **told},
            [Choice("network", (name,))],
            [Position(position, (), self._network.sources[position]) for position in self._network],
            inputs=list(self._network.inputs),
            outputs=self._network.outputs,
        )

    @classmethod
    def of(cls, architecture: Architecture, classes: int | None = None) -> OneNetwork:
        """The space of an architecture, whose name has a part that follows from the choices."""
        name = f"{architecture.space.name[:40]}-{fingerprint(architecture.to_json())[:8]}"
        return cls(name, architecture.space, architecture.values, classes)

    @property
    def _stated(self) -> Mapping[str, Any]:
        return {
            "space": self.origin.space.definition,
            "choices": self.origin.values,
            **({} if self.classes is None else {"classes": self.classes}),
        }

    @property
    def network(self) -> Architecture:
        """The one network, as one of this space."""
        return self.biggest

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer:
        return self._network[position]


def _telling(network: Network, classes: int) -> Network:
    """A network that tells so many classes."""
    layers = dict(network.layers)
    for position in network.outputs.values():
        if not hasattr(layers[position], "classes"):
            raise InvalidValueError(
                f"Position {position!r} is of {type(layers[position]).__name__}, which has no `classes` to change."
            )
        layers[position] = dataclasses.replace(layers[position], classes=classes)  # type: ignore[call-arg]
    return dataclasses.replace(network, layers=layers)


def origin_of(architecture: Architecture) -> Architecture:
    """The network of the space that was searched: itself, or that which a space of one network is of."""
    return architecture.space.origin if isinstance(architecture.space, OneNetwork) else architecture

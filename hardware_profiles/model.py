"""Models that devices run: the layers of a network, or a single layer, with weights."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.graph import Graph, T
from search_spaces.layers import Layer, Shape

Weights = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Weight and bias by the name that a layer emits, BatchNorm folded in."""


@dataclass(frozen=True)
class Model:
    """A chain of layers that a backend loads.

    Args:
        layers: position name -> layer, from input to output.
        weights: trained weights. None: random ones, the same for the same names and shapes in every process.
        ranges: lowest and highest value of each activation, for devices that compute in integers, as
            `hardware_profiles.quantisation.activation_ranges` gives them. None: not known, which is enough for timing.
    """

    layers: Mapping[str, Layer]
    weights: Weights | None = field(default=None, repr=False)
    ranges: Sequence[tuple[float, float]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.layers:
            raise InvalidValueError("A model has at least one layer.")

    @staticmethod
    def of_layer(layer: Layer) -> Model:
        """A model of one layer."""
        return Model({"layer": layer})

    def to_json(self) -> dict[str, Any]:
        """The layers by position, without weights."""
        return {position: layer.to_json() for position, layer in self.layers.items()}

    @property
    def input_shape(self) -> Shape:
        """(channels, height, width)."""
        return next(iter(self.layers.values())).input_shape

    @property
    def output_shape(self) -> Shape:
        """Shape of the output, without the batch."""
        return list(self.layers.values())[-1].output_shape

    def emit(self, graph: Graph[T], x: T) -> T:
        """Add all layers to a graph."""
        for position, layer in self.layers.items():
            x = layer.emit(graph, x, position)
        return x

    def parameters(self, name: str, shape: Shape) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weight of the given shape (output channels first) and bias.

        Raises:
            MismatchError: the trained weights lack the name or have another shape.
        """
        if self.weights is not None:
            if name not in self.weights:
                raise MismatchError(f"The weights have no {name!r}; they belong to another network.")
            weight, bias = self.weights[name]
            if weight.shape != shape or bias.shape != shape[:1]:
                raise MismatchError(f"Weight {name!r} must have shape {shape}, but has {weight.shape}.")
            return weight, bias
        rng = np.random.default_rng(zlib.crc32(f"{name}{shape}".encode()))
        fan_in = max(1, int(np.prod(shape[1:])))
        weight = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(fan_in))
        return weight, rng.standard_normal(shape[0], np.float32) * np.float32(0.1)

"""Models that devices run: the layers of a network, or a single layer, with weights."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.layers import Layer
from search_spaces.network import Network
from search_spaces.program import Shape

T = TypeVar("T")

Weights = Mapping[str, NDArray[np.float32]]
"""Parameters for inference, BatchNorm folded in, by position, operator and parameter: ``stem.conv.weight``."""

Batch = NDArray[Any] | Mapping[str, NDArray[Any]]
"""Inputs or outputs of a network, (batch, *shape): one array, or several by name."""


@dataclass(frozen=True)
class Model:
    """A network that a backend loads.

    Args:
        layers: a network, or position name -> layer of a chain, from input to output.
        weights: trained weights. None: random ones, the same for the same names and shapes in every process.
        ranges: lowest and highest value of each activation, for devices that compute in integers, as
            `hardware_profiles.quantisation.activation_ranges` gives them. None: not known, which is enough for timing.
    """

    layers: Mapping[str, Layer]
    weights: Weights | None = field(default=None, repr=False)
    ranges: Sequence[tuple[float, float]] | None = field(default=None, repr=False)

    @functools.cached_property
    def network(self) -> Network:
        """The layers with their wiring."""
        return Network.of(self.layers)

    def __post_init__(self) -> None:
        if not self.layers:
            raise InvalidValueError("A model has at least one layer.")

    @staticmethod
    def of_layer(layer: Layer) -> Model:
        """A model of one layer."""
        return Model(Network.of_layer("layer", layer))

    def to_json(self) -> dict[str, Any]:
        """The layers by position, without weights."""
        return self.network.to_json()

    @property
    def input_shape(self) -> Shape:
        """(channels, height, width), of the first input."""
        return next(iter(self.network.inputs.values()))

    @property
    def output_shape(self) -> Shape:
        """Shape of the first output, without the batch."""
        return next(iter(self.network.output_shapes.values()))

    def inputs(self, given: Batch) -> list[NDArray[Any]]:
        """The arrays of a batch in the order of the network's inputs.

        Raises:
            InvalidValueError: they are not those that the network takes; the message names the first.
        """
        shapes = self.network.inputs
        if not isinstance(given, Mapping):
            given = {next(iter(shapes)): given}
        if set(given) != set(shapes):
            raise InvalidValueError(f"The network takes the inputs {', '.join(shapes)}, but got {', '.join(given)}.")
        for name, shape in shapes.items():
            if given[name].shape[1:] != shape:
                wanted = ", ".join(map(str, shape))
                raise InvalidValueError(f"Input {name!r} must have shape (N, {wanted}), but got {given[name].shape}.")
        return [given[name] for name in shapes]

    def random_inputs(self, batch: int) -> list[NDArray[Any]]:
        """Inputs for timing, in their order: the same normal numbers, or integers, in every process."""
        rng = np.random.default_rng(0)
        network = self.network
        return [
            rng.standard_normal((batch, *shape), np.float32)
            if limit is None
            else rng.integers(limit, size=(batch, *shape))
            for shape, limit in zip(network.inputs.values(), network.index_limits.values(), strict=True)
        ]

    def run_onnx(self, session: Any, given: Batch) -> Batch:
        """Outputs that ONNX Runtime's session of this network gives for inputs."""
        arrays = dict(zip(self.network.inputs, self.inputs(given), strict=True))
        return self.outputs(session.run(list(self.network.outputs), arrays))

    def outputs(self, arrays: Sequence[NDArray[np.float32]]) -> Batch:
        """The network's outputs, given in their order: the array itself where there is one, else by name."""
        return arrays[0] if len(arrays) == 1 else dict(zip(self.network.outputs, arrays, strict=True))

    def fold(self, apply: Callable[..., T], *inputs: T) -> Any:
        """Outputs of all operators that a device runs, each ``apply(position, op, *its inputs)``; see `Network.run`."""

        def of_layer(position: str, layer: Layer, *values: T) -> T:
            return layer.program.deployed.fold(functools.partial(apply, position), *values)

        return self.network.run(of_layer, *inputs)

    def parameters(
        self, name: str, shape: Shape, outputs: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weight of the given shape and bias of a convolution or linear layer.

        Args:
            name: of the layer.
            shape: of the weight.
            outputs: number of entries of the bias; None: the first extent of the weight.

        Raises:
            MismatchError: the trained weights lack the name or have another shape.
        """
        if self.weights is not None:
            return self._trained(f"{name}.weight", shape), self._trained(f"{name}.bias", (outputs or shape[0],))
        rng = np.random.default_rng(zlib.crc32(f"{name}{shape}".encode()))
        fan_in = max(1, int(np.prod(shape[1:])))
        weight = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(fan_in))
        return weight, rng.standard_normal(outputs or shape[0], np.float32) * np.float32(0.1)

    def parameter(self, name: str, shape: Shape) -> NDArray[np.float32]:
        """One parameter of any other operator; without trained weights around 1.

        Raises:
            MismatchError: the trained weights lack the name or have another shape.
        """
        if self.weights is not None:
            return self._trained(name, shape)
        rng = np.random.default_rng(zlib.crc32(f"{name}{shape}".encode()))
        return rng.standard_normal(shape, np.float32) * np.float32(0.1) + np.float32(1)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """All parameters of the network for inference, by position, operator and parameter."""
        found: dict[str, NDArray[np.float32]] = {}
        for position, layer in self.network.items():
            program = layer.program.inference
            for step, parameters in zip(program.steps, program.owned, strict=True):
                own = {f"{position}.{p.name}": p.shape for p in parameters}
                if step.op.linear and len(own) == 2:
                    (weight, shape), (_, (outputs,)) = own.items()
                    found |= zip(own, self.parameters(weight.removesuffix(".weight"), shape, outputs), strict=True)
                else:
                    found |= {name: self.parameter(name, shape) for name, shape in own.items()}
        return found

    def _trained(self, name: str, shape: Shape) -> NDArray[np.float32]:
        assert self.weights is not None
        if name not in self.weights:
            raise MismatchError(f"The weights have no {name!r}; they belong to another network.")
        array = self.weights[name]
        if array.shape != shape:
            raise MismatchError(f"Weight {name!r} must have shape {shape}, but has {array.shape}.")
        return array

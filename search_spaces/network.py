"""Networks: layers at positions that form a directed acyclic graph, with named inputs and outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from search_spaces import counting
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Layer
from search_spaces.program import Op, Shape, Step

INPUT, OUTPUT = "image", "logits"
"""Names of the input and the output of a network that has one of each and names neither."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Network(Mapping[str, Layer]):
    """A lowered architecture: layers by position, in an order in which they can run.

    ``layers``: position -> layer. ``sources``: position -> the positions, or inputs of the network, that its layer
    reads. ``inputs``: name -> shape. ``outputs``: name -> the position, or input, that gives it.
    """

    layers: Mapping[str, Layer]
    sources: Mapping[str, tuple[str, ...]]
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, str]

    @staticmethod
    def of(layers: Mapping[str, Layer]) -> Network:
        """The network itself, or the chain of some layers.

        Raises:
            InvalidValueError: no layer.
        """
        if isinstance(layers, Network):
            return layers
        if not layers:
            raise InvalidValueError("A network has at least one layer.")
        names = list(layers)
        sources = {name: (before,) for before, name in zip([INPUT, *names], names, strict=False)}
        return Network(dict(layers), sources, {INPUT: layers[names[0]].input_shape}, {OUTPUT: names[-1]})

    @staticmethod
    def of_layer(position: str, layer: Layer) -> Network:
        """The network of one layer, of any number of inputs."""
        names = (INPUT, *(f"{INPUT}{i}" for i in range(2, len(layer.input_shapes) + 1)))
        inputs = dict(zip(names, layer.input_shapes, strict=True))
        return Network({position: layer}, {position: names}, inputs, {OUTPUT: position})

    def to_json(self) -> dict[str, Any]:
        """Form for a file: of a chain its layers by position, else with their wiring."""
        layers = {position: layer.to_json() for position, layer in self.layers.items()}
        if self.is_chain:
            return layers
        return {
            "layers": layers,
            "sources": dict(self.sources),
            "inputs": dict(self.inputs),
            "outputs": dict(self.outputs),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Network:
        """Read back `to_json`."""
        if "sources" not in data or "kind" in data["sources"]:
            return Network.of({position: Layer.from_json(layer) for position, layer in data.items()})
        return Network(
            {position: Layer.from_json(layer) for position, layer in data["layers"].items()},
            {position: tuple(sources) for position, sources in data["sources"].items()},
            {name: tuple(shape) for name, shape in data["inputs"].items()},
            dict(data["outputs"]),
        )

    def __getitem__(self, position: str) -> Layer:
        return self.layers[position]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def is_chain(self) -> bool:
        """True if each layer reads the one before it alone, from the input to the output."""
        chain = Network.of(self.layers)
        return (self.sources, self.outputs) == (chain.sources, chain.outputs) and len(self.inputs) == 1

    @property
    def output_shapes(self) -> dict[str, Shape]:
        """Shape of each output, by its name."""
        shapes = {**self.inputs, **{position: layer.output_shape for position, layer in self.layers.items()}}
        return {name: shapes[source] for name, source in self.outputs.items()}

    def named_outputs(self, given: Any) -> dict[str, Any]:
        """Outputs by name, of what `run` gives."""
        return dict(given) if isinstance(given, Mapping) else {next(iter(self.outputs)): given}

    @property
    def index_limits(self) -> dict[str, int | None]:
        """Number of different integers that each input of the network can be, by its name; None: it is float32."""
        found: dict[str, int | None] = dict.fromkeys(self.inputs)
        for position, layer in self.layers.items():
            for source, limit in zip(self.sources[position], layer.program.index_limits, strict=True):
                if source in found and limit is not None:
                    found[source] = min(limit, found[source] or limit)
        return found

    def run(self, apply: Callable[..., T], *inputs: T) -> Any:
        """Outputs of the layers, each ``apply(position, layer, *its inputs)``: the value itself where the network has
        one output, else by name."""
        values = dict(zip(self.inputs, inputs, strict=True))
        for position, layer in self.layers.items():
            values[position] = apply(position, layer, *(values[source] for source in self.sources[position]))
        results = {name: values[source] for name, source in self.outputs.items()}
        return next(iter(results.values())) if len(results) == 1 else results

    @functools.cached_property
    def peak_elements(self) -> int:
        """Largest number of activation elements alive at once, over all operators of all layers in order; what later
        layers still read counts, and the inputs and outputs of the network."""
        shapes = list(self.inputs.values())
        steps: list[Step] = []

        def step(op: Op, *tensors: int) -> int:
            steps.append(Step(op, tensors))
            shapes.append(op.shape(*(shapes[tensor] for tensor in tensors)))
            return len(shapes) - 1

        def of_layer(position: str, layer: Layer, *tensors: int) -> int:
            return layer.program.deployed.fold(step, *tensors)

        found = self.named_outputs(self.run(of_layer, *range(len(self.inputs))))
        return counting.peak_of(steps, shapes, set(found.values()))

    def check_shapes(self) -> None:
        """Check that each layer takes what it is given, and that something reads what it gives.

        Raises:
            InvalidValueError: shapes that do not meet, or a layer for nothing; the message names the position.
        """
        read = {name for sources in self.sources.values() for name in sources} | set(self.outputs.values())
        if unread := [position for position in self.layers if position not in read]:
            raise InvalidValueError(
                f"Nothing reads position {unread[0]!r} here, because what would read it has no layer and hands on "
                "another input. Let it read this one first, always have a layer, or leave out both."
            )
        for name, source in self.outputs.items():
            if source not in self.layers and source not in self.inputs:
                raise InvalidValueError(
                    f"Output {name!r} is the input {source!r} itself here, as no position between them has a layer. "
                    "Let one of them always have one."
                )
        shapes: dict[str, Shape] = dict(self.inputs)
        for position, layer in self.layers.items():
            program = layer.program
            if "int64" in layer.input_types:
                self._check_integers(position)
            given = tuple([shapes[source] for source in self.sources[position]])
            if given != program.inputs:
                raise InvalidValueError(
                    f"Position {position!r} takes {_listed(program.inputs)}, but "
                    f"{', '.join(self.sources[position])} give {_listed(given)}; let its layer follow from theirs."
                )
            shapes[position] = program.output_shape

    def _check_integers(self, position: str) -> None:
        """Check that the integers that a position takes are inputs of the network, which nothing reads as numbers."""
        readers = [
            (source, kind, name)
            for name, layer in self.layers.items()
            for source, kind in zip(self.sources[name], layer.input_types, strict=False)
        ]
        for source in (source for source, kind, name in readers if name == position and kind == "int64"):
            if source not in self.inputs:
                raise InvalidValueError(f"Position {position!r} takes int64 from {source!r}, which gives float32.")
            for other in (name for one, kind, name in readers if one == source and kind == "float32"):
                raise InvalidValueError(f"Position {position!r} takes int64 from {source!r}, but {other!r} float32.")


def _listed(shapes: Sequence[Shape]) -> str:
    return ", ".join(map(str, shapes)) or "nothing"

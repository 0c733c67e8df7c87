"""One network that holds the weights of every network of a space. The architecture is an argument, never a state."""

from __future__ import annotations

import copy
import fnmatch
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.core.checkpoint import checkpoint_bytes, checkpoint_content, read_checkpoint
from nas.data import Data
from nas.supernet.elastic import ElasticLayer, ElasticPosition, elastic_position
from search_spaces.architecture import Architecture, Value
from search_spaces.base.errors import DamagedFileError, InvalidValueError, MismatchError
from search_spaces.base.storage import write_bytes
from search_spaces.layers import Size, image_size
from search_spaces.network import Network
from search_spaces.program import Shape
from search_spaces.space import SearchSpace
from search_spaces.torch_program import NetworkPlan, StaticLayer, StaticNetwork

Part = Mapping[str, Sequence[Value]]
"""Values that some choices take; the others take any."""


class Supernet(nn.Module):
    """The shared weights of a space.

    Few-shot search divides a space into parts that have weights of their own (Zhao et al., "Few-shot Neural
    Architecture Search", ICML 2021, arXiv:2006.06863). Each network then takes those of its part; ``positions`` are the
    weights of the first.

    Args:
        space: its positions become elastic layers.
        seed: of the initial weights; the global random state is left as it was.
        parts: of the space; together they hold every network. None: it is not divided.

    ``data``: what it was trained on, where that is known.

    Raises:
        InvalidValueError: a part names a choice or a value that there is not.
    """

    def __init__(self, space: SearchSpace, *, seed: int = 0, parts: Sequence[Part] = ()) -> None:
        super().__init__()
        self.space = space
        self.parts = tuple({name: tuple(values) for name, values in part.items()} for part in parts) or ({},)
        self._allowed = [_allowed(space, part) for part in self.parts]
        self.data: Data | None = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.positions = nn.ModuleDict(
                {
                    position.name: elastic_position(
                        [layer for layer in space.layers_at(p) if layer is not None], norm_eps=space.norm_eps
                    )
                    for p, position in enumerate(space.positions)
                }
            )
        if len(self.parts) > 1:  # else the file of the weights is the one that it was before there were parts
            self.further = nn.ModuleList([copy.deepcopy(self.positions) for _ in self.parts[1:]])
        # Depthwise gradients on a CPU take a third of the time in this format.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __repr__(self) -> str:
        shared = sum(weights.numel() for weights in self.parameters())
        parts = "" if len(self.parts) == 1 else f" in {len(self.parts)} parts"
        trained = "" if self.data is None else f", trained on {self.data.name}"
        return f"Supernet(of {self.space.name}, {shared:,} shared weights{parts}{trained})"

    def forward(self, x: Tensor | Mapping[str, Tensor], architecture: Architecture) -> Any:
        """Run one network of the space.

        Args:
            x: images at the architecture's resolution, shape (B, C, H, W); of a network with several inputs, each
                (B, *shape), by its name.
            architecture: which network.

        Returns:
            Logits, shape (B, classes); of a network with several outputs, each by its name.

        Raises:
            MismatchError: the architecture is of another space, or an input has not the shape that it takes.
        """
        network = self.lower(architecture)
        named = {next(iter(network.inputs)): x} if isinstance(x, Tensor) else x
        _check_inputs(named, network.inputs)
        return self.plan(architecture)(*[named[name] for name in network.inputs])

    def plan(self, architecture: Architecture) -> NetworkPlan:
        """One network of the space as a function of its inputs, in the supernet's mode, on slices of its weights.

        Raises:
            MismatchError: the architecture is of another space.
        """
        part = self.part_of(architecture)
        return NetworkPlan.of(self.lower(architecture), lambda position, layer: self.at(position, part).ready(layer))

    def synchronise(self, several: bool) -> None:
        """Let BatchNorm take its statistics over the batches of all processes, or of this one alone."""
        for module in self.modules():
            if isinstance(module, ElasticLayer):
                module.synchronised = several

    def follow_statistics(self, momentum: float) -> None:
        """Set the share of a batch in the running statistics of every BatchNorm, in training mode; 0: they stay."""
        for _, layer in self._layers():
            layer.momentum = momentum

    def freeze(self, frozen: Callable[[str], bool]) -> None:
        """Say of each parameter whether it is not trained, by its position and its name there, as in
        ``stem.conv.conv.weight``. A BatchNorm whose factors are not trained keeps its running statistics, unless
        another one of its layer's is."""
        for position, layer in self._layers():

            def of_position(name: str, position: str = position) -> bool:
                return frozen(f"{position}.{name}")

            layer.body.freeze(of_position)
            for transform in layer.transforms.values():
                transform.requires_grad_(not of_position("transforms"))

    def train_only(self, patterns: Sequence[str]) -> None:
        """Freeze all parameters but those whose names fit a pattern, such as ``*.bias`` or ``classifier.*``.

        Raises:
            InvalidValueError: a pattern fits none.
        """
        fitting: set[str] = set()

        def frozen(name: str) -> bool:
            fits = [pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern)]
            fitting.update(fits)
            return not fits

        self.freeze(frozen)
        if unfit := [pattern for pattern in patterns if pattern not in fitting]:
            raise InvalidValueError(
                f"`trained` names {unfit[0]!r}, which fits no parameter of space {self.space.name!r}. Names are such "
                f"as {self.frozen[0] if self.frozen else 'stem.conv.conv.weight'!r}."
            )

    @property
    def frozen(self) -> list[str]:
        """Names of the parameters that are not trained."""
        names = [
            f"{position}.{name}"
            for position, layer in self._layers()
            for name, parameter in layer.body.named_parameters()
            if not parameter.requires_grad
        ]
        return list(dict.fromkeys(names))

    def _layers(self) -> Iterator[tuple[str, ElasticLayer]]:
        """Elastic layers of all parts and kinds, with their positions."""
        for part in range(len(self.parts)):
            for position in self.positions:
                elastic = self.at(position, part)
                layers = [elastic] if isinstance(elastic, ElasticLayer) else map(elastic.of_kind, elastic)
                yield from ((position, layer) for layer in layers)

    def extract(self, architecture: Architecture) -> StaticNetwork:
        """The network as a plain static module with its own copy of the weights, in the supernet's mode."""
        layers, part = self.lower(architecture), self.part_of(architecture)
        with torch.device("meta"):
            network = StaticNetwork(layers, self.space.norm_eps)
        state = {
            f"{position}.{name}": tensor.detach().clone()
            for position, layer in layers.items()
            for name, tensor in self.at(position, part).state(layer).items()
        }
        network.load_state_dict(state, assign=True)
        for position, layer in layers.items():
            own = network.get_submodule(position)
            assert isinstance(own, StaticLayer)
            own.still = self.at(position, part).of(layer).body.still
        return network.train(self.training)

    def at(self, position: str, part: int = 0) -> ElasticLayer | ElasticPosition:
        """The shared weights of a position in a part of the space."""
        elastic = self.weights_of(part)[position]
        assert isinstance(elastic, ElasticLayer | ElasticPosition)
        return elastic

    def weights_of(self, part: int) -> nn.ModuleDict:
        """The shared weights of a part of the space, by position."""
        positions = self.positions if part == 0 else self.further[part - 1]
        assert isinstance(positions, nn.ModuleDict)
        return positions

    def part_of(self, architecture: Architecture) -> int:
        """Number of the part of the space that holds a network."""
        if len(self.parts) == 1:
            return 0
        genes = architecture.genes
        for part, allowed in enumerate(self._allowed):
            if all(genes[column] in values for column, values in allowed.items()):
                return part
        raise InvalidValueError(f"None of {len(self.parts)} parts of space {self.space.name!r} holds {architecture!r}.")

    def divided(self, parts: Sequence[tuple[int, Part]]) -> Supernet:
        """A supernet of other parts.

        Args:
            parts: the number of a part of this one, whose weights it begins with, and its values of choices.
        """
        found = Supernet(self.space, parts=[part for _, part in parts])
        for number, (before, _) in enumerate(parts):
            found.weights_of(number).load_state_dict(self.weights_of(before).state_dict())
        found.data = self.data
        return found.to(next(self.parameters()).device).train(self.training)

    def lower(self, architecture: Architecture) -> Network:
        """The layers of an architecture of this space.

        Raises:
            MismatchError: it is of another one.
        """
        if architecture.space.fingerprint != self.space.fingerprint:
            raise MismatchError(
                f"The architecture belongs to space {architecture.space.name!r} ({architecture.space.fingerprint}), "
                f"but the supernet to {self.space.name!r} ({self.space.fingerprint})."
            )
        return self.space.lower(architecture)

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write the weights atomically, with the identity of the space."""
        write_bytes(path, self._content())

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of what `save` writes."""
        return hashlib.sha256(self._content()).hexdigest()[:16]

    def _content(self) -> bytes:
        frozen = {"frozen": self.frozen} if self.frozen else {}
        return checkpoint_bytes(self.space, {"supernet": self.state_dict(), **parts_content(self), **frozen})

    @staticmethod
    def load(space: SearchSpace, path: Path) -> Supernet:
        """Read back `save`, in eval mode.

        Raises:
            StorageError: the file cannot be opened.
            DamagedFileError: it cannot be understood.
            MismatchError: it holds the supernet of another space.
        """
        content = read_checkpoint(path, space)
        try:
            supernet = Supernet(space, parts=content.get("parts", ()))
            supernet.load_state_dict(content["supernet"])
            supernet.freeze(set(content.get("frozen", ())).__contains__)
        except Exception as error:  # whatever stands in place of a mapping of tensors
            raise DamagedFileError(
                f"{path} does not hold the weights of {space.name!r} ({str(error)[:200]}). Give "
                "another file, or move it away and run `nas train`."
            ) from error
        if not all(bool(torch.isfinite(tensor).all()) for tensor in supernet.state_dict().values()):
            raise DamagedFileError(
                f"{path} holds weights that are no finite numbers. Give another file, or move it away and run "
                "`nas train`."
            )
        return supernet.eval()


def parts_content(supernet: Supernet) -> dict[str, Any]:
    """Parts of a supernet for a file; nothing where it is not divided."""
    if len(supernet.parts) == 1:
        return {}
    return {"parts": [{name: list(values) for name, values in part.items()} for part in supernet.parts]}


def position_of(name: str) -> str:
    """Position that a parameter of a supernet, by its name, belongs to."""
    first, second, third, *_ = name.split(".")
    return third if first == "further" else second


def _allowed(space: SearchSpace, part: Part) -> dict[int, frozenset[int]]:
    """Genes that choices may take in a part of a space, by column."""
    found = {}
    for name, values in part.items():
        if name not in space.index:
            raise InvalidValueError(f"A part of space {space.name!r} names {name!r}, which is no choice of it.")
        known = space.choices[space.index[name]].values
        if wrong := [value for value in values if value not in known]:
            raise InvalidValueError(f"Choice {name!r} of a part can be {list(known)}, but got {wrong[0]!r}.")
        found[space.index[name]] = frozenset(known.index(value) for value in values)
    return found


def weights_for(
    space: SearchSpace, weights: Mapping[str, Tensor], source: str, *, seed: int = 0
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights of another supernet as those of a space, whose outputs may be of another number.

    Args:
        space: that they shall be of.
        weights: of the other one, by name.
        source: it, for messages.
        seed: of what is made anew.

    Returns:
        All weights, and the names of those made anew, which belong to the outputs.

    Raises:
        MismatchError: anything else does not fit.
    """
    heads = tuple(f"positions.{position}." for position in space.outputs.values())
    found, anew = dict(Supernet(space, seed=seed).state_dict()), []
    ways_out = "Choose the space that they are of, which may have other `classes`."
    if unknown := [name for name in weights if name not in found]:
        raise MismatchError(
            f"{source} has weights that space {space.name!r} has no place for: {unknown[0]}. {ways_out}"
        )
    for name, fresh in found.items():
        given = weights.get(name)
        if given is not None and given.shape == fresh.shape:
            found[name] = given
        elif given is not None and name.startswith(heads) and given.shape[1:] == fresh.shape[1:]:
            anew.append(name)
        else:
            shape = "none" if given is None else f"one of shape {tuple(given.shape)}"
            raise MismatchError(
                f"Space {space.name!r} needs {name!r} of shape {tuple(fresh.shape)}, but {source} has {shape}. "
                f"{ways_out}"
            )
    return found, anew


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights of the supernet of any space, from its file.

    Raises:
        StorageError: the file cannot be opened.
        DamagedFileError: it cannot be understood.
    """
    weights = checkpoint_content(path).get("supernet")
    if not isinstance(weights, Mapping) or not all(isinstance(one, Tensor) for one in weights.values()):
        raise DamagedFileError(f"{path} holds no weights of a supernet. Give another file.")
    return dict(weights)


def input_resolution(space: SearchSpace, architecture: Architecture) -> Size:
    """Height and width of the images that a network takes; one number for squares."""
    return image_size(next(iter(space.lower(architecture).inputs.values())))


def _check_inputs(given: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> None:
    """Check that a network is given what it takes.

    Raises:
        MismatchError: another input, or one of another shape.
    """
    if set(given) != set(shapes):
        taken = ", ".join(f"{name!r} of shape {shape}" for name, shape in shapes.items())
        got = ", ".join(map(repr, given))
        raise MismatchError(f"This architecture takes {taken}, but got {got}. Give a mapping of tensors by name.")
    for name, shape in shapes.items():
        if given[name].shape[1:] == shape:
            continue
        got = str(tuple(given[name].shape[1:]))
        if len(shapes) == 1 and len(shape) == 3:
            raise MismatchError(
                f"This architecture takes images of shape {shape}, but got {got}. "
                "Bring them to its resolution with `nas.data.resize`."
            )
        raise MismatchError(f"This architecture takes {name!r} of shape {shape}, but got {got}.")


def check_task(space: SearchSpace, data: Data) -> None:
    """Check that the networks of a space can be trained on some data.

    Raises:
        MismatchError: they take other inputs, or their outputs do not suit the task.
    """
    network = space.lower(space.biggest)
    (shape, *more) = network.inputs.values()
    if more or len(shape) != 3:
        taken = ", ".join(f"{name} of shape {of}" for name, of in network.inputs.items())
        raise MismatchError(
            f"Networks of space {space.name!r} take {taken}, but data {data.name!r} is of images: nothing can be "
            "trained on it. Search without accuracy, and export with `export.weights=random`."
        )
    if shape[0] != data.channels:
        raise MismatchError(
            f"Space {space.name!r} has {shape[0]} input channels, but data {data.name!r} has {data.channels}. Set "
            "`space.in_channels` to that of the data."
        )
    for architecture in (space.biggest, space.smallest):
        data.task.check(f"Networks of space {space.name!r}", space.lower(architecture).output_shapes, data.name)

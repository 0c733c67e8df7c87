"""A supernet whose choices are still weights: every position runs its layers and mixes what they give.

    relaxed = RelaxedSupernet(space, fixed={"resolution": 24})
    logits = relaxed(images, {"kernel.1.1": tensor([0.3, 0.7]), ...})       # (B, classes)

Liu et al., "DARTS: Differentiable Architecture Search", ICLR 2019, arXiv:1806.09055, equation 2. There is no second
definition of a network: positions and layers are the space's, weights those of the once-for-all `Supernet`, of which
each layer takes its slice. The weight of a layer is the product of the weights of the values that lead to it. A
position without a layer (a block beyond the depth) hands its input on, and one that is not active gives nothing, so
that the weights of what it gives add up to the probability that it is. Inside a cell each edge is mixed.

Layers of weight 0 are not run and get no gradient, so a one-hot weight costs one path in time and memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nas.supernet.elastic import ElasticLayer, ElasticPosition
from nas.supernet.supernet import Supernet
from predictors.relaxed import assignments, positions_by_choices
from search_spaces.architecture import Architecture, Genes, Value
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.cells import Cell, EdgeOperation
from search_spaces.layers import Layer
from search_spaces.program import Definition, Shape
from search_spaces.space import SearchSpace

Weights = Mapping[str, Tensor]
"""Choice -> weight of each of its values, shape (values,), usually probabilities."""

Runner = Callable[[Tensor], Tensor]

Mix = Callable[[Tensor, Tensor, Sequence[Runner]], Tensor]
"""Function that makes one of the outputs of layers: input x, weights (layers,), and what runs each layer -> output."""


def weighted_sum(x: Tensor, weights: Tensor, layers: Sequence[Runner]) -> Tensor:
    """Sum of the layers' outputs times their weights; layers of weight 0 are not run."""
    live = [k for k, weight in enumerate(weights.detach().tolist()) if weight != 0]
    if not live:
        return torch.zeros_like(layers[0](x))
    weights = weights.to(x.device)  # from the host, where logits are
    total = weights[live[0]] * layers[live[0]](x)
    for k in live[1:]:
        total = total + weights[k] * layers[k](x)
    return total


@dataclass(frozen=True, eq=False)
class Place:
    """A position: its distinct layers (None: no layer), and which assignments of which choices lead to each.

    Assignments for which it is not active are left out. A cell is not enumerated: ``layers`` is one of them, there are
    no ``genes``, and ``choices`` are those of its edges.
    """

    name: str
    layers: tuple[Layer | None, ...]
    choices: tuple[str, ...]
    genes: NDArray[np.int64]  # (assignments, choices)
    layer_of: NDArray[np.int64]  # (assignments,)
    is_conditional: bool = False

    @property
    def cell(self) -> Cell | None:
        """The cell of which operations on edges are mixed, rather than layers."""
        return layer if isinstance(layer := self.layers[0], Cell) and not len(self.genes) else None

    @property
    def is_edge(self) -> bool:
        """True if it mixes operations between two nodes."""
        present = [layer for layer in self.layers if layer is not None]
        return bool(present) and all(isinstance(layer, EdgeOperation) for layer in present)

    @property
    def is_searched(self) -> bool:
        """True if there is more than one way to fill it."""
        return self.is_conditional or self.cell is not None or len(self.layers) > 1

    def weights(self, given: Weights) -> Tensor:
        """Weight of each layer, (layers,); not of a cell."""
        some = next(iter(given.values()))
        product = some.new_ones(len(self.genes))
        for column, name in enumerate(self.choices):
            product = product * given[name][torch.from_numpy(self.genes[:, column]).to(some.device)]
        into = torch.from_numpy(self.layer_of).to(some.device)
        return some.new_zeros(len(self.layers)).index_add(0, into, product)


class RelaxedSupernet(nn.Module):
    """A `Supernet` that takes weights of values in place of an architecture.

    Args:
        space: its positions are mixed.
        fixed: choices that are not searched, such as the resolution, with their values.
        seed: of the initial weights.
        mix: how the outputs of a position's layers become one; `weighted_sum` unless a method has its own.

    Raises:
        InvalidValueError: a choice or value that the space does not have, or a position that cannot be relaxed, as its
            layers take or give tensors of different shapes; the message names it and the choices to fix.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        fixed: Mapping[str, Value] | None = None,
        seed: int = 0,
        mix: Mix = weighted_sum,
    ) -> None:
        super().__init__()
        self.space = space
        self.mix = mix
        self.fixed = {name: _gene(space, name, value) for name, value in (fixed or {}).items()}
        self.places = _places(space, self.fixed)
        genes = np.array([self.fixed.get(choice.name, 0) for choice in space.choices], np.int16)
        self.inputs = space.lower(Architecture(space, genes)).inputs
        self.supernet = Supernet(space, seed=seed)

    @property
    def searched(self) -> tuple[str, ...]:
        """The choices that need weights."""
        return tuple(choice.name for choice in self.space.choices if choice.name not in self.fixed)

    def complete(self, weights: Weights) -> dict[str, Tensor]:
        """The weights with those of the fixed choices, 1 for their value, in the order of the space.

        Raises:
            InvalidValueError: a choice is missing, unknown or fixed, or its weights have another shape.
        """
        unknown = set(weights) - set(self.searched)
        if unknown:
            raise InvalidValueError(f"Weights are of {', '.join(self.searched)}, but got {sorted(unknown)[0]!r}.")
        whole = {}
        for choice in self.space.choices:
            if choice.name in self.fixed:
                some = next(iter(weights.values()))
                whole[choice.name] = some.new_zeros(len(choice.values))
                whole[choice.name][self.fixed[choice.name]] = 1
                continue
            shape = tuple(weights[choice.name].shape) if choice.name in weights else "none"
            if shape != (len(choice.values),):
                raise InvalidValueError(
                    f"Choice {choice.name!r} needs weights of shape ({len(choice.values)},), but got {shape}."
                )
            whole[choice.name] = weights[choice.name]
        return whole

    def forward(self, x: Tensor | Mapping[str, Tensor], weights: Weights) -> Any:
        """Run the mixture.

        Args:
            x: images at the space's (or the fixed) resolution, shape (B, C, H, W); of networks with several inputs,
                each (B, *shape), by its name.
            weights: of the values of each searched choice.

        Returns:
            Logits, shape (B, classes); of networks with several outputs, each by its name.

        Raises:
            MismatchError: an input is missing, or has another shape.
        """
        whole = self.complete(weights)
        named = {next(iter(self.inputs)): x} if isinstance(x, Tensor) else x
        given = {name: tuple(tensor.shape[1:]) for name, tensor in named.items()}
        if given != self.inputs:
            wanted, got = (_listed(shapes) for shapes in (self.inputs, given))
            raise MismatchError(f"The relaxed networks take {wanted}, but got {got}.")
        values: dict[str, Tensor] = dict(named)
        for place in self.places:
            read = [values[name] for name in self.space.sources[place.name] if name in values]
            y = self._mixed(place, read, whole)
            if y is not None:
                values[place.name] = y
        outputs = {name: values[position] for name, position in self.space.outputs.items()}
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def _mixed(self, place: Place, given: Sequence[Tensor], weights: Weights) -> Tensor | None:
        """Output of a position; None where all its weights are 0, so that it is not active."""
        elastic = self.supernet.at(place.name)
        if place.cell is not None:
            assert isinstance(elastic, ElasticLayer)
            return self._cell(given[0], elastic, place.cell, [weights[name] for name in place.choices])
        if not given:
            return None
        x, *others = given
        runners = [_runner(elastic, layer, others, place.is_edge) for layer in place.layers]
        if not place.is_searched:
            return runners[0](x)
        of_layers = place.weights(weights)
        if place.is_conditional and not bool((of_layers.detach() != 0).any()):
            return None
        return self.mix(x, of_layers, runners)

    def _cell(self, x: Tensor, elastic: ElasticLayer, cell: Cell, weights: Sequence[Tensor]) -> Tensor:
        """A cell with all operations on each edge."""
        nodes = {0: x}
        for edge, (source, target) in enumerate(cell.edges):
            y = self.mix(nodes[source], weights[edge], [EdgeRunner(elastic, path) for path in cell.paths(edge)])
            nodes[target] = nodes[target] + y if target in nodes else y
        return nodes[target]

    def architecture(self, weights: Weights) -> Architecture:
        """The network of the largest weight of each choice."""
        whole = self.complete(weights)
        genes = np.array([int(whole[choice.name].detach().argmax()) for choice in self.space.choices], np.int16)
        return Architecture(self.space, self.space.canonical(genes[None])[0])

    def sample(self, weights: Weights, n: int, rng: np.random.Generator) -> Genes:
        """n canonical rows, each choice drawn by its weights, which must be probabilities."""
        whole = self.complete(weights)
        columns = []
        for choice in self.space.choices:
            p = whole[choice.name].detach().double().cpu().numpy()
            columns.append(rng.choice(len(p), n, p=p / p.sum()))
        return self.space.canonical(np.stack(columns, 1).astype(np.int16))


@dataclass(frozen=True, eq=False)
class EdgeRunner:
    """One operation on an edge between two nodes. It runs on as many channels as the input has, with the first of its
    weights; None hands the input on."""

    elastic: ElasticLayer | None
    definition: Definition | None

    def __call__(self, x: Tensor) -> Tensor:
        return x if self.elastic is None or self.definition is None else self.elastic.run(self.definition, x)


def _runner(
    elastic: ElasticLayer | ElasticPosition, layer: Layer | None, others: Sequence[Tensor], is_edge: bool
) -> Runner:
    """Function that runs a layer, given its inputs but the first."""
    if layer is None:
        return EdgeRunner(None, None) if is_edge else _identity
    own = elastic.of(layer)
    if is_edge:
        return EdgeRunner(own, layer.define)
    if len(others) + 1 == len(layer.input_shapes):
        return functools.partial(_run, own, layer, others)
    return functools.partial(_run, own, layer.define, others)  # a sum of all that may be there


def _listed(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name!r} of shape {shape}" for name, shape in shapes.items())


def _identity(x: Tensor) -> Tensor:
    return x


def _run(elastic: ElasticLayer, what: Layer | Definition, others: Sequence[Tensor], x: Tensor) -> Tensor:
    y: Tensor = elastic(what, x, *others) if isinstance(what, Layer) else elastic.run(what, x, *others)
    return y


def _gene(space: SearchSpace, name: str, value: Value) -> int:
    if name not in space.index:
        raise InvalidValueError(f"Space {space.name!r} has no choice {name!r}; it has {', '.join(space.index)}.")
    values = list(space.choices[space.index[name]].values)
    if value not in values:
        raise InvalidValueError(f"Choice {name!r} of space {space.name!r} is one of {values}, but got {value!r}.")
    return values.index(value)


def _places(space: SearchSpace, fixed: Mapping[str, int]) -> tuple[Place, ...]:
    """The positions with what can be there once the fixed choices are taken."""
    found: dict[int, Place] = {}
    for columns, positions in positions_by_choices(space).items():
        names = tuple(space.choices[column].name for column in columns)
        cells = {p: cell for p in positions if isinstance(cell := _some_layer(space, p), Cell)}
        for p, cell in cells.items():
            nothing = np.zeros((0, len(columns)), np.int64)
            found[p] = Place(space.positions[p].name, (cell,), space.positions[p].depends_on, nothing, nothing[:, 0])
        if len(cells) == len(positions):
            continue
        rows = assignments(space, columns)
        for name, gene in fixed.items():
            rows = rows[rows[:, space.index[name]] == gene] if space.index[name] in columns else rows
        canonical = space.canonical(rows)
        index = space.position_index(canonical)
        for p in (p for p in positions if p not in cells):
            position = space.positions[p]
            active = space.is_part(p, canonical)
            layers = space.layers_at(p)
            number: dict[Layer | None, int] = {}
            layer_of = [number.setdefault(layers[i], len(number)) for i in index[active, p] - space.offsets[p]]
            _check(space, position.name, tuple(number), names, fixed)
            genes = rows[active][:, list(columns)].astype(np.int64)
            conditional = not bool(active.all())
            found[p] = Place(position.name, tuple(number), names, genes, np.array(layer_of), conditional)
    return tuple(found[p] for p in sorted(found))


def _some_layer(space: SearchSpace, p: int) -> Layer:
    return next(layer for layer in space.layers_at(p) if layer is not None)


def _check(
    space: SearchSpace, position: str, layers: Sequence[Layer | None], choices: Sequence[str], fixed: Mapping[str, int]
) -> None:
    present = [layer for layer in layers if layer is not None]
    shapes = sorted({(layer.input_shape, layer.output_shape) for layer in present})
    bypassed = len(present) < len(layers) and any(a != b for a, b in shapes)
    if len(shapes) > 1 or bypassed:
        free = [name for name in choices if name not in fixed]
        what = f"{shapes[0]} and {shapes[-1]}" if len(shapes) > 1 else f"{shapes[0]} and nothing"
        raise InvalidValueError(
            f"Position {position!r} of space {space.name!r} cannot be relaxed: its layers have the shapes (input, "
            f"output) {what}. Fix a choice that it depends on ({', '.join(free)}) with `fixed`, on the command line "
            f"`+search.fixed.{free[0]}=...`."
        )

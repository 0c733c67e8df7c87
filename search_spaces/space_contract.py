"""The contract of a search space and of a layer kind, as checks that any plug-in can run.

    from search_spaces.space_contract import check_space
    check_space(load_space("mine.yaml"), np.random.default_rng(0), file="mine.yaml")

A check raises `AssertionError` that says what was expected, where, and what came instead.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Architecture, Choice, Genes
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.base.fresh_process import in_fresh_process
from search_spaces.cells import Cell, EdgeOperation
from search_spaces.layers import Layer
from search_spaces.loading import load_space
from search_spaces.program import Definition, Program
from search_spaces.space import SearchSpace

SAMPLES = 256
"""Random networks that the checks look at."""

ENUMERABLE = 100_000
"""Number of gene rows up to which all are looked at, instead of a sample."""

LAYERS = 48
"""Random layers that are built and compared with their counts."""

EDITED = 8
"""Random networks whose JSON is edited in every choice."""


def check_space(space: SearchSpace, rng: np.random.Generator, *, file: str | Path | None = None) -> None:
    """Check everything that the rest of hwnas relies on.

    Args:
        space: a small space is enumerated, a large one is sampled.
        rng: draws the samples.
        file: name or YAML file of the space, which is then loaded in a fresh process too.

    Raises:
        AssertionError: the first rule that the space breaks.
    """
    try:
        _check_space(space, rng, file)
    except InvalidValueError as error:
        raise AssertionError(f"Space {space.name!r} refuses a network of its own: {error}") from error


def _check_space(space: SearchSpace, rng: np.random.Generator, file: str | Path | None) -> None:
    raw = _raw_rows(space, rng)
    rows = space.canonical(raw)
    _check_canonical(space, raw, rows)
    _check_size(space)
    _check_randomness(space, rng)
    _check_encoding(space, rows)
    some = [Architecture(space, row) for row in space.sample(24, rng)] + [space.smallest, space.biggest]
    _check_networks(some)
    _check_positions(space, some, rng)
    some += map(space.member, space.members)
    _check_json(space, some)
    drawn = rng.permutation(len(space.distinct_layers))[:LAYERS]
    layers = [space.distinct_layers[i] for i in drawn]
    for network in (space.smallest, space.biggest):
        layers += space.lower(network).values()
    layers = list(dict.fromkeys(layers))
    cheapest = {type(layer): layer for layer in sorted(layers, key=lambda layer: layer.macs, reverse=True)}
    for layer in layers:
        check_layer(layer, operators=cheapest[type(layer)] is layer)
    _check_fresh_process(space, layers, file)


def check_layer(layer: Layer, *, operators: bool = True) -> None:
    """Check that a layer's counts are those of its torch module, that it survives JSON, and that its operators are
    functions whose parameters can be trained.

    Args:
        layer: of any kind.
        operators: whether it is computed, and its operators are called one by one, which takes the longest; else shapes
            alone go through it.

    Raises:
        AssertionError: the first rule that the layer breaks.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from search_spaces.torch_program import StaticLayer

    again = Layer.from_json(json.loads(json.dumps(layer.to_json())))
    _expect(again == layer and hash(again) == hash(layer), f"{layer} comes back from JSON as {again}.")

    with torch.device("cpu" if operators else "meta"), torch.random.fork_rng():
        module = StaticLayer(layer.program.deployed).eval()
        types = (getattr(torch, name) for name in layer.input_types)
        zeros = [torch.zeros(1, *s, dtype=t) for s, t in zip(layer.input_shapes, types, strict=True)]
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            try:
                shape = tuple(module(*zeros).shape[1:])
            except RuntimeError as error:
                raise AssertionError(f"{layer} does not run in torch: {error}") from error
    params = sum(p.numel() for p in module.parameters())
    _expect(params == layer.params, f"{layer} states {layer.params} parameters, but its module has {params}.")
    _expect(
        shape == layer.output_shape, f"{layer} states the output shape {layer.output_shape}, its module gives {shape}."
    )
    macs = counter.get_total_flops() // 2
    _expect(macs == layer.macs, f"{layer} states {layer.macs} MACs, but its module does {macs}.")
    least = max(math.prod(layer.input_shape), math.prod(layer.output_shape))
    _expect(
        layer.peak_elements >= least,
        f"{layer} states a peak of {layer.peak_elements} elements, but its input or output alone has {least}.",
    )
    if operators:
        _check_operators(layer)
    if isinstance(layer, Cell):
        _check_cell(layer)
    if isinstance(layer, EdgeOperation):
        _check_channels(layer, layer.define, layer.output_shape[0])


def _check_operators(layer: Layer) -> None:
    """Check that each operator of a layer gives the same when it is called again, leaves its inputs as they are, and
    hands a gradient to each parameter that is trained."""
    import torch

    from search_spaces.torch_program import Mode, StaticLayer, run

    program, limits = layer.program, layer.program.index_limits
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tensors = StaticLayer(program).state_dict(keep_vars=True)
        values = [
            torch.randn(2, *shape) if limit is None else torch.randint(limit, (2, *shape))
            for shape, limit in zip(program.inputs, limits, strict=True)
        ]
    for step, parameters in zip(program.steps, program.owned, strict=True):
        own, given = [tensors[p.name] for p in parameters], [values[i] for i in step.inputs]
        before = [value.clone() for value in given]
        y = run(step.op, own, Mode(), *given)
        changed = any(not torch.equal(value, was) for value, was in zip(given, before, strict=True))
        _expect(not changed, f"{step.op} of {layer} changes its input, which other operators may read.")
        with torch.no_grad():
            again = run(step.op, own, Mode(), *given)
        _expect(torch.allclose(y, again, 1e-4, 1e-5), f"{step.op} of {layer} gives something else when called again.")
        trained = [tensor for p, tensor in zip(parameters, own, strict=True) if p.trained]
        if trained:
            gradients: Any = [None]
            if y.requires_grad:
                gradients = torch.autograd.grad(y.square().sum(), trained, allow_unused=True)
            unused = any(gradient is None for gradient in gradients)
            _expect(not unused, f"{step.op} of {layer} has a parameter that is trained, but gets no gradient.")
        values.append(y.detach())


def _check_cell(cell: Cell) -> None:
    of_paths: set[str] = set()
    for edge, chosen in enumerate(cell.operations):
        for path in cell.paths(edge):
            _check_channels(cell, path, cell.channels)
            if path.operation == chosen:
                of_paths |= {p.name for p in Program.of(path, cell.input_shapes).parameters}
    missing = {p.name for p in cell.program.parameters} - of_paths
    _expect(not missing, f"{cell} has the parameters {sorted(missing)}, which none of its paths has.")


def _check_channels(layer: Layer, definition: Definition, channels: int) -> None:
    """An operation on an edge must give as large a part of its channels as it is given of the input's."""
    given, *size = layer.input_shape
    part = given // 4 * 2  # even, as some operations split it
    if part < 1 or part * channels % given:
        return
    found = Program.of(definition, [(part, *size)]).output_shape[0]
    _expect(
        found * given == part * channels,
        f"{layer} gives {found} channels of {part}, and {channels} of {given}: an operation on an edge takes its "
        "channels from the shape of its input, so that it runs on a part of them.",
    )


def _expect(condition: bool, message: str) -> None:
    if not condition:  # not `assert`: the checks also hold under python -O
        raise AssertionError(message)


# -- gene rows ---------------------------------------------------------------------------------------------------------


def _raw_rows(space: SearchSpace, rng: np.random.Generator) -> Genes:
    """All gene rows of a small space; else random rows and, next to some of them, rows that differ in one gene."""
    cards = space.cardinalities.astype(np.int64)
    if math.prod(int(c) for c in cards) <= ENUMERABLE:
        return _product(cards)
    rows = rng.integers(0, cards, (SAMPLES, len(cards))).astype(np.int16)
    neighbours = []
    for row in rows[:32]:
        for column in np.flatnonzero(cards > 1):
            neighbour = row.copy()
            neighbour[column] = (neighbour[column] + rng.integers(1, cards[column])) % cards[column]
            neighbours.append(neighbour)
    return np.concatenate([rows, np.array(neighbours, np.int16)])


def _product(cards: NDArray[np.int64]) -> Genes:
    grid = np.indices(tuple(int(c) for c in cards))
    return grid.reshape(len(cards), -1).T.astype(np.int16)  # (rows, choices)


def _table_index(space: SearchSpace, genes: Genes) -> NDArray[np.int64]:
    """Reference for `SearchSpace.position_index`, written a second time, shape (n, positions)."""
    index = np.zeros((len(genes), len(space.positions)), np.int64)
    offset = 0
    for p, position in enumerate(space.positions):
        size = 1
        for name in position.depends_on:
            column = space.index[name]
            cardinality = len(space.choices[column].values)
            index[:, p] = index[:, p] * cardinality + genes[:, column]
            size *= cardinality
        index[:, p] += offset
        offset += size
    return index


def _all_layers(space: SearchSpace) -> list[Layer | None]:
    """Layers of all positions, concatenated."""
    layers: list[Layer | None] = []
    for p, position in enumerate(space.positions):
        try:
            layers += space.layers_at(p)
        except KeyError as error:
            raise AssertionError(
                f"Position {position.name!r} depends on {error}, but states only {position.depends_on}."
            ) from error
    return layers


def _networks(space: SearchSpace, genes: Genes) -> NDArray[np.int64]:
    """A number for the layer at each position, equal for equal layers, -1 where the position is not active, shape
    (n, positions)."""
    numbers: dict[Layer | None, int] = {}
    layers = np.array([numbers.setdefault(layer, len(numbers)) for layer in _all_layers(space)], np.int64)
    part = np.stack([space.is_part(p, genes) for p in range(len(space.positions))], 1)
    return np.where(part, layers[_table_index(space, genes)], -1)


def _check_canonical(space: SearchSpace, raw: Genes, rows: Genes) -> None:
    _expect_rows(space, rows, len(raw), "canonical")
    again = space.canonical(rows)
    _expect(
        np.array_equal(again, rows),
        f"canonical is not idempotent: {_first_difference(space, rows, again)} changes again.",
    )
    dead = ~space.active(rows) & (rows != 0)
    if dead.any():
        row, column = np.argwhere(dead)[0]
        raise AssertionError(
            f"Gene {space.choices[column].name!r} does not matter in {rows[row].tolist()}, so it must be 0 there."
        )

    before, after = _networks(space, raw), _networks(space, rows)
    if not np.array_equal(before, after):
        row, p = np.argwhere(before != after)[0]
        raise AssertionError(
            f"canonical changes the network: {raw[row].tolist()} becomes {rows[row].tolist()}, which has another layer "
            f"at {space.positions[p].name!r}. It may zero only genes that do not matter."
        )
    distinct = np.unique(rows, axis=0)
    networks = _networks(space, distinct)
    order = np.lexsort(networks.T)
    same = np.flatnonzero((networks[order][1:] == networks[order][:-1]).all(1))
    if len(same):
        one, other = distinct[order[same[0]]], distinct[order[same[0] + 1]]
        raise AssertionError(
            f"Two canonical rows are one network: {one.tolist()} and {other.tolist()} differ in "
            f"{_first_difference(space, one[None], other[None])}, which does not matter there and must be 0."
        )


def _first_difference(space: SearchSpace, first: Genes, second: Genes) -> str:
    different = np.argwhere(first != second)
    return repr(space.choices[int(different[0, 1])].name) if len(different) else "nothing"


def _expect_rows(space: SearchSpace, rows: Genes, n: int, source: str) -> None:
    _expect(
        rows.dtype == np.int16 and rows.shape == (n, len(space.choices)),
        f"{source} must give int16 of shape ({n}, {len(space.choices)}), but gives {rows.dtype} of shape {rows.shape}.",
    )
    try:
        space.validate(rows)
    except InvalidValueError as error:
        raise AssertionError(f"{source} gives a row that is out of range: {error}") from error
    _expect(
        np.array_equal(space.canonical(rows), rows),
        f"{source} gives rows that are not canonical; end with `canonical`.",
    )


def _check_size(space: SearchSpace) -> None:
    """Choices that no condition connects multiply, so it is enough to enumerate each connected group."""
    if type(space).canonical is not SearchSpace.canonical and math.prod(map(int, space.cardinalities)) > ENUMERABLE:
        return  # further symmetry may connect any choices
    groups: dict[str, list[Choice]] = {}
    if type(space).canonical is not SearchSpace.canonical:
        groups[""] = list(space.choices)
    else:
        root: dict[str, str] = {}
        for choice in space.choices:
            parent = choice.active_when.choice if choice.active_when else None
            root[choice.name] = choice.name if parent is None else root[parent]
            groups.setdefault(root[choice.name], []).append(choice)
    count = 1
    for group in groups.values():
        columns = [space.index[choice.name] for choice in group]
        cards = space.cardinalities[columns].astype(np.int64)
        if math.prod(map(int, cards)) > ENUMERABLE:
            return
        part = _product(cards)
        rows = np.zeros((len(part), len(space.choices)), np.int16)
        rows[:, columns] = part
        count *= len(np.unique(np.ravel_multi_index(tuple(space.canonical(rows)[:, columns].T), tuple(cards))))
    _expect(space.size == count, f"size states {space.size} networks, but enumeration finds {count}.")


# -- randomness --------------------------------------------------------------------------------------------------------


def _check_randomness(space: SearchSpace, rng: np.random.Generator) -> None:
    first, second = space.sample(SAMPLES, rng), space.sample(SAMPLES, rng)
    draws: list[tuple[str, Callable[[np.random.Generator], Genes]]] = [
        ("sample", lambda r: space.sample(SAMPLES, r)),
        ("mutate", lambda r: space.mutate(first, r, 0.5)),
        ("cross", lambda r: space.cross(first, second, r)),
    ]
    given = first.copy(), second.copy()
    for name, draw in draws:
        numpy_state = json.dumps(np.random.get_state(legacy=False), default=np.ndarray.tolist)  # noqa: NPY002
        python_state = random.getstate()
        seed = int(rng.integers(2**31))
        rows = draw(np.random.default_rng(seed))
        _expect_rows(space, rows, SAMPLES, name)
        _expect(
            np.array_equal(rows, draw(np.random.default_rng(seed))),
            f"{name} gives other rows for the same seed; it must draw from the given rng only.",
        )
        touched = json.dumps(np.random.get_state(legacy=False), default=np.ndarray.tolist) != numpy_state  # noqa: NPY002
        _expect(
            not touched and random.getstate() == python_state,
            f"{name} draws from the global random state; it must draw from the given rng only.",
        )
        if space.size > 1:
            _expect(
                not np.array_equal(rows, draw(np.random.default_rng(seed + 1))),
                f"{name} gives the same rows for another seed; it must draw from the given rng.",
            )
    _expect(
        np.array_equal(first, given[0]) and np.array_equal(second, given[1]), "mutate or cross changes its arguments."
    )

    unchanged = np.array_equal(space.mutate(first, rng, 0.0), first)
    _expect(unchanged, "mutate with probability 0 changes rows.")
    _expect(np.array_equal(space.cross(first, first, rng), first), "cross of rows with themselves changes rows.")
    if type(space).canonical is SearchSpace.canonical:
        child = space.cross(first, second, rng)
        foreign = space.active(child) & (child != first) & (child != second)
        _expect(not foreign.any(), "cross gives a gene that neither parent has.")
    many = space.sample(40 * int(space.cardinalities.max()), rng)
    for column, choice in enumerate(space.choices):
        if choice.active_when is None:
            missing = sorted(set(range(len(choice.values))) - set(many[:, column].tolist()))
            _expect(
                not missing,
                f"sample never gives {choice.name!r} the value {choice.values[missing[0] if missing else 0]!r}.",
            )


def _check_encoding(space: SearchSpace, rows: Genes) -> None:
    distinct = np.unique(rows, axis=0)
    features = space.encode(distinct)
    _expect(
        features.ndim == 2 and len(features) == len(distinct) and bool(np.isfinite(features).all()),
        f"encode must give finite numbers of shape (n, features), but gives shape {features.shape}.",
    )
    different = len(np.unique(features, axis=0))
    _expect(
        different == len(distinct),
        f"encode is not injective: {len(distinct)} canonical rows have {different} different encodings.",
    )


# -- lowering ----------------------------------------------------------------------------------------------------------


def _check_positions(space: SearchSpace, some: list[Architecture], rng: np.random.Generator) -> None:
    layers = _all_layers(space)
    _expect(
        space.table_size == len(layers) and len(space.offsets) == len(space.positions) + 1,
        f"The position tables hold {len(layers)} layers, but table_size states {space.table_size}.",
    )
    genes = np.stack([architecture.genes for architecture in some])
    expected, index = _table_index(space, genes), space.position_index(genes)
    _expect(
        index.shape == expected.shape and np.array_equal(index, expected),
        "position_index must number the layers of a position with its last dependency fastest.",
    )
    for architecture, row in zip(some, index, strict=True):
        lowered = space.lower(architecture)
        order = [position.name for position in space.positions if position.name in lowered]
        _expect(list(lowered) == order, f"lower gives positions {list(lowered)}, but from input to output is {order}.")
        for p, position in enumerate(space.positions):
            there = space.layers_at(p)[int(row[p] - space.offsets[p])]
            _expect(
                lowered.get(position.name) == there,
                f"Position {position.name!r} of {architecture.values}: lower gives {lowered.get(position.name)}, but "
                f"the table over {position.depends_on} has {there}.",
            )
            values = {name: architecture.space.choices[space.index[name]].values for name in position.depends_on}
            stated = {name: v[int(architecture.genes[space.index[name]])] for name, v in values.items()}
            if not position.is_active(stated):
                continue
            _expect(
                space.layer(position.name, stated) == there,
                f"Position {position.name!r} does not depend on {position.depends_on} alone: layer() gives "
                f"{space.layer(position.name, stated)} now, and {there} before.",
            )
        missing = set(lowered.values()) - set(space.distinct_layers)
        _expect(not missing, f"distinct_layers lacks {missing}.")


def _check_networks(some: list[Architecture]) -> None:
    for architecture in some:
        try:
            layers = architecture.space.lower(architecture)
        except InvalidValueError as error:
            raise AssertionError(f"{architecture.values} cannot be lowered: {error}") from error
        _expect(bool(layers), f"{architecture.values} has no layers.")


# -- files -------------------------------------------------------------------------------------------------------------


def _check_json(space: SearchSpace, some: list[Architecture]) -> None:
    for architecture in some:
        text = json.dumps(architecture.to_json())
        for form in (text, json.loads(text)):
            again = Architecture.from_json(space, form)
            _expect(
                again == architecture and hash(again) == hash(architecture),
                f"{architecture.values} comes back from JSON as {again.values}.",
            )
        for key in ("space", "fingerprint"):
            try:
                Architecture.from_json(space, {**json.loads(text), key: "another"})
            except MismatchError:
                continue
            raise AssertionError(f"An architecture of another {key} must be refused with MismatchError.")
    for architecture in some[:EDITED]:
        stated = architecture.to_json()
        for what, name, choices in _edits(space, architecture):
            try:
                Architecture.from_json(space, {**stated, "choices": choices})
            except InvalidValueError as error:
                _expect(name in str(error), f"The refusal of {what} must name choice {name!r}, but says: {error}")
                continue
            raise AssertionError(f"An architecture with {what} ({name!r}) must be refused with InvalidValueError.")


def _check_fresh_process(space: SearchSpace, layers: list[Layer], file: str | Path | None) -> None:
    """Another process reads the same layers from a table, and makes the same space of its file."""
    rows = [json.dumps(layer.to_json()) for layer in layers]
    uses = [type(layer).__module__ for layer in layers] + [type(space).__module__]
    seen = rows, None if file is None else str(file)
    (counts, described), (counts_there, described_there) = _seen(seen), in_fresh_process(_seen, seen, uses=uses)
    for row, here, there in zip(rows, counts, counts_there, strict=True):
        _expect(
            here == there, f"Layer {row} has MACs, parameters, peak and shapes {there} in another process, not {here}."
        )
    for what, here, there in zip(("fingerprint", "sample", "lowering"), described, described_there, strict=False):
        _expect(here == there, f"The {what} of {file} is another one in another process: {there} instead of {here}.")
    _expect(described[:1] in ((), (space.fingerprint,)), f"{file} is of another space than {space.name!r}.")


def _seen(given: tuple[list[str], str | None]) -> tuple[list[tuple[Any, ...]], tuple[Any, ...]]:
    """Counts of the layers that rows of a table say, and what the space of a file is, if there is one."""
    rows, file = given
    layers = [Layer.from_json(json.loads(row)) for row in rows]
    counts = [(one.macs, one.params, one.peak_elements, one.input_shape, one.output_shape) for one in layers]
    return counts, () if file is None else _described(file)


def _described(file: str) -> tuple[Any, ...]:
    space = load_space(file)
    genes = space.sample(SAMPLES, np.random.default_rng(0)).tolist()
    ends = [space.lower(network) for network in (space.smallest, space.biggest)]
    return space.fingerprint, genes, [{name: layer.to_json() for name, layer in end.items()} for end in ends]


def _edits(space: SearchSpace, architecture: Architecture) -> Iterator[tuple[str, str, dict[str, object]]]:
    values = architecture.values
    yield "an unknown choice", "no such choice", {**values, "no such choice": 1}
    for name in values:
        yield "a value that the choice cannot take", name, {**values, name: "no such value"}
        yield "a missing choice", name, {k: v for k, v in values.items() if k != name}
    for choice in space.choices:
        if choice.name not in values:
            yield "a choice that does not matter", choice.name, {**values, choice.name: choice.values[-1]}

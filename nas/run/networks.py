"""Networks of a space to measure: random ones, and few that together hold every layer."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from search_spaces.architecture import Architecture, Genes
from search_spaces.layers import Layer
from search_spaces.space import SearchSpace

FEWEST_TO_FIT, FEWEST_TO_CHECK = 8, 2


def distinct_networks(space: SearchSpace, n: int, rng: np.random.Generator) -> list[Architecture]:
    """The smallest, the biggest and random networks, n in all, or the whole space if it has fewer."""
    found = dict.fromkeys([space.smallest, space.biggest])
    while len(found) < min(n, space.size):
        found.update(dict.fromkeys(Architecture(space, row) for row in space.sample(n, rng)))
    return list(found)[:n]


def split_networks(size: int, fit: int, check: int) -> tuple[int, int, bool]:
    """Numbers of networks that are fitted on and judged by, of those that a space of some size has.

    Returns:
        Networks to fit on, networks to judge by, and whether these are others: in a tiny space each does both.
    """
    if size >= fit + check:
        return fit, check, True
    judges = max(FEWEST_TO_CHECK, size * check // (fit + check))
    if size - judges >= FEWEST_TO_FIT:
        return size - judges, judges, True
    return size, min(check, size), False


def covering_networks(
    space: SearchSpace,
    repeats: int,
    rng: np.random.Generator,
    *,
    without: Iterable[Layer] = (),
    most: int | None = None,
) -> Genes:
    """Few random networks that hold every layer at every position so many times, or until there are ``most``.

    Each network is begun with a layer that is still needed most often; then every position, those first that are
    often empty, takes the layer most needed there that agrees with the choices made.

    Args:
        space: of the networks.
        repeats: how many networks hold a layer at a position.
        rng: draws all that is free.
        without: layers that no network may hold.
        most: networks.

    Returns:
        Canonical genes (n, choices), distinct, none with a layer of ``without``.
    """
    forbidden = set(without)
    pairs: dict[tuple[int, Layer | None], int] = {}
    pair_of = np.array(
        [pairs.setdefault((p, layer), len(pairs)) for p in range(len(space.positions)) for layer in space.layers_at(p)]
    )  # index of a position table -> number of the position with its layer
    bad = np.array([layer in forbidden for _, layer in pairs])
    needed = np.array([0 if layer is None or layer in forbidden else repeats for _, layer in pairs])
    columns = [np.array([space.index[name] for name in one.depends_on], np.intp) for one in space.positions]
    assignments = [
        np.stack(np.unravel_index(np.arange(end - start), space.cardinalities[genes]), axis=1)
        if len(genes)
        else np.zeros((1, 0), np.int64)
        for genes, start, end in zip(columns, space.offsets, space.offsets[1:], strict=False)
    ]
    tables = [pair_of[start:end] for start, end in zip(space.offsets, space.offsets[1:], strict=False)]
    rarity = np.array([np.mean(needed[table] > 0) for table in tables])
    found: dict[bytes, Genes] = {}

    def compose(wanted: int) -> Genes:
        genes, fixed = space.sample(1, rng)[0], np.zeros(len(space.choices), bool)

        def fix(column: int, value: int) -> None:
            genes[column], fixed[column] = value, True
            condition = space.choices[column].active_when
            if condition is not None and not fixed[space.index[condition.choice]]:
                parent = space.choices[space.index[condition.choice]]
                values = [v for v, name in enumerate(parent.values) if name in condition.values]
                fix(space.index[condition.choice], values[rng.integers(len(values))])

        def take(index: int) -> None:
            p = int(np.searchsorted(space.offsets, index, "right")) - 1
            for column, value in zip(columns[p], assignments[p][index - space.offsets[p]], strict=True):
                fix(int(column), int(value))

        take(int(rng.choice(np.flatnonzero(pair_of == wanted))))
        for p in np.lexsort((rng.random(len(rarity)), rarity)):
            possible = np.all(~fixed[columns[p]] | (assignments[p] == genes[columns[p]]), axis=1)
            need = np.where(possible, needed[tables[p]], 0)
            if need.any():
                take(int(space.offsets[p] + rng.choice(np.flatnonzero(need == need.max()))))
            elif forbidden and (possible := possible & ~bad[tables[p]]).any():
                take(int(space.offsets[p] + rng.choice(np.flatnonzero(possible))))
        return space.canonical(genes[None])

    while needed.any() and (most is None or len(found) < most):
        wanted = int(rng.choice(np.flatnonzero(needed == needed.max())))
        for _ in range(8):
            genes = compose(wanted)
            held = pair_of[space.position_index(genes)[0]]
            if wanted in held and not bad[held].any() and genes.tobytes() not in found:
                found[genes.tobytes()] = genes
                needed[held] = np.maximum(needed[held] - 1, 0)
                break
        else:
            needed[wanted] = 0  # no network has it, none without a forbidden layer, or all that have it were taken
    return np.concatenate(list(found.values())) if found else np.zeros((0, len(space.choices)), np.int16)

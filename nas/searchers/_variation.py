"""New architectures from known ones, on whole populations: what evolution and local search share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nas.core.problem import Problem, Values
from nas.core.seen import ROWS, row_keys
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError
from search_spaces.space import SearchSpace

TRIES = 100
"""Number of times that a draw which breaks a limit is repeated: what one network in a hundred keeps is still met by
most."""

Initial = Literal["random", "spread", "exits"]
"""Way in which the first generation is drawn, see `first_generation`."""


def repeated(known: Genes, rows: Genes) -> NDArray[np.bool_]:
    """Mask (n,) of rows (n, choices) among the known ones or equal to an earlier row."""
    keys = np.concatenate([row_keys(known), row_keys(rows)])
    again = np.ones(len(keys), bool)
    again[np.unique(keys, return_index=True)[1]] = False
    return again[len(known) :]


def change_one(space: SearchSpace, genes: Genes, rng: np.random.Generator) -> Genes:
    """Each row with one choice that matters set to another of its values, both drawn uniformly; canonical."""
    free = space.active(genes) & (space.cardinalities > 1)
    columns = np.where(free, rng.random(genes.shape, np.float32), -1).argmax(1)
    rows, values = np.arange(len(genes)), space.cardinalities[columns]
    changed = genes.copy()
    changed[rows, columns] = (genes[rows, columns] + rng.integers(1, np.maximum(values, 2))) % values
    return space.canonical(changed)


def breed(
    space: SearchSpace,
    first: Genes,
    second: Genes,
    known: Genes,
    rng: np.random.Generator,
    *,
    crossover: float,
    mutations: float,
) -> Genes:
    """A child of each pair of parents (n, choices): uniform crossover, then redrawn genes; canonical.

    A child that is known already, or the same as another one, would be wasted: it gets one more change.

    Args:
        space: of the networks.
        first: what a child is but for crossover and mutation.
        second: the other parents.
        known: rows (m, choices) that need no evaluation.
        rng: the randomness.
        crossover: probability that a child has two parents.
        mutations: genes redrawn per child, on average.
    """
    mixed = space.cross(first, second, rng)
    children = np.where(rng.random((len(first), 1)) < crossover, mixed, first)
    children = space.mutate(children, rng, min(1.0, mutations / first.shape[1]))
    again = repeated(known, children)
    children[again] = change_one(space, children[again], rng)
    return children


def neighbours(space: SearchSpace, genes: Genes) -> Genes:
    """All rows that differ from one of the rows (n, choices) in one choice that matters: once each; canonical.

    A choice that comes to matter starts with its first value. In order of row, choice and value.
    """
    columns = np.repeat(np.arange(len(space.choices)), space.cardinalities - 1)
    cards = space.cardinalities[columns]
    shifts = np.concatenate([np.arange(1, c) for c in space.cardinalities])
    changed = np.repeat(genes[:, None], len(columns), axis=1)  # (n, changes, choices)
    changes = np.arange(len(columns))
    changed[:, changes, columns] = (genes[:, columns] + shifts) % cards
    rows = space.canonical(changed[space.active(genes)[:, columns]])
    return rows[~repeated(genes, rows)]


def spread(space: SearchSpace, n: int, rng: np.random.Generator) -> Genes:
    """Random rows, shape (n, choices), whose sizes are spread evenly between the smallest and the biggest network.

    Choices drawn one by one give networks of medium size, all of them the more alike, the more choices there are. Here
    each row has a tilt t, uniform in 0..1, and each of its genes a Beta(0.2 + 4t, 4.2 - 4t) share of its values, which
    stand smallest first.
    """
    tilt = rng.random((n, 1))
    rows = np.empty((n, len(space.choices)), np.int16)
    for start in range(0, n, ROWS):
        t = tilt[start : start + ROWS]
        share = rng.beta(0.2 + 4 * t, 4.2 - 4 * t, (len(t), rows.shape[1]))
        rows[start : start + ROWS] = np.minimum(share * space.cardinalities, space.cardinalities - 1)
    return space.canonical(rows)


def screen(problem: Problem, genes: Genes) -> tuple[Values, Values]:
    """Violations known before a costly evaluation, of rows (n, choices).

    Returns:
        Values (n, objectives) of the cheap objectives that a limit or a lack of memory can break, NaN for the others;
        and by how much limits are exceeded, as far as these tell, (n,).
    """
    values = np.full((len(genes), len(problem.objectives)), np.nan)
    for column, objective in enumerate(problem.objectives):
        if not objective.costly and (objective.limit is not None or objective.direction != "max"):
            values[:, column] = objective.predictor.predict(genes)
    kept = np.array([0.0 if objective.bound is None else objective.bound for objective in problem.objectives])
    return values, problem.violations(np.where(np.isnan(values), kept, values))


def redraw(draw: Callable[[NDArray[np.intp]], Genes], excess: Callable[[Genes], Values], n: int) -> Genes:
    """Rows 0..n-1, those with an excess drawn again: rejection sampling that ends.

    Where `TRIES` draws of a row all have an excess, the one with the least stands in.

    Args:
        draw: gives the rows of these numbers, anew each time.
        excess: by how much rows (n, choices) break limits, shape (n,); 0: not at all.
        n: how many.
    """
    kept = draw(np.arange(n))
    broken_by = excess(kept)
    for _ in range(TRIES - 1):
        broken = np.flatnonzero(broken_by > 0)
        if not len(broken):
            break
        drawn = draw(broken)
        instead = excess(drawn)
        better = instead < broken_by[broken]
        kept[broken[better]], broken_by[broken[better]] = drawn[better], instead[better]
    return kept


def sample_within(problem: Problem, n: int, rng: np.random.Generator) -> Genes:
    """Random rows (n, choices) that keep the limits, as far as is known without a costly evaluation; see `redraw`."""
    return redraw(lambda rows: problem.space.sample(len(rows), rng), lambda genes: screen(problem, genes)[1], n)


def check_initial(name: str, initial: str) -> None:
    """Refuse what `first_generation` does not know.

    Raises:
        InvalidValueError: says whose setting it is, and what it can be.
    """
    if initial not in get_args(Initial):
        raise InvalidValueError(
            f"`initial` of {name} must be one of {', '.join(get_args(Initial))}, but got {initial!r}."
        )


def first_generation(problem: Problem, initial: Initial, n: int, rng: np.random.Generator) -> Genes:
    """Rows (n, choices) to start from.

    ``random``: each choice uniform. ``spread``: of all sizes, see `spread`. ``exits``: random ones that break a limit
    are rejected before they are evaluated, see `sample_within` (Termritthikun et al., "EEEA-Net: An Early Exit
    Evolutionary Neural Architecture Search", Eng. Appl. Artif. Intell. 104, 2021, arXiv:2108.06156).
    """
    if initial == "exits":
        return sample_within(problem, n, rng)
    return spread(problem.space, n, rng) if initial == "spread" else problem.space.sample(n, rng)

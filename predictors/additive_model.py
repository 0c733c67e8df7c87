"""A sum over positions in place of a predictor that is none: what each layer adds, wherever the rest of the network.

Sums can be searched exactly, however large the space; a perceptron's or a Gaussian process's best sum shows a search
where to begin. Ridge regression (Hoerl & Kennard, Technometrics 1970) of the values of random architectures on their
layers. A layer's entry is its own weight plus one for each value of the choices that it depends on, all shrunk alike:
a layer that was drawn never or seldom is told by others with which it has a choice in common.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import lsqr

from predictors.base import Predictor, Values
from predictors.factor_table import Factored
from predictors.position_table import PositionTable
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError
from search_spaces.space import SearchSpace

STRENGTHS = (1e-9, 1e-5, 1e-3, 1e-2, 1e-1)
"""Candidates of the ridge's strength, relative to the number of rows."""
FOLDS = 3
ITERATIONS = 150
"""Most iterations of the solver; it stops once the residual does not change."""
FEWEST = 20
"""Rows that a fit takes at least."""
TILT = 2.0
"""Largest power of two that a row's random numbers are raised to: it reaches small and large networks alike."""


@dataclass(frozen=True, eq=False)
class AdditiveModel:
    """A sum over positions and how far it is from the predictor that it stands for.

    ``r2``, ``mean_error``, ``largest_error``: coefficient of determination, mean and largest absolute difference (in
    the metric's unit) on ``held_out`` random architectures that the fit has not seen. All differences are 0 where the
    predictor was a sum over positions already. ``strength``: of the ridge.
    """

    table: PositionTable
    r2: float
    mean_error: float
    largest_error: float
    held_out: int
    strength: float


def table_of(predictor: Predictor) -> Factored | None:
    """The sum or maximum of tables that a predictor is, be it through its ``table``; None if it is none."""
    table = predictor if isinstance(predictor, Factored) else getattr(predictor, "table", None)
    return table if isinstance(table, Factored) else None


def additive(
    predictor: Predictor,
    space: SearchSpace,
    rng: np.random.Generator,
    *,
    rows: int = 2000,
    held_out: int = 500,
    also: Genes | None = None,
) -> AdditiveModel:
    """The sum over positions that is nearest to a predictor in least squares; itself where it is one.

    Args:
        predictor: cheap to ask for ``rows + held_out`` architectures.
        space: whose architectures it predicts.
        rng: draws them.
        rows: to fit on.
        held_out: to judge on.
        also: canonical rows (n, choices) to fit on as well, such as those where the sum has to be right.

    Raises:
        InvalidValueError: too few rows, or too few whose value is finite.
    """
    if min(rows, held_out) < FEWEST:
        raise InvalidValueError(
            f"`rows` and `held_out` of an additive fit must be >= {FEWEST}, but got {rows}, {held_out}."
        )
    known = table_of(predictor)
    if isinstance(known, PositionTable) and known.combine == "sum":
        return AdditiveModel(known, 1.0, 0.0, 0.0, 0, 0.0)
    drawn = spread_sample(space, rows + held_out, rng)
    genes = rng.permutation(drawn[held_out:] if also is None else np.concatenate([drawn[held_out:], also]))
    values, truth = (np.asarray(predictor.predict(part), np.float64) for part in (genes, drawn[:held_out]))
    finite, judged = np.isfinite(values), np.isfinite(truth)  # the device cannot run the others
    if min(finite.sum(), judged.sum()) < FEWEST:
        raise InvalidValueError(
            f"The {predictor.metric} of only {finite.sum() + judged.sum()} of {len(genes) + held_out} architectures is "
            "finite; an additive fit needs more."
        )
    genes, values, truth = genes[finite], values[finite], truth[judged]
    weights, effects, strength = _fit(space, genes, values)
    table = PositionTable(space, predictor.metric, predictor.unit, effects @ weights, "sum", float(values.mean()))
    error = np.abs(table.predict(drawn[:held_out][judged]) - truth)
    spread = float(((truth - truth.mean()) ** 2).sum())
    r2 = 1 - float((error**2).sum()) / spread if spread > 0 else 1.0
    return AdditiveModel(table, r2, float(error.mean()), float(error.max()), len(truth), strength)


def spread_sample(space: SearchSpace, n: int, rng: np.random.Generator) -> Genes:
    """n canonical rows, drawn by choice like `SearchSpace.sample`, but each row leans towards first or last values.

    Independent uniform choices give networks of middling size only, and a front ends at the smallest and the largest.
    """
    powers = 2.0 ** rng.uniform(-TILT, TILT, (n, 1))
    drawn = rng.random((n, len(space.choices))) ** powers * space.cardinalities
    return space.canonical(np.minimum(drawn.astype(np.int16), space.cardinalities - 1).astype(np.int16))


def _fit(space: SearchSpace, genes: Genes, values: Values) -> tuple[Values, sparse.csr_matrix, float]:
    """Weights of effects (f,), the effects of each entry (table_size, f), and the strength that was chosen."""
    effects = _effects(space)
    index = space.position_index(genes)  # (n, positions)
    starts = np.arange(len(genes) + 1) * index.shape[1]
    layers = sparse.csr_matrix((np.ones(index.size), index.ravel(), starts), (len(genes), space.table_size))
    features = (layers @ effects).tocsr()
    targets = values - values.mean()
    spread = float(targets.std())
    if spread <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return np.zeros(effects.shape[1]), effects, STRENGTHS[-1]
    targets = targets / spread

    def weights(rows: NDArray[np.bool_], strength: float) -> Values:
        damp = float(np.sqrt(strength * rows.sum()))
        solved = lsqr(features[rows], targets[rows], damp=damp, atol=1e-10, btol=1e-10, iter_lim=ITERATIONS)
        return np.asarray(solved[0])

    fold = np.arange(len(genes)) % FOLDS  # the rows are in random order

    def missed(strength: float) -> float:
        parts = [features[fold == f] @ weights(fold != f, strength) - targets[fold == f] for f in range(FOLDS)]
        return float((np.concatenate(parts) ** 2).mean())

    strength = min(STRENGTHS, key=missed)
    return weights(np.ones(len(genes), bool), strength) * spread, effects, strength


def _effects(space: SearchSpace) -> sparse.csr_matrix:
    """Summands of the entries of a table, (table_size, f): a column per entry that a canonical row can reach, and
    one per position, choice and value. Entries of genes that do not matter have those of the canonical row."""
    entries, columns = [np.arange(space.table_size)], [np.zeros(space.table_size, np.int64)]
    width = space.table_size
    for p, position in enumerate(space.positions):
        rows = np.arange(space.offsets[p], space.offsets[p + 1])
        deps = [space.index[name] for name in position.depends_on]
        cards = space.cardinalities[deps].astype(np.int64)
        genes = np.zeros((len(rows), len(space.choices)), np.int16)
        genes[:, deps] = np.stack(np.unravel_index(np.arange(len(rows)), cards), axis=1) if deps else 0
        for column in deps:
            _activate(space, genes, column, set(deps))
        canonical = space.canonical(genes)
        columns[0][rows] = space.position_index(canonical)[:, p]
        active = space.active(canonical)
        for column, card in zip(deps, cards, strict=True):
            matters = active[:, column]
            entries.append(rows[matters])
            columns.append(width + canonical[matters, column].astype(np.int64))
            width += int(card)
    where = np.concatenate(entries), np.concatenate(columns)
    return sparse.csr_matrix((np.ones(len(where[0])), where), (space.table_size, width))


def _activate(space: SearchSpace, genes: Genes, column: int, given: set[int]) -> None:
    """Set choices that are not given so that the column's choice matters in rows that have it at another value than
    the first."""
    condition = space.choices[column].active_when
    if condition is None:
        return
    parent = space.index[condition.choice]
    if parent not in given:
        first = space.choices[parent].values.index(condition.values[0])
        genes[:, parent] = np.where(genes[:, column] > 0, first, genes[:, parent])
    _activate(space, genes, parent, given)

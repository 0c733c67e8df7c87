"""Checks that every trainable predictor makes on what it is given."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from predictors.base import Values
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError
from search_spaces.space import SearchSpace


def checked_pairs(
    space: SearchSpace, genes: ArrayLike, values: ArrayLike, *, minimum: int, positive: bool = False
) -> tuple[Genes, Values]:
    """Canonical genes (n, choices) and float64 values (n,).

    Raises:
        InvalidValueError: wrong shapes, fewer than ``minimum`` pairs, NaN or infinite values, or values <= 0 where they
            must be positive.
    """
    rows = space.canonical(space.validate(genes))
    numbers = np.asarray(values, np.float64)
    if numbers.shape != (len(rows),):
        raise InvalidValueError(
            f"There must be one value per row of genes, but got {numbers.shape} for {len(rows)} rows."
        )
    if len(rows) < minimum:
        raise InvalidValueError(f"At least {minimum} measured networks are needed to fit, but got {len(rows)}.")
    wrong = ~np.isfinite(numbers) | ((numbers <= 0) if positive else np.zeros(len(numbers), bool))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        rule = "finite and positive" if positive else "finite"
        raise InvalidValueError(f"Values to fit must be {rule}, but row {row} is {numbers[row]}.")
    return rows, numbers

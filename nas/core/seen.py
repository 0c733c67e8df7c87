"""Memory of rows of genes: sets of rows as arrays, for whole populations at a time."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Genes

Keys = NDArray[np.uint64]

ROWS = 65_536
"""Rows handled at a time, where a step needs more memory than its result."""
RECENT = 8
"""The recent keys of a `Seen` are merged with the others when they are one in so many."""


def row_keys(genes: Genes) -> Keys:
    """A number of 64 bits per row (n, choices), shape (n,): equal for equal rows, else different (but for 2**-64)."""
    keys = np.empty(len(genes), np.uint64)
    for start in range(0, len(genes), ROWS):
        keys[start : start + ROWS] = genes[start : start + ROWS].astype(np.uint64) @ _factors(genes.shape[1])
    return keys  # the sums wrap around


@functools.cache
def _factors(choices: int) -> Keys:
    return np.random.default_rng(0).integers(0, 2**63, choices, np.uint64) * np.uint64(2) + np.uint64(1)


def among(keys: Keys, known: Keys) -> NDArray[np.bool_]:
    """Mask of keys (n,) among the known, which ascend."""
    if not len(known):
        return np.zeros(len(keys), bool)
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.asarray(known[places] == keys)


class Seen:
    """A growing set of rows, by their keys.

    The keys ascend in two parts, of which new ones go into the smaller: to add few to many does not move them all.
    """

    def __init__(self, genes: Genes | None = None) -> None:
        self._old = np.zeros(0, np.uint64)
        self._recent = np.zeros(0, np.uint64)
        if genes is not None:
            self.add(genes)

    def add(self, genes: Genes) -> None:
        """Rows (n, choices) that are not in it yet."""
        self._recent = np.sort(np.concatenate([self._recent, row_keys(genes)]))
        if RECENT * len(self._recent) > len(self._old):
            self._old = np.sort(np.concatenate([self._old, self._recent]), kind="stable")  # merges what ascends
            self._recent = self._recent[:0]

    def new(self, genes: Genes) -> Genes:
        """The rows (n, choices) that are not in it, each once, in order."""
        keys, first = np.unique(row_keys(genes), return_index=True)
        known = among(keys, self._old) | among(keys, self._recent)
        return genes[np.sort(first[~known])]

"""Bound that no latency can be below, whatever a fit to measured ones makes of it.

A device computes so many multiply-accumulates a second. The fastest network that was measured shows how many at least;
no other one is taken to do more than `FASTER` times as many.
"""

from __future__ import annotations

import numpy as np

from predictors.base import Values
from predictors.position_table import macs
from search_spaces.architecture import Genes
from search_spaces.space import SearchSpace

FASTER = 4.0
"""Factor by which a network may be predicted to compute faster than any measured one."""


def fastest_rate(space: SearchSpace, genes: Genes, values: Values) -> float:
    """The most multiply-accumulates per unit of time that a measured network did: latencies (n,) > 0 of genes
    (n, choices)."""
    return float((macs(space).predict(genes) / values).max())


def at_least(space: SearchSpace, genes: Genes, predicted: Values, rate: float) -> Values:
    """Predicted latencies (n,) of genes (n, choices), none below what `FASTER` times the rate of `fastest_rate`
    allows."""
    if not rate > 0:  # nothing that was measured computed anything
        return predicted
    return np.asarray(np.maximum(predicted, macs(space).predict(genes) / (FASTER * rate)))

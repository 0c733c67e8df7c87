"""Activation memory on devices whose tools report it: the largest layer's, scaled to whole networks."""

from __future__ import annotations

import numpy as np

from hardware_profiles.latency_table import LatencyTable
from predictors.base import Values
from predictors.position_table import PositionTable
from predictors.validation import checked_pairs
from search_spaces.architecture import Genes
from search_spaces.base.errors import MissingLayerError
from search_spaces.layers import Layer
from search_spaces.metric import MEMORY
from search_spaces.space import SearchSpace


def largest_layer_memory(space: SearchSpace, table: LatencyTable) -> PositionTable:
    """Bytes of the layer that needs most; inf for architectures with a layer that the device cannot run.

    Raises:
        MissingLayerError: the table lacks the memory of a layer of the space.
    """

    known = table.values_of(MEMORY.name)

    def of_layer(layer: Layer) -> float:
        if layer in table.failed:
            return np.inf
        if layer not in known:
            raise MissingLayerError(f"The latency table of {table.device!r} has no {MEMORY.name} of {layer}.")
        return known[layer]

    return PositionTable.of_layers(space, "memory", "bytes", of_layer, combine="max")


def scaled_memory(layers: PositionTable, genes: Genes, values: Values) -> PositionTable:
    """The table scaled so that it reaches the memory of every measured network.

    Alone a layer is given less padding than inside a network, so the largest layer's memory is some 15 % too low. The
    factor is the largest one seen, not the mean: a network that does not fit into memory does not run at all.

    Args:
        layers: largest layer's memory.
        genes: measured networks, shape (n, choices).
        values: their bytes, shape (n,).
    """
    genes, values = checked_pairs(layers.space, genes, values, minimum=2, positive=True)
    factor = float((values / layers.predict(genes)).max())
    return PositionTable(layers.space, layers.metric, layers.unit, layers.values * factor, "max")

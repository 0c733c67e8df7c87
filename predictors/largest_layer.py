"""Metrics of which a network has what its largest layer has, such as activation memory, scaled to whole networks."""

from __future__ import annotations

import numpy as np

from hardware_profiles.latency_table import LatencyTable
from predictors.base import Values
from predictors.position_table import PositionTable
from predictors.validation import checked_pairs
from search_spaces.architecture import Genes
from search_spaces.layers import Layer
from search_spaces.metric import MEMORY, Metric
from search_spaces.space import SearchSpace


def largest_layer(space: SearchSpace, table: LatencyTable, metric: Metric = MEMORY) -> PositionTable:
    """Value of the layer that needs most; inf for architectures with a layer that the device cannot run.

    Raises:
        MissingLayerError: the table lacks the metric of a layer of the space.
    """

    def of_layer(layer: Layer) -> float:
        return np.inf if layer in table.failed else table.value(layer, metric.name)

    return PositionTable.of_layers(space, metric.title, metric.unit, of_layer, combine="max")


def scaled_largest(layers: PositionTable, genes: Genes, values: Values) -> PositionTable:
    """The table scaled so that it reaches the value of every measured network.

    Alone a layer is given less padding than inside a network, so the largest layer's memory is some 15 % too low. The
    factor is the largest one seen, not the mean: a network that does not fit into memory does not run at all.

    Args:
        layers: value of the largest layer.
        genes: measured networks, shape (n, choices).
        values: of them, shape (n,).
    """
    genes, values = checked_pairs(layers.space, genes, values, minimum=2, positive=True)
    factor = float((values / layers.predict(genes)).max())
    return PositionTable(layers.space, layers.metric, layers.unit, layers.values * factor, "max")

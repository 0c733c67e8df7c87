"""Metrics of which a network has what its largest layer has, such as activation memory, scaled to whole networks."""

from __future__ import annotations

import math

import numpy as np

from hardware_profiles.latency_table import LatencyTable
from predictors.base import Values
from predictors.position_table import PositionTable
from predictors.validation import checked_pairs
from search_spaces.architecture import Genes
from search_spaces.layers import Layer
from search_spaces.metric import MEMORY, Metric
from search_spaces.space import SearchSpace

REACHED = 0.8
"""Share of unseen networks that a scaled table is to reach. Whole networks need what their largest layer needs alone,
but for a tail that needs up to twice as much: there a compiler fetches the weights of a layer ahead, while another one
runs. Of 40 unseen networks of `mobiledets` on an Ethos-U55 the largest factor of 20 networks refused 36 % of those that
fit a limit, and accepted 0.5 % of those that do not; this share refuses 9 % and accepts 4 %."""


def largest_layer(space: SearchSpace, table: LatencyTable, metric: Metric = MEMORY) -> PositionTable:
    """Value of the layer that needs most; inf for architectures with a layer that the device cannot run.

    Raises:
        MissingLayerError: the table lacks the metric of a layer of the space.
    """

    def of_layer(layer: Layer) -> float:
        return np.inf if layer in table.failed else table.value(layer, metric.name)

    return PositionTable.of_layers(space, metric.title, metric.unit, of_layer, combine="max")


def scaled_largest(layers: PositionTable, genes: Genes, values: Values) -> PositionTable:
    """The table scaled so that it reaches the value of an unseen network with a probability of `REACHED`.

    Alone a layer is given less padding than inside a network, and nothing is fetched ahead. The factor is the upper
    quantile of split conformal prediction over the measured networks: the value of rank ``ceil((n + 1) REACHED)`` of
    the ratios, which a further one exceeds with a probability of at most ``1 - REACHED`` (Vovk et al., "Algorithmic
    Learning in a Random World", 2005, section 2.2); of 8 or fewer networks the largest. It is no mean, because a
    network that does not fit into memory does not run at all, and none above all, because one outlier would refuse
    what fits; what an exported network needs is verified.

    Args:
        layers: value of the largest layer.
        genes: measured networks, shape (n, choices).
        values: of them, shape (n,).
    """
    genes, values = checked_pairs(layers.space, genes, values, minimum=2, positive=True)
    ratios = np.sort(values / layers.predict(genes))
    factor = float(ratios[min(math.ceil((len(ratios) + 1) * REACHED - 1e-9), len(ratios)) - 1])
    return PositionTable(layers.space, layers.metric, layers.unit, layers.values * factor, "max")

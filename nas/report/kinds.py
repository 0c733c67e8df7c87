"""Kinds of layers that networks have, stage by stage, where their space offers several at one position."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search_spaces.layers import Layer
from search_spaces.space import SearchSpace

MOST_STAGES = 12
"""Stages that a table has; more are cells, which are alike."""
NOTHING = "–"


@dataclass(frozen=True)
class KindTable:
    """Kinds of the layers of networks.

    Args:
        stages: names, which positions begin with.
        rows: device, label and, of each stage, its kinds in order, such as ``FusedMBConv, MBConv ×2``.
    """

    stages: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[str, ...]], ...]


def kind_table(space: SearchSpace, networks: Sequence[tuple[str, str, Mapping[str, Layer]]]) -> KindTable | None:
    """The table of some networks; None where no position offers several kinds, or too many stages do.

    Args:
        space: of the networks.
        networks: device, label and layers by position of each.
    """
    offered = [
        position.name
        for p, position in enumerate(space.positions)
        if len({type(layer) for layer in space.layers_at(p) if layer is not None}) > 1
    ]
    stages = {stage: list(names) for stage, names in itertools.groupby(offered, stage_of)}
    if not 1 <= len(stages) <= MOST_STAGES:
        return None
    rows = (
        (device, label, tuple(_text([layers.get(name) for name in names]) for names in stages.values()))
        for device, label, layers in networks
    )
    return KindTable(tuple(stages), tuple(rows))


def stage_of(position: str) -> str:
    """Name of the stage of a position: ``stage2`` of ``stage2_block1``."""
    return position.partition("_")[0]


def _text(layers: Sequence[Layer | None]) -> str:
    kinds = [type(layer).__name__ for layer in layers if layer is not None]
    runs = [(kind, len(list(same))) for kind, same in itertools.groupby(kinds)]
    return ", ".join(kind if count == 1 else f"{kind} ×{count}" for kind, count in runs) or NOTHING

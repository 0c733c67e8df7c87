"""Judgement of all that was measured on a device: what is doubtful, and what is hopeless."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hardware_profiles.latency_table import LatencyTable
from hardware_profiles.measure import Measurement
from nas.run.network_log import ROLES, NetworkLog
from search_spaces.space import SearchSpace

HONEST_SPLIT = 0.25
"""Time is split by position where the parts' sum is within this share of the whole; tiny networks cost too much to
look into."""


@dataclass(frozen=True)
class Doubt:
    """Doubts: why what was measured on a device may be wrong.

    Args:
        text: sentences for a person.
        is_hopeless: a predictor made of it would be wrong.
    """

    text: str
    is_hopeless: bool


MANY, MOST = 0.1, 0.5
"""Shares of rows that do not agree, and differences between two measurements, that are doubtful and hopeless."""
LONGER, SEVERAL = 2.0, 4.0
"""Whole networks over the sum of their layers: doubtful and hopeless."""


def doubts(space: SearchSpace, table: LatencyTable, networks: NetworkLog) -> list[Doubt]:
    """Doubts about all that was measured of a space on a device; none on a quiet one."""
    whole = [m for role in ROLES for m in networks.rows(role).values()]
    alone = [] if table.conditions.get("method") == "in context" else list(table.values())
    found = [*disagreement("layers", alone), *disagreement("whole networks", whole)]
    first, second = networks.rows("check"), networks.rows("check again")
    apart = [_apart(first[a].latency_ms, second[a].latency_ms) for a in first if a in second]
    if apart and (typical := float(np.median(apart))) > MANY:
        found.append(
            Doubt(
                f"Two measurements of one network differ by {typical:.0%} (median of {len(apart)}, measured at the "
                "start and at the end), and no predictor can be better than that.",
                typical > MOST,
            )
        )
    shares = [sum(m.positions_ms.values()) / m.latency_ms for m in networks.rows("fit").values() if m.positions_ms]
    if shares and (typical := float(np.median([_apart(share, np.median(shares)) for share in shares]))) > HONEST_SPLIT:
        found.append(
            Doubt(
                "What the layers of a network take inside it adds up to another share of the network's time in each: "
                f"the shares differ by {typical:.0%} (median of {len(shares)}).",
                False,
            )
        )
    ratios = []
    for role in ROLES:
        for architecture, measurement in networks.rows(role).items():
            layers = list(space.lower(architecture).values())
            if all(layer in table for layer in layers):
                ratios.append(measurement.latency_ms / sum(table[layer].latency_ms for layer in layers))
    if ratios and (typical := float(np.median(ratios))) > LONGER:
        found.append(
            Doubt(
                f"Whole networks take {typical:.1f} times as long as their layers together (median of {len(ratios)}).",
                typical > SEVERAL,
            )
        )
    return found


def disagreement(what: str, rows: Sequence[Measurement]) -> list[Doubt]:
    """The doubt that many of some rows have passes that do not agree; empty where they are few."""
    wrong, disturbed = sum(not m.agreed for m in rows), sum(m.is_disturbed for m in rows)
    if not rows or wrong / len(rows) <= MANY:
        return []
    why = f", {disturbed} of them because other programs took the CPU away" if disturbed else ""
    return [Doubt(f"{wrong} of {len(rows)} {what} have passes that do not agree{why}.", wrong / len(rows) > MOST)]


def _apart(a: float, b: float) -> float:
    """Share by which the smaller of two numbers > 0 is below the larger."""
    return max(a, b) / min(a, b) - 1

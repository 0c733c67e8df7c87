"""Schedules of learning rates."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "power", "constant"]


def left_of_rate(schedule: Schedule, done: float, power: float = 1.0) -> float:
    """Share of a learning rate that is left after a share of the training, from 1 to 0.

    Args:
        schedule: ``cosine`` (Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5), ``power`` or ``constant``.
        done: share of the training, in [0, 1].
        power: exponent of ``power``, (1 - done) ** power.
    """
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return float((1 - done) ** power) if schedule == "power" else 1.0

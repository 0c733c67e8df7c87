"""The history of a training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """A row of train/history.json. Accuracies are on the validation part, in [0, 1]; None where none was evaluated."""

    epoch: int
    learning_rate: float
    loss: float
    """Loss of the biggest network, mean over the steps."""
    seconds: float
    smallest_accuracy: float | None = None
    biggest_accuracy: float | None = None

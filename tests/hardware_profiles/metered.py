"""A backend of one's own, in one file: it computes latency, memory, energy and power of a network from its layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hardware_profiles.backends.base import Backend, Capabilities, Loaded, Values
from hardware_profiles.device import DeviceProfile
from hardware_profiles.model import Model
from search_spaces.layers import Layer
from search_spaces.metric import MEMORY, Metric

ENERGY = Metric("energy_mj", "mJ", of_layers="sum", estimated=True)
POWER = Metric("peak_w", "W", estimated=True, title="peak power")
CAPABILITIES = Capabilities(metrics=(MEMORY, ENERGY, POWER), estimates=True, in_context=True)
CALL_MJ = 0.05
"""Energy of each call, of which a network is one."""


def layer_mj(layer: Layer) -> float:
    """Energy of a layer in a network."""
    return layer.macs * 3e-7 + layer.peak_elements * 2e-5


class Computed(Loaded):
    """A network that is not run."""

    def __init__(self, model: Model) -> None:
        self.layers = model.layers

    def positions_ms(self, runs: int) -> Mapping[str, float]:
        return {position: layer.macs * 1e-6 + 0.01 for position, layer in self.layers.items()}

    def sample_ms(self, runs: int) -> float:
        return sum(self.positions_ms(runs).values())

    def values(self, runs: int) -> Values:
        layers = self.layers.values()
        return {
            "memory_bytes": max(4 * layer.peak_elements for layer in layers),
            "energy_mj": CALL_MJ + sum(map(layer_mj, layers)),
            "peak_w": 1 + math.log10(sum(layer.macs for layer in layers)),
        }


class Meter(Backend):
    """The device."""

    capabilities = CAPABILITIES

    @property
    def environment(self) -> dict[str, Any]:
        return {"meter": "1.0.0"}

    def load(self, model: Model) -> Computed:
        return Computed(model)


def open_backend(profile: DeviceProfile) -> Meter:
    """See `hardware_profiles.backends.base`."""
    return Meter()

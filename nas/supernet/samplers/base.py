"""The protocol of samplers: which networks a training step takes, in which order.

A sampler is a frozen dataclass, and what it learns is an explicit state of arrays, so that a checkpoint holds it and a
resumed training is the same training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nas.supernet.region import Region
    from search_spaces.architecture import Architecture

State = Mapping[str, "NDArray[np.generic]"]
"""Memory of a sampler, as arrays."""

Probe = Callable[["Sequence[Architecture]"], "NDArray[np.float64]"]
"""Losses (n,) of networks on the images of the step, without gradients; it costs a forward pass for each."""


@runtime_checkable
class Sampler(Protocol):
    """Choice of the networks of a step. Their gradients add up, and one step of the optimiser takes them all."""

    @property
    def per_step(self) -> float:
        """Number of networks that a step trains, on average: its cost."""

    @property
    def learns(self) -> bool:
        """True if `tell` wants the losses, for which every step waits until they are known."""

    def init(self, region: Region) -> State:
        """State before the first step."""

    def draw(self, region: Region, state: State, rng: np.random.Generator, probe: Probe) -> list[Architecture]:
        """Networks of a step in their order; a distilling loss takes the first as the teacher of the others."""

    def tell(self, region: Region, state: State, drawn: Sequence[Architecture], losses: Sequence[float]) -> State:
        """State after a step, given the losses of what was drawn; none of them unless it learns."""


@runtime_checkable
class Paced(Sampler, Protocol):
    """A sampler whose steps have learning rates and momenta of their own."""

    def groups(self, region: Region, state: State) -> int:
        """Number of groups of steps, given the state before the first; each has a state of the optimiser of its own."""

    def group(self, region: Region, state: State, drawn: Sequence[Architecture]) -> int:
        """Group of a step, from 0."""

    def decay(self, region: Region, state: State, drawn: Sequence[Architecture]) -> float:
        """Exponent of the share of the learning rate that the schedule leaves at a step; 1: the schedule as it is."""


class Memoryless:
    """Samplers that learn nothing from the losses, and remember nothing unless they say so."""

    @property
    def learns(self) -> bool:
        return False

    def init(self, region: Region) -> State:
        return {}

    def tell(self, region: Region, state: State, drawn: Sequence[Architecture], losses: Sequence[float]) -> State:
        return state

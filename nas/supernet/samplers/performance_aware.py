"""Performance-aware sampling: networks that have done well are trained again, the more often the longer the training.

Tang et al., "ElasticViT: Conflict-aware Supernet Training for Deploying Fast Vision Transformer on Diverse Mobile
Devices", ICCV 2023, arXiv:2303.09730: a memory bank keeps good networks of every complexity, and a step explores with a
probability that falls, else it takes a network of the bank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nas.supernet.samplers.base import Probe, Sampler, State
from nas.supernet.samplers.complexity import Levels
from nas.supernet.samplers.single_path import SinglePath
from search_spaces.architecture import Architecture
from search_spaces.base.errors import InvalidValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nas.supernet.region import Region
    from search_spaces.architecture import Genes

INNER = "inner."
"""Beginning of the names of the other sampler's memory."""


@dataclass(frozen=True)
class PerformanceAware:
    """Networks of another sampler, some of them replaced by good ones of their level of complexity.

    A level of the bank keeps the networks of the lowest losses. The loss of one of them is taken anew whenever it is
    trained, so that early and late ones compare.

    Args:
        sampler: what explores.
        levels: of complexity; as many as those of `ConflictAware` keep its bound.
        size: of the bank, networks per level.
        lowest: share of networks that explore in the end.
        half_life: steps after which the share of further exploration has halved.
    """

    sampler: Sampler = field(default_factory=SinglePath)
    levels: int = 20
    size: int = 8
    lowest: float = 0.2
    half_life: float = 1000.0

    def __post_init__(self) -> None:
        for name in ("levels", "size"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"`{name}` of the bank must be at least 1, but got {getattr(self, name)}.")
        if not 0 <= self.lowest <= 1:
            raise InvalidValueError(f"`lowest` is a share of exploration, 0 to 1, but got {self.lowest}.")
        if not 0 < self.half_life < math.inf:
            raise InvalidValueError(f"`half_life` must be a positive number of steps, but got {self.half_life}.")

    @property
    def per_step(self) -> float:
        return self.sampler.per_step

    @property
    def learns(self) -> bool:
        return True

    def exploration(self, step: int) -> float:
        """Probability of exploring after a number of steps."""
        return float(self.lowest + (1 - self.lowest) * 0.5 ** (step / self.half_life))

    def init(self, region: Region) -> State:
        levels = Levels.of(region, self.levels)
        return {
            **levels.to_state(),
            "bank": np.repeat(levels.cheapest[:, None], self.size, 1),  # (levels, size, choices)
            "losses": np.full((len(levels), self.size), np.inf),
            "step": np.array(0),
            **{f"{INNER}{name}": value for name, value in self.sampler.init(region).items()},
        }

    def draw(self, region: Region, state: State, rng: np.random.Generator, probe: Probe) -> list[Architecture]:
        drawn = self.sampler.draw(region, _inner(state), rng, probe)
        explores = rng.random(len(drawn)) < self.exploration(int(state["step"]))
        numbers = Levels.from_state(state).numbers(region, np.stack([network.genes for network in drawn]))
        for i, level in enumerate(numbers):
            known = np.flatnonzero(np.isfinite(state["losses"][level]))
            if not explores[i] and len(known):
                drawn[i] = Architecture(region.space, state["bank"][level, rng.choice(known)].astype(np.int16))
        return drawn

    def tell(self, region: Region, state: State, drawn: Sequence[Architecture], losses: Sequence[float]) -> State:
        bank, kept = state["bank"].astype(np.int16), state["losses"].astype(np.float64)
        numbers = Levels.from_state(state).numbers(region, np.stack([network.genes for network in drawn]))
        for level, network, loss in zip(numbers, drawn, losses, strict=True):
            _keep(bank[level], kept[level], network.genes, loss)
        inner = self.sampler.tell(region, _inner(state), drawn, losses)
        changed: State = {"bank": bank, "losses": kept, "step": np.array(int(state["step"]) + 1)}
        return {**state, **changed, **{f"{INNER}{name}": value for name, value in inner.items()}}


def _keep(bank: Genes, losses: NDArray[np.float64], genes: Genes, loss: float) -> None:
    """Put a network into a level of the bank, (size, choices), in place of itself, or of the worst if it is better."""
    at = np.flatnonzero(np.isfinite(losses) & (bank == genes).all(1))
    place = int(at[0]) if len(at) else int(losses.argmax())
    if len(at) or loss < losses[place]:
        bank[place], losses[place] = genes, loss


def _inner(state: State) -> State:
    """Memory of the other sampler."""
    return {name.removeprefix(INNER): value for name, value in state.items() if name.startswith(INNER)}

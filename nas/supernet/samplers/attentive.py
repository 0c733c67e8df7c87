"""Attentive sampling: of several networks of about the same cost, the one that matters most is trained.

Wang et al., "AttentiveNAS: Improving Neural Architecture Search via Attentive Sampling", CVPR 2021, arXiv:2011.09011,
sections 3 and 4: levels of multiply-accumulates are drawn as often as random networks have them, then candidates of the
level, of which the one that is estimated best (best-up) or worst (worst-up) is trained. It lies near the best or the
worst Pareto front of the supernet.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from nas.supernet.samplers.base import Memoryless, Probe, State
from nas.supernet.samplers.complexity import Levels
from predictors.base import Predictor, metric_of
from predictors.saving import load
from search_spaces.architecture import Architecture
from search_spaces.base.errors import InvalidValueError
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from nas.supernet.region import Region
    from search_spaces.architecture import Genes

FORWARD = 1 / 3
"""Cost of a network's forward pass, as a share of its training."""


@dataclass(frozen=True)
class Attentive(Memoryless):
    """The biggest and the smallest network of every step, with attentively sampled ones beside them.

    Args:
        random: how many attentively sampled ones.
        train: the ``best`` or the ``worst`` of the candidates.
        candidates: networks that each is chosen from; the paper's are 3 where each costs a forward pass, and 50 with a
            predictor.
        levels: that the range of multiply-accumulates is cut into; networks of one level are compared.
        predictor: file of a predictor of the space's accuracy, which ranks the candidates; null: their losses on the
            images of the step do.
    """

    random: int = 2
    train: Literal["best", "worst"] = "best"
    candidates: int = 3
    levels: int = 20
    predictor: str | None = None

    def __post_init__(self) -> None:
        for name, low in (("random", 0), ("candidates", 1), ("levels", 1)):
            if getattr(self, name) < low:
                raise InvalidValueError(
                    f"`{name}` of attentive sampling must be at least {low}, but got {getattr(self, name)}."
                )
        if self.train not in ("best", "worst"):
            raise InvalidValueError(f"`train` must be 'best' or 'worst', but got {self.train!r}.")

    @property
    def per_step(self) -> float:
        probed = self.candidates if self.predictor is None and self.candidates > 1 else 0
        return 2 + self.random * (1 + FORWARD * probed)

    def init(self, region: Region) -> State:
        if self.predictor is not None:
            _predictor(Path(self.predictor), region.space)  # refused before anything is trained
        return Levels.of(region, self.levels).to_state()

    def draw(self, region: Region, state: State, rng: np.random.Generator, probe: Probe) -> list[Architecture]:
        levels = Levels.from_state(state)
        chosen = [self._chosen(self._of_one_level(region, levels, rng), region, probe) for _ in range(self.random)]
        return [region.biggest, region.smallest, *chosen]

    def _of_one_level(self, region: Region, levels: Levels, rng: np.random.Generator) -> Genes:
        """Different candidates (n, choices) of a level, that of a random network, which is the first of them."""
        target = region.sample(1, rng)
        level = int(levels.numbers(region, target)[0])
        found = np.concatenate([target, levels.draw(region, level, self.candidates - 1, rng)])
        _, first = np.unique(found, axis=0, return_index=True)
        return found[np.sort(first)]

    def _chosen(self, candidates: Genes, region: Region, probe: Probe) -> Architecture:
        architectures = [Architecture(region.space, row) for row in candidates]
        if len(architectures) == 1:
            return architectures[0]
        if self.predictor is None:
            costs = np.asarray(probe(architectures))
        else:
            predictor = _predictor(Path(self.predictor), region.space)
            costs = np.asarray(metric_of(predictor).cost(predictor.predict(candidates)))
        return architectures[int(costs.argmin() if self.train == "best" else costs.argmax())]


@functools.lru_cache(maxsize=4)
def _predictor(path: Path, space: SearchSpace) -> Predictor:
    return cast(Predictor, load(path, space))

"""Fitted predictors with how good they are, and networks as genes or as objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.device import DeviceProfile
from nas.run.records import PredictorQuality
from predictors import Predictor, Quality, save
from predictors.base import Saved
from search_spaces.architecture import Architecture, Genes
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.base.values import checked_arguments
from search_spaces.metric import Metric
from search_spaces.space import SearchSpace


@dataclass(frozen=True)
class JudgedPredictor:
    """A fitted predictor, and how good its predictions of networks are that it was not fitted to.

    Args:
        predictor: gives the values.
        space: of the networks.
        metric: that is predicted.
        title: what it is, in words.
        quality: on held-out networks.
        noise_floor: how well two measurements of these agree, where they were measured twice.
        device: that the values are of; None: of no device.
        beside: predictors of what else the device reports, by metric, such as ``memory_bytes``.
    """

    predictor: Predictor
    space: SearchSpace
    metric: Metric
    title: str
    quality: Quality
    noise_floor: Quality | None = None
    device: DeviceProfile | None = None
    beside: Mapping[str, JudgedPredictor] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(
        predictor: Predictor,
        space: SearchSpace,
        metric: Metric,
        found: PredictorQuality,
        device: DeviceProfile | None = None,
    ) -> JudgedPredictor:
        """A predictor with what ``fit/quality.json`` has of it."""
        return JudgedPredictor(predictor, space, metric, found.predictor, found.metrics, found.noise_floor, device)

    def __repr__(self) -> str:
        where = "" if self.device is None else f" on {self.device.name}"
        error = f"off by {self.quality.mape:.1%} on average, Kendall's tau {self.quality.kendall_tau:.2f}"
        return f"JudgedPredictor({self.metric.name}{where}: {error}; {self.title})"

    @checked_arguments
    def predict(self, networks: Genes | Sequence[Architecture] | Architecture) -> NDArray[np.float64]:
        """Values (n,) of canonical genes (n, choices), or of architectures; (1,) of a single one."""
        return self.predictor.predict(genes_of(self.space, networks))

    @checked_arguments
    def save(self, path: str | Path) -> None:
        """Write the predictor as an npz file, with the direction of its metric."""
        save(cast(Saved, self.predictor), self.space, Path(path), self.metric.direction)


def genes_of(space: SearchSpace, networks: Genes | Sequence[Architecture] | Architecture) -> Genes:
    """Canonical genes (n, choices) of networks.

    Raises:
        MismatchError: one is of another space.
        InvalidValueError: they are no genes of the space.
    """
    if isinstance(networks, Architecture):
        networks = [networks]
    if not len(networks):
        raise InvalidValueError("There must be one or more networks, but got none.")
    if isinstance(networks, np.ndarray):
        return space.canonical(space.validate(networks))
    for network in networks:
        if not isinstance(network, Architecture):
            raise InvalidValueError(
                f"Networks are architectures, or an array of genes (n, choices), but got {network!r}. Make one of "
                "choices with `Architecture(space, space.genes_of(choices))`."
            )
        if network.space.fingerprint != space.fingerprint:
            raise MismatchError(f"A network of space {network.space.name!r} is none of space {space.name!r}.")
    return np.stack([network.genes for network in networks])

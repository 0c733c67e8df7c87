"""What is searched for: objectives with direction and limit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nas.core import pareto
from predictors.base import Bounded, Predictor
from search_spaces.architecture import Architecture, Genes
from search_spaces.base.errors import InfeasibleError, InvalidValueError
from search_spaces.space import SearchSpace

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Objective:
    """A predicted metric with what is wanted of it.

    Args:
        predictor: gives the metric and its unit.
        goal: to be maximised or minimised; None: it only has to keep its limit.
        limit: at least this for ``max`` or ``at_least``, at most this otherwise. None: none.
        limit_name: how the user set the limit, for messages.
        limit_scale: ``limit`` is this times what the user set.
        worst: bounds the hypervolume in place of the worst of a random sample; needed where ``costly``.
        name: how settings and files call it; the predictor's metric where empty.
        at_least: a limit without a goal is a floor.
        costly: an evaluation trains, measures or otherwise takes long: searchers spare them, and each is kept on disk.
    """

    predictor: Predictor
    goal: Literal["max", "min"] | None
    limit: float | None = None
    limit_name: str = "limit"
    limit_scale: float = 1.0
    worst: float | None = None
    costly: bool = False
    name: str = ""
    at_least: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and not np.isfinite(self.limit):
            raise InvalidValueError(f"`{self.limit_name}` must be a finite number or null, but got {self.limit}.")
        if not self.name:
            object.__setattr__(self, "name", self.predictor.metric)
        if self.limit is not None and not self.floor and self.limit <= 0:
            raise InvalidValueError(f"`{self.limit_name}` must be > 0, but got {self.limit}.")

    @property
    def floor(self) -> bool:
        """Whether the limit is a least value."""
        return self.goal == "max" or (self.goal is None and self.at_least)


def identity_of(objective: Objective) -> list[Any]:
    """JSON-able; equal for equal objectives. A predictor is known by what a file of it would hold, or by the
    ``fingerprint`` that it states; another one by its class alone."""
    predictor, content = objective.predictor, hashlib.sha256()
    for name, array in sorted(predictor.to_arrays().items()) if hasattr(predictor, "to_arrays") else []:
        content.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    stated = getattr(predictor, "fingerprint", None)
    return [objective.name, predictor.metric, predictor.unit, type(predictor).__name__, content.hexdigest(), stated] + [
        *(objective.goal, objective.limit, objective.at_least, objective.worst, objective.costly)
    ]


@dataclass(frozen=True)
class Problem:
    """Architectures of a space, valued by objectives. Values are in natural units, shape (n, objectives)."""

    space: SearchSpace
    objectives: tuple[Objective, ...]

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
        if not any(objective.goal for objective in objectives):
            raise InvalidValueError("A problem needs at least one objective with a goal.")
        object.__setattr__(self, "space", space)
        object.__setattr__(self, "objectives", tuple(objectives))

    @property
    def costly(self) -> bool:
        """Whether an evaluation takes long."""
        return any(objective.costly for objective in self.objectives)

    def evaluate(self, genes: Genes) -> Values:
        """Values of canonical genes (n, choices), shape (n, objectives); NaN where a costly evaluation failed."""
        return self._values(genes, [True] * len(self.objectives))

    def evaluate_cheap(self, genes: Genes) -> Values:
        """Like `evaluate`, with NaN in place of costly objectives: what is known of an architecture for free."""
        return self._values(genes, [not objective.costly for objective in self.objectives])

    def _values(self, genes: Genes, wanted: Sequence[bool]) -> Values:
        values = np.full((len(genes), len(self.objectives)), np.nan)
        for column, (objective, asked) in enumerate(zip(self.objectives, wanted, strict=True)):
            if not asked:
                continue
            values[:, column] = objective.predictor.predict(genes)
            missing = np.isnan(values[:, column])
            if missing.any() and not objective.costly:
                raise InvalidValueError(
                    f"The {objective.name} predictor gives NaN for "
                    f"{Architecture(self.space, genes[int(missing.argmax())]).values}."
                )
        return values

    def costs(self, values: Values) -> Values:
        """The goals, all to be minimised, shape (n, goals)."""
        return pareto.costs_of(values, [objective.goal for objective in self.objectives])

    def violations(self, values: Values) -> Values:
        """By how much limits are exceeded, relative to each limit and summed, shape (n,); 0: feasible."""
        total = np.zeros(len(values))
        for i, objective in enumerate(self.objectives):
            if objective.limit is not None:
                excess = values[:, i] - objective.limit
                total += np.maximum(-excess if objective.floor else excess, 0) / max(abs(objective.limit), 1e-12)
            total += np.where(np.isinf(values[:, i]), np.inf, 0)  # the device cannot run it
        return total

    def check_feasible(self) -> None:
        """Refuse limits that no network of the space can meet, where the predictor knows its exact minimum.

        Raises:
            InfeasibleError: names the limit and the nearest one that can be met.
        """
        for objective in [] if self.space.fixed else self.objectives:  # minima are of the whole space
            predictor = objective.predictor
            if objective.floor or not isinstance(predictor, Bounded):
                continue
            genes, least = predictor.minimum()
            if np.isposinf(least):
                raise InfeasibleError(
                    f"The device can run none of the {self.space.size:,} networks: each has a layer whose "
                    f"{objective.name} could not be taken. Choose another device or another space."
                )
            if objective.limit is not None and least > objective.limit:
                limit, scale = objective.limit, objective.limit_scale
                stated = "" if scale == 1 else f" (at most {with_unit(limit, predictor.unit)} predicted)"
                raise InfeasibleError(
                    f"`{objective.limit_name}`={limit / scale:g}{stated} cannot be met: the least {predictor.metric} "
                    f"of all {self.space.size:,} networks is {with_unit(least, predictor.unit)}, that of "
                    f"{Architecture(self.space, genes).values}. Set the limit to {_round_up(least, scale)} or more."
                )


def with_unit(value: float, unit: str) -> str:
    """A number with four significant digits and its unit; "1" is that of a share, which has none."""
    return f"{value:.4g}" if unit in ("", "1") else f"{value:.4g} {unit}"


def _round_up(value: float, scale: float) -> str:
    """The least number of three significant digits that, times the scale, is not below the value."""
    digits = 10.0 ** (np.floor(np.log10(value / scale)) - 2)
    steps = np.ceil(value / scale / digits * (1 - 1e-12))
    while float(written := f"{steps * digits:g}") * scale < value:
        steps += 1
    return written

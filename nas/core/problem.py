"""Problems: objectives with direction and limit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.core import pareto
from predictors.base import Predictor, exact_maximum, exact_minimum, metric_of
from search_spaces.architecture import Architecture, Genes
from search_spaces.base import trust
from search_spaces.base.errors import InfeasibleError, InvalidValueError, NasError
from search_spaces.base.values import real_numbers
from search_spaces.metric import Direction, Limit, Metric, with_unit
from search_spaces.space import SearchSpace

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Objective:
    """A predicted metric with what is wanted of it.

    Args:
        predictor: gives the values, in the metric's unit.
        metric: that is predicted.
        goal: whether it is optimised, in the metric's direction; otherwise it only has to keep its limit.
        limit: that predicted values have to keep, with its margin. None: none.
        device: that it is of where there are several; None: of the only one, or of all.
        worst: bounds the hypervolume in place of the worst of a random sample; needed where ``costly``.
        costly: an evaluation trains, measures or otherwise takes long: searchers spare them, and each is kept on disk.
    """

    predictor: Predictor
    metric: Metric
    goal: bool = True
    limit: Limit | None = None
    device: str | None = None
    worst: float | None = None
    costly: bool = False

    @staticmethod
    def of(
        predictor: Predictor,
        goal: Direction | None,
        limit: float | None = None,
        setting: str = "limit",
        *,
        worst: float | None = None,
        costly: bool = False,
    ) -> Objective:
        """An objective whose metric is known by its predictor.

        Args:
            predictor: names the metric and its unit.
            goal: to be maximised or minimised; None: it only has to keep its limit.
            limit: at least this where more is better, at most this otherwise.
            setting: how the user set the limit, for messages.
            worst: see `Objective`.
            costly: see `Objective`.
        """
        metric = metric_of(predictor, goal)
        bound = None if limit is None else Limit(metric, limit, setting)
        return Objective(predictor, metric, goal is not None, bound, worst=worst, costly=costly)

    @property
    def name(self) -> str:
        """The metric's, such as ``latency_ms``, or of several devices ``latency_ms@host``."""
        return self.metric.name if self.device is None else f"{self.metric.name}@{self.device}"

    @property
    def title(self) -> str:
        """Words for it, such as ``latency``, or of several devices ``latency on host``."""
        return self.metric.title if self.device is None else f"{self.metric.title} on {self.device}"

    @property
    def bound(self) -> float | None:
        """Bound that predicted values have to keep."""
        return None if self.limit is None else self.limit.searched

    @property
    def direction(self) -> Direction | None:
        """Direction in which it is optimised; None: it is not."""
        return self.metric.direction if self.goal else None

    def limited(self, bound: float | None, setting: str = "limit") -> Objective:
        """The same with another limit."""
        return replace(self, limit=None if bound is None else Limit(self.metric, bound, setting))


def identity_of(objective: Objective) -> list[Any]:
    """JSON-able; equal for equal objectives. A predictor is known by what a file of it would hold, or by the
    ``fingerprint`` that it states; another one by its class alone."""
    predictor, content = objective.predictor, hashlib.sha256()
    for name, array in sorted(predictor.to_arrays().items()) if hasattr(predictor, "to_arrays") else []:
        content.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    stated = getattr(predictor, "fingerprint", None)
    return [objective.name, predictor.metric, predictor.unit, type(predictor).__name__, content.hexdigest(), stated] + [
        *(objective.metric.direction, objective.goal, objective.bound, objective.worst, objective.costly)
    ]


def _predicted(objective: Objective, genes: Genes) -> Values:
    """Values (n,) that an objective's predictor gives.

    Raises:
        InvalidValueError: it is the user's and fails, or gives something else than a number per network.
    """
    predictor = objective.predictor
    title = f"The {objective.name} predictor {type(predictor).__name__}"
    try:
        values = real_numbers(f"Values of the {objective.name} predictor", predictor.predict(genes))
    except (Exception, SystemExit) as error:  # whatever a user's predictor raises
        if isinstance(error, NasError) or trust.is_own(type(predictor)):
            raise
        raise InvalidValueError(f"{title} fails for {len(genes)} networks: {type(error).__name__}: {error}.") from error
    if values.shape != (len(genes),):
        raise InvalidValueError(f"{title} must give numbers of shape ({len(genes)},), but gave {values.shape}.")
    return values


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
        """True if an evaluation takes long."""
        return any(objective.costly for objective in self.objectives)

    def evaluate(self, genes: Genes) -> Values:
        """Values of canonical genes (n, choices), shape (n, objectives); NaN where a costly evaluation failed."""
        return self._values(genes, [True] * len(self.objectives))

    def evaluate_cheap(self, genes: Genes) -> Values:
        """Evaluate, with NaN in place of costly objectives: what is known of an architecture for free."""
        return self._values(genes, [not objective.costly for objective in self.objectives])

    def _values(self, genes: Genes, wanted: Sequence[bool]) -> Values:
        values = np.full((len(genes), len(self.objectives)), np.nan)
        for column, (objective, asked) in enumerate(zip(self.objectives, wanted, strict=True)):
            if not asked:
                continue
            values[:, column] = _predicted(objective, genes)
            missing = np.isnan(values[:, column])
            if missing.any() and not objective.costly:
                raise InvalidValueError(
                    f"The {objective.name} predictor gives NaN for "
                    f"{Architecture(self.space, genes[int(missing.argmax())]).values}."
                )
        return values

    def costs(self, values: Values) -> Values:
        """The goals, all to be minimised, shape (n, goals)."""
        return pareto.costs_of(values, [objective.direction for objective in self.objectives])

    def violations(self, values: Values) -> Values:
        """Excess over the limits, relative to each limit and summed, shape (n,); 0: feasible."""
        total = np.zeros(len(values))
        for column, objective in zip(values.T, self.objectives, strict=True):
            if objective.limit is not None:
                total += np.maximum(objective.limit.excess(column), 0)
            total += np.where(np.isinf(column), np.inf, 0)  # the device cannot run it
        return total

    def check_feasible(self) -> None:
        """Refuse limits that no network of the space can meet, where the predictor knows its exact extreme.

        Raises:
            InfeasibleError: names the limit and the nearest one that can be met.
        """
        for objective in [] if self.space.fixed else self.objectives:  # minima are of the whole space
            extreme = exact_maximum if objective.metric.direction == "max" else exact_minimum
            exact = extreme(objective.predictor)
            if exact is None:
                continue
            genes, best = exact
            if np.isposinf(best):
                raise InfeasibleError(
                    f"The device can run none of the {self.space.size:,} networks: each has a layer whose "
                    f"{objective.name} could not be taken. Choose another device or another space."
                )
            if objective.limit is not None and not objective.limit.keeps(np.array(best)):
                raise InfeasibleError(refusal(Problem(self.space, [replace(objective, goal=True)]), genes, [best]))


def refusal(problem: Problem, genes: Genes, values: Sequence[float] | Values) -> str:
    """Message that no network keeps the limits, which one is the nearest, and the limits that it keeps.

    Args:
        problem: with the limits.
        genes: of the nearest network, shape (choices,).
        values: that it has, shape (objectives,).
    """
    limited = [(o, float(v)) for o, v in zip(problem.objectives, values, strict=True) if o.limit is not None]
    objectives, known = zip(*limited, strict=True)
    limits, together = limits_of(objectives), " together" if len(limited) > 1 else ""
    return (
        f"{' and '.join(limit.stated for limit in limits)} cannot be met{together} by any of the "
        f"{problem.space.size:,} networks. The nearest has {values_text(objectives, known)}: "
        f"{Architecture(problem.space, genes).values}{ways_out(limits, known)}."
    )


def limits_of(objectives: Sequence[Objective]) -> list[Limit]:
    """The limits that objectives have, in their order."""
    return [objective.limit for objective in objectives if objective.limit is not None]


def values_text(objectives: Sequence[Objective], values: Sequence[float] | Values) -> str:
    """Values of a network for each objective."""
    return ", ".join(
        f"{o.title} {with_unit(value, o.metric.unit)}" for o, value in zip(objectives, values, strict=True)
    )


def ways_out(limits: Sequence[Limit], values: Sequence[float]) -> str:
    """Sentence on what limits have to be set to so that values keep them; empty where they do."""
    broken = [(limit, value) for limit, value in zip(limits, values, strict=True) if limit.excess(np.array(value)) > 0]
    return f". Set {' and '.join(limit.nearest(value) for limit, value in broken)}" if broken else ""

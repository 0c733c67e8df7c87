"""Sequential model-based optimisation, for when an evaluation is expensive: a surrogate says what to evaluate next.

The loop is that of EGO (Jones et al., "Efficient global optimization of expensive black-box functions", J. Global
Optimization 13, 1998) and, with evolution inside, of LINAS (Cummings et al., "A hardware-aware framework for
accelerating neural architecture search across modalities", 2022, arXiv:2205.10358): evaluate some random architectures;
then, round by round, fit a model of every costly objective, search the model, evaluate the batch that promises most.
Objectives that are not costly are known of every candidate.

Promise is the expected hypervolume improvement (Emmerich et al., "Hypervolume-based expected improvement: monotonicity
properties and exact computation", CEC 2011) times the probability that limits are kept (Schonlau et al., "Global versus
local search in constrained optimization of computer models", 1998). A batch is chosen one by one, each time believing
the model about those already chosen ("kriging believer": Ginsbourger et al., "Kriging is well-suited to parallelize
optimization", 2010).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nas.core import pareto
from nas.core.pareto import Costs
from nas.core.problem import Problem, Values
from nas.core.search_loop import reference_point
from nas.core.searcher import State, no_networks
from nas.core.seen import Seen
from predictors.features import encode
from predictors.kriging import Kriging
from predictors.regression import Fitted, Matrix, Regressor
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError
from search_spaces.space import SearchSpace

FEATURES = ("one_hot", "statistics")
"""Features that a surrogate reads of an architecture."""

PARENTS = 0.1
"""Share of a generation's size that has children."""

MUTATIONS = 1.5
"""Genes redrawn per child, on average."""

SHORTLIST = 1000
"""Candidates that are looked at again after each choice for the batch: what all others promise can only have fallen."""

CROWD = 40
"""Number of points that stand for the front with three goals or more: the number of boxes grows with a power of it."""

PRODUCTS = 2**22
"""Candidates times boxes at a time: bounds the memory."""


@dataclass(frozen=True)
class SMBO:
    """Models what is costly; where nothing is marked so, all goals.

    Args:
        batch: architectures per round; the smaller, the fewer evaluations are needed, and the more time for models.
        start: random architectures before the first model.
        fitted: at most as many evaluations are fitted, half of them the best, the others the latest: bounds the time
            of a round.
        pool: candidates per round. A space of no more networks is searched whole, a larger one by evolution.
        generations: of that evolution.
        surrogate: how to fit. Its spread must grow with the distance from what was fitted, or nothing new is tried.
    """

    batch: int = 10
    start: int = 20
    fitted: int = 300
    pool: int = 10_000
    generations: int = 5
    surrogate: Regressor = field(default_factory=lambda: Kriging(per_feature=False))

    def __post_init__(self) -> None:
        if self.batch < 1 or self.start < 5 or self.fitted < self.start or self.pool < 100 or self.generations < 1:
            raise InvalidValueError(
                f"SMBO needs batch >= 1, start >= 5, fitted >= start, pool >= 100 and generations >= 1, but got {self}."
            )

    def init(self, problem: Problem) -> State:
        return no_networks(problem)

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        space, told, values = problem.space, state["genes"], state["values"]
        if len(told) < self.start:
            drawn = space.sample(10 * n, rng)
            known = _excess(problem, _known_costs(problem, drawn))
            return drawn[np.argsort(known, kind="stable")[:n]]  # none that breaks a limit for certain, if possible
        model = _Model.fit(problem, self.surrogate, told, values, self.fitted)
        best = _feasible_front(problem, values)
        front, reference = problem.costs(values[best]), reference_point(problem)
        everything = _all_networks(space, self.pool)
        if everything is not None:
            candidates = _Candidates.of(model, rng.permutation(Seen(told).new(everything)))
        else:
            candidates = self._evolve(model, told, best, _boxes(_thinned(front), reference), rng)
        return candidates.genes[_best_batch(candidates, _thinned(front), reference, n)]

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        return {
            "genes": np.concatenate([state["genes"], genes]),
            "values": np.concatenate([state["values"], values]),
        }

    def _evolve(
        self, model: _Model, told: Genes, best: NDArray[np.intp], boxes: tuple[Costs, Costs], rng: np.random.Generator
    ) -> _Candidates:
        """Candidates that were not told, found by evolution towards what promises most, from the front and random."""
        space = model.problem.space
        size = self.pool // (self.generations + 1)
        candidates = _Candidates.of(model, Seen(told).new(space.sample(size, rng)))
        promise = candidates.promise(boxes)
        for _ in range(self.generations):
            order = np.lexsort((candidates.excess, -promise))
            parents = np.concatenate([told[best], candidates.genes[order[: int(PARENTS * size)]]])
            pairs = parents[rng.integers(0, len(parents), (2, size))]  # (2, size, choices)
            children = space.mutate(space.cross(pairs[0], pairs[1], rng), rng, min(1.0, MUTATIONS / told.shape[1]))
            new = _Candidates.of(model, Seen(np.concatenate([told, candidates.genes])).new(children))
            candidates = candidates.joined(new)
            promise = np.concatenate([promise, new.promise(boxes)])
        return candidates


# -- what is believed of architectures that were not evaluated ---------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Surrogate:
    """Model of one cost. It models log(1 + how much worse than the best): the front is where its precision goes."""

    model: Fitted
    best: float
    unit: float
    centre: float
    deviation: float

    @classmethod
    def fit(cls, regressor: Regressor, features: Matrix, costs: Costs, limit: float) -> Self:
        """Fit to features (n, f) and costs (n,). A network that cannot run counts as worse than all that can."""
        runs = np.isfinite(costs)
        best, worst = (float(costs[runs].min()), float(costs[runs].max())) if runs.any() else (0.0, 0.0)
        if np.isfinite(limit):
            worst = max(worst, limit)
        gap = np.where(runs, costs, worst + (worst - best)) - best
        unit = float(np.median(gap)) / 3 or float(gap.mean()) or 1.0
        targets = np.log1p(gap / unit)
        centre, deviation = float(targets.mean()), float(targets.std()) or 1.0
        return cls(regressor.fit(features, (targets - centre) / deviation), best, unit, centre, deviation)

    def believe(self, features: Matrix) -> tuple[Costs, Costs]:
        """Mean and deviation of the cost, both (n,): to first order, from those of the logarithm."""
        factor = self.unit * np.exp(self.model.predict(features) * self.deviation + self.centre)
        return factor - self.unit + self.best, factor * self.deviation * self.model.spread(features)


@dataclass(frozen=True, eq=False)
class _Model:
    """Surrogates of the modelled objectives, by column."""

    problem: Problem
    surrogates: Mapping[int, _Surrogate]

    @classmethod
    def fit(cls, problem: Problem, regressor: Regressor, genes: Genes, values: Values, most: int) -> Self:
        """Fit to ``most`` of the evaluations: half of them the best, the others the latest."""
        costs, limits = _costs(problem, values), _limits(problem)
        if len(genes) > most:
            finite = np.nan_to_num(problem.costs(values))
            order = np.lexsort((pareto.ranks(finite), problem.violations(values)))
            others = np.sort(order[most // 2 :])
            kept = np.concatenate([order[: most // 2], others[len(others) - (most - most // 2) :]])
            genes, costs = genes[kept], costs[kept]
        features = _features(problem.space, genes)
        return cls(
            problem,
            {c: _Surrogate.fit(regressor, features, costs[:, c], float(limits[c])) for c in _modelled(problem)},
        )


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Rows with beliefs about them, all to be minimised.

    ``mean`` and ``std`` of the goals (n, goals), ``feasible``: probability that all limits are kept (n,), ``excess``:
    by how much the means break them (n,).
    """

    genes: Genes
    mean: Costs
    std: Costs
    feasible: Costs
    excess: Costs

    @classmethod
    def of(cls, model: _Model, genes: Genes) -> Self:
        problem = model.problem
        mean = _known_costs(problem, genes)
        std = np.zeros_like(mean)
        features = _features(problem.space, genes)
        for column, surrogate in model.surrogates.items():
            mean[:, column], std[:, column] = surrogate.believe(features)
        runs = np.isfinite(mean)
        room = np.where(runs, _limits(problem) - np.where(runs, mean, 0), -np.inf)
        kept = np.where(std > 0, ndtr(room / np.where(std > 0, std, 1.0)), room >= 0)
        goals = [i for i, objective in enumerate(problem.objectives) if objective.goal]
        return cls(genes, mean[:, goals], std[:, goals], kept.prod(1), _excess(problem, mean))

    def joined(self, other: _Candidates) -> _Candidates:
        """Rows of both."""
        names = self.__dataclass_fields__
        return _Candidates(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in names))

    def rows(self, chosen: NDArray[np.intp]) -> _Candidates:
        """Some of the rows."""
        return _Candidates(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def promise(self, boxes: tuple[Costs, Costs]) -> Costs:
        """Expected hypervolume improvement times the probability of feasibility, (n,).

        Args:
            boxes: what is not dominated yet, see `_boxes`.
        """
        lower, upper = boxes  # (b, goals)
        promise = np.zeros(len(self.genes))
        step = max(1, PRODUCTS // max(1, len(lower)))
        for begin in range(0, len(promise), step):
            part = slice(begin, begin + step)
            gains = np.ones((1, len(lower)))
            for goal in range(lower.shape[1]):
                edges, places = np.unique(np.stack([lower[:, goal], upper[:, goal]]), return_inverse=True)
                shares = _expected_shortfall(edges, self.mean[part, goal], self.std[part, goal])
                start, end = places.reshape(2, -1)
                gains = gains * (shares[:, end] - shares[:, start])  # (part, b)
            promise[part] = gains.sum(1)
        return promise * self.feasible


def _expected_shortfall(edges: Costs, mean: Costs, std: Costs) -> Costs:
    """E[max(edge - Y, 0)] of a normal Y, shape (n, edges): Emmerich et al. 2011, the function psi."""
    gap = edges - mean[:, None]
    deviation = np.where(std > 0, std, 1.0)[:, None]
    z = np.clip(gap / deviation, -38, None)  # farther below the density underflows
    unsure = deviation * (z * ndtr(z) + np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))
    return np.where(std[:, None] > 0, unsure, np.maximum(gap, 0))


def _boxes(front: Costs, reference: Costs) -> tuple[Costs, Costs]:
    """Lower and upper corners, (b, goals) each, of disjoint boxes: all that is below the reference and not dominated.

    Slabs between neighbours in the last goal, each with the boxes of the points that are below it, in one goal fewer.
    """
    if len(reference) == 1:
        return np.full((1, 1), -np.inf), np.minimum(front.min(0, initial=np.inf), reference)[None]
    front = front[pareto.front(front)]
    front = front[front[:, -1] < reference[-1]]
    levels = np.concatenate([[-np.inf], np.unique(front[:, -1]), reference[-1:]])
    corners: list[tuple[Costs, Costs]] = []
    for low, high in itertools.pairwise(levels):
        lower, upper = _boxes(front[front[:, -1] <= low, :-1], reference[:-1])
        corners.append((np.insert(lower, lower.shape[1], low, 1), np.insert(upper, upper.shape[1], high, 1)))
    lowers, uppers = zip(*corners, strict=True)
    return np.concatenate(lowers), np.concatenate(uppers)


def _best_batch(candidates: _Candidates, front: Costs, reference: Costs, n: int) -> NDArray[np.intp]:
    """Rows to evaluate, the most promising first, n or all."""
    promise = candidates.promise(_boxes(front, reference))
    # Without any promise (no limit can be kept, say), those that break limits least.
    shortlist = np.lexsort((candidates.excess, -promise))[: max(SHORTLIST, n)]
    rest, promise = candidates.rows(shortlist), promise[shortlist]
    chosen: list[int] = []
    while len(chosen) < min(n, len(shortlist)):
        chosen.append(int(np.lexsort((rest.excess, -promise))[0]))
        if rest.excess[chosen[-1]] == 0 and len(chosen) < n:
            front = np.concatenate([front, rest.mean[chosen[-1:]]])  # believed
            promise = rest.promise(_boxes(front, reference))
        promise[chosen] = -1.0
    return shortlist[chosen]


def _thinned(front: Costs) -> Costs:
    """The least crowded points, where exactness would be dear."""
    if front.shape[1] < 3 or len(front) <= CROWD:
        return front
    return front[np.argsort(-pareto.crowding(front), kind="stable")[:CROWD]]


# -- problems with all objectives as costs -----------------------------------------------------------------------------


def _costs(problem: Problem, values: Values) -> Costs:
    """All objectives to be minimised, those that only have a limit included, (n, objectives)."""
    return np.stack([o.metric.cost(column) for o, column in zip(problem.objectives, values.T, strict=True)], axis=1)


def _limits(problem: Problem) -> Costs:
    """Limits of costs, (objectives,); inf: any."""
    limits = np.array([[np.nan if o.bound is None else o.bound for o in problem.objectives]])
    costs = _costs(problem, limits)[0]
    return np.where(np.isnan(costs), np.inf, costs)


def _modelled(problem: Problem) -> list[int]:
    """Columns that surrogates stand for."""
    return [i for i, o in enumerate(problem.objectives) if (o.costly if problem.costly else o.goal)]


def _known_costs(problem: Problem, genes: Genes) -> Costs:
    """(n, objectives), with NaN where a surrogate is needed."""
    costs = _costs(problem, problem.evaluate_cheap(genes))
    costs[:, _modelled(problem)] = np.nan
    return costs


def _excess(problem: Problem, costs: Costs) -> Costs:
    """`Problem.violations` of costs (n, objectives), NaN counting as none, (n,)."""
    limits = _limits(problem)
    scale = np.where(np.isfinite(limits), np.maximum(np.abs(limits), 1e-12), 1.0)
    broken = np.isinf(costs)
    return np.asarray(np.where(broken, np.inf, np.fmax(np.where(broken, 0, costs) - limits, 0) / scale).sum(1))


def _feasible_front(problem: Problem, values: Values) -> NDArray[np.intp]:
    feasible = np.flatnonzero(problem.violations(values) == 0)
    return feasible[pareto.front(problem.costs(values[feasible]))]


# -- architectures -----------------------------------------------------------------------------------------------------


def _features(space: SearchSpace, genes: Genes) -> Matrix:
    """Features (n, f) that a surrogate reads of canonical genes (n, choices)."""
    return np.asarray(encode(space, genes, FEATURES), np.float64)


@functools.cache
def _all_networks(space: SearchSpace, most: int) -> Genes | None:
    """All networks of a space of at most ``most``; None for a larger one."""
    cardinalities = [int(c) for c in space.cardinalities]
    if space.size > most or math.prod(cardinalities) > 100 * most:
        return None
    grid = np.indices(cardinalities, np.int16).reshape(len(cardinalities), -1).T
    return np.unique(space.canonical(grid), axis=0)

"""The exact Pareto front over a whole space, however large, where what counts are sums and maxima over positions.

Variable elimination (Dechter, "Bucket elimination", Artificial Intelligence 113, 1999) in the semiring of Pareto sets:
a set holds cost vectors of which none dominates another; the sum of two sets holds all sums of a row of each; the union
of sets is what a choice between them gives (Rollon & Larrosa, "Bucket elimination for multiobjective optimization
problems", Journal of Heuristics 12, 2006). Along a chain of positions that is the dynamic program of Nemhauser &
Ullmann, "Discrete dynamic programming and capital allocation", Management Science 15, 1969.

A limit on a sum is one more cost, and rows from which it cannot be met any more are dropped. A limit on a maximum, such
as peak memory, makes entries of its table unusable.

Sets can grow large. With a grid they are thinned: costs are cut into boxes, each of which keeps one row. By how much
that can hide better networks is added up, so the true front is known to lie between the one that is found and an
`ExactFront.outer` one (Papadimitriou & Yannakakis, "On the approximability of trade-offs", FOCS 2000).

"Exact" is up to the rounding of sums in double precision, some 1e-15 of their values.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import moocore
import numpy as np
from numpy.typing import NDArray

from nas.core import pareto
from nas.core.problem import Objective, Problem, Values, limits_of, refusal
from predictors.additive_model import additive, table_of
from predictors.elimination import Scope, aligned, check_cost, plan
from predictors.position_table import PositionTable
from search_spaces.architecture import Genes
from search_spaces.base.errors import InfeasibleError, InvalidValueError, TooCostlyError
from search_spaces.space import SearchSpace

Costs = NDArray[np.float64]
Table = tuple[Scope, Costs]
"""Costs over some choices."""

LISTED = 50_000
"""Spaces with no more rows of genes are listed in full, with any predictor."""
GRID = 10_000
"""Rows that sets are thinned to where limits are looked at before a search."""
LARGEST_SET = 2_000_000
"""Rows of a set without a grid; more take minutes and gigabytes."""
LARGEST_FRONT = 2_000_000
"""Sums of sets in all at most; so many take some minutes even where the sets are small."""
PAIRS = 2_000_000
"""Sums of rows that are made at a time."""
SLACK = 1e-12
"""Share of itself by which a sum may exceed its limit until the predictors, who add in another order, decide."""


@dataclass(frozen=True, eq=False)
class ExactFront:
    """The best of a whole space: feasible, not dominated, sorted by the last goal.

    ``genes`` (n, choices), canonical; ``values`` (n, objectives) in natural units, as the predictors give them.
    ``outer`` (m, goals): costs such that each feasible network of the space is dominated by a row or equal to it.
    ``error`` (goals,), >= 0: the rows of ``outer`` are costs of networks less this; where no set was thinned it is 0,
    and ``outer`` is the front itself.
    """

    genes: Genes
    values: Values
    outer: Costs
    error: Costs

    def hypervolume_bound(self, reference: Sequence[float] | Costs) -> float:
        """Bound that no set of feasible networks of the space can exceed."""
        return pareto.hypervolume(self.outer, reference)


def exact_front(problem: Problem, *, grid: int | None = None, listed: int = LISTED) -> ExactFront:
    """The Pareto front of a problem over the whole space.

    Args:
        problem: with goals and limits on sums over positions, goals to minimise and upper limits on maxima, none of
            them costly. `additive_problem` makes one of any problem.
        grid: sets of more rows are thinned to about as many; None: all rows are kept.
        listed: a space with no more rows of genes than this is listed instead; there any predictor will do.

    Raises:
        InfeasibleError: no network keeps all limits; the message names the nearest one.
        TooCostlyError: too many choices meet (`check_cost`).
        InvalidValueError: another kind of problem, sets that need a grid, or a grid too coarse to keep the limits.
    """
    if grid is not None and grid < 2:
        raise InvalidValueError(f"`grid` must be >= 2 or null, but got {grid}.")
    if any(o.costly and (o.goal or o.limit is not None) for o in problem.objectives):
        raise InvalidValueError("An exact front needs goals and limits that are cheap to evaluate.")
    if _rows(problem.space) <= listed:
        genes = _everything(problem.space)
        kept, values = _feasible_front(problem, genes)
        if not len(kept):
            check_feasible(problem, listed=listed)
            raise InfeasibleError(f"None of the {problem.space.size:,} networks keeps all limits. Loosen one.")
        return _unthinned(problem, genes[kept], values[kept])
    goals = [_Cost.of(o) for o in problem.objectives if o.goal]
    limits = [_Cost.of(o) for o in problem.objectives if not o.goal and o.limit is not None]
    sums = [replace(cost, enough=cost.ceiling) for cost in limits if not cost.maximum]
    usable = _usable(problem)
    for cost in limits:
        if cost.maximum:
            usable = usable.without(cost)
    found = _eliminate(problem.space, [*goals, *sums], usable, grid)
    genes = problem.space.canonical(found.genes)
    kept, values = _feasible_front(problem, genes)
    if not len(kept):
        check_feasible(problem, listed=listed)
        raise InvalidValueError(
            f"With `grid`={grid} no network was found that keeps the limits. Choose a finer grid, or loosen a limit a "
            "little."
        )
    if not found.error.any():
        return _unthinned(problem, genes[kept], values[kept])
    error = found.error[: len(goals)]
    outer = found.costs[:, : len(goals)] + np.array([cost.constant for cost in goals]) - error
    return ExactFront(genes[kept], values[kept], outer[pareto.front(outer)], error)


def check_feasible(problem: Problem, *, grid: int | None = GRID, listed: int = LISTED) -> None:
    """Refuse limits that no network of the space keeps all together, even where each alone could be kept.

    Limits on sums over positions and upper ones on maxima are looked at; those on other predictors and on costly ones
    are not. What a thinned set leaves open passes, and what takes too much work.

    Raises:
        InfeasibleError: names limits of which none can be left out, the network that breaks these least, all together
            as `Problem.violations` counts, and limits that it keeps.
    """
    tables = [o for o in problem.objectives if not o.costly and _is_additive(o)]
    if not tables:
        return
    # Every limit has a goal here, so that nothing but limits and layers that the device cannot run count.
    part = Problem(problem.space, [replace(o, goal=True) for o in tables])
    try:
        if _infeasible(part, grid, listed) is None:
            return
    except TooCostlyError:
        return
    part = _needed(part, lambda some: _infeasible(some, grid, listed) is not None)
    found = _infeasible(part, grid, listed)
    assert found is not None
    raise InfeasibleError(refusal(part, *found))


def _infeasible(part: Problem, grid: int | None, listed: int) -> tuple[Genes, Values] | None:
    """The network that breaks limits on sums and maxima least, genes (choices,) and values; None: one may keep them.

    Raises:
        InfeasibleError: the device can run no network.
    """
    space = part.space
    some = np.concatenate([[space.smallest.genes, space.biggest.genes], space.sample(1000, np.random.default_rng(0))])
    if not part.violations(part.evaluate(some)).all():
        return None
    if _rows(space) <= listed:
        genes, open_still = _everything(space), False
    else:
        limited = [o for o in part.objectives if o.limit is not None] or part.objectives[:1]
        costs = [_Cost.of(o) for o in limited]
        costs = [replace(c, ceiling=np.inf, enough=c.ceiling if np.isfinite(c.ceiling) else -np.inf) for c in costs]
        found = _eliminate(space, costs, _usable(part), grid)
        genes = space.canonical(found.genes)
        open_still = bool((found.costs - found.error <= [_loose(c.enough) for c in costs]).all(1).any())
    values = part.evaluate(genes)
    violations = part.violations(values)
    if not len(genes) or np.isinf(violations.min()):
        tables = {o.name: table_of(o.predictor) for o in part.objectives}
        lacking = " or ".join(name for name, table in tables.items() if table and not np.isfinite(table.values).all())
        raise InfeasibleError(
            f"The device can run none of the {space.size:,} networks: each has a layer whose {lacking} could not "
            "be taken. Choose another device or another space."
        )
    nearest = int(violations.argmin())
    return (genes[nearest], values[nearest]) if violations[nearest] > 0 and not open_still else None


def _needed(problem: Problem, infeasible: Callable[[Problem], bool]) -> Problem:
    """The same problem with no more limits than make it infeasible: one that does so alone, else a minimal set."""

    def only(kept: Sequence[int]) -> Problem:
        return Problem(problem.space, [o if i in kept else replace(o, limit=None) for i, o in enumerate(objectives)])

    objectives = problem.objectives
    kept = [i for i, o in enumerate(objectives) if o.limit is not None]
    if len(kept) > 1:
        kept = next(([i] for i in kept if infeasible(only([i]))), kept)
    for i in kept[:] if len(kept) > 1 else []:
        if infeasible(only(rest := [other for other in kept if other != i])):
            kept = rest
    return only(kept)


def check_fitted(problem: Problem, *, listed: int = LISTED) -> None:
    """Refuse limits that no network keeps together, where some are on predictors that are no sums over positions.

    A space that is small enough is listed, so that the answer is exact. Of a larger one the sums nearest to those
    predictors are looked at, bettered by their largest error: an estimate. What it leaves open passes.

    Raises:
        InfeasibleError: as `check_feasible`; the same for every searcher.
    """
    part = _limited(problem)
    if part is None or all(_is_additive(o) for o in part.objectives):
        return
    known = _nearest_broken(part, listed)
    if known is None:
        return
    relaxed = additive_problem(part, np.random.default_rng(0), also=known[0][None], listed=listed)

    def infeasible(some: Problem) -> bool:
        if _nearest_broken(some, listed) is None:
            return False
        pairs = zip(some.objectives, relaxed.problem.objectives, strict=True)
        sums = Problem(some.space, [fitted for given, fitted in pairs if given.limit is not None])
        return _rows(some.space) <= listed or _infeasible(sums, GRID, listed) is not None

    if not infeasible(part):
        return

    def told(some: Problem) -> bool:  # of limits refused together, one that the best network found breaks: alone
        return infeasible(some) or (len(limits_of(some.objectives)) == 1 and _nearest_broken(some, listed) is not None)

    part = _needed(part, told)
    known, part = _nearest_broken(part, listed), _limited(part) or part
    assert known is not None
    approximate = "" if relaxed.exact else " (Approximate: from an additive surrogate of the predictors.)"
    raise InfeasibleError(refusal(part, *known) + approximate)


def _nearest_broken(problem: Problem, listed: int) -> tuple[Genes, Values] | None:
    """`nearest`, where it breaks a limit; else None."""
    part, known = _limited(problem), nearest(problem, listed=listed)
    return None if part is None or known is None or part.violations(known[1][None])[0] == 0 else known


def nearest(problem: Problem, *, listed: int = LISTED) -> tuple[Genes, Values] | None:
    """The network that breaks the limits least, as far as is known without a search: genes (choices,) and its values.

    Of all networks where the space is listed; else of random ones and of the exact front of the sums nearest to all
    that is limited, fitted again there. None where nothing cheap is limited. ``values`` are of the objectives that are
    limited, not costly, in their order.
    """
    part, space, rng = _limited(problem), problem.space, np.random.default_rng(0)
    if part is None:
        return None
    if _rows(space) <= listed:
        genes = _everything(space)
    else:
        free = Problem(space, [replace(o, limit=None) for o in part.objectives])
        genes = np.concatenate([[space.smallest.genes, space.biggest.genes], space.sample(1000, rng)])
        for _ in range(2 if len(part.objectives) <= 3 else 0):  # with more goals a front takes minutes
            sums = additive_problem(free, rng, rows=1000, also=genes[-2000:]).problem
            try:
                found = exact_front(sums, grid=1000).genes
            except TooCostlyError:
                break
            genes = np.concatenate([genes, found, space.mutate(found, rng, 0.1)])
    values = part.evaluate(genes)
    best = int(part.violations(values).argmin())
    return genes[best], values[best]


def _limited(problem: Problem) -> Problem | None:
    """The limits of a problem that are cheap to look at, each with the goal to keep it."""
    limited = [o for o in problem.objectives if o.limit is not None and not o.costly]
    return Problem(problem.space, [replace(o, goal=True) for o in limited]) if limited else None


@dataclass(frozen=True)
class Relaxation:
    """A problem that `exact_front` takes, in place of one that it may not take.

    ``replaced``: the objectives that it stands for, with their own predictors. ``errors`` (goals,): the largest error
    of each fitted goal on architectures that were not fitted: an estimate of how far off it can be, not a bound; 0
    where nothing was fitted. ``exact``: nothing was fitted at all.
    """

    problem: Problem
    replaced: tuple[Objective, ...]
    errors: NDArray[np.float64]
    exact: bool


def additive_problem(
    problem: Problem,
    rng: np.random.Generator,
    *,
    rows: int = 2000,
    also: Genes | None = None,
    listed: int = LISTED,
) -> Relaxation:
    """Replace each predictor that `exact_front` does not take by the nearest sum over positions.

    Costly objectives are left out, and those with neither goal nor limit. A limit on a fitted sum is loosened by its
    largest error.

    Args:
        problem: with a goal that is not costly.
        rng: draws the architectures that sums are fitted to.
        rows: how many of them.
        also: further canonical rows (n, choices) to fit to.
        listed: as in `exact_front`.

    Raises:
        InvalidValueError: all goals are costly.
    """
    replaced = tuple(o for o in problem.objectives if not o.costly and (o.goal or o.limit is not None))
    if not any(objective.goal for objective in replaced):
        raise InvalidValueError("An exact front needs a goal that is cheap to evaluate, but all goals are costly.")
    objectives, errors, exact = [], [], True
    for objective in replaced:
        error = 0.0
        if not _is_additive(objective) and _rows(problem.space) > listed:
            model = additive(objective.predictor, problem.space, rng, rows=rows, also=also)
            exact, error = False, model.largest_error
            loosened = None if objective.limit is None else objective.limit.loosened(error)
            objective = replace(objective, predictor=model.table, limit=loosened)
        objectives.append(objective)
        if objective.goal:
            errors.append(error)
    return Relaxation(Problem(problem.space, objectives), replaced, np.array(errors), exact)


@dataclass(frozen=True)
class Gap:
    """Distance of a front from the best that a space can hold, in hypervolume.

    ``bound``: what no front can exceed. It is ``proven`` where nothing was fitted. Otherwise it is that of fitted sums,
    bettered by their largest error on architectures that were not fitted: an estimate, and often a wide one.
    """

    hypervolume: float
    bound: float
    proven: bool

    @property
    def share(self) -> float:
        """Share of the bound that is missing."""
        return 1 - self.hypervolume / self.bound if self.bound > 0 else 0.0


def gap(
    problem: Problem,
    values: Values,
    reference: Sequence[float] | Costs,
    rng: np.random.Generator,
    *,
    grid: int | None = 100_000,
    rows: int = 2000,
) -> Gap:
    """Distance of the networks that a search has found from the exact front of the whole space.

    Args:
        problem: without costly goals.
        values: of the networks, (n, objectives); those that break a limit count nothing.
        reference: costs that bound the hypervolume, (goals,).
        rng: draws the architectures that sums are fitted to, where predictors are none.
        grid: of `exact_front`.
        rows: of `additive_problem`.

    Raises:
        InvalidValueError: a goal is costly.
    """
    if any(objective.costly and objective.goal for objective in problem.objectives):
        raise InvalidValueError("The gap of a front needs goals that are cheap to evaluate.")
    relaxed = additive_problem(problem, rng, rows=rows)
    outer = exact_front(relaxed.problem, grid=grid).outer - relaxed.errors
    found = problem.costs(values[problem.violations(values) == 0])
    return Gap(pareto.hypervolume(found, reference), pareto.hypervolume(outer, reference), relaxed.exact)


def spread(costs: Costs, n: int) -> NDArray[np.intp]:
    """n rows of a front, evenly spread along it: its ends, then again and again the row farthest from those taken.

    Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985, on costs scaled to 0..1. Any first rows
    of the result are spread themselves.
    """
    low, high = costs.min(0), costs.max(0)
    scaled = (costs - low) / np.where(high > low, high - low, 1)
    ends = list(dict.fromkeys(int(i) for i in costs.argmin(0)))
    taken: list[int] = []
    distance = np.full(len(costs), np.inf)
    while len(taken) < min(n, len(costs)):
        row = ends.pop(0) if ends else int(distance.argmax())
        taken.append(row)
        distance = np.minimum(distance, ((scaled - scaled[row]) ** 2).sum(1))
        distance[row] = -1.0
    return np.array(taken, np.intp)


# -- problems as tables ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Cost:
    """An objective as tables of costs, to be minimised: its entries are added up, or their largest counts.

    ``values`` (table_size,), of positions; ``others``: tables over any choices. ``constant`` is added at the end;
    ``ceiling`` and ``enough`` are without it: costs above the one break a limit, and below the other are all the same.
    """

    values: Costs
    others: tuple[Table, ...]
    constant: float
    maximum: bool
    ceiling: float
    enough: float = -np.inf

    @staticmethod
    def of(objective: Objective) -> _Cost:
        """Raises InvalidValueError where it is no sum, or a maximum that is to be large."""
        table = table_of(objective.predictor)
        if table is None or not _is_additive(objective):
            raise InvalidValueError(
                f"The exact front needs sums over positions (or maxima to be kept small), but the {objective.name} "
                f"predictor is none. `additive_problem` replaces it by the nearest sum."
            )
        cost, bound = objective.metric.cost, objective.bound
        ceiling = np.inf if bound is None else cost(bound - table.constant)
        maximum = table.combine == "max"

        def costs(values: NDArray[np.float64]) -> Costs:
            finite = np.where(np.isfinite(values), cost(values), 0.0)  # others are not usable
            return np.maximum(finite, 0.0) if maximum else finite

        constant = cost(table.constant)
        if isinstance(table, PositionTable):
            return _Cost(costs(table.values), (), constant, maximum, ceiling)
        others = tuple((scope, costs(block)) for scope, block in table.factors)
        return _Cost(np.zeros(table.space.table_size), others, constant, maximum, ceiling)


def _is_additive(objective: Objective) -> bool:
    table = table_of(objective.predictor)
    return table is not None and (table.combine == "sum" or objective.metric.direction == "min")


@dataclass(frozen=True, eq=False)
class _Usable:
    """Entries that may be used: of positions a mask (table_size,), and 0 or inf of tables over any choices."""

    positions: NDArray[np.bool_]
    others: tuple[Table, ...] = ()

    def without(self, cost: _Cost) -> _Usable:
        """Entries whose costs keep the ceiling."""
        ceiling = _loose(cost.ceiling)
        others = tuple((scope, np.where(block <= ceiling, 0.0, np.inf)) for scope, block in cost.others)
        return _Usable(self.positions & (cost.values <= ceiling), (*self.others, *others))


def _usable(problem: Problem) -> _Usable:
    """Entries that the device can run, as far as tables know."""
    usable = _Usable(np.ones(problem.space.table_size, bool))
    for table in (table_of(objective.predictor) for objective in problem.objectives):
        if isinstance(table, PositionTable):
            usable = _Usable(usable.positions & np.isfinite(table.values), usable.others)
        elif table is not None and not np.isfinite(table.values).all():
            blocks = tuple((scope, np.where(np.isfinite(block), 0.0, np.inf)) for scope, block in table.factors)
            usable = _Usable(usable.positions, (*usable.others, *blocks))
    return usable


def _loose(ceiling: float) -> float:
    return ceiling + SLACK * abs(ceiling)


def _rows(space: SearchSpace) -> int:
    return math.prod(int(c) for c in space.cardinalities)


def _everything(space: SearchSpace) -> Genes:
    """All canonical rows."""
    grid = np.indices([int(c) for c in space.cardinalities], np.int16).reshape(len(space.choices), -1).T
    return np.unique(space.canonical(grid), axis=0)


def _feasible_front(problem: Problem, genes: Genes) -> tuple[NDArray[np.intp], Values]:
    """Rows of the feasible front, sorted by the last goal, and the values of all rows."""
    values = problem.evaluate_cheap(genes)
    feasible = np.flatnonzero(problem.violations(values) == 0)
    return feasible[pareto.front(problem.costs(values[feasible]))], values


def _unthinned(problem: Problem, genes: Genes, values: Values) -> ExactFront:
    costs = problem.costs(values)
    return ExactFront(genes, values, costs, np.zeros(costs.shape[1]))


# -- Pareto sets -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Set:
    """Rows of which none dominates another: ``costs`` (n, d), and the genes (n, choices) that are decided so far.

    For each network that the rows stand for there is one whose costs are at most its costs plus ``error`` (d,).
    """

    costs: Costs
    genes: Genes
    error: Costs

    def __len__(self) -> int:
        return len(self.costs)


@dataclass(frozen=True, eq=False)
class _Semiring:
    """Sums and unions of sets. ``maximum`` (d,): costs of which the largest counts. ``ceiling``, ``enough``: (d,)."""

    maximum: NDArray[np.bool_]
    ceiling: Costs
    enough: Costs
    grid: int | None

    @property
    def limited(self) -> bool:
        """True if bounds of the rest of a network are of use."""
        return bool(np.isfinite(self.ceiling).any() or np.isfinite(self.enough).any())

    @property
    def free(self) -> int:
        """The cost that a grid does not cut: one with a limit, which is then kept exactly, or the last."""
        limited = np.flatnonzero(np.isfinite(self.ceiling))
        return int(limited[0]) if len(limited) else len(self.ceiling) - 1

    def combine(self, a: Costs, b: Costs) -> Costs:
        """Costs (..., d) of two parts of a network."""
        if not self.maximum.any():
            return a + b
        return np.where(self.maximum, np.maximum(a, b), a + b)

    def pruned(self, costs: Costs, error: Costs, least_rest: Costs) -> NDArray[np.intp]:
        """Rows that are not dominated and that can still keep the limits, if the rest of a network costs the least."""
        kept = np.arange(len(costs))
        if np.isfinite(self.ceiling).any():
            kept = np.flatnonzero((self.combine(costs - error, least_rest) <= self.ceiling).all(1))
        if len(kept) < 2:
            return kept
        costs = costs[kept]
        if costs.shape[1] == 1:
            return kept[[int(costs.argmin())]]
        if costs.shape[1] == 2:
            order = np.lexsort(costs.T[::-1])  # by the first cost, of equal ones by the second
            second = costs[order, 1]
            best: NDArray[np.bool_] = np.ones(len(order), bool)
            best[1:] = second[1:] < np.minimum.accumulate(second)[:-1]
            return np.asarray(kept[order[best]])
        best = np.asarray(moocore.is_nondominated(np.ascontiguousarray(costs), keep_weakly=False), bool)
        return np.asarray(kept[best])

    def thinned(self, found: _Set) -> _Set:
        """Thin to about ``grid`` rows: the best of the free cost in each box of the others, and the ends."""
        if self.grid is None or len(found) <= self.grid + found.costs.shape[1] or found.costs.shape[1] == 1:
            return found
        cut = np.delete(found.costs, self.free, axis=1)
        bins = max(1, int(self.grid ** (1 / cut.shape[1])))
        low, high = cut.min(0), cut.max(0)
        boxes = np.minimum((cut - low) / np.where(high > low, high - low, 1) * bins, bins - 1).astype(np.int64)
        box = boxes @ bins ** np.arange(cut.shape[1])
        order = np.lexsort((found.costs[:, self.free], box))
        starts = np.flatnonzero(np.diff(box[order], prepend=-1))
        hidden = (cut[order[starts]] - np.minimum.reduceat(cut[order], starts)).max(0)
        kept = np.union1d(order[starts], found.costs.argmin(0))
        return _Set(found.costs[kept], found.genes[kept], found.error + np.insert(hidden, self.free, 0.0))

    def sum(self, a: _Set, b: _Set, least_rest: Costs) -> _Set:
        """All rows of the one with all rows of the other."""
        error = self.combine(a.error, b.error)
        if len(a) < len(b):
            a, b = b, a
        if not len(b):
            return b
        step = max(1, PAIRS // len(b))
        parts = []
        for start in range(0, len(a), step):
            costs = self.combine(a.costs[start : start + step, None], b.costs).reshape(-1, len(self.ceiling))
            kept = self.pruned(costs, error, least_rest)
            first, second = start + kept // len(b), kept % len(b)
            parts.append(_Set(costs[kept], a.genes[first] + b.genes[second], error))
        return parts[0] if len(parts) == 1 else self.union(parts, least_rest)

    def union(self, sets: Sequence[_Set], least_rest: Costs) -> _Set:
        """The best of all."""
        costs = np.concatenate([one.costs for one in sets])
        genes = np.concatenate([one.genes for one in sets])
        error = np.max([one.error for one in sets], axis=0)
        kept = self.pruned(costs, error, least_rest)
        if self.grid is None and len(kept) > LARGEST_SET:
            raise InvalidValueError(
                f"The exact front has parts of more than {LARGEST_SET:,} rows. Set `grid`, such as grid=100000."
            )
        return self.thinned(_Set(costs[kept], genes[kept], error))

    def sum_of_all(self, sets: Iterable[_Set], least_rest: Costs) -> _Set:
        """Sum of one set or more, small ones first."""
        first, *others = sorted(sets, key=len)
        least = [one.costs.min(0) - one.error for one in others if len(one)]
        if len(least) < len(others):
            return _Set(first.costs[:0], first.genes[:0], first.error)
        for i, other in enumerate(others):
            first = self.sum(first, other, self.total([least_rest, *least[i + 1 :]]))
        return first

    def total(self, costs: Iterable[Costs]) -> Costs:
        """Sum of any number of parts, (d,)."""
        return functools.reduce(self.combine, costs, np.zeros(len(self.ceiling)))

    def levelled(self, found: _Set, least_rest: Costs, most_rest: Costs) -> _Set:
        """Costs that keep their limit whatever the rest of the network costs are made equal: less is worth nothing."""
        if np.isneginf(self.enough).all():
            return found
        floor = np.where(self.maximum, self.enough, self.enough - most_rest)
        return self.union([replace(found, costs=np.maximum(found.costs, floor))], least_rest)


# -- elimination -------------------------------------------------------------------------------------------------------

Factor = tuple[Scope, dict[tuple[int, ...], _Set]]
"""A set for all values of some choices."""


def _eliminate(space: SearchSpace, costs: Sequence[_Cost], usable: _Usable, grid: int | None) -> _Set:
    """All rows of the whole space that may keep the ceilings and that no other dominates; without constants.

    Raises:
        TooCostlyError: too many choices meet.
    """
    semiring = _Semiring(
        maximum=np.array([cost.maximum for cost in costs]),
        ceiling=np.array([_loose(cost.ceiling) for cost in costs]),
        enough=np.array([cost.enough for cost in costs]),
        grid=grid,
    )
    dense = _dense_factors(space, semiring, costs, usable)
    shared = [
        _shared(scope, [other for g, (other, _) in enumerate(dense) if g != f]) for f, (scope, _) in enumerate(dense)
    ]
    steps = plan(space, shared, {column for scope in shared for column in scope})
    check_cost(space, steps, LARGEST_FRONT, "The exact front", "sums of sets of networks")
    factors = _private_eliminated(space, semiring, dense)
    for step in steps:
        factors = _eliminated(space, semiring, factors, step.column, step.scope)
    return semiring.sum_of_all([sets[()] for _, sets in factors], np.zeros(len(costs)))


def _shared(scope: Scope, others: Sequence[Scope]) -> Scope:
    """Choices of a scope that other scopes have too."""
    return tuple(column for column in scope if any(column in other for other in others))


def _dense_factors(
    space: SearchSpace, semiring: _Semiring, costs: Sequence[_Cost], usable: _Usable
) -> list[tuple[Scope, Costs]]:
    """Costs of each position for all values of its choices, (*cardinalities, d), inf where not usable; and of each
    conditional or fixed choice: nothing, but inf where it is not at its first value while it does not matter, or not at
    its fixed one while it does. Those that depend on choices of another one only are added to it."""
    fixed = {space.index[name]: value for name, value in space.fixed.items()}
    entries = np.where(usable.positions[:, None], np.stack([cost.values for cost in costs], axis=1), np.inf)
    factors = []
    for p, position in enumerate(space.positions):
        scope = tuple(space.index[name] for name in position.depends_on)
        block = entries[space.offsets[p] : space.offsets[p + 1]]
        factors.append((scope, block.reshape(*space.cardinalities[list(scope)], len(costs))))
    for i, cost in enumerate(costs):
        for scope, block in cost.others:
            own = np.zeros((*block.shape, len(costs)))
            own[..., i] = block
            factors.append((scope, own))
    for scope, block in usable.others:
        factors.append((scope, block[..., None].repeat(len(costs), -1)))
    for column, choice in enumerate(space.choices):
        if choice.active_when is None and column not in fixed:
            continue
        scope, above = (column,), choice
        while above.active_when is not None:
            scope = (space.index[above.active_when.choice], *scope)
            above = space.choices[scope[0]]
        genes, cards = _assignments(space, scope)
        active = space.active(genes)[:, column]
        wrong = ~active & (genes[:, column] > 0)
        if column in fixed:
            wrong |= active & (genes[:, column] != choice.values.index(fixed[column]))
        block = np.where(wrong, np.inf, 0.0)[:, None].repeat(len(costs), 1)
        factors.append((scope, block.reshape(*cards, len(costs))))
    kept: list[tuple[Scope, Costs]] = []
    for scope, block in sorted(factors, key=lambda factor: -len(factor[0])):
        for i, (other, total) in enumerate(kept):
            if set(scope) <= set(other):
                kept[i] = other, semiring.combine(total, aligned(space, (scope, block), other))
                break
        else:
            kept.append((scope, block))
    return kept


def _assignments(space: SearchSpace, scope: Scope) -> tuple[Genes, tuple[int, ...]]:
    """Rows of genes with all values of some columns, the last fastest, 0 elsewhere; and the columns' cardinalities."""
    cards = tuple(int(space.cardinalities[c]) for c in scope)
    genes = np.zeros((math.prod(cards), len(space.choices)), np.int16)
    genes[:, list(scope)] = np.array(list(np.ndindex(cards)), np.int16).reshape(len(genes), len(scope))
    return genes, cards


def _private_eliminated(
    space: SearchSpace, semiring: _Semiring, factors: Sequence[tuple[Scope, Costs]]
) -> list[Factor]:
    """Factors as sets, over the choices that they share with another one."""
    least = []
    for _, block in factors:
        finite = block[np.isfinite(block).all(-1)]
        least.append(finite.min(0) if len(finite) else np.full(block.shape[-1], np.inf))
    found = []
    for f, (scope, block) in enumerate(factors):
        shared = _shared(scope, [other for g, (other, _) in enumerate(factors) if g != f])
        private = tuple(c for c in scope if c not in shared)
        genes, _ = _assignments(space, private)
        _, cards = _assignments(space, shared)
        order = [scope.index(c) for c in (*shared, *private)]
        cells = block.transpose(*order, len(scope)).reshape(*cards, len(genes), -1)
        least_rest = semiring.total(least[:f] + least[f + 1 :])
        sets: dict[tuple[int, ...], _Set] = {}
        for cell in np.ndindex(cards):
            rows = np.flatnonzero(np.isfinite(cells[cell]).all(-1))
            one = _Set(cells[cell][rows], genes[rows], np.zeros(block.shape[-1]))
            sets[cell] = semiring.union([one], least_rest)
        found.append((shared, sets))
    return found


def _eliminated(
    space: SearchSpace,
    semiring: _Semiring,
    factors: Sequence[Factor],
    column: int,
    scope: Scope,
) -> list[Factor]:
    """One choice less: a factor over ``scope`` in place of those that depend on ``column`` or on just ``scope``."""
    # The latter are added now: what has been merged so far then meets small sets only, one after the other.
    merged: list[Factor] = []
    others: list[Factor] = []
    for factor in factors:
        (merged if column in factor[0] or set(factor[0]) == set(scope) else others).append(factor)
    bounds = [_bounds(space, factor, len(semiring.ceiling)) for factor in others] if semiring.limited else []
    d = len(semiring.ceiling)
    result: dict[tuple[int, ...], _Set] = {}
    for cell in np.ndindex(*(int(space.cardinalities[c]) for c in scope)):
        given: dict[int, int] = dict(zip(scope, cell, strict=True))
        # What the others add at least and at most, where the choices in common are those of the cell.
        where = [tuple(given.get(c, slice(None)) for c in own) for own, _ in others]
        least_rest = semiring.total(b[0][w].reshape(-1, d).min(0) for b, w in zip(bounds, where, strict=False))
        most_rest = semiring.total(b[1][w].reshape(-1, d).max(0) for b, w in zip(bounds, where, strict=False))
        parts = []
        for value in range(int(space.cardinalities[column])):
            given[column] = value
            part = semiring.sum_of_all([sets[tuple(given[c] for c in own)] for own, sets in merged], least_rest)
            genes = part.genes.copy()
            genes[:, column] = value
            parts.append(replace(part, genes=genes))
        result[cell] = semiring.levelled(semiring.union(parts, least_rest), least_rest, most_rest)
    return [*others, (scope, result)]


def _bounds(space: SearchSpace, factor: Factor, d: int) -> tuple[Costs, Costs]:
    """Least and most that a factor can add for all values of its choices, (*cardinalities, d); inf, 0 without a row."""
    scope, sets = factor
    cards = tuple(int(space.cardinalities[c]) for c in scope)
    least, most = np.full((*cards, d), np.inf), np.zeros((*cards, d))
    for cell, one in sets.items():
        if len(one):
            least[cell], most[cell] = one.costs.min(0) - one.error, one.costs.max(0)
    return least, most

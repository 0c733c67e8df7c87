"""NetAdapt: from the biggest network down, each time by the single reduction that costs the least accuracy.

Yang et al., "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications", ECCV 2018, arXiv:1804.03230,
algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas.core.problem import Problem, Values
from nas.core.searcher import State, no_networks
from nas.core.seen import row_keys
from nas.searchers._scalar import scaled_by_front, tchebycheff
from nas.searchers._variation import neighbours, screen
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError

STARTS = 1000
"""Random networks to find a start among, where the device cannot run the biggest one."""


@dataclass(frozen=True)
class NetAdapt:
    """Greedy shrinking; the networks on the way, and those that were weighed, give the front.

    The resource that shrinks is the first cheap objective that is to be minimised, else the first cheap one under an
    upper limit. Of all changes of one choice that save at least a step of it, the one with the best other goals is
    taken (several: by the largest distance from their best, equal weights). Where no change saves a step, those count
    that save the most. A walk ends where nothing is left to save, or, if no goal is to save, where all limits are kept.

    The paper makes one walk, whose steps shrink by a decay. Here steps are a share of the network's own resource, and
    the walk is repeated with half the step until that is below ``finest``; what is asked for then is random.
    The biggest network is the start; where the device cannot run it, that one of 1,000 random networks which uses the
    most.

    Args:
        step: least saving of a reduction, as a share, in the first walk.
        finest: walks with less than this are not begun.
        batch: networks to ask for at a time, in random order.
    """

    step: float = 0.25
    finest: float = 0.001
    batch: int = 50

    def __post_init__(self) -> None:
        if not 0 < self.finest <= self.step < 1 or self.batch < 1:
            raise InvalidValueError(f"NetAdapt needs 0 < finest <= step < 1 and batch >= 1, but got {self}.")

    def init(self, problem: Problem) -> State:
        """``genes``, ``values``: all that was told; ``start``, ``current``: where walks begin, and where this one is.

        ``queue``: reductions of ``current`` still to be asked for; ``step``: of this walk; 0 after the last one.

        Raises:
            InvalidValueError: what could shrink is costly to evaluate.
        """
        _resource(problem)
        known = no_networks(problem)
        nothing = known["genes"]
        return {
            **known,
            "start": nothing,
            "current": nothing,
            "queue": nothing,
            "step": np.array([self.step]),
        }

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        """Rows to evaluate; some more than once, where there are fewer than n."""
        if len(state["queue"]):
            rows = rng.permutation(state["queue"][:n])
        elif len(state["start"]):
            rows = problem.space.sample(n, rng)
        else:
            rows = problem.space.biggest.genes[None]
            if not np.isfinite(_used(problem, rows)[0]):
                drawn = problem.space.sample(STARTS, rng)
                rows = drawn[[_largest(problem, drawn)]]
        return np.resize(rows, (n, rows.shape[1]))

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        step = float(state["step"][0])
        if step == 0:
            return state
        told = np.concatenate([state["genes"], genes])
        told_values = np.concatenate([state["values"], values])
        keys = row_keys(told)
        start, current = state["start"], state["current"]
        queue = state["queue"][self.batch :]  # what was asked for and not told is known already, or failed
        queue = queue[~np.isin(row_keys(queue), keys)]
        asked = len(start) > 0  # for all reductions of `current` that the queue does not hold
        if not asked:
            start = current = genes[[_largest(problem, genes)]]
        while not len(queue) and step > 0:
            rows = _reductions(problem, current, step)
            unknown = ~np.isin(row_keys(rows), keys)
            if not asked and unknown.any():
                queue = rows[unknown]
            elif not unknown.all():
                weighed = np.flatnonzero(np.isin(keys, row_keys(rows)))
                current = told[weighed[[_best(problem, told_values[weighed])]]]
            else:
                current, step = start, step / 2 if step / 2 >= self.finest else 0.0
            asked = False
        return {
            "genes": told,
            "values": told_values,
            "start": start,
            "current": current,
            "queue": queue,
            "step": np.array([step]),
        }


def _resource(problem: Problem) -> int | None:
    """The objective that shrinks; None: nothing has to.

    Raises:
        InvalidValueError: what could shrink is costly to evaluate.
    """
    objectives = problem.objectives
    minimised = [i for i, o in enumerate(objectives) if o.direction == "min"]
    limited = [i for i, o in enumerate(objectives) if o.limit is not None and o.metric.direction == "min"]
    cheap = [i for i in minimised + limited if not objectives[i].costly]
    if (minimised or limited) and not cheap:
        costly = ", ".join(dict.fromkeys(objectives[i].name for i in minimised + limited))
        raise InvalidValueError(
            f"NetAdapt needs an objective to shrink whose evaluation is cheap, but {costly} is costly. Predict it, or "
            "choose another `searcher`."
        )
    return next(iter(cheap), None)


def _used(problem: Problem, genes: Genes) -> Values:
    """Cost of the resource, by rows (n, choices), shape (n,)."""
    column = _resource(problem)
    return np.zeros(len(genes)) if column is None else problem.objectives[column].predictor.predict(genes)


def _largest(problem: Problem, genes: Genes) -> int:
    """The row that uses most, among those that the device can run."""
    used = _used(problem, genes)
    return int(np.where(np.isfinite(used), used, -np.inf).argmax())


def _reductions(problem: Problem, current: Genes, step: float) -> Genes:
    """Changes of one choice of a row (1, choices) that save a share ``step`` of what it uses, or the most.

    No row, where nothing has to be saved any more.
    """
    column = _resource(problem)
    if column is None or (not problem.objectives[column].goal and screen(problem, current)[1][0] == 0):
        return current[:0]
    rows = neighbours(problem.space, current)
    before, after = _used(problem, current)[0], _used(problem, rows)
    threshold = max(before * (1 - step), after.min(initial=np.inf))
    chosen: Genes = rows[(after < before) & (after <= threshold)]
    return chosen


def _best(problem: Problem, values: Values) -> int:
    """Best of the reductions: the one with the best goals other than the resource; what the device cannot run comes
    last.

    Of equally good ones that which uses least.
    """
    costs, column = problem.costs(values), _resource(problem)
    used = np.zeros(len(values)) if column is None else values[:, column]
    goals = [i for i, objective in enumerate(problem.objectives) if objective.goal]
    if column in goals and len(goals) > 1:
        costs = np.delete(costs, goals.index(column), axis=1)
    broken = np.isinf(problem.violations(values)).astype(np.float64)
    value = tchebycheff(scaled_by_front(costs, broken), np.ones(costs.shape[1]))
    return int(np.lexsort((used, value, broken))[0])

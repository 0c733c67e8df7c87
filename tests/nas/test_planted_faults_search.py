"""Each contract of a searcher catches the fault that it is for."""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from nas.core import problem as problem_module
from nas.core import search_loop as search_module
from nas.core.problem import Problem, Values
from nas.core.searcher import State
from nas.core.searcher_contract import check_searcher
from nas.searchers.nsga2 import NSGA2
from search_spaces import Genes


@dataclass(frozen=True)
class Sound(NSGA2):
    """What every faulty searcher below is but for its fault."""

    population: int = 20


class GlobalRng(Sound):
    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        seed = np.random.randint(2**31)  # noqa: NPY002
        return super().ask(problem, state, n, np.random.default_rng(seed))


class GlobalRngTouched(Sound):
    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        random.random()
        return super().tell(problem, state, genes, values)


class OwnRng(Sound):
    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        return super().ask(problem, state, n, np.random.default_rng())


class FixedSeed(Sound):
    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        return super().ask(problem, state, n, np.random.default_rng(0))


class DeadGenes(Sound):
    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        super().ask(problem, state, n, rng)
        return rng.integers(0, problem.space.cardinalities, (n, len(problem.space.choices)), np.int16)


class OutOfRange(Sound):
    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        return super().ask(problem, state, n, rng) + np.int16(1)


class Wide(Sound):
    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        return super().ask(problem, state, n, rng).astype(np.int64)  # type: ignore[return-value]


class AlwaysABatch(Sound):
    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        return super().ask(problem, state, self.batch, rng)


class StateOfObjects(Sound):
    def init(self, problem: Problem) -> State:
        return {**super().init(problem), "extra": np.array([None], object)}


class HiddenState(Sound):
    """Keeps the population in the searcher, not in the state."""

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        following = super().tell(problem, self.__dict__.get("kept", state), genes, values)
        self.__dict__["kept"] = following
        return following


class CachedByProblem(Sound):
    """Interleaving goes wrong, a search alone does not: what is kept is forgotten on `init`."""

    def init(self, problem: Problem) -> State:
        self.__dict__["rounds"] = 0
        return super().init(problem)

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        self.__dict__["rounds"] += len(state["genes"]) > 0 and n == self.batch
        rows = super().ask(problem, state, n, rng)
        return np.roll(rows, self.__dict__["rounds"], axis=0)


class StateChanged(Sound):
    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        following = super().tell(problem, state, genes, values)
        state["genes"][:] = 0
        return following


class StateChangedOnAsking(Sound):
    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        rows = super().ask(problem, state, n, rng)
        state["values"][::2] *= 2
        return rows


class GenesChanged(Sound):
    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        following = super().tell(problem, state, genes, values)
        genes[:, 0] += 1
        return following


class ValuesNegatedInPlace(Sound):
    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        following = super().tell(problem, state, genes, values)
        values *= -1
        return following


class SharesMemory(Sound):
    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        return {**super().tell(problem, state, genes, values), "latest": genes}


class MaxTakenForMin(Sound):
    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        signs = [-1 if objective.direction == "max" else 1 for objective in problem.objectives]
        return super().tell(problem, state, genes, values * signs)


class MinTakenForMax(Sound):
    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        if problem.objectives[0].direction == "min":
            values = -values
        return super().tell(problem, state, genes, values)


def without_limits(problem: Problem) -> Problem:
    return Problem(problem.space, [o.limited(None) for o in problem.objectives])


class LimitsIgnored(Sound):
    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        return super().ask(without_limits(problem), state, n, rng)

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        return super().tell(without_limits(problem), state, genes, values)


class StaysInACorner(Sound):
    """Looks only at the largest images, where everything is slow."""

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        if len(problem.objectives) == 1 or not problem.objectives[1].goal:
            return super().ask(problem, state, n, rng)
        rows = problem.space.sample(n, rng)
        rows[:, 0] = problem.space.cardinalities[0] - 1
        return rows


@dataclass(frozen=True)
class SettingsNotShown(Sound):
    hidden: Any = field(default_factory=object)


class NoBatch(Sound):
    batch = 0  # type: ignore[assignment]


def test_the_sound_searcher_is_sound(rng: np.random.Generator) -> None:
    check_searcher(Sound(), rng)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (GlobalRng, "global random state"),
        (GlobalRngTouched, "global random state"),
        (OwnRng, "other rows for the same seed"),
        (FixedSeed, "same rows for another seed"),
        (DeadGenes, "not canonical"),
        (OutOfRange, "out of range"),
        (Wide, "gives int64"),
        (AlwaysABatch, "ask for 7 must give"),
        (StateOfObjects, "plain arrays"),
        (HiddenState, "for the same seed|went through a file|take turns"),
        (CachedByProblem, "take turns"),
        (StateChanged, "tell changes the state"),
        (StateChangedOnAsking, "ask changes the state"),
        (GenesChanged, "changes the genes or values"),
        (ValuesNegatedInPlace, "changes the genes or values"),
        (SharesMemory, "shares memory"),
        (MaxTakenForMin, "'max' for accuracy.*is max taken for min"),
        (MinTakenForMax, "'min' for latency.*is max taken for min"),
        (LimitsIgnored, "is the limit ignored"),
        (StaysInACorner, "random search reaches"),
        (SettingsNotShown, "repr must show the settings"),
        (NoBatch, "`batch` must be >= 1"),
    ],
)
def test_a_faulty_searcher_is_caught(rng: np.random.Generator, fault: type[Sound], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_searcher(fault(), rng)


# -- faults of the loop and of the problem, which the same contract sees -----------------------------------------------


def test_a_sign_that_is_not_flipped_is_caught(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    def costs(self: Problem, values: Values) -> Values:
        return np.stack([values[:, i] for i, o in enumerate(self.objectives) if o.goal], axis=1)

    monkeypatch.setattr(problem_module.Problem, "costs", costs)
    with pytest.raises(AssertionError, match=r"is max taken for min|the front has"):
        check_searcher(Sound(), rng)


def test_a_loop_that_forgets_limits_is_caught(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    def everything_feasible(problem: Problem, values: Values) -> Any:
        return search_module.pareto.front(problem.costs(values))

    monkeypatch.setattr(search_module, "_feasible_front", everything_feasible)
    with pytest.raises(AssertionError, match="breaks `limit`"):
        check_searcher(Sound(), rng)


def test_a_loop_that_keeps_duplicates_is_caught(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(search_module.Seen, "new", lambda seen, asked: asked)
    with pytest.raises(AssertionError, match="the front has"):
        check_searcher(Sound(), rng)

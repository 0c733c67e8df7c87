"""Multi-objective tree-structured Parzen estimator, Optuna's.

Ozaki et al., "Multiobjective Tree-Structured Parzen Estimator", JAIR 73, 2022; constraints as in Optuna's TPESampler.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas.problem import Problem, Values
from nas.searcher import State
from search_spaces.architecture import Genes
from search_spaces.errors import InvalidValueError


@dataclass(frozen=True)
class TPE:
    """Each round rebuilds the study from the state, so a resumed search is the same search.

    Args:
        batch: architectures per round.
        startup: random architectures before the first model.
        recent: the model sees the latest this many evaluations.
    """

    batch: int = 50
    startup: int = 100
    recent: int = 1000

    def __post_init__(self) -> None:
        if self.batch < 1 or self.startup < 1 or self.recent < self.startup:
            raise InvalidValueError(f"TPE needs batch >= 1, startup >= 1 and recent >= startup, but got {self}.")

    def init(self, problem: Problem) -> State:
        return {
            "genes": np.zeros((0, len(problem.space.choices)), np.int16),
            "values": np.zeros((0, len(problem.objectives))),
        }

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        if len(state["genes"]) < self.startup:
            return problem.space.sample(n, rng)
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space = problem.space
        distributions: dict[str, optuna.distributions.BaseDistribution] = {
            choice.name: optuna.distributions.CategoricalDistribution(range(len(choice.values)))
            for choice in space.choices
        }
        costs, violations = problem.costs(state["values"]), problem.violations(state["values"])
        sampler = optuna.samplers.TPESampler(seed=int(rng.integers(2**31)), n_startup_trials=0)
        study = optuna.create_study(directions=["minimize"] * costs.shape[1], sampler=sampler)
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params={c.name: int(g) for c, g in zip(space.choices, row, strict=True)},
                    distributions=distributions,
                    values=[float(v) for v in cost],
                    constraints={"limits": float(violation)},
                )
                for row, cost, violation in zip(state["genes"], costs, violations, strict=True)
                if np.isfinite(cost).all()
            ]
        )
        asked = [study.ask(distributions).params for _ in range(n)]
        return space.canonical(np.array([[p[c.name] for c in space.choices] for p in asked], np.int16))

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        return {
            "genes": np.concatenate([state["genes"], genes])[-self.recent :],
            "values": np.concatenate([state["values"], values])[-self.recent :],
        }

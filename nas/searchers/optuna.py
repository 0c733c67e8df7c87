"""Optuna's samplers as searchers: TPE, Gaussian processes, NSGA-II, NSGA-III; alone, or several processes on one study.

TPE: Ozaki et al., "Multiobjective Tree-Structured Parzen Estimator", JAIR 73, 2022; all choices in one joint model.
GP: log expected hypervolume improvement, Ament et al., "Unexpected Improvements to Expected Improvement", NeurIPS 2023,
and Daulton et al., "Differentiable Expected Hypervolume Improvement", NeurIPS 2020.
NSGA-II: Deb et al., IEEE Trans. Evol. Comput. 6(2), 2002. NSGA-III: Deb and Jain, ibid. 18(4), 2014.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from nas.core import pareto
from nas.core.problem import Problem, Values
from nas.core.searcher import State, no_networks
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError, MismatchError, NasError, StorageError
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("tpe", "gp", "nsga2", "nsga3")
LOCKED_SECONDS = 60.0
"""Seconds to wait while other processes write to the study."""
MOST_GOALS_OF_GP = 4
"""Number of goals beyond which its hypervolume is made of so many boxes that asking does not end."""
OPENING_TRIES = 5
"""Processes that make the tables of a new database at the same time disturb each other: then try again."""


@dataclass(frozen=True)
class OptunaSearcher:
    """Each round builds a study anew from plain arrays, so a resumed search is the same search.

    With `storage` the evaluations of several processes, on one machine or many, come together in one study, and each
    asks on the grounds of all of them. What is asked for then depends on when the others were done, so a resumed
    search goes on with all evaluations but not in the very same way.

    Args:
        sampler: tpe, gp, nsga2 or nsga3.
        batch: architectures per round.
        startup: random architectures before the first model; the population of nsga2 and nsga3.
        recent: the model sees this many evaluations: half of them the best, the others the latest.
        storage: where the shared study is: ``sqlite:///<file>``, ``postgresql://<user>@<host>/<database>`` (needs
            ``pip install psycopg2-binary``; give a password by ``~/.pgpass``), or the path of a file for Optuna's
            journal, which is the fastest and also works on a network drive. None: no other process takes part.
        study: name of the shared study; one problem each.
    """

    sampler: Literal["tpe", "gp", "nsga2", "nsga3"] = "tpe"
    batch: int = 50
    startup: int = 100
    recent: int = 200
    storage: str | None = None
    study: str = "hwnas"

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise InvalidValueError(f"`sampler` must be one of {', '.join(SAMPLERS)}, but got {self.sampler!r}.")
        if self.batch < 1 or self.startup < 2 or self.recent < self.startup:
            raise InvalidValueError(
                f"Optuna's samplers need batch >= 1, startup >= 2 and recent >= startup, but got batch={self.batch}, "
                f"startup={self.startup}, recent={self.recent}."
            )
        if not self.study or self.storage == "":
            raise InvalidValueError(
                "`study` and `storage` must not be empty; without `storage: null` nothing is shared."
            )

    def init(self, problem: Problem) -> State:
        goals = sum(objective.goal for objective in problem.objectives)
        if self.sampler == "gp" and goals > MOST_GOALS_OF_GP:
            raise InvalidValueError(
                f"Optuna's Gaussian process takes at most {MOST_GOALS_OF_GP} goals, but `search.objectives` names "
                f"{goals}. Make a goal a limit, or choose `searcher=tpe` or `searcher=nsga3`."
            )
        if self.storage is not None:
            with self._shared(problem):
                pass  # a storage that cannot be used is refused before the first evaluation
        return no_networks(problem)

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        drawn = problem.space.sample(n, rng)
        if self.storage is None:
            return self._propose(problem, _Known.of(problem, state["genes"], state["values"]), drawn, rng)
        with self._shared(problem) as study:
            known = _Known.read(problem, study)
        asked = self._propose(problem, known, drawn, rng)
        done = set(map(bytes, known.genes))
        fresh = [row for row in range(n) if bytes(asked[row]) not in done]  # others have evaluated the rest
        return asked[fresh] if fresh else asked

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        genes, values = np.concatenate([state["genes"], genes]), np.concatenate([state["values"], values])
        if self.storage is not None:
            with self._shared(problem) as study:
                done = set(map(bytes, _Known.read(problem, study).genes))
                new = [row for row in range(len(genes)) if bytes(genes[row]) not in done]
                study.add_trials(_Known.of(problem, genes[new], values[new]).trials(_distributions(problem.space)))
        kept = _Known.of(problem, genes, values).best_and_latest(self.recent)
        return {"genes": genes[kept], "values": values[kept]}

    def _propose(self, problem: Problem, known: _Known, drawn: Genes, rng: np.random.Generator) -> Genes:
        """Rows, as many as were ``drawn`` at random, from a model of what is known."""
        if len(known.genes) < self.startup:
            return drawn
        import optuna

        known = known.finite()
        known = known.rows(known.best_and_latest(self.recent))
        seed = int(rng.integers(2**31))
        with _quiet(), np.errstate(divide="ignore", invalid="ignore"):  # GPs of goals that are all equal
            sampler = _sampler(self.sampler, seed, self.startup, known.costs.shape[1])
            study = optuna.create_study(directions=["minimize"] * known.costs.shape[1], sampler=sampler)
            study.add_trials(known.broken().trials(_distributions(problem.space, ordered=self.sampler == "gp")))
            asked = [study.ask().relative_params for _ in range(len(drawn))]
        rows = [  # a choice that the sampler leaves out is one that it would draw at random: NSGA's mutations
            [params.get(choice.name, gene) for choice, gene in zip(problem.space.choices, row, strict=True)]
            for params, row in zip(asked, drawn, strict=True)
        ]
        return problem.space.canonical(np.array(rows, np.int16))

    @contextlib.contextmanager
    def _shared(self, problem: Problem) -> Iterator[optuna.Study]:
        """The study that is shared, which holds this problem and no other; closed again at the end."""
        assert self.storage is not None
        import optuna

        with _quiet(), contextlib.ExitStack() as stack:
            try:
                storage = _open(self.storage)
                if isinstance(storage, optuna.storages.RDBStorage):
                    stack.callback(storage.engine.dispose)
                    stack.callback(storage.remove_session)
                goals = sum(objective.goal for objective in problem.objectives)
                study = optuna.create_study(
                    study_name=self.study, storage=storage, directions=["minimize"] * goals, load_if_exists=True
                )
                self._check(problem, study)
                yield study
            except NasError:
                raise
            except Exception as error:  # each database and its driver raise their own kinds
                raise StorageError(
                    f"The shared study {self.study!r} in {_without_password(self.storage)} cannot be used: "
                    f"{str(error).splitlines()[0] if str(error) else type(error).__name__}. `storage` is "
                    "sqlite:///<file>, postgresql://<user>@<host>/<database>, or the path of a journal file."
                ) from error

    def _check(self, problem: Problem, study: optuna.Study) -> None:
        """Refuse a study of another problem; a new one is marked as this problem's."""
        wanted, found = _identity(problem), study.user_attrs.get("problem")
        if found is None and not study.get_trials(deepcopy=False):
            study.set_user_attr("problem", wanted)
            return
        if found is None:
            reason = "trials that no search of hwnas has put there"
        elif found["space"] != wanted["space"]:
            reason = f"networks of space {found['space'][0]!r}, but the space here is {wanted['space'][0]!r}"
            if found["space"][0] == wanted["space"][0]:
                reason += " with other settings"
        elif found["objectives"] != wanted["objectives"] or not _close(found["limits"], wanted["limits"]):
            reason = f"a search for {_described(found)}, but this one is for {_described(wanted)}"
        elif not _close(found["sample"], wanted["sample"]):
            reason = "values of other predictors, or of another device"
        else:
            return
        assert self.storage is not None
        raise MismatchError(
            f"The study {self.study!r} in {_without_password(self.storage)} holds {reason}. Give each problem a study "
            "of its own with `searcher.study=<name>`."
        )


# -- what is known -----------------------------------------------------------------------------------------------------

RUNS = "runs"
"""The limit that a network keeps whose every value is finite: the device can run it."""


@dataclass(frozen=True)
class _Known:
    """Evaluations: genes (n, choices), costs (n, goals), and by how much each limit is exceeded, relative to it.

    ``excess`` has shape (n, limits), is negative within a limit, and what is above 0 adds up to `Problem.violations`.
    """

    genes: Genes
    costs: Values
    excess: Values
    limits: tuple[str, ...]

    @staticmethod
    def of(problem: Problem, genes: Genes, values: Values) -> _Known:
        excess = [np.where(np.isinf(values).any(1), np.inf, -1.0)]
        for column, objective in zip(values.T, problem.objectives, strict=True):
            if objective.limit is not None:
                excess.append(objective.limit.excess(column))
        return _Known(genes, problem.costs(values), np.stack(excess, axis=1), _limits(problem))

    @staticmethod
    def read(problem: Problem, study: optuna.Study) -> _Known:
        """Content of a shared study, in order."""
        import optuna

        names, limits = [choice.name for choice in problem.space.choices], _limits(problem)
        trials = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
        genes = np.array([[t.params[name] for name in names] for t in trials], np.int16)
        costs = np.array([t.values for t in trials], np.float64)
        excess = np.array([[constraints[name] for name in limits] for t in trials if (constraints := t.constraints)])
        return _Known(
            genes.reshape(-1, len(names)),
            costs.reshape(-1, len(study.directions)),
            excess.reshape(-1, len(limits)),
            limits,
        )

    def trials(self, distributions: dict[str, optuna.distributions.BaseDistribution]) -> list[optuna.trial.FrozenTrial]:
        import optuna

        return [
            optuna.trial.create_trial(
                params=dict(zip(distributions, row, strict=True)),
                distributions=distributions,
                values=cost,
                constraints=dict(zip(self.limits, excess, strict=True)),
            )
            for row, cost, excess in zip(self.genes.tolist(), self.costs.tolist(), self.excess.tolist(), strict=True)
        ]

    def finite(self) -> _Known:
        """Values of what cannot run in terms that models take: as costly as the worst, and beyond a limit by more than
        any."""
        worst = np.where(np.isfinite(self.costs), self.costs, -np.inf).max(0)
        costs = np.where(np.isfinite(self.costs), self.costs, np.where(np.isfinite(worst), worst, 0.0))
        most = np.where(np.isfinite(self.excess), self.excess, 0.0).max(0)
        excess = np.where(np.isneginf(self.excess), -1.0, np.where(np.isposinf(self.excess), most + 1, self.excess))
        return _Known(self.genes, costs, excess, self.limits)

    def broken(self) -> _Known:
        """Remove the limits that all keep, of which there is nothing to learn."""
        columns = np.flatnonzero((self.excess > 0).any(0))
        return _Known(self.genes, self.costs, self.excess[:, columns], tuple(self.limits[i] for i in columns))

    def rows(self, rows: NDArray[np.intp]) -> _Known:
        return _Known(self.genes[rows], self.costs[rows], self.excess[rows], self.limits)

    def best_and_latest(self, most: int) -> NDArray[np.intp]:
        """Select at most so many rows, in order: half of them the best by limits and non-domination, the others the
        latest."""
        order = np.arange(len(self.genes))
        if len(order) <= most:
            return order
        finite = self.finite()
        violations = np.maximum(finite.excess, 0).sum(1)
        ranks = np.zeros(len(order), np.int64)
        ranks[violations == 0] = pareto.ranks(finite.costs[violations == 0])
        best = np.lexsort((-order, ranks, violations))[: most // 2]
        return np.union1d(best, np.setdiff1d(order, best)[len(best) - most :])


def _limits(problem: Problem) -> tuple[str, ...]:
    return (RUNS, *(objective.name for objective in problem.objectives if objective.limit is not None))


def _distributions(space: SearchSpace, *, ordered: bool = False) -> dict[str, optuna.distributions.BaseDistribution]:
    """The choices as categories, or, where ``ordered``, those of sizes as integers: then what lies between is akin."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    return {
        choice.name: IntDistribution(0, len(choice.values) - 1)
        if ordered and all(isinstance(value, int) for value in choice.values)
        else CategoricalDistribution(range(len(choice.values)))
        for choice in space.choices
    }


def _sampler(name: str, seed: int, population: int, goals: int) -> optuna.samplers.BaseSampler:
    import optuna
    from optuna.samplers import GPSampler, NSGAIIISampler, NSGAIISampler, TPESampler

    if name == "tpe":
        return TPESampler(seed=seed, n_startup_trials=0, multivariate=True)
    if name == "gp":
        return GPSampler(seed=seed, n_startup_trials=0)
    base: Any = NSGAIISampler if name == "nsga2" else NSGAIIISampler
    settings: dict[str, Any] = {"seed": seed, "population_size": population}
    if name == "nsga3" and goals > 1:  # about as many reference points as parents (Deb and Jain, section IV-A)
        settings["dividing_parameter"] = next(
            parts for parts in range(1, population + 1) if math.comb(parts + goals - 1, parts) >= population
        )

    class Sampler(base):  # type: ignore[misc]
        """Takes the parents from all trials of the study, in place of those of the last generation."""

        def get_trial_generation(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> int:
            return 1

        def get_population(self, study: optuna.Study, generation: int) -> list[optuna.trial.FrozenTrial]:
            return study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])

    return Sampler(**settings)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Optuna's log of each study and its warnings that NSGA-III is experimental."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


# -- shared studies ----------------------------------------------------------------------------------------------------


def _open(storage: str) -> optuna.storages.BaseStorage:
    """A database, or a journal file where there is no ``://``."""
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from sqlalchemy.exc import IntegrityError, OperationalError

    if "://" not in storage:
        return optuna.storages.JournalStorage(JournalFileBackend(storage))
    wait = {"connect_args": {"timeout": LOCKED_SECONDS}} if storage.startswith("sqlite") else {}
    for tried in range(1, OPENING_TRIES + 1):
        try:
            return optuna.storages.RDBStorage(storage, engine_kwargs=wait)
        except (OperationalError, IntegrityError):
            if tried == OPENING_TRIES:
                raise
            time.sleep(0.1 * 2**tried)
    raise AssertionError("unreachable")


class _Identity(TypedDict):
    """Identity of one study.

    ``space`` is its name and fingerprint, and an objective its name, unit, direction and whether its limit is a floor.
    ``sample`` are the values of a few networks. All are as JSON has them.
    """

    space: list[str]
    objectives: list[list[Any]]
    limits: list[float]
    sample: list[float]


def _identity(problem: Problem) -> _Identity:
    rows = problem.space.sample(4, np.random.default_rng(0))
    return _Identity(
        space=[problem.space.name, problem.space.fingerprint],
        objectives=[[o.name, o.metric.unit, o.direction, o.metric.direction == "max"] for o in problem.objectives],
        limits=[np.nan if o.bound is None else o.bound for o in problem.objectives],
        sample=problem.evaluate_cheap(rows).ravel().tolist(),
    )


def _close(first: list[float], second: list[float]) -> bool:
    """Equal but for the rounding of different machines."""
    return len(first) == len(second) and np.allclose(first, second, rtol=1e-4, atol=1e-12, equal_nan=True)


def _described(identity: _Identity) -> str:
    parts = []
    for (name, unit, goal, floor), limit in zip(identity["objectives"], identity["limits"], strict=True):
        bound = "" if np.isnan(limit) else f" {'>=' if floor else '<='} {limit:.6g} {unit}"
        parts.append(f"{goal or ''} {name}{bound}".strip())
    return ", ".join(parts)


def _without_password(storage: str) -> str:
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", storage)

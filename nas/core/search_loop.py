"""The one loop that runs every searcher: budget, duplicates, history, exact resume."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from nas.core import pareto
from nas.core.exact_front import check_feasible
from nas.core.problem import Problem, Values, identity_of, limits_of, values_text
from nas.core.searcher import Searcher, State, no_networks
from nas.core.seen import Seen
from search_spaces.architecture import Genes
from search_spaces.base.errors import DamagedFileError, InfeasibleError, InvalidValueError, MismatchError
from search_spaces.base.storage import checksum, fingerprint, read_arrays, write_arrays

REFERENCE_SAMPLES = 1000
FRUITLESS_ASKS = 5
FILL_SAMPLES = 4096
"""Random architectures to look for unseen ones in, where a searcher asks for none: enough to exhaust a small space."""
SAVE_EVERY_SECONDS = 2.0
DESCENT, KEPT = 30, 50
"""Rounds in which the network that is nearest to the limits is looked for, and how many are changed in each."""


Stopped = Literal["evaluations", "seconds", "stalled", "space", "searcher"]
"""Reason why a search ended: a budget, no progress, everything evaluated, or the searcher has nothing more to ask
for."""
WAYS_OUT: dict[Stopped, str] = {
    "evaluations": ", or search longer with `search.evaluations=`",
    "seconds": ", or search longer with `search.seconds=`",
    "stalled": ", or search longer with `search.patience=`",
    "space": "",
    "searcher": "; a longer search with this searcher finds no others",
}
"""Advice where no network keeps the limits."""


@dataclass(frozen=True)
class Budget:
    """Condition on which a search ends.

    Args:
        evaluations: at most as many distinct architectures.
        seconds: at most about as long, what a resumed search took before included: rounds get smaller towards the end,
            one that has begun is finished. None: as long as it takes.
        patience: end when as many evaluations in a row have not raised the hypervolume by ``least_gain`` of itself.
        least_gain: see ``patience``.
    """

    evaluations: int
    seconds: float | None = None
    patience: int | None = None
    least_gain: float = 1e-4

    def __post_init__(self) -> None:
        for name, value in (("evaluations", self.evaluations), ("patience", self.patience)):
            if value is not None and value < 1:
                raise InvalidValueError(f"`{name}` must be >= 1, but got {value}.")
        if self.seconds is not None and not self.seconds > 0:
            raise InvalidValueError(f"`seconds` must be > 0, but got {self.seconds}.")
        if not 0 <= self.least_gain < 1:
            raise InvalidValueError(f"`least_gain` must be in [0, 1), but got {self.least_gain}.")


@dataclass(frozen=True)
class SearchResult:
    """The feasible front, sorted by the last goal, and how it was reached.

    ``genes`` (n, choices), ``values`` (n, objectives) in natural units. ``history``: (evaluations, hypervolume) per
    round. ``reference``: the costs that bound the hypervolume. ``failed``: evaluations that gave nothing.
    """

    genes: Genes
    values: Values
    reference: Values
    history: list[tuple[int, float]]
    evaluations: int
    seconds: float
    failed: int = 0
    stopped: Stopped = "evaluations"

    @property
    def hypervolume(self) -> float:
        """Hypervolume of the front, in cost units."""
        return self.history[-1][1]


def reference_point(problem: Problem) -> Values:
    """Costs a little worse than the worst of a fixed random sample: the same for every searcher of the problem.

    An objective with a ``worst`` has that.

    Raises:
        InvalidValueError: a costly objective without one.
    """
    values = problem.evaluate_cheap(problem.space.sample(REFERENCE_SAMPLES, np.random.default_rng(0)))
    for objective in problem.objectives:
        if objective.goal and objective.costly and objective.worst is None:
            raise InvalidValueError(
                f"The {objective.predictor.metric} is costly to evaluate, so its `worst` must be given, which bounds "
                "the hypervolume."
            )
    costs = problem.costs(values)
    worst = np.where(np.isfinite(costs), costs, -np.inf).max(0)
    worst[np.isneginf(worst)] = 0.0  # no network of the sample can run: the search will say so
    reference = worst + 0.01 * np.abs(worst)
    goals = [o for o in problem.objectives if o.goal]
    for i, objective in enumerate(goals):
        if objective.worst is not None:
            reference[i] = objective.metric.cost(objective.worst)
    return np.asarray(reference)


def search(
    problem: Problem,
    searcher: Searcher,
    *,
    evaluations: int | None = None,
    seed: int,
    budget: Budget | None = None,
    start: Genes | None = None,
    checkpoint: Path | None = None,
    on_round: Callable[[int, float], None] = lambda evaluations, hypervolume: None,
) -> SearchResult:
    """Run a searcher until its budget is used, or the whole space is.

    Every round's generator comes from (seed, round), and the state is saved on the way, so a search that was killed and
    is started again ends with the same result as an unbroken one. Of a costly predictor that states no ``fingerprint``
    one evaluation is then made again, as nothing else tells whether it is still the same.

    Args:
        problem: what is searched for.
        searcher: asks and tells.
        evaluations: budget, in distinct architectures; short for ``budget=Budget(evaluations)``.
        seed: of all randomness.
        budget: when to end.
        start: architectures (n, choices) to evaluate first, such as the front of an earlier run or of another device.
        checkpoint: file for the state; a finished or broken search found there is continued.
        on_round: called with the evaluations so far and the hypervolume.

    Raises:
        InfeasibleError: a limit cannot be met, or no network that meets all of them was found.
        MismatchError: a costly predictor gives another value than it did before the search was stopped.
    """
    if (evaluations is None) == (budget is None):
        raise InvalidValueError("A search needs either `evaluations` or `budget`.")
    budget = budget or Budget(cast(int, evaluations))
    problem.check_feasible()
    check_feasible(problem)
    started = time.perf_counter()
    reference = reference_point(problem)
    identity = _identity(problem, searcher, budget, seed, start)
    run = _Searching.restore(checkpoint, identity)
    if run is None:
        run = _Searching.begin(problem, searcher)
    else:
        _check_costly(problem, run, cast(Path, checkpoint))
    most = min(budget.evaluations, problem.space.size)
    earlier, pace = run.seconds, 0.0
    last_saved = time.perf_counter()
    while (stopped := _stopped(run, problem, budget, most)) is None:
        rng = np.random.default_rng([seed, run.rounds])
        batch = searcher.batch
        if budget.seconds is not None and pace > 0:  # so that the last round is over in time
            batch = max(1, min(batch, int((budget.seconds - run.seconds) / pace)))
        wanted, before = min(batch, most - run.evaluations), run.seconds
        if start is not None and run.rounds == 0:
            asked = problem.space.canonical(problem.space.validate(start))
            wanted = most
        else:
            asked = searcher.ask(problem, run.state, batch, rng)
            run.done = not len(asked)
        if not len(new := run.seen.new(asked)[:wanted]) and not run.done:
            new = run.seen.new(problem.space.sample(FILL_SAMPLES, rng))[:wanted]
        run.rounds += 1
        run.fruitless = 0 if len(new) else run.fruitless + 1
        if len(new):
            run.add(problem, searcher, new, problem.evaluate(new))
        volume = pareto.hypervolume(problem.costs(run.front_values), reference)
        run.history.append((run.evaluations, volume))
        on_round(run.evaluations, volume)
        run.seconds = earlier + time.perf_counter() - started
        pace = (run.seconds - before) / max(1, len(new))
        if checkpoint is not None and time.perf_counter() - last_saved > SAVE_EVERY_SECONDS:
            run.save(checkpoint, identity)
            last_saved = time.perf_counter()
    if checkpoint is not None:
        run.save(checkpoint, identity)
    if not len(run.front):
        raise InfeasibleError(_closest(problem, run, stopped))
    return SearchResult(
        run.front, run.front_values, reference, run.history, run.evaluations, run.seconds, run.failed, stopped
    )


def _stopped(run: _Searching, problem: Problem, budget: Budget, most: int) -> Stopped | None:
    """Reason to end now, if there is one."""
    if run.done:
        return "searcher"
    if run.evaluations >= most:
        return "space" if most == problem.space.size else "evaluations"
    if run.fruitless >= FRUITLESS_ASKS:
        return "space"
    if budget.seconds is not None and run.seconds >= budget.seconds:
        return "seconds"
    if budget.patience is not None and len(run.front) and run.history:
        now, volume = run.history[-1]
        before = [v for n, v in run.history if n <= now - budget.patience]
        if before and volume - before[-1] <= budget.least_gain * abs(volume):
            return "stalled"
    return None


@dataclass
class _Searching:
    """All that a search has done. ``front``: the best feasible networks so far, kept up to date round by round."""

    state: State
    parts: list[tuple[Genes, Values]]
    front: Genes
    front_values: Values
    seen: Seen = field(default_factory=Seen)
    evaluations: int = 0
    failed: int = 0
    rounds: int = 0
    fruitless: int = 0
    done: bool = False
    seconds: float = 0.0
    history: list[tuple[int, float]] = field(default_factory=list)

    @staticmethod
    def begin(problem: Problem, searcher: Searcher) -> _Searching:
        """State before the first evaluation."""
        nothing = no_networks(problem)
        genes, values = nothing["genes"], nothing["values"]
        return _Searching(searcher.init(problem), [(genes, values)], genes, values)

    def add(self, problem: Problem, searcher: Searcher, genes: Genes, values: Values) -> None:
        """Take a round's evaluations; the searcher is told those that did not fail."""
        self.seen.add(genes)
        self.evaluations += len(genes)
        self.parts.append((genes, values))
        worked = ~np.isnan(values).any(1)
        self.failed += int((~worked).sum())
        if not worked.any():
            return
        self.state = searcher.tell(problem, self.state, genes[worked], values[worked])
        pool = np.concatenate([self.front, genes[worked]])
        pool_values = np.concatenate([self.front_values, values[worked]])
        kept = _feasible_front(problem, pool_values)
        self.front, self.front_values = pool[kept], pool_values[kept]

    def all(self) -> tuple[Genes, Values]:
        """All evaluations, in order."""
        if len(self.parts) > 1:
            genes, values = zip(*self.parts, strict=True)
            self.parts = [(np.concatenate(genes), np.concatenate(values))]
        return self.parts[0]

    def save(self, path: Path, identity: str) -> None:
        genes, values = self.all()
        numbers = {name: np.array(getattr(self, name)) for name in _NUMBERS}
        arrays = {
            **{f"state_{name}": np.asarray(array) for name, array in self.state.items()},
            **numbers,
            "identity": np.array(identity),
            "genes": genes,
            "values": values,
            "front": self.front,
            "front_values": self.front_values,
            "history": np.array(self.history, np.float64).reshape(-1, 2),
        }
        write_arrays(path, {**arrays, _CHECKSUM: np.array(checksum(arrays))})

    @staticmethod
    def restore(path: Path | None, identity: str) -> _Searching | None:
        if path is None or not path.exists():
            return None
        arrays = read_arrays(path)
        if str(arrays.get("identity")) != identity:
            return None
        if str(arrays.pop(_CHECKSUM, "")) != checksum(arrays):  # a state of other shapes would fail anywhere later
            raise DamagedFileError(f"{path} is damaged: its arrays are not those saved. Delete it to search anew.")
        run = _Searching(
            {name.removeprefix("state_"): array for name, array in arrays.items() if name.startswith("state_")},
            [(arrays["genes"], arrays["values"])],
            arrays["front"],
            arrays["front_values"],
            Seen(arrays["genes"]),
            history=[(int(evaluations), float(volume)) for evaluations, volume in arrays["history"]],
        )
        for name in _NUMBERS:
            setattr(run, name, arrays[name].item())
        return run


_CHECKSUM = "checksum"
_NUMBERS = ("evaluations", "failed", "rounds", "fruitless", "done", "seconds")


def _feasible_front(problem: Problem, values: Values) -> NDArray[np.intp]:
    feasible = np.flatnonzero(problem.violations(values) == 0)
    return feasible[pareto.front(problem.costs(values[feasible]))]


def _identity(problem: Problem, searcher: Searcher, budget: Budget, seed: int, start: Genes | None) -> str:
    """Fingerprint of all that determines the result: another problem never continues this one's checkpoint."""
    probe = problem.evaluate_cheap(problem.space.sample(64, np.random.default_rng(1)))
    objectives = [identity_of(objective) for objective in problem.objectives]
    settings = [problem.space.fixed, repr(searcher), repr(budget), seed, None if start is None else start.tolist()]
    return fingerprint([problem.space.fingerprint, objectives, np.nan_to_num(probe, nan=-1).tolist(), *settings])


def _check_costly(problem: Problem, run: _Searching, checkpoint: Path) -> None:
    """Refuse to go on where a costly predictor that only its class is known of has become another one."""
    genes, values = run.all()
    for column, objective in enumerate(problem.objectives):
        predictor, known = objective.predictor, np.flatnonzero(~np.isnan(values[:, column]))
        if not objective.costly or hasattr(predictor, "fingerprint") or hasattr(predictor, "to_arrays"):
            continue
        for row in known[:1]:
            before, now = values[row, column], predictor.predict(genes[row][None])[0]
            if not np.isclose(before, now, rtol=1e-6, atol=0, equal_nan=True):
                raise MismatchError(
                    f"{checkpoint} is of another {objective.name} predictor: this one gives {now:.6g} for a network "
                    f"that it has {before:.6g} for. Choose another folder with `out=`, or delete the file to search "
                    "anew. A predictor with a `fingerprint` of its settings is told apart by that."
                )


def _closest(problem: Problem, run: _Searching, stopped: Stopped) -> str:
    """Message that no network keeps all limits, which one comes nearest, and what to do about it."""
    genes, values = run.all()
    worked = ~np.isnan(values).any(1)
    genes, values = genes[worked], values[worked]
    if not len(values):
        return f"All {run.evaluations:,} evaluations failed. See the messages above for why."
    limits = ", ".join(limit.stated for limit in limits_of(problem.objectives))
    if not limits:
        names = " or ".join(
            o.name for o, column in zip(problem.objectives, values.T, strict=True) if np.isinf(column).all()
        )
        return (
            f"The device can run none of {len(values):,} networks: {names or 'one of their values'} is infinite for "
            "each. Choose another device, another space or another metric."
        )
    row = values[problem.violations(values).argmin()]
    if not problem.costly:  # the same for every searcher, unless one has come nearer
        nearest = _nearest(problem)
        row = min(nearest, row, key=lambda one: float(problem.violations(one[None])[0]))
    found = values_text(problem.objectives, row)
    there_is = problem.violations(row[None])[0] == 0
    whole = stopped == "space" and len(values) >= problem.space.size
    closest = f"there is one that has {found}" if there_is else f"the closest has {found}"
    return (
        f"No network that meets {limits} together was found in {len(values):,} evaluations"
        f"{', which are all networks of the space' if whole else ''}; {closest}. "
        f"{'Choose another `searcher`' if there_is else 'Loosen a limit'}{'' if whole else WAYS_OUT[stopped]}."
    )


def _nearest(problem: Problem) -> Values:
    """Values (objectives,) of a network that breaks the limits as little as could be found, always the same one: of
    random ones the best, again and again changed at random."""
    rng, space = np.random.default_rng(0), problem.space
    genes = np.concatenate([[space.smallest.genes, space.biggest.genes], space.sample(REFERENCE_SAMPLES, rng)])
    best = np.full(len(problem.objectives), np.nan)
    for _ in range(DESCENT):
        values = problem.evaluate_cheap(genes)
        violations = problem.violations(values)
        order = np.argsort(violations, kind="stable")[:KEPT]
        best = values[order[0]]
        if violations[order[0]] == 0:
            break
        kept = genes[order]
        changed = space.mutate(np.repeat(kept, REFERENCE_SAMPLES // KEPT, 0), rng, 1.5 / len(space.choices))
        genes = np.unique(np.concatenate([kept, changed]), axis=0)
    return best

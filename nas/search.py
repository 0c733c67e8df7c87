"""The one loop that runs every searcher: budget, duplicates, history, exact resume."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas import pareto
from nas.problem import Problem, Values
from nas.searcher import Searcher, State
from search_spaces.architecture import Genes
from search_spaces.errors import InfeasibleError, InvalidValueError
from search_spaces.storage import fingerprint, read_arrays, write_arrays

REFERENCE_SAMPLES = 1000
FRUITLESS_ASKS = 5
FILL_SAMPLES = 4096
"""Random architectures to look for unseen ones in, where a searcher asks for none: enough to exhaust a small space."""
SAVE_EVERY_SECONDS = 2.0


@dataclass(frozen=True)
class SearchResult:
    """The feasible front, sorted by the last goal, and how it was reached.

    ``genes`` (n, choices), ``values`` (n, objectives) in natural units. ``history``: (evaluations, hypervolume) per
    round. ``reference``: the costs that bound the hypervolume.
    """

    genes: Genes
    values: Values
    reference: Values
    history: list[tuple[int, float]]
    evaluations: int
    seconds: float

    @property
    def hypervolume(self) -> float:
        """Of the front, in cost units."""
        return self.history[-1][1]


def reference_point(problem: Problem) -> Values:
    """Costs a little worse than the worst of a fixed random sample: the same for every searcher of the problem."""
    values = problem.evaluate(problem.space.sample(REFERENCE_SAMPLES, np.random.default_rng(0)))
    costs = problem.costs(values)
    worst = np.where(np.isfinite(costs), costs, -np.inf).max(0)
    worst[np.isneginf(worst)] = 0.0  # no network of the sample can run: the search will say so
    return np.asarray(worst + 0.01 * np.abs(worst))


def search(
    problem: Problem,
    searcher: Searcher,
    *,
    evaluations: int,
    seed: int,
    checkpoint: Path | None = None,
    on_round: Callable[[int, float], None] = lambda evaluations, hypervolume: None,
) -> SearchResult:
    """Run a searcher until it has evaluated `evaluations` distinct architectures, or the whole space.

    Every round's generator comes from (seed, round), and the state is saved on the way, so a search that was killed and
    is started again ends with the same result as an unbroken one.

    Args:
        problem: what is searched for.
        searcher: asks and tells.
        evaluations: budget, in distinct architectures.
        seed: of all randomness.
        checkpoint: file for the state; a finished or broken search found there is continued.
        on_round: called with the evaluations so far and the hypervolume.

    Raises:
        InfeasibleError: a limit cannot be met, or no network that meets all of them was found.
    """
    if evaluations < 1:
        raise InvalidValueError(f"`evaluations` must be >= 1, but got {evaluations}.")
    problem.check_feasible()
    started = time.perf_counter()
    reference = reference_point(problem)
    identity = _identity(problem, searcher, evaluations, seed)
    run = _Run.restore(checkpoint, identity) or _Run(
        searcher.init(problem),
        np.zeros((0, len(problem.space.choices)), np.int16),
        np.zeros((0, len(problem.objectives))),
    )
    budget = min(evaluations, problem.space.size)
    earlier = run.seconds
    last_saved = time.perf_counter()
    while len(run.genes) < budget and run.fruitless < FRUITLESS_ASKS:
        rng = np.random.default_rng([seed, run.rounds])
        wanted = min(searcher.batch, budget - len(run.genes))
        asked = searcher.ask(problem, run.state, searcher.batch, rng)
        if not len(new := _unseen(asked, run.genes)[:wanted]):
            new = _unseen(problem.space.sample(FILL_SAMPLES, rng), run.genes)[:wanted]
        run.rounds += 1
        if len(new):
            values = problem.evaluate(new)
            run.state = searcher.tell(problem, run.state, new, values)
            run.genes = np.concatenate([run.genes, new])
            run.values = np.concatenate([run.values, values])
        kept = _feasible_front(problem, run.values)
        volume = pareto.hypervolume(problem.costs(run.values[kept]), reference)
        run.history.append((len(run.genes), volume))
        on_round(len(run.genes), volume)
        run.seconds = earlier + time.perf_counter() - started
        if checkpoint is not None and time.perf_counter() - last_saved > SAVE_EVERY_SECONDS:
            run.save(checkpoint, identity)
            last_saved = time.perf_counter()
    if checkpoint is not None:
        run.save(checkpoint, identity)
    kept = _feasible_front(problem, run.values)
    if not len(kept):
        raise InfeasibleError(_closest(problem, run.values))
    return SearchResult(run.genes[kept], run.values[kept], reference, run.history, len(run.genes), run.seconds)


@dataclass
class _Run:
    """All that a search has done."""

    state: State
    genes: Genes
    values: Values
    rounds: int = 0
    seconds: float = 0.0
    history: list[tuple[int, float]] = field(default_factory=list)

    @property
    def fruitless(self) -> int:
        """How many of the latest rounds found nothing new."""
        return sum(evaluations == len(self.genes) for evaluations, _ in self.history) - bool(len(self.genes))

    def save(self, path: Path, identity: str) -> None:
        arrays = {f"state_{name}": array for name, array in self.state.items()}
        write_arrays(
            path,
            {
                **arrays,
                "identity": np.array(identity),
                "genes": self.genes,
                "values": self.values,
                "rounds": np.array(self.rounds),
                "seconds": np.array(self.seconds),
                "history": np.array(self.history, np.float64).reshape(-1, 2),
            },
        )

    @staticmethod
    def restore(path: Path | None, identity: str) -> _Run | None:
        if path is None or not path.exists():
            return None
        arrays = read_arrays(path)
        if str(arrays.get("identity")) != identity:
            return None
        return _Run(
            {name.removeprefix("state_"): array for name, array in arrays.items() if name.startswith("state_")},
            arrays["genes"],
            arrays["values"],
            int(arrays["rounds"]),
            float(arrays["seconds"]),
            [(int(evaluations), float(volume)) for evaluations, volume in arrays["history"]],
        )


def _identity(problem: Problem, searcher: Searcher, evaluations: int, seed: int) -> str:
    """Fingerprint of all that determines the result: another problem never continues this one's checkpoint."""
    probe = problem.evaluate(problem.space.sample(64, np.random.default_rng(1)))
    limits = [(o.predictor.metric, o.goal, o.limit) for o in problem.objectives]
    return fingerprint([problem.space.fingerprint, repr(searcher), limits, evaluations, seed, probe.tolist()])


def _rows(genes: Genes) -> NDArray[np.void]:
    contiguous = np.ascontiguousarray(genes)
    return contiguous.view(np.dtype((np.void, contiguous.itemsize * contiguous.shape[1]))).ravel()


def _unseen(asked: Genes, seen: Genes) -> Genes:
    """Rows of `asked` not among `seen`, each once, in order."""
    _, first = np.unique(_rows(asked), return_index=True)
    distinct = asked[np.sort(first)]
    known: NDArray[np.bool_] = np.isin(_rows(distinct), _rows(seen))
    return distinct[~known]


def _feasible_front(problem: Problem, values: Values) -> NDArray[np.intp]:
    feasible = np.flatnonzero(problem.violations(values) == 0)
    return feasible[pareto.front(problem.costs(values[feasible]))]


def _closest(problem: Problem, values: Values) -> str:
    row = values[problem.violations(values).argmin()]
    limits = ", ".join(
        f"`{o.limit_name}`={o.limit / o.limit_scale:g}" for o in problem.objectives if o.limit is not None
    )
    if not limits:
        return f"The device can run none of {len(values):,} networks. Choose another device or another space."
    found = ", ".join(
        f"{o.predictor.metric} {v:.4g} {o.predictor.unit}" for o, v in zip(problem.objectives, row, strict=True)
    )
    return (
        f"No network that meets {limits} together was found in {len(values):,} evaluations; the closest has {found}. "
        "Loosen a limit, or search longer with `search.evaluations=`."
    )

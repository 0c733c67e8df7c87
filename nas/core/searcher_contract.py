"""The contract of a searcher, as checks that any plug-in can run.

    from nas.core.searcher_contract import check_searcher
    check_searcher(MySearcher(), np.random.default_rng(0))

A check raises `AssertionError` that says what was expected and what came instead.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.core.problem import Objective, Problem, Values
from nas.core.search_loop import SearchResult, search
from nas.core.searcher import Searcher, State
from predictors.position_table import PositionTable
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.fresh_process import in_fresh_process
from search_spaces.layers import Layer, MBConv
from search_spaces.mobilenet_v3 import MobileNetV3
from search_spaces.space import SearchSpace

ROUNDS = 6
"""Rounds of asking and telling in each check of one rule."""

LATE_ROWS = 64
"""Fewest rows that are compared with random ones: enough to see that a limit is ignored."""

DEVIATIONS = 4.0
"""Standard deviations by which what is asked for may be worse than random rows."""

TOLERANCE = 0.97
"""Share of random search's median hypervolume that must be reached."""


def check_searcher(
    searcher: Searcher, rng: np.random.Generator, *, evaluations: int = 1000, seeds: int = 5, ends: bool = False
) -> None:
    """Check everything that the search relies on, and that the searcher is no worse than random search.

    Args:
        searcher: with the settings to check; it is asked for batches of ``searcher.batch``.
        rng: draws the seeds.
        evaluations: budget of each search that is compared with random search.
        seeds: how many of them.
        ends: it asks for what it has worked out before, whatever the seed, and is done before the space is.

    Raises:
        AssertionError: the first rule that it breaks.
    """
    _expect(
        repr(copy.deepcopy(searcher)) == repr(searcher),
        f"repr must show the settings and nothing else (a frozen dataclass does): {searcher!r}.",
    )
    _expect(searcher.batch >= 1, f"`batch` must be >= 1, but is {searcher.batch}.")
    two, three = _problem(_space()), _problem(_space(), memory=True, holes=True)
    for problem in (two, three):
        _check_rows(searcher, problem, int(rng.integers(2**31)), ends)
        _check_randomness(searcher, problem, int(rng.integers(2**31)), ends)
        _check_state(searcher, problem, int(rng.integers(2**31)))
    _check_no_hidden_state(searcher, two, three, int(rng.integers(2**31)))
    _check_guidance(searcher, two, int(rng.integers(2**31)), ends)
    _check_small_space(searcher, int(rng.integers(2**31)), ends)
    _check_against_random(searcher, two, int(rng.integers(2**31)), evaluations, seeds)
    _check_fresh_process(searcher, int(rng.integers(2**31)))


# -- problems ----------------------------------------------------------------------------------------------------------


def _space(
    depths: tuple[int, ...] = (1, 2, 3), kernels: tuple[int, ...] = (3, 5, 7), expands: tuple[int, ...] = (2, 3, 4)
) -> SearchSpace:
    """2 million networks by default."""
    return MobileNetV3(
        name="contract",
        resolutions=[8, 12, 16],
        in_channels=1,
        classes=3,
        stem=8,
        stem_stride=1,
        stages=[
            {"channels": 16, "stride": 2, "squeeze": False, "activation": "relu"},
            {"channels": 24, "stride": 2, "squeeze": True, "activation": "relu"},
        ],
        depths=depths,
        kernels=kernels,
        expands=expands,
        last_channels=16,
        features=16,
    )


def _problem(space: SearchSpace, *, memory: bool = False, holes: bool = False) -> Problem:
    """Accuracy against latency, which pull apart but not along one line; under a latency limit.

    Args:
        space: of the networks.
        memory: with a limit on memory, which has no goal.
        holes: with layers that the device cannot run.
    """

    def use(layer: Layer) -> float:
        return float(np.log1p(layer.params) * (1.3 if isinstance(layer, MBConv) and layer.kernel == 5 else 1.0))

    def cost(layer: Layer) -> float:
        hole = holes and isinstance(layer, MBConv) and layer.kernel == 7 and layer.stride == 2
        return np.inf if hole else 1e-5 * layer.macs + 0.01

    accuracy = PositionTable.of_layers(space, "accuracy", "1", use)
    latency = PositionTable.of_layers(space, "latency", "ms", cost)
    work = PositionTable.of_layers(space, "macs", "1", lambda layer: 1e-5 * layer.macs + 0.01)
    least, most = work.predict(np.stack([space.smallest.genes, space.biggest.genes]))
    objectives = [Objective.of(accuracy, "max"), Objective.of(latency, "min", float(least + 0.2 * (most - least)))]
    if memory:
        peak = PositionTable.of_layers(space, "memory", "bytes", lambda layer: layer.peak_elements, combine="max")
        lowest, highest = peak.predict(np.stack([space.smallest.genes, space.biggest.genes]))
        objectives.append(Objective.of(peak, None, float((lowest + highest) / 2)))
    return Problem(space, objectives)


@dataclass(frozen=True)
class _Random:
    """Baseline of every searcher."""

    batch: int

    def init(self, problem: Problem) -> State:
        return {}

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        return problem.space.sample(n, rng)

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        return state


# -- one rule each -----------------------------------------------------------------------------------------------------


def _play(
    searcher: Searcher,
    problem: Problem,
    seed: int,
    rounds: int = ROUNDS,
    between: Callable[[State], State] = lambda state: state,
) -> list[Genes]:
    """All rows that a searcher asks for; `between` sees the state before each round."""
    state, asked = searcher.init(problem), []
    for r in range(rounds):
        state = between(state)
        asked.append(searcher.ask(problem, state, searcher.batch, np.random.default_rng([seed, r])))
        state = searcher.tell(problem, state, asked[-1], problem.evaluate(asked[-1]))
    return asked


def _check_rows(searcher: Searcher, problem: Problem, seed: int, ends: bool) -> None:
    space, state = problem.space, searcher.init(problem)
    for r in range(ROUNDS):
        for n in (7, searcher.batch):
            rows = searcher.ask(problem, state, n, np.random.default_rng([seed, r]))
            counted = len(rows) <= n and (len(rows) > 0 or (ends and r > 0))
            _expect(
                rows.dtype == np.int16 and rows.ndim == 2 and rows.shape[1] == len(space.choices) and counted,
                f"ask for {n} must give int16 of shape (1..{n}, {len(space.choices)}), but gives {rows.dtype} of shape "
                f"{rows.shape}.",
            )
            try:
                space.validate(rows)
            except InvalidValueError as error:
                raise AssertionError(f"ask gives a row that is out of range: {error}") from error
            _expect(
                np.array_equal(space.canonical(rows), rows),
                "ask gives rows that are not canonical; end with `space.canonical`.",
            )
        state = searcher.tell(problem, state, rows, problem.evaluate(rows))


def _check_randomness(searcher: Searcher, problem: Problem, seed: int, ends: bool) -> None:
    global_state = _global_state()
    rows = _play(searcher, problem, seed)
    _expect(
        global_state == _global_state(),
        "ask or tell draws from the global random state; they must draw from the given rng only.",
    )
    _expect(
        _same(rows, _play(searcher, problem, seed)),
        "ask gives other rows for the same seed; it must draw from the given rng only.",
    )
    if not ends:
        _expect(not _same(rows, _play(searcher, problem, seed + 1)), "ask gives the same rows for another seed.")


def _global_state() -> str:
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 - read, not drawn from
    return json.dumps([numpy_state, random.getstate()], default=np.ndarray.tolist)


def _check_state(searcher: Searcher, problem: Problem, seed: int) -> None:
    """Plain arrays: after a trip through a file the search goes on the same. And nothing given is changed."""

    def through_file(state: State) -> State:
        buffer = io.BytesIO()
        for name, array in state.items():
            _expect(
                isinstance(array, np.ndarray) and array.dtype != object,
                f"The state is plain arrays, but {name!r} is {type(array).__name__}.",
            )
        np.savez(buffer, allow_pickle=False, **state)
        with np.load(io.BytesIO(buffer.getvalue()), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}

    _expect(
        _same(_play(searcher, problem, seed), _play(searcher, problem, seed, between=through_file)),
        "A search whose state went through a file asks for other rows; all that counts must be in the state.",
    )
    state = searcher.init(problem)
    for r in range(ROUNDS):
        before = copy.deepcopy(state)
        genes = searcher.ask(problem, state, searcher.batch, np.random.default_rng([seed, r]))
        _expect(_equal_states(state, before), "ask changes the state that it is given.")
        values = problem.evaluate(genes)
        given = genes.copy(), values.copy()
        following = searcher.tell(problem, state, genes, values)
        _expect(_equal_states(state, before), "tell changes the state that it is given; it must return a new one.")
        _expect(
            np.array_equal(genes, given[0]) and np.array_equal(values, given[1]),
            "tell changes the genes or values that it is given.",
        )
        kept = copy.deepcopy(following)
        genes[:], values[:] = 0, 0.0
        _expect(_equal_states(following, kept), "The state shares memory with the genes or values of tell; copy them.")
        state = following


def _check_no_hidden_state(searcher: Searcher, first: Problem, second: Problem, seed: int) -> None:
    alone = [_play(copy.deepcopy(searcher), problem, seed) for problem in (first, second)]
    together: list[list[Genes]] = [[], []]
    states = [searcher.init(first), searcher.init(second)]
    for r in range(ROUNDS):
        for i, problem in enumerate((first, second)):
            genes = searcher.ask(problem, states[i], searcher.batch, np.random.default_rng([seed, r]))
            states[i] = searcher.tell(problem, states[i], genes, problem.evaluate(genes))
            together[i].append(genes)
    for apart, interleaved in zip(alone, together, strict=True):
        _expect(
            _same(apart, interleaved),
            "Two searches that take turns ask for other rows than each alone; nothing may be kept between calls but "
            "the state.",
        )


def _check_fresh_process(searcher: Searcher, seed: int) -> None:
    here = _found(searcher, seed)
    there = in_fresh_process(_found, searcher, seed, uses=[type(searcher).__module__])
    _expect(
        _same(here, there),
        "The same seed gives another front in another process; rows may depend on nothing but the state and the rng.",
    )


def _found(searcher: Searcher, seed: int) -> list[NDArray[Any]]:
    """The front of a short search, its genes and values."""
    found = search(_problem(_space()), searcher, evaluations=ROUNDS * searcher.batch, seed=seed)
    return [found.genes, found.values]


def _check_guidance(searcher: Searcher, problem: Problem, seed: int, ends: bool) -> None:
    """Compare rows after some rounds with random ones: on average no worse, and limits are kept no less often."""
    space = problem.space
    accuracy, latency = (objective.predictor for objective in problem.objectives)
    drawn = space.sample(4000, np.random.default_rng([seed, ROUNDS]))
    rounds = max(ROUNDS, -(-LATE_ROWS // searcher.batch))

    def late(problem: Problem) -> Values:
        asked = np.concatenate(_play(searcher, problem, seed, 2 * rounds)[0 if ends else rounds :])
        return problem.evaluate(asked)[:, 0 if len(problem.objectives) == 1 else 1]

    for objective, sign in ((Objective.of(accuracy, "max"), 1), (Objective.of(latency, "min"), -1)):
        random_values = objective.predictor.predict(drawn)
        values = late(Problem(space, [objective]))
        gain = sign * (values.mean() - random_values.mean()) * np.sqrt(len(values)) / random_values.std()
        _expect(
            gain > -DEVIATIONS,
            f"With the goal {objective.direction!r} for {objective.predictor.metric} it asks for networks with "
            f"{values.mean():.4g} on average, but random ones have {random_values.mean():.4g}: is max taken for min?",
        )
    limit = float(np.quantile(latency.predict(drawn), 0.3))
    share = float(
        (late(Problem(space, [Objective.of(accuracy, "max"), Objective.of(latency, None, limit)])) <= limit).mean()
    )
    rows = LATE_ROWS if ends else rounds * searcher.batch
    _expect(
        share > 0.3 - DEVIATIONS * np.sqrt(0.3 * 0.7 / rows),
        f"Of the networks asked for {share:.0%} keep a limit that 30% of random ones keep: is the limit ignored?",
    )


def _check_small_space(searcher: Searcher, seed: int, ends: bool) -> None:
    """Compare the front after a budget of the whole space with the true one, directions and limits included."""
    space = _space(depths=(1, 2), kernels=(3,), expands=(1, 2))  # 3 * (2 + 4)**2 = 108 networks
    grid = itertools.product(*(range(int(c)) for c in space.cardinalities))
    everything = np.unique(space.canonical(np.array(list(grid), np.int16)), axis=0)
    for problem in (_problem(space), _problem(space, memory=True)):
        values = problem.evaluate(everything)
        expected = _true_front(problem, values)
        found = search(problem, searcher, evaluations=space.size, seed=seed)
        _expect_feasible(problem, found)
        missing = len(set(expected) - set(map(tuple, found.values.tolist())))
        _expect(
            found.evaluations == space.size or (ends and found.stopped == "searcher"),
            f"Of a space of {space.size} networks only {found.evaluations} were evaluated within that budget.",
        )
        _expect(
            missing == 0 and len(found.values) == len(expected),
            f"With the whole space as its budget the search finds {len(found.values)} points, but the front has "
            f"{len(expected)}, of which it misses {missing}.",
        )


def _true_front(problem: Problem, values: Values) -> list[tuple[float, ...]]:
    """Distinct values that keep the limits and that no others beat; written a second time, without signs."""
    rows = [
        row
        for row in dict.fromkeys(map(tuple, values.tolist()))
        if all(
            o.bound is None or (row[i] >= o.bound if o.metric.direction == "max" else row[i] <= o.bound)
            for i, o in enumerate(problem.objectives)
        )
    ]
    goals = [(i, o.direction) for i, o in enumerate(problem.objectives) if o.goal]

    def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        no_worse = all(one[i] >= other[i] if goal == "max" else one[i] <= other[i] for i, goal in goals)
        return no_worse and any(one[i] != other[i] for i, _ in goals)

    front = [row for row in rows if not any(beats(other, row) for other in rows)]
    by_goals = {tuple(row[i] for i, _ in goals): row for row in reversed(front)}
    return list(by_goals.values())


def _expect_feasible(problem: Problem, found: SearchResult) -> None:
    for i, objective in enumerate(problem.objectives):
        if objective.limit is not None:
            column, bound = found.values[:, i], objective.limit.searched
            broken = column < bound if objective.metric.direction == "max" else column > bound
            _expect(not broken.any(), f"The front breaks {objective.limit.stated}: {column}.")


def _check_against_random(searcher: Searcher, problem: Problem, seed: int, evaluations: int, seeds: int) -> None:
    """Hypervolume at equal budget, median over seeds."""
    medians = []
    for one in (searcher, _Random(searcher.batch)):
        results = [search(problem, one, evaluations=evaluations, seed=seed + s) for s in range(seeds)]
        for result in results:
            _expect_feasible(problem, result)
        medians.append(float(np.median([result.hypervolume for result in results])))
    _expect(
        medians[0] >= TOLERANCE * medians[1],
        f"After {evaluations} evaluations its hypervolume is {medians[0]:.4g}, but random search reaches "
        f"{medians[1]:.4g} (medians of {seeds} seeds).",
    )


def _same(first: Sequence[NDArray[Any]], second: Sequence[NDArray[Any]]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def _equal_states(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and np.array_equal(first[name], second[name]) for name in first
    )


def _expect(condition: bool, message: str) -> None:
    if not condition:  # not `assert`: the checks also hold under python -O
        raise AssertionError(message)

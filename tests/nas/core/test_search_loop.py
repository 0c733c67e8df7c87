import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from nas.core import search_loop as module
from nas.core.evaluations import RecordedPredictor
from nas.core.exact_front import check_feasible
from nas.core.problem import Objective, Problem, Values
from nas.core.search_loop import Budget, SearchResult, reference_point, search
from nas.core.searcher import Searcher, State
from nas.searchers.nsga2 import NSGA2
from nas.searchers.random import RandomSearch
from nas.searchers.tpe import TPE
from predictors import PositionTable
from predictors.position_table import macs
from search_spaces import Genes, MobileNetV3
from search_spaces.base.errors import DamagedFileError, InfeasibleError, InvalidValueError, MismatchError
from search_spaces.base.storage import read_arrays, write_arrays

SEARCHERS = [NSGA2(population=20), RandomSearch(30), TPE(batch=10, startup=50)]


class Stopped(Exception):
    """A kill, as far as a test can do it in its own process."""


class Counting:
    """A predictor that remembers what it was asked for."""

    metric, unit = "latency", "ms"

    def __init__(self, table: PositionTable) -> None:
        self.table, self.asked = table, list[bytes]()

    def predict(self, genes: Genes) -> Values:
        self.asked += [row.tobytes() for row in genes]
        return self.table.predict(genes)


def equal(first: SearchResult, second: SearchResult) -> bool:
    """But for the time."""
    return (
        np.array_equal(first.genes, second.genes)
        and np.array_equal(first.values, second.values)
        and np.array_equal(first.reference, second.reference)
        and first.history == second.history
        and first.evaluations == second.evaluations
    )


def naive_front(problem: Problem, genes: Genes) -> set[tuple[float, float]]:
    """Distinct (accuracy, latency) of feasible networks that no feasible network beats."""
    values = problem.evaluate(genes)
    limits = [np.inf if o.bound is None else o.bound for o in problem.objectives]
    rows = {(float(v[0]), float(v[1])) for v in values if all(v[i] <= limits[i] for i in range(1, len(limits)))}
    return {(a, t) for a, t in rows if not any(a2 >= a and t2 <= t and (a2, t2) != (a, t) for a2, t2 in rows)}


# -- what is found -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("searcher", [NSGA2(population=20), RandomSearch(30)], ids=["nsga2", "random"])
def test_a_budget_beyond_the_space_finds_the_whole_front(
    small_problem: Problem, everything: Genes, searcher: Searcher
) -> None:
    found = search(small_problem, searcher, evaluations=10**6, seed=0)
    assert found.evaluations == small_problem.space.size
    assert set(map(tuple, found.values.tolist())) == naive_front(small_problem, everything)
    assert (np.diff(found.values[:, 1]) > 0).all() and (np.diff(found.values[:, 0]) > 0).all()
    assert np.array_equal(small_problem.evaluate(found.genes), found.values)


def test_limits_hold_and_the_front_under_them_is_whole(small_problem: Problem, everything: Genes) -> None:
    accuracy, latency = small_problem.objectives
    values = small_problem.evaluate(everything)
    limit = float(np.quantile(values[:, 1], 0.2))
    problem = Problem(small_problem.space, [accuracy, latency.limited(limit)])
    found = search(problem, NSGA2(population=20), evaluations=10**6, seed=0)
    assert (found.values[:, 1] <= limit).all()
    assert set(map(tuple, found.values.tolist())) == naive_front(problem, everything)


def test_a_floor_under_accuracy_holds(small_problem: Problem, everything: Genes) -> None:
    accuracy, latency = small_problem.objectives
    floor = float(np.median(small_problem.evaluate(everything)[:, 0]))
    problem = Problem(small_problem.space, [accuracy.limited(floor), latency])
    found = search(problem, NSGA2(population=20), evaluations=400, seed=0)
    assert len(found.values) and (found.values[:, 0] >= floor).all()


def test_networks_that_the_device_cannot_run_are_never_offered(small_problem: Problem, everything: Genes) -> None:
    space, (accuracy, latency) = small_problem.space, small_problem.objectives

    def value(layer: object) -> float:
        return np.inf if getattr(layer, "kernel", 0) == 5 else 0.01 + 1e-5 * layer.macs  # type: ignore[attr-defined]

    holes = PositionTable.of_layers(space, "latency", "ms", value)
    problem = Problem(space, [accuracy, dataclasses.replace(latency, predictor=holes)])
    assert np.isinf(problem.evaluate(everything)).any()
    for searcher in SEARCHERS:
        found = search(problem, searcher, evaluations=80, seed=0)
        assert len(found.values) and np.isfinite(found.values).all()
        assert np.isfinite([volume for _, volume in found.history]).all()


@pytest.mark.parametrize("searcher", SEARCHERS, ids=lambda s: type(s).__name__)
def test_the_budget_is_kept_and_nothing_is_evaluated_twice(small_problem: Problem, searcher: Searcher) -> None:
    accuracy, latency = small_problem.objectives
    assert isinstance(latency.predictor, PositionTable)
    counting = Counting(latency.predictor)
    problem = Problem(small_problem.space, [accuracy, Objective.of(counting, "min")])
    reference_point(problem)
    check_feasible(problem)
    module._identity(problem, searcher, Budget(137), 0, None)
    overhead, counting.asked = len(counting.asked), []
    found = search(problem, searcher, evaluations=137, seed=0)
    evaluated = counting.asked[overhead:]
    assert len(evaluated) == found.evaluations == 137
    assert len(set(evaluated)) == 137


def test_history_counts_up_and_its_hypervolume_never_falls(digits_problem: Problem) -> None:
    seen: list[tuple[int, float]] = []
    found = search(
        digits_problem, NSGA2(), evaluations=950, seed=0, on_round=lambda n, volume: seen.append((n, volume))
    )
    evaluations, volumes = zip(*found.history, strict=True)
    assert found.history == seen and found.hypervolume == volumes[-1] > 0
    assert (np.diff(evaluations) > 0).all() and evaluations[-1] == 950
    assert (np.diff(volumes) >= 0).all()


def test_the_reference_is_that_of_the_problem_not_of_the_searcher(digits_problem: Problem) -> None:
    found = [search(digits_problem, s, evaluations=60, seed=i) for i, s in enumerate(SEARCHERS)]
    for result in found:
        assert np.array_equal(result.reference, reference_point(digits_problem))
    costs = digits_problem.costs(digits_problem.evaluate(digits_problem.space.sample(1000, np.random.default_rng(0))))
    assert (reference_point(digits_problem) > costs.max(0)).all()


@pytest.mark.parametrize("searcher", SEARCHERS, ids=lambda s: type(s).__name__)
def test_same_seed_same_result_other_seed_other_result(digits_problem: Problem, searcher: Searcher) -> None:
    first, again, other = (search(digits_problem, searcher, evaluations=60, seed=s) for s in (0, 0, 1))
    assert equal(first, again) and not equal(first, other)


# -- what cannot be found ----------------------------------------------------------------------------------------------


def test_an_infeasible_limit_is_refused_before_searching_and_its_nearest_works(small_problem: Problem) -> None:
    accuracy, latency = small_problem.objectives
    assert isinstance(latency.predictor, PositionTable)
    least = latency.predictor.minimum()[1]

    def problem_with(limit: float) -> Problem:
        return Problem(small_problem.space, [accuracy, latency.limited(limit)])

    rounds: list[int] = []
    with pytest.raises(InfeasibleError) as caught:
        search(
            problem_with(0.9 * least), RandomSearch(), evaluations=100, seed=0, on_round=lambda n, v: rounds.append(n)
        )
    assert rounds == []
    nearest = float(str(caught.value).split("Set `limit` to ")[1].split(" or more")[0])
    found = search(problem_with(nearest), NSGA2(), evaluations=10**6, seed=0)
    assert len(found.values) >= 1 and (found.values[:, 1] <= nearest).all()


def test_limits_that_only_together_cannot_be_met(small_problem: Problem) -> None:
    accuracy, latency = small_problem.objectives
    space = small_problem.space
    # The fewer MACs the more of this: both limits alone can be met.
    against = PositionTable(space, "memory", "bytes", -latency.predictor.values, "sum", 1000.0)  # type: ignore[attr-defined]
    low, high = latency.predictor.minimum()[1], against.minimum()[1]  # type: ignore[attr-defined]
    problem = Problem(
        space,
        [
            accuracy,
            latency.limited(low * 1.01, "limit.latency_ms"),
            Objective.of(against, None, high + 1e-4, "limit.memory_bytes"),
        ],
    )
    problem.check_feasible()
    with pytest.raises(InfeasibleError) as caught:
        search(problem, NSGA2(population=20), evaluations=10**6, seed=0)
    message = str(caught.value)
    for word in ("`limit.latency_ms`=", "`limit.memory_bytes`=", "together by any of the 800 networks"):
        assert word in message


def test_nothing_runs_and_no_predictor_knows_it(small_problem: Problem) -> None:
    class Never:
        metric, unit = "latency", "ms"

        def predict(self, genes: Genes) -> Values:
            return np.full(len(genes), np.inf)

    problem = Problem(small_problem.space, [small_problem.objectives[0], Objective.of(Never(), "min")])
    for searcher in SEARCHERS:
        with pytest.raises(InfeasibleError, match="can run none of 60 networks: latency_ms is infinite"):
            search(problem, searcher, evaluations=60, seed=0)


@pytest.mark.parametrize("evaluations", [0, -1])
def test_no_budget(small_problem: Problem, evaluations: int) -> None:
    with pytest.raises(InvalidValueError, match=f"`evaluations` must be >= 1, but got {evaluations}"):
        search(small_problem, RandomSearch(), evaluations=evaluations, seed=0)


def test_a_budget_of_one(small_problem: Problem) -> None:
    found = search(small_problem, NSGA2(), evaluations=1, seed=0)
    assert found.evaluations == 1 and len(found.values) == 1


# -- stopping and going on ---------------------------------------------------------------------------------------------


def stop_after(rounds: int) -> Callable[[int, float], None]:
    left = rounds

    def on_round(evaluations: int, hypervolume: float) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stopped

    return on_round


@pytest.mark.parametrize("searcher", SEARCHERS, ids=lambda s: type(s).__name__)
def test_a_search_stopped_anywhere_goes_on_to_the_same_result(
    digits_problem: Problem, searcher: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY_SECONDS", -1.0)
    whole = search(digits_problem, searcher, evaluations=80, seed=3)
    rounds = len(whole.history)
    for stop in {0, 1, rounds // 2, rounds - 1}:
        path = tmp_path / f"{stop}.npz"
        with pytest.raises(Stopped):
            search(digits_problem, searcher, evaluations=80, seed=3, checkpoint=path, on_round=stop_after(stop))
        assert path.exists() == (stop > 0)
        done = search(digits_problem, searcher, evaluations=80, seed=3, checkpoint=path)
        assert equal(done, whole)


def test_stopped_again_and_again(digits_problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY_SECONDS", -1.0)
    searcher, path = NSGA2(population=10), tmp_path / "a.npz"
    whole = search(digits_problem, searcher, evaluations=100, seed=0)
    for _ in range(20):
        try:
            done = search(digits_problem, searcher, evaluations=100, seed=0, checkpoint=path, on_round=stop_after(1))
        except Stopped:
            continue
        break
    assert equal(done, whole)


def test_a_finished_search_is_not_searched_again(digits_problem: Problem, tmp_path: Path) -> None:
    path, rounds = tmp_path / "a.npz", list[int]()
    first = search(digits_problem, NSGA2(), evaluations=300, seed=0, checkpoint=path)
    again = search(
        digits_problem, NSGA2(), evaluations=300, seed=0, checkpoint=path, on_round=lambda n, v: rounds.append(n)
    )
    assert equal(first, again) and rounds == []
    assert again.seconds == first.seconds


def test_rounds_get_smaller_when_the_time_is_nearly_over(
    digits_problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracy, latency, _ = digits_problem.objectives
    clock = 0.0

    class OneSecondEach:
        metric, unit = "accuracy", "1"

        def predict(self, genes: Genes) -> Values:
            nonlocal clock
            clock += len(genes)
            return accuracy.predictor.predict(genes)

    monkeypatch.setattr(module.time, "perf_counter", lambda: clock)
    problem = Problem(digits_problem.space, [Objective.of(OneSecondEach(), "max", costly=True, worst=0.0), latency])
    found = search(problem, NSGA2(population=40), seed=0, budget=Budget(10_000, seconds=100))
    assert found.evaluations == found.seconds == 100 and found.stopped == "seconds"


@dataclass(frozen=True)
class Stubborn:
    """Asks for one network for ever."""

    batch: int = 5

    def init(self, problem: Problem) -> State:
        return {}

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        return np.repeat(problem.space.smallest.genes[None], n, 0)

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        return state


def test_a_stubborn_searcher_gets_random_networks(small_problem: Problem) -> None:
    found = search(small_problem, Stubborn(), evaluations=200, seed=0)
    assert found.evaluations == 200


def test_fruitless_asking_ends_and_ends_the_same_after_a_stop(
    small_problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY_SECONDS", -1.0)
    monkeypatch.setattr(module, "FILL_SAMPLES", 1)  # one random network at a time, so that most rounds find nothing
    whole = search(small_problem, Stubborn(1), evaluations=800, seed=0)
    counts = [n for n, _ in whole.history]
    assert whole.evaluations < 800 and counts[-module.FRUITLESS_ASKS - 1 :] == [counts[-1]] * 6
    for stop in (len(counts) - 1, len(counts) - 3, len(counts) // 2):
        path = tmp_path / f"{stop}.npz"
        with pytest.raises(Stopped):
            search(small_problem, Stubborn(1), evaluations=800, seed=0, checkpoint=path, on_round=stop_after(stop))
        for _ in range(2):  # the second time it finds a finished search
            assert equal(search(small_problem, Stubborn(1), evaluations=800, seed=0, checkpoint=path), whole)


@pytest.mark.parametrize("change", ["seed", "evaluations", "searcher", "limit", "predictor", "entry"])
def test_a_checkpoint_of_another_search_is_not_continued(digits_problem: Problem, tmp_path: Path, change: str) -> None:
    path = tmp_path / "a.npz"
    search(digits_problem, NSGA2(), evaluations=200, seed=0, checkpoint=path)
    problem, searcher, settings = digits_problem, NSGA2(), {"evaluations": 200, "seed": 0}
    accuracy, latency, memory = problem.objectives
    if change in settings:
        settings[change] += 1
    elif change == "searcher":
        searcher = NSGA2(crossover=0.8)
    elif change == "limit":
        problem = Problem(problem.space, [accuracy, latency.limited(18.0), memory])
    else:
        values = latency.predictor.values.copy()  # type: ignore[attr-defined]
        values[-1 if change == "entry" else slice(None)] *= 1.01
        table = dataclasses.replace(latency.predictor, values=values)  # type: ignore[type-var]
        problem = Problem(problem.space, [accuracy, dataclasses.replace(latency, predictor=table), memory])
    fresh = search(problem, searcher, **settings)
    rounds: list[int] = []
    assert equal(search(problem, searcher, **settings, checkpoint=path, on_round=lambda n, v: rounds.append(n)), fresh)
    assert rounds  # of a finished search there is nothing to do


def test_a_checkpoint_of_other_recorded_values_is_not_continued(small_problem: Problem, tmp_path: Path) -> None:
    """A costly objective is not probed: the conditions of its log tell it from another."""
    accuracy, latency = small_problem.objectives
    rounds: list[int] = []
    for supernet in ("first", "first", "second"):
        log = RecordedPredictor(small_problem.space, accuracy.predictor, tmp_path / supernet, {"supernet": supernet})
        costly = dataclasses.replace(accuracy, predictor=log, costly=True, worst=0.0)
        problem = Problem(small_problem.space, [costly, latency])
        rounds.append(0)

        def count(evaluations: int, volume: float) -> None:
            rounds[-1] += 1

        search(problem, NSGA2(), evaluations=200, seed=0, checkpoint=tmp_path / "a.npz", on_round=count)
    assert rounds[0] == rounds[2] > 0 == rounds[1]


def test_a_costly_predictor_that_has_become_another_is_refused(small_problem: Problem, tmp_path: Path) -> None:
    """Nothing but its values tells one without a fingerprint from another; one evaluation is made again."""
    table = small_problem.objectives[1].predictor
    assert isinstance(table, PositionTable)

    def searched(scale: float, evaluations: int) -> SearchResult:
        counting = Counting(dataclasses.replace(table, values=table.values * scale))
        latency = Objective.of(counting, "min", costly=True, worst=1e9)
        problem = Problem(small_problem.space, [small_problem.objectives[0], latency])
        found = search(problem, RandomSearch(30), evaluations=evaluations, seed=0, checkpoint=tmp_path / "a.npz")
        asked.append(len(counting.asked))
        return found

    asked = list[int]()
    first = searched(1.0, 60)
    assert equal(searched(1.0, 60), first) and asked == [60, 1]
    with pytest.raises(MismatchError, match=r"a\.npz is of another latency.* predictor: .*`fingerprint`"):
        searched(2.0, 60)


def test_a_damaged_checkpoint_is_told(digits_problem: Problem, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    search(digits_problem, NSGA2(), evaluations=100, seed=0, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DamagedFileError, match=r"a\.npz is damaged .*move it away"):
        search(digits_problem, NSGA2(), evaluations=100, seed=0, checkpoint=path)


def test_a_guided_search_beats_random_search(digits_space: MobileNetV3, digits_problem: Problem) -> None:
    volumes = {
        type(s).__name__: [search(digits_problem, s, evaluations=1500, seed=i).hypervolume for i in range(5)]
        for s in (NSGA2(), RandomSearch())
    }
    assert np.median(volumes["NSGA2"]) > np.median(volumes["RandomSearch"])


class Root:
    """The square root of a sum over positions: no sum itself, so that limits on it cannot be refused before."""

    metric, unit = "accuracy", "1"

    def __init__(self, table: PositionTable) -> None:
        self.hidden = table

    def predict(self, genes: Genes) -> Values:
        return np.asarray(np.sqrt(self.hidden.predict(genes)))


def limited(problem: Problem, accuracy: float, latency_ms: float) -> Problem:
    first, second, *_ = problem.objectives
    assert isinstance(first.predictor, PositionTable)
    floor = Objective.of(Root(first.predictor), "max", accuracy, "limit.accuracy")
    return Problem(problem.space, [floor, second.limited(latency_ms, "limit.latency_ms")])


def test_the_closest_network_is_the_same_for_every_searcher(small_problem: Problem, everything: Genes) -> None:
    """It breaks limits that cannot be kept together less than any other network of the space."""
    most = limited(small_problem, 0.1, 1.0).evaluate(everything).max(0)[0]
    fastest = float(small_problem.evaluate(everything)[:, 1].min())
    problem = limited(small_problem, float(most), 1.05 * fastest)
    values = problem.evaluate(everything)
    nearest = values[problem.violations(values).argmin()]
    said = []
    for searcher in (RandomSearch(), NSGA2(population=20)):
        for evaluations in (20, 60):
            with pytest.raises(InfeasibleError) as refused:
                search(problem, searcher, evaluations=evaluations, seed=evaluations)
            said.append(str(refused.value))
    expected = f"the closest has accuracy {nearest[0]:.4g}, latency {nearest[1]:.4g} ms"
    for message in said:
        assert "`limit.accuracy`=" in message and "`limit.latency_ms`=" in message
        assert f"{expected}. Loosen a limit, or search longer with `search.evaluations=`." in message
    with pytest.raises(InfeasibleError, match="are all networks of the space; the closest has .*Loosen a limit.$"):
        search(problem, RandomSearch(), evaluations=10_000, seed=0)


def test_a_network_that_a_search_missed_is_told(digits_problem: Problem) -> None:
    rows = digits_problem.space.sample(3000, np.random.default_rng(5))
    values = limited(digits_problem, 0.1, 1000.0).evaluate(rows)
    good = values[:, 1] <= np.quantile(values[:, 1], 0.01)
    problem = limited(digits_problem, float(values[good, 0].max()), float(values[good, 1].max()))
    with pytest.raises(InfeasibleError, match="there is one that has .* Choose another `searcher`, or search longer"):
        search(problem, RandomSearch(batch=2), evaluations=2, seed=0)


@pytest.mark.parametrize("change", ["genes", "values", "state", "deleted"])
def test_a_checkpoint_of_other_arrays_is_refused_by_name(small_space: MobileNetV3, tmp_path: Path, change: str) -> None:
    path = tmp_path / "search.npz"
    problem = Problem(small_space, [Objective.of(macs(small_space), "min")])
    search(problem, NSGA2(population=8), evaluations=16, seed=0, checkpoint=path)
    arrays = read_arrays(path)
    name = next(name for name in arrays if name.startswith("state_")) if change == "state" else change
    if change == "deleted":
        del arrays["front"]
    else:
        arrays[name] = arrays[name][:-1]
    write_arrays(path, arrays)
    with pytest.raises(DamagedFileError, match=r"search\.npz is damaged.* Delete it"):
        search(problem, NSGA2(population=8), evaluations=16, seed=0, checkpoint=path)

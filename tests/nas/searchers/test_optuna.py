import dataclasses
import multiprocessing
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import optuna
import pytest

from nas.core.problem import Objective, Problem
from nas.core.search_loop import search
from nas.core.searcher import State
from nas.searchers.optuna import SAMPLERS, OptunaSearcher, _distributions
from predictors import PositionTable
from search_spaces import Choice, Genes, MobileNetV3
from search_spaces.base.errors import InvalidValueError, MismatchError, NasError, StorageError

Sampler = Literal["tpe", "gp", "nsga2", "nsga3"]
FAST: list[Sampler] = ["tpe", "nsga2", "nsga3"]


def told(searcher: OptunaSearcher, problem: Problem, genes: Genes) -> State:
    return searcher.tell(problem, searcher.init(problem), genes, problem.evaluate(genes))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_it_starts_at_random(digits_problem: Problem, sampler: Sampler) -> None:
    searcher = OptunaSearcher(sampler, startup=10)
    rows = searcher.ask(digits_problem, searcher.init(digits_problem), 7, np.random.default_rng(1))
    assert np.array_equal(rows, digits_problem.space.sample(7, np.random.default_rng(1)))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("goal", "sign"), [("min", 1), ("max", -1)])
def test_the_model_moves_towards_the_goal(
    digits_problem: Problem, small_problem: Problem, rng: np.random.Generator, sampler: Sampler, goal: Any, sign: int
) -> None:
    whole, known, asked = (small_problem, 15, 2) if sampler == "gp" else (digits_problem, 80, 30)
    problem = Problem(whole.space, [Objective.of(whole.objectives[1].predictor, goal)])
    genes = problem.space.sample(known, rng)
    searcher = OptunaSearcher(sampler, startup=known // 2)
    rows = searcher.ask(problem, told(searcher, problem, genes), asked, rng)
    values = sign * problem.evaluate(genes)
    # The mean of random ones is off by their deviation over the root of their number: far less than what is gained.
    assert (sign * problem.evaluate(rows)).mean() < values.mean() - 0.7 * values.std()


@pytest.mark.parametrize("sampler", FAST)
def test_the_model_keeps_away_from_what_breaks_a_limit(
    digits_problem: Problem, rng: np.random.Generator, sampler: Sampler
) -> None:
    accuracy, latency, _ = digits_problem.objectives
    genes = digits_problem.space.sample(120, rng)
    limit = float(np.quantile(latency.predictor.predict(genes), 0.3))
    problem = Problem(digits_problem.space, [accuracy, Objective.of(latency.predictor, None, limit)])
    searcher = OptunaSearcher(sampler, startup=40)
    rows = searcher.ask(problem, told(searcher, problem, genes), 40, rng)
    assert (latency.predictor.predict(rows) <= limit).mean() > 0.5  # the more accurate, the slower: without it none


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_gaussian_processes_find_better_ones_within_a_limit(
    small_problem: Problem, everything: Genes, seed: int
) -> None:
    accuracy, latency = small_problem.objectives
    rng = np.random.default_rng(seed)
    genes = small_problem.space.sample(60, rng)
    genes = genes[accuracy.predictor.predict(genes).argsort()[:20]]  # the worst ones
    limit = float(np.quantile(latency.predictor.predict(genes), 0.5))
    problem = Problem(small_problem.space, [accuracy, Objective.of(latency.predictor, None, limit)])
    searcher = OptunaSearcher("gp", startup=10)
    state = told(searcher, problem, genes)
    for _ in range(3):
        rows = searcher.ask(problem, state, 3, rng)
        state = searcher.tell(problem, state, rows, problem.evaluate(rows))

    def within(values: Any) -> Any:
        return values[values[:, 1] <= limit, 0]

    found, possible = within(state["values"]).max(), within(problem.evaluate(everything))
    better = [int((possible > accuracy).sum()) for accuracy in (within(problem.evaluate(genes)).max(), found)]
    assert better[1] < 0.5 * better[0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_asking_is_a_function_of_state_and_seed(
    digits_problem: Problem, small_problem: Problem, sampler: Sampler
) -> None:
    accuracy, latency = small_problem.objectives
    limit = float(np.median(latency.predictor.predict(small_problem.space.sample(15, np.random.default_rng(0)))))
    limited = Problem(small_problem.space, [accuracy, latency.limited(limit)])
    problem, n = (limited, 1) if sampler == "gp" else (digits_problem, 10)
    searcher = OptunaSearcher(sampler, startup=10)
    state = told(searcher, problem, problem.space.sample(15, np.random.default_rng(0)))
    assert 0 < problem.violations(state["values"]).astype(bool).sum() < 15
    rows = [searcher.ask(problem, state, n, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(rows[0], rows[1])
    assert sampler == "gp" or not np.array_equal(rows[0], rows[2])  # of so few networks one is the best to ask for
    assert np.array_equal(problem.space.canonical(problem.space.validate(rows[0])), rows[0])


def test_one_joint_model_is_better_than_one_per_choice(digits_problem: Problem) -> None:
    problem = Problem(digits_problem.space, digits_problem.objectives[:2])
    volumes = [
        search(problem, OptunaSearcher(startup=40, batch=20), evaluations=200, seed=s).hypervolume for s in (0, 1)
    ]
    drawn = [
        search(problem, OptunaSearcher(startup=200, batch=20), evaluations=200, seed=s).hypervolume for s in (0, 1)
    ]
    assert min(volumes) > max(drawn)  # all of the latter's are random


def test_the_state_holds_the_best_and_the_latest(small_problem: Problem, everything: Genes) -> None:
    problem = Problem(small_problem.space, small_problem.objectives[1:])
    order = np.argsort(problem.evaluate(everything)[:, 0], kind="stable")
    best, others = everything[order[:10]], everything[order[100:200]]
    searcher = OptunaSearcher(startup=10, recent=20)
    state = searcher.init(problem)
    for part in (others[:25], best, others[25:50], others[50:]):
        state = searcher.tell(problem, state, part, problem.evaluate(part))
    assert np.array_equal(state["genes"], np.concatenate([best, others[-10:]]))
    assert np.array_equal(state["values"], problem.evaluate(state["genes"]))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_networks_that_cannot_run_are_no_obstacle(
    small_problem: Problem, rng: np.random.Generator, sampler: Sampler
) -> None:
    accuracy, latency = small_problem.objectives
    space = small_problem.space
    nothing = PositionTable.of_layers(space, "latency", "ms", lambda layer: np.inf)
    some = PositionTable.of_layers(space, "latency", "ms", lambda layer: np.inf if layer.macs > 50_000 else 1.0)
    searcher = OptunaSearcher(sampler, startup=10)
    genes = space.sample(20, rng)
    assert 0 < np.isinf(some.predict(genes)).sum() < 20
    for predictor in (nothing, some):
        for objective in (dataclasses.replace(latency, predictor=predictor), Objective.of(predictor, None, 50.0)):
            problem = Problem(space, [accuracy, objective])
            rows = searcher.ask(problem, told(searcher, problem, genes), 1, rng)
            assert np.array_equal(space.canonical(space.validate(rows)), rows) and len(rows) == 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_gaussian_processes_know_which_sizes_are_near(
    small_problem: Problem, rng: np.random.Generator, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    create = optuna.trial.create_trial
    monkeypatch.setattr(optuna.trial, "create_trial", lambda **a: given.append(a["distributions"]) or create(**a))
    searcher = OptunaSearcher(sampler, startup=10)
    searcher.ask(small_problem, told(searcher, small_problem, small_problem.space.sample(10, rng)), 1, rng)
    kinds = {type(distribution).__name__ for distribution in given[0].values()}
    assert len(given) == 10 and kinds == {"IntDistribution" if sampler == "gp" else "CategoricalDistribution"}
    names = SimpleNamespace(choices=[Choice("depth", (1, 2, 4)), Choice("operator", ("conv", "skip"))])
    size, operator = _distributions(names, ordered=True).values()  # type: ignore[arg-type]
    assert size == optuna.distributions.IntDistribution(0, 2)
    assert operator == optuna.distributions.CategoricalDistribution(range(2))


def test_optuna_stays_as_it_was(digits_problem: Problem, rng: np.random.Generator) -> None:
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        searcher = OptunaSearcher(startup=10)
        searcher.ask(digits_problem, told(searcher, digits_problem, digits_problem.space.sample(15, rng)), 2, rng)
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(optuna.logging.INFO)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "cmaes"}, "`sampler` must be one of tpe, gp, nsga2, nsga3, but got 'cmaes'"),
        ({"batch": 0}, "batch >= 1, startup >= 2 and recent >= startup, but got batch=0"),
        ({"startup": 1}, "but got batch=50, startup=1"),
        ({"startup": 20, "recent": 10}, "recent=10"),
        ({"study": ""}, "must not be empty"),
        ({"storage": ""}, "must not be empty"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        OptunaSearcher(**settings)


def test_more_goals_than_boxes_can_be_made_of_are_refused(small_problem: Problem) -> None:
    accuracy, latency = small_problem.objectives
    goals = [dataclasses.replace(latency, device=f"device{i}") for i in range(4)]
    for sampler, objectives in (("gp", [accuracy, *goals[:3]]), ("tpe", [accuracy, *goals])):
        OptunaSearcher(sampler).init(Problem(small_problem.space, objectives))
    with pytest.raises(InvalidValueError, match=r"at most 4 goals, but `search\.objectives` names 5.*`searcher=tpe`"):
        OptunaSearcher("gp").init(Problem(small_problem.space, [accuracy, *goals]))


# -- shared studies ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}" if request.param == "sqlite" else str(tmp_path / "study.log")


def trials(storage: str, study: str = "hwnas") -> list[optuna.trial.FrozenTrial]:
    backend: Any = storage
    if "://" not in storage:
        backend = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(storage))
    return optuna.load_study(study_name=study, storage=backend).trials


def genes_of(problem: Problem, found: list[optuna.trial.FrozenTrial]) -> set[tuple[int, ...]]:
    return {tuple(trial.params[c.name] for c in problem.space.choices) for trial in found}


def take_part(problem: Problem, storage: str, seed: int, results: Any) -> None:
    result = search(problem, OptunaSearcher(batch=5, startup=8, storage=storage), evaluations=15, seed=seed)
    results.put((seed, result.evaluations, result.genes))


def test_two_processes_share_a_study(small_problem: Problem, storage: str) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=take_part, args=(small_problem, storage, seed, results)) for seed in (0, 1)]
    for process in processes:
        process.start()  # both make the study
    found = {seed: (evaluations, front) for seed, evaluations, front in (results.get(timeout=120) for _ in processes)}
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    together = trials(storage)
    rows = genes_of(small_problem, together)
    assert found[0][0] == found[1][0] == 15
    assert 22 < len(rows) <= len(together) <= 30  # both may have drawn the same, at the same time or not
    for _, front in found.values():
        assert set(map(tuple, front.tolist())) <= rows
    one = together[17]
    genes = np.array([[one.params[c.name] for c in small_problem.space.choices]], np.int16)
    assert one.values == small_problem.costs(small_problem.evaluate(genes))[0].tolist()


def test_each_process_asks_on_the_grounds_of_all(
    digits_problem: Problem, rng: np.random.Generator, storage: str
) -> None:
    problem = Problem(digits_problem.space, [Objective.of(digits_problem.objectives[1].predictor, "min")])
    genes = np.unique(problem.space.sample(30, rng), axis=0)
    searcher = OptunaSearcher(startup=20, storage=storage)
    told(searcher, problem, genes)
    other = OptunaSearcher(startup=20, storage=storage)
    asked = other.ask(problem, other.init(problem), 10, np.random.default_rng(3))  # it has evaluated nothing itself
    values = problem.evaluate(genes)
    assert problem.evaluate(asked).mean() < values.mean() - 0.5 * values.std()
    alone = dataclasses.replace(other, storage=None)
    expected = alone.ask(problem, told(alone, problem, genes), 10, np.random.default_rng(3))  # had it evaluated all
    done = set(map(tuple, genes.tolist()))
    assert asked.tolist() == [row for row in expected.tolist() if tuple(row) not in done]


def test_what_others_have_evaluated_is_not_asked_for(tiny_space: MobileNetV3, storage: str) -> None:
    problem = Problem(tiny_space, [objective_of(tiny_space, "max")])
    everything = np.unique(tiny_space.sample(1000, np.random.default_rng(0)), axis=0)
    assert len(everything) == 28
    searcher = OptunaSearcher(startup=100, storage=storage)
    state = searcher.init(problem)
    told(searcher, problem, everything[::2])
    drawn = tiny_space.sample(20, np.random.default_rng(1))
    rows = searcher.ask(problem, state, 20, np.random.default_rng(1))
    done = set(map(tuple, everything[::2].tolist()))
    assert rows.tolist() == [row for row in drawn.tolist() if tuple(row) not in done] and 0 < len(rows) < 20
    told(searcher, problem, everything)
    assert len(searcher.ask(problem, state, 20, np.random.default_rng(1))) == 20  # none would mean that it is done


def test_a_search_that_was_killed_goes_on_with_its_study(small_problem: Problem, storage: str) -> None:
    searcher = OptunaSearcher(startup=12, storage=storage)
    rows = np.unique(small_problem.space.sample(30, np.random.default_rng(0)), axis=0)
    state = told(searcher, small_problem, rows[:10])
    searcher.tell(small_problem, state, rows[10:15], small_problem.evaluate(rows[10:15]))
    # Killed before its state was saved, it tells some evaluations again.
    state = searcher.tell(small_problem, state, rows[12:20], small_problem.evaluate(rows[12:20]))
    assert len(trials(storage)) == 20
    assert genes_of(small_problem, trials(storage)) == set(map(tuple, rows[:20].tolist()))
    fresh = dataclasses.replace(searcher, study="another")  # a study that was lost is filled again from the state
    fresh.tell(small_problem, state, rows[20:21], small_problem.evaluate(rows[20:21]))
    assert len(trials(storage, "another")) == len(state["genes"]) + 1


def test_limits_and_what_cannot_run_are_kept_in_the_study(
    digits_problem: Problem, rng: np.random.Generator, storage: str
) -> None:
    space = digits_problem.space
    some = PositionTable.of_layers(space, "latency", "ms", lambda layer: np.inf if layer.macs > 150_000 else 1.0)
    problem = Problem(space, [digits_problem.objectives[0], Objective.of(some, "min", 11.0)])
    genes = np.unique(space.sample(20, rng), axis=0)
    told(OptunaSearcher(startup=10, storage=storage), problem, genes)
    found = trials(storage)
    values = problem.evaluate(genes)
    assert np.array_equal([trial.values for trial in found], problem.costs(values))
    excess = np.array([[trial.constraints[name] for name in ("runs", "latency_ms")] for trial in found])
    assert np.allclose(np.maximum(excess, 0).sum(1), problem.violations(values))
    latency = values[np.isfinite(values[:, 1]), 1]
    assert np.allclose(excess[np.isfinite(values[:, 1]), 1], (latency - 11.0) / 11.0) and (latency < 11).any()
    assert np.isinf(values).any() and len(set(problem.violations(values))) > 2
    unlimited = Problem(space, [digits_problem.objectives[0], Objective.of(some, "min")])
    told(OptunaSearcher(startup=10, storage=storage, study="unlimited"), unlimited, genes)
    runs = [trial.constraints["runs"] <= 0 for trial in trials(storage, "unlimited")]
    assert np.array_equal(runs, np.isfinite(values).all(1))


def test_a_study_of_another_problem_is_refused(
    digits_problem: Problem, small_problem: Problem, tiny_space: MobileNetV3, storage: str
) -> None:
    searcher = OptunaSearcher(storage=storage)
    searcher.init(small_problem)
    searcher.init(small_problem)
    space, (accuracy, latency) = small_problem.space, small_problem.objectives
    other = MobileNetV3(**{**SETTINGS, "name": "small"})
    half = PositionTable(space, "latency", "ms", latency.predictor.values / 2)  # type: ignore[attr-defined]
    for problem, message in (
        (digits_problem, "networks of space 'small', but the space here is 'mobilenet_v3_digits'|"),
        (Problem(other, [objective_of(other, "max"), objective_of(other, "min")]), "space here is 'small' with other"),
        (Problem(space, [latency, accuracy]), "a search for max accuracy, min latency_ms, but this one is for min lat"),
        (
            Problem(space, [accuracy, latency.limited(5.0)]),
            "max accuracy, min latency_ms, but this one is for max accuracy, min latency_ms <= 5 ms",
        ),
        (Problem(space, [accuracy, dataclasses.replace(latency, predictor=half)]), "or of another device"),
    ):
        with pytest.raises(MismatchError, match=message) as caught:
            searcher.init(problem)
        assert "searcher.study=<name>" in str(caught.value)


SETTINGS: dict[str, Any] = {
    "resolutions": [8],
    "in_channels": 1,
    "classes": 3,
    "stem": 8,
    "stem_stride": 1,
    "stages": [{"channels": 8, "stride": 2, "squeeze": True, "activation": "relu"}],
    "depths": [1, 2],
    "kernels": [3],
    "expands": [1, 2],
    "last_channels": 8,
    "features": 8,
}


def objective_of(space: MobileNetV3, goal: Any) -> Objective:
    return Objective.of(PositionTable.of_layers(space, "accuracy", "1", lambda layer: layer.params), goal)


def test_rounding_of_another_machine_makes_no_other_problem(small_problem: Problem, storage: str) -> None:
    searcher = OptunaSearcher(storage=storage)
    searcher.init(small_problem)
    accuracy, latency = small_problem.objectives
    near = PositionTable(
        small_problem.space,
        "latency",
        "ms",
        latency.predictor.values * (1 + 1e-7),  # type: ignore[attr-defined]
    )
    searcher.init(Problem(small_problem.space, [accuracy, dataclasses.replace(latency, predictor=near)]))


def test_a_study_that_is_not_ours_is_refused(small_problem: Problem, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=storage, study_name="hwnas", directions=["minimize", "minimize"])
    study.add_trial(optuna.trial.create_trial(values=[1.0, 2.0]))
    with pytest.raises(MismatchError, match="holds trials that no search of hwnas has put there"):
        OptunaSearcher(storage=storage).init(small_problem)


def test_a_storage_that_cannot_be_used_is_named(small_problem: Problem, tmp_path: Path) -> None:
    text, damaged = tmp_path / "text.db", tmp_path / "damaged.log"
    text.write_text("no database, though long enough to look for its header in it" * 20)
    damaged.write_text('{"op_code": 0}\nbroken\n{"op_code": 0}\n')
    for storage, reason in (
        ("nonsense://x", "nonsense"),
        (f"sqlite:///{tmp_path}/none/study.db", "unable to open database file"),
        (f"sqlite:///{text}", "file is not a database"),
        (f"{tmp_path}/none/study.log", "No such file"),
        (str(damaged), ""),
        (str(tmp_path), "Is a directory"),
    ):
        with pytest.raises(StorageError, match=f"cannot be used: .*{reason}.*`storage` is sqlite:///<file>") as caught:
            OptunaSearcher(storage=storage).init(small_problem)
        assert storage in str(caught.value) and "'hwnas'" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_password_is_not_shown(small_problem: Problem) -> None:
    searcher = OptunaSearcher(storage="postgresql://me:geheim@127.0.0.1:1/none", startup=2, recent=2)
    with pytest.raises(NasError, match=r"postgresql://me:\*\*\*@127.0.0.1:1/none") as caught:
        searcher.init(small_problem)
    assert "geheim" not in str(caught.value)


def test_a_database_that_another_process_holds_is_waited_for(
    small_problem: Problem,
    everything: Genes,
    tmp_path: Path,
    wait_until: Callable[[Callable[[], object]], None],
) -> None:
    path = tmp_path / "study.db"
    searcher = OptunaSearcher(storage=f"sqlite:///{path}")
    state = searcher.init(small_problem)
    holder = multiprocessing.get_context("fork").Process(target=hold, args=(path,))
    holder.start()
    wait_until((tmp_path / "held").exists)
    searcher.tell(small_problem, state, everything[:2], small_problem.evaluate(everything[:2]))
    holder.join(timeout=120)
    assert holder.exitcode == 0 and len(trials(f"sqlite:///{path}")) == 2


def hold(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        (path.parent / "held").touch()
        time.sleep(1)
    connection.close()

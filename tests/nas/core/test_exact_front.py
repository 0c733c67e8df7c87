"""Against enumeration on spaces that can be listed; what is claimed of larger ones is checked where it can be."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

import nas.core.exact_front
from nas.core import pareto
from nas.core.exact_front import (
    ExactFront,
    additive_problem,
    check_feasible,
    check_fitted,
    exact_front,
    gap,
    nearest,
    spread,
)
from nas.core.problem import Objective, Problem, Values
from nas.core.search_loop import reference_point
from predictors import CorrectedLookup, PositionTable, macs, params, peak_memory
from search_spaces import Genes, MobileNetV3, SearchSpace
from search_spaces.architecture import Choice, Condition, Position
from search_spaces.base.errors import InfeasibleError, InvalidValueError
from search_spaces.metric import MACS, PARAMS, Limit, Metric
from search_spaces.nasbench201 import NasBench201
from search_spaces.resnet50 import ResNet50


class Curved:
    """No sum over positions."""

    metric, unit = "accuracy", "1"

    def __init__(self, table: PositionTable) -> None:
        self.hidden = table

    def predict(self, genes: Genes) -> Values:
        return np.asarray(np.sqrt(self.hidden.predict(genes)))


def random_table(
    space: SearchSpace, rng: np.random.Generator, combine: str = "sum", *, ties: bool = False, infinite: float = 0.0
) -> PositionTable:
    """Random entries, be there a layer or not: an exact front must not look at rows that no network has."""
    values = rng.integers(0, 6, space.table_size).astype(float) if ties else rng.normal(size=space.table_size)
    values = np.abs(values) if combine == "max" else values
    values[rng.random(len(values)) < infinite] = np.inf
    return PositionTable(space, "metric", "1", values, combine, 30.0)  # type: ignore[arg-type]


def random_problem(space: SearchSpace, everything: Genes, rng: np.random.Generator) -> Problem:
    """One to three goals, some with limits, up to two more limits; ties, maxima and layers that cannot run."""
    ties = bool(rng.random() < 0.5)
    objectives: list[Objective] = []
    for _ in range(rng.integers(1, 4)):
        table = random_table(space, rng, ties=ties, infinite=rng.choice([0, 0.03]))
        objectives.append(Objective.of(table, str(rng.choice(["min", "max"]))))  # type: ignore[arg-type]
    if rng.random() < 0.3:
        objectives.append(Objective.of(random_table(space, rng, "max", ties=ties), "min"))
    for _ in range(rng.integers(0, 3)):
        table = random_table(space, rng, str(rng.choice(["sum", "max"])), ties=ties)
        at_least = table.combine == "sum" and rng.random() < 0.4
        metric = Metric("value", "1", "max" if at_least else "min")
        objectives.append(Objective(table, metric, False, Limit(metric, 1.0)))
    for i, objective in enumerate(objectives):
        values = objective.predictor.predict(everything)
        values = values[np.isfinite(values)]
        if len(values) and (not objective.goal or rng.random() < 0.4):
            share = rng.uniform(0.02, 0.6)
            limit = float(np.quantile(values, 1 - share if objective.metric.direction == "max" else share))
            objectives[i] = objective.limited(limit)
    return Problem(space, objectives)


def true_front(problem: Problem, everything: Genes) -> Values:
    """Costs of the feasible networks that none dominates; without a row if there is none."""
    costs = feasible_costs(problem, everything)
    return costs[pareto.front(costs)]


def feasible_costs(problem: Problem, everything: Genes) -> Values:
    values = problem.evaluate(everything)
    return problem.costs(values[problem.violations(values) == 0])


def covers(found: Values, costs: Values) -> bool:
    """Whether each row of costs is reached or bettered by a row of what was found, up to rounding."""
    return bool((found[None] <= costs[:, None] + 1e-9).all(2).any(1).all())


def expect_sound(problem: Problem, front: ExactFront) -> None:
    assert len(front.genes) and np.array_equal(problem.space.canonical(front.genes), front.genes)
    assert front.genes.dtype == np.int16
    assert np.array_equal(problem.evaluate(front.genes), front.values)
    assert not problem.violations(front.values).any()
    costs = problem.costs(front.values)
    assert np.array_equal(pareto.front(costs), np.arange(len(costs)))  # none dominated, sorted


# -- without a grid ----------------------------------------------------------------------------------------------------


def test_the_front_is_that_of_enumeration(small_space: MobileNetV3, everything: Genes) -> None:
    feasible = 0
    for seed in range(120):
        problem = random_problem(small_space, everything, np.random.default_rng(seed))
        expected = true_front(problem, everything)
        if not len(expected):
            for refuse in (exact_front, check_feasible):
                with pytest.raises(InfeasibleError):
                    refuse(problem, listed=0)
            continue
        check_feasible(problem, listed=0)
        front = exact_front(problem, listed=0)
        expect_sound(problem, front)
        assert not front.error.any() and np.array_equal(front.outer, problem.costs(front.values))
        assert front.outer == pytest.approx(expected, abs=1e-9), seed
        feasible += 1
    assert 60 < feasible < 120


def test_a_small_space_is_listed_with_any_predictor(small_space: MobileNetV3, everything: Genes) -> None:
    problem = Problem(
        small_space, [Objective.of(Curved(macs(small_space)), "max"), Objective.of(params(small_space), "min", 3000)]
    )
    assert exact_front(problem).outer.tolist() == true_front(problem, everything).tolist()
    with pytest.raises(InvalidValueError, match="the accuracy predictor is none"):
        exact_front(problem, listed=0)


def test_widths_that_two_stages_share(rng: np.random.Generator) -> None:
    """Positions that depend on two choices which others depend on too: no chain of stages that stand alone."""
    space = ResNet50(
        name="small",
        resolutions=[32, 64],
        in_channels=1,
        classes=3,
        stem=32,
        stages=[{"channels": 64, "stride": 1, "depths": [1, 2]}, {"channels": 128, "stride": 2, "depths": [1]}],
        widths=[50, 100],
        expands=[25, 50],
    )
    everything = nas.core.exact_front._everything(space)
    assert len(everything) == space.size > 500
    for seed in range(8):
        problem = random_problem(space, everything, np.random.default_rng(seed))
        expected = true_front(problem, everything)
        if len(expected):
            assert exact_front(problem, listed=0).outer == pytest.approx(expected, abs=1e-9)


def test_a_space_with_more_symmetry_than_conditions() -> None:
    space = NasBench201(name="cells", in_channels=3, classes=10, resolution=32, channels=16, cells=1)
    problem = Problem(space, [Objective.of(params(space), "max"), Objective.of(macs(space), "min")])
    listed, eliminated = exact_front(problem), exact_front(problem, listed=0)
    assert listed.outer.tolist() == eliminated.outer.tolist() and len(listed.genes) > 10
    assert np.array_equal(space.canonical(eliminated.genes), eliminated.genes)


class Nested(SearchSpace):
    """A condition below a condition, a position that knows a choice but not its conditions, a choice without layer."""

    def __init__(self) -> None:
        choices = [
            Choice("depth", (1, 2)),
            Choice("kind", ("a", "b"), Condition("depth", (2,))),
            Choice("size", (1, 2, 3), Condition("kind", ("a",))),
            Choice("unused", (1, 2)),
        ]
        names = {"fixed": (), "one": ("size",), "two": ("depth", "kind"), "three": ("size", "kind")}
        super().__init__("nested", {}, choices, [Position(name, depends) for name, depends in names.items()])

    def layer(self, position: str, values: Any) -> None:
        return None


def test_nested_conditions() -> None:
    space = Nested()
    everything = nas.core.exact_front._everything(space)
    assert len(everything) == space.size == 2 * (1 + 3 + 1)
    for seed in range(40):
        problem = random_problem(space, everything, np.random.default_rng(seed))
        expected = true_front(problem, everything)
        if len(expected):
            assert exact_front(problem, listed=0).outer == pytest.approx(expected, abs=1e-9)


def test_a_fitted_lookup_is_a_sum(small_space: MobileNetV3, everything: Genes, rng: np.random.Generator) -> None:
    layers = PositionTable.of_layers(small_space, "latency", "ms", lambda layer: 0.01 + 1e-5 * layer.macs)
    lookup = CorrectedLookup(layers)
    some = small_space.sample(30, rng)
    lookup.fit(some, 1.3 * layers.predict(some) + 0.02)
    problem = Problem(small_space, [Objective.of(params(small_space), "max"), Objective.of(lookup, "min")])
    assert exact_front(problem, listed=0).outer == pytest.approx(true_front(problem, everything), rel=1e-12)


def large_problem(space: MobileNetV3, **limits: float) -> Problem:
    noise = np.random.default_rng(0).lognormal(0, 0.2, (2, space.table_size))
    work = macs(space).values
    accuracy = PositionTable(space, "accuracy", "1", np.log1p(work) * noise[0])
    latency = PositionTable(space, "latency", "ms", work / 1e7 * noise[1])
    return Problem(space, [Objective.of(accuracy, "max"), Objective.of(latency, "min", limits.get("latency"))])


def test_a_space_of_5e20_networks(ofa_space: MobileNetV3, rng: np.random.Generator) -> None:
    problem = large_problem(ofa_space)
    front = exact_front(problem)
    expect_sound(problem, front)
    accuracy, latency = (objective.predictor for objective in problem.objectives)
    assert isinstance(latency, PositionTable) and isinstance(accuracy, PositionTable)
    most = -dataclasses.replace(accuracy, values=-accuracy.values).minimum()[1]
    assert front.values.min(0)[1] == pytest.approx(latency.minimum()[1])
    assert front.values.max(0)[0] == pytest.approx(most)
    near = ofa_space.mutate(np.repeat(front.genes, 20, 0), rng, 0.05)
    costs = problem.costs(problem.evaluate(np.concatenate([near, ofa_space.sample(5000, rng)])))
    for start in range(0, len(costs), 2000):
        assert covers(front.outer, costs[start : start + 2000])


def test_a_limit_cuts_the_front(ofa_space: MobileNetV3) -> None:
    whole = exact_front(large_problem(ofa_space))
    limit = float(np.median(whole.values[:, 1]))
    cut = exact_front(large_problem(ofa_space, latency=limit))
    kept = whole.values[:, 1] <= limit
    assert 10 < kept.sum() < len(whole.values) and np.array_equal(cut.values, whole.values[kept])


def test_a_limit_without_a_goal_that_always_holds_changes_nothing(ofa_space: MobileNetV3) -> None:
    problem = large_problem(ofa_space)
    free = exact_front(problem)
    most = -PositionTable(ofa_space, "macs", "1", -macs(ofa_space).values).minimum()[1]
    limited = Problem(ofa_space, [*problem.objectives, Objective.of(macs(ofa_space), None, most)])
    assert np.array_equal(exact_front(limited).values[:, :2], free.values)


def test_the_result_does_not_depend_on_anything_but_the_problem(small_problem: Problem) -> None:
    first, second = (exact_front(small_problem, listed=0) for _ in range(2))
    assert np.array_equal(first.genes, second.genes)


# -- with a grid -------------------------------------------------------------------------------------------------------


def test_the_true_front_lies_between_the_found_and_the_outer_one(small_space: MobileNetV3, everything: Genes) -> None:
    thinned = 0
    for seed in range(100):
        problem = random_problem(small_space, everything, np.random.default_rng(seed))
        costs = feasible_costs(problem, everything)
        for grid in (2, 5, 30) if len(costs) else ():
            try:
                front = exact_front(problem, grid=grid, listed=0)
            except InvalidValueError as error:
                assert "Choose a finer grid" in str(error)
                continue
            expect_sound(problem, front)
            assert (front.error >= 0).all() and covers(front.outer, costs)
            reference = costs.max(0) + 1
            assert front.hypervolume_bound(reference) >= pareto.hypervolume(costs, reference) * (1 - 1e-12)
            all_costs = problem.costs(problem.evaluate(everything))
            assert all(np.isclose(all_costs, row, atol=1e-9).all(1).any() for row in front.outer + front.error)
            thinned += bool(front.error.any())
    assert thinned > 50


def test_a_finer_grid_proves_a_smaller_gap(ofa_space: MobileNetV3) -> None:
    problem = large_problem(ofa_space)
    reference = reference_point(problem)
    true = exact_front(problem)
    volume = true.hypervolume_bound(reference)
    gaps = []
    for grid in (30, 300):
        front = exact_front(problem, grid=grid)
        assert len(front.genes) <= grid + 2 and front.error.any()
        assert covers(front.outer, true.outer)
        found, bound = pareto.hypervolume(problem.costs(front.values), reference), front.hypervolume_bound(reference)
        assert found <= volume * (1 + 1e-12) and volume <= bound
        gaps.append(bound / found - 1)
    assert gaps[1] < 0.3 * gaps[0] and gaps[1] < 0.01


def test_the_ends_of_the_front_survive_a_grid(ofa_space: MobileNetV3) -> None:
    problem = large_problem(ofa_space)
    exact, coarse = exact_front(problem), exact_front(problem, grid=20)
    assert coarse.values.min(0)[1] == pytest.approx(exact.values.min(0)[1])
    assert coarse.values.max(0)[0] == pytest.approx(exact.values.max(0)[0])


def test_a_set_that_is_too_large_asks_for_a_grid(small_problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nas.core.exact_front, "LARGEST_SET", 10)
    with pytest.raises(InvalidValueError, match=r"more than 10 rows. Set `grid`"):
        exact_front(small_problem, listed=0)
    exact_front(small_problem, listed=0, grid=50)


def test_many_sums_are_made_part_by_part(digits_problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = exact_front(digits_problem)
    monkeypatch.setattr(nas.core.exact_front, "PAIRS", 50)
    assert np.array_equal(exact_front(digits_problem).values, whole.values)


def test_a_network_that_a_limit_leaves_is_not_hidden_by_one_that_breaks_it(
    small_space: MobileNetV3, everything: Genes
) -> None:
    """In a box the row that is kept may break a limit that another one keeps: it still stands for that one."""
    thinned = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        tables = [random_table(small_space, rng) for _ in range(3)]
        limits = [float(np.quantile(table.predict(everything), 0.4)) for table in tables]
        problem = Problem(small_space, [Objective.of(*each) for each in zip(tables, ["min"] * 3, limits, strict=True)])
        costs = feasible_costs(problem, everything)
        for grid in (4, 9) if len(costs) else ():
            try:
                front = exact_front(problem, grid=grid, listed=0)
            except InvalidValueError:
                continue
            thinned += bool(front.error.any())
            assert covers(front.outer, costs)
    assert thinned > 20


def test_a_row_that_may_stand_for_one_within_a_limit_is_kept() -> None:
    semiring = nas.core.exact_front._Semiring(np.zeros(2, bool), np.array([10.0, np.inf]), np.full(2, -np.inf), 5)
    costs = np.array([[7.0, 3.0], [8.5, 2.0], [10.5, 1.0]])
    least_rest = np.array([2.0, 0.0])
    assert semiring.pruned(costs, np.zeros(2), least_rest).tolist() == [0]
    assert semiring.pruned(costs, np.array([0.5, 0.0]), least_rest).tolist() == [0, 1]
    assert semiring.pruned(costs, np.array([2.5, 0.0]), least_rest).tolist() == [0, 1, 2]


def test_errors_of_parts_add_up_where_costs_do() -> None:
    free = np.full(2, np.inf)
    semiring = nas.core.exact_front._Semiring(np.array([False, True]), free, -free, None)
    first, second = (
        nas.core.exact_front._Set(np.array([costs]), np.zeros((1, 3), np.int16), np.array(error))
        for costs, error in (([1.0, 5.0], [0.25, 0.5]), ([2.0, 3.0], [0.5, 2.0]))
    )
    both = semiring.sum(first, second, np.zeros(2))
    assert both.costs.tolist() == [[3.0, 5.0]] and both.error.tolist() == [0.75, 2.0]
    either = semiring.union([first, second], np.zeros(2))
    assert either.costs.tolist() == [[1.0, 5.0], [2.0, 3.0]] and either.error.tolist() == [0.5, 2.0]


# -- limits that cannot be kept ----------------------------------------------------------------------------------------


def opposed(space: SearchSpace, everything: Genes) -> tuple[Problem, Values]:
    """Few MACs, many parameters: each limit can be kept, both together not. And the values of all networks."""
    work, size = macs(space), params(space)
    least, most = work.predict(everything).min(), size.predict(everything).max()
    objectives = [
        Objective.of(size, "max", float(0.9 * most), "limit.params"),
        Objective.of(work, "min", float(1.1 * least), "limit.macs"),
    ]
    problem = Problem(space, objectives)
    for objective in objectives:
        check_feasible(Problem(space, [objective]), listed=0)
    return problem, problem.evaluate(everything)


@pytest.mark.parametrize("listed", [0, 10_000])
def test_limits_that_cannot_be_kept_together_are_refused_with_the_nearest(
    small_space: MobileNetV3, everything: Genes, listed: int
) -> None:
    problem, values = opposed(small_space, everything)
    problem.check_feasible()  # one limit at a time says nothing
    with pytest.raises(
        InfeasibleError, match=r"`limit.params`=.* and `limit.macs`=.* cannot be met together"
    ) as caught:
        check_feasible(problem, listed=listed)
    stated = dict(re.findall(r"`(limit\.\w+)` to (\S+) or", str(caught.value)))
    loosened = Problem(
        small_space,
        [o.limited(float(stated.get(o.limit.setting, o.bound))) for o in problem.objectives],
    )
    check_feasible(loosened, listed=listed)
    nearest = exact_front(loosened, listed=listed).values
    assert problem.violations(nearest).min() == pytest.approx(problem.violations(values).min())
    for i, objective in enumerate(
        loosened.objectives
    ):  # what is stated is what the nearest network has, in three digits
        if objective.limit.setting in stated:
            assert objective.bound == pytest.approx(nearest[problem.violations(nearest).argmin(), i], rel=0.011)
    with pytest.raises(InfeasibleError, match="cannot be met together"):
        exact_front(problem, listed=listed)


def test_limits_that_few_networks_keep_pass(small_space: MobileNetV3, everything: Genes) -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        tables = [random_table(small_space, rng, combine) for combine in ("sum", "sum", "max")]
        values = tables[0].predict(everything)
        best = everything[int(values.argmin())][None]
        limits = [float(table.predict(best)[0]) for table in tables]
        objectives = [Objective.of(table, "min", limit) for table, limit in zip(tables, limits, strict=True)]
        check_feasible(Problem(small_space, objectives), listed=0)
        tight = objectives[0].limited(limits[0] - 1e-6)
        with pytest.raises(InfeasibleError):
            check_feasible(Problem(small_space, [tight, *objectives[1:]]), listed=0)


def test_the_message_states_limits_as_the_user_set_them(digits_space: MobileNetV3) -> None:
    work, size = macs(digits_space), params(digits_space)
    many = dataclasses.replace(PARAMS, direction="max")
    objectives = [
        Objective(work, MACS, True, Limit(MACS, 1.2 * work.minimum()[1], "limit.share", scale=1000.0)),
        Objective(size, many, False, Limit(many, 4e4, "limit.params")),
    ]
    with pytest.raises(InfeasibleError) as caught:
        check_feasible(Problem(digits_space, objectives))
    message = str(caught.value)
    assert (
        f"`limit.share`={1.2 * work.minimum()[1] / 1000:g} (at most {1.2 * work.minimum()[1]:,.0f} predicted) and "
        in message
    )
    assert "`limit.params`=40000 cannot be met together by any of the" in message
    assert re.search(r"Set `limit\.\w+` to \S+ or (more|less)", message) and "'resolution':" in message


@pytest.mark.parametrize("listed", [0, 50_000])
@pytest.mark.parametrize("fixed", [False, True])
def test_a_limit_that_cannot_be_kept_alone_is_named_alone(small_space: MobileNetV3, listed: int, fixed: bool) -> None:
    space = small_space.restricted({"resolution": 8}) if fixed else small_space
    accuracy, work, size = Saturating(space), macs(space), params(space)
    ceiling = Objective.of(work, "min", 0.5 * macs(small_space).minimum()[1], "limit.macs")
    tight = Objective.of(size, "min", 1.01 * size.minimum()[1], "limit.params")
    floor = Objective.of(accuracy, "max", 0.5, "limit.accuracy")
    with pytest.raises(InfeasibleError, match=r"^`limit.macs`=\S+ cannot be met by any"):
        check_feasible(Problem(space, [tight, ceiling]), listed=listed)
    with pytest.raises(InfeasibleError, match=r"^`limit.macs`=\S+ cannot be met by any"):
        check_fitted(Problem(space, [floor, tight, ceiling]), listed=listed)
    with pytest.raises(InfeasibleError, match=r"^`limit.accuracy`=0.999 cannot be met by any"):
        check_fitted(Problem(space, [tight, floor.limited(0.999, "limit.accuracy")]), listed=listed)


@pytest.mark.parametrize("listed", [0, 50_000])
def test_no_more_limits_are_named_than_cannot_be_kept_together(
    small_space: MobileNetV3, everything: Genes, listed: int
) -> None:
    problem, _ = opposed(small_space, everything)
    wide = Objective.of(random_table(small_space, np.random.default_rng(0), "sum"), "min", 1e9, "limit.loose")
    more = Problem(small_space, [wide, *problem.objectives])
    with pytest.raises(InfeasibleError) as refused:
        check_feasible(more, listed=listed)
    text = str(refused.value)
    assert "limit.loose" not in text and "`limit.params`" in text and "`limit.macs`" in text and "together" in text


def test_a_floor_that_is_too_high_is_refused(ofa_space: MobileNetV3) -> None:
    with pytest.raises(
        InfeasibleError, match=r"`limit.params`=1000000000 cannot be met by .* Set `limit.params` to \S+ or less"
    ):
        check_feasible(Problem(ofa_space, [Objective.of(params(ofa_space), "max", 1e9, "limit.params")]))


def test_a_device_that_can_run_nothing_together(small_space: MobileNetV3) -> None:
    """Each table leaves some networks, both together none."""
    resolution = small_space.index["resolution"]
    tables = []
    for lacking in (0, 1):
        values = np.ones(small_space.table_size)
        values[small_space.offsets[0] + lacking] = np.inf
        tables.append(PositionTable(small_space, "latency", "ms", values))
    assert small_space.positions[0].depends_on == ("resolution",) and resolution == 0
    problem = Problem(small_space, [Objective.of(table, "min") for table in tables])
    for listed in (0, 10_000):
        with pytest.raises(InfeasibleError, match="can run none of the 800 networks: .* layer whose latency.* could"):
            check_feasible(problem, listed=listed)
        with pytest.raises(InfeasibleError, match="can run none"):
            exact_front(problem, listed=listed)
    exact_front(Problem(small_space, problem.objectives[:1]), listed=0)


def test_limits_on_other_predictors_and_costly_ones_are_not_looked_at(small_space: MobileNetV3) -> None:
    other = Objective.of(Curved(macs(small_space)), "max", 1e9)
    check_feasible(Problem(small_space, [other]), listed=0)
    costly = Objective.of(macs(small_space), "min", 1e-3, costly=True, worst=1e9)
    check_feasible(Problem(small_space, [costly]), listed=0)


@pytest.mark.parametrize("grid", [1, 0, -5])
def test_a_wrong_grid_is_refused(small_problem: Problem, grid: int) -> None:
    with pytest.raises(InvalidValueError, match="`grid` must be >= 2"):
        exact_front(small_problem, grid=grid)


def test_costly_goals_and_large_maxima_are_refused(small_space: MobileNetV3) -> None:
    with pytest.raises(InvalidValueError, match="cheap to evaluate"):
        exact_front(Problem(small_space, [Objective.of(macs(small_space), "min", costly=True, worst=1.0)]))
    with pytest.raises(InvalidValueError, match="the memory_bytes predictor is none"):
        exact_front(Problem(small_space, [Objective.of(peak_memory(small_space), "max")]), listed=0)


# -- what is no sum ----------------------------------------------------------------------------------------------------


def curved_problem(space: MobileNetV3, **accuracy: Any) -> Problem:
    work = PositionTable.of_layers(space, "latency", "ms", lambda layer: 0.01 + 1e-5 * layer.macs)
    return Problem(space, [Objective.of(Curved(params(space)), "max", **accuracy), Objective.of(work, "min")])


def test_a_problem_is_made_additive(digits_space: MobileNetV3, rng: np.random.Generator) -> None:
    problem = curved_problem(digits_space, limit=100.0)
    extra = [
        Objective.of(peak_memory(digits_space), None),
        Objective.of(Curved(macs(digits_space)), "max", costly=True, worst=0),
    ]
    relaxed = additive_problem(Problem(digits_space, [*problem.objectives, *extra]), rng)
    assert relaxed.replaced == problem.objectives and not relaxed.exact
    fitted, kept = relaxed.problem.objectives
    assert kept is problem.objectives[1] and isinstance(fitted.predictor, PositionTable)
    assert relaxed.errors[0] > 0 and relaxed.errors[1] == 0
    assert fitted.bound == 100.0 - relaxed.errors[0]
    front = exact_front(relaxed.problem)
    random = problem.costs(problem.evaluate(digits_space.sample(1000, rng)))
    costs = problem.costs(problem.evaluate(front.genes))
    assert np.mean([covers(costs, row[None]) for row in random]) > 0.95


def test_additive_and_small_problems_stay_as_they_are(
    digits_problem: Problem, small_space: MobileNetV3, rng: np.random.Generator
) -> None:
    relaxed = additive_problem(digits_problem, rng)
    assert relaxed.exact and relaxed.problem == digits_problem and not relaxed.errors.any()
    assert additive_problem(curved_problem(small_space), rng).exact
    assert not additive_problem(curved_problem(small_space), rng, listed=0).exact


def test_the_gap_of_the_exact_front_is_none(digits_problem: Problem, rng: np.random.Generator) -> None:
    front = exact_front(digits_problem)
    reference = reference_point(digits_problem)
    whole = gap(digits_problem, front.values, reference, rng)
    assert whole.proven and whole.share == pytest.approx(0, abs=1e-12)
    half = gap(digits_problem, front.values[::2], reference, rng)
    expected = 1 - pareto.hypervolume(digits_problem.costs(front.values[::2]), reference) / whole.bound
    assert half.share == pytest.approx(expected) and half.share > 0
    infeasible = digits_problem.evaluate(digits_problem.space.biggest.genes[None])
    assert gap(digits_problem, infeasible, reference, rng).share == 1


def test_the_gap_of_what_is_no_sum_is_an_estimate(digits_space: MobileNetV3, rng: np.random.Generator) -> None:
    problem = curved_problem(digits_space)
    values = problem.evaluate(exact_front(additive_problem(problem, rng).problem).genes)
    found = gap(problem, values, reference_point(problem), rng)
    assert not found.proven and 0 < found.share < 0.5
    relaxed = additive_problem(problem, np.random.default_rng(1))
    outer, reference = exact_front(relaxed.problem).outer, reference_point(problem)
    again = gap(problem, values, reference, np.random.default_rng(1))
    better = pareto.hypervolume(outer - relaxed.errors, reference)
    assert again.bound == pytest.approx(better) and better > pareto.hypervolume(outer, reference)
    with pytest.raises(InvalidValueError, match="cheap to evaluate"):
        costly = dataclasses.replace(problem.objectives[0], costly=True, worst=0.0)
        gap(Problem(digits_space, [costly]), values[:, :1], [0.0], rng)


def test_all_goals_costly_is_refused(small_space: MobileNetV3, rng: np.random.Generator) -> None:
    costly = Objective.of(macs(small_space), "min", costly=True, worst=1.0)
    with pytest.raises(InvalidValueError, match="all goals are costly"):
        additive_problem(Problem(small_space, [costly, Objective.of(params(small_space), None, 1e9)]), rng)


# -- fewer points ------------------------------------------------------------------------------------------------------


def test_a_front_is_thinned_evenly(rng: np.random.Generator) -> None:
    x = np.sort(rng.random(2000) ** 4)
    costs = np.stack([x, 1 - x], 1)  # crowded at one end
    rows = spread(costs, 40)
    assert len(set(rows.tolist())) == len(rows) == 40
    assert {int(x.argmin()), int(x.argmax())} == set(rows[:2].tolist())
    assert np.array_equal(spread(costs, 15), rows[:15])
    steps = np.diff(np.sort(x[rows]))
    assert steps.max() < 2.1 * steps.min() + np.diff(x).max()


def test_a_front_of_few_points_is_given_whole() -> None:
    costs = np.array([[1.0, 5.0], [2.0, 4.0], [3.0, 3.0]])
    assert sorted(spread(costs, 10).tolist()) == [0, 1, 2]
    assert spread(costs, 1).tolist() == [0]
    assert spread(np.array([[2.0]]), 5).tolist() == [0]
    assert sorted(spread(np.array([[1.0, 7.0], [1.0, 7.0]]), 5).tolist()) == [0, 1]


def test_the_front_of_a_part_of_a_space(small_space: MobileNetV3, everything: Genes, rng: np.random.Generator) -> None:
    """A choice that always matters and one that only matters at the larger depth."""
    fixed = {"resolution": 12, "kernel.1.2": 5}
    tables = [Objective.of(random_table(small_space, rng), "min") for _ in range(2)]
    problem = Problem(small_space.restricted(fixed), tables)
    rows = np.unique(problem.space.canonical(everything), axis=0)
    assert len(rows) == problem.space.size < small_space.size
    expected = problem.costs(problem.evaluate(rows))
    expected = np.unique(expected[pareto.front(expected)], axis=0)
    for listed in (0, 100_000):
        found = exact_front(problem, listed=listed)
        assert np.array_equal(problem.space.canonical(found.genes), found.genes)
        assert np.allclose(np.unique(problem.costs(found.values), axis=0), expected, rtol=1e-12)


class Saturating:
    """An accuracy that is no sum over positions: it levels off."""

    metric, unit = "accuracy", "1"

    def __init__(self, space: SearchSpace) -> None:
        self._params = params(space)
        self._most = float(self._params.predict(space.biggest.genes[None])[0])

    def predict(self, genes: Genes) -> Values:
        return np.asarray(1 - np.exp(-3 * self._params.predict(genes) / self._most))


@pytest.mark.parametrize("listed", [0, 50_000])
def test_limits_together_on_a_predictor_that_is_no_sum(small_space: MobileNetV3, listed: int) -> None:
    """The same refusal for every searcher, before any of them searches; exact where the space is listed."""
    accuracy, work = Saturating(small_space), macs(small_space)
    least, most = work.minimum()[1], float(work.predict(small_space.biggest.genes[None])[0])

    def problem(floor: float, ceiling: float) -> Problem:
        return Problem(
            small_space,
            [
                Objective.of(accuracy, "max", floor, "limit.accuracy"),
                Objective.of(work, "min", ceiling, "limit.macs"),
            ],
        )

    check_fitted(problem(0.9, most), listed=listed)
    check_fitted(problem(0.01, 1.01 * least), listed=listed)
    impossible = problem(0.95, 1.05 * least)
    messages = set()
    for _ in range(2):
        with pytest.raises(InfeasibleError, match=r"`limit.accuracy`=0.95 and `limit.macs`=.*nearest has") as refusal:
            check_fitted(impossible, listed=listed)
        messages.add(str(refusal.value))
    assert len(messages) == 1 and ("additive surrogate" in messages.pop()) == (listed == 0)
    genes, values = nearest(impossible, listed=listed) or (None, None)
    assert genes is not None and values is not None
    everything = small_space.canonical(small_space.sample(20_000, np.random.default_rng(5)))
    best = impossible.violations(impossible.evaluate(everything)).min()
    found = impossible.violations(values[None])[0]
    assert found <= best * (1.0 if listed else 1.1)

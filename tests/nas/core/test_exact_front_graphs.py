"""Exact fronts where positions branch: against enumeration, and refused where too many choices meet."""

from collections.abc import Sequence

import numpy as np
import pytest

from nas.core import pareto
from nas.core.exact_front import check_feasible, exact_front
from nas.core.problem import Objective, Problem
from nas.searchers.auto import Auto
from nas.searchers.exact import Exact
from predictors import PositionTable, macs, params, peak_memory
from predictors.elimination import plan
from search_spaces import Genes, SearchSpace
from search_spaces.base.errors import InfeasibleError, TooCostlyError
from tests.search_spaces.graph_spaces import GRAPHS, Coupled


def everything(space: SearchSpace) -> Genes:
    rows = np.indices(tuple(map(int, space.cardinalities)), np.int16).reshape(len(space.choices), -1).T
    return np.unique(space.canonical(rows), axis=0)


def problem(space: SearchSpace, seed: int, goals: Sequence[str], limit: float | None) -> Problem:
    """A made-up accuracy, MACs, and peak memory as a goal or within a limit, a share between the extremes."""
    entries = np.random.default_rng(seed).normal(size=space.table_size)
    memory = peak_memory(space)
    drawn = memory.predict(space.sample(500, np.random.default_rng(0)))
    bound = None if limit is None else float(drawn.min() + limit * (drawn.max() - drawn.min()))
    return Problem(
        space,
        [
            Objective.of(PositionTable(space, "accuracy", "1", entries), "max"),
            Objective.of(macs(space), "min" if "macs" in goals else None),
            Objective.of(memory, "min" if "memory" in goals else None, bound),
        ],
    )


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize(
    ("goals", "limit"), [(["macs"], 0.3), (["macs"], None), (["memory"], 0.6), (["macs", "memory"], None)]
)
def test_the_front_of_a_graph_is_that_of_the_enumeration(
    kind: type[SearchSpace], goals: list[str], limit: float | None
) -> None:
    space = kind(name="space")  # type: ignore[call-arg]
    for seed in range(3):
        asked = problem(space, seed, goals, limit)
        rows = everything(space)
        values = asked.evaluate(rows)
        rows, values = (part[asked.violations(values) == 0] for part in (rows, values))
        best = asked.costs(values)[pareto.front(asked.costs(values))]
        found = exact_front(asked, listed=0)
        assert not found.error.any()
        assert np.allclose(np.unique(asked.costs(found.values), axis=0), np.unique(best, axis=0), rtol=1e-12)


def test_a_limit_on_the_memory_of_a_graph_is_refused_with_the_nearest() -> None:
    space = GRAPHS[0]()
    memory = peak_memory(space)
    least = memory.minimum()[1]
    asked = Problem(space, [Objective.of(params(space), "min"), Objective.of(memory, None, least - 1)])
    with pytest.raises(InfeasibleError, match=f"memory {least:,.0f} bytes"):
        check_feasible(asked, listed=0)
    check_feasible(Problem(space, [Objective.of(params(space), "min"), Objective.of(memory, None, least)]), listed=0)


def test_a_plan_is_known_before_anything_is_computed() -> None:
    space = Coupled(choices=4)  # 4 choices of 4 values, all of which meet
    scopes = [tuple(space.index[name] for name in position.depends_on) for position in space.positions]
    steps = plan(space, scopes, range(4))
    assert [(step.column, step.scope, step.cells, step.entries) for step in steps] == [
        (0, (1, 2, 3), 64, 256),
        (1, (2, 3), 16, 64),
        (2, (3,), 4, 16),
        (3, (), 1, 4),
    ]


def test_a_dense_space_is_refused_with_a_number_and_left_to_heuristics(rng: np.random.Generator) -> None:
    space = Coupled()
    entries = rng.normal(size=space.table_size)
    asked = Problem(
        space,
        [Objective.of(PositionTable(space, "accuracy", "1", entries), "max"), Objective.of(macs(space), "min", 1e9)],
    )
    message = (
        r"exact front over space 'coupled' takes 3\.6e\+08 sums .*, because 14 choices meet: .*`search.fixed=\{c13"
    )
    with pytest.raises(TooCostlyError, match=message):
        exact_front(asked)
    with pytest.raises(TooCostlyError, match=message):
        Exact().init(asked)
    asked.check_feasible()
    check_feasible(asked)
    state = Auto().init(asked)  # evolution takes over
    assert len(Auto().ask(asked, state, 10, rng)) == 10

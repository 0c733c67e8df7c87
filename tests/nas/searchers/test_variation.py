import itertools

import numpy as np
import pytest

from nas.core.problem import Objective, Problem
from nas.searchers import _variation as variation
from nas.searchers._variation import (
    breed,
    change_one,
    check_initial,
    first_generation,
    neighbours,
    redraw,
    repeated,
    sample_within,
    screen,
    spread,
)
from predictors.position_table import PositionTable, macs
from search_spaces import Genes, MobileNetV3
from search_spaces.base.errors import InvalidValueError


def naive_neighbours(space: MobileNetV3, row: Genes) -> set[tuple[int, ...]]:
    found = set()
    for c in np.flatnonzero(space.active(row[None])[0]):
        for value in range(space.cardinalities[c]):
            changed = row.copy()
            changed[c] = value
            found.add(tuple(space.canonical(changed[None])[0].tolist()))
    return found - {tuple(row.tolist())}


def test_repeated(small_space: MobileNetV3, rng: np.random.Generator) -> None:
    known, rows = small_space.sample(50, rng), small_space.sample(400, rng)
    seen = {tuple(row) for row in known.tolist()}
    expected = []
    for row in map(tuple, rows.tolist()):
        expected.append(row in seen)
        seen.add(row)
    assert repeated(known, rows).tolist() == expected and 0 < sum(expected) < len(rows)
    assert repeated(known[:0], rows[:1]).tolist() == [False]


def test_neighbours_are_all_rows_with_one_other_choice(small_space: MobileNetV3, rng: np.random.Generator) -> None:
    for row in small_space.sample(30, rng):
        found = [tuple(r) for r in neighbours(small_space, row[None]).tolist()]
        assert len(found) == len(set(found)) and set(found) == naive_neighbours(small_space, row)
    rows = small_space.sample(5, rng)
    rows = np.concatenate([rows, neighbours(small_space, rows[:1])[:3]])  # their neighbours overlap
    union = set().union(*(naive_neighbours(small_space, row) for row in rows)) - {tuple(r) for r in rows.tolist()}
    assert sorted(map(tuple, neighbours(small_space, rows).tolist())) == sorted(union)


def test_one_choice_that_matters_is_changed(small_space: MobileNetV3, rng: np.random.Generator) -> None:
    rows = np.repeat(small_space.sample(40, rng), 50, axis=0)
    for row, changed in zip(rows, change_one(small_space, rows, rng), strict=True):
        assert tuple(changed.tolist()) in naive_neighbours(small_space, row)


def test_every_choice_is_changed_as_often(tiny_space: MobileNetV3, rng: np.random.Generator) -> None:
    rows = np.repeat(tiny_space.biggest.genes[None], 6000, axis=0)
    changed = change_one(tiny_space, rows, rng)
    shares = (changed != rows).mean(0)
    free = tiny_space.cardinalities > 1
    depth = tiny_space.index["depth.1"]
    assert (shares[~free] == 0).all()  # the one kernel size cannot change
    assert shares[depth] == pytest.approx(1 / free.sum(), abs=0.03)
    assert shares[tiny_space.index["resolution"]] == pytest.approx(1 / free.sum(), abs=0.03)


def test_children_take_each_gene_of_either_parent(digits_space: MobileNetV3, rng: np.random.Generator) -> None:
    first, second = digits_space.sample(300, rng), digits_space.sample(300, rng)
    children = breed(digits_space, first, second, first[:0], rng, crossover=1.0, mutations=0.0)
    top = [i for i, choice in enumerate(digits_space.choices) if choice.active_when is None]
    from_first, from_second = (children == first)[:, top], (children == second)[:, top]
    assert 0.995 < (from_first | from_second).mean()  # but for the one more change of children that are alike
    assert (from_first & ~from_second).sum() == pytest.approx((from_second & ~from_first).sum(), rel=0.15)
    first, second = np.unique(first, axis=0), second[: len(np.unique(first, axis=0))]
    alone = breed(digits_space, first, second, first[:0], rng, crossover=0.0, mutations=0.0)
    assert np.array_equal(alone, first)


def test_mutations_is_their_mean_number(digits_space: MobileNetV3, rng: np.random.Generator) -> None:
    rows = np.repeat(digits_space.biggest.genes[None], 4000, 0)
    always = [i for i, c in enumerate(digits_space.choices) if c.active_when is None]
    for mutations in (2.0, 4.0):
        children = digits_space.mutate(rows, np.random.default_rng(1), mutations / rows.shape[1])
        bred = breed(digits_space, rows, rows, rows[:0], np.random.default_rng(1), crossover=0.9, mutations=mutations)
        cards = digits_space.cardinalities[always]
        expected = (mutations / rows.shape[1] * (1 - 1 / cards)).sum()  # a redraw can give the same value
        assert (children != rows)[:, always].sum(1).mean() == pytest.approx(expected, rel=0.15)
        assert (bred != rows)[:, always].sum(1).mean() > expected  # repeated children have one more change


def test_children_are_new(digits_space: MobileNetV3, rng: np.random.Generator) -> None:
    known = digits_space.sample(100, rng)
    parents = known[rng.integers(0, 100, (2, 300))]
    children = breed(digits_space, *parents, known, rng, crossover=0.5, mutations=0.0)
    assert repeated(known, children).mean() < 0.05
    assert np.array_equal(digits_space.canonical(digits_space.validate(children)), children)


def test_spread_reaches_the_ends(ofa_space: MobileNetV3, rng: np.random.Generator) -> None:
    size = macs(ofa_space)
    least, most = size.predict(np.stack([ofa_space.smallest.genes, ofa_space.biggest.genes]))

    def shares(rows: Genes) -> list[float]:
        assert np.array_equal(ofa_space.canonical(ofa_space.validate(rows)), rows) and rows.dtype == np.int16
        return [float(x) for x in (np.quantile(size.predict(rows), [0.02, 0.98]) - least) / (most - least)]

    random, wide = shares(ofa_space.sample(1000, rng)), shares(spread(ofa_space, 1000, rng))
    assert wide[0] < 0.5 * random[0] and wide[1] > 1.5 * random[1]
    values = spread(ofa_space, 3000, rng)[:, ofa_space.index["depth.1"]]
    assert np.bincount(values).min() > 0.2 * len(values)  # no value is rare


def test_redrawing_ends_and_keeps_the_least_excess(rng: np.random.Generator) -> None:
    calls = 0

    def draw(rows: np.ndarray) -> Genes:
        nonlocal calls
        calls += 1
        return rng.integers(1, 1000, (len(rows), 1)).astype(np.int16)

    kept = redraw(draw, lambda genes: np.maximum(genes[:, 0] - 100.0, 0), 500)
    assert (kept <= 100).mean() > 0.99 and kept.std() > 10
    calls = 0
    kept = redraw(draw, lambda genes: genes[:, 0].astype(float), 500)  # never 0
    assert calls == variation.TRIES and kept.mean() < 30


def test_rows_are_drawn_within_the_limits(digits_problem: Problem, rng: np.random.Generator) -> None:
    accuracy, latency, memory = digits_problem.objectives
    few = float(np.quantile(latency.predictor.predict(digits_problem.space.sample(2000, rng)), 0.1))
    problem = Problem(digits_problem.space, [accuracy, latency.limited(few), memory])
    rows = sample_within(problem, 200, rng)
    assert (problem.violations(problem.evaluate(rows)) == 0).all()
    assert len(np.unique(rows, axis=0)) > 150
    assert (problem.violations(problem.evaluate(problem.space.sample(200, rng))) > 0).any()


class Forbidden:
    """A predictor that must not be asked."""

    metric, unit = "forbidden", "1"

    def predict(self, genes: Genes) -> np.ndarray:
        raise AssertionError("evaluated")


def test_only_what_can_break_a_limit_is_screened(small_problem: Problem, everything: Genes) -> None:
    accuracy, latency = small_problem.objectives
    costly = Objective.of(Forbidden(), "min", 1.0, costly=True, worst=2.0)
    free = Objective.of(Forbidden(), "max")
    within = latency.limited(float(np.median(latency.predictor.predict(everything))))
    values, violations = screen(Problem(small_problem.space, [free, costly, within]), everything)
    expected = Problem(small_problem.space, [accuracy, within])
    assert np.isnan(values[:, :2]).all() and np.array_equal(values[:, 2], latency.predictor.predict(everything))
    assert np.array_equal(violations, expected.violations(expected.evaluate(everything)))
    floor = Objective.of(Forbidden(), "max", 0.5, costly=True, worst=0.0)
    assert (screen(Problem(small_problem.space, [floor]), everything)[1] == 0).all()
    broken = PositionTable.of_layers(small_problem.space, "latency", "ms", lambda layer: np.inf)
    assert np.isinf(screen(Problem(small_problem.space, [free, Objective.of(broken, "min")]), everything)[1]).all()


def test_first_generations(digits_problem: Problem) -> None:
    space, drawn = digits_problem.space, {}
    for initial in ("random", "spread", "exits"):
        check_initial("X", initial)
        drawn[initial] = first_generation(digits_problem, initial, 30, np.random.default_rng(3))  # type: ignore[arg-type]
    assert np.array_equal(drawn["random"], space.sample(30, np.random.default_rng(3)))
    assert np.array_equal(drawn["spread"], spread(space, 30, np.random.default_rng(3)))
    assert np.array_equal(drawn["exits"], sample_within(digits_problem, 30, np.random.default_rng(3)))
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(drawn.values(), 2))
    with pytest.raises(InvalidValueError, match="`initial` of X must be one of random, spread, exits, but got 'none'"):
        check_initial("X", "none")

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nas.core import pareto
from search_spaces.base.errors import InvalidValueError

Costs = np.ndarray


def dominates(a: Costs, b: Costs) -> bool:
    return bool((a <= b).all() and (a < b).any())


def naive_front(costs: Costs) -> list[int]:
    """Rows that no row dominates, NaN rows left out, of equal rows the first."""
    usable = [i for i in range(len(costs)) if not np.isnan(costs[i]).any()]
    kept: list[int] = []
    for i in usable:
        beaten = any(dominates(costs[j], costs[i]) for j in usable)
        if not beaten and not any(np.array_equal(costs[i], costs[j]) for j in kept):
            kept.append(i)
    return kept


def naive_ranks(costs: Costs) -> list[int]:
    """Peel off front after front."""
    ranks, left, rank = [-1] * len(costs), set(range(len(costs))), 0
    while left:
        layer = {i for i in left if not any(dominates(costs[j], costs[i]) for j in left)}
        for i in layer:
            ranks[i] = rank
        left -= layer
        rank += 1
    return ranks


def naive_crowding(costs: Costs) -> list[float]:
    """Deb et al. 2002, crowding-distance-assignment, index by index."""
    distance = [0.0] * len(costs)
    for m in range(costs.shape[1] if len(costs) else 0):
        order = sorted(range(len(costs)), key=lambda i: costs[i, m])
        low, high = costs[order[0], m], costs[order[-1], m]
        distance[order[0]] = distance[order[-1]] = math.inf
        for k in range(1, len(order) - 1):
            if high > low:
                distance[order[k]] += (costs[order[k + 1], m] - costs[order[k - 1], m]) / (high - low)
    return distance


def naive_hypervolume(costs: Costs, reference: Costs) -> float:
    """Cells of the grid through all coordinates, each counted if some row dominates it."""
    inside = [row for row in costs if (row < reference).all()]
    if not inside:
        return 0.0
    axes = [sorted({float(row[m]) for row in inside} | {float(reference[m])}) for m in range(len(reference))]
    total = 0.0
    for corner in np.ndindex(*(len(axis) - 1 for axis in axes)):
        low = np.array([axis[i] for axis, i in zip(axes, corner, strict=True)])
        high = np.array([axis[i + 1] for axis, i in zip(axes, corner, strict=True)])
        if any((row <= low).all() for row in inside):
            total += float(np.prod(high - low))
    return total


few_numbers = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0])
nasty_numbers = st.one_of(few_numbers, st.sampled_from([math.inf, math.nan, -0.0, 1e300, 5e-324]))


finite_numbers = st.one_of(few_numbers, st.sampled_from([-0.0, 1e150, 1e-150]))


def arrays(elements: st.SearchStrategy[float], goals: tuple[int, int] = (1, 3), rows: int = 12) -> st.SearchStrategy:
    shapes = st.tuples(st.integers(0, rows), st.integers(*goals))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=elements))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(arrays(nasty_numbers))
def test_front(costs: Costs) -> None:
    found = pareto.front(costs)
    assert sorted(found.tolist()) == naive_front(costs)
    assert costs[found][:, -1].tolist() == sorted(costs[found][:, -1].tolist())


@settings(derandomize=True, deadline=None, max_examples=300)
@given(arrays(finite_numbers))
def test_ranks(costs: Costs) -> None:
    assert pareto.ranks(costs).tolist() == naive_ranks(costs)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(arrays(finite_numbers))
def test_crowding(costs: Costs) -> None:
    assert pareto.crowding(costs).tolist() == pytest.approx(naive_crowding(costs))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(arrays(finite_numbers))
def test_crowding_within_ranks(costs: Costs) -> None:
    rank = pareto.ranks(costs)
    together = pareto.crowding(costs, rank)
    for r in set(rank.tolist()):
        assert together[rank == r].tolist() == pytest.approx(naive_crowding(costs[rank == r]))


@settings(derandomize=True, deadline=None, max_examples=200)
@given(arrays(st.one_of(few_numbers, st.sampled_from([math.inf, math.nan])), rows=8))
def test_hypervolume(costs: Costs) -> None:
    reference = np.full(costs.shape[1], 1.0)
    assert pareto.hypervolume(costs, reference) == pytest.approx(naive_hypervolume(costs, reference))


def test_hypervolume_by_hand() -> None:
    costs = np.array([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0], [1.0, 2.0], [1.0, 1.0]])
    assert pareto.hypervolume(costs, [3.0, 3.0]) == 3 + 2 + 1
    assert pareto.hypervolume(costs, [1.0, 3.0]) == 1.0  # only (0, 2) lies strictly within
    assert pareto.hypervolume(costs, [0.0, 0.0]) == 0.0
    assert pareto.hypervolume(np.zeros((0, 2)), [1.0, 1.0]) == 0.0


def test_a_better_row_never_lowers_the_hypervolume(rng: np.random.Generator) -> None:
    costs, volumes = np.zeros((0, 2)), [0.0]
    for _ in range(30):
        costs = np.concatenate([costs, rng.random((1, 2))])
        volumes.append(pareto.hypervolume(costs, [1.0, 1.0]))
    assert (np.diff(volumes) >= 0).all() and volumes[-1] > 0.5


def test_a_single_row_and_no_row() -> None:
    one, none = np.array([[1.0, 2.0]]), np.zeros((0, 2))
    assert pareto.front(one).tolist() == [0] and pareto.ranks(one).tolist() == [0] and pareto.knee(one) == 0
    assert pareto.crowding(one).tolist() == [math.inf]
    assert pareto.front(none).tolist() == pareto.ranks(none).tolist() == pareto.crowding(none).tolist() == []
    assert pareto.front(np.full((3, 2), np.nan)).tolist() == []


@pytest.mark.parametrize(
    ("costs", "row"),
    [
        ([[0, 10], [1, 1], [10, 0]], 1),
        ([[0, 10], [5, 5], [6, 1], [10, 0]], 2),
        ([[0, 1000], [0.1, 1], [1, 0]], 1),  # scales of the goals do not matter
        ([[0, 1], [1, 0]], 0),  # a straight line has no knee; the first end stands for it
        ([[3, 3]], 0),
        ([[1, 2], [1, 2]], 0),
    ],
)
def test_knee(costs: list[list[float]], row: int) -> None:
    assert pareto.knee(np.array(costs, float)) == row


def test_knee_is_farthest_below_the_line_through_the_ends(rng: np.random.Generator) -> None:
    for _ in range(50):
        x = np.sort(rng.random(12))
        costs = np.stack([x, np.sort(rng.random(12))[::-1]], axis=1)
        (x0, y0), (x1, y1) = costs[0], costs[-1]
        scaled = (costs - [x0, y1]) / [x1 - x0, y0 - y1]
        distance = [(1 - a - b) / math.sqrt(2) for a, b in scaled]  # signed, from the line a + b = 1
        assert pareto.knee(costs) == int(np.argmax(distance))


def naive_attainment(fronts: list[Costs], level: float) -> list[list[float]]:
    """Corners of the grid through all coordinates that enough fronts attain and no other such corner dominates."""
    rows = [row for costs in fronts for row in costs]
    if not rows:
        return []
    goals = len(rows[0])
    axes = [sorted({float(row[m]) for row in rows}) for m in range(goals)]
    attained = []
    for corner in np.ndindex(*map(len, axes)):
        point = np.array([axis[i] for axis, i in zip(axes, corner, strict=True)])
        count = sum(any((row <= point).all() for row in costs) for costs in fronts)
        if count >= level * len(fronts) - 1e-9:
            attained.append(point)
    kept = [p.tolist() for p in attained if not any(dominates(q, p) for q in attained)]
    return sorted(kept, key=lambda point: point[::-1])


runs = st.integers(1, 3).flatmap(
    lambda goals: st.lists(
        st.integers(0, 4).flatmap(lambda n: hnp.arrays(np.float64, (n, goals), elements=few_numbers)),
        min_size=1,
        max_size=5,
    )
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(runs, st.sampled_from([0.01, 0.2, 1 / 3, 0.5, 0.6, 0.75, 1.0]))
def test_attainment(fronts: list[Costs], level: float) -> None:
    assert pareto.attainment(fronts, level).tolist() == naive_attainment(fronts, level)


def test_attainment_by_hand() -> None:
    fronts = [np.array([[0.0, 2.0], [2.0, 0.0]]), np.array([[1.0, 1.0]]), np.array([[3.0, 3.0], [np.nan, -9.0]])]
    assert pareto.attainment(fronts, 0.01).tolist() == [[2, 0], [1, 1], [0, 2]]
    assert pareto.attainment(fronts, 0.5).tolist() == [[2, 1], [1, 2]]
    assert pareto.attainment(fronts, 1).tolist() == [[3, 3]]
    assert pareto.attainment([*fronts, np.zeros((0, 2))], 1).shape == (0, 2)


@pytest.mark.parametrize("count", [3, 7, 10, 30, 49])
def test_attainment_counts_fronts_exactly(count: int) -> None:
    fronts = [np.full((1, 2), float(i)) for i in range(count)]
    found = [pareto.attainment(fronts, (i + 1) / count).tolist() for i in range(count)]
    assert found == [[[i, i]] for i in range(count)]


def test_an_attainment_level_that_is_no_binary_fraction_counts_as_meant() -> None:
    assert 0.28 * 25 > 7
    assert pareto.attainment([np.full((1, 2), float(i)) for i in range(25)], 0.28).tolist() == [[6, 6]]


@pytest.mark.parametrize(
    ("fronts", "level", "message"),
    [
        ([np.zeros((1, 2))], 0.0, "`level` must be in"),
        ([np.zeros((1, 2))], 1.5, "but got 1.5"),
        ([], 0.5, "one to three goals"),
        ([np.zeros((1, 4))], 0.5, "one to three goals"),
        ([np.zeros((1, 2)), np.zeros((1, 3))], 0.5, r"\(1, 2\), \(1, 3\)"),
    ],
)
def test_attainment_refuses(fronts: list[Costs], level: float, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        pareto.attainment(fronts, level)


def test_costs_of_values() -> None:
    values = np.array([[0.9, 5.0, 7.0], [0.8, np.nan, 6.0]])
    assert pareto.costs_of(values, ["max", None, "min"]).tolist() == [[-0.9, 7.0], [-0.8, 6.0]]

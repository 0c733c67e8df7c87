import itertools
from math import comb

import numpy as np
import pytest

from nas.searchers import _scalar as scalar
from nas.searchers._scalar import (
    FAR,
    bounds,
    directions,
    lattice,
    nearest_mates,
    scaled,
    scaled_by_front,
    tchebycheff,
)


@pytest.mark.parametrize(("goals", "divisions"), [(1, 5), (2, 1), (2, 7), (3, 4), (4, 3), (5, 2)])
def test_the_lattice_holds_all_weights(goals: int, divisions: int) -> None:
    expected = [
        np.array(parts) / divisions
        for parts in itertools.product(range(divisions + 1), repeat=goals)
        if sum(parts) == divisions
    ]
    found = lattice(goals, divisions)
    assert len(found) == comb(divisions + goals - 1, goals - 1)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, np.array(expected).tolist()))


def test_directions_are_as_many_as_fit() -> None:
    assert directions(1, 100).tolist() == [[1.0]]
    assert len(directions(2, 100)) == 100 and len(directions(3, 100)) == 91 and len(directions(3, 91)) == 91
    assert len(directions(3, 90)) == 78 and len(directions(3, 2)) == 3  # at least one per goal
    assert np.allclose(directions(2, 3), [[0, 1], [0.5, 0.5], [1, 0]])
    with pytest.raises(ValueError, match="read-only"):
        directions(2, 3)[0] = 1


def test_many_goals_have_directions_within() -> None:
    for goals in (8, 10):
        found = directions(goals, 200)
        assert np.allclose(found.sum(1), 1) and len(found) <= 200
        assert len(np.unique(found.round(9), axis=0)) == len(found)
        assert (found > 0).all(1).any() and (found.max(1) == 1).sum() == goals


def test_scaling() -> None:
    costs = np.array([[0.0, 30.0], [10.0, 10.0], [20.0, 40.0], [5.0, np.inf]])
    ideal, nadir = bounds(costs[:3])
    assert ideal.tolist() == [0, 10] and nadir.tolist() == [10, 30]
    assert scaled(costs, ideal, nadir).tolist() == [[0, 1], [1, 0], [2, 1.5], [0.5, FAR]]
    assert scaled(costs[:1], ideal, ideal).tolist() == [[0, 20]]  # no span: as it is
    assert scaled(np.array([[-5.0, 0.0]]), ideal, nadir).tolist() == [[0, 0]]


def test_the_feasible_front_is_the_scale() -> None:
    costs = np.array([[0.0, 30.0], [10.0, 10.0], [-90.0, -90.0], [np.inf, 0.0]])
    assert scaled_by_front(costs, np.array([0.0, 0.0, 1.0, np.inf])).tolist() == [[0, 1], [1, 0], [0, 0], [FAR, 0]]
    none = scaled_by_front(costs, np.array([1.0, 1.0, 1.0, np.inf]))
    assert none[2].tolist() == [0, 0] and (none[:2] > 0).all()
    assert (scaled_by_front(costs[3:], np.array([np.inf])) == FAR).all()


def test_tchebycheff_by_hand() -> None:
    costs = np.array([[0.2, 0.8], [0.5, 0.5]])
    assert tchebycheff(costs, np.array([0.5, 0.5])).tolist() == pytest.approx([0.4 + 0.025, 0.25 + 0.025])
    assert tchebycheff(costs, np.array([1.0, 0.0])).tolist() == pytest.approx([0.21, 0.525])


def test_mates_are_the_nearest_others(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = rng.random((30, 3))
    first, candidates = rng.integers(0, 30, 200), rng.integers(0, 30, (200, 4))
    candidates[0] = first[0]
    found = nearest_mates(costs, first, candidates)
    for one, others, mate in zip(first[1:], candidates[1:], found[1:], strict=True):
        others = [other for other in others if other != one]
        assert mate == min(others, key=lambda other: ((costs[other] - costs[one]) ** 2).sum())
    assert found[0] == first[0]
    monkeypatch.setattr(scalar, "ROWS", 7)
    assert np.array_equal(nearest_mates(costs, first, candidates), found)

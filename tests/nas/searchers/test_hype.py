import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from nas.core import pareto
from nas.core.problem import Problem
from nas.core.search_loop import search
from nas.searchers import hype
from nas.searchers.hype import MARGIN, HypE, loss_shares, shared_hypervolume
from nas.searchers.random import RandomSearch
from search_spaces import Genes
from search_spaces.base.errors import InvalidValueError

Costs = np.ndarray


def expected_loss(costs: Costs, k: int) -> list[float]:
    """I_h^k by its definition: for each row the mean, over all sets of k - 1 other rows, of what is lost with these,
    shared equally by those that dominate the part that is lost; cell by cell of the grid."""
    low, high = costs.min(0), costs.max(0)
    reference = high + MARGIN * np.where(high > low, high - low, 1.0)
    axes = [np.unique(np.append(column, bound)) for column, bound in zip(costs.T, reference, strict=True)]
    whole, n = np.prod(reference - low), len(costs)
    loss = [0.0] * n
    for corner in itertools.product(*(range(len(axis) - 1) for axis in axes)):
        point = np.array([axis[i] for axis, i in zip(axes, corner, strict=True)])
        size = math.prod(axis[i + 1] - axis[i] for axis, i in zip(axes, corner, strict=True)) / whole
        above = [i for i in range(n) if (costs[i] <= point).all()]
        for row in above:
            sets = list(itertools.combinations([i for i in range(n) if i != row], k - 1))
            lost = sum(set(above) <= {row, *others} for others in sets) / len(sets)
            loss[row] += size * lost / len(above)
    return loss


@pytest.mark.parametrize("goals", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_the_fitness_is_the_expected_loss(goals: int, k: int, rng: np.random.Generator) -> None:
    for costs in (rng.random((6, goals)), rng.integers(0, 3, (6, goals)).astype(float), np.ones((6, goals))):
        assert shared_hypervolume(costs, k, 1).tolist() == pytest.approx(expected_loss(costs, k))


def test_the_fitness_by_hand() -> None:
    costs = np.array([[0.0, 10.0], [5.0, 5.0], [10.0, 0.0]])  # the reference point is (12, 12)
    # With k = 1 what a row alone dominates, with k = 2 half of what it shares with one other too: of two cells 5 x 2
    # and 2 x 5 the middle row has, with probability 1/2 each, half; of the corner 2 x 2 nobody has a share.
    alone = np.array([5 * 2, 5 * 5, 2 * 5])
    assert (shared_hypervolume(costs, 1, 1) * 144).tolist() == pytest.approx(alone)
    both = alone + np.array([5 * 2, 5 * 2 + 2 * 5, 2 * 5]) / 4
    assert (shared_hypervolume(costs, 2, 1) * 144).tolist() == pytest.approx(both)
    all_three = alone + np.array([5 * 2, 5 * 2 + 2 * 5, 2 * 5]) / 2 + 2 * 2 / 3
    assert (shared_hypervolume(costs, 3, 1) * 144).tolist() == pytest.approx(all_three)


def test_of_one_row_that_is_removed_it_is_the_contribution_and_of_all_they_add_up(rng: np.random.Generator) -> None:
    for goals in (2, 3):
        costs = rng.random((15, goals))
        reference = costs.max(0) + MARGIN * (costs.max(0) - costs.min(0))
        whole, volume = np.prod(reference - costs.min(0)), pareto.hypervolume(costs, reference)
        losses = [volume - pareto.hypervolume(np.delete(costs, i, 0), reference) for i in range(15)]
        assert (shared_hypervolume(costs, 1, 1) * whole).tolist() == pytest.approx(losses)
        assert shared_hypervolume(costs, 15, 1).sum() * whole == pytest.approx(volume)


def test_shares_of_the_paper() -> None:
    assert loss_shares(4, 1).tolist() == [0, 1, 0, 0, 0]
    assert loss_shares(4, 2).tolist() == pytest.approx([0, 1, 1 / 3 / 2, 0, 0])
    assert loss_shares(4, 3).tolist() == pytest.approx([0, 1, 2 / 3 / 2, 2 / 3 * 1 / 2 / 3, 0])
    assert loss_shares(4, 4).tolist() == pytest.approx([0, 1, 1 / 2, 1 / 3, 1 / 4])


@pytest.mark.parametrize("goals", [1, 2, 3])
def test_an_estimate_comes_near(goals: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = rng.random((20, goals))
    exact = {k: shared_hypervolume(costs, k, 1) for k in (1, 8, 20)}
    monkeypatch.setattr(hype, "EXACT_CELLS", 0)
    for k, expected in exact.items():
        found = shared_hypervolume(costs, k, 100_000)
        assert found == pytest.approx(expected, abs=2e-3) and not np.array_equal(found, expected)
        assert np.array_equal(found, shared_hypervolume(costs, k, 100_000))
        assert not np.array_equal(found, shared_hypervolume(costs, k, 100_000, 1))


def test_an_estimate_of_five_goals_comes_near(rng: np.random.Generator) -> None:
    costs = rng.random((7, 5)).round(1)
    assert shared_hypervolume(costs, 3, 200_000) == pytest.approx(expected_loss(costs, 3), abs=2e-3)


@pytest.mark.parametrize("goals", [1, 2, 3, 5])
def test_tensors_have_the_same_fitness_to_the_last_bit(goals: int, rng: np.random.Generator) -> None:
    costs = rng.random((60, goals))
    costs[7] = costs[8]
    for k in (1, 25, 60):
        there = shared_hypervolume(torch.from_numpy(costs), k, 3000)
        assert np.array_equal(there.numpy(), shared_hypervolume(costs, k, 3000))


def test_samples_that_do_not_fit_into_memory_at_once_give_the_same(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = rng.random((30, 4))
    expected = shared_hypervolume(costs, 5, 1000)
    monkeypatch.setattr(hype, "CELLS", 4 * 30 * 7)
    assert np.array_equal(shared_hypervolume(costs, 5, 1000), expected)


def test_one_by_one_the_least_leaves(rng: np.random.Generator) -> None:
    x = np.sort(rng.random(20))
    costs = np.column_stack([x, np.sort(rng.random(20))[::-1]])
    left = list(range(20))
    while len(left) > 12:
        del left[int(np.argmin(shared_hypervolume(costs[left], len(left) - 12, 1)))]
    assert HypE(rounds=100)._reduced(costs, 12, 0).tolist() == left
    assert len(HypE(rounds=3)._reduced(costs, 12, 0)) == 12
    assert HypE(rounds=1)._reduced(costs, 12, 0).tolist() == sorted(
        np.argsort(shared_hypervolume(costs, 8, 1), kind="stable")[8:].tolist()
    )


def test_survivors_stand_best_first(digits_problem: Problem, rng: np.random.Generator) -> None:
    accuracy, latency, _ = digits_problem.objectives
    genes = digits_problem.space.sample(80, rng)
    limit = float(np.median(latency.predictor.predict(genes)))
    problem = Problem(digits_problem.space, [accuracy, latency.limited(limit)])
    values = problem.evaluate(genes)
    feasible = np.flatnonzero(problem.violations(values) == 0)
    assert 20 < len(feasible) < 60
    for population in (len(feasible) - 10, len(feasible) + 10):
        searcher = HypE(population=population)
        state = searcher.tell(problem, searcher.init(problem), genes, values)
        assert len(state["genes"]) == population and state["generation"] == 1
        assert np.array_equal(problem.evaluate(state["genes"]), state["values"])
        exceeded = problem.violations(state["values"])
        assert (np.diff(exceeded) >= 0).all() and (exceeded > 0).sum() == max(0, population - len(feasible))
        fit = problem.costs(state["values"][exceeded == 0])
        assert (np.diff(shared_hypervolume(fit, len(fit), 1)) <= 0).all()


def test_whole_ranks_survive(digits_problem: Problem, rng: np.random.Generator) -> None:
    problem = Problem(digits_problem.space, [o.limited(None) for o in digits_problem.objectives[:2]])
    genes = np.unique(problem.space.sample(80, rng), axis=0)
    values = problem.evaluate(genes)
    rank = pareto.ranks(problem.costs(values))
    searcher = HypE(population=40)
    state = searcher.tell(problem, searcher.init(problem), genes, values)
    survived = np.array([(state["genes"] == row).all(1).any() for row in genes])
    last = np.sort(rank)[39]
    assert survived[rank < last].all() and not survived[rank > last].any() and 0 < survived[rank == last].mean() < 1


def test_a_better_network_comes_first(digits_problem: Problem, rng: np.random.Generator) -> None:
    genes = digits_problem.space.sample(60, rng)
    searcher = HypE(population=60)
    state = searcher.tell(digits_problem, searcher.init(digits_problem), genes, digits_problem.evaluate(genes))
    costs = digits_problem.costs(state["values"][digits_problem.violations(state["values"]) == 0])
    for i, j in itertools.combinations(range(len(costs)), 2):
        assert not ((costs[j] <= costs[i]).all() and (costs[j] < costs[i]).any())


def test_on_a_small_space_it_keeps_what_dominates_most(small_problem: Problem, everything: Genes) -> None:
    values = small_problem.evaluate(everything)
    front = values[pareto.front(small_problem.costs(values))]
    costs = small_problem.costs(front)
    reference = costs.max(0) + MARGIN * (costs.max(0) - costs.min(0))
    searcher = HypE(population=10, rounds=1000)
    state = searcher.tell(small_problem, searcher.init(small_problem), everything, values)
    kept = small_problem.costs(state["values"])
    drawn = np.random.default_rng(0)
    volumes = [pareto.hypervolume(costs[drawn.choice(len(costs), 10, False)], reference) for _ in range(500)]
    assert pareto.hypervolume(kept, reference) > max(volumes)


def test_it_beats_random_search(digits_problem: Problem) -> None:
    ours, random = (search(digits_problem, s, evaluations=1500, seed=0) for s in (HypE(50), RandomSearch()))
    assert ours.hypervolume > 1.02 * random.hypervolume


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": 3}, "population >= 4"),
        ({"crossover": 1.1}, "crossover <= 1"),
        ({"mutations": -1.0}, "mutations >= 0"),
        ({"mates": 0}, "mates >= 1"),
        ({"samples": 0}, "samples >= 1"),
        ({"rounds": 0}, "rounds >= 1"),
        ({"initial": "best"}, "`initial` of HypE"),
        ({"device": "gpu"}, "`device` of HypE must be cpu or cuda"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        HypE(**settings)

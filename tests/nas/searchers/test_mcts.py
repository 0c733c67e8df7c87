import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from nas.core.problem import Objective, Problem
from nas.core.search_loop import search
from nas.searchers.mcts import MCTS, _children, _rewards, _summed_up, _tree, _Way
from nas.searchers.random import RandomSearch
from search_spaces import Choice, Genes, Layer, MobileNetV3, SearchSpace
from search_spaces.architecture import Condition, Position, Value
from search_spaces.base.errors import InvalidValueError


class Arms(SearchSpace):
    """Three arms, of which the last alone has a lever, and four dials: 3^4 * (1 + 1 + 2) = 324 networks."""

    def __init__(self) -> None:
        dials = [Choice(f"dial.{i}", (0, 1, 2)) for i in range(4)]
        lever = Choice("lever", (0, 1), Condition("arm", (2,)))
        super().__init__("arms", {}, [Choice("arm", (0, 1, 2)), lever, *dials], [Position("only", ("arm",))])

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        return None


@dataclass(frozen=True)
class Worth:
    """What the arms are worth, and a little by the dials; the lever does harm."""

    arms: tuple[float, ...] = (0.0, 1.0, 0.5)
    metric: str = "worth"
    unit: str = "1"

    def predict(self, genes: Genes) -> np.ndarray:
        return np.array(self.arms)[genes[:, 0]] + 0.1 * genes[:, 2:].mean(1) - 0.2 * genes[:, 1]


def arms(*worth: float) -> Problem:
    return Problem(Arms(), [Objective.of(Worth(worth), "max")])


def played(problem: Problem, searcher: MCTS, rounds: int, seed: int = 0) -> tuple[dict[str, np.ndarray], Genes]:
    """State after so many rounds, and all networks that were told of."""
    state, told = searcher.init(problem), []
    for r in range(rounds):
        genes = searcher.ask(problem, state, searcher.batch, np.random.default_rng([seed, r]))
        told.append(genes)
        state = searcher.tell(problem, state, genes, problem.evaluate(genes))
    return state, np.concatenate(told)


def all_ways(way: _Way, tree: Any, bisect: bool, taken: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Slots of every complete way."""
    way = _Way(tree, bisect)
    for slot in taken:
        way.take(way.parts[slot])
    if not way.parts:
        assert way.left == 1
        yield taken
    sizes = [way.size(part) for part in way.parts]
    assert not sizes or sum(sizes) == way.left
    for slot in range(len(way.parts)):
        yield from all_ways(way, tree, bisect, (*taken, slot))


@pytest.mark.parametrize("bisect", [True, False])
def test_a_way_leads_to_each_network_once(tiny_space: MobileNetV3, bisect: bool) -> None:
    for space in (tiny_space, Arms(), tiny_space.restricted({"resolution": 12}), Arms().restricted({"arm": 2})):
        tree = _tree(space)
        rows = []
        for slots in all_ways(_Way(tree, bisect), tree, bisect):
            way = _Way(tree, bisect)
            for slot in slots:
                way.take(way.parts[slot])
            matter = space.active(space.canonical(np.array([way.low], np.int16)))[0]
            assert all(high - low == 1 for low, high, m in zip(way.low, way.high, matter, strict=True) if m)
            rows.append(space.canonical(np.array([way.low], np.int16))[0])
        assert len(rows) == len(np.unique(rows, axis=0)) == space.size == _Way(tree, bisect).left


def test_choices_that_do_not_matter_are_not_branched_on() -> None:
    tree = _tree(Arms())
    for arm, following in ((0, 2), (1, 2), (2, 1)):
        way = _Way(tree, False)
        way.take(way.parts[arm])
        assert way.choice == following  # a dial, or the lever
    fixed = _Way(_tree(Arms().restricted({"arm": 2, "dial.0": 1})), False)
    assert fixed.choice == 1 and fixed.left == 2 * 27


def test_many_values_are_halved(ofa_space: MobileNetV3) -> None:
    way = _Way(_tree(ofa_space), True)
    values = len(ofa_space.choices[way.choice].values)
    assert values == 25 and way.parts == [(0, 13), (13, 25)]
    way.take((13, 25))
    assert way.parts == [(13, 19), (19, 25)]
    assert len(_Way(_tree(ofa_space), False).parts) == 25


@pytest.mark.parametrize("seed", range(3))
def test_the_best_arm_is_pulled_most(seed: int) -> None:
    for best in range(3):
        worth = [0.0, 0.0, 0.0]
        worth[best] = 1.0
        _, told = played(arms(*worth), MCTS(batch=4), 15, seed)
        pulled = np.bincount(told[:, 0], minlength=3) / len(told)
        assert pulled.argmax() == best and pulled[best] > 0.55


def test_exploration_widens_the_search() -> None:
    shares = []
    for exploration in (0.0, 0.5, 100.0):
        _, told = played(arms(0.0, 1.0, 0.5), MCTS(batch=4, exploration=exploration, bisect=False), 15)
        shares.append(float((told[:, 0] == 1).mean()))
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.8 and shares[2] == pytest.approx(1 / 3, abs=0.03)


def test_the_upper_confidence_bound_decides() -> None:
    searcher, problem = MCTS(bisect=False, exploration=1.0), arms(0.0, 1.0, 0.5)
    genes = np.array([[0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0], [2, 0, 0, 0, 0, 0]], np.int16)
    state = searcher.tell(problem, searcher.init(problem), genes, problem.evaluate(genes))
    children = _children(problem.space, state)
    assert state["node"].tolist() == [1, 2, 3, 4] and state["parent"].tolist() == [0, 0, 0, 2, 0]
    assert state["depth"].tolist() == [0, 1, 1, 2, 1] and children[0].tolist() == [1, 2, 4]
    for rewards, arm in (
        ([0.0, 0.5, 0.5, 0.0], 1),  # 0.5 + sqrt(ln 4) against sqrt(2 ln 4): 1.677 and 1.665
        ([0.0, 0.4, 0.4, 0.0], 0),
        ([0.0, 0.5, 0.3, 0.5], 2),
    ):
        visits, totals = _summed_up(state, np.array(rewards)[:, None])
        assert visits.tolist() == [4, 1, 2, 1, 1]
        ways = [
            searcher._descend(problem.space, children, visits.tolist(), totals[:, 0], {}, np.random.default_rng(seed))
            for seed in range(10)
        ]
        found = {way.low[0] for way in ways if way.high[0] - way.low[0] == 1}
        assert found == ({arm} if arm else {0, 2})  # two arms are equal


def test_what_is_asked_for_counts_as_visited(rng: np.random.Generator) -> None:
    searcher, problem = MCTS(bisect=False, exploration=0.3), arms(0.0, 1.0, 0.9)
    state, _ = played(problem, MCTS(batch=4, bisect=False), 5)
    one = searcher.ask(problem, state, 1, np.random.default_rng(0))
    many = searcher.ask(problem, state, 60, np.random.default_rng(0))
    assert len(one) == 1 and set(many[:, 0].tolist()) == {0, 1, 2}


def test_rewards_are_shares_that_are_beaten() -> None:
    free = arms(0.0, 1.0, 0.5)
    values, weights = np.array([[3.0], [1.0], [2.0], [2.0]]), np.ones((2, 1))
    assert _rewards(free, values, weights).T.tolist() == [[7 / 8, 1 / 8, 1 / 2, 1 / 2]] * 2
    limited = Problem(free.space, [free.objectives[0], Objective.of(Worth(), None, 1.5)])
    both = np.array([[3.0, 1.4], [1.0, 1.5], [9.0, 3.0], [8.0, np.inf], [7.0, 1.8]])
    assert limited.violations(both).tolist() == pytest.approx([0, 0, 1, np.inf, 0.2])
    assert _rewards(limited, both, np.ones((1, 1)))[:, 0].tolist() == pytest.approx([0.9, 0.7, 0.3, 0.1, 0.5])


def test_weights_tell_which_goal_counts(small_problem: Problem, everything: Genes) -> None:
    values = small_problem.evaluate(everything)
    found = _rewards(small_problem, values, np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert values[found[:, 0].argmax(), 0] == values[:, 0].max()
    assert values[found[:, 1].argmax(), 1] == values[:, 1].min()


def test_sums_hold_all_that_is_below(digits_problem: Problem, rng: np.random.Generator) -> None:
    state, told = played(digits_problem, MCTS(), 12)
    rewards = rng.random((len(told), 3))
    visits, totals = _summed_up(state, rewards)
    below = [{node} for node in range(len(state["parent"]))]
    for node in reversed(range(1, len(below))):
        below[state["parent"][node]] |= below[node]
    for node, inside in enumerate(below):
        there = np.isin(state["node"], list(inside))
        assert visits[node] == there.sum() and totals[node] == pytest.approx(rewards[there].sum(0))
    assert visits[0] == len(told) and len(visits) == len(told) + 1  # one node for each


def test_a_branch_that_is_known_is_closed() -> None:
    problem = arms(1.0, 0.0, 0.0)
    rows = np.array([[0, 0, *dials] for dials in itertools.product(range(3), repeat=4)], np.int16)
    rows = np.concatenate([rows, np.array([[1, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0]], np.int16)])
    searcher = MCTS(exploration=0.0, bisect=False)
    state = searcher.tell(problem, searcher.init(problem), rows, problem.evaluate(rows))
    asked = searcher.ask(problem, state, 30, np.random.default_rng(0))
    assert not (asked[:, 0] == 0).any()  # though it is the best


@pytest.mark.parametrize("bisect", [True, False])
def test_a_space_is_exhausted(bisect: bool) -> None:
    problem = arms(0.0, 1.0, 0.5)
    asked = []

    class Watched(MCTS):
        def ask(self, *arguments: Any) -> Genes:
            asked.append(super().ask(*arguments))
            return asked[-1]

    found = search(problem, Watched(batch=6, bisect=bisect), evaluations=324, seed=0)
    assert found.evaluations == 324 and found.values.max() == pytest.approx(1.2)
    rows = np.concatenate(asked)
    assert len(np.unique(rows, axis=0)) > 0.6 * len(rows)


def test_networks_that_fail_do_not_hold_it_up() -> None:
    problem, searcher = arms(0.0, 1.0, 0.5), MCTS(batch=6)
    state, failed = searcher.init(problem), []
    for r in range(20):
        genes = searcher.ask(problem, state, 6, np.random.default_rng(r))
        worked = genes[genes[:, 0] != 0]  # the others are never told of
        failed.append(float((genes[:, 0] == 0).mean()))
        state = searcher.tell(problem, state, worked, problem.evaluate(worked))
    assert np.mean(failed[5:]) < 0.9


def test_values_are_drawn_by_the_mean_reward_of_the_networks_that_have_them() -> None:
    space = Arms()
    genes = np.array([[2, 1, 0, 0, 0, 0], [2, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1]], np.int16)
    rewards = np.array([[1.0, 0.0], [0.4, 0.2], [0.0, 0.9]])
    logits = MCTS(temperature=0.5)._logits(space, genes, rewards)
    assert logits.shape == (2, 6, 3)
    assert logits[0, 0].tolist() == pytest.approx([0.5 / 2 / 0.5, 0.5 / 0.5, 1.9 / 3 / 0.5])
    assert logits[1, 1].tolist() == pytest.approx([0.7 / 2 / 0.5, 0.5 / 2 / 0.5, 0])  # one has no lever
    assert not MCTS(temperature=None)._logits(space, genes, rewards).any()


def test_good_values_are_drawn_more_often() -> None:
    problem = arms(0.0, 0.0, 0.0)
    known = problem.space.sample(100, np.random.default_rng(0))
    drawn = {}
    for temperature in (None, 0.1):
        searcher = MCTS(temperature=temperature, exploration=10.0)
        state = searcher.tell(problem, searcher.init(problem), known, problem.evaluate(known))
        asked = np.concatenate([searcher.ask(problem, state, 5, np.random.default_rng(seed)) for seed in range(100)])
        drawn[temperature] = np.bincount(asked[:, 5], minlength=3) / len(asked)
    assert drawn[None] == pytest.approx(np.full(3, 1 / 3), abs=0.1)
    assert (np.diff(drawn[0.1]) > 0.05).all()


def test_it_beats_random_search(digits_problem: Problem) -> None:
    gains = []
    for seed in range(5):
        ours, random = (search(digits_problem, s, evaluations=400, seed=seed) for s in (MCTS(), RandomSearch()))
        gains.append(ours.hypervolume / random.hypervolume)
    assert np.median(gains) > 1.01 and min(gains) > 0.99


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch >= 1"),
        ({"exploration": -0.1}, "exploration >= 0"),
        ({"exploration": float("nan")}, "exploration >= 0"),
        ({"temperature": 0.0}, "`temperature` must be > 0, or null"),
        ({"temperature": -1.0}, "`temperature` must be > 0, or null"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        MCTS(**settings)  # type: ignore[arg-type]

"""Monte-Carlo tree search: a tree of what was decided, choice by choice, tells where good networks lie.

Negrinho & Gordon, "DeepArchitect: Automatically Designing and Training Deep Architectures", 2017, arXiv:1704.08792;
Kocsis & Szepesvari, "Bandit Based Monte-Carlo Planning", ECML 2006 (UCT).
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from nas.core.problem import Problem, Values
from nas.core.searcher import State, no_networks
from nas.searchers._scalar import FAR, scaled_by_front
from nas.searchers._variation import repeated
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError
from search_spaces.space import SearchSpace

TRIES = 10
"""Descents for a network that is not known yet."""

Part = tuple[int, int]
"""Values low, low + 1, ... high - 1 of a choice, by their index."""


@dataclass(frozen=True)
class MCTS:
    """Descends from choice to choice to the part whose upper confidence bound is the highest, and adds a node where it
    leaves the tree; the choices that are left are drawn.

    Choices that do not matter, given those decided, and fixed ones are not branched on. A branch all of whose networks
    were evaluated is closed. A part without a node is chosen as often as chance would choose it, not before all others:
    networks whose evaluation fails are never told of, and would be asked for without end.

    The reward of a network is the share of all networks so far that it beats, so it needs no scale. Networks that keep
    the limits beat those that do not; among the latter the excess counts, among the former the weighted sum of the
    scaled goals, with weights that each descent draws anew: so one tree serves all of the front (a scalarised upper
    confidence bound; Drugan & Nowe, "Designing multi-objective multi-armed bandits algorithms", IJCNN 2013).

    Networks that are asked for together count as visits before their values are known (Liu et al., "Watch the
    Unobserved: A Simple Approach to Parallelizing Monte Carlo Tree Search", ICLR 2020). An `ask` looks at all networks
    so far: made for thousands of evaluations.

    Args:
        batch: networks to ask for at a time; 1 in the paper.
        exploration: weight of the confidence bound's width, the paper's c.
        bisect: choices of more than two values are decided half by half, so that similar values share what is found
            (the paper's restructured tree); false: value by value.
        temperature: the choices that the tree does not decide take each value with a probability proportional to
            exp(mean reward of the networks with that value / temperature) (Finnsson & Bjornsson, "Simulation-Based
            Approach to General Game Playing", AAAI 2008); null: uniform, the paper's.
    """

    batch: int = 10
    exploration: float = 0.1
    bisect: bool = True
    temperature: float | None = 0.15

    def __post_init__(self) -> None:
        if self.batch < 1 or not 0 <= self.exploration < math.inf:
            raise InvalidValueError(f"MCTS needs batch >= 1 and exploration >= 0, but got {self}.")
        if self.temperature is not None and not self.temperature > 0:
            raise InvalidValueError(
                f"`temperature` must be > 0, or null for uniform draws, but got {self.temperature}."
            )

    def init(self, problem: Problem) -> State:
        """The tree, whose node 0 is the root: by node its ``parent``, its ``depth``, and its ``slot`` among the parts
        of the parent; and by network of ``genes`` and ``values`` the ``node`` that it has added, or else the last on
        its way.
        """
        return {
            **no_networks(problem),
            "node": np.zeros(0, np.int64),
            "parent": np.zeros(1, np.int64),
            "slot": np.zeros(1, np.int64),
            "depth": np.zeros(1, np.int64),
        }

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        space = problem.space
        goals = sum(1 for objective in problem.objectives if objective.goal)
        rewards = _rewards(problem, state["values"], rng.dirichlet(np.ones(goals), n))
        counts, totals = _summed_up(state, rewards)
        visits, children = counts.tolist(), _children(space, state)
        pending: dict[tuple[int, int], int] = {}
        logits = self._logits(space, state["genes"], rewards)
        values = np.arange(logits.shape[2])
        asked = np.zeros((n, len(space.choices)), np.int16)
        again = np.ones(n, bool)
        for _ in range(TRIES):
            rows = np.flatnonzero(again)
            ways = [self._descend(space, children, visits, totals[:, row], pending, rng) for row in rows]
            low, high = (np.array([getattr(way, end) for way in ways])[..., None] for end in ("low", "high"))
            drawn = logits[rows] + rng.gumbel(size=(len(rows), *logits.shape[1:]))  # the largest of which is a sample
            drawn[(values < low) | (values >= high)] = -np.inf
            asked[rows] = space.canonical(drawn.argmax(2).astype(np.int16))
            again = repeated(state["genes"], asked)
            if not again.any():
                break
        return asked

    def _logits(self, space: SearchSpace, genes: Genes, rewards: Values) -> Values:
        """Logits (n, choices, values) of the values of each choice, from the rewards (networks, n).

        A value counts as if one more network with it had the mean reward, 1/2.
        """
        logits = np.zeros((rewards.shape[1], len(space.choices), int(space.cardinalities.max())))
        if self.temperature is not None:
            having = space.encode(genes).astype(np.float64)  # (networks, values of all choices)
            mean = (having.T @ rewards + 0.5) / (having.sum(0)[:, None] + 1)
            choice = np.repeat(np.arange(len(space.choices)), space.cardinalities)
            value = np.concatenate([np.arange(count) for count in space.cardinalities])
            logits[:, choice, value] = mean.T / self.temperature
        return logits

    def _descend(
        self,
        space: SearchSpace,
        children: NDArray[np.int64],
        visits: list[int],
        totals: NDArray[np.float64],
        pending: dict[tuple[int, int], int],
        rng: np.random.Generator,
    ) -> _Way:
        """A way through the tree and one step out of it; its visits are added to the pending ones, by node and slot."""
        way, node = _Way(_tree(space), self.bisect), 0
        while parts := way.parts:
            known = children[node, : len(parts)].tolist()
            counts = [
                (visits[child] if child else 0) + pending.get((node, slot), 0) for slot, child in enumerate(known)
            ]
            open_slots = [slot for slot, part in enumerate(parts) if counts[slot] < way.size(part)] or range(len(parts))
            new = [slot for slot in open_slots if not known[slot]]
            if rng.random() * len(open_slots) < len(new):
                slot = min(new, key=lambda slot: (counts[slot], rng.random()))
            else:
                spread = 2 * math.log(max(1, sum(counts)))
                slot = max(
                    (slot for slot in open_slots if known[slot]),
                    key=lambda slot: (
                        totals[known[slot]] / visits[known[slot]] + self.exploration * math.sqrt(spread / counts[slot]),
                        rng.random(),
                    ),
                )
            pending[node, slot] = pending.get((node, slot), 0) + 1
            way.take(parts[slot])
            if not known[slot]:
                break
            node = known[slot]
        return way

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        node, parent, slot, depth = (state[name].tolist() for name in ("node", "parent", "slot", "depth"))
        children = dict(zip(zip(parent[1:], slot[1:], strict=True), itertools.count(1)))
        for row in genes.tolist():
            way, last = _Way(_tree(problem.space), self.bisect), 0
            while parts := way.parts:
                value = row[way.choice]
                number, part = next((i, part) for i, part in enumerate(parts) if part[0] <= value < part[1])
                way.take(part)
                before, last = last, children.setdefault((last, number), len(parent))
                if last == len(parent):  # a new one
                    parent.append(before)
                    slot.append(number)
                    depth.append(depth[before] + 1)
                    break
            node.append(last)
        return {
            "genes": np.concatenate([state["genes"], genes]),
            "values": np.concatenate([state["values"], values]),
            "node": np.array(node, np.int64),
            "parent": np.array(parent, np.int64),
            "slot": np.array(slot, np.int64),
            "depth": np.array(depth, np.int64),
        }


def _rewards(problem: Problem, values: Values, weights: Values) -> Values:
    """Share of all networks that each of them beats by each of the weights (n, goals); shape (networks, n)."""
    if not len(values):
        return np.zeros((0, len(weights)))
    violations = problem.violations(values)
    loss = scaled_by_front(problem.costs(values), violations) @ weights.T
    loss[violations > 0] = 2 * FAR + violations[violations > 0, None]
    return np.asarray(1 - (rankdata(loss, axis=0) - 0.5) / len(values))


def _summed_up(state: State, rewards: Values) -> tuple[NDArray[np.int64], Values]:
    """Visits (nodes,) and summed rewards (nodes, n) of each node, those below it included."""
    parent, depth = state["parent"], state["depth"]
    visits = np.bincount(state["node"], minlength=len(parent))
    totals = np.zeros((len(parent), rewards.shape[1]))
    np.add.at(totals, state["node"], rewards)
    for level in range(int(depth.max()), 0, -1):
        nodes = np.flatnonzero(depth == level)
        np.add.at(visits, parent[nodes], visits[nodes])
        np.add.at(totals, parent[nodes], totals[nodes])
    return visits, totals


def _children(space: SearchSpace, state: State) -> NDArray[np.int64]:
    """Node of each part of each node, shape (nodes, parts); 0: it has none."""
    children = np.zeros((len(state["parent"]), int(space.cardinalities.max())), np.int64)
    children[state["parent"][1:], state["slot"][1:]] = np.arange(1, len(children))
    return children


@dataclass(frozen=True, eq=False)
class _Tree:
    """All choices as a tree. ``first``: values that each may take. ``roots``: choices without a condition.

    ``follow``: by choice and value, the choices that come to matter. ``sums``: by choice and value, how many ways there
    are to decide the choice, with a smaller value, and all that follows.
    """

    first: list[Part]
    roots: list[int]
    follow: list[list[list[int]]]
    sums: list[list[int]]


@functools.lru_cache(maxsize=8)
def _tree(space: SearchSpace) -> _Tree:
    cards = space.cardinalities.tolist()
    first = [(0, card) for card in cards]
    for name, value in space.fixed.items():
        gene = space.choices[space.index[name]].values.index(value)
        first[space.index[name]] = gene, gene + 1
    follow: list[list[list[int]]] = [[[] for _ in range(card)] for card in cards]
    roots = []
    for number, choice in enumerate(space.choices):
        if choice.active_when is None:
            roots.append(number)
            continue
        above = space.index[choice.active_when.choice]
        for value in choice.active_when.values:
            follow[above][space.choices[above].values.index(value)].append(number)
    sums: list[list[int]] = [[] for _ in cards]
    for number in reversed(range(len(cards))):  # a choice comes before those that depend on it
        ways = [math.prod(sums[c][first[c][1]] - sums[c][first[c][0]] for c in then) for then in follow[number]]
        sums[number] = list(itertools.accumulate(ways, initial=0))
    return _Tree(first, roots, follow, sums)


class _Way:
    """Decisions from the root on. ``low``, ``high``: what values are left of each choice. ``choice``: to be decided."""

    def __init__(self, tree: _Tree, bisect: bool) -> None:
        self.tree, self.bisect = tree, bisect
        self.low, self.high = [low for low, _ in tree.first], [high for _, high in tree.first]
        self.matters = [False] * len(tree.first)
        self.left: int = 1
        self.choice = -1
        self._open(tree.roots)
        self._next()

    @property
    def parts(self) -> list[Part]:
        """Parts of the values of the choice to be decided, to take one of; none: all is decided."""
        if self.choice == len(self.low):
            return []
        low, high = self.low[self.choice], self.high[self.choice]
        if self.bisect and high - low > 2:
            middle = (low + high + 1) // 2
            return [(low, middle), (middle, high)]
        return [(value, value + 1) for value in range(low, high)]

    def size(self, part: Part) -> int:
        """Number of networks of a part."""
        sums = self.tree.sums[self.choice]
        whole = sums[self.high[self.choice]] - sums[self.low[self.choice]]
        return self.left // whole * (sums[part[1]] - sums[part[0]])

    def take(self, part: Part) -> None:
        """Decide for a part, and go on to the next choice that matters, where one value is left."""
        self.left = self.size(part)
        self.low[self.choice], self.high[self.choice] = part
        if part[1] - part[0] == 1:
            self._decided(part[0])
            self._next()

    def _open(self, choices: list[int]) -> None:
        for choice in choices:
            self.matters[choice] = True
            low, high = self.tree.first[choice]
            self.left *= self.tree.sums[choice][high] - self.tree.sums[choice][low]

    def _decided(self, value: int) -> None:
        sums = self.tree.sums[self.choice]
        self.left //= sums[value + 1] - sums[value]
        self._open(self.tree.follow[self.choice][value])

    def _next(self) -> None:
        while True:
            self.choice += 1
            if self.choice == len(self.low):
                return
            low, high = self.low[self.choice], self.high[self.choice]
            if self.matters[self.choice] and high - low > 1:
                return
            if self.matters[self.choice]:
                self._decided(low)

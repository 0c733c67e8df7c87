"""Reinforcement learning: policy gradient on MnasNet's reward.

Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", Machine Learning
8, 1992; the reward of Tan et al., "MnasNet: Platform-Aware Neural Architecture Search for Mobile", CVPR 2019, eq. 2:
accuracy * (latency / T)^w, where w is alpha up to the target T and beta beyond it.

A policy here is one categorical distribution per choice, independent of each other, in place of their recurrent
controller, and its gradient is the plain one with a baseline, in place of PPO. Since one policy converges to one
network, a search has several, each with a target of its own, and so gives a front.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.core.problem import Problem, Values
from nas.core.searcher import State
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError
from search_spaces.metric import number_text
from search_spaces.space import SearchSpace

Floats = NDArray[np.float64]

MOMENTS = (0.9, 0.999)
"""Decay of Adam's averages of the gradient and of its square (Kingma and Ba, ICLR 2015)."""

SAMPLE = 256
"""Random networks that tell between which values targets make sense."""


@dataclass(frozen=True)
class Reinforce:
    """Policies that each follow their own reward, and learn from the networks of all.

    The reward of a network is its quality, the first goal that is maximised, times (value / T)^w for every other goal,
    times 1 / (1 + v), where v is by how much it exceeds the limits. Where nothing is maximised, the quality is the
    reciprocal of the first goal.

    Args:
        batch: architectures per round, drawn from all policies in equal shares.
        policies: how many; one, where there is only one reward.
        target: T of the goal after the quality, in its unit. None: each policy has another one, from the least to the
            largest value (or the limit).
        alpha: w up to the target. MnasNet's hard form has 0, its soft one -0.07.
        beta: w beyond the target. Hard: -1; soft: -0.07. With the soft form T scales the reward and does no more, so
            without a target each policy has another w, from a tenth of it to ten times it.
        learning_rate: of Adam, on the logits.
        entropy: weight of the policy's entropy, which keeps it from settling too early.
        decay: of the moving averages of the reward (the baseline) and of its deviation from that.
    """

    batch: int = 40
    policies: int = 8
    target: float | None = None
    alpha: float = 0.0
    beta: float = -1.0
    learning_rate: float = 0.2
    entropy: float = 0.05
    decay: float = 0.8

    def __post_init__(self) -> None:
        if self.batch < 1 or self.policies < 1:
            raise InvalidValueError(
                f"`batch` and `policies` must be >= 1, but got batch={self.batch} and policies={self.policies}."
            )
        if self.target is not None and not 0 < self.target < np.inf:
            raise InvalidValueError(f"`target` must be > 0, or null for several, but got {self.target}.")
        if not self.beta <= self.alpha <= 0 or self.beta == 0:
            raise InvalidValueError(
                f"MnasNet's exponents must be beta <= alpha <= 0 and beta < 0 (hard: 0 and -1, soft: -0.07 both), but "
                f"got alpha={self.alpha} and beta={self.beta}."
            )
        if not self.learning_rate > 0 or self.entropy < 0 or not 0 <= self.decay < 1:
            raise InvalidValueError(
                f"Reinforce needs learning_rate > 0, entropy >= 0 and 0 <= decay < 1, but got "
                f"learning_rate={self.learning_rate}, entropy={self.entropy}, decay={self.decay}."
            )

    def init(self, problem: Problem) -> State:
        _, others = _goals(problem)
        single = not others or (self.target is not None and len(others) == 1)
        shape = (1 if single else self.policies, int(problem.space.cardinalities.sum()))
        rows = problem.space.sample(SAMPLE, np.random.default_rng(0))
        extremes = [problem.space.smallest.genes, problem.space.biggest.genes]
        values = problem.evaluate_cheap(np.concatenate([extremes, rows]))
        return {
            "logits": np.zeros(shape),
            "gradient": np.zeros(shape),
            "square": np.zeros(shape),
            "steps": np.array(0),
            "baseline": np.zeros(shape[0]),
            "deviation": np.zeros(shape[0]),
            "targets": self._targets(problem, values, shape[0]),
        }

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        probabilities = np.exp(_log_softmax(problem.space, state["logits"]))  # (policies, features)
        policies = len(probabilities)
        turns = (np.arange(n) + rng.integers(policies)) % policies
        rows = np.empty((n, len(problem.space.choices)), np.int16)
        for column, part in enumerate(_parts(problem.space)):
            below = rng.random((n, 1)) < probabilities[turns, part].cumsum(1)
            below[:, -1] = True  # what rounding leaves of the sum
            rows[:, column] = below.argmax(1)
        return problem.space.canonical(rows)

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        """One step of Adam on E[reward] + entropy * H(policy), for each policy."""
        space, logits = problem.space, state["logits"]
        unknown = np.isnan(state["targets"])  # of costly goals, whose first networks are a random sample
        targets = np.where(unknown, self._targets(problem, values, len(logits)), state["targets"])
        reward = self._reward(problem, values, targets)  # (policies, n)
        logs = _log_softmax(space, logits)
        probabilities = np.exp(logs)
        taken = space.encode(genes).astype(np.float64)  # (n, features)
        # The rows come from the mixture of all policies, so each weighs them by what it has of it (Veach and Guibas,
        # "Optimally combining sampling techniques", 1995, balance heuristic); weights are at most `policies`.
        densities = logs @ taken.T  # (policies, n), logarithms
        densities -= densities.max(0)
        weights = np.exp(densities)
        weights /= weights.mean(0)
        weights /= np.maximum(weights.sum(1, keepdims=True), 1e-12)
        mean = (weights * reward).sum(1)
        first = state["steps"] == 0
        baseline = mean if first else state["baseline"]
        spread = np.sqrt((weights * (reward - baseline[:, None]) ** 2).sum(1))
        deviation = spread if first else self.decay * state["deviation"] + (1 - self.decay) * spread
        advantage = weights * (reward - baseline[:, None]) / np.maximum(deviation, 1e-12)[:, None]
        chosen = np.repeat(space.active(genes), space.cardinalities, axis=1).astype(np.float64)
        ascent = advantage @ taken - (advantage @ chosen) * probabilities  # d log p / d logits = taken - p (REINFORCE)
        ascent += self.entropy * _entropy_gradient(space, logs)
        steps = int(state["steps"]) + 1
        gradient = MOMENTS[0] * state["gradient"] + (1 - MOMENTS[0]) * ascent
        square = MOMENTS[1] * state["square"] + (1 - MOMENTS[1]) * ascent**2
        step = gradient / (1 - MOMENTS[0] ** steps) / (np.sqrt(square / (1 - MOMENTS[1] ** steps)) + 1e-8)
        return {
            "logits": logits + self.learning_rate * step,
            "gradient": gradient,
            "square": square,
            "steps": np.array(steps),
            "baseline": self.decay * baseline + (1 - self.decay) * mean,
            "deviation": deviation,
            "targets": targets,
        }

    def _targets(self, problem: Problem, values: Values, policies: int) -> Floats:
        """T per policy and further goal, shape (policies, goals - 1); NaN where its values are not known yet."""
        _, others = _goals(problem)
        targets = np.full((policies, len(others)), np.nan)
        for j, column in enumerate(others):
            objective = problem.objectives[column]
            if j == 0 and self.target is not None:
                targets[:, j] = self.target
                continue
            known = values[:, column][np.isfinite(values[:, column]) & (values[:, column] > 0)]
            if not len(known):
                continue
            ends = [known.min(), known.max()]
            if objective.bound is not None and objective.bound > 0:
                within = max if objective.direction == "max" else min
                ends = [within(end, objective.bound) for end in ends]
            # Evenly over the logarithms; several goals are spread by a Kronecker sequence, so that they vary apart.
            share = (np.arange(policies) * np.sqrt(2.0 + j)) % 1 if j else np.linspace(0, 1, policies)
            targets[:, j] = np.exp(np.log(ends[0]) * (1 - share) + np.log(ends[1]) * share)
        return targets

    def _reward(self, problem: Problem, values: Values, targets: Floats) -> Floats:
        """MnasNet's eq. 2 for each policy's targets (policies, goals - 1), shape (policies, n); 0: cannot run.

        Raises:
            InvalidValueError: a goal has no value above 0, so that there is no power of it.
        """
        quality, others = _goals(problem)
        for column in (quality, *others):
            known = values[np.isfinite(values[:, column]), column]  # the others cannot run
            if len(known) and not (known > 0).any():
                raise InvalidValueError(
                    f"The reward of reinforcement learning is a product of powers, so values must be > 0, but "
                    f"{problem.objectives[column].name} is {number_text(known.max())} at most. "
                    "Choose another searcher with `searcher=`."
                )
        reward = np.ones(targets.shape[:1] + (1,)) / (1 + problem.violations(values))  # (policies, n)
        reward = reward * np.maximum(_upwards(problem, values, quality), 0)
        scale = np.ones((len(targets), 1))
        if self.target is None and self.alpha == self.beta and len(targets) > 1:
            scale = 10 ** np.linspace(-1, 1, len(targets))[:, None]
        for j, column in enumerate(others):
            upwards = np.maximum(_upwards(problem, values, column), 1e-300)  # of 0 or less no power
            least = targets[:, j, None] if problem.objectives[column].direction == "max" else 1 / targets[:, j, None]
            ratio = upwards / least  # T / value of what is minimised, so below 1 is beyond the target
            reward = reward * ratio ** -np.where(ratio >= 1, scale * self.alpha, scale * self.beta)
        return np.nan_to_num(reward, nan=0.0)  # no target is known as long as no network could run


def _goals(problem: Problem) -> tuple[int, list[int]]:
    """Columns: the quality, which is the first that is maximised or else the first; and the other goals."""
    columns = [i for i, objective in enumerate(problem.objectives) if objective.goal]
    quality = next((i for i in columns if problem.objectives[i].direction == "max"), columns[0])
    return quality, [i for i in columns if i != quality]


def _upwards(problem: Problem, values: Values, column: int) -> Floats:
    """Values (n,) of a goal so that more is better: reciprocal where it is minimised, 0 for what cannot run."""
    one = values[:, column]
    if problem.objectives[column].direction == "max":
        return np.where(np.isfinite(one), one, 0.0)
    return np.divide(1.0, one, out=np.zeros(len(one)), where=(one > 0) & np.isfinite(one))


def _parts(space: SearchSpace) -> list[slice]:
    """Each choice's columns among the features of `SearchSpace.encode`."""
    ends = np.cumsum(space.cardinalities.astype(np.int64))
    return [slice(int(end - size), int(end)) for end, size in zip(ends, space.cardinalities, strict=True)]


def _log_softmax(space: SearchSpace, logits: Floats) -> Floats:
    """Log-probabilities of each choice's values, shape (policies, features)."""
    logs = np.empty_like(logits)
    for part in _parts(space):
        shifted = logits[:, part] - logits[:, part].max(1, keepdims=True)
        logs[:, part] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return logs


def _entropy_gradient(space: SearchSpace, logs: Floats) -> Floats:
    """d/d logits of the sum of the choices' entropies: -p (log p + H), shape (policies, features)."""
    gradient = np.empty_like(logs)
    for part in _parts(space):
        terms = np.exp(logs[:, part]) * logs[:, part]
        gradient[:, part] = -terms + np.exp(logs[:, part]) * terms.sum(1, keepdims=True)
    return gradient

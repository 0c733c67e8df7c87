"""Gradient-boosted trees: good from hundreds of rows, and where a metric jumps.

Friedman, "Stochastic gradient boosting", Computational Statistics & Data Analysis 2002. scikit-learn grows the trees;
what is stored and used for prediction are plain arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from predictors.regression import Arrays, Matrix
from search_spaces.base.errors import InvalidValueError

CHUNK = 1024
"""Rows that walk through the trees together: bounds the memory."""


@dataclass(frozen=True, eq=False)
class FittedTrees:
    """Members x trees x nodes; a leaf is its own child."""

    feature: NDArray[np.int32]  # (members, trees, nodes)
    threshold: Matrix
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: Matrix  # times the learning rate
    start: Matrix  # (members,)
    depth: int

    def _members(self, features: Matrix) -> Matrix:
        """Targets by member, (members, n)."""
        members, trees, nodes = self.feature.shape
        flat = [array.reshape(-1) for array in (self.feature, self.threshold, self.left, self.right, self.value)]
        feature, threshold, left, right, value = flat
        first = (np.arange(members * trees) * nodes)[:, None]  # (trees of all members, 1)
        result = np.zeros((members, len(features)))
        for begin in range(0, len(features), CHUNK):
            part = slice(begin, begin + CHUNK)
            x = features[part].astype(np.float32).T.copy()  # scikit-learn compares single precision; (f, n)
            rows = np.arange(x.shape[1])
            node = np.broadcast_to(first, (len(first), x.shape[1]))
            for _ in range(self.depth):
                goes_left = x[feature[node], rows] <= threshold[node]
                node = first + np.where(goes_left, left[node], right[node])
            result[:, part] = value[node].reshape(members, trees, -1).sum(1) + self.start[:, None]
        return result

    def predict(self, features: Matrix) -> Matrix:
        """Targets (n,): the mean of the members."""
        return np.asarray(self._members(features).mean(0))

    def spread(self, features: Matrix) -> Matrix:
        """Standard deviation over members."""
        return np.asarray(self._members(features).std(0))

    def to_arrays(self) -> Arrays:
        return {name: np.array(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        fields = {name: arrays[name] for name in cls.__dataclass_fields__}
        return cls(depth=int(fields.pop("depth")), **fields)


@dataclass(frozen=True)
class GradientBoosting:
    """Several boosted models, each on its own random halves of the rows; their mean predicts.

    Args:
        trees: per member.
        depth: of a tree.
        learning_rate: what a tree counts.
        subsample: share of the rows that a tree sees.
        feature_share: share of the features that a split looks at.
        members: models.
        seed: of the rows and features drawn.
    """

    trees: int = 300
    depth: int = 3
    learning_rate: float = 0.05
    subsample: float = 0.5
    feature_share: float = 0.5
    members: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trees < 1 or self.depth < 1 or self.members < 2:
            raise InvalidValueError(
                f"`trees` and `depth` must be >= 1 and `members` >= 2, but got {self.trees}, {self.depth}, "
                f"{self.members}."
            )
        if not (self.learning_rate > 0 and 0 < self.subsample <= 1 and 0 < self.feature_share <= 1):
            raise InvalidValueError(
                "`learning_rate` must be > 0, `subsample` and `feature_share` in (0, 1], but got "
                f"{self.learning_rate}, {self.subsample}, {self.feature_share}."
            )

    def fit(self, features: Matrix, targets: Matrix) -> FittedTrees:
        from sklearn.ensemble import GradientBoostingRegressor

        models = [
            GradientBoostingRegressor(
                n_estimators=self.trees,
                max_depth=self.depth,
                learning_rate=self.learning_rate,
                subsample=self.subsample,
                max_features=self.feature_share,
                random_state=self.seed * self.members + member,
            ).fit(features, targets)
            for member in range(self.members)
        ]
        grown = [[stage[0].tree_ for stage in model.estimators_] for model in models]
        nodes = max(tree.node_count for member in grown for tree in member)
        shape = (self.members, self.trees, nodes)
        itself = np.broadcast_to(np.arange(nodes, dtype=np.int32), shape)
        feature, left, right = np.zeros(shape, np.int32), itself.copy(), itself.copy()
        threshold, value = np.zeros(shape), np.zeros(shape)
        for m, member in enumerate(grown):
            for t, tree in enumerate(member):
                inner = np.flatnonzero(tree.children_left >= 0)
                feature[m, t, inner], threshold[m, t, inner] = tree.feature[inner], tree.threshold[inner]
                left[m, t, inner], right[m, t, inner] = tree.children_left[inner], tree.children_right[inner]
                value[m, t, : tree.node_count] = self.learning_rate * tree.value[:, 0, 0]
        start = np.array([float(model.init_.constant_[0, 0]) for model in models])
        return FittedTrees(feature, threshold, left, right, value, start, self.depth)

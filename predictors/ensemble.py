"""The mean of several models. Where they disagree, the prediction is doubtful.

Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep ensembles", NeurIPS 2017,
section 2.4: a mixture's variance is its members' mean variance plus the variance of their means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from predictors.gradient_boosting import GradientBoosting
from predictors.kriging import Kriging
from predictors.regression import Arrays, Fitted, Matrix, Regressor, pack, unpack
from predictors.ridge import Ridge
from search_spaces.base.errors import InvalidValueError


@dataclass(frozen=True, eq=False)
class FittedEnsemble:
    """Fitted members."""

    members: tuple[Fitted, ...]

    def predict(self, features: Matrix) -> Matrix:
        """Targets (n,): the mean of the members."""
        return np.asarray(np.mean([member.predict(features) for member in self.members], 0))

    def spread(self, features: Matrix) -> Matrix:
        """Deviation of the mixture of the members."""
        means = np.array([member.predict(features) for member in self.members])  # (members, n)
        own = np.array([member.spread(features) for member in self.members])
        return np.asarray(np.sqrt((own**2).mean(0) + means.var(0)))

    def to_arrays(self) -> Arrays:
        members = {str(number): member for number, member in enumerate(self.members)}
        return {"members": np.array(len(members)), **pack(members)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        return cls(tuple(unpack(arrays, str(number)) for number in range(int(arrays["members"]))))


@dataclass(frozen=True)
class Ensemble:
    """Args:
    members: two or more regressors; they should err differently.
    """

    members: tuple[Regressor, ...] = field(default_factory=lambda: (Ridge(), GradientBoosting(), Kriging()))

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise InvalidValueError(f"An ensemble has two or more members, but got {len(self.members)}.")

    def fit(self, features: Matrix, targets: Matrix) -> FittedEnsemble:
        return FittedEnsemble(tuple(member.fit(features, targets) for member in self.members))

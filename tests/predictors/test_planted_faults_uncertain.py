"""The contract of uncertainty catches the faults that it is for."""

import numpy as np
import pytest
from numpy.typing import NDArray

from predictors.base import Values
from predictors.predictor_contract import check_uncertain
from predictors.regression import Regression
from predictors.ridge import Ridge
from search_spaces import Genes, MobileNetV3, SearchSpace


class Sound(Regression):
    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space, Ridge(), folds=2)


class Constant(Sound):
    def predict_with_std(self, genes: Genes) -> tuple[Values, Values]:
        mean, _ = super().predict_with_std(genes)
        return mean, np.full(len(genes), 0.1)


class Certain(Sound):
    def predict_with_std(self, genes: Genes) -> tuple[Values, Values]:
        mean, std = super().predict_with_std(genes)
        return mean, 0 * std


class Infinite(Sound):
    def predict_with_std(self, genes: Genes) -> tuple[Values, Values]:
        mean, std = super().predict_with_std(genes)
        return mean, np.where(self.extrapolates(genes), np.inf, std)


class AnotherMean(Sound):
    def predict_with_std(self, genes: Genes) -> tuple[Values, Values]:
        mean, std = super().predict_with_std(genes)
        return mean * 1.01, std


class ByTheBatch(Sound):
    def predict_with_std(self, genes: Genes) -> tuple[Values, Values]:
        mean, std = super().predict_with_std(genes)
        return mean, std / std.mean()


class Column(Sound):
    def predict_with_std(self, genes: Genes) -> tuple[Values, Values]:
        mean, std = super().predict_with_std(genes)
        return mean, std[:, None]


class NeverOutside(Sound):
    def extrapolates(self, genes: Genes) -> NDArray[np.bool_]:
        return super().extrapolates(genes) & False


class AlwaysOutside(Sound):
    def extrapolates(self, genes: Genes) -> NDArray[np.bool_]:
        return super().extrapolates(genes) | True


class Unfitted(Sound):
    def extrapolates(self, genes: Genes) -> NDArray[np.bool_]:
        return super().extrapolates(genes) if self.model._state else np.zeros(len(genes), bool)


def test_the_sound_one_is_sound(space: MobileNetV3, rng: np.random.Generator) -> None:
    check_uncertain(lambda: Sound(space), space, rng)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Constant, "must grow with the distance"),
        (Certain, "finite and positive"),
        (Infinite, "finite and positive"),
        (AnotherMean, "another mean than predict"),
        (ByTheBatch, "row alone differs"),
        (Column, r"float64 of shape"),
        (NeverOutside, "misses"),
        (AlwaysOutside, "flags networks of the fit"),
        (Unfitted, "extrapolates before fit"),
    ],
)
def test_a_fault_is_caught(space: MobileNetV3, rng: np.random.Generator, fault: type[Sound], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_uncertain(lambda: fault(space), space, rng)

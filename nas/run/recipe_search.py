"""Accuracy of networks by training each with a recipe of its own: what a search of architecture and recipe together
looks at.

Dai et al., "FBNetV3: Joint Architecture-Recipe Search using Predictor Pretraining", CVPR 2021, arXiv:2006.02049. Their
predictor on both, pretrained on statistics of architectures, is `predictors.mlp.pretrained_regression`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.run.retraining import of_one_network, trained_alone
from search_spaces.architecture import Architecture, Genes
from search_spaces.base.errors import InvalidValueError, UnknownNameError
from search_spaces.base.names import closest
from search_spaces.base.storage import fingerprint
from search_spaces.space import SearchSpace
from search_spaces.with_recipe import Setting, WithRecipe

if TYPE_CHECKING:
    from nas.data import Data
    from nas.supernet import TrainingSettings


class TrainedAccuracy:
    """Predicts the accuracy of networks by training each from nothing, with what its recipe says.

    Every training is kept in the folder, so that none is done twice, and one that was stopped goes on.

    Args:
        space: of the genes: with a recipe, or of networks alone.
        data: to train on; accuracies are on its validation part.
        settings: of all trainings, but for what a recipe says.
        folder: takes the trainings.
        recalibration_images: training images that BatchNorm statistics are taken from.

    Raises:
        UnknownNameError: the recipe names a setting that trainings do not have.
        InvalidValueError: a setting cannot have one of the values.
    """

    metric = "accuracy"
    unit = "1"
    costly = True
    worst = 0.0

    def __init__(
        self,
        space: SearchSpace,
        data: Data,
        settings: TrainingSettings,
        folder: str | Path,
        *,
        recalibration_images: int = 512,
    ) -> None:
        self.space, self.data, self.folder = space, data, Path(folder)
        self.settings = of_one_network(settings)
        self.recalibration_images = recalibration_images
        if isinstance(space, WithRecipe):
            for end in (space.smallest, space.biggest):
                _changed(self.settings, space.parts(end)[1])

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all that an accuracy depends on, but for the network and its recipe."""
        return fingerprint(
            [self.space.fingerprint, self.data.fingerprint, repr(self.settings), self.recalibration_images]
        )

    def predict(self, genes: Genes) -> NDArray[np.float64]:
        """Accuracy of each row: genes (n, choices) -> (n,), in [0, 1], higher is better."""
        return np.array([self._accuracy(Architecture(self.space, row)) for row in self.space.validate(genes)])

    def _accuracy(self, architecture: Architecture) -> float:
        recipe: dict[str, Setting] = {}
        if isinstance(self.space, WithRecipe):
            architecture, recipe = self.space.parts(architecture)
        settings, images = _changed(self.settings, recipe), self.recalibration_images
        return trained_alone(architecture, self.data, settings, self.folder, recalibration_images=images).accuracy


def _changed(settings: TrainingSettings, recipe: dict[str, Setting]) -> TrainingSettings:
    """Settings of a training with those of a recipe."""
    known = [field.name for field in dataclasses.fields(settings)]
    for name in recipe:
        if name not in known:
            close = closest(name, known)
            hint = f"Did you mean {close!r}?" if close else f"There are {', '.join(known)}."
            raise UnknownNameError(f"`recipe.{name}` is no setting of a training. {hint}")
    try:
        return dataclasses.replace(settings, **recipe)  # type: ignore[arg-type]
    except TypeError as error:
        raise InvalidValueError(f"A recipe has a value of a wrong kind: {error}.") from error

"""Accuracy of networks by training each from nothing, with a recipe of its own where its space has some: what a search
of architecture and recipe together looks at.

Dai et al., "FBNetV3: Joint Architecture-Recipe Search using Predictor Pretraining", CVPR 2021, arXiv:2006.02049. With
`label.by=training` these are the labels of a run, which a predictor on both is fitted to. Theirs, pretrained on
statistics of architectures, is `predictors.mlp.pretrained_regression`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.run.labelling import evaluated, gpus_each, in_worker, label_conditions, training_settings
from nas.run.networks import distinct_networks
from nas.run.retraining import by_recipe, of_one_network, retraining_settings, trained_alone
from nas.run.run_folder import Run
from search_spaces.architecture import Architecture, Genes
from search_spaces.base.storage import fingerprint
from search_spaces.space import SearchSpace
from search_spaces.with_recipe import WithRecipe

if TYPE_CHECKING:
    from nas.data import Data
    from nas.supernet import TrainingSettings


class TrainedAccuracy:
    """Predicts the accuracy of networks, or what else their task is judged by, by training each from nothing, with what
    its recipe says.

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

    costly = True

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
        self.metric, self.unit = data.task.metric.name, data.task.metric.unit
        self.direction = data.task.metric.direction
        self.settings = of_one_network(settings)
        self.recalibration_images = recalibration_images
        if isinstance(space, WithRecipe):
            for end in (space.smallest, space.biggest):
                by_recipe(self.settings, space.parts(end)[1])

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all that an accuracy depends on, but for the network and its recipe."""
        return fingerprint(
            [self.space.fingerprint, self.data.fingerprint, repr(self.settings), self.recalibration_images]
        )

    def predict(self, genes: Genes) -> NDArray[np.float64]:
        """Accuracy of each row: genes (n, choices) -> (n,)."""
        return np.array([self._accuracy(Architecture(self.space, row)) for row in self.space.validate(genes)])

    def _accuracy(self, architecture: Architecture) -> float:
        images = self.recalibration_images
        found = trained_alone(architecture, self.data, self.settings, self.folder, recalibration_images=images)
        return found.accuracy


# -- labels of a run ---------------------------------------------------------------------------------------------------


def trainings_of(run: Run) -> TrainedAccuracy:
    """The judge of a run's subnets by trainings of their own, which its folder takes."""
    settings, images = retraining_settings(run, "train-alone"), run.settings.label.recalibration_images
    return TrainedAccuracy(
        run.space, run.data, settings, run.folder / "label" / "training", recalibration_images=images
    )


def label_by_training(run: Run) -> None:
    """Train subnets from nothing, each by its own recipe where the space has some; none is trained twice."""
    settings, training = run.settings.label, training_settings(run)
    evaluated(
        run.space,
        distinct_networks(run.space, settings.subnets, run.rng("label")),
        lambda: trainings_of(run),
        run.folder / "label" / "accuracy.jsonl",
        conditions_of_labels(run),
        run.data.task.metric,
        workers=settings.workers,
        threads=training.threads or 1,
        gpus=gpus_each(training.device, settings.workers),
        make=in_worker(run, trainings_of),
    )


def conditions_of_labels(run: Run) -> Mapping[str, Any]:
    """All that the labels of a run depend on."""
    if run.settings.label.by == "supernet":
        return label_conditions(run, run.settings.label.device)
    return {"by": "training", "trainings": trainings_of(run).fingerprint}

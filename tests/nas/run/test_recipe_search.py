"""Architecture and recipe searched together: every accuracy is that of a training."""

from pathlib import Path

import numpy as np
import pytest

import nas
from nas.data import Data
from nas.run.recipe_search import TrainedAccuracy
from nas.run.retraining import of_one_network, trained_alone
from nas.searchers.smbo import SMBO
from nas.supernet import TrainingSettings
from nas.supernet.samplers import Sandwich
from predictors.mlp import pretrained_regression
from search_spaces import Architecture, MobileNetV3
from search_spaces.base.errors import UnknownNameError
from search_spaces.with_recipe import WithRecipe

TRAINING = TrainingSettings(epochs=1, batch_size=32, sampler=Sandwich(1), evaluate_every=0, threads=1)


@pytest.fixture(scope="module")
def both(small_space: MobileNetV3) -> WithRecipe:
    return WithRecipe("both", small_space, {"learning_rate": [1e-6, 0.01], "label_smoothing": [0, 0.1]})


def test_an_accuracy_is_that_of_the_network_trained_by_its_recipe(
    both: WithRecipe, small_space: MobileNetV3, few_digits: Data, tmp_path: Path
) -> None:
    judge = TrainedAccuracy(both, few_digits, TRAINING, tmp_path / "both", recalibration_images=64)
    found = judge.predict(both.biggest.genes[None])
    settings = of_one_network(TrainingSettings(**{**vars(TRAINING), "learning_rate": 0.01, "label_smoothing": 0.1}))
    alone = trained_alone(small_space.biggest, few_digits, settings, tmp_path / "alone", recalibration_images=64)
    assert found[0] == alone.accuracy
    kept = {path.stat().st_mtime_ns for path in (tmp_path / "both").rglob("checkpoint.pt")}
    assert judge.predict(both.biggest.genes[None])[0] == found[0]
    assert {path.stat().st_mtime_ns for path in (tmp_path / "both").rglob("checkpoint.pt")} == kept


def test_a_recipe_of_what_there_is_not_is_refused(small_space: MobileNetV3, few_digits: Data, tmp_path: Path) -> None:
    wrong = WithRecipe("wrong", small_space, {"learning_rat": [1, 2]})
    with pytest.raises(UnknownNameError, match="Did you mean 'learning_rate'"):
        TrainedAccuracy(wrong, few_digits, TRAINING, tmp_path)


def test_the_search_finds_the_recipe_that_trains(both: WithRecipe, few_digits: Data, tmp_path: Path) -> None:
    """At a learning rate of almost nothing no network learns."""
    judge = TrainedAccuracy(both, few_digits, TRAINING, tmp_path / "trainings", recalibration_images=64)
    searcher = SMBO(start=6, batch=2, pool=200)
    front = nas.search(both, [judge, "macs"], searcher=searcher, evaluations=10, seed=0, out=tmp_path / "run")
    best = Architecture(both, front.genes(both)[int(front.column("accuracy")[1].argmax())])
    assert both.parts(best)[1]["learning_rate"] == 0.01
    again = nas.search(both, [judge, "macs"], searcher=searcher, evaluations=10, seed=0)
    assert np.array_equal(again.genes(both), front.genes(both))


def test_a_predictor_on_both_knows_sizes_before_accuracies(both: WithRecipe) -> None:
    """Pretrained on MACs and parameters, which depend on the architecture alone."""
    make = pretrained_regression(both, rows=500, metric="accuracy", unit="1", scale="linear", seed=0)
    rows = both.sample(60, np.random.default_rng(0))
    truth = np.array([Architecture(both, row).macs for row in rows], float)
    truth = truth / truth.max() + 0.3 * rows[:, -2]  # of the architecture and of the recipe
    make.fit(rows[:40], truth[:40])
    predicted = make.predict(rows[40:])
    assert np.corrcoef(predicted, truth[40:])[0, 1] > 0.8

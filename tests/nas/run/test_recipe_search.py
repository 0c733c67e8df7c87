"""Architecture and recipe searched together: every accuracy is that of a training."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import nas
from nas.data import Data, load_data
from nas.run.labelling import known_accuracies
from nas.run.recipe_search import TrainedAccuracy
from nas.run.records import TrainedAlone
from nas.run.retraining import of_one_network, trained_alone
from nas.searchers.smbo import SMBO
from nas.supernet import TrainingSettings
from nas.supernet.samplers import Sandwich
from predictors.mlp import pretrained_regression
from search_spaces import Architecture, MobileNetV3
from search_spaces.base.errors import UnknownNameError
from search_spaces.base.storage import RecordLog, read_json, read_records, write_text
from search_spaces.loading import load_space
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


@pytest.fixture
def settings(conf_dir: Path, tmp_path: Path) -> list[str]:
    """Of a run whose space has a recipe, and whose labels are trainings."""
    conf = Path(shutil.copytree(conf_dir, tmp_path / "conf"))
    networks = yaml.safe_load((conf / "space" / "tiny.yaml").read_text())
    about = {"_target_": "search_spaces.with_recipe.WithRecipe", "name": "both", "space": networks}
    write_text(conf / "space" / "both.yaml", yaml.safe_dump({**about, "recipe": {"learning_rate": [1e-6, 0.01]}}))
    changes = [
        "label.by=training",
        "label.subnets=12",
        "label.held_out=2",
        "training.epochs=1",
        "search.baseline=false",
    ]
    return ["--config-dir", str(conf), "recipe=tiny", "space=both", *changes, f"out={tmp_path / 'run'}"]


def test_labels_of_a_run_can_be_trainings(settings: list[str], nas_command: Callable[..., Any], tmp_path: Path) -> None:
    outcome = nas_command("label", *settings, own=False)
    assert outcome.code == 0, outcome.err
    path, space = tmp_path / "run" / "label" / "accuracy.jsonl", load_space(tmp_path / "conf" / "space" / "both.yaml")
    assert isinstance(space, WithRecipe)
    known = known_accuracies(space, RecordLog(path, read_records(path)[0]))
    assert len(known) == 12
    one = next(one for one in known if space.parts(one)[1]["learning_rate"] == 0.01)
    training = TrainingSettings(epochs=1, batch_size=128, evaluate_every=0, threads=1)
    judge = TrainedAccuracy(space, load_data("digits"), training, tmp_path / "again", recalibration_images=64)
    assert judge.predict(one.genes[None])[0] == known[one]
    before = path.read_bytes()
    assert nas_command("label", *settings, own=False).code == 0 and path.read_bytes() == before
    assert nas_command("fit", *settings, own=False).code == 0 and (tmp_path / "run" / "fit" / "accuracy.npz").exists()
    plan = nas_command("run", "--plan", *settings, own=False)
    assert plan.code == 0, plan.err
    states = {words[0]: words[1:] for line in plan.out.splitlines() if len(words := line.split()) > 1}
    assert states["train"][:2] == ["not", "needed"] and states["label"][:1] == ["done"]


@pytest.mark.slow
def test_a_run_searches_architecture_and_recipe(
    settings: list[str], nas_command: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    outcome = nas_command("run", *settings, "export.weights=random", own=False)
    assert outcome.code == 0, outcome.err
    (front,) = nas.open(out).fronts.values()
    assert {network["recipe.learning_rate"] for network in front.networks} <= {"1e-06", "0.01"}
    assert nas_command("train-alone", *settings, "export.weights=random", own=False).code == 0
    (exported,) = (out / "export").glob("*/networks.json")
    trained = TrainedAlone.read(out / "train-alone" / exported.parent.name / "networks.json").networks
    space = load_space(tmp_path / "conf" / "space" / "both.yaml")
    for one in trained:
        stated = Architecture.from_json(space, read_json(exported.parent / one.folder / "architecture.json"))
        training = TrainingSettings(epochs=1, batch_size=128, evaluate_every=0, threads=1)
        judge = TrainedAccuracy(space, load_data("digits"), training, tmp_path / "again", recalibration_images=64)
        assert judge.predict(stated.genes[None])[0] == one.validation_accuracy

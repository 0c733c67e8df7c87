import dataclasses
import math
from pathlib import Path

import pytest
import yaml

from nas.supernet import Phase, TrainingSettings, training
from nas.supernet.augmentation import Affine
from nas.supernet.samplers import Sandwich
from nas.supernet.training_settings import learning_rate, of_today, spans_of
from search_spaces.base.building import build
from search_spaces.base.errors import InvalidValueError

RECIPES = Path(training.__file__).parents[1] / "conf" / "training"


def test_phases_share_the_epochs() -> None:
    phases = (Phase(share=1), Phase(share=2, learning_rate=0.5), Phase(share=1))
    spans = spans_of(TrainingSettings(epochs=8, phases=phases))
    assert [(start, stop, own.epochs, own.learning_rate) for start, stop, own, _ in spans] == [
        (0, 2, 2, 3e-3),
        (2, 6, 4, 0.5),
        (6, 8, 2, 3e-3),
    ]
    tiny = spans_of(TrainingSettings(epochs=3, phases=(Phase(share=1000), Phase(), Phase())))
    assert [(start, stop) for start, stop, *_ in tiny] == [(0, 1), (1, 2), (2, 3)]
    with pytest.raises(InvalidValueError, match="3 phases"):
        TrainingSettings(epochs=2, phases=phases)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": -1},
        {"batch_size": 1},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"weight_decay": -1.0},
        {"label_smoothing": 1.0},
        {"precision": "int8"},
        {"schedule": "linear"},
        {"ema": 1.0},
        {"accumulate": 0},
        {"clip_norm": -1.0},
        {"optimiser": "adam"},
        {"checkpoint_every": 0},
        {"threads": 0},
        {"warmup_epochs": math.nan},
    ],
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidValueError, match=next(iter(wrong))):
        TrainingSettings(**wrong)  # type: ignore[arg-type]


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    settings = TrainingSettings(epochs=10, warmup_epochs=2, learning_rate=1.0)
    rates = [learning_rate(settings, epoch / 4) for epoch in range(41)]
    assert 0 < rates[0] < 0.1 and rates[8] == pytest.approx(1.0) and rates[40] == pytest.approx(0.0)
    assert rates[:9] == sorted(rates[:9]) and rates[8:] == sorted(rates[8:], reverse=True)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_recipe_names_every_setting(path: Path) -> None:
    """What a YAML leaves out cannot be overridden on the command line."""
    recipe = yaml.safe_load(path.read_text())
    assert recipe["seed"] == "${seed}"  # the run's
    assert set(recipe) == {"_target_", *(field.name for field in dataclasses.fields(TrainingSettings))}
    settings = build("training", {**recipe, "seed": 0}, TrainingSettings)
    for name in ("sampler", "loss"):
        assert set(recipe[name]) == {"_target_", *(f.name for f in dataclasses.fields(getattr(settings, name)))}


def test_the_default_recipe_is_the_sandwich_rule() -> None:
    recipe = {**yaml.safe_load((RECIPES / "sandwich.yaml").read_text()), "seed": 0}
    made = build("training", recipe, TrainingSettings)
    assert made.sampler == Sandwich(2) and made.augment == (Affine(),)


def test_recipes_name_settings_where_they_always_were() -> None:
    recipe = {"_target_": "nas.supernet.training.TrainingSettings", "epochs": 2}
    recipe |= {"phases": [{"_target_": "nas.supernet.training.Phase", "share": 2.0}]}
    assert build("training", recipe, TrainingSettings) == TrainingSettings(epochs=2, phases=(Phase(share=2.0),))


def test_a_checkpoint_of_before_recipes_has_settings_of_today() -> None:
    two = {"distillation": False, "random_networks": 3}
    found = of_today({"settings": two, "data": "d"})
    assert found["data"] == "d" and found["settings"]["loss"] == {"kind": "Labels"}
    assert found["settings"]["sampler"] == {"kind": "Sandwich", "random": 3}
    moves = {"shift": 0.2, "rotate": 5.0, "scale": 0.0}
    assert of_today({"settings": moves})["settings"]["augment"] == [{"kind": "Affine", **moves, "outside": "black"}]
    before = [{"kind": "Affine", **moves}, {"kind": "Flip", "chance": 0.5}]
    today = [{"kind": "Affine", **moves, "outside": "black"}, {"kind": "Flip", "chance": 0.5}]
    assert of_today({"settings": {"augment": before}})["settings"]["augment"] == today
    assert of_today({"settings": dict.fromkeys(moves, 0)})["settings"]["augment"] == []

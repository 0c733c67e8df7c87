"""The groups ``accuracy`` and ``latency``: what `nas fit` fits."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predictors import CorrectedLookup, GaussianProcess, Regression, load
from predictors.mlp import FittedMlp
from search_spaces import MobileNetV3
from search_spaces.base.storage import read_json

CONF = Path(__file__).parents[2] / "nas" / "conf"
FROM_FILES = {"published", "saved"}
ACCURACY = sorted({path.stem for path in (CONF / "accuracy").glob("*.yaml")} - FROM_FILES)
LATENCY = sorted({path.stem for path in (CONF / "latency").glob("*.yaml")} - FROM_FILES)
ALIKE = {"ensemble", "gradient_boosting", "mlp"}
"""Predictors of latency that are those of accuracy, which are always tried, and take long."""
PARTS = {"gradient_boosting", "mlp_pretrained", "mlp_transferred"}
"""Predictors of accuracy that are parts or variants of others, and take long."""


def fitted(folder: Path, conf_dir: Path, which: str) -> Any:
    import yaml

    settings = yaml.safe_load((conf_dir / "space" / "tiny.yaml").read_text())
    del settings["_target_"]
    return load(folder / "fit" / which, MobileNetV3(**settings))


def of_device(folder: Path) -> str:
    (table,) = folder.glob("profile/*/table.jsonl")
    return table.parent.name


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in PARTS else []) for name in ACCURACY]
)
def test_every_accuracy_predictor_is_fitted_searched_and_reported(
    name: str, finished: Path, conf_dir: Path, nas_command: Callable[..., Any]
) -> None:
    source = []
    if name == "mlp_transferred":
        assert nas_command("fit", f"out={finished}", "accuracy=mlp").code == 0
        shutil.copy(finished / "fit" / "accuracy.npz", finished / "other.npz")
        source = [f"accuracy.source={finished / 'other.npz'}"]
    for stage in ("fit", "search"):
        done = nas_command(stage, f"out={finished}", f"accuracy={name}", *source)
        assert done.code == 0, done.err
    predictor = fitted(finished, conf_dir, "accuracy.npz")
    assert isinstance(predictor, GaussianProcess if name == "gaussian_process" else Regression)
    assert isinstance(getattr(getattr(predictor, "model", None), "fitted", None), FittedMlp) == ("mlp" in name)
    found = read_json(finished / "fit" / "quality.json")["accuracy"]
    assert found["predictor"].lower().replace(" ", "_") == name.split("_")[0] or name.startswith(("ga", "gr"))
    assert len(found["held_out"]["std"]) == len(found["held_out"]["truth"]) and 0 <= found["within_2_std"] <= 1


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in LATENCY]
)
def test_every_latency_predictor_is_fitted_and_searched(
    name: str, finished: Path, conf_dir: Path, nas_command: Callable[..., Any]
) -> None:
    more = [] if name == "lookup" else ["profile.networks=12"]
    stages = ("profile", "fit", "search") if more else ("fit", "search")
    for stage in stages:
        done = nas_command(stage, f"out={finished}", f"latency={name}", *more)
        assert done.code == 0, done.err
    device = of_device(finished)
    predictor = fitted(finished, conf_dir, f"{device}_latency.npz")
    assert isinstance(predictor, CorrectedLookup if name == "lookup" else Regression)
    found = read_json(finished / "fit" / "quality.json")["latency"][device]
    assert found["held_out"]["std"] is not None and bool(found["terms"]) == (name == "lookup")
    assert np.isfinite(found["metrics"]["mape"])


def test_a_transfer_needs_a_perceptron(finished: Path, nas_command: Callable[..., Any]) -> None:
    done = nas_command(
        "fit", f"out={finished}", "accuracy=mlp_transferred", f"accuracy.source={finished}/fit/accuracy.npz"
    )
    assert done.code == 2 and "accuracy=mlp" in done.err
    done = nas_command("fit", f"out={finished}", "accuracy=mlp_transferred")
    assert done.code == 2 and "accuracy.source" in done.err


def test_what_is_chosen_must_be_partial(finished: Path, nas_command: Callable[..., Any]) -> None:
    done = nas_command("fit", f"out={finished}", "accuracy=ridge", "accuracy._partial_=false")
    assert done.code == 2 and "accuracy" in done.err

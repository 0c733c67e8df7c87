"""Networks rated by the losses of their blocks, from the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nas
from nas.supernet import Supernet
from nas.supernet.block_rating import beginning, block_rating
from nas.supernet.losses import Blockwise
from predictors import load
from search_spaces.loading import load_space

BLOCKS = ("training=blockwise", "training.epochs=2", "training.batch_size=128", "training.evaluate_every=0")
WANTED = "search.objectives=[block_loss,latency_ms]"


def test_labelling_rates_blocks_where_they_are_the_objective(
    nas_command: Callable[..., Any], conf_dir: Path, tmp_path: Path
) -> None:
    settings = [*BLOCKS, WANTED, f"out={tmp_path}"]
    assert nas_command("train", *settings).code == 0
    outcome = nas_command("label", *settings)
    assert outcome.code == 0 and str(tmp_path / "label" / "block_loss.npz") in outcome.out, outcome.err
    assert not (tmp_path / "label" / "accuracy.jsonl").exists()
    space = load_space(conf_dir / "space" / "tiny.yaml")
    supernet, teacher = Supernet.load(space, tmp_path / "train" / "supernet.pt"), tmp_path / "train" / "checkpoint.pt"
    expected = block_rating(supernet, nas.dataset("digits"), Blockwise(), teacher=beginning(space, teacher))
    genes = space.sample(200, np.random.default_rng(0))
    found: Any = load(tmp_path / "label" / "block_loss.npz", space)
    assert np.array_equal(found.predict(genes), expected.predict(genes)) and np.isfinite(found.predict(genes)).any()
    plan = nas_command("run", "--plan", *settings)
    assert plan.code == 0, plan.err
    states = {words[0]: words[1:] for line in plan.out.splitlines() if len(words := line.split()) > 1}
    assert states["train"][:1] == states["label"][:1] == ["done"] and states["search"][:2] == ["to", "do"]


def test_blocks_are_rated_of_supernets_that_learned_by_blocks(nas_command: Callable[..., Any], tmp_path: Path) -> None:
    outcome = nas_command("run", "--plan", WANTED, f"out={tmp_path / 'run'}")
    assert outcome.code == 2 and "learns by InPlaceDistillation. Choose `training=blockwise`" in outcome.err


@pytest.mark.slow
def test_a_run_searches_by_the_loss_of_blocks(nas_command: Callable[..., Any], conf_dir: Path, tmp_path: Path) -> None:
    outcome = nas_command("run", *BLOCKS, WANTED, "search.baseline=false", f"out={tmp_path}")
    assert outcome.code == 0, outcome.err
    run = nas.open(tmp_path)
    (front,) = run.fronts.values()
    space = load_space(conf_dir / "space" / "tiny.yaml")
    rating: Any = load(tmp_path / "label" / "block_loss.npz", space)
    assert front.column("block_loss")[1] == pytest.approx(rating.predict(front.genes(space)))
    assert front.column("block_loss")[1].min() == pytest.approx(rating.minimum()[1])
    assert not (tmp_path / "label" / "accuracy.jsonl").exists() and (tmp_path / "report" / "report.html").exists()

"""A training that was stopped and gone on with is the same training, recipe by recipe, to the bit."""

import dataclasses
from pathlib import Path

import pytest
import torch

from nas.core.checkpoint import read_checkpoint
from nas.data import Data
from nas.supernet import Epoch, Phase, TrainingSettings, train
from nas.supernet.few_shot import GradientMatching
from nas.supernet.losses import AlphaDivergence, Blockwise, FrozenBiggest, InPlaceDistillation, Labels
from nas.supernet.samplers import Attentive, ConflictAware, Fair, PerformanceAware, Sandwich, SinglePath, SubnetAware
from nas.supernet.training import CHECKPOINT
from search_spaces import MobileNetV3

QUICK = TrainingSettings(epochs=4, batch_size=32, loss=Labels(), evaluate_every=0, threads=1)

RECIPES = {
    "conflict_aware": dataclasses.replace(QUICK, sampler=ConflictAware(2, levels=6)),
    "performance_aware": dataclasses.replace(
        QUICK, sampler=PerformanceAware(ConflictAware(2, levels=6), levels=6, size=2, lowest=0.3, half_life=2.0)
    ),
    "progressive_shrinking": dataclasses.replace(
        QUICK,
        ema=0.9,
        phases=(
            Phase(sampler=SinglePath(), choices={"depth*": 1, "expand*": 1}),
            Phase(loss=FrozenBiggest(), sampler=SinglePath(2), choices={"kernel*": [3, 7]}, sort=True, share=3.0),
        ),
    ),
    "single_path": dataclasses.replace(QUICK, sampler=SinglePath()),
    "fairnas": dataclasses.replace(QUICK, sampler=Fair(4)),
    "attentive": dataclasses.replace(QUICK, sampler=Attentive(1, train="worst", levels=6), loss=InPlaceDistillation()),
    "alphanet": dataclasses.replace(QUICK, sampler=Sandwich(1), loss=AlphaDivergence()),
    "subnet_aware": dataclasses.replace(QUICK, sampler=SubnetAware(choice="resolution")),
    "subnet_aware_sgd": dataclasses.replace(QUICK, sampler=SubnetAware(), optimiser="sgd", schedule="power"),
    "few_shot": dataclasses.replace(
        QUICK, sampler=SinglePath(2), phases=(Phase(), Phase(division=GradientMatching(batches=2))), ema=0.5
    ),
    "blockwise": dataclasses.replace(
        QUICK, sampler=SinglePath(), phases=(Phase(), Phase(loss=Blockwise(), choices={"resolution": [12]}))
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_resumed_recipe_is_the_same_training(name: str, space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    """It is stopped after its first epoch, and again after its third."""
    settings = RECIPES[name]
    whole = train(space, data, settings, tmp_path / "whole")
    for after in (1, 3):

        def stop(epoch: Epoch, after: int = after) -> None:
            if epoch.epoch == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(space, data, settings, tmp_path / "parts", on_epoch=stop)
    resumed = train(space, data, settings, tmp_path / "parts")
    state, expected = resumed.supernet.state_dict(), whole.supernet.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in state)
    assert [epoch.loss for epoch in resumed.history] == [epoch.loss for epoch in whole.history]
    kept, parts = (read_checkpoint(tmp_path / folder / CHECKPOINT, space)["sampler"] for folder in ("whole", "parts"))
    assert kept.keys() == parts.keys() and all(torch.equal(kept[key], parts[key]) for key in kept)
    if "step" in kept:
        assert int(kept["step"]) == 12  # 4 epochs of 3 steps

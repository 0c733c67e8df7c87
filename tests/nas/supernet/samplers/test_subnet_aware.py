"""Complexity-aware learning rates and separate momenta."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.core.checkpoint import read_checkpoint
from nas.data import Data
from nas.supernet import Phase, TrainingSettings, train
from nas.supernet.losses import Labels
from nas.supernet.region import Region
from nas.supernet.samplers import Paced, SinglePath, SubnetAware
from nas.supernet.samplers.subnet_aware import separating
from nas.supernet.training import CHECKPOINT
from nas.supernet.training_settings import learning_rate
from search_spaces import MobileNetV3
from search_spaces.base.errors import InvalidValueError

QUICK = TrainingSettings(
    epochs=2, batch_size=32, loss=Labels(), evaluate_every=0, threads=1, optimiser="sgd", learning_rate=0.1
)


def test_the_rate_of_small_networks_falls_sooner(space: MobileNetV3) -> None:
    sampler, region = SubnetAware(steepest=4.0), Region(space)
    state = sampler.init(region)
    assert isinstance(sampler, Paced) and not isinstance(SinglePath(), Paced)
    assert sampler.decay(region, state, [space.smallest]) == pytest.approx(4.0)
    assert sampler.decay(region, state, [space.biggest]) == pytest.approx(1 / 4)
    middle = region.draw(1, np.random.default_rng(0))[0]
    low, high = math.log(space.smallest.params), math.log(space.biggest.params)
    share = (math.log(middle.params) - low) / (high - low)
    assert sampler.decay(region, state, [middle]) == pytest.approx(4 - 3.75 * share)
    settings = dataclasses.replace(QUICK, epochs=10, warmup_epochs=0, schedule="power", power=1.0)
    assert [learning_rate(settings, 5, decay) for decay in (4.0, 1.0, 0.25)] == pytest.approx(
        [0.1 * 0.5**4, 0.1 * 0.5, 0.1 * 0.5**0.25]
    )
    assert learning_rate(settings, 0, 4.0) == learning_rate(settings, 0, 0.25) == 0.1


def test_with_one_momentum_and_one_rate_it_is_single_path(space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    plain = train(space, data, dataclasses.replace(QUICK, sampler=SinglePath()), tmp_path / "plain")
    same = dataclasses.replace(QUICK, sampler=SubnetAware(steepest=1.0, separate=False))
    aware = train(space, data, same, tmp_path / "aware")
    for name, value in plain.supernet.state_dict().items():
        assert torch.equal(value, aware.supernet.state_dict()[name])
    assert [epoch.learning_rate for epoch in plain.history] == [epoch.learning_rate for epoch in aware.history]


def test_each_group_has_the_momentum_of_its_own_gradients(space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    """Where all networks are of one group, the other one's optimiser has never stepped."""
    sampler = SubnetAware(steepest=1.0, choice="resolution")
    one = dataclasses.replace(QUICK, sampler=sampler, phases=(Phase(choices={"resolution": [12]}),))
    train(space, data, one, tmp_path / "one")
    content = read_checkpoint(tmp_path / "one" / CHECKPOINT, space)
    (other,) = content["further_optimisers"]
    assert not content["optimiser"]["state"] and other["state"]

    both = train(space, data, dataclasses.replace(QUICK, sampler=sampler), tmp_path / "both")
    content = read_checkpoint(tmp_path / "both" / CHECKPOINT, space)
    states = [content["optimiser"]["state"], content["further_optimisers"][0]["state"]]
    shared = states[0].keys() & states[1].keys()
    assert shared and any(
        not torch.equal(states[0][key]["momentum_buffer"], states[1][key]["momentum_buffer"]) for key in shared
    )
    mixed = train(
        space,
        data,
        dataclasses.replace(QUICK, sampler=dataclasses.replace(sampler, separate=False)),
        tmp_path / "mixed",
    )
    assert mixed.history[1].loss != both.history[1].loss


def test_the_separating_choice(space: MobileNetV3) -> None:
    column = separating(space, None)
    assert space.choices[column].active_when is None
    assert len(space.choices[column].values) == max(len(c.values) for c in space.choices if c.active_when is None)
    assert separating(space, "depth.2") == space.index["depth.2"]
    with pytest.raises(InvalidValueError, match="`choice`.*resolution.*'colour'"):
        separating(space, "colour")
    with pytest.raises(InvalidValueError, match="`steepest`.*0.5"):
        SubnetAware(steepest=0.5)

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nas.supernet.region import Region
from nas.supernet.samplers import Attentive
from nas.supernet.samplers.complexity import Levels
from predictors import params
from predictors.position_table import PositionTable
from predictors.saving import save
from search_spaces import Architecture, MobileNetV3
from search_spaces.base.errors import InvalidValueError, StorageError


class Losses:
    """Losses that fall with the number of parameters; what was asked for is remembered."""

    def __init__(self, space: MobileNetV3) -> None:
        self.params = params(space)
        self.asked: list[list[Architecture]] = []

    def __call__(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        self.asked.append(list(architectures))
        return -self.params.predict(np.stack([one.genes for one in architectures]))


def test_the_best_or_the_worst_of_a_level_is_trained(space: MobileNetV3) -> None:
    region = Region(space)
    for train in ("best", "worst"):
        sampler, probe = Attentive(random=3, train=train, candidates=5, levels=8), Losses(space)  # type: ignore[arg-type]
        state = sampler.init(region)
        for seed in range(5):
            asked = len(probe.asked)
            drawn = sampler.draw(region, state, np.random.default_rng(seed), probe)
            assert drawn[:2] == [space.biggest, space.smallest] and len(drawn) == 5
            assert len(probe.asked) >= asked + 2  # a rare level can have one network alone
            for candidates in probe.asked[asked:]:
                genes = np.stack([one.genes for one in candidates])
                assert len(genes) <= 5 and len(set(Levels.from_state(state).numbers(region, genes).tolist())) == 1
                known = probe.params.predict(genes)
                wanted = candidates[int(known.argmax() if train == "best" else known.argmin())]  # the loss falls
                assert wanted in drawn[2:]


def test_levels_are_drawn_as_often_as_random_networks_have_them(space: MobileNetV3) -> None:
    region, sampler = Region(space), Attentive(random=1, candidates=1, levels=4)
    state, rng, probe = sampler.init(region), np.random.default_rng(0), Losses(space)
    drawn = [sampler.draw(region, state, rng, probe)[2].genes for _ in range(400)]
    random = space.sample(4000, np.random.default_rng(1))
    levels = Levels.from_state(state)
    shares = [np.bincount(levels.numbers(region, np.stack(list(genes))), minlength=4) for genes in (drawn, random)]
    np.testing.assert_allclose(shares[0] / 400, shares[1] / 4000, atol=0.08)
    assert not probe.asked  # one candidate needs no ranking


def test_a_predictor_ranks_candidates_without_a_forward_pass(space: MobileNetV3, tmp_path: Path) -> None:
    accuracy = PositionTable.of_layers(space, "accuracy", "1", lambda layer: 1e-6 * layer.params)
    save(accuracy, space, tmp_path / "accuracy.npz")
    region, probe = Region(space), Losses(space)
    by_loss = Attentive(random=2, candidates=5, levels=8)
    by_predictor = Attentive(random=2, candidates=5, levels=8, predictor=str(tmp_path / "accuracy.npz"))
    state = by_predictor.init(region)
    for seed in range(5):
        one, other = (s.draw(region, state, np.random.default_rng(seed), probe) for s in (by_loss, by_predictor))
        assert one == other  # the higher accuracy is the lower loss
    assert len(probe.asked) == 10  # of the losses alone
    with pytest.raises(StorageError):
        Attentive(predictor=str(tmp_path / "none.npz")).init(region)


def test_a_region_is_kept_to(space: MobileNetV3) -> None:
    region, sampler = Region(space, {"expand*": [1, 2]}), Attentive(random=4)
    for network in sampler.draw(region, sampler.init(region), np.random.default_rng(0), Losses(space)):
        assert all(value != 4 for name, value in network.values.items() if name.startswith("expand"))


def test_a_probe_costs_a_third_of_a_training() -> None:
    assert Attentive(random=2, candidates=3).per_step == pytest.approx(6)
    assert Attentive(random=2, candidates=1).per_step == Attentive(random=2, predictor="file.npz").per_step == 4
    with pytest.raises(InvalidValueError, match="candidates"):
        Attentive(candidates=0)

"""Performance-aware sampling: a bank of good networks, and an exploration that falls."""

import numpy as np
import pytest

from nas.supernet.region import Region
from nas.supernet.samplers import ConflictAware, PerformanceAware, SinglePath, State
from nas.supernet.samplers.complexity import Levels
from search_spaces import Architecture, MobileNetV3
from search_spaces.base.errors import InvalidValueError


def no_probe(networks: object) -> np.ndarray:
    raise AssertionError("losses are those of the steps")


def steps_of(
    sampler: PerformanceAware, region: Region, steps: int, seed: int = 0
) -> tuple[list[list[Architecture]], State]:
    """Networks of steps whose loss is the share of 3x3 kernels, and the memory at the end."""
    rng, state, found = np.random.default_rng(seed), sampler.init(region), []
    for _ in range(steps):
        found.append(sampler.draw(region, state, rng, no_probe))
        state = sampler.tell(region, state, found[-1], [loss_of(network) for network in found[-1]])
    return found, state


def loss_of(network: Architecture) -> float:
    kernels = [value for name, value in network.values.items() if name.startswith("kernel")]
    return kernels.count(3) / len(kernels)


def test_exploration_falls_to_its_lowest() -> None:
    sampler = PerformanceAware(lowest=0.2, half_life=100)
    assert [sampler.exploration(step) for step in (0, 100, 200)] == pytest.approx([1.0, 0.6, 0.4])
    assert sampler.exploration(10_000) == pytest.approx(0.2)


def test_good_networks_are_trained_more_often(space: MobileNetV3) -> None:
    region = Region(space)
    drawn, state = steps_of(PerformanceAware(SinglePath(), levels=6, size=4, lowest=0.1, half_life=50), region, 400)
    losses = np.array([loss_of(step[0]) for step in drawn])
    assert losses[300:].mean() < 0.5 * losses[:50].mean()
    bank, kept = state["bank"].astype(np.int16), state["losses"].astype(float)
    for level in range(len(bank)):
        known = np.isfinite(kept[level])
        assert [loss_of(Architecture(space, row)) for row in bank[level][known]] == pytest.approx(kept[level][known])
        assert len({row.tobytes() for row in bank[level][known]}) == known.sum(), "no network is kept twice"
        assert (Levels.from_state(state).numbers(region, bank[level][known]) == level).all()


def test_all_explores_while_the_bank_is_not_used(space: MobileNetV3) -> None:
    region, inner = Region(space), SinglePath(2)
    drawn, _ = steps_of(PerformanceAware(inner, lowest=1.0), region, 5)
    rng = np.random.default_rng(0)
    expected = []
    for _ in range(5):
        expected.append(inner.draw(region, {}, rng, no_probe))
        rng.random(2)  # whether to explore
    assert drawn == expected


def test_the_bound_of_complexity_is_kept(space: MobileNetV3) -> None:
    region = Region(space)
    sampler = PerformanceAware(ConflictAware(networks=2, levels=8), levels=8, lowest=0.0, half_life=5)
    drawn, state = steps_of(sampler, region, 60)
    costs = np.array([[network.macs for network in step] for step in drawn])
    between = np.abs(costs[1:, :, None] - costs[:-1, None, :])
    assert between.max() <= 2 * Levels.of(region, 8).width
    assert int(state["inner.step"]) == int(state["step"]) == 60


def test_a_loss_that_is_taken_anew_replaces_the_old_one(space: MobileNetV3) -> None:
    region, sampler = Region(space), PerformanceAware(size=2, levels=1)
    one, two, three = region.draw(3, np.random.default_rng(4))
    state = sampler.init(region)
    for network, loss in ((one, 0.5), (two, 0.7), (one, 0.9), (three, 0.8)):
        state = sampler.tell(region, state, [network], [loss])
    kept = {row.tobytes(): loss for row, loss in zip(state["bank"][0], state["losses"][0], strict=True)}
    assert kept == {two.genes.tobytes(): 0.7, three.genes.tobytes(): 0.8}


def test_wrong_settings_are_refused() -> None:
    for name, value in (("size", 0), ("levels", 0), ("lowest", 1.5), ("half_life", 0.0)):
        with pytest.raises(InvalidValueError, match=f"`{name}`"):
            PerformanceAware(**{name: value})  # type: ignore[arg-type]

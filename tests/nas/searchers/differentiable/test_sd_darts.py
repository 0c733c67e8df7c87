"""Self-distillation: who the teachers are, what they say, and that the supernet changes less."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from nas.searchers.differentiable.base import GradientRun, GradientSearch, detached
from nas.searchers.differentiable.sd_darts import SDDARTS
from search_spaces.base.errors import InvalidValueError

Planted = Any


def start(planted: Planted, method: type[GradientSearch] = SDDARTS, **settings: Any) -> GradientRun:
    chosen = {"latency": {"form": "none"}, "learning_rate": 0.05, **settings}
    return GradientRun(planted.problem(), method(**planted.settings(**chosen)))


def steps(run: GradientRun, n: int) -> list[torch.Tensor]:
    """Train n steps of the weights, the logits changed by hand; what the supernet gives before each, (256, classes)."""
    part = run.method.data.train
    images, labels = part.images[:256], part.labels[:256]
    given = []
    for k in range(n):
        rows = slice(32 * k % 256, 32 * k % 256 + 32)
        with torch.no_grad():
            run.logits["kernel.first"][k % 3] += 0.1
            weights = detached(run.method.mixture(run, run.logits, 0.0))
            given.append(run.relaxed(images, weights).softmax(1))
        run.method.step(run, (images[rows], labels[rows]), (images[rows], labels[rows]), 0.0, False)
    return given


@pytest.mark.parametrize(("interval", "voters"), [(1, [3, 4]), (2, [2, 4]), (4, [0, 4])])
def test_the_vote_is_the_mean_of_the_last_teachers(planted: Planted, interval: int, voters: list[int]) -> None:
    """Before step 5 they are the supernets before these steps, unchanged by what was trained since."""
    run = start(planted, teachers=2, interval=interval)
    given = steps(run, 5)
    vote = run.extra["teachers"].vote(run, run.method.data.train.images[:256], 1.0)
    torch.testing.assert_close(vote, (given[voters[0]] + given[voters[1]]) / 2)
    assert not torch.allclose(given[voters[0]], given[voters[1]], atol=1e-4)


def test_the_loss_has_the_distance_from_the_vote(planted: Planted) -> None:
    """CE + strength * T^2 * KL(vote || student), written out."""
    run = start(planted, strength=3.0, temperature=2.0)
    images, labels = run.method.data.train.images[:32], run.method.data.train.labels[:32]
    steps(run, 2)
    with torch.no_grad():
        vote = run.extra["teachers"].vote(run, images, 2.0)
        z = run.relaxed(images, detached(run.method.mixture(run, run.logits, 0.0)))
        distance = (vote * (vote.log() - (z / 2).log_softmax(1))).sum(1).mean()
        wanted = functional.cross_entropy(z, labels) + 3 * 4 * distance
    assert float(distance) > 0
    given = run.method.step(run, (images, labels), (images, labels), 0.0, False)
    assert given == pytest.approx(float(wanted), abs=1e-5)


def test_without_strength_it_is_darts(planted: Planted) -> None:
    runs = [start(planted, GradientSearch), start(planted, SDDARTS, strength=0.0)]
    for run in runs:
        run.generator.manual_seed(0)
        batch = run.method.data.train.images[:32], run.method.data.train.labels[:32]
        for _ in range(4):
            run.method.step(run, batch, batch, 0.5, True)
    for name in runs[0].logits:
        assert torch.equal(runs[0].logits[name], runs[1].logits[name])
    for first, second in zip(runs[0].relaxed.parameters(), runs[1].relaxed.parameters(), strict=True):
        assert torch.equal(first, second)


def test_the_supernet_changes_less_from_step_to_step(planted: Planted) -> None:
    """What the distance is for: the mean KL between supernets that follow each other."""
    changes = {}
    for strength in (0.0, 10.0):
        given = steps(start(planted, strength=strength), 14)[4:]
        pairs = zip(given, given[1:], strict=False)
        changes[strength] = sum(float((a * (a.log() - b.log())).sum(1).mean()) for a, b in pairs)
    assert changes[10.0] < 0.8 * changes[0.0]


def test_settings_are_checked(planted: Planted) -> None:
    for wrong in ({"teachers": 0}, {"interval": 0}, {"strength": -1.0}, {"temperature": 0.0}):
        with pytest.raises(InvalidValueError, match=f"`{next(iter(wrong))}`"):
            start(planted, **wrong)

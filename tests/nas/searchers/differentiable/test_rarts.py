"""Two copies of the weights: what each step descends, and what it learns from."""

from typing import Any

import pytest
import torch
from torch import nn

from nas.searchers.differentiable.base import GradientRun
from nas.searchers.differentiable.rarts import RARTS, distance
from search_spaces.base.errors import InvalidValueError

Planted = Any
Half = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture
def halves(planted: Planted) -> tuple[Half, Half]:
    part = planted.data.train
    return (part.images[:64], part.labels[:64]), (part.images[64:128], part.labels[64:128])


def start(planted: Planted, **settings: Any) -> GradientRun:
    method = RARTS(**planted.settings(latency={"form": "none"}, learning_rate=0.05, **settings))
    return GradientRun(planted.problem(), method)


def flat(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_the_distance_pulls_the_first_copy_only() -> None:
    first, second = nn.Linear(2, 1), nn.Linear(2, 1)
    for module, value in ((first, 1.0), (second, 3.0)):
        for parameter in module.parameters():
            nn.init.constant_(parameter, value)
    found = distance(first, second)
    found.backward()  # type: ignore[no-untyped-call]
    assert float(found.detach()) == 12
    assert [parameter.grad is None for parameter in second.parameters()] == [True, True]
    assert all(bool((parameter.grad == -4).all()) for parameter in first.parameters())


def test_each_copy_learns_from_its_half_and_they_pull_on_each_other(
    planted: Planted, halves: tuple[Half, Half]
) -> None:
    """One step without momentum, by hand: w, then y with the new w (Gauss-Seidel)."""
    settings = {"strength": 2.0, "penalty": 4.0, "weight_decay": 0.0}
    run = start(planted, **settings)
    y, train, validation = run.extra["y"], *halves
    with torch.no_grad():
        for parameter in y.parameters():
            parameter.add_(0.01)
    weights = {name: values.softmax(0).detach() for name, values in run.logits.items()}
    w0, y0, lr = flat(run.relaxed), flat(y), 0.05
    of_w = torch.autograd.grad(run.task_loss(train, weights), list(run.relaxed.parameters()), allow_unused=True)
    of_y = torch.autograd.grad(run.task_loss(validation, weights, y), list(y.parameters()), allow_unused=True)

    def joined(gradients: Any, module: nn.Module) -> torch.Tensor:
        pairs = zip(gradients, module.parameters(), strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])

    def clipped(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * min(1.0, 5.0 / float(gradient.norm()))

    w1 = w0 - lr * clipped(2.0 * joined(of_w, run.relaxed) + 4.0 * (w0 - y0))
    y1 = y0 - lr * clipped(joined(of_y, y) + 4.0 * (y0 - w1))
    run.method.step(run, train, validation, 0.0, False)
    torch.testing.assert_close(flat(run.relaxed), w1, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(flat(y), y1, atol=1e-5, rtol=1e-4)


def test_logits_descend_the_losses_of_both_copies(
    planted: Planted, halves: tuple[Half, Half], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(planted, strength=3.0)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(run, "descend_logits", seen.append)
    run.method.step(run, *halves, 0.0, True)
    (loss,) = seen
    weights = {name: values.softmax(0) for name, values in run.logits.items()}
    wanted = run.task_loss(halves[1], weights, run.extra["y"]) + 3 * run.task_loss(halves[0], weights)
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), abs=1e-5)


def test_a_stronger_penalty_keeps_the_copies_together(planted: Planted, halves: tuple[Half, Half]) -> None:
    apart = []
    for penalty in (0.01, 1.0):
        run = start(planted, penalty=penalty)
        for _ in range(15):
            run.method.step(run, *halves, 0.0, True)
        apart.append(float(distance(run.relaxed, run.extra["y"]).detach()))
    assert 0 < apart[1] < 0.5 * apart[0]


def test_settings_are_checked(planted: Planted) -> None:
    for wrong in ({"strength": 0.0}, {"penalty": 0.0}, {"penalty": 11.0, "learning_rate": 0.025}):
        with pytest.raises(InvalidValueError, match=f"`{next(iter(wrong))}`"):
            RARTS(**planted.settings(**wrong))

"""DARTS: the gradient through one step of the weights, against automatic differentiation of that step."""

from typing import Any

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional

from nas.searchers.differentiable.base import Batch, GradientRun
from nas.searchers.differentiable.darts import DARTS, unrolled_gradients
from search_spaces.base.errors import InvalidValueError

Planted = Any


def warmed_up(planted: Planted, **changes: Any) -> GradientRun:
    """After one epoch, so that there is momentum; in double precision, so that differences can be exact."""
    run = GradientRun(planted.problem(), DARTS(**planted.settings(images=128, **changes)))
    run.relaxed.double()
    prepared = run.prepared
    run.prepared = lambda images, targets: prepared(images.double(), targets)  # type: ignore[method-assign]
    run.logits = {name: values.detach().double().requires_grad_() for name, values in run.logits.items()}
    run.epoch(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for values in run.logits.values():
            values.copy_(torch.randn(values.shape, generator=generator))
    return run


def batch(run: GradientRun, first: int, last: int) -> Batch:
    """Images of the search, in its order."""
    return run.prepared(*run.method.data.train.take(run._order[first:last]))


def test_second_order_gradient_is_that_of_the_unrolled_step(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equation 7, with the weights after a step of SGD with momentum and weight decay as a function of the logits."""
    run = warmed_up(planted)
    group = run.weight_optimiser.param_groups[0]
    train, validation = batch(run, 0, 32), batch(run, 64, 96)
    before = {name: tensor.detach().clone() for name, tensor in run.relaxed.named_parameters()}
    nearly = unrolled_gradients(run, train, validation, 0.0)
    monkeypatch.setattr("nas.searchers.differentiable.darts.DISTANCE", 1e-6)
    found = unrolled_gradients(run, train, validation, 0.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in run.relaxed.named_parameters())

    mixture = run.method.mixture(run, run.logits, 0.0)
    loss = functional.cross_entropy(run.relaxed(train[0], mixture), train[1])
    weights = dict(run.relaxed.named_parameters())
    gradients = torch.autograd.grad(
        loss, list(weights.values()), create_graph=True, allow_unused=True, materialize_grads=True
    )
    moved = {}
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        past = run.weight_optimiser.state[weight].get("momentum_buffer", torch.zeros_like(weight))
        step = gradient + group["weight_decay"] * weight + group["momentum"] * past
        moved[name] = weight - group["lr"] * step
    output = functional_call(run.relaxed, moved, (validation[0], mixture))
    unrolled = run.with_latency(functional.cross_entropy(output, validation[1]))
    exact = torch.autograd.grad(unrolled, list(run.logits.values()))
    loss = run.loss(validation, run.method.mixture(run, run.logits, 0.0))
    first = torch.autograd.grad(loss, list(run.logits.values()))
    for name, truth, plain in zip(found, exact, first, strict=True):
        implicit = float((truth - plain).norm())  # what the first order lacks
        assert float((nearly[name] - truth).norm()) < 0.1 * implicit
        assert float((found[name] - truth).norm()) < 1e-3 * implicit


def test_first_order_gradient_is_that_of_the_validation_loss(planted: Planted) -> None:
    run = warmed_up(planted, architecture_rate=1e-6, architecture_decay=0.0)
    train, validation = batch(run, 0, 32), batch(run, 64, 96)
    logits = list(run.logits.values())
    truth = torch.autograd.grad(run.loss(validation, run.method.mixture(run, run.logits, 0.5)), logits)
    weights = [weight.detach().clone() for weight in run.relaxed.parameters()]
    run.method.step(run, train, validation, 0.5, True)
    for values, gradient in zip(run.logits.values(), truth, strict=True):
        assert values.grad is not None
        torch.testing.assert_close(values.grad, gradient, rtol=1e-6, atol=1e-9)
    assert any(not torch.equal(a, b) for a, b in zip(weights, run.relaxed.parameters(), strict=True))


def test_second_order_finds_the_planted_optimum(planted: Planted) -> None:
    assert planted.run(DARTS, order="second", epochs=6).answer().tolist() == planted.best.tolist()


def test_orders_differ_only_once_the_search_begins(planted: Planted) -> None:
    first, second = (
        GradientRun(planted.problem(), DARTS(**planted.settings(images=128, order=order)))
        for order in ("first", "second")
    )
    assert first.epoch(0) == second.epoch(0)
    first.epoch(1)
    second.epoch(1)
    assert any(not torch.equal(values, second.logits[name]) for name, values in first.logits.items())


def test_another_order_is_refused(planted: Planted) -> None:
    with pytest.raises(InvalidValueError, match="`order` must be first or second, but got 'third'"):
        DARTS(**planted.settings(order="third"))

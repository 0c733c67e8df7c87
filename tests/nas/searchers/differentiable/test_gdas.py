from typing import Any

import pytest
import torch

from nas.searchers.differentiable.base import GradientRun
from nas.searchers.differentiable.gdas import GDAS, straight_through
from search_spaces.base.errors import InvalidValueError

Planted = Any


def test_a_draw_is_one_hot_with_the_gradient_of_the_softmax() -> None:
    logits = torch.tensor([0.3, 1.2, -0.5], dtype=torch.float64, requires_grad=True)
    upstream = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for temperature in (0.1, 1.0, 10.0):
        drawn = straight_through(logits, temperature)
        assert drawn.tolist() == [0, 1, 0]  # exactly, or all layers would be run
        (found,) = torch.autograd.grad(drawn @ upstream, logits)
        (expected,) = torch.autograd.grad((logits / temperature).softmax(0) @ upstream, logits)
        torch.testing.assert_close(found, expected)


def test_draws_follow_the_softmax_of_the_logits(planted: Planted) -> None:
    """The Gumbel-max trick, whatever the temperature."""
    run = GradientRun(planted.problem(), GDAS(**planted.settings()))
    run.generator.manual_seed(0)
    with torch.no_grad():
        run.logits["kernel.first"].copy_(torch.tensor([0.0, 1.0, 2.0]))
    drawn = [run.method.mixture(run, run.logits, progress)["kernel.first"].detach() for progress in (0.0, 1.0) * 2000]
    expected = run.logits["kernel.first"].detach().softmax(0)
    torch.testing.assert_close(torch.stack(drawn).mean(0), expected, rtol=0, atol=0.03)


def test_only_one_network_is_run(planted: Planted) -> None:
    run = GradientRun(planted.problem(), GDAS(**planted.settings()))
    run.generator.manual_seed(0)
    mix, ran = run.relaxed.mix, []

    def watch(x: Any, weights: Any, layers: Any) -> Any:
        counted = [lambda x, layer=layer: (ran.append(1), layer(x))[1] for layer in layers]
        return mix(x, weights, counted)

    run.relaxed.mix = watch
    for _ in range(5):
        run.task_loss(run.prepared(*planted.data.train.take(torch.arange(8))), run.method.mixture(run, run.logits, 0.5))
    assert len(ran) == 5 * 3


def test_temperature_falls_linearly(planted: Planted) -> None:
    """The sharper the softmax, the larger the gradient at a tie."""
    run = GradientRun(planted.problem(), GDAS(**planted.settings(temperature=8.0, final_temperature=2.0)))
    for progress, temperature in ((0.0, 8.0), (0.5, 5.0), (1.0, 2.0)):
        run.generator.manual_seed(3)
        mixture = run.method.mixture(run, run.logits, progress)["kernel.first"]
        run.generator.manual_seed(3)
        uniform = torch.rand(3, generator=run.generator)
        (found,) = torch.autograd.grad(mixture[0], run.logits["kernel.first"])
        soft = (-(-uniform.log()).log() / temperature).softmax(0)
        expected = soft[0] * (torch.tensor([1.0, 0.0, 0.0]) - soft) / temperature
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("changes", [{"final_temperature": 0.0}, {"temperature": 0.05}])
def test_wrong_temperatures_are_refused(planted: Planted, changes: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match="`final_temperature` must be > 0 and at most `temperature`"):
        GDAS(**planted.settings(**changes))

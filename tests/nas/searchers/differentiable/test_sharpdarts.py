from typing import Any

import pytest
import torch

from nas.searchers.differentiable.base import GradientRun
from nas.searchers.differentiable.sharpdarts import SharpDARTS, cosine_power, max_w
from search_spaces.base.errors import InvalidValueError

Planted = Any


def test_the_strongest_counts_in_full() -> None:
    """1 - max + w: 1, 0.8 and 0.7 of these weights, scaled to add up to 1."""
    found = max_w(torch.tensor([0.5, 0.3, 0.2]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.8, 0.7]) / 2.5)
    torch.testing.assert_close(max_w(torch.full((4,), 0.25)), torch.full((4,), 0.25))
    assert max_w(torch.tensor([0.0, 1.0, 0.0])).tolist() == [0, 1, 0]


def test_both_the_mixture_and_the_latency_count_so(planted: Planted) -> None:
    run = GradientRun(planted.problem(), SharpDARTS(**planted.settings()))
    with torch.no_grad():
        for values in run.logits.values():
            values.copy_(torch.tensor([0.5, 0.3, 0.2]).log())
    expected = torch.tensor([1.0, 0.8, 0.7]) / 2.5
    for weights in (run.probabilities(), run.method.mixture(run, run.logits, 0.5)):
        for values in weights.values():
            torch.testing.assert_close(values.detach(), expected)
    latency = 2 + 2 * (0.8 + 2 * 0.7) / 2.5
    assert float(run.expected_latency(run.probabilities()).detach()) == pytest.approx(latency)


def test_cosine_power_lies_between_a_cosine_and_an_exponential() -> None:
    """(p^(c + 1) - p) / (p^2 - p), c the cosine's share: for p = 10 half-way it is (10^1.5 - 10) / 90."""
    for power in (1.0, 2.0, 10.0):
        assert cosine_power(0, power) == pytest.approx(1) and cosine_power(1, power) == pytest.approx(0)
    assert cosine_power(0.5, 1) == pytest.approx(0.5)
    assert cosine_power(0.5, 1 + 1e-9) == pytest.approx(0.5, abs=1e-5)
    assert cosine_power(0.5, 10) == pytest.approx((10**1.5 - 10) / 90)


def test_the_weights_learn_at_that_rate(planted: Planted) -> None:
    method = SharpDARTS(**planted.settings(power=10.0, least_rate=0.1, epochs=4, images=128))
    assert method.rate(0) == pytest.approx(0.02) and method.rate(1) == pytest.approx(0.002)
    run = GradientRun(planted.problem(), method)
    run.epoch(2)
    rate = run.weight_optimiser.param_groups[0]["lr"]
    assert rate == pytest.approx(0.02 * (0.1 + 0.9 * cosine_power((2 + 1 / 2) / 4, 10)))


@pytest.mark.parametrize("changes", [{"power": 0.5}, {"least_rate": 2.0}, {"power": float("nan")}])
def test_wrong_settings_are_refused(planted: Planted, changes: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match="`power` must be >= 1 and `least_rate` in"):
        SharpDARTS(**planted.settings(**changes))

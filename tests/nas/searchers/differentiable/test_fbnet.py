from typing import Any

import numpy as np
import pytest
import torch

from nas.searchers.differentiable.base import GradientRun
from nas.searchers.differentiable.fbnet import FBNet
from search_spaces.base.errors import InvalidValueError

Planted = Any


def test_mixture_is_the_gumbel_softmax_at_a_falling_temperature(planted: Planted) -> None:
    run = GradientRun(planted.problem(), FBNet(**planted.settings(temperature=4.0, final_temperature=1.0)))
    with torch.no_grad():
        run.logits["kernel.first"].copy_(torch.tensor([0.0, 1.0, 2.0]))
    for progress, temperature in ((0.0, 4.0), (0.5, 2.0), (1.0, 1.0)):  # exponentially
        run.generator.manual_seed(3)
        found = run.method.mixture(run, run.logits, progress)["kernel.first"]
        run.generator.manual_seed(3)
        noise = -(-torch.rand(3, generator=run.generator).log()).log()
        expected = ((run.logits["kernel.first"] + noise) / temperature).softmax(0)
        torch.testing.assert_close(found, expected)


def test_cold_draws_are_nearly_one_hot_and_follow_the_logits(planted: Planted) -> None:
    run = GradientRun(planted.problem(), FBNet(**planted.settings()))
    run.generator.manual_seed(0)
    with torch.no_grad():
        run.logits["kernel.first"].copy_(torch.tensor([0.0, 1.0, 2.0]))
    drawn = torch.stack([run.method.mixture(run, run.logits, 1.0)["kernel.first"].detach() for _ in range(3000)])
    assert float(drawn.max(1).values.mean()) > 0.95
    found = np.bincount(drawn.argmax(1).numpy(), minlength=3) / len(drawn)
    assert found == pytest.approx(run.logits["kernel.first"].detach().softmax(0).numpy(), abs=0.03)


def test_the_loss_is_multiplied_by_a_power_of_latency(planted: Planted) -> None:
    settings = planted.settings()
    del settings["latency"]
    run = GradientRun(planted.problem(), FBNet(**settings))
    assert float(run.with_latency(torch.tensor(3.0)).detach()) == pytest.approx(3 * 0.2)  # E is 1 at first
    with torch.no_grad():
        for name in ("kernel.second", "kernel.third"):
            run.logits[name].copy_(torch.tensor([50.0, 0.0, 0.0]))
    assert float(run.with_latency(torch.tensor(3.0)).detach()) == pytest.approx(3 * 0.2 * 0.5**0.6)  # 2 of 4 ms


@pytest.mark.parametrize("changes", [{"final_temperature": 0.0}, {"temperature": 0.05}])
def test_wrong_temperatures_are_refused(planted: Planted, changes: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match="`final_temperature` must be > 0 and at most `temperature`"):
        FBNet(**planted.settings(**changes))

"""l1/l2 sizes of masks, their latency, and that masks become discrete."""

from typing import Any

import numpy as np
import pytest
import torch

from nas.core.problem import Objective, Problem
from nas.searchers.differentiable.base import GradientRun, LatencyLoss
from nas.searchers.differentiable.surrogate import L1L2Surrogate, at_size, left_values
from predictors import PositionTable
from search_spaces.base.errors import InvalidValueError
from search_spaces.mobilenet_v3 import MobileNetV3

Planted = Any


def test_values_that_are_left_are_counted() -> None:
    assert float(left_values(torch.tensor([0.0, 1.0, 0.0]))) == 1
    assert float(left_values(torch.tensor([0.5, 0.5, 0.0]))) == 2
    assert float(left_values(torch.full((5,), 0.2))) == pytest.approx(5)
    assert float(left_values(torch.tensor([3.0, 1.0]))) == pytest.approx(1.6)  # as of 0.75 and 0.25: scale-free


@pytest.mark.parametrize("values", [(3, 5, 7), (16, 24, 40, 64), (1, 2), (2, 4, 8)])
def test_discrete_masks_have_their_own_size(values: tuple[int, ...]) -> None:
    for one_hot in torch.eye(len(values)):
        assert torch.equal(at_size(one_hot, values), one_hot)


def test_the_size_of_a_mask_is_the_squared_ratio_of_norms() -> None:
    """Of all units: 2 whole ones and 2 of 0.5, 4 of 0.25 with p = (0.5, 0.25, 0.25) on 2, 4 and 8."""
    units = np.array([1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25])
    size = (np.abs(units).sum() / np.sqrt(np.square(units).sum())) ** 2
    assert 4 < size < 8
    weights = at_size(torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64), (2, 4, 8))
    assert weights.tolist() == pytest.approx([0, 1 - (size - 4) / 4, (size - 4) / 4])
    assert float(weights @ torch.tensor([2.0, 4.0, 8.0], dtype=torch.float64)) == pytest.approx(size)


def test_the_size_has_a_gradient() -> None:
    p = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q: at_size(q, (2, 4, 8)), p)


@pytest.fixture(scope="module")
def widths() -> MobileNetV3:
    """64 networks of two blocks."""
    stage = {"channels": 8, "stride": 1, "squeeze": False, "activation": "relu"}
    return MobileNetV3(
        name="widths",
        resolutions=[8],
        in_channels=1,
        classes=2,
        stem=8,
        stem_stride=2,
        stages=[stage, stage],
        depths=[1],
        kernels=[3, 5],
        expands=[1, 2, 4, 6],
        last_channels=8,
        features=8,
    )


def search(space: MobileNetV3, limit: float | None, data: Any, **settings: Any) -> GradientRun:
    latency = PositionTable.of_layers(space, "latency", "ms", lambda layer: 1e-4 * layer.macs)
    given: dict[str, Any] = {"fixed": {"resolution": 8}, "epochs": 10, "warm_up": 0, "batch_size": 32, "offered": 0}
    given |= {"learning_rate": 1e-3, "architecture_rate": 0.1}
    run = GradientRun(
        Problem(space, [Objective.of(latency, "min", limit)]), L1L2Surrogate(data=data, **(given | settings))
    )
    run.train()
    return run


def test_the_latency_of_discrete_masks_is_that_of_the_network(
    widths: MobileNetV3, planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And between two networks it is interpolated, at the size of the mask."""
    run = search(widths, None, planted.data, epochs=1)
    seen: list[Any] = []

    def with_latency(error: torch.Tensor, probabilities: Any = None) -> torch.Tensor:
        seen.append(run.expected_latency(probabilities).detach())
        return error

    monkeypatch.setattr(run, "with_latency", with_latency)
    monkeypatch.setattr(run, "descend_logits", lambda loss: None)
    batch = run.method.data.train.images[:8], run.method.data.train.labels[:8]
    latencies = {}
    for expand in range(4):
        with torch.no_grad():
            for name, values in run.logits.items():
                values.fill_(-1e4)
                values[expand if name == "expand.1.1" else 0] = 0.0
        run.method.step(run, batch, batch, 0.5, True)
        genes = run.relaxed.architecture(run.probabilities()).genes
        latencies[expand] = float(seen[-1])
        assert latencies[expand] == pytest.approx(float(run.problem.objectives[0].predictor.predict(genes[None])[0]))
    with torch.no_grad():
        run.logits["expand.1.1"].copy_(torch.tensor([0.5, 1e-9, 0.5, 1e-9]).log())
    run.method.step(run, batch, batch, 0.5, True)
    size = 2.5**2 / (1 + 3 * 0.25)  # units: 1 whole and 3 of 0.5; it is nearly 3.571, between the values 2 and 4
    share = (size - 2) / 2
    assert float(seen[-1]) == pytest.approx(latencies[1] * (1 - share) + latencies[2] * share, rel=1e-5)


def test_the_annealed_term_makes_masks_discrete(planted: Planted) -> None:
    """Without the latency, which would do it as well."""
    entropies = {}
    for sparsity in (0.0, 1.0):
        run = planted.run(L1L2Surrogate, sparsity=sparsity, latency={"form": "none"}, epochs=6)
        entropies[sparsity] = run.records[-1].entropy
    assert entropies[1.0] < 0.6 * entropies[0.0]


def test_latency_alone_leaves_the_fastest_network(widths: MobileNetV3, planted: Planted) -> None:
    run = search(widths, None, planted.data, epochs=4, sparsity=0.0, latency=LatencyLoss("linear", weight=10.0))
    assert set(run.records[-1].genes) == {0}
    assert run.records[-1].latency < 0.9 * run.records[0].latency


def test_settings_are_checked(planted: Planted) -> None:
    with pytest.raises(InvalidValueError, match="`sparsity` must be >= 0, but got -1"):
        L1L2Surrogate(data=planted.data, sparsity=-1.0)

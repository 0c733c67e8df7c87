import itertools
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from nas.core.problem import Objective, Problem
from nas.searchers.differentiable.base import GradientRun
from nas.searchers.differentiable.dnas import DNAS, LatencyRegressor, encoded
from predictors import PositionTable
from search_spaces import Genes, MobileNetV3
from search_spaces.base.errors import InvalidValueError

Planted = Any


def drawn(space: Any, seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {c.name: (scale * torch.randn(len(c.values), generator=generator)).softmax(0) for c in space.choices}


def test_the_relaxed_encoding_is_the_mean_encoding(tiny_space: MobileNetV3) -> None:
    """Over all assignments of all choices, conditional ones included."""
    genes = np.array(list(itertools.product(*(range(int(c)) for c in tiny_space.cardinalities))), np.int16)
    for seed in range(5):
        probabilities = drawn(tiny_space, seed)
        weights = np.ones(len(genes))
        for column, choice in enumerate(tiny_space.choices):
            weights *= probabilities[choice.name].numpy()[genes[:, column]]
        mean = weights @ tiny_space.encode(tiny_space.canonical(genes))
        assert encoded(tiny_space, probabilities).numpy() == pytest.approx(mean, abs=1e-6)


@dataclass(frozen=True)
class Slowest:
    """No sum over positions, and no mean over probabilities."""

    table: PositionTable
    metric: str = "latency"
    unit: str = "ms"

    def predict(self, genes: Genes) -> Any:
        return 1.0 + 0.3 * self.table.predict(genes) ** 1.5


def problem_of(planted: Planted, limit: float | None = None) -> Problem:
    accuracy, latency = planted.problem().objectives
    table = latency.predictor
    assert isinstance(table, PositionTable)
    return Problem(planted.space, [accuracy, Objective.of(Slowest(table), "min", limit)])


def test_latency_of_any_predictor_is_learned(planted: Planted, caplog: pytest.LogCaptureFixture) -> None:
    """At the corners it is the prediction."""
    problem = problem_of(planted)
    with caplog.at_level(logging.INFO):
        model = DNAS(**planted.settings()).latency_model(problem, problem.objectives[1])
    assert isinstance(model, LatencyRegressor)
    truth = problem.objectives[1].predictor.predict(planted.everything)
    assert model.of_features(planted.space.encode(planted.everything)) == pytest.approx(truth, rel=0.02)
    (message,) = (record.getMessage() for record in caplog.records if "learned" in record.getMessage())
    assert message.startswith("DNAS: median error of the learned latency_ms on 500 other networks: 0.")
    for genes, value in zip(planted.everything, truth, strict=True):
        corner = {c.name: torch.eye(3)[int(gene)] for c, gene in zip(planted.space.choices, genes, strict=True)}
        assert float(model(corner)) == pytest.approx(value, rel=0.02)


def test_the_mean_of_a_sum_is_nearly_exact(digits_space: MobileNetV3) -> None:
    """Away from the corners, where nothing was learned."""
    table = PositionTable.of_layers(digits_space, "latency", "ms", lambda layer: 0.01 + 1e-5 * layer.macs)
    accuracy = PositionTable.of_layers(digits_space, "accuracy", "1", lambda layer: 0.0)
    problem = Problem(digits_space, [Objective.of(accuracy, "max"), Objective.of(table, "min")])
    method = DNAS(data=None, fixed={"resolution": 16}, networks=1000)  # type: ignore[arg-type]
    model = method.latency_model(problem, problem.objectives[1])
    errors = []
    for seed in range(20):
        probabilities = drawn(digits_space, seed) | {"resolution": torch.tensor([0.0, 1.0, 0.0])}
        errors.append(abs(float(model(probabilities)) / float(table.relaxed(probabilities)) - 1))
    assert np.median(errors) < 0.01


def test_a_search_with_a_latency_that_is_no_sum(planted: Planted) -> None:
    """It finds the planted network, and hits a limit."""
    run = GradientRun(problem_of(planted), DNAS(**planted.settings(fit_steps=200)))
    run.train()
    assert run.answer().tolist() == planted.best.tolist()
    limit = float(problem_of(planted).objectives[1].predictor.predict(np.array([[2, 0, 2]], np.int16))[0])
    limited = GradientRun(problem_of(planted, limit), DNAS(**planted.settings(epochs=4, fit_steps=200)))
    limited.train()
    reached = limited.problem.objectives[1].predictor.predict(limited.answer()[None])[0]
    assert 0.95 * limit <= reached <= limit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networks": 5}, "`networks` must be >= 10 and `held_out` >= 1, but got 5 and 500"),
        ({"hidden": []}, "`hidden` needs one or more widths"),
        ({"fit_steps": 0}, "must be >= 1"),
    ],
)
def test_wrong_settings_are_refused(planted: Planted, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        DNAS(**planted.settings(**changes))


def test_a_device_that_runs_too_few_networks_is_refused(planted: Planted) -> None:
    accuracy, latency = planted.problem().objectives
    broken = PositionTable(planted.space, "latency", "ms", np.full(planted.space.table_size, np.inf))
    problem = Problem(planted.space, [accuracy, Objective.of(broken, "min")])
    with pytest.raises(InvalidValueError, match="can run only 0 of 2500 random networks"):
        DNAS(**planted.settings()).latency_model(problem, problem.objectives[1])

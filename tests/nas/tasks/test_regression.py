"""Regression: errors in the unit of the targets, of inputs and of pixels."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from nas.tasks import DenseRegression, Task, VectorRegression
from search_spaces.base.errors import InvalidValueError, MismatchError

HEIGHT = VectorRegression((170.0,), (10.0,), "cm")
DEPTH = DenseRegression((2.0,), (0.5,), "m")


def test_the_mean_absolute_error_is_in_the_unit_of_the_targets() -> None:
    score = HEIGHT.score()
    score.add(torch.tensor([[0.0], [1.0]]), torch.tensor([[175.0], [180.0]]))
    score.add(torch.tensor([[-1.0]]), torch.tensor([[159.0]]))
    assert score.value() == pytest.approx((5 + 0 + 1) / 3)
    assert (HEIGHT.metric.name, HEIGHT.metric.unit, HEIGHT.metric.direction) == ("mae", "cm", "min")
    assert isinstance(HEIGHT, Task) and isinstance(DEPTH, Task)
    error = score.error()
    assert error is not None and error > 0


def test_r2_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.normal([1, 50], [1, 20], (40, 2)).astype(np.float32)
    task = VectorRegression((1.0, 50.0), (1.0, 20.0), judged_by="r2")
    outputs = (wanted - [1, 50]) / [1, 20] + rng.normal(0, 0.3, (40, 2))
    score = task.score()
    score.add(torch.from_numpy(outputs).float(), torch.from_numpy(wanted))
    assert score.value() == pytest.approx(r2_score(wanted, outputs * [1, 20] + [1, 50]), abs=1e-5)
    assert task.metric.direction == "max" and task.metric.high == 1


def test_r2_of_small_and_of_equal_targets_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    wanted = np.stack([1e-8 * rng.normal(size=40), np.full(40, 3.0)], 1).astype(
        np.float32
    )  # nanometres, and a constant
    outputs = (wanted + np.array([5e-9, 0.1]) * rng.normal(size=(40, 2))).astype(np.float32)
    for given in (outputs, np.stack([outputs[:, 0], wanted[:, 1]], 1)):
        score = VectorRegression((0.0, 0.0), (1.0, 1.0), judged_by="r2").score()
        score.add(torch.from_numpy(given), torch.from_numpy(wanted))
        assert score.value() == pytest.approx(r2_score(wanted.astype(float), given.astype(float)), abs=1e-6)
        assert 0 < score.error() < 1  # type: ignore[operator]


def test_values_that_never_change_are_told() -> None:
    task = VectorRegression((0.0, 0.0), (1.0, 1.0))
    parts = {"train": SimpleNamespace(labels=torch.tensor([[1.0, 5.0], [2.0, 5.0]]))}
    assert task.notes("mine", parts, {}) == ["value 1 of 'mine' is the same in all training images"]
    maps = {"train": SimpleNamespace(labels=torch.tensor([[[[2.0, math.nan]]], [[[2.0, 2.0]]]]))}
    with pytest.raises(InvalidValueError, match="All training images of 'mine' have the same values"):
        DEPTH.notes("mine", maps, {})


def test_the_loss_is_of_standardised_values() -> None:
    assert float(HEIGHT.loss(torch.tensor([[0.0]]), torch.tensor([[190.0]]))) == pytest.approx(4)


def test_unknown_pixels_do_not_count() -> None:
    targets = torch.tensor([[[[2.0, math.nan], [3.0, 2.0]]]])
    outputs = torch.zeros(1, 1, 2, 2, requires_grad=True)
    loss = DEPTH.loss(outputs, targets)
    assert float(loss.detach()) == pytest.approx(2 / 3)
    loss.backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None and outputs.grad.isfinite().all()
    score = DEPTH.score()
    score.add(outputs.detach(), targets)
    assert score.value() == pytest.approx(1 / 3)
    assert float(DEPTH.loss(outputs.detach(), torch.full_like(targets, math.nan))) == 0


def test_coarse_maps_are_judged_in_the_size_of_the_targets() -> None:
    score = DEPTH.score()
    score.add(torch.ones(3, 1, 2, 2), torch.full((3, 1, 8, 8), 2.5))
    assert score.value() == pytest.approx(0)


def test_what_comes_in_from_outside_is_unknown() -> None:
    right = torch.tensor([[[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]])
    moved = DEPTH.move(torch.ones(1, 1, 2, 2), right)
    assert moved[0, 0, :, 0].isnan().all() and (moved[0, 0, :, 1] == 1).all()


def test_outputs_are_described_with_what_undoes_the_standardisation() -> None:
    found = HEIGHT.output({"logits": (1, 1)})
    assert (found["output_mean"], found["output_std"], found["unit"]) == ([170.0], [10.0], "cm")
    assert "multiply by std and add mean, which gives cm" in found["output"]["meaning"]
    assert DEPTH.output({"logits": (1, 1, 3, 4)})["output"]["shape"] == [1, 1, 3, 4]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(MismatchError, match="tell 1 values, but data 'mine' has 2"):
        VectorRegression((0.0, 0.0), (1.0, 1.0)).check("Networks", {"logits": (1,)}, "mine")
    with pytest.raises(InvalidValueError, match="standard deviation > 0"):
        VectorRegression((0.0,), (0.0,))
    with pytest.raises(InvalidValueError, match="mae or r2"):
        VectorRegression((0.0,), (1.0,), judged_by="mse")  # type: ignore[arg-type]

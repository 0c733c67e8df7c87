"""Searchers on tensors find what they find on NumPy arrays, to the last bit."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from nas.core.arrays import Device
from nas.core.problem import Objective, Problem
from nas.core.search_loop import SearchResult, search
from nas.core.searcher import Searcher
from nas.searchers import hype, moead, nsga2, nsga3
from nas.searchers.auto import Auto
from nas.searchers.hype import HypE
from nas.searchers.moead import MOEAD
from nas.searchers.nsga2 import NSGA2
from nas.searchers.nsga3 import NSGA3
from predictors import PositionTable
from search_spaces.base.errors import InvalidValueError

SEARCHERS: list[Searcher] = [NSGA2(20), NSGA2(30, mates=1), NSGA3(20), MOEAD(30), HypE(20, samples=500)]


def with_goals(problem: Problem, goals: int) -> Problem:
    """The same space with so many goals; the latency has a limit that few networks keep, but where it is no goal."""
    accuracy, latency, memory = problem.objectives
    params = PositionTable.of_layers(problem.space, "params", "1", lambda layer: layer.params)
    macs = PositionTable.of_layers(problem.space, "macs", "1", lambda layer: layer.macs**0.8)
    objectives = [
        accuracy,
        latency.limited(2.0),
        dataclasses.replace(memory, goal=True, limit=None),
        Objective.of(params, "min"),
        Objective.of(macs, "min"),
    ]
    return Problem(problem.space, objectives[:goals])


@pytest.fixture
def tensors(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Puts all that searchers compute with into tensors on the processor; gives the shapes that were put there."""
    shapes: list[tuple[int, ...]] = []

    def placed(device: Device, *arrays: np.ndarray) -> list[torch.Tensor]:
        shapes.extend(array.shape for array in arrays)
        return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]

    for module in (hype, nsga2, nsga3, moead):
        monkeypatch.setattr(module, "placed", placed)
    return shapes


def equal(first: SearchResult, second: SearchResult) -> bool:
    return (
        np.array_equal(first.genes, second.genes)
        and np.array_equal(first.values, second.values)
        and first.history == second.history
    )


@pytest.mark.parametrize("goals", [1, 2, 3, 5])
@pytest.mark.parametrize("searcher", SEARCHERS, ids=repr)
def test_a_search_with_tensors_is_the_same_search(
    digits_problem: Problem, searcher: Searcher, goals: int, request: pytest.FixtureRequest
) -> None:
    problem = with_goals(digits_problem, goals)
    here = search(problem, searcher, evaluations=300, seed=1)
    shapes = request.getfixturevalue("tensors")
    assert equal(search(problem, searcher, evaluations=300, seed=1), here)
    assert len(shapes) > 10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("goals", [1, 2, 3, 5])
@pytest.mark.parametrize("searcher", SEARCHERS, ids=repr)
def test_a_search_on_a_gpu_is_the_same_search(digits_problem: Problem, searcher: Any, goals: int) -> None:
    problem = with_goals(digits_problem, goals)
    here = search(problem, searcher, evaluations=300, seed=1)
    assert equal(search(problem, dataclasses.replace(searcher, device="cuda"), evaluations=300, seed=1), here)


@pytest.mark.parametrize("kind", [HypE, NSGA2, NSGA3, MOEAD])
def test_an_unknown_device_is_refused(kind: Any) -> None:
    with pytest.raises(InvalidValueError, match=f"`device` of {kind.__name__} must be cpu or cuda, but got 'tpu'"):
        kind(device="tpu")


def test_a_search_is_known_by_what_it_finds_and_not_by_where() -> None:
    for searcher in (*SEARCHERS, Auto()):
        assert "device" not in repr(searcher)

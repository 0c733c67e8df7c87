"""Partial channels and edge normalisation, on cells so few that all can be looked at."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from nas.core.problem import Objective, Problem
from nas.data import Data, Part
from nas.searchers.differentiable.base import GradientRun, GradientSearch
from nas.searchers.differentiable.pc_darts import PCDARTS, partial_channels
from nas.supernet.relaxed import EdgeRunner, RelaxedSupernet, weighted_sum
from nas.tasks import Classification
from predictors import PositionTable
from search_spaces.base.errors import InvalidValueError
from search_spaces.nasbench201 import CELL_EDGES, CELL_OPERATIONS, NasBench201

FIXED = {"edge.0.2": "none", "edge.0.3": "skip_connect", "edge.1.2": "skip_connect", "edge.2.3": "none"}
SEARCHED = ("edge.0.1", "edge.1.3")


@pytest.fixture(scope="module")
def cells() -> NasBench201:
    return NasBench201(name="cells", in_channels=1, classes=4, resolution=8, channels=8, cells=1)


def task(images: torch.Tensor, labels: torch.Tensor) -> Data:
    part = Part(images, labels)
    return Data("cells", part, part, part, task=Classification(4), mean=(0.0,), std=(1.0,))


@pytest.fixture(scope="module")
def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    return task(torch.randn(256, 1, 8, 8, generator=generator), torch.arange(256) % 4)


def start(cells: NasBench201, data: Data, method: type[GradientSearch] = PCDARTS, **changes: Any) -> GradientRun:
    latency = PositionTable.of_layers(cells, "latency", "ms", lambda layer: 1e-5 * layer.macs)
    settings: dict[str, Any] = {"epochs": 8, "warm_up": 0, "batch_size": 32, "architecture_rate": 0.1}
    settings |= {"learning_rate": 1e-3, "latency": {"form": "none"}, **changes}
    return GradientRun(Problem(cells, [Objective.of(latency, "min")]), method(data=data, **settings))


@pytest.mark.slow
@pytest.mark.parametrize(
    "planted",
    [
        ("nor_conv_3x3", "nor_conv_3x3"),
        ("nor_conv_1x1", "avg_pool_3x3"),
    ],
)
def test_the_cell_that_gave_the_labels_is_found(cells: NasBench201, data: Data, planted: tuple[str, str]) -> None:
    """The supernet starts with the weights that labelled; of all 25 ways to fill two edges none has a lower loss."""
    relaxed = RelaxedSupernet(cells, fixed=FIXED, seed=0, mix=PCDARTS(data=data).mix()).train()
    images = data.train.images

    def run(operations: tuple[str, ...]) -> torch.Tensor:
        one_hot = torch.eye(len(CELL_OPERATIONS))
        chosen = [one_hot[CELL_OPERATIONS.index(operation)] for operation in operations]
        with torch.no_grad():
            return relaxed(images, dict(zip(SEARCHED, chosen, strict=True)))  # type: ignore[no-any-return]

    given = run(planted)
    labels = (given - given.mean(0)).argmax(1)
    pairs = list(itertools.product(CELL_OPERATIONS, repeat=2))
    assert pairs[int(np.argmin([float(functional.cross_entropy(run(pair), labels)) for pair in pairs]))] == planted
    search = start(cells, task(images, labels), fixed=FIXED)
    search.train()
    assert tuple(CELL_OPERATIONS[int(search.logits[edge].detach().argmax())] for edge in SEARCHED) == planted


def test_a_broken_search_ends_as_an_unbroken_one(cells: NasBench201, data: Data, tmp_path: Path) -> None:
    """With all that the betas have learned, and their optimiser."""
    whole = start(cells, data, epochs=2, images=128)
    whole.train()
    broken = start(cells, data, epochs=2, images=128, folder=tmp_path)
    epoch = broken.epoch

    def kill(number: int) -> Any:
        if number == 1:
            raise KeyboardInterrupt
        return epoch(number)

    broken.epoch = kill  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed = start(cells, data, epochs=2, images=128, folder=tmp_path)
    resumed.train()
    for name, beta in whole.extra["betas"].items():
        assert torch.equal(resumed.extra["betas"][name], beta)
    assert all(torch.equal(resumed.logits[name], values) for name, values in whole.logits.items())


@pytest.fixture(scope="module")
def run(cells: NasBench201, data: Data) -> GradientRun:
    """All edges searched, trained a little."""
    found = start(cells, data, epochs=1, images=128)
    found.train()
    return found


def edge(run: GradientRun) -> list[EdgeRunner]:
    elastic: Any = run.relaxed.supernet.positions["stage1_cell1"]
    return [EdgeRunner(elastic, path) for path in elastic.largest.paths(0)]


def test_an_edge_is_a_mixture_of_some_channels_beside_the_others_shuffled(run: GradientRun) -> None:
    """Equation 2 and the shuffle, written out; an edge on some channels is the edge on all with the others at zero."""
    x = torch.randn(4, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    weights = 0.3 * torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15])  # an edge that has 0.3 of its node
    whole = torch.cat([x[:, :2], torch.zeros(4, 6, 6, 6)], 1)
    mixed = weighted_sum(whole, weights, edge(run))[:, :2]
    together = torch.cat([mixed, 0.3 * x[:, 2:]], 1)
    wanted = together[:, [0, 2, 4, 6, 1, 3, 5, 7]]  # of 4 groups of 2 the first channels, then the second ones
    torch.testing.assert_close(partial_channels(4, x, weights, edge(run)), wanted)


def test_one_part_is_darts(run: GradientRun) -> None:
    x, weights = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0)), torch.full((5,), 0.2)
    torch.testing.assert_close(partial_channels(1, x, weights, edge(run)), weighted_sum(x, weights, edge(run)))


def test_layers_that_need_all_channels_are_mixed_as_in_darts() -> None:
    x, weights = torch.arange(8.0).reshape(1, 8, 1, 1), torch.tensor([0.25, 0.75])
    assert torch.equal(partial_channels(4, x, weights, [torch.sin, torch.cos]), 0.25 * x.sin() + 0.75 * x.cos())


def test_edges_share_their_node_by_their_betas(run: GradientRun) -> None:
    """Equation 3; the betas of nodes with several edges are trained."""
    betas = run.extra["betas"]
    weights = run.method.mixture(run, run.logits, 0.0)
    for node in (1, 2, 3):
        names = [f"edge.{source}.{target}" for source, target in CELL_EDGES if target == node]
        given = torch.stack([betas[name.replace(".", "_")] for name in names])
        for name, share in zip(names, given.softmax(0), strict=True):
            torch.testing.assert_close(weights[name], share * run.logits[name].softmax(0))
        assert bool((given.detach() != 0).any()) == (node > 1)


def test_betas_follow_the_validation_loss(cells: NasBench201, data: Data) -> None:
    """The first step of Adam goes against the sign of the slope, here by finite differences."""
    run = start(cells, data)
    batch = data.train.images[:64], data.train.labels[:64]
    betas, slopes = run.extra["betas"], {}
    with torch.no_grad():
        for name in ("edge_0_3", "edge_1_3", "edge_2_3"):
            ends = []
            for value in (0.05, -0.05, 0.0):
                betas[name].fill_(value)
                ends.append(float(run.task_loss(batch, run.method.mixture(run, run.logits, 0.0))))
            slopes[name] = ends[0] - ends[1]
    run.method.step(run, batch, batch, 0.0, True)
    for name, slope in slopes.items():
        assert abs(slope) > 1e-5
        assert (float(betas[name].detach()) < 0) == (slope > 0)


def test_without_edge_normalisation_there_are_no_betas(cells: NasBench201, data: Data) -> None:
    run = start(cells, data, edge_normalisation=False, epochs=1, images=64)
    run.train()
    assert len(run.extra["betas"]) == 0
    assert float(run.method.mixture(run, run.logits, 0.0)["edge.2.3"].sum().detach()) == pytest.approx(1)


def test_a_mixture_keeps_a_part_of_the_bytes(cells: NasBench201, data: Data) -> None:
    """What is kept for the backward pass."""
    kept = {}
    for method in (GradientSearch, PCDARTS):
        run, sizes = start(cells, data, method), dict[int, int]()

        def note(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(note, lambda tensor: tensor):
            loss = run.task_loss((data.train.images, data.train.labels), run.method.mixture(run, run.logits, 0.0))
        kept[method] = sum(sizes.values())
        del loss  # not before, or a storage could take the place of another
    assert kept[PCDARTS] < 0.6 * kept[GradientSearch]


def test_what_cannot_be_is_refused(cells: NasBench201, data: Data, run: GradientRun) -> None:
    with pytest.raises(InvalidValueError, match="`parts` must divide the channels of every cell, but got 3"):
        partial_channels(3, torch.zeros(1, 8, 4, 4), torch.full((5,), 0.2), edge(run))
    with pytest.raises(InvalidValueError, match="`parts` must be >= 1"):
        PCDARTS(data=data, parts=0)

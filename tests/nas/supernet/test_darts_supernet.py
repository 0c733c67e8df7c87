"""DARTS's cell space in the supernet, relaxed, searched and exported."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from hardware_profiles import Model
from hardware_profiles.onnx_graph import onnx_model
from nas.core.problem import Objective, Problem
from nas.data import Data, Part
from nas.searchers.differentiable.base import GradientRun, GradientSearch
from nas.searchers.differentiable.darts import DARTS
from nas.searchers.differentiable.gdas import GDAS
from nas.searchers.differentiable.pc_darts import PCDARTS, partial_channels
from nas.supernet.relaxed import EdgeRunner, RelaxedSupernet, weighted_sum
from nas.tasks import Classification
from predictors import PositionTable
from search_spaces import Architecture, Darts
from search_spaces.torch_program import folded_weights


@pytest.fixture(scope="module")
def tiny() -> Darts:
    return Darts(name="tiny_darts", in_channels=1, classes=4, resolution=8, channels=4, cells=3)


@pytest.fixture(scope="module")
def relaxed(tiny: Darts) -> RelaxedSupernet:
    return RelaxedSupernet(tiny)


def pixels(n: int = 4) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def drawn(space: Darts) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {c.name: torch.randn(len(c.values), generator=generator).softmax(0) for c in space.choices}


@pytest.mark.parametrize("training", [False, True])
def test_mixture_supernet_and_network_are_one(tiny: Darts, relaxed: RelaxedSupernet, training: bool) -> None:
    relaxed.train(training)
    for row in tiny.sample(10, np.random.default_rng(0)):
        architecture = Architecture(tiny, row)
        one_hot = {c.name: torch.eye(len(c.values))[int(g)] for c, g in zip(tiny.choices, row, strict=True)}
        y = relaxed.supernet(pixels(), architecture)
        assert torch.equal(relaxed(pixels(), one_hot), y)
        if not training:
            torch.testing.assert_close(relaxed.supernet.extract(architecture)(pixels()), y, rtol=1e-5, atol=1e-6)


def test_every_weight_and_every_choice_has_a_gradient(tiny: Darts) -> None:
    relaxed = RelaxedSupernet(tiny).train()
    weights = {name: values.requires_grad_() for name, values in drawn(tiny).items()}
    relaxed(pixels(), weights).square().sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in relaxed.parameters())
    assert all(w.grad is not None and bool((w.grad != 0).all()) for w in weights.values())


def test_a_node_is_darts_mixture(tiny: Darts, relaxed: RelaxedSupernet) -> None:
    """Node 3 of the first cell: sum over pairs p(pair) times p(operation), of all operations on all inputs."""
    relaxed.eval()
    weights, seen = drawn(tiny), dict[str, Tensor]()
    at = relaxed.supernet.positions
    run = relaxed._mixed

    def watched(place: Any, given: Any, whole: Any) -> Any:
        y = run(place, given, whole)
        seen[place.name] = y
        return y

    relaxed._mixed = watched  # type: ignore[method-assign]
    relaxed(pixels(), weights)
    del relaxed._mixed
    pair = dict(zip(("0+1", "0+2", "1+2"), weights["normal.3.inputs"], strict=True))
    total = torch.zeros_like(seen["cell1_node3"])
    for source, before in enumerate(("cell1_input0", "cell1_input1", "cell1_node2")):
        there = sum(share for name, share in pair.items() if str(source) in name)
        p = next(i for i, position in enumerate(tiny.positions) if position.name == f"cell1_{source}to3")
        with_it = next(i for i, name in enumerate(pair) if str(source) in name)
        layers = tiny.layers_at(p)[7 * with_it : 7 * with_it + 7]
        for chance, layer in zip(weights[f"normal.3.{source}"], layers, strict=True):
            x = seen[before]
            total = total + there * chance * (x if layer is None else at[f"cell1_{source}to3"](layer, x))
    torch.testing.assert_close(seen["cell1_node3"], total)


def test_partial_channels_go_past_an_edge_that_halves(tiny: Darts, relaxed: RelaxedSupernet) -> None:
    """What is not mixed goes through max pooling where operations have stride 2."""
    relaxed.eval()
    place = next(place for place in relaxed.places if place.name == "cell2_0to2")
    elastic = relaxed.supernet.at(place.name)
    layers = [layer for layer in place.layers if layer is not None]
    runners = [EdgeRunner(elastic.of(layer), layer.define) for layer in layers]
    weights = torch.full((len(runners),), 1 / len(runners))
    x = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    y = partial_channels(2, x, weights, runners)
    mixed, rest = weighted_sum(x[:, :4], weights, runners), torch.nn.functional.max_pool2d(x[:, 4:], 2)
    torch.testing.assert_close(y, torch.cat([mixed, rest], 1)[:, [0, 4, 1, 5, 2, 6, 3, 7]])


@pytest.mark.parametrize("method", [DARTS, PCDARTS, GDAS])
def test_differentiable_searches_find_a_genotype(tiny: Darts, method: type[GradientSearch]) -> None:
    part = Part(pixels(64), torch.arange(64) % 4)
    data = Data("few", part, part, part, task=Classification(4), mean=(0.0,), std=(1.0,))
    latency = PositionTable.of_layers(tiny, "latency", "ms", lambda layer: 1e-5 * layer.macs)
    settings: dict[str, Any] = {"parts": 2} if method is PCDARTS else {}
    run = GradientRun(
        Problem(tiny, [Objective.of(latency, "min")]),
        method(data=data, epochs=1, warm_up=0, batch_size=16, offered=4, **settings),
    )
    run.train()
    found = Architecture(tiny, run.candidates()[0])
    assert tiny.from_genotype(str(tiny.to_genotype(found))) == found
    assert any(bool((values.detach() != 0).any()) for values in run.logits.values())


def test_onnx_gives_what_torch_gives(tiny: Darts, relaxed: RelaxedSupernet) -> None:
    relaxed.eval()
    for row in tiny.sample(4, np.random.default_rng(3)):
        network = relaxed.supernet.extract(Architecture(tiny, row)).eval()
        proto = onnx_model(Model(network.network, folded_weights(network)), batch=2)
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        (got,) = session.run(None, {session.get_inputs()[0].name: pixels(2).numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(got), network(pixels(2)), rtol=1e-4, atol=1e-4)

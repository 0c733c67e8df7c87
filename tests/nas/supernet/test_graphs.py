"""Spaces whose networks are graphs, from the supernet to ONNX Runtime: what is trained is counted and exported."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import cpu_session, onnx_model
from nas.supernet import Supernet
from predictors import macs, params
from search_spaces import Architecture, SearchSpace
from search_spaces.base.errors import MismatchError
from search_spaces.torch_program import folded_weights
from tests.search_spaces.graph_spaces import GRAPHS, TwoByTwo

NETWORKS = 200


def by_name(outputs: Any) -> dict[str, Tensor]:
    return outputs if isinstance(outputs, dict) else {"logits": outputs}


def inputs_of(architecture: Architecture, batch: int = 2) -> dict[str, Tensor]:
    model = Model(architecture.layers)
    return dict(zip(model.network.inputs, map(torch.from_numpy, model.random_inputs(batch)), strict=True))


@pytest.mark.parametrize("kind", GRAPHS)
def test_networks_of_a_graph_are_one_thing_everywhere(kind: type[SearchSpace]) -> None:
    space = kind(name="space")  # type: ignore[call-arg]
    supernet = Supernet(space).eval()
    genes = np.unique(space.sample(60, np.random.default_rng(0)), axis=0)
    tables = zip(macs(space).predict(genes).tolist(), params(space).predict(genes).tolist(), strict=True)
    for row, counted in zip(genes, tables, strict=True):
        architecture = Architecture(space, row)
        assert counted == (architecture.macs, architecture.params)
        given = inputs_of(architecture)
        extracted = supernet.extract(architecture)
        with torch.no_grad():
            through, alone = by_name(supernet(given, architecture)), by_name(extracted(*given.values()))
        assert {name: tuple(y.shape[1:]) for name, y in alone.items()} == architecture.layers.output_shapes
        for name, expected in alone.items():
            assert torch.equal(through[name], expected)
        model = Model(architecture.layers, folded_weights(extracted))
        session = cpu_session(onnx_model(model, 2).SerializeToString())
        found = session.run(list(alone), {name: x.numpy() for name, x in given.items()})
        for y, expected in zip(found, alone.values(), strict=True):
            assert np.abs(y - expected.numpy()).max() <= 1e-4 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("kind", GRAPHS)
def test_every_weight_of_a_graph_is_trained_by_some_network(kind: type[SearchSpace]) -> None:
    space = kind(name="space")  # type: ignore[call-arg]
    supernet = Supernet(space).train()
    waiting = {name for name, _ in supernet.named_parameters()}
    for row in space.sample(NETWORKS, np.random.default_rng(1)):
        architecture = Architecture(space, row)
        supernet.zero_grad(set_to_none=True)
        sum(y.square().sum() for y in by_name(supernet(inputs_of(architecture, 4), architecture)).values()).backward()
        waiting -= {name for name, p in supernet.named_parameters() if p.grad is not None and bool(p.grad.any())}
        if not waiting:
            return
    raise AssertionError(waiting)


def test_inputs_are_given_by_name() -> None:
    space = TwoByTwo()
    supernet, architecture = Supernet(space).eval(), space.smallest
    given = inputs_of(architecture)
    assert set(supernet(given, architecture)) == {"logits", "mask"}
    with pytest.raises(MismatchError, match="takes 'image' of shape .*, 'distance' of shape .* but got 'image'"):
        supernet({"image": given["image"]}, architecture)
    with pytest.raises(MismatchError, match="'distance' of shape .1, 4, 6., but got .3, 8, 12."):
        supernet({"image": given["image"], "distance": given["image"]}, architecture)

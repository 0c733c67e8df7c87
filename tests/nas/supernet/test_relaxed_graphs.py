"""The relaxed supernet of graphs: at one-hot weights it is the supernet, at mixed ones all that is mixed learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nas.supernet.relaxed import RelaxedSupernet
from search_spaces import Architecture, SearchSpace, Value
from tests.search_spaces.graph_spaces import Branches, Operators

FIXED: list[tuple[type[SearchSpace], dict[str, Value]]] = [
    (Branches, {"resolution": 8, "width": 8, "wide": 1}),
    (Operators, {"resolution": "8x12"}),
]


@pytest.mark.parametrize(("kind", "fixed"), FIXED)
def test_one_hot_weights_give_the_network(kind: type[SearchSpace], fixed: dict[str, Value]) -> None:
    space = kind(name="space")  # type: ignore[call-arg]
    relaxed = RelaxedSupernet(space, fixed=fixed).eval()
    part = space.restricted(fixed)
    for row in part.sample(40, np.random.default_rng(0)):
        architecture = Architecture(space, row)
        weights = {
            choice.name: torch.nn.functional.one_hot(torch.tensor(int(gene)), len(choice.values)).float()
            for choice, gene in zip(space.choices, row, strict=True)
            if choice.name not in fixed
        }
        shape = next(iter(architecture.layers.inputs.values()))
        x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.allclose(relaxed(x, weights), relaxed.supernet(x, architecture), atol=1e-6)


@pytest.mark.parametrize(("kind", "fixed"), FIXED)
def test_weights_of_every_kind_get_a_gradient(kind: type[SearchSpace], fixed: dict[str, Value]) -> None:
    space = kind(name="space")  # type: ignore[call-arg]
    relaxed = RelaxedSupernet(space, fixed=fixed).train()
    logits = {
        name: torch.zeros(len(space.choices[space.index[name]].values), requires_grad=True) for name in relaxed.searched
    }
    shape = next(iter(space.restricted(fixed).lower(space.smallest).inputs.values()))
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    relaxed(x, {name: one.softmax(0) for name, one in logits.items()}).square().sum().backward()
    assert all(one.grad is not None and bool(one.grad.any()) for one in logits.values())

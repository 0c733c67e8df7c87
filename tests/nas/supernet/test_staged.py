"""Supernets of spaces whose blocks are of several layer kinds."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nas.supernet import Supernet
from search_spaces import Architecture, SearchSpace, Staged

Images = Callable[..., Tensor]
Networks = Callable[..., list[Architecture]]
Randomise = Callable[[Supernet], Supernet]

FIRST: list[dict[str, Any]] = [
    {"kind": "Conv", "kernel": [3, 5]},
    {"kind": "Tucker", "kernel": [3, 5], "narrow": [25, 75], "core": [25, 75]},
    {"kind": "MBConv", "kernel": [3, 5], "expand": [1, 2], "squeeze": [0, 25], "gate_activation": "sigmoid"},
    {"kind": "FusedMBConv", "kernel": [3, 5], "expand": [1, 2], "first_adds": False},
]
SECOND: list[dict[str, Any]] = [
    {"kind": "Bottleneck", "kernel": [3, 5], "expand": [25, 50], "squeeze": [0, 25], "pools": False},
    {"kind": "DepthwiseBottleneck", "kernel": [3, 5], "expand": [50, 100]},
    {"kind": "BasicBlock", "kernel": [3, 5]},
]


def staged(*, per_block: bool) -> Staged:
    return Staged(
        name="tiny_staged",
        resolutions=[8, 12],
        in_channels=1,
        classes=10,
        activation="silu",
        per_block=per_block,
        stem=[{"kind": "Conv", "channels": [16, 24], "kernel": 3}],
        stages=[
            {"channels": [16, 24], "stride": 2, "depths": [1, 2], "blocks": FIRST},
            {"channels": [16, 32], "depths": [1, 2], "blocks": SECOND},
        ],
        head=[{"kind": "Conv", "channels": 16, "kernel": 1}, {"kind": "LinearClassifier"}],
    )


@pytest.fixture(params=[True, False], ids=["per_block", "per_stage"], scope="module")
def staged_space(request: pytest.FixtureRequest) -> SearchSpace:
    return staged(per_block=request.param)


def test_an_extracted_network_computes_what_the_supernet_does(
    staged_space: SearchSpace, networks: Networks, images: Images, randomise: Randomise
) -> None:
    supernet = randomise(Supernet(staged_space))
    for training in (False, True):  # with statistics of the batch no signal fades on its way
        supernet.train(training)
        for architecture in networks(staged_space, 32):
            x = images(staged_space, architecture)
            with torch.no_grad():
                found = supernet.extract(architecture)(x)
                expected = supernet(x, architecture)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            assert not training or expected.std(0).min() > 1e-3  # the images make a difference


def test_every_weight_gets_a_gradient(staged_space: SearchSpace, networks: Networks, images: Images) -> None:
    supernet = Supernet(staged_space).train()
    touched = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in supernet.named_parameters()}
    for architecture in networks(staged_space, 250):
        x = images(staged_space, architecture, n=8)
        supernet.zero_grad()
        functional.cross_entropy(supernet(x, architecture), torch.arange(len(x)) % 10).backward()
        for name, p in supernet.named_parameters():
            if p.grad is not None:
                touched[name] |= p.grad != 0
        if all(bool(weights.all()) for weights in touched.values()):
            break
    assert {name for name, weights in touched.items() if not weights.all()} == set()

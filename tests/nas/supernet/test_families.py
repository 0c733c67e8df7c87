"""Supernets of the spaces whose layers merge branches or concatenate, on small images."""

import numpy as np
import pytest
import torch

from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import cpu_session, onnx_model
from nas.supernet.supernet import Supernet
from search_spaces.architecture import Architecture
from search_spaces.loading import load_space
from search_spaces.network import INPUT
from search_spaces.space import SearchSpace
from search_spaces.torch_program import StaticNetwork, folded_weights

SPACES = ("repvgg", "mobileone", "repvit", "fasternet", "vovnet", "hardnet", "pp_lcnet", "fd_mobilenet")

MANY = ("mobileone", "repvit")
"""Spaces of many blocks with choices, where it takes many networks to use every weight."""


def small(name: str) -> SearchSpace:
    return load_space(name, resolutions=[32], classes=5)


def networks(space: SearchSpace) -> list[Architecture]:
    drawn = space.sample(1, np.random.default_rng(0))
    return [space.biggest, *(Architecture(space, row) for row in drawn)]


def images(batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def give_statistics(network: StaticNetwork) -> None:
    """Set running statistics as training would leave them."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.named_buffers():
        if name.endswith("running_mean"):
            tensor.uniform_(-0.5, 0.5, generator=generator)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)


@pytest.mark.parametrize("name", SPACES)
def test_deployed_networks_compute_what_the_supernet_does(name: str) -> None:
    space = small(name)
    supernet = Supernet(space).eval()
    for architecture in networks(space):
        x = images(2)
        with torch.no_grad():
            expected, network = supernet(x, architecture), supernet.extract(architecture)
            torch.testing.assert_close(network(x), expected, atol=1e-5, rtol=1e-5)
            give_statistics(network)
            trained = network(x).numpy()
        layers = space.lower(architecture)
        model = Model(layers, folded_weights(network))
        deployed = StaticNetwork(layers, space.norm_eps, form="inference").eval()
        deployed.load_state_dict({key: torch.from_numpy(array) for key, array in model.arrays().items()})
        with torch.no_grad():
            merged = deployed(x).numpy()
        written = cpu_session(onnx_model(model, batch=2).SerializeToString()).run(None, {INPUT: x.numpy()})[0]
        for what in (merged, written):
            np.testing.assert_allclose(what, trained, atol=1e-5 * max(1.0, float(np.abs(trained).max())))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in MANY else []) for name in SPACES]
)
def test_every_weight_of_the_supernet_learns(name: str) -> None:
    space = small(name)
    supernet = Supernet(space).train()
    drawn = space.sample(64, np.random.default_rng(1))
    for architecture in [space.biggest, space.smallest, *(Architecture(space, row) for row in drawn)]:
        supernet(images(2), architecture).square().sum().backward()
        without = [key for key, weight in supernet.named_parameters() if weight.grad is None]
        if not without:
            break
    assert without == []

"""Supernets of transformers, over patches and over words."""

import dataclasses

import numpy as np
import pytest
import torch

from hardware_profiles import Model
from hardware_profiles.backend_contract import check_layer_lowering
from hardware_profiles.onnx_graph import cpu_session, onnx_model
from hardware_profiles.onnx_int8 import int8_onnx_model
from hardware_profiles.quantisation import activation_ranges
from nas.supernet.supernet import Supernet
from search_spaces.architecture import Architecture
from search_spaces.space_contract import check_space
from search_spaces.torch_program import folded_weights
from tests.search_spaces.token_spaces import Transformers

SPACES = {"patches": Transformers("transformers_of_patches"), "words": Transformers("transformers_of_words", True)}


def inputs(space: Transformers, batch: int, generator: torch.Generator) -> torch.Tensor:
    if space.words:
        return torch.randint(11, (batch, 6), generator=generator)
    return torch.randn(batch, 1, 8, 8, generator=generator)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_contract_of_spaces(space: Transformers) -> None:
    check_space(space, np.random.default_rng(0))
    for layer in (*space.lower(space.biggest).values(), *space.lower(space.smallest).values()):
        check_layer_lowering(layer, 1e-5)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_an_extracted_network_computes_what_the_supernet_does_and_onnx_too(space: Transformers) -> None:
    generator = torch.Generator().manual_seed(0)
    supernet = Supernet(space).eval()
    x = inputs(space, 2, generator)
    for genes in space.sample(30, np.random.default_rng(0)):
        architecture = Architecture(space, genes)
        static = supernet.extract(architecture)
        with torch.no_grad():
            expected = supernet(x, architecture)
            assert torch.equal(static(x), expected)
        model = Model(space.lower(architecture), folded_weights(static))
        (got,) = cpu_session(onnx_model(model, 2).SerializeToString()).run(None, {"image": x.numpy()})
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-5)
    model = dataclasses.replace(model, ranges=activation_ranges(model, x.numpy()))
    (integers,) = cpu_session(int8_onnx_model(model, 2).SerializeToString()).run(None, {"image": x.numpy()})
    assert np.abs(integers - got).max() < 0.1 * np.ptp(got)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_weight_is_trained(space: Transformers) -> None:
    supernet = Supernet(space).train()
    generator = torch.Generator().manual_seed(0)
    architectures = [
        space.biggest,
        *(Architecture(space, genes) for genes in space.sample(20, np.random.default_rng(0))),
    ]
    for architecture in architectures:
        supernet(inputs(space, 16, generator), architecture).square().sum().backward()
    for name, parameter in supernet.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name

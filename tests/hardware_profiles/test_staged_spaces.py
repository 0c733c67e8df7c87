"""Published networks of the spaces of stages, as the files that devices take."""

import numpy as np
import onnxruntime as ort
import pytest
import torch

from hardware_profiles import Model
from hardware_profiles.onnx_graph import onnx_model
from search_spaces.architecture import Architecture
from search_spaces.loading import load_space
from search_spaces.network import INPUT, OUTPUT
from search_spaces.torch_program import StaticNetwork, folded_weights

MEMBERS = {
    "mobilenet_v2": "mobilenet_v2",
    "mnasnet": "mnasnet_a1",
    "efficientnet": "efficientnet_b0",
    "mobiledets": "mobiledet_edgetpu",
    "mobiledets_cpu": "mobiledet_cpu",
    "genet": "genet_light",
}


@pytest.mark.parametrize("name", MEMBERS)
def test_onnx_runtime_computes_what_torch_computes(name: str) -> None:
    space = load_space(name, resolutions=[32], classes=10)
    values = load_space(name).member(MEMBERS[name]).values
    layers = space.lower(Architecture(space, space.genes_of({**values, "resolution": 32})))
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = StaticNetwork(layers, space.norm_eps).train()
    network.follow_statistics(1.0)
    with torch.no_grad():
        network(images)  # statistics of these very images, so that no signal fades on its way
    network.eval()
    model = onnx_model(Model(layers, folded_weights(network)), len(images))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network(images).numpy()
    got = session.run([OUTPUT], {INPUT: images.numpy()})[0]
    assert expected.std(0).min() > 0.01  # the images make a difference
    assert np.abs(got - expected).max() < 1e-3 * np.abs(expected).max()  # float32, normalised some fifty times

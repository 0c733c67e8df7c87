"""Heads: their layers and choices, and their MACs beside those of torch."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import cpu_session, onnx_model
from search_spaces import Architecture, MobileNetV3
from search_spaces.base.errors import InvalidValueError
from search_spaces.heads import ExtraFeatures, GlobalGate, PixelClassifier, SeparablePredictor, UpsampledSum
from search_spaces.loading import load_space
from search_spaces.space_contract import check_space
from search_spaces.torch_program import StaticNetwork, folded_weights

SMALL: dict[str, Any] = {
    "name": "small",
    "resolutions": ["16x24", "32x48"],
    "in_channels": 3,
    "classes": 4,
    "stem": 8,
    "stem_stride": 2,
    "stages": [
        {"channels": 8, "stride": 1, "squeeze": False, "activation": "relu"},
        {"channels": 16, "stride": 2, "squeeze": True, "activation": "relu"},
        {"channels": 24, "stride": 2, "squeeze": False, "activation": "h_swish"},
    ],
    "depths": [1, 2],
    "kernels": [3, 5],
    "expands": [2],
    "last_channels": 32,
    "features": None,
    "head": {"kind": "LRASPP", "channels": [8, 16], "reads": [1, 2]},
}


@pytest.fixture(scope="module")
def space() -> MobileNetV3:
    return MobileNetV3(**SMALL)


def of(space: MobileNetV3, **values: Any) -> Architecture:
    genes = space.smallest.genes.copy()
    for name, value in values.items():
        column = space.index[name.replace("_", ".")]
        genes[column] = space.choices[column].values.index(value)
    return Architecture(space, genes)


def test_the_head_reads_one_stage_and_the_deepest_features(space: MobileNetV3) -> None:
    network = space.lower(of(space, head_reads=2, head_channels=16))
    assert network["head_fine2"] == PixelClassifier(16, 4, (4, 6))
    assert network["head_gate"] == GlobalGate(32, 16, (2, 3))
    assert network["head"] == UpsampledSum(16, 4, (4, 6), (2, 3))
    assert network.sources["head"] == ("head_fine2", "head_gate") and "head_fine1" not in network
    assert network.sources["head_fine2"] == ("stage2_block1",) and "classifier" not in network
    assert network.output_shapes == {"logits": (4, 4, 6)}
    assert space.lower(of(space, head_reads=1)).output_shapes == {"logits": (4, 8, 12)}


def test_a_space_with_the_head_keeps_the_contract(space: MobileNetV3) -> None:
    check_space(space, np.random.default_rng(0))
    assert len({space.fingerprint, MobileNetV3(**{**SMALL, "head": None, "features": 8}).fingerprint}) == 2


@pytest.mark.parametrize("name", ["small", "mobilenet_v3_lraspp"])
def test_macs_are_those_that_torch_counts(name: str, space: MobileNetV3) -> None:
    made = space if name == "small" else load_space(name)
    for genes in [made.biggest.genes, *made.sample(3, np.random.default_rng(1))]:
        layers = made.lower(Architecture(made, genes))
        network = StaticNetwork(layers).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, *next(iter(layers.inputs.values()))))
        assert sum(layer.macs for layer in layers.values()) == counter.get_total_flops() // 2


def test_classifying_before_the_upsampling_gives_the_same(space: MobileNetV3) -> None:
    """The paper upsamples the features first."""
    layer = UpsampledSum(8, 4, (8, 12), (2, 3))
    network = StaticNetwork({"head": layer})
    scores, coarse = torch.randn(1, 4, 8, 12), torch.randn(1, 8, 2, 3)
    state = network.state_dict()
    weight, bias = state["head.classify.weight"], state["head.classify.bias"]
    upsampled = torch.nn.functional.interpolate(coarse, (8, 12), mode="bilinear", align_corners=False)
    wanted = scores + torch.nn.functional.conv2d(upsampled, weight, bias)
    from search_spaces.torch_program import StaticLayer

    alone = StaticLayer(layer.program)
    alone.load_state_dict({name.removeprefix("head."): value for name, value in state.items()})
    torch.testing.assert_close(alone(scores, coarse), wanted)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"kind": "ASPP"}, "a `kind`, which is LRASPP"),
        ({"kind": "LRASPP", "channels": [8], "reads": [4]}, r"`reads` .* at most 3, but got \[4\]"),
        ({"kind": "LRASPP", "channels": [8, 8], "reads": [1]}, "`channels` of the head LRASPP must be integers"),
        ({"kind": "LRASPP", "channels": ["a"], "reads": [1]}, "`channels` of the head LRASPP must be"),
        ({"kind": "LRASPP", "channels": [8]}, "does not have these settings"),
    ],
)
def test_settings_that_cannot_be_are_refused(head: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        MobileNetV3(**{**SMALL, "head": head})


def test_the_classifiers_width_is_refused_beside_a_head() -> None:
    with pytest.raises(InvalidValueError, match="with a `head` it is null"):
        MobileNetV3(**{**SMALL, "features": 8})


# -- SSDLite -----------------------------------------------------------------------------------------------------------

DETECTOR: dict[str, Any] = {
    **SMALL,
    "resolutions": ["24x32", "40x56"],
    "head": {
        "kind": "SSDLite",
        "reads": [2],
        "extras": 2,
        "anchors": 3,
        "channels": [16, 32],
        "kernels": [3, 5],
    },
}


@pytest.fixture(scope="module")
def detector() -> MobileNetV3:
    return MobileNetV3(**DETECTOR)


def test_the_detector_predicts_from_stages_the_deepest_and_extra_features(detector: MobileNetV3) -> None:
    network = detector.lower(of(detector, resolution="24x32", head_channels=32, head_kernel=5))
    assert network["head_scores1"] == SeparablePredictor(16, 3 * 5, 5, (6, 8))
    assert network["head_boxes2"] == SeparablePredictor(32, 3 * 4, 5, (3, 4))
    assert network["head_extra1"] == ExtraFeatures(32, 16, 32, (3, 4))
    assert network["head_extra2"] == ExtraFeatures(32, 16, 32, 2)
    assert network.sources["head_extra2"] == ("head_extra1",) and network.sources["head_boxes4"] == ("head_extra2",)
    assert network.sources["head_scores1"] == ("stage2_block1",) and network.sources["head_scores2"] == ("last",)
    sizes = [(6, 8), (3, 4), (2, 2), (1, 1)]
    wanted = {f"scores{m}": (15, *size) for m, size in enumerate(sizes, 1)}
    wanted |= {f"boxes{m}": (12, *size) for m, size in enumerate(sizes, 1)}
    assert network.output_shapes == wanted


def test_a_detector_keeps_the_contract(detector: MobileNetV3) -> None:
    check_space(detector, np.random.default_rng(0))
    alone = {**DETECTOR["head"], "reads": [], "extras": 0, "kernels": [3]}
    single = MobileNetV3(**{**DETECTOR, "head": alone})
    assert list(single.lower(single.biggest).output_shapes) == ["scores1", "boxes1"]
    assert not [choice.name for choice in single.choices if choice.name.startswith("head")]


@pytest.mark.parametrize("name", ["small", "mobilenet_v3_ssdlite"])
def test_macs_of_detectors_are_those_that_torch_counts(name: str, detector: MobileNetV3) -> None:
    made = detector if name == "small" else load_space(name)
    for genes in [made.biggest.genes, *made.sample(3, np.random.default_rng(1))]:
        layers = made.lower(Architecture(made, genes))
        network = StaticNetwork(layers).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, *next(iter(layers.inputs.values()))))
        assert sum(layer.macs for layer in layers.values()) == counter.get_total_flops() // 2


def test_a_file_of_a_detector_gives_each_output_by_its_name(detector: MobileNetV3) -> None:
    network = StaticNetwork(layers := detector.lower(detector.biggest)).eval()
    session = cpu_session(onnx_model(Model(layers, folded_weights(network)), 2).SerializeToString())
    names, images = list(layers.output_shapes), torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(images)
    for name, found in zip(names, session.run(names, {"image": images.numpy()}), strict=True):
        assert found.shape == (2, *layers.output_shapes[name])
        np.testing.assert_allclose(found, expected[name].numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reads": [4]}, r"`reads` .* at most 3, but got \[4\]"),
        ({"kernels": [4]}, "`kernels` of the head SSDLite must be odd"),
        ({"channels": []}, "`channels` of the head SSDLite must be integers that ascend"),
        ({"anchors": 0}, "anchors"),
    ],
)
def test_settings_of_a_detector_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        MobileNetV3(**{**DETECTOR, "head": {**DETECTOR["head"], **changes}})

"""Slices of universal inverted bottlenecks and of blocks in groups, through whole supernets of tiny spaces."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nas.supernet import Supernet
from nas.supernet.elastic import ElasticLayer
from search_spaces import UIB, Architecture, Conv, FBNet, FBNetBlock, FusedMBConv, MobileNetV4, SearchSpace
from search_spaces.base.errors import MismatchError
from search_spaces.torch_program import StaticLayer

Images = Callable[..., Tensor]
Networks = Callable[..., list[Architecture]]
Randomise = Callable[[Supernet], Supernet]


def mobilenet_v4() -> MobileNetV4:
    return MobileNetV4(
        name="tiny_v4",
        resolutions=[8, 12],
        in_channels=1,
        classes=10,
        stem=8,
        stem_stride=1,
        stages=[
            {"block": "fused", "channels": 8, "stride": 1, "depths": [1, 2], "kernels": [3, 5], "expands": [1, 2]},
            {"block": "uib", "channels": 16, "stride": 2, "depths": [1, 2, 3], "kernels": [3, 5, 7], "expands": [1, 2]},
        ],
        last_channels=16,
        features=16,
    )


def fbnet() -> FBNet:
    return FBNet(
        name="tiny_fbnet",
        resolutions=[8],
        in_channels=1,
        classes=10,
        stem=8,
        stem_stride=1,
        stages=[{"channels": 8, "layers": 1, "stride": 1}, {"channels": 16, "layers": 3, "stride": 2}],
        last_channels=16,
    )


@pytest.fixture(params=[mobilenet_v4, fbnet], ids=["mobilenet_v4", "fbnet"], scope="module")
def some_space(request: pytest.FixtureRequest) -> SearchSpace:
    found: SearchSpace = request.param()
    return found


def test_an_extracted_network_computes_what_the_supernet_does(
    some_space: SearchSpace, networks: Networks, images: Images, randomise: Randomise
) -> None:
    supernet = randomise(Supernet(some_space)).eval()
    for architecture in networks(some_space, 24):
        x = images(some_space, architecture)
        with torch.no_grad():
            torch.testing.assert_close(supernet.extract(architecture)(x), supernet(x, architecture), rtol=0, atol=1e-5)


def test_every_slice_has_the_names_and_shapes_of_its_layer(some_space: SearchSpace) -> None:
    for p in range(len(some_space.positions)):
        layers = list(dict.fromkeys(layer for layer in some_space.layers_at(p) if layer is not None))
        elastic = ElasticLayer(layers)
        for layer in layers:
            expected = {name: tensor.shape for name, tensor in StaticLayer(layer.program).state_dict().items()}
            assert {name: tensor.shape for name, tensor in elastic.state(layer).items()} == expected


def used(name: str, weight: Tensor, layer: object, shape: torch.Size) -> Tensor:
    """Which entries of a weight of the supernet a layer uses, independently of the slicing."""
    inside = torch.zeros(weight.shape, dtype=torch.bool)
    groups = layer.groups if isinstance(layer, FBNetBlock) and name.split(".")[0] in ("expand", "project") else 1
    if groups > 1 and len(shape) == 4:
        rows, columns = shape[0] // groups, shape[1]
        for group in range(groups):
            inside[group * rows : (group + 1) * rows, group * columns : (group + 1) * columns] = True
        return inside
    centre = [slice(None)] * 2
    if len(shape) == 4 and shape[2] < weight.shape[2]:
        # A 3x3 kernel takes all of the 5x5 centre of a 7x7 one, since the transform of 7 to 5 mixes what is in there.
        extent = shape[2] if weight.shape[2] < 7 else 5
        margin = (weight.shape[2] - extent) // 2
        centre = [slice(margin, margin + extent)] * 2
    inside[(*(slice(extent) for extent in shape[:2]), *centre)[: len(shape)]] = True
    return inside


def test_weights_outside_the_slice_do_not_matter(
    some_space: SearchSpace, networks: Networks, images: Images, randomise: Randomise
) -> None:
    for architecture in networks(some_space, 8):
        supernet = randomise(Supernet(some_space)).eval()
        x = images(some_space, architecture)
        with torch.no_grad():
            before = supernet(x, architecture)
            layers = some_space.lower(architecture)
            for position, elastic in supernet.positions.items():
                layer = layers.get(position)
                parts = {} if layer is None else StaticLayer(layer.program).state_dict()
                for name, tensor in elastic.get_submodule("body").state_dict().items():
                    if not tensor.is_floating_point():
                        continue
                    if name in parts:
                        tensor[~used(name, tensor, layer, parts[name].shape)] = torch.nan
                    else:
                        tensor.fill_(torch.nan)
            assert torch.equal(before, supernet(x, architecture))


def test_every_weight_gets_a_gradient(some_space: SearchSpace, networks: Networks, images: Images) -> None:
    supernet = Supernet(some_space).train()
    touched = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in supernet.named_parameters()}
    for architecture in networks(some_space, 60):
        x = images(some_space, architecture, n=32)
        supernet.zero_grad()
        functional.cross_entropy(supernet(x, architecture), torch.arange(len(x)) % 10).backward()
        for name, p in supernet.named_parameters():
            if p.grad is not None:
                touched[name] |= p.grad != 0
    for name, weights in touched.items():
        assert weights.float().mean() > 0.5, name  # a dead hidden unit has none
    dead = sum(int((~weights).sum()) for weights in touched.values())
    assert dead < 0.02 * sum(weights.numel() for weights in touched.values())


def test_both_kernels_of_a_universal_block_have_their_own_transforms() -> None:
    kinds = [(0, 0), (3, 0), (5, 0), (0, 3), (0, 7), (3, 5)]
    elastic = ElasticLayer([UIB(8, 8, 16, start, middle, 1, "relu", 8) for start, middle in kinds])
    shapes = {name: tuple(transform.shape) for name, transform in elastic.transforms.items()}
    assert shapes == {"start_5to3": (9, 9), "middle_7to5": (25, 25), "middle_5to3": (9, 9)}
    assert elastic.kernels == {"start_": [(5, 5), (3, 3)], "middle_": [(7, 7), (5, 5), (3, 3)]}
    with torch.no_grad():
        elastic.transforms["start_5to3"].mul_(2)
    state = elastic.state(UIB(8, 8, 16, 3, 5, 1, "relu", 8))
    body = dict(elastic.body.named_parameters())
    assert torch.equal(state["start.conv.weight"], 2 * body["start.conv.weight"][:, :, 1:4, 1:4])
    assert torch.equal(state["middle.conv.weight"], body["middle.conv.weight"][:, :, 1:6, 1:6])
    assert not [name for name in elastic.state(UIB(8, 8, 16, 0, 0, 1, "relu", 8)) if name[0] in "sm"]
    with pytest.raises(MismatchError, match="start.conv.weight.*kernels.*\\(7, 7\\)"):
        elastic.state(UIB(8, 8, 16, 7, 0, 1, "relu", 8))


def test_a_fused_block_has_an_elastic_kernel() -> None:
    layers = [FusedMBConv(8, 8, hidden, kernel, 1, "relu", "none", 8) for hidden in (8, 16) for kernel in (3, 5)]
    elastic = ElasticLayer(layers)
    weight = elastic.state(layers[0])["expand.conv.weight"]
    assert torch.equal(weight, elastic.body.get_parameter("expand.conv.weight")[:8, :, 1:4, 1:4])


def test_groups_are_the_dense_convolution_without_what_crosses_them() -> None:
    dense, grouped = (FBNetBlock(8, 12, 16, 3, 1, groups, "relu", 6) for groups in (1, 2))
    elastic = ElasticLayer([grouped, dense])
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    weight = elastic.body.get_parameter("expand.conv.weight")
    with torch.no_grad():
        weight[:8, 4:], weight[8:, :4] = 0, 0
        parts = [elastic.state(layer)["expand.conv.weight"] for layer in (dense, grouped)]
        outputs = [functional.conv2d(x, part, groups=g) for part, g in zip(parts, (1, 2), strict=True)]
    torch.testing.assert_close(*outputs)


def test_a_position_with_groups_alone_is_not_cut_again() -> None:
    layers = [FBNetBlock(8, 8, hidden, 3, 1, 2, "relu", 6) for hidden in (8, 16)]
    elastic = ElasticLayer(layers)
    assert tuple(elastic.body.get_parameter("expand.conv.weight").shape) == (16, 4, 1, 1)
    for layer in layers:
        expected = {name: tensor.shape for name, tensor in StaticLayer(layer.program).state_dict().items()}
        assert {name: tensor.shape for name, tensor in elastic.state(layer).items()} == expected
    with pytest.raises(MismatchError, match="2 groups.*groups=1"):
        elastic.state(FBNetBlock(8, 8, 16, 3, 1, 1, "relu", 6))


def test_one_kernel_size_needs_no_transform() -> None:
    assert not ElasticLayer([Conv(1, 8, 3, 1, "relu", 8)]).transforms

import numpy as np
import pytest
import torch

from nas.supernet.elastic import ElasticLayer
from search_spaces import Bottleneck, Conv, Layer, MBConv, MobileNetV3, ResNet50
from search_spaces.base.errors import MismatchError
from search_spaces.torch_program import StaticLayer


def test_a_smaller_kernel_starts_as_the_centre_of_the_largest() -> None:
    layers = [Conv(2, 3, kernel, 1, "relu", 8) for kernel in (3, 5, 7)]
    elastic = ElasticLayer(layers)
    weight = elastic.body.get_parameter("conv.conv.weight")
    for layer, margin in zip(layers, (2, 1, 0), strict=True):
        expected = weight[:, :, margin : 7 - margin, margin : 7 - margin]
        assert torch.equal(elastic.state(layer)["conv.conv.weight"], expected)


def test_kernel_transforms_are_chained_and_shared_over_channels() -> None:
    elastic = ElasticLayer([Conv(2, 3, kernel, 1, "relu", 8) for kernel in (3, 5, 7)])
    assert {name: tuple(p.shape) for name, p in elastic.transforms.items()} == {"7to5": (25, 25), "5to3": (9, 9)}
    generator = torch.Generator().manual_seed(0)
    for transform in elastic.transforms.values():
        torch.nn.init.normal_(transform, generator=generator)
    seven = elastic.body.get_parameter("conv.conv.weight").detach().numpy()
    first, second = (elastic.transforms[name].detach().numpy() for name in ("7to5", "5to3"))
    three = elastic.state(Conv(2, 3, 3, 1, "relu", 8))["conv.conv.weight"].detach().numpy()
    for o in range(3):
        for i in range(2):
            five = (first @ seven[o, i, 1:6, 1:6].reshape(25)).reshape(5, 5)
            np.testing.assert_allclose(three[o, i].reshape(9), second @ five[1:4, 1:4].reshape(9), rtol=1e-4, atol=1e-5)


def test_a_slice_holds_every_parameter_and_buffer_of_its_layer(
    space: MobileNetV3, digits_space: MobileNetV3, resnet_space: ResNet50
) -> None:
    for some_space in (space, digits_space, resnet_space):
        for p in range(len(some_space.positions)):
            layers = list(dict.fromkeys(layer for layer in some_space.layers_at(p) if layer is not None))
            elastic = ElasticLayer(layers)
            for layer in layers:
                expected = {name: tensor.shape for name, tensor in StaticLayer(layer.program).state_dict().items()}
                assert {name: tensor.shape for name, tensor in elastic.state(layer).items()} == expected


@pytest.mark.parametrize(
    ("small", "large"),
    [
        (MBConv(8, 8, 16, True, 3, 1, 8, "relu", 8), MBConv(8, 8, 32, True, 3, 1, 16, "relu", 8)),
        (Bottleneck(8, 16, 8, True, 2, "relu", 8), Bottleneck(16, 24, 16, True, 2, "relu", 8)),
    ],
)
def test_slices_share_storage_with_the_elastic_layer(small: Layer, large: Layer) -> None:
    elastic = ElasticLayer([small, large])
    bodies = elastic.body.state_dict()
    for name, tensor in elastic.state(small).items():
        assert tensor.data_ptr() == bodies[name].data_ptr()


def test_a_layer_that_does_not_fit_is_refused() -> None:
    elastic = ElasticLayer([Conv(1, 8, 3, 1, "relu", 8)])
    with pytest.raises(MismatchError, match="too small"):
        elastic.state(Conv(1, 16, 3, 1, "relu", 8))
    with pytest.raises(MismatchError, match="kernels"):
        elastic.state(Conv(1, 8, 5, 1, "relu", 8))

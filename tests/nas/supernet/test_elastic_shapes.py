"""Slices of layers none of which holds all others: other kernels, groups and image sizes."""

from dataclasses import dataclass

import pytest
import torch

from nas.supernet.elastic import ElasticLayer
from search_spaces import Conv, torch_program
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Layer, Size, image_shape
from search_spaces.ops.convolution import Convolution
from search_spaces.ops.movement import Gather
from search_spaces.program import Shape, Traced
from search_spaces.torch_program import StaticLayer


@dataclass(frozen=True)
class Rectangular(Layer):
    """A convolution of any kernel and groups, and some of its channels."""

    channels: int
    kernel: tuple[int, int]
    groups: int = 1

    @property
    def input_shape(self) -> Shape:
        return (self.channels, 8, 8)

    def define(self, x: Traced) -> Traced:
        x = Convolution("conv", self.channels, self.kernel, groups=self.groups)(x)
        return Gather((1, 0, 1))(x)


CASES: dict[str, list[Layer]] = {
    "a column and a row": [Rectangular(4, (5, 1)), Rectangular(4, (1, 5))],
    "a column, a row and both": [Rectangular(4, (5, 1)), Rectangular(4, (1, 5)), Rectangular(4, (5, 5))],
    "neither holds the other": [Rectangular(4, (3, 3)), Rectangular(4, (1, 5)), Rectangular(4, (1, 1))],
    "groups that do not divide each other": [Rectangular(6, (3, 3), 3), Rectangular(8, (3, 3), 2)],
    "groups and more channels": [Rectangular(12, (3, 3), groups) for groups in (2, 3)] + [Rectangular(6, (3, 3))],
    "a square and a rectangle": [Conv(3, 4, 3, 1, "relu", size) for size in (8, (6, 10))],
}


@pytest.mark.parametrize("layers", CASES.values(), ids=CASES)
def test_each_layer_computes_what_its_slice_does_alone(layers: list[Layer]) -> None:
    elastic = ElasticLayer(layers).eval()
    for layer in layers:
        alone = StaticLayer(layer.program).eval()
        alone.load_state_dict(elastic.state(layer))
        x = torch.randn(2, *layer.input_shape)
        y = elastic(layer, x)
        assert y.shape[1:] == layer.output_shape
        assert torch.equal(y, alone(x))


def test_each_kernel_is_cut_from_the_smallest_that_holds_it() -> None:
    elastic = ElasticLayer([Rectangular(4, kernel) for kernel in ((5, 5), (3, 3), (1, 5), (5, 1), (1, 3))])
    assert set(elastic.transforms) == {"5to3", "5to5x1", "5to1x5", "1x5to1x3"}
    weight = elastic.body.get_parameter("conv.conv.weight")
    assert torch.equal(elastic.state(Rectangular(4, (5, 1)))["conv.conv.weight"], weight[:, :, :, 2:3])
    assert torch.equal(elastic.state(Rectangular(4, (1, 3)))["conv.conv.weight"], weight[:, :, 2:3, 1:4])


@pytest.mark.parametrize(
    ("sizes", "size"),
    [((8, (6, 10)), (8, 10)), (((4, 10), (6, 8)), (6, 10)), ((8, 6), 8), (((4, 6), (4, 5)), (4, 6))],
)
def test_the_largest_image_holds_all(sizes: list[Size], size: Size) -> None:
    merged = Conv.merge([Conv(3, 4, 3, 1, "relu", one) for one in sizes])
    assert merged.size == size and merged.input_shape == image_shape(3, size)


def test_an_even_extent_of_a_kernel_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"Rectangular.kernel must be odd, but got \(3, 2\)"):
        Rectangular(4, (3, 2))


def test_gradients_follow_what_ran_without_them_first() -> None:
    layer = Rectangular(4, (1, 1))
    elastic, x = ElasticLayer([layer]), torch.randn(2, 4, 8, 8)
    torch_program._integers.cache_clear()
    with torch.inference_mode():
        elastic.eval()(layer, x)
    elastic.train()(layer, x).square().sum().backward()
    assert elastic.body.get_parameter("conv.conv.weight").grad is not None

from collections.abc import Callable
from dataclasses import dataclass

import torch

from nas.supernet import Supernet, recalibrate
from search_spaces import Layer, MobileNetV3
from search_spaces.ops.convolution import BatchNorm
from search_spaces.program import Shape, Traced
from search_spaces.torch_program import StaticLayer, StaticNetwork


@dataclass(frozen=True)
class Norm(Layer):
    """A BatchNorm alone."""

    channels: int

    @property
    def input_shape(self) -> Shape:
        return (self.channels, 6, 6)

    def define(self, x: Traced) -> Traced:
        return BatchNorm("norm")(x)


def test_one_batch_gives_the_statistics_of_the_images() -> None:
    x = 3 + 2 * torch.randn(50, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    network = StaticNetwork({"norm": Norm(4)})
    recalibrate(network, x, batch=50)
    state = network.state_dict()
    torch.testing.assert_close(state["norm.norm.running_mean"], x.mean((0, 2, 3)))
    torch.testing.assert_close(state["norm.norm.running_var"], x.var((0, 2, 3)))
    (layer,) = network
    assert not network.training and isinstance(layer, StaticLayer) and layer.momentum == 0.1


def test_several_batches_are_averaged_whatever_was_there_before() -> None:
    x = torch.randn(50, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    network = StaticNetwork({"norm": Norm(4)})
    mean = network.state_dict()["norm.norm.running_mean"].fill_(100)
    recalibrate(network, x, batch=25)
    torch.testing.assert_close(mean, x.mean((0, 2, 3)))


def test_a_network_sees_normalised_activations(
    space: MobileNetV3, images: Callable[..., torch.Tensor], randomise: Callable[[Supernet], Supernet]
) -> None:
    network = randomise(Supernet(space)).extract(space.biggest)
    x = images(space, space.biggest, n=40)
    recalibrate(network, x)
    with torch.no_grad():
        evaluated = network(x)
        trained = network.train()(x)
    # The running variance is unbiased and the batch's is not, hence the tolerance.
    torch.testing.assert_close(evaluated, trained, rtol=0.05, atol=0.02)

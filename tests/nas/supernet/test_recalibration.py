from collections.abc import Callable

import torch
from torch import nn

from nas.supernet import Supernet, recalibrate
from search_spaces import MobileNetV3


def test_one_batch_gives_the_statistics_of_the_images() -> None:
    x = 3 + 2 * torch.randn(50, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    norm = nn.BatchNorm2d(4)
    recalibrate(nn.Sequential(norm), x, batch=50)
    assert norm.running_mean is not None and norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, x.var((0, 2, 3)))
    assert not norm.training and norm.momentum == 0.1


def test_several_batches_are_averaged_whatever_was_there_before() -> None:
    x = torch.randn(50, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    norm = nn.BatchNorm2d(4)
    assert norm.running_mean is not None
    norm.running_mean.fill_(100)
    recalibrate(norm, x, batch=25)
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)))


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

"""BatchNorm statistics of one network, taken anew: those of the supernet are a mixture over all networks.

Yu and Huang, "Universally Slimmable Networks", ICCV 2019, arXiv:1903.05134, section 3.3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from search_spaces.torch_program import MOMENTUM, StaticNetwork


@torch.no_grad()
def recalibrate(network: StaticNetwork, images: Tensor, *, batch: int = 512) -> None:
    """Replace all running statistics by their mean over the batches of `images`; the network ends in eval mode.

    Deterministic: batches are taken in order and are of equal size, give or take one image. With one batch the
    statistics are exactly those of the images.

    Args:
        network: a static network.
        images: training images at the network's resolution, shape (N, C, H, W).
        batch: largest number of images at once.
    """
    network.train()
    for number, part in enumerate(images.tensor_split(math.ceil(len(images) / batch)), 1):
        network.follow_statistics(1 / number)  # the cumulative average
        network(part)
    network.follow_statistics(MOMENTUM)
    network.eval()

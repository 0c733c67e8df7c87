"""BatchNorm statistics of one network, taken anew: those of the supernet are a mixture over all networks.

Yu and Huang, "Universally Slimmable Networks", ICCV 2019, arXiv:1903.05134, section 3.3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def recalibrate(network: nn.Module, images: Tensor, *, batch: int = 512) -> None:
    """Replace all running statistics by their mean over the batches of `images`; the network ends in eval mode.

    Deterministic: batches are taken in order and are of equal size, give or take one image. With one batch the
    statistics are exactly those of the images.

    Args:
        network: a static network.
        images: training images at the network's resolution, shape (N, C, H, H).
        batch: largest number of images at once.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's way to say: the cumulative average
        norm.train()
    for part in images.tensor_split(math.ceil(len(images) / batch)):
        network(part)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()

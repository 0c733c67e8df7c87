"""The torch bodies of the layer kinds, and the static network made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from search_spaces.graph import Activation

if TYPE_CHECKING:
    from search_spaces.layers import Classifier, Conv, Layer, MBConv

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "h_swish": nn.Hardswish,
    "h_sigmoid": nn.Hardsigmoid,
}


class ConvNorm(nn.Module):
    """Convolution and BatchNorm; they fold into one convolution for inference."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(self.conv(x))
        return y


class ConvBlock(nn.Module):
    """Body of `Conv`."""

    def __init__(self, layer: Conv) -> None:
        super().__init__()
        self.conv = ConvNorm(layer.in_channels, layer.out_channels, layer.kernel, layer.stride)
        self.activation = ACTIVATIONS[layer.activation]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.activation(self.conv(x))  # (B, out_channels, H / stride, W / stride)
        return y


class MBConvBlock(nn.Module):
    """Body of `MBConv`."""

    def __init__(self, layer: MBConv) -> None:
        super().__init__()
        self.residual = layer.residual
        self.activation = ACTIVATIONS[layer.activation]()
        self.expand = ConvNorm(layer.in_channels, layer.hidden) if layer.expands else None
        self.depthwise = ConvNorm(layer.hidden, layer.hidden, layer.kernel, layer.stride, groups=layer.hidden)
        self.reduce = nn.Conv2d(layer.hidden, layer.squeeze, 1) if layer.squeeze else None
        self.excite = nn.Conv2d(layer.squeeze, layer.hidden, 1) if layer.squeeze else None
        self.project = ConvNorm(layer.hidden, layer.out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.expand is None else self.activation(self.expand(x))  # (B, hidden, H, W)
        y = self.activation(self.depthwise(y))  # (B, hidden, H / stride, W / stride)
        if self.reduce is not None and self.excite is not None:
            gate = self.excite(nn.functional.relu(self.reduce(y.mean((2, 3), keepdim=True))))  # (B, hidden, 1, 1)
            y = y * nn.functional.hardsigmoid(gate)
        z: torch.Tensor = self.project(y)  # (B, out_channels, H / stride, W / stride)
        return z + x if self.residual else z


class ClassifierBlock(nn.Module):
    """Body of `Classifier`."""

    def __init__(self, layer: Classifier) -> None:
        super().__init__()
        self.mix = nn.Linear(layer.in_channels, layer.features)
        self.activation = ACTIVATIONS[layer.activation]()
        self.classify = nn.Linear(layer.features, layer.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.mix(x.mean((2, 3))))  # (B, features)
        y: torch.Tensor = self.classify(x)  # (B, classes)
        return y


class Network(nn.Sequential):
    """A plain static network: the layers of a lowered architecture, named by position."""

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        super().__init__()
        for position, layer in layers.items():
            self.add_module(position, layer.build())


Weights = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Weight and bias of every convolution and linear layer by the name it is emitted with, BatchNorm folded in."""


def folded_weights(network: nn.Module) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Fold BatchNorm into the convolutions, in float64.

    ``w' = w * gamma / sqrt(var + eps)``, ``b' = beta - mean * gamma / sqrt(var + eps)``.
    """
    folded: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    inside: set[str] = set()
    for name, module in network.named_modules():
        if name in inside:
            continue
        if isinstance(module, ConvNorm):
            inside |= {f"{name}.conv", f"{name}.norm"}
            norm = module.norm
            if norm.running_mean is None or norm.running_var is None:
                raise ValueError(f"BatchNorm {name!r} has no running statistics to fold.")
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            weight = module.conv.weight.double() * scale.reshape(-1, 1, 1, 1)
            bias = norm.bias.double() - norm.running_mean.double() * scale
        elif isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight
            bias = torch.zeros(len(weight)) if module.bias is None else module.bias
        else:
            continue
        folded[name] = (
            weight.detach().cpu().numpy().astype(np.float32),
            bias.detach().cpu().numpy().astype(np.float32),
        )
    return folded

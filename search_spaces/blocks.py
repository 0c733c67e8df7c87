"""The torch bodies of the layer kinds, and the static network made of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from search_spaces.graph import Activation

if TYPE_CHECKING:
    from search_spaces.layers import (
        UIB,
        Bottleneck,
        Cell201,
        Classifier,
        Conv,
        FBNetBlock,
        FusedMBConv,
        Head201,
        Layer,
        LinearClassifier,
        MBConv,
        NormClassifier,
        Reduction201,
        ResidualConv,
    )

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
        self.mix = nn.Linear(layer.in_channels, layer.features, bias=layer.mix_bias)
        self.activation = ACTIVATIONS[layer.activation]()
        self.classify = nn.Linear(layer.features, layer.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.mix(x.mean((2, 3))))  # (B, features)
        y: torch.Tensor = self.classify(x)  # (B, classes)
        return y


class LinearClassifierBlock(nn.Module):
    """Body of `LinearClassifier`."""

    def __init__(self, layer: LinearClassifier) -> None:
        super().__init__()
        self.classify = nn.Linear(layer.in_channels, layer.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.classify(x.mean((2, 3)))  # (B, classes)
        return y


class ResidualConvBlock(nn.Module):
    """Body of `ResidualConv`."""

    def __init__(self, layer: ResidualConv) -> None:
        super().__init__()
        self.conv = ConvNorm(layer.channels, layer.channels, layer.kernel)
        self.activation = ACTIVATIONS[layer.activation]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.activation(self.conv(x))  # (B, channels, H, W)
        return y + x


class BottleneckBlock(nn.Module):
    """Body of `Bottleneck`."""

    def __init__(self, layer: Bottleneck) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[layer.activation]()
        self.narrow = ConvNorm(layer.in_channels, layer.hidden)
        self.spatial = ConvNorm(layer.hidden, layer.hidden, 3, layer.stride)
        self.widen = ConvNorm(layer.hidden, layer.out_channels)
        self.pool = nn.AvgPool2d(layer.stride, ceil_mode=True) if layer.stride > 1 else nn.Identity()
        self.shortcut = ConvNorm(layer.in_channels, layer.out_channels) if layer.projects else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.activation(self.narrow(x))  # (B, hidden, H, W)
        y = self.activation(self.spatial(y))  # (B, hidden, H / stride, W / stride)
        y = self.widen(y)  # (B, out_channels, H / stride, W / stride)
        shortcut = x if self.shortcut is None else self.shortcut(self.pool(x))  # (B, out_channels, H / stride, ...)
        z: torch.Tensor = self.activation(y + shortcut)
        return z


class UIBBlock(nn.Module):
    """Body of `UIB`."""

    def __init__(self, layer: UIB) -> None:
        super().__init__()
        inputs, hidden, outputs = layer.in_channels, layer.hidden, layer.out_channels
        start, middle = layer.start_kernel, layer.middle_kernel
        self.residual = layer.residual
        self.activation = ACTIVATIONS[layer.activation]()
        self.start = ConvNorm(inputs, inputs, start, layer.start_stride, groups=inputs) if start else None
        self.expand = ConvNorm(inputs, hidden)
        self.middle = ConvNorm(hidden, hidden, middle, layer.stride, groups=hidden) if middle else None
        self.project = ConvNorm(hidden, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.start is None else self.start(x)  # (B, in_channels, H / start_stride, W / start_stride)
        y = self.activation(self.expand(y))  # (B, hidden, H / start_stride, W / start_stride)
        if self.middle is not None:
            y = self.activation(self.middle(y))  # (B, hidden, H / stride, W / stride)
        z: torch.Tensor = self.project(y)  # (B, out_channels, H / stride, W / stride)
        return z + x if self.residual else z


class FusedMBConvBlock(nn.Module):
    """Body of `FusedMBConv`."""

    def __init__(self, layer: FusedMBConv) -> None:
        super().__init__()
        self.residual = layer.residual
        self.activation = ACTIVATIONS[layer.activation]()
        self.out_activation = ACTIVATIONS[layer.out_activation]()
        self.expand = ConvNorm(layer.in_channels, layer.hidden, layer.kernel, layer.stride)
        self.project = ConvNorm(layer.hidden, layer.out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.activation(self.expand(x))  # (B, hidden, H / stride, W / stride)
        z: torch.Tensor = self.out_activation(self.project(y))  # (B, out_channels, H / stride, W / stride)
        return z + x if self.residual else z


class NormClassifierBlock(nn.Module):
    """Body of `NormClassifier`."""

    def __init__(self, layer: NormClassifier) -> None:
        super().__init__()
        self.mix = ConvNorm(layer.in_channels, layer.features)
        self.activation = ACTIVATIONS[layer.activation]()
        self.classify = nn.Linear(layer.features, layer.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.mix(x.mean((2, 3), keepdim=True)))  # (B, features, 1, 1)
        y: torch.Tensor = self.classify(x.flatten(1))  # (B, classes)
        return y


class FBNetBlockBody(nn.Module):
    """Body of `FBNetBlock`."""

    def __init__(self, layer: FBNetBlock) -> None:
        super().__init__()
        self.residual = layer.residual
        self.activation = ACTIVATIONS[layer.activation]()
        self.expand = ConvNorm(layer.in_channels, layer.hidden, groups=layer.groups)
        self.shuffle = nn.ChannelShuffle(layer.groups) if layer.groups > 1 else nn.Identity()
        self.depthwise = ConvNorm(layer.hidden, layer.hidden, layer.kernel, layer.stride, groups=layer.hidden)
        self.project = ConvNorm(layer.hidden, layer.out_channels, groups=layer.groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.shuffle(self.activation(self.expand(x)))  # (B, hidden, H, W)
        y = self.activation(self.depthwise(y))  # (B, hidden, H / stride, W / stride)
        z: torch.Tensor = self.project(y)  # (B, out_channels, H / stride, W / stride)
        return z + x if self.residual else z


class Cell201Block(nn.Module):
    """Body of `Cell201`."""

    def __init__(self, layer: Cell201) -> None:
        super().__init__()
        self.incoming = [layer.incoming(target) for target in (1, 2, 3)]
        for _, operation, name in itertools.chain.from_iterable(self.incoming):
            if kernel := layer.kernel_of(operation):
                self.add_module(name, ConvNorm(layer.channels, layer.channels, kernel))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nodes: list[torch.Tensor] = [x]  # each (B, channels, H, W)
        for incoming in self.incoming:
            total: torch.Tensor | None = None
            for source, operation, name in incoming:
                y = nodes[source]
                if name in self._modules:
                    y = self.get_submodule(name)(nn.functional.relu(y))
                elif operation == "avg_pool_3x3":
                    y = nn.functional.avg_pool2d(y, 3, 1, 1, count_include_pad=False)
                total = y if total is None else total + y
            nodes.append(torch.zeros_like(x) if total is None else total)
        return nodes[-1]


class Reduction201Block(nn.Module):
    """Body of `Reduction201`."""

    def __init__(self, layer: Reduction201) -> None:
        super().__init__()
        self.first = ConvNorm(layer.in_channels, layer.out_channels, 3, 2)
        self.second = ConvNorm(layer.out_channels, layer.out_channels, 3)
        self.shortcut = nn.Conv2d(layer.in_channels, layer.out_channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(nn.functional.relu(self.first(nn.functional.relu(x))))  # (B, out_channels, H / 2, W / 2)
        z: torch.Tensor = y + self.shortcut(nn.functional.avg_pool2d(x, 2))
        return z


class Head201Block(nn.Module):
    """Body of `Head201`."""

    def __init__(self, layer: Head201) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(layer.in_channels)
        self.classify = nn.Linear(layer.in_channels, layer.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.classify(nn.functional.relu(self.norm(x)).mean((2, 3)))  # (B, classes)
        return y


class Network(nn.Sequential):
    """A plain static network: the layers of a lowered architecture, named by position."""

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        super().__init__()
        for position, layer in layers.items():
            self.add_module(position, layer.build())


def folded_weights(network: nn.Module) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Fold BatchNorm into the convolutions, in float64.

    ``w' = w * gamma / sqrt(var + eps)``, ``b' = beta - mean * gamma / sqrt(var + eps)``. A BatchNorm alone becomes
    a 1x1 convolution with one group per channel.
    """
    folded: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    inside: set[str] = set()
    for name, module in network.named_modules():
        if name in inside:
            continue
        if isinstance(module, ConvNorm | nn.BatchNorm2d):
            inside |= {f"{name}.conv", f"{name}.norm"}
            norm = module.norm if isinstance(module, ConvNorm) else module
            if norm.running_mean is None or norm.running_var is None:
                raise ValueError(f"BatchNorm {name!r} has no running statistics to fold.")
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            weight = scale.reshape(-1, 1, 1, 1)
            if isinstance(module, ConvNorm):
                weight = module.conv.weight.double() * weight
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

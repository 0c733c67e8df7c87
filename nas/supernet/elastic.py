"""Elastic layers: the weights of every layer that a position can hold, and the slice that one layer uses.

Cai et al., "Once-for-All", ICLR 2020, arXiv:1908.09791, section 3.3: a narrower layer takes the first channels; a
smaller kernel is the centre of the larger one, multiplied by a learned matrix that all channels share.

`slice_state` is the only definition of a slice: the forward pass of the supernet and the extraction of a static network
both use it. A new layer kind registers its own::

    @slice_state.register
    def _(layer: MyLayer, elastic: ElasticLayer) -> State:
        return elastic.conv_norm("conv", layer.out_channels, layer.in_channels)
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from search_spaces.errors import MismatchError, UnknownNameError
from search_spaces.layers import Classifier, Conv, Layer, MBConv, largest

State = dict[str, Tensor]
"""Parameters and buffers of a layer's module by name, views of (or computed from) the elastic layer's."""


class ElasticLayer(nn.Module):
    """The shared weights of all layers of one position.

    ``body`` is the module of the largest of them. ``transforms["5to3"]``, shape (9, 9), turns the centre of a 5x5
    kernel into a 3x3 kernel; it starts as the identity.

    Args:
        layers: the layers that the position can hold, all of one kind.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.body = largest(layers).build()
        self._parts = dict(self.body.named_modules())
        self.kernels = sorted({getattr(layer, "kernel", 1) for layer in layers}, reverse=True)
        self.transforms = nn.ParameterDict(
            {f"{large}to{small}": torch.eye(small * small) for large, small in itertools.pairwise(self.kernels)}
        )

    def forward(self, x: Tensor, layer: Layer) -> Tensor:
        """Run one layer of the position with its slice of the weights."""
        template, places = _template(layer, self.training)
        state = slice_state(layer, self)
        for name, part, attribute in places:
            object.__setattr__(part, attribute, state[name])
        y: Tensor = template(x)
        for _, part, attribute in places:
            object.__setattr__(part, attribute, None)  # the template keeps no weights alive
        return y

    def tensor(self, name: str, *extents: int) -> Tensor:
        """The first ``extents`` entries of a parameter or buffer of the body, dimension by dimension."""
        path, _, attribute = name.rpartition(".")
        tensor: Tensor = getattr(self._parts[path], attribute)
        for dimension, extent in enumerate(extents):
            if extent > tensor.shape[dimension]:
                raise MismatchError(f"{name!r} is {tuple(tensor.shape)} in the supernet, too small for {extents}.")
            if extent < tensor.shape[dimension]:  # a view of everything would only slow the backward pass down
                tensor = tensor.narrow(dimension, 0, extent)
        return tensor

    def conv(self, path: str, out_channels: int, in_channels: int, *, bias: bool = False) -> State:
        """State of a convolution or linear layer at its full kernel size; ``in_channels`` is per group."""
        state = {f"{path}.weight": self.tensor(f"{path}.weight", out_channels, in_channels)}
        return state | ({f"{path}.bias": self.tensor(f"{path}.bias", out_channels)} if bias else {})

    def norm(self, path: str, channels: int) -> State:
        """State of a BatchNorm. The running statistics are views, so training updates the slice in use, in place."""
        names = ("weight", "bias", "running_mean", "running_var")
        state = {f"{path}.{name}": self.tensor(f"{path}.{name}", channels) for name in names}
        return state | {f"{path}.num_batches_tracked": self.tensor(f"{path}.num_batches_tracked")}

    def conv_norm(self, path: str, out_channels: int, in_channels: int, *, kernel: int | None = None) -> State:
        """State of a `ConvNorm`; ``in_channels`` is per group, and a ``kernel`` makes the kernel size elastic."""
        state = self.conv(f"{path}.conv", out_channels, in_channels) | self.norm(f"{path}.norm", out_channels)
        if kernel is not None:
            state[f"{path}.conv.weight"] = self.crop(state[f"{path}.conv.weight"], kernel)
        return state

    def crop(self, weight: Tensor, kernel: int) -> Tensor:
        """Shrink kernels step by step, each step a centre crop and a learned transform.

        Args:
            weight: shape (O, I, K, K) with the largest kernel size K.
            kernel: the size wanted; one of the position's.
        """
        if kernel not in self.kernels:
            raise MismatchError(f"This position has kernels {self.kernels}, but got {kernel=}.")
        for large, small in itertools.pairwise(self.kernels):
            if large == kernel:
                break
            margin = (large - small) // 2
            centre = weight[:, :, margin : margin + small, margin : margin + small]  # (O, I, small, small)
            weight = (centre.flatten(2) @ self.transforms[f"{large}to{small}"].T).unflatten(2, (small, small))
        return weight


@functools.singledispatch
def slice_state(layer: Layer, elastic: ElasticLayer) -> State:
    """What `layer` takes of an elastic layer's weights: every parameter and buffer of ``layer.build()``, by name.

    The tensors are differentiable with respect to the elastic layer's parameters; buffers are views of its buffers.
    """
    raise UnknownNameError(
        f"Layer kind {type(layer).__name__!r} has no slicing; give it one with `@slice_state.register`."
    )


@slice_state.register
def _(layer: Conv, elastic: ElasticLayer) -> State:
    return elastic.conv_norm("conv", layer.out_channels, layer.in_channels, kernel=layer.kernel)


@slice_state.register
def _(layer: MBConv, elastic: ElasticLayer) -> State:
    state = elastic.conv_norm("depthwise", layer.hidden, 1, kernel=layer.kernel)
    state |= elastic.conv_norm("project", layer.out_channels, layer.hidden)
    if layer.expands:
        state |= elastic.conv_norm("expand", layer.hidden, layer.in_channels)
    if layer.squeeze:
        state |= elastic.conv("reduce", layer.squeeze, layer.hidden, bias=True)
        state |= elastic.conv("excite", layer.hidden, layer.squeeze, bias=True)
    return state


@slice_state.register
def _(layer: Classifier, elastic: ElasticLayer) -> State:
    state = elastic.conv("mix", layer.features, layer.in_channels, bias=True)
    return state | elastic.conv("classify", layer.classes, layer.features, bias=True)


@functools.lru_cache(maxsize=4096)
def _template(layer: Layer, training: bool) -> tuple[nn.Module, tuple[tuple[str, nn.Module, str], ...]]:
    """The layer's module without weights, and where they go: (name in the state, submodule, attribute).

    `torch.func.functional_call` does the same, but at a cost that shows in networks as small as those for digits.
    """
    with torch.device("meta"):
        module = layer.build().train(training)
    places = []
    for name in module.state_dict():
        path, _, attribute = name.rpartition(".")
        part = module.get_submodule(path)
        delattr(part, attribute)  # so that a plain tensor, which is neither parameter nor buffer, can stand there
        places.append((name, part, attribute))
    return module, tuple(places)

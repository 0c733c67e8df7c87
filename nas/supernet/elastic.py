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

import dataclasses
import functools
import itertools
import threading
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from search_spaces.base.errors import MismatchError, UnknownNameError
from search_spaces.layers import (
    CELL_KERNELS,
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
    MaxPool,
    MBConv,
    NormClassifier,
    Reduction201,
    ResidualConv,
    largest,
)

State = dict[str, Tensor]
"""Parameters and buffers of a layer's module by name, views of (or computed from) the elastic layer's."""


class ElasticLayer(nn.Module):
    """The shared weights of all layers of one position.

    ``body`` is the module of the largest of them. ``transforms["5to3"]``, shape (9, 9), turns the centre of a 5x5
    kernel into a 3x3 kernel; it starts as the identity. Kinds with several elastic kernels have transforms for each.

    Args:
        layers: the layers that the position can hold, all of one kind.
        norm_eps: what BatchNorm adds to the variance.
    """

    def __init__(self, layers: Sequence[Layer], *, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.norm_eps = norm_eps
        self.body = largest(layers).build()
        set_norm_eps(self.body, norm_eps)
        self._parts = dict(self.body.named_modules())
        fields = [field.name for field in dataclasses.fields(layers[0]) if field.name.endswith("kernel")]
        self.kernels = {f: sorted({getattr(layer, f) for layer in layers} - {0}, reverse=True) for f in fields}
        self.transforms = nn.ParameterDict(
            {
                _transform(field, large, small): torch.eye(small * small)
                for field, sizes in self.kernels.items()
                for large, small in itertools.pairwise(sizes)
            }
        )

    def forward(self, x: Tensor, layer: Layer) -> Tensor:
        """Run one layer of the position with its slice of the weights."""
        template, places = _template(layer, self.training, self.norm_eps, threading.get_ident())
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

    def conv_norm(
        self, path: str, out_channels: int, in_channels: int, *, kernel: int | None = None, field: str = "kernel"
    ) -> State:
        """State of a `ConvNorm`; ``in_channels`` is per group, and a ``kernel`` makes the kernel size elastic, which is
        the given field of the layer."""
        state = self.conv(f"{path}.conv", out_channels, in_channels) | self.norm(f"{path}.norm", out_channels)
        if kernel is not None:
            state[f"{path}.conv.weight"] = self.crop(state[f"{path}.conv.weight"], kernel, field)
        return state

    def grouped_conv_norm(self, path: str, out_channels: int, in_channels: int, groups: int) -> State:
        """State of a `ConvNorm` in groups: the blocks on the diagonal of the body's weight, which has fewer.

        Args:
            path: of the `ConvNorm`.
            out_channels: of all groups.
            in_channels: of all groups.
            groups: how many; a multiple of the body's.
        """
        body_groups = self._parts[f"{path}.conv"].groups
        assert isinstance(body_groups, int)
        if groups % body_groups:
            raise MismatchError(f"{path!r} has {body_groups} groups in the supernet, but got {groups=}.")
        state = self.conv_norm(path, out_channels, in_channels // body_groups)
        parts = groups // body_groups
        if parts > 1:
            rows = state[f"{path}.conv.weight"].chunk(groups)  # each (O / groups, I / body_groups, K, K)
            blocks = [row.chunk(parts, 1)[group % parts] for group, row in enumerate(rows)]
            state[f"{path}.conv.weight"] = torch.cat(blocks)  # (O, I / groups, K, K)
        return state

    def crop(self, weight: Tensor, kernel: int, field: str = "kernel") -> Tensor:
        """Shrink kernels step by step, each step a centre crop and a learned transform.

        Args:
            weight: shape (O, I, K, K) with the largest kernel size K.
            kernel: the size wanted; one of the position's.
            field: which of the layer's kernels it is.
        """
        sizes = self.kernels[field]
        if kernel not in sizes:
            raise MismatchError(f"This position has {field}s {sizes}, but got {kernel=}.")
        for large, small in itertools.pairwise(sizes):
            if large == kernel:
                break
            margin = (large - small) // 2
            centre = weight[:, :, margin : margin + small, margin : margin + small]  # (O, I, small, small)
            weight = (centre.flatten(2) @ self.transforms[_transform(field, large, small)].T).unflatten(
                2, (small, small)
            )
        return weight


def _transform(field: str, large: int, small: int) -> str:
    return f"{field.removesuffix('kernel')}{large}to{small}"


@functools.singledispatch
def slice_state(layer: Layer, elastic: ElasticLayer) -> State:
    """Slices that `layer` takes of an elastic layer's weights: every parameter and buffer of ``layer.build()``, by
    name.

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
    state = elastic.conv("mix", layer.features, layer.in_channels, bias=layer.mix_bias)
    return state | elastic.conv("classify", layer.classes, layer.features, bias=True)


@slice_state.register
def _(layer: LinearClassifier, elastic: ElasticLayer) -> State:
    return elastic.conv("classify", layer.classes, layer.in_channels, bias=True)


@slice_state.register
def _(layer: ResidualConv, elastic: ElasticLayer) -> State:
    return elastic.conv_norm("conv", layer.channels, layer.channels, kernel=layer.kernel)


@slice_state.register
def _(layer: MaxPool, elastic: ElasticLayer) -> State:
    return {}


@slice_state.register
def _(layer: Bottleneck, elastic: ElasticLayer) -> State:
    state = elastic.conv_norm("narrow", layer.hidden, layer.in_channels)
    state |= elastic.conv_norm("spatial", layer.hidden, layer.hidden)
    state |= elastic.conv_norm("widen", layer.out_channels, layer.hidden)
    if layer.projects:
        state |= elastic.conv_norm("shortcut", layer.out_channels, layer.in_channels)
    return state


@slice_state.register
def _(layer: UIB, elastic: ElasticLayer) -> State:
    state = elastic.conv_norm("expand", layer.hidden, layer.in_channels)
    state |= elastic.conv_norm("project", layer.out_channels, layer.hidden)
    if layer.start_kernel:
        state |= elastic.conv_norm("start", layer.in_channels, 1, kernel=layer.start_kernel, field="start_kernel")
    if layer.middle_kernel:
        state |= elastic.conv_norm("middle", layer.hidden, 1, kernel=layer.middle_kernel, field="middle_kernel")
    return state


@slice_state.register
def _(layer: FusedMBConv, elastic: ElasticLayer) -> State:
    state = elastic.conv_norm("expand", layer.hidden, layer.in_channels, kernel=layer.kernel)
    return state | elastic.conv_norm("project", layer.out_channels, layer.hidden)


@slice_state.register
def _(layer: NormClassifier, elastic: ElasticLayer) -> State:
    state = elastic.conv_norm("mix", layer.features, layer.in_channels)
    return state | elastic.conv("classify", layer.classes, layer.features, bias=True)


@slice_state.register
def _(layer: FBNetBlock, elastic: ElasticLayer) -> State:
    state = elastic.grouped_conv_norm("expand", layer.hidden, layer.in_channels, layer.groups)
    state |= elastic.conv_norm("depthwise", layer.hidden, 1, kernel=layer.kernel)
    return state | elastic.grouped_conv_norm("project", layer.out_channels, layer.hidden, layer.groups)


@slice_state.register
def _(layer: Cell201, elastic: ElasticLayer) -> State:
    state: State = {}
    for target in (1, 2, 3):
        for _, operation, name in layer.incoming(target):
            if operation in CELL_KERNELS:
                state |= elastic.conv_norm(name, layer.channels, layer.channels)
    return state


@slice_state.register
def _(layer: Reduction201, elastic: ElasticLayer) -> State:
    state = elastic.conv_norm("first", layer.out_channels, layer.in_channels)
    state |= elastic.conv_norm("second", layer.out_channels, layer.out_channels)
    return state | elastic.conv("shortcut", layer.out_channels, layer.in_channels)


@slice_state.register
def _(layer: Head201, elastic: ElasticLayer) -> State:
    return elastic.norm("norm", layer.in_channels) | elastic.conv(
        "classify", layer.classes, layer.in_channels, bias=True
    )


def set_norm_eps(module: nn.Module, eps: float) -> None:
    """Set what every BatchNorm in a module adds to the variance."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = eps


@functools.lru_cache(maxsize=4096)
def _template(
    layer: Layer, training: bool, norm_eps: float, thread: int
) -> tuple[nn.Module, tuple[tuple[str, nn.Module, str], ...]]:
    """The layer's module without weights, and where they go: (name in the state, submodule, attribute).

    Each thread has its own, as the weights stand in it while it runs.
    `torch.func.functional_call` does the same, but at a cost that shows in networks as small as those for digits.
    """
    with torch.device("meta"):
        module = layer.build().train(training)
    set_norm_eps(module, norm_eps)
    places = []
    for name in module.state_dict():
        path, _, attribute = name.rpartition(".")
        part = module.get_submodule(path)
        delattr(part, attribute)  # so that a plain tensor, which is neither parameter nor buffer, can stand there
        places.append((name, part, attribute))
    return module, tuple(places)

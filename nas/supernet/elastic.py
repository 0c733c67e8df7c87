"""Elastic layers: the weights of every layer that a position can hold, and the slice that one layer uses.

Cai et al., "Once-for-All", ICLR 2020, arXiv:1908.09791, section 3.3: a narrower layer takes the first channels; a
smaller kernel is the centre of the larger one, multiplied by a learned matrix that all channels share. More groups take
the blocks on the diagonal of the weight of fewer. What reads a concatenation takes the first channels of each part.

The slice of a parameter follows from the shape that the layer's program asks for and from that in the largest layer's,
so that a new layer kind needs nothing here. The forward pass of the supernet and the extraction of a static network
both use it.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.base.errors import MismatchError
from search_spaces.channels import channels_read, places
from search_spaces.layers import Layer, largest
from search_spaces.program import Definition, Op, Parameter, Program, Shape
from search_spaces.torch_program import MOMENTUM, Mode, Take, TorchPlan, Weights

Runs = list[tuple[int, int]]
"""Consecutive channels: (first, length) of each run."""

State = dict[str, Tensor]
"""Parameters and buffers of a layer by name, views of (or computed from) the elastic layer's."""


class ElasticLayer(nn.Module):
    """The shared weights of all layers of one kind at a position.

    ``body`` holds the weights of the largest of them. ``transforms["5to3"]``, shape (9, 9), turns the centre of a 5x5
    kernel into a 3x3 kernel; it starts as the identity. Kinds with several elastic kernels have transforms for each.

    Args:
        layers: the layers that the position can hold, all of one kind.
        norm_eps: what BatchNorm adds to the variance.

    ``synchronised``: BatchNorm takes the statistics of the batches of all processes. ``momentum``: share of a batch in
    its running statistics.
    """

    def __init__(self, layers: Sequence[Layer], *, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.norm_eps = norm_eps
        layers = tuple(dict.fromkeys(layers))
        ((kind, self.largest),) = largest(layers).items()
        self._full = _joined(self.largest, layers)
        self._read = channels_read(self.largest.program)
        self.body = Weights(self._full.values())
        self._fields = {field.name for field in dataclasses.fields(kind)}
        self.kernels = self._kernels(layers)
        self.transforms = nn.ParameterDict(
            {
                _transform(prefix, large, small): torch.eye(math.prod(small))
                for prefix, sizes in self.kernels.items()
                for large, small in ((_around(small, sizes), small) for small in sizes)
                if large is not None
            }
        )
        self._plans: dict[Hashable, TorchPlan] = {}
        self.synchronised = False
        self.momentum = MOMENTUM

    def forward(self, layer: Layer, *inputs: Tensor) -> Tensor:
        """Run one layer of the position with its slice of the weights."""
        plan, mode = self.ready(layer)
        return plan(mode, *inputs)

    def ready(self, layer: Layer) -> tuple[TorchPlan, Mode]:
        """Plan of one layer of the position on its slice of the weights, made once, and the state that it runs in."""
        plan = self._plans.get(layer)
        if plan is None:
            plan = self._plans[layer] = self.plan(layer.program)
        return plan, self._mode

    @property
    def _mode(self) -> Mode:
        still = self.body.still
        follows = self.training and not still
        return Mode(follows, self.norm_eps, self.momentum, synchronised=self.synchronised, lean=still)

    def plan(self, program: Program) -> TorchPlan:
        """TorchPlan of a program, or a part of one, that runs on slices of these weights."""
        runs = self._runs(program)

        def take(parameters: tuple[Parameter, ...]) -> Take:
            slices = [self._slice(parameter, runs.get(parameter.name)) for parameter in parameters]
            return lambda: [one() for one in slices]

        plan = TorchPlan.of(program, take)
        steps = [
            (self._followed(function, own, runs), op, tensors, inputs)
            for own, (function, op, tensors, inputs) in zip(program.owned, plan.steps, strict=True)
        ]
        return dataclasses.replace(plan, steps=tuple(steps))

    def _followed(
        self, function: Callable[..., Tensor], parameters: Sequence[Parameter], runs: Mapping[str, Runs]
    ) -> Callable[..., Tensor]:
        """The function of an operator, after which the shared running statistics are those that it has left: where they
        are put together from several parts, it has changed a copy."""
        copied = [
            (number, self.body.holder(p.name), runs[p.name])
            for number, p in enumerate(parameters)
            if p.name in runs and not p.trained
        ]
        if not copied:
            return function

        def run(op: Op, tensors: Sequence[Tensor], mode: Mode, *inputs: Tensor) -> Tensor:
            y = function(op, tensors, mode, *inputs)
            if mode.training and mode.momentum:
                for number, (shared, key), found in copied:
                    parts = torch.split(tensors[number], [length for _, length in found])
                    for (first, length), part in zip(found, parts, strict=True):
                        shared[key][first : first + length] = part
            return y

        return run

    def run(self, definition: Definition, *inputs: Tensor) -> Tensor:
        """Run a definition, of a layer or a part of one, on whatever shapes the inputs have, with its slice of the
        weights; it is planned once per shapes."""
        shapes = tuple([tuple(x.shape[1:]) for x in inputs])
        plan = self._plans.get((definition, shapes))
        if plan is None:
            plan = self._plans[definition, shapes] = self.plan(Program.of(definition, shapes))
        return plan(self._mode, *inputs)

    def state(self, layer: Layer) -> State:
        """Slices that a layer takes: every parameter and running statistic of its program, by name.

        The tensors are differentiable with respect to the elastic layer's parameters; buffers are views of its buffers,
        or copies where they come from several parts of a concatenation.
        """
        runs = self._runs(layer.program)
        return {p.name: self._slice(p, runs.get(p.name))() for p in layer.program.parameters}

    def _runs(self, program: Program) -> dict[str, Runs]:
        """Input channels of the weights that do not read the first ones, by name."""
        read = channels_read(program)
        runs = {name: places(read[name], self._read.get(name, segments)) for name, segments in read.items()}
        return {name: found for name, found in runs.items() if len(found) > 1 or found[0][0]}

    def _slice(self, wanted: Parameter, runs: Runs | None = None) -> Callable[[], Tensor]:
        """Function that gives a parameter of the wanted shape from the body's of that name.

        Args:
            wanted: what the layer's program asks for.
            runs: (first, length) of the input channels that it takes; None: the first ones.

        Raises:
            MismatchError: the body has none, a smaller one, or one in groups that do not divide the wanted ones.
        """
        full = self._full.get(wanted.name)
        if full is None:
            raise MismatchError(f"The supernet has no parameter {wanted.name!r} at this position.")
        tensors, key = self.body.holder(wanted.name)
        if runs is None and wanted.shape == full.shape and wanted.groups == full.groups:
            # A view of everything would only slow down.
            return lambda: tensors[key]
        axes = len(wanted.shape) - wanted.kernel_axes
        blocks = 1
        if wanted.groups != full.groups and axes > 1 and wanted.shape[1] != full.shape[1]:
            blocks = wanted.groups // full.groups
            if wanted.groups % full.groups:
                raise MismatchError(
                    f"{wanted.name!r} has {full.groups} groups in the supernet, but got groups={wanted.groups}."
                )
        extents = (
            wanted.shape[0],
            *(n * (blocks if i == 1 else 1) for i, n in enumerate(wanted.shape) if 0 < i < axes),
        )
        if any(n > largest for n, largest in zip(extents, full.shape, strict=False)):
            raise MismatchError(f"{wanted.name!r} is {full.shape} in the supernet, too small for {wanted.shape}.")
        read = wanted.input_axis if runs else None
        narrow = [(axis, n) for axis, n in enumerate(extents) if n < full.shape[axis] and axis != read]
        crop = self._crop(wanted, full) if wanted.kernel != full.kernel else None

        def take() -> Tensor:
            tensor: Tensor = tensors[key]
            for axis, extent in narrow:
                tensor = tensor.narrow(axis, 0, extent)
            if runs and read is not None:
                tensor = torch.cat([tensor.narrow(read, first, length) for first, length in runs], read)
            if blocks > 1:
                tensor = _diagonal(tensor, wanted.groups, blocks)
            return tensor if crop is None else crop(tensor)

        return take

    def _crop(self, wanted: Parameter, full: Parameter) -> Callable[[Tensor], Tensor]:
        """Function that shrinks a kernel step by step, each step a centre crop and a learned transform.

        Raises:
            MismatchError: a kernel that no layer of the position has.
        """
        prefix = self._prefix(wanted.name)
        sizes = self.kernels.get(prefix, [full.kernel])
        steps: list[tuple[list[tuple[int, int, int]], str, Shape]] = []
        small = wanted.kernel
        while small != full.kernel:
            large = _around(small, sizes) if small in sizes else None
            if large is None:
                raise MismatchError(
                    f"{wanted.name!r} of this position has the kernels {sizes}, but got {wanted.kernel}."
                )
            axes = enumerate(zip(large, small, strict=True), -len(large))
            cuts = [(axis, (outer - inner) // 2, inner) for axis, (outer, inner) in axes if inner < outer]
            steps.insert(0, (cuts, _transform(prefix, large, small), small))
            small = large
        transforms: dict[str, Any] = self.transforms._parameters  # the dictionary itself, as of the weights

        def crop(weight: Tensor) -> Tensor:
            for cuts, transform, small in steps:
                for axis, start, length in cuts:
                    weight = weight.narrow(axis, start, length)
                weight = (weight.flatten(-len(small)) @ transforms[transform].T).unflatten(-1, small)
            return weight

        return crop

    def _kernels(self, layers: Sequence[Layer]) -> dict[str, list[Shape]]:
        """Kernels of the convolutions whose kernel varies, the largest first, by the prefix of their transforms; of
        those of which none holds all others, such as 5x1 and 1x5, also the one that does."""
        found: dict[str, set[Shape]] = {}
        for layer in layers:
            for parameter in layer.program.parameters:
                if parameter.kernel_axes:
                    found.setdefault(parameter.name, set()).add(parameter.kernel)
        sizes: dict[str, set[Shape]] = {}
        for name in (p.name for p in self._full.values() if len(found.get(p.name, ())) > 1):
            sizes.setdefault(self._prefix(name), set()).update(found[name], [self._full[name].kernel])
        return {
            prefix: sorted(kernels, key=lambda kernel: (math.prod(kernel), kernel), reverse=True)
            for prefix, kernels in sizes.items()
        }

    def _prefix(self, name: str) -> str:
        """Beginning of the names of a convolution's transforms: its own name, unless the one field ``kernel`` of the
        layer kind is that of all its elastic kernels."""
        operator = name.removesuffix(".weight").removesuffix(".conv")
        return "" if "kernel" in self._fields and f"{operator}_kernel" not in self._fields else f"{operator}_"

    def of(self, layer: Layer) -> ElasticLayer:
        """The shared weights of the layer's kind."""
        return self

    # A plan knows where the tensors of this very module are, so that a copy has plans of its own.
    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": {}}


class ElasticPosition(nn.ModuleDict):
    """The shared weights of a position that can hold layers of several kinds: an `ElasticLayer` of each, by name."""

    def __init__(self, layers: Sequence[Layer], *, norm_eps: float = 1e-5) -> None:
        by_kind = {kind: [layer for layer in layers if type(layer) is kind] for kind in largest(layers)}
        super().__init__({kind.__name__: ElasticLayer(some, norm_eps=norm_eps) for kind, some in by_kind.items()})

    def forward(self, layer: Layer, *inputs: Tensor) -> Tensor:
        """Run one layer of the position with its slice of the weights of its kind."""
        y: Tensor = self.of(layer)(layer, *inputs)
        return y

    def ready(self, layer: Layer) -> tuple[TorchPlan, Mode]:
        """Plan of one layer, see `ElasticLayer.ready`."""
        return self.of(layer).ready(layer)

    def state(self, layer: Layer) -> State:
        """Slices that a layer takes, see `ElasticLayer.state`."""
        return self.of(layer).state(layer)

    def of(self, layer: Layer) -> ElasticLayer:
        """The shared weights of the layer's kind."""
        return self.of_kind(type(layer).__name__)

    def of_kind(self, kind: str) -> ElasticLayer:
        """The shared weights of a kind, by its name."""
        elastic = self[kind]
        assert isinstance(elastic, ElasticLayer)
        return elastic


def elastic_position(layers: Sequence[Layer], *, norm_eps: float = 1e-5) -> ElasticLayer | ElasticPosition:
    """The shared weights of a position, given all layers that it can hold."""
    several = len({type(layer) for layer in layers}) > 1
    return (ElasticPosition if several else ElasticLayer)(layers, norm_eps=norm_eps)


def _joined(largest: Layer, layers: Sequence[Layer]) -> dict[str, Parameter]:
    """Parameters of the largest layer and of all others, by name, as large as any of them: a branch over the input
    itself exists where widths meet, and smaller patches make more tokens with positions."""
    found: dict[str, Parameter] = {}
    for layer in (largest, *layers):
        for one in layer.program.parameters:
            seen = found.setdefault(one.name, one)
            if one is seen:
                continue
            shape = tuple(map(max, one.shape, seen.shape))
            groups = math.gcd(one.groups, seen.groups)
            if shape != seen.shape or groups < seen.groups:
                found[one.name] = dataclasses.replace(seen, shape=shape, groups=groups)
    return found


def _diagonal(weight: Tensor, groups: int, parts: int) -> Tensor:
    """Blocks on the diagonal of the weight (O, I, *kernel) of fewer groups: (O, I / parts, *kernel)."""
    rows = weight.chunk(groups)
    return torch.cat([row.chunk(parts, 1)[group % parts] for group, row in enumerate(rows)])


def _around(kernel: Shape, sizes: Sequence[Shape]) -> Shape | None:
    """The smallest kernel of some, the largest first, that holds another one; None: none does."""
    holds = (one for one in reversed(sizes) if one != kernel and all(map(operator.ge, one, kernel)))
    return next(holds, None)


def _transform(prefix: str, large: Shape, small: Shape) -> str:
    return f"{prefix}{_size(large)}to{_size(small)}"


def _size(kernel: Shape) -> str:
    """A kernel in a name: 5 of 5x5, else 5x1."""
    return str(kernel[0]) if len(set(kernel)) == 1 else "x".join(map(str, kernel))

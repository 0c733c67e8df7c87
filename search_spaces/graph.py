"""The few operators that networks are made of, as a protocol that every consumer of a layer implements.

A layer *emits* itself into a graph. A counting graph gives MACs, parameters and activation sizes; an ONNX graph gives
what ONNX Runtime measures and users export; a Relax graph gives what TVM compiles, and a TFLite graph what the NPU
compiler takes.
Batch size is 1 and tensors are (channels, height, width), or (channels,) after pooling and flattening.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from search_spaces.base.errors import InvalidValueError

Activation = Literal["none", "relu", "relu6", "h_swish", "h_sigmoid"]
Pool = Literal["max", "average"]
T = TypeVar("T")


class Graph(Protocol[T]):
    """Operators that a layer can emit.

    ``name`` is the parameter's dotted path, equal to the module path in the torch network.
    """

    def conv(
        self,
        x: T,
        name: str,
        *,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        bias: bool = True,
    ) -> T:
        """Convolution padded by kernel // 2. With ``norm`` BatchNorm follows (folded where the target has none);
        without it the convolution has a bias if ``bias``."""

    def norm(self, x: T, name: str) -> T:
        """BatchNorm that no convolution can take up: a factor and an offset per channel."""

    def activation(self, x: T, kind: Activation) -> T:
        """Element-wise activation."""

    def global_pool(self, x: T) -> T:
        """Mean over height and width: (C, H, W) -> (C, 1, 1)."""

    def pool(self, x: T, kind: Pool, *, kernel: int, stride: int) -> T:
        """Pooling to ceil(size / stride). Odd kernels are padded by kernel // 2 on each side; an even one equals the
        stride and its last window may be cut off at the border. Averages count what is there, never the padding."""

    def linear(self, x: T, name: str, *, features: int, bias: bool = True) -> T:
        """Fully connected; takes (C, 1, 1) or (C,), gives (features,)."""

    def add(self, a: T, b: T) -> T:
        """Sum of equal shapes."""

    def multiply(self, a: T, b: T) -> T:
        """Product; b may be (C, 1, 1)."""

    def shuffle(self, x: T, groups: int) -> T:
        """Channel c of C goes to c // (C / groups) + groups * (c % (C / groups)): each group is dealt out to all groups
        (ShuffleNet, arXiv:1707.01083)."""

    def zero(self, x: T) -> T:
        """Zeros of the shape of x."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of the counting graph: which operator made it (-1: the input) and its shape."""

    made_by: int
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        n = 1
        for extent in self.shape:
            n *= extent
        return n


@dataclass
class Counts:
    """A graph that only counts.

    ``macs``: multiply-accumulates of convolutions and linear layers, batch 1. ``params``: trainable numbers as torch
    counts them (BatchNorm has two per channel). ``operators``: (inputs, output, whether it is element-wise and so may
    write over its first input) in order, for liveness.
    """

    macs: int = 0
    params: int = 0
    operators: list[tuple[tuple[Tensor, ...], Tensor, bool]] = field(default_factory=list)

    def _made(self, inputs: tuple[Tensor, ...], shape: tuple[int, ...], *, elementwise: bool = False) -> Tensor:
        output = Tensor(len(self.operators), shape)
        self.operators.append((inputs, output, elementwise))
        return output

    def conv(
        self,
        x: Tensor,
        name: str,
        *,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        bias: bool = True,
    ) -> Tensor:
        in_channels, height, width = x.shape
        if in_channels % groups or channels % groups:
            raise InvalidValueError(f"Convolution {name!r}: {in_channels} -> {channels} in {groups} groups.")
        weights = channels * (in_channels // groups) * kernel * kernel
        shape = (channels, -(-height // stride), -(-width // stride))
        self.macs += weights * shape[1] * shape[2]
        self.params += weights + (2 if norm else bias) * channels
        return self._made((x,), shape)

    def norm(self, x: Tensor, name: str) -> Tensor:
        self.params += 2 * x.shape[0]
        return self._made((x,), x.shape)

    def activation(self, x: Tensor, kind: Activation) -> Tensor:
        return x if kind == "none" else self._made((x,), x.shape, elementwise=True)

    def global_pool(self, x: Tensor) -> Tensor:
        return self._made((x,), (x.shape[0], 1, 1))

    def pool(self, x: Tensor, kind: Pool, *, kernel: int, stride: int) -> Tensor:
        channels, height, width = x.shape
        return self._made((x,), (channels, -(-height // stride), -(-width // stride)))

    def linear(self, x: Tensor, name: str, *, features: int, bias: bool = True) -> Tensor:
        self.macs += x.elements * features
        self.params += (x.elements + bias) * features
        return self._made((x,), (features,))

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return self._made((a, b), a.shape, elementwise=True)

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        return self._made((a, b), a.shape, elementwise=True)

    def shuffle(self, x: Tensor, groups: int) -> Tensor:
        return self._made((x,), x.shape)

    def zero(self, x: Tensor) -> Tensor:
        return self._made((x,), x.shape)

    def peak_elements(self, x: Tensor, y: Tensor) -> int:
        """Largest sum of the sizes of tensors alive at once, while each operator runs.

        A tensor lives from the operator that makes it to the last that reads it (the output y to the end); activations,
        sums and products write over their first input if nobody needs it later.
        """
        last_use = {y: len(self.operators)}
        for step, (inputs, _, _) in enumerate(self.operators):
            for tensor in inputs:
                last_use[tensor] = max(last_use.get(tensor, -1), step)
        alive, peak = {x}, x.elements
        for step, (inputs, output, elementwise) in enumerate(self.operators):
            in_place = elementwise and last_use[inputs[0]] == step
            alive.add(output)
            needed = sum(tensor.elements for tensor in alive) - (inputs[0].elements if in_place else 0)
            peak = max(peak, needed)
            alive = {tensor for tensor in alive if last_use.get(tensor, -1) > step}
        return peak

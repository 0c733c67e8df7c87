"""Layer kinds: frozen dataclasses. One layer is the key of a latency-table row, the count of MACs, parameters and
memory, the builder of the static module, and what tells the supernet which slice of its weights to use."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from search_spaces.errors import InvalidValueError, UnknownNameError
from search_spaces.graph import Activation, Counts, Graph, T, Tensor

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, ...]


def make_divisible(value: float, divisor: int = 8) -> int:
    """Nearest multiple of the divisor that is at least 90 % of the value (MobileNetV2's rule)."""
    result = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return result + divisor if result < 0.9 * value else result


@dataclass(frozen=True)
class Layer(ABC):
    """Base of all layer kinds. A kind has `emit` for its computation and `build` for its torch module; parameters have
    the same dotted names in both."""

    kinds: ClassVar[dict[str, type[Layer]]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        Layer.kinds[cls.__name__] = cls

    @property
    @abstractmethod
    def input_shape(self) -> Shape:
        """(channels, height, width) of the input."""

    @abstractmethod
    def emit(self, graph: Graph[T], x: T, scope: str) -> T:
        """Add the layer to a graph; ``scope`` starts its parameters' names."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The torch module with fresh weights, input (batch, \\*input_shape)."""

    @property
    def output_shape(self) -> Shape:
        """Shape of the output without the batch."""
        return _counted(self)[3]

    @property
    def macs(self) -> int:
        """Multiply-accumulates at batch 1."""
        return _counted(self)[0]

    @property
    def params(self) -> int:
        """Trainable parameters."""
        return _counted(self)[1]

    @property
    def peak_elements(self) -> int:
        """Largest number of activation elements alive at once, the input and the output included."""
        return _counted(self)[2]

    def to_json(self) -> dict[str, Any]:
        """The kind and the fields."""
        return {"kind": type(self).__name__, **dataclasses.asdict(self)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Layer:
        """Read back `to_json`.

        Raises:
            UnknownNameError: the kind is not known.
            InvalidValueError: the fields do not fit the kind.
        """
        if not isinstance(data, Mapping):
            raise InvalidValueError(f"A layer is a mapping with `kind` and its fields, but got {data!r}.")
        fields = dict(data)
        kind = fields.pop("kind", None)
        if kind not in Layer.kinds:
            raise UnknownNameError(f"Layer kind {kind!r} is not known; there are {sorted(Layer.kinds)}.")
        try:
            return Layer.kinds[kind](**fields)
        except TypeError as error:
            raise InvalidValueError(f"Layer {kind} does not have these fields: {error}.") from error

    def _check_fields(self) -> None:
        kind = type(self).__name__
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            annotation = field.type if isinstance(field.type, str) else field.type.__name__
            if annotation in ("int", "bool") and type(value).__name__ != annotation:
                raise InvalidValueError(f"{kind}.{name} must be {annotation}, but got {value!r}.")
            if type(value) is int and value < (0 if name == "squeeze" else 1):
                raise InvalidValueError(f"{kind}.{name} must be positive, but got {value}.")
            if name == "kernel" and value % 2 == 0:
                raise InvalidValueError(f"{kind}.kernel must be odd, but got {value}.")
            if name == "activation" and value not in get_args(Activation):
                raise InvalidValueError(f"{kind}.activation can be {list(get_args(Activation))}, but got {value!r}.")


@functools.cache
def _counted(layer: Layer) -> tuple[int, int, int, Shape]:
    counts, x = Counts(), Tensor(-1, layer.input_shape)
    y = layer.emit(counts, x, "")
    return counts.macs, counts.params, counts.peak_elements(x, y), y.shape


def largest(layers: Sequence[Layer]) -> Layer:
    """The layer of the same kind whose every size is the largest among the given ones."""
    kinds = {type(layer) for layer in layers}
    if len(kinds) != 1:
        raise InvalidValueError(f"One position holds several layer kinds: {sorted(k.__name__ for k in kinds)}.")
    (kind,) = kinds
    return kind(**{f.name: max(getattr(layer, f.name) for layer in layers) for f in dataclasses.fields(kind)})


@dataclass(frozen=True)
class Conv(Layer):
    """Convolution, BatchNorm, activation."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    activation: Activation
    size: int
    """Height and width of the input."""

    def __post_init__(self) -> None:
        self._check_fields()

    @property
    def input_shape(self) -> Shape:
        return (self.in_channels, self.size, self.size)

    def emit(self, graph: Graph[T], x: T, scope: str) -> T:
        x = graph.conv(x, f"{scope}.conv", channels=self.out_channels, kernel=self.kernel, stride=self.stride)
        return graph.activation(x, self.activation)

    def build(self) -> nn.Module:
        from search_spaces import blocks

        return blocks.ConvBlock(self)


@dataclass(frozen=True)
class MBConv(Layer):
    """Inverted residual with optional squeeze-and-excitation (MobileNetV3, arXiv:1905.02244, section 5.3)."""

    in_channels: int
    out_channels: int
    hidden: int
    """Channels of the depthwise convolution; the expanding 1x1 convolution is left out where it equals the input's and
    ``expands`` is False."""
    expands: bool
    kernel: int
    stride: int
    squeeze: int
    """Channels of the squeeze-and-excitation bottleneck; 0: none."""
    activation: Activation
    size: int
    """Height and width of the input."""

    def __post_init__(self) -> None:
        self._check_fields()
        if not self.expands and self.hidden != self.in_channels:
            raise InvalidValueError(f"MBConv without expansion has hidden = in_channels, but got {self}.")

    @property
    def input_shape(self) -> Shape:
        return (self.in_channels, self.size, self.size)

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.in_channels == self.out_channels

    def emit(self, graph: Graph[T], x: T, scope: str) -> T:
        y = x
        if self.expands:
            y = graph.conv(y, f"{scope}.expand", channels=self.hidden)
            y = graph.activation(y, self.activation)
        y = graph.conv(
            y, f"{scope}.depthwise", channels=self.hidden, kernel=self.kernel, stride=self.stride, groups=self.hidden
        )
        y = graph.activation(y, self.activation)
        if self.squeeze:
            gate = graph.conv(graph.global_pool(y), f"{scope}.reduce", channels=self.squeeze, norm=False)
            gate = graph.conv(graph.activation(gate, "relu"), f"{scope}.excite", channels=self.hidden, norm=False)
            y = graph.multiply(y, graph.activation(gate, "h_sigmoid"))
        y = graph.conv(y, f"{scope}.project", channels=self.out_channels)
        return graph.add(y, x) if self.residual else y

    def build(self) -> nn.Module:
        from search_spaces import blocks

        return blocks.MBConvBlock(self)


@dataclass(frozen=True)
class Classifier(Layer):
    """Global pooling, a hidden linear layer with activation, and the classifying linear layer."""

    in_channels: int
    features: int
    classes: int
    activation: Activation
    size: int
    """Height and width of the input."""

    def __post_init__(self) -> None:
        self._check_fields()

    @property
    def input_shape(self) -> Shape:
        return (self.in_channels, self.size, self.size)

    def emit(self, graph: Graph[T], x: T, scope: str) -> T:
        x = graph.linear(graph.global_pool(x), f"{scope}.mix", features=self.features)
        return graph.linear(graph.activation(x, self.activation), f"{scope}.classify", features=self.classes)

    def build(self) -> nn.Module:
        from search_spaces import blocks

        return blocks.ClassifierBlock(self)

"""Layer kinds: frozen dataclasses, the makers of programs. One layer is the key of a latency-table row; its program is
what is counted, trained, measured and exported."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from search_spaces import counting
from search_spaces.base import trust
from search_spaces.base.errors import InvalidValueError, UnknownNameError
from search_spaces.base.values import (
    LARGEST,
    MANY,
    Between,
    FieldRules,
    Multiple,
    Percent,
    Window,
    finite,
    fits,
    whole_number,
)
from search_spaces.ops.activation import Activate, Activation
from search_spaces.ops.arithmetic import Add, Multiply
from search_spaces.ops.convolution import Convolution, Linear
from search_spaces.ops.movement import Shuffle
from search_spaces.ops.pooling import GlobalPool, Pool
from search_spaces.program import Program, Shape, Traced

LARGEST_IMAGE = 2**16
Pixels = Annotated[int, Between(1, LARGEST_IMAGE)]
Size = Pixels | tuple[Pixels, Pixels]
"""Height and width of an image: one number where they are equal."""

MAY_BE_ABSENT = ("squeeze", "start_kernel", "middle_kernel")
"""Fields of which 0 means that this part of the layer is absent."""


def image_shape(channels: int, size: Size) -> Shape:
    """(channels, height, width)."""
    return (channels, size, size) if isinstance(size, int) else (channels, *size)


def image_size(shape: Shape) -> Size:
    """Height and width of (channels, height, width); one number for squares."""
    _, height, width = shape
    return height if height == width else (height, width)


def size_of(value: int | str) -> Size:
    """Height and width that the value of a choice names: 192, or ``"192x256"``, height x width.

    Raises:
        InvalidValueError: another form.
    """
    size: Any = value
    if isinstance(value, str):
        extents = [whole_number(part) for part in value.split("x")]
        size = None if len(extents) != 2 else extents[0] if extents[0] == extents[1] else tuple(extents)
    if fits(size, Size):
        found: Size = size
        return found
    raise InvalidValueError(
        f"An image size is a number such as 192 or 'height x width' such as '192x256', each at most {LARGEST_IMAGE:,}, "
        f"not {value!r}."
    )


def size_text(size: Size) -> str:
    """Inverse of `size_of`: ``192``, or height x width, ``192x256``, of what is no square."""
    return str(size) if isinstance(size, int) else "x".join(map(str, size))


def check_resolutions(space: str, values: Sequence[int | str]) -> None:
    """Check that sizes of images have ever more pixels.

    Args:
        space: its name, for the message.
        values: what `size_of` reads.

    Raises:
        InvalidValueError: they do not, or one is no size.
    """
    pixels = [math.prod(image_shape(1, size_of(value))) for value in values]
    if not pixels or pixels != sorted(set(pixels)):
        raise InvalidValueError(
            f"`resolutions` of space {space!r} must have ever more pixels, such as 192, '192x256', but got "
            f"{list(values)!r}."
        )


def strided(size: Size, stride: int) -> Size:
    """Height and width behind a layer of a stride, which keeps the size but for that."""
    channels, height, width = image_shape(1, size)
    return image_size((channels, -(-height // stride), -(-width // stride)))


def make_divisible(value: float, divisor: int = 8) -> int:
    """Nearest multiple of the divisor that is at least 90 % of the value (MobileNetV2's rule)."""
    result = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return result + divisor if result < 0.9 * value else result


def later(default: Any) -> Any:
    """A field that a kind got when tables of it existed: `Layer.to_json` leaves it out at its default."""
    return dataclasses.field(default=default, metadata={"later": True})


@dataclass(frozen=True)
class BlockPlace:
    """A block's place in a network of stages (`search_spaces.staged`), from which a kind makes its layer."""

    in_channels: int
    out_channels: int
    stride: int
    activation: Activation
    size: Size
    """Height and width of the input."""
    block: int = 1
    """Number of the block in its stage, from 1."""
    classes: int = 1
    """Outputs of the network."""

    @property
    def channels(self) -> int:
        """Channels of a layer that keeps them.

        Raises:
            InvalidValueError: the place changes them.
        """
        if self.in_channels != self.out_channels:
            made = f"{self.out_channels} of {self.in_channels}"
            raise InvalidValueError(f"a layer that keeps its channels cannot make {made}.")
        return self.in_channels


@dataclass(frozen=True)
class Layer(ABC):
    """Base of all layer kinds. A kind has fields, the shape of its input, and `define` for its computation."""

    kinds: ClassVar[dict[str, type[Layer]]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        known = Layer.kinds.get(cls.__name__, cls)
        if _origin(known) != _origin(cls):
            raise InvalidValueError(
                f"Layer kind {cls.__name__!r} of {cls.__module__} ({_origin(cls)[0]}) has the name of another one, of "
                f"{known.__module__} ({_origin(known)[0]}), and reports tell kinds by their name. Rename yours."
            )
        Layer.kinds[cls.__name__] = cls

    @property
    def input_shape(self) -> Shape:
        """Shape of the input, without the batch; of several, of the first."""
        return self.input_shapes[0]

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        """Shapes of all inputs. A kind states this, or `input_shape` where it has one input."""
        return (self.input_shape,)

    @functools.cached_property
    def input_types(self) -> tuple[Literal["float32", "int64"], ...]:
        """Types of the inputs' elements: of those that an operator looks something up by, integers."""
        return tuple("float32" if limit is None else "int64" for limit in self.program.index_limits)

    @abstractmethod
    def define(self, *inputs: Any, **_: Any) -> Traced:
        """The output, made by calling operators on the traced inputs."""

    @functools.cached_property
    def program(self) -> Program:
        """Operators that the layer is made of.

        Raises:
            InvalidValueError: operators whose shapes do not meet.
        """
        return Program.of(self.define, self.input_shapes)

    @classmethod
    def merge(cls, layers: Sequence[Self]) -> Self:
        """The layer whose weights hold those of all the given ones: every size is the largest, in as many groups as
        divide those of all."""
        fields = {field.name: [getattr(layer, field.name) for layer in layers] for field in dataclasses.fields(cls)}
        return cls(
            **{name: math.gcd(*values) if name == "groups" else _largest(values) for name, values in fields.items()}
        )

    @classmethod
    def of_stage(cls, place: BlockPlace, *_: Any, **values: Any) -> Layer:
        """Layer at a place of a network of stages: fields of the place's names are the place's, others are given.

        A kind whose fields follow from ratios has a method of its own, whose keywords are what a space may state.
        """
        own = {field.name for field in dataclasses.fields(cls)}
        taken = (name for name in dir(place) if name in own and name not in values)
        return cls(**{name: getattr(place, name) for name in taken}, **values)

    @property
    def output_shape(self) -> Shape:
        """Shape of the output without the batch."""
        return self.program.output_shape

    @property
    def macs(self) -> int:
        """Multiply-accumulates at batch 1."""
        return self.counts[0]

    @property
    def params(self) -> int:
        """Trainable parameters."""
        return self.counts[1]

    @property
    def peak_elements(self) -> int:
        """Largest number of activation elements alive at once, the input and the output included."""
        return self.counts[2]

    @property
    def activations(self) -> int:
        """Elements that convolutions and linear layers write."""
        return counting.activations(self.program)

    def traffic(self, buffer_words: int = 0) -> int:
        """Words between the memory and the chip, whose buffer holds so many; see `counting.traffic`."""
        return counting.traffic(self.program, buffer_words)

    @functools.cached_property
    def counts(self) -> tuple[int, int, int]:
        """MACs, parameters and peak elements."""
        return counting.macs(self.program), counting.params(self.program), counting.peak_elements(self.program)

    def to_json(self) -> dict[str, Any]:
        """The kind and the fields; one that came later (`later`) is left out at its default."""
        unused = [
            f.name for f in dataclasses.fields(self) if "later" in f.metadata and getattr(self, f.name) == f.default
        ]
        fields = {name: value for name, value in dataclasses.asdict(self).items() if name not in unused}
        return {"kind": trust.path_of(type(self), own_kinds(), here=True), **fields}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Layer:
        """Read back `to_json`.

        Raises:
            UnknownNameError: the kind is not known.
            InvalidValueError: the fields do not fit the kind, or it is outside of hwnas and neither trusted nor
                imported.
        """
        if not isinstance(data, Mapping):
            raise InvalidValueError(f"A layer is a mapping with `kind` and its fields, but got {data!r}.")
        fields = dict(data)
        kind = fields.pop("kind", None)
        found = Layer.kinds.get(kind) if isinstance(kind, str) else None  # a short name, of any that is imported
        found = found or trust.find_class("A layer", kind, own_kinds())
        if not issubclass(found, Layer):
            raise UnknownNameError(f"A layer is of kind {kind!r}, which is no class of layers.")
        try:
            return found(**{name: _frozen(value) for name, value in fields.items()})
        except TypeError as error:
            raise InvalidValueError(f"Layer {kind} does not have these fields: {error}.") from error

    def __post_init__(self) -> None:
        rules, kernels = _rules(type(self))
        rules.check(self)
        for name in kernels:
            value = getattr(self, name)
            if any(n != 0 and n % 2 == 0 for n in (value if isinstance(value, tuple) else (value,))):
                raise InvalidValueError(f"{type(self).__name__}.{name} must be odd, but got {value}.")


@functools.cache
def _rules(kind: type[Layer]) -> tuple[FieldRules, tuple[str, ...]]:
    """Rules of the fields of a kind, and those fields that are odd: a whole number counts something, and is positive,
    unless its annotation says otherwise."""

    def rule(name: str, hint: Any) -> Any:
        if name.endswith("activation"):
            return Activation
        if hint is int:
            most = MANY if name.endswith(("kernel", "stride")) else LARGEST
            return Annotated[int, Between(int(name not in MAY_BE_ABSENT), most)]
        return finite(hint)

    names = tuple(field.name for field in dataclasses.fields(kind) if field.name.endswith("kernel"))
    return FieldRules(kind, rule), names


def _is_pair(value: Any) -> bool:
    return type(value) is tuple and len(value) == 2 and all(type(extent) is int and extent > 0 for extent in value)


def _largest(values: Sequence[Any]) -> Any:
    """The largest of some values; of extents, some of which may be given by one number, along each axis."""
    pairs = [value if isinstance(value, tuple) else (value, value) for value in values]
    if any(isinstance(value, tuple) for value in values) and all(map(_is_pair, pairs)):
        return tuple(map(max, zip(*pairs, strict=True)))
    return max(values)


def _frozen(value: Any) -> Any:
    """A value from JSON, which has lists alone, as fields hold it."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _origin(kind: type) -> tuple[str, str]:
    """File and name of a class, the same where a file runs as a script and is imported as well."""
    return getattr(sys.modules.get(kind.__module__), "__file__", None) or kind.__module__, kind.__qualname__


def largest(layers: Sequence[Layer]) -> dict[type[Layer], Layer]:
    """The layer of each kind whose weights hold those of all the given ones of the kind, in the order of the kinds."""
    by_kind: dict[type[Layer], list[Layer]] = {}
    for layer in layers:
        by_kind.setdefault(type(layer), []).append(layer)
    return {kind: kind.merge(some) for kind, some in by_kind.items()}


@dataclass(frozen=True)
class Conv(Layer):
    """Convolution, BatchNorm, activation."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    activation: Activation
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        x = Convolution("conv", self.out_channels, self.kernel, self.stride)(x)
        return Activate(self.activation)(x)


def gated(x: Traced, squeeze: int, activation: Activation, gate_activation: Activation) -> Traced:
    """Squeeze-and-excitation (arXiv:1709.01507): channels times gates that two 1x1 convolutions make of means."""
    gate = Convolution("reduce", squeeze, norm=False)(GlobalPool()(x))
    gate = Convolution("excite", x.shape[0], norm=False)(Activate(activation)(gate))
    return Multiply()(x, Activate(gate_activation)(gate))


def adds_input(place: BlockPlace, first_adds: bool) -> bool:
    """False where a block keeps the shape, is the first of its stage, and those shall not add their input."""
    keeps = place.stride == 1 and place.in_channels == place.out_channels
    return first_adds or place.block > 1 or not keeps


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
    size: Size
    """Height and width of the input."""
    squeeze_activation: Activation = later("relu")
    """Activation inside squeeze-and-excitation."""
    gate_activation: Activation = later("h_sigmoid")
    """Activation of squeeze-and-excitation's result."""
    adds: bool = later(True)
    """False: the input is not added to the output, although it has its shape."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.expands and self.hidden != self.in_channels:
            raise InvalidValueError(f"MBConv without expansion has hidden = in_channels, but got {self}.")

    @classmethod
    def of_stage(
        cls,
        place: BlockPlace,
        *,
        kernel: Window = 3,
        expand: Multiple = 6,
        squeeze: Percent = 0,
        squeeze_of: Literal["input", "hidden"] = "input",
        squeeze_activation: Activation | None = None,
        gate_activation: Activation = "h_sigmoid",
        first_adds: bool = True,
    ) -> MBConv:
        """Block of a stage.

        Args:
            place: in the network.
            kernel: of the depthwise convolution.
            expand: hidden channels as a multiple of the input's; 1: no expanding convolution.
            squeeze: channels of the squeeze-and-excitation bottleneck in per cent; 0: none.
            squeeze_of: what ``squeeze`` is a share of: the channels of the input, rounded down (MnasNet, EfficientNet),
                or the hidden ones, rounded to multiples of 8 (MobileNetV3, MobileDets).
            squeeze_activation: inside squeeze-and-excitation; None: that of the block.
            gate_activation: of its result.
            first_adds: False: the first block of a stage never adds its input (MobileDets).
        """
        hidden = round(place.in_channels * expand)
        of_hidden, of_input = make_divisible(hidden * squeeze / 100), max(1, int(place.in_channels * squeeze / 100))
        return cls(
            in_channels=place.in_channels,
            out_channels=place.out_channels,
            hidden=hidden,
            expands=expand != 1,
            kernel=kernel,
            stride=place.stride,
            squeeze=0 if squeeze == 0 else of_hidden if squeeze_of == "hidden" else of_input,
            activation=place.activation,
            size=place.size,
            squeeze_activation=(squeeze_activation or place.activation) if squeeze else "relu",
            gate_activation=gate_activation if squeeze else "h_sigmoid",
            adds=adds_input(place, first_adds),
        )

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    @property
    def residual(self) -> bool:
        """True if the input is added to the output."""
        return self.adds and self.stride == 1 and self.in_channels == self.out_channels

    def define(self, x: Traced) -> Traced:
        y = x
        if self.expands:
            y = Convolution("expand", self.hidden)(y)
            y = Activate(self.activation)(y)
        y = Convolution("depthwise", self.hidden, self.kernel, self.stride, groups=self.hidden)(y)
        y = Activate(self.activation)(y)
        if self.squeeze:
            y = gated(y, self.squeeze, self.squeeze_activation, self.gate_activation)
        y = Convolution("project", self.out_channels)(y)
        return Add()(y, x) if self.residual else y


@dataclass(frozen=True)
class SeparableConv(Layer):
    """Depthwise and 1x1 convolution, each with BatchNorm and activation, and optional squeeze-and-excitation between
    them (MobileNet, arXiv:1704.04861, figure 3; PP-LCNet, arXiv:2109.15099, figure 2)."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    squeeze: int
    """Channels of the squeeze-and-excitation bottleneck; 0: none."""
    activation: Activation
    size: Size
    """Height and width of the input."""

    @classmethod
    def of_stage(cls, place: BlockPlace, *, kernel: Window = 3, squeeze: Percent = 0) -> SeparableConv:
        """Block of a stage.

        Args:
            place: in the network.
            kernel: of the depthwise convolution.
            squeeze: channels of the squeeze-and-excitation bottleneck in per cent of the input's, rounded down.
        """
        narrow = int(place.in_channels * squeeze / 100)
        return cls(place.in_channels, place.out_channels, kernel, place.stride, narrow, place.activation, place.size)

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        x = Convolution("depthwise", self.in_channels, self.kernel, self.stride, groups=self.in_channels)(x)
        x = Activate(self.activation)(x)
        if self.squeeze:
            x = gated(x, self.squeeze, "relu", "h_sigmoid")
        return Activate(self.activation)(Convolution("pointwise", self.out_channels)(x))


@dataclass(frozen=True)
class Classifier(Layer):
    """Global pooling, a hidden linear layer with activation, and the classifying linear layer."""

    in_channels: int
    features: int
    classes: int
    activation: Activation
    size: Size
    """Height and width of the input."""
    mix_bias: bool = True
    """True if the hidden layer has a bias."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        x = Linear("mix", self.features, bias=self.mix_bias)(GlobalPool()(x))
        return Linear("classify", self.classes)(Activate(self.activation)(x))


@dataclass(frozen=True)
class LinearClassifier(Layer):
    """Global pooling and the classifying linear layer."""

    in_channels: int
    classes: int
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        return Linear("classify", self.classes)(GlobalPool()(x))


@dataclass(frozen=True)
class ResidualConv(Layer):
    """Convolution, BatchNorm and activation, whose result is added to the input."""

    channels: int
    kernel: int
    activation: Activation
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.channels, self.size)

    def define(self, x: Traced) -> Traced:
        y = Convolution("conv", self.channels, self.kernel)(x)
        return Add()(Activate(self.activation)(y), x)


@dataclass(frozen=True)
class MaxPool(Layer):
    """Maximum over windows, padded by kernel // 2 on each side."""

    channels: int
    kernel: int
    stride: int
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.channels, self.size)

    def define(self, x: Traced) -> Traced:
        return Pool("max", self.kernel, self.stride)(x)


@dataclass(frozen=True)
class Bottleneck(Layer):
    """Bottleneck block of ResNet-D: 1x1, 3x3 (with the stride) and 1x1 convolution; a shortcut that changes the shape
    is average pooling and a 1x1 convolution (He et al., "Bag of Tricks", CVPR 2019, arXiv:1812.01187, figure 2c)."""

    in_channels: int
    out_channels: int
    hidden: int
    """Channels of the 3x3 convolution."""
    projects: bool
    """True if the shortcut is a convolution; else it is the input itself."""
    stride: int
    activation: Activation
    size: Size
    """Height and width of the input."""
    kernel: int = later(3)
    """Kernel of the middle convolution."""
    pools: bool = later(True)
    """False: the convolution of a shortcut has the stride itself (ResNet, GENet)."""
    squeeze: int = later(0)
    """Channels of the bottleneck of squeeze-and-excitation, in front of the addition; 0: none (ResNet-RS)."""
    gate_activation: Activation = later("h_sigmoid")
    """Activation of squeeze-and-excitation's result."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride > 2:
            raise InvalidValueError(f"Bottleneck.stride must be 1 or 2, but got {self.stride}.")
        if not self.projects and (self.stride != 1 or self.in_channels != self.out_channels):
            raise InvalidValueError(
                f"Bottleneck without projection has stride 1 and in_channels = out_channels, but got {self}."
            )

    @classmethod
    def of_stage(
        cls,
        place: BlockPlace,
        *,
        kernel: Window = 3,
        expand: Multiple = 25,
        pools: bool = True,
        squeeze: Percent = 0,
        gate_activation: Activation = "h_sigmoid",
    ) -> Bottleneck:
        """Block of a stage; its shortcut is a convolution where the shape changes.

        Args:
            place: in the network.
            kernel: of the middle convolution.
            expand: hidden channels in per cent of the output's.
            pools: False: the convolution of a shortcut has the stride itself.
            squeeze: channels of the squeeze-and-excitation bottleneck in per cent of the output's; 0: none.
            gate_activation: of its result.
        """
        hidden, narrow = (round(place.out_channels * share / 100) for share in (expand, squeeze))
        return cls(
            in_channels=place.in_channels,
            out_channels=place.out_channels,
            hidden=hidden,
            projects=place.stride > 1 or place.in_channels != place.out_channels,
            stride=place.stride,
            activation=place.activation,
            size=place.size,
            kernel=kernel,
            pools=pools or place.stride == 1,
            squeeze=narrow,
            gate_activation=gate_activation if narrow else "h_sigmoid",
        )

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        y = Activate(self.activation)(Convolution("narrow", self.hidden)(x))
        y = Convolution("spatial", self.hidden, self.kernel, self.stride)(y)
        y = Convolution("widen", self.out_channels)(Activate(self.activation)(y))
        if self.squeeze:
            y = gated(y, self.squeeze, self.activation, self.gate_activation)
        # The shortcut comes last, so that its result does not take memory beside the tensors of the long path.
        if self.projects:
            pooled = self.stride > 1 and self.pools
            x = Pool("average", self.stride, self.stride)(x) if pooled else x
            x = Convolution("shortcut", self.out_channels, 1, 1 if pooled else self.stride)(x)
        return Activate(self.activation)(Add()(y, x))


@dataclass(frozen=True)
class UIB(Layer):
    """Universal inverted bottleneck (MobileNetV4, arXiv:2404.10518, section 4): a depthwise convolution, an expanding
    1x1 convolution, a depthwise convolution and a projecting 1x1 convolution. With both depthwise convolutions it is
    the paper's ExtraDW, with the middle one an inverted bottleneck, with the starting one like ConvNext, with none FFN.
    """

    in_channels: int
    out_channels: int
    hidden: int
    """Channels between the 1x1 convolutions."""
    start_kernel: int
    """Kernel of the depthwise convolution before the expansion; 0: none."""
    middle_kernel: int
    """Kernel of the depthwise convolution after the expansion; 0: none."""
    stride: int
    """Stride of the middle depthwise convolution if there is one, else of the starting one."""
    activation: Activation
    size: Size
    """Height and width of the input."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride > 1 and not self.start_kernel and not self.middle_kernel:
            raise InvalidValueError(f"UIB with a stride has a depthwise convolution, but got {self}.")

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    @property
    def start_stride(self) -> int:
        """Stride of the starting depthwise convolution."""
        return 1 if self.middle_kernel else self.stride

    @property
    def residual(self) -> bool:
        """True if the input is added to the output."""
        return self.stride == 1 and self.in_channels == self.out_channels

    def define(self, x: Traced) -> Traced:
        y, inputs, hidden = (x, self.in_channels, self.hidden)
        if self.start_kernel:
            kernel, stride = (self.start_kernel, self.start_stride)
            y = Convolution("start", inputs, kernel, stride, groups=inputs)(y)
        y = Activate(self.activation)(Convolution("expand", hidden)(y))
        if self.middle_kernel:
            kernel, stride = (self.middle_kernel, self.stride)
            y = Convolution("middle", hidden, kernel, stride, groups=hidden)(y)
            y = Activate(self.activation)(y)
        y = Convolution("project", self.out_channels)(y)
        return Add()(y, x) if self.residual else y


@dataclass(frozen=True)
class FusedMBConv(Layer):
    """Fused inverted bottleneck (MobileNetV4, arXiv:2404.10518, figure 4): one k x k convolution in place of the
    expanding and the depthwise one, and a projecting 1x1 convolution."""

    in_channels: int
    out_channels: int
    hidden: int
    """Channels between the convolutions."""
    kernel: int
    stride: int
    activation: Activation
    out_activation: Activation
    """Activation behind the projection; not "none": two plain convolutions, and the input is never added."""
    size: Size
    """Height and width of the input."""
    adds: bool = later(True)
    """False: the input is not added to the output, although it has its shape."""

    @classmethod
    def of_stage(
        cls,
        place: BlockPlace,
        *,
        kernel: Window = 3,
        expand: Multiple = 4,
        out_activation: Activation = "none",
        first_adds: bool = True,
    ) -> FusedMBConv:
        """Block of a stage.

        Args:
            place: in the network.
            kernel: of the first convolution.
            expand: hidden channels as a multiple of the input's.
            out_activation: behind the projection; not "none": two plain convolutions.
            first_adds: False: the first block of a stage never adds its input (MobileDets).
        """
        return cls(
            place.in_channels,
            place.out_channels,
            round(place.in_channels * expand),
            kernel,
            place.stride,
            place.activation,
            out_activation,
            place.size,
            out_activation != "none" or adds_input(place, first_adds),
        )

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    @property
    def residual(self) -> bool:
        """True if the input is added to the output."""
        same_shape = self.stride == 1 and self.in_channels == self.out_channels
        return self.adds and same_shape and self.out_activation == "none"

    def define(self, x: Traced) -> Traced:
        y = Convolution("expand", self.hidden, self.kernel, self.stride)(x)
        y = Activate(self.activation)(y)
        y = Activate(self.out_activation)(Convolution("project", self.out_channels)(y))
        return Add()(y, x) if self.residual else y


@dataclass(frozen=True)
class NormClassifier(Layer):
    """Global pooling, a 1x1 convolution with BatchNorm and activation, and the classifying linear layer
    (MobileNetV4)."""

    in_channels: int
    features: int
    classes: int
    activation: Activation
    size: Size
    """Height and width of the input."""

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    def define(self, x: Traced) -> Traced:
        x = Convolution("mix", self.features)(GlobalPool()(x))
        return Linear("classify", self.classes)(Activate(self.activation)(x))


@dataclass(frozen=True)
class FBNetBlock(Layer):
    """Inverted residual whose 1x1 convolutions may be in groups; the channels are shuffled behind the first of these
    (FBNet, arXiv:1812.03443, figure 3)."""

    in_channels: int
    out_channels: int
    hidden: int
    """Channels of the depthwise convolution."""
    kernel: int
    stride: int
    groups: int
    """Groups of both 1x1 convolutions."""
    activation: Activation
    size: Size
    """Height and width of the input."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(channels % self.groups for channels in (self.in_channels, self.hidden, self.out_channels)):
            raise InvalidValueError(f"FBNetBlock.groups must divide all channels, but got {self}.")

    @property
    def input_shape(self) -> Shape:
        return image_shape(self.in_channels, self.size)

    @property
    def residual(self) -> bool:
        """True if the input is added to the output."""
        return self.stride == 1 and self.in_channels == self.out_channels

    def define(self, x: Traced) -> Traced:
        hidden, kernel, stride = (self.hidden, self.kernel, self.stride)
        y = Convolution("expand", hidden, groups=self.groups)(x)
        y = Activate(self.activation)(y)
        if self.groups > 1:
            y = Shuffle(self.groups)(y)
        y = Convolution("depthwise", hidden, kernel, stride, groups=hidden)(y)
        y = Activate(self.activation)(y)
        y = Convolution("project", self.out_channels, groups=self.groups)(y)
        return Add()(y, x) if self.residual else y


def own_kinds() -> dict[str, str]:
    """Short names in files of hwnas's own kinds -> import path, by which those of others are named."""
    kinds = (kind for kind in Layer.kinds.values() if not inspect.isabstract(kind))
    own = (kind for kind in kinds if kind.__module__.startswith(f"{__package__}."))
    return {kind.__name__: f"{kind.__module__}.{kind.__name__}" for kind in own}

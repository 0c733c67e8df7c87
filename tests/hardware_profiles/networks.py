"""Layers and networks of any rank and shape, and of any operators, that targets are tested with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from search_spaces.layers import Layer
from search_spaces.network import Network
from search_spaces.ops.activation import Activate
from search_spaces.ops.arithmetic import Add, Scale
from search_spaces.ops.convolution import Convolution, Linear
from search_spaces.ops.matmul import Matmul, Softmax
from search_spaces.ops.movement import Reshape, Transpose, flatten
from search_spaces.ops.normalisation import LayerNorm
from search_spaces.ops.pooling import GlobalPool, Pool
from search_spaces.program import Shape, Traced

Steps = Callable[..., Traced]


@dataclass(frozen=True)
class Stated(Layer):
    """A layer that is stated by a function, for inputs of some shapes."""

    steps: Steps = field(hash=False, compare=False)
    shapes: tuple[Shape, ...]

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return self.shapes

    def define(self, *x: Traced) -> Traced:
        return self.steps(*x)


def network_of(steps: Steps, *shapes: Shape) -> Network:
    """The network of one layer that is stated by a function."""
    return Network.of_layer("layer", Stated(steps, shapes))


def signal(x: Traced) -> Traced:
    """Convolutions and pooling over (C, L)."""
    y = Activate("relu")(Convolution("first", 16, 5, 2)(x))
    y = Pool("max", 3, 2)(Convolution("second", 16, 3, groups=16)(y))
    return Linear("classify", 4)(Reshape((16,))(GlobalPool()(y)))


def tokens(x: Traced) -> Traced:
    """Linear layers over (T, F)."""
    y = Activate("relu")(Linear("wide", 24)(x))
    return Add()(Linear("narrow", x.shape[1])(y), x)


def vector(x: Traced) -> Traced:
    """Linear layers over (F,)."""
    return Add()(Linear("narrow", x.shape[0])(Activate("relu")(Linear("wide", 24)(x))), x)


def oblong(x: Traced) -> Traced:
    """Rectangular kernels, strides, padding that differs between the sides, and dilation, over a non-square image."""
    y = Activate("relu")(Convolution("across", 16, (1, 5), (1, 2), padding=(0, 2))(x))
    y = Convolution("down", 16, (3, 1), dilation=(2, 1))(y)
    return Convolution("depthwise", 16, 3, 2, padding=(0, 1, 1, 0), groups=16)(y)


def attention(heads: int, width: int) -> Steps:
    """Self-attention with a residual (arXiv:1706.03762, section 3.2), its norm before it."""

    def steps(x: Traced) -> Traced:
        count, features = x.shape
        normed = LayerNorm("norm")(x)
        query, key, value = (
            Transpose((1, 0, 2))(Reshape((count, heads, width))(Linear(name, heads * width)(normed)))
            for name in ("query", "key", "value")
        )
        shares = Softmax()(Scale(width**-0.5)(Matmul(transposed=True)(query, key)))
        joined = Reshape((count, heads * width))(Transpose((1, 0, 2))(Matmul()(shares, value)))
        return Add()(x, Linear("out", features)(joined))

    return steps


def patches(x: Traced) -> Traced:
    """An image as tokens and back, with a linear layer on each token."""
    channels, *size = x.shape
    y = Linear("mix", channels)(Transpose((1, 0))(flatten(x, 1)))
    return Convolution("local", channels, 3, groups=channels)(Reshape((channels, *size))(Transpose((1, 0))(y)))


def graph() -> Network:
    """Positions that read others than the one before, of three inputs and three outputs."""
    image = (8, 6, 10)

    def join(x: Traced, y: Traced) -> Traced:
        return Activate("relu")(Add()(x, Convolution("conv", 8, 3)(y)))

    return Network(
        {
            "left": Stated(Convolution("conv", 8, 3), (image,)),
            "right": Stated(Convolution("conv", 8, 3), (image,)),
            "gate": Stated(Activate("relu"), (image,)),
            "join": Stated(join, (image, image)),
            "side": Stated(Activate("h_swish"), (image,)),
            "head": Stated(vector, ((12,),)),
        },
        {
            "left": ("near",),
            "right": ("far",),
            "gate": ("left",),
            "join": ("gate", "right"),
            "side": ("right",),
            "head": ("facts",),
        },
        {"near": image, "far": image, "facts": (12,)},
        {"joined": "join", "beside": "side", "scores": "head"},
    )

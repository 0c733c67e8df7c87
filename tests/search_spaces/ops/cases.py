"""A layer of each operator, which tests of several targets share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from search_spaces.layers import Layer
from search_spaces.ops.activation import Activate, Activation, LeakyRelu, PRelu
from search_spaces.ops.arithmetic import Add, Multiply, Scale, Zero
from search_spaces.ops.convolution import BatchNorm, Convolution, Linear
from search_spaces.ops.learned import Embedding, Learned
from search_spaces.ops.matmul import Matmul, Softmax
from search_spaces.ops.movement import (
    Concat,
    DepthToSpace,
    Gather,
    Pad,
    Pick,
    Reshape,
    Shuffle,
    Slice,
    SpaceToDepth,
    Transpose,
    flatten,
    split,
)
from search_spaces.ops.normalisation import GroupNorm, LayerNorm, RmsNorm
from search_spaces.ops.pooling import GlobalPool, Pool
from search_spaces.ops.reduction import Reduce
from search_spaces.ops.resize import Resize
from search_spaces.ops.transposed_convolution import TransposedConvolution
from search_spaces.program import Shape, Traced

IMAGE, SIGNAL, TOKENS = (6, 9, 7), (6, 11), (5, 8)


def attention(x: Traced, heads: int = 2) -> Traced:
    """Self-attention of tokens with heads (Vaswani et al., arXiv:1706.03762, section 3.2.2)."""
    tokens, features = x.shape
    width = features // heads

    def part(name: str) -> Traced:
        y = Reshape((tokens, heads, width))(Linear(name, heads * width)(x))
        return Transpose((1, 0, 2))(y)  # (heads, tokens, width)

    scores = Scale(width**-0.5)(Matmul(transposed=True)(part("query"), part("key")))
    y = Transpose((1, 0, 2))(Matmul()(Softmax()(scores), part("value")))
    return Add()(Linear("project", features)(Reshape((tokens, features))(y)), x)


CASES: dict[str, tuple[tuple[Shape, ...], Callable[..., Traced]]] = {
    **{kind: ((IMAGE,), Activate(kind)) for kind in get_args(Activation)},
    "leaky_relu": ((IMAGE,), LeakyRelu(0.1)),
    "prelu": ((IMAGE,), PRelu("act")),
    "prelu_of_a_signal": ((SIGNAL,), PRelu("act")),
    "prelu_of_features": (((8,),), PRelu("act")),
    "concat": ((IMAGE, (2, 9, 7), (1, 9, 7)), Concat()),
    "concat_of_tokens": ((TOKENS, (1, 8)), Concat(-2)),
    "concat_of_features": ((TOKENS, (5, 3)), Concat(1)),
    "slice": ((IMAGE,), Slice(0, 1, 4)),
    "slice_with_steps": ((IMAGE,), Slice(-2, 1, 9, 3)),
    "split": ((IMAGE,), lambda x: Concat()(*reversed(split(x, (1, 3, 2))))),
    "softmax": ((TOKENS,), Softmax()),
    "softmax_of_channels": ((IMAGE,), Softmax(0)),
    "softmax_of_many": (((2, 5, 300),), Softmax()),
    "softmax_of_slices": (((2, 5, 300),), lambda x: Softmax()(Slice(-1, 0, 290)(x))),
    "matmul": (((3, 5, 8), (3, 8, 4)), Matmul()),
    "matmul_transposed": (((2, 3, 5, 8), (2, 3, 4, 8)), Matmul(transposed=True)),
    "matmul_of_matrices": ((TOKENS, (4, 8)), Matmul(transposed=True)),
    "scale": ((IMAGE,), Scale(0.125)),
    "add": ((IMAGE, (6, 1, 7)), Add()),
    "multiply": ((IMAGE, (6, 1, 1)), Multiply()),
    "zero": ((IMAGE,), Zero()),
    "gather": ((IMAGE,), Gather((5, 0, 0, 3))),
    "gather_of_features": ((TOKENS,), Gather((7, 1), -1)),
    "gather_of_words": (((7,),), Gather((0, 6))),
    "pick": ((TOKENS, (3,)), Pick()),
    "pick_of_channels": ((IMAGE, (2, 4)), Pick()),
    "pick_of_features": (((8,), (3,)), lambda x, places: Linear("mix", 4)(Pick()(x, places))),
    "pad": ((IMAGE,), Pad(((1, 0), (0, 2), (3, 1)))),
    "reshape": ((IMAGE,), Reshape((3, -1, 7))),
    "flatten": ((IMAGE,), lambda x: flatten(x, 1)),
    "transpose": ((IMAGE,), Transpose((1, 2, 0))),
    "depth_to_space": (((12, 3, 4),), DepthToSpace(2)),
    "space_to_depth": (((3, 6, 9),), SpaceToDepth(3)),
    "shuffle": ((IMAGE,), Shuffle(3)),
    "nearest": ((IMAGE,), Resize("nearest", 2)),
    "nearest_to_size": ((IMAGE,), Resize("nearest", size=(6, 16))),
    "nearest_of_many": (((6, 9, 8),), Resize("nearest", size=(3, 16))),
    "bilinear": ((IMAGE,), Resize("bilinear", (1.5, 0.7))),
    "bilinear_to_size": ((IMAGE,), Resize("bilinear", size=(20, 1))),
    "linear_of_a_signal": ((SIGNAL,), Resize("bilinear", 2.0)),
    "mean": ((IMAGE,), Reduce("mean", (1,))),
    "sum": ((IMAGE,), Reduce("sum", (0, -1), keep=True)),
    "max": ((TOKENS,), Reduce("max", (-1,))),
    "layer_norm": ((TOKENS,), LayerNorm("norm")),
    "layer_norm_of_channels": ((IMAGE,), LayerNorm("norm", 0, 1e-6)),
    "layer_norm_of_features": (((8,),), LayerNorm("norm")),
    "rms_norm": ((TOKENS,), RmsNorm("norm")),
    "rms_norm_of_channels": ((IMAGE,), RmsNorm("norm", 0)),
    "group_norm": ((IMAGE,), GroupNorm("norm", 3)),
    "group_norm_of_a_signal": ((SIGNAL,), GroupNorm("norm", 2)),
    "learned": ((TOKENS,), lambda x: Concat()(Learned("class_token", (1, 8))(x), x)),
    "embedding": (((7,),), Embedding("words", 11, 8)),
    "embedding_of_some": (((7,),), lambda x: Embedding("words", 11, 8)(Reshape((2, 3))(Slice(0, 1, 7)(x)))),
    "batch_norm": ((IMAGE,), BatchNorm("norm")),
    "linear": ((TOKENS,), Linear("mix", 12)),
    "linear_without_bias": (((8,),), Linear("mix", 12, bias=False)),
    "convolution": ((IMAGE,), Convolution("conv", 8, (5, 3), (2, 1), 2, padding=(1, 0, 2, 3), dilation=(1, 2))),
    "convolution_of_a_signal": ((SIGNAL,), Convolution("conv", 8, 4, 2, padding=(0, 3))),
    "convolution_with_bias": ((IMAGE,), Convolution("conv", 8, 3, norm=False)),
    "convolution_without_bias": ((IMAGE,), Convolution("conv", 8, 3, norm=False, bias=False)),
    "transposed_convolution": ((IMAGE,), TransposedConvolution("up", 8, 4, 2)),
    "transposed_convolution_in_groups": ((IMAGE,), TransposedConvolution("up", 9, (3, 5), (2, 3), 3)),
    "transposed_convolution_with_bias": (
        (IMAGE,),
        TransposedConvolution("up", 4, 3, 2, norm=False, padding=(0, 1), output_padding=(1, 0), dilation=(1, 2)),
    ),
    "transposed_convolution_of_a_signal": ((SIGNAL,), TransposedConvolution("up", 4, 2, 4, norm=False, bias=False)),
    "max_pool": ((IMAGE,), Pool("max", 3, 2)),
    "max_pool_cut_off": ((IMAGE,), Pool("max", 2, 2)),
    "max_pool_rectangular": ((IMAGE,), Pool("max", (2, 3), (1, 2))),
    "max_pool_padded": ((IMAGE,), Pool("max", 4, (2, 3), padding=(1, 0, 3, 2))),
    "max_pool_of_a_signal": ((SIGNAL,), Pool("max", 3, 2, padding=0)),
    "average_pool": ((IMAGE,), Pool("average", 3, 1)),
    "average_pool_cut_off": ((IMAGE,), Pool("average", 4, 4)),
    "average_pool_rectangular": ((IMAGE,), Pool("average", (2, 3), (1, 2))),
    "average_pool_padded": ((IMAGE,), Pool("average", 4, (2, 3), padding=(1, 0, 3, 2))),
    "average_pool_of_a_signal": ((SIGNAL,), Pool("average", 4, 2, padding=1)),
    "global_pool": ((IMAGE,), GlobalPool()),
    "global_pool_of_a_signal": ((SIGNAL,), GlobalPool()),
    "attention": ((TOKENS,), attention),
}
"""Name -> shapes of the inputs, and what is computed."""


@dataclass(frozen=True)
class Case(Layer):
    """The layer of one of the cases."""

    name: str

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return CASES[self.name][0]

    def define(self, *inputs: Any, **_: Any) -> Traced:
        return CASES[self.name][1](*inputs)

"""Computations of which TVM has no operator that suits channels-last layout or our schedule, in its tensor expressions.

Each takes tensors and gives a tensor, to be emitted as one kernel. Functions of one element call no library, so that
LLVM keeps them in vector registers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as script

Element = Callable[[Any], Any]
"""Function of one element."""


# -- functions of one element ------------------------------------------------------------------------------------------


def relu(x: Any) -> Any:
    """``max(x, 0)``."""
    return te.max(x, 0.0)


def relu6(x: Any) -> Any:
    """``min(max(x, 0), 6)``."""
    return te.min(te.max(x, 0.0), 6.0)


def h_sigmoid(x: Any) -> Any:
    """Hard sigmoid, arXiv:1905.02244, section 5.2."""
    return te.max(te.min(x * (1 / 6) + 0.5, 1.0), 0.0)


def h_swish(x: Any) -> Any:
    """Hard swish, arXiv:1905.02244, section 5.2."""
    return x * h_sigmoid(x)


def _bound(name: str, value: Any, use: Element) -> Any:
    """Expression that uses a value several times, computed once."""
    variable = tirx.Var(name, "float32")
    return tirx.Let(variable, value, use(variable))


def _polynomial(x: Any, coefficients: Sequence[float]) -> Any:
    """Horner's scheme, the highest power first."""
    return functools.reduce(lambda sum_, coefficient: sum_ * x + coefficient, coefficients[1:], coefficients[0])


def exponential(x: Any) -> Any:
    """``e**x`` with a relative error of about 1e-7: ``2**n * e**f`` with integer n and small f, as Cephes' ``expf``."""

    def scaled(n: Any) -> Any:
        power = tirx.reinterpret("float32", (n.astype("int32") + 127) << 23)
        return lambda f: power * (_polynomial(f, _EXPONENTIAL) * f * f + f + 1.0)

    def of(clipped: Any) -> Any:
        whole = te.floor(clipped * 1.44269504088896341 + 0.5)
        return _bound("n", whole, lambda n: _bound("f", clipped - n * 0.693359375 + n * 2.12194440e-4, scaled(n)))

    return _bound("clipped", te.max(te.min(x, 88.0), -87.0), of)


_EXPONENTIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


def sigmoid(x: Any) -> Any:
    """``1 / (1 + e**-x)``."""
    return 1.0 / (1.0 + exponential(-x))


def tanh(x: Any) -> Any:
    """``2 sigmoid(2 x) - 1``, and a series where that would cancel."""
    by_sigmoid = 2.0 / (1.0 + exponential(-2.0 * x)) - 1.0
    by_series = _bound("square", x * x, lambda square: x * _polynomial(square, _TANH))
    return tirx.Select(te.abs(x) < 0.625, by_series, by_sigmoid)


_TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1, 1.0)


def silu(x: Any) -> Any:
    """``x sigmoid(x)``."""
    return x * sigmoid(x)


def erf(x: Any) -> Any:
    """Error function as a rational function, with an error of about 1e-7, as Eigen has it."""

    def ratio(clipped: Any) -> Any:
        return _bound(
            "square",
            clipped * clipped,
            lambda square: clipped * _polynomial(square, _ERF_ABOVE) / _polynomial(square, _ERF_BELOW),
        )

    return _bound("clipped", te.max(te.min(x, 4.0), -4.0), ratio)


_ERF_ABOVE = (
    *(-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05),
    *(-7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02),
)
_ERF_BELOW = (
    *(-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03),
    -1.42647390514189e-02,
)


def gelu(x: Any) -> Any:
    """``x Phi(x)``, arXiv:1606.08415."""
    return 0.5 * x * (1.0 + erf(x * 0.7071067811865476))


def gelu_tanh(x: Any) -> Any:
    """Approximation of `gelu` by tanh, arXiv:1606.08415, section 2."""
    return x * sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))  # (1 + tanh(y)) / 2 = sigmoid(2 y)


ACTIVATIONS: dict[str, Element] = {
    "relu": relu,
    "relu6": relu6,
    "h_sigmoid": h_sigmoid,
    "h_swish": h_swish,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "silu": silu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
}
"""Functions of one element by the names of `search_spaces.ops.activation`."""


# -- tensors -----------------------------------------------------------------------------------------------------------


def element_wise(function: Element) -> Callable[[Any], Any]:
    """A function of each element."""
    return lambda x: te.compute(x.shape, lambda *index: function(x(*index)))


def below_zero(x: Any, slopes: Any, *, axis: int) -> Any:
    """Values below 0 times a slope per index of an axis."""
    return te.compute(
        x.shape, lambda *index: tirx.Select(x(*index) > 0.0, x(*index), x(*index) * slopes(index[axis])), "slope"
    )


def per_channel(x: Any, factors: Any, offsets: Any) -> Any:
    """Images times a factor, plus an offset, of each image and channel, both (N, 1, 1, C)."""
    return te.compute(
        x.shape, lambda n, h, w, c: x(n, h, w, c) * factors(n, 0, 0, c) + offsets(n, 0, 0, c), "per_channel"
    )


LANES = 16
"""Numbers of the largest vector register."""


def softmax(x: Any) -> Any:
    """Exponentials along the last axis, divided by their sum; rows that fill no vectors are extended by numbers that
    add nothing."""
    *rows, length = x.shape
    extended = x
    if int(length) % LANES and int(length) > LANES:
        whole = -(-int(length) // LANES) * LANES
        extended = te.compute(
            (*rows, whole),
            lambda *i: tirx.if_then_else(i[-1] < length, x(*i), tirx.const(LOWEST, "float32")),
            "extended",
        )
    k, m = (te.reduce_axis((0, extended.shape[-1]), name) for name in "km")
    most = te.compute(rows, lambda *row: te.max(extended(*row, k), k), "most")
    powers = te.compute(extended.shape, lambda *i: exponential(extended(*i) - most(*i[:-1])), "powers")
    total = te.compute(rows, lambda *row: te.sum(powers(*row, m), m), "total")
    return te.compute(x.shape, lambda *i: powers(*i) / total(*i[:-1]), "softmax")


LOWEST = -3.0e38
"""A float32 whose exponential is 0 beside that of any other."""


def layer_norm(x: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    """Values along the last axis with mean 0 and variance 1, times a factor, plus an offset."""
    *rows, length = x.shape
    k, m = te.reduce_axis((0, length), "k"), te.reduce_axis((0, length), "m")
    total = te.compute(rows, lambda *row: te.sum(x(*row, k), k), "total")
    centred = te.compute(x.shape, lambda *index: x(*index) - total(*index[:-1]) * (1 / int(length)), "centred")
    square = te.compute(rows, lambda *row: te.sum(centred(*row, m) * centred(*row, m), m), "square")
    scale = te.compute(rows, lambda *row: te.rsqrt(square(*row) * (1 / int(length)) + eps), "scale")
    return te.compute(
        x.shape,
        lambda *index: centred(*index) * scale(*index[:-1]) * weight(index[-1]) + bias(index[-1]),
        "layer_norm",
    )


def rms_norm(x: Any, weight: Any, *, eps: float) -> Any:
    """Values along the last axis over their root mean square, times a factor."""
    *rows, length = x.shape
    k = te.reduce_axis((0, length), "k")
    square = te.compute(rows, lambda *row: te.sum(x(*row, k) * x(*row, k), k), "square")
    scale = te.compute(rows, lambda *row: te.rsqrt(square(*row) * (1 / int(length)) + eps), "scale")
    return te.compute(x.shape, lambda *index: x(*index) * scale(*index[:-1]) * weight(index[-1]), "rms_norm")


def squares(x: Any, mean: Any) -> Any:
    """Sum of the squared distances of each channel, over its pixels, to a number of its own: (N, 1, 1, C)."""
    n, height, width, channels = x.shape
    h, w = te.reduce_axis((0, height), "h"), te.reduce_axis((0, width), "w")

    def distance(n: Any, c: Any) -> Any:
        return x(n, h, w, c) - mean(n, 0, 0, c)

    return te.compute(
        (n, 1, 1, channels), lambda n, _, __, c: te.sum(distance(n, c) * distance(n, c), [h, w]), "squares"
    )


def group_means(x: Any, *, groups: int) -> Any:
    """Mean over the channels of each group, once for each of its channels: (N, 1, 1, C)."""
    n, _, __, channels = x.shape
    size = int(channels) // groups
    k = te.reduce_axis((0, size), "k")
    return te.compute(
        (n, 1, 1, channels), lambda n, _, __, c: te.sum(x(n, 0, 0, c // size * size + k) * (1 / size), k), "group_means"
    )


def factors(variance: Any, weight: Any, *, eps: float, pixels: int) -> Any:
    """Factor of each channel from the mean over its group's channels of `squares`: (N, 1, 1, C)."""
    return te.compute(
        variance.shape,
        lambda n, h, w, c: te.rsqrt(variance(n, h, w, c) * (1 / pixels) + eps) * weight(c),
        "factors",
    )


def offsets(mean: Any, factors: Any, bias: Any) -> Any:
    """Offset of each channel: (N, 1, 1, C)."""
    return te.compute(mean.shape, lambda n, h, w, c: bias(c) - mean(n, h, w, c) * factors(n, h, w, c), "offsets")


def placed(shapes: Sequence[Sequence[int]], starts: Sequence[Sequence[int]], extents: Sequence[int], dtype: str) -> Any:
    """Kernel (inputs..., output) -> None that copies tensors to places of a larger one, which are 0 elsewhere.

    Each copy has loops of its own, as no condition has to tell then which input a number is of.

    Args:
        shapes: of the inputs.
        starts: first index along each axis of each input in the output.
        extents: of the output.
        dtype: of all.
    """
    covered = sum(math.prod(shape) for shape in shapes) == math.prod(extents)
    with IRBuilder() as builder, script.prim_func(private=True, s_tir=True):
        script.func_attr({"tirx.noalias": True})
        inputs = [_argument(f"x{i}", shape, dtype) for i, shape in enumerate(shapes)]
        output = _argument("y", extents, dtype)
        if not covered:
            _copy("zeros", None, output, extents, [0] * len(extents))
        for i, (x, shape, start) in enumerate(zip(inputs, shapes, starts, strict=True)):
            _copy(f"copy_{i}", x, output, shape, start)  # of names of their own, which MetaSchedule asks for
    return builder.get()


def _argument(name: str, shape: Sequence[int], dtype: str) -> Any:
    return script.arg(name, script.Buffer([tirx.IntImm("int64", extent) for extent in shape], dtype))


def _copy(name: str, x: Any, y: Any, shape: Sequence[int], start: Sequence[int]) -> None:
    """Loops that write a tensor, or 0, to a place of another."""
    with script.grid(*(tirx.IntImm("int64", extent) for extent in shape)) as loops, script.sblock(name):
        axes = script.axis.remap("S" * len(shape), loops)
        place = [axis + first if first else axis for axis, first in zip(axes, start, strict=True)]
        script.reads([x[tuple(axes)]] if x is not None else [])
        script.writes(y[tuple(place)])
        script.buffer_store(y, x[tuple(axes)] if x is not None else tirx.const(0, y.dtype), place)


def gather(x: Any, indices: Any, *, axis: int) -> Any:
    """Entries of an axis at fixed places."""
    shape = [*x.shape[:axis], indices.shape[0], *x.shape[axis + 1 :]]
    return te.compute(shape, lambda *i: x(*i[:axis], indices(i[axis]), *i[axis + 1 :]), "gather")


def pick(x: Any, places: Any) -> Any:
    """Entries of the axis behind the batch, for each image at places of its own."""
    count = len(places.shape)
    shape = [*places.shape, *x.shape[2:]]
    return te.compute(shape, lambda *i: x(i[0], places(*i[:count]).astype("int32"), *i[count:]), "pick")


def embedding(indices: Any, weight: Any) -> Any:
    """Rows of a table that integers name."""
    shape = [*indices.shape, weight.shape[1]]
    return te.compute(shape, lambda *i: weight(indices(*i[:-1]).astype("int32"), i[-1]), "embedding")


def depth_to_space(x: Any, *, block: int) -> Any:
    """Channels of images as pixels; `search_spaces.ops.movement.DepthToSpace`."""
    n, height, width, channels = x.shape
    return te.compute(
        (n, height * block, width * block, channels // block**2),
        lambda n, h, w, c: x(n, h // block, w // block, (c * block + h % block) * block + w % block),
        "depth_to_space",
    )


def space_to_depth(x: Any, *, block: int) -> Any:
    """Pixels of images as channels; `search_spaces.ops.movement.SpaceToDepth`."""
    n, height, width, channels = x.shape
    return te.compute(
        (n, height // block, width // block, channels * block**2),
        lambda n, h, w, c: x(n, h * block + c // block % block, w * block + c % block, c // block**2),
        "space_to_depth",
    )


def interleaved(x: Any, *, strides: Sequence[int], groups: int, cuts: Sequence[int], size: Sequence[int]) -> Any:
    """Output of a transposed convolution from that of the convolution whose channels are, in each group, those of every
    phase of the stride; as many rows and columns are cut off before, and the rest beyond `size`."""
    n, _, __, channels = x.shape
    (down, right), (top, left) = strides, cuts
    of_group = int(channels) // (groups * down * right)

    def value(n: Any, h: Any, w: Any, c: Any) -> Any:
        h, w = h + top, w + left
        phase = c // of_group * (down * right) + h % down * right + w % right
        return x(n, h // down, w // right, phase * of_group + c % of_group)

    return te.compute((n, *size, groups * of_group), value, "interleaved")


def nearest(x: Any, *, size: Sequence[int]) -> Any:
    """Images of another size, each pixel that whose area its centre lies in."""
    n, height, width, channels = x.shape
    rows, columns = (functools.partial(_holding, int(b), a) for b, a in zip((height, width), size, strict=True))
    return te.compute((n, *size, channels), lambda n, h, w, c: x(n, rows(h), columns(w), c), "nearest")


def _holding(before: int, after: int, i: Any) -> Any:
    return (i * 2 + 1) * before // (after * 2)


def bilinear(x: Any, rows: Any, columns: Any, down: Any, right: Any) -> Any:
    """Images of another size, each pixel between four.

    Args:
        x: (N, H, W, C).
        rows, columns: indices of those before and behind, (2, size).
        down, right: weight of those behind, (size,).
    """

    def across(n: Any, row: Any, w: Any, c: Any) -> Any:
        left = x(n, row, columns(0, w), c)
        return left + (x(n, row, columns(1, w), c) - left) * right(w)

    def value(n: Any, h: Any, w: Any, c: Any) -> Any:
        above = across(n, rows(0, h), w, c)
        return _bound("above", above, lambda above: above + (across(n, rows(1, h), w, c) - above) * down(h))

    return te.compute((x.shape[0], down.shape[0], right.shape[0], x.shape[3]), value, "bilinear")

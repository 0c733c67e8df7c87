"""A model as a TVM Relax module: what TVM compiles, for this computer and for others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, te

from hardware_profiles.model import Model
from search_spaces.graph import Activation, Pool
from search_spaces.layers import Shape


@dataclass(frozen=True)
class RelaxValue:
    """A tensor of the Relax graph, (batch, H, W, C), and its shape (C, H, W), or (C,) for 1x1, as layers count it."""

    expression: Any
    shape: Shape


class RelaxGraph:
    """Implements `search_spaces.graph.Graph` in channels-last layout, so that channels fill vector registers.

    Built directly rather than from ONNX: TVM's importer keeps ONNX's channels-first layout, converting it leaves copies
    around every activation, and folding the converted weights takes longer than all other steps of a compilation.
    """

    def __init__(self, model: Model, builder: Any) -> None:
        self._model = model
        self._builder = builder
        self.operators = 0
        """How many were emitted."""

    def conv(
        self,
        x: RelaxValue,
        name: str,
        *,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        bias: bool = True,
    ) -> RelaxValue:
        in_channels, height, width = x.shape
        weight, offset = self._model.parameters(name, (channels, in_channels // groups, kernel, kernel))
        shape = (channels, -(-height // stride), -(-width // stride))
        return self._conv(x, weight, offset, shape, strides=stride, padding=kernel // 2, groups=groups)

    def norm(self, x: RelaxValue, name: str) -> RelaxValue:
        return self.conv(x, name, channels=x.shape[0], groups=x.shape[0])  # of 1x1 is the same

    def activation(self, x: RelaxValue, kind: Activation) -> RelaxValue:
        if kind == "none":
            return x
        # As one operator, because every operator costs milliseconds to compile.
        return self._emit(self._builder.call_te(_ACTIVATIONS[kind], x.expression, primfunc_name_hint=kind), x.shape)

    def global_pool(self, x: RelaxValue) -> RelaxValue:
        return self._emit(relax.op.mean(x.expression, [1, 2], keepdims=True), (x.shape[0], 1, 1))

    def pool(self, x: RelaxValue, kind: Pool, *, kernel: int, stride: int) -> RelaxValue:
        shape = (x.shape[0], -(-x.shape[1] // stride), -(-x.shape[2] // stride))
        operator = {"max": relax.op.nn.max_pool2d, "average": relax.op.nn.avg_pool2d}[kind]
        padding = kernel // 2 if kernel % 2 else 0
        pooled = operator(
            x.expression,
            pool_size=(kernel, kernel),
            strides=(stride, stride),
            padding=(padding,) * 4,
            ceil_mode=kernel % 2 == 0,
            layout="NHWC",
        )
        return self._emit(pooled, shape)

    def linear(self, x: RelaxValue, name: str, *, features: int, bias: bool = True) -> RelaxValue:
        weight, offset = self._model.parameters(name, (features, x.shape[0]))
        return self._conv(x, weight[:, :, None, None], offset, (features,))

    def add(self, a: RelaxValue, b: RelaxValue) -> RelaxValue:
        return self._emit(relax.op.add(a.expression, b.expression), a.shape)

    def multiply(self, a: RelaxValue, b: RelaxValue) -> RelaxValue:
        return self._emit(relax.op.multiply(a.expression, b.expression), a.shape)

    def shuffle(self, x: RelaxValue, groups: int) -> RelaxValue:
        channels, height, width = x.shape
        batch = x.expression.ty.shape[0]
        split = relax.op.reshape(x.expression, (batch, height, width, groups, channels // groups))
        swapped = relax.op.permute_dims(self._bind(split), [0, 1, 2, 4, 3])
        return self._emit(relax.op.reshape(self._bind(swapped), (batch, height, width, channels)), x.shape)

    def zero(self, x: RelaxValue) -> RelaxValue:
        return self._emit(relax.op.subtract(x.expression, x.expression), x.shape)

    def _conv(
        self, x: RelaxValue, weight: NDArray[np.float32], bias: NDArray[np.float32], shape: Shape, **attributes: int
    ) -> RelaxValue:
        kernel = relax.const(np.ascontiguousarray(weight.transpose(2, 3, 1, 0)))  # (O, I, H, W) -> (H, W, I, O)
        y = relax.op.nn.conv2d(x.expression, kernel, data_layout="NHWC", kernel_layout="HWIO", **attributes)
        return self._emit(relax.op.add(self._bind(y), relax.const(bias.reshape(1, 1, 1, -1))), shape)

    def _emit(self, expression: Any, shape: Shape) -> RelaxValue:
        return RelaxValue(self._bind(expression), shape)

    def _bind(self, operator: Any) -> Any:
        self.operators += 1
        return self._builder.emit(operator)


def _relu(x: Any) -> Any:
    return te.compute(x.shape, lambda *index: te.max(x(*index), 0.0))


def _relu6(x: Any) -> Any:
    return te.compute(x.shape, lambda *index: te.min(te.max(x(*index), 0.0), 6.0))


def _h_sigmoid(x: Any) -> Any:
    return te.compute(x.shape, lambda *index: _gate(x(*index)))


def _h_swish(x: Any) -> Any:
    return te.compute(x.shape, lambda *index: x(*index) * _gate(x(*index)))


def _gate(value: Any) -> Any:
    return te.max(te.min(value * (1 / 6) + 0.5, 1.0), 0.0)


_ACTIVATIONS = {"relu": _relu, "relu6": _relu6, "h_sigmoid": _h_sigmoid, "h_swish": _h_swish}


def channels_last(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images (N, C, H, W) or vectors (N, C) as (N, H, W, C), which is what a Relax module takes."""
    images = images.reshape(*images.shape, *[1] * (4 - images.ndim))
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def relax_module(model: Model, batch: int) -> tuple[Any, dict[str, int]]:
    """Relax module with function ``main``, (batch, H, W, C) -> (batch, H, W, C), float32, weights inside.

    Returns:
        the module, and how many operators each position has emitted into it, in order.
    """
    builder = relax.BlockBuilder()
    graph = RelaxGraph(model, builder)
    channels, height, width = model.input_shape if len(model.input_shape) == 3 else (*model.input_shape, 1, 1)
    image = relax.Var("image", relax.TensorType((batch, height, width, channels), "float32"))
    operators = {}
    with builder.function("main", [image]):
        with builder.dataflow():
            y = RelaxValue(image, model.input_shape)
            for position, layer in model.layers.items():
                before = graph.operators
                y = layer.emit(graph, y, position)
                operators[position] = graph.operators - before
            output = builder.emit_output(y.expression)
        builder.emit_func_output(output)
    return builder.get(), operators

"""The ONNX graph in int8, in the form that ONNX Runtime fuses to integer kernels (QDQ): float operators that read and
write 8-bit integers through DequantizeLinear and QuantizeLinear.

Activations are uint8, because on x86 processors ONNX Runtime leaves most of a graph with int8 activations in float32
(a MobileNetV3 then took 2.5 times as long), weights int8 per output channel, biases int32. What has no integer kernel
(hard sigmoid, hard swish, GELU, norms, transposed convolutions) is computed in float32 between integers, as after ONNX
Runtime's own quantiser; so are the nodes that one operator is made of.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import MOVES, model_of_nodes, onnx_and_results
from hardware_profiles.quantisation import Quantisation, Range, quantise_bias, quantise_weight, value_ranges
from search_spaces.base.errors import MismatchError

RANDOM_BATCHES = 2
"""Batches of random images that stand for examples where no ranges are given."""

SOFTMAX_STEP = 1 / 511
"""Finest step of what a softmax gives: ONNX Runtime's integer kernel overflows below 1 / 512."""

KEEPS_STEPS = (*MOVES, "MaxPool", "DepthToSpace", "Gather", "GatherND", "Pad", "Resize", "Slice")
"""Operators of which the output has the scale of the input, because ONNX Runtime runs them on the integers only so."""


class _Int8Writer:
    """Rewrites nodes one by one.

    Args:
        proto: the graph in float32.
        ranges: by name of a value.
    """

    def __init__(self, proto: onnx.ModelProto, ranges: dict[str, Range]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._makers: dict[str, onnx.NodeProto] = {}
        self._floats = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._readers = Counter(name for node in proto.graph.node for name in node.input)
        self._steps = {name: Quantisation.of_range(*values) for name, values in ranges.items()}
        self._rounded: set[str] = set()
        for node in reversed(proto.graph.node):  # a result that another node makes, before its values are moved
            x, y = node.input[0], node.output[0]
            if node.op_type in MOVES and y in self._steps and x not in self._steps:
                self._steps[x] = self._steps[y]

    def add(self, node: onnx.NodeProto) -> None:
        x, y = node.input[0], node.output[0]
        if node.op_type in KEEPS_STEPS and x in self._steps:
            self._steps[y] = self._steps[x]
        if node.op_type in ("Conv", "Gemm") and x in self._steps and len(node.input) == 3:
            inputs = [self._read(x), *self._parameters(node.input[1], node.input[2], self._steps[x].scale)]
        elif node.op_type in ("Relu", "Clip") and self._readers[x] == 1:
            inputs = list(node.input)  # no rounding between: the steps of what it gives do its clipping
        elif node.op_type == "Softmax":
            inputs = list(node.input)  # in float32, unless something that is moved on integers comes before
            if x in self._makers and self._makers[x].op_type in KEEPS_STEPS:
                self._steps[y] = dataclasses.replace(self._steps[y], scale=max(self._steps[y].scale, SOFTMAX_STEP))
        else:
            inputs = [self._read(name) if name in self._steps else name for name in node.input]
        self.constants |= {name: self._floats[name] for name in inputs if name in self._floats}
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        changed.input[:] = inputs
        self.nodes.append(changed)
        self._makers[y] = changed

    def finish(self, outputs: Iterable[str]) -> None:
        """Round the graph's outputs, as all other values."""
        for name in outputs:
            node = self._makers[name]
            node.output[0] = node.name
            self._steps[node.name] = self._steps[name]
            self._read(node.name)
            self.nodes[-1].output[0] = name

    def _read(self, x: str) -> str:
        """Name of the value as it is after rounding to its steps."""
        rounded = f"{x}.rounded"
        if x not in self._rounded:
            self._rounded.add(x)
            steps = self._steps[x]
            scale = self._constant(f"{x}.scale", np.array(steps.scale, np.float32))
            zero_point = self._constant(f"{x}.zero_point", np.array(steps.zero_point + 128, np.uint8))
            self._node("QuantizeLinear", [x, scale, zero_point], f"{x}.integers")
            self._node("DequantizeLinear", [f"{x}.integers", scale, zero_point], rounded)
        return rounded

    def _parameters(self, weight: str, bias: str, input_scale: float) -> tuple[str, str]:
        weights, biases = (numpy_helper.to_array(self._floats[name]) for name in (weight, bias))
        integers, scales = quantise_weight(weights, biases, input_scale, axis=0)
        return (
            self._dequantised(weight, integers, scales),
            self._dequantised(bias, *quantise_bias(biases, scales, input_scale)),
        )

    def _dequantised(self, name: str, integers: NDArray[Any], scales: NDArray[np.float32]) -> str:
        inputs = [
            self._constant(name, integers),
            self._constant(f"{name}.scale", scales),
            self._constant(f"{name}.zero_point", np.zeros(len(scales), integers.dtype)),
        ]
        return self._node("DequantizeLinear", inputs, f"{name}.rounded", axis=0)

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output


def int8_onnx_model(model: Model, batch: int = 1) -> onnx.ModelProto:
    """Model of `onnx_model`, computed in int8: input ``image`` and output ``logits`` are still float32.

    Args:
        model: layers and weights. Without ranges it gets those that standard normal random images lead to, which are as
            good for random weights, but not for the accuracy of trained ones.
        batch: images per run.

    Raises:
        InvalidValueError: a weight or a range is not finite.
        MismatchError: weights or ranges of another network.
    """
    proto, names, _ = onnx_and_results(model, batch)
    if model.ranges is None:
        examples = dict(zip(model.network.inputs, model.random_inputs(RANDOM_BATCHES * batch), strict=True))
        named = value_ranges(model, examples, batch)
    elif len(model.ranges) != len(names):
        raise MismatchError(
            f"There are {len(model.ranges)} activation ranges for {len(names)} activations; they belong to another "
            "network."
        )
    else:
        named = dict(zip(names, model.ranges, strict=True))
    writer = _Int8Writer(proto, named)
    for node in proto.graph.node:
        writer.add(node)
    writer.finish(output.name for output in proto.graph.output)
    return model_of_nodes(writer.nodes, proto.graph.input, proto.graph.output, list(writer.constants.values()))

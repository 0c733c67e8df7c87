"""The one way from layers to ONNX: for measuring with ONNX Runtime and for export with trained weights.

Building the graph directly costs milliseconds where ``torch.onnx.export`` costs seconds, and what is exported is then
exactly what was measured. Nodes are named ``<position>/v<number>_<operator>``, so that a profiler's times can be
attributed to positions (`node_positions`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hardware_profiles.model import Model
from search_spaces.base.errors import DamagedFileError, MeasurementError, StorageError
from search_spaces.base.storage import read_bytes
from search_spaces.graph import Activation, Pool
from search_spaces.layers import Shape

OPSET = 18
IR_VERSION = 8
"""The oldest that has all of the opset: runtimes refuse files of a later one than they know."""
INPUT, OUTPUT = "image", "logits"

MOVES = ("Flatten", "Identity", "Reshape", "Transpose")
"""Operators that only move values."""


def cpu_session(content: bytes) -> ort.InferenceSession:
    """A network in ONNX Runtime on one thread of the CPU, whose outputs do not depend on how many there are."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class OnnxValue:
    """A tensor of the ONNX graph: name and shape without the batch."""

    name: str
    shape: Shape


class OnnxGraph:
    """Implements `search_spaces.graph.Graph`."""

    def __init__(self, model: Model, batch: int) -> None:
        self.model = model
        self.batch = batch
        self.position = ""
        """Of the layer that is emitting itself."""
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._has_bounds = False

    def conv(
        self,
        x: OnnxValue,
        name: str,
        *,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        bias: bool = True,
    ) -> OnnxValue:
        # Without a bias the offset is 0.
        weight, offset = self._parameters(name, (channels, x.shape[0] // groups, kernel, kernel))
        shape = (channels, -(-x.shape[1] // stride), -(-x.shape[2] // stride))
        return self._node(
            "Conv",
            [x.name, weight, offset],
            shape,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
            group=groups,
        )

    def norm(self, x: OnnxValue, name: str) -> OnnxValue:
        return self.conv(x, name, channels=x.shape[0], groups=x.shape[0])  # of 1x1 is the same

    def activation(self, x: OnnxValue, kind: Activation) -> OnnxValue:
        if kind == "none":
            return x
        if kind == "relu6":
            return self._node("Clip", [x.name, *self._bounds()], x.shape)
        if kind == "h_sigmoid":
            return self._node("HardSigmoid", [x.name], x.shape, alpha=1 / 6, beta=0.5)
        return self._node({"relu": "Relu", "h_swish": "HardSwish"}[kind], [x.name], x.shape)

    def global_pool(self, x: OnnxValue) -> OnnxValue:
        return self._node("GlobalAveragePool", [x.name], (x.shape[0], 1, 1))

    def pool(self, x: OnnxValue, kind: Pool, *, kernel: int, stride: int) -> OnnxValue:
        shape = (x.shape[0], -(-x.shape[1] // stride), -(-x.shape[2] // stride))
        attributes: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2}
        attributes |= {"pads": [kernel // 2] * 4} if kernel % 2 else {"ceil_mode": 1}
        return self._node({"max": "MaxPool", "average": "AveragePool"}[kind], [x.name], shape, **attributes)

    def linear(self, x: OnnxValue, name: str, *, features: int, bias: bool = True) -> OnnxValue:
        if len(x.shape) > 1:
            x = self._node("Flatten", [x.name], (int(np.prod(x.shape)),), axis=1)
        weight, offset = self._parameters(name, (features, x.shape[0]))  # without a bias the offset is 0
        return self._node("Gemm", [x.name, weight, offset], (features,), transB=1)

    def add(self, a: OnnxValue, b: OnnxValue) -> OnnxValue:
        return self._node("Add", [a.name, b.name], a.shape)

    def multiply(self, a: OnnxValue, b: OnnxValue) -> OnnxValue:
        return self._node("Mul", [a.name, b.name], a.shape)

    def shuffle(self, x: OnnxValue, groups: int) -> OnnxValue:
        channels, height, width = x.shape
        split = self._reshape(x, (groups, channels // groups, height, width))
        swapped = self._node("Transpose", [split.name], split.shape, perm=[0, 2, 1, 3, 4])
        return self._reshape(swapped, x.shape)

    def zero(self, x: OnnxValue) -> OnnxValue:
        return self._node("Sub", [x.name, x.name], x.shape)

    def _node(self, kind: str, inputs: list[str], shape: Shape, **attributes: Any) -> OnnxValue:
        name = f"{self.position}/v{len(self.nodes)}_{kind}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return OnnxValue(name, shape)

    def _reshape(self, x: OnnxValue, shape: Shape) -> OnnxValue:
        target = f"{self.position}/v{len(self.nodes)}_Reshape.shape"
        self.weights.append(numpy_helper.from_array(np.array((self.batch, *shape), np.int64), target))
        return self._node("Reshape", [x.name, target], shape)

    def _bounds(self) -> list[str]:
        """Names of the constants 0 and 6, which are part of the file once."""
        names = ["relu6.low", "relu6.high"]
        if not self._has_bounds:
            self._has_bounds = True
            for name, value in zip(names, (0, 6), strict=True):
                self.weights.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return names

    def _parameters(self, name: str, shape: Shape) -> tuple[str, str]:
        names = f"{name}.weight", f"{name}.bias"
        for key, array in zip(names, self.model.parameters(name, shape), strict=True):
            self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), key))
        return names


def onnx_model(model: Model, batch: int = 1) -> onnx.ModelProto:
    """ONNX model with input ``image`` (batch, C, H, W) and output ``logits`` (batch, ...), float32."""
    graph = OnnxGraph(model, batch)
    y = OnnxValue(INPUT, model.input_shape)
    for position, layer in model.layers.items():
        graph.position = position
        y = layer.emit(graph, y, position)
    if not graph.nodes or graph.nodes[-1].output[0] != y.name:  # the network gives its input, or computes more than y
        y = graph._node("Identity", [y.name], y.shape)
    graph.nodes[-1].output[0] = OUTPUT
    return model_of_nodes(
        graph.nodes,
        helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, (batch, *model.input_shape)),
        helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, (batch, *y.shape)),
        graph.weights,
    )


def model_of_nodes(
    nodes: Sequence[onnx.NodeProto],
    x: onnx.ValueInfoProto,
    y: onnx.ValueInfoProto,
    constants: Sequence[onnx.TensorProto],
) -> onnx.ModelProto:
    """The file that holds these nodes, from input x to output y."""
    graph = helper.make_graph(nodes, "network", [x], [y], constants)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="hwnas"
    )


def node_positions(optimised: onnx.GraphProto, last_node: str, positions: Iterable[str]) -> list[str]:
    """The position that each node of an optimised graph works for.

    A node keeps the name of one that it was made of, or its output does. What was inserted without such a name (changes
    of layout, parts of a composed operator) works for the node that reads its output first, or else made its input.

    Args:
        optimised: what a runtime made of the graph; nodes in an order in which they can run.
        last_node: name of the node that gave the output in the graph before, of `onnx_model` or `int8_onnx_model`.
        positions: of the model.

    Raises:
        MeasurementError: a node works for none of them.
    """
    longest_first = sorted(positions, key=len, reverse=True)
    pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})/v[0-9]+_")
    last = pattern.match(last_node)

    def named(name: str) -> str | None:
        found = pattern.search(name) or (last if name.startswith(OUTPUT) else None)
        return found[1] if found else None

    found = [next(filter(None, map(named, (node.name, *node.output))), None) for node in optimised.node]
    steps = list(enumerate(optimised.node))
    readers: dict[str, str] = {}
    for i, node in reversed(steps):
        found[i] = position = found[i] or next((readers[name] for name in node.output if name in readers), None)
        if position:
            readers.update(dict.fromkeys(node.input, position))
    makers: dict[str, str] = {}
    for i, node in steps:
        position = found[i] or next((makers[name] for name in node.input if name in makers), None)
        if position is None:
            raise MeasurementError(
                f"Node {node.name!r} ({node.op_type}) of the optimised graph belongs to no position of the network, so "
                f"its time cannot be attributed; measure layers isolated instead."
            )
        found[i] = position
        makers.update(dict.fromkeys(node.output, position))
    return [position for position in found if position is not None]


def weights_of_onnx(path: Path) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Weights of a network that hwnas exported, by the names that its layers emit.

    Raises:
        DamagedFileError: the file is not a network that hwnas exported.
    """
    try:
        proto = onnx.load_model_from_string(read_bytes(path))  # without the other files that it may name
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
        names = [name.removesuffix(".weight") for name in arrays if name.endswith(".weight")]
        if not names:  # protobuf reads an empty or foreign file as a model without content
            raise ValueError("it holds no weights")
        return {name: (arrays[f"{name}.weight"], arrays[f"{name}.bias"]) for name in names}
    except StorageError:
        raise
    except Exception as error:  # onnx and protobuf each raise their own kinds on a damaged file
        raise DamagedFileError(
            f"{path} is not a network that hwnas exported ({error}). Run `nas export` again."
        ) from error

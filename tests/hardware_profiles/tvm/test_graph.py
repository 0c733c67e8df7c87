"""Networks of any shape and operator in TVM, beside ONNX Runtime."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

import numpy as np
import pytest

pytest.importorskip("tvm")

from hardware_profiles.backends.tvm import TvmBackend, open_backend
from hardware_profiles.device import load_device
from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import cpu_session, onnx_model
from search_spaces.base.errors import InvalidValueError
from search_spaces.network import Network
from search_spaces.ops.activation import Activate, Activation, LeakyRelu, PRelu
from search_spaces.ops.arithmetic import Add, Multiply, Scale
from search_spaces.ops.convolution import Convolution, Linear
from search_spaces.ops.learned import Embedding, Learned
from search_spaces.ops.matmul import Matmul, Softmax
from search_spaces.ops.movement import (
    Concat,
    DepthToSpace,
    Gather,
    Pad,
    Pick,
    Reshape,
    Slice,
    SpaceToDepth,
    Transpose,
    flatten,
    split,
)
from search_spaces.ops.normalisation import GroupNorm, LayerNorm, RmsNorm
from search_spaces.ops.pooling import Pool, PoolKind
from search_spaces.ops.reduction import Reduce, Reduction
from search_spaces.ops.resize import Resize, ResizeKind
from search_spaces.ops.transposed_convolution import TransposedConvolution
from search_spaces.program import Shape, Traced
from tests.hardware_profiles.networks import (
    Steps,
    attention,
    graph,
    network_of,
    oblong,
    patches,
    signal,
    tokens,
    vector,
)

IMAGE, SIGNAL, TOKENS, VECTOR = (8, 6, 10), (8, 12), (7, 24), (16,)


@pytest.fixture(scope="module")
def single() -> TvmBackend:
    return open_backend(load_device("host_tvm"))


@pytest.fixture(scope="module")
def pairs() -> TvmBackend:
    return open_backend(dataclasses.replace(load_device("host_tvm"), batch=2))


def check(backend: TvmBackend, network: Network, batch: int) -> None:
    """Compare the outputs of all, and see that all kernels are scheduled."""
    model = Model(network)
    inputs = dict(zip(network.inputs, model.random_inputs(batch), strict=True))
    session = cpu_session(onnx_model(model, batch).SerializeToString())
    expected = dict(zip(network.outputs, session.run(list(network.outputs), inputs), strict=True))
    outputs = backend.load(model).run(inputs if len(inputs) > 1 else next(iter(inputs.values())))
    if not isinstance(outputs, Mapping):
        outputs = {next(iter(network.outputs)): outputs}
    assert list(outputs) == list(expected)
    for name, array in expected.items():
        assert outputs[name].shape == array.shape
        np.testing.assert_allclose(outputs[name], array, rtol=1e-5, atol=3e-6 * max(1, np.abs(array).max()))


@pytest.mark.parametrize("batch", [1, 2])
def test_networks_of_any_shape(
    single: TvmBackend, pairs: TvmBackend, batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="hardware_profiles.tvm.schedule"):
        for steps, shape in (
            (signal, (6, 50)),
            (tokens, (7, 12)),
            (vector, (10,)),
            (oblong, (6, 11, 20)),
            (attention(4, 16), (17, 32)),
            (patches, (16, 6, 10)),
        ):
            check((single, pairs)[batch - 1], network_of(steps, shape), batch)
        check((single, pairs)[batch - 1], graph(), batch)
    assert caplog.messages == []


def activation(kind: Activation) -> tuple[Steps, Shape]:
    return Activate(kind), IMAGE


def pool(kind: PoolKind, *arguments: object, **named: object) -> tuple[Steps, Shape]:
    return Pool(kind, *arguments, **named), IMAGE  # type: ignore[arg-type]


def reduced(kind: Reduction, *axes: int, keep: bool) -> Steps:
    return Reduce(kind, axes, keep)


def resized(kind: ResizeKind, *arguments: float, **named: tuple[int, ...]) -> Steps:
    return Resize(kind, *arguments, **named)


def enlarged(channels: int = 16, **named: object) -> Steps:
    return TransposedConvolution("t", channels, **named)  # type: ignore[arg-type]


def shares(x: Traced) -> Traced:
    return Concat()(*(Activate("relu")(part) for part in split(x, [2, 6])))


FAMILIES: dict[str, list[tuple[Steps, *tuple[Shape, ...]]]] = {
    "activations": [
        *(activation(kind) for kind in ("relu", "relu6", "h_swish", "h_sigmoid", "sigmoid", "tanh", "silu", "gelu")),
        activation("gelu_tanh"),
        (Activate("sigmoid"), TOKENS),
        (LeakyRelu(0.1), IMAGE),
        *((PRelu("slope"), shape) for shape in (IMAGE, SIGNAL, TOKENS, VECTOR)),
        (Scale(0.3), TOKENS),
    ],
    "sums and products": [
        (Add(), IMAGE, (8, 1, 1)),
        (Multiply(), TOKENS, (1, 24)),
        (Multiply(), IMAGE, (1, 6, 10)),
        (Matmul(), (2, 7, 24), (2, 24, 9)),
        (Matmul(transposed=True), (2, 7, 24), (2, 9, 24)),
        (Matmul(), (7, 24), (24, 16)),
        (lambda x, y: Matmul()(Linear("l", 17)(x), y), (37, 16), (17, 40)),
    ],
    "joins and parts": [
        (Concat(), IMAGE, (16, 6, 10)),
        (Concat(2), IMAGE, (8, 6, 3)),
        (Concat(), TOKENS, (1, 24)),
        (Concat(), VECTOR, (8,)),
        (lambda x, y: Concat()(Convolution("c", 16, 3)(x), y), SIGNAL, SIGNAL),
        (shares, IMAGE),
        (Slice(0, 2, 6), IMAGE),
        (Slice(1, 1, 6, 2), IMAGE),
        (Slice(0, 0, 8, 2), IMAGE),
        (Slice(-1, 8, 24), TOKENS),
        (Gather((3, 1, 1, 7)), IMAGE),
        (Gather((3, 1, 1, 7), 2), IMAGE),
        (Gather((3, 1, 1)), TOKENS),
        (Pad(((1, 0), (0, 2), (3, 1))), IMAGE),
        (Pad(((1, 0), (0, 8))), TOKENS),
        (lambda x: Pad(((8, 0), (1, 2)))(Convolution("c", 8, 3)(x)), SIGNAL),
    ],
    "shapes": [
        (flatten, IMAGE),
        (lambda x: flatten(x, 1), IMAGE),
        *(
            ((lambda x, axes=axes: Activate("relu")(Transpose(axes)(x))), IMAGE)
            for axes in ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
        ),
        (lambda x: Transpose((1, 0))(Convolution("c", 16, 3)(x)), SIGNAL),
        (lambda x: Convolution("c", 4, 3)(Reshape((8, 6, 10))(Transpose((1, 0))(Linear("l", 8)(x)))), (60, 12)),
        (DepthToSpace(2), IMAGE),
        (SpaceToDepth(2), IMAGE),
    ],
    "sizes": [
        *((resized(kind, 2), IMAGE) for kind in ("nearest", "bilinear")),
        *((resized(kind, 0.5), IMAGE) for kind in ("nearest", "bilinear")),
        *((resized(kind, size=(4, 17)), IMAGE) for kind in ("nearest", "bilinear")),
        *((resized(kind, 2), SIGNAL) for kind in ("nearest", "bilinear")),
        pool("average", (3, 1), (2, 1), padding=(1, 0)),
        pool("average", 3, 1, padding=(0, 1, 1, 1)),
        pool("max", (3, 5), 1),
        (enlarged(), IMAGE),
        (enlarged(kernel=3), IMAGE),
        (enlarged(kernel=4, padding=1), IMAGE),
        (enlarged(kernel=3, groups=2), IMAGE),
        (enlarged(8, kernel=4, groups=8), IMAGE),
        (enlarged(kernel=(3, 5), stride=(1, 3)), IMAGE),
        (enlarged(kernel=3, dilation=2), IMAGE),
        (enlarged(kernel=5, stride=3, padding=2, output_padding=1), IMAGE),
        (enlarged(kernel=1), IMAGE),
        (enlarged(kernel=3), SIGNAL),
    ],
    "reductions": [
        *(
            (reduced(kind, *axes, keep=keep), IMAGE)
            for kind, axes in (("mean", (1, 2)), ("mean", (0, 2)), ("sum", (0,)), ("max", (1,)), ("max", (0, 1)))
            for keep in (True, False)
        ),
        *((reduced("mean", axis, keep=keep), TOKENS) for axis in (0, 1) for keep in (True, False)),
        (reduced("sum", 0, 1, 2, keep=True), IMAGE),
        (lambda x: Reduce("mean", (1,))(Convolution("c", 16, 3)(x)), SIGNAL),
    ],
    "norms": [
        *((Softmax(axis), IMAGE) for axis in (0, 1, 2)),
        *((Softmax(axis), TOKENS) for axis in (0, 1)),
        (Softmax(), (3, 37)),
        (Softmax(), VECTOR),
        *((LayerNorm("n", axis), IMAGE) for axis in (0, 2)),
        *((LayerNorm("n", axis), TOKENS) for axis in (0, 1)),
        (RmsNorm("n"), TOKENS),
        (RmsNorm("n", 0), IMAGE),
        *((GroupNorm("n", groups), IMAGE) for groups in (1, 2, 8)),
        (GroupNorm("n", 2), SIGNAL),
    ],
    "learned": [
        (lambda x: Add()(x, Learned("t", TOKENS)(x)), TOKENS),
        (lambda x: Concat()(Learned("t", (1, 24))(x), x), TOKENS),
        (lambda x: Add()(x, Learned("t", (8, 1, 1))(x)), IMAGE),
        (Embedding("e", 11, 16), (7,)),
        (lambda x: Linear("l", 8)(Embedding("e", 11, 16)(x)), (7,)),
        (Pick(), TOKENS, (3,)),
        (lambda x, places: Activate("relu")(Pick()(x, places)), IMAGE, (2, 4)),
    ],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_operators_compute_what_onnx_runtime_computes_and_are_scheduled(
    pairs: TvmBackend, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="hardware_profiles.tvm.schedule"):
        for steps, *shapes in FAMILIES[family]:
            check(pairs, network_of(steps, *shapes), 2)
    assert caplog.messages == []


def test_positions_of_a_graph_have_their_own_times(single: TvmBackend) -> None:
    loaded = single.load(Model(graph()))
    split_ms = loaded.positions_ms(3)
    assert list(split_ms) == ["left", "right", "gate", "join", "side", "head"]
    # What joins is computed with the convolution of the left, as the gate before it is.
    assert split_ms["gate"] == 0 < min(split_ms[name] for name in ("left", "right", "join", "head"))


def test_inputs_are_given_by_name(single: TvmBackend) -> None:
    loaded = single.load(Model(graph()))
    with pytest.raises(InvalidValueError, match="takes the inputs near, far, facts, but got near"):
        loaded.run({"near": np.zeros((1, 8, 6, 10), np.float32)})
    with pytest.raises(InvalidValueError, match=r"'image' must have shape \(N, 7, 12\), but got \(1, 12, 7\)"):
        single.load(Model(network_of(tokens, (7, 12)))).run(np.zeros((1, 12, 7), np.float32))

"""Operators of any shape as the work of a systolic array."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hardware_profiles.backends.scale_sim import (
    Array,
    ScaleSimBackend,
    SystolicConvolution,
    Work,
    add_work,
    open_backend,
)
from hardware_profiles.device import availability, load_device
from hardware_profiles.model import Model
from search_spaces.counting import operators
from search_spaces.ops.activation import Activate
from search_spaces.ops.arithmetic import Add
from search_spaces.ops.convolution import Convolution, Linear
from search_spaces.ops.learned import Embedding, Learned
from search_spaces.ops.matmul import Matmul, Softmax
from search_spaces.ops.movement import Concat, Reshape, Slice
from search_spaces.ops.normalisation import GroupNorm, LayerNorm, RmsNorm
from search_spaces.ops.reduction import Reduce
from search_spaces.ops.transposed_convolution import TransposedConvolution
from search_spaces.program import Shape
from tests.hardware_profiles.networks import (
    Stated,
    Steps,
    attention,
    graph,
    oblong,
    patches,
    signal,
    tokens,
    vector,
)


def work_of(steps: Steps, *shapes: Shape) -> Work:
    work = Work()
    for op, inputs, _ in operators(Stated(steps, shapes).program):
        add_work(op, work, *inputs)
    return work


@pytest.fixture(scope="module")
def backend() -> Iterator[ScaleSimBackend]:
    profile = load_device("systolic_eyeriss")
    reason = availability(profile)
    if reason is not None:
        pytest.skip(reason)
    opened = open_backend(profile)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("steps", "shape"),
    [
        (signal, (6, 50)),
        (tokens, (7, 12)),
        (vector, (10,)),
        (oblong, (6, 11, 20)),
        (attention(4, 16), (17, 32)),
        (patches, (16, 6, 10)),
        (TransposedConvolution("t", 16), (8, 6, 10)),
        (TransposedConvolution("t", 16, 3), (8, 6, 10)),
        (TransposedConvolution("t", 8, 4, groups=8), (8, 6, 10)),
        (TransposedConvolution("t", 16, (3, 5), (1, 3)), (8, 6, 10)),
        (TransposedConvolution("t", 16, 3), (8, 12)),
    ],
)
def test_all_products_of_a_layer_are_convolutions(steps: Steps, shape: Shape) -> None:
    convolutions = work_of(steps, shape).convolutions
    assert sum(n * c.pixels * c.window * c.filters for c, n in convolutions.items()) == Stated(steps, (shape,)).macs


def test_what_each_operator_is_in_the_simulators_terms() -> None:
    convolution = SystolicConvolution
    for steps, shapes, expected in (
        (
            Convolution("c", 16, (1, 5), (1, 2), padding=(0, 2)),
            [(6, 11, 20)],
            convolution((11, 23), (1, 5), 6, 16, (1, 2)),
        ),
        (Convolution("c", 16, 3, dilation=2), [(6, 9, 9)], convolution(11, 3, 6, 16, 1)),
        (Convolution("c", 16, 5, 2), [(6, 50)], convolution((1, 53), (1, 5), 6, 16, (1, 2))),
        (Linear("l", 24), [(7, 12)], convolution((7, 1), 1, 12, 24, 1)),
        (Linear("l", 24), [(12,)], convolution(1, 1, 12, 24, 1)),
    ):
        assert work_of(steps, *shapes).convolutions == {expected: 1}
    product = work_of(Matmul(transposed=True), (4, 7, 16), (4, 9, 16)).convolutions
    assert product == {convolution((7, 1), 1, 16, 9, 1): 4}
    # Of three entries each phase of a stride of 2 has two or one.
    phases = work_of(TransposedConvolution("t", 16, 3), (8, 6, 6)).convolutions
    sides = {convolution(7, 2, 8, 16, 1): 1, convolution((7, 6), (2, 1), 8, 16, 1): 1}
    assert phases == sides | {convolution((6, 7), (1, 2), 8, 16, 1): 1, convolution(6, 1, 8, 16, 1): 1}


@pytest.mark.parametrize(
    ("steps", "shape", "vectors"),
    [
        (Reshape((60, 8)), (8, 6, 10), []),
        (Activate("gelu"), (7, 12), [84]),
        (Slice(0, 0, 4), (8, 6, 10), [240]),
        (lambda x: Concat()(x, x), (7, 12), [168]),
        (lambda x: Add()(x, Learned("t", (7, 12))(x)), (7, 12), [84]),
        (Softmax(), (7, 12), [84] * 3),
        (LayerNorm("n"), (7, 12), [84] * 3),
        (GroupNorm("n", 2), (8, 6, 10), [480] * 3),
        (RmsNorm("n"), (7, 12), [84] * 2),
        (Reduce("mean", (1, 2)), (8, 6, 10), [480]),
        (Embedding("e", 11, 16), (7,), [112]),
    ],
)
def test_passes_of_the_vector_unit(steps: Steps, shape: Shape, vectors: list[int]) -> None:
    work = work_of(steps, shape)
    assert work.vectors == vectors and not work.convolutions


def test_words_of_an_oblong_input() -> None:
    array = Array(4, 4, "ws", 1, 4, 1.0, 10**6, 10**6, 10**6)
    convolution = SystolicConvolution((11, 23), (1, 5), 6, 16, (1, 2))
    assert convolution.pixels == 11 * 10
    assert array.moved_words(convolution) == 11 * 23 * 6 + 30 * 16 + 110 * 16


def test_the_simulator_takes_equally_long_for_equal_products(backend: ScaleSimBackend) -> None:
    """A row of pixels, a column of pixels, and a square, of as many products each."""
    shapes = [
        SystolicConvolution(4, 1, 12, 20, 1),
        SystolicConvolution((1, 16), 1, 12, 20, 1),
        SystolicConvolution((16, 1), 1, 12, 20, 1),
        SystolicConvolution((5, 6), (2, 3), 2, 20, 1),
        SystolicConvolution((4, 10), (1, 4), 3, 20, (1, 2)),
    ]
    assert {(shape.pixels, shape.window) for shape in shapes} == {(16, 12)}
    backend._simulate(shapes)
    assert len({backend._known[shape] for shape in shapes}) == 1


def test_a_graph_takes_what_its_positions_take(backend: ScaleSimBackend) -> None:
    loaded = backend.load(Model(graph()))
    assert list(loaded.positions_ms(1)) == ["left", "right", "gate", "join", "side", "head"]
    assert loaded.sample_ms(1) == pytest.approx(sum(loaded.positions_ms(1).values()))
    assert min(loaded.positions_ms(1).values()) > 0

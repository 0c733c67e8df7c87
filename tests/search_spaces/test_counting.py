"""Counts of programs, by hand and against published figures."""

from collections.abc import Callable
from typing import Any

import pytest

from search_spaces import counting
from search_spaces.loading import load_space
from search_spaces.ops.activation import Activate
from search_spaces.ops.arithmetic import Add, Zero
from search_spaces.ops.convolution import Convolution, Linear
from search_spaces.ops.learned import Embedding, Learned
from search_spaces.ops.movement import Gather, Reshape, Slice
from search_spaces.ops.pooling import GlobalPool
from search_spaces.program import Program, Shape, Traced, elements
from tests.conftest import shipped

FBNET_C = "k3_e1 k3_e6 skip k3_e1 k3_e1 k5_e6 k5_e3 k5_e6 k3_e6 k5_e6 k5_e3 k5_e6 k5_e6 k5_e6 k5_e6 k5_e6 k5_e3"


def residual(x: Traced) -> Traced:
    """4 -> 8 -> 4 channels of 2 x 2, and the input: 16, 32, 32, 16 and 16 elements."""
    y = Activate("relu")(Convolution("a", 8)(x))
    return Add()(Convolution("b", 4)(y), x)


RESIDUAL = Program.of(residual, [(4, 2, 2)])


def test_tensors_alive_while_each_operator_runs() -> None:
    # a: x and its output. relu: in place. b: x, its input, its output. add: x and what it writes over.
    assert counting.occupancy(RESIDUAL) == (16 + 32, 16 + 32, 16 + 32 + 16, 16 + 16)
    assert counting.peak_elements(RESIDUAL) == 64


def test_without_a_buffer_every_operator_reads_its_inputs_and_weights_and_writes_its_output() -> None:
    a, relu, b, add = (16 + 40 + 32), (32 + 32), (32 + 36 + 16), (16 + 16 + 16)  # BatchNorm is folded: a bias
    assert counting.traffic(RESIDUAL) == a + relu + b + add == 284


@pytest.mark.parametrize(
    ("buffer_words", "words"),
    [
        (47, 284),  # the sum alone fits: its output goes to the memory all the same
        (48, 284 - 2 * 32),  # a's output, alive in a and relu, neither written nor read
        (63, 284 - 2 * 32),
        (64, 16 + 40 + 36 + 16),  # all fits: the input, the weights and the output
        (10**9, 108),
    ],
)
def test_a_tensor_stays_in_the_buffer_if_all_fits_while_it_is_alive(buffer_words: int, words: int) -> None:
    assert counting.traffic(RESIDUAL, buffer_words) == words


def test_what_nobody_reads_is_written_and_an_input_that_nobody_reads_is_not_read() -> None:
    def define(x: Traced, unread: Traced) -> Traced:
        Activate("relu")(x)
        return Activate("relu6")(x)

    program = Program.of(define, [(3,), (50,)])
    assert counting.traffic(program) == 3 + 3 + 3 + 3
    assert counting.traffic(program, 10**6) == 3 + 3, "what stays is not written, and the input is read once"
    identity = Program.of(lambda x: x, [(3,)])
    assert (counting.traffic(identity), counting.activations(identity), counting.peak_elements(identity)) == (0, 0, 3)


def test_activations_are_the_outputs_of_convolutions_and_linear_layers() -> None:
    def define(x: Traced) -> Traced:
        x = Activate("relu")(Convolution("conv", 8, 3, 2)(x))  # 8 x 3 x 3
        return Linear("linear", 5)(GlobalPool()(x))

    assert counting.activations(Program.of(define, [(3, 6, 6)])) == 72 + 5
    assert counting.activations(RESIDUAL) == 32 + 16


def test_traffic_of_all_layers_of_a_space_lies_between_its_bounds() -> None:
    for layer in load_space("mobilenet_v3_digits", resolutions=[12]).distinct_layers:
        program = layer.program.inference
        weights = sum(elements(p.shape) for p in program.parameters)
        most = sum(sum(map(elements, i)) + elements(o) for _, i, o in counting.operators(program)) + weights
        words = [layer.traffic(buffer) for buffer in (0, 100, 1000, layer.peak_elements - 1, layer.peak_elements)]
        assert words[0] == most and words[-1] == elements(layer.input_shape) + weights + elements(layer.output_shape)
        assert words[1] >= words[2] and words[3] >= words[4]
        assert layer.activations <= words[0]


def test_activations_of_fbnet_c() -> None:
    """timm's figure of fbnetc_100: 6.5 M."""
    space: Any = shipped("fbnet")
    operations = [*FBNET_C.split(), *["k5_e6"] * 4, "k3_e6"]
    assert sum(layer.activations for layer in space.lower(space.of_operations(operations)).values()) == 6_512_904


def test_operators_that_need_a_part_of_their_inputs_read_no_more() -> None:
    def traffic(define: Callable[..., Traced], *shapes: Shape) -> int:
        return counting.traffic(Program.of(define, shapes))

    assert traffic(lambda x: Slice(0, 0, 2)(x), (8, 3, 3)) == 18 + 18
    assert traffic(lambda x: Gather((0, 0, 5))(x), (8, 3)) == 6 + 9, "the first of the eight once"
    assert traffic(lambda x: Zero()(x), (8, 3)) == 24
    assert traffic(lambda x: Learned("token", (1, 5))(x), (3, 100, 100)) == 5 + 5
    assert traffic(lambda x: Embedding("words", 1000, 4)(x), (7,)) == 7 + 28 + 28, "seven vectors of the thousand"


def test_a_view_moves_nothing_and_keeps_its_tensor_alive() -> None:
    def define(x: Traced) -> Traced:
        y = Reshape((16,))(Activate("relu")(x))  # 16 elements, then the same in another shape
        return Activate("relu6")(y)

    program = Program.of(define, [(4, 4)])
    assert counting.traffic(program) == (16 + 16) + (16 + 16)
    assert counting.traffic(program, 16) == 16 + 16, "what relu writes stays until relu6 has read it"
    assert counting.traffic(Program.of(lambda x: Reshape((16,))(x), [(4, 4)])) == 0
    assert counting.traffic(Program.of(lambda x: Reshape((16,))(Activate("relu")(x)), [(4, 4)]), 99) == 16 + 16


@pytest.mark.parametrize(("member", "millions"), [("b0", 6.7), ("b1", 10.9), ("b2", 13.8), ("b3", 23.8), ("b4", 49.5)])
def test_activations_of_efficientnet(member: str, millions: float) -> None:
    """Table 4 of Radosavovic et al."""
    layers = shipped("efficientnet").member(f"efficientnet_{member}").layers.values()
    assert round(sum(layer.activations for layer in layers) / 1e6, 1) == millions

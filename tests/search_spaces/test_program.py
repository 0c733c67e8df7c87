"""Counts against a second, slower way of counting."""

import numpy as np
import pytest

from search_spaces import Classifier, Conv, Layer, MBConv
from search_spaces.base.errors import InvalidValueError, MissingOperatorError
from search_spaces.counting import macs, peak_elements
from search_spaces.ops.arithmetic import Add, Multiply
from search_spaces.ops.convolution import Convolution, Linear
from search_spaces.program import Parameter, Program, Shape, Traced, own_method


def brute_force_peak(program: Program) -> int:
    """For each operator, look at every tensor anew: it is there if it was made before and is read now or later."""
    size = [int(np.prod(shape)) for shape in program.shapes]
    inputs = len(program.inputs)
    peaks = [sum(size[:inputs])]
    for number, step in enumerate(program.steps):
        needed = size[inputs + number]
        for tensor in range(inputs + number):
            later = tensor == program.output or any(tensor in other.inputs for other in program.steps[number + 1 :])
            overwritten = step.op.in_place and tensor == step.inputs[0] and not later
            if (later or tensor in step.inputs) and not overwritten:
                needed += size[tensor]
        peaks.append(needed)
    return max(peaks)


def random_chain(rng: np.random.Generator) -> list[Layer]:
    """Convolutions and inverted residuals of every variety, then perhaps a classifier."""
    channels, size = int(rng.integers(1, 9)), int(rng.integers(3, 17))
    layers: list[Layer] = []
    for _ in range(rng.integers(1, 6)):
        kernel, stride = int(rng.choice([1, 3, 5])), int(rng.integers(1, 3))
        out = channels if rng.random() < 0.5 else int(rng.integers(1, 9))
        layer: Layer = Conv(channels, out, kernel, stride, "relu", size)
        if rng.random() < 0.7:
            expands = bool(rng.random() < 0.7)
            hidden = int(rng.integers(1, 20)) if expands else channels
            squeeze = int(rng.integers(0, 4))
            layer = MBConv(channels, out, hidden, expands, kernel, stride, squeeze, "h_swish", size)
        layers.append(layer)
        channels, size = layer.output_shape[:2]
    if rng.random() < 0.5:
        layers.append(Classifier(channels, 7, 3, "relu", size))
    return layers


def joined(layers: list[Layer]) -> Program:
    """One program of a chain of layers."""

    def define(x: Traced) -> Traced:
        for layer in layers:
            x = layer.define(x)
        return x

    return Program.of(define, [layers[0].input_shape])


@pytest.mark.parametrize("seed", range(60))
def test_peak_is_that_of_a_brute_force_over_random_chains(seed: int) -> None:
    layers = random_chain(np.random.default_rng(seed))
    program = joined(layers)
    assert program.output_shape == layers[-1].output_shape
    assert peak_elements(program) == brute_force_peak(program) == max(layer.peak_elements for layer in layers)
    assert macs(program) == sum(layer.macs for layer in layers)
    for layer in layers:
        assert layer.peak_elements == brute_force_peak(layer.program)


def test_the_brute_force_meets_residual_squeeze_and_classifier() -> None:
    chains = [layer for seed in range(60) for layer in random_chain(np.random.default_rng(seed))]
    blocks = [layer for layer in chains if isinstance(layer, MBConv)]
    assert any(b.residual and b.squeeze for b in blocks) and any(not b.expands for b in blocks)
    assert any(isinstance(layer, Classifier) for layer in chains)


def test_counts_by_hand() -> None:
    layer = MBConv(4, 4, 8, True, 3, 1, 2, "relu", 5)
    expand, depthwise, project = 4 * 8 * 25, 9 * 8 * 25, 8 * 4 * 25
    assert layer.macs == expand + depthwise + project + 2 * 8 * 2
    assert layer.params == (4 * 8 + 16) + (9 * 8 + 16) + (8 * 4 + 8) + (8 * 2 + 2) + (2 * 8 + 8)


def program(define: object, *shapes: Shape) -> Program:
    return Program.of(define, shapes)  # type: ignore[arg-type]


def test_peak_by_hand() -> None:
    def define(x: Traced) -> Traced:
        wide = Convolution("a", 8)(x)  # 128
        return Add()(Convolution("b", 2)(wide), x)  # 32, over the narrow one

    assert peak_elements(program(define, (2, 4, 4))) == 32 + 128 + 32  # x waits for the sum while b reads wide
    assert peak_elements(program(lambda x: x, (2, 4, 4))) == 32


def test_a_sum_does_not_write_over_what_is_needed_later() -> None:
    def define(x: Traced) -> Traced:
        a = Convolution("a", 1)(x)
        return Add()(Add()(a, x), a)  # x is dead, a is read again: 3 tensors

    assert peak_elements(program(define, (1, 1, 10))) == 30


@pytest.mark.parametrize(
    ("define", "message"),
    [
        (Convolution("a", 8, groups=4), "'a'.*6 -> 8 in 4 groups"),
        (Convolution("a", 8, (3, 3, 3)), "2 axes need one number or 2"),
        (Convolution("a", 8, 5, padding=0), "not positive"),
        (Linear("a", 8), r"'a' takes features.*\(6, 3, 3\)"),
        (lambda x: Add()(x, Convolution("a", 5)(x)), r"one shape, but got \(6, 3, 3\) and \(5, 3, 3\)"),
        (lambda x: Multiply()(x, Convolution("a", 5)(x)), r"second factor of shape \(6, 3, 3\)"),
        (lambda x: Add()(x), "Add takes 2 inputs, but got 1"),
        (lambda x: Add()(x, _FOREIGN), "of another program"),
        (lambda x: 3, "returns one of its own traced tensors"),
    ],
)
def test_shapes_that_do_not_meet_are_refused(define: object, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        program(define, (6, 3, 3))


_FOREIGN: list[Traced] | Traced = []
program(lambda x: _FOREIGN.append(x) or x, (6, 3, 3))  # type: ignore[union-attr, func-returns-value]
_FOREIGN = _FOREIGN[0]  # type: ignore[index]


def test_initial_values_are_of_a_known_distribution() -> None:
    with pytest.raises(InvalidValueError, match="Parameter 'scale.factor' begins with 'one'; there are kaiming, bias"):
        Parameter("scale.factor", (4,), "one")  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", [True, False])
def test_two_operators_of_one_name_are_refused(norm: bool) -> None:
    with pytest.raises(InvalidValueError, match="the name 'a'; give each a name"):
        _ = program(lambda x: Convolution("a", 8, norm=norm)(Convolution("a", 8)(x)), (6, 3, 3)).parameters


def test_a_target_names_the_operator_that_it_lacks() -> None:
    with pytest.raises(MissingOperatorError, match="TFLite here has no operator Add.*`to_tflite`"):
        own_method(Add(), "to_tflite", "TFLite")


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation", "expected"),
    [
        ((9, 7), 3, 2, None, 1, (5, 4)),
        ((9, 7), (3, 1), (1, 2), None, 1, (9, 4)),
        ((9, 7), 3, 1, 0, 2, (5, 3)),
        ((9, 7), 4, 2, (1, 0, 2, 1), 1, (5, 3)),
        ((9,), 5, 2, None, 1, (5,)),
    ],
)
def test_sizes_are_those_of_torch(size, kernel, stride, padding, dilation, expected) -> None:  # type: ignore[no-untyped-def]
    op = Convolution("a", 2, kernel, stride, padding=padding, dilation=dilation)
    assert op.shape((3, *size)) == (2, *expected)

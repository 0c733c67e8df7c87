"""The schedule computes what the unscheduled loops compute, on every kind of processor."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm
from tvm import te

from hardware_profiles.model import Model
from hardware_profiles.tvm.compiler import FUSION
from hardware_profiles.tvm.graph import relax_module
from hardware_profiles.tvm.schedule import Processor, scheduled, tile_sizes
from search_spaces.layers import Classifier, Conv, Layer, MBConv
from search_spaces.mobilenet_v3 import MobileNetV3
from search_spaces.ops.learned import Learned
from search_spaces.ops.matmul import Matmul, Softmax
from search_spaces.ops.movement import Concat, Pad
from search_spaces.ops.normalisation import GroupNorm
from search_spaces.ops.reduction import Reduce
from search_spaces.ops.transposed_convolution import TransposedConvolution
from tests.hardware_profiles.networks import Stated, attention

AVX512, AVX, NEON = Processor(16, 32), Processor(8, 16), Processor(4, 32)
LAYERS = [
    MBConv(8, 8, 24, True, 3, 1, 8, "h_swish", 6),
    MBConv(5, 6, 7, True, 5, 2, 3, "relu", 5),
    MBConv(1, 1, 1, False, 5, 2, 0, "none", 1),
    Conv(3, 12, 3, 2, "relu", 13),
    Classifier(8, 20, 10, "h_swish", 3),
    Stated(attention(2, 8), ((37, 24),)),
    Stated(GroupNorm("norm", 2), ((12, 5, 3),)),
    Stated(
        lambda x, y: Concat()(Reduce("mean", (0,), True)(x), Pad(((0, 8), (0, 0), (1, 0)))(y)), ((8, 4, 5), (8, 4, 4))
    ),
    Stated(TransposedConvolution("up", 6, 3), ((4, 5, 3),)),
]


def kernels(layer: Layer, batch: int = 1) -> list[Any]:
    """The fused, unscheduled kernels of a layer."""
    module = tvm.transform.Sequential(FUSION)(relax_module(Model.of_layer(layer), batch)[0])
    return [function for function in module.functions.values() if isinstance(function, tvm.tirx.PrimFunc)]


def result(functions: list[Any], rng: np.random.Generator) -> list[np.ndarray]:
    """Outputs of functions for random inputs that depend on the generator alone."""
    names = [f"kernel_{i}" for i in range(len(functions))]
    named = {name: f.with_attr("global_symbol", name) for name, f in zip(names, functions, strict=True)}
    library = tvm.tirx.build(tvm.IRModule(named), tvm.target.Target("llvm"), pipeline=None)
    outputs = []
    for name, function in zip(names, functions, strict=True):
        shapes = [[int(extent) for extent in parameter.shape] for parameter in function.params]
        arrays = [tvm.runtime.tensor(rng.standard_normal(shape, np.float32)) for shape in shapes]
        library[name](*arrays)
        outputs.append(arrays[-1].numpy())
    return outputs


@pytest.mark.parametrize("layer", LAYERS)
def test_schedule_changes_no_result(layer: Layer) -> None:
    plain = kernels(layer, batch=2)
    expected = result(plain, np.random.default_rng(0))
    for processor in (AVX512, AVX, NEON, Processor(16, 32, threads=2)):
        changed = [scheduled(function, processor) for function in plain]
        assert all(new is not old for new, old in zip(changed, plain, strict=True))
        for output, reference in zip(result(changed, np.random.default_rng(0)), expected, strict=True):
            np.testing.assert_allclose(output, reference, rtol=1e-4, atol=1e-4)


def test_every_layer_of_a_space_is_scheduled(digits_space: MobileNetV3, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="hardware_profiles.tvm.schedule"):
        for layer in digits_space.distinct_layers[::10]:
            for function in kernels(layer):
                scheduled(function, AVX512)
    assert caplog.messages == []


def test_keeps_what_it_cannot_schedule(caplog: pytest.LogCaptureFixture) -> None:
    x = te.placeholder((4, 8), "float32", "x")
    first, second = te.reduce_axis((0, 8)), te.reduce_axis((0, 4))
    rows = te.compute((4,), lambda i: te.sum(x[i, first], first), "row_sums")
    function = te.create_prim_func([x, te.compute((1,), lambda _: te.sum(rows[second], second), "total")])
    with caplog.at_level(logging.DEBUG, logger="hardware_profiles.tvm.schedule"):
        assert scheduled(function, AVX512) is function
    assert caplog.messages == [
        "Blocks ['row_sums', 'total'] stay unscheduled: reductions of one function share no rows"
    ]


@pytest.mark.parametrize("processor", [AVX512, AVX, NEON])
@pytest.mark.parametrize("shares_inputs", [True, False])
def test_tiles_divide_the_output_and_fit_the_registers(processor: Processor, shares_inputs: bool) -> None:
    for height, width, vectors in [
        (1, 1, 1),
        (3, 3, 5),
        (7, 7, 9),
        (12, 12, 2),
        (112, 112, 1),
        (1, 1, 60),
        (31, 31, 7),
    ]:
        sizes = tile_sizes(height, width, vectors, shares_inputs, processor)
        assert [extent % size for extent, size in zip((height, width, vectors), sizes, strict=True)] == [0, 0, 0]
        assert math.prod(sizes) <= processor.registers


def test_tiles_reuse_what_they_load() -> None:
    assert tile_sizes(12, 12, 4, True, AVX512) == (1, 4, 4)
    assert tile_sizes(12, 12, 4, False, AVX512) == (4, 4, 1)
    assert tile_sizes(1, 1, 8, True, AVX512) == (1, 1, 8)


@pytest.mark.parametrize(
    ("processor", "expected"), [("x86-64-v4", AVX512), ("x86-64-v3", AVX), ("x86-64", Processor(4, 16))]
)
def test_registers_of_a_target(processor: str, expected: Processor) -> None:
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": processor})
    assert Processor.of_target(target, 1) == expected
    arm = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"})
    assert Processor.of_target(arm, 1) == NEON


def loops(function: Any) -> str:
    return str(scheduled(function, AVX512).script())


def test_rows_are_summed_in_the_numbers_of_a_register() -> None:
    (softmax,) = kernels(Stated(Softmax(), ((3, 40),)))
    text = loops(softmax)
    # Two reductions, each with its start, and powers; 40 fills no register of 16, 48 does.
    assert "v_i2 < T.int64(40)" in text
    assert (text.count("T.vectorized(T.int64(16))"), text.count("T.vectorized(T.int64(8))")) == (5, 1)


def product(columns: int) -> str:
    """The scheduled product of 50 rows with a matrix of so many columns."""
    (function,) = kernels(Stated(lambda x: Matmul()(x, Learned("t", (8, columns))(x)), ((50, 8),)))
    return loops(function)


def test_a_product_whose_columns_fill_no_register_is_extended() -> None:
    assert "if_then_else(v2 < T.int64(37)" in product(37) and product(37).count("T.vectorized(T.int64(16))") == 3
    assert "if_then_else" not in product(32) and product(32).count("T.vectorized(T.int64(16))") == 3

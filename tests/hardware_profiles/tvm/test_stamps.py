"""Times inside a network, as a compiled clock notes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm
from tvm import relax

from hardware_profiles.model import Model
from hardware_profiles.tvm import stamps as tvm_stamps
from hardware_profiles.tvm.compiler import Compiler
from search_spaces.base.errors import MeasurementError
from search_spaces.layers import Conv, MBConv

MODEL = Model({"a": MBConv(8, 8, 16, True, 3, 1, 8, "relu", 8), "b": Conv(8, 8, 1, 1, "relu", 8)})
TARGET = tvm.target.Target({"kind": "llvm", "opt-level": 1})


def log_of(*times: tuple[int, int]) -> np.ndarray:
    log = tvm_stamps.empty_log()
    log[2 : 2 + 2 * len(times)] = np.array(times).ravel()
    log[0] += 2 * len(times)
    return log


def calls(machine: Any, *arguments: Any) -> list[str]:
    """Names of the kernels that a run calls, in order."""
    names = []

    def note(_: Any, name: str, before_run: bool, *__: Any) -> int:
        if before_run and not name.startswith("vm.builtin."):
            names.append(name)
        return 0

    machine.set_instrument(note)
    machine["main"](*arguments)
    return names


def test_the_clock_is_read_twice_at_first_and_after_each_position() -> None:
    compiler = Compiler(TARGET)
    image = tvm.runtime.tensor(np.ones((1, 8, 8, 8), np.float32))
    log = tvm.runtime.tensor(tvm_stamps.empty_log())
    plain = relax.VirtualMachine(compiler.compile(MODEL, 1).mod, tvm.cpu())
    stamped = relax.VirtualMachine(compiler.compile(MODEL, 1, stamped=True).mod, tvm.cpu())
    kernels = calls(plain, image)
    stamp = tvm_stamps.STAMP
    assert calls(stamped, image, log) == [stamp, stamp, *kernels[:-1], stamp, kernels[-1], stamp]
    np.testing.assert_array_equal(stamped["main"](image, log).numpy(), plain["main"](image).numpy())
    intervals = tvm_stamps.intervals_ms(log.numpy(), 2)
    assert intervals.shape == (2, 3)
    assert (intervals > 0).all()


def test_more_or_fewer_kernels_than_positions_have_are_refused() -> None:
    module = tvm.IRModule({"main": _main_of_calls(2)})
    assert len(_bindings(tvm_stamps.stamped(module, [0, 1], 2))) == 2 + 1 + 1 + 1 + 1
    with pytest.raises(MeasurementError, match="fewer kernels than the 3"):
        tvm_stamps.stamped(module, [0, 1, 1], 2)
    for positions in ([0], [1, 0]):
        with pytest.raises(MeasurementError, match="another order"):
            tvm_stamps.stamped(module, positions, 2)


def _main_of_calls(count: int) -> Any:
    image = relax.Var("image", relax.TensorType((1,), "float32"))
    nothing = relax.TupleType([])
    bindings = [
        relax.VarBinding(relax.Var("_", nothing), relax.Call(relax.ExternFunc("k"), [image], ty_args=[nothing]))
        for _ in range(count)
    ]
    body = relax.SeqExpr([relax.BindingBlock(bindings)], image)
    return relax.Function([image], body, image.ty, False)


def _bindings(module: Any) -> list[Any]:
    return [binding for block in module["main"].body.blocks for binding in block.bindings]


def test_intervals_go_over_the_second() -> None:
    log = log_of((1, 999_999_000), (2, 0), (2, 3_000), (5, 0), (5, 500), (5, 1_500))
    np.testing.assert_allclose(tvm_stamps.intervals_ms(log, 1), [[1e-3, 3e-3], [5e-4, 1e-3]])


def test_the_typical_run_is_the_median_without_the_clock() -> None:
    intervals = np.array([[1.0, 3.0, 0.5], [1.0, 900.0, 0.5], [2.0, 4.0, 0.7]])
    assert tvm_stamps.typical_ms(intervals, ["a", "b"]) == {"a": 3.0, "b": 0.0}


def test_a_clock_that_stands_still_is_refused() -> None:
    with pytest.raises(MeasurementError, match="stands still"):
        tvm_stamps.typical_ms(np.zeros((3, 2)), ["a"])


def test_a_log_has_room_for_whole_runs() -> None:
    assert tvm_stamps.runs_per_log(10) * 12 * 2 + 2 <= tvm_stamps.LOG_LENGTH
    with pytest.raises(MeasurementError, match="too many"):
        tvm_stamps.runs_per_log(10_000)

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


def log_of(*stamps: tuple[int, int, int]) -> np.ndarray:
    log = tvm_stamps.empty_log()
    log[2 : 2 + 3 * len(stamps)] = np.array(stamps).ravel()
    log[0] += 3 * len(stamps)
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
    found = tvm_stamps.intervals(log.numpy(), 2)
    assert found.ms.shape == (2, 3) and found.readings.tolist() == [1, 1, 1]
    assert (found.ms > 0).all()


def test_positions_may_take_turns() -> None:
    module = tvm.IRModule({"main": _main_of_calls(4)})
    bindings = _bindings(tvm_stamps.stamped(module, [0, 2, 2, 0]))
    noted = [int(b.value.args[1]) if b.value.op.global_symbol == tvm_stamps.STAMP else "k" for b in bindings]
    assert noted == [-1, -1, "k", 0, "k", "k", 2, "k", 0]


def test_more_or_fewer_kernels_than_positions_have_are_refused() -> None:
    module = tvm.IRModule({"main": _main_of_calls(2)})
    for positions in ([0, 1, 1], [0], []):
        with pytest.raises(MeasurementError, match=f"calls 2 kernels, where positions have {len(positions)}"):
            tvm_stamps.stamped(module, positions)


def test_too_many_positions_for_a_log_are_refused() -> None:
    module = tvm.IRModule({"main": _main_of_calls(3000)})
    with pytest.raises(MeasurementError, match="too many to be timed inside"):
        tvm_stamps.stamped(module, range(3000))


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
    run = [(-1, 1, 999_999_000), (-1, 2, 0), (0, 2, 3_000)], [(-1, 5, 0), (-1, 5, 500), (0, 5, 1_500)]
    found = tvm_stamps.intervals(log_of(*run[0], *run[1]), 1)
    np.testing.assert_allclose(found.ms, [[1e-3, 3e-3], [5e-4, 1e-3]])


def test_intervals_of_a_position_add_up_with_all_readings_of_the_clock() -> None:
    log = log_of((-1, 0, 0), (-1, 0, 100), (1, 0, 1_000), (0, 0, 5_000), (1, 0, 6_000))
    found = tvm_stamps.intervals(log, 3)
    np.testing.assert_allclose(found.ms, [[1e-4, 4e-3, 1.9e-3, 0]])
    assert found.readings.tolist() == [1, 1, 2, 0]
    assert tvm_stamps.typical_ms([found], ["a", "b", "c"]) == pytest.approx({"a": 3.9e-3, "b": 1.7e-3, "c": 0.0})


def test_the_typical_run_is_the_median_without_the_clock() -> None:
    ms, readings = np.array([[1.0, 3.0, 0.5], [1.0, 900.0, 0.5], [2.0, 4.0, 0.7]]), np.array([1, 1, 1])
    parts = [tvm_stamps.Intervals(ms[:2], readings), tvm_stamps.Intervals(ms[2:], readings)]
    assert tvm_stamps.typical_ms(parts, ["a", "b"]) == {"a": 3.0, "b": 0.0}


def test_a_clock_that_stands_still_is_refused() -> None:
    with pytest.raises(MeasurementError, match="stands still"):
        tvm_stamps.typical_ms([tvm_stamps.Intervals(np.zeros((3, 2)), np.array([1, 1]))], ["a"])


def test_a_log_has_room_for_whole_runs() -> None:
    assert tvm_stamps.runs_per_log(12) * 12 * 3 + 2 <= tvm_stamps.LOG_LENGTH
    assert tvm_stamps.runs_per_log(10_000) == 0

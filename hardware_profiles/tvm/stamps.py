"""Times inside a network: TVM's virtual machine calls the system's clock between the positions of a model.

TVM offers a callback around every call instead, but from Python that costs microseconds where kernels take one. Here
the clock is read by a compiled kernel that is called like all others. Between two that follow each other directly lies
what a reading costs, which is subtracted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, tirx

from search_spaces.base.errors import MeasurementError

STAMP = "clock_stamp"
"""Name of the kernel that reads the clock."""
LOG_LENGTH = 2**14
"""Numbers in a log: the index of the next stamp, one that is not used, then seconds and nanoseconds of each stamp."""
_FIRST = 2


def stamp_kernel(target: Any) -> Any:
    """Kernel (log) -> None that appends the time: POSIX clock_gettime, with 64-bit seconds as on all 64-bit systems."""
    log = tirx.decl_buffer((LOG_LENGTH,), "int64", "log")
    system = str(target.attrs.get("mtriple", ""))
    monotonic = 6 if "darwin" in system or "apple" in system else 1  # else as in Linux
    call = tirx.call_extern("int32", "clock_gettime", monotonic, tirx.address_of(log[log[0]]))
    body = tirx.SeqStmt([tirx.Evaluate(call), tirx.BufferStore(log, log[0] + 2, [0])])
    return tirx.PrimFunc([log], body).with_attr("global_symbol", STAMP)


def stamped(module: Any, positions: Sequence[int], count: int) -> Any:
    """A module whose ``main`` takes a log beside its input, and stamps it twice at first, then after each position.

    Args:
        module: its ``main`` calls kernels by name.
        positions: index of the position of each of these calls, ascending.
        count: positions there are.

    Raises:
        MeasurementError: there are more or fewer calls.
    """
    main = module["main"]
    log = relax.Var("log", relax.TensorType((LOG_LENGTH,), "int64"))

    def stamps(number: int) -> list[Any]:
        call = relax.Call(relax.ExternFunc(STAMP), [log], ty_args=[relax.TupleType([])])
        return [relax.VarBinding(relax.Var("_", relax.TupleType([])), call) for _ in range(number)]

    bindings, ended, calls = stamps(2), 0, iter(positions)
    for binding in (binding for block in main.body.blocks for binding in block.bindings):
        if isinstance(binding.value, relax.Call) and isinstance(binding.value.op, relax.ExternFunc):
            position = next(calls, count)
            if not ended <= position < count:
                raise MeasurementError("TVM calls the kernels of a network in another order than its positions.")
            bindings += stamps(position - ended)
            ended = position
        bindings.append(binding)
    if next(calls, None) is not None:
        raise MeasurementError(f"TVM calls fewer kernels than the {len(positions)} that belong to positions.")
    bindings += stamps(count - ended)
    body = relax.SeqExpr([relax.BindingBlock(bindings)], main.body.body)
    return tvm.IRModule({"main": relax.Function([*main.params, log], body, main.ret_ty, main.is_pure, main.attrs)})


def empty_log() -> NDArray[np.int64]:
    """A log without stamps."""
    log = np.zeros(LOG_LENGTH, np.int64)
    log[0] = _FIRST
    return log


def runs_per_log(count: int) -> int:
    """Runs of a model of so many positions that one log has room for."""
    runs = (LOG_LENGTH - _FIRST) // (2 * (count + 2))
    if not runs:
        raise MeasurementError(f"A model of {count} positions has too many to be timed inside.")
    return runs


def intervals_ms(log: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Milliseconds of the clock itself, then of each position: (runs, 1 + count)."""
    stamps = log[_FIRST : log[0]].reshape(-1, count + 2, 2)
    times = stamps[..., 0] * 1_000_000_000 + stamps[..., 1]
    return np.diff(times, axis=1) / 1e6


def typical_ms(intervals: NDArray[np.float64], names: Sequence[str]) -> dict[str, float]:
    """Name of each position -> median milliseconds without the clock's.

    Raises:
        MeasurementError: the clock does not run.
    """
    clock, *positions = np.median(intervals, axis=0)
    if not clock > 0:
        raise MeasurementError("The device's clock, by which TVM times the inside of a network, stands still.")
    return {name: max(0.0, float(ms - clock)) for name, ms in zip(names, positions, strict=True)}


def positions_ms(machine: Any, device: Any, image: Any, names: Sequence[str], runs: int) -> dict[str, float]:
    """Latency of each position, typical of `runs` runs of a stamped module.

    Args:
        machine: TVM's virtual machine with the module, here or on a board.
        device: that it runs on.
        image: its input, on the device.
        names: of the positions.
        runs: how many.
    """
    most = runs_per_log(len(names)) - 1  # one for the run that the evaluator does not count
    intervals = []
    for first in range(0, runs, most):
        log = tvm.runtime.tensor(empty_log(), device)
        machine.time_evaluator("main", device, number=min(most, runs - first))(image, log)
        intervals.append(intervals_ms(log.numpy(), len(names))[1:])
    return typical_ms(np.concatenate(intervals), names)

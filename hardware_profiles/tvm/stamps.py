"""Times inside a network: TVM's virtual machine calls the system's clock whenever another position's kernels begin.

TVM offers a callback around every call instead, but from Python that costs microseconds where kernels take one. Here
the clock is read by a compiled kernel that is called like all others. Between two that follow each other directly lies
what a reading costs, which is subtracted. Positions of a graph may take turns, so a reading notes whose time it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, tirx

from search_spaces.base.errors import MeasurementError

STAMP = "clock_stamp"
"""Name of the kernel that reads the clock."""
LOG_LENGTH = 2**14
"""Numbers in a log: the index of the next stamp, one that is not used, then of each stamp the index of the position
that ends, seconds and nanoseconds."""
_FIRST, _STAMP_LENGTH = 2, 3
_START = -1
"""Stands for a position where a run begins, twice."""


def stamp_kernel(target: Any) -> Any:
    """Kernel (log, position) -> None that appends the time: POSIX clock_gettime, with 64-bit seconds as on all 64-bit
    systems."""
    log, position = tirx.decl_buffer((LOG_LENGTH,), "int64", "log"), tirx.Var("position", "int64")
    system = str(target.attrs.get("mtriple", ""))
    monotonic = 6 if "darwin" in system or "apple" in system else 1  # else as in Linux
    steps = [
        tirx.Evaluate(tirx.call_extern("int32", "clock_gettime", monotonic, tirx.address_of(log[log[0] + 1]))),
        tirx.BufferStore(log, position, [log[0]]),
        tirx.BufferStore(log, log[0] + _STAMP_LENGTH, [0]),
    ]
    return tirx.PrimFunc([log, position], tirx.SeqStmt(steps)).with_attr("global_symbol", STAMP)


def stamped(module: Any, positions: Sequence[int]) -> Any:
    """A module whose ``main`` takes a log behind its inputs, and stamps it twice at first, then where the kernels of a
    position end.

    Args:
        module: its ``main`` calls kernels by name.
        positions: index of the position of each of these calls.

    Raises:
        MeasurementError: there are more or fewer calls, or too many positions for a log.
    """
    main = module["main"]
    log = relax.Var("log", relax.TensorType((LOG_LENGTH,), "int64"))

    def stamp(position: int) -> Any:
        number = tirx.IntImm("int64", position)
        call = relax.Call(relax.ExternFunc(STAMP), [log, number], ty_args=[relax.TupleType([])])
        return relax.VarBinding(relax.Var("_", relax.TupleType([])), call)

    bindings = [stamp(_START), stamp(_START)]
    calls, running = 0, None
    for binding in (binding for block in main.body.blocks for binding in block.bindings):
        if isinstance(binding.value, relax.Call) and isinstance(binding.value.op, relax.ExternFunc):
            if calls < len(positions):
                if running not in (None, positions[calls]):
                    bindings.append(stamp(running))
                running = positions[calls]
            calls += 1
        bindings.append(binding)
    if calls != len(positions):
        raise MeasurementError(f"TVM calls {calls} kernels, where positions have {len(positions)}.")
    if running is not None:
        bindings.append(stamp(running))
    stamps = sum(_is_stamp(binding) for binding in bindings)
    if runs_per_log(stamps) < 2:  # one is not counted
        raise MeasurementError(f"A model whose positions change {stamps} times has too many to be timed inside.")
    body = relax.SeqExpr([relax.BindingBlock(bindings)], main.body.body)
    return tvm.IRModule({"main": relax.Function([*main.params, log], body, main.ret_ty, main.is_pure, main.attrs)})


def _is_stamp(binding: Any) -> bool:
    call = binding.value
    return isinstance(call, relax.Call) and isinstance(call.op, relax.ExternFunc) and call.op.global_symbol == STAMP


def runs_per_log(stamps: int) -> int:
    """Runs of so many stamps that one log has room for."""
    return (LOG_LENGTH - _FIRST) // (_STAMP_LENGTH * stamps)


def empty_log() -> NDArray[np.int64]:
    """A log without stamps."""
    log = np.zeros(LOG_LENGTH, np.int64)
    log[0] = _FIRST
    return log


@dataclass(frozen=True)
class Intervals:
    """Times that a log holds. ``ms``: of the clock itself, then of each position, (runs, 1 + positions); ``readings``:
    how often the clock is read in each of these in a run."""

    ms: NDArray[np.float64]
    readings: NDArray[np.int64]


def intervals(log: NDArray[np.int64], count: int) -> Intervals:
    """Times in a log, of so many positions."""
    stamps = log[_FIRST : log[0]].reshape(-1, _STAMP_LENGTH)
    runs = stamps.reshape(np.count_nonzero(stamps[:, 0] == _START) // 2, -1, _STAMP_LENGTH)
    between = np.diff(runs[..., 1] * 1_000_000_000 + runs[..., 2], axis=1) / 1e6  # (runs, stamps - 1)
    ends = runs[0, 1:, 0] + 1  # the column that each of these counts to
    ms = np.zeros((len(runs), 1 + count))
    np.add.at(ms.T, ends, between.T)
    return Intervals(ms, np.bincount(ends, minlength=1 + count))


def typical_ms(found: Sequence[Intervals], names: Sequence[str]) -> dict[str, float]:
    """Name of each position -> median milliseconds without the clock's.

    Raises:
        MeasurementError: the clock does not run.
    """
    clock, *positions = np.median(np.concatenate([one.ms for one in found]), axis=0)
    if not clock > 0:
        raise MeasurementError("The device's clock, by which TVM times the inside of a network, stands still.")
    readings = found[0].readings[1:]
    pairs = zip(names, positions - clock * readings, strict=True)
    return {name: max(0.0, float(ms)) for name, ms in pairs}


def positions_ms(machine: Any, device: Any, inputs: Sequence[Any], names: Sequence[str], runs: int) -> dict[str, float]:
    """Latency of each position, typical of `runs` runs of a stamped module.

    Args:
        machine: TVM's virtual machine with the module, here or on a board.
        device: that it runs on.
        inputs: of the network, on the device.
        names: of the positions.
        runs: how many.
    """
    found: list[Intervals] = []
    most, missing = 1, runs  # the first log says how many a log has room for
    while missing > 0:
        log = tvm.runtime.tensor(empty_log(), device)
        machine.time_evaluator("main", device, number=min(most, missing))(*inputs, log)
        times = intervals(log.numpy(), len(names))
        counted = Intervals(times.ms[1:], times.readings)  # the evaluator does not count the first run
        found.append(counted)
        missing -= len(counted.ms)
        most = runs_per_log(1 + int(times.readings.sum())) - 1
    return typical_ms(found, names)

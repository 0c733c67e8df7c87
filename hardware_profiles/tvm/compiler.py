"""Compiles models with TVM for any processor or CUDA device, this computer's or another's. Needs no device.

Every compiled kernel is kept, because networks of one space share most of them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax
from tvm.relax import expr_functor
from tvm.s_tir import dlight

from hardware_profiles.model import Model
from hardware_profiles.tvm import schedule as tvm_schedule
from hardware_profiles.tvm import stamps as tvm_stamps
from hardware_profiles.tvm.graph import relax_module
from hardware_profiles.tvm.tuning import Tuner
from search_spaces.base.errors import MeasurementError, NasError

_structural_key: Any = tvm_ffi.StructuralKey
"""Equal for functions that differ in names only. As Any, because its annotations ask for an argument too many."""

KERNELS = (relax.transform.LegalizeOps(), relax.transform.AnnotateTIROpPattern())
"""Passes from operators to calls of one kernel each."""

GROUPING = (*KERNELS, relax.transform.FuseOps())
"""Passes from operators to groups of them."""

FUSION = (*GROUPING, relax.transform.FuseTIR())
"""Passes from operators to calls of fused kernels."""

CALLS = (
    relax.transform.ToNonDataflow(),
    relax.transform.RemovePurityChecking(),
    relax.transform.CallTIRRewrite(),
)
"""Passes to calls in a fixed order, with their outputs as arguments."""

LOWERING = (
    relax.transform.StaticPlanBlockMemory(),
    relax.transform.LowerAllocTensor(),
    relax.transform.KillAfterLastUse(),
    relax.transform.LowerRuntimeBuiltin(),
    relax.transform.ComputePrimValue(),
    relax.transform.VMShapeLower(),
    relax.transform.AttachGlobalSymbol(),
)
"""Passes to code for TVM's virtual machine. With the others its default pipeline, but for the scheduling of kernels."""

_GPU_SCHEDULES = dlight.ApplyDefaultSchedule(
    dlight.gpu.Matmul(), dlight.gpu.GEMV(), dlight.gpu.Reduction(), dlight.gpu.GeneralReduction(), dlight.gpu.Fallback()
)
"""The rules of TVM's own pipeline for CUDA; the first that applies to a kernel schedules it."""


@expr_functor.mutator
class _CallsByName(expr_functor.PyExprMutator):  # type: ignore[misc]
    """Replaces calls of a module's own kernels by calls of kernels that are compiled already."""

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self._names = names

    def visit_call_(self, call: Any) -> Any:
        if call.op != tvm.ir.Op.get("relax.call_tir"):
            return super().visit_call_(call)
        kernel, arguments = call.args
        return relax.op.call_dps_packed(self._names[kernel.name_hint], arguments, call.ty_args[0])


class Compiler:
    """Compiles for one target.

    Args:
        target: LLVM for any processor, scheduled by `tvm_schedule`; or CUDA, scheduled by TVM's rules.
        threads: threads that one operator is split over, on a processor.
        tuner: looks for faster schedules; of the same target, which must be this computer's.
    """

    def __init__(self, target: Any, threads: int = 1, tuner: Tuner | None = None) -> None:
        self.target = target
        is_processor = target.kind.name == "llvm"
        self._processor = tvm_schedule.Processor.of_target(target, threads) if is_processor else None
        self._tuner = tuner
        self._kernels: dict[Any, tuple[str, Any]] = {}

    def compile(self, model: Model, batch: int, *, stamped: bool = False) -> Any:
        """Relax executable with the function ``main`` of `relax_module`, weights inside.

        Its ``export_library(path)`` gives one shared library with all kernels; for another processor than this
        computer's with ``fcompile=tvm.support.cc.cross_compiler(<C++ compiler>)``.

        Args:
            model: the network.
            batch: images per run.
            stamped: ``main`` takes a log behind the inputs and notes there what each position takes; see `tvm_stamps`.

        Raises:
            MismatchError: the model's weights do not fit its layers.
            MeasurementError: `stamped`, but the target is no processor, or TVM makes other operators.
            Exception: TVM's, of many kinds; see `refusals`.
        """
        if stamped and self._processor is None:  # the host reads the clock, and does not wait for kernels
            raise MeasurementError("TVM cannot time inside a network on CUDA. Measure layers isolated instead.")
        # Without the checks of every kernel's arguments, which take LLVM longer than the loops: our own calls fit.
        with self.target, tvm.transform.PassContext(config={"tirx.disable_assert": True}):
            built, operators = relax_module(model, batch)
            single = tvm.transform.Sequential(KERNELS)(built)
            groups = relax.transform.FuseOps()(single)
            module = relax.transform.FuseTIR()(groups)
            kernels = self._compiled(module)
            names = {variable: name for variable, (name, _) in kernels.items()}
            libraries = {id(library): library for _, library in kernels.values()}
            main = tvm.IRModule({"main": _CallsByName(names).visit_expr(module["main"])})
            main = tvm.transform.Sequential(CALLS)(main)
            if stamped:
                main = tvm_stamps.stamped(main, positions_of_calls(single, groups, list(operators.values())))
                libraries[id(self._stamp)] = self._stamp
            main = main.with_attr("external_mods", list(libraries.values()))
            return tvm.compile(main, self.target, relax_pipeline=tvm.transform.Sequential(LOWERING))

    def clear(self) -> None:
        """Forget all kernels."""
        self._kernels.clear()

    @functools.cached_property
    def _stamp(self) -> Any:
        kernel = tvm_stamps.stamp_kernel(self.target)
        return tvm.tirx.build(tvm.IRModule({tvm_stamps.STAMP: kernel}), self.target, pipeline=None)

    def _compiled(self, module: Any) -> dict[str, tuple[str, Any]]:
        """Name in the module -> name in a library, and the library, of each kernel."""
        keys = {
            variable.name_hint: _structural_key(function)
            for variable, function in module.functions.items()
            if isinstance(function, tvm.tirx.PrimFunc)
        }
        new = list(dict.fromkeys(key for key in keys.values() if key not in self._kernels))
        if new:
            names = {key: f"kernel_{len(self._kernels) + i}" for i, key in enumerate(new)}
            functions = {name: self._scheduled(key.key).with_attr("global_symbol", name) for key, name in names.items()}
            library = tvm.tirx.build(tvm.IRModule(functions), self.target, pipeline=None)
            self._kernels.update({key: (name, library) for key, name in names.items()})
        return {variable: self._kernels[key] for variable, key in keys.items()}

    def _scheduled(self, function: Any) -> Any:
        if self._processor is None:
            return _GPU_SCHEDULES(tvm.IRModule({"main": function}))["main"]
        ours = tvm_schedule.scheduled(function, self._processor)
        return ours if self._tuner is None else self._tuner.faster(function, ours)


def positions_of_calls(single: Any, groups: Any, operators: Sequence[int]) -> list[int]:
    """Index of the position that each kernel call belongs to: that of its first operator.

    TVM groups operators across positions and neither keeps their order nor their names, so each is known again by what
    it calls on which tensors.

    Args:
        single: module in which every call of ``main`` is an operator, in order of emission.
        groups: the same module, in which every call is an operator or a function of several.
        operators: how many each position has emitted.

    Raises:
        MeasurementError: TVM has made other operators out of these.
    """
    numbers: dict[Any, int] = {}

    def number(call: Any, inputs: tuple[Any, ...]) -> int:
        return numbers.setdefault((_callee(call), inputs), len(numbers))  # one that is there twice counts as the first

    emitted = list(_calls(single["main"], {}, number))
    known = dict(numbers)
    first: list[int] = []

    def group(call: Any, inputs: tuple[Any, ...]) -> Any:
        if not isinstance(call.op, tvm.ir.GlobalVar):
            first.append(number(call, inputs))
            return first[-1]
        inside = groups[call.op]
        ids = list(_calls(inside, dict(zip(inside.params, inputs, strict=True)), number))
        first.append(ids[0])
        return ids[-1]

    for _ in _calls(groups["main"], {}, group):
        pass
    ends = np.cumsum(operators)
    if numbers != known or len(emitted) != ends[-1]:
        raise MeasurementError(
            f"TVM made {len(numbers)} operators out of {ends[-1]}, so positions cannot be told apart."
        )
    order = [emitted.index(one) for one in first]
    return [int(position) for position in np.searchsorted(ends, order, side="right")]


def _calls(function: Any, known: dict[Any, Any], identify: Callable[[Any, tuple[Any, ...]], Any]) -> Iterator[Any]:
    """Identities of the results of a function's calls, in order, each from the call and the identities of its inputs.

    Args:
        function: a chain of bindings.
        known: identities of the parameters, where they are not their names.
        identify: identity of the result of a call.
    """

    def of(value: Any) -> Any:
        if isinstance(value, relax.Var):
            return known.get(value, value.name)
        if isinstance(value, relax.Tuple):
            return tuple(of(field) for field in value.fields)
        if isinstance(value, relax.TupleGetItem):
            return of(value.tuple_value), value.index
        return hash(value)  # a constant: of the same object

    for binding in (binding for block in function.body.blocks for binding in block.bindings):
        call = binding.value
        if isinstance(call, relax.Call):
            tensors = [argument for argument in call.args if not isinstance(argument, tvm.ir.GlobalVar)]
            known[binding.var] = identify(call, tuple(of(tensor) for tensor in tensors))
            yield known[binding.var]
        else:
            known[binding.var] = of(call)


def _callee(call: Any) -> str:
    """Name of the kernel or operator that is called."""
    first = call.args[0] if call.args else None
    return str(first.name_hint if isinstance(first, tvm.ir.GlobalVar) else call.op)


@contextlib.contextmanager
def refusals(device: str) -> Iterator[None]:
    """Turn what TVM raises into a `MeasurementError`; wrong weights and what is ours already pass through."""
    try:
        yield
    except NasError:
        raise
    except Exception as error:  # TVM's exceptions share no base class
        raise MeasurementError(f"Device {device!r} cannot run the model: {last_line(error)}.") from error


def last_line(error: Exception) -> str:
    """Cause of an error: TVM's messages begin with a C++ traceback."""
    return str(error).strip().rpartition("\n")[2].rstrip(".")

"""TVM Relax on the CPU of this computer, with a schedule of our own (`hardware_profiles.tvm_schedule`).

Options of the profile: ``target``, a mapping as TVM takes it (default: LLVM for the processor that it finds here).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.device import DeviceProfile
from hardware_profiles.host import host_description
from hardware_profiles.model import Model
from search_spaces.errors import DeviceUnavailableError, InvalidValueError, MeasurementError
from search_spaces.graph import Activation, Pool
from search_spaces.layers import Shape

try:
    import tvm
    import tvm_ffi
    from tvm import relax, te
    from tvm.relax import expr_functor
    from tvm.target import codegen

    from hardware_profiles import tvm_schedule
except ModuleNotFoundError as error:
    raise DeviceUnavailableError(
        "Backend tvm needs Apache TVM, which is not installed. Run `pip install 'hwnas[tvm]'`."
    ) from error

_structural_key: Any = tvm_ffi.StructuralKey
"""Equal for functions that differ in names only. As Any, because its annotations ask for an argument too many."""


@dataclass(frozen=True)
class Value:
    """A tensor of the Relax graph, (batch, H, W, C), and its shape (C, H, W) or (C,) as layers count it."""

    expression: Any
    shape: Shape


class RelaxGraph:
    """Implements `search_spaces.graph.Graph` in channels-last layout, so that channels fill vector registers.

    Built directly rather than from ONNX: TVM's importer keeps ONNX's channels-first layout, converting it leaves copies
    around every activation, and folding the converted weights takes longer than all other steps of a compilation.
    """

    def __init__(self, model: Model, builder: Any) -> None:
        self._model = model
        self._builder = builder

    def conv(
        self,
        x: Value,
        name: str,
        *,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        bias: bool = True,
    ) -> Value:
        in_channels, height, width = x.shape
        weight, offset = self._model.parameters(name, (channels, in_channels // groups, kernel, kernel))
        shape = (channels, -(-height // stride), -(-width // stride))
        return self._conv(x, weight, offset, shape, strides=stride, padding=kernel // 2, groups=groups)

    def norm(self, x: Value, name: str) -> Value:
        return self.conv(x, name, channels=x.shape[0], groups=x.shape[0])  # of 1x1 is the same

    def activation(self, x: Value, kind: Activation) -> Value:
        if kind == "none":
            return x
        # As one operator, because every operator costs milliseconds to compile.
        return Value(self._builder.emit_te(_ACTIVATIONS[kind], x.expression, primfunc_name_hint=kind), x.shape)

    def global_pool(self, x: Value) -> Value:
        return self._emit(relax.op.mean(x.expression, [1, 2], keepdims=True), (x.shape[0], 1, 1))

    def pool(self, x: Value, kind: Pool, *, kernel: int, stride: int) -> Value:
        shape = (x.shape[0], -(-x.shape[1] // stride), -(-x.shape[2] // stride))
        operator = {"max": relax.op.nn.max_pool2d, "average": relax.op.nn.avg_pool2d}[kind]
        padding = kernel // 2 if kernel % 2 else 0
        pooled = operator(
            x.expression,
            pool_size=(kernel, kernel),
            strides=(stride, stride),
            padding=(padding,) * 4,
            ceil_mode=kernel % 2 == 0,
            layout="NHWC",
        )
        return self._emit(pooled, shape)

    def linear(self, x: Value, name: str, *, features: int, bias: bool = True) -> Value:
        weight, offset = self._model.parameters(name, (features, x.shape[0]))
        return self._conv(x, weight[:, :, None, None], offset, (features,))

    def add(self, a: Value, b: Value) -> Value:
        return self._emit(relax.op.add(a.expression, b.expression), a.shape)

    def multiply(self, a: Value, b: Value) -> Value:
        return self._emit(relax.op.multiply(a.expression, b.expression), a.shape)

    def shuffle(self, x: Value, groups: int) -> Value:
        channels, height, width = x.shape
        batch = x.expression.ty.shape[0]
        split = relax.op.reshape(x.expression, (batch, height, width, groups, channels // groups))
        swapped = relax.op.permute_dims(self._builder.emit(split), [0, 1, 2, 4, 3])
        return self._emit(relax.op.reshape(self._builder.emit(swapped), (batch, height, width, channels)), x.shape)

    def zero(self, x: Value) -> Value:
        return self._emit(relax.op.subtract(x.expression, x.expression), x.shape)

    def _conv(
        self, x: Value, weight: NDArray[np.float32], bias: NDArray[np.float32], shape: Shape, **attributes: int
    ) -> Value:
        kernel = relax.const(np.ascontiguousarray(weight.transpose(2, 3, 1, 0)))  # (O, I, H, W) -> (H, W, I, O)
        y = relax.op.nn.conv2d(x.expression, kernel, data_layout="NHWC", kernel_layout="HWIO", **attributes)
        return self._emit(relax.op.add(self._builder.emit(y), relax.const(bias.reshape(1, 1, 1, -1))), shape)

    def _emit(self, expression: Any, shape: Shape) -> Value:
        return Value(self._builder.emit(expression), shape)


def _relu(x: Any) -> Any:
    return te.compute(x.shape, lambda *index: te.max(x(*index), 0.0))


def _relu6(x: Any) -> Any:
    return te.compute(x.shape, lambda *index: te.min(te.max(x(*index), 0.0), 6.0))


def _h_sigmoid(x: Any) -> Any:
    return te.compute(x.shape, lambda *index: _gate(x(*index)))


def _h_swish(x: Any) -> Any:
    return te.compute(x.shape, lambda *index: x(*index) * _gate(x(*index)))


def _gate(value: Any) -> Any:
    return te.max(te.min(value * (1 / 6) + 0.5, 1.0), 0.0)


_ACTIVATIONS = {"relu": _relu, "relu6": _relu6, "h_sigmoid": _h_sigmoid, "h_swish": _h_swish}


def relax_module(model: Model, batch: int) -> Any:
    """Relax module with function ``main``, (batch, H, W, C) -> (batch, H, W, C), float32, weights inside."""
    builder = relax.BlockBuilder()
    channels, height, width = model.input_shape
    image = relax.Var("image", relax.TensorType((batch, height, width, channels), "float32"))
    with builder.function("main", [image]):
        with builder.dataflow():
            y = model.emit(RelaxGraph(model, builder), Value(image, model.input_shape))
            output = builder.emit_output(y.expression)
        builder.emit_func_output(output)
    return builder.get()


FUSION = (
    relax.transform.LegalizeOps(),
    relax.transform.AnnotateTIROpPattern(),
    relax.transform.FuseOps(),
    relax.transform.FuseTIR(),
)
"""From operators to calls of fused kernels."""

LOWERING = (
    relax.transform.ToNonDataflow(),
    relax.transform.RemovePurityChecking(),
    relax.transform.CallTIRRewrite(),
    relax.transform.StaticPlanBlockMemory(),
    relax.transform.LowerAllocTensor(),
    relax.transform.KillAfterLastUse(),
    relax.transform.LowerRuntimeBuiltin(),
    relax.transform.ComputePrimValue(),
    relax.transform.VMShapeLower(),
    relax.transform.AttachGlobalSymbol(),
)
"""From calls of kernels to what TVM's virtual machine runs: its default pipeline without what was done before."""


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


class LoadedModule:
    """A network on TVM's virtual machine with an image of random numbers in memory."""

    memory_bytes: int | None = None

    def __init__(self, executable: Any, shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
        # Its `mod`, because an executable without kernels of its own counts as C source, which TVM compiles with g++.
        self._machine = relax.VirtualMachine(executable.mod, tvm.cpu())
        self._image = _channels_last(np.random.default_rng(0).standard_normal(shape, np.float32))
        self._output_shape = output_shape

    def sample_ms(self, runs: int) -> float:
        # The evaluator repeats the call in C++; from Python a call would cost as much as a small layer. It first makes
        # one call that it does not count.
        evaluator = self._machine.time_evaluator("main", tvm.cpu(), number=runs, repeat=1)
        return float(evaluator(self._image).mean) * 1e3

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32] | None:
        output: NDArray[np.float32] = self._machine["main"](_channels_last(images)).numpy()
        return np.ascontiguousarray(output.transpose(0, 3, 1, 2)).reshape(self._output_shape)


def _channels_last(images: NDArray[np.float32]) -> Any:
    return tvm.runtime.tensor(np.ascontiguousarray(images.transpose(0, 2, 3, 1)))  # (N, C, H, W) -> (N, H, W, C)


class TvmBackend:
    """Compiles for one target and keeps every compiled kernel, because networks of one space share most of them."""

    estimates = False

    def __init__(self, profile: DeviceProfile) -> None:
        unknown = set(profile.options) - {"target"}
        if unknown:
            raise InvalidValueError(
                f"Device {profile.name!r}: backend tvm has no option {sorted(unknown)[0]!r}; it has `target`."
            )
        if profile.dtype != "float32":
            raise InvalidValueError(
                f"Device {profile.name!r}: backend tvm measures float32, but the profile says {profile.dtype}. "
                "Set `dtype: float32`."
            )
        self._profile = profile
        self._target = _target(profile)
        self._threads = _apply_threads(profile)
        self._processor = tvm_schedule.Processor.of_target(self._target, self._threads)
        self._kernels: dict[Any, tuple[str, Any]] = {}

    @property
    def environment(self) -> dict[str, Any]:
        return {
            "tvm": tvm.__version__,
            "target": str(self._target),
            "threads": self._threads,
            **host_description(),
        }

    def load(self, model: Model) -> LoadedModule:
        batch = self._profile.batch
        module = relax_module(model, batch)
        try:
            # Without the checks of every kernel's arguments, which take LLVM longer than the loops: our own calls fit.
            with self._target, tvm.transform.PassContext(config={"tirx.disable_assert": True}):
                executable = self._compile(module)
            loaded = LoadedModule(executable, (batch, *model.input_shape), (batch, *model.output_shape))
            loaded.sample_ms(1)
        except Exception as error:  # TVM's exceptions share no base class
            raise MeasurementError(
                f"Device {self._profile.name!r} cannot run the model: {_last_line(error)}."
            ) from error
        return loaded

    def close(self) -> None:
        self._kernels.clear()

    def _compile(self, module: Any) -> Any:
        module = tvm.transform.Sequential(FUSION)(module)
        kernels = {
            variable.name_hint: _structural_key(function)
            for variable, function in module.functions.items()
            if isinstance(function, tvm.tirx.PrimFunc)
        }
        self._compile_kernels(list(dict.fromkeys(key for key in kernels.values() if key not in self._kernels)))
        names = {variable: self._kernels[key][0] for variable, key in kernels.items()}
        libraries = {id(library): library for _, library in (self._kernels[key] for key in kernels.values())}
        main = tvm.IRModule({"main": _CallsByName(names).visit_expr(module["main"])})
        main = main.with_attr("external_mods", list(libraries.values()))
        return tvm.compile(main, self._target, relax_pipeline=tvm.transform.Sequential(LOWERING))

    def _compile_kernels(self, keys: list[Any]) -> None:
        if not keys:
            return
        names = {key: f"kernel_{len(self._kernels) + i}" for i, key in enumerate(keys)}
        functions = {
            name: tvm_schedule.scheduled(key.key, self._processor).with_attr("global_symbol", name)
            for key, name in names.items()
        }
        library = tvm.tirx.build(tvm.IRModule(functions), self._target, pipeline=None)
        self._kernels.update({key: (name, library) for key, name in names.items()})


def _target(profile: DeviceProfile) -> Any:
    """The profile's target, checked, because LLVM only warns of a wrong one and the process may then crash.

    Raises:
        InvalidValueError: TVM does not know it, or it is not this computer's processor.
    """
    options = profile.options.get("target", {"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu(), "opt-level": 2})

    def refuse(reason: str) -> InvalidValueError:
        return InvalidValueError(
            f"Device {profile.name!r}: backend tvm cannot use `target` {options!r}: {reason}. Leave it out to compile "
            "for this computer."
        )

    if not isinstance(options, Mapping) or options.get("kind") != "llvm":
        raise refuse("it must be a mapping with `kind: llvm`")
    if options.get("mtriple", codegen.llvm_get_system_triple()) != codegen.llvm_get_system_triple():
        raise refuse(f"`mtriple` must be this computer's, {codegen.llvm_get_system_triple()}")
    processors = list(codegen.llvm_get_cpu_archlist(tvm.target.Target("llvm")))
    if options.get("mcpu", processors[0]) not in processors:
        raise refuse("LLVM does not know the `mcpu`")
    try:
        target = tvm.target.Target(dict(options))
    except (TypeError, ValueError) as error:
        raise refuse(_last_line(error)) from error
    here = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    missing = sorted(
        feature
        for feature in codegen.llvm_get_cpu_features(target)
        if feature.startswith(("sse", "avx", "fma", "amx")) and not here.get(feature, False)
    )
    if missing:
        raise refuse(f"this processor lacks {missing[0]}")
    return target


def _last_line(error: Exception) -> str:
    """What went wrong: TVM's messages begin with a C++ traceback."""
    return str(error).strip().rpartition("\n")[2].rstrip(".")


def _apply_threads(profile: DeviceProfile) -> int:
    """Threads that TVM uses for one operator.

    Raises:
        DeviceUnavailableError: they are not the profile's.
    """
    if profile.threads == 1:
        return 1  # the schedule then makes no parallel loop, and without one TVM never starts its threads
    os.environ["TVM_NUM_THREADS"] = str(profile.threads)  # the upper limit when TVM starts its threads
    tvm.get_global_func("runtime.config_threadpool")(1, profile.threads)
    threads = int(tvm.runtime.num_threads())
    if threads != profile.threads:
        raise DeviceUnavailableError(
            f"Device {profile.name!r} needs {profile.threads} threads, but TVM runs {threads} in this process. Measure "
            "devices with different numbers of threads in processes of their own."
        )
    return threads


def open_backend(profile: DeviceProfile) -> TvmBackend:
    """See `hardware_profiles.backends.base`."""
    return TvmBackend(profile)

"""TVM Relax on this computer: its processor, with schedules of our own (`hardware_profiles.tvm.schedule`) or tuned ones
(`hardware_profiles.tvm.tuning`), or its CUDA device, with TVM's default schedules."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.backends.base import Backend, Capabilities, Loaded
from hardware_profiles.device import DeviceProfile
from hardware_profiles.host import host_description
from hardware_profiles.model import Batch, Model
from search_spaces.base.errors import DeviceUnavailableError, InvalidValueError

try:
    import tvm
    from tvm import relax
    from tvm.support import nvcc
    from tvm.target import codegen

    from hardware_profiles.tvm import stamps as tvm_stamps
    from hardware_profiles.tvm import tuning as tvm_tuning
    from hardware_profiles.tvm.compiler import Compiler, last_line, refusals
    from hardware_profiles.tvm.graph import outputs_of, to_memory
    from hardware_profiles.tvm.tuning import Tuner
except ModuleNotFoundError as error:
    raise DeviceUnavailableError(
        "Backend tvm needs Apache TVM, which is not installed. Run `pip install 'hwnas[tvm]'`."
    ) from error

CAPABILITIES = Capabilities(
    options={
        "target": "as TVM takes it, of `kind: llvm` or `kind: cuda` (default: LLVM for the processor found here)",
        "device": "number of the CUDA device (default 0)",
        "tune_trials": "schedules that MetaSchedule tries per kernel, on processors (default 0: our own schedule)",
        "tuning_records": "folder of the schedules found, which are reused (default ~/.cache/hwnas/tvm)",
    },
    in_context=True,
    here=True,
)


class LoadedModule(Loaded):
    """A network on TVM's virtual machine with inputs of random numbers in memory."""

    def __init__(self, compiler: Compiler, device: Any, model: Model, batch: int) -> None:
        self._compiler, self._device, self._model, self._batch = compiler, device, model, batch
        self._main = self._machine()
        self._inputs = [self._tensor(array) for array in model.random_inputs(batch)]

    def sample_ms(self, runs: int) -> float:
        # The evaluator repeats the call in C++; from Python a call would cost as much as a small layer. It first makes
        # one call that it does not count.
        evaluator = self._main.time_evaluator("main", self._device, number=runs, repeat=1)
        return float(evaluator(*self._inputs).mean) * 1e3

    def positions_ms(self, runs: int) -> Mapping[str, float]:
        return tvm_stamps.positions_ms(self._stamped, self._device, self._inputs, list(self._model.layers), runs)

    def run(self, images: Batch) -> Batch | None:
        inputs = [self._tensor(array) for array in self._model.inputs(images)]
        return outputs_of(self._main["main"](*inputs), self._model)

    @functools.cached_property
    def _stamped(self) -> Any:
        return self._machine(stamped=True)

    def _machine(self, *, stamped: bool = False) -> Any:
        executable = self._compiler.compile(self._model, self._batch, stamped=stamped)
        # Its `mod`, because an executable without kernels of its own counts as C source, which TVM compiles with g++.
        return relax.VirtualMachine(executable.mod, self._device)

    def _tensor(self, array: NDArray[np.float32]) -> Any:
        return tvm.runtime.tensor(to_memory(array), self._device)


class TvmBackend(Backend):
    """TVM's virtual machine in this process, on the processor or a CUDA device."""

    def __init__(self, profile: DeviceProfile) -> None:
        self._profile = profile
        self.capabilities = CAPABILITIES
        if _kind(profile) == "llvm":
            self._device, target = tvm.cpu(), _processor(profile)
            self._described: dict[str, Any] = {"mcpu": str(target.attrs.get("mcpu", "generic"))}
        else:
            self.capabilities = dataclasses.replace(CAPABILITIES, in_context=False)
            self._device, target = _cuda(profile)
            self._described = {"gpu": self._device.device_name, "cuda_compiler": _cuda_compiler(profile)}
        self._threads = _apply_threads(profile)
        self._compiler = Compiler(target, self._threads, self._tuner(target))

    @property
    def environment(self) -> dict[str, Any]:
        return {
            "tvm": tvm.__version__,
            "target": str(self._compiler.target),
            "threads": self._threads,
            **self._described,
            **host_description(),
        }

    def load(self, model: Model) -> LoadedModule:
        with refusals(self._profile.name):
            loaded = LoadedModule(self._compiler, self._device, model, self._profile.batch)
            loaded.sample_ms(1)
        loaded.host_threads = self._threads if self.capabilities.in_context else 0  # CUDA cannot be looked into
        return loaded

    def close(self) -> None:
        self._compiler.clear()

    def _tuner(self, target: Any) -> Tuner | None:
        """Settings that the options give, checked.

        Raises:
            InvalidValueError: an option is of the wrong kind.
            DeviceUnavailableError: what is installed cannot tune.
        """
        device, options = self._profile.name, self._profile.options
        trials = options.get("tune_trials", 0)
        folder = options.get("tuning_records", str(tvm_tuning.default_folder()))
        if type(trials) is not int or trials < 0:
            raise InvalidValueError(
                f"Device {device!r}: `tune_trials` must be a whole number >= 0, but got {trials!r}."
            )
        if not (isinstance(folder, str) and folder):
            raise InvalidValueError(f"Device {device!r}: `tuning_records` must be a folder, but got {folder!r}.")
        if not trials:
            if "tuning_records" in options:
                raise InvalidValueError(f"Device {device!r}: `tuning_records` needs `tune_trials` above 0.")
            return None
        tvm_tuning.check_installed(device)
        folder = Path(folder).expanduser()
        self._described |= {"tune_trials": trials, "tuning_records": str(folder)}
        return Tuner(target, self._profile.threads, trials, folder)


def _kind(profile: DeviceProfile) -> str:
    """Kind of the target: llvm or cuda.

    Raises:
        InvalidValueError: it is another, or options of the profile belong to the other one.
    """
    target = profile.options.get("target", {"kind": "llvm"})
    kind = target.get("kind") if isinstance(target, Mapping) else None
    if kind not in ("llvm", "cuda"):
        raise _refusal(profile, "it must be a mapping with `kind: llvm` or `kind: cuda`")
    for option in ("device",) if kind == "llvm" else ("tune_trials", "tuning_records"):
        if option in profile.options:
            raise InvalidValueError(
                f"Device {profile.name!r}: backend tvm has no option `{option}` for a target of `kind: {kind}`."
            )
    return str(kind)


def _refusal(profile: DeviceProfile, reason: str) -> InvalidValueError:
    return InvalidValueError(
        f"Device {profile.name!r}: backend tvm cannot use `target` {profile.options.get('target')!r}: {reason}. Leave "
        "it out to compile for the processor of this computer."
    )


def _cuda(profile: DeviceProfile) -> tuple[Any, Any]:
    """The CUDA device, and the profile's target for it.

    Raises:
        InvalidValueError: TVM does not know the target, or `device` is no number, or threads are asked for.
        DeviceUnavailableError: there is no such device.
    """
    number, options = profile.options.get("device", 0), profile.options["target"]
    if type(number) is not int or number < 0:
        raise InvalidValueError(f"Device {profile.name!r}: `device` must be a whole number >= 0, but got {number!r}.")
    if profile.threads != 1:
        raise InvalidValueError(f"Device {profile.name!r}: on CUDA `threads` must be 1, but got {profile.threads}.")
    device = tvm.cuda(number)
    here = device.exist
    arch = f"sm_{device.compute_version.replace('.', '')}" if here else "sm_70"
    try:
        target = cuda_target({"arch": arch, **options})
    except (TypeError, ValueError) as error:
        raise _refusal(profile, last_line(error)) from error
    if not here:
        raise DeviceUnavailableError(
            f"Device {profile.name!r} needs CUDA device {number}, which TVM does not find. `nvidia-smi` must list "
            "it, and TVM must have been built with CUDA."
        )
    return device, target


def _cuda_compiler(profile: DeviceProfile) -> str:
    """Compiler of CUDA with which TVM loads: nvcc, or NVRTC, its own choice.

    Raises:
        DeviceUnavailableError: there is neither.
    """
    try:
        importlib.import_module("cuda.bindings.nvrtc")
    except ImportError:
        try:
            nvcc.find_cuda_path()
        except RuntimeError as error:
            raise DeviceUnavailableError(
                f"Device {profile.name!r} needs a compiler for CUDA. Run `pip install cuda-bindings`, or put nvcc on "
                "the path."
            ) from error
        os.environ.setdefault("TVM_CUDA_COMPILE_MODE", "nvcc")
    return os.environ.get("TVM_CUDA_COMPILE_MODE", "nvrtc")


def cuda_target(options: Mapping[str, Any]) -> Any:
    """Target for a CUDA device, with this computer's processor beside it.

    Args:
        options: as TVM takes them, with ``arch``.

    Raises:
        TypeError, ValueError: TVM does not know them.
    """
    host = {"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()}
    return tvm.target.Target({"kind": "cuda", "host": host, **options})


def _processor(profile: DeviceProfile) -> Any:
    """The profile's target, checked, because LLVM only warns of a wrong one and the process may then crash.

    Raises:
        InvalidValueError: TVM does not know it, or it is not this computer's processor.
    """
    options = profile.options.get("target", {"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu(), "opt-level": 2})
    if options.get("mtriple", codegen.llvm_get_system_triple()) != codegen.llvm_get_system_triple():
        raise _refusal(profile, f"`mtriple` must be this computer's, {codegen.llvm_get_system_triple()}")
    processors = list(codegen.llvm_get_cpu_archlist(tvm.target.Target("llvm")))
    if options.get("mcpu", processors[0]) not in processors:
        raise _refusal(profile, "LLVM does not know the `mcpu`")
    try:
        target = tvm.target.Target(dict(options))
    except (TypeError, ValueError) as error:
        raise _refusal(profile, last_line(error)) from error
    here = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    missing = sorted(
        feature
        for feature in codegen.llvm_get_cpu_features(target)
        if feature.startswith(("sse", "avx", "fma", "amx")) and not here.get(feature, False)
    )
    if missing:
        raise _refusal(profile, f"this processor lacks {missing[0]}")
    return target


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

"""PyTorch on the CPU or a GPU, eager or compiled.

BatchNorm is folded into the convolutions before anything is timed: it costs nothing to do so for inference, every other
backend measures networks so, and they are exported so. What eager mode costs on top of the operators themselves (Python
between them, no fusion) is what such a deployment pays, and is in the figures. Compiled networks use TorchInductor with
its defaults and static shapes, and its cache on disk, which holds code, not timings.

On CUDA float32 means float32: TF32, which PyTorch lets convolutions use, is off.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hardware_profiles.backends.base import Backend, Capabilities, Loaded
from hardware_profiles.device import DeviceProfile
from hardware_profiles.host import host_description
from hardware_profiles.model import Batch, Model
from search_spaces.base.compiling import compiled, in_one_line, why_not_compiled
from search_spaces.base.errors import (
    DeviceLostError,
    DeviceUnavailableError,
    InvalidValueError,
    MeasurementError,
    NasError,
)
from search_spaces.torch_program import StaticNetwork

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MODES = ("eager", "compiled")

CAPABILITIES = Capabilities(
    dtypes=tuple(DTYPES),
    options={
        "mode": "eager, or compiled by torch.compile (default eager)",
        "device": "cpu, cuda, cuda:1 or mps (default cpu)",
        "channels_last": "whether activations and weights lie in memory as (batch, H, W, C) (default false)",
    },
    here=True,
)


def inference_network(model: Model) -> nn.Module:
    """The static network of a model in the form that is deployed; it computes what the model's ONNX graph computes.

    Raises:
        MismatchError: trained weights of another network.
    """
    with torch.device("meta"):  # the initial weights are not needed, and drawing them would take most of the time
        network = StaticNetwork(model.network, form="inference").eval()
    # Copies, because torch cannot take arrays that must not be written to.
    arrays = {name: torch.from_numpy(np.array(array)) for name, array in model.arrays().items()}
    network.load_state_dict(arrays, assign=True)
    return network.requires_grad_(False)


class LoadedNetwork(Loaded):
    """A network on the device, with inputs that lie there already."""

    def __init__(self, backend: PyTorchBackend, network: Callable[..., Any], model: Model, batch: int) -> None:
        self._backend = backend
        self._network = network
        self._model = model
        self.host_threads = backend.host_threads
        self._inputs = [backend.on_device(array) for array in model.random_inputs(batch)]

    def sample_ms(self, runs: int) -> float:
        kind = self._backend.device.type
        with self._backend.applied():
            if kind == "cuda":
                return self._event_ms(runs)
            start = time.perf_counter()
            for _ in range(runs):
                self._network(*self._inputs)
            if kind == "mps":
                torch.mps.synchronize()
            return (time.perf_counter() - start) * 1e3 / runs

    def _event_ms(self, runs: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        stream = torch.cuda.current_stream(self._backend.device)
        stream.synchronize()
        start.record(stream)
        for _ in range(runs):
            self._network(*self._inputs)
        end.record(stream)
        end.synchronize()
        return float(start.elapsed_time(end)) / runs

    def run(self, images: Batch) -> Batch | None:
        with self._backend.applied():
            found = self._network(*map(self._backend.on_device, self._model.inputs(images)))
            outputs = found.values() if isinstance(found, dict) else [found]
            return self._model.outputs([output.float().cpu().numpy() for output in outputs])


class PyTorchBackend(Backend):
    """Networks on one device with the profile's threads and number format."""

    capabilities = CAPABILITIES

    def __init__(self, profile: DeviceProfile) -> None:
        self._profile = profile
        self._who = f"Device {profile.name!r}"
        options = {"mode": "eager", "device": "cpu", "channels_last": False, **profile.options}
        if options["mode"] not in MODES:
            raise InvalidValueError(
                f"{self._who}: option `mode` must be one of {', '.join(MODES)}, but got {options['mode']!r}."
            )
        if not isinstance(options["channels_last"], bool):
            raise InvalidValueError(
                f"{self._who}: option `channels_last` must be true or false, but got {options['channels_last']!r}."
            )
        if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", str(options["device"])):
            raise InvalidValueError(
                f"{self._who}: option `device` must be cpu, cuda, cuda:1 (or another number) or mps, but got "
                f"{options['device']!r}."
            )
        self.device = torch.device(options["device"])
        self.host_threads = profile.threads if self.device.type == "cpu" else 0
        self._compiled = options["mode"] == "compiled"
        self._layout = torch.channels_last if options["channels_last"] else torch.contiguous_format
        self._check_available()
        with self.applied():
            self._environment = {
                "torch": torch.__version__,
                "mode": options["mode"],
                "memory_format": str(self._layout).removeprefix("torch."),
                "intra_op_threads": torch.get_num_threads(),
                **self._device_description(),
                **host_description(),
            }

    @property
    def environment(self) -> dict[str, Any]:
        return dict(self._environment)

    def load(self, model: Model) -> LoadedNetwork:
        with self._errors():
            network = inference_network(model).to(self.device, DTYPES[self._profile.dtype])
            network.to(memory_format=self._layout)  # type: ignore[call-overload]  # absent from torch's annotations
            run = compiled(network, self._profile.threads) if self._compiled else network
            loaded = LoadedNetwork(self, run, model, self._profile.batch)
            loaded.sample_ms(1)
        return loaded

    def on_device(self, array: NDArray[Any]) -> torch.Tensor:
        """An input (batch, *shape) as the network takes it; integers stay what they are."""
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
        tensor = tensor.to(DTYPES[self._profile.dtype]) if tensor.is_floating_point() else tensor
        return tensor.contiguous(memory_format=self._layout if tensor.ndim == 4 else torch.contiguous_format)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which torch is set as the profile says.

        Its settings are of the whole process, so that other code, or another profile, may have changed them; afterwards
        they are what they were.

        Raises:
            MeasurementError: the threads cannot be had, or what is done within fails.
            DeviceLostError: the GPU does not work any more.
        """
        threads, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
        try:
            torch.set_num_threads(self._profile.threads)
            torch.backends.cudnn.allow_tf32 = False
            used = torch.get_num_threads()
            if used != self._profile.threads:
                raise MeasurementError(
                    f"{self._who}: asked for {self._profile.threads} threads, but torch uses {used}."
                )
            with self._errors(), torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(threads)
            torch.backends.cudnn.allow_tf32 = tf32

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except NasError:
            raise
        except Exception as error:  # torch and its compiler raise all kinds on what they cannot do
            if "CUDA error" in str(error):  # this process can do nothing on the GPU any more
                raise DeviceLostError(f"{self._who} failed: {in_one_line(error)}") from error
            raise MeasurementError(f"{self._who} cannot run the model: {in_one_line(error)}") from error

    def _check_available(self) -> None:
        kind, number = self.device.type, self.device.index or 0
        if kind == "cuda" and not torch.cuda.is_available():
            why = "is built without CUDA" if torch.version.cuda is None else "sees no GPU"
            raise DeviceUnavailableError(f"{self._who} needs a CUDA GPU, but torch {torch.__version__} {why}.")
        if kind == "cuda" and number >= torch.cuda.device_count():
            raise DeviceUnavailableError(
                f"{self._who} needs CUDA GPU {number}, but there are only {torch.cuda.device_count()}, from 0."
            )
        if kind == "mps" and not torch.backends.mps.is_available():
            raise DeviceUnavailableError(f"{self._who} needs Apple's GPU (MPS), which torch does not see here.")
        if self._compiled:
            reason = why_not_compiled(kind)
            if reason:
                raise DeviceUnavailableError(f"{self._who} needs torch.compile, which {reason}.")

    def _device_description(self) -> dict[str, Any]:
        if self.device.type == "cuda":
            return {
                "gpu": torch.cuda.get_device_name(self.device),
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
                "tf32": torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32,
            }
        if self.device.type == "mps":
            return {"gpu": "mps"}
        return {"instructions": torch.backends.cpu.get_cpu_capability()}


def open_backend(profile: DeviceProfile) -> PyTorchBackend:
    """See `hardware_profiles.backends.base`."""
    return PyTorchBackend(profile)

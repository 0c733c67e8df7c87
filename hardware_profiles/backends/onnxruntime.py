"""ONNX Runtime on any execution provider of the installed build.

Options of the profile: ``provider`` (default CPUExecutionProvider).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hardware_profiles.device import DeviceProfile
from hardware_profiles.host import host_description
from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import INPUT, OUTPUT, onnx_model
from search_spaces.errors import DeviceUnavailableError, InvalidValueError, MeasurementError


class LoadedSession:
    """A session with bound input and output, so that a run copies nothing."""

    memory_bytes: int | None = None

    def __init__(self, session: ort.InferenceSession, shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
        self._session = session
        self._binding = session.io_binding()
        image = np.random.default_rng(0).standard_normal(shape, np.float32)
        self._binding.bind_ortvalue_input(INPUT, ort.OrtValue.ortvalue_from_numpy(image))
        self._binding.bind_ortvalue_output(
            OUTPUT, ort.OrtValue.ortvalue_from_shape_and_type(list(output_shape), np.float32)
        )

    def sample_ms(self, runs: int) -> float:
        run, binding = self._session.run_with_iobinding, self._binding
        start = time.perf_counter()
        for _ in range(runs):
            run(binding)
        return (time.perf_counter() - start) * 1e3 / runs

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32] | None:
        output: NDArray[np.float32] = self._session.run([OUTPUT], {INPUT: images})[0]
        return output


class OnnxRuntimeBackend:
    """Sessions with the profile's threads and all graph optimisations, applied and read back."""

    estimates = False

    def __init__(self, profile: DeviceProfile) -> None:
        unknown = set(profile.options) - {"provider"}
        if unknown:
            raise InvalidValueError(
                f"Device {profile.name!r}: backend onnxruntime has no option {sorted(unknown)[0]!r}."
            )
        if profile.dtype != "float32":
            raise InvalidValueError(
                f"Device {profile.name!r}: backend onnxruntime measures float32, but the profile says {profile.dtype}."
            )
        self._profile = profile
        self._provider = profile.options.get("provider", "CPUExecutionProvider")
        available = ort.get_available_providers()
        if self._provider not in available:
            raise DeviceUnavailableError(
                f"Device {profile.name!r} needs ONNX Runtime's {self._provider}; the installed build has "
                f"{', '.join(available)}."
            )
        self._options = ort.SessionOptions()
        self._options.intra_op_num_threads = profile.threads
        self._options.inter_op_num_threads = 1
        self._options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        self._options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        self._options.log_severity_level = 3

    @property
    def environment(self) -> dict[str, Any]:
        return {
            "onnxruntime": ort.__version__,
            "provider": self._provider,
            "intra_op_threads": self._options.intra_op_num_threads,
            "graph_optimisation": self._options.graph_optimization_level.name,
            **host_description(),
        }

    def load(self, model: Model) -> LoadedSession:
        batch = self._profile.batch
        try:
            session = ort.InferenceSession(
                onnx_model(model, batch).SerializeToString(), self._options, providers=[self._provider]
            )
            used = session.get_providers()
            threads = session.get_session_options().intra_op_num_threads
            if used[0] != self._provider or threads != self._profile.threads:
                raise MeasurementError(
                    f"Device {self._profile.name!r}: asked for {self._provider} with {self._profile.threads} threads, "
                    f"but ONNX Runtime uses {used[0]} with {threads}."
                )
            loaded = LoadedSession(session, (batch, *model.input_shape), (batch, *model.output_shape))
            loaded.sample_ms(1)
        except MeasurementError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise MeasurementError(f"Device {self._profile.name!r} cannot run the model: {error}") from error
        return loaded

    def close(self) -> None:
        pass


def open_backend(profile: DeviceProfile) -> OnnxRuntimeBackend:
    """See `hardware_profiles.backends.base`."""
    return OnnxRuntimeBackend(profile)

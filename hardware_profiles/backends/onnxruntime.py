"""ONNX Runtime on any execution provider of the installed build."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from hardware_profiles.backends.base import Backend, Capabilities, Loaded
from hardware_profiles.device import DeviceProfile
from hardware_profiles.host import host_description
from hardware_profiles.model import Batch, Model
from hardware_profiles.onnx_graph import node_positions, onnx_model
from hardware_profiles.onnx_int8 import int8_onnx_model
from search_spaces.base.errors import DeviceUnavailableError, InvalidValueError, MeasurementError, MismatchError
from search_spaces.base.folders import temporary_folder
from search_spaces.base.storage import storage_errors
from search_spaces.layers import Conv

CPU = "CPUExecutionProvider"

GRAPH_OPTIMISATION = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

MEMORY_OF = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}
"""Provider -> the memory that images and outputs stay in; others get and give them in the computer's own."""

WITHOUT_UINT8 = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
"""CUDA's provider computes quantised graphs in float32; TensorRT takes int8 with zero point 0 only."""

OPTIMISED = "optimised.onnx"
PROFILE_WARM_UP = 3
EVENT_SUFFIX = "_kernel_time"

CAPABILITIES = Capabilities(
    dtypes=("float32", "int8"),
    options={
        "provider": f"ONNX Runtime's execution provider (default {CPU})",
        "provider_options": "a mapping that is passed to the provider",
        "graph_optimization": f"{', '.join(GRAPH_OPTIMISATION)} (default all)",
        "allow_cpu_fallback": "true: operators that the provider lacks may run on the CPU (default false)",
    },
    libraries=("provider_options",),
    in_context=True,
    here=True,
)


@contextlib.contextmanager
def measurement_errors(device: str) -> Iterator[None]:
    """Turn what ONNX Runtime raises, and what int8 cannot hold, into MeasurementError, but leave MismatchError."""
    try:
        yield
    except (MeasurementError, MismatchError):
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise MeasurementError(f"{device} cannot run the model: {error}") from error


class LoadedSession(Loaded):
    """A session with bound input and output, so that a run copies nothing.

    Args:
        backend: loads the same network again to look inside.
        model: what is loaded.
        proto: as a graph.
    """

    def __init__(self, backend: OnnxRuntimeBackend, model: Model, proto: onnx.ModelProto) -> None:
        self._backend, self._model = backend, model
        self.host_threads = backend.host_threads
        self._content = proto.SerializeToString()  # the session keeps it as well, so this costs no memory
        self._session = backend.session(self._content)
        self._binding = self._bound(self._session)

    def _bound(self, session: ort.InferenceSession) -> ort.IOBinding:
        batch, memory, network = self._backend.profile.batch, self._backend.memory, self._model.network
        binding = session.io_binding()
        for name, array in zip(network.inputs, self._model.random_inputs(batch), strict=True):
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, memory))
        for name, shape in network.output_shapes.items():
            place = ort.OrtValue.ortvalue_from_shape_and_type([batch, *shape], np.float32, memory)
            binding.bind_ortvalue_output(name, place)
        return binding

    def sample_ms(self, runs: int) -> float:
        start = time.perf_counter()
        self._run(self._session, self._binding, runs)
        return (time.perf_counter() - start) * 1e3 / runs

    def _run(self, session: ort.InferenceSession, binding: ort.IOBinding, runs: int) -> None:
        run = session.run_with_iobinding
        with measurement_errors(self._backend.device):
            for _ in range(runs):
                run(binding)
            binding.synchronize_outputs()

    def run(self, images: Batch) -> Batch | None:
        return self._model.run_onnx(self._session, images)

    def positions_ms(self, runs: int) -> dict[str, float]:
        """See `Loaded`: lower quartile over the runs of each node, added up for each position.

        ONNX Runtime's profiler watches a session from beginning to end (its Python interface, 1.31, does not offer the
        profiling of single runs), so that each call loads the network once more.

        Raises:
            MeasurementError: a node belongs to no position, or the provider cannot be looked into.
        """
        if not self._backend.capabilities.in_context:
            raise MeasurementError(f"{self._backend.device}: only {CPU} can be timed inside a network.")
        with temporary_folder("ort") as folder, storage_errors(folder):
            with measurement_errors(self._backend.device):
                session = self._backend.session(self._content, watched_in=folder)
            self._run(session, self._bound(session), PROFILE_WARM_UP + runs)
            events = json.loads(Path(session.end_profiling()).read_bytes())
            # Sessions of one model differ in where they change the layout, so each needs its own graph.
            graph = onnx.load(folder / OPTIMISED, load_external_data=False).graph
        owners = node_positions(graph, self._model.network.outputs, self._model.layers)
        node_ms = node_times(events, [node.op_type for node in graph.node])[PROFILE_WARM_UP:]  # (runs, nodes)
        positions = dict.fromkeys(self._model.layers, 0.0)
        for owner, ms in zip(owners, np.quantile(node_ms, 0.25, axis=0), strict=True):
            positions[owner] += float(ms)
        return positions


def node_times(events: list[dict[str, Any]], kinds: list[str]) -> NDArray[np.float64]:
    """Milliseconds (runs, nodes) from ONNX Runtime's profile.

    Args:
        events: of the profile; one per node and run is about how long the node took.
        kinds: operators of the nodes in the order of execution.

    Raises:
        MeasurementError: other nodes ran, or in another order.
    """
    nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith(EVENT_SUFFIX)]
    nodes.sort(key=lambda e: e["ts"])
    ran = [e["args"]["op_name"] for e in nodes]
    if not ran or ran != kinds * (len(ran) // max(1, len(kinds))):
        raise MeasurementError(
            f"ONNX Runtime's profile of {len(ran)} nodes is not that of runs of the {len(kinds)} nodes of the "
            f"optimised graph, so times cannot be attributed to positions; measure layers isolated instead."
        )
    return np.array([e["dur"] for e in nodes]).reshape(-1, len(kinds)) / 1e3


class OnnxRuntimeBackend(Backend):
    """Sessions with the profile's threads, provider and graph optimisation, applied and read back.

    A session that would run an operator on the CPU where another provider was asked for is refused, unless the profile
    says `allow_cpu_fallback`.
    """

    capabilities = CAPABILITIES

    def __init__(self, profile: DeviceProfile) -> None:
        self.profile = profile
        self.device = f"Device {profile.name!r}"
        options: Mapping[str, Any] = profile.options
        self._provider = options.get("provider", CPU)
        level = options.get("graph_optimization", "all")
        self._allow_fallback = options.get("allow_cpu_fallback", False)
        given = options.get("provider_options", {})
        self._check_options(level, given)
        self._provider_options = {str(key): str(value) for key, value in given.items()}
        self._level = GRAPH_OPTIMISATION[level]
        self.memory = MEMORY_OF.get(self._provider, "cpu")
        self.host_threads = profile.threads if self._provider == CPU else 0
        if self._provider != CPU:
            # The profiler times what the CPU does: it starts the work elsewhere, or several operators that became one.
            self.capabilities = dataclasses.replace(CAPABILITIES, in_context=False)
        self._options = self._session_options(allow_fallback=self._allow_fallback)
        # A tiny session shows whether the provider starts here at all, before hours of profiling.
        self._used_options = self._probe()

    def _check_options(self, level: object, given: object) -> None:
        if self._provider not in ort.get_all_providers():
            raise InvalidValueError(
                f"{self.device}: ONNX Runtime has no execution provider {self._provider!r}; the installed build has "
                f"{', '.join(ort.get_available_providers())}."
            )
        if level not in list(GRAPH_OPTIMISATION):  # a list, because YAML can give what has no hash
            raise InvalidValueError(
                f"{self.device}: option `graph_optimization` must be one of {', '.join(GRAPH_OPTIMISATION)}, but got "
                f"{level!r}."
            )
        if not isinstance(given, Mapping):
            raise InvalidValueError(f"{self.device}: option `provider_options` must be a mapping, but got {given!r}.")
        if given and self._provider == CPU:
            raise InvalidValueError(f"{self.device}: {CPU} takes no `provider_options`, but got {dict(given)}.")
        if type(self._allow_fallback) is not bool:
            raise InvalidValueError(
                f"{self.device}: option `allow_cpu_fallback` must be true or false, but got {self._allow_fallback!r}."
            )
        if self.profile.dtype == "int8" and self._provider in WITHOUT_UINT8:
            raise InvalidValueError(
                f"{self.device}: `dtype: int8` has uint8 activations, for which {self._provider} has no integer "
                f"kernels; choose another provider or `dtype: float32`."
            )
        if self._provider not in ort.get_available_providers():
            raise DeviceUnavailableError(
                f"{self.device} needs ONNX Runtime's {self._provider}; the installed build has "
                f"{', '.join(ort.get_available_providers())}. Install the build for it (such as onnxruntime-gpu)."
            )

    def _session_options(self, *, allow_fallback: bool) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.profile.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = self._level
        options.log_severity_level = 4  # what goes wrong is raised
        if self._provider != CPU and not allow_fallback:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options

    def _probe(self) -> dict[str, str]:
        """The provider's options as it reads them back.

        Raises:
            DeviceUnavailableError: the provider does not start.
            InvalidValueError: it takes an option otherwise.
        """
        tiny = onnx_model(Model.of_layer(Conv(1, 1, 1, 1, "none", 1))).SerializeToString()
        try:
            session = self._create(tiny, self._session_options(allow_fallback=True))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise DeviceUnavailableError(f"{self.device}: {self._provider} does not start here: {error}") from error
        if session.get_providers()[0] != self._provider:
            raise DeviceUnavailableError(
                f"{self.device}: {self._provider} does not start here; its libraries or its hardware are missing."
            )
        used: dict[str, str] = session.get_provider_options()[self._provider]
        for key, value in self._provider_options.items():
            if used.get(key, value).lower() != value.lower():
                raise InvalidValueError(
                    f"{self.device}: {self._provider} takes the option {key!r} as {used[key]!r}, but it says {value!r}."
                )
        return {**self._provider_options, **used}

    @property
    def environment(self) -> dict[str, Any]:
        return {
            "onnxruntime": ort.__version__,
            "provider": self._provider,
            "provider_options": dict(self._used_options),
            "intra_op_threads": self._options.intra_op_num_threads,
            "graph_optimisation": self._options.graph_optimization_level.name,
            "cpu_fallback": self._provider == CPU or self._allow_fallback,
            **host_description(),
        }

    def load(self, model: Model) -> LoadedSession:
        build = int8_onnx_model if self.profile.dtype == "int8" else onnx_model
        with measurement_errors(self.device):
            loaded = LoadedSession(self, model, build(model, self.profile.batch))
            loaded.sample_ms(1)
        return loaded

    def session(self, content: bytes, *, watched_in: Path | None = None) -> ort.InferenceSession:
        """A session for a model.

        Args:
            content: the ONNX file.
            watched_in: folder for a profile of all runs and for the graph as it runs, in `OPTIMISED`.

        Raises:
            MeasurementError: a setting is not applied, or an operator would run on the CPU instead.
        """
        options = self._options
        if watched_in is not None:
            options = self._session_options(allow_fallback=self._allow_fallback)
            options.enable_profiling = True
            options.profile_file_prefix = str(watched_in / "profile")
            options.optimized_model_filepath = str(watched_in / OPTIMISED)
            # Beside the graph, so that they need not be read.
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        try:
            session = self._create(content, options)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            if "fallback to CPU EP has been explicitly disabled" not in str(error):
                raise
            raise MeasurementError(
                f"{self.device}: {self._provider} lacks an operator of the model, which would run on the CPU. Say "
                f"`allow_cpu_fallback: true` to measure it so."
            ) from error
        used, threads = session.get_providers()[0], session.get_session_options().intra_op_num_threads
        level = session.get_session_options().graph_optimization_level
        if (used, threads, level) != (self._provider, self.profile.threads, self._level):
            raise MeasurementError(
                f"{self.device}: asked for {self._provider} at {self._level.name} with {self.profile.threads} threads, "
                f"but ONNX Runtime uses {used} at {level.name} with {threads}."
            )
        return session

    def _create(self, content: bytes, options: ort.SessionOptions) -> ort.InferenceSession:
        # Without `enable_fallback=False` ONNX Runtime prints a failure to start and takes the CPU.
        return ort.InferenceSession(
            content, options, providers=[(self._provider, self._provider_options)], enable_fallback=False
        )


def deployable(profile: DeviceProfile, model: Model) -> dict[str, bytes]:
    """See `hardware_profiles.backends.base`."""
    if profile.dtype != "int8":
        return {}
    return {"network_int8.onnx": int8_onnx_model(model, profile.batch).SerializeToString()}


def open_backend(profile: DeviceProfile) -> OnnxRuntimeBackend:
    """See `hardware_profiles.backends.base`."""
    return OnnxRuntimeBackend(profile)

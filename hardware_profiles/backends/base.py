"""Backends: a backend loads a model on the device; the loaded model gives one latency sample at a time.

A backend is one module with ``CAPABILITIES`` and ``open_backend(profile) -> Backend``: a file here, or one of your own,
which a device's YAML names by its import path. Taking many samples, in which order and how they become one number is
not its business: `hardware_profiles.measure` does that, the same way for every backend. Nor is refusing what the
capabilities exclude: `DeviceProfile.open` does that.

A backend that deploys a network in a format of its own also has ``deployable(profile, model) -> {file name: content}``;
the files are exported beside ``network.onnx``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware_profiles.host import Sample, Watch
from search_spaces.base.errors import InvalidValueError, MeasurementError
from search_spaces.base.values import check_fields
from search_spaces.metric import Metric

if TYPE_CHECKING:
    from hardware_profiles.model import Batch, Model
    from search_spaces.layers import Layer


Values = Mapping[str, int | float]
"""Values of a network by metric, by their names; bytes and counts are whole numbers."""


@dataclass(frozen=True)
class Capabilities:
    """Abilities of a backend, known before any device is reached.

    Args:
        dtypes: number formats of the network on the device.
        options: name -> what it says, of the settings under ``options`` in a device YAML.
        required: those options that have no default.
        programs: those options that name a program to run; a YAML of others may name compilers of the system alone.
        libraries: those options that may name libraries to load, or folders of such.
        paths: those options that name a file, which may lie beside the YAML.
        batch: whether other batch sizes than 1 can be measured.
        threads: whether other thread counts than 1 can be asked for.
        metrics: what `Loaded.values` reports of a network beside its latency.
        estimates: latencies are a compiler's, a simulator's or somebody else's numbers, not measured here.
        in_context: whether the time of a network can be split by position.
        any_layer: whether layers of any kind can be timed, not only those that it was given the numbers of.
        here: the measuring process runs the network itself, so that its CPUs can be chosen.
    """

    dtypes: tuple[str, ...] = ("float32",)
    options: Mapping[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    batch: bool = True
    threads: bool = True
    metrics: tuple[Metric, ...] = ()
    estimates: bool = False
    in_context: bool = False
    any_layer: bool = True
    here: bool = False

    def __post_init__(self) -> None:
        example = {"metrics": '(Metric("energy_mj", "mJ", of_layers="sum"),)'}
        check_fields("a backend's Capabilities", self, example)


class Loaded(ABC):
    """A model on the device, ready to be timed."""

    host_threads: int = 0
    """Threads of this process that compute a run, the calling one if it is one, so that a disturbance by other programs
    is seen; 0: it is computed elsewhere."""

    @abstractmethod
    def sample_ms(self, runs: int) -> float:
        """Mean milliseconds of one run over `runs` consecutive runs.

        Raises:
            MeasurementError: the run fails.
            DeviceLostError: the device does not answer any more.
        """

    def sample(self, runs: int) -> Sample:
        """`sample_ms`, with what the operating system tells of its disturbance."""
        if not self.host_threads:
            return Sample(self.sample_ms(runs))
        watch = Watch(self.host_threads)
        return watch.sample(self.sample_ms(runs))

    def positions_ms(self, runs: int) -> Mapping[str, float]:
        """Milliseconds that each position of the model takes in a run of the whole, typical of `runs` runs.

        They sum to less than the whole, or to more: calls between operators are not in them, the cost of looking is.
        Only of a backend with the capability ``in_context``.
        """
        raise NotImplementedError("this backend cannot time inside a network")

    def values(self, runs: int) -> Values:
        """Values of one run, one of each metric of the backend, by name.

        What is sampled, such as energy, is of at least `runs` consecutive runs; what the device's tools tell of the
        loaded model, such as its memory, takes none.

        Raises:
            MeasurementError: the run fails, or the meter does.
        """
        return {}

    def run(self, images: Batch) -> Batch | None:
        """Output for an input, each (batch, *shape): one array, or several by name where the network has several of
        them; None where the device only estimates."""
        return None


def reported_values(loaded: Loaded, runs: int, metrics: Sequence[Metric]) -> Values:
    """`Loaded.values` by name, one of each metric that is declared.

    Raises:
        MeasurementError: names the one that is missing, not declared, not finite or negative.
        InvalidValueError: it is no method, or gives something else than numbers by name.
    """
    rule = "`values` of a loaded network is a method, `def values(self, runs)`, that gives numbers by metric"
    example = ", such as {" + ", ".join(f'"{metric.name}": 1.5' for metric in metrics) + "}"
    method: Any = loaded.values
    if not callable(method):
        raise InvalidValueError(f"{rule}, but it is {method!r}. Make it a method, not a property.")
    values: Any = method(runs)
    if not isinstance(values, Mapping):
        raise InvalidValueError(f"{rule}{example}, but it gave {values!r}.")
    names = [metric.name for metric in metrics]
    if missing := [name for name in names if name not in values]:
        raise MeasurementError(f"The backend declares {missing[0]}, but does not report it.")
    for name, value in values.items():
        if name not in names:
            raise MeasurementError(f"The backend reports {name}, but does not declare it in its capabilities.")
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise InvalidValueError(f"{rule}{example}, but {name} is {value!r}.")
        if not (math.isfinite(value) and value >= 0):
            raise MeasurementError(f"{name} must be a finite number >= 0, but the device gave {value}.")
    return {name: values[name] if isinstance(values[name], int) else float(values[name]) for name in names}


class Backend(ABC):
    """The device's software, set up for one profile."""

    capabilities: Capabilities

    @property
    def estimates(self) -> bool:
        """True: latencies are estimates or somebody else's numbers, not measurements."""
        return self.capabilities.estimates

    @property
    @abstractmethod
    def environment(self) -> dict[str, Any]:
        """Versions and settings as read back from the software: what a number must be published with."""

    @abstractmethod
    def load(self, model: Model) -> Loaded:
        """Compile and load.

        Raises:
            MeasurementError: the model does not compile or run on the device.
            DeviceLostError: the device does not answer any more.
        """

    def known_layers(self) -> Collection[Layer] | None:
        """The only layers that it has numbers of; None: it can time others too."""
        return None

    def boards(self) -> Sequence[Backend]:
        """The devices of this kind that can be measured on at the same time, each as a backend of its own.

        Asked again when all that were given are lost.

        Raises:
            DeviceUnavailableError: none answers.
        """
        return (self,)

    def close(self) -> None:
        """Give the device back."""
        return None

"""A network of a front: what is known of it, its files, and its latency on a device; the latency of any network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardware_profiles.device import DeviceProfile, load_device
from hardware_profiles.measure import Measurement
from hardware_profiles.measure import measure as measured
from hardware_profiles.model import Model
from nas.run.settings import check_seed
from search_spaces.architecture import Architecture
from search_spaces.base.errors import InvalidValueError, MeasurementError
from search_spaces.base.values import checked_arguments
from search_spaces.metric import number_text

if TYPE_CHECKING:
    from nas.data import Data
    from nas.run.fronts import Front
    from nas.supernet import Supernet


@checked_arguments
def measure(architecture: Architecture, device: DeviceProfile | str | Path, *, seed: int = 0) -> Measurement:
    """Measure a network with random weights on a device.

    Args:
        architecture: of a space, such as a published one: ``nas.space("mobilenet_v2").member("mobilenet_v2")``.
        device: an object or a name.
        seed: of the order of measuring.

    Raises:
        MeasurementError: it does not run there.
    """
    check_seed(seed)
    target = load_device(device) if isinstance(device, str | Path) else device
    backend = target.open()
    try:
        model = Model(architecture.space.lower(architecture))
        ((_, result),) = measured([(0, model)], backend, target, np.random.default_rng(seed))
    finally:
        backend.close()
    if isinstance(result, MeasurementError):
        raise result
    return result


@dataclass(frozen=True)
class FoundNetwork:
    """A network of a front.

    Args:
        front: that it is of.
        row: its number there, from 0.
    """

    front: Front
    row: int

    @property
    def architecture(self) -> Architecture:
        """Choices of the space.

        Raises:
            InvalidValueError: the front was read without its space.
        """
        if self.front.made_by is None:
            raise InvalidValueError(
                f"{self.front.source} was read without its space. Take the front from `nas.open(folder).fronts`."
            )
        return Architecture.from_json(self.front.made_by, self.front.architecture(self.row))

    @property
    def values(self) -> dict[str, float | None]:
        """All that is known of it, by name; None for what is not."""
        return self.front.known(self.row)

    def __repr__(self) -> str:
        known = ", ".join(f"{name} {number_text(value)}" for name, value in self.values.items() if value is not None)
        return f"FoundNetwork(network {self.row + 1} of {len(self.front)} (front[{self.row}]): {known})"

    @checked_arguments
    def export(
        self,
        folder: str | Path,
        weights: Supernet | str | Path | None = None,
        *,
        data: Data | str | Path | None = None,
        device: DeviceProfile | str | Path | None = None,
        recalibration_images: int = 512,
    ) -> dict[str, float]:
        """Write the network as ONNX with how images become its input and what it is; see `nas.export`, whose arguments
        these are. The file is for the device of the front by default."""
        from nas.run.export import export

        device = self._device(device)
        return export(
            self.architecture, folder, weights, data=data, device=device, recalibration_images=recalibration_images
        )

    @checked_arguments
    def measure(self, device: DeviceProfile | str | Path | None = None, *, seed: int = 0) -> Measurement:
        """Measure the network, with random weights.

        Args:
            device: an object or a name; that of the front by default.
            seed: of the order of measuring.

        Raises:
            MeasurementError: it does not run there.
        """
        check_seed(seed)
        target = self._device(device) or load_device(self.front.device)
        return measure(self.architecture, target, seed=seed)

    def _device(self, given: DeviceProfile | str | Path | None) -> DeviceProfile | None:
        """A device by its object or name; without one that of the front, where it is known."""
        if given is None:
            return self.front.profile
        return load_device(given) if isinstance(given, str | Path) else given

"""A network of a front: what is known of it, its files, and its latency on a device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardware_profiles.device import DeviceProfile, load_device
from hardware_profiles.measure import Measurement, measure
from hardware_profiles.model import Model
from nas.run.settings import check_seed
from search_spaces.architecture import Architecture
from search_spaces.base.errors import InvalidValueError, MeasurementError
from search_spaces.base.values import checked_arguments

if TYPE_CHECKING:
    from nas.data import ImageData
    from nas.run.fronts import Front
    from nas.supernet import Supernet


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
        known = ", ".join(f"{name} {value:.4g}" for name, value in self.values.items() if value is not None)
        return f"FoundNetwork(network {self.row + 1} of {len(self.front)} (front[{self.row}]): {known})"

    @checked_arguments
    def export(
        self,
        folder: str | Path,
        weights: Supernet | str | Path | None = None,
        *,
        data: ImageData | str | Path | None = None,
        device: DeviceProfile | str | Path | None = None,
        recalibration_images: int = 512,
    ) -> dict[str, float]:
        """Write the network as ONNX with how images become its input and what it is; see `nas.run.export`.

        Args:
            folder: takes ``network.onnx``, ``preprocessing.json``, ``architecture.json`` and what the device takes.
            weights: a supernet, its file or the run folder that it is in; ``random`` for a file to take times of.
            data: that the supernet was trained on, where it is not known by itself.
            device: that the file is for, its batch and number format; that of the front by default.
            recalibration_images: training images that BatchNorm statistics are taken from.

        Returns:
            Largest differences of outputs: ``extracted``, from the supernet, and ``onnx``, from the file.

        Raises:
            InvalidValueError: no weights, or no images, are given.
        """
        from nas.run.export import export_network, export_untrained
        from nas.run.labelling import images_of, supernet_of

        target = self._device(device)
        if weights is None:
            raise InvalidValueError(
                "A network is exported with the weights of a supernet: give `weights`, a supernet, its file or a run "
                'folder; or `weights="random"` for a file to take times of.'
            )
        if weights == "random":
            return export_untrained(self.architecture, Path(folder), target)
        from nas.supernet import SupernetAccuracy

        space = self.architecture.space
        given = None if data is None else images_of(data)
        supernet = supernet_of(space, weights, given)
        images = given or supernet.data
        if images is None:
            raise InvalidValueError(
                "BatchNorm statistics of the network are taken on training images: give `data`, the images that the "
                "supernet was trained on."
            )
        evaluator = SupernetAccuracy(space, supernet, images, recalibration_images=recalibration_images, threads=1)
        return export_network(self.architecture, evaluator, Path(folder), target)

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
        backend, architecture = target.open(), self.architecture
        try:
            model = Model(architecture.space.lower(architecture))
            ((_, result),) = measure([(self.row, model)], backend, target, np.random.default_rng(seed))
        finally:
            backend.close()
        if isinstance(result, MeasurementError):
            raise result
        return result

    def _device(self, given: DeviceProfile | str | Path | None) -> DeviceProfile | None:
        """A device by its object or name; without one that of the front, where it is known."""
        if given is None:
            return self.front.profile
        return load_device(given) if isinstance(given, str | Path) else given

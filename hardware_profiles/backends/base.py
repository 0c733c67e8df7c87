"""What a backend is: it loads a model on the device; the loaded model gives one latency sample at a time.

A backend is one file here with ``open_backend(profile) -> Backend``. Taking many samples, in which order and how they
become one number is not its business: `hardware_profiles.measure` does that, the same way for every backend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hardware_profiles.model import Model


class Loaded(Protocol):
    """A model on the device, ready to be timed."""

    @property
    def memory_bytes(self) -> int | None:
        """Memory for activations as the device's tools report it; None where they do not."""

    def sample_ms(self, runs: int) -> float:
        """Mean milliseconds of one run over `runs` consecutive runs."""

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Outputs for images (batch, C, H, W); None where the device only estimates."""


class Backend(Protocol):
    """The device's software, set up for one profile."""

    @property
    def estimates(self) -> bool:
        """True: latencies are the compiler's or simulator's estimates, not measurements."""

    @property
    def environment(self) -> dict[str, Any]:
        """Versions and settings as read back from the software: what a number must be published with."""

    def load(self, model: Model) -> Loaded:
        """Compile and load.

        Raises:
            MeasurementError: the model does not compile or run on the device.
        """

    def close(self) -> None:
        """Give the device back."""

"""Latencies of layers and networks on devices: profiles, backends, the measuring protocol and latency tables."""

from hardware_profiles.device import DeviceProfile, availability, device_names, load_device
from hardware_profiles.latency_table import LatencyTable
from hardware_profiles.measure import Measurement, measure
from hardware_profiles.model import Model

__all__ = [
    "DeviceProfile",
    "LatencyTable",
    "Measurement",
    "Model",
    "availability",
    "device_names",
    "load_device",
    "measure",
]

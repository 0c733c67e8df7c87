"""Device profiles: how a latency is taken, read from one YAML per device."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hardware_profiles.backends.base import Backend
from search_spaces.errors import InvalidValueError, NasError, StorageError, UnknownNameError
from search_spaces.storage import storage_errors

FOLDER = Path(__file__).parent / "device"


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """How networks are measured on one device. Each field is applied, or the backend refuses it.

    Args:
        name: of the device; the name of its YAML file.
        title: what a person calls it.
        backend: file in ``hardware_profiles/backends`` that does the measuring.
        dtype: number format of the network on the device.
        batch: images per run.
        threads: threads that one run uses.
        options: further settings of the backend.
        warm_up: runs before the first sample of a pass.
        runs: samples taken in one pass.
        sample_ms: a sample times as many runs together as fill about this many milliseconds.
        passes: how often each item is measured, far apart in time.
        agreement: the two lowest passes agree when they differ by at most this factor; until then passes are repeated.
        max_passes: give up agreeing after as many.
        loads: how often each item is loaded; its passes take turns. A load can be unlucky as a whole: one network in
            twenty ran 1.5 times slower in every pass of one session and not in the next, with other places in memory.
        pass_seconds: a pass starts at least so long after the one before, so that they see different moments.
        memory_limit_bytes: memory that a network may use for activations. None: no limit.
    """

    name: str
    title: str
    backend: str
    dtype: str = "float32"
    batch: int = 1
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    warm_up: int = 3
    runs: int = 8
    sample_ms: float = 0.5
    passes: int = 4
    agreement: float = 1.03
    max_passes: int = 10
    loads: int = 2
    pass_seconds: float = 0.3
    memory_limit_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "threads", "runs", "passes", "loads"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"Device {self.name!r}: `{name}` must be >= 1, but got {getattr(self, name)}.")
        for name, least in (
            ("warm_up", 0),
            ("sample_ms", 0),
            ("pass_seconds", 0),
            ("agreement", 1),
            ("max_passes", self.passes),
        ):
            if not least <= getattr(self, name) < math.inf:  # false for NaN as well
                raise InvalidValueError(
                    f"Device {self.name!r}: `{name}` must be >= {least} and finite, but got {getattr(self, name)}."
                )
        if self.memory_limit_bytes is not None and self.memory_limit_bytes <= 0:
            raise InvalidValueError(f"Device {self.name!r}: `memory_limit_bytes` must be > 0 or null.")

    def open(self) -> Backend:
        """The backend, set up for this device.

        Raises:
            UnknownNameError: there is no such backend.
            DeviceUnavailableError: it cannot run here; the message says what to install or to connect.
        """
        module_name = f"hardware_profiles.backends.{self.backend}"
        try:
            open_backend = getattr(importlib.import_module(module_name), "open_backend", None)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise  # the backend is there, but not the software that it imports
            open_backend = None
        if open_backend is None:
            known = sorted(p.stem for p in (Path(__file__).parent / "backends").glob("[!_]*.py") if p.stem != "base")
            raise UnknownNameError(
                f"Device {self.name!r} names backend {self.backend!r}, which is unknown; there are {known}."
            )
        backend: Backend = open_backend(self)
        return backend

    def conditions(self) -> dict[str, Any]:
        """All that a latency depends on, as plain data."""
        data = dataclasses.asdict(self)
        data["options"] = dict(self.options)
        return {key: value for key, value in data.items() if key not in ("title", "memory_limit_bytes")}


def device_names() -> list[str]:
    """Names of the shipped device profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_device(name: str) -> DeviceProfile:
    """Device profile by name, or by the path of a YAML file.

    Raises:
        UnknownNameError: neither a shipped device nor a file.
        InvalidValueError: the YAML is malformed or has a wrong key or value.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        close = difflib.get_close_matches(name, device_names(), 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UnknownNameError(
            f"Device {name!r} is unknown.{hint} There are {', '.join(device_names())}; or give the path of a YAML file."
        )
    with storage_errors(path):
        content = path.read_bytes()
    try:
        data = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidValueError(f"Device profile {path} is malformed YAML: {error}.") from error
    if not isinstance(data, dict):
        raise InvalidValueError(f"Device profile {path} must be a mapping of settings, but got {type(data).__name__}.")
    data.setdefault("name", path.stem)
    return _checked(data, path)


def _checked(data: dict[str, Any], path: Path) -> DeviceProfile:
    hints = typing.get_type_hints(DeviceProfile)
    for key, value in data.items():
        if key not in hints:
            close = difflib.get_close_matches(str(key), hints, 1)
            raise InvalidValueError(
                f"Device profile {path} has an unknown setting {key!r}."
                + (f" Did you mean {close[0]!r}?" if close else f" There are {', '.join(hints)}.")
            )
        expected = hints[key]
        accepted: tuple[type, ...] = (
            expected.__args__ if isinstance(expected, types.UnionType) else (typing.get_origin(expected) or expected,)
        )
        if float in accepted:
            accepted += (int,)
        if isinstance(value, bool) or not isinstance(value, accepted):
            names = " or ".join("null" if t is type(None) else t.__name__.lower() for t in accepted)
            raise InvalidValueError(f"Device profile {path}: `{key}` must be {names}, but got {value!r}.")
    missing = [
        f.name for f in dataclasses.fields(DeviceProfile) if f.default is f.default_factory and f.name not in data
    ]
    if missing:
        raise InvalidValueError(f"Device profile {path} lacks `{missing[0]}`.")
    return DeviceProfile(**data)


def availability(profile: DeviceProfile) -> str | None:
    """None when the device can be used from here, else why not."""
    try:
        profile.open().close()
    except (NasError, StorageError) as error:
        return str(error)
    return None

"""Device profiles: how a latency is taken, read from one YAML per device."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardware_profiles.backends.base import Backend, Capabilities
from hardware_profiles.host import cpu_quota, usable_cpus
from hardware_profiles.worker import WorkerBackend
from search_spaces.base import trust
from search_spaces.base.errors import InvalidValueError, NasError, StorageError, UnknownNameError
from search_spaces.base.names import checked_name, closest
from search_spaces.base.storage import read_yaml
from search_spaces.base.values import described, fits

FOLDER = Path(__file__).parent / "device"


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """Description of how networks are measured on one device. Each field is applied, or the backend refuses it.

    Args:
        name: of the device; the name of its YAML file.
        title: what a person calls it.
        backend: what does the measuring: a file in ``hardware_profiles/backends``, or the import path of a module of
            your own, such as ``mine.backend``.
        dtype: number format of the network on the device.
        batch: images per run.
        threads: threads that one run uses; ``all`` in a YAML file: one per CPU of this computer.
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
        isolated: measure in a process of its own, which a compiler can crash without harm, and which has its own
            thread pools.
        cpus: numbers of the CPUs that this process may use, so that the system does not move its threads; needs
            ``isolated``. None: all.
        memory_limit_bytes: memory that a network may use for activations. None: no limit.
        timeout_s: seconds after which a process that does not answer counts as lost, where one is asked (``isolated``,
            or a simulator); compiling a network may take ten times as long.
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
    isolated: bool = False
    cpus: Sequence[int] | None = None
    memory_limit_bytes: int | None = None
    timeout_s: float = 60.0

    def __repr__(self) -> str:
        return f"DeviceProfile({self.name}: {self.title})"

    def __post_init__(self) -> None:
        checked_name("A device", self.name)
        _check_backend(self.backend, f"Device {self.name!r}")
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
        if not 0 < self.timeout_s < math.inf:
            raise InvalidValueError(
                f"Device {self.name!r}: `timeout_s` must be > 0 and finite, but got {self.timeout_s}."
            )
        if self.memory_limit_bytes is not None and self.memory_limit_bytes <= 0:
            raise InvalidValueError(f"Device {self.name!r}: `memory_limit_bytes` must be > 0 or null.")
        if self.cpus is not None and not (
            self.isolated and self.cpus and all(type(cpu) is int and cpu >= 0 for cpu in self.cpus)
        ):
            raise InvalidValueError(
                f"Device {self.name!r}: `cpus` must be a list of CPU numbers beside `isolated: true`, but got "
                f"{self.cpus}."
            )

    def open(self) -> Backend:
        """The backend, set up for this device.

        Raises:
            UnknownNameError: there is no such backend.
            InvalidValueError: the profile asks for what the backend cannot do.
            DeviceUnavailableError: it cannot run here; the message says what to install or to connect.
        """
        module = backend_module(self.backend, f"Device {self.name!r}")
        self._check_against(module.CAPABILITIES)
        if self.isolated:
            return WorkerBackend(self)
        backend: Backend = module.open_backend(self)
        return backend

    @functools.cached_property
    def capabilities(self) -> Capabilities:
        """Abilities of its backend, known before the device is reached; a backend whose options decide that has
        ``capabilities(profile)`` beside ``CAPABILITIES``."""
        module = backend_module(self.backend, f"Device {self.name!r}")
        able: Capabilities = module.capabilities(self) if hasattr(module, "capabilities") else module.CAPABILITIES
        return able

    def _check_against(self, capabilities: Capabilities) -> None:
        device = f"Device {self.name!r}"
        if self.dtype not in capabilities.dtypes:
            raise InvalidValueError(
                f"{device}: backend {self.backend} has no `dtype: {self.dtype}`; it has "
                f"{', '.join(capabilities.dtypes)}."
            )
        for name, able in (("batch", capabilities.batch), ("threads", capabilities.threads)):
            value = getattr(self, name)
            if value != 1 and not able:
                raise InvalidValueError(f"{device}: backend {self.backend} needs `{name}: 1`, but got {value}.")
        for option in self.options:
            if option not in capabilities.options:
                hint = _did_you_mean(str(option), capabilities.options)
                known = ", ".join(f"`{name}`" for name in capabilities.options) or "none"
                raise InvalidValueError(
                    f"{device}: backend {self.backend} has no option {option!r}.{hint} There are {known}."
                )
        for option in capabilities.required:
            if option not in self.options:
                raise InvalidValueError(
                    f"{device}: backend {self.backend} needs the option `{option}`: {capabilities.options[option]}."
                )
        if self.cpus is not None and not capabilities.here:
            raise InvalidValueError(f"{device}: backend {self.backend} does not run here, so `cpus` cannot be chosen.")
        if capabilities.here:
            self._check_threads()

    def _check_threads(self) -> None:
        """Refuse more threads than CPUs, which would wait for each other's turn and be measured so."""
        usable, why = usable_cpus(), ""
        quota = cpu_quota()
        if quota is not None and quota < self.threads:
            why = f" (its container's quota is {quota:g} CPUs)"
        if self.cpus is not None and len(self.cpus) < usable:
            usable, why = len(self.cpus), f" (`cpus: {list(self.cpus)}`)"
        if self.threads > usable:
            raise InvalidValueError(
                f"Device {self.name!r}: `threads` must be at most {usable}, the CPUs that it may use{why}, but got "
                f"{self.threads}: more would wait for each other. Say `threads: all`, or `threads: {usable}`."
            )

    def conditions(self) -> dict[str, Any]:
        """All that a latency depends on, as plain data."""
        data = dataclasses.asdict(self)
        data["options"] = dict(self.options)
        data["cpus"] = None if self.cpus is None else list(self.cpus)
        return {key: value for key, value in data.items() if key not in ("title", "memory_limit_bytes", "timeout_s")}


@functools.cache
def backend_names() -> list[str]:
    """Files in ``hardware_profiles/backends``."""
    return sorted(p.stem for p in (Path(__file__).parent / "backends").glob("[!_]*.py") if p.stem != "base")


def _check_backend(name: str, asker: str) -> None:
    """Refuse a name that is neither hwnas's own nor an import path."""
    names = backend_names()
    if name not in names and "." not in name:
        raise UnknownNameError(
            f"{asker} names backend {name!r}, which is unknown; there are {names}.{_did_you_mean(name, names)} One of "
            "your own is named by its import path, such as mine.backend."
        )


def backend_module(name: str, asker: str) -> Any:
    """The module of a backend, with ``CAPABILITIES`` and ``open_backend``.

    Args:
        name: of its file, or an import path.
        asker: who names it, for messages.

    Raises:
        UnknownNameError: there is no such backend.
        InvalidValueError: it is outside of hwnas, neither trusted nor imported.
    """
    _check_backend(name, asker)
    if "." not in name:
        return importlib.import_module(f"hardware_profiles.backends.{name}")
    module = trust.find(asker, name, imported=True)
    for needed in ("CAPABILITIES", "open_backend"):
        if not hasattr(module, needed):
            raise UnknownNameError(f"{asker} names backend {name!r}, which is none: it has no `{needed}`.")
    return module


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that names the known one that was meant."""
    close = closest(name, known)
    return f" Did you mean {close!r}?" if close else ""


def device_names() -> list[str]:
    """Names of the shipped device profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_device(name: str | Path, /, **changes: Any) -> DeviceProfile:
    """Device profile by name, or by the path of a YAML file.

    Args:
        name: of a shipped device, or of a YAML file in the current folder, or a path that ends in ``.yaml``.
        changes: settings in place of those of the YAML, such as ``threads=1``.

    Raises:
        UnknownNameError: neither a shipped device nor a file.
        InvalidValueError: the YAML is malformed, has a wrong key or value, or the name of a shipped device.
        UntrustedError: it names a backend, a program or a library outside of hwnas that is not trusted.
    """
    name, names = str(name), device_names()
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else (FOLDER if name in names else Path()) / f"{name}.yaml"
    if not path.is_file():
        beside = [one.name if is_path else one.stem for one in sorted(path.parent.glob("*.yaml"))]
        if is_path:
            raise UnknownNameError(
                f"There is no file {path}.{_did_you_mean(path.name, beside)} `nas devices new` writes such a file."
            )
        hint = _did_you_mean(name, [*names, *beside])
        raise UnknownNameError(
            f"Device {name!r} is unknown.{hint} There are {', '.join(names)}; or give the path of a YAML file, which "
            "`nas devices new` writes."
        )
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise InvalidValueError(f"Device profile {path} must be a mapping of settings, but got {type(data).__name__}.")
    data = {"name": path.stem, **data, **changes}
    if data.get("options", {}) is None:  # all lines below it are comments
        del data["options"]
    if data.get("threads") == "all":
        cpus = data.get("cpus")
        data["threads"] = len(cpus) if isinstance(cpus, list) and cpus else usable_cpus()
    profile = _checked(data, path)
    if changes:
        profile._check_against(backend_module(profile.backend, f"Device {profile.name!r}").CAPABILITIES)
    if path.parent == FOLDER:
        return profile
    if profile.name in names:
        raise InvalidValueError(
            f"Device profile {path} has the name of hwnas's own {FOLDER / f'{profile.name}.yaml'}, and results are "
            "kept by the name of the device. Rename the file, or give it another `name`."
        )
    return _of_others(profile, path)


_COMPILER = re.compile(r"[\w.+-]*(gcc|g\+\+|clang|clang\+\+)(-[\d.]+)?|\$\{?\w*(CC|CXX)\}?")
"""A compiler on the search path, or the one that an environment variable names."""


def _of_others(profile: DeviceProfile, path: Path) -> DeviceProfile:
    """A profile that did not come with hwnas: it runs nothing that the user has not named, and finds files beside it.

    Raises:
        InvalidValueError: names the option, and the way to allow it.
    """
    able: Capabilities = backend_module(profile.backend, f"Device profile {path}").CAPABILITIES
    options = dict(profile.options)
    for name in able.programs:
        if name in options and not _COMPILER.fullmatch(str(options[name])):
            trust.check_path(f"Device profile {path}: option `{name}`", str(options[name]))
    for name in able.libraries:
        _check_libraries(f"Device profile {path}: option `{name}", options.get(name))
    for name in able.paths:
        beside = path.parent / str(options.get(name, ""))
        if isinstance(options.get(name), str) and beside.is_file() and not _is_same(Path(options[name]), beside):
            options[name] = str(beside.resolve())
    return dataclasses.replace(profile, options=options)


def _check_libraries(asker: str, value: Any) -> None:
    for name, one in value.items() if isinstance(value, Mapping) else ():
        text, named = str(one), re.search(r"path|file|lib|plugin|cache|config", str(name), re.IGNORECASE)
        of_path = named and isinstance(one, str) and not re.fullmatch(r"[\d.]*|true|false", text, re.IGNORECASE)
        if of_path or re.search(r"[/\\]|\.(so|dll|dylib)\b", text):
            trust.check_path(f"{asker}.{name}`", text)


def _is_same(one: Path, other: Path) -> bool:
    return one.is_file() and one.samefile(other)


def _checked(data: dict[str, Any], path: Path) -> DeviceProfile:
    hints = typing.get_type_hints(DeviceProfile)
    for key, value in data.items():
        if key not in hints:
            hint = _did_you_mean(str(key), hints) or f" There are {', '.join(hints)}."
            raise InvalidValueError(f"Device profile {path} has an unknown setting {key!r}.{hint}")
        if not fits(value, hints[key]):
            raise InvalidValueError(
                f"Device profile {path}: `{key}` must be {described(hints[key])}, but got {value!r}."
            )
    missing = [
        f.name for f in dataclasses.fields(DeviceProfile) if f.default is f.default_factory and f.name not in data
    ]
    if missing:
        raise InvalidValueError(f"Device profile {path} lacks `{missing[0]}`.")
    return DeviceProfile(**data)


def availability(profile: DeviceProfile) -> str | None:
    """Reason why the device cannot be used from here; None where it can."""
    try:
        profile.open().close()
    except (NasError, StorageError) as error:
        return str(error)
    return None

"""A run: its settings, its folder and the objects that they make."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hardware_profiles.device import DeviceProfile, device_names, load_device
from nas.run.records import About, read_about
from nas.run.settings import Settings
from search_spaces.base.building import build
from search_spaces.base.errors import MismatchError
from search_spaces.base.storage import check_regular, reading_errors
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from nas.data import Data


RESULTS = ("profile", "train", "label", "fit", "search", "export", "finetune", "train-alone", "verify", "report")
"""Folders of a run folder, one for each stage."""


@dataclass
class Run:
    """One run: its settings and its folder. Parts of it are made when first used.

    ``searcher``: the name of the searcher's YAML; None where the settings come from elsewhere.
    """

    settings: Settings
    folder: Path
    command: str
    searcher: str | None = None

    @functools.cached_property
    def space(self) -> SearchSpace:
        """The search space of the run."""
        return cast(SearchSpace, build("space", self.settings.space, SearchSpace))

    @functools.cached_property
    def data(self) -> Data:
        """The data of the run."""
        from nas.data import data_of_run

        return data_of_run(self.settings.data, self.folder)

    @functools.cached_property
    def devices(self) -> list[DeviceProfile]:
        """The devices of the run."""
        return [load_device(name) for name in self.settings.devices]

    @property
    def searcher_name(self) -> str:
        """Name of the searcher in files and reports: its YAML's, or that of its class."""
        return searcher_name(self.searcher or self.settings.searcher.get("_target_", "none"))

    def per_device(self, pattern: str) -> list[Path]:
        """The files of a pattern such as ``search/{}.json``, one per device."""
        return [self.folder / pattern.format(device.name) for device in self.devices]

    def rng(self, *purpose: int | str) -> np.random.Generator:
        """A generator of the run's seed and a purpose."""
        return generator(self.settings.seed, *purpose)

    def check_folder(self) -> None:
        """Refuse a folder with results of another space; see `check_folder`."""
        check_folder(self.folder, self.space)

    def claim_folder(self) -> None:
        """Note whose folder this is, and the command that last worked in it; see `claim_folder`."""
        settings = self.settings
        parts = {"data": settings.data, "device": settings.devices}
        claim_folder(self.folder, self.space, self.command, settings.seed, name=settings.name, parts=parts)


def searcher_name(given: Any) -> str:
    """Name of a searcher in files and reports: that of its YAML or of its class."""
    text = str(given) if isinstance(given, str | Path) else type(given).__name__
    if text.endswith((".yaml", ".yml")):
        return Path(text).stem
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text.rsplit(".", 1)[-1]).lower().replace("/", "_")


def generator(seed: int, *purpose: int | str) -> np.random.Generator:
    """A generator of a seed and a purpose."""
    numbers = [int(hashlib.sha256(str(p).encode()).hexdigest()[:8], 16) for p in purpose]
    return np.random.default_rng([seed, *numbers])


def check_folder(folder: Path, space: SearchSpace) -> None:
    """Refuse a folder with results of another space.

    Raises:
        MismatchError: names both spaces.
    """
    there = read_about(folder)
    if there is None or there.fingerprint == space.fingerprint:
        return
    if any(path.is_file() for place in RESULTS for path in (folder / place).rglob("*")):
        raise MismatchError(
            f"{folder} holds a run of space {there.space!r} ({there.fingerprint}), but this "
            f"run's space is {space.name!r} ({space.fingerprint}){_differences(there, space)}. Choose another folder "
            "with `out=`."
        )


def _differences(there: About, space: SearchSpace) -> str:
    """Words on the settings in which two spaces of one name differ; empty where they are not known."""
    noted = (there.made_of or {}).get("space")
    if there.space != space.name or not isinstance(noted, Mapping):
        return ""
    before, now = dict(noted), json.loads(json.dumps(space.definition))
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    default = "its default"
    return "".join(f", `{key}` {before.get(key, default)} there and {now.get(key, default)} here" for key in differing)


def claim_folder(
    folder: Path,
    space: SearchSpace,
    command: str,
    seed: int,
    *,
    name: str | None = None,
    parts: Mapping[str, Any] | None = None,
) -> None:
    """Note whose folder this is, and the command that last worked in it.

    Args:
        folder: of a run.
        space: of the run.
        command: that works there.
        seed: of the run.
        name: that a report has; the space's by default.
        parts: settings that make the data and the devices, where they are known.

    Raises:
        MismatchError: it holds results of another space.
    """
    check_folder(folder, space)
    there = read_about(folder)
    same = there if there and there.fingerprint == space.fingerprint else None
    noted, given = same.made_of if same else {}, parts or {}
    devices = [*noted.get("device", []), *given.get("device", [])]  # others may have been measured before
    named = {"device": list(dict.fromkeys(map(_device_file, devices)))} if devices else {}
    about = About(
        name=name or space.name,
        command=command,
        seed=seed,
        space=space.name,
        fingerprint=space.fingerprint,
        space_size=str(space.size),
        made_of={**noted, **_absolute(given), **named, "space": space.definition},
        versions=versions(),
        commit=commit(),
        created=(same and same.created) or time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        data=same.data if same else None,
    )
    about.write(folder / "run.json")


def _absolute(node: Any) -> Any:
    """Settings whose paths of files are found from any folder."""
    if isinstance(node, Mapping):
        return {key: _absolute(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_absolute(value) for value in node]
    is_path = isinstance(node, str) and ("/" in node or Path(node).suffix) and os.path.exists(node)
    return os.path.abspath(node) if is_path else node


def _device_file(name: str) -> str:
    """Name of a device that comes with hwnas, or the path of its file."""
    return str(_absolute(name if name in device_names() or not os.path.isfile(f"{name}.yaml") else f"{name}.yaml"))


def made_of(folder: Path) -> Mapping[str, Any]:
    """Settings that make the space, the data and the devices of a run folder, as far as they were noted."""
    about = read_about(folder)
    return about.made_of if about else {}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    names = ("hwnas", "torch", "numpy", "onnxruntime", "apache-tvm", "ethos-u-vela", "scikit-learn", "optuna")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def commit() -> str | None:
    """The commit of hwnas, where it runs from a checkout."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def digest(path: Path) -> str:
    """First 16 hex digits of the SHA-256 of a file."""
    check_regular(path)
    with reading_errors(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]

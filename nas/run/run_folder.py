"""A run: its settings, its folder and the objects that they make."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hardware_profiles.device import DeviceProfile, load_device
from nas.run.records import read_claim
from nas.run.settings import Settings
from search_spaces.base.building import build
from search_spaces.base.errors import MismatchError
from search_spaces.base.storage import check_regular, reading_errors, write_json
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from nas.data import ImageData


RESULTS = ("profile", "train", "label", "fit", "search", "export", "verify", "report")
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
    def data(self) -> ImageData:
        """The images of the run."""
        from nas.data import ImageData

        return cast(ImageData, build("data", self.settings.data, ImageData))

    @functools.cached_property
    def devices(self) -> list[DeviceProfile]:
        """The devices of the run."""
        return [load_device(name) for name in self.settings.devices]

    @property
    def searcher_name(self) -> str:
        """What files and reports call the searcher: its YAML's name, or that of its class."""
        if self.searcher:
            return self.searcher.replace("/", "_")
        name = str(self.settings.searcher.get("_target_", "none")).rsplit(".", 1)[-1]
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()

    def per_device(self, pattern: str) -> list[Path]:
        """The files of a pattern such as ``search/{}.json``, one per device."""
        return [self.folder / pattern.format(device.name) for device in self.devices]

    def rng(self, *purpose: int | str) -> np.random.Generator:
        """A generator of the run's seed and a purpose."""
        numbers = [int(hashlib.sha256(str(p).encode()).hexdigest()[:8], 16) for p in purpose]
        return np.random.default_rng([self.settings.seed, *numbers])

    def check_folder(self) -> None:
        """Refuse a folder with results of another space.

        Raises:
            MismatchError: names both spaces.
        """
        there = self._about()
        if there and there.get("fingerprint") != self.space.fingerprint and self._has_results():
            raise MismatchError(
                f"{self.folder} holds a run of space {there.get('space')!r} ({there.get('fingerprint')}), but this "
                f"run's space is {self.space.name!r} ({self.space.fingerprint}). Choose another folder with `out=`."
            )

    def _about(self) -> dict[str, Any]:
        path = self.folder / "run.json"
        return dict(read_claim(self.folder)) if path.exists() else {}

    def _has_results(self) -> bool:
        """Whether a stage has left a file; a command that failed at once has not."""
        return any(path.is_file() for place in RESULTS for path in (self.folder / place).rglob("*"))

    def claim_folder(self) -> None:
        """Note whose folder this is, and the command that last worked in it.

        Raises:
            MismatchError: it holds results of another space.
        """
        self.check_folder()
        there = self._about()
        same = there.get("fingerprint") == self.space.fingerprint
        write_json(
            self.folder / "run.json",
            {
                "name": self.settings.name,
                "command": self.command,
                "seed": self.settings.seed,
                "space": self.space.name,
                "fingerprint": self.space.fingerprint,
                "space_size": str(self.space.size),
                "versions": versions(),
                "commit": commit(),
                "created": (there.get("created") if same else None) or time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                **({"data": there["data"]} if same and "data" in there else {}),
            },
        )


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

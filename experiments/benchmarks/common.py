"""What all benchmarks share: under which conditions a result holds, and how it is written."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hardware_profiles.host import host_description

ROOT = Path(__file__).parents[2]
CONF = ROOT / "nas" / "conf"
RESULTS = ROOT / "experiments" / "results"
FOLDERS = {
    "--data": "DATA",
    "--folder": "FOLDER",
    "--once-for-all": "PATH",
    "--out": "FOLDER",
    "--output": "FILE",
    "--pymoo": "FOLDER",
    "--tables": "FOLDER",
}
"""Options whose values are of one machine, and what is noted in place of them."""


def conditions(*packages: str, **more: Any) -> dict[str, Any]:
    """Command, commit, versions of packages and the computer."""
    versions = {package: importlib.metadata.version(package) for package in packages}
    return {"command": command(), "commit": commit(), **more, **versions, **host_description()}


def command() -> str:
    """As it was given, but for folders and files."""
    given = sys.argv[1:]
    options = [FOLDERS.get(before, option) for before, option in zip(["", *given], given, strict=False)]
    threads = ["OMP_NUM_THREADS=1"] if os.environ.get("OMP_NUM_THREADS") == "1" else []
    return " ".join([*threads, "python", f"experiments/benchmarks/{Path(sys.argv[0]).name}", *options])


def commit() -> str:
    """Of the working tree."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def space_definition(name: str) -> dict[str, Any]:
    """The YAML of a shipped space."""
    definition: dict[str, Any] = yaml.safe_load((ROOT / "search_spaces" / "space" / f"{name}.yaml").read_text())
    return definition


def space_settings(name: str) -> dict[str, Any]:
    """What a shipped space is made with."""
    return {key: value for key, value in space_definition(name).items() if key != "_target_"}

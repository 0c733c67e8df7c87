"""Data by name: each is a YAML of ``nas/conf/data``, or one of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.data.base import Data
from search_spaces.base.building import build, named

FOLDER = Path(__file__).parents[1] / "conf" / "data"

CACHE = "data"
"""Folder of a run for what a look at its data has shown."""


def load_data(name: str | Path, /, **changes: Any) -> Data:
    """The data of a name, of a YAML file, or of the dotted path of a function that gives it.

    Args:
        name: such as ``digits`` or ``mine.yaml``.
        changes: arguments in place of those of the YAML.

    Raises:
        UnknownNameError: there is no such data.
        InvalidValueError: the file or what it names is wrong.
        StorageError: it cannot be read.
    """
    node = named("data", name, FOLDER, changes)
    data: Data = build(str(name), node, Data)
    object.__setattr__(data, "definition", node)
    return data


def data_of_run(node: Mapping[str, Any], folder: Path) -> Data:
    """The data of a run.

    Args:
        node: its settings; a ``cache`` that is null is a folder of the run.
        folder: of the run.

    Raises:
        InvalidValueError: the settings, or the data, are wrong.
        StorageError: the data cannot be read.
    """
    if "cache" in node and node["cache"] is None:
        node = {**node, "cache": str(folder / CACHE)}
    data: Data = build("data", node, Data)
    return data

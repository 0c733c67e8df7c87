"""Data by name: each is a YAML of ``nas/conf/data``, or one of the user's own."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nas.data.base import Data
from search_spaces.base import trust
from search_spaces.base.building import TARGET, build, named
from search_spaces.base.values import hints_of, words_of

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
        node: its settings; a ``cache`` that is null, or that of the data that it is made ``of``, is a folder of the
            run.
        folder: of the run.

    Raises:
        InvalidValueError: the settings, or the data, are wrong.
        StorageError: the data cannot be read.
    """
    data: Data = build("data", caching(node, lambda cache: cache or str(folder / CACHE)), Data)
    return data


def caching(node: Mapping[str, Any], place: Callable[[str | None], str], key: str = "data") -> Mapping[str, Any]:
    """Settings of data, and of that which it is made ``of``, in which all that take a ``cache`` have one.

    Args:
        node: the settings.
        place: the cache to take, of the one that is given; None: none is.
        key: of the settings, for messages.
    """
    if TARGET not in node:
        return node
    made = trust.find(f"`{key}`", node[TARGET])
    hints = hints_of(made) if callable(made) else {}
    words = words_of(made) if callable(made) else None
    hints |= {} if words is None else hints_of(words)
    if Data in typing.get_args(hints.get("of")):
        of = node.get("of")
        of = named("data", of, FOLDER, {}) if isinstance(of, str) else of
        node = {**node, "of": caching(of, place, f"{key}.of")} if isinstance(of, Mapping) else node
    return {**node, "cache": place(node.get("cache"))} if "cache" in hints else node

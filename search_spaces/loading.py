"""Search spaces by name: each is a YAML of ``search_spaces/space``, or one of the user's own."""

from __future__ import annotations

import difflib
from pathlib import Path

from search_spaces.base.building import build
from search_spaces.base.errors import UnknownNameError
from search_spaces.base.storage import read_yaml
from search_spaces.space import SearchSpace

FOLDER = Path(__file__).parent / "space"


def known_spaces() -> list[str]:
    """Names that `load_space` knows."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_space(name_or_path: str | Path) -> SearchSpace:
    """The search space of a name, or of a YAML file with ``_target_`` and its arguments.

    Raises:
        UnknownNameError: there is no such space.
        InvalidValueError: the file or what it names is wrong.
        StorageError: it cannot be read.
    """
    given = str(name_or_path)
    path = Path(given) if given.endswith((".yaml", ".yml")) else FOLDER / f"{given}.yaml"
    if path.parent == FOLDER and given not in known_spaces():
        close = difflib.get_close_matches(given, known_spaces(), 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UnknownNameError(
            f"There is no space {given!r}.{hint} There are {', '.join(known_spaces())}, and YAML files of your own."
        )
    space: SearchSpace = build(str(path), read_yaml(path), SearchSpace)
    return space

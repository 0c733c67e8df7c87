"""Names: what they may be where they become paths, and which known one was meant by a wrong one."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from search_spaces.base.errors import InvalidValueError

LONGEST = 64
"""Characters; a file name holds 255 bytes, and other words stand beside the name in it."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # devices of Windows, in every folder


def checked_name(what: str, name: object) -> str:
    """The name itself, if it can be the name of a file or a folder on any system and leads nowhere else.

    Args:
        what: it names, for the message: ``Device``.
        name: of ASCII letters, digits and ``_ - + .``, which starts with none of the last three.

    Raises:
        InvalidValueError: says the rule and the name.
    """
    well_formed = isinstance(name, str) and re.fullmatch(r"\w([\w.+-]*[\w+-])?", name, re.ASCII) is not None
    if not isinstance(name, str) or not well_formed or len(name) > LONGEST or _RESERVED.fullmatch(name):
        shown = repr(name) if len(repr(name)) <= 2 * LONGEST else f"{repr(name)[:LONGEST]}... of {len(str(name))}"
        raise InvalidValueError(
            f"{what} has a name that cannot be a folder's: it must be of letters, digits, `_`, `-`, `+` and `.`, "
            f"begin with a letter, a digit or `_`, not end with `.`, and have at most {LONGEST} characters, but got "
            f"{shown}."
        )
    return name


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was meant: one that begins like it, else the most similar one; None: none is similar."""
    known = list(known)

    def likeness(other: str) -> float:  # slips come late in a word more often than early
        shared = len(os.path.commonprefix([name, other]))
        return difflib.SequenceMatcher(None, name, other).ratio() + shared / max(len(name), len(other))

    begun = [other for other in known if name and other.startswith(name)]
    return next(iter(begun), None) or max(difflib.get_close_matches(name, known, 5), key=likeness, default=None)


def dotted(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Values by their whole names: ``{"kernel": {"2": {"1": 3}}}``, which is what a command line makes of
    ``kernel.2.1=3``, as ``{"kernel.2.1": 3}``."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        inner = dotted(value) if isinstance(value, Mapping) else None
        found |= {str(name): value} if inner is None else {f"{name}.{rest}": one for rest, one in inner.items()}
    return found

"""Names of classes in files: shipped ones by their name, those of others by module and name."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from search_spaces.base import trust
from search_spaces.base.errors import InvalidValueError, UnknownNameError

K = TypeVar("K")


def name_of(kind: type, known: Mapping[str, type]) -> str:
    """What a file calls a class.

    Args:
        kind: the class.
        known: those that are known by their bare name.

    Raises:
        InvalidValueError: no other process could find it.
    """
    if known.get(kind.__name__) is kind:
        return kind.__name__
    if "<locals>" in kind.__qualname__ or kind.__module__ == "__main__":
        raise InvalidValueError(
            f"A {kind.__name__} cannot be saved: another process could not find its class, which is defined "
            f"{'in a script' if kind.__module__ == '__main__' else 'inside a function'}. Define it in a module."
        )
    return f"{kind.__module__}.{kind.__qualname__}"


def of_name(name: str, known: Mapping[str, type[K]], asker: str) -> type[K]:
    """The class that a file names. One of others must be imported already, or trusted: a file runs no code.

    Raises:
        UnknownNameError: there is none.
        InvalidValueError: it is outside of hwnas and not trusted.
    """
    if name in known:
        return known[name]
    module, _, rest = name.rpartition(".")
    if not module:
        raise UnknownNameError(f"{asker} is of kind {name!r}, which is unknown; there are {', '.join(sorted(known))}.")
    found: Any = getattr(sys.modules[module], rest, None) if module in sys.modules else trust.find(asker, name)
    if not inspect.isclass(found) or not callable(getattr(found, "from_arrays", None)):
        raise UnknownNameError(f"{asker} is of kind {name!r}, which is no class that can be read from a file.")
    return cast(type[K], found)

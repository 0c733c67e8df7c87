"""Named architectures of a space, such as published networks, written in short.

    {"depth": [1, 3], "kernel": 3, "expand": [1, [6, 6, 3]], "resolution": 224}

Choices are named ``<what>``, ``<what>.<stage>`` or ``<what>.<stage>.<block>``. A plain value is for all choices of its
``<what>``; a list has one entry per stage, which may be a list of one per block; null stands where there is no choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from search_spaces.architecture import Value
from search_spaces.base.errors import InvalidValueError

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace

Path = tuple[int, ...]


def values_of(space: SearchSpace, member: Mapping[str, Any]) -> dict[str, Value]:
    """Values of all choices that matter, from the short form.

    Raises:
        InvalidValueError: a choice is missing, or something stated is no choice of this network.
    """
    values: dict[str, Value] = {}
    used: dict[str, set[Path]] = {}
    for choice in space.choices:
        condition = choice.active_when
        if condition is not None and values.get(condition.choice) not in condition.values:
            continue
        what, path = (choice.name, ()) if choice.name in member else _parts(choice.name)
        if what not in member:
            if len(choice.values) > 1:
                raise InvalidValueError(f"{choice.name!r} is missing; it can be {list(choice.values)}.")
            values[choice.name] = choice.values[0]
            continue
        values[choice.name] = value = _at(choice.name, member[what], path)
        if value not in choice.values:
            raise InvalidValueError(f"{choice.name!r} can be {list(choice.values)}, but is {value!r}.")
        used.setdefault(what, set()).add(path)
    for what, value in member.items():
        for path, leaf in _leaves(value, ()):
            if leaf is not None and not any(known[: len(path)] == path for known in used.get(what, ())):
                name = ".".join([what, *(str(number) for number in path)])
                raise InvalidValueError(f"{name!r} is {leaf!r}, but is no choice of this network; put null there.")
    return values


def _parts(name: str) -> tuple[str, tuple[int, ...]]:
    """``kernel.2.1`` -> ``kernel``, (2, 1)."""
    found = re.fullmatch(r"(.+?)((?:\.[0-9]+)*)", name)
    assert found is not None
    return found[1], tuple(int(number) for number in found[2].split(".")[1:])


def _at(name: str, value: Any, path: Path) -> Any:
    for number in path:
        if isinstance(value, list | tuple):
            if number > len(value):
                raise InvalidValueError(f"{name!r} is missing: its list has {len(value)} entries.")
            value = value[number - 1]
    if value is None or isinstance(value, list | tuple):
        raise InvalidValueError(f"{name!r} needs one value, but is {value!r}.")
    return value


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, list | tuple):
        for number, entry in enumerate(value, 1):
            yield from _leaves(entry, (*path, number))
    else:
        yield path, value

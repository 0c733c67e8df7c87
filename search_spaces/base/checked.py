"""Values read from files, compared with the type that they should have."""

from __future__ import annotations

import dataclasses
import functools
import math
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired, TypeVar, Union, cast, get_args, get_origin, is_typeddict

from search_spaces.base.errors import DamagedFileError
from search_spaces.base.storage import read_json

T = TypeVar("T")

_NAMES = {dict: "a mapping", list: "a list", str: "text", int: "a whole number", float: "a finite number"}
_NAMES |= {bool: "true or false", types.NoneType: "null"}


def read_checked(path: Path, kind: type[T], remedy: str) -> T:
    """A JSON file of a known form.

    Args:
        path: of the file.
        kind: what it holds, see `check`.
        remedy: the sentence that says how to get a good one.

    Raises:
        StorageError: it cannot be opened.
        DamagedFileError: it is not JSON, or of another form; the message names the file and the field.
    """
    content = read_json(path)
    check(content, kind, str(path), remedy)
    return cast(T, content)


def check(value: Any, kind: Any, where: str, remedy: str) -> None:
    """Compare a JSON value with a type.

    Args:
        value: as read.
        kind: a typed dict or a dataclass (both by their fields; a dataclass knows all, a typed dict may lack some),
            ``dict[str, ...]``, ``list[...]``, a union, a ``Literal``, or a plain type. A number is finite, and a truth
            value is none.
        where: the file and the field, for the message.
        remedy: the sentence that says how to get a good file.

    Raises:
        DamagedFileError: a field is missing, or a value is of another type.
    """
    origin = get_origin(kind)
    if kind is Any:
        return
    if origin in (types.UnionType, Union):
        _check_union(value, get_args(kind), where, remedy)
    elif origin is NotRequired:
        check(value, get_args(kind)[0], where, remedy)
    elif origin is Literal:
        if value not in get_args(kind):
            _refuse(value, " or ".join(map(repr, get_args(kind))), where, remedy)
    elif is_typeddict(kind) or dataclasses.is_dataclass(kind):
        _check_fields(value, kind, where, remedy)
    elif origin in (list, Sequence):
        _expect(value, list, where, remedy)
        for i, item in enumerate(value):
            check(item, get_args(kind)[0], f"{where}[{i}]", remedy)
    elif origin in (dict, Mapping):
        _expect(value, dict, where, remedy)
        for name, item in value.items():
            check(item, get_args(kind)[1], f"{where}: {name}", remedy)
    else:
        _expect(value, kind, where, remedy)


def _check_union(value: Any, kinds: tuple[Any, ...], where: str, remedy: str) -> None:
    if value is None and types.NoneType in kinds:
        return
    kinds = tuple(kind for kind in kinds if kind is not types.NoneType)
    for kind in kinds[:-1]:
        try:
            return check(value, kind, where, remedy)
        except DamagedFileError:
            continue
    check(value, kinds[-1], where, remedy)


def _check_fields(value: Any, kind: Any, where: str, remedy: str) -> None:
    _expect(value, dict, where, remedy)
    hints, required = _fields(kind)
    for name in required:
        if name not in value:
            raise DamagedFileError(f"{where} has no `{name}`. {remedy}")
    for name, field in hints.items():
        if name in value:
            check(value[name], field, f"{where}: {name}", remedy)
    if dataclasses.is_dataclass(kind) and (unknown := [name for name in value if name not in hints]):
        raise DamagedFileError(f"{where} has an unknown field {reprlib.repr(unknown[0])}. {remedy}")


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Types by field, and the fields that must be there."""
    hints = typing.get_type_hints(kind)
    if is_typeddict(kind):
        extras = typing.get_type_hints(kind, include_extras=True)
        optional = {name for name, hint in extras.items() if get_origin(hint) is NotRequired}
        return hints, tuple(name for name in hints if name in kind.__required_keys__ and name not in optional)
    missing = dataclasses.MISSING
    needed = (f.name for f in dataclasses.fields(kind) if f.default is missing and f.default_factory is missing)
    return hints, tuple(needed)


def _expect(value: Any, kind: type, where: str, remedy: str) -> None:
    accepted: Any = (int, float) if kind is float else kind
    fits = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
    if fits and kind is float:
        try:
            fits = math.isfinite(value)
        except OverflowError:  # a whole number that is too large for a float
            fits = False
    if not fits:
        _refuse(value, _NAMES.get(kind, kind.__name__), where, remedy)


def _refuse(value: Any, expected: str, where: str, remedy: str) -> None:
    raise DamagedFileError(f"{where} should be {expected}, but is {reprlib.repr(value)}. {remedy}")
